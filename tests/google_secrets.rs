//! Secret Manager, read by the library itself: over plain http, where no credentials go along, and on
//! a clock that waits for nobody. Credentials and hosts are tried in `google_identity`.

use std::sync::Arc;
use std::time::Duration;

use drawoff::error::{Error, ErrorKind};
use drawoff::google::{Endpoint, Google, GoogleSettings};
use drawoff::secrets::{SecretManager, SecretRef, SecretStore, SecretWriter};
use secrecy::ExposeSecret;

use crate::support::clock::NotingClock;
use crate::support::google::{self, Checksum, SECRETS, VersionState};

struct Setting {
    store: SecretManager,
    google: google::Google,
    clock: Arc<NotingClock>,
}

impl Setting {
    /// With these versions of secret `token` in project `proj`.
    async fn new(versions: &[&str]) -> Self {
        let google = google::Google::start().await;
        for version in versions {
            google.put_secret("proj", "token", *version);
        }
        let clock = NotingClock::new();
        let store = Self::store(&google, clock.clone());
        Self {
            store,
            google,
            clock,
        }
    }

    fn store(google: &google::Google, clock: Arc<NotingClock>) -> SecretManager {
        let url = google.plain_secret_manager();
        let settings = GoogleSettings {
            secret_manager: Some(Endpoint::parse(&url, "secrets").unwrap()),
            metadata: None,
            ..Default::default()
        };
        SecretManager::new(Google::new(settings, clock).unwrap())
    }

    async fn get(&self, reference: &str) -> Result<String, Error> {
        let reference: SecretRef = reference.parse().unwrap();
        self.store
            .get(&reference)
            .await
            .map(|s| s.expose_secret().to_owned())
    }

    /// Writes by that reference: what came of it, `projects/…/versions/2`.
    async fn put(&self, reference: &str, value: &str) -> Result<String, Error> {
        let reference: SecretRef = reference.parse().unwrap();
        let stored = self.store.put(&reference, &value.to_owned().into()).await?;
        Ok(stored.to_string())
    }

    /// Values of the versions of `token`, oldest first.
    fn values(&self) -> Vec<String> {
        let versions = self.google.versions("proj", "token").into_iter();
        versions
            .map(|(data, _)| String::from_utf8(data).unwrap())
            .collect()
    }

    fn asked(&self) -> Vec<String> {
        let calls = self.google.calls();
        calls.into_iter().map(|call| call.path).collect()
    }
}

#[tokio::test]
async fn reads_once_and_asks_by_the_whole_name() {
    let setting = Setting::new(&["s3cr3t-value"]).await;
    let google = &setting.google;
    google.put_regional_secret("proj", "europe-west4", "token", "s3cr3t-there");
    google.set_alias("proj", "token", "good", 1);
    for _ in 0..2 {
        assert_eq!(
            setting.get("gcp://proj/token").await.unwrap(),
            "s3cr3t-value"
        );
    }
    setting.get("gcp://proj/token@1").await.unwrap();
    setting.get("gcp://proj/token@good").await.unwrap();
    assert_eq!(
        setting.get("gcp://proj/europe-west4/token").await.unwrap(),
        "s3cr3t-there"
    );
    assert_eq!(
        setting.asked(),
        [
            "/v1/projects/proj/secrets/token/versions/latest:access",
            "/v1/projects/proj/secrets/token/versions/1:access",
            "/v1/projects/proj/secrets/token/versions/good:access",
            "/v1/projects/proj/locations/europe-west4/secrets/token/versions/latest:access",
        ]
    );
    google.nothing_was_wrong();
    // Whatever prints it from now on prints nothing.
    assert_eq!(
        drawoff::telemetry::redact::scrub("x s3cr3t-value y"),
        "x [redacted] y"
    );
}

#[tokio::test]
async fn concurrent_questions_are_one_request() {
    let setting = Setting::new(&["shared-secret"]).await;
    let all = futures::future::join_all((0..8).map(|_| setting.get("gcp://proj/token"))).await;
    assert!(all.iter().all(|s| s.as_deref().unwrap() == "shared-secret"));
    assert_eq!(setting.asked().len(), 1);
}

