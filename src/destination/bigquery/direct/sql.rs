//! The statements of slices whose rows go straight into their table. Pure: values go as parameters.

use std::fmt::Write as _;

use crate::destination::rejects;
use crate::schema::landing::column::{EXTRACTED_AT, SLICE_ID};
use crate::schema::{Column, ColumnType, Mode};

use super::super::sql::{answer, audit, ident, other_holder};

/// Columns of the journal of open slices.
pub(super) fn journal_columns() -> Vec<Column> {
    let of = |name: &str, kind, about: &str| Column::new(name, kind).describe(about);
    let text = |name: &str, about: &str| of(name, ColumnType::String, about).mode(Mode::Required);
    vec![
        text("slice_id", "The slice, as in its rows' `_slice_id`."),
        text("source", "Source."),
        text("stream", "Stream, as in `_drawoff_checkpoints`."),
        text("table_name", "Table that its rows go into."),
        text("method", "How they go: `stream` or `insert_all`."),
        of(
            "version",
            ColumnType::Int64,
            "Version of the checkpoint that it builds on.",
        )
        .mode(Mode::Required),
        of("write_stream", ColumnType::String, "Its write stream."),
        of(
            "opened_at",
            ColumnType::Timestamp,
            "When its first rows were about to be sent.",
        )
        .mode(Mode::Required),
        of(
            "taken_back_at",
            ColumnType::Timestamp,
            "When somebody began to delete its rows; it cannot be published any more.",
        ),
    ]
}

/// Notes a slice as open, if its checkpoint is at the expected version and no other run holds the
/// lease: parameters `source`, `stream`, `slice_id`, `table_name`, `method`, `write_stream` (or
/// empty), `expected_version`, `run_id`, `lease`. Answers with `open` (1 when it is noted), the stored `version` and
/// the other `holder`. Repeating is harmless.
pub(super) fn open(journal: &str, checkpoints: &str, leases: &str) -> String {
    let holder = other_holder(leases);
    format!(
        "INSERT INTO {journal} (slice_id, source, stream, table_name, method, version, write_stream, opened_at)\n\
         SELECT @slice_id, @source, @stream, @table_name, @method, @expected_version, NULLIF(@write_stream, ''), CURRENT_TIMESTAMP()\n\
         FROM (SELECT IFNULL(MAX(version), 0) AS version FROM {checkpoints} WHERE source = @source AND stream = @stream) AS stored\n\
         WHERE stored.version = @expected_version AND {holder} IS NULL\n  \
         AND NOT EXISTS (SELECT 1 FROM {journal} WHERE {MINE});\n\
         SELECT (SELECT COUNT(*) FROM {journal} WHERE {MINE}) AS open,\n  \
         (SELECT IFNULL(MAX(version), 0) FROM {checkpoints} WHERE source = @source AND stream = @stream) AS version,\n  \
         {holder} AS holder;"
    )
}

/// Notes a slice as being taken back, if it is neither noted nor published: parameters `source`,
/// `stream`, `slice_id`, `table_name`, `method`, `opened_at` (seconds since 1970), `run_id`, `slice`.
/// Repeating is harmless.
pub(super) fn open_again(journal: &str, loads: &str) -> String {
    format!(
        "INSERT INTO {journal} (slice_id, source, stream, table_name, method, version, opened_at, taken_back_at)\n\
         SELECT @slice_id, @source, @stream, @table_name, @method, 0, TIMESTAMP_SECONDS(@opened_at), CURRENT_TIMESTAMP()\n\
         FROM (SELECT 1 AS one)\n\
         WHERE NOT EXISTS (SELECT 1 FROM {journal} WHERE {MINE})\n  \
         AND NOT EXISTS (SELECT 1 FROM {loads} WHERE source = @source AND stream = @stream \
         AND run_id = @run_id AND slice = @slice)"
    )
}

/// The journal's row of a slice.
const MINE: &str = "slice_id = @slice_id AND source = @source AND stream = @stream";

