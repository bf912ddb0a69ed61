//! The cases. Each gets a place that is empty.

use std::collections::BTreeMap;
use std::slice::from_ref;
use std::time::Duration;

use drawoff::destination::{
    BatchKind, Destination, Disposition, Published, Slice, TableSpec, rejects,
};
use drawoff::error::{ErrorKind, Result};
use drawoff::schema::{Column, ColumnType, Mode, TableSchema};
use drawoff::state::{
    Acquired, Checkpoint, CheckpointKey, CheckpointUpdate, Holder, Lease, PartMark, Parts, Pass,
    SliceFacts, Split,
};
use serde_json::{Value, json};

use super::Place;
pub use super::changes::{history, rows_move_between_partitions, rows_no_longer_listed_are_marked};
use crate::support::rows::{batch, full, sorted};

/// `id`, `name`, `updated_at`, and the engine's columns.
pub fn people(disposition: Disposition) -> TableSpec {
    let mut columns = vec![
        Column::new("id", ColumnType::Int64)
            .mode(Mode::Required)
            .describe("Number of the person."),
        Column::new("name", ColumnType::String).describe("Full name; as given,\nwith \"quotes\"."),
        Column::new("updated_at", ColumnType::Timestamp),
    ];
    columns.extend(engine_columns());
    TableSpec {
        name: "people".into(),
        description: "People.".into(),
        schema: TableSchema { columns },
        disposition,
        primary_key: match disposition {
            Disposition::Merge => vec!["id".into()],
            _ => Vec::new(),
        },
        cursor: Some("updated_at".into()),
        ..TableSpec::default()
    }
}

pub fn engine_columns() -> [Column; 2] {
    [
        Column::new("_extracted_at", ColumnType::Timestamp).mode(Mode::Required),
        Column::new("_run_id", ColumnType::String).mode(Mode::Required),
    ]
}

pub fn person(id: i64, name: &str, day: u32) -> Value {
    json!({
        "id": id, "name": name, "updated_at": format!("2026-01-{day:02}T00:00:00.000000Z"),
        "_extracted_at": "2026-02-01T12:00:00.000001Z", "_run_id": "r",
    })
}

pub fn update(version: u64, run: &str) -> CheckpointUpdate {
    CheckpointUpdate {
        key: CheckpointKey {
            source: "src".into(),
            stream: "people".into(),
        },
        checkpoint: Checkpoint {
            cursor: Some(format!("after-{version}")),
            ..Checkpoint::default()
        },
        expected_version: version,
        run_id: run.into(),
        lease: "src".into(),
        facts: SliceFacts::default(),
    }
}

/// Stages each group of rows as a batch and publishes.
pub async fn land(
    to: &dyn Destination,
    table: &TableSpec,
    slice: &str,
    version: u64,
    groups: &[&[Value]],
) -> Result<Published> {
    let slice = staged(to, table, slice, groups).await;
    slice.publish(&update(version, "run")).await
}

pub async fn staged(
    to: &dyn Destination,
    table: &TableSpec,
    slice: &str,
    groups: &[&[Value]],
) -> Box<dyn Slice> {
    let mut slice = to.open(table, "run", slice).await.unwrap();
    for rows in groups {
        slice
            .stage(BatchKind::Rows, batch(&table.schema, rows))
            .await
            .unwrap();
    }
    slice
}

pub async fn expect(place: &dyn Place, table: &TableSpec, rows: &[Value]) {
    let got = place.read(&table.name, &table.schema).await;
    let want = rows
        .iter()
        .map(|r| full(&table.schema.columns, r))
        .collect();
    assert_eq!(sorted(got.expect("the table is there")), sorted(want));
}

async fn version(to: &dyn Destination) -> u64 {
    to.checkpoints("src")
        .await
        .unwrap()
        .get(&update(0, "").key)
        .map_or(0, |s| s.version)
}

pub fn counts(rows: u64, deduplicated: u64) -> Published {
    Published {
        rows,
        deduplicated,
        ..Published::default()
    }
}

pub async fn append(place: &dyn Place) {
    let to = place.open().await;
    let table = people(Disposition::Append);
    to.prepare(&table).await.unwrap();
    expect(place, &table, &[]).await;
    let (a, b) = (person(1, "a", 1), person(2, "b", 2));
    let one = land(
        &*to,
        &table,
        "s1",
        0,
        &[from_ref(&a), &[b.clone(), b.clone()]],
    )
    .await;
    assert_eq!(one.unwrap(), counts(3, 0));
    // The same keys again: they are added, in the next run too.
    to.prepare(&table).await.unwrap();
    let two = land(&*to, &table, "s2", 1, &[from_ref(&a)]).await;
    assert_eq!(two.unwrap(), counts(1, 0));
    // A slice without rows still moves the checkpoint.
    assert_eq!(
        land(&*to, &table, "s3", 2, &[]).await.unwrap(),
        counts(0, 0)
    );
    expect(place, &table, &[a.clone(), a, b.clone(), b]).await;
    assert_eq!(version(&*to).await, 3);
}

pub async fn merge_replaces_by_key(place: &dyn Place) {
    let to = place.open().await;
    let table = people(Disposition::Merge);
    to.prepare(&table).await.unwrap();
    let first: Vec<Value> = (0..50).map(|i| person(i, "old", 5)).collect();
    let published = land(&*to, &table, "s1", 0, &[&first[..20], &first[20..]]).await;
    assert_eq!(published.unwrap(), counts(50, 0));
    // Over slices, and over runs: the later publish wins, also with a lower cursor.
    let second: Vec<Value> = (40..60).map(|i| person(i, "new", 1)).collect();
    let published = land(&*to, &table, "s2", 1, &[&second]).await;
    assert_eq!(published.unwrap(), counts(20, 0));
    let again = place.open().await;
    again.prepare(&table).await.unwrap();
    let third = [person(0, "newest", 1), person(59, "newest", 1)];
    let published = land(&*again, &table, "s1", 2, &[&third]).await;
    assert_eq!(published.unwrap(), counts(2, 0));
    let mut want = first[1..40].to_vec();
    want.extend_from_slice(&second[..19]);
    want.extend(third);
    expect(place, &table, &want).await;
}