#[tokio::test]
async fn one_trailing_newline_is_no_part_of_a_secret() {
    for (stored, expected) in [
        ("value-a\n", "value-a"),
        ("value-b\r\n", "value-b"),
        ("value-c\n\n", "value-c\n"),
        (
            "-----BEGIN-----\nvalue\n-----END-----\n",
            "-----BEGIN-----\nvalue\n-----END-----",
        ),
        (" value-d ", " value-d "),
    ] {
        let setting = Setting::new(&[stored]).await;
        assert_eq!(setting.get("gcp://proj/token").await.unwrap(), expected);
    }
    for empty in ["", "\n"] {
        let setting = Setting::new(&[empty]).await;
        let error = setting.get("gcp://proj/token").await.unwrap_err();
        assert!(error.to_string().contains("is empty"), "{error}");
    }
}

#[tokio::test]
async fn a_damaged_payload_is_refused() {
    let setting = Setting::new(&["right-value"]).await;
    let google = &setting.google;
    for (checksum, says) in [
        (Checksum::Wrong, "do not match its CRC32C"),
        (Checksum::Absent, "without the CRC32C"),
    ] {
        google.set_checksum("proj", "token", 1, checksum);
        let error = setting.get("gcp://proj/token").await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(!format!("{error:?}").contains("right-value"));
    }
    // An error is not remembered: the next question may find a good one.
    google.set_checksum("proj", "token", 1, Checksum::Right);
    assert_eq!(
        setting.get("gcp://proj/token").await.unwrap(),
        "right-value"
    );
}

#[tokio::test]
async fn refusals_say_what_to_create_or_grant() {
    let missing = Setting::new(&[]).await;
    let disabled = Setting::new(&["first", "second"]).await;
    disabled
        .google
        .set_version("proj", "token", 2, VersionState::Disabled);
    let denied = Setting::new(&["first"]).await;
    denied.google.fail(SECRETS, "/", 403, 1);
    for (setting, says, hints) in [
        (
            denied,
            "or it does not exist",
            "roles/secretmanager.secretAccessor",
        ),
        (
            missing,
            "does not exist",
            "gcloud secrets create token --project=proj",
        ),
        (
            disabled,
            "version `latest` of secret `projects/proj/secrets/token` is disabled or destroyed",
            "created last",
        ),
    ] {
        let error = setting.get("gcp://proj/token").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Auth);
        assert!(error.to_string().contains(says), "{error}");
        assert!(error.to_string().contains("projects/proj/secrets/token"));
        assert!(error.find_hint().unwrap().contains(hints), "{error:?}");
        assert_eq!(
            setting.asked().len(),
            1,
            "asked again though it was refused"
        );
    }
}

#[tokio::test]
async fn passing_failures_are_retried_with_growing_waits_and_then_given_up() {
    let setting = Setting::new(&["after-all"]).await;
    for status in [503, 429, 503] {
        setting
            .google
            .fail(SECRETS, "/v1/projects/proj/", status, 1);
    }
    assert_eq!(setting.get("gcp://proj/token").await.unwrap(), "after-all");
    let waits = setting.clock.waits();
    assert_eq!(waits.len(), 3);
    for (n, wait) in waits.iter().enumerate() {
        let full = Duration::from_secs(2 << n);
        assert!(*wait <= full && *wait >= full / 2, "{waits:?}");
    }

    let setting = Setting::new(&["never"]).await;
    setting.google.fail(SECRETS, "/", 503, usize::MAX);
    let error = setting.get("gcp://proj/token").await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.exit_code(), 75);
    assert_eq!(setting.asked().len(), 5);
}

#[tokio::test]
async fn other_stores_references_are_not_taken() {
    let setting = Setting::new(&["x"]).await;
    assert!(setting.get("env://TOKEN").await.is_err());
    assert!(setting.asked().is_empty());
}

const ADD: &str = "/v1/projects/proj/secrets/token:addVersion";