/// Open slices of a source's stream or table, oldest first: parameters `source`, `stream`,
/// `table_name`. Times are seconds since 1970.
pub(super) fn list(journal: &str) -> String {
    format!(
        "SELECT slice_id, stream, table_name, method, write_stream, UNIX_SECONDS(opened_at) AS opened_at\n\
         FROM {journal} WHERE source = @source AND (stream = @stream OR table_name = @table_name)\n\
         ORDER BY opened_at, slice_id"
    )
}

/// Makes sure that a slice cannot be published any more: parameters `source`, `stream`, `slice_id`.
/// Answers with `open` (0 when it was published, or taken back to the end) and `age`, the seconds
/// since this was done first.
pub(super) fn claim(journal: &str) -> String {
    format!(
        "UPDATE {journal} SET taken_back_at = IFNULL(taken_back_at, CURRENT_TIMESTAMP()) WHERE {MINE};\n\
         SELECT COUNT(*) AS open, UNIX_SECONDS(CURRENT_TIMESTAMP()) - UNIX_SECONDS(MAX(taken_back_at)) AS age\n\
         FROM {journal} WHERE {MINE};"
    )
}

/// Strikes a slice off the journal: parameters `source`, `stream`, `slice_id`.
pub(super) fn forget(journal: &str) -> String {
    format!("DELETE FROM {journal} WHERE {MINE}")
}

/// Which rows of a table are a slice's: parameters `slice_id`, and `since` (seconds since 1970) where
/// the table is partitioned by when rows were received, so that not all of it is read.
fn of_slice(partitioned: bool) -> String {
    let since = format!(" AND {} >= TIMESTAMP_SECONDS(@since)", ident(EXTRACTED_AT));
    format!(
        "{} = @slice_id{}",
        ident(SLICE_ID),
        if partitioned { since.as_str() } else { "" }
    )
}

/// Counts a slice's rows: `n`; and `last`, when the newest was received, in seconds since 1970, where
/// rows say so.
pub(super) fn count(table: &str, partitioned: bool, dated: bool) -> String {
    let last = match dated {
        true => format!("UNIX_SECONDS(MAX({}))", ident(EXTRACTED_AT)),
        false => "CAST(NULL AS INT64)".to_owned(),
    };
    format!(
        "SELECT COUNT(*) AS n, {last} AS last FROM {table} WHERE {}",
        of_slice(partitioned)
    )
}

/// Deletes a slice's rows.
pub(super) fn delete(table: &str, partitioned: bool) -> String {
    format!("DELETE FROM {table} WHERE {}", of_slice(partitioned))
}

/// Puts records that do not fit into a staging table: parameter `records`, a JSON array of objects.
pub(super) fn stage_rejects(staging: &str) -> String {
    let columns = rejects::schema().columns;
    let names: Vec<String> = columns.iter().map(|c| ident(&c.name)).collect();
    let values: Vec<String> = columns
        .iter()
        .map(|c| {
            let text = format!("JSON_VALUE(record, '$.{}')", c.name);
            match c.kind {
                ColumnType::Timestamp => format!("TIMESTAMP({text})"),
                _ => text,
            }
        })
        .collect();
    format!(
        "INSERT INTO {staging} ({})\nSELECT {}\nFROM UNNEST(JSON_QUERY_ARRAY(@records)) AS record",
        names.join(", "),
        values.join(", ")
    )
}

