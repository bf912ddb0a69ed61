//! Keeping history: the current version of a key is the one without an end. A staged row that differs
//! from it ends it where it begins itself.

use super::merge::{self, NEW, OLD, also, same_key};
use super::records::Text;
use super::staged;
use super::{assign, ident, list};
use crate::destination::TableSpec;
use crate::schema::Column;
use crate::schema::landing::column::{ROW_HASH, VALID_FROM, VALID_TO};

/// Ends current versions that differ, counts the staged rows that have no current version then, and
/// adds these; among the rows that pass `filter`, which has to let every current version through that
/// has a staged key. The table's RECORDs are `there`.
pub(super) fn publish(
    spec: &TableSpec,
    (there, text): (&[Column], Text),
    target: &str,
    staged: &str,
    filter: Option<&str>,
) -> String {
    let key = &spec.primary_key;
    let columns = &spec.schema.columns;
    let unique = staged::unique(spec, Some(key), staged);
    let current = also(
        &format!("{} AND {OLD}.{} IS NULL", same_key(key), ident(VALID_TO)),
        filter,
    );
    let missing =
        format!("{unique}\n  AND NOT EXISTS (SELECT 1 FROM {target} AS {OLD} WHERE {current})");
    let needed: Vec<String> = key
        .iter()
        .map(String::as_str)
        .chain([VALID_FROM, ROW_HASH])
        .map(ident)
        .collect();
    format!(
        "UPDATE {target} AS {OLD} SET {}\nFROM (SELECT {}\n{unique}) AS {NEW}\n\
         WHERE IFNULL({OLD}.{hash}, '') != {NEW}.{hash} AND {current};\n\
         SET row_counts = (SELECT AS STRUCT row_counts.staged AS staged, COUNT(*) AS kept\n{missing});\n\
         INSERT INTO {target} ({})\nSELECT {}\n{missing};\n",
        assign(VALID_TO, &format!("{NEW}.{}", ident(VALID_FROM))),
        needed.join(", "),
        list(columns),
        staged::values(columns, there, text),
        hash = ident(ROW_HASH),
    )
}

/// Ends the current versions whose key is not staged.
pub(super) fn end_unlisted(
    spec: &TableSpec,
    target: &str,
    staged: Option<&str>,
    filter: Option<&str>,
) -> String {
    merge::close(VALID_TO, spec, target, staged, filter)
}