#[tokio::test]
async fn a_new_value_is_a_new_version_and_what_is_read_from_then_on() {
    let setting = Setting::new(&["old-value"]).await;
    let google = &setting.google;
    google.put_regional_secret("proj", "europe-west4", "token", "old-there");
    assert_eq!(setting.get("gcp://proj/token").await.unwrap(), "old-value");
    assert_eq!(
        setting
            .put("gcp://proj/token", "new+value/é=")
            .await
            .unwrap(),
        "projects/proj/secrets/token/versions/2"
    );
    assert_eq!(
        setting
            .put("gcp://proj/europe-west4/token@latest", "new-there")
            .await
            .unwrap(),
        "projects/proj/locations/europe-west4/secrets/token/versions/2"
    );
    assert_eq!(
        setting.get("gcp://proj/token").await.unwrap(),
        "new+value/é="
    );
    assert_eq!(setting.values(), ["old-value", "new+value/é="]);
    let calls = google.calls();
    let sent = calls.iter().find(|c| c.path == ADD).unwrap().json();
    let sum = i64::from(crc32c::crc32c("new+value/é=".as_bytes()));
    assert_eq!(sent["payload"]["dataCrc32c"], sum.to_string());
    // Another process finds it, too.
    let other = Setting::store(google, NotingClock::new());
    let read = other.get(&"gcp://proj/token".parse().unwrap()).await;
    assert_eq!(read.unwrap().expose_secret(), "new+value/é=");
    google.nothing_was_wrong();
}

#[tokio::test]
async fn an_answer_that_is_lost_makes_no_second_version() {
    // Once it was done and once it was not, each with every way to find that out.
    for (before, status) in [
        (&["old-value"][..], 503),
        (&[], 504),
        (&["old-value"], 429),
        (&["old-value"], 500),
    ] {
        for done in [true, false] {
            let setting = Setting::new(before).await;
            if before.is_empty() {
                setting.google.make_secret("proj", "token");
            }
            match done {
                true => setting.google.lose(SECRETS, ADD, status, 1),
                false => setting.google.fail(SECRETS, ADD, status, 1),
            }
            let stored = setting.put("gcp://proj/token", "new-value").await.unwrap();
            let number = before.len() + 1;
            assert_eq!(
                stored,
                format!("projects/proj/secrets/token/versions/{number}")
            );
            let mut values = before.to_vec();
            values.push("new-value");
            assert_eq!(setting.values(), values, "{status}, done: {done}");
            let sent = setting.asked().iter().filter(|p| *p == ADD).count();
            assert_eq!(sent, if done { 1 } else { 2 }, "{status}, done: {done}");
            assert_eq!(setting.clock.waits().len(), 1);
            setting.google.nothing_was_wrong();
        }
    }
}

#[tokio::test]
async fn a_lost_answer_is_looked_for_past_a_version_that_is_disabled() {
    for done in [true, false] {
        let setting = Setting::new(&["first", "second"]).await;
        let google = &setting.google;
        google.set_version("proj", "token", 2, VersionState::Disabled);
        match done {
            true => google.lose(SECRETS, ADD, 503, 1),
            false => google.fail(SECRETS, ADD, 503, 1),
        }
        setting.put("gcp://proj/token", "third").await.unwrap();
        assert_eq!(setting.values(), ["first", "second", "third"]);
    }
}

#[tokio::test]
async fn where_nothing_can_be_found_out_the_error_says_so() {
    let setting = Setting::new(&["old-value"]).await;
    setting.google.lose(SECRETS, ADD, 503, 1);
    setting
        .google
        .fail(SECRETS, "/v1/projects/proj/secrets/token/versions", 403, 1);
    let error = setting
        .put("gcp://proj/token", "new-canary")
        .await
        .unwrap_err();
    assert!(error.is_transient());
    let text = error.chain();
    assert!(
        text.contains("could not add a version to secret `projects/proj/secrets/token`: 503"),
        "{text}"
    );
    assert!(text.contains("is not known"), "{text}");
    assert!(
        error.find_hint().unwrap().contains("versions list token"),
        "{error:?}"
    );
    assert!(!format!("{error:?}").contains("canary"), "{error:?}");

    // It never gets through: five times, as for reading.
    let setting = Setting::new(&["old-value"]).await;
    setting.google.fail(SECRETS, ADD, 503, usize::MAX);
    let error = setting
        .put("gcp://proj/token", "new-value")
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), 75);
    assert_eq!(setting.asked().iter().filter(|p| *p == ADD).count(), 5);
    assert_eq!(setting.values(), ["old-value"]);
}

