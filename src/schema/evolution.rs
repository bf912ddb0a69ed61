//! How a table that is there becomes one that takes the wanted rows. One set of rules for all
//! destinations; what each can do about it is its own.
//!
//! - A column that the table lacks is added at the end as NULLABLE (or REPEATED), inside RECORDs too.
//! - REQUIRED becomes NULLABLE where the wanted column is. The other way round the table stays.
//! - A type becomes wider in the ways that BigQuery knows, at the top level only: see [`wider`].
//! - Columns that the wanted schema does not speak of stay. A REQUIRED one among them is an error,
//!   unless it is the engine's own: then it is relaxed.
//! - A table that keeps history stays one.

use std::fmt;

use super::landing::column as engine;
use super::landing::column::{ROW_HASH, VALID_FROM, VALID_TO};
use super::{Column, ColumnType, Mode, TableSchema};
use crate::error::{Error, ErrorKind, Result};

/// What a table with history has.
const HISTORY: [&str; 3] = [VALID_FROM, VALID_TO, ROW_HASH];

/// The table to be, and what makes it so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconciled {
    /// The table's columns in their order, then the new ones; descriptions as wanted.
    pub schema: TableSchema,
    /// In the order of the wanted columns.
    pub changes: Vec<Change>,
}

/// A change of a table's columns. Paths are dotted names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A column is added.
    Added {
        /// Which.
        path: String,
        /// Its type, as [`type_of`] writes it.
        kind: String,
    },
    /// A REQUIRED column becomes NULLABLE.
    Relaxed {
        /// Which.
        path: String,
    },
    /// A top-level column's type becomes wider.
    Widened {
        /// Which.
        path: String,
        /// Type before.
        from: String,
        /// Type after, as DDL takes it.
        to: String,
    },
}

impl Change {
    /// The column.
    pub fn path(&self) -> &str {
        match self {
            Self::Added { path, .. } | Self::Relaxed { path } | Self::Widened { path, .. } => path,
        }
    }

    /// The sentence of a report: `added column `y` STRING to `x``.
    pub fn done(&self, table: &str) -> String {
        match self {
            Self::Added { path, kind } => format!("added column `{path}` {kind} to `{table}`"),
            Self::Relaxed { path } => format!("relaxed `{path}` of `{table}` to NULLABLE"),
            Self::Widened { path, from, to } => {
                format!("widened `{path}` of `{table}` from {from} to {to}")
            }
        }
    }
}

impl fmt::Display for Change {
    /// What is to be done: `add column `y` STRING`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { path, kind } => write!(f, "add column `{path}` {kind}"),
            Self::Relaxed { path } => write!(f, "relax `{path}` to NULLABLE"),
            Self::Widened { path, from, to } => write!(f, "widen `{path}` from {from} to {to}"),
        }
    }
}

/// The sentence of a report on a table that was not there: `made table `x` with 9 columns`.
pub fn made(table: &str, schema: &TableSchema) -> String {
    let n = schema.columns.len();
    let s = if n == 1 { "" } else { "s" };
    format!("made table `{table}` with {n} column{s}")
}

/// The error for a table that would have to change and must not (`contract: freeze`).
pub fn frozen(table: &str, changes: &[Change]) -> Error {
    const SHOWN: usize = 5;
    let mut said: Vec<String> = changes.iter().take(SHOWN).map(Change::to_string).collect();
    if changes.len() > SHOWN {
        said.push(format!("{} more", changes.len() - SHOWN));
    }
    Error::new(
        ErrorKind::Schema,
        format!(
            "table `{table}` would have to change, and its contract is `freeze`: {}",
            said.join(", ")
        ),
    )
    .hint("change the table by hand, or take the stream's schema back to what the table has, or let it change with `table: {contract: evolve}`")
}

/// What the table becomes.
///
/// # Errors
/// [`ErrorKind::Schema`] naming the table and the first column that cannot be reconciled, with both
/// shapes.
pub fn reconcile(table: &str, existing: &TableSchema, wanted: &TableSchema) -> Result<Reconciled> {
    if keeps_history(existing) && !keeps_history(wanted) {
        return Err(historic(table));
    }
    let mut columns = existing.columns.clone();
    let mut changes = Vec::new();
    merge(table, "", &mut columns, &wanted.columns, &mut changes)?;
    Ok(Reconciled {
        schema: TableSchema { columns },
        changes,
    })
}

/// Whether the table has a row for each version of a record.
fn keeps_history(schema: &TableSchema) -> bool {
    HISTORY.iter().all(|own| schema.column(own).is_some())
}

