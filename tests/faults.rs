//! What goes wrong in the night: processes that are killed, servers that fail, records that do not
//! fit. In the end the tables must be as if nothing had been.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::binary::{Bench, STOPS_WITHIN, moment};
use crate::support::emulator::{Emulator, PROJECT};
use crate::support::fake_api::{FakeApi, Received, Reply, in_turn};
use crate::support::faults::gate::Fault::HoldBefore;
use crate::support::faults::gate::{Call, RestGate};
use crate::support::shop::{COLUMNS, Shelf, connector, item, page, rows, time};
use crate::support::tables::{Row, content, numbers, parquet, sqlite};

/// How often a run is killed, for each destination.
const KILLS: u64 = 12;

/// Records that have children.
const PARENTS: usize = 6;

/// One stream of each kind.
const KINDS: [&str; 5] = ["merged", "appended", "replaced", "children", "events"];

fn all_kinds(url: &url::Url) -> String {
    connector(
        url,
        &[
            "merged: {incremental: {cursor: updated_at, since_param: since, until_param: until, sorted: true}}",
            "appended: {primary_key: ~, incremental: {cursor: updated_at, since_param: since, until_param: until, sorted: true}}",
            "replaced: {primary_key: ~}",
            "children: {path: \"/replaced/{replaced.id}/children\", incremental: {cursor: updated_at, since_param: since}, add_columns: {parent: \"{replaced.id}\"}}",
            "events: {path: \"/replaced/{replaced.id}/children\", primary_key: ~, incremental: {cursor: updated_at, since_param: since}}",
        ],
    )
}

/// Serves [`all_kinds`]. Children have the ids `parent * 100 + n`.
fn serve_all_kinds(shelf: &Shelf, request: &Received) -> Reply {
    let parts: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    match parts[..] {
        ["replaced", parent, "children"] => {
            let parent: i64 = parent.parse().unwrap();
            let children = Shelf::default();
            children.change(|rows| rows.extend((1..=15).map(|n| item(parent * 100 + n, n))));
            children.serve(request)
        }
        // The parents of the children stream are few.
        ["replaced"] => page(&shelf.rows()[..PARENTS], request),
        _ => shelf.serve(request),
    }
}

fn bench_of_all_kinds(url: &url::Url) -> Bench {
    let bench = Bench::with("shop", &all_kinds(url)).env("DRAWOFF_SLICE_ROWS", "25");
    for stream in KINDS {
        bench.schema("shop", stream, &COLUMNS);
    }
    bench
}

fn tables(bench: &Bench, destination: &str) -> Vec<Vec<Row>> {
    let read = |table: &str| match destination {
        "parquet:out" => parquet(&bench.path("out"), table),
        _ => sqlite(&bench.path("drawoff.db"), table),
    };
    KINDS.iter().map(|table| content(read(table))).collect()
}

/// Kills runs at all sorts of moments; the rerun's tables must be those of a run that was left in peace.
async fn killed_and_run_again(destination: &'static str) {
    let shelf = Shelf::of(70);
    let served = shelf.clone();
    let api = FakeApi::start(move |request| serve_all_kinds(&served, request)).await;
    let args = ["--source", "shop", "--destination", destination];

    let undisturbed = bench_of_all_kinds(&api.url());
    let before = api.count();
    undisturbed.run(&args).await.exits(0);
    let requests = api.count() - before;
    let want = tables(&undisturbed, destination);
    assert_eq!(want[0], rows(&shelf.rows()));
    assert_eq!(want[1], rows(&shelf.rows()));
    assert_eq!(
        (want[2].len(), want[3].len(), want[4].len()),
        (PARENTS, PARENTS * 15, PARENTS * 15)
    );

    let mut killed_at_work = 0;
    for round in 0..KILLS {
        let bench = bench_of_all_kinds(&api.url());
        // Twice in every third round: the rerun is killed as well.
        for kill in 0..=u64::from(round % 3 == 0) {
            let before = api.count();
            let after = 1 + rand::random_range(0..requests);
            let mut run = bench.spawn(&args);
            run.until(|| api.count() - before >= after).await;
            moment(Duration::from_micros(rand::random_range(0..20_000))).await;
            killed_at_work += usize::from(run.ended().is_none());
            run.kill().await;
            let found = tables(&bench, destination);
            for (i, rows) in found.iter().enumerate() {
                // What is there is right, if not all.
                assert!(
                    rows.iter().all(|row| want[i].contains(row)),
                    "round {round}.{kill}, {}",
                    KINDS[i]
                );
            }
        }
        bench.run(&args).await.exits(0);
        let found = tables(&bench, destination);
        for (i, rows) in found.iter().enumerate() {
            assert!(
                *rows == want[i],
                "round {round}: {} has {} rows, {} are right: {:?} …",
                KINDS[i],
                rows.len(),
                want[i].len(),
                rows.iter().map(|r| &r["id"]).collect::<Vec<_>>(),
            );
        }
    }
    assert!(
        killed_at_work > 0,
        "every run was over before it was killed"
    );
}