/// What a publish is about. Tables are quoted names.
pub(super) struct Publish {
    /// Whether rows were sent, so that the slice is in the journal.
    pub journaled: bool,
    /// The journal.
    pub journal: String,
    /// The rejects table and its staged rows, where there are any.
    pub rejects: Option<(String, String)>,
    /// The table of checkpoints.
    pub checkpoints: String,
    /// The table of leases.
    pub leases: String,
    /// The table of loads, and the columns of it that are parameters.
    pub loads: (String, Vec<&'static str>),
}

/// The column of the last row of [`publish`] that says whether the slice was open.
pub(super) const OPEN: &str = "open";

/// The script that publishes a slice whose rows are all in the table: parameters `source`, `stream`,
/// `slice_id`, `expected_version`, `state`, `sent`, `rejected`, and those of its row in the table of loads.
/// It changes nothing unless the stored version is the expected one, no other run holds the source's
/// lease, and nobody has begun to take the slice back. Its first change is of the table that all publishes
/// mutate, so that one that has to give way to another does so at once.
///
/// The rows themselves it leaves alone: a transaction cannot change rows that were just streamed.
pub(super) fn publish(p: &Publish) -> String {
    let mut sql = String::from(
        "DECLARE stored INT64 DEFAULT 0;\n\
         DECLARE rejected INT64 DEFAULT 0;\n\
         DECLARE open INT64 DEFAULT 1;\n\
         DECLARE holder STRING DEFAULT NULL;\n\
         DECLARE row_counts STRUCT<staged INT64, kept INT64> DEFAULT STRUCT(0, 0);\n\
         SET row_counts = (SELECT AS STRUCT @sent AS staged, @sent AS kept);\n",
    );
    if let Some((_, staged)) = &p.rejects {
        let _ = writeln!(sql, "SET rejected = (SELECT COUNT(*) FROM {staged});");
    }
    let _ = writeln!(
        sql,
        "BEGIN TRANSACTION;\n\
         SET stored = (SELECT IFNULL(MAX(version), 0) FROM {} WHERE source = @source AND stream = @stream);",
        p.checkpoints
    );
    let holder = other_holder(&p.leases);
    let _ = writeln!(sql, "SET holder = {holder};");
    if p.journaled {
        let _ = writeln!(
            sql,
            "SET open = (SELECT COUNT(*) FROM {} WHERE {MINE} AND taken_back_at IS NULL);",
            p.journal
        );
    }
    let _ = writeln!(
        sql,
        "IF stored != @expected_version OR holder IS NOT NULL OR open != 1 OR rejected != @rejected THEN\n  \
         ROLLBACK TRANSACTION;\n  \
         SELECT 'refused' AS {OUTCOME}, open AS {OPEN}, rejected AS {REJECTED}, {holder} AS {HOLDER}, 0 AS {PUBLISHES};\n  \
         RETURN;\n\
         END IF;\n\
         DELETE FROM {} WHERE source = @source AND stream = @stream;",
        p.checkpoints,
        OUTCOME = answer::OUTCOME,
        REJECTED = answer::REJECTED,
        HOLDER = answer::HOLDER,
        PUBLISHES = answer::PUBLISHES,
    );
    if let Some((target, staged)) = &p.rejects {
        let names: Vec<String> = rejects::schema()
            .columns
            .iter()
            .map(|c| ident(&c.name))
            .collect();
        let columns = names.join(", ");
        let _ = writeln!(
            sql,
            "INSERT INTO {target} ({columns})\nSELECT {columns}\nFROM {staged};"
        );
    }
    if p.journaled {
        let _ = writeln!(sql, "{};", forget(&p.journal));
    }
    let _ = write!(
        sql,
        "INSERT INTO {0} (source, stream, version, state, run_id, slice, published, deduplicated, updated_at)\n\
         VALUES (@source, @stream, @expected_version + 1, @state, @run_id, @slice, @sent, 0, CURRENT_TIMESTAMP());\n\
         {1}\
         COMMIT TRANSACTION;\n\
         SELECT 'published' AS {OUTCOME}, open AS {OPEN}, rejected AS {REJECTED}, holder AS {HOLDER}, {2} AS {PUBLISHES};\n",
        p.checkpoints,
        audit::load(&p.loads.0, &p.loads.1),
        audit::publishes(&p.loads.0),
        OUTCOME = answer::OUTCOME,
        REJECTED = answer::REJECTED,
        HOLDER = answer::HOLDER,
        PUBLISHES = answer::PUBLISHES,
    );
    sql
}

#[cfg(test)]
mod tests {
    use super::super::super::sql::lexical;
    use super::*;

    fn publish_of(journaled: bool, rejected: bool) -> String {
        publish(&Publish {
            journaled,
            journal: "J".into(),
            rejects: rejected.then(|| ("R".into(), "S".into())),
            checkpoints: "C".into(),
            leases: "L".into(),
            loads: ("A".into(), vec!["source"]),
        })
    }

