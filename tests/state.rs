//! What is known about runs beside the rows: one run of a source at a time, and the record of what
//! each has done. Through the program, into every destination.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use drawoff::clock::SystemClock;
use drawoff::destination::bigquery::{BigQuery, BigQuerySettings};
use drawoff::google::{Call, Endpoint, Google, GoogleSettings, RetryPolicy};
use drawoff::state::{Acquired, Holder, Lease, StateStore};
use serde_json::{Value, json};

use crate::support::binary::Bench;
use crate::support::clock::NotingClock;
use crate::support::emulator::{Emulator, PROJECT};
use crate::support::fake_api::{FakeApi, Received, Reply};
use crate::support::faults::{Fault, RestProxy};
use crate::support::shop::{COLUMNS, Shelf, connector, item, rows, time};
use crate::support::tables::{Row, parquet, sqlite};

/// A place for rows of one test, and how they are read by others.
#[derive(Clone)]
enum Place {
    Sqlite,
    Parquet,
    BigQuery(String),
}

impl Place {
    async fn all(test: &str) -> [Self; 3] {
        let emulator = Emulator::get();
        [
            Self::Sqlite,
            Self::Parquet,
            Self::BigQuery(emulator.dataset(test)),
        ]
    }

    fn name(&self) -> String {
        match self {
            Self::Sqlite => "sqlite:drawoff.db".to_owned(),
            Self::Parquet => "parquet:out".to_owned(),
            Self::BigQuery(dataset) => format!("bigquery:{PROJECT}.{dataset}"),
        }
    }

    fn read(&self, bench: &Bench, table: &str) -> Vec<Row> {
        match self {
            Self::Sqlite => sqlite(&bench.path("drawoff.db"), table),
            Self::Parquet if table == "_drawoff_runs" => {
                std::fs::read_to_string(bench.path("out/_drawoff/runs.ndjson"))
                    .unwrap()
                    .lines()
                    .map(|line| serde_json::from_str(line).unwrap())
                    .collect()
            }
            Self::Parquet => parquet(&bench.path("out"), table),
            Self::BigQuery(dataset) => {
                let rows = Emulator::get().query(&format!("SELECT * FROM {dataset}.{table}"));
                serde_json::from_value(rows).unwrap()
            }
        }
    }

