//! Every statement sent to BigQuery, as text. Pure: identifiers are quoted here, values never appear
//! (they go as query parameters).
//!
//! Merging deletes the keys at hand and inserts the staged rows, in one transaction, rather than
//! using MERGE: the effect is the same, a duplicate key that was in the table before is mended, and
//! neither statement reads more of the target than MERGE would.

use std::fmt::Write as _;

use super::spec;
use crate::destination::{Disposition, TableSpec, rejects};
use crate::schema::{Column, ColumnType, Mode};

/// Column of a staging table: the order in which rows were staged.
pub(super) const SEQUENCE: &str = "_seq";

/// Alias that no column has.
const POSITION: &str = "_drawoff_position";

/// A quoted identifier.
pub(super) fn ident(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len() + 2);
    quoted.push('`');
    for c in name.chars() {
        if matches!(c, '`' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('`');
    quoted
}

/// A quoted table name.
pub(super) fn table(project: &str, dataset: &str, name: &str) -> String {
    format!("{}.{}.{}", ident(project), ident(dataset), ident(name))
}

/// What a publish is about. Tables are quoted names.
pub(super) struct Publish<'a> {
    /// The table as the stream wants it.
    pub spec: &'a TableSpec,
    /// The table.
    pub target: String,
    /// Its staged rows, where there are any.
    pub staged: Option<String>,
    /// The rejects table and its staged rows, where there are any.
    pub rejects: Option<(String, String)>,
    /// The table of checkpoints.
    pub checkpoints: String,
}

/// The columns of the last row that [`publish`] answers with.
pub(super) mod answer {
    /// `published`, or `refused` with nothing changed.
    pub(in super::super) const OUTCOME: &str = "outcome";
    /// Rows that went into the table.
    pub(in super::super) const KEPT: &str = "kept";
    /// Rows found staged.
    pub(in super::super) const STAGED: &str = "staged";
    /// Rejects found staged.
    pub(in super::super) const REJECTED: &str = "rejected";
}