    #[test]
    fn publishing_strikes_the_slice_off_and_leaves_rows_alone() {
        assert_eq!(
            publish_of(true, true),
            "\
DECLARE stored INT64 DEFAULT 0;
DECLARE rejected INT64 DEFAULT 0;
DECLARE open INT64 DEFAULT 1;
DECLARE holder STRING DEFAULT NULL;
DECLARE row_counts STRUCT<staged INT64, kept INT64> DEFAULT STRUCT(0, 0);
SET row_counts = (SELECT AS STRUCT @sent AS staged, @sent AS kept);
SET rejected = (SELECT COUNT(*) FROM S);
BEGIN TRANSACTION;
SET stored = (SELECT IFNULL(MAX(version), 0) FROM C WHERE source = @source AND stream = @stream);
SET holder = (SELECT MAX(run_id) FROM L WHERE source = @lease AND run_id != @run_id);
SET open = (SELECT COUNT(*) FROM J WHERE slice_id = @slice_id AND source = @source AND stream = @stream AND taken_back_at IS NULL);
IF stored != @expected_version OR holder IS NOT NULL OR open != 1 OR rejected != @rejected THEN
  ROLLBACK TRANSACTION;
  SELECT 'refused' AS outcome, open AS open, rejected AS rejected, (SELECT MAX(run_id) FROM L WHERE source = @lease AND run_id != @run_id) AS holder, 0 AS publishes;
  RETURN;
END IF;
DELETE FROM C WHERE source = @source AND stream = @stream;
INSERT INTO R (`stream`, `reason`, `path`, `record`, `_extracted_at`, `_run_id`)
SELECT `stream`, `reason`, `path`, `record`, `_extracted_at`, `_run_id`
FROM S;
DELETE FROM J WHERE slice_id = @slice_id AND source = @source AND stream = @stream;
INSERT INTO C (source, stream, version, state, run_id, slice, published, deduplicated, updated_at)
VALUES (@source, @stream, @expected_version + 1, @state, @run_id, @slice, @sent, 0, CURRENT_TIMESTAMP());
INSERT INTO A (`source`, version, staged, published, deduplicated, rejected, job, published_at)
VALUES (@source, @expected_version + 1, row_counts.staged, row_counts.kept, row_counts.staged - row_counts.kept, rejected, @job, CURRENT_TIMESTAMP());
COMMIT TRANSACTION;
SELECT 'published' AS outcome, open AS open, rejected AS rejected, holder AS holder, (SELECT COUNT(*) FROM A WHERE table_name = @table_name AND published_at > TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 24 HOUR)) AS publishes;
"
        );
    }

    #[test]
    fn a_slice_without_rows_needs_no_journal() {
        let sql = publish_of(false, false);
        assert!(!sql.contains('J') && !sql.contains("@slice_id"), "{sql}");
    }

    #[test]
    fn no_name_is_a_reserved_word() {
        let mut all = vec![
            open("J", "C", "L"),
            open_again("J", "A"),
            list("J"),
            claim("J"),
            forget("J"),
            stage_rejects("S"),
        ];
        for yes in [true, false] {
            all.push(publish_of(yes, yes));
            all.push(delete("T", yes));
            all.push(count("T", yes, yes));
        }
        for sql in all {
            lexical::check(&sql).unwrap();
        }
    }

    #[test]
    fn rows_are_found_by_slice_and_by_partition_where_that_spares_reading() {
        assert_eq!(
            delete("T", false),
            "DELETE FROM T WHERE `_slice_id` = @slice_id"
        );
        assert_eq!(
            count("T", true, true),
            "SELECT COUNT(*) AS n, UNIX_SECONDS(MAX(`_extracted_at`)) AS last FROM T \
             WHERE `_slice_id` = @slice_id AND `_extracted_at` >= TIMESTAMP_SECONDS(@since)"
        );
        assert!(count("T", false, false).contains("CAST(NULL AS INT64) AS last"));
    }
}
