//! A table's primary key and cursor: which columns they are, and the checks that destinations make on
//! them and on staged batches.

use arrow_array::{Array, RecordBatch};

use super::{BatchKind, Disposition, TableSpec, rejects};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::render::Cells;
use crate::schema::{Column, ColumnType, Mode, TableSchema, arrow_schema};

/// What names a row, and what says how new it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Positions of the primary key's columns.
    pub columns: Vec<usize>,
    /// Position of the cursor.
    pub cursor: Option<usize>,
}

impl Key {
    /// The key by which rows of the table are unique; `None` where they need not be: without a
    /// primary key, and when rows are appended.
    ///
    /// # Errors
    /// [`ErrorKind::Schema`] when a column is not there or cannot be part of a key, and for a merge
    /// without a primary key.
    pub fn of(table: &TableSpec) -> Result<Option<Self>> {
        check_given(table)?;
        let Some(names) = unique_key(table) else {
            return Ok(None);
        };
        let position = |name: &String, role: &str| {
            let (at, column) = find(table, name, role)?;
            if column.mode == Mode::Repeated || column.kind == ColumnType::Record {
                return Err(schema_error(format!(
                    "the {role} `{name}` of table `{}` is a list or a RECORD",
                    table.name
                )));
            }
            Ok(at)
        };
        Ok(Some(Self {
            columns: names
                .iter()
                .map(|name| position(name, "primary key column"))
                .collect::<Result<_>>()?,
            cursor: table
                .cursor
                .as_ref()
                .map(|name| position(name, "cursor"))
                .transpose()?,
        }))
    }
}

/// The columns by which the rows of a slice are made unique; `None` where they need not be: without a
/// primary key, and when rows are appended.
pub fn unique_key(table: &TableSpec) -> Option<&[String]> {
    match table.disposition {
        Disposition::Append => None,
        Disposition::Replace if table.primary_key.is_empty() => None,
        Disposition::Merge | Disposition::Replace | Disposition::Scd2 => Some(&table.primary_key),
    }
}

/// Whether a table that needs a key has one.
///
/// # Errors
/// [`ErrorKind::Schema`] when it has none.
pub fn check_given(table: &TableSpec) -> Result<()> {
    if !table.disposition.is_keyed() || !table.primary_key.is_empty() {
        return Ok(());
    }
    Err(schema_error(format!(
        "table `{}` is to be merged into, and has no primary key",
        table.name
    ))
    .hint("give the stream a `primary_key`, or `disposition: append`"))
}

/// A column that the table names as its `role`, and its position.
///
/// # Errors
/// [`ErrorKind::Schema`] when there is no such column.
pub fn find<'a>(table: &'a TableSpec, name: &str, role: &str) -> Result<(usize, &'a Column)> {
    let mut columns = table.schema.columns.iter().enumerate();
    columns
        .find(|(_, c)| c.name.eq_ignore_ascii_case(name))
        .ok_or_else(|| {
            schema_error(format!(
                "the {role} `{name}` of table `{}` is none of its columns",
                table.name
            ))
        })
}

/// Whether every row of the batch has its key: a null never equals another, so such a row would be
/// added again by every run.
///
/// # Errors
/// [`ErrorKind::Schema`] naming the first key column that has a null.
pub fn check_filled(table: &TableSpec, batch: &RecordBatch) -> Result<()> {
    let Some(key) = unique_key(table) else {
        return Ok(());
    };
    let schema = batch.schema_ref();
    let lacks = |name: &String| {
        let mut cells = schema.fields().iter().zip(batch.columns());
        cells.find(|(field, cells)| {
            field.name().eq_ignore_ascii_case(name) && cells.null_count() > 0
        })
    };
    match key.iter().find_map(lacks) {
        None => Ok(()),
        Some((field, _)) => Err(schema_error(format!(
            "a row for table `{}` has no value in the primary key column `{}`",
            table.name,
            field.name()
        ))
        .hint("name columns in `primary_key` that the API always fills, and make them REQUIRED so that records without them are rejected one by one")),
    }
}

/// A cursor's value as bytes that sort as the values do; `None`, the lowest, for null. All cells of
/// one column type compare with each other.
pub fn rank(cells: &Cells<'_>, row: usize) -> Option<Vec<u8>> {
    if cells.is_null(row) {
        return None;
    }
    // Two's complement sorts as unsigned bytes do once the sign bit is turned.
    let signed = |mut bytes: Vec<u8>| {
        if let Some(first) = bytes.first_mut() {
            *first ^= 0x80;
        }
        bytes
    };
    Some(match cells {
        Cells::Int(a) => signed(a.value(row).to_be_bytes().into()),
        Cells::Numeric(a) => signed(a.value(row).to_be_bytes().into()),
        Cells::BigNumeric(a) => signed(a.value(row).to_be_bytes().into()),
        Cells::Timestamp(a) | Cells::DateTime(a) => signed(a.value(row).to_be_bytes().into()),
        Cells::Time(a) => signed(a.value(row).to_be_bytes().into()),
        Cells::Date(a) => signed(a.value(row).to_be_bytes().into()),
        Cells::Float(a) => {
            // As `f64::total_cmp`: the magnitude's bits count downwards below zero.
            let bits = a.value(row).to_bits() as i64;
            signed(
                (bits ^ (((bits >> 63) as u64) >> 1) as i64)
                    .to_be_bytes()
                    .into(),
            )
        }
        Cells::Bool(a) => vec![a.value(row).into()],
        Cells::Bytes(a) => a.value(row).to_vec(),
        _ => {
            let mut text = Vec::new();
            cells.text(row, &mut text);
            text
        }
    })
}

/// The schema that batches of this kind have.
pub fn schema_of(table: &TableSpec, kind: BatchKind) -> TableSchema {
    match kind {
        BatchKind::Rows => table.schema.clone(),
        BatchKind::Rejects => rejects::schema(),
    }
}

/// Whether the batch has the columns that the table's schema says.
///
/// # Errors
/// [`ErrorKind::Bug`]: batches are made from the same schema.
pub fn check_shape(table: &str, schema: &TableSchema, batch: &RecordBatch) -> Result<()> {
    let wanted = arrow_schema(schema);
    let given = batch.schema_ref();
    let same = wanted.fields().len() == given.fields().len()
        && wanted
            .fields()
            .iter()
            .zip(given.fields())
            .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type());
    if same {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Bug,
        format!("a batch for table `{table}` does not have the table's columns"),
    ))
}

fn schema_error(message: String) -> Error {
    Error::new(ErrorKind::Schema, message)
}

#[cfg(test)]
mod tests {
    use arrow_array::{Float64Array, Int64Array};

    use super::*;

    #[test]
    fn ranks_sort_as_values_do() {
        let floats = Float64Array::from(vec![
            None,
            Some(f64::NEG_INFINITY),
            Some(-10.5),
            Some(-9.0),
            Some(0.0),
            Some(5e-324),
            Some(9.0),
            Some(10.5),
            Some(f64::INFINITY),
        ]);
        let ints = Int64Array::from(vec![
            None,
            Some(i64::MIN),
            Some(-1),
            Some(0),
            Some(1),
            Some(256),
            Some(i64::MAX),
        ]);
        for (cells, n) in [
            (Cells::Float(&floats), floats.len()),
            (Cells::Int(&ints), ints.len()),
        ] {
            let ranks: Vec<_> = (0..n).map(|row| rank(&cells, row)).collect();
            assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
        }
    }
}
