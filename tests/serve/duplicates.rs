//! Requests that are sent again: one firing, one event, one message is one run, in one process and over
//! several.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::events::{Post, binary, pushed};
use super::{shop, three};
use crate::support::binary::{Bench, eventually, moment};
use crate::support::emulator::{Emulator, PROJECT};
use crate::support::fake_api::{FakeApi, Reply};
use crate::support::served::Served;
use crate::support::shop::page;
use crate::support::tables;

const WISH: &str = r#"{"source": "shop"}"#;

/// A firing of Cloud Scheduler.
pub(super) fn firing(time: &str) -> Post {
    Post::of(
        &[
            ("x-cloudscheduler", "true"),
            ("x-cloudscheduler-jobname", "nightly"),
            ("x-cloudscheduler-scheduletime", time),
            ("content-type", "application/octet-stream"),
        ],
        WISH,
    )
}

/// A shop whose second page waits until it is opened.
pub(super) async fn slow_shop(open: &Arc<AtomicBool>) -> FakeApi {
    let gate = open.clone();
    FakeApi::start(move |request| match request.number_param("page") {
        Some(2) if !gate.load(Ordering::SeqCst) => Reply::too_many("1"),
        _ => page(&three(), request),
    })
    .await
}

fn on_emulator(bench: Bench) -> Bench {
    let emulator = Emulator::get();
    bench.bigquery(emulator.rest(), emulator.grpc())
}

/// Waits until the API has been asked for the page that is slow.
pub(super) async fn second_request(api: &FakeApi) {
    let twice = async || (api.count() >= 2).then_some(());
    eventually("a second request to the API", twice).await;
}

async fn asked(served: &Served, post: &Post) -> (u16, Value) {
    let answer = post.send(served, "/run").await;
    (answer.status, answer.json())
}

#[tokio::test]
async fn a_repeat_waits_for_the_run_at_work_and_is_told_of_one_that_has_ended() {
    let open = Arc::new(AtomicBool::new(false));
    let api = slow_shop(&open).await;
    let bench = shop(&api);
    let served = Served::start(&bench, &[]).await;
    let first = firing("2026-01-01T00:00:00Z");
    let opening = async {
        second_request(&api).await;
        // Another wish for the source is for later, as is another firing.
        let (status, other) = served.run(WISH).await;
        assert_eq!(status, 409, "{other}");
        let (status, other) = asked(&served, &firing("2026-01-02T00:00:00Z")).await;
        assert_eq!(status, 409, "{other}");
        moment(Duration::from_millis(300)).await;
        open.store(true, Ordering::SeqCst);
    };
    let ((_, one), (_, two), ()) = tokio::join!(
        asked(&served, &first),
        async {
            moment(Duration::from_millis(100)).await;
            asked(&served, &first).await
        },
        opening
    );
    assert_eq!(
        (&one["state"], &two["state"]),
        (&json!("done"), &json!("done")),
        "{one}{two}"
    );
    assert_eq!(one["run_id"], two["run_id"]);
    let flags = (&one["duplicate"], &two["duplicate"]);
    assert_eq!(flags, (&Value::Null, &json!(true)));

    // Ended well: its result again, without running.
    let requests = api.count();
    let (status, three) = asked(&served, &first).await;
    assert_eq!((status, &three["duplicate"]), (200, &json!(true)));
    assert_eq!(
        (&three["run_id"], &three["streams"]),
        (&one["run_id"], &one["streams"])
    );
    assert_eq!(api.count(), requests);

    // Another firing, and the same with another wish, are not the same.
    let other = Post::of(
        &[
            ("x-cloudscheduler-jobname", "nightly"),
            ("x-cloudscheduler-scheduletime", "2026-01-01T00:00:00Z"),
        ],
        r#"{"source": "shop", "full_refresh": true}"#,
    );
    for post in [
        firing("2026-01-02T00:00:00Z"),
        other,
        Post::of(&[("x-cloudscheduler-jobname", "nightly")], WISH),
    ] {
        let (status, ran) = asked(&served, &post).await;
        assert_eq!((status, &ran["duplicate"]), (200, &Value::Null), "{ran}");
        assert_ne!(ran["run_id"], one["run_id"]);
    }
    let runs = tables::sqlite(&bench.path("drawoff.db"), "_drawoff_runs");
    let named = runs
        .iter()
        .filter(|r| r["trigger_id"] != Value::Null)
        .count();
    assert_eq!((runs.len(), named), (4, 3));
}

