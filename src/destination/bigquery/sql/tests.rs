//! The statements as they are sent.

use super::*;
use crate::destination::audit::Cell;
use crate::destination::bigquery::partitions::Partitions;
use crate::destination::{Disposition, PartitionUnit, Partitioning, TableSpec};
use crate::schema::{Column, ColumnType, Mode, Number, TableSchema};

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
        ..TableSpec::default()
    }
}

fn about(spec: &TableSpec, staged: bool, rejected: bool) -> Publish<'_> {
    Publish {
        spec,
        target: table("p", "d", "tickets"),
        there: &[],
        unfit: None,
        staged: staged.then(|| table("p", "d", "stage")),
        rejects: rejected.then(|| {
            (
                table("p", "d", "tickets__rejects"),
                table("p", "d", "stage_r"),
            )
        }),
        checkpoints: table("p", "d", "_drawoff_checkpoints"),
        leases: table("p", "d", "_drawoff_leases"),
        loads: (
            table("p", "d", "_drawoff_loads"),
            vec!["source", "cursor_after"],
        ),
        among: None,
        closes: false,
        closed: None,
    }
}

fn script(spec: &TableSpec, staged: bool, rejected: bool) -> String {
    publish(&about(spec, staged, rejected))
}

/// Days since 1970 as partitions of `day`.
fn days(spec: &TableSpec, days: &[Option<i64>]) -> Partitions {
    let mut partitions = Partitions::of(spec).unwrap();
    for day in days {
        partitions.add(*day);
    }
    partitions
}

/// Partitioned by the DATE `day`.
fn daily(mut spec: TableSpec) -> TableSpec {
    spec.schema
        .columns
        .push(Column::new("day", ColumnType::Date));
    spec.partition = Some(Partitioning {
        column: "day".into(),
        unit: PartitionUnit::Day,
        fixed: false,
    });
    spec
}

const CHECK: &str = "\
BEGIN TRANSACTION;
SET stored = (SELECT IFNULL(MAX(version), 0) FROM `p`.`d`.`_drawoff_checkpoints` WHERE source = @source AND stream = @stream);
SET holder = (SELECT MAX(run_id) FROM `p`.`d`.`_drawoff_leases` WHERE source = @lease AND run_id != @run_id);
IF stored != @expected_version OR holder IS NOT NULL OR row_counts.staged != @staged OR rejected != @rejected THEN
  ROLLBACK TRANSACTION;
  SELECT 'refused' AS outcome, row_counts.staged AS staged, row_counts.kept AS kept, rejected AS rejected, (SELECT MAX(run_id) FROM `p`.`d`.`_drawoff_leases` WHERE source = @lease AND run_id != @run_id) AS holder, 0 AS publishes;
  RETURN;
END IF;
DELETE FROM `p`.`d`.`_drawoff_checkpoints` WHERE source = @source AND stream = @stream;
";
const DECLARE: &str = "\
DECLARE stored INT64 DEFAULT 0;
DECLARE rejected INT64 DEFAULT 0;
DECLARE holder STRING DEFAULT NULL;
DECLARE row_counts STRUCT<staged INT64, kept INT64> DEFAULT STRUCT(0, 0);
";
const CHECKPOINT: &str = "\
INSERT INTO `p`.`d`.`_drawoff_checkpoints` (source, stream, version, state, run_id, slice, published, deduplicated, updated_at)
VALUES (@source, @stream, @expected_version + 1, @state, @run_id, @slice, row_counts.kept, row_counts.staged - row_counts.kept, CURRENT_TIMESTAMP());
INSERT INTO `p`.`d`.`_drawoff_loads` (`source`, `cursor_after`, version, staged, published, deduplicated, rejected, job, published_at)
VALUES (@source, NULLIF(@cursor_after, ''), @expected_version + 1, row_counts.staged, row_counts.kept, row_counts.staged - row_counts.kept, rejected, @job, CURRENT_TIMESTAMP());
COMMIT TRANSACTION;
SELECT 'published' AS outcome, row_counts.staged AS staged, row_counts.kept AS kept, rejected AS rejected, holder AS holder, (SELECT COUNT(*) FROM `p`.`d`.`_drawoff_loads` WHERE table_name = @table_name AND published_at > TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 24 HOUR)) AS publishes;
";

