//! Rows read back by other means than the program's own: SQLite by SQL, Parquet files one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use drawoff::schema::render::write_ndjson;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

/// A row, by column.
pub type Row = BTreeMap<String, Value>;

/// Every row of a table in a database, nested values as text; none when there is no such table.
pub fn sqlite(path: &Path, table: &str) -> Vec<Row> {
    let Ok(conn) = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE) else {
        return Vec::new();
    };
    let sql = format!("SELECT * FROM \"{table}\"");
    let Ok(mut statement) = conn.prepare(&sql) else {
        return Vec::new();
    };
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut rows = statement.query([]).unwrap();
    let mut all = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let cell = |i: usize| match row.get_ref(i).unwrap() {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(n) => json!(n),
            ValueRef::Real(x) => json!(x),
            ValueRef::Text(t) => json!(std::str::from_utf8(t).unwrap()),
            ValueRef::Blob(b) => json!(b),
        };
        all.push(
            names
                .iter()
                .enumerate()
                .map(|(i, name)| (name.clone(), cell(i)))
                .collect(),
        );
    }
    all
}

/// Every row in the Parquet files of a table's folder; a column that a file lacks is null.
pub fn parquet(dir: &Path, table: &str) -> Vec<Row> {
    let Ok(entries) = std::fs::read_dir(dir.join(table)) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut text = Vec::new();
    for path in files {
        assert_eq!(path.extension().unwrap(), "parquet", "{path:?}");
        let file = std::fs::File::open(path).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        for batch in reader.build().unwrap() {
            write_ndjson(&batch.unwrap(), &mut text).unwrap();
        }
    }
    let rows = serde_json::Deserializer::from_slice(&text).into_iter::<Row>();
    let mut rows: Vec<Row> = rows.map(Result::unwrap).collect();
    let names: BTreeSet<String> = rows.iter().flat_map(|r| r.keys().cloned()).collect();
    for row in &mut rows {
        for name in &names {
            row.entry(name.clone()).or_insert(Value::Null);
        }
    }
    rows
}

/// What the rows say of the world: without when and by which run they came, in an order of their
/// own.
pub fn content(rows: Vec<Row>) -> Vec<Row> {
    let mut rows: Vec<Row> = rows
        .into_iter()
        .map(|mut row| {
            assert!(row.remove("_extracted_at").is_some_and(|v| v.is_string()));
            assert!(row.remove("_run_id").is_some_and(|v| v.is_string()));
            row
        })
        .collect();
    rows.sort_by_cached_key(|row| json!(row).to_string());
    rows
}

/// A column of all rows, as numbers, ascending.
pub fn numbers(rows: &[Row], column: &str) -> Vec<i64> {
    let mut all: Vec<i64> = rows.iter().map(|r| r[column].as_i64().unwrap()).collect();
    all.sort_unstable();
    all
}