pub async fn merge_keeps_the_newest(place: &dyn Place) {
    let to = place.open().await;
    let table = people(Disposition::Merge);
    to.prepare(&table).await.unwrap();
    let mut unknown = person(1, "no cursor", 1);
    unknown["updated_at"] = Value::Null;
    let mut unknown_too = unknown.clone();
    unknown_too["id"] = json!(4);
    let mut unknown_last = unknown_too.clone();
    unknown_last["name"] = json!("no cursor, later");
    let staged: [&[Value]; 3] = [
        &[
            person(1, "highest", 9),
            person(2, "tie, first", 3),
            unknown_too.clone(),
        ],
        &[
            person(1, "lower", 8),
            person(2, "tie, second", 3),
            person(3, "low", 1),
            person(3, "high", 2),
        ],
        &[
            unknown,
            person(2, "tie, last", 3),
            person(3, "middle", 1),
            unknown_last.clone(),
        ],
    ];
    let published = land(&*to, &table, "s1", 0, &staged).await.unwrap();
    assert_eq!(published, counts(4, 7));
    let want = [
        person(1, "highest", 9),
        person(2, "tie, last", 3),
        person(3, "high", 2),
        unknown_last,
    ];
    expect(place, &table, &want).await;

    // Without a cursor the later staged wins.
    let mut plain = people(Disposition::Merge);
    plain.name = "plain".into();
    plain.cursor = None;
    to.prepare(&plain).await.unwrap();
    let groups: [&[Value]; 2] = [&[person(1, "first", 9)], &[person(1, "last", 1)]];
    let published = land(&*to, &plain, "s2", 1, &groups).await.unwrap();
    assert_eq!(published, counts(1, 1));
    expect(place, &plain, &[person(1, "last", 1)]).await;
}

pub async fn merge_by_other_cursors(place: &dyn Place) {
    let to = place.open().await;
    // Of each type a lower and a higher value whose texts do not all sort so.
    let cursors = [
        (ColumnType::Int64, json!(-10), json!(9)),
        (ColumnType::Float64, json!(-10.5), json!(-9.5)),
        (ColumnType::Numeric, json!("-10.5"), json!("9")),
        (ColumnType::Numeric, json!("9.5"), json!("10.25")),
        (ColumnType::BigNumeric, json!("-9"), json!("-8.5")),
        (ColumnType::BigNumeric, json!("99"), json!("100")),
        (ColumnType::String, json!("B"), json!("a")),
        (ColumnType::String, json!("a"), json!("a ")),
        (ColumnType::Date, json!("0999-12-31"), json!("2026-01-01")),
        (
            ColumnType::DateTime,
            json!("1969-12-31T23:59:59.999999"),
            json!("1970-01-01T00:00:00.000000"),
        ),
        (
            ColumnType::Time,
            json!("09:59:59.999999"),
            json!("10:00:00.000000"),
        ),
        (ColumnType::Bool, json!(false), json!(true)),
    ];
    for (i, (kind, low, high)) in cursors.into_iter().enumerate() {
        let mut table = people(Disposition::Merge);
        table.name = format!("cursor_{i}");
        table.schema.columns[2] = Column::new("updated_at", kind);
        to.prepare(&table).await.unwrap();
        let row = |id: i64, cursor: &Value| {
            let mut row = person(id, "x", 1);
            row["updated_at"] = cursor.clone();
            row
        };
        // Both ways around, so that the order of staging cannot decide.
        let groups: [&[Value]; 2] = [
            &[row(1, &high), row(2, &low)],
            &[row(1, &low), row(2, &high)],
        ];
        let published = land(&*to, &table, &format!("s{i}"), i as u64, &groups).await;
        assert_eq!(published.unwrap(), counts(2, 2), "{kind:?}");
        expect(place, &table, &[row(1, &high), row(2, &high)]).await;
    }
}

pub async fn merge_needs_keys(place: &dyn Place) {
    let to = place.open().await;
    let mut table = people(Disposition::Merge);
    table.primary_key = vec!["id".into(), "name".into()];
    to.prepare(&table).await.unwrap();
    let mut row = person(1, "", 1);
    row["name"] = Value::Null;
    let mut slice = to.open(&table, "run", "s").await.unwrap();
    let staged = slice
        .stage(BatchKind::Rows, batch(&table.schema, &[row]))
        .await;
    let error = match staged {
        // Whether the destination sees it at once or when it publishes is its own affair.
        Ok(()) => slice.publish(&update(0, "run")).await.unwrap_err(),
        Err(e) => e,
    };
    assert_eq!(error.kind(), ErrorKind::Schema, "{error:?}");
    assert!(error.chain().contains("`name`"), "{error:?}");
    expect(place, &table, &[]).await;
    assert_eq!(version(&*to).await, 0);

    // Both columns together name a row, and neither runs into the other.
    let rows = [
        person(1, "a", 1),
        person(1, "", 1),
        person(11, "", 1),
        person(2, "a", 1),
    ];
    let published = land(&*to, &table, "s2", 0, &[&rows, &rows]).await.unwrap();
    assert_eq!(published, counts(4, 4));
    expect(place, &table, &rows).await;

    table.primary_key = Vec::new();
    assert_eq!(
        to.prepare(&table).await.unwrap_err().kind(),
        ErrorKind::Schema
    );
}

