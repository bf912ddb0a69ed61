//! Load jobs into staging tables: every type in both formats, and an upload and a job that fail in
//! all the ways there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, Time64MicrosecondArray,
};
use drawoff::clock::SharedClock;
use drawoff::destination::bigquery::{BigQuery, Target};
use drawoff::destination::{
    Base, BatchKind, Destination, Disposition, Published, TableSpec, WriteMethod, rejects,
};
use drawoff::error::{Error, ErrorKind, Result};
use drawoff::google::{Endpoint, Google, GoogleSettings};
use drawoff::schema::decode::Reject;
use drawoff::schema::{Column, ColumnType, Mode, TableSchema, arrow_schema};
use drawoff::state::{Checkpoint, CheckpointKey, CheckpointUpdate, SliceFacts, StateStore};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::emulator::{Emulator, PROJECT};
use crate::support::faults::Fault::{self, *};
use crate::support::faults::{RestProxy, Rule};
use crate::support::hasty_clock::HastyClock;
use crate::support::rows::{batch, full};

/// The path of uploads.
const UPLOAD: &str = "/upload/bigquery/v2/projects/p/jobs";

fn destination(google: GoogleSettings, dataset: &str) -> BigQuery {
    destination_at(google, dataset, HastyClock::new())
}

fn destination_at(google: GoogleSettings, dataset: &str, clock: SharedClock) -> BigQuery {
    let google = Google::new(google, clock).unwrap();
    let target = Target {
        project: PROJECT.into(),
        dataset: dataset.into(),
    };
    BigQuery::new(google, target, Default::default()).unwrap()
}

fn table(name: &str, columns: Vec<Column>) -> TableSpec {
    TableSpec {
        name: name.into(),
        schema: TableSchema { columns },
        disposition: Disposition::Append,
        write_method: WriteMethod::LoadJob,
        ..TableSpec::default()
    }
}

fn notes() -> TableSpec {
    table(
        "notes",
        vec![
            Column::new("id", ColumnType::Int64).mode(Mode::Required),
            Column::new("text", ColumnType::String),
        ],
    )
}

fn note(id: usize) -> Value {
    json!({"id": id, "text": format!("note {id}")})
}

/// Incompressible, the same for each id, and large.
fn long_note(id: usize) -> Value {
    let mut state = id as u64 + 1;
    let text: String = (0..128 << 10)
        .map(|_| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b' ' + 2 + (state % 90) as u8)
        })
        .collect();
    json!({"id": id, "text": text})
}

fn update(version: u64, run: &str) -> CheckpointUpdate {
    CheckpointUpdate {
        key: CheckpointKey {
            source: "src".into(),
            stream: "notes".into(),
        },
        checkpoint: Checkpoint {
            cursor: Some(run.into()),
            ..Checkpoint::default()
        },
        expected_version: version,
        run_id: run.into(),
        lease: "src".into(),
        facts: SliceFacts::default(),
    }
}

/// Stages the rows in batches of sixteen and publishes them.
async fn land(
    to: &BigQuery,
    spec: &TableSpec,
    version: u64,
    run: &str,
    rows: &[Value],
) -> Result<Published> {
    let update = update(version, run);
    let mut slice = to.open(spec, run, "0001").await?;
    slice.builds_on(&Base {
        key: update.key.clone(),
        version,
        lease: update.lease.clone(),
    });
    for group in rows.chunks(16) {
        if let Err(error) = slice
            .stage(BatchKind::Rows, batch(&spec.schema, group))
            .await
        {
            slice.abandon().await?;
            return Err(error);
        }
    }
    slice.publish(&update).await
}

/// A dataset with the table of notes, and a destination on it behind a proxy with those rules.
struct Scene {
    dataset: String,
    proxy: RestProxy,
    to: BigQuery,
}

