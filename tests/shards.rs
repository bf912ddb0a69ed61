//! A run that several tasks share: complete, each row once, whatever is killed, and the rate limit kept by
//! all together.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::binary::{Bench, Ran, Running, moment};
use crate::support::emulator::{Emulator, PROJECT};
use crate::support::fake_api::{FakeApi, Received, Reply};
use crate::support::rows::micros;
use crate::support::shop::{self, COLUMNS, Shelf, connector, item, page};
use crate::support::tables::{Row, content, parquet, sqlite};

/// Tasks of an execution.
const TASKS: usize = 3;

/// Records that have children.
const PARENTS: usize = 12;

/// How often an execution is disturbed, for each destination, unless `SHARD_ROUNDS` says otherwise.
const ROUNDS: usize = 5;

/// One stream of each kind: split by spans of time, with windows and without, and sorted; by partitions,
/// with cursors of their own and of their parents; and two that cannot be split.
const KINDS: [&str; 7] = [
    "spans", "windows", "sorted", "children", "changed", "appended", "replaced",
];

const BOUNDS: &str = "cursor: updated_at, since_param: since, until_param: until";

fn all_kinds(url: &url::Url) -> String {
    connector(
        url,
        &[
            &format!("spans: {{incremental: {{{BOUNDS}, start: '2026-01-01'}}}}"),
            &format!("windows: {{incremental: {{{BOUNDS}, start: '2026-01-01', window: 480h}}}}"),
            &format!("sorted: {{incremental: {{{BOUNDS}, start: '2026-01-01', sorted: true}}}}"),
            "children: {path: \"/replaced/{replaced.id}/children\", incremental: {cursor: updated_at, since_param: since}, add_columns: {parent: \"{replaced.id}\"}}",
            "changed: {path: \"/replaced/{replaced.id}/children\", incremental: {cursor: replaced.updated_at}}",
            &format!(
                "appended: {{primary_key: ~, incremental: {{{BOUNDS}, start: '2026-01-01', sorted: true}}}}"
            ),
            "replaced: {primary_key: ~}",
        ],
    )
}

/// Serves [`all_kinds`]. Children have the ids `parent * 100 + n`.
fn serve(shelf: &Shelf, request: &Received) -> Reply {
    serve_named(shelf, request, None)
}

/// The same, children with this name.
fn serve_named(shelf: &Shelf, request: &Received, name: Option<&str>) -> Reply {
    let parts: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    match parts[..] {
        ["replaced", parent, "children"] => {
            let parent: i64 = parent.parse().unwrap();
            let children = Shelf::default();
            children.change(|rows| {
                rows.extend((1..=7).map(|n| item(parent * 100 + n, n * 9_000)));
                for row in rows {
                    if let Some(name) = name {
                        row["name"] = name.into();
                    }
                }
            });
            children.serve(request)
        }
        ["replaced"] => page(&shelf.rows()[..PARENTS], request),
        _ => shelf.serve(request),
    }
}

/// Records over most of a year.
fn shelf() -> Shelf {
    let shelf = Shelf::default();
    shelf.change(|rows| rows.extend((1..=90).map(|id| item(id, id * 5_000))));
    shelf
}

fn bench(url: &url::Url) -> Bench {
    let bench = Bench::with("shop", &all_kinds(url)).env("DRAWOFF_SLICE_ROWS", "7");
    for stream in KINDS {
        bench.schema("shop", stream, &COLUMNS);
    }
    bench
}

/// Where rows land, and how they are read back.
enum Place {
    Sqlite,
    Parquet,
    BigQuery(&'static Emulator, String),
}

impl Place {
    fn name(&self) -> String {
        match self {
            Self::Sqlite => "sqlite:drawoff.db".to_owned(),
            Self::Parquet => "parquet:out".to_owned(),
            Self::BigQuery(_, dataset) => format!("bigquery:{PROJECT}.{dataset}"),
        }
    }

    fn bench(&self, url: &url::Url) -> Bench {
        match self {
            Self::BigQuery(emulator, _) => bench(url)
                .env("DRAWOFF_STREAM", "spans,children")
                .env("DRAWOFF_SLICE_ROWS", "20")
                .env("BIGQUERY_EMULATOR_HOST", emulator.rest())
                .env("BIGQUERY_STORAGE_EMULATOR_HOST", emulator.grpc())
                .env("NO_GCE_CHECK", "true"),
            _ => bench(url),
        }
    }

