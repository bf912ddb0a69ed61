//! `drawoff secrets`, through the whole program: against the strict stand-in for Google, which knows
//! roles, checksums and locations, and into files. No value is ever shown.

use std::time::Duration;

use crate::support::binary::{Bench, Ran, moment};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::google::{Answer, Google, PROJECT, Role, SECRETS, VersionState};

const TOKEN: &str = "projects/test-project/secrets/token";

/// A source with a secret, one it can do without, and a plain key that nobody gives.
fn shop() -> Bench {
    let yaml = "title: Shop\nconfig:\n  token: {description: API token, secret: true}\n  \
         extra: {description: Another, secret: true, optional: true}\n  account: {description: Which}\n\
         base_url: https://shop.example\n\
         auth: {basic: {username: \"{{ config.account }}{{ config.extra }}\", password: \"{{ config.token }}\"}}\n\
         records: /data\nstreams:\n  items:\n";
    let bench = Bench::with("shop", yaml);
    bench.write("drawoff.yaml", "project: test-project");
    bench
}

fn refer(bench: &Bench, reference: &str) {
    let text = format!(
        "project: test-project\nsources: {{shop: {{secrets: {{token: \"{reference}\"}}}}}}"
    );
    bench.write("drawoff.yaml", &text);
}

/// Google, and a source whose keeper has these roles.
async fn world(roles: &[Role]) -> (Google, Bench, String) {
    let google = Google::start().await;
    google.site("shop.example", |_| {
        Answer::json(&json!({"data": [{"id": 1}]}))
    });
    let keeper = google.service_account("keeper");
    for role in roles {
        google.grant(&keeper, role.clone());
    }
    let bench = google.env(shop(), &google.key_file(&keeper));
    (google, bench, keeper)
}

/// A value that nobody would write by chance, with some of what encodings change.
fn canary() -> String {
    format!("cnry{:016x}+/=\"é", rand::random::<u64>())
}

/// Panics when the value, its random part or its base64 is in what the program said or left.
#[track_caller]
fn kept_quiet(bench: &Bench, ran: &Ran, value: &str) {
    let encoded = STANDARD.encode(value);
    let mut texts = vec![ran.all()];
    for file in bench.files() {
        texts.push(String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned());
    }
    for text in texts {
        for form in [value, &value[4..20], &encoded] {
            assert!(!text.contains(form), "{form} is in {text}");
        }
    }
}

fn values(google: &Google, secret: &str) -> Vec<(String, VersionState)> {
    let versions = google.versions(PROJECT, secret).into_iter();
    versions
        .map(|(data, state)| (String::from_utf8(data).unwrap(), state))
        .collect()
}

use VersionState::{Destroyed, Disabled, Enabled};

#[tokio::test]
async fn a_value_from_standard_input_becomes_a_version() {
    let (google, bench, _) = world(&[Role::SecretVersionAdder]).await;
    google.make_secret(PROJECT, "token");
    for (number, end, format) in [(1, "", "text"), (2, "\n", "json"), (3, "\r\n", "text")] {
        let value = canary();
        let ran = bench
            .feed(
                &[
                    "secrets",
                    "set",
                    "shop",
                    "token",
                    "-vv",
                    "--log-format",
                    format,
                ],
                &format!("{value}{end}"),
            )
            .await
            .exits(0)
            .says(&format!(
                "stored `token` of source `shop` as version {number} of `{TOKEN}`"
            ))
            .complains(&format!("{TOKEN}/versions/{number}"));
        assert_eq!(ran.stdout.contains("without the newline"), !end.is_empty());
        kept_quiet(&bench, &ran, &value);
        let stored = values(&google, "token");
        assert_eq!(stored.len(), number);
        assert_eq!(stored[number - 1], (value, Enabled));
    }
    // Only that was asked, once each.
    let paths: Vec<String> = google
        .calls_to(SECRETS)
        .into_iter()
        .map(|c| c.path)
        .collect();
    assert_eq!(paths, [format!("/v1/{TOKEN}:addVersion").as_str(); 3]);
    google.nothing_was_wrong();
}

