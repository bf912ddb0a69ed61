//! A run that several tasks share: complete, each row once, whatever is killed, and the rate limit kept by
//! all together.

mod killed;
mod place;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use self::place::Place;
use crate::support::binary::{Bench, Ran, Running, moment};
use crate::support::fake_api::{FakeApi, Received, Reply};
use crate::support::rows::micros;
use crate::support::shop::{self, COLUMNS, Shelf, connector, item, page};
use crate::support::tables::{Row, sqlite};

/// Tasks of an execution.
const TASKS: usize = 3;

/// Records that have children.
const PARENTS: usize = 12;

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

/// A shop that is open, and a database for its rows.
struct Shop {
    shelf: Shelf,
    api: FakeApi,
    bench: Bench,
}

impl Shop {
    async fn open() -> Self {
        Self::answering_after(Duration::ZERO).await
    }

    async fn answering_after(delay: Duration) -> Self {
        let shelf = shelf();
        let served = shelf.clone();
        let api = FakeApi::start(move |request| serve(&served, request).delay(delay)).await;
        let bench = bench(&api.url());
        Self { shelf, api, bench }
    }

    /// Runs all of it, alone.
    async fn run(&self) -> Ran {
        self.bench.run(&["--source", "shop"]).await
    }

    /// Runs one stream, with these arguments more.
    async fn spans(&self, more: &[&str]) -> Ran {
        let args = ["--source", "shop", "--stream", "spans"];
        self.bench.run(&[&args[..], more].concat()).await
    }

    /// The first of two tasks, at work on its half of a stream.
    async fn task_at_work(&self) -> Running {
        let args = ["--source", "shop", "--stream", "spans", "--shard", "0/2"];
        let mut task = self.bench.spawn(&args);
        assert!(task.until(|| self.api.count() > 1).await);
        task
    }

    fn task(&self, execution: &str, index: usize, attempt: usize) -> Running {
        start(&self.bench, &Place::Sqlite, execution, index, attempt)
    }

    /// All tasks of an execution to their ends, one by one or together.
    async fn execute(&self, execution: &str, together: bool) -> Vec<Ran> {
        let mut ends = Vec::new();
        if together {
            let tasks: Vec<Running> = (0..TASKS).map(|i| self.task(execution, i, 0)).collect();
            for task in tasks {
                ends.push(task.end().await.exits(0));
            }
        } else {
            for index in (0..TASKS).rev() {
                ends.push(self.task(execution, index, 0).end().await.exits(0));
            }
        }
        ends
    }

    /// The rows of the tables, in the order of [`KINDS`].
    fn tables(&self) -> Vec<Vec<Row>> {
        Place::Sqlite.tables(&self.bench, &KINDS)
    }

    fn table(&self, name: &str) -> Vec<Row> {
        Place::Sqlite.tables(&self.bench, &[name]).remove(0)
    }

    /// `spans` holds every record, once.
    fn is_right(&self) {
        assert_eq!(self.table("spans"), rows(&self.shelf));
    }

    fn stored(&self, table: &str) -> Vec<Row> {
        sqlite(&self.bench.path("drawoff.db"), table)
    }

    fn checkpoints(&self) -> Vec<String> {
        Place::Sqlite.checkpoints(&self.bench)
    }

