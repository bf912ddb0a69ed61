//! Merging: the staged rows' columns go into the rows with their keys, the rows of other keys are added.
//!
//! These are MERGE's semantics in two statements: columns that the schema lacks keep their values, but for
//! the engine's own that speak of a row as it was last written.
//! Not MERGE itself, so that what runs is what is tested: the emulator cannot run MERGE inside a
//! transaction. Both statements read only the partitions that the filter names; what they bill is what
//! MERGE would.

use super::records::{self, Text};
use super::{assign, ident, list, staged};
use crate::destination::TableSpec;
use crate::schema::Column;
use crate::schema::landing::column;

/// Alias of the table's rows in a publish.
pub(super) const OLD: &str = "_drawoff_old";
/// Alias of the staged rows in a publish.
pub(super) const NEW: &str = "_drawoff_new";

/// When the statement runs.
pub(super) const NOW: &str = "CURRENT_TIMESTAMP()";

/// Merges the staged rows into the rows that pass `filter`, which has to let every row through that
/// has a staged key, where it is before and where it goes. The table's RECORDs are `there`.
pub(super) fn merge(
    spec: &TableSpec,
    (there, text): (&[Column], Text),
    target: &str,
    staged: &str,
    filter: Option<&str>,
) -> String {
    let key = &spec.primary_key;
    let columns = &spec.schema.columns;
    let is_key = |name: &str| key.iter().any(|k| k.eq_ignore_ascii_case(name));
    let unspoken = there
        .iter()
        .filter(|c| column::is_of_last_write(&c.name) && records::find(columns, c).is_none())
        .map(|c| assign(&c.name, "NULL"));
    let set: Vec<String> = columns
        .iter()
        .filter(|c| !is_key(&c.name))
        .map(|c| {
            let name = ident(&c.name);
            let (new, old) = (format!("{NEW}.{name}"), format!("{OLD}.{name}"));
            let there = records::find(there, c).unwrap_or(c);
            assign(&c.name, &records::update(c, there, &new, &old))
        })
        .chain(unspoken)
        .collect();
    let values = staged::values(columns, there, text);
    let unique = staged::unique(spec, Some(key), staged);
    let found = also(&same_key(key), filter);
    let mut sql = String::new();
    if !set.is_empty() {
        sql = format!(
            "UPDATE {target} AS {OLD} SET {}\nFROM (SELECT {values}\n{unique}) AS {NEW}\nWHERE {found};\n",
            set.join(", ")
        );
    }
    sql + &format!(
        "INSERT INTO {target} ({})\nSELECT {values}\n{unique}\n  \
         AND NOT EXISTS (SELECT 1 FROM {target} AS {OLD} WHERE {found});\n",
        list(columns)
    )
}

/// Marks the rows that no staged one has the key of as deleted, unless they are: those that pass
/// `filter`.
pub(super) fn mark_deleted(
    spec: &TableSpec,
    target: &str,
    staged: Option<&str>,
    filter: Option<&str>,
) -> String {
    close((column::DELETED_AT, NOW), spec, target, staged, filter)
}

/// Gives the rows without an end in that column this one, unless their key is staged.
pub(super) fn close(
    (end, at): (&str, &str),
    spec: &TableSpec,
    target: &str,
    staged: Option<&str>,
    filter: Option<&str>,
) -> String {
    format!(
        "UPDATE {target} AS {OLD} SET {}\nWHERE {};\n",
        assign(end, at),
        also(&unlisted(end, &spec.primary_key, staged), filter)
    )
}

/// The condition on [`OLD`] that it has no end in that column and its key is not staged.
pub(super) fn unlisted(end: &str, key: &[String], staged: Option<&str>) -> String {
    let open = format!("{OLD}.{} IS NULL", ident(end));
    match staged {
        None => open,
        Some(staged) => format!(
            "{open} AND NOT EXISTS (SELECT 1 FROM {staged} AS {NEW} WHERE {})",
            same_key(key)
        ),
    }
}

/// The condition that [`NEW`] and [`OLD`] have the same key.
pub(super) fn same_key(key: &[String]) -> String {
    let equal: Vec<String> = key
        .iter()
        .map(|k| format!("{NEW}.{0} = {OLD}.{0}", ident(k)))
        .collect();
    equal.join(" AND ")
}

/// Both conditions.
pub(super) fn also(condition: &str, filter: Option<&str>) -> String {
    match filter {
        None => condition.to_owned(),
        Some(filter) => format!("{condition}\n  AND {filter}"),
    }
}
