//! Cases of rows that change their place, go, come back, or have a history.

use std::slice::from_ref;

use drawoff::destination::{
    Absent, BatchKind, Destination, Disposition, PartitionUnit, Partitioning, Published, TableSpec,
    rejects,
};
use drawoff::error::{ErrorKind, Result};
use drawoff::schema::decode::Reject;
use drawoff::schema::{Column, ColumnType, Mode};
use serde_json::{Value, json};

use super::Place;
use super::cases::{counts, expect, land, people, person, staged, update};

fn at(id: i64, name: &str, at: Value) -> Value {
    let mut row = person(id, name, 1);
    row["updated_at"] = at;
    row
}

/// Rows whose partition changes are found where they were: none is doubled, none is lost.
pub async fn rows_move_between_partitions(place: &dyn Place) {
    let to = place.open().await;
    let mut table = people(Disposition::Merge);
    table.cursor = None;
    table.partition = Some(Partitioning {
        column: "updated_at".into(),
        unit: PartitionUnit::Month,
        fixed: false,
    });
    to.prepare(&table).await.unwrap();
    let times = [
        json!("2026-01-31T23:59:59.999999Z"),
        json!("2026-02-01T00:00:00.000000Z"),
        Value::Null,
        // Before and after all that has a partition of its own.
        json!("1955-05-05T05:05:05.000000Z"),
        json!("2160-01-01T00:00:00.000000Z"),
    ];
    // From each place to each, itself included.
    let mut before = Vec::new();
    let mut after = Vec::new();
    for (i, from) in times.iter().enumerate() {
        for (j, to) in times.iter().enumerate() {
            let id = (i * times.len() + j) as i64;
            before.push(at(id, "old", from.clone()));
            after.push(at(id, "new", to.clone()));
        }
    }
    let other = at(1_000, "other", json!("2020-01-01T00:00:00.000000Z"));
    before.push(other.clone());
    let one = land(&*to, &table, "s1", 0, &[&before]).await.unwrap();
    assert_eq!(one, counts(26, 0));
    let two = land(&*to, &table, "s2", 1, &[&after, &after])
        .await
        .unwrap();
    assert_eq!(two, counts(25, 25));
    after.push(other);
    expect(place, &table, &after).await;

    // A column that never changes for a key is looked for where the new row is.
    table.partition.as_mut().unwrap().fixed = true;
    to.prepare(&table).await.unwrap();
    for row in &mut after {
        row["name"] = json!("newest");
    }
    land(&*to, &table, "s3", 2, &[&after]).await.unwrap();
    expect(place, &table, &after).await;
}

/// The rows as they are, their column `end` only as whether it is there.
async fn read(place: &dyn Place, table: &TableSpec, end: &str) -> Vec<(i64, String, bool)> {
    let rows = place.read(&table.name, &table.schema).await.unwrap();
    let mut rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let name = row["name"].as_str().unwrap_or_default().to_owned();
            (row["id"].as_i64().unwrap(), name, !row[end].is_null())
        })
        .collect();
    rows.sort();
    rows
}

async fn land_with_a_reject(
    to: &dyn Destination,
    table: &TableSpec,
    version: u64,
    rows: &[Value],
) -> Result<Published> {
    let mut slice = staged(to, table, "with a reject", &[rows]).await;
    let found = [Reject {
        reason: "odd".into(),
        path: "/id".into(),
        record: "{}".into(),
    }];
    let found = rejects::batch(&found, "people", "run", jiff::Timestamp::UNIX_EPOCH).unwrap();
    slice.stage(BatchKind::Rejects, found).await.unwrap();
    slice.publish(&update(version, "run")).await
}

fn shown(rows: &[(i64, &str, bool)]) -> Vec<(i64, String, bool)> {
    let owned = rows
        .iter()
        .map(|(id, name, end)| (*id, (*name).into(), *end));
    owned.collect()
}

