//! The Storage Write API under fault: a proxy in front of the emulator refuses rows as BigQuery does,
//! answers with every status, loses answers and cuts connections; the rows are read back exactly.

use std::collections::BTreeSet;
use std::time::Duration;

use drawoff::destination::bigquery::{BigQuery, BigQuerySettings, Target};
use drawoff::destination::rejects;
use drawoff::destination::{BatchKind, Destination, Disposition, Published, TableSpec};
use drawoff::error::{Error, ErrorKind};
use drawoff::google::Google;
use drawoff::schema::decode::Reject;
use drawoff::schema::{Column, ColumnType, Mode, TableSchema};
use drawoff::state::{Checkpoint, CheckpointKey, CheckpointUpdate, SliceFacts};
use gcloud_sdk::tonic::Code;
use serde_json::{Value, json};

use crate::support::binary::moment;
use crate::support::emulator::{Emulator, PROJECT};
use crate::support::faults::grpc::{Call, Fault, GrpcProxy};
use crate::support::hasty_clock::HastyClock;
use crate::support::rows::batch;

/// Requests of about twenty rows of [`row`]. 64 KiB are kept free in each.
const REQUEST: usize = (64 << 10) + 2_600;

fn things(disposition: Disposition) -> TableSpec {
    TableSpec {
        name: "things".into(),
        stream: "all things".into(),
        schema: TableSchema {
            columns: vec![
                Column::new("id", ColumnType::Int64).mode(Mode::Required),
                Column::new("step", ColumnType::Int64),
                Column::new("text", ColumnType::String),
                Column::new("_extracted_at", ColumnType::Timestamp).mode(Mode::Required),
            ],
        },
        disposition,
        primary_key: vec!["id".into()],
        ..TableSpec::default()
    }
}

fn row(id: i64, step: u64) -> Value {
    json!({
        "id": id, "step": step, "text": format!("{id:080}"),
        "_extracted_at": "2026-01-02T03:04:05.000006Z",
    })
}

/// Steps and ids.
type Ids = Vec<(u64, i64)>;

/// A dataset behind a proxy.
struct Scene {
    dataset: String,
    proxy: GrpcProxy,
    to: BigQuery,
    table: TableSpec,
    step: u64,
}

impl Scene {
    async fn new(name: &str, disposition: Disposition, request: usize) -> Self {
        Self::with(name, disposition, request, 8 << 20).await
    }

    /// With that limit on the bytes that are sent and not acknowledged.
    async fn with(name: &str, disposition: Disposition, request: usize, in_flight: usize) -> Self {
        let emulator = Emulator::get();
        let dataset = emulator.dataset(name);
        let proxy = GrpcProxy::start(emulator.grpc()).await;
        let google = emulator.settings_behind(emulator.rest(), &proxy.address);
        let target = Target {
            project: PROJECT.into(),
            dataset: dataset.clone(),
        };
        let settings = BigQuerySettings {
            request_bytes: Some(request),
            in_flight_bytes: in_flight,
            ..Default::default()
        };
        let google = Google::new(google, HastyClock::new()).unwrap();
        let to = BigQuery::new(google, target, settings).unwrap();
        let table = things(disposition);
        to.prepare(&table).await.unwrap();
        Self {
            dataset,
            proxy,
            to,
            table,
            step: 0,
        }
    }

    /// Publishes a slice of rows 0 to `count`.
    async fn publish(&mut self, count: i64) -> Result<Published, Error> {
        let rows: Vec<Value> = (0..count).map(|id| row(id, self.step)).collect();
        let run = format!("run{}", self.step);
        let mut slice = self.to.open(&self.table, &run, "s").await.unwrap();
        if let Err(error) = slice
            .stage(BatchKind::Rows, batch(&self.table.schema, &rows))
            .await
        {
            slice.abandon().await.unwrap();
            return Err(error);
        }
        let update = CheckpointUpdate {
            key: CheckpointKey {
                source: "src".into(),
                stream: "all things".into(),
            },
            checkpoint: Checkpoint::default(),
            expected_version: self.step,
            run_id: run,
            lease: "src".into(),
            facts: SliceFacts::default(),
        };
        let published = slice.publish(&update).await?;
        self.step += 1;
        Ok(published)
    }

