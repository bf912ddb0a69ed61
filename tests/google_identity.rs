//! Who the program is at Google: each kind of credentials, through the whole program, against a strict
//! stand-in at Google's own host names.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::binary::{Bench, Ran};
use crate::support::emulator::{self, Emulator};
use crate::support::fake_api::{FakeApi, Received, Reply};
use crate::support::google::{
    BIGQUERY, CLOUD_PLATFORM, Checksum, Google, IAM, METADATA, OAUTH, PROJECT, Proof, Role,
    SECRETS, STS, Subject, VersionState, principal,
};

/// What the source's API wants to see.
const TOKEN: &str = "canary-from-secret-manager";

/// The one thing asked of BigQuery by [`check`].
const DATASET: &str = "/bigquery/v2/projects/test-project/datasets/landing";

fn shop(request: &Received) -> Reply {
    match request.header("authorization") == Some(&format!("Bearer {TOKEN}")) {
        true => Reply::json(&json!({"data": [{"id": 1}]})),
        false => Reply::status(401),
    }
}

/// A source whose one secret is in Secret Manager.
async fn source() -> (FakeApi, Bench) {
    let api = FakeApi::start(shop).await;
    let yaml = format!(
        "title: Shop\nconfig:\n  token: {{description: API token, secret: true}}\nbase_url: {}\n\
         auth: {{bearer: {{token: \"{{{{ config.token }}}}\"}}}}\nrecords: /data\nstreams:\n  items:\n",
        api.url().as_str().trim_end_matches('/')
    );
    let bench = Bench::with("shop", &yaml);
    bench.schema("shop", "items", &["id INTEGER REQUIRED"]);
    refer(&bench, "gcp://test-project/shop-token");
    (api, bench)
}

fn refer(bench: &Bench, reference: &str) {
    bench.write(
        "drawoff.yaml",
        &format!("sources: {{shop: {{secrets: {{token: \"{reference}\"}}}}}}"),
    );
}

/// Google with the secret.
async fn google() -> Google {
    let google = Google::start().await;
    google.put_secret(PROJECT, "shop-token", TOKEN);
    google
}

/// Lets somebody read the secret and use BigQuery.
fn admit(google: &Google, name: &str) {
    google.grant(name, Role::SecretAccessor);
    google.grant(name, Role::BigQuery);
}

/// One call of Secret Manager, one of the source's API, one of BigQuery.
async fn check(bench: &Bench) -> Ran {
    let destination = format!("bigquery:{PROJECT}.landing");
    bench
        .run(&["check", "--source", "shop", "--destination", &destination])
        .await
}

/// Both services were called, once each, by this account, with a token proven like that.
#[track_caller]
fn called_as(google: &Google, name: &str, proof: Proof) {
    for (host, path) in [
        (
            SECRETS,
            "/v1/projects/test-project/secrets/shop-token/versions/latest:access",
        ),
        (BIGQUERY, DATASET),
    ] {
        let calls = google.calls_to(host);
        let paths: Vec<&str> = calls.iter().map(|c| c.path.as_str()).collect();
        assert_eq!(paths, [path]);
        let who = calls[0].who.as_ref().unwrap();
        assert_eq!((who.name.as_str(), who.proof), (name, proof));
        assert_eq!(who.scopes, [CLOUD_PLATFORM]);
        assert!(
            calls[0]
                .header("user-agent")
                .unwrap()
                .starts_with("drawoff/")
        );
    }
    google.nothing_was_wrong();
}

/// Nothing that opens a door is in what the program says or leaves.
#[track_caller]
fn kept_quiet(google: &Google, bench: &Bench, ran: &Ran, secrets: &[&Value]) {
    let mut hidden: Vec<String> = secrets
        .iter()
        .map(|s| s.as_str().unwrap().to_owned())
        .collect();
    hidden.push(TOKEN.to_owned());
    hidden.extend(
        google
            .calls()
            .iter()
            .filter_map(|c| c.bearer().map(str::to_owned)),
    );
    let credentials = bench.path("credentials.json");
    let mut texts = vec![ran.all()];
    for file in bench.files().iter().filter(|f| **f != credentials) {
        texts.push(String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned());
    }
    for text in texts {
        for secret in &hidden {
            assert!(!text.contains(secret.as_str()), "{secret} is in {text}");
        }
    }
}