pub async fn merge_of_columns_that_are_all_key(place: &dyn Place) {
    let to = place.open().await;
    let mut table = people(Disposition::Merge);
    table.primary_key = table
        .schema
        .columns
        .iter()
        .map(|c| c.name.to_ascii_uppercase())
        .collect();
    table.cursor = None;
    to.prepare(&table).await.unwrap();
    let (a, b) = (person(1, "a", 1), person(1, "b", 1));
    land(&*to, &table, "s1", 0, &[&[a.clone(), b.clone()]])
        .await
        .unwrap();
    land(&*to, &table, "s2", 1, &[from_ref(&a)]).await.unwrap();
    expect(place, &table, &[a, b]).await;
}

pub async fn replace(place: &dyn Place) {
    let to = place.open().await;
    let table = people(Disposition::Replace);
    to.prepare(&table).await.unwrap();
    let (a, b, c) = (person(1, "a", 1), person(2, "b", 2), person(3, "c", 3));
    land(&*to, &table, "s1", 0, &[&[a.clone(), b]])
        .await
        .unwrap();
    let published = land(&*to, &table, "s2", 1, &[from_ref(&a), from_ref(&c)]).await;
    assert_eq!(published.unwrap(), counts(2, 0));
    expect(place, &table, &[a, c]).await;
    // Told to replace by nothing, it does.
    land(&*to, &table, "s3", 2, &[]).await.unwrap();
    expect(place, &table, &[]).await;
}

pub async fn replace_removes_doubles(place: &dyn Place) {
    // A list that moved while it was paged through gives some rows twice.
    let to = place.open().await;
    let mut table = people(Disposition::Replace);
    table.primary_key = vec!["id".into()];
    to.prepare(&table).await.unwrap();
    let groups: [&[Value]; 2] = [
        &[person(1, "old", 1), person(2, "b", 1)],
        &[person(1, "new", 2)],
    ];
    let published = land(&*to, &table, "s1", 0, &groups).await.unwrap();
    assert_eq!(published, counts(2, 1));
    expect(place, &table, &[person(1, "new", 2), person(2, "b", 1)]).await;
    // And the same table can then be merged into, and appended to.
    let mut table = people(Disposition::Merge);
    to.prepare(&table).await.unwrap();
    land(&*to, &table, "s2", 1, &[&[person(2, "c", 1)]])
        .await
        .unwrap();
    table.disposition = Disposition::Append;
    to.prepare(&table).await.unwrap();
    land(&*to, &table, "s3", 2, &[&[person(2, "d", 1)]])
        .await
        .unwrap();
    let want = [person(1, "new", 2), person(2, "c", 1), person(2, "d", 1)];
    expect(place, &table, &want).await;
}

/// A column of each type in each mode that it can have, nested and not.
pub fn wide() -> TableSpec {
    use ColumnType::*;
    let kinds = [
        String, Bytes, Int64, Float64, Numeric, BigNumeric, Bool, Timestamp, Date, DateTime, Time,
        Json, Geography,
    ];
    let each = |prefix: &str, mode: Mode| {
        kinds
            .iter()
            .filter(|k| mode != Mode::Repeated || **k != Json)
            .map(|k| Column::new(format!("{prefix}{}", k.sql().to_lowercase()), *k).mode(mode))
            .collect::<Vec<_>>()
    };
    let mut table = people(Disposition::Append);
    table.name = "wide".into();
    table.cursor = None;
    let inner = Column::new("inner", Record)
        .mode(Mode::Repeated)
        .fields(vec![
            Column::new("x", Int64).mode(Mode::Required),
            Column::new("tags", String).mode(Mode::Repeated),
        ]);
    let mut fields = each("f_", Mode::Nullable);
    fields.push(inner);
    let mut columns = vec![Column::new("id", Int64).mode(Mode::Required)];
    columns.extend(each("n_", Mode::Nullable));
    columns.extend(each("l_", Mode::Repeated));
    columns.push(Column::new("record", Record).fields(fields.clone()));
    columns.push(
        Column::new("records", Record)
            .mode(Mode::Repeated)
            .fields(fields),
    );
    columns.extend(engine_columns());
    table.schema = TableSchema { columns };
    table
}

