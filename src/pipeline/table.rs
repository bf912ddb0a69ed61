//! The table that a stream's rows land in: its declared or inferred columns, those of the parent,
//! and the engine's own.

use crate::connector::Stream;
use crate::destination::{Disposition, TableSpec};
use crate::error::{Error, Result};
use crate::schema::{Column, ColumnType, Mode, TableSchema};

/// When the row's page was received.
pub const EXTRACTED_AT: &str = "_extracted_at";
/// The run that received it.
pub const RUN_ID: &str = "_run_id";

/// The table of `stream` with `columns`. Columns of the primary key become REQUIRED: a null names
/// no row.
///
/// # Errors
/// A primary key that the columns lack.
pub fn spec(stream: &Stream, mut columns: TableSchema) -> Result<TableSpec> {
    columns
        .columns
        .retain(|c| c.name != EXTRACTED_AT && c.name != RUN_ID);
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
        description: stream.description.clone(),
        schema: columns,
        disposition: stream.table.disposition,
        primary_key: stream.primary_key.clone(),
        cursor,
        partition_by: stream.table.partition_by.clone(),
        cluster_by: stream.table.cluster_by.clone(),
    })
}