const COUNT: &str = "\
SET row_counts = (SELECT AS STRUCT COUNT(*) AS staged, COUNTIF(_drawoff_position = 1) AS kept FROM (
  SELECT ROW_NUMBER() OVER (PARTITION BY `id`, `group` ORDER BY `updated_at` DESC NULLS LAST, `_seq` DESC) AS _drawoff_position FROM `p`.`d`.`stage`));
";
const UNIQUE: &str = "\
FROM `p`.`d`.`stage` AS _drawoff_new
WHERE _drawoff_new.`_seq` IN (SELECT `_seq` FROM (
  SELECT `_seq`, ROW_NUMBER() OVER (PARTITION BY `id`, `group` ORDER BY `updated_at` DESC NULLS LAST, `_seq` DESC) AS _drawoff_position FROM `p`.`d`.`stage`)
  WHERE _drawoff_position = 1)";
const SAME_KEY: &str =
    "_drawoff_new.`id` = _drawoff_old.`id` AND _drawoff_new.`group` = _drawoff_old.`group`";

#[test]
fn merging() {
    assert_eq!(
        script(&spec(Disposition::Merge), true, true),
        format!(
            "{DECLARE}{COUNT}\
SET rejected = (SELECT COUNT(*) FROM `p`.`d`.`stage_r`);
{CHECK}\
UPDATE `p`.`d`.`tickets` AS _drawoff_old SET `updated_at` = _drawoff_new.`updated_at`
FROM (SELECT `id`, `group`, `updated_at`
{UNIQUE}) AS _drawoff_new
WHERE {SAME_KEY};
INSERT INTO `p`.`d`.`tickets` (`id`, `group`, `updated_at`)
SELECT `id`, `group`, `updated_at`
{UNIQUE}
  AND NOT EXISTS (SELECT 1 FROM `p`.`d`.`tickets` AS _drawoff_old WHERE {SAME_KEY});
INSERT INTO `p`.`d`.`tickets__rejects` (`stream`, `reason`, `path`, `record`, `_extracted_at`, `_run_id`)
SELECT `stream`, `reason`, `path`, `record`, `_extracted_at`, `_run_id`
FROM `p`.`d`.`stage_r`;
{CHECKPOINT}"
        )
    );
}

#[test]
fn what_only_the_table_says_of_a_row_is_null_where_it_is_updated() {
    let spec = spec(Disposition::Merge);
    let mut there = spec.schema.columns.clone();
    let own = ["_extracted_at", "_run_id", "_slice_id", "_DELETED_AT"];
    there.extend(own.map(|n| Column::new(n, ColumnType::String)));
    there.push(Column::new("foreign", ColumnType::String));
    let merged = |spec: &TableSpec| {
        publish(&Publish {
            there: &there,
            ..about(spec, true, false)
        })
    };
    let script = merged(&spec);
    assert!(
        script.contains(
            "SET `updated_at` = _drawoff_new.`updated_at`, `_extracted_at` = NULL, `_run_id` = NULL, \
             `_slice_id` = NULL, `_DELETED_AT` = NULL\nFROM"
        ),
        "{script}"
    );
    // Where the stream writes them, they are what it says.
    let mut all = spec.clone();
    all.schema.columns.clone_from(&there);
    assert!(!merged(&all).contains("= NULL"));
    // Rows that are only added say nothing anyway.
    let added = TableSpec {
        disposition: Disposition::Append,
        ..spec.clone()
    };
    assert!(!merged(&added).contains("= NULL"));
}