#[tokio::test]
async fn a_service_accounts_key_signs_its_own_tokens() {
    let google = google().await;
    let loader = google.service_account("loader");
    admit(&google, &loader);
    let key = google.key_file(&loader);
    let (_api, bench) = source().await;
    let bench = google.env(bench, &key);
    let ran = check(&bench).await.exits(0);
    called_as(&google, &loader, Proof::SelfSigned);
    assert!(
        google.calls_to(OAUTH).is_empty(),
        "no token had to be asked for"
    );
    kept_quiet(&google, &bench, &ran, &[&key["private_key"]]);
}

#[tokio::test]
async fn a_persons_login_is_exchanged_for_a_token() {
    let google = google().await;
    let user = google.user_file("ada@example.com");
    admit(&google, "ada@example.com");
    let (_api, bench) = source().await;
    let bench = google.env(bench, &user);
    let ran = check(&bench).await.exits(0);
    assert_eq!(
        google.calls_to(OAUTH).len(),
        1,
        "one token for all services"
    );
    let who = google.calls_to(BIGQUERY)[0].who.clone().unwrap();
    assert_eq!(
        (who.name.as_str(), who.proof),
        ("ada@example.com", Proof::AccessToken)
    );
    google.nothing_was_wrong();
    kept_quiet(
        &google,
        &bench,
        &ran,
        &[&user["refresh_token"], &user["client_secret"]],
    );
}

#[tokio::test]
async fn the_quota_project_goes_along() {
    let google = google().await;
    let mut user = google.user_file("ada@example.com");
    user["quota_project_id"] = json!("who-pays");
    admit(&google, "ada@example.com");
    google.grant("ada@example.com", Role::QuotaUser("who-pays".into()));
    let (_api, bench) = source().await;
    check(&google.env(bench, &user)).await.exits(0);
    for call in google.calls().iter().filter(|c| c.who.is_some()) {
        assert_eq!(call.header("x-goog-user-project"), Some("who-pays"));
    }
    google.nothing_was_wrong();

    // The variable wins, and who may not spend there is told so.
    let (_api, bench) = source().await;
    let bench = google
        .env(bench, &user)
        .env("GOOGLE_CLOUD_QUOTA_PROJECT", "others");
    check(&bench)
        .await
        .exits(1)
        .says("does not have required permission to use project others");
}

#[tokio::test]
async fn the_machines_own_account_comes_from_the_metadata_server() {
    let google = google().await;
    let runner = google.service_account("runner");
    admit(&google, &runner);
    google.attach(&runner);
    let (_api, bench) = source().await;
    // A variable that is set to nothing is not set.
    let bench = google
        .bare_env(bench)
        .env("GOOGLE_APPLICATION_CREDENTIALS", "");
    let ran = check(&bench).await.exits(0);
    called_as(&google, &runner, Proof::AccessToken);
    let asked = google.calls_to(METADATA);
    assert!(
        asked
            .iter()
            .all(|c| c.header("metadata-flavor") == Some("Google"))
    );
    assert_eq!(
        asked.iter().filter(|c| c.path.ends_with("/token")).count(),
        1
    );
    kept_quiet(&google, &bench, &ran, &[]);
}

#[tokio::test]
async fn another_account_is_impersonated_by_every_kind_of_source() {
    let google = google().await;
    let (loader, middle, target) = (
        google.service_account("loader"),
        google.service_account("middle"),
        google.service_account("target"),
    );
    admit(&google, &target);
    let user = google.user_file("ada@example.com");
    let elsewhere = Bench::new();
    let path = elsewhere.path("subject").display().to_string();
    let (external, token) = google.external_file("build", &Subject::File(path), None);
    elsewhere.write("subject", &token);
    for (name, file) in [
        (loader.as_str(), google.key_file(&loader)),
        ("ada@example.com", user),
        (principal("build").as_str(), external),
    ] {
        google.grant(name, Role::TokenCreator(middle.clone()));
        google.grant(&middle, Role::TokenCreator(target.clone()));
        let file = google.impersonated_file(&file, &target, &[&middle]);
        let (_api, bench) = source().await;
        check(&google.env(bench, &file)).await.exits(0);
        let asked = google.calls_to(IAM).pop().unwrap();
        assert_eq!(asked.who.unwrap().name, name);
        assert_eq!(
            google.calls_to(BIGQUERY).pop().unwrap().who.unwrap().name,
            target
        );
        google.nothing_was_wrong();
    }
}

