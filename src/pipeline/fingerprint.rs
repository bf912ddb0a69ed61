//! What tells versions of a row apart in a table with history: a hash over its values by column name.
//!
//! Nulls, empty lists and the engine's own columns do not count, nor does the order of columns: a column
//! that is new and still null makes no new version, at any depth.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::schema::landing::column;
use crate::schema::render::Cells;

/// Bytes of the SHA-256 that are kept: enough that no two versions are taken for one.
const BYTES: usize = 16;

/// Columns that say how a row came, or are made from it.
const ENGINE: [&str; 7] = [
    column::EXTRACTED_AT,
    column::RUN_ID,
    column::SLICE_ID,
    column::DELETED_AT,
    column::VALID_FROM,
    column::VALID_TO,
    column::ROW_HASH,
];

/// The batch with each row's hash, as hexadecimal digits, in the column `_row_hash`; unchanged when it has
/// none.
///
/// # Errors
/// [`crate::error::ErrorKind::Bug`] only.
pub fn fill(batch: RecordBatch) -> Result<RecordBatch> {
    let Ok(at) = batch.schema_ref().index_of(column::ROW_HASH) else {
        return Ok(batch);
    };
    let hashes: StringArray = {
        let cells = Cells::of_batch(&batch)?;
        let named = batch
            .schema_ref()
            .fields()
            .iter()
            .map(|f| f.name().as_str());
        let fields = Field::sorted(
            named
                .zip(&cells)
                .filter(|(name, _)| !ENGINE.iter().any(|e| e.eq_ignore_ascii_case(name))),
        );
        let mut scratch = Vec::new();
        (0..batch.num_rows())
            .map(|row| {
                scratch.clear();
                members(&fields, row, &mut scratch);
                Some(hex(&Sha256::digest(&scratch)[..BYTES]))
            })
            .collect()
    };
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    columns[at] = Arc::new(hashes);
    RecordBatch::try_new(batch.schema(), columns).map_err(|e| {
        crate::error::Error::new(
            crate::error::ErrorKind::Bug,
            "could not put the hashes of rows into their batch",
        )
        .source(e)
    })
}

/// A column, or a field of a RECORD, with those inside it.
struct Field<'a> {
    name: String,
    cells: &'a Cells<'a>,
    inside: Vec<Field<'a>>,
}

impl<'a> Field<'a> {
    /// By name, whose case does not count.
    fn sorted<'n>(cells: impl Iterator<Item = (&'n str, &'a Cells<'a>)>) -> Vec<Self> {
        let mut fields: Vec<Self> = cells
            .map(|(name, cells)| Self {
                name: name.to_lowercase(),
                cells,
                inside: Self::inside(cells),
            })
            .collect();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        fields
    }

    fn inside(cells: &'a Cells<'a>) -> Vec<Self> {
        match cells {
            Cells::Record(_, members) => {
                // A member's name is kept as a JSON key: `"name":`.
                let name = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
                let named: Vec<(String, &Cells<'a>)> =
                    members.iter().map(|(k, c)| (name(k), c)).collect();
                Self::sorted(named.iter().map(|(n, c)| (n.as_str(), *c)))
            }
            Cells::List(_, items) => Self::inside(items),
            _ => Vec::new(),
        }
    }
}

/// Appends the fields that have a value: name and value of each, led by their lengths.
fn members(fields: &[Field<'_>], row: usize, out: &mut Vec<u8>) {
    for field in fields {
        let start = out.len();
        framed(out, |out| out.extend_from_slice(field.name.as_bytes()));
        let mut there = false;
        framed(out, |out| {
            there = value(field.cells, &field.inside, row, out)
        });
        if !there {
            out.truncate(start);
        }
    }
}

/// Appends a value; whether there is one.
fn value(cells: &Cells<'_>, inside: &[Field<'_>], row: usize, out: &mut Vec<u8>) -> bool {
    if cells.is_null(row) {
        return false;
    }
    match cells {
        Cells::Record(..) => members(inside, row, out),
        Cells::List(list, items) => {
            let offsets = list.value_offsets();
            // Offsets of a list are never negative.
            let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
            for item in start..end {
                framed(out, |out| {
                    value(items, inside, item, out);
                });
            }
            return end > start;
        }
        _ => cells.text(row, out),
    }
    true
}

