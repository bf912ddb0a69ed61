//! Rows straight into BigQuery tables (`write_method: stream` and `insert_all`), against the emulator:
//! they show at once, and in the end each is there once.

mod refused;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use drawoff::destination::bigquery::{BigQuery, BigQuerySettings, Target};
use drawoff::destination::rejects;
use drawoff::destination::{
    Base, BatchKind, Destination, Disposition, Published, Slice, TableSpec, WriteMethod,
};
use drawoff::error::{Error, ErrorKind};
use drawoff::google::{Endpoint, Google, GoogleSettings};
use drawoff::schema::decode::Reject;
use drawoff::schema::{Column, ColumnType, Mode, TableSchema};
use drawoff::state::StateStore as _;
use drawoff::state::{Checkpoint, CheckpointKey, CheckpointUpdate, SliceFacts};
use serde_json::{Value, json};

use crate::support::binary::{Bench, moment};
use crate::support::clock::ImpatientClock;
use crate::support::emulator::{Emulator, PROJECT};
use crate::support::fake_api::{FakeApi, Reply};
use crate::support::faults::{CuttingProxy, Fault, RestProxy};
use crate::support::meddler::{self, Meddling};
use crate::support::rows::{batch, full};
use crate::support::shop::{COLUMNS, Shelf, connector, item};
use crate::support::tables::{Row, content, sqlite};

const METHODS: [WriteMethod; 2] = [WriteMethod::Stream, WriteMethod::InsertAll];

fn destination_at(google: GoogleSettings, dataset: &str) -> BigQuery {
    let target = Target {
        project: PROJECT.into(),
        dataset: dataset.into(),
    };
    let google = Google::new(google, Arc::new(ImpatientClock)).unwrap();
    let settings = BigQuerySettings {
        request_bytes: Some(256 << 10),
        ..Default::default()
    };
    BigQuery::new(google, target, settings).unwrap()
}

fn destination(dataset: &str) -> BigQuery {
    destination_at(Emulator::get().settings(), dataset)
}

fn people(method: WriteMethod) -> TableSpec {
    TableSpec {
        name: "people".into(),
        schema: TableSchema {
            columns: vec![
                Column::new("id", ColumnType::Int64).mode(Mode::Required),
                Column::new("name", ColumnType::String),
                Column::new("_extracted_at", ColumnType::Timestamp),
                Column::new("_slice_id", ColumnType::String),
            ],
        },
        disposition: Disposition::Append,
        write_method: method,
        ..TableSpec::default()
    }
}

fn key() -> CheckpointKey {
    CheckpointKey {
        source: "crm".into(),
        stream: "people".into(),
    }
}

fn update(version: u64, run: &str) -> CheckpointUpdate {
    CheckpointUpdate {
        key: key(),
        checkpoint: Checkpoint {
            cursor: Some(run.into()),
            ..Default::default()
        },
        expected_version: version,
        run_id: run.into(),
        lease: key().source,
        facts: SliceFacts::default(),
    }
}

/// Rows of a slice that is called `RUN/0001`.
fn rows(run: &str, ids: impl IntoIterator<Item = i64>) -> Vec<Value> {
    ids.into_iter()
        .map(|id| {
            json!({"id": id, "name": format!("n{id}"), "_extracted_at": "2026-01-02T03:04:05.000006Z", "_slice_id": format!("{run}/0001")})
        })
        .collect()
}

async fn opened(to: &BigQuery, spec: &TableSpec, version: u64, run: &str) -> Box<dyn Slice> {
    let mut slice = to.open(spec, run, "0001").await.unwrap();
    slice.builds_on(&Base {
        key: key(),
        version,
        lease: key().source,
    });
    slice
}

/// A slice into which these rows went.
async fn sent(
    to: &BigQuery,
    spec: &TableSpec,
    version: u64,
    run: &str,
    ids: impl IntoIterator<Item = i64>,
) -> Box<dyn Slice> {
    let mut slice = opened(to, spec, version, run).await;
    let rows = rows(run, ids);
    slice
        .stage(BatchKind::Rows, batch(&spec.schema, &rows))
        .await
        .unwrap();
    slice
}

