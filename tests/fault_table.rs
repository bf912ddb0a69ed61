//! Every call of a slice into BigQuery under every fault, for every disposition and write method: after
//! each case the table must hold exactly the rows that it should, at the checkpoint that it should, and
//! no staging table may be left.
//!
//! The table is data: [`POINTS`], [`FAULTS`], [`DISPOSITIONS`], [`METHODS`], and [`excluded`], which
//! says what cannot meet and why. Kills and lasting faults are tried at every point too, for one
//! disposition each ([`KILLED`], [`GIVEN_UP`]): they cost a second and more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use drawoff::clock::SharedClock;
use drawoff::destination::bigquery::{BigQuery, Target};
use drawoff::destination::{
    BatchKind, Destination, Disposition, Published, TableSpec, WriteMethod,
};
use drawoff::error::{ErrorKind, Result};
use drawoff::google::Google;
use drawoff::schema::landing::column;
use drawoff::schema::{Column, ColumnType, Mode, TableSchema};
use drawoff::state::{Checkpoint, CheckpointKey, CheckpointUpdate, SliceFacts};
use gcloud_sdk::tonic::Code;
use serde_json::{Value, json};

use crate::support::binary::{Bench, Ran, moment};
use crate::support::clock::AheadClock;
use crate::support::emulator::{Emulator, OwnEmulator, PROJECT};
use crate::support::fake_api::FakeApi;
use crate::support::faults::{gate, grpc};
use crate::support::hasty_clock::HastyClock;
use crate::support::rows::batch;
use crate::support::shop::{COLUMNS, Shelf, connector, item, time};

/// Where a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Point {
    Rest(gate::Call),
    Grpc(grpc::Call),
}

/// The calls of a slice, in their order.
const POINTS: [Point; 9] = [
    Point::Rest(gate::Call::CreateStaging),
    Point::Grpc(grpc::Call::Create),
    Point::Grpc(grpc::Call::Append),
    Point::Grpc(grpc::Call::Finalize),
    Point::Grpc(grpc::Call::Commit),
    Point::Rest(gate::Call::Publish),
    Point::Rest(gate::Call::Job),
    Point::Rest(gate::Call::Results),
    Point::Rest(gate::Call::DropStaging),
];

/// What strikes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// 503 with a page for people, UNAVAILABLE.
    Refused,
    /// The connection is cut before the call arrives.
    Cut,
    /// It arrives, and the connection is cut instead of the answer.
    AnswerLost,
}

const FAULTS: [Fault; 3] = [Fault::Refused, Fault::Cut, Fault::AnswerLost];

const DISPOSITIONS: [Disposition; 4] = [
    Disposition::Append,
    Disposition::Merge,
    Disposition::Replace,
    Disposition::Scd2,
];

const METHODS: [WriteMethod; 1] = [WriteMethod::StorageWrite];

/// Why a slice of that kind never comes by that point; `None` where it does.
fn excluded(_: Disposition, method: WriteMethod, point: Point) -> Option<&'static str> {
    match (method, point) {
        (WriteMethod::StorageWrite, _) => None,
        (_, Point::Grpc(_)) => Some("rows come in by REST"),
        _ => None,
    }
}

/// Kills show most where a row that comes twice is there twice.
const KILLED: (Disposition, WriteMethod) = (Disposition::Append, WriteMethod::StorageWrite);

/// What is given up is tried again by another run, which must not find half of it.
const GIVEN_UP: (Disposition, WriteMethod) = (Disposition::Merge, WriteMethod::StorageWrite);

/// Both surfaces of an emulator behind proxies.
struct Proxies {
    rest: gate::RestGate,
    grpc: grpc::GrpcProxy,
}

impl Proxies {
    async fn of(emulator: &Emulator) -> Self {
        Self {
            rest: gate::RestGate::start(emulator.rest()).await,
            grpc: grpc::GrpcProxy::start(emulator.grpc()).await,
        }
    }

    /// A job is only asked for where the answer to its insertion was lost.
    fn prepare(&self, point: Point) {
        if point == Point::Rest(gate::Call::Job) {
            self.rest.on(gate::Call::Publish, gate::Fault::LoseAnswer);
        }
    }