#[test]
fn merging_into_partitions_names_them_literally() {
    let spec = daily(spec(Disposition::Merge));
    let script = publish(&Publish {
        among: Some(days(&spec, &[Some(20_454), Some(20_455), None])),
        ..about(&spec, true, false)
    });
    let filter = "((_drawoff_old.`day` >= DATE '2026-01-01' AND _drawoff_old.`day` < DATE '2026-01-03') \
                  OR (_drawoff_old.`day` IS NULL))";
    assert_eq!(
        script,
        format!(
            "{DECLARE}{COUNT}{CHECK}\
UPDATE `p`.`d`.`tickets` AS _drawoff_old SET `updated_at` = _drawoff_new.`updated_at`, `day` = _drawoff_new.`day`
FROM (SELECT `id`, `group`, `updated_at`, `day`
{UNIQUE}) AS _drawoff_new
WHERE {SAME_KEY}
  AND {filter};
INSERT INTO `p`.`d`.`tickets` (`id`, `group`, `updated_at`, `day`)
SELECT `id`, `group`, `updated_at`, `day`
{UNIQUE}
  AND NOT EXISTS (SELECT 1 FROM `p`.`d`.`tickets` AS _drawoff_old WHERE {SAME_KEY}
  AND {filter});
{CHECKPOINT}"
        )
    );
}

#[test]
fn old_places_are_asked_of_key_and_partition_alone() {
    let spec = daily(spec(Disposition::Merge));
    let none = days(&spec, &[]);
    let (target, staged) = (table("p", "d", "tickets"), table("p", "d", "stage"));
    let asked = |which: &str| {
        format!(
            "SELECT DISTINCT UNIX_DATE(DATE_TRUNC(IF(_drawoff_old.`day` < DATE '1960-01-01', DATE '1959-01-01', \
             IF(_drawoff_old.`day` >= DATE '2160-01-01', DATE '2160-01-01', _drawoff_old.`day`)), DAY)) AS position_start\n\
             FROM `p`.`d`.`tickets` AS _drawoff_old\n\
             WHERE (_drawoff_old.`day` < DATE '2160-01-01' OR _drawoff_old.`day` >= DATE '2160-01-01' OR _drawoff_old.`day` IS NULL)\n  \
             AND {which}\nLIMIT 4004"
        )
    };
    let listed = format!("EXISTS (SELECT 1 FROM `p`.`d`.`stage` AS _drawoff_new WHERE {SAME_KEY})");
    assert_eq!(
        positions::matched(&spec, &none, &target, &staged),
        asked(&listed)
    );
    assert_eq!(
        positions::unlisted(&spec, &none, &target, Some(&staged)),
        asked(&format!(
            "_drawoff_old.`_deleted_at` IS NULL AND NOT {listed}"
        ))
    );
    let history = TableSpec {
        disposition: Disposition::Scd2,
        ..spec
    };
    assert_eq!(
        positions::matched(&history, &none, &target, &staged),
        asked(&format!("_drawoff_old.`_valid_to` IS NULL AND {listed}"))
    );
}

#[test]
fn columns_that_are_all_key_have_nothing_to_update() {
    let mut spec = spec(Disposition::Merge);
    spec.primary_key.push("UPDATED_AT".into());
    let script = script(&spec, true, false);
    assert!(!script.contains("UPDATE "), "{script}");
    assert!(script.contains("AND NOT EXISTS (SELECT 1 FROM `p`.`d`.`tickets`"));
}

#[test]
fn rows_that_are_no_longer_listed_are_marked() {
    let spec = daily(spec(Disposition::Merge));
    let closes = |staged: bool| {
        publish(&Publish {
            closes: true,
            closed: Some(days(&spec, &[Some(20_454)])),
            ..about(&spec, staged, false)
        })
    };
    let filter =
        "(_drawoff_old.`day` >= DATE '2026-01-01' AND _drawoff_old.`day` < DATE '2026-01-02')";
    assert!(closes(true).contains(&format!(
        "UPDATE `p`.`d`.`tickets` AS _drawoff_old SET `_deleted_at` = CURRENT_TIMESTAMP()\n\
         WHERE _drawoff_old.`_deleted_at` IS NULL AND NOT EXISTS (SELECT 1 FROM `p`.`d`.`stage` AS _drawoff_new WHERE {SAME_KEY})\n  \
         AND {filter};\n"
    )));
    assert_eq!(
        closes(false),
        format!(
            "{DECLARE}{CHECK}\
UPDATE `p`.`d`.`tickets` AS _drawoff_old SET `_deleted_at` = CURRENT_TIMESTAMP()
WHERE _drawoff_old.`_deleted_at` IS NULL
  AND {filter};
{CHECKPOINT}"
        )
    );
}