#[tokio::test]
async fn it_goes_where_the_reference_says() {
    let (google, bench, _) = world(&[Role::SecretVersionAdder]).await;
    google.make_secret(PROJECT, "elsewhere");
    google.put_secret("other", "token", "old-value");
    google.put_regional_secret(PROJECT, "europe-west4", "token", "old-value");
    let set = ["secrets", "set", "shop", "token"];
    for (reference, says) in [
        (
            "gcp://test-project/elsewhere",
            "version 1 of `projects/test-project/secrets/elsewhere`",
        ),
        (
            "projects/other/secrets/token/versions/latest",
            "version 2 of `projects/other/secrets/token`",
        ),
        (
            "gcp://test-project/europe-west4/token@latest",
            "version 2 of `projects/test-project/locations/europe-west4/secrets/token`",
        ),
    ] {
        refer(&bench, reference);
        let ran = bench.feed(&set, "some-new-value").await.exits(0).says(says);
        assert!(!ran.stdout.contains('!'), "{ran}");
    }
    assert_eq!(
        google
            .calls_to("secretmanager.europe-west4.rep.googleapis.com")
            .len(),
        1
    );
    // One version is named: the new one is not what is used.
    refer(&bench, "gcp://other/token@1");
    bench
        .feed(&set, "some-new-value")
        .await
        .exits(0)
        .says("version 3 of")
        .says("names version `1`: it is used until `@3` stands there");
    // Another place comes first.
    bench.write("drawoff.yaml", "project: other");
    let bench = bench.env("DRAWOFF_SHOP_TOKEN", "from-the-environment");
    bench
        .feed(&set, "some-new-value")
        .await
        .exits(0)
        .says("`DRAWOFF_SHOP_TOKEN` is set here and comes first");
    google.nothing_was_wrong();
}

#[tokio::test]
async fn files_are_written_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = shop();
    refer(&bench, "file://kept/token");
    let value = canary();
    let set = ["secrets", "set", "shop", "token", "-vv"];
    let ran = bench.feed(&set, &value).await.exits(0).says("kept/token");
    assert!(!ran.all().contains(&value[4..20]), "{ran}");
    let path = bench.path("kept/token");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), value);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    bench
        .feed(
            &["secrets", "set", "shop", "token", "--disable-previous"],
            "x",
        )
        .await
        .exits(2)
        .complains("keeps one value");
}

#[tokio::test]
async fn a_missing_secret_is_made_only_when_that_is_wanted() {
    let (google, bench, keeper) = world(&[Role::SecretVersionAdder]).await;
    let set = ["secrets", "set", "shop", "token"];
    let create = ["secrets", "set", "shop", "token", "--create"];
    bench
        .feed(&set, "new-value")
        .await
        .exits(1)
        .complains(&format!("secret `{TOKEN}` does not exist"))
        .complains("`drawoff secrets set` does it with `--create`");
    bench
        .feed(&create, "new-value")
        .await
        .exits(1)
        .complains(&format!("no permission to create secret `{TOKEN}`"))
        .complains(&format!(
            "grant `roles/secretmanager.admin` on project `test-project` to `{keeper}`: gcloud projects \
             add-iam-policy-binding test-project --member=serviceAccount:{keeper} --role=roles/secretmanager.admin"
        ));
    google.grant(&keeper, Role::SecretAdmin);
    bench
        .feed(&create, "new-value")
        .await
        .exits(0)
        .says(&format!("created `{TOKEN}`"))
        .says("as version 1 of");
    let ran = bench.feed(&create, "newer-value").await.exits(0);
    assert!(!ran.stdout.contains("created"), "{ran}");
    refer(&bench, "gcp://test-project/europe-west4/token");
    bench
        .feed(&create, "value-there")
        .await
        .exits(0)
        .says("created `projects/test-project/locations/europe-west4/secrets/token`");
    assert_eq!(values(&google, "token").len(), 2);
}

