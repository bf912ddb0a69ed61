//! Leases: one row a source, changed by BigQuery's own clock.

use crate::schema::{Column, ColumnType, Mode};

/// Takes the lease of a source: parameters `source`, `run_id`, `over` (a run that is known to have
/// ended, or empty), `length` (milliseconds), `holder`. Answers with one row: the lease as it is then
/// (`run_id`, `holder`, `acquired` and `expires` in microseconds since 1970), the same as it was found
/// (`was_run_id` and so on), and `there`, the number of the source's rows: where it is 0,
/// [`seed_lease`] must come first.
///
/// One statement changes it, outside of a transaction: BigQuery runs those one after the other, while
/// it cancels transactions that meet. Two runs that seed at once may leave a source two rows: as long as
/// one of them is held by another, none is taken, and whoever takes them takes both.
pub(in super::super) fn acquire(leases: &str) -> String {
    let lease = "MAX(run_id) AS run_id, MAX(holder) AS holder, \
                 MAX(UNIX_MICROS(acquired_at)) AS acquired, MAX(UNIX_MICROS(expires_at)) AS expires";
    format!(
        "DECLARE was STRUCT<run_id STRING, holder STRING, acquired INT64, expires INT64> DEFAULT NULL;\n\
         SET was = (SELECT AS STRUCT {lease} FROM {leases} WHERE source = @source);\n\
         UPDATE {leases} SET acquired_at = IF(run_id = @run_id, acquired_at, CURRENT_TIMESTAMP()), \
         expires_at = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL @length MILLISECOND), \
         holder = @holder, run_id = @run_id\n\
         WHERE source = @source AND NOT EXISTS (SELECT 1 FROM {leases} AS held WHERE held.source = @source \
         AND held.run_id != @run_id AND held.run_id != @over AND held.expires_at > CURRENT_TIMESTAMP());\n\
         SELECT COUNT(*) AS there, {lease}, was.run_id AS was_run_id, was.holder AS was_holder, \
         was.acquired AS was_acquired, was.expires AS was_expires\n\
         FROM {leases} WHERE source = @source;\n"
    )
}

/// Makes sure that a source has a row to be changed: of two that were only inserted, none would notice
/// the other. Parameter `source`.
pub(in super::super) fn seed_lease(leases: &str) -> String {
    format!(
        "INSERT INTO {leases} (source)\n\
         SELECT @source\n\
         FROM (SELECT COUNT(*) AS there FROM {leases} WHERE source = @source)\n\
         WHERE there = 0"
    )
}

/// Renews a lease: parameters `source`, `run_id`, `length`. Answers with the run that holds it then.
pub(in super::super) fn renew(leases: &str) -> String {
    format!(
        "UPDATE {leases} SET expires_at = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL @length MILLISECOND)\n\
         WHERE source = @source AND run_id = @run_id;\n\
         SELECT MAX(run_id) AS run_id FROM {leases} WHERE source = @source;\n"
    )
}

/// Lets go of a lease: parameters `source`, `run_id`. The run's id stays, so that a publish of another
/// run that comes late is still refused.
pub(in super::super) fn release(leases: &str) -> String {
    format!(
        "UPDATE {leases} SET expires_at = acquired_at WHERE source = @source AND run_id = @run_id"
    )
}

/// In a publish: the run that holds the source's lease, when it is another.
pub(in super::super) fn other(leases: &str) -> String {
    format!("(SELECT MAX(run_id) FROM {leases} WHERE source = @source AND run_id != @run_id)")
}

/// The columns of the table of leases.
pub(in super::super) fn lease_columns() -> Vec<Column> {
    let of = |name: &str, kind, about: &str| Column::new(name, kind).describe(about);
    vec![
        of("source", ColumnType::String, "Source.").mode(Mode::Required),
        of(
            "run_id",
            ColumnType::String,
            "Run that holds the lease, or held it last.",
        ),
        of("acquired_at", ColumnType::Timestamp, "Since when."),
        of(
            "expires_at",
            ColumnType::Timestamp,
            "Until when, unless it is renewed; not above acquired_at once it was given back.",
        ),
        of(
            "holder",
            ColumnType::String,
            "How a successor sees whether the holder lives, as JSON.",
        ),
    ]
}