/// The script that makes a slice visible: parameters `source`, `stream`, `expected_version`,
/// `state`, `run_id`, `slice`, `staged`, `rejected`. It changes nothing unless the stored version is
/// the expected one and everything staged is there to be read.
///
/// Two such scripts never both go through: each deletes the checkpoint's row, which [`seed`] has made
/// sure is there, and BigQuery cancels a transaction that mutates a table which another one mutates.
pub(super) fn publish(p: &Publish<'_>) -> String {
    let key = spec::unique_key(p.spec);
    let columns = list(&p.spec.schema.columns);
    let mut sql = String::from(
        "DECLARE stored INT64 DEFAULT 0;\n\
         DECLARE rejected INT64 DEFAULT 0;\n\
         DECLARE row_counts STRUCT<staged INT64, kept INT64> DEFAULT STRUCT(0, 0);\n",
    );
    if let Some(staged) = &p.staged {
        let from = match key {
            None => format!("SELECT AS STRUCT COUNT(*) AS staged, COUNT(*) AS kept FROM {staged}"),
            Some(key) => format!(
                "SELECT AS STRUCT COUNT(*) AS staged, COUNTIF({POSITION} = 1) AS kept FROM (\n  \
                 SELECT {} FROM {staged})",
                position(p.spec, key)
            ),
        };
        let _ = writeln!(sql, "SET row_counts = ({from});");
    }
    if let Some((_, staged)) = &p.rejects {
        let _ = writeln!(sql, "SET rejected = (SELECT COUNT(*) FROM {staged});");
    }
    let _ = writeln!(
        sql,
        "BEGIN TRANSACTION;\n\
         SET stored = (SELECT IFNULL(MAX(version), 0) FROM {} WHERE source = @source AND stream = @stream);\n\
         IF stored != @expected_version OR row_counts.staged != @staged OR rejected != @rejected THEN\n  \
         ROLLBACK TRANSACTION;\n  \
         SELECT 'refused' AS outcome, row_counts.staged AS staged, row_counts.kept AS kept, rejected AS rejected;\n  \
         RETURN;\n\
         END IF;",
        p.checkpoints
    );
    match (p.spec.disposition, &p.staged) {
        (Disposition::Replace, _) => {
            let _ = writeln!(sql, "DELETE FROM {} WHERE TRUE;", p.target);
        }
        (Disposition::Merge, Some(staged)) => {
            let on: Vec<String> = p
                .spec
                .primary_key
                .iter()
                .map(|k| format!("_drawoff_new.{0} = _drawoff_old.{0}", ident(k)))
                .collect();
            let _ = writeln!(
                sql,
                "DELETE FROM {} AS _drawoff_old WHERE EXISTS (\n  \
                 SELECT 1 FROM {staged} AS _drawoff_new WHERE {});",
                p.target,
                on.join(" AND ")
            );
        }
        (Disposition::Merge, None) | (Disposition::Append, _) => {}
    }
    if let Some(staged) = &p.staged {
        let values = values(&p.spec.schema.columns);
        let from = match key {
            None => format!("FROM {staged}"),
            Some(key) => format!(
                "FROM (\n  SELECT *, {} FROM {staged})\nWHERE {POSITION} = 1",
                position(p.spec, key)
            ),
        };
        let _ = writeln!(
            sql,
            "INSERT INTO {} ({columns})\nSELECT {values}\n{from};",
            p.target
        );
    }
    if let Some((target, staged)) = &p.rejects {
        let columns = list(&rejects::schema().columns);
        let _ = writeln!(
            sql,
            "INSERT INTO {target} ({columns})\nSELECT {columns}\nFROM {staged};"
        );
    }
    let _ = write!(
        sql,
        "DELETE FROM {0} WHERE source = @source AND stream = @stream;\n\
         INSERT INTO {0} (source, stream, version, state, run_id, slice, published, deduplicated, updated_at)\n\
         VALUES (@source, @stream, @expected_version + 1, @state, @run_id, @slice, \
         row_counts.kept, row_counts.staged - row_counts.kept, CURRENT_TIMESTAMP());\n\
         COMMIT TRANSACTION;\n\
         SELECT 'published' AS outcome, row_counts.staged AS staged, row_counts.kept AS kept, rejected AS rejected;\n",
        p.checkpoints
    );
    sql
}

/// Makes sure that a checkpoint has a row, of version 0, so that a transaction has something to
/// mutate: two that only inserted would not notice each other. Parameters `source`, `stream`.
pub(super) fn seed(checkpoints: &str) -> String {
    format!(
        "INSERT INTO {checkpoints} (source, stream, version, updated_at)\n\
         SELECT @source, @stream, 0, CURRENT_TIMESTAMP()\n\
         FROM (SELECT COUNT(*) AS there FROM {checkpoints} WHERE source = @source AND stream = @stream)\n\
         WHERE there = 0"
    )
}

/// All checkpoints of a source, newest last. Parameter `source`.
pub(super) fn checkpoints(checkpoints: &str) -> String {
    format!(
        "SELECT stream, version, state FROM {checkpoints}\n\
         WHERE source = @source AND version > 0 ORDER BY stream, version"
    )
}

/// Who published a checkpoint last, and what. Parameters `source`, `stream`.
pub(super) fn last_publish(checkpoints: &str) -> String {
    format!(
        "SELECT version, run_id, slice, published, deduplicated FROM {checkpoints}\n\
         WHERE source = @source AND stream = @stream ORDER BY version DESC LIMIT 1"
    )
}

