//! Tasks that are killed at any moments.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::place::Place;
use super::{PARENTS, TASKS, all_kinds, serve, serve_named, shelf, start};
use crate::support::binary::{Bench, Running, STOPS_WITHIN, moment};
use crate::support::emulator::Emulator;
use crate::support::fake_api::{FakeApi, Received, Reply};
use crate::support::shop::{item, time};

/// How often an execution is disturbed, for each destination, unless `SHARD_ROUNDS` says otherwise.
const ROUNDS: usize = 5;

/// An execution whose tasks are killed at any moments, or asked to end, and started again, as Cloud Run does,
/// until all have ended well. How many were at work then.
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
                    match rand::random() {
                        true => {
                            task.kill().await;
                            left.push(index);
                        }
                        false => left.extend(stopped(task).await.then_some(index)),
                    }
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

/// Asks a task to end, which it does in time; whether it has work left.
async fn stopped(task: Running) -> bool {
    let asked = Instant::now();
    task.signal("TERM");
    let ran = task.end().await;
    assert!(
        asked.elapsed() < STOPS_WITHIN,
        "{:?}: {ran}",
        asked.elapsed()
    );
    match ran.code {
        Some(0) => false,
        // By the signal itself: it had just been started.
        Some(75) | None => true,
        _ => panic!("{ran}"),
    }
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
            let peace = super::bench(&api.url());
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
    /// Backfills into one dataset. What killed tasks leave staged makes the emulator slow.
    const TOGETHER: usize = 5;
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
    for number in 0.. {
        // By chance, none of the first was killed.
        if number >= rounds(2) && (killed > 0 || number >= 20) {
            break;
        }
        if number > 0 && number % TOGETHER == 0 {
            emulator.delete_datasets(std::thread::current().id());
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

/// Records 0 to this, each changed five minutes after the one before.
const MANY: i64 = 60_000;

/// Serves as many records as that by page, those between `since` and `until`, both included.
fn many(request: &Received) -> Reply {
    let start: jiff::Timestamp = time(0).parse().unwrap();
    let minute = |name: &str| {
        let at: jiff::Timestamp = request.param(name)?.parse().ok()?;
        Some((at.as_second() - start.as_second()).div_euclid(60))
    };
    let since = minute("since").map_or(0, |m| (m + 4).div_euclid(5).max(0));
    let until = minute("until").map_or(MANY - 1, |m| m.div_euclid(5).min(MANY - 1));
    let size = request.number_param("per_page").unwrap() as i64;
    let from = since + (request.number_param("page").unwrap() as i64 - 1) * size;
    let rows: Vec<Value> = (from..(from + size).min(until + 1))
        .map(|id| item(id, id * 5))
        .collect();
    let total = (until + 1 - since).max(0);
    Reply::json(&json!({"data": rows, "total": total, "total_pages": (total + size - 1) / size}))
}

/// A backfill of many rows, of which a task that is killed has thousands staged.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_killed_and_a_large_backfill_is_loaded_once() {
    let emulator = Emulator::get();
    let api = FakeApi::start(many).await;
    let connector = all_kinds(&api.url()).replace("size: 10}", "size: 1000}");
    // By chance, none is killed.
    loop {
        let dataset = emulator.dataset("large");
        let place = Place::BigQuery(emulator, dataset.clone());
        let bench = place
            .bench(&api.url())
            .env("DRAWOFF_STREAM", "spans")
            .env("DRAWOFF_SLICE_ROWS", "10000");
        bench.connector("shop", &connector);
        let killed = disturbed(&bench, &place, "large", Duration::from_secs(20)).await;
        let found = emulator.query(&format!(
            "SELECT COUNT(*) AS n, COUNT(DISTINCT id) AS ids, MIN(id) AS first, MAX(id) AS last, SUM(price) AS price,
               COUNTIF(name = CONCAT('item ', CAST(id AS STRING))) AS named,
               COUNTIF(updated_at = TIMESTAMP_ADD(TIMESTAMP '2026-01-01', INTERVAL id * 5 MINUTE)) AS dated
             FROM {dataset}.spans"
        ));
        let want = json!([{
            "n": MANY, "ids": MANY, "first": 0, "last": MANY - 1, "price": MANY * (MANY - 1) / 2 * 10,
            "named": MANY, "dated": MANY,
        }]);
        assert_eq!(found, want);
        assert_eq!(place.checkpoints(&bench), ["spans"]);
        if killed > 0 {
            break;
        }
    }
}
