use std::path::Path;

use super::*;
use crate::connector::Auth;
use crate::connector::template::ConfigValue;
use crate::error::ErrorKind;
use crate::secrets::SecretRef;
use crate::secrets::resolve::Secrets;

const CONNECTOR: &str = r#"
title: Acme
base_url: https://api.acme.example/v1
config:
  region: {description: Where the account is}
  start_date: {default: "2020-01-01"}
  note: {optional: true}
  token: {secret: true}
  extra: {secret: true, optional: true}
auth: {bearer: {token: "{{ config.token }}"}}
params: {r: "{{ config.region }}", n: "{{ config.note }}", e: "{{ config.extra }}"}
rate_limit: {requests: 10, per: 1s}
streams:
  a: {incremental: {cursor: at, since_param: since}}
  b: {base_url: "https://files.acme.example", auth: none}
"#;

struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new(settings: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("own")).unwrap();
        std::fs::write(root.path().join("own/acme.yaml"), CONNECTOR).unwrap();
        if !settings.is_empty() {
            std::fs::write(root.path().join(FILE), settings).unwrap();
        }
        Self { root }
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    fn read(&self, environment: &[(&str, &str)], set: &[&str]) -> Result<Settings> {
        let overrides = Overrides {
            connectors: Some(self.path().join("own")),
            set: set.iter().map(|s| (*s).to_owned()).collect(),
            ..Overrides::default()
        };
        let environment = Environment::of(environment.iter().copied());
        Settings::read(overrides, environment, self.path())
    }

    fn text(&self, e: &Error) -> String {
        let root = format!("{}/", self.path().display());
        e.to_string().replace(&root, "")
    }
}

#[test]
fn flags_before_environment_before_file_before_defaults() {
    let place = Place::new(
        "project: p-file\ndestination: sqlite:file.db\nmemory: 128MiB\nsources:\n  acme-eu:\n    connector: acme\n    config: {region: file, start_date: 007}\n    destination: bigquery:p.d\n",
    );
    let settings = place.read(&[], &[]).unwrap();
    assert_eq!(settings.project.as_deref(), Some("p-file"));
    assert_eq!(settings.memory, 128 << 20);
    let source = settings.source("acme-eu").unwrap();
    assert_eq!(source.config["region"], "file");
    assert_eq!(source.config["start_date"], "007");
    assert_eq!(source.config["note"], "");
    assert_eq!(source.destination.as_deref(), Some("bigquery:p.d"));

    let environment = [
        ("DRAWOFF_ACME_EU_REGION", "env"),
        ("DRAWOFF_DESTINATION", "parquet:out"),
        ("DRAWOFF_PROJECT", "p-env"),
        ("DRAWOFF_MEMORY", "8MiB"),
    ];
    let settings = place.read(&environment, &[]).unwrap();
    assert_eq!(
        (settings.project.as_deref(), settings.memory),
        (Some("p-env"), 8 << 20)
    );
    let source = settings.source("acme-eu").unwrap();
    assert_eq!(source.config["region"], "env");
    assert_eq!(source.destination.as_deref(), Some("parquet:out"));
    let source = place
        .read(&environment, &["region=flag=x"])
        .unwrap()
        .source("acme-eu")
        .unwrap();
    assert_eq!(source.config["region"], "flag=x");
}

#[test]
fn a_source_that_is_not_in_the_file_is_the_connector_of_that_name() {
    let place = Place::new("");
    let settings = place.read(&[], &["region=eu"]).unwrap();
    let source = settings.source("acme").unwrap();
    assert_eq!(source.connector.title, "Acme");
    assert_eq!(source.config["start_date"], "2020-01-01");
    assert_eq!(
        source.secrets["token"].places,
        [SecretRef::Env("DRAWOFF_ACME_TOKEN".into())]
    );
    let e = settings.source("acm").unwrap_err();
    assert!(e.to_string().starts_with("there is no source `acm`"), "{e}");
    assert_eq!(e.find_hint(), Some("did you mean `acme`?"));
}