#[tokio::test]
async fn events_messages_and_keys_are_known_again() {
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let bench = shop(&api);
    let served = Served::start(&bench, &[]).await;
    let key = |key: &str| Post::of(&[("idempotency-key", key)], WISH);
    for (post, other) in [
        (
            binary("com.acme.run", "1", WISH),
            binary("com.acme.run", "2", WISH),
        ),
        (
            pushed("1", WISH, Value::Null),
            pushed("2", WISH, Value::Null),
        ),
        (key("a"), key("b")),
    ] {
        let (status, first) = asked(&served, &post).await;
        assert_eq!(
            (status, &first["duplicate"]),
            (200, &Value::Null),
            "{first}"
        );
        let requests = api.count();
        for _ in 0..3 {
            let (status, again) = asked(&served, &post).await;
            assert_eq!(
                (status, &again["duplicate"]),
                (200, &json!(true)),
                "{again}"
            );
            assert_eq!(again["run_id"], first["run_id"]);
        }
        assert_eq!(api.count(), requests);
        let (status, other) = asked(&served, &other).await;
        assert_eq!(
            (status, &other["duplicate"]),
            (200, &Value::Null),
            "{other}"
        );
    }
    let (status, refused) = asked(&served, &key(&"x".repeat(400))).await;
    assert_eq!(status, 400, "{refused}");
}

#[tokio::test]
async fn a_run_that_failed_is_tried_again() {
    let answers = Arc::new(AtomicUsize::new(0));
    let counter = answers.clone();
    let api = FakeApi::start(
        move |request| match counter.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::status(403),
            _ => page(&three(), request),
        },
    )
    .await;
    let bench = shop(&api);
    let served = Served::start(&bench, &[]).await;
    let post = firing("2026-01-01T00:00:00Z");
    let (status, failed) = asked(&served, &post).await;
    assert_eq!(status, 500, "{failed}");
    let (status, done) = asked(&served, &post).await;
    assert_eq!((status, &done["duplicate"]), (200, &Value::Null), "{done}");
    let (status, again) = asked(&served, &post).await;
    assert_eq!((status, &again["duplicate"]), (200, &json!(true)));
    assert_eq!(again["run_id"], done["run_id"]);
}

