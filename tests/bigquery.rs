//! The BigQuery destination against an emulator, read back by Google's own client.

use std::sync::Arc;

use arrow_array::builder::{Int64Builder, ListBuilder, StringBuilder, StructBuilder};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array,
    RecordBatch, StringArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow_schema::DataType;
use drawoff::clock::SystemClock;
use drawoff::destination::bigquery::{BigQuery, BigQuerySettings, Target};
use drawoff::destination::rejects;
use drawoff::destination::{
    Absent, BatchKind, Destination, Disposition, PartitionUnit, Partitioning, Published, Slice,
    TableSpec,
};
use drawoff::error::{ErrorKind, Result};
use drawoff::google::{Endpoint, Google, GoogleSettings};
use drawoff::schema::decode::Reject;
use drawoff::schema::{Column, ColumnType, Mode, Number, TableSchema, arrow_schema};
use drawoff::state::{
    Checkpoint, CheckpointKey, CheckpointUpdate, SavedCheckpoint, SliceFacts, StateStore,
};
use serde_json::{Value, json};

use crate::support::emulator::{Emulator, PROJECT};
use crate::support::faults::{CuttingProxy, Fault, RestProxy};

fn destination_with(google: GoogleSettings, dataset: &str, settings: BigQuerySettings) -> BigQuery {
    let google = Google::new(google, SystemClock::shared()).unwrap();
    let target = Target {
        project: PROJECT.into(),
        dataset: dataset.into(),
    };
    BigQuery::new(google, target, settings).unwrap()
}

fn destination(dataset: &str) -> BigQuery {
    destination_with(Emulator::get().settings(), dataset, Default::default())
}

/// `id` and `name` of type STRING, and the cursor `at`.
fn people(disposition: Disposition) -> TableSpec {
    TableSpec {
        name: "people".into(),
        description: "Who is who.".into(),
        schema: TableSchema {
            columns: vec![
                Column::new("id", ColumnType::Int64).mode(Mode::Required),
                Column::new("name", ColumnType::String).describe("Full name."),
                Column::new("at", ColumnType::Int64),
            ],
        },
        disposition,
        primary_key: vec!["id".into()],
        cursor: Some("at".into()),
        ..TableSpec::default()
    }
}

fn daily(column: &str) -> Partitioning {
    Partitioning {
        column: column.into(),
        unit: PartitionUnit::Day,
        fixed: false,
    }
}

type Person = (i64, Option<&'static str>, Option<i64>);

fn batch(rows: &[Person]) -> RecordBatch {
    RecordBatch::try_new(
        arrow_schema(&people(Disposition::Append).schema),
        vec![
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0))),
            Arc::new(StringArray::from_iter(rows.iter().map(|r| r.1))),
            Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.2))),
        ],
    )
    .unwrap()
}

fn update(expected_version: u64, run: &str, cursor: &str) -> CheckpointUpdate {
    CheckpointUpdate {
        key: CheckpointKey {
            source: "crm".into(),
            stream: "people".into(),
        },
        checkpoint: Checkpoint {
            cursor: Some(cursor.into()),
            ..Default::default()
        },
        expected_version,
        run_id: run.into(),
        lease: "crm".into(),
        facts: SliceFacts::default(),
    }
}

async fn staged(
    destination: &BigQuery,
    spec: &TableSpec,
    run: &str,
    rows: &[Person],
) -> Box<dyn Slice> {
    let mut slice = destination.open(spec, run, "all").await.unwrap();
    if !rows.is_empty() {
        slice.stage(BatchKind::Rows, batch(rows)).await.unwrap();
    }
    slice
}

async fn publish(
    destination: &BigQuery,
    spec: &TableSpec,
    version: u64,
    rows: &[Person],
) -> Result<Published> {
    let run = format!("run{version}");
    let slice = staged(destination, spec, &run, rows).await;
    slice.publish(&update(version, &run, &run)).await
}

async fn version(destination: &BigQuery) -> Option<(u64, Option<String>)> {
    let found = destination.checkpoints("crm").await.unwrap();
    found
        .get(&update(0, "", "").key)
        .map(|s: &SavedCheckpoint| (s.version, s.checkpoint.cursor.clone()))
}