#[test]
fn history_ends_what_differs_and_adds_what_is_new() {
    let mut spec = spec(Disposition::Scd2);
    spec.schema.columns.extend([
        Column::new("_valid_from", ColumnType::Timestamp),
        Column::new("_valid_to", ColumnType::Timestamp),
        Column::new("_row_hash", ColumnType::String),
    ]);
    let script = publish(&Publish {
        closes: true,
        ..about(&spec, true, false)
    });
    let columns = "`id`, `group`, `updated_at`, `_valid_from`, `_valid_to`, `_row_hash`";
    let current = format!("{SAME_KEY} AND _drawoff_old.`_valid_to` IS NULL");
    let missing = format!(
        "{UNIQUE}\n  AND NOT EXISTS (SELECT 1 FROM `p`.`d`.`tickets` AS _drawoff_old WHERE {current})"
    );
    assert_eq!(
        script,
        format!(
            "{DECLARE}\
DECLARE _drawoff_moment TIMESTAMP DEFAULT NULL;
SET _drawoff_moment = (SELECT MAX(`_valid_from`) FROM `p`.`d`.`stage`);
{COUNT}{CHECK}\
UPDATE `p`.`d`.`tickets` AS _drawoff_old SET `_valid_to` = _drawoff_moment
FROM (SELECT `id`, `group`, `_row_hash`
{UNIQUE}) AS _drawoff_new
WHERE IFNULL(_drawoff_old.`_row_hash`, '') != _drawoff_new.`_row_hash` AND {current};
SET row_counts = (SELECT AS STRUCT row_counts.staged AS staged, COUNT(*) AS kept
{missing});
INSERT INTO `p`.`d`.`tickets` ({columns})
SELECT `id`, `group`, `updated_at`, _drawoff_moment AS `_valid_from`, `_valid_to`, `_row_hash`
{missing};
UPDATE `p`.`d`.`tickets` AS _drawoff_old SET `_valid_to` = _drawoff_moment
WHERE _drawoff_old.`_valid_to` IS NULL AND NOT EXISTS (SELECT 1 FROM `p`.`d`.`stage` AS _drawoff_new WHERE {SAME_KEY});
{CHECKPOINT}"
        )
    );
    // Nothing was received that would say when.
    let nothing = publish(&Publish {
        closes: true,
        ..about(&spec, false, false)
    });
    assert!(
        nothing.contains("SET `_valid_to` = CURRENT_TIMESTAMP()\n"),
        "{nothing}"
    );
    assert!(!nothing.contains("_drawoff_moment"), "{nothing}");
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
FROM `p`.`d`.`stage` AS _drawoff_new;
{CHECKPOINT}"
        )
    );
}