#[tokio::test]
async fn kill_9_into_a_database() {
    killed_and_run_again("sqlite:drawoff.db").await;
}

#[tokio::test]
async fn kill_9_into_files() {
    killed_and_run_again("parquet:out").await;
}

/// The stream `items` alone, with its schema.
fn items(api: &FakeApi, more: &str) -> Bench {
    let bench = Bench::with(
        "shop",
        &connector(&api.url(), &[&format!("items: {{{more}}}")]),
    );
    bench.schema("shop", "items", &COLUMNS);
    bench
}

const RUN: [&str; 2] = ["--source", "shop"];

const SORTED: &str =
    "incremental: {cursor: updated_at, since_param: since, until_param: until, sorted: true}";

fn stored(bench: &Bench) -> Vec<Row> {
    content(sqlite(&bench.path("drawoff.db"), "items"))
}

#[tokio::test]
async fn sigterm_ends_a_run_in_time_and_keeps_what_it_read() {
    for signal in ["TERM", "INT"] {
        let shelf = Shelf::of(100);
        let served = shelf.clone();
        // From the fifth page on the server takes half a minute.
        let slow = Arc::new(AtomicUsize::new(5));
        let pages = slow.clone();
        let api = FakeApi::start(move |request| {
            let reply = served.serve(request);
            match request.number >= pages.load(Ordering::SeqCst) {
                true => reply.delay(Duration::from_secs(30)),
                false => reply,
            }
        })
        .await;
        let bench = items(&api, SORTED);
        let mut run = bench.spawn(&RUN);
        assert!(run.until(|| api.count() > 5).await);
        run.signal(signal);
        let asked = Instant::now();
        let ran = run.end().await.exits(75).complains("asked to stop");
        assert!(asked.elapsed() < STOPS_WITHIN, "{ran}");
        let kept = stored(&bench).len();
        assert!((40..50).contains(&kept), "{kept} rows, 50 were read: {ran}");
        slow.store(usize::MAX, Ordering::SeqCst);
        bench.run(&RUN).await.exits(0);
        assert_eq!(stored(&bench), rows(&shelf.rows()));
    }
}