    /// Ids and names of the rows of `items`.
    fn items(&self, bench: &Bench) -> Vec<(i64, String)> {
        let mut items: Vec<(i64, String)> = self
            .read(bench, "items")
            .iter()
            .map(|r| {
                (
                    r["id"].as_i64().unwrap(),
                    r["name"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        items.sort();
        items
    }
}

/// The stream `items` alone, with its schema; knows the emulator.
fn bench(api: &FakeApi, more: &str) -> Bench {
    let emulator = Emulator::get();
    let bench = Bench::with(
        "shop",
        &connector(&api.url(), &[&format!("items: {{{more}}}")]),
    )
    .bigquery(emulator.rest(), emulator.grpc());
    bench.schema("shop", "items", &COLUMNS);
    bench
}

fn expected(shelf: &Shelf) -> Vec<(i64, String)> {
    let of = |r: &Value| {
        (
            r["id"].as_i64().unwrap(),
            r["name"].as_str().unwrap().to_owned(),
        )
    };
    shelf.rows().iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_run_is_for_later() {
    for place in Place::all("second").await {
        let shelf = Shelf::of(30);
        let served = shelf.clone();
        let open = Arc::new(AtomicBool::new(false));
        let gate = open.clone();
        // Nothing is served before the second run is over.
        let api = FakeApi::start(move |request| match gate.load(Ordering::SeqCst) {
            true => served.serve(request),
            false => Reply::too_many("1"),
        })
        .await;
        let name = place.name();
        let args = ["--source", "shop", "--destination", &name];
        // It outlives its lease by renewing it: of those requests, a second lies between two.
        let (bench, requests) = match &place {
            Place::BigQuery(_) => (bench(&api, ""), 1),
            _ => (bench(&api, "").env("DRAWOFF_LEASE", "6s"), 8),
        };
        let mut first = bench.spawn(&args);
        assert!(first.until(|| api.count() >= requests).await, "{name}");
        for more in [&[][..], &["--full-refresh"], &["--since", "2026-01-01"]] {
            bench
                .run(&[&args[..], more].concat())
                .await
                .exits(75)
                .complains("source `shop` is at work in")
                .complains("holds its lease since 20")
                .complains("hint: wait for that run to end");
        }
        // What stores nothing is not kept from looking.
        bench
            .run(&[
                "check",
                "--source",
                "shop",
                "--destination",
                &name,
                "--stream",
                "none",
            ])
            .await
            .exits(2);
        open.store(true, Ordering::SeqCst);
        let ran = first.end().await.exits(0);
        assert!(!ran.stderr.contains("lease"), "{ran}");
        assert_eq!(place.items(&bench), expected(&shelf), "{name}");
        // The lease was given back: at once, and nothing is taken over.
        let again = bench.run(&args).await.exits(0);
        assert!(!again.stderr.contains("lease"), "{again}");
    }
}

/// The first run stands still beyond its lease, the second takes over and publishes, and the first,
/// woken up, must not publish what it has read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_stood_still_does_not_publish_over_its_successor() {
    for place in Place::all("still").await {
        let shelf = Shelf::of(20);
        let served = shelf.clone();
        let last = Arc::new(AtomicUsize::new(0));
        let seen = last.clone();
        let api = FakeApi::start(move |request| {
            seen.fetch_add(1, Ordering::SeqCst);
            served.serve(request).delay(Duration::from_millis(150))
        })
        .await;
        let bench = bench(&api, "").env("DRAWOFF_LEASE", "5s");
        let name = place.name();
        let args = ["--source", "shop", "--destination", &name];
        let mut first = bench.spawn(&args);
        assert!(first.until(|| last.load(Ordering::SeqCst) >= 1).await);
        first.signal("STOP");
        // Its successor is in no danger of losing what it has got.
        let bench = bench.env("DRAWOFF_LEASE", "3m");
        shelf.change(|rows| {
            for row in rows {
                row["name"] = json!("newer");
            }
        });
        // It is there and holds its lease, until that ends.
        let deadline = Instant::now() + Duration::from_secs(300);
        let taken = loop {
            let ran = bench.run(&args).await;
            if ran.code == Some(0) {
                break ran;
            }
            ran.exits(75).complains("holds its lease");
            assert!(Instant::now() < deadline, "the lease never ends");
        };
        taken.complains("taking its lease over");
        first.signal("CONT");
        let ran = first.end().await.exits(75);
        // It finds another's in its place, or a destination that is too slow to say so in time.
        assert!(
            ["lease of source `shop`", "lease of `shop` could not"]
                .iter()
                .any(|said| ran.all().contains(said)),
            "{name}: {ran}"
        );
        assert_eq!(place.items(&bench), expected(&shelf), "{name}");
        let outcomes: Vec<Value> = place
            .read(&bench, "_drawoff_runs")
            .iter()
            .map(|r| json!([r["outcome"], r["error_kind"]]))
            .collect();
        assert!(outcomes.contains(&json!(["done", null])), "{outcomes:?}");
        assert!(
            outcomes.contains(&json!(["failed", "state"])),
            "{outcomes:?}"
        );
    }
}

/// A task of Cloud Run that is started again need not wait for the lease of its first attempt, also
/// where nobody can see whether that is still there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retried_task_follows_its_first_attempt() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("retried");
    let name = format!("bigquery:{PROJECT}.{dataset}");
    let shelf = Shelf::of(10);
    let served = shelf.clone();
    let stuck = Arc::new(AtomicBool::new(true));
    let gate = stuck.clone();
    let api = FakeApi::start(move |request| match gate.load(Ordering::SeqCst) {
        true => Reply::silence(),
        false => served.serve(request),
    })
    .await;
    let task = |execution: &str, attempt: &str| {
        bench(&api, "")
            .env("CLOUD_RUN_EXECUTION", execution)
            .env("CLOUD_RUN_TASK_INDEX", "0")
            .env("CLOUD_RUN_TASK_COUNT", "1")
            .env("CLOUD_RUN_TASK_ATTEMPT", attempt)
    };
    let args = ["--source", "shop", "--destination", &name];
    let (mine, others) = ("drawoff-x7k2p", "drawoff-q3m8c");
    let (one, other, two) = (task(mine, "0"), task(others, "1"), task(mine, "1"));
    let mut first = one.spawn(&args);
    assert!(first.until(|| api.count() > 0).await);
    stuck.store(false, Ordering::SeqCst);
    other
        .run(&args)
        .await
        .exits(75)
        .complains("holds its lease");
    two.run(&args)
        .await
        .exits(0)
        .complains("taking its lease over");
    assert_eq!(Place::BigQuery(dataset).items(&two), expected(&shelf));
    first.kill().await;
}

/// The answer to the job that takes the lease gets lost: the same job is found again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_taken_once_though_the_answer_was_lost() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("lost");
    let lost = [Fault::LoseAnswer, Fault::LoseAnswer];
    let proxy = RestProxy::start(emulator.rest(), "POST", "/jobs", &lost).await;
    let open = |settings| {
        let google = Google::new(settings, SystemClock::shared()).unwrap();
        let target = format!("{PROJECT}.{dataset}").parse().unwrap();
        BigQuery::new(google, target, BigQuerySettings::default()).unwrap()
    };
    let lease = |run: &str| Lease {
        name: "shop".into(),
        run_id: run.into(),
        length: Duration::from_secs(120),
        holder: Holder::default(),
        over: Vec::new(),
    };
    let here = open(emulator.settings_at(&proxy.url));
    let taken = here.acquire(&lease("a")).await.unwrap();
    assert_eq!(taken, Acquired::Ours { before: None });
    assert_eq!(proxy.left(), 0);
    let there = open(emulator.settings());
    let refused = there.acquire(&lease("b")).await.unwrap();
    assert!(matches!(refused, Acquired::Theirs(held) if held.run_id == "a"));
    let rows = emulator.query(&format!(
        "SELECT source, run_id FROM {dataset}._drawoff_leases"
    ));
    assert_eq!(rows, json!([{"source": "shop", "run_id": "a"}]));
}

/// Five good records, two of them twice, and two that do not fit, after a refusal.
fn mixed(request: &Received) -> Reply {
    match (request.number, request.number_param("page")) {
        (0, _) => Reply::too_many("1"),
        (_, Some(1)) => Reply::json(&json!({"data": [
            item(1, 1), item(2, 2), item(3, 3), item(2, 4), {"id": "x"}, item(4, 5),
            {"id": 9, "price": "dear"}, item(5, 6), item(4, 7), item(4, 3),
        ]})),
        _ => Reply::json(&json!({"data": []})),
    }
}

/// Panics, showing both and whose they are, unless the row has these values.
#[track_caller]
fn has(row: &Row, values: Value, of: &str) {
    let names = values.as_object().unwrap().keys();
    let found: serde_json::Map<_, _> = names.map(|n| (n.clone(), row[n].clone())).collect();
    assert_eq!(Value::from(found), values, "{of}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_of_a_run_is_exact() {
    for place in Place::all("audit").await {
        let api = FakeApi::start(mixed).await;
        let bench = bench(
            &api,
            "incremental: {cursor: updated_at, since_param: since}",
        );
        let name = place.name();
        let args = ["--source", "shop", "--destination", &name];
        let ran = bench.run(&args).await.exits(0);
        let received: usize = 2;
        let runs = place.read(&bench, "_drawoff_runs");
        assert_eq!(runs.len(), 1, "{name}: {ran}");
        let run = &runs[0];
        has(
            run,
            json!({
                "source": "shop", "stream": "items", "table_name": "items", "outcome": "done",
                "error_kind": null, "error": null, "records": 10, "published": 5, "rejected": 2,
                "deduplicated": 3, "slices": 1, "pages": received, "requests": received + 1,
                "retries": 1, "throttled": 1, "cursor_before": null,
                "drawoff_version": env!("CARGO_PKG_VERSION"),
            }),
            &name,
        );
        let cursor = run["cursor_after"].as_str().unwrap();
        assert_eq!(cursor, "2026-01-01T00:07:00Z");
        assert!(run["bytes"].as_u64().unwrap() > 500);
        let (from, to) = (run["started_at"].as_str(), run["ended_at"].as_str());
        assert!(from.unwrap() < to.unwrap(), "{run:?}");
        let items = place.read(&bench, "items");
        assert!(items.iter().all(|r| r["_run_id"] == run["run_id"]));

        if !matches!(place, Place::Parquet) {
            let loads = place.read(&bench, "_drawoff_loads");
            assert_eq!(loads.len(), 1, "{name}");
            let load = &loads[0];
            has(
                load,
                json!({
                    "source": "shop", "stream": "items", "slice": "0001", "table_name": "items",
                    "disposition": "merge", "write_method": "storage_write", "records": 10,
                    "staged": 8, "published": 5, "rejected": 2, "deduplicated": 3, "skipped": 0,
                    "requests": received + 1, "throttled": 1, "cursor_before": null,
                    "cursor_after": cursor, "version": 1,
                }),
                &name,
            );
            assert_eq!(load["run_id"], run["run_id"]);
            assert_eq!(load["bytes"], run["bytes"]);
            if let Place::BigQuery(_) = place {
                let (job, jobs) = (load["job"].as_str().unwrap(), run["jobs"].as_str().unwrap());
                assert!(jobs.split(' ').any(|j| j == job), "{job} is not in {jobs}");
                assert!(ran.stdout.contains("billed for"), "{ran}");
            }
        }
        // A run that fails leaves a record, too; its lease is given back.
        bench.connector(
            "shop",
            &connector(&api.url(), &["items: {records: /nowhere}"]),
        );
        bench.run(&args).await.exits(1);
        let failed = place
            .read(&bench, "_drawoff_runs")
            .into_iter()
            .find(|r| r["outcome"] == "failed")
            .unwrap();
        assert_eq!(failed["error_kind"], "decode");
        assert!(failed["error"].as_str().unwrap().contains("`/nowhere`"));
        assert_eq!(failed["published"], 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_may_do_without_our_columns() {
    let shelf = Shelf::of(12);
    let served = shelf.clone();
    let api = FakeApi::start(move |request| served.serve(request)).await;
    for place in Place::all("bare").await {
        let bench = bench(&api, "table: {audit_columns: false}");
        let name = place.name();
        let args = ["--source", "shop", "--destination", &name];
        for _ in 0..2 {
            bench.run(&args).await.exits(0);
        }
        let found = place.read(&bench, "items");
        assert_eq!(found.len(), 12, "{name}");
        let columns: Vec<&String> = found[0].keys().collect();
        assert_eq!(columns, ["id", "name", "price", "updated_at"], "{name}");
        if let Place::Sqlite = place {
            let mut found = found;
            found.sort_by_cached_key(|row| json!(row).to_string());
            assert_eq!(found, rows(&shelf.rows()));
            bench
                .run(&["preview", "--source", "shop", "--stream", "items"])
                .await
                .exits(0);
            bench.run(&["check", "--source", "shop"]).await.exits(0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_updated_without_our_columns_say_nothing_of_an_older_run() {
    let incremental = "incremental: {cursor: updated_at, since_param: since}";
    for place in Place::all("bare_later").await {
        let shelf = Shelf::of(12);
        let served = shelf.clone();
        let api = FakeApi::start(move |request| served.serve(request)).await;
        let bench = bench(&api, incremental);
        let name = place.name();
        let args = ["--source", "shop", "--destination", &name];
        bench.run(&args).await.exits(0);
        let bare = format!("items: {{{incremental}, table: {{audit_columns: false}}}}");
        bench.connector("shop", &connector(&api.url(), &[&bare]));
        shelf.change(|rows| {
            rows[2]["name"] = json!("renamed");
            rows[2]["updated_at"] = json!(time(100));
            rows.push(item(13, 101));
        });
        bench.run(&args).await.exits(0);
        // The twelfth was at the cursor and is listed again.
        let mut empty: Vec<i64> = Vec::new();
        for row in place.read(&bench, "items") {
            assert_eq!(row["_run_id"].is_null(), row["_extracted_at"].is_null());
            if row["_run_id"].is_null() {
                empty.push(row["id"].as_i64().unwrap());
            }
        }
        empty.sort_unstable();
        assert_eq!(empty, [3, 12, 13], "{name}");
        let mut items = place.items(&bench);
        items.sort();
        assert_eq!(items, expected(&shelf), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_would_happen_and_only_reads() {
    let emulator = Emulator::get();
    let proxy = RestProxy::start(emulator.rest(), "NONE", "", &[]).await;
    let shelf = Shelf::of(5);
    let served = shelf.clone();
    let api = FakeApi::start(move |request| served.serve(request)).await;
    let bench = bench(&api, "table: {cluster_by: [name]}");
    let dataset = emulator.dataset("dry");
    let name = format!("bigquery:{PROJECT}.{dataset}");
    let args = ["--source", "shop", "--destination", &name];
    let dry = [&args[..], &["--dry-run"]].concat();
    let watched = |bench: Bench| bench.env("BIGQUERY_EMULATOR_HOST", &proxy.url);
    let bench = watched(bench);

    bench
        .run(&dry)
        .await
        .exits(0)
        .says(&format!("create dataset `{PROJECT}.{dataset}` in `US`"))
        .says("create table `_drawoff_leases`")
        .says("create table `items` (id INT64 NOT NULL, name STRING, price INT64, updated_at TIMESTAMP")
        .says("clustered by `name`")
        .says("BEGIN TRANSACTION;")
        .says("at most 3.5 MiB a request")
        .says("one query job a slice");
    assert!(!proxy.seen("").is_empty());
    for request in proxy.seen("") {
        assert!(request.line.starts_with("GET "), "{request:?}");
    }

    // What several streams have in common is said once.
    let keyed = std::fs::read_to_string(bench.path("connectors/shop.yaml")).unwrap();
    bench.connector("shop", &format!("{keyed}  parts: {{path: /items}}\n"));
    let parts = bench.schema("shop", "parts", &COLUMNS);
    let ran = bench.run(&dry).await.exits(0).says("plan for all streams");
    let times = |text: &str| ran.stdout.matches(text).count();
    for once in [
        "create dataset",
        "create table `_drawoff_runs`",
        "BEGIN TRANSACTION;",
    ] {
        assert_eq!(times(once), 1, "{once}: {ran}");
    }
    for each in [
        "create table `items` (",
        "create table `parts` (",
        ".`parts`",
    ] {
        assert!(times(each) > 0, "{each}: {ran}");
    }
    std::fs::remove_file(parts).unwrap();

    // Rows that go straight into the table have another plan.
    let straight = "items: {primary_key: ~, incremental: {cursor: updated_at, since_param: since, sorted: true}, table: {write_method: stream}}";
    bench.connector("shop", &connector(&api.url(), &[straight]));
    let ran = bench
        .run(&dry)
        .await
        .exits(0)
        .says("create table `_drawoff_open_slices`")
        .says("create table `_drawoff_runs`")
        .says("note each slice in")
        .says("take back from")
        .says("write rows straight into");
    assert!(!ran.stdout.contains("rows into `_drawoff_stage_"), "{ran}");
    bench.connector("shop", &keyed);

    let bench = bench.env("BIGQUERY_EMULATOR_HOST", emulator.rest());
    bench.run(&args).await.exits(0);
    let tables = emulator.tables(&dataset);
    let before = emulator.query(&format!("SELECT * FROM {dataset}.items"));
    shelf.change(|rows| rows.push(item(6, 6)));
    let more = [&COLUMNS[..], &["colour STRING", "size INT64 REQUIRED"]].concat();
    bench.schema("shop", "items", &more);
    let bench = watched(bench);
    let ran = bench
        .run(&dry)
        .await
        .exits(0)
        .says("add column colour STRING to table `items`")
        // Rows that are there have none.
        .says("add column size INT64 to table `items`");
    assert!(!ran.stdout.contains("create "), "{ran}");
    for request in proxy.seen("") {
        assert!(request.line.starts_with("GET "), "{request:?}");
    }
    assert_eq!(emulator.tables(&dataset), tables);
    let after = emulator.query(&format!("SELECT * FROM {dataset}.items"));
    assert_eq!(after, before);

    // The others say it as well, and a database is not made for it.
    bench
        .run(&["--source", "shop", "--dry-run"])
        .await
        .exits(0)
        .says("create table `items`")
        .says("does not exist yet");
    assert!(!bench.path("drawoff.db").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_published_too_often_is_named() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("often");
    let name = format!("bigquery:{PROJECT}.{dataset}");
    let api = FakeApi::start(|request: &Received| Shelf::of(3).serve(request)).await;
    let bench = bench(&api, "").env("DRAWOFF_BIGQUERY_MAXIMUM_BYTES_BILLED", "1GiB");
    let args = ["--source", "shop", "--destination", &name];
    let ran = bench.run(&args).await.exits(0);
    assert!(!ran.stdout.contains("24 hours"), "{ran}");
    emulator.query(&format!(
        "INSERT INTO {dataset}._drawoff_loads (run_id, source, stream, slice, table_name, published_at) \
         SELECT 'r', 'shop', 'items', 's', 'items', TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 1 HOUR) \
         FROM UNNEST(GENERATE_ARRAY(1, 999)) AS n"
    ));
    bench
        .run(&args)
        .await
        .exits(0)
        .says("table `items` was published 1001 times within 24 hours")
        .says("after 1,500 a day")
        .says("DRAWOFF_SLICE_ROWS");
}

#[tokio::test]
async fn google_may_name_a_date_to_wait_for() {
    let api = FakeApi::start(|request: &Received| match request.number {
        0 => Reply::status(503)
            .header("date", "Sun, 06 Nov 1994 08:49:37 GMT")
            .header("retry-after", "Sun, 06 Nov 1994 08:49:44 GMT"),
        1 => Reply::status(503).header("retry-after", "3"),
        _ => Reply::json(&json!({"ok": true})),
    })
    .await;
    let clock = NotingClock::new();
    let endpoint = Endpoint::parse(api.url().as_str(), "test").unwrap();
    let settings = GoogleSettings {
        metadata: None,
        ..Default::default()
    };
    let google = Google::new(settings, clock.clone()).unwrap();
    let answer = google
        .call(Call {
            what: "ask".into(),
            method: http::Method::GET,
            endpoint: &endpoint,
            path: &["x"],
            query: &[],
            body: None,
            if_match: None,
            retry: RetryPolicy::BIGQUERY,
        })
        .await
        .unwrap();
    assert_eq!(answer["ok"], true);
    let waits = clock.waits();
    assert_eq!(waits, [7, 3].map(Duration::from_secs));
}
