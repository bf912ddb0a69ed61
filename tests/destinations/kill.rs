//! Destinations under `kill -9`: a child process publishes slice after slice until it is killed; then
//! the rows must be exactly those of the checkpoint's version.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use drawoff::destination::files::FilesDestination;
use drawoff::destination::sqlite::SqliteDestination;
use drawoff::destination::{BatchKind, Destination, Disposition};
use serde_json::Value;
use tempfile::TempDir;

use super::cases::{people, person, update};
use super::{parquet, sqlite};
use crate::support::rows::{batch, full, sorted};

const PLACE: &str = "DRAWOFF_TEST_KILL_PLACE";
const ROUNDS: u64 = 6;

fn open(place: &Path) -> Box<dyn Destination> {
    match place.extension() {
        Some(_) => Box::new(SqliteDestination::open(place).unwrap()),
        None => Box::new(FilesDestination::open(place).unwrap()),
    }
}

/// Ids of the rows that the publish of this version merges: some new, some of the version before.
fn ids(version: u64) -> std::ops::Range<i64> {
    let first = version as i64 * 20;
    first - 10..first + 20
}

async fn version(to: &dyn Destination) -> u64 {
    to.checkpoints("src")
        .await
        .unwrap()
        .get(&update(0, "").key)
        .map_or(0, |s| s.version)
}

/// Not a test of its own: what the other ones run and kill.
#[tokio::test]
#[ignore = "runs until it is killed; the tests beside it start it"]
async fn child() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else {
        return;
    };
    let table = people(Disposition::Merge);
    let to = open(&place);
    to.prepare(&table).await.unwrap();
    let mut at = version(&*to).await;
    loop {
        let run = std::process::id().to_string();
        let mut slice = to.open(&table, &run, &format!("s{at}")).await.unwrap();
        let rows: Vec<Value> = ids(at).map(|id| person(id, &at.to_string(), 1)).collect();
        for rows in rows.chunks(10) {
            slice
                .stage(BatchKind::Rows, batch(&table.schema, rows))
                .await
                .unwrap();
        }
        slice.publish(&update(at, &run)).await.unwrap();
        at += 1;
    }
}

async fn kill_and_check(place: &Path, read: impl Fn() -> Option<Vec<Value>>) {
    let table = people(Disposition::Merge);
    let mut at = 0;
    for round in 1..=ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "destinations::kill::child"])
            .env(PLACE, place)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Whatever it is at when a few more versions are seen.
        let watch = open(place);
        let deadline = Instant::now() + Duration::from_secs(60);
        while version(&*watch).await < at + round {
            assert!(child.try_wait().unwrap().is_none(), "the child ended");
            assert!(Instant::now() < deadline, "the child does not get on");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        drop(watch);

        let to = open(place);
        to.prepare(&table).await.unwrap();
        at = version(&*to).await;
        assert!(at >= round);
        let mut want: Vec<Value> = (-10..at as i64 * 20)
            .map(|id| {
                let newest = (0..at).rfind(|v| ids(*v).contains(&id)).unwrap();
                person(id, &newest.to_string(), 1)
            })
            .map(|row| full(&table.schema.columns, &row))
            .collect();
        want = sorted(want);
        assert_eq!(sorted(read().unwrap()), want, "after version {at}");
    }
}

#[tokio::test]
async fn sqlite_is_as_its_checkpoint_says() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("rows.db");
    let schema = people(Disposition::Merge).schema;
    kill_and_check(&path, || sqlite::read(&path, "people", &schema)).await;
    drop(open(&path));
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["rows.db"], "nothing is left beside it");
}

#[tokio::test]
async fn parquet_is_as_its_checkpoint_says() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("rows");
    let schema = people(Disposition::Merge).schema;
    kill_and_check(&path, || parquet::read(&path, "people", &schema)).await;
    let staging = path.join("_drawoff/staging");
    assert_eq!(std::fs::read_dir(staging).unwrap().count(), 0);
}