pub async fn rows_no_longer_listed_are_marked(place: &dyn Place) {
    let to = place.open().await;
    let mut table = people(Disposition::Merge);
    table
        .schema
        .columns
        .push(Column::new("_deleted_at", ColumnType::Timestamp));
    table.partition = Some(Partitioning {
        column: "updated_at".into(),
        unit: PartitionUnit::Day,
        fixed: false,
    });
    let keeping = table.clone();
    table.absent = Absent::Close;
    to.prepare(&table).await.unwrap();
    let rows: Vec<Value> = (1..=4).map(|id| person(id, "first", id as u32)).collect();
    land(&*to, &table, "s1", 0, &[&rows]).await.unwrap();

    // A slice that does not hold all says nothing of the others.
    let part = [person(1, "second", 1)];
    land(&*to, &keeping, "s2", 1, &[&part]).await.unwrap();
    // Nor one whose rejects may be any of them, nor one that is told so.
    land_with_a_reject(&*to, &table, 2, &part).await.unwrap();
    let mut slice = staged(&*to, &table, "s4", &[&part]).await;
    slice.keep_absent().await.unwrap();
    slice.publish(&update(3, "run")).await.unwrap();
    assert_eq!(
        read(place, &table, "_deleted_at").await,
        shown(&[
            (1, "second", false),
            (2, "first", false),
            (3, "first", false),
            (4, "first", false)
        ])
    );

    // One that holds all does: 2 and 4 are gone. A row that came back later is there again.
    let all = [person(3, "third", 9), person(1, "third", 9)];
    let published = land(&*to, &table, "s5", 4, &[&all, &all]).await.unwrap();
    assert_eq!(published, counts(2, 2));
    let gone = shown(&[
        (1, "third", false),
        (2, "first", true),
        (3, "third", false),
        (4, "first", true),
    ]);
    assert_eq!(read(place, &table, "_deleted_at").await, gone);
    let marks = |rows: Vec<Value>| -> Vec<Value> {
        let gone = rows.into_iter().filter(|r| !r["_deleted_at"].is_null());
        crate::support::rows::sorted(gone.collect())
    };
    let first = marks(place.read("people", &table.schema).await.unwrap());
    // Again: the marks stay what they were.
    land(&*to, &table, "s6", 5, &[&all]).await.unwrap();
    let again = marks(place.read("people", &table.schema).await.unwrap());
    assert_eq!(first, again);

    let back = [person(2, "back", 2), person(1, "third", 9)];
    land(&*to, &table, "s7", 6, &[&back]).await.unwrap();
    let want = shown(&[
        (1, "third", false),
        (2, "back", false),
        (3, "third", true),
        (4, "first", true),
    ]);
    assert_eq!(read(place, &table, "_deleted_at").await, want);
    // Told that there is nothing, it marks all.
    land(&*to, &table, "s8", 7, &[]).await.unwrap();
    let left = read(place, &table, "_deleted_at").await;
    assert!(left.iter().all(|(.., gone)| *gone) && left.len() == 4);

    // A stream that no longer marks anything takes the marks off the rows that it updates.
    let mut plain = people(Disposition::Merge);
    plain.partition.clone_from(&table.partition);
    to.prepare(&plain).await.unwrap();
    let listed = [person(3, "fourth", 3), person(5, "fourth", 3)];
    land(&*to, &plain, "s9", 8, &[&listed]).await.unwrap();
    let want = shown(&[
        (1, "third", true),
        (2, "back", true),
        (3, "fourth", false),
        (4, "first", true),
        (5, "fourth", false),
    ]);
    assert_eq!(read(place, &table, "_deleted_at").await, want);
}

/// A version of a person, received on that day of March.
fn version(id: i64, name: &str, day: u32) -> Value {
    let mut row = person(id, name, 1);
    row["_valid_from"] = json!(format!("2026-03-{day:02}T00:00:00.000000Z"));
    row["_row_hash"] = json!(format!("hash of {name}"));
    row
}

fn ended(mut row: Value, day: u32) -> Value {
    row["_valid_to"] = json!(format!("2026-03-{day:02}T00:00:00.000000Z"));
    row
}

/// A table with history; partitioned by when versions begin.
pub fn historic() -> TableSpec {
    let mut table = people(Disposition::Scd2);
    table.primary_key = vec!["id".into()];
    table.partition = Some(Partitioning {
        column: "_valid_from".into(),
        unit: PartitionUnit::Day,
        fixed: false,
    });
    table.schema.columns.extend([
        Column::new("_valid_from", ColumnType::Timestamp).mode(Mode::Required),
        Column::new("_valid_to", ColumnType::Timestamp),
        Column::new("_row_hash", ColumnType::String).mode(Mode::Required),
    ]);
    table
}

