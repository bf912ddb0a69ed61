//! Where in the table the rows lie that a publish will change: asked before it, of the key and
//! partition columns alone, so that its statements can name partitions literally.

use super::ident;
use super::merge::{self, NEW, OLD};
use crate::destination::bigquery::partitions::{MOST_TOUCHED, Partitions};
use crate::destination::{Disposition, TableSpec};
use crate::schema::ColumnType;
use crate::schema::landing::column;

/// The column of both answers: the start of a partition, in days since 1970 for a DATE, else
/// in microseconds.
pub(in super::super) const START: &str = "position_start";

/// The partitions of the rows that a publish changes because their key is staged.
pub(in super::super) fn matched(
    spec: &TableSpec,
    partitions: &Partitions,
    target: &str,
    staged: &str,
) -> String {
    let listed = format!(
        "EXISTS (SELECT 1 FROM {staged} AS {NEW} WHERE {})",
        merge::same_key(&spec.primary_key)
    );
    let which = match spec.disposition {
        // Versions that have ended stay as they are.
        Disposition::Scd2 => format!("{OLD}.{} IS NULL AND {listed}", ident(column::VALID_TO)),
        _ => listed,
    };
    positions(partitions, target, &which)
}

/// The partitions of the rows that a publish closes because their key is not staged.
pub(in super::super) fn unlisted(
    spec: &TableSpec,
    partitions: &Partitions,
    target: &str,
    staged: Option<&str>,
) -> String {
    let end = match spec.disposition {
        Disposition::Scd2 => column::VALID_TO,
        _ => column::DELETED_AT,
    };
    positions(
        partitions,
        target,
        &merge::unlisted(end, &spec.primary_key, staged),
    )
}

/// The partitions of the rows of `target` that satisfy `which`, a condition on [`OLD`].
fn positions(partitions: &Partitions, target: &str, which: &str) -> String {
    let column = format!("{OLD}.{}", ident(partitions.column()));
    let (first, end) = (partitions.first(), partitions.end());
    let unit = partitions.unit().sql();
    // What lies in `__UNPARTITIONED__` counts once at either end, however many values there are.
    let within = |before: &str| {
        format!("IF({column} < {first}, {before}, IF({column} >= {end}, {end}, {column}))")
    };
    let start = match partitions.kind() {
        ColumnType::Date => format!(
            "UNIX_DATE(DATE_TRUNC({}, {unit}))",
            within("DATE '1959-01-01'")
        ),
        ColumnType::DateTime => format!(
            "UNIX_MICROS(TIMESTAMP(DATETIME_TRUNC({}, {unit})))",
            within("DATETIME '1959-01-01 00:00:00'")
        ),
        _ => format!(
            "UNIX_MICROS(TIMESTAMP_TRUNC({}, {unit}))",
            within("TIMESTAMP '1959-01-01 00:00:00+00'")
        ),
    };
    // All rows pass the first condition, which a table that requires a partition filter asks for.
    format!(
        "SELECT DISTINCT {start} AS {START}\nFROM {target} AS {OLD}\n\
         WHERE ({column} < {end} OR {column} >= {end} OR {column} IS NULL)\n  AND {which}\n\
         LIMIT {}",
        MOST_TOUCHED + 4
    )
}