#[tokio::test]
async fn sigterm_publishes_what_can_be_gone_on_from() {
    let shelf = Shelf::of(100);
    let served = shelf.clone();
    let api =
        FakeApi::start(move |request| served.serve(request).delay(Duration::from_millis(100)))
            .await;
    let bench = items(&api, SORTED);
    let mut run = bench.spawn(&RUN);
    assert!(run.until(|| api.count() > 4).await);
    run.signal("TERM");
    run.end().await.exits(75).says("…");
    let kept = stored(&bench);
    assert!((30..100).contains(&kept.len()), "{} rows", kept.len());
    let before = api.count();
    bench.run(&RUN).await.exits(0);
    let since = api.requests()[before].param("since").unwrap();
    assert!(
        since >= time(30),
        "goes on, and does not begin again: {since}"
    );
    assert_eq!(stored(&bench), rows(&shelf.rows()));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_run_into_bigquery_in_time_and_the_next_completes_it() {
    let emulator = Emulator::get();
    for (method, key) in [
        ("storage_write", "[id]"),
        ("load_job", "[id]"),
        // Rows go straight into tables that are appended to only.
        ("stream", "~"),
        ("insert_all", "~"),
    ] {
        let shelf = Shelf::of(100);
        let served = shelf.clone();
        // From the sixth page on the server takes half a minute.
        let slow = Arc::new(AtomicUsize::new(5));
        let pages = slow.clone();
        let api = FakeApi::start(move |request| {
            let reply = served.serve(request);
            match request.number >= pages.load(Ordering::SeqCst) {
                true => reply.delay(Duration::from_secs(30)),
                false => reply,
            }
        })
        .await;
        let stream = format!("primary_key: {key}, {SORTED}, table: {{write_method: {method}}}");
        let bench = items(&api, &stream).bigquery(emulator.rest(), emulator.grpc());
        let dataset = emulator.dataset("sigterm");
        let destination = format!("bigquery:{PROJECT}.{dataset}");
        let args = [&RUN[..], &["--destination", &destination]].concat();
        let ids = || -> Vec<i64> {
            let found = emulator.query(&format!("SELECT id FROM {dataset}.items ORDER BY id"));
            let id = |row: &Value| row["id"].as_i64().unwrap();
            found.as_array().unwrap().iter().map(id).collect()
        };
        let mut run = bench.spawn(&args);
        assert!(run.until(|| api.count() > 5).await);
        run.signal("TERM");
        let asked = Instant::now();
        let ran = run.end().await.exits(75).complains("asked to stop");
        let took = asked.elapsed();
        assert!(took < STOPS_WITHIN, "{method} took {took:?}: {ran}");
        let kept = ids();
        let last = kept.len() as i64;
        // What is merged is published, if there was time for it; what is appended is taken back.
        let none = key == "~" || ran.stderr.contains("was not published");
        // Where nobody knows, either is right.
        let maybe = ran.stderr.contains("there is no time left to see");
        let right = match last {
            0 => none || maybe,
            _ => !none && (40..=50).contains(&last),
        };
        assert!(right, "{method} kept {last} of 50 rows: {ran}");
        assert_eq!(kept, (1..=last).collect::<Vec<_>>(), "{method}");
        slow.store(usize::MAX, Ordering::SeqCst);
        bench.run(&args).await.exits(0);
        assert_eq!(ids(), (1..=100).collect::<Vec<_>>(), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_leaves_the_time_to_publish_and_to_say_what_was_done() {
    let emulator = Emulator::get();
    let gate = RestGate::start(emulator.rest()).await;
    let shelf = Shelf::of(1_000);
    let served = shelf.clone();
    let api =
        FakeApi::start(move |request| served.serve(request).delay(Duration::from_millis(300)))
            .await;
    let bench = items(&api, SORTED).bigquery(&gate.url, emulator.grpc());
    let dataset = emulator.dataset("deadline");
    let destination = format!("bigquery:{PROJECT}.{dataset}");
    gate.on(Call::Publish, HoldBefore);
    let args = ["--destination", &destination, "--deadline", "10s"];
    let mut run = bench.spawn(&[&RUN[..], &args].concat());
    assert!(run.until(|| gate.held() > 0).await);
    // Longer than a run that was told to end at once would have.
    moment(Duration::from_secs(9)).await;
    gate.release();
    let ran = run.end().await.exits(75).complains("the deadline has come");
    let ran = ran.says("items").says("bigquery:");
    let count = |sql: &str| emulator.query(sql)[0]["n"].as_i64().unwrap();
    let kept = count(&format!("SELECT COUNT(*) AS n FROM {dataset}.items"));
    assert!((10..1_000).contains(&kept), "{kept} rows: {ran}");
    let recorded = format!(
        "SELECT SUM(published) AS n FROM {dataset}._drawoff_runs WHERE outcome = 'interrupted'"
    );
    assert_eq!(count(&recorded), kept, "{ran}");
}

#[tokio::test]
async fn failures_that_pass_are_not_noticed() {
    let shelf = Shelf::of(60);
    let served = shelf.clone();
    let count = AtomicUsize::new(0);
    let api = FakeApi::start(move |request| {
        let good = served.serve(request);
        match count.fetch_add(1, Ordering::SeqCst) {
            1 | 2 => Reply::status(503),
            4 => good.truncated(100),
            6 => good.chunked_cut(50),
            8 => Reply::reset(),
            10 => Reply::too_many("1"),
            3 => good.until_close(80),
            13 => Reply::status(500),
            _ => good,
        }
    })
    .await;
    let bench = items(&api, "");
    let begun = Instant::now();
    let ran = bench.run(&RUN).await.exits(0).says("sent again");
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "Retry-After is kept: {ran}"
    );
    assert_eq!(stored(&bench), rows(&shelf.rows()));
    assert!(api.count() > 14);
}

#[tokio::test]
async fn a_wait_past_the_deadline_is_for_another_run() {
    let shelf = Shelf::of(25);
    let served = shelf.clone();
    let tired = Arc::new(AtomicUsize::new(2));
    let limit = tired.clone();
    let api = FakeApi::start(
        move |request| match request.number >= limit.load(Ordering::SeqCst) {
            true => Reply::too_many("3600"),
            false => served.serve(request),
        },
    )
    .await;
    let bench = items(&api, SORTED);
    let begun = Instant::now();
    bench
        .run(&[&RUN[..], &["--deadline", "30s"]].concat())
        .await
        .exits(75);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "it does not sleep in vain"
    );
    assert_eq!(api.count(), 3);
    tired.store(usize::MAX, Ordering::SeqCst);
    bench.run(&RUN).await.exits(0);
    assert_eq!(stored(&bench), rows(&shelf.rows()));
}

#[tokio::test]
async fn answers_that_are_none() {
    let data = json!({"data": [item(1, 1)]});
    for (reply, words) in [
        (Reply::html(), "answered 200 with an HTML page, not JSON"),
        (Reply::json(&json!({"items": []})), "`/data`"),
        (Reply::json(&json!({"error": "quota"})), "`/data`"),
        (Reply::json(&json!({"data": {"id": 1}})), "`/data`"),
        (Reply::json(&json!([])), "`/data`"),
        (
            Reply::json_text("{\"data\": [{\"id\": 1}"),
            "could not read stream `items` from `http://127.0.0.1:",
        ),
        (Reply::json_text("{\"data\": [] oops"), "JSON"),
        (Reply::json_text(""), "an empty body"),
        (Reply::json_text(data.to_string() + "{}"), "JSON"),
    ] {
        let shown = format!("{reply:?}");
        let api = FakeApi::start(in_turn(vec![reply])).await;
        let bench = items(&api, "");
        let ran = bench.run(&RUN).await;
        assert_eq!(ran.code, Some(1), "{shown}: {ran}");
        assert!(ran.stdout.contains(words), "`{words}`, {shown}: {ran}");
        assert!(ran.stdout.contains("hint: "), "{shown}: {ran}");
        assert_eq!(api.count(), 1, "{shown}: asked again in vain");
        assert!(stored(&bench).is_empty());
    }
}

/// Good records 1 to 5 and, among them, what does not fit.
const MIXED: &str = r#"{"data": [
    {"id": 1, "name": "one", "price": 9007199254740993, "updated_at": "2026-01-01T00:00:00Z"},
    {"id": "two", "name": "a word for a number"},
    {"id": 2, "name": "two", "price": -9223372036854775808, "updated_at": null},
    {"id": 102, "name": "not a number", "price": NaN},
    {"id": 3, "name": "three", "price": 9223372036854775807},
    {"id": 103, "name": "past the end", "price": 9223372036854775808},
    {"name": "no key"},
    {"id": 104, "name": "half a pair \ud800", "price": 1},
    {"id": 4, "name": "four", "price": 4.0},
    {"id": 105, "name": "half", "price": 4.5},
    {"id": 106, "name": "when", "updated_at": "yesterday"},
    {"id": 107, "name": "endless", "price": Infinity},
    17,
    {"id": 5, "name": "caf\u00e9 \ud83d\ude00", "price": 5}
]}"#;