/// Answers of a query as text, by the emulator's own REST surface, which is quicker than a client.
#[allow(clippy::disallowed_methods)]
async fn ask(sql: &str) -> Vec<Vec<String>> {
    let url = format!(
        "{}/bigquery/v2/projects/{PROJECT}/queries",
        Emulator::get().rest().trim_end_matches('/')
    );
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer: Value = client
        .post(url)
        .header("content-type", "application/json")
        .body(json!({"query": sql, "useLegacySql": false}).to_string())
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .map(|b| serde_json::from_slice(&b).unwrap())
        .unwrap();
    // A table that is not there yet has no rows.
    if answer["error"]["errors"][0]["reason"] == "notFound" {
        return Vec::new();
    }
    assert!(answer["error"].is_null(), "{sql}: {answer}");
    let cell = |c: &Value| c["v"].as_str().unwrap_or("NULL").to_owned();
    answer["rows"]
        .as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .map(|r| r["f"].as_array().unwrap().iter().map(cell).collect())
        .collect()
}

/// A column of a table that may not be there yet, in order.
async fn column(dataset: &str, table: &str, column: &str) -> Vec<String> {
    let rows = ask(&format!(
        "SELECT {column} FROM `{PROJECT}.{dataset}.{table}` ORDER BY {column}"
    ))
    .await;
    rows.into_iter().map(|mut r| r.remove(0)).collect()
}

async fn ids(dataset: &str, table: &str) -> Vec<i64> {
    let ids = column(dataset, table, "id").await;
    ids.iter().map(|id| id.parse().unwrap()).collect()
}

/// Waits until so many people show.
async fn shows(dataset: &str, n: usize) {
    while ids(dataset, "people").await.len() < n {
        moment(Duration::from_millis(50)).await;
    }
}

async fn open_slices(dataset: &str) -> Vec<String> {
    column(dataset, "_drawoff_open_slices", "slice_id").await
}

fn up_to(n: i64) -> Vec<i64> {
    (1..=n).collect()
}