/// Credentials of an identity from elsewhere, its subject token where it belongs.
fn external(google: &Google, bench: &Bench, kind: &str, target: Option<&str>) -> (Value, String) {
    let path = bench.path("subject").display().to_string();
    let subject = match kind {
        "file" => Subject::File(path),
        "url" => Subject::Url,
        _ => Subject::Executable(format!("/bin/cat {path}")),
    };
    let (file, token) = google.external_file("build", &subject, target);
    let content = match kind {
        "executable" => json!({
            "version": 1,
            "success": true,
            "token_type": "urn:ietf:params:oauth:token-type:id_token",
            "expiration_time": 4_102_444_800_i64,
            "id_token": token,
        })
        .to_string(),
        _ => token.clone(),
    };
    bench.write("subject", &content);
    (file, token)
}

#[tokio::test]
async fn an_identity_from_elsewhere_is_exchanged_as_itself_or_as_an_account() {
    for kind in ["file", "url", "executable"] {
        for impersonates in [false, true] {
            let google = google().await;
            let target = google.service_account("target");
            let target = impersonates.then_some(target.as_str());
            let (_api, bench) = source().await;
            let (file, token) = external(&google, &bench, kind, target);
            let build = principal("build");
            let name = target.unwrap_or(&build);
            admit(&google, name);
            if let Some(target) = target {
                google.grant(&build, Role::TokenCreator(target.to_owned()));
            }
            let bench = google
                .env(bench, &file)
                .env("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1");
            let ran = check(&bench).await.exits(0);
            called_as(&google, name, Proof::AccessToken);
            assert_eq!(google.calls_to(STS).len(), 1);
            assert_eq!(google.calls_to(IAM).len(), usize::from(impersonates));
            assert!(!ran.all().contains(&token), "{ran}");
        }
    }
}

#[tokio::test]
async fn a_workforce_login_is_renewed_by_its_refresh_token() {
    let google = google().await;
    let (file, name) = google.workforce_file("ada");
    admit(&google, &name);
    let (_api, bench) = source().await;
    let bench = google.env(bench, &file);
    let ran = check(&bench).await.exits(0);
    called_as(&google, &name, Proof::AccessToken);
    let asked: Vec<String> = google
        .calls_to(STS)
        .iter()
        .map(|c| c.path.clone())
        .collect();
    assert_eq!(asked, ["/v1/oauthtoken"], "one token for all services");
    kept_quiet(
        &google,
        &bench,
        &ran,
        &[&file["refresh_token"], &file["client_secret"]],
    );
}

#[tokio::test]
async fn types_that_are_not_supported_are_named() {
    let google = google().await;
    let file = google.gdch_file();
    let (_api, bench) = source().await;
    let bench = google.env(bench, &file);
    let ran = check(&bench)
        .await
        .exits(1)
        .says("is of type `gdch_service_account`; the known ones are `service_account`");
    kept_quiet(&google, &bench, &ran, &[&file["private_key"]]);
    assert!(google.calls().is_empty());
    google.nothing_was_wrong();
}

#[tokio::test]
async fn a_file_that_is_missing_or_empty_is_named_and_nothing_else_is_tried() {
    let google = google().await;
    let runner = google.service_account("runner");
    admit(&google, &runner);
    google.attach(&runner);
    for content in [None, Some(""), Some("{}")] {
        let (_api, bench) = source().await;
        let path = bench.path("key.json");
        if let Some(content) = content {
            bench.write("key.json", content);
        }
        let bench = google
            .bare_env(bench)
            .env("GOOGLE_APPLICATION_CREDENTIALS", path.to_str().unwrap());
        check(&bench).await.exits(1).says("key.json");
    }
    assert!(google.calls().is_empty(), "the metadata server was asked");
}