impl Scene {
    async fn new(name: &str, rules: Vec<Rule>) -> Self {
        let emulator = Emulator::get();
        let dataset = emulator.dataset(name);
        destination(emulator.settings(), &dataset)
            .prepare(&notes())
            .await
            .unwrap();
        let proxy = RestProxy::with(emulator.rest(), rules).await;
        let to = destination(emulator.settings_at(&proxy.url), &dataset);
        Self { dataset, proxy, to }
    }

    /// The requests for chunks and for how far they are meet those faults.
    async fn of_chunks(name: &str, faults: &[Fault]) -> Self {
        Self::new(name, vec![Rule::ending("PUT", UPLOAD, faults)]).await
    }

    async fn land(&self, version: u64, rows: &[Value]) -> Result<Published> {
        land(&self.to, &notes(), version, &format!("run{version}"), rows).await
    }

    /// The sizes of what was sent, as `Content-Range` says them.
    fn ranges(&self) -> Vec<String> {
        let seen = self.proxy.seen("PUT /upload");
        seen.into_iter().map(|s| s.range).collect()
    }

    /// Ids of the jobs for which uploads were begun.
    fn jobs(&self) -> Vec<String> {
        let seen = self.proxy.seen("POST /upload");
        let id = |s: &Value| s["jobReference"]["jobId"].as_str().unwrap().to_owned();
        seen.iter().map(|s| id(&s.json)).collect()
    }

    /// Every fault was met, the table holds the rows and nothing else, and the checkpoint is at that
    /// version.
    async fn holds(&self, rows: &[Value], version: u64) {
        assert_eq!(self.proxy.left(), 0, "{:?}", self.proxy.seen(""));
        let emulator = Emulator::get();
        let found = emulator.query(&format!(
            "SELECT * FROM `{PROJECT}.{}.notes` ORDER BY id",
            self.dataset
        ));
        assert!(found == json!(rows), "other rows than were landed");
        let saved = self.to.checkpoints("src").await.unwrap();
        let saved = saved.get(&update(0, "").key).map(|s| s.version);
        assert_eq!(saved.unwrap_or_default(), version);
        let mut tables = emulator.tables(&self.dataset);
        tables.retain(|t| !t.starts_with("_drawoff_") || t.starts_with("_drawoff_stage_"));
        assert_eq!(tables, ["notes", "notes__rejects"]);
    }
}

fn rows(published: Result<Published>) -> u64 {
    published.unwrap().rows
}