async fn version(to: &BigQuery) -> u64 {
    let found = to.checkpoints("crm").await.unwrap();
    found.get(&key()).map_or(0, |s| s.version)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_show_before_they_are_published_and_once_in_the_end() {
    for method in METHODS {
        let dataset = Emulator::get().dataset("direct");
        let to = destination(&dataset);
        let spec = people(method);
        to.prepare(&spec).await.unwrap();
        let mut slice = sent(&to, &spec, 0, "r0", up_to(3)).await;
        // Two requests of insertAll may be under way.
        shows(&dataset, 3).await;
        assert_eq!(open_slices(&dataset).await, ["r0/0001"]);
        assert_eq!(version(&to).await, 0);
        let reject = Reject {
            reason: "not a \"number\"".into(),
            path: "/id".into(),
            record: r#"{"id": "é\n"}"#.into(),
        };
        let at = "2026-01-02T03:04:05Z".parse().unwrap();
        let refused = rejects::batch(&[reject], "people", "r0", at).unwrap();
        slice.stage(BatchKind::Rejects, refused).await.unwrap();
        assert_eq!(
            slice.publish(&update(0, "r0")).await.unwrap(),
            Published {
                rows: 3,
                ..Published::default()
            }
        );
        assert_eq!(open_slices(&dataset).await, [""; 0]);

        // A slice of rejects only, and one of nothing.
        let empty = opened(&to, &spec, 1, "r1").await;
        assert_eq!(
            empty.publish(&update(1, "r1")).await.unwrap(),
            Published::default()
        );
        // Abandoned: what showed is gone.
        let slice = sent(&to, &spec, 2, "r2", [7, 8]).await;
        slice.abandon().await.unwrap();
        // Again with the same version, as if nothing had been.
        let slice = sent(&to, &spec, 2, "r3", [4]).await;
        assert_eq!(slice.publish(&update(2, "r3")).await.unwrap().rows, 1);
        assert_eq!(ids(&dataset, "people").await, up_to(4));
        assert_eq!(version(&to).await, 3);
        assert_eq!(
            Emulator::get().query(&format!("SELECT * FROM `{dataset}.people__rejects`")),
            json!([{"stream": "people", "reason": "not a \"number\"", "path": "/id",
                "record": "{\"id\": \"é\\n\"}", "_extracted_at": "2026-01-02T03:04:05+00:00", "_run_id": "r0"}])
        );
        let tables: BTreeSet<String> = Emulator::get().tables(&dataset).into_iter().collect();
        let own = [
            "_drawoff_checkpoints",
            "_drawoff_leases",
            "_drawoff_loads",
            "_drawoff_open_slices",
            "people",
            "people__rejects",
        ];
        assert_eq!(tables, own.map(str::to_owned).into());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_goes_straight_in() {
    let dataset = Emulator::get().dataset("direct_types");
    let of = Column::new;
    let inner = vec![
        of("a", ColumnType::Int64).mode(Mode::Required),
        of("b", ColumnType::Numeric),
    ];
    let mut spec = people(WriteMethod::Stream);
    spec.schema.columns.extend([
        of("f", ColumnType::Float64),
        of("b", ColumnType::Bool).mode(Mode::Required),
        of("y", ColumnType::Bytes),
        of("n", ColumnType::Numeric),
        of("dt", ColumnType::DateTime),
        of("d", ColumnType::Date),
        of("t", ColumnType::Time),
        of("j", ColumnType::Json),
        of("g", ColumnType::Geography),
        of("tags", ColumnType::String).mode(Mode::Repeated),
        of("r", ColumnType::Record).fields(inner.clone()),
        of("rs", ColumnType::Record)
            .mode(Mode::Repeated)
            .fields(inner),
    ]);
    let mut answers = Vec::new();
    for (n, method) in METHODS.into_iter().enumerate() {
        spec.write_method = method;
        spec.name = format!("things{n}");
        let to = destination(&dataset);
        to.prepare(&spec).await.unwrap();
        let slice_id = "r/0001";
        let rows = [
            json!({"id": 9_007_199_254_740_993i64, "name": "ü 'q' \\ `b`", "_extracted_at": "2026-01-02T03:04:05.000006Z",
                "_slice_id": slice_id, "f": 0.1, "b": true, "y": "AP8=", "n": "12345678901234567890.123456789",
                "dt": "2026-01-02T03:04:05.000006", "d": "2026-01-02", "t": "01:02:03.000001",
                "j": {"a": [1, null, "x"]}, "g": "POINT(1 2)", "tags": ["x", "é\n\""],
                "r": {"a": i64::MAX, "b": "-0.5"}, "rs": [{"a": 1, "b": null}, {"a": 2, "b": "1"}]}),
            json!({"id": i64::MIN, "b": false, "_slice_id": slice_id}),
        ];
        let mut slice = opened(&to, &spec, n as u64, "r").await;
        slice
            .stage(BatchKind::Rows, batch(&spec.schema, &rows))
            .await
            .unwrap();
        let published = slice.publish(&update(n as u64, "r")).await.unwrap();
        assert_eq!(published.rows, 2);
        let sql = format!("SELECT * FROM `{dataset}.{}` ORDER BY id DESC", spec.name);
        answers.push(Emulator::get().query(&sql));
    }
    assert_eq!(answers[0], answers[1]);
    let first = &answers[0][0];
    assert_eq!(first["id"], 9_007_199_254_740_993i64);
    assert_eq!(first["n"], "12345678901234567890.123456789");
    assert_eq!(first["j"], json!({"a": [1, null, "x"]}));
    assert_eq!(first["g"], "POINT(1 2)");
    assert_eq!(first["rs"][1], json!({"a": 2, "b": "1"}));
    assert_eq!(first["tags"], json!(["x", "é\n\""]));
    let empty = full(
        &spec.schema.columns,
        &json!({"id": i64::MIN, "b": false, "_slice_id": "r/0001"}),
    );
    assert_eq!(answers[0][1], empty);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_slice_is_taken_back_and_its_run_cannot_publish_it() {
    for method in METHODS {
        let dataset = Emulator::get().dataset("direct_dead");
        let spec = people(method);
        // Not dead, in truth: it stands still.
        let still = destination(&dataset);
        still.prepare(&spec).await.unwrap();
        let mut zombie = sent(&still, &spec, 0, "r0", up_to(5)).await;
        shows(&dataset, 5).await;

        let next = destination(&dataset);
        next.prepare(&spec).await.unwrap();
        // Another stream of the source has nothing to do with it.
        let other = CheckpointKey {
            stream: "others".into(),
            ..key()
        };
        let mut elsewhere = spec.clone();
        elsewhere.name = "others".into();
        assert_eq!(next.take_back(&elsewhere, &other).await.unwrap(), [""; 0]);
        // One that goes by another checkpoint into the same table only says that it is there.
        let backfill = CheckpointKey {
            stream: "people 2026/2027".into(),
            ..key()
        };
        let said = next.take_back(&spec, &backfill).await.unwrap();
        assert!(
            said[0].contains("rows of slice `r0/0001` are in"),
            "{said:?}"
        );
        assert_eq!(ids(&dataset, "people").await.len(), 5);

        let said = next.take_back(&spec, &key()).await.unwrap();
        assert!(said[0].starts_with("5 rows of slice `r0/0001`"), "{said:?}");
        assert_eq!(ids(&dataset, "people").await, [0; 0]);

        // What it still sends does not get in, or not for long.
        let more = batch(&spec.schema, &rows("r0", [6, 7]));
        let _ = zombie.stage(BatchKind::Rows, more).await;
        let error = zombie.publish(&update(0, "r0")).await.unwrap_err();
        match method {
            // Its stream was ended.
            WriteMethod::Stream => assert_eq!(error.kind(), ErrorKind::Destination, "{error:?}"),
            _ => assert!(error.is_transient(), "{error:?}"),
        }
        let said = next.take_back(&spec, &key()).await.unwrap();
        assert_eq!(said, [""; 0], "the run has cleared up behind itself");

        let slice = sent(&next, &spec, 0, "r1", up_to(5)).await;
        slice.publish(&update(0, "r1")).await.unwrap();
        assert_eq!(ids(&dataset, "people").await, up_to(5));
        assert_eq!(version(&next).await, 1);
        // An ended stream takes nothing more; requests may be on their way for a while.
        let left = open_slices(&dataset).await;
        match method {
            WriteMethod::Stream => assert_eq!(left, [""; 0]),
            _ => assert_eq!(left, ["r0/0001"]),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_runs_at_once_one_publishes_and_no_other_rows_stay() {
    for method in METHODS {
        let dataset = Emulator::get().dataset("direct_race");
        let spec = people(method);
        let runs = [destination(&dataset), destination(&dataset)];
        runs[0].prepare(&spec).await.unwrap();
        // Both find nothing to take back, then both write.
        let winner = sent(&runs[0], &spec, 0, "r0", up_to(4)).await;
        let loser = sent(&runs[1], &spec, 0, "r1", up_to(4)).await;
        assert_eq!(winner.publish(&update(0, "r0")).await.unwrap().rows, 4);
        let error = loser.publish(&update(0, "r1")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State, "{error:?}");
        assert_eq!(ids(&dataset, "people").await, up_to(4));
        assert_eq!(
            column(&dataset, "people", "_slice_id").await,
            ["r0/0001"; 4]
        );

        // Who comes too late does not even begin.
        let mut late = opened(&runs[1], &spec, 0, "r2").await;
        let rows = batch(&spec.schema, &rows("r2", [9]));
        let error = late.stage(BatchKind::Rows, rows).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State, "{error:?}");
        assert!(error.to_string().contains("at version 1"), "{error}");
        late.abandon().await.unwrap();
        assert_eq!(ids(&dataset, "people").await, up_to(4));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_resumes_where_rows_were_acknowledged() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("direct_cut");
    let spec = people(WriteMethod::Stream);
    let proxy = CuttingProxy::start(emulator.grpc(), &[250_000, 120_000]).await;
    let mut google = emulator.settings();
    google.bigquery_storage = Endpoint::parse(&proxy.address, "grpc").unwrap();
    let to = destination_at(google, &dataset);
    to.prepare(&spec).await.unwrap();
    let mut slice = opened(&to, &spec, 0, "r0").await;
    let total = 16_000;
    for start in (0..total).step_by(4_000) {
        let rows = batch(&spec.schema, &rows("r0", start..start + 4_000));
        slice.stage(BatchKind::Rows, rows).await.unwrap();
    }
    let published = slice.publish(&update(0, "r0")).await.unwrap();
    assert_eq!(published.rows, total.unsigned_abs());
    assert_eq!(proxy.cuts(), 2);
    let counted = ask(&format!(
        "SELECT COUNT(*), COUNT(DISTINCT id), MAX(id) FROM {dataset}.people"
    ))
    .await;
    assert_eq!(counted[0], ["16000", "16000", "15999"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_lose_and_double_nothing() {
    let emulator = Emulator::get();
    for (suffix, method) in [
        ("/insertAll", WriteMethod::InsertAll),
        ("/jobs", WriteMethod::InsertAll),
        ("/jobs", WriteMethod::Stream),
    ] {
        let dataset = emulator.dataset("direct_lost");
        let spec = people(method);
        destination(&dataset).prepare(&spec).await.unwrap();
        let faults = [Fault::LoseAnswer, Fault::Refuse(503), Fault::LoseAnswer];
        let proxy = RestProxy::start(emulator.rest(), "POST", suffix, &faults).await;
        let to = destination_at(emulator.settings_at(&proxy.url), &dataset);
        let slice = sent(&to, &spec, 0, "r0", up_to(700)).await;
        let published = slice.publish(&update(0, "r0")).await.unwrap();
        assert_eq!(published.rows, 700);
        assert_eq!(proxy.left(), 0);
        assert_eq!(ids(&dataset, "people").await, up_to(700));
    }
}

/// What a destination sees through a meddler.
async fn meddled(
    dataset: &str,
    decide: impl Fn(&str, &str, &Value) -> Meddling + Send + Sync + 'static,
) -> BigQuery {
    let emulator = Emulator::get();
    let url = meddler::start(emulator.rest(), decide).await;
    destination_at(emulator.settings_at(&url), dataset)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_refused_are_kept_and_the_others_go_in() {
    let dataset = Emulator::get().dataset("direct_refused");
    let mut spec = people(WriteMethod::InsertAll);
    destination(&dataset).prepare(&spec).await.unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let to = meddled(&dataset, move |_, path, body| {
        if !path.ends_with("/insertAll") {
            return Meddling::Pass;
        }
        let rows = body["rows"].as_array().unwrap();
        let errors = |reason: &dyn Fn(&Value) -> Value| -> Value {
            let all = rows.iter().enumerate();
            all.map(|(i, row)| json!({"index": i, "errors": [reason(row)]}))
                .collect()
        };
        let stopped = json!({"reason": "stopped", "location": "", "message": ""});
        let bad = |row: &Value| row["json"]["id"] == "2";
        match counter.fetch_add(1, Ordering::SeqCst) {
            // A table that is not known yet.
            0 => Meddling::Answer(
                404,
                json!({"error": {"errors": [{"reason": "notFound"}], "message": "Not found"}}),
            ),
            // Nothing went in, for no reason of its own.
            1 => Meddling::Answer(200, json!({"insertErrors": errors(&|_| stopped.clone())})),
            // One row is at fault, and none goes in.
            2 => {
                let why =
                    json!({"reason": "invalid", "location": "name.x", "message": "bad value: n2"});
                let why = |row: &Value| {
                    if bad(row) {
                        why.clone()
                    } else {
                        stopped.clone()
                    }
                };
                Meddling::Answer(200, json!({"insertErrors": errors(&why)}))
            }
            _ => {
                assert!(!rows.iter().any(bad));
                Meddling::Pass
            }
        }
    })
    .await;
    let slice = sent(&to, &spec, 0, "r0", up_to(4)).await;
    let published = slice.publish(&update(0, "r0")).await.unwrap();
    assert_eq!(
        published,
        Published {
            rows: 3,
            deduplicated: 0,
            rejected: 1
        }
    );
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    assert_eq!(ids(&dataset, "people").await, [1, 3, 4]);
    let kept = ask(&format!(
        "SELECT reason, path, JSON_VALUE(record, '$.id'), _run_id, stream FROM {dataset}.people__rejects"
    ))
    .await;
    assert_eq!(
        kept,
        [[
            "BigQuery refused the row: invalid",
            "/name/x",
            "2",
            "r0",
            "people"
        ]]
    );

    // A column that was added just now is not known to all servers yet.
    spec.schema
        .columns
        .push(Column::new("late", ColumnType::String));
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let to = meddled(&dataset, move |_, path, _| {
        if path.ends_with("/insertAll") && counter.fetch_add(1, Ordering::SeqCst) < 2 {
            let why = json!({"reason": "invalid", "location": "late", "message": "no such field"});
            return Meddling::Answer(
                200,
                json!({"insertErrors": [{"index": 0, "errors": [why]}]}),
            );
        }
        Meddling::Pass
    })
    .await;
    to.prepare(&spec).await.unwrap();
    let mut slice = opened(&to, &spec, 1, "r1").await;
    let row = json!({"id": 5, "late": "x", "_slice_id": "r1/0001"});
    slice
        .stage(BatchKind::Rows, batch(&spec.schema, &[row]))
        .await
        .unwrap();
    assert_eq!(slice.publish(&update(1, "r1")).await.unwrap().rejected, 0);
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    assert_eq!(ids(&dataset, "people").await, [1, 3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_taken_twice_are_not_published() {
    let dataset = Emulator::get().dataset("direct_twice");
    let spec = people(WriteMethod::InsertAll);
    destination(&dataset).prepare(&spec).await.unwrap();
    // The service has forgotten the ids.
    let to = meddled(&dataset, |_, path, body| {
        if !path.ends_with("/insertAll") {
            return Meddling::Pass;
        }
        let mut body = body.clone();
        for row in body["rows"].as_array_mut().unwrap() {
            row.as_object_mut().unwrap().remove("insertId");
        }
        Meddling::Send(vec![body.clone(), body])
    })
    .await;
    let slice = sent(&to, &spec, 0, "r0", up_to(3)).await;
    let error = slice.publish(&update(0, "r0")).await.unwrap_err();
    assert_eq!(error.exit_code(), 75);
    assert!(
        error
            .to_string()
            .contains("has 6 rows of slice `r0/0001`, and 3 were sent"),
        "{error}"
    );
    // Taken back at once, which this service allows.
    assert_eq!(ids(&dataset, "people").await, [0; 0]);
    assert_eq!(version(&to).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_deleted_though_others_get_in_the_way() {
    let dataset = Emulator::get().dataset("direct_clash");
    let spec = people(WriteMethod::Stream);
    let to = destination(&dataset);
    to.prepare(&spec).await.unwrap();
    let dead = sent(&to, &spec, 0, "r0", up_to(3)).await;
    // As `kill -9` would leave it.
    std::mem::forget(dead);
    shows(&dataset, 3).await;

    // As BigQuery answers when another transaction is changing the table.
    let clashes = Arc::new(AtomicUsize::new(2));
    let left = clashes.clone();
    let next = meddled(&dataset, move |method, _, body| {
        let sql = body["configuration"]["query"]["query"]
            .as_str()
            .unwrap_or_default();
        let deletes = method == "POST" && sql.starts_with("DELETE") && sql.contains("`people`");
        let one_less = |n: usize| n.checked_sub(1);
        if !deletes
            || left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less)
                .is_err()
        {
            return Meddling::Pass;
        }
        let why = json!({"reason": "invalidQuery", "message": "aborted due to concurrent update"});
        Meddling::Answer(400, json!({"error": {"errors": [why], "message": "…"}}))
    })
    .await;
    assert_eq!(next.take_back(&spec, &key()).await.unwrap().len(), 1);
    assert_eq!(clashes.load(Ordering::SeqCst), 0);
    assert_eq!(ids(&dataset, "people").await, [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_the_streaming_buffer_are_waited_for() {
    let dataset = Emulator::get().dataset("direct_buffer");
    let spec = people(WriteMethod::InsertAll);
    let to = destination(&dataset);
    to.prepare(&spec).await.unwrap();
    let mut dead = opened(&to, &spec, 0, "r0").await;
    let mut row = rows("r0", [1]).remove(0);
    row["_extracted_at"] = json!(format!("{:.6}Z", drawn_just_now()));
    dead.stage(BatchKind::Rows, batch(&spec.schema, &[row]))
        .await
        .unwrap();
    shows(&dataset, 1).await;
    // As `kill -9` would leave it.
    std::mem::forget(dead);

    let buffered = Arc::new(AtomicBool::new(true));
    let still = buffered.clone();
    let next = meddled(&dataset, move |method, path, body| {
        let sql = body["configuration"]["query"]["query"]
            .as_str()
            .unwrap_or_default();
        let deletes = sql.starts_with("DELETE") && sql.contains("`people`");
        if method == "POST" && deletes && still.load(Ordering::SeqCst) {
            let why = json!({"reason": "invalidQuery", "message": "rows in a buffer"});
            return Meddling::Answer(400, json!({"error": {"errors": [why], "message": "…"}}));
        }
        let table = method == "GET" && path.ends_with("/tables/people");
        match table && still.load(Ordering::SeqCst) {
            true => {
                Meddling::Edit(|table| table["streamingBuffer"] = json!({"estimatedRows": "1"}))
            }
            false => Meddling::Pass,
        }
    })
    .await;
    let error = next.take_back(&spec, &key()).await.unwrap_err();
    assert_eq!(error.exit_code(), 75, "{error:?}");
    assert!(error.to_string().contains("within 30 minutes"), "{error}");
    let hint = error.find_hint().unwrap();
    let until = hint.split(&[' ', ';'][..]).nth(3).unwrap();
    let until: jiff::Timestamp = until.parse().unwrap();
    let minutes = until.duration_since(jiff::Timestamp::now()).as_mins();
    assert!((28..=30).contains(&minutes), "{hint}");
    assert!(hint.contains("`_slice_id` = 'r0/0001'"), "{hint}");
    // Nor can the table be replaced, which is said before anything is read.
    let mut replace = spec.clone();
    replace.disposition = Disposition::Replace;
    replace.write_method = WriteMethod::LoadJob;
    let error = next.prepare(&replace).await.unwrap_err();
    assert_eq!(error.exit_code(), 75);
    assert!(error.to_string().contains("streaming buffer"), "{error}");
    // Nor merged into, by a stream that has no use for direct slices any more.
    let mut merge = spec.clone();
    merge.schema.columns.truncate(2);
    merge.primary_key = vec!["id".into()];
    merge.disposition = Disposition::Merge;
    merge.write_method = WriteMethod::LoadJob;
    let error = next.prepare(&merge).await.unwrap_err();
    assert_eq!(error.exit_code(), 75);
    assert!(
        error.to_string().contains("cannot be merged into now"),
        "{error}"
    );

    buffered.store(false, Ordering::SeqCst);
    next.prepare(&replace).await.unwrap();
    assert_eq!(next.take_back(&spec, &key()).await.unwrap().len(), 1);
    assert_eq!(ids(&dataset, "people").await, [0; 0]);
}

fn drawn_just_now() -> jiff::civil::DateTime {
    jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .datetime()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_appending_goes_straight_in() {
    let to = destination("never_made");
    let mut spec = people(WriteMethod::Stream);
    spec.disposition = Disposition::Replace;
    let error: Error = to.prepare(&spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(
        error.to_string().contains("can only be appended to"),
        "{error}"
    );
    let mut spec = people(WriteMethod::Stream);
    spec.schema.columns.pop();
    let error = to.prepare(&spec).await.unwrap_err();
    assert!(error.to_string().contains("`_slice_id`"), "{error}");
}

/// The program, with a shop whose list is appended to.
struct Shop {
    bench: Bench,
    api: FakeApi,
    shelf: Shelf,
    /// From this request on the shop is slow.
    slow: Arc<AtomicUsize>,
    /// From this request on it refuses, after a while.
    broken: Arc<AtomicUsize>,
    dataset: String,
    destination: String,
}

impl Shop {
    async fn new(test: &str, method: &str) -> Self {
        let emulator = Emulator::get();
        let shelf = Shelf::of(70);
        let (served, slow) = (shelf.clone(), Arc::new(AtomicUsize::new(usize::MAX)));
        let limit = slow.clone();
        let broken = Arc::new(AtomicUsize::new(usize::MAX));
        let last = broken.clone();
        let api = FakeApi::start(move |request| {
            if request.number >= last.load(Ordering::SeqCst) {
                return Reply::status(400).delay(Duration::from_secs(2));
            }
            let reply = served.serve(request);
            match request.number >= limit.load(Ordering::SeqCst) {
                true => reply.delay(Duration::from_secs(300)),
                false => reply,
            }
        })
        .await;
        let dataset = emulator.dataset(test);
        let shop = Self {
            bench: Bench::new().bigquery(emulator.rest(), emulator.grpc()),
            destination: format!("bigquery:{PROJECT}.{dataset}"),
            api,
            shelf,
            slow,
            broken,
            dataset,
        };
        shop.method(method);
        shop
    }

    fn method(&self, method: &str) {
        let stream = format!(
            "items: {{primary_key: ~, incremental: {{cursor: updated_at, since_param: since, sorted: true}}, table: {{write_method: {method}}}}}"
        );
        let yaml = connector(&self.api.url(), &[&stream]);
        self.bench.connector("shop", &yaml);
        self.bench.schema("shop", "items", &COLUMNS);
    }

    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["--source", "shop", "--destination", &self.destination];
        args.extend(more);
        args
    }

    async fn ids(&self) -> Vec<i64> {
        ids(&self.dataset, "items").await
    }

    /// Starts a run that stands still at a request, waits until the rows before it show, and kills it.
    async fn kill_at(&self, request: usize, shown: usize) {
        self.slow
            .store(self.api.count() + request, Ordering::SeqCst);
        let mut run = self.bench.spawn(&self.args(&[]));
        while self.ids().await.len() < shown {
            assert!(run.ended().is_none(), "it ended");
            moment(Duration::from_millis(100)).await;
        }
        run.kill().await;
        assert_eq!(self.ids().await.len(), shown, "they stay");
        self.slow.store(usize::MAX, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_the_middle_of_a_slice() {
    for method in ["stream", "insert_all"] {
        let shop = Shop::new("direct_kill", method).await;
        // Killed, the rerun as well, and each time its rows were visible.
        shop.kill_at(3, 30).await;
        assert_eq!(open_slices(&shop.dataset).await.len(), 1);
        // The next takes 30 rows out and reads them again, up to another page.
        let before = column(&shop.dataset, "items", "_slice_id").await;
        shop.slow.store(shop.api.count() + 5, Ordering::SeqCst);
        let mut run = shop.bench.spawn(&shop.args(&[]));
        while shop.ids().await.len() < 50 {
            assert!(run.ended().is_none(), "it ended");
            moment(Duration::from_millis(100)).await;
        }
        run.kill().await;
        let after = column(&shop.dataset, "items", "_slice_id").await;
        assert!(!after.contains(&before[0]), "the first run's rows are gone");
        shop.slow.store(usize::MAX, Ordering::SeqCst);
        shop.bench
            .run(&shop.args(&[]))
            .await
            .exits(0)
            .complains("50 rows of slice")
            .complains("were taken out of");
        assert_eq!(shop.ids().await, up_to(70));
        let slices: BTreeSet<String> = column(&shop.dataset, "items", "_slice_id")
            .await
            .into_iter()
            .collect();
        let runs: BTreeSet<String> = column(&shop.dataset, "items", "_run_id")
            .await
            .into_iter()
            .collect();
        assert_eq!(runs.len(), 1);
        assert_eq!(slices, runs.iter().map(|r| format!("{r}/0001")).collect());

        // What is new is added, in a slice of its own.
        shop.shelf.change(|rows| rows.push(item(71, 71)));
        shop.bench.run(&shop.args(&[])).await.exits(0);
        assert_eq!(shop.ids().await, up_to(71));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_takes_its_rows_back_itself() {
    for method in ["stream", "insert_all"] {
        let shop = Shop::new("direct_fails", method).await;
        shop.broken.store(4, Ordering::SeqCst);
        let mut run = shop.bench.spawn(&shop.args(&[]));
        let mut shown = 0;
        while run.ended().is_none() {
            shown = shop.ids().await.len().max(shown);
            moment(Duration::from_millis(100)).await;
        }
        run.end().await.exits(1);
        assert!(shown > 0, "no row showed before it failed");
        assert_eq!(shop.ids().await, [0; 0], "{method}");
        shop.broken.store(usize::MAX, Ordering::SeqCst);
        shop.bench.run(&shop.args(&[])).await.exits(0);
        assert_eq!(shop.ids().await, up_to(70));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_method_and_a_full_refresh_leave_no_row_twice() {
    let shop = Shop::new("direct_change", "stream").await;
    shop.kill_at(2, 20).await;
    // The next run stages its rows, and takes those of the dead one back all the same.
    shop.method("storage_write");
    shop.bench
        .run(&shop.args(&[]))
        .await
        .exits(0)
        .complains("20 rows of slice");
    assert_eq!(shop.ids().await, up_to(70));
    assert_eq!(
        column(&shop.dataset, "items", "_slice_id").await,
        ["NULL"; 70]
    );

    // Who reads as the docs say sees those rows, and not the ones of a slice that is not published.
    shop.method("stream");
    shop.shelf
        .change(|rows| rows.extend((71..=90).map(|id| item(id, id))));
    shop.kill_at(2, 89).await;
    let docs = include_str!("../docs/bigquery.md");
    let (_, query) = docs.split_once("SELECT * FROM raw.events").unwrap();
    let (query, _) = query.split_once("```").unwrap();
    let query =
        format!("SELECT id FROM raw.items{query}").replace("raw.", &format!("{}.", shop.dataset));
    assert_eq!(ask(&query).await.len(), 70, "{query}");
    shop.bench.run(&shop.args(&[])).await.exits(0);
    assert_eq!(ask(&query).await.len(), 90);

    // Everything anew, which stays invisible until it is there.
    shop.method("insert_all");
    shop.shelf.change(|rows| rows.truncate(40));
    shop.bench
        .run(&shop.args(&["--full-refresh"]))
        .await
        .exits(0);
    assert_eq!(shop.ids().await, up_to(40));
    assert!(
        column(&shop.dataset, "items", "_slice_id")
            .await
            .iter()
            .all(|id| id.ends_with("/0001"))
    );
}

#[tokio::test]
async fn other_destinations_stage_the_rows_and_mark_them_alike() {
    let shelf = Shelf::of(25);
    let served = shelf.clone();
    let api = FakeApi::start(move |request| served.serve(request)).await;
    let stream = "items: {primary_key: ~, incremental: {cursor: updated_at, since_param: since, sorted: true}, table: {write_method: stream}}";
    let bench =
        Bench::with("shop", &connector(&api.url(), &[stream])).env("DRAWOFF_SLICE_ROWS", "10");
    bench.schema("shop", "items", &COLUMNS);
    bench.run(&["--source", "shop"]).await.exits(0);
    let stored = sqlite(&bench.path("drawoff.db"), "items");
    let run = stored[0]["_run_id"].as_str().unwrap().to_owned();
    let mut slices = BTreeSet::new();
    let mut stored: Vec<Row> = content(stored);
    for row in &mut stored {
        let slice = row.remove("_slice_id").unwrap();
        slices.insert(slice.as_str().unwrap().to_owned());
    }
    stored.sort_by_cached_key(|row| json!(row).to_string());
    assert_eq!(stored, crate::support::shop::rows(&shelf.rows()));
    let want = ["0001", "0002", "0003"].map(|n| format!("{run}/{n}"));
    assert_eq!(slices, want.into());
}