    fn arm(&self, point: Point, fault: Fault) {
        match point {
            Point::Rest(call) => self.rest.on(
                call,
                match fault {
                    Fault::Refused => gate::Fault::Refuse,
                    Fault::Cut => gate::Fault::Cut,
                    Fault::AnswerLost => gate::Fault::LoseAnswer,
                },
            ),
            Point::Grpc(call) => {
                let fault = match fault {
                    Fault::Refused => grpc::Fault::Refuse(Code::Unavailable),
                    Fault::Cut => grpc::Fault::Cut,
                    Fault::AnswerLost => grpc::Fault::LoseAnswer,
                };
                self.grpc.on(call, 1, fault);
            }
        }
    }

    fn hold(&self, point: Point, arrives: bool) {
        match (point, arrives) {
            (Point::Rest(call), false) => self.rest.on(call, gate::Fault::HoldBefore),
            (Point::Rest(call), true) => self.rest.on(call, gate::Fault::HoldAfter),
            (Point::Grpc(call), false) => drop(self.grpc.on(call, 1, grpc::Fault::HoldBefore)),
            (Point::Grpc(call), true) => drop(self.grpc.on(call, 1, grpc::Fault::HoldAfter)),
        }
    }

    /// Calls held so far.
    fn held(&self) -> usize {
        self.rest.held() + self.grpc.held()
    }

    /// Faults that nothing has met.
    fn left(&self) -> usize {
        self.rest.left() + self.grpc.left()
    }

    fn clear(&self) {
        self.rest.clear();
        self.grpc.clear();
    }
}

fn destination(
    emulator: &Emulator,
    proxies: &Proxies,
    dataset: &str,
    clock: SharedClock,
) -> BigQuery {
    let google = emulator.settings_behind(&proxies.rest.url, &proxies.grpc.address);
    let target = Target {
        project: PROJECT.into(),
        dataset: dataset.to_owned(),
    };
    BigQuery::new(
        Google::new(google, clock).unwrap(),
        target,
        Default::default(),
    )
    .unwrap()
}

/// A table into which slices go one after the other, and what should be in it.
struct Scene<'a> {
    emulator: &'a Emulator,
    dataset: String,
    proxies: Arc<Proxies>,
    to: BigQuery,
    table: TableSpec,
    /// Publishes so far.
    version: u64,
    /// Slices so far, whether or not they came through.
    slices: i64,
    rows: Vec<(i64, String)>,
}

impl<'a> Scene<'a> {
    async fn new(emulator: &'a Emulator, disposition: Disposition, method: WriteMethod) -> Self {
        let dataset = emulator.dataset("faults");
        let proxies = Arc::new(Proxies::of(emulator).await);
        let to = destination(emulator, &proxies, &dataset, HastyClock::new());
        let mut columns = vec![
            Column::new("id", ColumnType::Int64).mode(Mode::Required),
            Column::new("text", ColumnType::String),
        ];
        if disposition == Disposition::Scd2 {
            columns.extend([
                Column::new(column::VALID_FROM, ColumnType::Timestamp),
                Column::new(column::VALID_TO, ColumnType::Timestamp),
                Column::new(column::ROW_HASH, ColumnType::String),
            ]);
        }
        let table = TableSpec {
            name: "things".into(),
            stream: "things".into(),
            schema: TableSchema { columns },
            disposition,
            write_method: method,
            primary_key: match disposition.is_keyed() {
                true => vec!["id".into()],
                false => vec![],
            },
            ..TableSpec::default()
        };
        to.prepare(&table).await.unwrap();
        Self {
            emulator,
            dataset,
            proxies,
            to,
            table,
            version: 0,
            slices: 0,
            rows: Vec::new(),
        }
    }

    /// The rows of the next slice: some of them have keys of the slice before.
    fn next(&self) -> Vec<(i64, String)> {
        let n = self.slices;
        (n * 2..n * 2 + 5)
            .map(|id| (id, format!("slice {n}")))
            .collect()
    }