#[tokio::test]
async fn what_cannot_be_read_again_is_not_sent() {
    let setting = Setting::new(&["old-value"]).await;
    for (reference, value, says) in [
        ("gcp://proj/token@1", "new-value", "names one version"),
        ("gcp://proj/token@good", "new-value", "names one version"),
        ("gcp://proj/token", "", "is empty"),
        ("gcp://proj/token", "two\nlines", "line breaks"),
        ("gcp://proj/token", &"x".repeat(65_537), "65537 bytes"),
    ] {
        let error = setting.put(reference, value).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(says), "{error}");
    }
    assert!(setting.asked().is_empty());
    let largest = "x".repeat(65_536);
    setting.put("gcp://proj/token", &largest).await.unwrap();
    let error = setting
        .put("gcp://proj/missing", "new-value")
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`projects/proj/secrets/missing` does not exist"),
        "{error}"
    );
}

#[tokio::test]
async fn versions_are_disabled_and_enabled() {
    let setting = Setting::new(&["first", "second"]).await;
    let reference: SecretRef = "gcp://proj/token".parse().unwrap();
    let states = || -> Vec<VersionState> {
        let versions = setting.google.versions("proj", "token").into_iter();
        versions.map(|(_, state)| state).collect()
    };
    use VersionState::{Disabled, Enabled};
    for _ in 0..2 {
        setting.store.disable(&reference, 1).await.unwrap();
        assert_eq!(states(), [Disabled, Enabled]);
    }
    setting.store.enable(&reference, 1).await.unwrap();
    assert_eq!(states(), [Enabled, Enabled]);
    let error = setting.store.disable(&reference, 3).await.unwrap_err();
    assert!(
        error.to_string().contains("versions/3` does not exist"),
        "{error}"
    );
}

#[tokio::test]
async fn a_secret_is_made_where_it_is_missing_and_that_is_wanted() {
    let setting = Setting::new(&[]).await;
    let value = "first-value".to_owned().into();
    for reference in ["gcp://proj/token", "gcp://proj/europe-west4/token"] {
        let parsed: SecretRef = reference.parse().unwrap();
        assert!(setting.put(reference, "first-value").await.is_err());
        for (version, created) in [(1, true), (2, false)] {
            let added = setting.store.add(&parsed, &value, true).await.unwrap();
            assert_eq!((added.version, added.created), (version, created));
        }
    }
    let bodies: Vec<serde_json::Value> = setting
        .google
        .calls()
        .iter()
        .filter(|c| c.path.ends_with("/secrets"))
        .map(|c| c.json())
        .collect();
    let automatic = serde_json::json!({"replication": {"automatic": {}}});
    assert_eq!(bodies, [automatic, serde_json::json!({})]);
    setting.google.nothing_was_wrong();

    // Somebody else makes it meanwhile.
    let setting = Setting::new(&[]).await;
    setting.google.fail(SECRETS, ADD, 404, 1);
    setting.google.make_secret("proj", "token");
    let reference: SecretRef = "gcp://proj/token".parse().unwrap();
    let added = setting.store.add(&reference, &value, true).await.unwrap();
    assert_eq!(added.version, 1);
}

#[tokio::test]
async fn a_location_without_an_answer_may_be_none() {
    let settings = GoogleSettings {
        secret_manager: Some(Endpoint::parse("127.0.0.1:1", "secrets").unwrap()),
        metadata: None,
        ..Default::default()
    };
    let store = SecretManager::new(Google::new(settings, NotingClock::new()).unwrap());
    let get = async |text: &str| store.get(&text.parse().unwrap()).await.unwrap_err();
    let error = get("gcp://proj/europe-west/token").await;
    assert_eq!(error.exit_code(), 75);
    assert!(
        error
            .find_hint()
            .unwrap()
            .contains("see that `europe-west` is a location"),
        "{error:?}"
    );
    assert_eq!(get("gcp://proj/token").await.find_hint(), None);
}