/// Ends a job, not well.
fn fail(job: &mut Value, reason: &str) {
    let error = json!({
        "reason": reason,
        "message": "Error while reading data, error message: Could not parse 'canary' as INT64 for field id",
    });
    job["status"] = json!({"state": "DONE", "errorResult": error, "errors": [error]});
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_through_both_formats() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("load_types");
    let proxy = RestProxy::with(emulator.rest(), vec![]).await;
    let to = destination(emulator.settings_at(&proxy.url), &dataset);
    let column = Column::new;
    let plain = vec![
        column("id", ColumnType::Int64).mode(Mode::Required),
        column("f", ColumnType::Float64),
        column("b", ColumnType::Bool),
        column("s", ColumnType::String),
        column("n", ColumnType::Numeric),
        column("ts", ColumnType::Timestamp),
        column("d", ColumnType::Date),
        column("g", ColumnType::Geography),
    ];
    let nested = |fields: &[Column]| {
        vec![
            column("l", ColumnType::Int64).mode(Mode::Repeated),
            column("r", ColumnType::Record).fields(
                [
                    fields,
                    &[
                        column("l", ColumnType::String).mode(Mode::Repeated),
                        column("must", ColumnType::Int64).mode(Mode::Required),
                    ],
                ]
                .concat(),
            ),
            column("rs", ColumnType::Record)
                .mode(Mode::Repeated)
                .fields(fields.to_vec()),
        ]
    };
    // BYTES fit Parquet as well; the emulator takes those in it for base64.
    let only_json = [
        column("big", ColumnType::BigNumeric),
        column("t", ColumnType::Time),
        column("dt", ColumnType::DateTime),
        column("y", ColumnType::Bytes),
    ];
    let values = [
        json!({
            "id": i64::MIN, "f": -1.7976931348623157e308, "b": false, "s": "", "y": "",
            "n": "-99999999999999999999999999999.999999999",
            "big": "-12345678901234567890.123456789012345678",
            "ts": "0001-01-01T00:00:00.000000Z", "d": "0001-01-01", "g": "POINT(1 2)",
            "t": "00:00:00.000000", "dt": "0001-01-01T00:00:00.000000",
        }),
        json!({
            "id": i64::MAX, "f": 5e-324, "b": true, "s": "ä\u{1F600}\"\\\n\t'; --", "y": "AP8=",
            "n": "99999999999999999999999999999.999999999",
            "big": "12345678901234567890.123456789012345678",
            "ts": "9999-12-31T23:59:59.999999Z", "d": "9999-12-31", "g": "POINT(-180 90)",
            "t": "23:59:59.999999", "dt": "9999-12-31T23:59:59.999999",
        }),
        json!({
            "id": 9_007_199_254_740_993_i64, "f": 0.1, "b": true, "s": "x".repeat(50_000), "y": "/+8=",
            "n": "0.000000001", "big": "0.000000000000000001",
            "ts": "1969-12-31T23:59:59.999999Z", "d": "2024-02-29", "g": "POINT(0 0)",
            "t": "01:02:03.000004", "dt": "1970-01-01T00:00:00.000000",
        }),
    ];
    let parquet = table("plain", [plain.clone(), nested(&plain)].concat());
    let fields = [&plain[..], &only_json].concat();
    let json_only = column("j", ColumnType::Json);
    let ndjson = table(
        "all",
        [fields.clone(), nested(&fields), vec![json_only]].concat(),
    );
    for (version, (spec, format)) in [(&parquet, "PARQUET"), (&ndjson, "NEWLINE_DELIMITED_JSON")]
        .into_iter()
        .enumerate()
    {
        to.prepare(spec).await.unwrap();
        let mut all: Vec<Value> = values
            .iter()
            .enumerate()
            .map(|(n, value)| {
                let mut row = value.clone();
                row["l"] = json!([i64::MIN, 0, i64::MAX]);
                row["r"] = value.clone();
                row["r"]["l"] = json!(["", "x"]);
                row["r"]["must"] = json!(n);
                row["rs"] = json!(values);
                row["j"] = json!({"a": [1, null, {"b": "\u{1F600}"}]});
                row
            })
            .collect();
        // Nothing in it but what must be.
        all.push(json!({"id": 0}));
        let all: Vec<Value> = all
            .iter()
            .map(|row| full(&spec.schema.columns, row))
            .collect();
        let landed = land(&to, spec, version as u64, "run", &all).await;
        assert_eq!(rows(landed), 4);
        let mut answer = emulator.query(&format!("SELECT * FROM `{dataset}.{}`", spec.name));
        let Value::Array(found) = &mut answer else {
            panic!("{answer}")
        };
        // A RECORD that is null reads as one.
        found.sort_by_key(|r| all.iter().position(|a| a["id"] == r["id"]));
        for (found, want) in found.iter().zip(&all) {
            let found = crate::destinations::bigquery::row(&spec.schema.columns, found);
            assert_eq!(&found, want, "{format}");
        }
        assert_eq!(found.len(), all.len());
        let job = &proxy.seen("POST /upload")[version].json;
        let load = &job["configuration"]["load"];
        assert_eq!(load["sourceFormat"], format, "{job}");
    }

    // Nothing of a job is left to defaults.
    let job = &proxy.seen("POST /upload")[0].json;
    let configuration = &job["configuration"];
    assert_eq!(
        configuration["labels"],
        json!({
            "drawoff": "load", "drawoff_source": "src", "drawoff_stream": "notes",
            "drawoff_run": "run", "drawoff_table": "plain",
        })
    );
    assert_eq!(job["jobReference"]["location"], "US");
    let mut load = configuration["load"].clone();
    assert_eq!(
        load["schema"]["fields"][7],
        json!({"name": "g", "type": "STRING", "mode": "NULLABLE"})
    );
    let staging = load["destinationTable"]["tableId"].take();
    let staging = staging.as_str().unwrap();
    assert!(staging.starts_with("_drawoff_stage_plain_run_0001_"));
    assert_eq!(
        job["jobReference"]["jobId"],
        format!("drawoff_load_{}_0", &staging["_drawoff_stage_".len()..])
    );
    load.as_object_mut().unwrap().remove("schema");
    assert_eq!(
        load,
        json!({
            "sourceFormat": "PARQUET",
            "parquetOptions": {"enableListInference": true, "enumAsString": true},
            "decimalTargetTypes": ["NUMERIC"],
            "destinationTable": {"projectId": PROJECT, "datasetId": dataset, "tableId": null},
            "autodetect": false,
            "createDisposition": "CREATE_NEVER",
            "writeDisposition": "WRITE_TRUNCATE",
            "maxBadRecords": 0,
            "ignoreUnknownValues": false,
        })
    );
}

