//! Tasks that are killed at any moments.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use super::place::Place;
use super::{PARENTS, TASKS, serve, serve_named, shelf, start};
use crate::support::binary::{Bench, Running, moment};
use crate::support::emulator::Emulator;
use crate::support::fake_api::FakeApi;
use crate::support::shop::item;

/// How often an execution is disturbed, for each destination, unless `SHARD_ROUNDS` says otherwise.
const ROUNDS: usize = 5;

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
    for number in 0.. {
        // By chance, none of the first was killed.
        if number >= rounds(2) && (killed > 0 || number >= 20) {
            break;
        }
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
