//! How a table's columns grow with what records turn out to hold (`contract: evolve`).
//!
//! A field without a column gets one, inside RECORDs too. A column that was REQUIRED and had no value
//! is relaxed. A value that does not fit its column makes it wider where that loses nothing of what
//! is there; where no type does, the table gets a second column beside it, [`TEXT_LANE`] for single
//! values and [`JSON_LANE`] for lists and objects, and the first is null in such a row.
//!
//! The same news always make the same columns, whatever the order in which they came.

use std::collections::{BTreeMap, BTreeSet};

use super::decode::EXTRA_COLUMN;
use super::name::Spoken;
use super::shape::{Fields, Shape, column, columns_of};
use super::{Column, ColumnType, Mode, TableSchema, landing, name, size};

/// Most columns, those inside RECORDs included, of a table that nobody has written down; what is more
/// stays in [`EXTRA_COLUMN`]. Far below BigQuery's 10,000: a record with more fields is a map.
pub const MOST_COLUMNS: usize = 1_000;

/// Behind a column's name: its single values of another type, as STRING.
pub const TEXT_LANE: &str = "__string";
/// Behind a column's name: its lists and objects of another shape, as JSON.
pub const JSON_LANE: &str = "__json";

/// A column of staging tables in BigQuery, so that no field may take the name.
pub(super) const SEQUENCE: &str = "_seq";

/// What records held that the columns do not hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct News {
    /// Fields without a column; those inside a RECORD inside an object of its name.
    pub(super) fresh: Fields,
    /// Paths of REQUIRED columns that had no value.
    pub(super) absent: BTreeSet<Vec<String>>,
    /// Top-level columns that values did not fit.
    pub(super) misfits: BTreeMap<String, Misfit>,
}

/// What kinds of values did not fit a column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Misfit {
    /// Whole numbers.
    pub whole: bool,
    /// Numbers with a fraction or an exponent.
    pub fraction: bool,
    /// Texts, true and false.
    pub other: bool,
    /// Lists and objects.
    pub nested: bool,
}

/// What may not change.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Names that are written down.
    pub spoken: Spoken,
    /// Columns that stay as they are: keys, cursor, partitioning, those of the engine.
    pub fixed: Vec<String>,
    /// Columns that must not become FLOAT64, because BigQuery does not cluster by it.
    pub clustered: Vec<String>,
    /// Types of columns stay: rows are on their way straight into the table.
    pub no_wider: bool,
}

impl News {
    /// Whether nothing was new.
    pub fn is_empty(&self) -> bool {
        self.fresh.len() == 0 && self.absent.is_empty() && self.misfits.is_empty()
    }
}

impl News {
    /// The same but for fields without a column.
    pub fn of_columns(self) -> Self {
        Self {
            fresh: Fields::default(),
            ..self
        }
    }

    /// The paths of the fields that need a column in a table of these ones, and what it would be.
    pub fn fields(&self, columns: &[Column]) -> Vec<(String, Column)> {
        let mut found = Vec::new();
        unplaced(&self.fresh, columns, "", &mut found);
        found
    }
}

fn unplaced(fresh: &Fields, columns: &[Column], path: &str, found: &mut Vec<(String, Column)>) {
    for key in fresh.keys() {
        let Some(shape) = fresh.get(key) else {
            continue;
        };
        let inner = match shape {
            Shape::Object(fields) => Some(fields),
            Shape::List(item) => match &**item {
                Shape::Object(fields) => Some(fields),
                _ => None,
            },
            _ => None,
        };
        let is_record = |c: &&Column| c.name == key && c.kind == ColumnType::Record;
        let path = format!("{path}{key}");
        match (columns.iter().find(is_record), inner) {
            (Some(record), Some(inner)) => {
                unplaced(inner, &record.fields, &format!("{path}."), found);
            }
            _ => found.extend(column(shape, &Spoken::default(), 0).map(|column| (path, column))),
        }
    }
}

impl Misfit {
    /// Takes another into account.
    pub(super) fn join(&mut self, other: Self) {
        self.whole |= other.whole;
        self.fraction |= other.fraction;
        self.other |= other.other;
        self.nested |= other.nested;
    }
}