#[tokio::test]
async fn records_that_do_not_fit_are_kept_apart() {
    let serve = |request: &Received| match request.number_param("page") {
        Some(1) => Reply::json_text(MIXED),
        _ => Reply::json(&json!({"data": []})),
    };
    for destination in ["sqlite:drawoff.db", "parquet:out"] {
        let api = FakeApi::start(serve).await;
        let bench = items(&api, "");
        let read = |table: &str| match destination {
            "parquet:out" => parquet(&bench.path("out"), table),
            _ => sqlite(&bench.path("drawoff.db"), table),
        };
        bench
            .run(&[&RUN[..], &["--destination", destination]].concat())
            .await
            .exits(0)
            .says("items__rejects");
        let table = read("items");
        assert_eq!(numbers(&table, "id"), [1, 2, 3, 4, 5], "{destination}");
        let row = |id: i64| table.iter().find(|r| r["id"] == id).unwrap();
        assert_eq!(
            row(1)["price"],
            9_007_199_254_740_993_i64,
            "exact past 2^53"
        );
        assert_eq!(row(2)["price"], i64::MIN);
        assert_eq!(row(3)["price"], i64::MAX);
        assert_eq!(row(5)["name"], "café 😀");

        let rejects = read("items__rejects");
        assert_eq!(rejects.len(), 9, "{rejects:?}");
        for reject in &rejects {
            assert_eq!(reject["stream"], "items");
            assert_eq!(reject["_run_id"], table[0]["_run_id"]);
            assert!(reject["_extracted_at"].is_string());
            assert!(!reject["reason"].as_str().unwrap().is_empty());
        }
        let about = |part: &str| {
            let found = rejects
                .iter()
                .find(|r| r["record"].as_str().unwrap().contains(part));
            found.unwrap_or_else(|| panic!("no reject with {part} in {rejects:?}"))
        };
        assert_eq!(about("a word for")["path"], "/id");
        assert_eq!(about("past the end")["path"], "/price");
        assert_eq!(about("yesterday")["path"], "/updated_at");
        let whole = r#"{"id": 105, "name": "half", "price": 4.5}"#;
        assert_eq!(about("4.5")["record"], whole, "as received");
        assert!(about("NaN")["record"].as_str().unwrap().contains("102"));
        assert!(about("104")["record"].as_str().unwrap().contains(r"\ud800"));
    }
}