    /// The ids in the table and in the records of its rejects, by step.
    fn read(&self) -> (Ids, Ids) {
        let answers = Emulator::get().ask(vec![
            json!({"query": format!("SELECT step, id FROM `{}.things` ORDER BY step, id", self.dataset)}),
            json!({"query": format!("SELECT * FROM `{}.things__rejects`", self.dataset)}),
            json!({"tables": self.dataset}),
        ]);
        let pair = |row: &Value| (row["step"].as_u64().unwrap(), row["id"].as_i64().unwrap());
        let rows = answers[0].as_array().unwrap().iter().map(pair).collect();
        let mut rejects: Vec<(u64, i64)> = answers[1]
            .as_array()
            .unwrap()
            .iter()
            .map(|reject| {
                let record: Value =
                    serde_json::from_str(reject["record"].as_str().unwrap()).unwrap();
                let (step, id) = pair(&record);
                assert_eq!(record, row(id, step), "the row, whole");
                assert_eq!(reject["stream"], "all things");
                assert_eq!(reject["_run_id"], format!("run{step}"));
                assert_eq!(reject["path"], "");
                assert_eq!(reject["_extracted_at"], "2026-01-02T03:04:05.000006+00:00");
                let reason = reject["reason"].as_str().unwrap();
                assert!(
                    reason.starts_with("BigQuery refused the row: FIELDS_ERROR: Field id"),
                    "{reason}"
                );
                (step, id)
            })
            .collect();
        rejects.sort_unstable();
        let tables = answers[2].to_string();
        assert!(
            !tables.contains("_drawoff_stage_"),
            "something is left staged: {tables}"
        );
        assert_eq!(self.proxy.complaints(), [""; 0]);
        (rows, rejects)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_rows_become_rejects_and_the_others_arrive_once() {
    let mut scene = Scene::new("refused", Disposition::Append, REQUEST).await;
    let many: Vec<i64> = (0..100).filter(|id| id % 3 == 0).collect();
    let cases: [(i64, Vec<i64>); 9] = [
        (100, vec![]),
        (100, vec![0]),
        (100, vec![99]),
        (100, vec![50]),
        (100, (15..60).collect()),
        (100, many),
        (100, (0..100).collect()),
        (5, vec![2]),
        (1, vec![0]),
    ];
    let (mut rows, mut rejects) = (Vec::new(), Vec::new());
    for (count, bad) in cases {
        let step = scene.step;
        scene.proxy.refuse_rows(bad.clone());
        let published = scene.publish(count).await.unwrap();
        assert_eq!(
            published,
            Published {
                rows: count as u64 - bad.len() as u64,
                deduplicated: 0,
                rejected: bad.len() as u64,
            },
            "{bad:?}"
        );
        let good = (0..count).filter(|id| !bad.contains(id));
        rows.extend(good.map(|id| (step, id)));
        rejects.extend(bad.into_iter().map(|id| (step, id)));
    }
    assert!(
        scene.proxy.count(Call::Append) > 9 * 4,
        "several requests a slice"
    );
    assert_eq!(scene.read(), (rows, rejects));
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_rows_and_cut_connections_together() {
    let mut scene = Scene::new("refused_cut", Disposition::Append, REQUEST).await;
    let bad: BTreeSet<i64> = (0..100).filter(|id| id % 10 == 4).collect();
    scene.proxy.refuse_rows(bad.iter().copied());
    let faults: [&[(Call, usize, Fault)]; 6] = [
        &[
            (Call::Append, 2, Fault::LoseAnswer),
            (Call::Append, 5, Fault::Cut),
        ],
        &[
            (Call::Append, 1, Fault::LoseAnswer),
            (Call::Finalize, 1, Fault::LoseAnswer),
        ],
        &[
            (Call::Create, 2, Fault::LoseAnswer),
            (Call::Append, 3, Fault::End),
        ],
        &[
            (Call::Append, 2, Fault::LoseAnswer),
            (Call::Create, 3, Fault::Cut),
            (Call::Finalize, 2, Fault::Cut),
        ],
        &[
            (Call::Commit, 1, Fault::LoseAnswer),
            (Call::Append, 4, Fault::Within(Code::Internal)),
        ],
        &[
            (Call::Commit, 1, Fault::Cut),
            (Call::Append, 6, Fault::Refuse(Code::Aborted)),
        ],
    ];
    let (mut rows, mut rejects) = (Vec::new(), Vec::new());
    for faults in faults {
        let step = scene.step;
        for (call, nth, fault) in faults {
            scene.proxy.on(*call, *nth, *fault);
        }
        let published = scene.publish(100).await.unwrap();
        assert_eq!((published.rows, published.rejected), (90, 10), "{faults:?}");
        assert_eq!(scene.proxy.left(), 0, "{faults:?}");
        rows.extend((0..100).filter(|id| !bad.contains(id)).map(|id| (step, id)));
        rejects.extend(bad.iter().map(|id| (step, *id)));
    }
    assert_eq!(scene.read(), (rows, rejects));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_not_replaced_by_nothing_because_all_its_rows_were_refused() {
    let mut scene = Scene::new("refused_all", Disposition::Replace, REQUEST).await;
    scene.publish(3).await.unwrap();
    scene.proxy.refuse_rows(0..4);
    let published = scene.publish(4).await.unwrap();
    assert_eq!((published.rows, published.rejected), (0, 4));
    let old = (0..3).map(|id| (0, id)).collect();
    let refused = (0..4).map(|id| (1, id)).collect();
    assert_eq!(scene.read(), (old, refused));
    scene.proxy.refuse_rows([1]);
    let published = scene.publish(3).await.unwrap();
    assert_eq!((published.rows, published.rejected), (2, 1));
    let answer = Emulator::get().query(&format!(
        "SELECT id, step FROM `{}.things` ORDER BY id",
        scene.dataset
    ));
    assert_eq!(answer, json!([{"id": 0, "step": 2}, {"id": 2, "step": 2}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_faults_of_every_call_lose_and_double_nothing() {
    use Call::{Append, Commit, Create, Finalize};
    let mut scene = Scene::new("passing", Disposition::Append, REQUEST).await;
    let mut faults = Vec::new();
    for code in [
        Code::Unavailable,
        Code::ResourceExhausted,
        Code::Internal,
        Code::Aborted,
        Code::Cancelled,
        Code::DeadlineExceeded,
    ] {
        faults.push(vec![
            (Create, 1, Fault::Refuse(code)),
            (Append, 2, Fault::Refuse(code)),
            (Append, 4, Fault::Within(code)),
            (Finalize, 1, Fault::Refuse(code)),
            (Commit, 1, Fault::Refuse(code)),
        ]);
    }
    // A table just created is not known at once.
    faults.push(vec![
        (Create, 1, Fault::Refuse(Code::NotFound)),
        (Create, 2, Fault::Refuse(Code::NotFound)),
        (Append, 1, Fault::Refuse(Code::NotFound)),
    ]);
    for fault in [
        Fault::Cut,
        Fault::LoseAnswer,
        Fault::Slow(Duration::from_millis(50)),
    ] {
        faults.push(vec![
            (Create, 1, fault),
            (Append, 1, fault),
            (Append, 4, fault),
        ]);
        faults.push(vec![(Finalize, 1, fault), (Commit, 1, fault)]);
    }
    // The service closes connections that nothing was sent on for a while.
    faults.push(vec![(Append, 1, Fault::End), (Append, 3, Fault::End)]);
    let mut rows = Vec::new();
    for faults in faults {
        let step = scene.step;
        for (call, nth, fault) in &faults {
            scene.proxy.on(*call, *nth, *fault);
        }
        let published = scene.publish(60).await;
        assert_eq!(published.unwrap().rows, 60, "{faults:?}");
        assert_eq!(scene.proxy.left(), 0, "{faults:?}");
        rows.extend((0..60).map(|id| (step, id)));
    }
    assert_eq!(scene.read(), (rows, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn lasting_faults_end_a_slice_and_leave_everything_as_it_was() {
    use Call::{Append, Commit, Create};
    let mut scene = Scene::new("lasting", Disposition::Append, REQUEST).await;
    scene.publish(1).await.unwrap();
    let always = |call, code| {
        (0..30)
            .map(move |_| (call, 1, Fault::Refuse(code)))
            .collect::<Vec<_>>()
    };
    for (faults, kind, words, times) in [
        (
            vec![(Create, 1, Fault::Refuse(Code::PermissionDenied))],
            ErrorKind::Auth,
            "could not open a write stream of `p.",
            1,
        ),
        (
            vec![(Append, 2, Fault::Refuse(Code::PermissionDenied))],
            ErrorKind::Auth,
            "could not write rows to `p.",
            1,
        ),
        (
            vec![(Append, 1, Fault::Refuse(Code::InvalidArgument))],
            ErrorKind::Destination,
            "could not write rows to `p.",
            1,
        ),
        (
            vec![(Commit, 1, Fault::NotCommitted)],
            ErrorKind::Destination,
            "nothing was committed (INVALID_STREAM_STATE)",
            1,
        ),
        (
            always(Create, Code::ResourceExhausted),
            ErrorKind::Unavailable,
            "ResourceExhausted",
            8,
        ),
        (
            always(Create, Code::NotFound),
            ErrorKind::Destination,
            "could not open a write stream of `p.",
            12,
        ),
        (
            always(Append, Code::Unavailable),
            ErrorKind::Unavailable,
            "could not write rows to `p.",
            11,
        ),
        (
            always(Append, Code::OutOfRange),
            ErrorKind::Destination,
            "OutOfRange",
            11,
        ),
    ] {
        for (call, nth, fault) in &faults {
            scene.proxy.on(*call, *nth, *fault);
        }
        let error = scene.publish(60).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(faults.len() - scene.proxy.left(), times, "{error}");
        scene.proxy.clear();
    }
    scene.publish(2).await.unwrap();
    let answer = Emulator::get().ask(vec![
        json!({"query": format!("SELECT step, id FROM `{}.things` ORDER BY step, id", scene.dataset)}),
    ]);
    assert_eq!(
        answer[0],
        json!([{"step": 0, "id": 0}, {"step": 1, "id": 0}, {"step": 1, "id": 1}])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_no_larger_than_they_may_be() {
    // The proxy refuses what is larger than the setting, and would see a row that is too large.
    let mut scene = Scene::new("sizes", Disposition::Append, REQUEST).await;
    scene.proxy.at_most(REQUEST);
    assert_eq!(scene.publish(400).await.unwrap().rows, 400);
    let appends = scene.proxy.count(Call::Append);
    assert!((16..80).contains(&appends), "{appends} requests");

    let mut long = row(1, 1);
    long["text"] = json!("x".repeat(REQUEST));
    let mut slice = scene.to.open(&scene.table, "long", "s").await.unwrap();
    let staged = slice
        .stage(BatchKind::Rows, batch(&scene.table.schema, &[long]))
        .await;
    // It waits for others to share a request with, unless it is large.
    let error = match staged {
        Err(error) => error,
        Ok(()) => {
            let update = CheckpointUpdate {
                key: CheckpointKey {
                    source: "src".into(),
                    stream: "all things".into(),
                },
                checkpoint: Checkpoint::default(),
                expected_version: 1,
                run_id: "long".into(),
                lease: "src".into(),
                facts: SliceFacts::default(),
            };
            slice.publish(&update).await.unwrap_err()
        }
    };
    assert_eq!(error.kind(), ErrorKind::Schema, "{error:?}");
    assert!(error.to_string().contains("a row for `p."), "{error}");
}

/// Forty rows of 64 KiB each.
fn long_rows(from: i64) -> Vec<Value> {
    let long = |id| {
        let mut row = row(id, 0);
        row["text"] = json!("x".repeat(64 << 10));
        row
    };
    (from..from + 40).map(long).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_under_way_than_may_be_and_one_stream_has_it_all() {
    // 2.5 MiB are staged at a time, in requests of half a MiB; only one MiB may be unacknowledged.
    for (in_flight, waits) in [(1 << 20, true), (64 << 20, false)] {
        let scene = Scene::with("in_flight", Disposition::Append, 512 << 10, in_flight).await;
        scene.proxy.on(Call::Append, 1, Fault::HoldBefore);
        let (schema, to) = (scene.table.schema.clone(), scene.to.clone());
        let mut slice = to.open(&scene.table, "run0", "s").await.unwrap();
        let first = batch(&schema, &long_rows(0));
        let mut staging = tokio::spawn(async move {
            slice.stage(BatchKind::Rows, first).await.unwrap();
            slice
        });
        while scene.proxy.held() == 0 {
            moment(Duration::from_millis(10)).await;
        }
        let patience = if waits { 3 } else { 120 };
        let done = tokio::time::timeout(Duration::from_secs(patience), &mut staging).await;
        assert_eq!(done.is_err(), waits, "{in_flight} bytes may be under way");
        scene.proxy.release();
        let mut slice = match done {
            Ok(slice) => slice.unwrap(),
            Err(_) => staging.await.unwrap(),
        };
        let reject = Reject {
            reason: "not an integer".into(),
            path: "/id".into(),
            record: "{}".into(),
        };
        let at = "2026-01-02T03:04:05Z".parse().unwrap();
        let reject = rejects::batch(&[reject], "all things", "run0", at).unwrap();
        slice.stage(BatchKind::Rejects, reject).await.unwrap();
        for n in 1..3 {
            let more = batch(&schema, &long_rows(40 * n));
            slice.stage(BatchKind::Rows, more).await.unwrap();
        }
        let update = CheckpointUpdate {
            key: CheckpointKey {
                source: "src".into(),
                stream: "all things".into(),
            },
            checkpoint: Checkpoint::default(),
            expected_version: 0,
            run_id: "run0".into(),
            lease: "src".into(),
            facts: SliceFacts::default(),
        };
        assert_eq!(slice.publish(&update).await.unwrap().rows, 120);
        assert!(scene.proxy.count(Call::Append) > 12);
        // One for the rows, one for what does not fit.
        assert_eq!(scene.proxy.count(Call::Create), 2);
        assert_eq!(scene.proxy.count(Call::Commit), 2);
    }
}