    /// The streams that are tried there: BigQuery's emulator takes its time.
    fn kinds(&self) -> Vec<&'static str> {
        match self {
            Self::BigQuery(..) => vec!["spans", "children"],
            _ => KINDS.to_vec(),
        }
    }

    /// The rows of the tables, without when and by which run they came.
    fn tables(&self, bench: &Bench, kinds: &[&str]) -> Vec<Vec<Row>> {
        let read = |table: &str| match self {
            Self::Sqlite => content(sqlite(&bench.path("drawoff.db"), table)),
            Self::Parquet => content(parquet(&bench.path("out"), table)),
            Self::BigQuery(emulator, dataset) => {
                if !emulator.tables(dataset).iter().any(|t| t == table) {
                    return Vec::new();
                }
                let sql = format!("SELECT * FROM {dataset}.{table}");
                let rows = emulator.query(&sql).as_array().unwrap().clone();
                content(
                    rows.into_iter()
                        .map(|row| serde_json::from_value(row).unwrap())
                        .collect(),
                )
            }
        };
        let same_times = |mut rows: Vec<Row>| {
            for row in &mut rows {
                let text = row["updated_at"].as_str().unwrap();
                let civil = text.trim_end_matches('Z').trim_end_matches("+00:00");
                let at = micros(civil);
                row.insert("updated_at".to_owned(), json!(at));
            }
            rows.sort_by_cached_key(|row| json!(row).to_string());
            rows
        };
        kinds.iter().map(|table| same_times(read(table))).collect()
    }

    /// Streams that have a checkpoint.
    fn checkpoints(&self, bench: &Bench) -> Vec<String> {
        let name = |row: &Row, field: &str| row[field].as_str().unwrap().to_owned();
        let mut names: Vec<String> = match self {
            Self::Sqlite => sqlite(&bench.path("drawoff.db"), "_drawoff_checkpoints")
                .iter()
                .map(|row| name(row, "stream"))
                .collect(),
            Self::Parquet => {
                let text = std::fs::read(bench.path("out/_drawoff/manifest.json")).unwrap();
                let manifest: Value = serde_json::from_slice(&text).unwrap();
                let stored = manifest["checkpoints"].as_array().unwrap().clone();
                stored
                    .iter()
                    .map(|s| s["stream"].as_str().unwrap().to_owned())
                    .collect()
            }
            Self::BigQuery(emulator, dataset) => {
                let sql = format!(
                    "SELECT DISTINCT stream FROM {dataset}._drawoff_checkpoints WHERE version > 0"
                );
                let rows = emulator.query(&sql);
                let rows = rows.as_array().unwrap();
                rows.iter()
                    .map(|r| r["stream"].as_str().unwrap().to_owned())
                    .collect()
            }
        };
        names.sort();
        names
    }
}

/// The records as a table holds them.
fn rows(shelf: &Shelf) -> Vec<Row> {
    let mut rows = shop::rows(&shelf.rows());
    for row in &mut rows {
        let at = micros(row["updated_at"].as_str().unwrap().trim_end_matches('Z'));
        row.insert("updated_at".to_owned(), json!(at));
    }
    rows.sort_by_cached_key(|row| json!(row).to_string());
    rows
}

/// A task as Cloud Run starts it.
fn start(bench: &Bench, place: &Place, execution: &str, index: usize, attempt: usize) -> Running {
    bench.spawn_with(
        &["--source", "shop", "--destination", &place.name()],
        &[
            ("CLOUD_RUN_JOB", "shop"),
            ("CLOUD_RUN_EXECUTION", execution),
            ("CLOUD_RUN_TASK_INDEX", &index.to_string()),
            ("CLOUD_RUN_TASK_COUNT", &TASKS.to_string()),
            ("CLOUD_RUN_TASK_ATTEMPT", &attempt.to_string()),
        ],
    )
}

/// All tasks of an execution to their ends, one by one or together.
async fn execute(bench: &Bench, place: &Place, execution: &str, together: bool) -> Vec<Ran> {
    let mut ends = Vec::new();
    if together {
        let tasks: Vec<Running> = (0..TASKS)
            .map(|index| start(bench, place, execution, index, 0))
            .collect();
        for task in tasks {
            ends.push(task.end().await.exits(0));
        }
    } else {
        for index in (0..TASKS).rev() {
            ends.push(
                start(bench, place, execution, index, 0)
                    .end()
                    .await
                    .exits(0),
            );
        }
    }
    ends
}