#[tokio::test]
async fn too_many_rejects_fail_the_run_and_are_kept_all_the_same() {
    let api = FakeApi::start(|request: &Received| match request.number_param("page") {
        Some(1) => Reply::json_text(MIXED),
        _ => Reply::json(&json!({"data": []})),
    })
    .await;
    for (limit, code) in [(0, 1), (8, 1), (9, 0)] {
        let bench = items(&api, &format!("table: {{max_rejects: {limit}}}"));
        bench.run(&RUN).await.exits(code).says("items__rejects");
        assert_eq!(stored(&bench).len(), 5);
        assert_eq!(sqlite(&bench.path("drawoff.db"), "items__rejects").len(), 9);
    }
}

#[tokio::test]
async fn two_runs_at_once() {
    for (more, destination) in [
        (SORTED, "sqlite:drawoff.db"),
        (SORTED, "parquet:out"),
        ("primary_key: ~", "sqlite:drawoff.db"),
        (
            "primary_key: ~, incremental: {cursor: updated_at, since_param: since, sorted: true}",
            "sqlite:drawoff.db",
        ),
        (
            "primary_key: ~, incremental: {cursor: updated_at, since_param: since, sorted: true}",
            "parquet:out",
        ),
    ] {
        let shelf = Shelf::of(40);
        let served = shelf.clone();
        let api =
            FakeApi::start(move |request| served.serve(request).delay(Duration::from_millis(20)))
                .await;
        let bench = items(&api, more);
        let args = [&RUN[..], &["--destination", destination]].concat();
        let (one, two) = tokio::join!(bench.run(&args), bench.run(&args));
        let failed: Vec<_> = [one, two]
            .into_iter()
            .filter(|r| r.code != Some(0))
            .collect();
        assert!(failed.len() <= 1, "{more}: {}\n{}", failed[0], failed[1]);
        for ran in failed {
            assert_eq!(ran.code, Some(75), "{ran}");
            assert!(
                ran.stderr.contains("holds its lease"),
                "{more}, {destination}: {ran}"
            );
        }
        let table = match destination {
            "parquet:out" => content(parquet(&bench.path("out"), "items")),
            _ => stored(&bench),
        };
        assert_eq!(table, rows(&shelf.rows()), "{more}, {destination}");
    }
}