/// The error of a table with history that a stream without wants. Merging would write over versions that
/// have ended, and rows without a hash would be taken for changed ones when history is kept again.
fn historic(table: &str) -> Error {
    Error::new(
        ErrorKind::Schema,
        format!(
            "table `{table}` keeps history (it has `{}`), and the stream no longer says `disposition: scd2`: it would write over versions that have ended",
            HISTORY.join("`, `")
        ),
    )
    .hint(format!(
        "say `disposition: scd2` again; or give the stream another table (`table: {{name: …}}`) and run with `--full-refresh`; or give the history up: delete the versions that have ended (`{VALID_TO} IS NOT NULL`) and drop these columns, or drop the table and run with `--full-refresh`"
    ))
}

fn merge(
    table: &str,
    path: &str,
    have: &mut Vec<Column>,
    want: &[Column],
    changes: &mut Vec<Change>,
) -> Result<()> {
    let full = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    let same = |a: &Column, b: &Column| a.name.eq_ignore_ascii_case(&b.name);
    for there in have.iter_mut() {
        let unspoken = !want.iter().any(|c| same(c, there));
        if unspoken && there.mode == Mode::Required && there.default_value_expression.is_none() {
            if !(path.is_empty() && engine::is_own(&there.name)) {
                return Err(misfit(
                    table,
                    format!(
                        "column `{}` is REQUIRED in the table, and the stream's schema lacks it",
                        full(&there.name)
                    ),
                ));
            }
            there.mode = Mode::Nullable;
            changes.push(Change::Relaxed {
                path: full(&there.name),
            });
        }
    }
    for column in want {
        let Some(at) = have.iter().position(|c| same(c, column)) else {
            let mut added = column.clone();
            if added.mode == Mode::Required {
                added.mode = Mode::Nullable;
            }
            changes.push(Change::Added {
                path: full(&added.name),
                kind: type_of(&added),
            });
            have.push(added);
            continue;
        };
        let there = &mut have[at];
        let name = full(&there.name);
        let both = |there: &dyn fmt::Display, wanted: &dyn fmt::Display| {
            misfit(
                table,
                format!("column `{name}` is {there} there, and {wanted} in the stream's schema"),
            )
        };
        match (there.mode, column.mode) {
            (a, b) if a == b => {}
            (Mode::Nullable, Mode::Required) => {}
            (Mode::Required, Mode::Nullable) => {
                there.mode = Mode::Nullable;
                changes.push(Change::Relaxed { path: name.clone() });
            }
            (a, b) => return Err(both(&mode(a), &mode(b))),
        }
        if there.kind != column.kind || limits(there) != limits(column) {
            if path.is_empty() && wider(there, column) {
                changes.push(Change::Widened {
                    path: name.clone(),
                    from: type_of(there),
                    to: type_of(column),
                });
                there.kind = column.kind;
                (there.max_length, there.precision, there.scale) = limits(column);
            } else if there.kind != column.kind {
                return Err(both(&there.kind.sql(), &column.kind.sql()));
            }
            // Else the table takes more than is wanted, or a field inside a RECORD could only be
            // made anew: rows that are longer than it allows are refused when they come.
        }
        if !column.description.is_empty() {
            there.description.clone_from(&column.description);
        }
        merge(table, &name, &mut there.fields, &column.fields, changes)?;
    }
    Ok(())
}

/// Whether a column can become of the other's type in place: INT64 → NUMERIC, BIGNUMERIC, FLOAT64;
/// NUMERIC → BIGNUMERIC, FLOAT64; longer, or without a limit. Not lists.
pub fn wider(from: &Column, to: &Column) -> bool {
    use ColumnType::{BigNumeric, Float64, Int64, Numeric};
    if from.mode == Mode::Repeated || to.mode == Mode::Repeated {
        return false;
    }
    match (from.kind, to.kind) {
        (Int64, Numeric | BigNumeric) => to.precision.is_none(),
        (Numeric, BigNumeric) => to.precision.is_none(),
        (Int64 | Numeric, Float64) => true,
        (a, b) if a == b => limits(from) != limits(to) && is_looser(from, to),
        _ => false,
    }
}

/// Whether `to` allows everything that `from` does, of the same type.
pub fn is_looser(from: &Column, to: &Column) -> bool {
    let at_least = |a: Option<u32>, b: Option<u32>| match (a, b) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(a), Some(b)) => b >= a,
    };
    let (f, t) = (limits(from), limits(to));
    let n = |n: Option<super::Number>| n.map(|n| n.0);
    let whole = |(_, precision, scale): (_, Option<super::Number>, Option<super::Number>)| {
        precision.map(|p| p.0.saturating_sub(n(scale).unwrap_or(0)))
    };
    let scale = |(_, precision, scale): (_, Option<super::Number>, Option<super::Number>)| {
        precision.map(|_| n(scale).unwrap_or(0))
    };
    at_least(n(f.0), n(t.0)) && at_least(whole(f), whole(t)) && at_least(scale(f), scale(t))
}

