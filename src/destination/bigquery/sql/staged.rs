//! Staged rows: which of them count, and what is selected of them.

use super::merge::NEW;
use super::{SEQUENCE, ident};
use crate::destination::TableSpec;
use crate::schema::{Column, ColumnType, Mode};

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

/// What is selected from the staging table: each column, with GEOGRAPHYs read from their text.
pub(super) fn values(columns: &[Column]) -> String {
    let values: Vec<String> = columns
        .iter()
        .map(|c| {
            let name = ident(&c.name);
            if has_geography(c) {
                format!("{} AS {name}", value(c, &name, 0))
            } else {
                name
            }
        })
        .collect();
    values.join(", ")
}

fn has_geography(column: &Column) -> bool {
    column.kind == ColumnType::Geography || column.fields.iter().any(has_geography)
}

/// A column that holds a GEOGRAPHY somewhere, put together again from its staged form.
fn value(column: &Column, staged: &str, depth: usize) -> String {
    if column.mode != Mode::Repeated {
        return single(column, staged, depth);
    }
    let (item, at) = (
        format!("_drawoff_item{depth}"),
        format!("_drawoff_at{depth}"),
    );
    format!(
        "ARRAY(SELECT {} FROM UNNEST({staged}) AS {item} WITH OFFSET AS {at} ORDER BY {at})",
        single(column, &item, depth + 1)
    )
}

fn single(column: &Column, staged: &str, depth: usize) -> String {
    if column.kind == ColumnType::Geography {
        return format!(
            "IF(STARTS_WITH({staged}, '{{'), ST_GEOGFROMGEOJSON({staged}), ST_GEOGFROMTEXT({staged}))"
        );
    }
    let fields: Vec<String> = column
        .fields
        .iter()
        .map(|f| {
            let name = ident(&f.name);
            let inner = format!("{staged}.{name}");
            if has_geography(f) {
                format!("{} AS {name}", value(f, &inner, depth))
            } else {
                format!("{inner} AS {name}")
            }
        })
        .collect();
    format!("IF({staged} IS NULL, NULL, STRUCT({}))", fields.join(", "))
}