    /// What became of a stream, run by run.
    fn outcomes(&self, stream: &str) -> Vec<String> {
        let runs = self.stored("_drawoff_runs");
        runs.iter()
            .filter(|r| r["stream"] == json!(stream))
            .map(|r| r["outcome"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Rows that were ever published into a table.
    fn published(&self, table: &str) -> i64 {
        self.stored("_drawoff_loads")
            .iter()
            .filter(|row| row["table_name"] == json!(table))
            .map(|row| row["published"].as_i64().unwrap())
            .sum()
    }
}

#[tokio::test]
async fn tasks_that_come_together_or_in_turn_read_everything_once() {
    for together in [true, false] {
        let shop = Shop::open().await;
        let ran = shop.execute("x", together).await;
        let want = rows(&shop.shelf);
        let found = shop.tables();
        for kind in 0..3 {
            assert_eq!(found[kind], want, "{}", KINDS[kind]);
        }
        for (kind, rows) in KINDS.iter().zip(&found) {
            // Between two slices of a sorted listing, the record at the cursor is read once more.
            if *kind != "sorted" {
                assert_eq!(shop.published(kind), rows.len() as i64, "{kind}: {ran:?}");
            }
        }
        // Whoever comes late, or again, finds nothing to do.
        let before = shop.published("spans");
        let again = shop.task("x", 1, 1).end().await.exits(0);
        assert_eq!(shop.published("spans"), before, "{again}");
        assert_eq!(shop.checkpoints().len(), KINDS.len(), "{again}");
        // A run that is alone goes on from there.
        shop.shelf.change(|rows| rows.push(item(91, 456_000)));
        shop.run().await.exits(0);
        shop.is_right();
    }
}

#[tokio::test]
async fn a_lost_task_costs_its_own_parts_alone() {
    let shop = Shop::open().await;
    for index in [0, 2] {
        shop.task("x", index, 0).end().await.exits(0);
    }
    assert_eq!(shop.outcomes("spans"), ["done_in_part", "done_in_part"]);
    let before = shop.published("spans");
    assert!(before > 20 && before < 90, "{before}");
    // The task never comes. A run of one reads what it has left, and what came since, and no more.
    shop.shelf.change(|rows| rows.push(item(91, 456_000)));
    let ran = shop.run().await.exits(0);
    shop.is_right();
    // The record at the cursor once more, which might have company by now.
    assert_eq!(shop.published("spans"), 92, "{ran}");
    assert_eq!(shop.checkpoints().len(), KINDS.len());
}

#[tokio::test]
async fn more_tasks_or_fewer_go_on_with_what_others_left() {
    let shop = Shop::open().await;
    for shard in ["0/3", "0/2", "1/2"] {
        let args = ["--source", "shop", "--shard", shard];
        shop.bench.run(&args).await.exits(0);
    }
    for (kind, rows) in KINDS.iter().zip(&shop.tables()) {
        // Between two slices of a sorted listing, the record at the cursor is read once more.
        if !["sorted", "replaced"].contains(kind) {
            assert_eq!(shop.published(kind), rows.len() as i64, "{kind}");
        }
    }
    shop.is_right();
}

#[tokio::test]
async fn a_backfill_is_split_and_leaves_the_cursor() {
    let shop = Shop::open().await;
    shop.spans(&[]).await.exits(0);
    let cursor = || {
        let rows = shop.stored("_drawoff_checkpoints");
        rows.iter().find(|r| r["stream"] == json!("spans")).unwrap()["checkpoint"].clone()
    };
    let before = cursor();
    shop.shelf.change(|rows| {
        for row in rows.iter_mut() {
            row["name"] = "corrected".into();
        }
    });
    let span = ["--since", "2026-02-01", "--until", "2026-05-01"];
    for shard in ["1/2", "0/2"] {
        let args = [&["--shard", shard][..], &span].concat();
        shop.spans(&args).await.exits(0);
    }
    assert_eq!(cursor(), before);
    let found = shop.table("spans");
    let corrected = found.iter().filter(|r| r["name"] == json!("corrected"));
    let records = shop.shelf.rows();
    let wanted = records.iter().filter(|r| {
        let at = r["updated_at"].as_str().unwrap();
        ("2026-02-01".."2026-05-01").contains(&at)
    });
    assert_eq!(corrected.count(), wanted.count());
}

#[tokio::test]
async fn the_rate_limit_is_kept_by_all_tasks_together() {
    let shop = Shop::open().await;
    let yaml = all_kinds(&shop.api.url()).replace(
        "records: /data",
        "rate_limit: {requests: 30, per: 1s, concurrency: 4}\nrecords: /data",
    );
    shop.bench.connector("shop", &yaml);
    shop.execute("x", true).await;
    let times: Vec<_> = shop.api.requests().iter().map(|r| r.at).collect();
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
async fn a_stream_without_records_is_done() {
    let mut shop = Shop::open().await;
    shop.shelf.change(|rows| rows.clear());
    let stream = format!("empty: {{incremental: {{{BOUNDS}, start: '2026-01-01'}}}}");
    // Without a schema, so that nothing tells its columns.
    shop.bench = Bench::with("shop", &connector(&shop.api.url(), &[&stream]));
    for execution in ["one", "two"] {
        shop.execute(execution, true).await;
    }
    assert_eq!(shop.outcomes("empty"), ["done", "done"]);
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

#[tokio::test]
async fn a_whole_run_and_a_task_exclude_each_other() {
    let shop = Shop::answering_after(Duration::from_millis(300)).await;
    let task = shop.task_at_work().await;
    shop.run().await.exits(75).complains("is at work");
    task.end().await.exits(0);
    let before = shop.api.count();
    let mut whole = shop.bench.spawn(&["--source", "shop", "--stream", "spans"]);
    assert!(whole.until(|| shop.api.count() > before).await);
    // It waits: whoever holds it may be dead.
    shop.spans(&["--shard", "1/2"]).await.exits(0);
    whole.end().await.exits(0);
    shop.is_right();
}

#[tokio::test]
async fn a_full_refresh_waits_for_parts_at_work() {
    let shop = Shop::answering_after(Duration::from_millis(300)).await;
    let task = shop.task_at_work().await;
    let all = shop.shelf.rows();
    shop.shelf.change(|rows| rows.truncate(10));
    for shard in ["0/2", "1/2"] {
        let args = ["--full-refresh", "--shard", shard];
        shop.spans(&args).await.exits(0);
    }
    task.end().await.exits(0);
    shop.is_right();
    assert_eq!(shop.checkpoints(), ["spans"]);
    // And nothing of what was split before is missed afterwards.
    shop.shelf.change(|rows| *rows = all);
    shop.spans(&["--full-refresh"]).await.exits(0);
    shop.is_right();
}

#[tokio::test]
async fn a_stream_that_was_read_in_part_cannot_be_appended_to() {
    let shop = Shop::open().await;
    shop.spans(&["--shard", "0/3"]).await.exits(0);
    let yaml = all_kinds(&shop.api.url()).replace("spans: {", "spans: {primary_key: ~, ");
    shop.bench.connector("shop", &yaml);
    let before = shop.table("spans");
    let ran = shop.spans(&[]).await.exits(2);
    assert!(
        ran.all().contains("cannot append to table `spans`"),
        "{ran}"
    );
    assert_eq!(shop.table("spans"), before);
}

#[tokio::test]
async fn another_span_does_not_make_a_split_forgotten() {
    let shop = Shop::open().await;
    let since = ["--since", "2026-10-01"];
    shop.spans(&["--shard", "0/3"]).await.exits(0);
    // Another task of the same run, given other bounds.
    let args = [&["--shard", "1/3"][..], &since].concat();
    let ran = shop.spans(&args).await.exits(1);
    assert!(ran.all().contains("it is split with no bounds"), "{ran}");
    // A run that is alone reads what was left first.
    shop.spans(&since).await.exits(0);
    shop.is_right();
    assert_eq!(shop.checkpoints(), ["spans"]);
}

#[tokio::test]
async fn tasks_leave_the_cursor_where_a_run_alone_would() {
    let cursors = async |shards: &[&[&str]]| {
        let shop = Shop::open().await;
        for shard in shards {
            let args = ["--source", "shop", "--stream", "spans,children,changed"];
            shop.bench.run(&[&args[..], shard].concat()).await.exits(0);
        }
        let mut stored: Vec<(String, Value)> = shop
            .stored("_drawoff_checkpoints")
            .iter()
            .map(|row| {
                let text = row["checkpoint"].as_str().unwrap();
                let mut checkpoint: Value = serde_json::from_str(text).unwrap();
                checkpoint.as_object_mut().unwrap().remove("split");
                (row["stream"].as_str().unwrap().to_owned(), checkpoint)
            })
            .collect();
        stored.sort_by(|a, b| a.0.cmp(&b.0));
        stored
    };
    let alone = cursors(&[&[]]).await;
    assert_eq!(alone.len(), 3);
    let tasks = [["--shard", "0/3"], ["--shard", "2/3"], ["--shard", "1/3"]];
    let tasks: Vec<&[&str]> = tasks.iter().map(|args| &args[..]).collect();
    assert_eq!(cursors(&tasks).await, alone);
}

#[tokio::test]
async fn a_late_task_begins_no_round_of_its_own() {
    let shop = Shop::open().await;
    // Without a lower bound there is nothing to split until there is a cursor.
    let yaml = all_kinds(&shop.api.url()).replace(", start: '2026-01-01'", "");
    shop.bench.connector("shop", &yaml);
    let ran = shop.execute("x", false).await;
    assert_eq!(shop.outcomes("spans"), ["done"], "{ran:?}");
    shop.is_right();
    assert_eq!(shop.checkpoints().len(), KINDS.len());
    // The next execution splits what is new.
    shop.execute("y", true).await;
    assert!(shop.outcomes("spans").contains(&"done_in_part".to_owned()));
    assert_eq!(shop.checkpoints().len(), KINDS.len());
}

#[tokio::test]
async fn what_a_task_never_read_is_read_by_those_of_the_next_execution_which_go_on() {
    for together in [true, false] {
        let shop = Shop::open().await;
        shop.task("lost", 1, 0).end().await.exits(0);
        let lately = jiff::Timestamp::now().strftime("%FT%TZ").to_string();
        shop.shelf.change(|rows| {
            rows.push(item(91, 0));
            rows[3]["name"] = "renamed".into();
            for changed in [3, 90] {
                rows[changed]["updated_at"] = lately.as_str().into();
            }
        });
        // The API's times are in seconds: what is asked for has to be later.
        moment(Duration::from_millis(1_100)).await;
        let ran = shop.execute("next", together).await;
        shop.is_right();
        let found = shop.tables();
        let of = |kind: &str| KINDS.iter().position(|k| *k == kind).unwrap();
        assert!(found[of("windows")] == found[of("spans")], "{ran:?}");
        assert_eq!(found[of("children")].len(), PARENTS * 7, "{ran:?}");
        assert!(shop.outcomes("spans").contains(&"done".to_owned()));
        assert_eq!(shop.checkpoints().len(), KINDS.len());
    }
}

#[tokio::test]
async fn a_table_that_is_gone_is_filled_from_the_start_though_no_cursor_tells() {
    let shop = Shop::open().await;
    let yaml = all_kinds(&shop.api.url()).replace(
        ", incremental: {cursor: updated_at, since_param: since}, add_columns",
        ", add_columns",
    );
    shop.bench.connector("shop", &yaml);
    let children = async |shard: &str| {
        let args = ["--source", "shop", "--stream", "children", "--shard", shard];
        shop.bench.run(&args).await.exits(0)
    };
    children("0/2").await;
    let before = shop.table("children").len();
    assert!(before > 0 && before < PARENTS * 7, "{before}");
    let database = rusqlite::Connection::open(shop.bench.path("drawoff.db")).unwrap();
    database.execute_batch("DROP TABLE children").unwrap();
    let ran = children("1/2").await;
    assert!(
        ran.stderr.contains("is not there, so the stream is read"),
        "{ran}"
    );
    children("0/2").await;
    assert_eq!(shop.table("children").len(), PARENTS * 7);
}

/// A stream that cannot be split until there is a cursor, which comes with the first slice.
#[tokio::test]
async fn a_stream_that_is_left_to_one_task_is_so_when_that_starts_again() {
    let shelf = shelf();
    let (served, asked) = (shelf.clone(), AtomicUsize::new(0));
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    let api = FakeApi::start(move |request| {
        let held = asked.fetch_add(1, Ordering::SeqCst) > 2 && !gate.load(Ordering::SeqCst);
        match held {
            true => Reply::too_many("1"),
            false => serve(&served, request),
        }
    })
    .await;
    let yaml = all_kinds(&api.url()).replace("start: '2026-01-01', sorted", "sorted");
    let bench = bench(&api.url()).env("DRAWOFF_STREAM", "sorted");
    bench.connector("shop", &yaml);
    let shop = Shop { shelf, api, bench };
    // It is the third of the streams.
    let mut owner = shop.task("x", 2, 0);
    let reads = || {
        let bench = &shop.bench;
        let database = rusqlite::Connection::open(bench.path("drawoff.db")).ok()?;
        let sql = "SELECT COUNT(*) FROM sorted";
        let count = database.query_row(sql, [], |r| r.get::<_, i64>(0)).ok()?;
        (count > 0).then_some(count)
    };
    assert!(owner.until(|| reads().is_some()).await, "{}", owner.said());
    for index in [0, 1] {
        // They need not wait for it.
        shop.task("x", index, 0).end().await.exits(0);
    }
    assert!(owner.ended().is_none());
    owner.kill().await;
    open.store(true, Ordering::SeqCst);
    shop.task("x", 2, 1).end().await.exits(0);
    assert_eq!(shop.table("sorted"), rows(&shop.shelf));
    assert_eq!(shop.outcomes("sorted"), ["done"]);
}

#[tokio::test]
async fn a_part_that_cannot_be_read_does_not_keep_its_task_from_the_others() {
    let shelf = shelf();
    let served = shelf.clone();
    let healed = Arc::new(AtomicBool::new(false));
    let well = healed.clone();
    let api = FakeApi::start(move |request| {
        let since = request.param("since").unwrap_or_default();
        // The fourth window's.
        match since.starts_with("2026-03-0") && !well.load(Ordering::SeqCst) {
            true => Reply::status(400),
            false => serve(&served, request),
        }
    })
    .await;
    let bench = bench(&api.url());
    let shop = Shop { shelf, api, bench };
    let args = ["--source", "shop", "--stream", "windows", "--shard", "0/2"];
    let ran = shop.bench.run(&args).await.exits(1);
    assert!(ran.stderr.contains("going on with the others"), "{ran}");
    let found = shop.table("windows");
    let newest = found.iter().filter_map(|r| r["updated_at"].as_i64()).max();
    assert!(newest > Some(micros("2026-09-01T00:00:00")), "{found:?}");
    // The next execution's tasks read all others, too, and get no further until it can be read.
    let task = async |shard: &str, code: i32| {
        let args = ["--source", "shop", "--stream", "windows", "--shard", shard];
        let environment = [("DRAWOFF_EXECUTION", "next")];
        let task = shop.bench.spawn_with(&args, &environment);
        task.end().await.exits(code);
    };
    task("1/2", 1).await;
    let found = shop.table("windows").len();
    assert!(found > 70 && found < 90, "{found}");
    healed.store(true, Ordering::SeqCst);
    for shard in ["1/2", "0/2"] {
        task(shard, 0).await;
    }
    assert_eq!(shop.table("windows"), rows(&shop.shelf));
    assert_eq!(shop.checkpoints(), ["windows"]);
}

#[tokio::test]
async fn a_backfill_at_work_and_tasks_of_a_round_exclude_each_other() {
    let shop = Shop::answering_after(Duration::from_millis(300)).await;
    shop.spans(&[]).await.exits(0);
    let before = shop.api.count();
    let backfill = |shard: &'static str| {
        let span = ["--since", "2026-02-01", "--until", "2026-08-01"];
        let args = ["--source", "shop", "--stream", "spans", "--shard", shard];
        [&args[..], &span].concat()
    };
    let mut task = shop.bench.spawn(&backfill("0/2"));
    assert!(task.until(|| shop.api.count() > before).await);
    let round = shop.spans(&["--shard", "0/2"]).await.exits(75);
    assert!(
        round
            .all()
            .contains("it is split with `--since 2026-02-01T00:00:00Z` and `--until"),
        "{round}"
    );
    task.end().await.exits(0);
    // Nobody is at work on what is left of it.
    shop.shelf.change(|rows| rows.push(item(91, 456_000)));
    for shard in ["0/2", "1/2"] {
        shop.spans(&["--shard", shard]).await.exits(0);
    }
    shop.is_right();
    shop.bench.run(&backfill("1/2")).await.exits(0);
    shop.is_right();
}

#[tokio::test]
async fn what_was_never_finished_blocks_no_later_execution() {
    let shop = Shop::open().await;
    shop.spans(&[]).await.exits(0);
    let task = async |execution: &str, shard: &str, more: &[&str]| {
        let args = ["--source", "shop", "--stream", "spans", "--shard", shard];
        let environment = [("DRAWOFF_EXECUTION", execution)];
        let args = [&args[..], more].concat();
        let ran = shop.bench.spawn_with(&args, &environment).end().await;
        ran.exits(0)
    };
    // Half a round, then half a backfill, and neither comes back.
    task("round", "0/2", &[]).await;
    let span = ["--since", "2026-02-01", "--until", "2026-08-01"];
    task("backfill", "1/2", &span).await;
    shop.shelf.change(|rows| rows.push(item(91, 456_000)));
    for shard in ["0/2", "1/2"] {
        task("next", shard, &[]).await;
    }
    shop.is_right();
    shop.shelf
        .change(|rows| rows[40]["name"] = "renamed".into());
    for shard in ["0/2", "1/2"] {
        task("again", shard, &span).await;
    }
    shop.is_right();
}