#[tokio::test]
async fn what_is_revoked_is_told_with_what_to_do() {
    let google = google().await;
    let user = google.user_file("ada@example.com");
    admit(&google, "ada@example.com");
    google.revoke("ada@example.com");
    let (_api, bench) = source().await;
    let bench = google.env(bench, &user);
    let ran = check(&bench)
        .await
        .exits(1)
        .says("could not get an access token for Google")
        .says("gcloud auth application-default login");
    kept_quiet(&google, &bench, &ran, &[&user["refresh_token"]]);
    // A refusal is final.
    let asked = google.calls_to(OAUTH).len();
    assert!(
        asked <= 2,
        "asked {asked} times, once for each service would do"
    );

    // An account's key that was deleted.
    let loader = google.service_account("loader");
    admit(&google, &loader);
    let key = google.key_file(&loader);
    google.rotate_key(&loader);
    let (_api, bench) = source().await;
    let bench = google.env(bench, &key);
    let ran = check(&bench)
        .await
        .exits(1)
        .says("invalid authentication credentials");
    kept_quiet(&google, &bench, &ran, &[&key["private_key"]]);
    let (_api, bench) = source().await;
    check(&google.env(bench, &google.key_file(&loader)))
        .await
        .exits(0);
}

#[tokio::test]
async fn a_token_service_that_is_busy_is_asked_again() {
    for status in [500, 503] {
        let google = google().await;
        let user = google.user_file("ada@example.com");
        admit(&google, "ada@example.com");
        google.fail(OAUTH, "/token", status, 1);
        let (_api, bench) = source().await;
        check(&google.env(bench, &user)).await.exits(0);
        assert_eq!(google.calls_to(OAUTH).len(), 2);
        google.nothing_was_wrong();
    }
}

#[tokio::test]
async fn a_metadata_server_that_is_busy_is_asked_again() {
    let google = google().await;
    let runner = google.service_account("runner");
    admit(&google, &runner);
    google.attach(&runner);
    google.fail(
        METADATA,
        "/computeMetadata/v1/instance/service-accounts/default/token",
        503,
        2,
    );
    let (_api, bench) = source().await;
    check(&google.bare_env(bench)).await.exits(0);
    called_as(&google, &runner, Proof::AccessToken);
}

#[tokio::test]
async fn a_metadata_server_that_does_not_say_it_is_one_is_not_believed() {
    let google = google().await;
    let runner = google.service_account("runner");
    admit(&google, &runner);
    google.attach(&runner);
    google.flavoured(false);
    let (_api, bench) = source().await;
    let bench = google.bare_env(bench);
    check(&bench).await.exits(1).says(&format!(
        "what answers at `http://{}` is no metadata server",
        google.metadata_host()
    ));
    let asked = google.calls_to(METADATA);
    assert!(asked.iter().all(|c| !c.path.contains("token")), "{asked:?}");
}

#[tokio::test]
async fn without_credentials_it_says_so_fast() {
    let google = google().await;
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    for (name, value) in [
        ("NO_GCE_CHECK", "true"),
        ("GCE_METADATA_HOST", closed.as_str()),
    ] {
        let (_api, bench) = source().await;
        let bench = google
            .bare_env(bench)
            .env("NO_GCE_CHECK", "")
            .env(name, value);
        let begun = Instant::now();
        check(&bench)
            .await
            .exits(1)
            .says("found no Google credentials: `GOOGLE_APPLICATION_CREDENTIALS` is not set")
            .says("gcloud auth application-default login");
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{:?}",
            begun.elapsed()
        );
    }
    // One that takes the connection and says nothing.
    let runner = google.service_account("runner");
    google.attach(&runner);
    google.delay(METADATA, "/", Duration::from_secs(600));
    let (_api, bench) = source().await;
    let begun = Instant::now();
    check(&google.bare_env(bench))
        .await
        .exits(1)
        .says("found no Google credentials");
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_token_that_is_over_too_early_is_replaced_once() {
    let google = std::sync::Arc::new(google().await);
    let user = google.user_file("ada@example.com");
    admit(&google, "ada@example.com");
    // The tokens are over once the source is read, when the destination's turn comes.
    let (_, bench) = source().await;
    let spoiler = google.clone();
    let api = FakeApi::start(move |request| {
        spoiler.expire_tokens();
        shop(request)
    })
    .await;
    let bench = google
        .env(bench, &user)
        .env("DRAWOFF_BASE_URL", api.url().as_str());
    check(&bench).await.exits(0);
    let statuses: Vec<u16> = google.calls_to(BIGQUERY).iter().map(|c| c.status).collect();
    assert_eq!(statuses, [401, 404]);
    assert_eq!(google.calls_to(OAUTH).len(), 2);
}

