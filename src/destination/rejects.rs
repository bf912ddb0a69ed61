//! The table beside each table that keeps the records that do not fit it.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use jiff::Timestamp;

use crate::error::{Error, ErrorKind, Result};
use crate::schema::decode::Reject;
use crate::schema::landing::column::EXTRACTED_AT;
use crate::schema::render::write_ndjson;
use crate::schema::{Column, ColumnType, Mode, TableSchema, arrow_schema};

/// Name of the rejects table of `table`.
pub fn table_name(table: &str) -> String {
    format!("{table}__rejects")
}

/// Columns of every rejects table.
pub fn schema() -> TableSchema {
    let text = |name: &str, about: &str| {
        Column::new(name, ColumnType::String)
            .mode(Mode::Required)
            .describe(about)
    };
    TableSchema {
        columns: vec![
            text("stream", "Stream that the record came from."),
            text("reason", "Why the record does not fit the table."),
            text("path", "Where in the record, as a JSON pointer."),
            text("record", "The record as received, JSON text."),
            Column::new("_extracted_at", ColumnType::Timestamp)
                .mode(Mode::Required)
                .describe("When the record was received."),
            text("_run_id", "Run that received the record."),
        ],
    }
}

/// The rejects as a batch of [`schema`].
///
/// # Errors
/// [`ErrorKind::Bug`] only.
pub fn batch(rejects: &[Reject], stream: &str, run_id: &str, at: Timestamp) -> Result<RecordBatch> {
    of(rejects, stream, run_id, same_time(at, rejects.len()))
}

/// Rows of a table that the destination refused, a reason each, as a batch of [`schema`]. What is kept
/// of them is the row as JSON; they were received when their own column says, else at `now`.
///
/// # Errors
/// [`ErrorKind::Bug`] only.
pub fn of_rows(
    rows: &RecordBatch,
    reasons: &[String],
    stream: &str,
    run_id: &str,
    now: Timestamp,
) -> Result<RecordBatch> {
    let mut lines = Vec::new();
    write_ndjson(rows, &mut lines)?;
    let lines = String::from_utf8_lossy(&lines);
    let rejects: Vec<Reject> = lines
        .lines()
        .zip(reasons)
        .map(|(line, reason)| Reject {
            reason: reason.clone(),
            path: String::new(),
            record: line.to_owned(),
        })
        .collect();
    let received = rows
        .column_by_name(EXTRACTED_AT)
        .filter(|at| at.null_count() == 0)
        .cloned()
        .unwrap_or_else(|| same_time(now, rejects.len()));
    of(&rejects, stream, run_id, received)
}

fn same_time(at: Timestamp, n: usize) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(vec![at.as_microsecond(); n]).with_timezone("UTC"))
}

fn of(rejects: &[Reject], stream: &str, run_id: &str, received: ArrayRef) -> Result<RecordBatch> {
    let n = rejects.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![stream; n])),
        Arc::new(StringArray::from_iter_values(
            rejects.iter().map(|r| &r.reason),
        )),
        Arc::new(StringArray::from_iter_values(
            rejects.iter().map(|r| &r.path),
        )),
        Arc::new(StringArray::from_iter_values(
            rejects.iter().map(|r| &r.record),
        )),
        received,
        Arc::new(StringArray::from(vec![run_id; n])),
    ];
    RecordBatch::try_new(arrow_schema(&schema()), columns)
        .map_err(|e| Error::new(ErrorKind::Bug, "could not build a batch of rejects").source(e))
}
