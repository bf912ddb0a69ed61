//! Staged rows: which of them count, and what is selected of them.

use super::merge::NEW;
use super::records::{self, Text};
use super::{SEQUENCE, ident};
use crate::destination::TableSpec;
use crate::schema::Column;

/// Alias that no column has.
pub(super) const POSITION: &str = "_drawoff_position";

/// The place of a staged row among those with its key, the newest first.
pub(super) fn position(spec: &TableSpec, key: &[String]) -> String {
    let keys: Vec<String> = key.iter().map(|k| ident(k)).collect();
    let cursor = spec
        .cursor
        .as_deref()
        .map(|c| format!("{} DESC NULLS LAST, ", ident(c)))
        .unwrap_or_default();
    format!(
        "ROW_NUMBER() OVER (PARTITION BY {} ORDER BY {cursor}{} DESC) AS {POSITION}",
        keys.join(", "),
        ident(SEQUENCE)
    )
}

/// The FROM clause over the staged rows that count: the newest of each key, where rows are unique.
pub(super) fn unique(spec: &TableSpec, key: Option<&[String]>, staged: &str) -> String {
    match key {
        None => format!("FROM {staged} AS {NEW}"),
        // The window sorts keys alone, not whole rows.
        Some(key) => {
            let seq = ident(SEQUENCE);
            format!(
                "FROM {staged} AS {NEW}\nWHERE {NEW}.{seq} IN (SELECT {seq} FROM (\n  \
                 SELECT {seq}, {} FROM {staged})\n  WHERE {POSITION} = 1)",
                position(spec, key)
            )
        }
    }
}

/// What is selected from the staging table: each column as the table has it.
pub(super) fn values(columns: &[Column], there: &[Column], text: Text) -> String {
    let values: Vec<String> = columns
        .iter()
        .map(|c| {
            let name = ident(&c.name);
            let there = records::find(there, c).unwrap_or(c);
            if records::is_same(c, there) {
                name
            } else {
                format!("{} AS {name}", records::value(c, there, &name, text))
            }
        })
        .collect();
    values.join(", ")
}