/// The columns that hold the news too; the same ones when nothing can be done.
pub fn grow(schema: &TableSchema, news: &News, rules: &Rules) -> TableSchema {
    let mut columns = schema.columns.clone();
    let mut room = MOST_COLUMNS.saturating_sub(size(&columns));
    for path in &news.absent {
        if path.len() > 1 || !rules.is_fixed(&path[0]) {
            relax(&mut columns, path);
        }
    }
    for (column, misfit) in &news.misfits {
        if !rules.is_fixed(column) {
            accommodate(&mut columns, column, *misfit, rules, &mut room);
        }
    }
    add(&mut columns, &news.fresh, &rules.spoken, 0, &mut room);
    TableSchema { columns }
}

impl Rules {
    fn is_fixed(&self, column: &str) -> bool {
        column == EXTRA_COLUMN || self.fixed.iter().any(|f| f.eq_ignore_ascii_case(column))
    }
}

fn find<'a>(columns: &'a mut [Column], name: &str) -> Option<&'a mut Column> {
    columns
        .iter_mut()
        .find(|c| c.name.eq_ignore_ascii_case(name))
}

fn relax(columns: &mut [Column], path: &[String]) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    let Some(column) = find(columns, first) else {
        return;
    };
    match rest {
        [] if column.mode == Mode::Required => column.mode = Mode::Nullable,
        [] => {}
        rest => relax(&mut column.fields, rest),
    }
}

/// Columns for fields that have none, at the end, and into the RECORDs that are there.
fn add(columns: &mut Vec<Column>, fresh: &Fields, spoken: &Spoken, depth: usize, room: &mut usize) {
    for key in fresh.keys() {
        let inner = match fresh.get(key) {
            Some(Shape::Object(inner)) => inner,
            Some(Shape::List(item)) => match &**item {
                Shape::Object(inner) => inner,
                _ => continue,
            },
            _ => continue,
        };
        // The RECORD's own name: a key without a column never has it.
        if let Some(record) = columns
            .iter_mut()
            .find(|c| c.name == key && c.kind == ColumnType::Record)
        {
            let spoken = spoken.within(&record.name);
            add(&mut record.fields, inner, &spoken, depth + 1, room);
        }
    }
    let there: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
    let there = match depth {
        0 => [&there[..], &[SEQUENCE], &landing::column::ALL].concat(),
        _ => there,
    };
    for column in columns_of(fresh, &there, spoken, depth) {
        let size = size(std::slice::from_ref(&column));
        if size <= *room {
            *room -= size;
            columns.push(column);
        }
    }
}

fn accommodate(
    columns: &mut Vec<Column>,
    name: &str,
    misfit: Misfit,
    rules: &Rules,
    room: &mut usize,
) {
    let clustered = rules.clustered.iter().any(|c| c.eq_ignore_ascii_case(name));
    let Some(column) = find(columns, name) else {
        return;
    };
    let single = misfit.whole || misfit.fraction || misfit.other;
    let mut lanes = Vec::new();
    if misfit.nested {
        lanes.push((JSON_LANE, ColumnType::Json));
    }
    if single && (rules.no_wider || !wider(column, misfit, clustered)) {
        lanes.push((TEXT_LANE, ColumnType::String));
    }
    // A value in a second column leaves the first one null.
    if column.mode == Mode::Required && !lanes.is_empty() {
        column.mode = Mode::Nullable;
    }
    let base = column.name.clone();
    for (suffix, kind) in lanes {
        let lane = name::suffixed(&base, suffix);
        let taken = columns.iter().any(|c| c.name.eq_ignore_ascii_case(&lane));
        if !taken && *room > 0 {
            *room -= 1;
            columns.push(
                Column::new(lane, kind)
                    .describe(format!("Values of `{base}` that its type cannot hold.")),
            );
        }
    }
}