pub async fn history(place: &dyn Place) {
    let to = place.open().await;
    let table = historic();
    to.prepare(&table).await.unwrap();
    let first = [version(1, "a", 1), version(2, "b", 1)];
    let published = land(&*to, &table, "s1", 0, &[&first]).await.unwrap();
    assert_eq!(published, counts(2, 0));
    // The same again, and again in the next run: nothing is new.
    let again = [version(1, "a", 2), version(2, "b", 2), version(2, "b", 2)];
    let published = land(&*to, &table, "s2", 1, &[&again]).await.unwrap();
    assert_eq!(published, counts(0, 3));
    to.prepare(&table).await.unwrap();
    expect(place, &table, &first).await;

    // A change ends a version where the next begins; of two staged the newest counts; who is not
    // listed stays.
    let mut newer = version(1, "c", 3);
    newer["updated_at"] = json!("2026-01-20T00:00:00.000000Z");
    let changed = [newer.clone(), version(1, "skipped", 3), version(3, "d", 3)];
    let published = land(&*to, &table, "s3", 2, &[&changed]).await.unwrap();
    assert_eq!(published, counts(2, 1));
    let mut want = vec![
        ended(first[0].clone(), 3),
        newer,
        first[1].clone(),
        changed[2].clone(),
    ];
    expect(place, &table, &want).await;

    // Its answer was lost, so it is published again: it says what it did.
    let slice = staged(&*to, &table, "s3", &[&changed]).await;
    let published = slice.publish(&update(2, "run")).await.unwrap();
    assert_eq!(published, counts(2, 1));
    expect(place, &table, &want).await;

    // Back to what it was is a version of its own.
    let back = version(1, "a", 5);
    land(&*to, &table, "s4", 3, &[from_ref(&back)])
        .await
        .unwrap();
    want[1] = ended(want[1].clone(), 5);
    want.push(back.clone());
    expect(place, &table, &want).await;

    // A slice that holds all ends what it lacks, unless its rejects may be any of that.
    let whole = TableSpec {
        absent: Absent::Close,
        ..table.clone()
    };
    let all = [version(1, "a", 6), version(3, "e", 6), version(4, "f", 7)];
    land_with_a_reject(&*to, &whole, 4, &all[..1])
        .await
        .unwrap();
    expect(place, &table, &want).await;
    let published = land(&*to, &whole, "s6", 5, &[&all]).await.unwrap();
    assert_eq!(published, counts(2, 1));
    // At one moment, when its last page was received: what it changes, adds, and lacks.
    want[2] = ended(want[2].clone(), 7);
    want[3] = ended(want[3].clone(), 7);
    want.extend([version(3, "e", 7), version(4, "f", 7)]);
    expect(place, &table, &want).await;
    let open = async || {
        let rows = read(place, &table, "_valid_to").await;
        let open = rows.into_iter().filter(|(.., ended)| !ended);
        open.map(|(id, name, _)| (id, name)).collect::<Vec<_>>()
    };
    let names = [(1, "a"), (3, "e"), (4, "f")].map(|(id, name)| (id, name.to_owned()));
    assert_eq!(open().await, names);
    // And who comes back begins anew.
    let published = land(&*to, &whole, "s7", 6, &[&[version(2, "b", 9)]]).await;
    assert_eq!(published.unwrap(), counts(1, 0));
    assert_eq!(open().await, [(2, "b".to_owned())]);
    let rows = read(place, &table, "_valid_to").await;
    let of = |id: i64| rows.iter().filter(|(i, ..)| *i == id).count();
    assert_eq!((of(1), of(2), of(3)), (3, 2, 2), "{rows:?}");

    // A stream that keeps no history does not get at the table, by whatever disposition.
    for disposition in [
        Disposition::Merge,
        Disposition::Append,
        Disposition::Replace,
    ] {
        let planned = to.plan(&people(disposition)).await.unwrap_err();
        let prepared = to.prepare(&people(disposition)).await.unwrap_err();
        for error in [planned, prepared] {
            assert_eq!(error.kind(), ErrorKind::Schema);
            assert!(error.to_string().contains("keeps history"), "{error}");
        }
    }
    assert_eq!(read(place, &table, "_valid_to").await, rows);
}
