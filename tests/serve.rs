//! `drawoff serve`: runs asked for over HTTP, and who may ask.

mod duplicates;
mod events;
mod examples;
mod limits;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::binary::{Bench, moment};
use crate::support::fake_api::{FakeApi, Reply};
use crate::support::google::{CERTS, Google};
use crate::support::served::Served;
use crate::support::shop::page;
use crate::support::tables;

const AUDIENCE: &str = "https://drawoff-x7-ew.a.run.app";

fn shop(api: &FakeApi) -> Bench {
    let yaml = format!(
        "title: Shop\nbase_url: {}\npagination: {{page: {{page_param: page, size_param: per_page, size: 2}}}}\n\
         records: /data\nstreams: {{items: {{primary_key: id}}}}\n",
        api.url().as_str().trim_end_matches('/')
    );
    Bench::with("shop", &yaml)
}

fn three() -> Vec<Value> {
    (1..=3).map(|id| json!({"id": id})).collect()
}

#[tokio::test]
async fn a_run_is_asked_for_and_its_answer_says_what_came_of_it() {
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let bench = shop(&api);
    let served = Served::start(&bench, &[]).await;
    for path in ["/healthz", "/health"] {
        assert_eq!(served.get(path).await, (200, json!({"status": "ok"})));
    }

    let (status, body) = served.run(r#"{"source": "shop"}"#).await;
    assert_eq!((status, &body["state"]), (200, &json!("done")), "{body}");
    assert_eq!(body["streams"][0]["rows"], 3);
    let id = body["run_id"].as_str().unwrap();
    let rows = tables::sqlite(&bench.path("drawoff.db"), "items");
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|r| r["_run_id"] == id), "{rows:?}");

    let (status, again) = served.get(&format!("/runs/{id}")).await;
    assert_eq!((status, &again), (200, &body));
    let (status, none) = served.get("/runs/other").await;
    assert_eq!(status, 404, "{none}");
    let (status, none) = served.get("/elsewhere").await;
    assert_eq!(status, 404, "{none}");
}