#[tokio::test]
async fn the_version_before_is_disabled() {
    let (google, bench, keeper) = world(&[Role::SecretVersionManager]).await;
    let set = ["secrets", "set", "shop", "token", "--disable-previous"];
    google.make_secret(PROJECT, "token");
    let ran = bench.feed(&set, "first").await.exits(0);
    assert!(!ran.stdout.contains("disabled"), "{ran}");
    bench
        .feed(&set, "second")
        .await
        .exits(0)
        .says("as version 2 of")
        .says("disabled version 1");
    let state = |n: usize| values(&google, "token")[n].1;
    assert_eq!((state(0), state(1)), (Disabled, Enabled));
    google.nothing_was_wrong();

    // The answer was lost, and the newest version holds the value already: it stays.
    google.grant(&keeper, Role::SecretAccessor);
    google.fail(SECRETS, &format!("/v1/{TOKEN}:addVersion"), 503, 1);
    let ran = bench.feed(&set, "second").await.exits(0).says("version 2");
    assert!(!ran.stdout.contains("disabled"), "{ran}");
    assert_eq!((state(0), state(1)), (Disabled, Enabled));

    // Nothing is stored by one who could not do the rest.
    let (google, bench, keeper) = world(&[Role::SecretVersionAdder]).await;
    google.put_secret(PROJECT, "token", "first");
    bench
        .feed(&set, "second")
        .await
        .exits(1)
        .complains(&format!(
            "`roles/secretmanager.secretVersionManager` on it to `{keeper}`: gcloud secrets \
             add-iam-policy-binding token --project=test-project --member=serviceAccount:{keeper}"
        ));
    assert_eq!(values(&google, "token").len(), 1);
    // One that was destroyed cannot be disabled; the new version is there, and that is said.
    google.grant(&keeper, Role::SecretVersionManager);
    google.set_version(PROJECT, "token", 1, Destroyed);
    bench
        .feed(&set, "second")
        .await
        .exits(1)
        .says("as version 2 of")
        .complains("the new version is there, but the one before could not be disabled");
}