pub async fn every_type(place: &dyn Place) {
    let to = place.open().await;
    let table = wide();
    to.prepare(&table).await.unwrap();
    // Lowest, highest and odd values by type.
    let samples: BTreeMap<&str, Vec<Value>> = BTreeMap::from([
        (
            "string",
            vec![
                json!(""),
                json!("\u{0}\u{1F600} ä\"\\\n\t'; DROP TABLE people; --"),
                json!("x".repeat(100_000)),
            ],
        ),
        ("bytes", vec![json!(""), json!("AP8="), json!("/+8=")]),
        (
            "int64",
            vec![
                json!(i64::MIN),
                json!(i64::MAX),
                json!(9_007_199_254_740_993_i64),
            ],
        ),
        (
            "float64",
            vec![json!(-1.7976931348623157e308), json!(5e-324), json!(0.1)],
        ),
        (
            "numeric",
            vec![
                json!("-99999999999999999999999999999.999999999"),
                json!("99999999999999999999999999999.999999999"),
                json!("0.000000001"),
            ],
        ),
        (
            "bignumeric",
            vec![
                json!(
                    "-578960446186580977117854925043439539266.34992332820282019728792003956564819968"
                ),
                json!(
                    "578960446186580977117854925043439539266.34992332820282019728792003956564819967"
                ),
                json!("123456789012345678901234567890.00000000000000000000000000000000000001"),
            ],
        ),
        ("bool", vec![json!(false), json!(true), json!(false)]),
        (
            "timestamp",
            vec![
                json!("0001-01-01T00:00:00.000000Z"),
                json!("9999-12-31T23:59:59.999999Z"),
                json!("1969-12-31T23:59:59.999999Z"),
            ],
        ),
        (
            "date",
            vec![
                json!("0001-01-01"),
                json!("9999-12-31"),
                json!("2024-02-29"),
            ],
        ),
        (
            "datetime",
            vec![
                json!("0001-01-01T00:00:00.000000"),
                json!("9999-12-31T23:59:59.999999"),
                json!("1970-01-01T00:00:00.000000"),
            ],
        ),
        (
            "time",
            vec![
                json!("00:00:00.000000"),
                json!("23:59:59.999999"),
                json!("01:02:03.000004"),
            ],
        ),
        (
            "json",
            vec![
                json!({"b": [1, 2.5, null, {"ä": "\u{1F600}"}], "a": i64::MAX}),
                json!("text"),
                json!(123),
            ],
        ),
        (
            "geography",
            vec![
                json!("POINT(1 2)"),
                json!("POINT(-180 90)"),
                json!("POINT EMPTY"),
            ],
        ),
    ]);
    let all = |prefix: &str, pick: &dyn Fn(&[Value]) -> Value| -> serde_json::Map<String, Value> {
        samples
            .iter()
            .filter(|(k, _)| prefix != "l_" || **k != "json")
            .map(|(k, v)| (format!("{prefix}{k}"), pick(v)))
            .collect()
    };
    let mut rows = Vec::new();
    for i in 0..3 {
        let mut row = person(i, "", 1).as_object().unwrap().clone();
        row.extend(all("n_", &|v| v[i as usize].clone()));
        row.extend(all("l_", &|v| json!(v)));
        let mut record = all("f_", &|v| v[i as usize].clone());
        record.insert(
            "inner".into(),
            json!([{"x": 1, "tags": ["a", ""]}, {"x": 2, "tags": []}]),
        );
        row.insert("record".into(), Value::Object(record.clone()));
        row.insert("records".into(), json!([record, {"inner": []}]));
        rows.push(Value::Object(row));
    }
    // Nulls and empty lists everywhere: not the same as empty values.
    rows.push(json!({"id": 9, "_extracted_at": "2026-02-01T12:00:00.000001Z", "_run_id": ""}));
    let published = land(&*to, &table, "s1", 0, &[&rows]).await.unwrap();
    assert_eq!(published, counts(4, 0));
    expect(place, &table, &rows).await;
}

pub async fn rejects(place: &dyn Place) {
    let to = place.open().await;
    let table = people(Disposition::Replace);
    to.prepare(&table).await.unwrap();
    let bad = |n: i32| {
        let reject = drawoff::schema::decode::Reject {
            reason: format!("reason {n}"),
            path: "/id".into(),
            record: "{\"id\": \"x\"}".into(),
        };
        let at = "2026-02-01T12:00:00.000001Z".parse().unwrap();
        rejects::batch(&[reject], "people", "run", at).unwrap()
    };
    let row = |n: i32| {
        json!({"stream": "people", "reason": format!("reason {n}"), "path": "/id",
            "record": "{\"id\": \"x\"}", "_extracted_at": "2026-02-01T12:00:00.000001Z",
            "_run_id": "run"})
    };
    let read = || async {
        let name = rejects::table_name(&table.name);
        sorted(
            place
                .read(&name, &rejects::schema())
                .await
                .unwrap_or_default(),
        )
    };
    let mut slice = to.open(&table, "run", "s1").await.unwrap();
    slice.stage(BatchKind::Rejects, bad(1)).await.unwrap();
    slice
        .stage(BatchKind::Rows, batch(&table.schema, &[person(1, "a", 1)]))
        .await
        .unwrap();
    slice.stage(BatchKind::Rejects, bad(2)).await.unwrap();
    assert!(read().await.is_empty());
    let published = slice.publish(&update(0, "run")).await.unwrap();
    assert_eq!(published, counts(1, 0));
    assert_eq!(read().await, [row(1), row(2)]);

    // Alone they are added, too, and the rows stay: that nothing fits does not mean that nothing is there.
    let mut slice = to.open(&table, "run", "s2").await.unwrap();
    slice.stage(BatchKind::Rejects, bad(3)).await.unwrap();
    let published = slice.publish(&update(1, "run")).await.unwrap();
    assert_eq!(published, counts(0, 0));
    assert_eq!(read().await, [row(1), row(2), row(3)]);
    expect(place, &table, &[person(1, "a", 1)]).await;
    assert_eq!(version(&*to).await, 2);
    // With a row beside them the table is replaced.
    let mut slice = to.open(&table, "run", "s3").await.unwrap();
    slice.stage(BatchKind::Rejects, bad(4)).await.unwrap();
    slice
        .stage(BatchKind::Rows, batch(&table.schema, &[person(2, "b", 1)]))
        .await
        .unwrap();
    slice.publish(&update(2, "run")).await.unwrap();
    assert_eq!(read().await, [row(1), row(2), row(3), row(4)]);
    expect(place, &table, &[person(2, "b", 1)]).await;
}

pub async fn abandoned_and_dropped_slices_never_show(place: &dyn Place) {
    let to = place.open().await;
    let table = people(Disposition::Append);
    to.prepare(&table).await.unwrap();
    let rows = [person(1, "a", 1)];
    let slice = staged(&*to, &table, "s1", &[&rows]).await;
    expect(place, &table, &[]).await;
    slice.abandon().await.unwrap();
    drop(staged(&*to, &table, "s2", &[&rows]).await);
    expect(place, &table, &[]).await;
    assert_eq!(version(&*to).await, 0);
    // The names can be used again.
    land(&*to, &table, "s1", 0, &[&rows]).await.unwrap();
    expect(place, &table, &rows).await;
}