/// Makes the column wide enough for its numbers, where a type is; whether it then holds all single values.
fn wider(column: &mut Column, misfit: Misfit, clustered: bool) -> bool {
    if column.mode == Mode::Repeated {
        return false;
    }
    let limited = column.max_length.is_some() || column.precision.is_some();
    if limited {
        (column.max_length, column.precision, column.scale) = (None, None, None);
        return true;
    }
    if misfit.whole || misfit.fraction {
        column.kind = match column.kind {
            ColumnType::Int64 if misfit.whole || clustered => ColumnType::BigNumeric,
            ColumnType::Int64 => ColumnType::Float64,
            ColumnType::Numeric => ColumnType::BigNumeric,
            _ => return false,
        };
    }
    !misfit.other
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::decode::Decoder;
    use jiter::Jiter;

    fn schema(json: &str) -> TableSchema {
        TableSchema::from_json(json, "test.json").unwrap()
    }

    /// What a table of `columns` becomes when these records come.
    fn grown(columns: &str, records: &str, rules: &Rules) -> Vec<String> {
        let before = schema(columns);
        let mut decoder = Decoder::new(&before);
        decoder.watch();
        let mut json = Jiter::new(records.as_bytes());
        let mut next = json.next_array().unwrap();
        while let Some(peek) = next {
            decoder.record(&mut json, peek).unwrap();
            next = json.array_step().unwrap();
        }
        let after = grow(&before, &decoder.news(), rules);
        words("", &after.columns)
    }

    fn words(path: &str, columns: &[Column]) -> Vec<String> {
        let mut all = Vec::new();
        for c in columns {
            let mode = match c.mode {
                Mode::Nullable => "",
                Mode::Required => "!",
                Mode::Repeated => "[]",
            };
            all.push(format!("{path}{} {}{mode}", c.name, c.kind.sql()));
            all.extend(words(&format!("{path}{}.", c.name), &c.fields));
        }
        all
    }

    #[test]
    fn fields_without_a_column_get_one_at_every_level() {
        let columns = r#"[{"name": "id", "type": "INT64"},
            {"name": "o", "type": "RECORD", "fields": [{"name": "a", "type": "INT64"}]},
            {"name": "l", "type": "RECORD", "mode": "REPEATED", "fields": [{"name": "a", "type": "INT64"}]},
            {"name": "_extra", "type": "JSON"}]"#;
        let records = r#"[{"id": 1, "new": 1, "o": {"a": 1, "b": {"c": "x"}}, "l": [{"a": 1}, {"b": true}], "none": null},
            {"id": 2, "new": 1.5, "ID": "x", "nested": [[1]]}]"#;
        let hashed = format!("{} STRING", name::hashed("ID"));
        assert_eq!(
            grown(columns, records, &Rules::default()),
            [
                "id INT64",
                "o RECORD",
                "o.a INT64",
                "o.b RECORD",
                "o.b.c STRING",
                "l RECORD[]",
                "l.a INT64",
                "l.b BOOL",
                "_extra JSON",
                "new FLOAT64",
                "nested JSON",
                // Found when both were in one record.
                &hashed,
            ]
        );
        // Without the extra column alike, although nothing is kept there.
        let columns = r#"[{"name": "id", "type": "INT64"}]"#;
        let records = r#"[{"ID": "x", "id": 1, "_seq": 1}, {"id": 2}]"#;
        assert_eq!(
            grown(columns, records, &Rules::default()),
            ["id INT64".to_owned(), hashed]
        );
    }

    #[test]
    fn new_fields_are_named_by_their_path() {
        let columns = r#"[{"name": "id", "type": "INT64"},
            {"name": "o", "type": "RECORD", "fields": [{"name": "a", "type": "INT64"}]},
            {"name": "l", "type": "RECORD", "mode": "REPEATED", "fields": [{"name": "a", "type": "INT64"}]}]"#;
        let record = r#"{"id": 1, "new": 1, "o": {"a": 1, "b": {"c": "x"}}, "l": [{"b": true}], "none": null, "": "x"}"#;
        let table = schema(columns);
        let mut decoder = Decoder::new(&table);
        decoder.watch();
        let mut json = Jiter::new(record.as_bytes());
        let peek = json.peek().unwrap();
        decoder.record(&mut json, peek).unwrap();
        let fields = decoder.news().fields(&table.columns);
        let named: Vec<_> = fields.iter().map(|(f, c)| (&**f, c.kind)).collect();
        assert_eq!(
            named,
            [
                ("new", ColumnType::Int64),
                ("", ColumnType::String),
                ("o.b", ColumnType::Record),
                ("l.b", ColumnType::Bool),
            ]
        );
    }

    #[test]
    fn columns_become_wider_or_get_a_second_one() {
        let columns = r#"[{"name": "f", "type": "INT64"}, {"name": "w", "type": "INT64"}, {"name": "b", "type": "INT64"},
            {"name": "n", "type": "NUMERIC"}, {"name": "s", "type": "STRING", "maxLength": "2"},
            {"name": "t", "type": "INT64"}, {"name": "tf", "type": "INT64"}, {"name": "d", "type": "DATE", "mode": "REQUIRED"}, {"name": "o", "type": "RECORD",
            "fields": [{"name": "a", "type": "INT64"}]}, {"name": "l", "type": "INT64", "mode": "REPEATED"}]"#;
        let records = r#"[
            {"d": "2026-01-01", "f": 1.5}, {"d": "2026-01-01", "w": 18446744073709551615},
            {"d": "2026-01-01", "b": 1.5}, {"d": "2026-01-01", "b": 18446744073709551615},
            {"d": "2026-01-01", "n": 0.1234567891}, {"d": "2026-01-01", "s": "abc"}, {"d": "2026-01-01", "t": "x"},
            {"d": "2026-01-01", "tf": "x"}, {"d": "2026-01-01", "tf": 1.5},
            {"d": "soon"}, {"d": "2026-01-01", "o": {"a": "x"}}, {"d": "2026-01-01", "o": "x"},
            {"d": "2026-01-01", "l": [[1]]}]"#;
        let all = grown(columns, records, &Rules::default());
        assert_eq!(
            all,
            [
                "f FLOAT64",
                "w BIGNUMERIC",
                "b BIGNUMERIC",
                "n BIGNUMERIC",
                "s STRING",
                "t INT64",
                "tf FLOAT64",
                "d DATE",
                "o RECORD",
                "o.a INT64",
                "l INT64[]",
                "d__string STRING",
                "l__json JSON",
                "o__json JSON",
                "o__string STRING",
                "t__string STRING",
                "tf__string STRING",
            ]
        );
        // Where rows go straight into the table, its types stay.
        let rules = Rules {
            no_wider: true,
            ..Rules::default()
        };
        let columns = r#"[{"name": "f", "type": "INT64"}, {"name": "g", "type": "INT64"}]"#;
        assert_eq!(
            grown(columns, r#"[{"f": 1.5}]"#, &rules),
            ["f INT64", "g INT64", "f__string STRING"]
        );
        let rules = Rules {
            fixed: vec!["f".into()],
            clustered: vec!["g".into()],
            ..Rules::default()
        };
        assert_eq!(
            grown(columns, r#"[{"f": "x"}, {"g": 1.5}]"#, &rules),
            ["f INT64", "g BIGNUMERIC"]
        );
    }

    #[test]
    fn what_is_required_and_never_there_is_relaxed() {
        let columns = r#"[{"name": "id", "type": "INT64", "mode": "REQUIRED"}, {"name": "a", "type": "INT64", "mode": "REQUIRED"},
            {"name": "b", "type": "INT64", "mode": "REQUIRED"}, {"name": "c", "type": "INT64", "mode": "REQUIRED"},
            {"name": "o", "type": "RECORD", "fields": [{"name": "x", "type": "STRING", "mode": "REQUIRED"}]}]"#;
        let rules = Rules {
            fixed: vec!["ID".into()],
            ..Rules::default()
        };
        let records = r#"[{"b": 1, "c": 1}, {"id": 1, "a": 1, "b": null, "c": 1}, {"id": 1, "a": 1, "b": 2, "c": 1, "o": {}}]"#;
        assert_eq!(
            grown(columns, records, &rules),
            [
                "id INT64!",
                "a INT64",
                "b INT64",
                "c INT64!",
                "o RECORD",
                "o.x STRING"
            ]
        );
    }

    #[test]
    fn there_is_an_end_to_growth() {
        let fields: Vec<String> = (0..10_001).map(|n| format!("\"f{n}\": {n}")).collect();
        let columns = r#"[{"name": "id", "type": "INT64"}]"#;
        let all = grown(
            columns,
            &format!("[{{{}}}]", fields.join(",")),
            &Rules::default(),
        );
        assert_eq!(all.len(), MOST_COLUMNS);
    }
}