/// What a JSON text cannot say, or only in a roundabout way.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_are_none_and_texts_with_nul_arrive_through_both_formats() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("load_odd");
    let proxy = RestProxy::with(emulator.rest(), vec![]).await;
    let to = destination(emulator.settings_at(&proxy.url), &dataset);
    let columns = vec![
        Column::new("id", ColumnType::Int64),
        Column::new("f", ColumnType::Float64),
        Column::new("s", ColumnType::String),
    ];
    let time = Column::new("t", ColumnType::Time);
    let floats = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.5];
    let texts = ["\0", "a\0b", "\u{1}\u{7f}", ""];
    for (version, (name, spec)) in [
        ("PARQUET", table("plain", columns.clone())),
        (
            "NEWLINE_DELIMITED_JSON",
            table("timed", [columns.clone(), vec![time]].concat()),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        to.prepare(&spec).await.unwrap();
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(0..4)),
            Arc::new(Float64Array::from(floats.to_vec())),
            Arc::new(StringArray::from(texts.to_vec())),
        ];
        if spec.schema.columns.len() > arrays.len() {
            arrays.push(Arc::new(Time64MicrosecondArray::from(vec![None; 4])));
        }
        let rows = RecordBatch::try_new(arrow_schema(&spec.schema), arrays).unwrap();
        let update = update(version as u64, &format!("run{version}"));
        let mut slice = to.open(&spec, &update.run_id, "0001").await.unwrap();
        slice.builds_on(&Base {
            key: update.key.clone(),
            version: version as u64,
            lease: update.lease.clone(),
        });
        slice.stage(BatchKind::Rows, rows).await.unwrap();
        assert_eq!(slice.publish(&update).await.unwrap().rows, 4, "{name}");
        let job = &proxy.seen("POST /upload")[version].json;
        assert_eq!(job["configuration"]["load"]["sourceFormat"], name);
        let found = emulator.query(&format!(
            "SELECT id, IS_NAN(f) AS nan, IS_INF(f) AS inf, f > 0 AS more, TO_HEX(CAST(s AS BYTES)) AS s \
             FROM {dataset}.{} ORDER BY id",
            spec.name
        ));
        let row = |id: usize, nan: bool, inf: bool, s: &str| json!({"id": id, "nan": nan, "inf": inf, "more": found[id]["more"], "s": s});
        assert_eq!(
            found,
            json!([
                row(0, true, false, "00"),
                row(1, false, true, "610062"),
                row(2, false, true, "017f"),
                row(3, false, false, ""),
            ]),
            "{name}"
        );
        assert_eq!(
            (&found[1]["more"], &found[2]["more"]),
            (&json!(true), &json!(false)),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_rejects_need_no_storage_write_api() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("load_only");
    let mut google = emulator.settings();
    google.bigquery_storage = Endpoint::parse("127.0.0.1:9", "grpc").unwrap();
    let to = destination(google, &dataset);
    let spec = notes();
    to.prepare(&spec).await.unwrap();
    let mut slice = to.open(&spec, "run", "0001").await.unwrap();
    let reject = Reject {
        reason: "not an integer".into(),
        path: "/id".into(),
        record: "{\"id\": \"x\"}".into(),
    };
    let at = "2026-01-02T03:04:05Z".parse().unwrap();
    let rejected = rejects::batch(&[reject], "notes", "run", at).unwrap();
    slice.stage(BatchKind::Rejects, rejected).await.unwrap();
    let one = batch(&spec.schema, &[note(1)]);
    slice.stage(BatchKind::Rows, one).await.unwrap();
    let published = slice.publish(&update(0, "run")).await.unwrap();
    assert_eq!(published.rows, 1);
    let answers = emulator.ask(vec![
        json!({"query": format!("SELECT * FROM `{dataset}.notes`")}),
        json!({"query": format!("SELECT path, record FROM `{dataset}.notes__rejects`")}),
        json!({"tables": dataset}),
    ]);
    assert_eq!(answers[0], json!([note(1)]));
    assert_eq!(
        answers[1],
        json!([{"path": "/id", "record": "{\"id\": \"x\"}"}])
    );
    assert_eq!(
        answers[2],
        json!([
            "_drawoff_checkpoints",
            "_drawoff_leases",
            "_drawoff_loads",
            "notes",
            "notes__rejects"
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_where_it_is() {
    const MIB: usize = 1 << 20;
    let scene = Scene::of_chunks(
        "load_resume",
        &[
            // The first chunk arrives in part, the rest of it is sent from there.
            Short(MIB),
            Pass,
            // The next arrives, nobody says so, and it is asked for.
            Hide(503),
            Pass,
            // The next is lost on its way.
            LoseRequest,
            Pass,
            Pass,
            // The last arrives and starts the job; the upload is known no more, but the job is.
            LoseAnswer,
            Pass,
        ],
    )
    .await;
    let all: Vec<Value> = (0..110).map(long_note).collect();
    assert_eq!(rows(scene.land(0, &all).await), 110);
    let ranges = scene.ranges();
    let size = ranges.last().unwrap().strip_prefix("bytes */").unwrap();
    let end: usize = size.parse().unwrap();
    let ends: Vec<String> = [
        (0, 4 * MIB),
        (MIB, 5 * MIB),
        (5 * MIB, 9 * MIB),
        (0, 0),
        (9 * MIB, 13 * MIB),
        (0, 0),
        (9 * MIB, 13 * MIB),
        (13 * MIB, end),
        (0, 0),
    ]
    .iter()
    .map(|&(from, to)| match to {
        0 => "bytes */*".to_owned(),
        to if to == end => format!("bytes {from}-{}/{end}", end - 1),
        to => format!("bytes {from}-{}/*", to - 1),
    })
    .collect();
    assert_eq!(ranges[..8], ends[..8]);
    assert_eq!(scene.jobs().len(), 1);
    scene.holds(&all, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_does_not_load_twice() {
    // Each line is a load of two rows.
    let faults = [
        // The upload is complete when it is asked how far it is.
        &[Hide(503), Reveal][..],
        // It is known no more; the job is found under its id.
        &[LoseAnswer, Pass],
        &[Hide(502), Pass],
        // It never arrived.
        &[LoseRequest, Pass, Pass],
        &[Refuse(502), Refuse(503), Pass, Pass],
    ];
    let scene = Scene::of_chunks("load_lost", &faults.concat()).await;
    let mut all = Vec::new();
    for version in 0..faults.len() {
        let two = [note(2 * version), note(2 * version + 1)];
        assert_eq!(rows(scene.land(version as u64, &two).await), 2);
        assert_eq!(scene.jobs().len(), version + 1);
        all.extend(two);
    }
    scene.holds(&all, faults.len() as u64).await;

    // Opening an upload may be repeated; a session nobody uses is forgotten.
    let faults = [Refuse(502), LoseAnswer, LoseRequest];
    let scene = Scene::new(
        "load_open",
        vec![
            Rule::ending("POST", UPLOAD, &faults),
            // And the job is still looked at when that fails.
            Rule::ending(
                "PUT",
                UPLOAD,
                &[Edit(|job| job["status"] = json!({"state": "PENDING"}))],
            ),
            Rule::containing("GET", "/jobs/drawoff_load", &[Refuse(502), LoseAnswer]),
        ],
    )
    .await;
    assert_eq!(rows(scene.land(0, &[note(1)]).await), 1);
    scene.holds(&[note(1)], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_let_go_of_starts_over_while_it_is_small() {
    let small = Scene::of_chunks(
        "load_small",
        &[Reason(410, "gone"), Reason(404, "notFound")],
    );
    let small = small.await;
    assert_eq!(rows(small.land(0, &[note(1), note(2)]).await), 2);
    assert_eq!(small.jobs().len(), 3);
    small.holds(&[note(1), note(2)], 1).await;

    // A file of more than is kept cannot: the run is for another time, and nothing has happened.
    let large = Scene::of_chunks("load_large", &[Pass, Pass, Reason(410, "gone")]).await;
    let all: Vec<Value> = (0..110).map(long_note).collect();
    let error = large.land(0, &all).await.unwrap_err();
    assert_eq!(error.exit_code(), 75, "{error:?}");
    assert!(
        error.to_string().contains("BigQuery let go of the upload"),
        "{error}"
    );
    assert!(error.find_hint().unwrap().contains("run again"));
    large.holds(&[], 0).await;
    assert_eq!(rows(large.land(0, &all).await), 110);
    large.holds(&all, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_for_a_passing_reason_is_another_job() {
    let scene = Scene::of_chunks(
        "load_internal",
        &[
            Edit(|job| fail(job, "jobInternalError")),
            Edit(|job| fail(job, "backendError")),
        ],
    )
    .await;
    assert_eq!(rows(scene.land(0, &[note(1), note(2)]).await), 2);
    let jobs = scene.jobs();
    assert_eq!(jobs.len(), 3);
    for (attempt, job) in jobs.iter().enumerate() {
        let start = jobs[0].trim_end_matches('0');
        assert_eq!(job, &format!("{start}{attempt}"));
    }
    scene.holds(&[note(1), note(2)], 1).await;

    // Too large to be sent again: for another run.
    let scene = Scene::of_chunks(
        "load_internal_large",
        &[Pass, Pass, Pass, Edit(|job| fail(job, "jobBackendError"))],
    )
    .await;
    let all: Vec<Value> = (0..110).map(long_note).collect();
    let error = scene.land(0, &all).await.unwrap_err();
    assert_eq!(error.exit_code(), 75, "{error:?}");
    assert!(error.find_hint().unwrap().contains("run again"));
    scene.holds(&[], 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_pass_stops_at_once() {
    let stops = |error: Error, kind: ErrorKind| {
        assert_eq!((error.kind(), error.exit_code()), (kind, 1), "{error:?}");
        assert!(!error.chain().contains("canary"), "{error:?}");
        error
    };
    let scene = Scene::of_chunks("load_bad", &[Edit(|job| fail(job, "invalid"))]).await;
    let error = scene.land(0, &[note(1)]).await.unwrap_err();
    let error = stops(error, ErrorKind::Destination).to_string();
    assert!(
        error.starts_with("could not load rows into `p.load_bad") && error.contains("invalid:"),
        "{error}"
    );
    assert_eq!(scene.jobs().len(), 1);
    scene.holds(&[], 0).await;

    let scene = Scene::of_chunks(
        "load_quota",
        &[
            Reason(403, "quotaExceeded"),
            Edit(|job| fail(job, "quotaExceeded")),
        ],
    )
    .await;
    for version in 0..2 {
        let error = scene.land(0, &[note(1)]).await.unwrap_err();
        let error = stops(error, ErrorKind::RateLimited);
        let hint = error.find_hint().unwrap();
        assert!(hint.contains("100,000 load jobs"), "{hint}");
        assert_eq!(scene.ranges().len(), version + 1);
    }

    // Fewer rows than were sent.
    let scene = Scene::of_chunks(
        "load_fewer",
        &[Edit(|job| {
            job["status"] = json!({"state": "DONE"});
            job["statistics"]["load"]["outputRows"] = json!("1");
        })],
    )
    .await;
    let error = scene.land(0, &[note(1), note(2)]).await.unwrap_err();
    let error = stops(error, ErrorKind::Destination).to_string();
    assert!(
        error.contains("loaded 1 rows") && error.contains("2 were sent"),
        "{error}"
    );

    // What is not fatal is none of it.
    let scene = Scene::of_chunks(
        "load_warned",
        &[Edit(|job| {
            assert_eq!(job["status"]["state"], "DONE");
            fail(job, "invalid");
            job["status"].as_object_mut().unwrap().remove("errorResult");
        })],
    )
    .await;
    assert_eq!(rows(scene.land(0, &[note(1)]).await), 1);
    scene.holds(&[note(1)], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_may_wait_for_hours_but_not_for_ever() {
    let pending = Edit(|job| job["status"] = json!({"state": "PENDING"}));
    let rules = |looks: &[Fault]| {
        vec![
            Rule::ending("PUT", UPLOAD, &[pending]),
            Rule::containing("GET", "/jobs/drawoff_load", looks),
        ]
    };
    let scene = Scene::new("load_pending", rules(&[pending; 12])).await;
    assert_eq!(rows(scene.land(0, &[note(1)]).await), 1);
    scene.holds(&[note(1)], 1).await;

    let mut scene = Scene::new("load_stuck", rules(&[pending; 100])).await;
    let google = Emulator::get().settings_at(&scene.proxy.url);
    scene.to = destination_at(google, &scene.dataset, HastyClock::times(600));
    let error = scene.land(0, &[note(1)]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.exit_code()),
        (ErrorKind::Unavailable, 75)
    );
    let error = error.to_string();
    assert!(error.contains("is still PENDING after 5"), "{error}");
}

/// A server that nobody should turn to: its root, and how many came.
async fn stranger() -> (&'static str, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let root = format!("http://{}", listener.local_addr().unwrap());
    let came = Arc::new(AtomicUsize::new(0));
    let count = came.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    (root.leak(), came)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_on_to_a_stranger() {
    let (root, came) = stranger().await;
    // The chunks go to the host that was asked; 308 is how far an upload is, and no redirect.
    let rules = vec![
        Rule::ending("POST", UPLOAD, &[Elsewhere(root)]),
        Rule::ending("PUT", UPLOAD, &[Redirect(308, root), Redirect(308, root)]),
    ];
    let scene = Scene::new("load_elsewhere", rules).await;
    assert_eq!(rows(scene.land(0, &[note(1)]).await), 1);
    scene.holds(&[note(1)], 1).await;

    for status in [301, 302, 303, 307, 308] {
        for (method, path) in [
            ("POST", UPLOAD),
            ("PUT", UPLOAD),
            ("POST", "/tables"),
            ("GET", "/datasets/"),
        ] {
            if (method, status) == ("PUT", 308) {
                continue;
            }
            let rule = Rule::containing(method, path, &[Redirect(status, root)]);
            let proxy = RestProxy::with(Emulator::get().rest(), vec![rule]).await;
            let google = Emulator::get().settings_at(&proxy.url);
            let to = destination(google, &scene.dataset);
            let landed = land(&to, &notes(), 1, "run1", &[note(2)]).await;
            assert_eq!(proxy.left(), 0);
            let error = landed.unwrap_err().to_string();
            assert!(
                error.contains(&status.to_string()),
                "{method} {path}: {error}"
            );
        }
    }
    scene.holds(&[note(1)], 1).await;
    assert_eq!(came.load(Ordering::SeqCst), 0);
}