/// An execution whose tasks are killed at any moments and started again, as Cloud Run does, until all have
/// ended well. How many were killed at work.
async fn disturbed(bench: &Bench, place: &Place, execution: &str, longest: Duration) -> usize {
    let mut killed = 0;
    let mut attempts = [0; TASKS];
    let mut left: Vec<usize> = (0..TASKS).collect();
    while !left.is_empty() {
        let tasks: Vec<(usize, Running)> = left
            .drain(..)
            .map(|index| {
                (
                    index,
                    start(bench, place, execution, index, attempts[index]),
                )
            })
            .collect();
        for (index, mut task) in tasks {
            attempts[index] += 1;
            assert!(
                attempts[index] < 40,
                "task {index} never ends: {}",
                task.said()
            );
            // Less and less often, so that it comes to an end.
            if rand::random_ratio(3, 3 + attempts[index] as u32 * 2) {
                moment(longest.mul_f64(rand::random::<f64>())).await;
                if task.ended().is_none() {
                    killed += 1;
                    task.kill().await;
                    left.push(index);
                    continue;
                }
            }
            let ran = task.end().await;
            match ran.code {
                Some(0) => {}
                Some(75) => left.push(index),
                _ => panic!("task {index}: {ran}"),
            }
        }
    }
    killed
}

#[allow(clippy::disallowed_methods)]
fn rounds(usual: usize) -> usize {
    let given = std::env::var("SHARD_ROUNDS").ok();
    given.map_or(usual, |n| n.parse().unwrap())
}