#[tokio::test]
async fn short_lived_tokens_are_replaced_before_they_are_over() {
    let google = google().await;
    let runner = google.service_account("runner");
    admit(&google, &runner);
    google.attach(&runner);
    google.tokens_live(Duration::from_secs(2));
    let api = FakeApi::start(|request| shop(request).delay(Duration::from_secs(4))).await;
    let (_, bench) = source().await;
    let bench = google
        .bare_env(bench)
        .env("DRAWOFF_BASE_URL", api.url().as_str());
    check(&bench).await.exits(0);
    let token = |host| google.calls_to(host)[0].who.clone().unwrap().token;
    assert_ne!(token(SECRETS), token(BIGQUERY));
    google.nothing_was_wrong();
}

#[tokio::test]
async fn a_missing_role_is_named() {
    let google = google().await;
    let loader = google.service_account("loader");
    let key = google.key_file(&loader);
    let (_api, bench) = source().await;
    let bench = google.env(bench, &key);
    check(&bench)
        .await
        .exits(1)
        .says("roles/secretmanager.secretAccessor")
        .says("accessDenied");
    google.grant(&loader, Role::SecretAccessor);
    check(&bench).await.exits(1).says("accessDenied");
    google.grant(&loader, Role::BigQuery);
    check(&bench).await.exits(0);
}

#[tokio::test]
async fn a_secret_of_a_location_is_read_at_that_locations_host() {
    let google = google().await;
    let loader = google.service_account("loader");
    admit(&google, &loader);
    google.put_regional_secret(PROJECT, "europe-west4", "shop-token", TOKEN);
    let (_api, bench) = source().await;
    refer(&bench, "gcp://test-project/europe-west4/shop-token");
    check(&google.env(bench, &google.key_file(&loader)))
        .await
        .exits(0);
    assert_eq!(
        google
            .calls_to("secretmanager.europe-west4.rep.googleapis.com")
            .len(),
        1
    );
    assert!(google.calls_to(SECRETS).is_empty());
    google.nothing_was_wrong();
}

#[tokio::test]
async fn a_secret_that_cannot_be_used_stops_everything() {
    let google = google().await;
    let loader = google.service_account("loader");
    admit(&google, &loader);
    let key = google.key_file(&loader);
    let (api, bench) = source().await;
    let bench = google.env(bench, &key);
    google.set_checksum(PROJECT, "shop-token", 1, Checksum::Wrong);
    let run = ["--source", "shop"];
    bench
        .run(&run)
        .await
        .exits(75)
        .complains("do not match its CRC32C checksum");
    google.set_checksum(PROJECT, "shop-token", 1, Checksum::Right);
    google.set_version(PROJECT, "shop-token", 1, VersionState::Disabled);
    bench
        .run(&run)
        .await
        .exits(1)
        .complains("is in DISABLED state");
    assert!(api.requests().is_empty());
    // The newest counts, even where an older one could be read.
    google.put_secret(PROJECT, "shop-token", TOKEN);
    bench.run(&run).await.exits(0);
    google.set_version(PROJECT, "shop-token", 2, VersionState::Destroyed);
    bench
        .run(&run)
        .await
        .exits(1)
        .complains("is in DESTROYED state");
    google.nothing_was_wrong();
}

#[tokio::test]
async fn every_call_of_a_load_carries_the_token() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("identity");
    let google = google().await;
    google.forward_bigquery(emulator.rest());
    let loader = google.service_account("loader");
    admit(&google, &loader);
    let key = google.key_file(&loader);
    let (_api, bench) = source().await;
    let path = bench.path("connectors/shop.yaml");
    let yaml = std::fs::read_to_string(path).unwrap();
    let yaml = yaml.replace("  items:\n", "  items: {table: {write_method: load_job}}\n");
    bench.connector("shop", &yaml);
    let bench = google.env(bench, &key);
    let destination = format!("bigquery:{}.{dataset}", emulator::PROJECT);
    let ran = bench
        .run(&["--source", "shop", "--destination", &destination])
        .await
        .exits(0);
    let rows = emulator.query(&format!("SELECT id FROM {dataset}.items"));
    assert_eq!(rows, json!([{"id": 1}]));
    let calls = google.calls_to(BIGQUERY);
    assert!(calls.iter().any(|c| c.path.starts_with("/upload/")));
    assert!(calls.iter().all(|c| c.who.as_ref().unwrap().name == loader));
    google.nothing_was_wrong();
    kept_quiet(&google, &bench, &ran, &[&key["private_key"]]);
}
