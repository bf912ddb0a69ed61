//! What was published, and what runs did.

use super::ident;
use crate::destination::audit::Cell;
use crate::schema::{Column, ColumnType};

/// In a publish: the slice's row of the table of loads. The names are parameters of the publish.
pub(in super::super) fn load(loads: &str, names: &[&str]) -> String {
    let columns: Vec<String> = names.iter().map(|n| ident(n)).collect();
    let values: Vec<String> = names
        .iter()
        .map(|name| match name.starts_with("cursor_") {
            // Parameters are never null here.
            true => format!("NULLIF(@{name}, '')"),
            false => format!("@{name}"),
        })
        .collect();
    format!(
        "INSERT INTO {loads} ({}, version, staged, published, deduplicated, rejected, job, published_at)\n\
         VALUES ({}, @expected_version + 1, row_counts.staged, row_counts.kept, row_counts.staged - row_counts.kept, rejected, @job, CURRENT_TIMESTAMP());\n",
        columns.join(", "),
        values.join(", ")
    )
}

/// After a publish: how often the table was published in a day, that time included. Reads the loads of
/// two days.
pub(in super::super) fn publishes(loads: &str) -> String {
    format!(
        "(SELECT COUNT(*) FROM {loads} WHERE table_name = @table_name \
         AND published_at > TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 24 HOUR))"
    )
}

/// A parameter's type and value for a cell.
pub(in super::super) fn parameter(cell: &Cell) -> (&'static str, String) {
    match cell {
        Cell::Text(text) => ("STRING", text.clone().unwrap_or_default()),
        Cell::Count(count) => ("INT64", count.to_string()),
        Cell::Time(time) => (
            "STRING",
            time.strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string(),
        ),
    }
}

/// Adds rows to the table of runs: the values are parameters, named [`run_parameter`].
pub(in super::super) fn record_runs(runs: &str, columns: &[String], rows: &[Vec<Cell>]) -> String {
    let names: Vec<String> = columns.iter().map(|n| ident(n)).collect();
    let rows: Vec<String> = rows
        .iter()
        .enumerate()
        .map(|(i, cells)| {
            let values: Vec<String> = cells
                .iter()
                .enumerate()
                .map(|(j, cell)| {
                    let name = run_parameter(i, j);
                    match cell {
                        Cell::Text(None) => "NULL".to_owned(),
                        Cell::Time(_) => format!("TIMESTAMP(@{name})"),
                        _ => format!("@{name}"),
                    }
                })
                .collect();
            format!("({})", values.join(", "))
        })
        .collect();
    format!(
        "INSERT INTO {runs} ({})\nVALUES {}",
        names.join(", "),
        rows.join(",\n")
    )
}

/// The runs that a trigger has started, `@trigger` for `@source`, their times as text. Pub/Sub sends a
/// message again for 31 days at the most, 7 unless somebody has said otherwise, and Cloud Scheduler for less;
/// the bound keeps the table's other partitions off the bill.
pub(in super::super) fn triggered(runs: &str, columns: &[Column]) -> String {
    let columns: Vec<String> = columns
        .iter()
        .map(|column| match (ident(&column.name), &column.kind) {
            (name, ColumnType::Timestamp) => {
                format!("FORMAT_TIMESTAMP('%Y-%m-%dT%H:%M:%E6SZ', {name}) AS {name}")
            }
            (name, _) => name,
        })
        .collect();
    format!(
        "SELECT {}\nFROM {runs}\nWHERE source = @source AND trigger_id = @trigger\n  AND started_at > TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 31 DAY)",
        columns.join(", ")
    )
}

/// The parameter of a row's value.
pub(in super::super) fn run_parameter(row: usize, column: usize) -> String {
    format!("r{row}_{column}")
}
