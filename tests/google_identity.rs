//! Who the program is at Google: each kind of credentials, through the whole program, against a strict
//! stand-in at Google's own host names.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::binary::{Bench, Ran};
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