type Limits = (
    Option<super::Number>,
    Option<super::Number>,
    Option<super::Number>,
);

fn limits(column: &Column) -> Limits {
    (column.max_length, column.precision, column.scale)
}

/// A column's type as DDL writes it: `STRING(5)`, `NUMERIC(10, 2)`; a list as `REPEATED STRING`.
pub fn type_of(column: &Column) -> String {
    let list = match column.mode {
        Mode::Repeated => "REPEATED ",
        _ => "",
    };
    let limits = match limits(column) {
        (Some(length), ..) => format!("({})", length.0),
        (None, Some(precision), Some(scale)) => format!("({}, {})", precision.0, scale.0),
        (None, Some(precision), None) => format!("({})", precision.0),
        _ => String::new(),
    };
    format!("{list}{}{limits}", column.kind.sql())
}

/// The declared columns, of the table's types where those are wider: an earlier run, or somebody, has
/// made them so. With `all`, as an evolving table wants it, also what the table has beside them, and
/// NULLABLE where the table is.
pub fn adopt(declared: &TableSchema, existing: &TableSchema, all: bool) -> TableSchema {
    let own: Vec<Column> = existing
        .columns
        .iter()
        .filter(|c| !engine::is_own(&c.name))
        .cloned()
        .collect();
    let mut columns = declared.columns.clone();
    for column in &mut columns {
        if let Some(there) = own
            .iter()
            .find(|c| c.name.eq_ignore_ascii_case(&column.name))
            && wider(column, there)
        {
            column.kind = there.kind;
            (column.max_length, column.precision, column.scale) = limits(there);
        }
    }
    if all {
        join(&mut columns, &own);
    }
    TableSchema { columns }
}

fn join(columns: &mut Vec<Column>, existing: &[Column]) {
    for there in existing {
        match columns
            .iter_mut()
            .find(|c| c.name.eq_ignore_ascii_case(&there.name))
        {
            None => columns.push(there.clone()),
            Some(column) => {
                if (column.mode, there.mode) == (Mode::Required, Mode::Nullable) {
                    column.mode = Mode::Nullable;
                }
                join(&mut column.fields, &there.fields);
            }
        }
    }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Nullable => "NULLABLE",
        Mode::Required => "REQUIRED",
        Mode::Repeated => "REPEATED",
    }
}

