//! Arrow rows as bound parameters of a prepared `INSERT`.

use arrow_array::RecordBatch;
use rusqlite::Statement;
use rusqlite::types::{ToSqlOutput, ValueRef};

use crate::destination::key::rank;
use crate::error::Result;
use crate::schema::render::{Cells, non_finite};

/// Inserts every row of the batch. With `order`, a last parameter gets the bytes by which the
/// values of that decimal column sort; as text they do not.
///
/// # Errors
/// What SQLite says, by `fail`.
pub fn insert(
    statement: &mut Statement<'_>,
    batch: &RecordBatch,
    order: Option<usize>,
    fail: &impl Fn(rusqlite::Error) -> crate::error::Error,
) -> Result<()> {
    let columns = Cells::of_batch(batch)?;
    let mut text = Vec::with_capacity(256);
    for row in 0..batch.num_rows() {
        for (i, cells) in columns.iter().enumerate() {
            bind(statement, i + 1, cells, row, &mut text).map_err(fail)?;
        }
        if let Some(column) = order {
            let rank = rank(&columns[column], row);
            statement
                .raw_bind_parameter(columns.len() + 1, rank)
                .map_err(fail)?;
        }
        statement.raw_execute().map_err(fail)?;
    }
    Ok(())
}

#[inline]
fn bind(
    statement: &mut Statement<'_>,
    parameter: usize,
    cells: &Cells<'_>,
    row: usize,
    text: &mut Vec<u8>,
) -> rusqlite::Result<()> {
    let value = if cells.is_null(row) {
        ValueRef::Null
    } else {
        match cells {
            Cells::Text(a) | Cells::Json(a) => ValueRef::Text(a.value(row).as_bytes()),
            Cells::Bytes(a) => ValueRef::Blob(a.value(row)),
            Cells::Int(a) => ValueRef::Integer(a.value(row)),
            Cells::Bool(a) => ValueRef::Integer(a.value(row).into()),
            Cells::Float(a) => match non_finite(a.value(row)) {
                // SQLite turns NaN into NULL; as text it stays apart from it.
                Some("NaN") => ValueRef::Text(b"NaN"),
                _ => ValueRef::Real(a.value(row)),
            },
            _ => {
                text.clear();
                cells.text(row, text);
                ValueRef::Text(text)
            }
        }
    };
    statement.raw_bind_parameter(parameter, ToSqlOutput::Borrowed(value))
}