/// The columns of the table of checkpoints.
pub(super) fn checkpoint_columns() -> Vec<Column> {
    let of = |name: &str, kind, about: &str| Column::new(name, kind).describe(about);
    vec![
        of("source", ColumnType::String, "Source.").mode(Mode::Required),
        of("stream", ColumnType::String, "Stream.").mode(Mode::Required),
        of(
            "version",
            ColumnType::Int64,
            "Number of publishes of the stream; 0 before the first.",
        )
        .mode(Mode::Required),
        of(
            "state",
            ColumnType::String,
            "Where the extraction stands, as JSON.",
        ),
        of("run_id", ColumnType::String, "Run that published last."),
        of(
            "slice",
            ColumnType::String,
            "Slice that was published last.",
        ),
        of(
            "published",
            ColumnType::Int64,
            "Rows that the last publish put into the table.",
        ),
        of(
            "deduplicated",
            ColumnType::Int64,
            "Staged rows of the last publish that a newer one with the same key replaced.",
        ),
        of(
            "updated_at",
            ColumnType::Timestamp,
            "When the row was written.",
        ),
    ]
}

/// The place of a staged row among those with its key, the newest first.
fn position(spec: &TableSpec, key: &[String]) -> String {
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

fn list(columns: &[Column]) -> String {
    let names: Vec<String> = columns.iter().map(|c| ident(&c.name)).collect();
    names.join(", ")
}

/// What is selected from the staging table: each column, with GEOGRAPHYs read from their text.
fn values(columns: &[Column]) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::TableSchema;

    fn spec(disposition: Disposition) -> TableSpec {
        TableSpec {
            name: "tickets".into(),
            description: String::new(),
            schema: TableSchema {
                columns: vec![
                    Column::new("id", ColumnType::Int64).mode(Mode::Required),
                    Column::new("group", ColumnType::String),
                    Column::new("updated_at", ColumnType::Timestamp),
                ],
            },
            disposition,
            primary_key: vec!["id".into(), "group".into()],
            cursor: Some("updated_at".into()),
            partition_by: None,
            cluster_by: vec![],
        }
    }

    fn script(spec: &TableSpec, staged: bool, rejected: bool) -> String {
        publish(&Publish {
            spec,
            target: table("p", "d", "tickets"),
            staged: staged.then(|| table("p", "d", "stage")),
            rejects: rejected.then(|| {
                (
                    table("p", "d", "tickets__rejects"),
                    table("p", "d", "stage_r"),
                )
            }),
            checkpoints: table("p", "d", "_drawoff_checkpoints"),
        })
    }

    const CHECK: &str = "\
BEGIN TRANSACTION;
SET stored = (SELECT IFNULL(MAX(version), 0) FROM `p`.`d`.`_drawoff_checkpoints` WHERE source = @source AND stream = @stream);
IF stored != @expected_version OR row_counts.staged != @staged OR rejected != @rejected THEN
  ROLLBACK TRANSACTION;
  SELECT 'refused' AS outcome, row_counts.staged AS staged, row_counts.kept AS kept, rejected AS rejected;
  RETURN;
END IF;
";
    const DECLARE: &str = "\
DECLARE stored INT64 DEFAULT 0;
DECLARE rejected INT64 DEFAULT 0;
DECLARE row_counts STRUCT<staged INT64, kept INT64> DEFAULT STRUCT(0, 0);
";
    const CHECKPOINT: &str = "\
DELETE FROM `p`.`d`.`_drawoff_checkpoints` WHERE source = @source AND stream = @stream;
INSERT INTO `p`.`d`.`_drawoff_checkpoints` (source, stream, version, state, run_id, slice, published, deduplicated, updated_at)
VALUES (@source, @stream, @expected_version + 1, @state, @run_id, @slice, row_counts.kept, row_counts.staged - row_counts.kept, CURRENT_TIMESTAMP());
COMMIT TRANSACTION;
SELECT 'published' AS outcome, row_counts.staged AS staged, row_counts.kept AS kept, rejected AS rejected;
";

    #[test]
    fn merging() {
        assert_eq!(
            script(&spec(Disposition::Merge), true, true),
            format!(
                "{DECLARE}\
SET row_counts = (SELECT AS STRUCT COUNT(*) AS staged, COUNTIF(_drawoff_position = 1) AS kept FROM (
  SELECT ROW_NUMBER() OVER (PARTITION BY `id`, `group` ORDER BY `updated_at` DESC NULLS LAST, `_seq` DESC) AS _drawoff_position FROM `p`.`d`.`stage`));
SET rejected = (SELECT COUNT(*) FROM `p`.`d`.`stage_r`);
{CHECK}\
DELETE FROM `p`.`d`.`tickets` AS _drawoff_old WHERE EXISTS (
  SELECT 1 FROM `p`.`d`.`stage` AS _drawoff_new WHERE _drawoff_new.`id` = _drawoff_old.`id` AND _drawoff_new.`group` = _drawoff_old.`group`);
INSERT INTO `p`.`d`.`tickets` (`id`, `group`, `updated_at`)
SELECT `id`, `group`, `updated_at`
FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY `id`, `group` ORDER BY `updated_at` DESC NULLS LAST, `_seq` DESC) AS _drawoff_position FROM `p`.`d`.`stage`)
WHERE _drawoff_position = 1;
INSERT INTO `p`.`d`.`tickets__rejects` (`stream`, `reason`, `path`, `record`, `_extracted_at`, `_run_id`)
SELECT `stream`, `reason`, `path`, `record`, `_extracted_at`, `_run_id`
FROM `p`.`d`.`stage_r`;
{CHECKPOINT}"
            )
        );
    }

    #[test]
    fn appending() {
        assert_eq!(
            script(&spec(Disposition::Append), true, false),
            format!(
                "{DECLARE}\
SET row_counts = (SELECT AS STRUCT COUNT(*) AS staged, COUNT(*) AS kept FROM `p`.`d`.`stage`);
{CHECK}\
INSERT INTO `p`.`d`.`tickets` (`id`, `group`, `updated_at`)
SELECT `id`, `group`, `updated_at`
FROM `p`.`d`.`stage`;
{CHECKPOINT}"
            )
        );
    }

    #[test]
    fn replacing_with_nothing_empties_the_table() {
        assert_eq!(
            script(&spec(Disposition::Replace), false, false),
            format!("{DECLARE}{CHECK}DELETE FROM `p`.`d`.`tickets` WHERE TRUE;\n{CHECKPOINT}")
        );
    }

    #[test]
    fn merging_nothing_only_moves_the_checkpoint() {
        assert_eq!(
            script(&spec(Disposition::Merge), false, false),
            format!("{DECLARE}{CHECK}{CHECKPOINT}")
        );
    }

    #[test]
    fn geographies_are_read_from_their_text() {
        let mut spec = spec(Disposition::Append);
        spec.schema.columns = vec![Column::new("place", ColumnType::Geography)];
        assert!(script(&spec, true, false).contains(
            "SELECT IF(STARTS_WITH(`place`, '{'), ST_GEOGFROMGEOJSON(`place`), ST_GEOGFROMTEXT(`place`)) AS `place`\n"
        ));
    }

    #[test]
    fn records_with_geographies_are_put_together_again() {
        let mut spec = spec(Disposition::Append);
        spec.schema.columns = vec![
            Column::new("stops", ColumnType::Record)
                .mode(Mode::Repeated)
                .fields(vec![
                    Column::new("name", ColumnType::String),
                    Column::new("at", ColumnType::Geography),
                ]),
        ];
        assert!(script(&spec, true, false).contains(
            "SELECT ARRAY(SELECT IF(_drawoff_item0 IS NULL, NULL, STRUCT(\
             _drawoff_item0.`name` AS `name`, \
             IF(STARTS_WITH(_drawoff_item0.`at`, '{'), ST_GEOGFROMGEOJSON(_drawoff_item0.`at`), ST_GEOGFROMTEXT(_drawoff_item0.`at`)) AS `at`)) \
             FROM UNNEST(`stops`) AS _drawoff_item0 WITH OFFSET AS _drawoff_at0 ORDER BY _drawoff_at0) AS `stops`\n"
        ));
    }

    #[test]
    fn identifiers_cannot_break_out() {
        assert_eq!(
            ident("a`; DROP TABLE x; --\\"),
            "`a\\`; DROP TABLE x; --\\\\`"
        );
    }
}