/// Appends what `write` does, led by its length.
fn framed(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 8]);
    write(out);
    let length = (out.len() - at - 8) as u64;
    out[at..at + 8].copy_from_slice(&length.to_le_bytes());
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to memory cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use jiter::Jiter;

    use super::*;
    use crate::schema::decode::Decoder;
    use crate::schema::{Column, ColumnType, Mode, TableSchema};

    /// The hashes of records decoded with these columns, and the engine's.
    fn hashes(columns: &[Column], records: &[&str]) -> Vec<String> {
        let mut columns = columns.to_vec();
        for name in ["_extracted_at", "_run_id", "_valid_from", "_row_hash"] {
            columns.push(Column::new(name, ColumnType::String));
        }
        let mut decoder = Decoder::new(&TableSchema { columns });
        for record in records {
            let mut json = Jiter::new(record.as_bytes());
            let peek = json.peek().unwrap();
            decoder.record(&mut json, peek).unwrap();
        }
        let batch = fill(decoder.take().unwrap().unwrap()).unwrap();
        let column = batch
            .column_by_name("_row_hash")
            .unwrap()
            .as_string::<i32>();
        assert_eq!(column.null_count(), 0);
        (0..batch.num_rows())
            .map(|row| column.value(row).to_owned())
            .collect()
    }

    fn columns() -> Vec<Column> {
        let text = |name: &str| Column::new(name, ColumnType::String);
        vec![
            Column::new("id", ColumnType::Int64),
            text("a"),
            text("b"),
            text("l").mode(Mode::Repeated),
            Column::new("r", ColumnType::Record).fields(vec![text("x"), text("y")]),
            Column::new("rs", ColumnType::Record)
                .mode(Mode::Repeated)
                .fields(vec![text("x"), text("y")]),
        ]
    }

    #[test]
    fn every_value_counts_and_where_it_is() {
        let all = hashes(
            &columns(),
            &[
                "{}",
                r#"{"id":1}"#,
                r#"{"id":2}"#,
                r#"{"a":"1"}"#,
                r#"{"b":"1"}"#,
                r#"{"a":"1","b":"2"}"#,
                r#"{"a":"12"}"#,
                r#"{"a":"2","b":"1"}"#,
                r#"{"a":""}"#,
                r#"{"l":["p","q"]}"#,
                r#"{"l":["q","p"]}"#,
                r#"{"l":["pq"]}"#,
                r#"{"l":[""]}"#,
                r#"{"r":{}}"#,
                r#"{"r":{"x":"1"}}"#,
                r#"{"r":{"y":"1"}}"#,
                r#"{"rs":[{"x":"1"}]}"#,
                r#"{"rs":[{"x":"1"},{}]}"#,
                r#"{"rs":[{"x":"1","y":"1"}]}"#,
            ],
        );
        let mut distinct = all.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), all.len(), "{all:?}");
        assert!(all.iter().all(|h| h.len() == 32));
    }

    #[test]
    fn nulls_order_and_how_a_row_came_do_not_count() {
        let record = r#"{"id":1,"a":"x","l":[],"r":{"x":"1","y":null},"rs":[{"y":"2"}],"_run_id":"one","_extracted_at":"t"}"#;
        let later = r#"{"rs":[{"y":"2"}],"r":{"x":"1"},"a":"x","id":1,"_run_id":"two","_valid_from":"now","b":null}"#;
        let plain = hashes(&columns(), &[record, later]);
        assert_eq!(plain[0], plain[1]);

        // Columns in another order, of another case, and more of them at every level.
        let mut other: Vec<Column> = columns().into_iter().rev().collect();
        for column in &mut other {
            column.fields.reverse();
            if !column.fields.is_empty() {
                let new = Column::new("new", ColumnType::Int64);
                column.fields.insert(0, new);
            }
        }
        other[4].name = "A".into();
        other.insert(0, Column::new("new", ColumnType::Json));
        other.push(Column::new("lists", ColumnType::Int64).mode(Mode::Repeated));
        assert_eq!(hashes(&other, &[record])[0], plain[0]);
    }
}