pub async fn forgotten_slices_never_show(place: &dyn Place) {
    let table = people(Disposition::Merge);
    let rows = [person(1, "a", 1)];
    {
        let to = place.open().await;
        to.prepare(&table).await.unwrap();
        let slice = staged(&*to, &table, "s1", &[&rows]).await;
        // As a process that is killed leaves it.
        std::mem::forget(slice);
    }
    let to = place.open().await;
    to.prepare(&table).await.unwrap();
    expect(place, &table, &[]).await;
    land(&*to, &table, "s1", 0, &[&rows]).await.unwrap();
    expect(place, &table, &rows).await;
}

pub async fn another_version_is_refused(place: &dyn Place) {
    let to = place.open().await;
    let table = people(Disposition::Merge);
    to.prepare(&table).await.unwrap();
    let (a, b) = ([person(1, "a", 1)], [person(1, "b", 2)]);
    for wrong in [1, 7] {
        let error = land(&*to, &table, "s0", wrong, &[&b]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State, "{error:?}");
    }
    let late = staged(&*to, &table, "late", &[&b]).await;
    land(&*to, &table, "s1", 0, &[&a]).await.unwrap();
    let error = late.publish(&update(0, "another run")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State, "{error:?}");
    assert!(error.find_hint().is_some());
    for wrong in [0, 2] {
        let error = land(&*to, &table, "s2", wrong, &[&b]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::State, "{error:?}");
    }
    expect(place, &table, &a).await;
    let saved = &to.checkpoints("src").await.unwrap()[&update(0, "").key];
    assert_eq!(saved.version, 1);
    assert_eq!(saved.checkpoint, update(0, "").checkpoint);
}

pub async fn a_lost_answer_is_recognised(place: &dyn Place) {
    let to = place.open().await;
    for disposition in [
        Disposition::Append,
        Disposition::Merge,
        Disposition::Replace,
    ] {
        let mut table = people(disposition);
        table.name = format!("lost_{disposition:?}").to_lowercase();
        to.prepare(&table).await.unwrap();
        let at = version(&*to).await;
        let rows = [person(1, "a", 1), person(2, "b", 1)];
        let name = format!("s{at}");
        let first = land(&*to, &table, &name, at, &[&rows]).await.unwrap();
        let second = land(&*to, &table, &name, at, &[&rows]).await.unwrap();
        assert_eq!(first, second);
        expect(place, &table, &rows).await;
        assert_eq!(version(&*to).await, at + 1);
    }
}

pub async fn one_slice_is_not_another(place: &dyn Place) {
    // Of two slices of one run that build on the same version, the second has not been published.
    let to = place.open().await;
    let table = people(Disposition::Append);
    to.prepare(&table).await.unwrap();
    land(&*to, &table, "s1", 0, &[&[person(1, "a", 1)]])
        .await
        .unwrap();
    let error = land(&*to, &table, "s2", 0, &[&[person(2, "b", 1)]])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::State, "{error:?}");
    expect(place, &table, &[person(1, "a", 1)]).await;
}

pub async fn new_columns_are_added(place: &dyn Place) {
    let to = place.open().await;
    let narrow = people(Disposition::Merge);
    to.prepare(&narrow).await.unwrap();
    let rows = [person(1, "a", 1), person(2, "b", 1), person(3, "c", 1)];
    land(&*to, &narrow, "s1", 0, &[&rows]).await.unwrap();

    let mut table = narrow.clone();
    table.schema.columns.insert(
        1,
        Column::new("mail", ColumnType::String).describe("Added later."),
    );
    table.schema.columns.insert(
        3,
        Column::new("tags", ColumnType::String).mode(Mode::Repeated),
    );
    to.prepare(&table).await.unwrap();
    let mut new = person(2, "new", 2);
    new["mail"] = json!("a@example.com");
    new["tags"] = json!(["x"]);
    land(&*to, &table, "s2", 1, &[from_ref(&new)])
        .await
        .unwrap();
    expect(
        place,
        &table,
        &[rows[0].clone(), new.clone(), rows[2].clone()],
    )
    .await;
    let now = to.existing("people").await.unwrap().unwrap();
    let names: Vec<_> = now.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "id",
            "name",
            "updated_at",
            "_extracted_at",
            "_run_id",
            "mail",
            "tags"
        ]
    );

    // And with fewer columns again: the others are null in new rows, kept in old ones.
    to.prepare(&narrow).await.unwrap();
    land(&*to, &narrow, "s3", 2, &[&[person(3, "d", 3)]])
        .await
        .unwrap();
    expect(place, &table, &[rows[0].clone(), new, person(3, "d", 3)]).await;
}

pub async fn columns_become_wider(place: &dyn Place) {
    let to = place.open().await;
    let mut table = people(Disposition::Merge);
    let number = |name: &str| Column::new(name, ColumnType::Int64);
    table.schema.columns.extend([
        number("exact"),
        number("real").mode(Mode::Required),
        Column::new("r", ColumnType::Record).fields(vec![number("x")]),
    ]);
    let made = to.prepare(&table).await.unwrap();
    assert_eq!(made, ["made table `people` with 8 columns"]);
    assert_eq!(to.prepare(&table).await.unwrap(), Vec::<String>::new());
    let with = |id: i64, exact: Value, real: Value| {
        let mut row = person(id, "a", 1);
        (row["exact"], row["real"]) = (exact, real);
        row
    };
    let before = [
        with(1, json!(i64::MAX), json!(3)),
        with(2, json!(-5), json!(-4)),
    ];
    land(&*to, &table, "s1", 0, &[&before]).await.unwrap();

    let columns = &mut table.schema.columns;
    columns[5].kind = ColumnType::Numeric;
    columns[6].kind = ColumnType::Float64;
    columns[6].mode = Mode::Nullable;
    columns[1].mode = Mode::Required;
    columns.push(Column::new("new", ColumnType::Bool));
    let changed = place.open().await.prepare(&table).await.unwrap();
    let mut changed = changed.iter().map(String::as_str).collect::<Vec<_>>();
    changed.sort_unstable();
    assert_eq!(
        changed,
        [
            "added column `new` BOOL to `people`",
            "relaxed `real` of `people` to NULLABLE",
            "widened `exact` of `people` from INT64 to NUMERIC",
            "widened `real` of `people` from INT64 to FLOAT64",
        ]
    );
    assert_eq!(to.prepare(&table).await.unwrap(), Vec::<String>::new());
    let mut after = with(3, json!("0.000000001"), Value::Null);
    after["new"] = json!(true);
    let news = [with(2, json!("1.5"), json!(0.5)), after];
    land(&*to, &table, "s2", 1, &[&news]).await.unwrap();
    let [a, b] = news;
    let first = with(1, json!("9223372036854775807"), json!(3.0));
    expect(place, &table, &[first, a, b]).await;
    let there = to.existing("people").await.unwrap().unwrap();
    assert_eq!(there.columns[5].kind, ColumnType::Numeric);
    assert_eq!(there.columns[6].mode, Mode::Nullable);
}