fn read(dataset: &str) -> Value {
    Emulator::get().query(&format!(
        "SELECT * FROM `{PROJECT}.{dataset}.people` ORDER BY id, at"
    ))
}

fn only_own_tables(dataset: &str) {
    assert_eq!(
        Emulator::get().tables(dataset),
        [
            "_drawoff_checkpoints",
            "_drawoff_leases",
            "_drawoff_loads",
            "people",
            "people__rejects"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_every_type_exactly() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("types");
    let bigquery = destination(&dataset);
    let column = Column::new;
    let spec = TableSpec {
        name: "things".into(),
        description: "Things of every type.".into(),
        schema: TableSchema {
            columns: vec![
                column("i", ColumnType::Int64)
                    .mode(Mode::Required)
                    .describe("A number."),
                column("f", ColumnType::Float64),
                column("b", ColumnType::Bool),
                column("s", ColumnType::String),
                column("y", ColumnType::Bytes),
                column("n", ColumnType::Numeric),
                column("ts", ColumnType::Timestamp),
                column("d", ColumnType::Date),
                column("dt", ColumnType::DateTime),
                column("t", ColumnType::Time),
                column("j", ColumnType::Json),
                column("g", ColumnType::Geography),
                column("tags", ColumnType::String).mode(Mode::Repeated),
                column("r", ColumnType::Record).fields(vec![
                    column("a", ColumnType::Int64),
                    column("b", ColumnType::String),
                ]),
                column("rs", ColumnType::Record)
                    .mode(Mode::Repeated)
                    .fields(vec![
                        column("k", ColumnType::String),
                        column("v", ColumnType::Int64),
                    ]),
            ],
        },
        disposition: Disposition::Append,
        primary_key: vec![],
        cursor: None,
        partition: Some(daily("ts")),
        cluster_by: vec!["s".into(), "i".into()],
        ..TableSpec::default()
    };
    bigquery.prepare(&spec).await.unwrap();

    let micros = 1_704_164_645_123_456;
    let schema = arrow_schema(&spec.schema);
    let mut tags = ListBuilder::new(StringBuilder::new()).with_field(list_item(&schema, 12));
    tags.values().append_value("x");
    tags.values().append_value("é\n\"");
    tags.append(true);
    tags.append(true);
    let r_fields = match schema.field(13).data_type() {
        DataType::Struct(fields) => fields.clone(),
        other => panic!("{other}"),
    };
    let r = StructArray::new(
        r_fields,
        vec![
            Arc::new(Int64Array::from(vec![Some(i64::MAX), None])),
            Arc::new(StringArray::from(vec![None, Some("unseen")])),
        ],
        Some(vec![true, false].into()),
    );
    let item = list_item(&schema, 14);
    let DataType::Struct(item_fields) = item.data_type().clone() else {
        panic!()
    };
    let mut rs = ListBuilder::new(StructBuilder::new(
        item_fields,
        vec![
            Box::new(StringBuilder::new()),
            Box::new(Int64Builder::new()),
        ],
    ))
    .with_field(item);
    for (k, v) in [("one", Some(1)), ("none", None)] {
        let builder = rs.values();
        builder
            .field_builder::<StringBuilder>(0)
            .unwrap()
            .append_value(k);
        builder
            .field_builder::<Int64Builder>(1)
            .unwrap()
            .append_option(v);
        builder.append(true);
    }
    rs.append(true);
    rs.append(true);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![9_007_199_254_740_993, i64::MIN])),
        Arc::new(Float64Array::from(vec![Some(0.1), None])),
        Arc::new(BooleanArray::from(vec![Some(true), None])),
        Arc::new(StringArray::from(vec![Some("ü 'q' \\ `b`"), None])),
        Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\x00\xff"), None])),
        Arc::new(
            Decimal128Array::from(vec![Some(12_345_678_901_234_567_890_123_456_789i128), None])
                .with_precision_and_scale(38, 9)
                .unwrap(),
        ),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(micros), None]).with_timezone("UTC")),
        Arc::new(Date32Array::from(vec![Some(19_724), None])),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(micros), None])),
        Arc::new(Time64MicrosecondArray::from(vec![
            Some(3_723_000_001),
            None,
        ])),
        Arc::new(StringArray::from(vec![Some(r#"{"a":[1,null,"x"]}"#), None])),
        Arc::new(StringArray::from(vec![Some("POINT(1 2)"), None])),
        Arc::new(tags.finish()),
        Arc::new(r),
        Arc::new(rs.finish()),
    ];
    let rows = RecordBatch::try_new(schema, columns).unwrap();
    let mut slice = bigquery.open(&spec, "r1", "all").await.unwrap();
    slice.stage(BatchKind::Rows, rows).await.unwrap();
    let published = slice.publish(&update(0, "r1", "c")).await.unwrap();
    assert_eq!(
        published,
        Published {
            rows: 2,
            deduplicated: 0,
            ..Published::default()
        }
    );

    let mut answers = emulator.ask(vec![
        json!({"query": format!("SELECT * FROM `{dataset}.things` ORDER BY i DESC")}),
        json!({"table": format!("{dataset}.things")}),
    ]);
    assert_eq!(
        answers[0],
        json!([
            {
                "i": 9_007_199_254_740_993i64, "f": 0.1, "b": true, "s": "ü 'q' \\ `b`",
                "y": "AP8=", "n": "12345678901234567890.123456789",
                "ts": "2024-01-02T03:04:05.123456+00:00", "d": "2024-01-02",
                "dt": "2024-01-02T03:04:05.123456", "t": "01:02:03.000001",
                "j": {"a": [1, null, "x"]}, "g": "POINT(1 2)", "tags": ["x", "é\n\""],
                "r": {"a": i64::MAX, "b": null},
                "rs": [{"k": "one", "v": 1}, {"k": "none", "v": null}],
            },
            {
                "i": i64::MIN, "f": null, "b": null, "s": null, "y": null, "n": null, "ts": null,
                "d": null, "dt": null, "t": null, "j": null, "g": null, "tags": [], "r": null,
                "rs": [],
            }
        ])
    );
    let table = answers.remove(1);
    assert_eq!(table["description"], "Things of every type.");
    assert_eq!(table["partition"], json!(["DAY", "ts"]));
    assert_eq!(table["clustering"], json!(["s", "i"]));
    assert_eq!(
        table["schema"][0],
        json!({"name": "i", "type": "INTEGER", "mode": "REQUIRED", "description": "A number."})
    );
    assert_eq!(table["schema"][14]["mode"], "REPEATED");
    assert_eq!(table["schema"][14]["fields"][1]["type"], "INTEGER");

    // What it wrote it recognises.
    bigquery.prepare(&spec).await.unwrap();
    let existing = bigquery.existing("things").await.unwrap().unwrap();
    assert_eq!(existing.columns.len(), 15);
    assert_eq!(existing.columns[13].kind, ColumnType::Record);
    assert_eq!(bigquery.existing("nothing").await.unwrap(), None);
}

fn list_item(schema: &arrow_schema::Schema, at: usize) -> arrow_schema::FieldRef {
    match schema.field(at).data_type() {
        DataType::List(item) => item.clone(),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn merging_keeps_the_newest_of_each_key() {
    let dataset = Emulator::get().dataset("merge");
    let bigquery = destination(&dataset);
    let spec = people(Disposition::Merge);
    bigquery.prepare(&spec).await.unwrap();
    assert_eq!(version(&bigquery).await, None);

    let published = publish(
        &bigquery,
        &spec,
        0,
        &[
            (1, Some("old"), Some(1)),
            (2, Some("kept"), Some(5)),
            (1, Some("new"), Some(2)),
            (2, Some("older"), Some(4)),
            (3, Some("first"), Some(7)),
            (3, Some("second of two equal"), Some(7)),
            (4, Some("no cursor"), None),
            (4, Some("a cursor"), Some(0)),
        ],
    )
    .await
    .unwrap();
    assert_eq!(
        published,
        Published {
            rows: 4,
            deduplicated: 4,
            ..Published::default()
        }
    );
    assert_eq!(version(&bigquery).await, Some((1, Some("run0".into()))));
    let published = publish(
        &bigquery,
        &spec,
        1,
        &[(2, Some("merged"), Some(1)), (9, None, None)],
    )
    .await
    .unwrap();
    assert_eq!(
        published,
        Published {
            rows: 2,
            deduplicated: 0,
            ..Published::default()
        }
    );
    // Nothing to say still moves the checkpoint.
    let published = publish(&bigquery, &spec, 2, &[]).await.unwrap();
    assert_eq!(published, Published::default());

    assert_eq!(
        read(&dataset),
        json!([
            {"id": 1, "name": "new", "at": 2},
            {"id": 2, "name": "merged", "at": 1},
            {"id": 3, "name": "second of two equal", "at": 7},
            {"id": 4, "name": "a cursor", "at": 0},
            {"id": 9, "name": null, "at": null},
        ])
    );
    assert_eq!(version(&bigquery).await, Some((3, Some("run2".into()))));
    only_own_tables(&dataset);

    let shown = Emulator::get().bq(&format!(
        "SELECT id, name FROM `{dataset}.people` WHERE id < 3 ORDER BY id"
    ));
    if let Some(shown) = shown {
        assert_eq!(
            shown,
            json!([{"id": "1", "name": "new"}, {"id": "2", "name": "merged"}])
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_and_appending() {
    let dataset = Emulator::get().dataset("replace");
    let bigquery = destination(&dataset);
    let append = people(Disposition::Append);
    bigquery.prepare(&append).await.unwrap();
    let twice = [(1, Some("a"), Some(1)), (1, Some("a"), Some(1))];
    let published = publish(&bigquery, &append, 0, &twice).await.unwrap();
    assert_eq!(
        published,
        Published {
            rows: 2,
            deduplicated: 0,
            ..Published::default()
        }
    );
    let replace = people(Disposition::Replace);
    bigquery.prepare(&replace).await.unwrap();
    let published = publish(
        &bigquery,
        &replace,
        1,
        &[(7, Some("x"), Some(1)), (7, Some("y"), Some(2))],
    )
    .await
    .unwrap();
    assert_eq!(
        published,
        Published {
            rows: 1,
            deduplicated: 1,
            ..Published::default()
        }
    );
    assert_eq!(read(&dataset), json!([{"id": 7, "name": "y", "at": 2}]));
    publish(&bigquery, &replace, 2, &[]).await.unwrap();
    assert_eq!(read(&dataset), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_builds_on_the_version_it_names() {
    let dataset = Emulator::get().dataset("version");
    let bigquery = destination(&dataset);
    let spec = people(Disposition::Append);
    bigquery.prepare(&spec).await.unwrap();
    publish(&bigquery, &spec, 0, &[(1, Some("a"), None)])
        .await
        .unwrap();

    // Another run that has not seen it.
    let late = staged(&bigquery, &spec, "late", &[(2, Some("b"), None)]).await;
    let error = late.publish(&update(0, "late", "z")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State, "{error:?}");
    // One from a future that never was.
    let early = staged(&bigquery, &spec, "early", &[(3, Some("c"), None)]).await;
    let error = early.publish(&update(7, "early", "z")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State);

    // The very same slice once more, as after a lost answer: recognised, not doubled.
    let again = staged(&bigquery, &spec, "run0", &[(1, Some("a"), None)]).await;
    let published = again.publish(&update(0, "run0", "run0")).await.unwrap();
    assert_eq!(published.rows, 1);

    assert_eq!(read(&dataset), json!([{"id": 1, "name": "a", "at": null}]));
    assert_eq!(version(&bigquery).await, Some((1, Some("run0".into()))));
    only_own_tables(&dataset);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_runs_at_once_one_publishes() {
    let dataset = Emulator::get().dataset("race");
    let spec = people(Disposition::Append);
    // Each with a destination of its own, as in processes of their own.
    let runs: Vec<BigQuery> = (0..3).map(|_| destination(&dataset)).collect();
    runs[0].prepare(&spec).await.unwrap();
    let mut tasks = Vec::new();
    for (n, bigquery) in runs.into_iter().enumerate() {
        let spec = spec.clone();
        tasks.push(tokio::spawn(async move {
            let run = format!("racer{n}");
            let slice = staged(&bigquery, &spec, &run, &[(1, Some("once"), None)]).await;
            slice.publish(&update(0, &run, &run)).await
        }));
    }
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(published) => {
                assert_eq!(published.rows, 1);
                won += 1;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::State, "{error:?}"),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(
        read(&dataset),
        json!([{"id": 1, "name": "once", "at": null}])
    );
    assert_eq!(version(&destination(&dataset)).await.unwrap().0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_staged_and_not_published_never_shows() {
    let dataset = Emulator::get().dataset("staged");
    let bigquery = destination(&dataset);
    let spec = people(Disposition::Append);
    bigquery.prepare(&spec).await.unwrap();
    let many: Vec<Person> = (0..5_000).map(|n| (n, Some("unseen"), None)).collect();
    let mut slice = staged(&bigquery, &spec, "r", &many).await;
    for _ in 0..30 {
        slice.stage(BatchKind::Rows, batch(&many)).await.unwrap();
    }
    assert_eq!(read(&dataset), json!([]));
    assert_eq!(version(&bigquery).await, None);
    slice.abandon().await.unwrap();
    assert_eq!(read(&dataset), json!([]));
    only_own_tables(&dataset);

    // A run that dies leaves its staging behind, unseen; the next ones are not disturbed by it.
    drop(staged(&bigquery, &spec, "dead", &many).await);
    let published = publish(&bigquery, &spec, 0, &[(1, Some("seen"), None)])
        .await
        .unwrap();
    assert_eq!(published.rows, 1);
    assert_eq!(
        read(&dataset),
        json!([{"id": 1, "name": "seen", "at": null}])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_are_published_with_the_rows() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("rejects");
    let bigquery = destination(&dataset);
    let spec = people(Disposition::Replace);
    bigquery.prepare(&spec).await.unwrap();
    let at = "2024-01-02T03:04:05Z".parse().unwrap();
    let reject = |n: u32| Reject {
        reason: "not an integer".into(),
        path: "/id".into(),
        record: format!("{{\"id\": \"x{n}\"}}"),
    };
    for version in 0..2 {
        let run = format!("run{version}");
        let mut slice = staged(&bigquery, &spec, &run, &[(1, Some("a"), None)]).await;
        let rejected = rejects::batch(&[reject(version)], "people", &run, at).unwrap();
        slice.stage(BatchKind::Rejects, rejected).await.unwrap();
        let published = slice
            .publish(&update(version.into(), &run, "c"))
            .await
            .unwrap();
        assert_eq!(published.rows, 1);
    }
    // Appended, though the table is replaced.
    assert_eq!(
        emulator.query(&format!(
            "SELECT * FROM `{dataset}.people__rejects` ORDER BY _run_id"
        )),
        json!([
            {"stream": "people", "reason": "not an integer", "path": "/id", "record": "{\"id\": \"x0\"}",
             "_extracted_at": "2024-01-02T03:04:05+00:00", "_run_id": "run0"},
            {"stream": "people", "reason": "not an integer", "path": "/id", "record": "{\"id\": \"x1\"}",
             "_extracted_at": "2024-01-02T03:04:05+00:00", "_run_id": "run1"},
        ])
    );
    only_own_tables(&dataset);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_table_would_refuse_become_rejects() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("unfit");
    let bigquery = destination(&dataset);
    let table = |longest: Option<u32>| {
        let mut text = Column::new("s", ColumnType::String);
        text.max_length = longest.map(Number);
        let columns = vec![
            Column::new("id", ColumnType::Int64).mode(Mode::Required),
            Column::new("place", ColumnType::Geography),
            Column::new("r", ColumnType::Record).fields(vec![text]),
            Column::new("_deleted_at", ColumnType::Timestamp),
        ];
        TableSpec {
            schema: TableSchema { columns },
            stream: "people".into(),
            cursor: None,
            ..people(Disposition::Merge)
        }
    };
    let published = async |spec: &TableSpec, version: u64, rows: &[Value]| {
        let run = format!("run{version}");
        bigquery.prepare(spec).await.unwrap();
        let mut slice = bigquery.open(spec, &run, "all").await.unwrap();
        let rows = crate::support::rows::batch(&spec.schema, rows);
        slice.stage(BatchKind::Rows, rows).await.unwrap();
        slice.publish(&update(version, &run, "c")).await
    };
    let rows = || {
        emulator.query(&format!(
            "SELECT id, place, r.s AS s, _deleted_at IS NULL AS listed FROM `{PROJECT}.{dataset}.people` ORDER BY id"
        ))
    };
    let first = [json!({"id": 1, "place": "POINT(1 2)"}), json!({"id": 2})];
    published(&table(Some(5)), 0, &first).await.unwrap();

    // BigQuery changes no limit inside a RECORD, so the table is narrower than the schema from here on.
    let listing = TableSpec {
        absent: Absent::Close,
        ..table(None)
    };
    let second = [
        json!({"id": 1, "place": "N/A"}),
        json!({"id": 3, "r": {"s": "too long"}}),
        json!({"id": 4, "place": "POINT(3 4)", "r": {"s": "short"}}),
        json!({"id": 4, "place": "POINT(5 6)", "r": {"s": "twice"}}),
    ];
    let done = published(&listing, 1, &second).await.unwrap();
    let expected = Published {
        rows: 1,
        deduplicated: 1,
        rejected: 2,
    };
    assert_eq!(done, expected);
    // A rejected one may be the one that seems to be gone.
    let there = json!([
        {"id": 1, "place": "POINT(1 2)", "s": null, "listed": true},
        {"id": 2, "place": null, "s": null, "listed": true},
        {"id": 4, "place": "POINT(5 6)", "s": "twice", "listed": true},
    ]);
    assert_eq!(rows(), there);
    let rejects = emulator.query(&format!(
        "SELECT stream, reason, path, JSON_VALUE(record, '$.id') AS id, _run_id FROM `{dataset}.people__rejects` ORDER BY id"
    ));
    let reject = |id: &str, path: &str, why: &str| {
        json!({
            "stream": "people", "reason": format!("BigQuery refused the row: {why}"), "path": path,
            "id": id, "_run_id": "run1",
        })
    };
    assert_eq!(
        rejects,
        json!([
            reject(
                "1",
                "/place",
                "the text is neither WKT nor GeoJSON that it can read"
            ),
            reject(
                "3",
                "/r/s",
                "the value is longer than its column in the table allows"
            ),
        ])
    );
    let loads = emulator.query(&format!(
        "SELECT staged, published, deduplicated, rejected FROM `{dataset}._drawoff_loads` WHERE version = 2"
    ));
    assert_eq!(
        loads,
        json!([{"staged": 2, "published": 1, "deduplicated": 1, "rejected": 2}])
    );

    // A table that would be replaced by nothing stays.
    let replace = TableSpec {
        disposition: Disposition::Replace,
        ..table(None)
    };
    let done = published(&replace, 2, &second[..2]).await.unwrap();
    assert_eq!((done.rows, done.rejected), (0, 2));
    assert_eq!(rows(), there);
    only_own_tables(&dataset);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_grow_new_columns_and_refuse_what_cannot_be() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("grow");
    let bigquery = destination(&dataset);
    let mut spec = people(Disposition::Merge);
    bigquery.prepare(&spec).await.unwrap();
    publish(&bigquery, &spec, 0, &[(1, Some("a"), Some(1))])
        .await
        .unwrap();

    spec.schema.columns.insert(
        1,
        Column::new("email", ColumnType::String)
            .mode(Mode::Required)
            .describe("Where to write."),
    );
    spec.description = "Who is who, and where.".into();
    bigquery.prepare(&spec).await.unwrap();
    let rows = RecordBatch::try_new(
        arrow_schema(&spec.schema),
        vec![
            Arc::new(Int64Array::from(vec![2])),
            Arc::new(StringArray::from(vec!["b@example.com"])),
            Arc::new(StringArray::from(vec!["b"])),
            Arc::new(Int64Array::from(vec![2])),
        ],
    )
    .unwrap();
    let mut slice = bigquery.open(&spec, "run1", "all").await.unwrap();
    slice.stage(BatchKind::Rows, rows).await.unwrap();
    slice.publish(&update(1, "run1", "c")).await.unwrap();
    assert_eq!(
        read(&dataset),
        json!([
            {"id": 1, "name": "a", "at": 1, "email": null},
            {"id": 2, "name": "b", "at": 2, "email": "b@example.com"},
        ])
    );
    let table = emulator.table(&format!("{dataset}.people"));
    assert_eq!(table["description"], "Who is who, and where.");
    assert_eq!(
        table["schema"][3],
        json!({"name": "email", "type": "STRING", "mode": "NULLABLE", "description": "Where to write."})
    );

    let mut other = spec.clone();
    other.schema.columns[0].kind = ColumnType::String;
    let error = bigquery.prepare(&other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(
        error
            .chain()
            .contains("column `id` is INT64 there, and STRING in the stream's schema"),
        "{error:?}"
    );
    let mut other = spec.clone();
    other
        .schema
        .columns
        .push(Column::new("day", ColumnType::Date));
    other.partition = Some(daily("day"));
    let error = bigquery.prepare(&other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(
        error.chain().contains("is partitioned not at all"),
        "{error:?}"
    );
}

/// BigQuery copies RECORDs by the place of their fields, which the emulator does not: what shows here is
/// that the statements run, and that each value has its field.
#[tokio::test(flavor = "multi_thread")]
async fn fields_of_records_are_matched_by_name() {
    let (a, b) = (
        Column::new("a", ColumnType::Int64),
        Column::new("b", ColumnType::String),
    );
    let record =
        |name: &str, fields: Vec<Column>| Column::new(name, ColumnType::Record).fields(fields);
    let id = Column::new("id", ColumnType::Int64).mode(Mode::Required);
    let table = |columns: Vec<Column>, disposition| TableSpec {
        schema: TableSchema { columns },
        disposition,
        cursor: None,
        ..people(disposition)
    };
    let more = record("more", vec![a.clone()]).mode(Mode::Repeated);
    for disposition in [
        Disposition::Merge,
        Disposition::Append,
        Disposition::Replace,
    ] {
        let dataset = Emulator::get().dataset("records");
        let bigquery = destination(&dataset);
        let first = table(
            vec![
                id.clone(),
                record(
                    "r",
                    vec![
                        a.clone(),
                        b.clone(),
                        record("inner", vec![a.clone(), b.clone()]),
                        more.clone(),
                    ],
                ),
                record("l", vec![a.clone(), b.clone()]).mode(Mode::Repeated),
            ],
            disposition,
        );
        bigquery.prepare(&first).await.unwrap();
        let before = json!({
            "id": 1, "l": [{"a": 1, "b": "old"}],
            "r": {"a": 1, "b": "old", "inner": {"a": 2, "b": "old"}, "more": [{"a": 3}]},
        });
        let mut slice = bigquery.open(&first, "run0", "all").await.unwrap();
        let rows = crate::support::rows::batch(&first.schema, std::slice::from_ref(&before));
        slice.stage(BatchKind::Rows, rows).await.unwrap();
        slice.publish(&update(0, "run0", "c")).await.unwrap();

        // The stream's schema names fields in another order, and fewer of them.
        let second = table(
            vec![
                id.clone(),
                record("l", vec![b.clone(), a.clone()]).mode(Mode::Repeated),
                record(
                    "r",
                    vec![record("inner", vec![b.clone()]), b.clone(), a.clone()],
                ),
            ],
            disposition,
        );
        bigquery.prepare(&second).await.unwrap();
        let new = |id: i64| {
            json!({
                "id": id, "l": [{"b": "x", "a": 1}, {"b": "y", "a": 2}],
                "r": {"inner": {"b": "in"}, "b": "new", "a": 9},
            })
        };
        let rows = [new(1), new(2), json!({"id": 3})];
        let rows = crate::support::rows::batch(&second.schema, &rows);
        let mut slice = bigquery.open(&second, "run1", "all").await.unwrap();
        slice.stage(BatchKind::Rows, rows).await.unwrap();
        slice.publish(&update(1, "run1", "c")).await.unwrap();

        let written = |id: i64, x: Value, more: Value| {
            json!({
                "id": id, "l": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}],
                "r": {"a": 9, "b": "new", "inner": {"a": x, "b": "in"}, "more": more},
            })
        };
        let mut expected = vec![
            written(1, Value::Null, json!([])),
            written(2, Value::Null, json!([])),
            json!({"id": 3, "l": [], "r": null}),
        ];
        match disposition {
            // What the schema lacks keeps its values, as whole columns do.
            Disposition::Merge => expected[0] = written(1, json!(2), json!([{"a": 3}])),
            Disposition::Append => expected.insert(0, before),
            _ => {}
        }
        let found = Emulator::get().query(&format!(
            "SELECT id, r, l FROM `{PROJECT}.{dataset}.people` ORDER BY id, r.b DESC"
        ));
        assert_eq!(found, json!(expected), "{disposition:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_their_key_are_an_error() {
    let dataset = Emulator::get().dataset("keys");
    let bigquery = destination(&dataset);
    let mut spec = people(Disposition::Merge);
    spec.primary_key = vec!["name".into()];
    bigquery.prepare(&spec).await.unwrap();
    let mut slice = bigquery.open(&spec, "r", "all").await.unwrap();
    let error = slice
        .stage(BatchKind::Rows, batch(&[(1, None, None)]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(error.to_string().contains("`name`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_rest_surface_lose_and_double_nothing() {
    let emulator = Emulator::get();
    for (name, faults) in [
        ("busy", &[Fault::Refuse(503), Fault::Refuse(502)][..]),
        // The job runs, its answer is lost, and the repeat finds it under its id.
        ("lost", &[Fault::LoseAnswer, Fault::LoseAnswer]),
    ] {
        let dataset = emulator.dataset(name);
        let spec = people(Disposition::Append);
        destination(&dataset).prepare(&spec).await.unwrap();
        let proxy = RestProxy::start(emulator.rest(), "POST", "/jobs", faults).await;
        let bigquery = destination_with(
            emulator.settings_at(&proxy.url),
            &dataset,
            Default::default(),
        );
        let published = publish(&bigquery, &spec, 0, &[(1, Some("a"), None)])
            .await
            .unwrap();
        assert_eq!(published.rows, 1);
        let published = publish(&bigquery, &spec, 1, &[(2, Some("b"), None)])
            .await
            .unwrap();
        assert_eq!(published.rows, 1);
        assert_eq!(proxy.left(), 0);
        assert_eq!(
            read(&dataset),
            json!([{"id": 1, "name": "a", "at": null}, {"id": 2, "name": "b", "at": null}])
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_resumes_at_the_last_acknowledged_row() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("cut");
    let spec = people(Disposition::Append);
    let proxy = CuttingProxy::start(emulator.grpc(), &[400_000, 300_000]).await;
    let mut google = emulator.settings();
    google.bigquery_storage = Endpoint::parse(&proxy.address, "grpc").unwrap();
    let bigquery = destination_with(
        google,
        &dataset,
        BigQuerySettings {
            request_bytes: Some(256 << 10),
            ..Default::default()
        },
    );
    bigquery.prepare(&spec).await.unwrap();
    let mut slice = bigquery.open(&spec, "run0", "all").await.unwrap();
    let total = 40_000;
    for start in (0..total).step_by(10_000) {
        let rows: Vec<Person> = (start..start + 10_000)
            .map(|n| (n, Some("some text to fill a row with"), Some(n)))
            .collect();
        slice.stage(BatchKind::Rows, batch(&rows)).await.unwrap();
    }
    let published = slice.publish(&update(0, "run0", "c")).await.unwrap();
    assert_eq!(published.rows, total.unsigned_abs());
    assert_eq!(proxy.cuts(), 2);
    assert_eq!(
        emulator.query(&format!(
            "SELECT COUNT(*) AS n, COUNT(DISTINCT id) AS ids, MIN(id) AS low, MAX(id) AS high FROM `{dataset}.people`"
        )),
        json!([{"n": total, "ids": total, "low": 0, "high": total - 1}])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_tries_what_a_run_needs_and_leaves_nothing() {
    let emulator = Emulator::get();
    let dataset = emulator.dataset("check");
    let bigquery = destination(&dataset);
    let steps = bigquery.check().await;
    assert_eq!(steps.len(), 1);
    assert!(
        steps[0]
            .result
            .as_ref()
            .unwrap()
            .contains("the first run creates it"),
        "{steps:?}"
    );
    bigquery
        .prepare(&people(Disposition::Append))
        .await
        .unwrap();
    let steps = bigquery.check().await;
    let tried: Vec<&str> = steps.iter().map(|s| s.what).collect();
    assert_eq!(
        tried,
        [
            "reach the dataset",
            "create a table",
            "write to a table",
            "run a query"
        ]
    );
    assert!(steps.iter().all(|s| s.result.is_ok()), "{steps:?}");
    only_own_tables(&dataset);
}