#[test]
fn the_files_word_on_url_hosts_limits_and_secrets_reaches_the_connector() {
    let place = Place::new(
        "project: p\nsources:\n  acme:\n    config: {region: eu}\n    base_url: http://127.0.0.1:8080/v2/\n    allowed_hosts: [cdn.acme.example]\n    rate_limit: {requests: 2, per: 1m, concurrency: 1}\n    ca_file: ca.pem\n    allow_private_network: true\n    secrets: {token: file://secrets/token}\n",
    );
    let source = place.read(&[], &[]).unwrap().source("acme").unwrap();
    let urls: Vec<&str> = source
        .connector
        .streams
        .iter()
        .map(|s| s.base_url.as_str())
        .collect();
    assert_eq!(
        urls,
        ["http://127.0.0.1:8080/v2", "https://files.acme.example"]
    );
    assert_eq!(
        source.connector.auths[source.connector.streams[1].auth],
        Auth::None
    );
    assert_eq!(source.connector.allowed_hosts, ["cdn.acme.example"]);
    assert_eq!(source.connector.rate_limits[0].requests.get(), 2);
    assert_eq!(source.connector.concurrency, 1);
    assert_eq!(source.ca_file, Some(place.path().join("ca.pem")));
    assert!(source.allow_private_network);
    assert_eq!(
        source.secrets["token"].places,
        [SecretRef::File(place.path().join("secrets/token"))]
    );
    assert_eq!(source.secrets["extra"].places.len(), 2);
}

#[tokio::test]
async fn values_hold_keys_and_secrets() {
    let place = Place::new("sources: {acme: {config: {region: eu}, secrets: {token: env://T}}}\n");
    let source = place.read(&[], &[]).unwrap().source("acme").unwrap();
    let store = Secrets::new(Environment::of([("T", "canary-settings")]), None);
    let values = source.values(&store).await.unwrap();
    assert!(matches!(&values.config["token"], ConfigValue::Secret(_)));
    assert!(matches!(&values.config["region"], ConfigValue::Plain(v) if v == "eu"));
    assert!(matches!(&values.config["extra"], ConfigValue::Plain(v) if v.is_empty()));
    assert!(!format!("{values:?}").contains("canary"));
}

#[test]
fn mistakes_in_the_file_are_told_with_their_place_and_never_quote_a_secret() {
    let check = |settings: &str, text: &str, hint: &str| {
        let place = Place::new(settings);
        let e = place
            .read(&[], &[])
            .and_then(|s| s.source("acme"))
            .unwrap_err();
        assert_eq!(place.text(&e), text);
        assert_eq!(e.find_hint().unwrap_or_default(), hint);
        assert_eq!(e.kind(), ErrorKind::Config);
        assert!(!format!("{e:?}").contains("canary"));
    };
    const REFERENCE: &str = "write `gcp://project/secret`, `gcp://project/secret@7`, `env://NAME` or `file:///path`; never the secret itself";
    check(
        "sources:\n  acme:\n    secrets: {token: canary-literal}\n",
        "drawoff.yaml:3:22: secret `token`: a secret must be a reference, and this text is none",
        REFERENCE,
    );
    check(
        "sources:\n  acme:\n    config: {token: canary-literal}\n",
        "drawoff.yaml:3:14: `token` of source `acme` is a secret, and stands under `config`",
        "write a reference under `secrets`: `token: gcp://project/secret`, `env://NAME` or `file:///path`",
    );
    check(
        "sources:\n  acme:\n    config: {regoin: eu}\n",
        "drawoff.yaml:3:14: connector `acme` of source `acme` has no such key as `regoin`",
        "did you mean `region`?",
    );
    check(
        "sources:\n  acme:\n    secrets: {region: env://R}\n",
        "drawoff.yaml:3:15: `region` of source `acme` is no secret, and stands under `secrets`",
        "write its value under `config`",
    );
    check(
        "sources:\n  acme:\n    conector: acme\n    allow_private_network: yes\nmemroy: 1GB\n",
        "drawoff.yaml:3:5: unknown key `conector` in source `acme`\n\
         drawoff.yaml:4:28: `allow_private_network` must be `true` or `false`\n\
         drawoff.yaml:5:1: unknown key `memroy` in the settings (did you mean `memory`?)",
        "did you mean `connector`?",
    );
    check(
        "sources: {acme: {config: {region: eu}, base_url: 'http://api.acme.example'}}\n",
        "the `base_url` of source `acme` would send credentials over plain http",
        "use https; plain http is for this machine only",
    );
    check(
        "sources: {acme: {base_url: 'https://u:canary@api.acme.example'}}\n",
        "drawoff.yaml:1:28: `base_url` holds credentials, which belong into `secrets`",
        "write scheme and host: `https://api.example.com/v1`",
    );
    check(
        "sources: {acme: }\n",
        "source `acme` lacks the config key `region`\n  `region`: Where the account is",
        "say `--set region=…`, set `DRAWOFF_ACME_REGION`, or write it into `drawoff.yaml` under `sources.acme.config`",
    );
    check(
        "sources: {a-b: , a_b: }\n",
        "drawoff.yaml:1:18: sources `a-b` and `a_b` would share the environment variables `DRAWOFF_A_B_…`",
        "give one of them another name",
    );
    check(
        "memory: 1MiB\n",
        "drawoff.yaml:1:9: `memory` must be a size of at least 4MiB",
        "write a whole number and a unit: `64MiB`",
    );
    check(
        "bigquery: {locaton: EU}\n",
        "drawoff.yaml:1:12: unknown key `locaton` in `bigquery`",
        "did you mean `location`?",
    );
    check(
        "bigquery: {location: 'E U'}\n",
        "drawoff.yaml:1:22: `location` may have letters, digits, `-`, `.`, `:` and `_` only",
        "",
    );
    check(
        "sources: {acme: {bigquery: {maximum_bytes_billed: much}}}\n",
        "drawoff.yaml:1:51: `maximum_bytes_billed` is no size",
        "write a whole number and a unit: `10GiB`",
    );
    check(
        "bigquery: {request_bytes: 20MiB}\n",
        "drawoff.yaml:1:27: `request_bytes` must be between 1MiB and 19MiB",
        "write a whole number and a unit: `10GiB`",
    );
    check(
        "sources: [acme\n",
        "drawoff.yaml:1:10: this is not valid YAML: unclosed bracket '['",
        "",
    );
}