pub async fn a_frozen_table_stays_as_it_is(place: &dyn Place) {
    let to = place.open().await;
    let mut table = people(Disposition::Merge);
    table.frozen = true;
    // A table that is not there is made all the same.
    assert_eq!(to.prepare(&table).await.unwrap().len(), 1);
    assert!(to.prepare(&table).await.unwrap().is_empty());
    let mut other = table.clone();
    other
        .schema
        .columns
        .push(Column::new("new", ColumnType::Bool));
    let error = to.prepare(&other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema, "{error:?}");
    assert!(error.chain().contains("add column `new` BOOL"), "{error:?}");
    assert_eq!(
        to.existing("people").await.unwrap(),
        Some(table.schema.clone())
    );
    land(&*to, &table, "s1", 0, &[&[person(1, "a", 1)]])
        .await
        .unwrap();
    expect(place, &table, &[person(1, "a", 1)]).await;
}

pub async fn what_does_not_fit_is_refused(place: &dyn Place) {
    let to = place.open().await;
    let table = people(Disposition::Append);
    to.prepare(&table).await.unwrap();
    land(&*to, &table, "s1", 0, &[&[person(1, "a", 1)]])
        .await
        .unwrap();
    let mut other = table.clone();
    other.schema.columns[1].kind = ColumnType::Int64;
    let error = to.prepare(&other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema, "{error:?}");
    assert!(error.chain().contains("`name`"), "{error:?}");
    let mut other = table.clone();
    other.schema.columns[1].mode = Mode::Repeated;
    assert_eq!(
        to.prepare(&other).await.unwrap_err().kind(),
        ErrorKind::Schema
    );
    assert_eq!(
        to.existing("people").await.unwrap(),
        Some(table.schema.clone())
    );
    expect(place, &table, &[person(1, "a", 1)]).await;
}

pub async fn checkpoints_come_back(place: &dyn Place) {
    let to = place.open().await;
    // Nothing there yet, and asking makes nothing.
    assert!(to.checkpoints("src").await.unwrap().is_empty());
    let table = people(Disposition::Append);
    to.prepare(&table).await.unwrap();
    assert!(to.checkpoints("src").await.unwrap().is_empty());
    let checkpoint = Checkpoint {
        cursor: Some("2026-01-01T00:00:00Z \u{1F600} '\"".into()),
        partitions: [
            ("a/b".to_owned(), "1".to_owned()),
            (String::new(), String::new()),
        ]
        .into(),
        seams: [(String::new(), vec!["6f".to_owned(), "a1".to_owned()])].into(),
        seamless: true,
        pass: Some(Pass {
            started: "2026-01-01T00:00:00.123456789Z".parse().unwrap(),
            parent_cursor: Some("x".into()),
            done: ["p1".to_owned(), "p2".to_owned()].into(),
        }),
        split: Some(Split {
            id: "r".into(),
            started: "2026-01-01T00:00:00.123456789Z".parse().unwrap(),
            parts: Parts::Spans {
                since: "2025-01-01T00:00:00Z".parse().unwrap(),
                until: "2026-01-01T00:00:00Z".parse().unwrap(),
                length_ms: 86_400_001,
                windows: true,
            },
            since: Some("2025-01-01T00:00:00Z".into()),
            until: None,
            execution: Some("job-x".into()),
            ended: true,
        }),
        part: Some(PartMark {
            split: "r".into(),
            read: true,
        }),
    };
    // More than two megabytes as JSON.
    let many = (0..50_000).map(|n| (format!("[{n}]"), format!("2026-01-01T00:00:00.{n:06}Z")));
    for (source, stream) in [("src", "a"), ("src", "b"), ("other", "a")] {
        for version in 0..2 {
            let name = format!("{source}-{stream}-{version}");
            let mut checkpoint = checkpoint.clone();
            if stream == "b" {
                checkpoint.partitions.extend(many.clone());
            }
            let slice = to.open(&table, "run", &name).await.unwrap();
            let update = CheckpointUpdate {
                key: CheckpointKey {
                    source: source.into(),
                    stream: stream.into(),
                },
                checkpoint,
                expected_version: version,
                run_id: "run".into(),
                lease: source.into(),
                facts: SliceFacts::default(),
            };
            slice.publish(&update).await.unwrap();
        }
    }
    let saved = place.open().await.checkpoints("src").await.unwrap();
    let mut names: Vec<_> = saved.keys().map(|k| k.stream.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b"]);
    for (key, saved) in saved {
        assert_eq!(key.source, "src");
        assert_eq!(saved.version, 2);
        let mut checkpoint = checkpoint.clone();
        if key.stream == "b" {
            checkpoint.partitions.extend(many.clone());
        }
        assert!(saved.checkpoint == checkpoint, "{}", key.stream);
    }
}

pub async fn a_forgotten_checkpoint_is_none(place: &dyn Place) {
    let to = place.open().await;
    let table = people(Disposition::Merge);
    to.prepare(&table).await.unwrap();
    land(&*to, &table, "s0", 0, &[&[person(1, "a", 1)]])
        .await
        .unwrap();
    let key = update(0, "").key;
    to.forget(&key.source, &[(key.stream.clone(), 2)])
        .await
        .unwrap();
    assert_eq!(version(&*to).await, 1, "another version stays");
    to.forget(&key.source, &[(key.stream.clone(), 1)])
        .await
        .unwrap();
    assert!(to.checkpoints("src").await.unwrap().is_empty());
    // Who builds on it comes too late; who begins anew does not.
    let late = land(&*to, &table, "s1", 1, &[&[person(2, "b", 2)]]).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::State);
    land(&*to, &table, "s2", 0, &[&[person(3, "c", 3)]])
        .await
        .unwrap();
    assert_eq!(version(&*to).await, 1);
    expect(place, &table, &[person(1, "a", 1), person(3, "c", 3)]).await;
}

