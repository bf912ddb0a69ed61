//! Keeping history: the current version of a key is the one without an end. A staged row that differs
//! from it ends it where it begins itself.
//!
//! All that a slice begins and ends does so at one moment, when its last page was received: who looks at
//! the table as of any time sees all of a slice or nothing of it.

use super::merge::{self, NEW, OLD, also, same_key};
use super::records::Text;
use super::staged;
use super::{assign, ident, list};
use crate::destination::TableSpec;
use crate::schema::Column;
use crate::schema::landing::column::{ROW_HASH, VALID_FROM, VALID_TO};

/// The variable of a publish that holds the moment; a name that no column has.
const MOMENT: &str = "_drawoff_moment";

/// Declares the moment, where rows are staged; before anything else.
pub(super) fn declare() -> String {
    format!("DECLARE {MOMENT} TIMESTAMP DEFAULT NULL;\n")
}

/// Finds out the moment; before the transaction.
pub(super) fn find(staged: &str) -> String {
    format!(
        "SET {MOMENT} = (SELECT MAX({}) FROM {staged});\n",
        ident(VALID_FROM)
    )
}

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
        .chain([ROW_HASH])
        .map(ident)
        .collect();
    let values: Vec<String> = columns
        .iter()
        .map(|c| match c.name.eq_ignore_ascii_case(VALID_FROM) {
            true => format!("{MOMENT} AS {}", ident(&c.name)),
            false => staged::values(std::slice::from_ref(c), there, text),
        })
        .collect();
    format!(
        "UPDATE {target} AS {OLD} SET {}\nFROM (SELECT {}\n{unique}) AS {NEW}\n\
         WHERE IFNULL({OLD}.{hash}, '') != {NEW}.{hash} AND {current};\n\
         SET row_counts = (SELECT AS STRUCT row_counts.staged AS staged, COUNT(*) AS kept\n{missing});\n\
         INSERT INTO {target} ({})\nSELECT {}\n{missing};\n",
        assign(VALID_TO, MOMENT),
        needed.join(", "),
        list(columns),
        values.join(", "),
        hash = ident(ROW_HASH),
    )
}

/// Ends the current versions whose key is not staged: at the moment, or now where nothing was received.
pub(super) fn end_unlisted(
    spec: &TableSpec,
    target: &str,
    staged: Option<&str>,
    filter: Option<&str>,
) -> String {
    let end = match staged {
        Some(_) => MOMENT,
        None => merge::NOW,
    };
    merge::close((VALID_TO, end), spec, target, staged, filter)
}