#[test]
fn replacing_with_nothing_empties_the_table() {
    assert_eq!(
        script(&spec(Disposition::Replace), false, false),
        format!("{DECLARE}{CHECK}TRUNCATE TABLE `p`.`d`.`tickets`;\n{CHECKPOINT}")
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

/// A column of RECORDs with these fields.
fn record(name: &str, fields: Vec<Column>) -> Column {
    Column::new(name, ColumnType::Record).fields(fields)
}

/// RECORDs of a stream, and the same in a table that has more fields, in another order.
fn mixed(disposition: Disposition) -> (TableSpec, Vec<Column>) {
    let (a, b) = (
        Column::new("a", ColumnType::Int64),
        Column::new("b", ColumnType::String),
    );
    let list = |name: &str, fields| record(name, fields).mode(Mode::Repeated);
    let mut spec = spec(disposition);
    spec.schema.columns = vec![
        Column::new("id", ColumnType::Int64),
        record(
            "r",
            vec![b.clone(), a.clone(), record("inner", vec![b.clone()])],
        ),
        list(
            "l",
            vec![b.clone(), list("deep", vec![b.clone(), a.clone()])],
        ),
        record("same", vec![a.clone(), b.clone()]),
    ];
    spec.primary_key = vec!["id".into()];
    spec.cursor = None;
    let more = list(
        "more",
        vec![a.clone(), Column::new("end", ColumnType::Date)],
    );
    let there = vec![
        record("same", vec![Column::new("A", ColumnType::Int64), b.clone()]),
        list(
            "l",
            vec![
                list("deep", vec![a.clone(), b.clone()]),
                b.clone(),
                Column::new("x", ColumnType::Geography),
            ],
        ),
        record(
            "R",
            vec![
                a.clone(),
                b.clone(),
                record("inner", vec![Column::new("x", ColumnType::Numeric), b]),
                more,
            ],
        ),
    ];
    (spec, there)
}

/// The RECORDs of [`mixed`] as the table has them.
const CONFORMED: &str = "`id`, \
    IF(`r` IS NULL, NULL, STRUCT(`r`.`a` AS `a`, `r`.`b` AS `b`, \
    IF(`r`.`inner` IS NULL, NULL, STRUCT(CAST(NULL AS NUMERIC) AS `x`, `r`.`inner`.`b` AS `b`)) AS `inner`, \
    CAST(NULL AS ARRAY<STRUCT<`a` INT64, `end` DATE>>) AS `more`)) AS `r`, \
    ARRAY(SELECT IF(_drawoff_item0 IS NULL, NULL, STRUCT(\
    ARRAY(SELECT IF(_drawoff_item1 IS NULL, NULL, STRUCT(_drawoff_item1.`a` AS `a`, _drawoff_item1.`b` AS `b`)) \
    FROM UNNEST(_drawoff_item0.`deep`) AS _drawoff_item1 WITH OFFSET AS _drawoff_at1 ORDER BY _drawoff_at1) AS `deep`, \
    _drawoff_item0.`b` AS `b`, CAST(NULL AS GEOGRAPHY) AS `x`)) \
    FROM UNNEST(`l`) AS _drawoff_item0 WITH OFFSET AS _drawoff_at0 ORDER BY _drawoff_at0) AS `l`, \
    `same`";

#[test]
fn fields_of_records_are_matched_by_name() {
    for disposition in [
        Disposition::Append,
        Disposition::Merge,
        Disposition::Replace,
        Disposition::Scd2,
    ] {
        let (spec, there) = mixed(disposition);
        let script = publish(&Publish {
            there: &there,
            ..about(&spec, true, false)
        });
        assert!(
            script.contains(&format!(
                "INSERT INTO `p`.`d`.`tickets` (`id`, `r`, `l`, `same`)\nSELECT {CONFORMED}\nFROM"
            )),
            "{script}"
        );
    }
}

#[test]
fn updates_keep_the_fields_of_records_that_the_schema_lacks() {
    let (spec, there) = mixed(Disposition::Merge);
    let script = publish(&Publish {
        there: &there,
        ..about(&spec, true, false)
    });
    let set = "UPDATE `p`.`d`.`tickets` AS _drawoff_old SET \
        `r` = IF(_drawoff_new.`r` IS NULL, NULL, STRUCT(_drawoff_new.`r`.`a` AS `a`, _drawoff_new.`r`.`b` AS `b`, \
        IF(_drawoff_new.`r`.`inner` IS NULL, NULL, STRUCT(_drawoff_old.`r`.`inner`.`x` AS `x`, _drawoff_new.`r`.`inner`.`b` AS `b`)) AS `inner`, \
        _drawoff_old.`r`.`more` AS `more`)), \
        `l` = _drawoff_new.`l`, `same` = _drawoff_new.`same`\n";
    assert!(
        script.contains(&format!("{set}FROM (SELECT {CONFORMED}\nFROM")),
        "{script}"
    );
}

/// A stream's columns, and those of a table that would refuse some of what they hold.
fn narrower() -> (TableSpec, Vec<Column>) {
    let limited = |name: &str, kind, limits: (u32, u32)| {
        let mut column = Column::new(name, kind);
        match kind {
            ColumnType::String | ColumnType::Bytes => column.max_length = Some(Number(limits.0)),
            _ => {
                (column.precision, column.scale) = (Some(Number(limits.0)), Some(Number(limits.1)))
            }
        }
        column
    };
    let columns = |string: Column, numeric: Column| {
        let place = Column::new("place", ColumnType::Geography);
        vec![
            Column::new("id", ColumnType::Int64),
            record("r", vec![string.clone(), numeric]),
            record("l", vec![place]).mode(Mode::Repeated),
            string.mode(Mode::Repeated),
        ]
    };
    let mut spec = spec(Disposition::Merge);
    spec.primary_key = vec!["id".into()];
    spec.cursor = None;
    spec.schema.columns = columns(
        limited("s", ColumnType::String, (9, 0)),
        limited("n", ColumnType::Numeric, (6, 4)),
    );
    let there = columns(
        limited("s", ColumnType::String, (5, 0)),
        limited("n", ColumnType::Numeric, (4, 2)),
    );
    (spec, there)
}

#[test]
fn rows_that_the_table_would_refuse_go_to_the_rejects() {
    let (spec, there) = narrower();
    let long = "IFNULL(CHAR_LENGTH(_drawoff_new.`r`.`s`) > 5, FALSE)";
    let large = "IFNULL(ABS(_drawoff_new.`r`.`n`) >= NUMERIC '99.995', FALSE)";
    let place = "EXISTS (SELECT 1 FROM UNNEST(_drawoff_new.`l`) AS _drawoff_item0 WHERE (_drawoff_item0.`place` IS NOT NULL AND \
        IF(STARTS_WITH(_drawoff_item0.`place`, '{'), SAFE.ST_GEOGFROMGEOJSON(_drawoff_item0.`place`), SAFE.ST_GEOGFROMTEXT(_drawoff_item0.`place`)) IS NULL))";
    let item = "EXISTS (SELECT 1 FROM UNNEST(_drawoff_new.`s`) AS _drawoff_item0 WHERE IFNULL(CHAR_LENGTH(_drawoff_item0) > 5, FALSE))";
    let unfit = [long, large, place, item].join(" OR ");
    assert_eq!(
        unfit::count(&spec.schema, &there, "S").unwrap(),
        format!(
            "SELECT COUNT(*) AS unfit FROM (SELECT `r`, `l`, `s` FROM S) AS _drawoff_new\nWHERE {unfit}"
        )
    );

    let script = publish(&Publish {
        there: &there,
        unfit: Some("R".into()),
        ..about(&spec, true, true)
    });
    let fit = format!("(SELECT * FROM `p`.`d`.`stage` AS _drawoff_new WHERE NOT ({unfit}))");
    // Nothing else of the staged rows counts.
    assert!(
        script.contains(&format!("_drawoff_position FROM {fit}));\n")),
        "{script}"
    );
    assert_eq!(
        script
            .matches(&format!("FROM {fit} AS _drawoff_new\nWHERE"))
            .count(),
        2,
        "{script}"
    );
    assert!(script.contains(&format!(
        "SET rejected = (SELECT COUNT(*) FROM `p`.`d`.`stage_r`);\n\
         SET rejected = rejected + (SELECT COUNT(*) FROM `p`.`d`.`stage` AS _drawoff_new WHERE {unfit});\n"
    )));
    let (refused, limit) = (
        "BigQuery refused the row: the text is neither WKT nor GeoJSON that it can read",
        "BigQuery refused the row: the value is longer than its column in the table allows",
    );
    assert!(script.contains(&format!(
        "INSERT INTO R (`stream`, `reason`, `path`, `record`, `_extracted_at`, `_run_id`)\n\
         SELECT @rejects_of, CASE WHEN {long} THEN '{limit}' WHEN {large} THEN '{limit}' WHEN {place} THEN '{refused}' WHEN {item} THEN '{limit}' END, \
         CASE WHEN {long} THEN '/r/s' WHEN {large} THEN '/r/n' WHEN {place} THEN '/l' WHEN {item} THEN '/s' END, \
         TO_JSON_STRING(STRUCT(_drawoff_new.`id` AS `id`, _drawoff_new.`r` AS `r`, _drawoff_new.`l` AS `l`, _drawoff_new.`s` AS `s`)), \
         CURRENT_TIMESTAMP(), @run_id\n\
         FROM `p`.`d`.`stage` AS _drawoff_new\nWHERE {unfit};\n"
    )), "{script}");
    lexical::check(&script).unwrap();
}

#[test]
fn what_the_table_takes_is_not_looked_at() {
    let (mut spec, there) = narrower();
    // The table as wide as the schema, and the other way round.
    spec.schema.columns.retain(|c| c.name != "l");
    assert_eq!(unfit::count(&spec.schema, &[], "S"), None);
    assert_eq!(unfit::count(&spec.schema, &spec.schema.columns, "S"), None);
    let schema = TableSchema {
        columns: there.into_iter().filter(|c| c.name != "l").collect(),
    };
    assert_eq!(unfit::count(&schema, &spec.schema.columns, "S"), None);
}

/// Every statement of this module, in all the forms that differ in their words.
fn every_statement() -> Vec<String> {
    let mut all = vec![
        widen("T", "end", "NUMERIC(10, 2)"),
        checkpoints::seed("C"),
        checkpoints::last_publish("C"),
        acquire("L"),
        seed_lease("L"),
        renew("L"),
        release("L"),
        record_runs(
            "R",
            &["run_id".into(), "at".into(), "rows".into()],
            &[vec![
                Cell::Text(None),
                Cell::Time(jiff::Timestamp::UNIX_EPOCH),
                Cell::Count(1),
            ]],
        ),
    ];
    let places = [Some(20_454), None];
    for disposition in [
        Disposition::Append,
        Disposition::Merge,
        Disposition::Replace,
        Disposition::Scd2,
    ] {
        let (nested, there) = mixed(disposition);
        all.push(publish(&Publish {
            there: &there,
            ..about(&nested, true, false)
        }));
        let (narrow, there) = narrower();
        all.extend(unfit::count(&narrow.schema, &there, "S"));
        all.push(publish(&Publish {
            there: &there,
            unfit: Some("R".into()),
            ..about(&narrow, true, true)
        }));
        let mut spec = daily(spec(disposition));
        spec.schema.columns.extend([
            Column::new("place", ColumnType::Geography),
            Column::new("stops", ColumnType::Record)
                .mode(Mode::Repeated)
                .fields(vec![Column::new("at", ColumnType::Geography)]),
        ]);
        for staged in [true, false] {
            all.push(publish(&Publish {
                among: Some(days(&spec, &places)),
                closes: true,
                closed: Some(days(&spec, &places)),
                loads: (
                    table("p", "d", "_drawoff_loads"),
                    crate::destination::audit::LOAD_PARAMETERS.to_vec(),
                ),
                ..about(&spec, staged, staged)
            }));
        }
        for kind in [
            ColumnType::Date,
            ColumnType::DateTime,
            ColumnType::Timestamp,
        ] {
            if let Some(day) = spec.schema.columns.iter_mut().find(|c| c.name == "day") {
                day.kind = kind;
            }
            let none = days(&spec, &[]);
            all.push(positions::matched(&spec, &none, "T", "S"));
            all.push(positions::unlisted(&spec, &none, "T", Some("S")));
            all.push(positions::unlisted(&spec, &none, "T", None));
        }
    }
    all
}

#[test]
fn no_name_is_a_reserved_word() {
    for sql in every_statement() {
        lexical::check(&sql).unwrap();
    }
}

#[test]
fn identifiers_cannot_break_out() {
    assert_eq!(
        ident("a`; DROP TABLE x; --\\"),
        "`a\\`; DROP TABLE x; --\\\\`"
    );
}