pub async fn the_schema_comes_back(place: &dyn Place) {
    let to = place.open().await;
    assert_eq!(to.existing("wide").await.unwrap(), None);
    for table in [wide(), people(Disposition::Merge)] {
        to.prepare(&table).await.unwrap();
        let there = place.open().await.existing(&table.name).await.unwrap();
        assert_eq!(there, Some(table.schema.clone()));
        to.prepare(&table).await.unwrap();
        assert_eq!(to.existing(&table.name).await.unwrap(), Some(table.schema));
        let rejected = to.existing(&rejects::table_name(&table.name)).await;
        assert_eq!(rejected.unwrap(), Some(rejects::schema()));
    }
}

pub async fn two_destinations_on_one_place(place: &dyn Place) {
    let (one, two) = (place.open().await, place.open().await);
    let table = people(Disposition::Merge);
    let (a, b) = tokio::join!(one.prepare(&table), two.prepare(&table));
    a.unwrap();
    b.unwrap();
    let mine = staged(&*one, &table, "s1", &[&[person(1, "one", 1)]]).await;
    let theirs = staged(&*two, &table, "s1", &[&[person(1, "two", 1)]]).await;
    // What one has staged is not cleared away by the other.
    two.prepare(&table).await.unwrap();
    let (mut ours, mut other) = (update(0, "run-1"), update(0, "run-2"));
    ours.checkpoint.cursor = Some("one".into());
    other.checkpoint.cursor = Some("two".into());
    let (a, b) = tokio::join!(mine.publish(&ours), theirs.publish(&other));
    // One of them, whole.
    let (winner, lost) = match (a, b) {
        (Ok(_), Err(e)) => ("one", e),
        (Err(e), Ok(_)) => ("two", e),
        other => panic!("one must win: {other:?}"),
    };
    assert_eq!(lost.kind(), ErrorKind::State, "{lost:?}");
    expect(place, &table, &[person(1, winner, 1)]).await;
    let saved = &one.checkpoints("src").await.unwrap()[&ours.key];
    assert_eq!(saved.checkpoint.cursor.as_deref(), Some(winner));
}

pub async fn slices_at_the_same_time(place: &dyn Place) {
    let to = place.open().await;
    let publish = |n: i64| {
        let to = &to;
        async move {
            let mut table = people(Disposition::Merge);
            table.name = format!("people_{}", n % 3);
            to.prepare(&table).await.unwrap();
            let mut slice = to.open(&table, "run", &format!("s{n}")).await.unwrap();
            for part in 0..4 {
                let rows: Vec<_> = (0..25)
                    .map(|i| person(n * 1000 + part * 100 + i, "x", 1))
                    .collect();
                slice
                    .stage(BatchKind::Rows, batch(&table.schema, &rows))
                    .await
                    .unwrap();
            }
            let mut update = update(0, "run");
            update.key.stream = format!("stream-{n}");
            slice.publish(&update).await.unwrap()
        }
    };
    let published = futures::future::join_all((0..6).map(publish)).await;
    assert!(published.iter().all(|p| *p == counts(100, 0)));
    for n in 0..3 {
        let mut table = people(Disposition::Merge);
        table.name = format!("people_{n}");
        let rows = place.read(&table.name, &table.schema).await.unwrap();
        assert_eq!(rows.len(), 200);
    }
    assert_eq!(to.checkpoints("src").await.unwrap().len(), 6);
}

pub async fn many_batches(place: &dyn Place) {
    // More than fits one page of anything, with doubles far apart.
    let to = place.open().await;
    let table = people(Disposition::Merge);
    to.prepare(&table).await.unwrap();
    let rows = |from: i64, name: &str, day: u32| -> Vec<Value> {
        (from..from + 1000).map(|i| person(i, name, day)).collect()
    };
    let groups: Vec<Vec<Value>> = (0..10)
        .map(|n| rows(n * 500, &format!("batch {n}"), 1))
        .collect();
    let groups: Vec<&[Value]> = groups.iter().map(Vec::as_slice).collect();
    let published = land(&*to, &table, "s1", 0, &groups).await.unwrap();
    assert_eq!(published, counts(5500, 4500));
    land(&*to, &table, "s2", 1, &[&rows(2000, "later", 1)])
        .await
        .unwrap();
    let got = place.read("people", &table.schema).await.unwrap();
    assert_eq!(got.len(), 5500);
    for row in got {
        let id = row["id"].as_i64().unwrap();
        let want = match id {
            2000..3000 => "later".to_owned(),
            _ => format!("batch {}", (id / 500).min(9)),
        };
        assert_eq!(row["name"], want, "{id}");
    }
}

