//! Secret Manager, read by the library itself: over plain http, where no credentials go along, and on
//! a clock that waits for nobody. Credentials and hosts are tried in `google_identity`.

use std::sync::Arc;
use std::time::Duration;

use drawoff::error::{Error, ErrorKind};
use drawoff::google::{Endpoint, Google, GoogleSettings};
use drawoff::secrets::{SecretManager, SecretRef, SecretStore};
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