#[tokio::test]
async fn an_append_does_not_take_the_last_record_again() {
    let shelf = Shelf::of(30);
    let served = shelf.clone();
    let api = FakeApi::start(move |request| served.serve(request)).await;
    for destination in ["sqlite:drawoff.db", "parquet:out"] {
        let bench = items(
            &api,
            "primary_key: ~, incremental: {cursor: updated_at, since_param: since}",
        );
        let args = [&RUN[..], &["--destination", destination]].concat();
        bench.run(&args).await.exits(0);
        for _ in 0..2 {
            let known = "1 record left out as no newer than those read before";
            bench.run(&args).await.exits(0).says(known);
        }
        let table = match destination {
            "parquet:out" => content(parquet(&bench.path("out"), "items")),
            _ => stored(&bench),
        };
        let found: Vec<Value> = table.iter().map(|r| r["id"].clone()).collect();
        assert_eq!(found.len(), 30, "{destination}: {found:?}");
    }
}

#[tokio::test]
async fn a_stream_that_merged_does_not_append_from_there() {
    const APPENDED: &str =
        "items: {primary_key: ~, incremental: {cursor: updated_at, since_param: since}}";
    const MERGED: &str = "items: {incremental: {cursor: updated_at, since_param: since}}";
    let shelf = Shelf::of(12);
    let served = shelf.clone();
    let api = FakeApi::start(move |request| served.serve(request)).await;
    let bench = Bench::new();
    bench.schema("shop", "items", &COLUMNS);
    let becomes = |stream: &str| bench.connector("shop", &connector(&api.url(), &[stream]));
    let ids = || numbers(&stored(&bench), "id");
    let all = || numbers(&rows(&shelf.rows()), "id");
    becomes(MERGED);
    bench.run(&RUN).await.exits(0);
    becomes(APPENDED);
    shelf.change(|rows| rows.push(item(13, 13)));
    for more in [None, Some("--dry-run")] {
        let args: Vec<&str> = RUN.into_iter().chain(more).collect();
        bench
            .run(&args)
            .await
            .exits(2)
            .says("stream `items` cannot append to table `items`, which it merged into")
            .says("--full-refresh")
            .says("`--since 2026-01-01T00:12:00Z`");
        assert_eq!(ids(), (1..=12).collect::<Vec<_>>());
    }
    // With the key it goes on, and a full refresh makes a table that can be appended to.
    becomes(MERGED);
    bench.run(&RUN).await.exits(0);
    assert_eq!(ids(), all());
    becomes(APPENDED);
    bench
        .run(&[RUN[0], RUN[1], "--full-refresh"])
        .await
        .exits(0);
    assert_eq!(ids(), all());
    shelf.change(|rows| rows.push(item(14, 14)));
    bench.run(&RUN).await.exits(0);
    assert_eq!(ids(), all());

    // Who says from where takes what is there again, once.
    becomes(MERGED);
    shelf.change(|rows| rows.push(item(15, 15)));
    bench.run(&RUN).await.exits(0);
    becomes(APPENDED);
    let since = [RUN[0], RUN[1], "--since", "2026-01-01T00:15:00Z"];
    bench.run(&since).await.exits(0);
    shelf.change(|rows| rows.push(item(16, 16)));
    bench.run(&RUN).await.exits(0);
    let mut want = all();
    want.insert(15, 15);
    assert_eq!(ids(), want);
}
