//! Secret Manager, against a strict stand-in on loopback.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use drawoff::error::{Error, ErrorKind};
use drawoff::google::{Endpoint, Google, GoogleSettings};
use drawoff::secrets::{SecretManager, SecretRef, SecretStore};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::support::clock::NotingClock;

/// Answers in order; the last one again and again.
#[derive(Default)]
struct StandIn {
    answers: Mutex<VecDeque<(u16, Value)>>,
    asked: Mutex<Vec<String>>,
}

async fn answer(State(stand_in): State<Arc<StandIn>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    // A credential over plain http would be a leak.
    let leaked = request.headers().contains_key(header::AUTHORIZATION);
    if request.method() != Method::GET || request.uri().query().is_some() || leaked {
        return StatusCode::IM_A_TEAPOT.into_response();
    }
    stand_in.asked.lock().unwrap().push(path);
    let mut answers = stand_in.answers.lock().unwrap();
    let (status, body) = if answers.len() > 1 {
        answers.pop_front().unwrap()
    } else {
        answers.front().cloned().unwrap()
    };
    (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
}

struct Setting {
    store: SecretManager,
    stand_in: Arc<StandIn>,
    clock: Arc<NotingClock>,
}

impl Setting {
    async fn new(answers: &[(u16, Value)]) -> Self {
        let stand_in = Arc::new(StandIn {
            answers: Mutex::new(answers.iter().cloned().collect()),
            ..Default::default()
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let app = axum::Router::new()
            .fallback(answer)
            .with_state(stand_in.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let settings = GoogleSettings {
            secret_manager: Some(Endpoint::parse(&url, "secrets").unwrap()),
            metadata: None,
            ..Default::default()
        };
        let clock = NotingClock::new();
        Self {
            store: SecretManager::new(Google::new(settings, clock.clone()).unwrap()),
            stand_in,
            clock,
        }
    }

    async fn get(&self, reference: &str) -> Result<String, Error> {
        let reference: SecretRef = reference.parse().unwrap();
        self.store
            .get(&reference)
            .await
            .map(|s| s.expose_secret().to_owned())
    }

    fn asked(&self) -> Vec<String> {
        self.stand_in.asked.lock().unwrap().clone()
    }
}

fn secret(value: &str) -> (u16, Value) {
    let sum = crc32c::crc32c(value.as_bytes());
    (
        200,
        json!({
            "name": "projects/123/secrets/token/versions/7",
            "payload": {"data": STANDARD.encode(value), "dataCrc32c": sum.to_string()},
        }),
    )
}

fn refusal(code: u16, status: &str, message: &str) -> (u16, Value) {
    (
        code,
        json!({"error": {"code": code, "message": message, "status": status}}),
    )
}

#[tokio::test]
async fn reads_once_and_asks_by_the_whole_name() {
    let setting = Setting::new(&[secret("s3cr3t-value")]).await;
    assert_eq!(
        setting.get("gcp://proj/token").await.unwrap(),
        "s3cr3t-value"
    );
    assert_eq!(
        setting.get("gcp://proj/token").await.unwrap(),
        "s3cr3t-value"
    );
    setting.get("gcp://proj/token@7").await.unwrap();
    setting.get("gcp://proj/europe-west4/token").await.unwrap();
    assert_eq!(
        setting.asked(),
        [
            "/v1/projects/proj/secrets/token/versions/latest:access",
            "/v1/projects/proj/secrets/token/versions/7:access",
            "/v1/projects/proj/locations/europe-west4/secrets/token/versions/latest:access",
        ]
    );
    // Whatever prints it from now on prints nothing.
    assert_eq!(
        drawoff::telemetry::redact::scrub("x s3cr3t-value y"),
        "x [redacted] y"
    );
}

#[tokio::test]
async fn concurrent_questions_are_one_request() {
    let setting = Setting::new(&[secret("shared-secret")]).await;
    let all = futures::future::join_all((0..8).map(|_| setting.get("gcp://p/token"))).await;
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
        let setting = Setting::new(&[secret(stored)]).await;
        assert_eq!(setting.get("gcp://p/token").await.unwrap(), expected);
    }
    for empty in ["", "\n"] {
        let error = Setting::new(&[secret(empty)])
            .await
            .get("gcp://p/token")
            .await
            .unwrap_err();
        assert!(error.to_string().contains("is empty"), "{error}");
    }
}

#[tokio::test]
async fn a_damaged_payload_is_refused() {
    let (_, mut damaged) = secret("right-value");
    damaged["payload"]["data"] = json!(STANDARD.encode("wrong-value"));
    let setting = Setting::new(&[(200, damaged)]).await;
    let error = setting.get("gcp://p/token").await.unwrap_err();
    assert!(error.to_string().contains("CRC32C"), "{error}");
    assert!(!format!("{error:?}").contains("wrong-value"));

    let (_, mut bare) = secret("right-value");
    bare["payload"]
        .as_object_mut()
        .unwrap()
        .remove("dataCrc32c");
    let error = Setting::new(&[(200, bare)])
        .await
        .get("gcp://p/token")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("without the CRC32C"), "{error}");

    // An error is not remembered: the next question may find a good one.
    let (_, mut damaged) = secret("right-value");
    damaged["payload"]["dataCrc32c"] = json!("1");
    let setting = Setting::new(&[(200, damaged), secret("right-value")]).await;
    setting.get("gcp://p/token").await.unwrap_err();
    assert_eq!(setting.get("gcp://p/token").await.unwrap(), "right-value");
}

#[tokio::test]
async fn refusals_say_what_to_create_or_grant() {
    let denied =
        "Permission 'secretmanager.versions.access' denied for resource (or it may not exist).";
    for (answer, says, hints) in [
        (
            refusal(403, "PERMISSION_DENIED", denied),
            "or it does not exist",
            "roles/secretmanager.secretAccessor",
        ),
        (
            refusal(
                404,
                "NOT_FOUND",
                "Secret [projects/1/secrets/token] not found.",
            ),
            "does not exist",
            "gcloud secrets create token --project=proj",
        ),
        (
            refusal(
                400,
                "FAILED_PRECONDITION",
                "Secret Version is in DISABLED state.",
            ),
            "version `latest` of secret `projects/proj/secrets/token` is disabled or destroyed",
            "created last",
        ),
    ] {
        let setting = Setting::new(&[answer]).await;
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
    let busy = || refusal(503, "UNAVAILABLE", "try later");
    let many = refusal(429, "RESOURCE_EXHAUSTED", "quota");
    let setting = Setting::new(&[busy(), many, busy(), secret("after-all")]).await;
    assert_eq!(setting.get("gcp://p/token").await.unwrap(), "after-all");
    let waits = setting.clock.waits();
    assert_eq!(waits.len(), 3);
    for (n, wait) in waits.iter().enumerate() {
        let full = Duration::from_secs(2 << n);
        assert!(*wait <= full && *wait >= full / 2, "{waits:?}");
    }

    let setting = Setting::new(&[busy()]).await;
    let error = setting.get("gcp://p/token").await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.exit_code(), 75);
    assert_eq!(setting.asked().len(), 5);
}

#[tokio::test]
async fn other_stores_references_are_not_taken() {
    let setting = Setting::new(&[secret("x")]).await;
    assert!(setting.get("env://TOKEN").await.is_err());
    assert!(setting.asked().is_empty());
}
