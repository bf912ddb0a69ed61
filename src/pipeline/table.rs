//! The table that a stream's rows land in: its declared or inferred columns, those of the parent,
//! and the engine's own.

use crate::connector::Stream;
use crate::destination::{Absent, Disposition, TableSpec, WriteMethod};
use crate::error::{Error, Result};
use crate::schema::landing::column::{DELETED_AT, ROW_HASH, VALID_FROM, VALID_TO};
use crate::schema::{Column, ColumnType, Mode, TableSchema};

pub use crate::schema::landing::column::{EXTRACTED_AT, RUN_ID, SLICE_ID};

/// What [`SLICE_ID`] holds.
pub fn slice_id(run_id: &str, slice: &str) -> String {
    format!("{run_id}/{slice}")
}

/// The table of `stream` with `columns`. Columns of the primary key become REQUIRED: a null names
/// no row.
///
/// # Errors
/// A primary key that the columns lack.
pub fn spec(stream: &Stream, mut columns: TableSchema) -> Result<TableSpec> {
    columns
        .columns
        .retain(|c| ![EXTRACTED_AT, RUN_ID, SLICE_ID].contains(&c.name.as_str()));
    let kept = kept_columns(stream);
    columns
        .columns
        .retain(|c| !kept.iter().any(|k| k.name.eq_ignore_ascii_case(&c.name)));
    for (name, _) in &stream.add_columns {
        if columns.column(name).is_none() {
            let about = "The same for all rows that were read for one parent record.";
            columns
                .columns
                .push(Column::new(name, ColumnType::String).describe(about));
        }
    }
    for key in &stream.primary_key {
        match columns
            .columns
            .iter_mut()
            .find(|c| c.name.eq_ignore_ascii_case(key))
        {
            Some(column) if column.mode == Mode::Repeated || column.kind == ColumnType::Record => {
                return Err(Error::config(format!(
                    "stream `{}` has the primary key `{key}`, which is a list or an object in its records",
                    stream.name
                ))
                .hint("a primary key is made of columns with one value each"));
            }
            Some(column) => column.mode = Mode::Required,
            None => {
                let known: Vec<_> = columns.columns.iter().map(|c| c.name.as_str()).collect();
                return Err(Error::config(format!(
                    "stream `{}` has the primary key `{key}`, which its table has no column for; it has `{}`",
                    stream.name,
                    known.join("`, `")
                ))
                .hint("name columns of the stream's schema in `primary_key`, or leave it out to append rows"));
            }
        }
    }
    if !stream.table.bare {
        columns.columns.push(
            Column::new(EXTRACTED_AT, ColumnType::Timestamp)
                .mode(Mode::Required)
                .describe("When drawoff received the record."),
        );
        columns.columns.push(
            Column::new(RUN_ID, ColumnType::String)
                .mode(Mode::Required)
                .describe("The run of drawoff that received the record."),
        );
    }
    if stream.table.write_method.is_direct() {
        // NULLABLE, so that the stream may change to another method.
        columns.columns.push(
            Column::new(SLICE_ID, ColumnType::String)
                .describe("The slice that the row came with, as drawoff's RUN/SLICE."),
        );
    }
    columns.columns.extend(kept);
    let cursor = match &stream.incremental {
        Some(i) => match &i.cursor {
            crate::connector::CursorField::Own(name) if !name.contains('.') => Some(name.clone()),
            _ => None,
        },
        None => None,
    };
    // Where rows are only added, a row without a cursor would be added again in each run.
    if let (Disposition::Append, Some(cursor)) = (stream.table.disposition, &cursor)
        && let Some(column) = columns
            .columns
            .iter_mut()
            .find(|c| c.name.eq_ignore_ascii_case(cursor))
    {
        column.mode = Mode::Required;
    }
    Ok(TableSpec {
        name: stream.table.name.clone(),
        stream: stream.name.clone(),
        description: stream.description.clone(),
        schema: columns,
        disposition: stream.table.disposition,
        primary_key: stream.primary_key.clone(),
        cursor,
        write_method: stream.table.write_method,
        partition: stream.table.partition.clone(),
        cluster_by: stream.table.cluster_by.clone(),
        ..TableSpec::default()
    })
}

/// Sets how a run lands rows in the table: what it replaces, and whether rows that it does not list are
/// gone from the source. History and marks of deletion outlive a full refresh, which reads everything and
/// then compares.
pub fn settle(spec: &mut TableSpec, stream: &Stream, full_refresh: bool) {
    let remembers = stream.table.soft_delete || spec.disposition == Disposition::Scd2;
    if !remembers {
        if full_refresh {
            spec.disposition = Disposition::Replace;
            // A table that is replaced keeps its old rows until the new ones are published, which rows
            // that go straight into it cannot do. A load job, too, goes where gRPC cannot.
            spec.write_method = match spec.write_method {
                WriteMethod::Stream => WriteMethod::StorageWrite,
                WriteMethod::InsertAll => WriteMethod::LoadJob,
                staged => staged,
            };
        }
    } else if full_refresh || stream.incremental.is_none() {
        spec.absent = Absent::Close;
    }
}

/// Columns that say since when and until when a row holds.
fn kept_columns(stream: &Stream) -> Vec<Column> {
    let time = |name: &str| Column::new(name, ColumnType::Timestamp);
    if stream.table.disposition == Disposition::Scd2 {
        return vec![
            time(VALID_FROM)
                .mode(Mode::Required)
                .describe("Since when this version holds: when drawoff had received the slice that it came with."),
            time(VALID_TO).describe(
                "Until when this version held: when drawoff had received the slice with the next one, or the listing that lacks the record; null for the current version.",
            ),
            Column::new(ROW_HASH, ColumnType::String)
                .mode(Mode::Required)
                .describe("Hash of the values; tells versions apart."),
        ];
    }
    if stream.table.soft_delete {
        return vec![
            time(DELETED_AT)
                .describe("When the record was no longer listed; null for one that is."),
        ];
    }
    Vec::new()
}

/// Of these, the nullable ones, which no field of a record goes to.
pub fn reserved(stream: &Stream) -> impl Iterator<Item = String> {
    let nullable = |c: &Column| c.mode == Mode::Nullable;
    kept_columns(stream)
        .into_iter()
        .filter(nullable)
        .map(|c| c.name)
}