pub async fn leases(place: &dyn Place) {
    let (here, there) = (place.open().await, place.open().await);
    let lease = |source: &str, run: &str| Lease {
        name: source.into(),
        run_id: run.into(),
        length: Duration::from_secs(60),
        holder: Holder {
            task: Some(format!("task of {run}")),
            ..Holder::default()
        },
        over: Vec::new(),
    };
    let free = Acquired::Ours { before: None };
    let (a, mut b) = (lease("src", "a"), lease("src", "b"));
    assert_eq!(here.acquire(&a).await.unwrap(), free);
    assert_eq!(here.acquire(&a).await.unwrap(), free, "asked again");
    let Acquired::Theirs(held) = there.acquire(&b).await.unwrap() else {
        panic!("two hold it")
    };
    assert_eq!(held.run_id, "a");
    assert_eq!(held.holder, a.holder);
    let length = held.expires_at.duration_since(held.acquired_at).as_secs();
    assert!((55..120).contains(&length), "{held:?}");
    assert_eq!(there.acquire(&lease("other", "c")).await.unwrap(), free);

    // Who does not hold it neither renews it, nor gives it away, nor publishes.
    here.renew(&a).await.unwrap();
    let lost = there.renew(&b).await.unwrap_err();
    assert_eq!((lost.kind(), lost.exit_code()), (ErrorKind::State, 75));
    assert!(
        lost.to_string().contains("run `a` has taken it"),
        "{lost:?}"
    );
    there.release(&b).await.unwrap();
    assert!(matches!(
        there.acquire(&b).await.unwrap(),
        Acquired::Theirs(_)
    ));
    let table = people(Disposition::Merge);
    here.prepare(&table).await.unwrap();
    let rows = [person(1, "one", 1)];
    let late = staged(&*there, &table, "s1", &[&rows]).await;
    let lost = late.publish(&update(0, "b")).await.unwrap_err();
    assert_eq!((lost.kind(), lost.exit_code()), (ErrorKind::State, 75));
    assert!(lost.chain().contains("run `a` has taken it"), "{lost:?}");
    expect(place, &table, &[]).await;
    assert_eq!(version(&*here).await, 0);
    let good = staged(&*here, &table, "s1", &[&rows]).await;
    assert_eq!(good.publish(&update(0, "a")).await.unwrap(), counts(1, 0));
    expect(place, &table, &rows).await;

    // Given back: free at once, and still not the one's who had it.
    here.release(&a).await.unwrap();
    let Acquired::Ours { before: None } = there.acquire(&b).await.unwrap() else {
        panic!("it was given back")
    };
    assert!(here.renew(&a).await.is_err());
    let late = staged(&*here, &table, "s2", &[&rows]).await;
    let lost = late.publish(&update(1, "a")).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::State, "{lost:?}");

    // A part's and its source's exclude each other; two parts do not.
    let (one, two) = (lease("src#x#1", "p1"), lease("src#x#2", "p2"));
    let Acquired::Theirs(held) = here.acquire(&one).await.unwrap() else {
        panic!("its source is at work")
    };
    assert_eq!(held.run_id, "b");
    there.release(&b).await.unwrap();
    assert_eq!(here.acquire(&one).await.unwrap(), free);
    assert_eq!(there.acquire(&two).await.unwrap(), free);
    assert_eq!(there.acquire(&lease("src2", "q")).await.unwrap(), free);
    let Acquired::Theirs(held) = there.acquire(&b).await.unwrap() else {
        panic!("its parts are at work")
    };
    assert!(["p1", "p2"].contains(&held.run_id.as_str()));
    let knowing = Lease {
        over: vec!["p1".into(), "p2".into()],
        ..b.clone()
    };
    assert!(matches!(
        there.acquire(&knowing).await.unwrap(),
        Acquired::Ours { .. }
    ));
    // Whoever was stepped over finds that out.
    for (lease, run) in [(&one, "p1"), (&two, "p2")] {
        let lost = here.renew(lease).await.unwrap_err();
        assert!(
            lost.to_string().contains("run `b` has taken it"),
            "{run}: {lost:?}"
        );
    }
    let table_of = |lease: &str, run: &str| CheckpointUpdate {
        lease: lease.to_owned(),
        ..update(1, run)
    };
    for run in ["p1", "p2"] {
        let late = staged(&*here, &table, &format!("late-{run}"), &[&rows]).await;
        let lost = late.publish(&table_of("src#x#1", run)).await.unwrap_err();
        assert!(
            lost.chain()
                .contains("part `1` of stream `x` of source `src`"),
            "{lost:?}"
        );
    }
    here.release(&one).await.unwrap();
    there.release(&two).await.unwrap();

    // And the other way round.
    let knowing = Lease {
        over: vec!["b".into()],
        ..two.clone()
    };
    assert_eq!(here.acquire(&knowing).await.unwrap(), free);
    assert!(there.renew(&b).await.is_err());
    here.release(&two).await.unwrap();
    // What was given back is not held again by a renewal that comes late.
    let _ = here.renew(&two).await;
    assert_eq!(there.acquire(&b).await.unwrap(), free);

    // Known to have ended.
    let mut c = lease("src", "c");
    c.over = vec!["b".into()];
    let Acquired::Ours { before: Some(left) } = there.acquire(&c).await.unwrap() else {
        panic!("b has ended")
    };
    assert_eq!(left.run_id, "b");

    // Its time is up.
    c.length = Duration::from_millis(1);
    there.renew(&c).await.unwrap();
    b.over.clear();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        match here.acquire(&b).await.unwrap() {
            Acquired::Ours { before } => {
                assert_eq!(before.unwrap().run_id, "c");
                break;
            }
            Acquired::Theirs(_) => assert!(std::time::Instant::now() < deadline),
        }
    }
}