    async fn publish(&mut self) -> Result<Published> {
        let rows = self.next();
        let run = format!("run{}", self.slices);
        self.slices += 1;
        // The columns of history are only read where the table has them.
        let from = format!("2026-01-01T{}.000000", time_of_day(self.slices));
        let values: Vec<Value> = rows
            .iter()
            .map(|(id, text)| {
                json!({"id": id, "text": text, column::ROW_HASH: text, column::VALID_FROM: from})
            })
            .collect();
        let mut slice = self.to.open(&self.table, &run, "0001").await?;
        let staged = slice
            .stage(BatchKind::Rows, batch(&self.table.schema, &values))
            .await;
        if let Err(error) = staged {
            slice.abandon().await?;
            return Err(error);
        }
        let published = slice
            .publish(&CheckpointUpdate {
                key: CheckpointKey {
                    source: "src".into(),
                    stream: "things".into(),
                },
                checkpoint: Checkpoint {
                    cursor: Some(run.clone()),
                    ..Checkpoint::default()
                },
                expected_version: self.version,
                run_id: run,
                facts: SliceFacts::default(),
            })
            .await?;
        self.version += 1;
        match self.table.disposition {
            Disposition::Append => self.rows.extend(rows),
            Disposition::Replace => self.rows = rows,
            // Each is a new version, which ends the one before.
            Disposition::Scd2 => {
                for (id, text) in &mut self.rows {
                    if !text.ends_with(ENDED) && rows.iter().any(|new| new.0 == *id) {
                        text.push_str(ENDED);
                    }
                }
                self.rows.extend(rows);
            }
            Disposition::Merge => {
                let mut all: BTreeMap<i64, String> = self.rows.drain(..).collect();
                all.extend(rows);
                self.rows = all.into_iter().collect();
            }
        }
        Ok(published)
    }

    /// Rows and checkpoint are those of the publishes that came through. Answers with the number of
    /// staging tables.
    fn check(&self, case: &str) -> usize {
        let dataset = &self.dataset;
        let text = match self.table.disposition {
            Disposition::Scd2 => format!("CONCAT(text, IF(_valid_to IS NULL, '', '{ENDED}'))"),
            _ => "text".to_owned(),
        };
        let answers = tokio::task::block_in_place(|| {
            self.emulator.ask(vec![
                json!({"query": format!(
                    "SELECT 'row' AS kind, id, {text} AS text FROM `{dataset}.things`
                     UNION ALL SELECT 'checkpoint', version, JSON_VALUE(state, '$.cursor')
                     FROM `{dataset}._drawoff_checkpoints` WHERE version > 0"
                )}),
                json!({"tables": dataset}),
            ])
        });
        let (mut found, mut checkpoint) = (Vec::new(), None);
        for row in answers[0].as_array().unwrap() {
            let pair = (
                row["id"].as_i64().unwrap(),
                row["text"].as_str().unwrap().to_owned(),
            );
            match row["kind"] == "row" {
                true => found.push(pair),
                false => assert_eq!(checkpoint.replace(pair), None, "{case}: two checkpoints"),
            }
        }
        found.sort();
        let mut want = self.rows.clone();
        want.sort();
        assert_eq!(found, want, "{case}");
        let version = checkpoint.as_ref().map_or(0, |c| c.0);
        assert_eq!(version, self.version as i64, "{case}");
        staging(&answers[1])
    }

    /// A day and an hour later, what is left staged is cleared away by whoever comes.
    async fn swept(&self) {
        let clock = AheadClock::new();
        clock.advance(Duration::from_secs(25 * 3600));
        let later = destination(self.emulator, &self.proxies, &self.dataset, clock);
        later.prepare(&self.table).await.unwrap();
        assert_eq!(self.check("later"), 0);
    }
}

/// Shows of a version that there is a newer one.
const ENDED: &str = ", ended";

/// A time for each slice.
fn time_of_day(slice: i64) -> String {
    format!("{:02}:{:02}:00", slice / 60, slice % 60)
}

fn staging(tables: &Value) -> usize {
    let tables = tables.as_array().unwrap().iter();
    tables
        .filter(|t| t.as_str().unwrap().starts_with("_drawoff_stage_"))
        .count()
}