/// Tasks are killed at any moments, in one execution after the other, between which records change; in the
/// end of each the tables are as if one run had been left in peace.
async fn killed_tasks(place: Place, usual: usize, longest: Duration) {
    let mut killed = 0;
    for round in 0..rounds(usual) {
        let shelf = shelf();
        let served = shelf.clone();
        let api = FakeApi::start(move |request| serve(&served, request)).await;
        let bench = place.bench(&api.url());
        for execution in ["one", "two"] {
            let peace = self::bench(&api.url());
            peace.run(&["--source", "shop"]).await.exits(0);
            let kinds = place.kinds();
            let want = Place::Sqlite.tables(&peace, &kinds);
            killed += disturbed(&bench, &place, &format!("{execution}{round}"), longest).await;
            let found = place.tables(&bench, &kinds);
            for (i, kind) in kinds.iter().enumerate() {
                // Rows are added to where they changed: there the old one stays.
                let right = match (*kind, execution) {
                    ("appended", "two") => found[i].len() == shelf.rows().len() + 2,
                    _ => found[i] == want[i],
                };
                assert!(
                    right,
                    "round {round}, execution {execution}: `{kind}` has {} rows, {} are right: {:?}",
                    found[i].len(),
                    want[i].len(),
                    found[i].iter().map(|r| &r["id"]).collect::<Vec<_>>(),
                );
            }
            let mut streams = kinds;
            streams.sort_unstable();
            assert_eq!(place.checkpoints(&bench), streams, "no part has left one");
            let lately = jiff::Timestamp::now() - Duration::from_secs(60);
            let lately = lately.strftime("%FT%TZ").to_string();
            shelf.change(|rows| {
                rows.push(item(91, 0));
                rows[20]["name"] = "renamed".into();
                for changed in [2, 20, 90] {
                    rows[changed]["updated_at"] = lately.as_str().into();
                }
            });
        }
    }
    assert!(killed > 0, "every task was over before it was killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_killed_and_a_database_is_right() {
    killed_tasks(Place::Sqlite, ROUNDS, Duration::from_millis(400)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_killed_and_files_are_right() {
    killed_tasks(Place::Parquet, ROUNDS, Duration::from_millis(400)).await;
}

/// One large backfill after the other into BigQuery, each with other names for all records: every row must
/// come with each, and no row twice.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_killed_and_bigquery_is_right() {
    /// Backfills into one dataset.
    const TOGETHER: usize = 10;
    let emulator = Emulator::get();
    let (shelf, round) = (shelf(), Arc::new(AtomicUsize::new(0)));
    let (served, now) = (shelf.clone(), round.clone());
    let api = FakeApi::start(move |request| {
        let name = format!("round {}", now.load(Ordering::SeqCst));
        served.change(|rows| {
            rows.iter_mut()
                .for_each(|r| r["name"] = name.as_str().into())
        });
        serve_named(&served, request, Some(&name))
    })
    .await;
    let mut killed = 0;
    let mut place = Place::BigQuery(emulator, emulator.dataset("shards"));
    let mut bench = place.bench(&api.url()).env("DRAWOFF_SINCE", "2026-01-01");
    let kinds = place.kinds();
    for number in 0..rounds(2) {
        if number > 0 && number % TOGETHER == 0 {
            place = Place::BigQuery(emulator, emulator.dataset(&format!("shards{number}")));
            bench = place.bench(&api.url()).env("DRAWOFF_SINCE", "2026-01-01");
        }
        round.store(number, Ordering::SeqCst);
        let execution = format!("backfill-{number}");
        killed += disturbed(&bench, &place, &execution, Duration::from_secs(8)).await;
        let found = place.tables(&bench, &kinds);
        let name = json!(format!("round {number}"));
        for (kind, rows) in kinds.iter().zip(&found) {
            let ids: BTreeSet<i64> = rows.iter().map(|r| r["id"].as_i64().unwrap()).collect();
            let all: BTreeSet<i64> = match *kind {
                "spans" => (1..=90).collect(),
                _ => (1..=PARENTS as i64)
                    .flat_map(|parent| (1..=7).map(move |n| parent * 100 + n))
                    .collect(),
            };
            assert_eq!(
                rows.len(),
                ids.len(),
                "round {number}: `{kind}` has rows twice"
            );
            assert_eq!(ids, all, "round {number}: `{kind}`");
            assert!(
                rows.iter().all(|r| r["name"] == name),
                "round {number}: not all rows of `{kind}` came: {rows:?}"
            );
        }
        assert_eq!(place.checkpoints(&bench), ["children", "spans"]);
        if rounds(2) > 2 {
            println!("round {number}: right; {killed} killed so far");
        }
    }
    assert!(killed > 0, "every task was over before it was killed");
}

/// Number of loads' rows by stream, from the database.
fn published(bench: &Bench, table: &str) -> i64 {
    sqlite(&bench.path("drawoff.db"), "_drawoff_loads")
        .iter()
        .filter(|row| row["table_name"] == json!(table))
        .map(|row| row["published"].as_i64().unwrap())
        .sum()
}

#[tokio::test]
async fn tasks_that_come_together_or_in_turn_read_everything_once() {
    for together in [true, false] {
        let shelf = shelf();
        let served = shelf.clone();
        let api = FakeApi::start(move |request| serve(&served, request)).await;
        let bench = bench(&api.url());
        let ran = execute(&bench, &Place::Sqlite, "x", together).await;
        let want = rows(&shelf);
        let found = Place::Sqlite.tables(&bench, &KINDS);
        for kind in 0..3 {
            assert_eq!(found[kind], want, "{}", KINDS[kind]);
        }
        for (kind, rows) in KINDS.iter().zip(&found) {
            // Between two slices of a sorted listing, the record at the cursor is read once more.
            if *kind != "sorted" {
                assert_eq!(
                    published(&bench, kind),
                    rows.len() as i64,
                    "{kind}: {ran:?}"
                );
            }
        }
        // Whoever comes late, or again, finds nothing to do.
        let before = published(&bench, "spans");
        let again = start(&bench, &Place::Sqlite, "x", 1, 1)
            .end()
            .await
            .exits(0);
        assert_eq!(published(&bench, "spans"), before, "{again}");
        assert_eq!(
            Place::Sqlite.checkpoints(&bench).len(),
            KINDS.len(),
            "{again}"
        );
        // A run that is alone goes on from there.
        shelf.change(|rows| rows.push(item(91, 456_000)));
        bench.run(&["--source", "shop"]).await.exits(0);
        assert_eq!(Place::Sqlite.tables(&bench, &KINDS)[0], rows(&shelf));
    }
}

#[tokio::test]
async fn a_lost_task_costs_its_own_parts_alone() {
    let shelf = shelf();
    let served = shelf.clone();
    let api = FakeApi::start(move |request| serve(&served, request)).await;
    let bench = bench(&api.url());
    for index in [0, 2] {
        start(&bench, &Place::Sqlite, "x", index, 0)
            .end()
            .await
            .exits(0);
    }
    let runs = sqlite(&bench.path("drawoff.db"), "_drawoff_runs");
    let outcome = |stream: &str| {
        let of = runs.iter().filter(|r| r["stream"] == json!(stream));
        of.map(|r| r["outcome"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(outcome("spans"), ["done_in_part", "done_in_part"]);
    let before = published(&bench, "spans");
    assert!(before > 20 && before < 90, "{before}");
    // The task never comes. A run of one reads what it has left, and what came since, and no more.
    shelf.change(|rows| rows.push(item(91, 456_000)));
    let ran = bench.run(&["--source", "shop"]).await.exits(0);
    assert_eq!(Place::Sqlite.tables(&bench, &KINDS)[0], rows(&shelf));
    // The record at the cursor once more, which might have company by now.
    assert_eq!(published(&bench, "spans"), 92, "{ran}");
    assert_eq!(Place::Sqlite.checkpoints(&bench).len(), KINDS.len());
}

#[tokio::test]
async fn more_tasks_or_fewer_go_on_with_what_others_left() {
    let shelf = shelf();
    let served = shelf.clone();
    let api = FakeApi::start(move |request| serve(&served, request)).await;
    let bench = bench(&api.url());
    let shard = |text: &'static str| ["--source", "shop", "--shard", text];
    bench.run(&shard("0/3")).await.exits(0);
    for text in ["0/2", "1/2"] {
        bench.run(&shard(text)).await.exits(0);
    }
    for (kind, rows) in KINDS.iter().zip(&Place::Sqlite.tables(&bench, &KINDS)) {
        // Between two slices of a sorted listing, the record at the cursor is read once more.
        if !["sorted", "replaced"].contains(kind) {
            assert_eq!(published(&bench, kind), rows.len() as i64, "{kind}");
        }
    }
    assert_eq!(Place::Sqlite.tables(&bench, &KINDS)[0], rows(&shelf));
}

#[tokio::test]
async fn a_backfill_is_split_and_leaves_the_cursor() {
    let shelf = shelf();
    let served = shelf.clone();
    let api = FakeApi::start(move |request| serve(&served, request)).await;
    let bench = bench(&api.url());
    bench
        .run(&["--source", "shop", "--stream", "spans"])
        .await
        .exits(0);
    let cursor = || {
        let rows = sqlite(&bench.path("drawoff.db"), "_drawoff_checkpoints");
        rows.iter().find(|r| r["stream"] == json!("spans")).unwrap()["checkpoint"].clone()
    };
    let before = cursor();
    shelf.change(|rows| {
        for row in rows.iter_mut() {
            row["name"] = "corrected".into();
        }
    });
    for shard in ["1/2", "0/2"] {
        let args = ["--source", "shop", "--stream", "spans", "--shard", shard];
        let span = ["--since", "2026-02-01", "--until", "2026-05-01"];
        bench.run(&[&args[..], &span].concat()).await.exits(0);
    }
    assert_eq!(cursor(), before);
    let corrected = Place::Sqlite.tables(&bench, &KINDS)[0]
        .iter()
        .filter(|r| r["name"] == json!("corrected"))
        .count();
    let records = shelf.rows();
    let wanted = records.iter().filter(|r| {
        let at = r["updated_at"].as_str().unwrap();
        ("2026-02-01".."2026-05-01").contains(&at)
    });
    assert_eq!(corrected, wanted.count());
}

#[tokio::test]
async fn the_rate_limit_is_kept_by_all_tasks_together() {
    let shelf = shelf();
    let served = shelf.clone();
    let api = FakeApi::start(move |request| serve(&served, request)).await;
    let yaml = all_kinds(&api.url()).replace(
        "records: /data",
        "rate_limit: {requests: 30, per: 1s, concurrency: 4}\nrecords: /data",
    );
    let bench = bench(&api.url());
    bench.connector("shop", &yaml);
    execute(&bench, &Place::Sqlite, "x", true).await;
    let times: Vec<_> = api.requests().iter().map(|r| r.at).collect();
    assert!(times.len() > 60, "{} requests", times.len());
    // Processes do not start together, and requests take unequal times to arrive.
    for span in times.windows(31 + 3) {
        let took = span[span.len() - 1] - span[0];
        assert!(
            took >= Duration::from_millis(900),
            "34 requests in {took:?}"
        );
    }
}

#[tokio::test]
async fn a_task_that_does_not_know_its_share_does_nothing() {
    let api = FakeApi::start(|_| Reply::status(500)).await;
    let bench = bench(&api.url());
    for environment in [
        &[("CLOUD_RUN_TASK_INDEX", "0")][..],
        &[("CLOUD_RUN_TASK_INDEX", "3"), ("CLOUD_RUN_TASK_COUNT", "3")],
        &[
            ("CLOUD_RUN_TASK_INDEX", "one"),
            ("CLOUD_RUN_TASK_COUNT", "3"),
        ],
        &[("JOB_COMPLETION_INDEX", "2")],
    ] {
        let ran = bench
            .spawn_with(&["--source", "shop"], environment)
            .end()
            .await;
        ran.exits(2)
            .complains("which part of the work is this task's");
    }
    bench
        .run(&["--source", "shop", "--shard", "4/4"])
        .await
        .exits(2)
        .complains("they count from 0");
    bench
        .run(&["--source", "shop", "--shard", "0/4", "--dry-run"])
        .await
        .exits(2)
        .complains("a dry run splits nothing");
    assert_eq!(api.count(), 0);
}

/// A shop whose answers take their time, and a task at work on its half of a stream.
async fn at_work(bench: &Bench, api: &FakeApi, stream: &str) -> Running {
    let mut task = bench.spawn(&["--source", "shop", "--stream", stream, "--shard", "0/2"]);
    assert!(task.until(|| api.count() > 1).await);
    task
}

#[tokio::test]
async fn a_whole_run_and_a_task_exclude_each_other() {
    let shelf = shelf();
    let served = shelf.clone();
    let api =
        FakeApi::start(move |request| serve(&served, request).delay(Duration::from_millis(300)))
            .await;
    let bench = bench(&api.url());
    let task = at_work(&bench, &api, "spans").await;
    let ran = bench.run(&["--source", "shop"]).await;
    ran.exits(75).complains("is at work");
    task.end().await.exits(0);
    let before = api.count();
    let mut whole = bench.spawn(&["--source", "shop", "--stream", "spans"]);
    assert!(whole.until(|| api.count() > before).await);
    // It waits: whoever holds it may be dead.
    let args = ["--source", "shop", "--stream", "spans", "--shard", "1/2"];
    let task = bench.run(&args).await.exits(0);
    whole.end().await.exits(0);
    assert_eq!(
        Place::Sqlite.tables(&bench, &["spans"])[0],
        rows(&shelf),
        "{task}"
    );
}

#[tokio::test]
async fn a_full_refresh_waits_for_parts_at_work() {
    let shelf = shelf();
    let served = shelf.clone();
    let api =
        FakeApi::start(move |request| serve(&served, request).delay(Duration::from_millis(300)))
            .await;
    let bench = bench(&api.url());
    let task = at_work(&bench, &api, "spans").await;
    let all = shelf.rows();
    shelf.change(|rows| rows.truncate(10));
    for shard in ["0/2", "1/2"] {
        let args = [
            "--source",
            "shop",
            "--stream",
            "spans",
            "--full-refresh",
            "--shard",
            shard,
        ];
        bench.run(&args).await.exits(0);
    }
    task.end().await.exits(0);
    assert_eq!(Place::Sqlite.tables(&bench, &["spans"])[0], rows(&shelf));
    assert_eq!(Place::Sqlite.checkpoints(&bench), ["spans"]);
    // And nothing of what was split before is missed afterwards.
    shelf.change(|rows| *rows = all);
    bench
        .run(&["--source", "shop", "--stream", "spans", "--full-refresh"])
        .await
        .exits(0);
    assert_eq!(Place::Sqlite.tables(&bench, &["spans"])[0], rows(&shelf));
}

#[tokio::test]
async fn a_stream_that_was_read_in_part_cannot_be_appended_to() {
    let shelf = shelf();
    let served = shelf.clone();
    let api = FakeApi::start(move |request| serve(&served, request)).await;
    let bench = bench(&api.url());
    let args = ["--source", "shop", "--stream", "spans"];
    bench
        .run(&[&args[..], &["--shard", "0/3"]].concat())
        .await
        .exits(0);
    let yaml = all_kinds(&api.url()).replace("spans: {", "spans: {primary_key: ~, ");
    bench.connector("shop", &yaml);
    let before = Place::Sqlite.tables(&bench, &["spans"]);
    let ran = bench.run(&args).await.exits(2);
    assert!(
        ran.all().contains("cannot append to table `spans`"),
        "{ran}"
    );
    assert_eq!(Place::Sqlite.tables(&bench, &["spans"]), before);
}

#[tokio::test]
async fn another_span_does_not_make_a_split_forgotten() {
    let shelf = shelf();
    let served = shelf.clone();
    let api = FakeApi::start(move |request| serve(&served, request)).await;
    let bench = bench(&api.url());
    let args = ["--source", "shop", "--stream", "spans"];
    bench
        .run(&[&args[..], &["--shard", "0/3"]].concat())
        .await
        .exits(0);
    // Another task of the same run, given other bounds.
    let ran = bench
        .run(&[&args[..], &["--shard", "1/3", "--since", "2026-10-01"]].concat())
        .await
        .exits(1);
    assert!(ran.all().contains("it is split with no bounds"), "{ran}");
    // A run that is alone reads what was left first.
    let since = [&args[..], &["--since", "2026-10-01"]].concat();
    bench.run(&since).await.exits(0);
    assert_eq!(Place::Sqlite.tables(&bench, &["spans"])[0], rows(&shelf));
    assert_eq!(Place::Sqlite.checkpoints(&bench), ["spans"]);
}

#[tokio::test]
async fn tasks_leave_the_cursor_where_a_run_alone_would() {
    let cursors = async |shards: &[&str]| {
        let shelf = shelf();
        let served = shelf.clone();
        let api = FakeApi::start(move |request| serve(&served, request)).await;
        let bench = bench(&api.url());
        for shard in shards {
            let args = ["--source", "shop", "--stream", "spans,children,changed"];
            let shard: &[&str] = match *shard {
                "" => &[],
                _ => &["--shard", shard],
            };
            bench.run(&[&args[..], shard].concat()).await.exits(0);
        }
        let mut stored: Vec<(String, Value)> =
            sqlite(&bench.path("drawoff.db"), "_drawoff_checkpoints")
                .iter()
                .map(|row| {
                    let mut checkpoint: Value =
                        serde_json::from_str(row["checkpoint"].as_str().unwrap()).unwrap();
                    checkpoint.as_object_mut().unwrap().remove("split");
                    (row["stream"].as_str().unwrap().to_owned(), checkpoint)
                })
                .collect();
        stored.sort_by(|a, b| a.0.cmp(&b.0));
        stored
    };
    let alone = cursors(&[""]).await;
    assert_eq!(alone.len(), 3);
    assert_eq!(cursors(&["0/3", "2/3", "1/3"]).await, alone);
}

#[tokio::test]
async fn a_late_task_begins_no_round_of_its_own() {
    let shelf = shelf();
    let served = shelf.clone();
    let api = FakeApi::start(move |request| serve(&served, request)).await;
    let bench = bench(&api.url());
    // Without a lower bound there is nothing to split until there is a cursor.
    let yaml = all_kinds(&api.url()).replace(", start: '2026-01-01'", "");
    bench.connector("shop", &yaml);
    let ran = execute(&bench, &Place::Sqlite, "x", false).await;
    let outcomes = |runs: &[Row]| {
        let of = runs.iter().filter(|r| r["stream"] == json!("spans"));
        of.map(|r| r["outcome"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let runs = sqlite(&bench.path("drawoff.db"), "_drawoff_runs");
    assert_eq!(outcomes(&runs), ["done"], "{ran:?}");
    assert_eq!(Place::Sqlite.tables(&bench, &["spans"])[0], rows(&shelf));
    assert_eq!(Place::Sqlite.checkpoints(&bench).len(), KINDS.len());
    // The next execution splits what is new.
    execute(&bench, &Place::Sqlite, "y", true).await;
    let runs = sqlite(&bench.path("drawoff.db"), "_drawoff_runs");
    assert!(outcomes(&runs).contains(&"done_in_part".to_owned()));
    assert_eq!(Place::Sqlite.checkpoints(&bench).len(), KINDS.len());
}