#[tokio::test]
async fn what_cannot_be_run_is_explained() {
    let api = FakeApi::start(|_| Reply::status(403)).await;
    let bench = shop(&api);
    let served = Served::start(&bench, &[]).await;
    for (body, status, said) in [
        ("", 400, "the body is no JSON"),
        (
            r#"["shop", [], null, null, false, true]"#,
            400,
            "the body is a list",
        ),
        ("{}", 400, "missing field `source`"),
        (
            r#"{"source": "shop", "sorce": 1}"#,
            400,
            "unknown field `sorce`",
        ),
        (r#"{"source": "shap"}"#, 400, "shap"),
        (r#"{"source": "shop", "streams": ["itens"]}"#, 400, "itens"),
        (
            r#"{"source": "shop", "since": "soon"}"#,
            400,
            "`since` is no date",
        ),
        (
            r#"{"source": "shop", "since": "2026-02-01", "until": "2026-01-01"}"#,
            400,
            "`since` must lie before `until`",
        ),
        (
            r#"{"source": "shop", "since": "2026-02-01", "full_refresh": true}"#,
            400,
            "--full-refresh",
        ),
        (r#"{"source": "shop"}"#, 500, "403"),
    ] {
        let (got, answer) = served.run(body).await;
        assert_eq!(got, status, "{body}: {answer}");
        assert!(answer.to_string().contains(said), "{body}: {answer}");
    }
    for (bytes, status) in [(100_000, 400), (1_100_000, 413)] {
        let large = format!(r#"{{"source": "{}"}}"#, "x".repeat(bytes));
        let (got, answer) = served.run(&large).await;
        assert_eq!(got, status, "{answer}");
        assert!(answer.to_string().contains("bytes"), "{answer}");
    }
}

#[tokio::test]
async fn one_run_of_a_source_at_a_time_and_the_end_of_the_process_stops_it() {
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let api = FakeApi::start(move |request| match request.number_param("page") {
        Some(2) if !gate.load(Ordering::SeqCst) => Reply::status(503),
        _ => page(&three(), request),
    })
    .await;
    let bench = shop(&api);
    let served = Served::start(&bench, &["--answer-within", "300ms"]).await;
    let (status, body) = served.run(r#"{"source": "shop"}"#).await;
    assert_eq!((status, &body["state"]), (202, &json!("at_work")), "{body}");
    let id = body["run_id"].as_str().unwrap().to_owned();
    let (status, other) = served.run(r#"{"source": "shop"}"#).await;
    assert_eq!((status, &other["run_id"]), (409, &json!(id)), "{other}");
    let (status, seen) = served.get(&format!("/runs/{id}")).await;
    assert_eq!(status, 200);
    assert_eq!(seen["streams"][0]["state"], "reading", "{seen}");

    open.store(true, Ordering::SeqCst);
    let ended = served.ended(&id).await;
    assert_eq!(ended["streams"][0]["rows"], 3, "{ended}");

    open.store(false, Ordering::SeqCst);
    let (status, _) = served.run(r#"{"source": "shop"}"#).await;
    assert_eq!(status, 202);
    let ran = served.end().await.exits(0);
    assert!(ran.stderr.contains("interrupted"), "{ran}");
}

/// A service that verifies its callers, with a stand-in for Google whose accounts it may trust.
async fn guarded(google: &Google, api: &FakeApi, allowed: &str) -> (Bench, Served) {
    guarded_with(google, api, allowed, &[]).await
}

async fn guarded_with(
    google: &Google,
    api: &FakeApi,
    allowed: &str,
    more: &[&str],
) -> (Bench, Served) {
    let bench = google.bare_env(shop(api));
    let args = [
        "--verify-callers",
        "--audience",
        AUDIENCE,
        "--allow-caller",
        allowed,
    ];
    let served = Served::start(&bench, &[&args, more].concat()).await;
    (bench, served)
}

#[tokio::test]
async fn callers_that_are_nobody_are_refused_before_it_serves() {
    let api = FakeApi::start(|request| page(&three(), request)).await;
    for (args, said) in [
        (
            &["--verify-callers"][..],
            "needs `--audience` and `--allow-caller`",
        ),
        (
            &[
                "--verify-callers",
                "--audience",
                "",
                "--allow-caller",
                "a@b",
            ],
            "needs `--audience`",
        ),
        (
            &[
                "--verify-callers",
                "--audience",
                AUDIENCE,
                "--allow-caller",
                ",",
            ],
            "needs `--audience`",
        ),
        (
            &[
                "--verify-callers",
                "--audience",
                AUDIENCE,
                "--allow-caller",
                "nonsense",
            ],
            "`--allow-caller nonsense` is no e-mail address",
        ),
        (
            &["--allow-caller", "a@b"],
            "have no effect without `--verify-callers`",
        ),
    ] {
        let ran = shop(&api).run(&[&["serve"], args].concat()).await;
        ran.exits(2).complains(said);
    }
    let bench = shop(&api).env("DRAWOFF_VERIFY_CALLERS", "false");
    let served = Served::start(&bench, &[]).await;
    assert_eq!(served.get("/healthz").await.0, 200);
}

#[tokio::test]
async fn callers_are_verified_by_signature_audience_issuer_expiry_and_name() {
    let google = Google::start().await;
    let scheduler = google.service_account("scheduler");
    let stranger = google.service_account("stranger");
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let (_bench, served) = guarded(&google, &api, &scheduler).await;

    let good = google.id_token(&scheduler, AUDIENCE);
    let (status, body) = served.run_as(&format!("Bearer {good}")).await;
    assert_eq!(status, 200, "{body}");
    // The scheme's case is nobody's business.
    let (status, body) = served.run_as(&format!("bearer {good}")).await;
    assert_eq!(status, 200, "{body}");

    let mut forged = good.clone();
    forged.replace_range(forged.len() - 12..forged.len() - 6, "AAAAAA");
    let self_signed = google.sign_as(
        &scheduler,
        &json!({"iss": "https://accounts.google.com", "aud": AUDIENCE, "exp": 4_000_000_000_u64,
            "email": scheduler, "email_verified": true}),
    );
    let (head, _) = good.rsplit_once('.').unwrap();
    for (authorization, status, said) in [
        (
            format!("Bearer {}", google.id_token(&stranger, AUDIENCE)),
            403,
            "may not call",
        ),
        (
            format!(
                "Bearer {}",
                google.id_token(&scheduler, "https://other.a.run.app")
            ),
            401,
            "another audience",
        ),
        (format!("Bearer {forged}"), 401, "signature"),
        (format!("Bearer {self_signed}"), 401, "not Google's"),
        (
            format!("Bearer {head}.SIGNATURE_REMOVED_BY_GOOGLE"),
            401,
            "--verify-callers",
        ),
        (
            format!("Bearer {}", google.access_token(&scheduler, &[])),
            401,
            "no ID token",
        ),
        ("Basic YTpi".to_owned(), 401, "no bearer token"),
    ] {
        let (got, body) = served.run_as(&authorization).await;
        assert_eq!(got, status, "{body}");
        assert!(body.to_string().contains(said), "{said}: {body}");
    }
    let (status, body) = served.run(r#"{"source": "shop"}"#).await;
    assert_eq!(status, 401, "{body}");
    let (status, _) = served.get("/runs/x").await;
    assert_eq!(status, 401);
    // Whether it is up is no secret.
    let (status, _) = served.get("/healthz").await;
    assert_eq!(status, 200);

    let ran = served.end().await.exits(0);
    for secret in [good.as_str(), forged.as_str()] {
        let tail = &secret[secret.len() - 30..];
        assert!(!ran.all().contains(tail), "{ran}");
    }
}

#[tokio::test]
async fn googles_keys_are_kept_and_asked_for_again_when_they_rotate() {
    let google = Google::start().await;
    let scheduler = google.service_account("scheduler");
    let api = FakeApi::start(|request| page(&three(), request)).await;

    // Without its keys nobody is let in, and nobody is called a stranger.
    google.fail(CERTS, "/oauth2/v3/certs", 503, 1);
    let (_bench, served) = guarded(&google, &api, &scheduler).await;
    let first = format!("Bearer {}", google.id_token(&scheduler, AUDIENCE));
    // Nor do strangers make it ask again and again.
    for _ in 0..5 {
        let (status, body) = served.run_as(&first).await;
        assert_eq!(status, 503, "{body}");
    }
    assert_eq!(google.calls_to(CERTS).len(), 1);
    moment(Duration::from_millis(5_200)).await;

    for _ in 0..3 {
        let (status, body) = served.run_as(&first).await;
        assert_eq!(status, 200, "{body}");
    }
    assert_eq!(google.calls_to(CERTS).len(), 2);

    // Strangers do not set the pace at which Google is asked.
    google.rotate_google_keys(false);
    let second = format!("Bearer {}", google.id_token(&scheduler, AUDIENCE));
    for _ in 0..5 {
        let (status, body) = served.run_as(&second).await;
        assert_eq!(status, 401, "{body}");
    }
    assert_eq!(google.calls_to(CERTS).len(), 2);

    // A process that starts anew knows both.
    let (_bench, served) = guarded(&google, &api, &scheduler).await;
    for token in [&first, &second] {
        let (status, body) = served.run_as(token).await;
        assert_eq!(status, 200, "{body}");
    }
    google.nothing_was_wrong();
}
