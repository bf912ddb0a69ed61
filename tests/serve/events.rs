//! The forms in which a run may be asked for, and what becomes of what cannot be run.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{AUDIENCE, Served, guarded_with, shop, three};
use crate::support::fake_api::{FakeApi, Reply};
use crate::support::google::Google;
use crate::support::plain_http::{self, Answer};
use crate::support::shop::page;
use crate::support::tables;

const WISH: &str = r#"{"source": "shop", "streams": ["items"]}"#;
const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json");

/// A request's headers and body.
#[derive(Clone)]
pub(super) struct Post {
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Post {
    pub fn of(headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self {
            headers: headers.iter().map(owned).collect(),
            body: body.into(),
        }
    }

    pub async fn send(&self, served: &Served, path: &str) -> Answer {
        let mut request = served
            .client
            .post(format!("{}{path}", served.url))
            .body(self.body.clone());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        plain_http::send(request).await
    }
}

/// An event in binary mode.
pub(super) fn binary(kind: &str, id: &str, data: impl Into<Vec<u8>>) -> Post {
    Post::of(
        &[
            ("ce-specversion", "1.0"),
            ("ce-type", kind),
            ("ce-source", "//storage.googleapis.com/projects/_/buckets/b"),
            ("ce-id", id),
            ("ce-time", "2026-01-01T00:00:00Z"),
            ("content-type", "application/json"),
        ],
        data,
    )
}

/// An event in structured mode, with more fields.
fn structured(id: &str, more: Value) -> Post {
    let mut event = json!({
        "specversion": "1.0", "type": "com.acme.run", "source": "//acme", "id": id,
        "time": "2026-01-01T00:00:00Z", "anextension": 7,
    });
    let more = more.as_object().unwrap().clone();
    event.as_object_mut().unwrap().extend(more);
    Post::of(&[STRUCTURED], event.to_string())
}

/// A message as Pub/Sub pushes it, which writes some names twice.
pub(super) fn message(id: &str, data: &str, attributes: Value) -> Value {
    json!({
        "message": {
            "data": STANDARD.encode(data),
            "messageId": id, "message_id": id,
            "publishTime": "2026-01-01T00:00:00Z", "publish_time": "2026-01-01T00:00:00Z",
            "attributes": attributes,
        },
        "subscription": "projects/p/subscriptions/s",
    })
}

pub(super) fn pushed(id: &str, data: &str, attributes: Value) -> Post {
    Post::of(
        &[("content-type", "application/json")],
        message(id, data, attributes).to_string(),
    )
}

fn unwrapped(id: &str, more: &[(&str, &str)], data: &str) -> Post {
    let mut post = Post::of(
        &[
            ("x-goog-pubsub-message-id", id),
            (
                "x-goog-pubsub-subscription-name",
                "projects/p/subscriptions/s",
            ),
            ("x-goog-pubsub-publish-time", "2026-01-01T00:00:00Z"),
        ],
        data,
    );
    let more = more.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
    post.headers.extend(more);
    post
}

/// A run of `items`, asked for in every form; ids of events and messages end so.
fn forms(end: &str) -> Vec<(&'static str, Post)> {
    let id = |start: &str| format!("{start}{end}");
    let attributes =
        json!({"source": "shop", "streams": " items, ", "since": "2026-01-01", "dry_run": "false"});
    let published = "google.cloud.pubsub.topic.v1.messagePublished";
    vec![
        ("plain", Post::of(&[], WISH)),
        (
            "octets",
            Post::of(&[("content-type", "application/octet-stream")], WISH),
        ),
        ("binary", binary("com.acme.run", &id("b1"), WISH)),
        (
            "structured",
            structured(&id("s1"), json!({"data": {"source": "shop"}})),
        ),
        (
            "structured, with a charset",
            Post {
                headers: Post::of(
                    &[(
                        "content-type",
                        "application/cloudevents+json; charset=utf-8",
                    )],
                    "",
                )
                .headers,
                ..structured(&id("s2"), json!({"data": {"source": "shop"}}))
            },
        ),
        (
            "structured, text",
            structured(
                &id("s3"),
                json!({"datacontenttype": "text/plain", "data": WISH}),
            ),
        ),
        (
            "structured, base64",
            structured(&id("s4"), json!({"data_base64": STANDARD.encode(WISH)})),
        ),
        ("pushed", pushed(&id("m1"), WISH, Value::Null)),
        (
            "pushed, attributes",
            pushed(&id("m2"), "", attributes.clone()),
        ),
        (
            "pushed, attributes beside other data",
            pushed(&id("m3"), "not JSON", attributes.clone()),
        ),
        (
            "pushed through Eventarc",
            binary(
                published,
                &id("e1"),
                message(&id("m4"), WISH, json!({})).to_string(),
            ),
        ),
        (
            "the same, structured",
            structured(
                &id("e2"),
                json!({"type": published, "data": message(&id("m5"), "", attributes)}),
            ),
        ),
        ("unwrapped", unwrapped(&id("u1"), &[], WISH)),
        (
            "unwrapped, attributes",
            unwrapped(&id("u2"), &[("source", "shop"), ("streams", "items")], ""),
        ),
    ]
}

#[tokio::test]
async fn every_form_of_asking_runs_the_source_once() {
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let bench = shop(&api);
    let served = Served::start(&bench, &[]).await;
    let mut runs = Vec::new();
    for path in ["/run", "/"] {
        for (form, post) in forms(path) {
            let answer = post.send(&served, path).await;
            let body = answer.json();
            assert_eq!(
                (answer.status, &body["state"]),
                (200, &json!("done")),
                "{form}: {body}"
            );
            assert_eq!(answer.header("x-drawoff-dropped"), "", "{form}");
            assert_eq!(body["streams"][0]["rows"], 3, "{form}: {body}");
            assert_eq!(body["duplicate"], Value::Null, "{form}: {body}");
            runs.push(body["run_id"].as_str().unwrap().to_owned());
        }
    }
    let count = runs.len();
    runs.sort();
    runs.dedup();
    assert_eq!(runs.len(), count);
    let recorded = tables::sqlite(&bench.path("drawoff.db"), "_drawoff_runs");
    assert_eq!(recorded.len(), count);
}

#[tokio::test]
async fn an_event_about_something_else_runs_what_is_run_by_default() {
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let object = json!({"kind": "storage#object", "name": "a.csv", "bucket": "b", "size": "7"});
    let finalized = "google.cloud.storage.object.v1.finalized";
    let quiet = [
        binary(finalized, "1", object.to_string()),
        binary(finalized, "2", "\u{1}\u{2} protobuf, not JSON"),
        binary(finalized, "3", "[1, 2]"),
        structured("4", json!({})),
        pushed("5", "it is time", json!({"eventType": "OBJECT_FINALIZE"})),
        pushed("6", "", Value::Null),
        unwrapped("7", &[], ""),
    ];
    let bench = shop(&api);
    let served = Served::start(&bench, &["--source", "shop", "--stream", "items"]).await;
    for post in quiet.iter().chain([
        &Post::of(&[], ""),
        &Post::of(&[], "{}"),
        &Post::of(&[], r#"{"since": "2026-01-01"}"#),
    ]) {
        let answer = post.send(&served, "/").await;
        let body = answer.json();
        assert_eq!(
            (answer.status, &body["state"]),
            (200, &json!("done")),
            "{body}"
        );
        assert_eq!(body["source"], "shop");
    }
    // What is said goes before what is the default, and must be right.
    let typo = binary("com.acme.run", "8", r#"{"source": "shop", "strems": []}"#);
    let answer = typo.send(&served, "/").await;
    assert_eq!(
        (answer.status, answer.header("x-drawoff-dropped")),
        (200, "400")
    );
    assert!(answer.json().to_string().contains("unknown field `strems`"));

    let bench = shop(&api);
    let mut served = Served::start(&bench, &[]).await;
    let before = api.count();
    for post in quiet {
        let answer = post.send(&served, "/").await;
        assert_eq!(
            (answer.status, answer.header("x-drawoff-dropped")),
            (200, "400")
        );
        assert!(
            answer
                .json()
                .to_string()
                .contains("does not say what to run")
        );
    }
    assert_eq!(api.count(), before);
    let line = served.running.line("does not say what to run").await;
    assert!(line.starts_with("error:"), "{line}");

    for (args, said) in [
        (&["--source", "shap"][..], "shap"),
        (
            &["--source", "shop", "--stream", "itens"],
            "has no stream `itens`",
        ),
        (
            &["--stream", "items"],
            "`--stream` has no effect without `--source`",
        ),
        (&["--max-runs", "0"], "--max-runs"),
    ] {
        shop(&api)
            .run(&[&["serve"], args].concat())
            .await
            .exits(2)
            .complains(said);
    }
}

#[tokio::test]
async fn what_can_never_succeed_is_not_sent_for_days() {
    let api = FakeApi::start(|_| Reply::status(403)).await;
    let bench = shop(&api);
    let served = Served::start(&bench, &[]).await;
    for (data, status, said) in [
        ("{", "400", "does not say what to run"),
        (r#"{"source": 7}"#, "400", "invalid type"),
        (r#"{"source": "shap"}"#, "400", "shap"),
        (r#"{"source": "{{ 7 * 7 }}"}"#, "400", "{{ 7 * 7 }}"),
        (
            r#"{"source": "../../etc/passwd"}"#,
            "400",
            "there is no source",
        ),
        (
            r#"{"source": "shop", "since": "soon"}"#,
            "400",
            "`since` is no date",
        ),
        (WISH, "500", "403"),
    ] {
        let answer = pushed(data, data, Value::Null).send(&served, "/").await;
        let body = answer.json().to_string();
        assert_eq!(
            (answer.status, answer.header("x-drawoff-dropped")),
            (200, status),
            "{body}"
        );
        assert!(body.contains(said), "{data}: {body}");

        // Where there is a dead-letter topic it is put there in the end, and people can look at it.
        let mut push = message(data, data, Value::Null);
        push["deliveryAttempt"] = json!(1);
        let answer = Post::of(&[], push.to_string()).send(&served, "/").await;
        assert_eq!(
            (
                answer.status.to_string().as_str(),
                answer.header("x-drawoff-dropped")
            ),
            (status, ""),
            "{data}"
        );
    }
    let ran = served.end().await.exits(0);
    let errors = ran.stderr.lines().filter(|l| l.starts_with("error:"));
    assert!(errors.count() >= 14, "{ran}");
}

#[tokio::test]
async fn what_is_dropped_is_seen_by_the_alert() {
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let bench = shop(&api).env("DRAWOFF_LOG_FORMAT", "json");
    let served = Served::start(&bench, &[]).await;
    let large = " ".repeat(2 << 20);
    for (data, status) in [("{", "400"), (large.as_str(), "413")] {
        let answer = pushed("1", data, Value::Null).send(&served, "/").await;
        assert_eq!(
            (answer.status, answer.header("x-drawoff-dropped")),
            (200, status)
        );
    }
    let ran = served.end().await.exits(0);
    let lines = ran.stderr.lines();
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let errors: Vec<Value> = lines.filter(|l| l["severity"] == "ERROR").collect();
    assert_eq!(errors.len(), 2, "{ran}");
    for error in &errors {
        assert_eq!(
            error["@type"],
            "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent"
        );
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with("request failed: config: "), "{message}");
        let place = &error["context"]["reportLocation"]["filePath"];
        assert!(
            place.as_str().unwrap().starts_with("src/server/"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn events_in_other_forms_are_refused_in_words() {
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let bench = shop(&api);
    let served = Served::start(&bench, &["--source", "shop"]).await;
    let batch = json!([{"specversion": "1.0", "id": "1", "source": "a", "type": "b"}]).to_string();
    for kind in [
        "application/cloudevents-batch+json",
        "application/cloudevents+avro",
    ] {
        let answer = Post::of(&[("content-type", kind)], batch.clone())
            .send(&served, "/")
            .await;
        assert_eq!(answer.status, 400);
        assert!(answer.json().to_string().contains("batched CloudEvents"));
    }
    let without = |name: &str| {
        let mut post = binary("t", "1", WISH);
        post.headers.remove(name).unwrap();
        post
    };
    let old = Post {
        headers: [("ce-specversion".to_owned(), "0.3".to_owned())]
            .into_iter()
            .chain(without("ce-specversion").headers)
            .collect(),
        ..binary("t", "1", WISH)
    };
    for (post, said) in [
        (without("ce-id"), "has no `id`"),
        (without("ce-source"), "has no `source`"),
        (without("ce-type"), "has no `type`"),
        (without("ce-specversion"), "has no `specversion`"),
        (old, "`specversion` is not 1.0"),
        (Post::of(&[STRUCTURED], "[]"), "no CloudEvent"),
        (Post::of(&[STRUCTURED], "{"), "no JSON"),
        (
            structured("1", json!({"data": 1, "data_base64": "MQ=="})),
            "both `data` and `data_base64`",
        ),
        (
            structured("1", json!({"data_base64": "?"})),
            "`data_base64` is no base64",
        ),
        (structured("1", json!({"id": ""})), "has no `id`"),
        (
            Post::of(&[], r#"{"message": {"data": "?"}}"#),
            "`data` is no base64",
        ),
        (Post::of(&[], r#"{"message": 7}"#), "no Pub/Sub message"),
        (
            binary("google.cloud.pubsub.topic.v1.messagePublished", "1", "{}"),
            "no Pub/Sub message",
        ),
        (
            pushed("1", "", json!({"source": "shop", "dry_run": "perhaps"})),
            "neither `true` nor `false`",
        ),
    ] {
        let answer = post.send(&served, "/").await;
        let body = answer.json().to_string();
        assert_eq!(
            (answer.status, answer.header("x-drawoff-dropped")),
            (200, "400"),
            "{said}: {body}"
        );
        assert!(body.contains(said), "{said}: {body}");
    }
    assert_eq!(api.count(), 0);
}

#[tokio::test]
async fn sizes_are_bounded_before_and_after_decoding() {
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let bench = shop(&api);
    let served = Served::start(&bench, &["--source", "shop"]).await;
    let large = format!(r#"{{"source": "{}"}}"#, "x".repeat(70_000));
    let huge = "x".repeat(1_100_000);
    let status = |answer: &Answer| (answer.status, answer.header("x-drawoff-dropped").to_owned());
    for (post, expected) in [
        (Post::of(&[], large.clone()), (400, "")),
        (pushed("1", &large, Value::Null), (200, "400")),
        (
            structured("1", json!({"data_base64": STANDARD.encode(&large)})),
            (200, "400"),
        ),
        (Post::of(&[], huge.clone()), (413, "")),
        (pushed("1", &huge, Value::Null), (200, "413")),
        (binary("t", "1", huge.clone()), (200, "413")),
        (unwrapped("1", &[], &huge), (200, "413")),
    ] {
        let answer = post.send(&served, "/").await;
        assert_eq!(
            status(&answer),
            (expected.0, expected.1.to_owned()),
            "{}",
            answer.json()
        );
    }
    assert_eq!(api.count(), 0);
    // What is about something else may be as large as events are.
    let answer = binary(
        "t",
        "2",
        format!(r#"{{"text": "{}"}}"#, "x".repeat(500_000)),
    )
    .send(&served, "/")
    .await;
    assert_eq!(status(&answer), (200, String::new()));
    assert_eq!(answer.json()["state"], "done");
}

#[tokio::test]
async fn events_are_verified_as_all_callers_are() {
    let google = Google::start().await;
    let scheduler = google.service_account("scheduler");
    let stranger = google.service_account("stranger");
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let (_bench, served) =
        guarded_with(&google, &api, &scheduler, &["--max-requests", "100000"]).await;
    for (form, post) in forms("") {
        for path in ["/", "/run"] {
            let answer = post.send(&served, path).await;
            assert_eq!(
                (answer.status, answer.header("x-drawoff-dropped")),
                (401, ""),
                "{form}"
            );
            let mut post = post.clone();
            let token = google.id_token(&stranger, AUDIENCE);
            post.headers
                .insert("authorization".into(), format!("Bearer {token}"));
            assert_eq!(post.send(&served, path).await.status, 403, "{form}");
        }
    }
    assert_eq!(api.count(), 0);
    let mut post = forms("").remove(2).1;
    let token = google.id_token(&scheduler, AUDIENCE);
    post.headers
        .insert("authorization".into(), format!("Bearer {token}"));
    assert_eq!(post.send(&served, "/").await.status, 200);
}