#[tokio::test]
async fn what_no_run_could_use_is_not_stored() {
    let (google, bench, _) = world(&[Role::SecretVersionAdder]).await;
    google.make_secret(PROJECT, "token");
    let set = |key: &'static str| ["secrets", "set", "shop", key, "-vv"];
    for (key, value, says) in [
        ("tokn", "x", "did you mean `token`?"),
        ("account", "x", "`account` of source `shop` is no secret"),
        ("token", "", "is empty"),
        ("token", "\n", "is empty"),
        ("token", "cnryline-1\ncnryline-2", "line breaks"),
        ("token", "cnry\u{0}", "control characters"),
        ("token", &"cnry".repeat(20_000), "80000 bytes"),
        ("token", &"cnry".repeat(300_000), "larger than 1 MiB"),
    ] {
        let ran = bench.feed(&set(key), value).await.exits(2).complains(says);
        assert!(!ran.all().contains("cnry"), "{ran}");
    }
    refer(&bench, "env://SHOP_TOKEN");
    bench
        .feed(&set("token"), "x")
        .await
        .exits(2)
        .complains("is environment variable `SHOP_TOKEN`")
        .complains("set `SHOP_TOKEN` there, or name another place");
    bench.write("drawoff.yaml", "");
    bench
        .feed(&set("token"), "x")
        .await
        .exits(2)
        .complains("nothing says where secret `token` of source `shop` is kept")
        .complains("`--project`");
    let demo = ["secrets", "set", "demo", "token"];
    bench
        .feed(&demo, "x")
        .await
        .exits(2)
        .complains("runs in the program itself");
    let lost = ["secrets", "set", "shap", "token"];
    bench
        .feed(&lost, "x")
        .await
        .exits(2)
        .complains("did you mean `shop`?");
    assert_eq!(google.calls_to(SECRETS).len(), 0);
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_version() {
    let (google, bench, _) = world(&[Role::SecretVersionAdder, Role::SecretAccessor]).await;
    google.put_secret(PROJECT, "token", "old-value");
    let add = format!("/v1/{TOKEN}:addVersion");
    google.lose(SECRETS, &add, 503, 1);
    let set = ["secrets", "set", "shop", "token"];
    bench.feed(&set, "second").await.exits(0).says("version 2");
    google.fail(SECRETS, &add, 503, 1);
    bench.feed(&set, "third").await.exits(0).says("version 3");
    assert_eq!(values(&google, "token").len(), 3);

    // Without the role to look, it is said what is not known.
    let (google, bench, keeper) = world(&[Role::SecretVersionAdder]).await;
    google.make_secret(PROJECT, "token");
    google.lose(SECRETS, &add, 503, 1);
    let value = canary();
    let ran = bench
        .feed(&["secrets", "set", "shop", "token", "-vv"], &value)
        .await
        .exits(75)
        .complains("has the new version all the same is not known")
        .complains("gcloud secrets versions list token --project=test-project");
    assert!(!keeper.is_empty());
    kept_quiet(&bench, &ran, &value);
    assert_eq!(values(&google, "token").len(), 1);
}

#[tokio::test]
async fn the_list_shows_each_secret_and_reads_none() {
    let (google, bench, _) = world(&[Role::SecretViewer]).await;
    let list = ["secrets", "list", "shop", "-vv"];
    bench
        .run(&list)
        .await
        .exits(1)
        .says("missing (optional)")
        .says("gcp://test-project/token@latest")
        .says("next: drawoff secrets set shop token --create");
    let value = canary();
    google.put_secret(PROJECT, "token", "old-value");
    google.put_secret(PROJECT, "token", value.as_str());
    let year = jiff::Timestamp::now().strftime("%Y-").to_string();
    let ran = bench.run(&list).await.exits(0).says("present");
    let row = |ran: &Ran, key: &str| {
        let line = ran.stdout.lines().find(|l| l.starts_with(key));
        let words = line.unwrap().split_whitespace().map(str::to_owned);
        words.collect::<Vec<_>>()
    };
    let found = row(&ran, "token");
    assert_eq!(
        found[..4],
        ["token", "gcp://test-project/token@latest", "2", "present"]
    );
    assert!(found[4].starts_with(&year), "{ran}");
    kept_quiet(&bench, &ran, &value);
    for (reference, state, shows, code) in [
        ("gcp://test-project/token", Disabled, "disabled", 1),
        ("gcp://test-project/token", Destroyed, "destroyed", 1),
        ("gcp://test-project/token@1", Destroyed, "present", 0),
        ("gcp://test-project/token@good", Destroyed, "present", 0),
        ("gcp://test-project/token@9", Destroyed, "missing", 1),
        (
            "gcp://test-project/europe-west4/token",
            Destroyed,
            "missing",
            1,
        ),
    ] {
        google.set_alias(PROJECT, "token", "good", 1);
        google.set_version(PROJECT, "token", 2, state);
        refer(&bench, reference);
        bench.run(&list).await.exits(code).says(shows);
    }
    assert!(google.calls().iter().all(|c| !c.path.ends_with(":access")));
    google.nothing_was_wrong();
    let bench = bench
        .env("DRAWOFF_SHOP_TOKEN", &value)
        .env("SHOP_TOKEN", &value);
    refer(&bench, "env://SHOP_TOKEN");
    let ran = bench.run(&list).await.exits(0).says("env://SHOP_TOKEN");
    assert!(!ran.all().contains(&value[4..20]), "{ran}");
}

#[tokio::test]
async fn the_list_tells_what_is_there_and_cannot_be_used() {
    let value = canary();
    let pem = format!("-----BEGIN KEY-----\n{value}\n-----END KEY-----");
    let bench = shop();
    std::fs::create_dir(bench.path("folder")).unwrap();
    std::fs::write(bench.path("binary"), [0xff, 0xfe]).unwrap();
    for (name, text) in [
        ("empty", String::new()),
        ("newline", "\n".to_owned()),
        ("lines", format!("{value}\n{value}")),
        ("pem", pem.clone()),
        ("good", format!("{value}\n")),
    ] {
        bench.write(name, &text);
    }
    let list = ["secrets", "list", "shop"];
    for (name, why) in [
        ("empty", "is empty"),
        ("newline", "is empty"),
        ("folder", "Is a directory"),
        ("binary", "is not UTF-8 text"),
        ("lines", "contains control characters"),
        // A key, where a password goes.
        ("pem", "has more than one line"),
    ] {
        for key in ["token", "extra"] {
            let other = match key {
                "token" => "extra: \"file://good\"",
                _ => "token: \"file://good\"",
            };
            bench.write(
                "drawoff.yaml",
                &format!("sources: {{shop: {{secrets: {{{key}: \"file://{name}\", {other}}}}}}}"),
            );
            let ran = bench.run(&list).await.exits(1).says("unusable").says(why);
            assert!(ran.stdout.contains("present"), "{ran}");
            assert!(!ran.all().contains(&value[4..20]), "{ran}");
        }
    }
    let refer = |bench: &Bench, place: &str| {
        let text = format!("sources: {{shop: {{secrets: {{token: \"{place}\"}}}}}}");
        bench.write("drawoff.yaml", &text);
    };
    refer(&bench, "file://good");
    bench.run(&list).await.exits(0).says("present");
    refer(&bench, "env://SHOP_TOKEN");
    let bench = bench.env("SHOP_TOKEN", &format!("{value}\u{7}"));
    bench
        .run(&list)
        .await
        .exits(1)
        .says("unusable")
        .says("contains control characters");

    // Where a private key belongs, its lines are right.
    let signs = Bench::with(
        "shop",
        "title: T\nconfig: {key: {description: K, secret: true}}\nbase_url: https://shop.example\n\
         auth: {jwt: {private_key: '{{ config.key }}', issuer: i}}\nrecords: /data\nstreams: {items: }\n",
    );
    signs.write("pem", &pem);
    signs.write(
        "drawoff.yaml",
        "sources: {shop: {secrets: {key: \"file://pem\"}}}",
    );
    signs.run(&list).await.exits(0).says("present");
}

#[tokio::test]
async fn the_list_does_with_the_role_to_read_values() {
    let (google, bench, keeper) = world(&[Role::SecretAccessor]).await;
    let value = canary();
    google.put_secret(PROJECT, "token", value.as_str());
    let list = ["secrets", "list", "shop", "-vv"];
    let ran = bench.run(&list).await.exits(0).says("1  present");
    kept_quiet(&bench, &ran, &value);
    google.set_version(PROJECT, "token", 1, Disabled);
    bench.run(&list).await.exits(1).says("disabled");

    let (google, bench, _) = world(&[]).await;
    google.put_secret(PROJECT, "token", value.as_str());
    bench
        .run(&list)
        .await
        .exits(1)
        .says("denied")
        .says("denied (optional)")
        .says(&format!(
            "grant `roles/secretmanager.secretAccessor` on it to `{keeper}`"
        ));
}

#[tokio::test]
async fn what_is_stored_is_what_a_run_reads() {
    let (google, bench, keeper) = world(&[Role::SecretAdmin]).await;
    let value = canary();
    let ran = bench
        .feed(&["secrets", "set", "shop", "token", "--create"], &value)
        .await
        .exits(0);
    kept_quiet(&bench, &ran, &value);
    let ran = bench
        .run(&["check", "--source", "shop", "--set", "account=a", "-vv"])
        .await
        .exits(0)
        .complains("secrets/token/versions/1");
    kept_quiet(&bench, &ran, &value);
    let sent = &google.calls_to("shop.example")[0];
    let pair = STANDARD.encode(format!("a:{value}"));
    assert_eq!(
        sent.header("authorization"),
        Some(&*format!("Basic {pair}"))
    );
    assert!(
        google
            .calls_to(SECRETS)
            .iter()
            .all(|c| c.who.as_ref().unwrap().name == keeper)
    );
}

/// Reads the source's secrets and a page of its API.
const CHECK: [&str; 5] = ["check", "--source", "shop", "--set", "account=a"];

/// As Google refuses with `google.rpc.ErrorInfo`.
fn refusal(reason: &str) -> Answer {
    let facts =
        json!({"consumer": "projects/123456789012", "service": "secretmanager.googleapis.com"});
    Answer::api(403, "in Google's words").because(reason, "googleapis.com", facts)
}

#[tokio::test]
async fn each_refusal_is_one_message_with_what_to_do() {
    let (google, bench, keeper) = world(&[]).await;
    google.put_secret(PROJECT, "token", "canary-value-1");
    google.put_secret(PROJECT, "token", "canary-value-2");
    let binding =
        format!("--member=serviceAccount:{keeper} --role=roles/secretmanager.secretAccessor");
    refer(&bench, "gcp://test-project/token");
    bench
        .run(&CHECK)
        .await
        .exits(1)
        .says(&format!(
            "no permission to read secret `{TOKEN}/versions/latest`, or it does not exist (403 PERMISSION_DENIED: Permission"
        ))
        .says(&format!(
            "grant `roles/secretmanager.secretAccessor` on it to `{keeper}`: gcloud secrets \
             add-iam-policy-binding token --project=test-project {binding}"
        ));
    refer(&bench, "gcp://test-project/europe-west4/token");
    bench.run(&CHECK).await.exits(1).says(&format!(
        "add-iam-policy-binding token --project=test-project --location=europe-west4 {binding}"
    ));

    google.grant(&keeper, Role::SecretAccessor);
    google.set_version(PROJECT, "token", 2, Disabled);
    for (reference, says, hints) in [
        (
            "gcp://test-project/europe-west4/token",
            "locations/europe-west4/secrets/token/versions/latest` does not exist",
            "one of another location, or of none, is another secret",
        ),
        (
            "gcp://test-project/other",
            "secret `projects/test-project/secrets/other/versions/latest` does not exist",
            "one of a location is `gcp://project/location/secret`",
        ),
        (
            "gcp://test-project/token@7",
            "token/versions/7` does not exist",
            "gcloud secrets versions list token --project=test-project",
        ),
        (
            "gcp://test-project/token@nice",
            "token/versions/nice` does not exist",
            "gcloud secrets versions list",
        ),
        (
            "gcp://test-project/token",
            "version `latest` of secret `projects/test-project/secrets/token` is disabled or destroyed",
            "the version created last, even when it is disabled",
        ),
        (
            "projects/test-project/secrets/token/versions/2",
            "version `2` of secret",
            "enable the version, or name another",
        ),
    ] {
        refer(&bench, reference);
        bench.run(&CHECK).await.exits(1).says(says).says(hints);
    }

    refer(&bench, "gcp://test-project/token@1");
    let path = format!("/v1/{TOKEN}");
    for (reason, says, hints) in [
        (
            "SERVICE_DISABLED",
            "the Secret Manager API is not enabled in project `123456789012` (in Google's words)"
                .to_owned(),
            "gcloud services enable secretmanager.googleapis.com --project=123456789012".to_owned(),
        ),
        (
            "BILLING_DISABLED",
            "project `123456789012` has no billing account".to_owned(),
            "gcloud billing projects link 123456789012".to_owned(),
        ),
        (
            "USER_PROJECT_DENIED",
            "the calls may not be charged to project `123456789012`".to_owned(),
            format!(
                "grant `roles/serviceusage.serviceUsageConsumer` on project `123456789012` to `{keeper}`"
            ),
        ),
        (
            "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
            "the access token's scopes leave Secret Manager out".to_owned(),
            "`cloud-platform`".to_owned(),
        ),
    ] {
        google.refuse(SECRETS, &path, refusal(reason));
        let ran = bench.run(&CHECK).await.exits(1).says(&says).says(&hints);
        assert!(!ran.all().contains("secretAccessor"), "{ran}");
        // The list does not call it a missing permission.
        google.refuse(SECRETS, &path, refusal(reason));
        bench
            .run(&["secrets", "list", "shop"])
            .await
            .exits(1)
            .says("unknown")
            .says(&says);
    }
    let ran = bench.run(&CHECK).await.exits(0);
    assert!(!ran.all().contains("canary-value"), "{ran}");
}

#[tokio::test]
async fn the_role_is_for_the_account_at_work() {
    let google = Google::start().await;
    let loader = google.service_account("loader");
    let target = google.service_account("target");
    let mut login: Value = google.user_file("ada@example.com");
    let impersonated = google.impersonated_file(&login, &target, &[]);
    google.grant("ada@example.com", Role::TokenCreator(target.clone()));
    let unnamed = login.clone();
    login["account"] = json!("ada@example.com");
    for (file, says) in [
        (&login, "to `ada@example.com`: ".to_owned()),
        (&login, "--member=user:ada@example.com".to_owned()),
        (&unnamed, "which `drawoff auth whoami` names".to_owned()),
        (&impersonated, format!("--member=serviceAccount:{target}")),
        (&google.key_file(&loader), format!("to `{loader}`")),
    ] {
        let bench = google.env(shop(), file);
        bench.run(&CHECK).await.exits(1).says(&says);
    }
}

#[tokio::test]
async fn a_service_that_is_busy_is_asked_again() {
    let (google, bench, _) = world(&[Role::SecretAccessor]).await;
    google.put_secret(PROJECT, "token", "canary-value-1");
    google.fail(SECRETS, &format!("/v1/{TOKEN}"), 503, 1);
    bench.run(&CHECK).await.exits(0);
    let asked = google.calls_to(SECRETS);
    let asked = asked.iter().filter(|c| c.path.contains("/token/"));
    assert_eq!(asked.map(|c| c.status).collect::<Vec<_>>(), [503, 200]);
}

#[tokio::test]
async fn whoever_gives_up_at_the_prompt_gets_the_terminal_back() {
    use nix::pty::openpty;
    use nix::sys::termios::{LocalFlags, tcgetattr};
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    for (signal, code) in [(None, 130), (Some("INT"), 130), (Some("TERM"), 143)] {
        let bench = shop();
        refer(&bench, "file://kept");
        let pty = openpty(None, None).unwrap();
        let flags = || tcgetattr(&pty.slave).unwrap().local_flags;
        let before = flags();
        assert!(before.contains(LocalFlags::ECHO | LocalFlags::ISIG));
        let mut child = Command::new("setsid")
            .args(["--ctty", env!("CARGO_BIN_EXE_drawoff")])
            .args(["secrets", "set", "shop", "token"])
            .current_dir(bench.path("."))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", bench.path("home"))
            .env("DRAWOFF_CONNECTORS", bench.path("connectors"))
            .stdin(Stdio::from(pty.slave.try_clone().unwrap()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = std::time::Instant::now();
        while flags().contains(LocalFlags::ECHO) {
            assert!(child.try_wait().unwrap().is_none(), "it did not ask");
            assert!(begun.elapsed().as_secs() < 60, "it does not ask");
            moment(Duration::from_millis(5)).await;
        }
        match signal {
            // Ctrl-C.
            None => {
                let mut keys = std::fs::File::from(pty.master.try_clone().unwrap());
                keys.write_all(b"half\x03").unwrap();
            }
            Some(name) => {
                let id = child.id().to_string();
                let sent = Command::new("kill").args(["-s", name, &id]).status();
                assert!(sent.unwrap().success());
            }
        }
        let ended = tokio::task::spawn_blocking(move || child.wait()).await;
        let ended = ended.unwrap().unwrap();
        assert_eq!(ended.code(), Some(code), "{signal:?}");
        assert_eq!(flags(), before, "{signal:?}");
        assert!(!bench.path("kept").exists());
    }
}