/// A fault that passes is not noticed.
async fn passing(disposition: Disposition, method: WriteMethod) {
    let mut scene = Scene::new(Emulator::get(), disposition, method).await;
    for point in POINTS {
        if excluded(disposition, method, point).is_some() {
            continue;
        }
        for fault in FAULTS {
            let case = format!("{disposition:?} by {method:?}, {fault:?} at {point:?}");
            scene.proxies.prepare(point);
            scene.proxies.arm(point, fault);
            let published = scene.publish().await;
            assert_eq!(published.expect(&case).rows, 5, "{case}");
            assert_eq!(scene.proxies.left(), 0, "{case}: nothing came by");
            assert_eq!(scene.check(&case), 0, "{case}: something is left staged");
        }
    }
    assert_eq!(scene.proxies.grpc.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn faults_that_pass() {
    let mut cases = Vec::new();
    for disposition in DISPOSITIONS {
        for method in METHODS {
            cases.push(tokio::spawn(passing(disposition, method)));
        }
    }
    for case in cases {
        case.await.unwrap();
    }
}

/// A fault that lasts ends the slice, or is of no more consequence; another run does it all.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn faults_that_last() {
    use gate::Call::{DropStaging, Job, Publish, Results};
    let (disposition, method) = GIVEN_UP;
    let mut scene = Scene::new(Emulator::get(), disposition, method).await;
    let mut left = 0;
    for point in POINTS {
        let case = format!("{disposition:?} by {method:?}, always at {point:?}");
        scene.proxies.prepare(point);
        for _ in 0..30 {
            scene.proxies.arm(point, Fault::Refused);
        }
        let published = scene.publish().await;
        assert!(scene.proxies.left() < 30, "{case}: nothing came by");
        scene.proxies.clear();
        match point {
            // The checkpoint says that it went through; the staging table cannot be dropped.
            Point::Rest(Job | Results | DropStaging) => {
                assert_eq!(published.expect(&case).rows, 5, "{case}");
            }
            _ => {
                let error = published.expect_err(&case);
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{case}: {error:?}");
            }
        }
        // Of an unclear end the job may still need the table.
        left += usize::from(matches!(point, Point::Rest(Publish | DropStaging)));
        assert_eq!(scene.check(&case), left, "{case}: staging tables");
        assert_eq!(scene.publish().await.expect(&case).rows, 5, "{case}");
        assert_eq!(scene.check(&case), left, "{case}: staging tables");
    }
    scene.swept().await;
}

/// A connector whose stream `items` has this disposition.
fn bench(
    api: &FakeApi,
    disposition: Disposition,
    method: WriteMethod,
    rest: &str,
    storage: &str,
) -> Bench {
    let word = |value: Value| value.as_str().unwrap().to_owned();
    let disposition_word = word(serde_json::to_value(disposition).unwrap());
    let method = word(serde_json::to_value(method).unwrap());
    let incremental =
        "incremental: {cursor: updated_at, since_param: since, sorted: true}, ".to_owned();
    let more = match disposition {
        Disposition::Append => format!("primary_key: ~, {incremental}"),
        Disposition::Replace => String::new(),
        _ => incremental,
    };
    let stream = format!(
        "items: {{{more}table: {{disposition: {disposition_word}, write_method: {method}}}}}"
    );
    let bench = Bench::with("shop", &connector(&api.url(), &[&stream]))
        .env("BIGQUERY_EMULATOR_HOST", rest)
        .env("BIGQUERY_STORAGE_EMULATOR_HOST", storage);
    bench.schema("shop", "items", &COLUMNS);
    bench
}

/// Ids of the rows, ascending; the cursor of the checkpoint; the number of staging tables. Rows and
/// checkpoint are of one moment.
fn landed(emulator: &Emulator, dataset: &str) -> (Vec<i64>, Option<String>, usize) {
    let answers = tokio::task::block_in_place(|| {
        emulator.ask(vec![
            json!({"query": format!(
                "SELECT id, NULL AS cursor FROM `{dataset}.items` UNION ALL
                 SELECT NULL, JSON_VALUE(state, '$.cursor') FROM `{dataset}._drawoff_checkpoints`
                 WHERE version > 0 ORDER BY id"
            )}),
            json!({"tables": dataset}),
        ])
    });
    let rows = answers[0].as_array().unwrap();
    let ids = rows.iter().filter_map(|r| r["id"].as_i64()).collect();
    let mut checkpoints = rows.iter().filter(|r| r["id"].is_null());
    let cursor = checkpoints
        .next()
        .and_then(|r| r["cursor"].as_str().map(str::to_owned));
    assert!(checkpoints.next().is_none(), "two checkpoints");
    (ids, cursor, staging(&answers[1]))
}

/// `kill -9` before and after each call arrives; the next run finds what it needs and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_at_every_call() {
    let (disposition, method) = KILLED;
    let emulator = Emulator::get();
    let dataset = emulator.dataset("kills");
    let proxies = Proxies::of(emulator).await;
    let shelf = Shelf::of(3);
    let served = shelf.clone();
    let api = FakeApi::start(move |request| served.serve(request)).await;
    let bench = bench(
        &api,
        disposition,
        method,
        &proxies.rest.url,
        &proxies.grpc.address,
    );
    let to = format!("bigquery:{PROJECT}.{dataset}");
    let args = ["--source", "shop", "--destination", &to];
    // The rows are exactly those up to the checkpoint, whenever one looks.
    let consistent = |case: &str| {
        let (ids, cursor, _) = landed(emulator, &dataset);
        let last = *ids.last().unwrap_or(&0);
        assert_eq!(ids, (1..=last).collect::<Vec<_>>(), "{case}");
        let cursor = cursor.map(|c| c.parse().unwrap());
        let want: Option<jiff::Timestamp> = (last > 0).then(|| time(last).parse().unwrap());
        assert_eq!(cursor, want, "{case}");
        last
    };
    let mut all = 3;
    for point in POINTS {
        if excluded(disposition, method, point).is_some() {
            continue;
        }
        for arrives in [false, true] {
            let when = if arrives { "after" } else { "before" };
            let case = format!("killed {when} {point:?}");
            proxies.prepare(point);
            proxies.hold(point, arrives);
            let before = proxies.held();
            let mut run = bench.spawn(&args);
            let held = run.until(|| proxies.held() > before).await;
            if !held {
                panic!("{case}: it did not come by: {}", run.end().await);
            }
            run.kill().await;
            assert_eq!(proxies.left(), 0, "{case}");
            consistent(&case);
            bench.run(&args).await.exits(0);
            assert_eq!(consistent(&case), all, "{case}, and run again");
            all += 2;
            shelf.change(|rows| rows.extend([item(all - 1, all - 1), item(all, all)]));
        }
    }
}

