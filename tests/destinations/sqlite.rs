//! SQLite: the conformance suite, and what is its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use drawoff::destination::sqlite::SqliteDestination;
use drawoff::destination::{Destination, Disposition};
use drawoff::error::ErrorKind;
use drawoff::schema::{ColumnType, Mode, TableSchema};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::cases::{land, people, person, wide};
use super::{Place, conformance};

/// A database in a folder of its own.
pub struct Database {
    folder: TempDir,
}

impl Database {
    pub fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("rows.db")
    }
}

#[async_trait]
impl Place for Database {
    async fn open(&self) -> Box<dyn Destination> {
        Box::new(SqliteDestination::open(self.path()).unwrap())
    }

    async fn read(&self, table: &str, schema: &TableSchema) -> Option<Vec<Value>> {
        read(&self.path(), table, schema)
    }
}

/// Every row of a table.
pub fn read(path: &Path, table: &str, schema: &TableSchema) -> Option<Vec<Value>> {
    let conn = Connection::open(path).unwrap();
    let names: Vec<String> = schema
        .columns
        .iter()
        .map(|c| format!("\"{}\"", c.name))
        .collect();
    let mut statement = conn
        .prepare(&format!("SELECT {} FROM \"{table}\"", names.join(", ")))
        .ok()?;
    let mut rows = statement.query([]).unwrap();
    let mut all = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let cell = |i: usize| {
            let column = &schema.columns[i];
            let nested = column.mode == Mode::Repeated
                || matches!(column.kind, ColumnType::Record | ColumnType::Json);
            match row.get_ref(i).unwrap() {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(n) if column.kind == ColumnType::Bool => json!(n != 0),
                ValueRef::Integer(n) => json!(n),
                ValueRef::Real(x) => json!(x),
                ValueRef::Text(t) if nested => serde_json::from_slice(t).unwrap(),
                ValueRef::Text(t) => json!(std::str::from_utf8(t).unwrap()),
                ValueRef::Blob(b) => json!(STANDARD.encode(b)),
            }
        };
        all.push(
            schema
                .columns
                .iter()
                .enumerate()
                .map(|(i, c)| (c.name.clone(), cell(i)))
                .collect(),
        );
    }
    Some(all)
}

conformance!(suite, Database::new());
conformance!(@ kept, Database::new(), history);

#[tokio::test]
async fn the_schema_reads_well_and_json_can_be_queried() {
    let place = Database::new();
    let to = place.open().await;
    let (table, types) = (people(Disposition::Merge), wide());
    to.prepare(&table).await.unwrap();
    to.prepare(&types).await.unwrap();
    let mut row = person(1, "", 1);
    row["record"] = json!({"f_string": "inside", "inner": []});
    row["l_string"] = json!(["a", "b"]);
    row["n_float64"] = json!("NaN");
    land(&*to, &types, "s", 0, &[&[row]]).await.unwrap();
    let conn = Connection::open(place.path()).unwrap();
    let sql: String = conn
        .query_row(
            "SELECT sql FROM sqlite_schema WHERE name = 'people'",
            [],
            |r| r.get(0),
        )
        .unwrap();
    assert_eq!(
        sql,
        r#"CREATE TABLE "people" (
  "id" INTEGER NOT NULL, -- INT64: Number of the person.
  "name" TEXT, -- STRING: Full name; as given, with "quotes".
  "updated_at" TEXT, -- TIMESTAMP
  "_extracted_at" TEXT NOT NULL, -- TIMESTAMP
  "_run_id" TEXT NOT NULL -- STRING
)"#
    );
    let found: (String, String, String) = conn
        .query_row(
            "SELECT json_extract(record, '$.f_string'), l_string ->> 1, n_float64 FROM wide",
            [],
            |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
        )
        .unwrap();
    assert_eq!(found, ("inside".into(), "b".into(), "NaN".into()));
    // The file has no name while it is used, nor after.
    let _open = to.open(&table, "run", "s").await.unwrap();
    let names: Vec<String> = std::fs::read_dir(place.folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.contains("staging"))
        .collect();
    assert_eq!(names, Vec::<String>::new());
}

#[tokio::test]
async fn columns_that_people_added_stay() {
    let place = Database::new();
    let to = place.open().await;
    let table = people(Disposition::Merge);
    to.prepare(&table).await.unwrap();
    land(&*to, &table, "s", 0, &[&[person(1, "a", 1)]])
        .await
        .unwrap();
    let conn = Connection::open(place.path()).unwrap();
    conn.execute_batch("ALTER TABLE people ADD COLUMN note TEXT; UPDATE people SET note = 'mine'")
        .unwrap();
    to.prepare(&table).await.unwrap();
    land(&*to, &table, "s", 1, &[&[person(1, "b", 2)]])
        .await
        .unwrap();
    let got: (String, String) = conn
        .query_row("SELECT name, note FROM people", [], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
        .unwrap();
    assert_eq!(got, ("b".into(), "mine".into()));
    assert!(
        to.existing("people")
            .await
            .unwrap()
            .unwrap()
            .column("note")
            .is_some()
    );
}

#[tokio::test]
async fn a_table_with_doubles_cannot_be_merged_into() {
    let place = Database::new();
    let to = place.open().await;
    let table = people(Disposition::Append);
    to.prepare(&table).await.unwrap();
    land(
        &*to,
        &table,
        "s",
        0,
        &[&[person(1, "a", 1), person(1, "b", 1)]],
    )
    .await
    .unwrap();
    let error = to.prepare(&people(Disposition::Merge)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(error.chain().contains("same primary key (id)"), "{error:?}");
}

#[tokio::test]
async fn what_is_wrong_with_the_file_is_said() {
    let place = Database::new();
    let no_database = place.folder.path().join("text.db");
    std::fs::write(&no_database, "no database ".repeat(1000)).unwrap();
    let error = SqliteDestination::open(&no_database).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Destination);
    assert!(error.find_hint().unwrap().contains("no SQLite database"));

    let no_folder = place.folder.path().join("missing/rows.db");
    let error = SqliteDestination::open(no_folder).err().unwrap();
    assert!(error.find_hint().unwrap().contains("folder"), "{error:?}");

    for path in ["", ":memory:"] {
        let error = SqliteDestination::open(path).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}

#[tokio::test]
async fn another_writer_is_waited_for_and_then_named() {
    let place = Database::new();
    let to = SqliteDestination::with_busy_timeout(place.path(), Duration::from_millis(50)).unwrap();
    let table = people(Disposition::Append);
    to.prepare(&table).await.unwrap();
    let other = Connection::open(place.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = land(&to, &table, "s", 0, &[&[person(1, "a", 1)]])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Destination);
    assert!(error.is_transient());
    assert!(error.find_hint().unwrap().contains("another program"));
    other.execute_batch("ROLLBACK").unwrap();
    land(&to, &table, "s", 0, &[&[person(1, "a", 1)]])
        .await
        .unwrap();
}