#[test]
fn flags_are_checked_and_secrets_refused_there() {
    let place = Place::new("");
    let e = place
        .read(&[], &["token=canary-flag"])
        .unwrap()
        .source("acme")
        .unwrap_err();
    assert!(
        e.to_string().contains("command lines are seen by others"),
        "{e}"
    );
    assert!(!format!("{e:?}").contains("canary"));
    assert!(e.find_hint().unwrap().contains("`DRAWOFF_ACME_TOKEN`"));
    let e = place.read(&[], &["canary-no-equals"]).unwrap_err();
    assert!(!format!("{e:?}").contains("canary"));
    let e = place
        .read(&[], &["regoin=eu"])
        .unwrap()
        .source("acme")
        .unwrap_err();
    assert_eq!(e.find_hint(), Some("did you mean `region`?"));
    let e = place.read(&[("DRAWOFF_MEMORY", "lots")], &[]).unwrap_err();
    assert!(e.to_string().starts_with("`DRAWOFF_MEMORY` must be"), "{e}");
    let e = place
        .read(&[("DRAWOFF_CONFIG", "nowhere.yaml")], &[])
        .unwrap_err();
    assert!(
        e.to_string()
            .contains("named by `DRAWOFF_CONFIG`, does not exist"),
        "{e}"
    );
}

#[test]
fn bigquery_is_told_by_environment_source_and_file_in_this_order() {
    let place = Place::new(
        "bigquery: {location: EU, job_project: pays, maximum_bytes_billed: 10GiB, request_bytes: 2MiB}\n\
         sources: {acme: {config: {region: eu}, bigquery: {location: US, maximum_bytes_billed: 1GiB}}}\n",
    );
    let environment = [("DRAWOFF_BIGQUERY_MAXIMUM_BYTES_BILLED", "5GiB")];
    let settings = place.read(&environment, &["region=eu"]).unwrap();
    assert_eq!(
        settings.source("acme").unwrap().bigquery,
        BigQueryOptions {
            location: Some("US".into()),
            job_project: Some("pays".into()),
            maximum_bytes_billed: Some(5 << 30),
            request_bytes: Some(2 << 20),
        }
    );
    for (name, value) in [
        ("DRAWOFF_BIGQUERY_MAXIMUM_BYTES_BILLED", "much"),
        ("DRAWOFF_BIGQUERY_REQUEST_BYTES", "1KiB"),
        ("DRAWOFF_BIGQUERY_LOCATION", "E U"),
        ("DRAWOFF_LEASE", "10ms"),
        ("DRAWOFF_LEASE", "soon"),
    ] {
        let e = place.read(&[(name, value)], &[]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Config);
        assert!(e.to_string().contains(name), "{e}");
    }
    let settings = place.read(&[("DRAWOFF_LEASE", "90s")], &[]).unwrap();
    assert_eq!(settings.lease, std::time::Duration::from_secs(90));
}