/// Two processes with one destination get the same firing, before and after it has ended.
async fn over_two_processes(name: &str, bench_of: impl Fn(&FakeApi) -> Bench) {
    let open = Arc::new(AtomicBool::new(false));
    let api = slow_shop(&open).await;
    let bench = bench_of(&api);
    let args = ["--destination", name];
    let a = Served::start(&bench, &args).await;
    let b = Served::start(&bench, &args).await;
    let first = firing("2026-01-01T00:00:00Z");
    let opening = async {
        second_request(&api).await;
        // Another wish does not wait, and is told which run is at work.
        let (status, other) = b.run(WISH).await;
        assert_eq!(status, 409, "{name}: {other}");
        let held = other["held_by"].as_str().unwrap().to_owned();
        moment(Duration::from_millis(500)).await;
        open.store(true, Ordering::SeqCst);
        held
    };
    let ((one_status, one), (two_status, two), held) = tokio::join!(
        asked(&a, &first),
        async {
            second_request(&api).await;
            // After the other wish.
            moment(Duration::from_millis(100)).await;
            eventually("the end of what is at work", async || {
                let (status, answer) = asked(&b, &first).await;
                (status != 409).then_some((status, answer))
            })
            .await
        },
        opening
    );
    assert_eq!((one_status, two_status), (200, 200), "{name}: {one}{two}");
    assert_eq!(one["run_id"], held, "{name}");
    assert_eq!(one["run_id"], two["run_id"], "{name}: {one}{two}");
    assert_eq!(
        (&one["duplicate"], &two["duplicate"]),
        (&Value::Null, &json!(true)),
        "{name}"
    );
    for (of_one, of_two) in [("rows", 3), ("rejected", 0)]
        .map(|(k, n)| ((&one["streams"][0][k], k), (&two["streams"][0][k], n)))
    {
        assert_eq!(
            (of_one.0, of_two.0),
            (&json!(of_two.1), &json!(of_two.1)),
            "{name}: {}",
            of_one.1
        );
    }

    // A process that was not there then.
    let requests = api.count();
    let c = Served::start(&bench, &args).await;
    let (status, three) = asked(&c, &first).await;
    assert_eq!(
        (status, &three["duplicate"]),
        (200, &json!(true)),
        "{name}: {three}"
    );
    assert_eq!(three["run_id"], one["run_id"], "{name}");
    assert_eq!(api.count(), requests, "{name}");
    let (status, next) = asked(&c, &firing("2026-01-02T00:00:00Z")).await;
    assert_eq!(
        (status, &next["duplicate"]),
        (200, &Value::Null),
        "{name}: {next}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_firing_is_one_run_over_two_processes_in_sqlite() {
    over_two_processes("sqlite:drawoff.db", shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_firing_is_one_run_over_two_processes_in_files() {
    over_two_processes("parquet:out", shop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_firing_is_one_run_over_two_processes_in_bigquery() {
    let emulator = Emulator::get();
    let name = format!("bigquery:{PROJECT}.{}", emulator.dataset("firing"));
    over_two_processes(&name, |api| on_emulator(shop(api))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_firings_that_come_to_two_processes_at_once_each_is_run_once() {
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let bench = shop(&api);
    let a = Served::start(&bench, &[]).await;
    let b = Served::start(&bench, &[]).await;
    let mut ran = Vec::new();
    for minute in 0..12 {
        let post = firing(&format!("2026-01-01T00:{minute:02}:00Z"));
        // Sometimes one ends just before the other begins.
        let later = async {
            moment(Duration::from_millis(minute * 7)).await;
            asked(&b, &post).await
        };
        let ((first, one), (second, two)) = tokio::join!(asked(&a, &post), later);
        assert_eq!((first, second), (200, 200), "{one}{two}");
        assert_eq!(one["run_id"], two["run_id"], "{one}{two}");
        let repeats = [&one, &two].map(|answer| answer["duplicate"] == true);
        assert_ne!(repeats[0], repeats[1], "{one}{two}");
        ran.push(one["run_id"].clone());
    }
    let recorded = tables::sqlite(&bench.path("drawoff.db"), "_drawoff_runs");
    let recorded: Vec<Value> = recorded.iter().map(|r| r["run_id"].clone()).collect();
    assert_eq!(recorded, ran);
}

#[tokio::test]
async fn a_firing_whose_process_was_killed_is_run_by_the_next() {
    let open = Arc::new(AtomicBool::new(false));
    let api = slow_shop(&open).await;
    let bench = shop(&api);
    let a = Served::start(&bench, &["--answer-within", "200ms"]).await;
    let b = Served::start(&bench, &[]).await;
    let post = firing("2026-01-01T00:00:00Z");
    let (status, at_work) = asked(&a, &post).await;
    assert_eq!(status, 202, "{at_work}");
    second_request(&api).await;
    let killing = async {
        moment(Duration::from_millis(500)).await;
        open.store(true, Ordering::SeqCst);
        a.running.kill().await;
    };
    // It waits for the one that is at work, sees it gone, and does the work itself.
    let ((status, done), ()) = tokio::join!(asked(&b, &post), killing);
    assert_eq!((status, &done["duplicate"]), (200, &Value::Null), "{done}");
    assert_ne!(done["run_id"], at_work["run_id"]);
    assert_eq!(tables::sqlite(&bench.path("drawoff.db"), "items").len(), 3);
}

#[tokio::test]
async fn the_table_of_runs_of_an_older_program_is_used_on() {
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let bench = shop(&api);
    bench.run(&["--source", "shop"]).await.exits(0);
    let path = bench.path("drawoff.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database
        .execute_batch("ALTER TABLE _drawoff_runs DROP COLUMN trigger_id")
        .unwrap();
    drop(database);
    let served = Served::start(&bench, &[]).await;
    let post = firing("2026-01-01T00:00:00Z");
    let (status, first) = asked(&served, &post).await;
    assert_eq!(status, 200, "{first}");
    let runs = tables::sqlite(&path, "_drawoff_runs");
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[0]["trigger_id"], Value::Null);
    let name = runs[1]["trigger_id"].as_str().unwrap();
    assert!(
        name.starts_with("scheduler nightly 2026-01-01T00:00:00Z "),
        "{name}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_is_that_in_bigquery() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("older_runs");
    let name = format!("bigquery:{PROJECT}.{dataset}");
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let bench = on_emulator(shop(&api));
    let run = ["--source", "shop", "--destination", &name];
    bench.run(&run).await.exits(0);
    let runs = format!("{dataset}._drawoff_runs");
    emulator.query(&format!("ALTER TABLE {runs} DROP COLUMN trigger_id"));
    let served = Served::start(&bench, &["--destination", &name]).await;
    let (status, first) = asked(&served, &firing("2026-01-01T00:00:00Z")).await;
    assert_eq!(status, 200, "{first}");
    let named = emulator.query(&format!(
        "SELECT COUNT(*) AS runs, COUNT(trigger_id) AS named FROM {runs}"
    ));
    assert_eq!(
        (&named[0]["runs"], &named[0]["named"]),
        (&json!(2), &json!(1)),
        "{named}"
    );
}

#[tokio::test]
async fn what_a_process_remembers_is_bounded() {
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let bench = shop(&api);
    let served = Served::start(&bench, &["--max-requests", "100000"]).await;
    let dry = Post::of(
        &[("idempotency-key", "a")],
        r#"{"source": "shop", "dry_run": true}"#,
    );
    let (_, first) = asked(&served, &dry).await;
    let path = format!("/runs/{}", first["run_id"].as_str().unwrap());
    assert_eq!(served.get(&path).await.0, 200);
    // What is asked for in vain is a run, too, and takes the place of an older one.
    let mut others = Vec::new();
    for _ in 0..100 {
        let (status, failed) = served.run(r#"{"source": "shap"}"#).await;
        assert_eq!(status, 400, "{failed}");
        others.push(failed["run_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(served.get(&path).await.0, 404);
    let known = served.get(&format!("/runs/{}", others[0])).await;
    assert_eq!(known.0, 200, "{}", known.1);
    // Nothing is stored of a dry run, so it is run again.
    let (status, again) = asked(&served, &dry).await;
    assert_eq!(
        (status, &again["duplicate"]),
        (200, &Value::Null),
        "{again}"
    );
    assert_ne!(again["run_id"], first["run_id"]);
}