/// Two runs at once: at most one of them is told to try again, and nothing is there twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_runs_at_once() {
    let emulator = Emulator::get();
    for disposition in DISPOSITIONS {
        for method in METHODS {
            let case = format!("{disposition:?} by {method:?}");
            let dataset = emulator.dataset("twice");
            let shelf = Shelf::of(20);
            let api = FakeApi::start(move |request| shelf.serve(request)).await;
            let bench = bench(&api, disposition, method, emulator.rest(), emulator.grpc());
            let to = format!("bigquery:{PROJECT}.{dataset}");
            let args = ["--source", "shop", "--destination", &to];
            let (one, two) = tokio::join!(bench.run(&args), bench.run(&args));
            let failed: Vec<Ran> = [one, two]
                .into_iter()
                .filter(|ran| ran.code != Some(0))
                .collect();
            assert!(failed.len() <= 1, "{case}: {}\n{}", failed[0], failed[1]);
            for ran in failed {
                assert!(matches!(ran.code, Some(1 | 75)), "{case}: {ran}");
                // By the lease, or by the version of the checkpoint.
                let told = ["holds its lease", "another run"];
                assert!(told.iter().any(|t| ran.all().contains(t)), "{case}: {ran}");
            }
            let (ids, _, staged) = landed(emulator, &dataset);
            assert_eq!(ids, (1..=20).collect::<Vec<_>>(), "{case}");
            assert_eq!(staged, 0, "{case}");
        }
    }
}

/// The service loses what was appended and not committed. That is an error, and the next slice is
/// whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn restarted_between_append_and_commit() {
    let own = tokio::task::block_in_place(OwnEmulator::start);
    let mut scene = Scene::new(
        &own.emulator,
        Disposition::Append,
        WriteMethod::StorageWrite,
    )
    .await;
    scene.publish().await.unwrap();
    let proxies = scene.proxies.clone();
    proxies.hold(Point::Grpc(grpc::Call::Finalize), false);
    let restart = async {
        while proxies.held() == 0 {
            moment(Duration::from_millis(5)).await;
        }
        tokio::task::block_in_place(|| own.restart());
        proxies.grpc.release();
    };
    let (published, ()) = tokio::join!(scene.publish(), restart);
    let error = published.unwrap_err();
    assert!(
        error.to_string().contains("could not end the write stream"),
        "{error:?}"
    );
    assert_eq!(scene.check("restarted"), 0);
    scene.publish().await.unwrap();
    assert_eq!(scene.check("another slice"), 0);
}