fn misfit(table: &str, what: String) -> Error {
    Error::new(
        ErrorKind::Schema,
        format!("table `{table}` cannot become what the stream wants: {what}"),
    )
    .hint("change the column in the schema file to what the table has, or give the stream another table name, or drop the table and run with `--full-refresh`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Number;

    fn schema(columns: Vec<Column>) -> TableSchema {
        TableSchema { columns }
    }

    fn sentences(r: &Reconciled) -> Vec<String> {
        r.changes.iter().map(|c| c.done("t")).collect()
    }

    #[test]
    fn new_columns_come_last_and_names_ignore_case() {
        let inner = |names: &[&str]| {
            Column::new("r", ColumnType::Record).fields(
                names
                    .iter()
                    .map(|n| Column::new(*n, ColumnType::Int64))
                    .collect(),
            )
        };
        let have = schema(vec![Column::new("Id", ColumnType::Int64), inner(&["a"])]);
        let want = schema(vec![
            Column::new("new", ColumnType::String).mode(Mode::Required),
            inner(&["b", "a"]),
            Column::new("id", ColumnType::Int64).describe("key"),
            Column::new("l", ColumnType::Date).mode(Mode::Repeated),
        ]);
        let got = reconcile("t", &have, &want).unwrap();
        let names: Vec<_> = got.schema.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["Id", "r", "new", "l"]);
        assert_eq!(got.schema.columns[0].description, "key");
        assert_eq!(got.schema.columns[1].fields[1].name, "b");
        assert_eq!(got.schema.columns[2].mode, Mode::Nullable);
        assert_eq!(
            sentences(&got),
            [
                "added column `new` STRING to `t`",
                "added column `r.b` INT64 to `t`",
                "added column `l` REPEATED DATE to `t`",
            ]
        );
        // Going back to fewer columns is no change.
        let back = reconcile("t", &got.schema, &have).unwrap();
        assert_eq!((back.changes, back.schema), (vec![], got.schema));
    }

    #[test]
    fn columns_are_relaxed_and_widened() {
        let int = |name: &str| Column::new(name, ColumnType::Int64).mode(Mode::Required);
        let mut short = Column::new("s", ColumnType::String);
        short.max_length = Some(Number(5));
        let mut money = Column::new("m", ColumnType::Numeric);
        (money.precision, money.scale) = (Some(Number(10)), Some(Number(2)));
        let have = schema(vec![
            int("a"),
            int("b"),
            short.clone(),
            money.clone(),
            int("_run_id"),
        ]);
        let mut longer = short.clone();
        longer.max_length = Some(Number(7));
        let mut more = money.clone();
        more.precision = Some(Number(12));
        let want = schema(vec![
            Column::new("a", ColumnType::Numeric),
            Column::new("b", ColumnType::Float64).mode(Mode::Required),
            longer.clone(),
            more,
        ]);
        let got = reconcile("t", &have, &want).unwrap();
        assert_eq!(
            sentences(&got),
            [
                "relaxed `_run_id` of `t` to NULLABLE",
                "relaxed `a` of `t` to NULLABLE",
                "widened `a` of `t` from INT64 to NUMERIC",
                "widened `b` of `t` from INT64 to FLOAT64",
                "widened `s` of `t` from STRING(5) to STRING(7)",
                "widened `m` of `t` from NUMERIC(10, 2) to NUMERIC(12, 2)",
            ]
        );
        // What is wanted narrower is taken as it is there, and with fewer digits before the point it is not wider.
        assert_eq!(
            reconcile("t", &schema(vec![longer]), &schema(vec![short]))
                .unwrap()
                .changes,
            []
        );
        let mut finer = money.clone();
        finer.scale = Some(Number(4));
        assert!(!wider(&money, &finer));
        assert!(wider(&money, &Column::new("m", ColumnType::BigNumeric)));
        assert!(!wider(&Column::new("m", ColumnType::Numeric), &money));
        let e = frozen("t", &got.changes).to_string();
        assert!(
            e.contains("`freeze`: relax `_run_id` to NULLABLE, relax `a`"),
            "{e}"
        );
        assert!(e.ends_with("1 more"), "{e}");
    }

    #[test]
    fn what_cannot_be_reconciled_names_the_column() {
        let int = Column::new("a", ColumnType::Int64);
        let record = |field| vec![Column::new("r", ColumnType::Record).fields(vec![field])];
        let cases = [
            (
                vec![int.clone()],
                vec![Column::new("a", ColumnType::String)],
                "`a` is INT64 there, and STRING",
            ),
            (
                vec![Column::new("a", ColumnType::Float64)],
                vec![int.clone()],
                "`a` is FLOAT64",
            ),
            (
                vec![int.clone()],
                vec![int.clone().mode(Mode::Repeated)],
                "NULLABLE there, and REPEATED",
            ),
            (vec![int.clone().mode(Mode::Required)], vec![], "lacks it"),
            (
                record(int.clone()),
                record(Column::new("a", ColumnType::Numeric)),
                "`r.a` is INT64",
            ),
        ];
        for (have, want, part) in cases {
            let e = reconcile("t", &schema(have), &schema(want)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Schema);
            assert!(e.to_string().contains(part), "{e}");
            assert!(e.find_hint().is_some());
        }
    }

    #[test]
    fn a_table_that_keeps_history_is_for_no_other_stream() {
        let columns = |own: &[&str]| {
            let names = ["id"].iter().chain(own);
            schema(names.map(|n| Column::new(*n, ColumnType::String)).collect())
        };
        let e = reconcile("t", &columns(&HISTORY), &columns(&[])).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Schema);
        let text = e.to_string();
        assert!(text.starts_with("table `t` keeps history"), "{text}");
        let hint = e.find_hint().unwrap();
        for way in ["disposition: scd2", "another table", "drop"] {
            assert!(hint.contains(way), "{hint}");
        }
        // One that begins to keep it, and goes on, is fine; so is one that has given it up.
        reconcile("t", &columns(&[]), &columns(&HISTORY)).unwrap();
        reconcile("t", &columns(&HISTORY), &columns(&HISTORY)).unwrap();
        reconcile("t", &columns(&[]), &columns(&[])).unwrap();
    }

    #[test]
    fn a_table_that_grew_is_taken_as_it_is() {
        let declared = schema(vec![
            Column::new("a", ColumnType::Int64).mode(Mode::Required),
            Column::new("r", ColumnType::Record).fields(vec![Column::new("x", ColumnType::Int64)]),
        ]);
        let existing = schema(vec![
            Column::new("A", ColumnType::Numeric),
            Column::new("r", ColumnType::Record).fields(vec![
                Column::new("x", ColumnType::Int64),
                Column::new("y", ColumnType::Int64),
            ]),
            Column::new("more", ColumnType::Bool),
            Column::new("_run_id", ColumnType::String),
        ]);
        let got = adopt(&declared, &existing, false);
        assert_eq!(got.columns.len(), 2);
        assert_eq!(got.columns[0].kind, ColumnType::Numeric);
        assert_eq!(got.columns[0].mode, Mode::Required);
        let got = adopt(&declared, &existing, true);
        assert_eq!(got.columns[0].mode, Mode::Nullable);
        assert_eq!(got.columns[1].fields.len(), 2);
        assert_eq!(got.columns.len(), 3);
    }
}
