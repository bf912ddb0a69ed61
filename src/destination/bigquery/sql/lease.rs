//! Leases: one row each, changed by BigQuery's own clock.

use crate::schema::{Column, ColumnType, Mode};
use crate::state::WITHIN;

/// Takes a lease: parameters `lease` (its name), `run_id`, `over` (runs that are known to have ended,
/// separated by spaces), `length` (milliseconds), `holder`. Answers with one row: the lease as it is then
/// (`run_id`, `holder`, `acquired` and `expires` in microseconds since 1970), the same as it was found
/// (`was_run_id` and so on), the same of one that is in the way (`by_run_id` and so on), and `there`, the
/// number of the lease's rows: where it is 0, [`seed_lease`] must come first.
///
/// One statement changes it, outside of a transaction: BigQuery runs those one after the other, while
/// it cancels transactions that meet. Two runs that seed at once may leave a lease two rows: as long as
/// one of them is held by another, none is taken, and whoever takes them takes both.
pub(in super::super) fn acquire(leases: &str) -> String {
    let lease = "MAX(run_id) AS run_id, MAX(holder) AS holder, \
                 MAX(UNIX_MICROS(acquired_at)) AS acquired, MAX(UNIX_MICROS(expires_at)) AS expires";
    let columns = "run_id STRING, holder STRING, acquired INT64, expires INT64";
    // That of the source of this part, or one of a part of this source.
    let excluded = |source: &str| {
        format!(
            "(STARTS_WITH({source}, CONCAT(@lease, '{WITHIN}')) OR STARTS_WITH(@lease, CONCAT({source}, '{WITHIN}')))"
        )
    };
    let in_the_way = format!(
        "held.run_id != @run_id AND STRPOS(@over, held.run_id) = 0 AND held.expires_at > CURRENT_TIMESTAMP() \
         AND (held.source = @lease OR {})",
        excluded("held.source")
    );
    // Those of others that nobody has let go of: a run that stood still must find that they are not its own.
    let stepped_over = format!(
        "run_id != @run_id AND acquired_at < expires_at AND {}",
        excluded("source")
    );
    format!(
        "DECLARE was STRUCT<{columns}> DEFAULT NULL;\n\
         DECLARE other STRUCT<{columns}> DEFAULT NULL;\n\
         SET was = (SELECT AS STRUCT {lease} FROM {leases} WHERE source = @lease);\n\
         UPDATE {leases} SET acquired_at = IF(source != @lease OR run_id = @run_id, acquired_at, CURRENT_TIMESTAMP()), \
         expires_at = IF(source = @lease, TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL @length MILLISECOND), acquired_at), \
         holder = IF(source = @lease, @holder, holder), run_id = @run_id\n\
         WHERE (source = @lease OR {stepped_over}) AND NOT EXISTS (SELECT 1 FROM {leases} AS held WHERE {in_the_way});\n\
         SET other = (SELECT AS STRUCT run_id, holder, UNIX_MICROS(acquired_at) AS acquired, \
         UNIX_MICROS(expires_at) AS expires FROM {leases} AS held WHERE {in_the_way} LIMIT 1);\n\
         SELECT COUNT(*) AS there, {lease}, {was}, {by}\n\
         FROM {leases} WHERE source = @lease;\n",
        was = prefixed("was", "was"),
        by = prefixed("other", "by"),
    )
}

/// The fields of a variable that holds a lease, as columns with a prefix.
fn prefixed(variable: &str, prefix: &str) -> String {
    ["run_id", "holder", "acquired", "expires"]
        .map(|field| format!("{variable}.{field} AS {prefix}_{field}"))
        .join(", ")
}

/// Makes sure that a lease has a row to be changed: of two that were only inserted, none would notice
/// the other. Parameter `lease`.
pub(in super::super) fn seed_lease(leases: &str) -> String {
    format!(
        "INSERT INTO {leases} (source)\n\
         SELECT @lease\n\
         FROM (SELECT COUNT(*) AS there FROM {leases} WHERE source = @lease)\n\
         WHERE there = 0"
    )
}

/// Renews a lease: parameters `lease`, `run_id`, `length`. Answers with the run that holds it then.
pub(in super::super) fn renew(leases: &str) -> String {
    format!(
        "UPDATE {leases} SET expires_at = TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL @length MILLISECOND)\n\
         WHERE source = @lease AND run_id = @run_id AND acquired_at < expires_at;\n\
         SELECT MAX(run_id) AS run_id FROM {leases} WHERE source = @lease;\n"
    )
}

/// Lets go of a lease: parameters `lease`, `run_id`. The run's id stays, so that a publish of another
/// run that comes late is still refused.
pub(in super::super) fn release(leases: &str) -> String {
    format!(
        "UPDATE {leases} SET expires_at = acquired_at WHERE source = @lease AND run_id = @run_id"
    )
}

/// In a publish: the run that holds the lease, when it is another.
pub(in super::super) fn other(leases: &str) -> String {
    format!("(SELECT MAX(run_id) FROM {leases} WHERE source = @lease AND run_id != @run_id)")
}

/// The columns of the table of leases.
pub(in super::super) fn lease_columns() -> Vec<Column> {
    let of = |name: &str, kind, about: &str| Column::new(name, kind).describe(about);
    vec![
        of(
            "source",
            ColumnType::String,
            "Source; with `#` and a name behind it, a part of the source that a run of many tasks works on.",
        ).mode(Mode::Required),
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
