//! What stands in the database: tables as SQL, their schemas as BigQuery's JSON, checkpoints.
//!
//! `_drawoff_tables` keeps each table's schema, because SQLite's own knows neither types like
//! NUMERIC or RECORD nor descriptions. What SQLite says about a table's columns still goes first:
//! people may have altered it.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::failure::failed;
use crate::destination::audit::{self, LOADS, RUNS};
use crate::destination::key::Key;
use crate::destination::{Disposition, TableSpec, rejects};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::evolution::{Change, frozen, made, reconcile};
use crate::schema::landing::column;
use crate::schema::{Column, ColumnType, Mode, TableSchema};

/// Prefix of the tables that are ours.
const OWN_PREFIX: &str = "_drawoff_";

/// Most columns of a table, as SQLite is built here and by most others.
const MOST_COLUMNS: usize = 2_000;

const OWN_TABLES: &str = "
CREATE TABLE IF NOT EXISTS _drawoff_tables (
  name TEXT PRIMARY KEY COLLATE NOCASE NOT NULL,
  description TEXT NOT NULL,
  schema TEXT NOT NULL -- BigQuery's JSON schema format
);
CREATE TABLE IF NOT EXISTS _drawoff_checkpoints (
  source TEXT NOT NULL,
  stream TEXT NOT NULL,
  version INTEGER NOT NULL, -- counts publishes, from 1
  checkpoint TEXT NOT NULL, -- JSON
  run_id TEXT NOT NULL, -- run that published it
  slice TEXT NOT NULL, -- slice that was published with it
  updated_at TEXT NOT NULL,
  PRIMARY KEY (source, stream)
);
CREATE TABLE IF NOT EXISTS _drawoff_leases (
  source TEXT PRIMARY KEY NOT NULL, -- with `#` and a name behind it, a part of the source
  run_id TEXT NOT NULL, -- run that holds it, or held it last
  acquired_at TEXT NOT NULL,
  expires_at TEXT NOT NULL, -- unless it is renewed; not above acquired_at once it was given back
  holder TEXT NOT NULL -- JSON: how a successor sees whether the holder lives
);";

/// An identifier, quoted.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Identifiers, quoted and separated by commas.
pub fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// A column's definition. The types' affinities leave every value as it was bound.
pub fn definition(column: &Column) -> String {
    let declared = match (column.mode, column.kind) {
        (Mode::Repeated, _) => "TEXT",
        (_, ColumnType::Int64) => "INTEGER",
        (_, ColumnType::Float64) => "REAL",
        (_, ColumnType::Bool) => "BOOLEAN",
        (_, ColumnType::Bytes) => "BLOB",
        _ => "TEXT",
    };
    let constraint = match column.mode {
        Mode::Nullable => "",
        Mode::Required => " NOT NULL",
        Mode::Repeated => " NOT NULL DEFAULT '[]'",
    };
    format!("{} {declared}{constraint}", quoted(&column.name))
}

/// `CREATE TABLE` with BigQuery's types and the descriptions as comments, for `.schema` to show.
fn create_table(name: &str, schema: &TableSchema) -> String {
    let mut sql = format!("CREATE TABLE {} (\n", quoted(name));
    let last = schema.columns.len().saturating_sub(1);
    for (i, column) in schema.columns.iter().enumerate() {
        let comma = if i == last { "" } else { "," };
        let list = match column.mode {
            Mode::Repeated => "REPEATED ",
            _ => "",
        };
        let about: String = match column.description.as_str() {
            "" => String::new(),
            text => format!(": {text}")
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
        };
        sql.push_str(&format!(
            "  {}{comma} -- {list}{}{about}\n",
            definition(column),
            column.kind.sql()
        ));
    }
    sql.push(')');
    sql
}

/// Makes our own tables exist.
pub fn own_tables(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(OWN_TABLES)?;
    for (name, columns) in [(LOADS, audit::load_columns()), (RUNS, audit::run_columns())] {
        if !has_table(tx, name)? {
            tx.execute_batch(&create_table(name, &TableSchema { columns }))?;
        }
    }
    Ok(())
}

/// Makes the table, its rejects table and our own tables exist in the wanted shape; gives what changed
/// in the first.
pub fn prepare(tx: &Transaction<'_>, table: &TableSpec, place: &str) -> Result<Vec<String>> {
    if table.name.starts_with(OWN_PREFIX) || table.name.starts_with("sqlite_") {
        return Err(Error::new(
            ErrorKind::Schema,
            format!(
                "a table cannot be called `{}`: the prefix is reserved",
                table.name
            ),
        )
        .hint("give the stream another table name"));
    }
    own_tables(tx)
        .map_err(|e| failed(format!("could not create drawoff's tables in {place}"), e))?;
    let changes = shape(tx, table, place)?;
    let rejects = TableSpec {
        name: rejects::table_name(&table.name),
        description: format!("Records that do not fit `{}`.", table.name),
        schema: rejects::schema(),
        ..TableSpec::default()
    };
    shape(tx, &rejects, place)?;
    index(tx, table, place)?;
    Ok(changes)
}

fn shape(tx: &Transaction<'_>, spec: &TableSpec, place: &str) -> Result<Vec<String>> {
    let (name, wanted) = (&spec.name, &spec.schema);
    let fail = |e| failed(format!("could not prepare table `{name}` in {place}"), e);
    let (now, changes) = match existing(tx, name).map_err(fail)? {
        None => {
            check_size(name, wanted)?;
            tx.execute_batch(&create_table(name, wanted))
                .map_err(fail)?;
            (wanted.clone(), vec![made(name, wanted)])
        }
        Some(have) => {
            let now = reconcile(name, &have, wanted)?;
            if spec.frozen {
                return match now.changes.is_empty() {
                    true => Ok(Vec::new()),
                    false => Err(frozen(name, &now.changes)),
                };
            }
            check_size(name, &now.schema)?;
            let (old, new) = now.schema.columns.split_at(have.columns.len());
            let altered = have
                .columns
                .iter()
                .zip(old)
                .any(|(a, b)| definition(a) != definition(b));
            if altered {
                rebuild(tx, name, &have, &now.schema).map_err(fail)?;
            } else {
                for column in new {
                    tx.execute_batch(&format!(
                        "ALTER TABLE {} ADD COLUMN {}",
                        quoted(name),
                        definition(column)
                    ))
                    .map_err(fail)?;
                }
            }
            let said = now.changes.iter().map(|c: &Change| c.done(name)).collect();
            (now.schema, said)
        }
    };
    tx.execute(
        "INSERT INTO _drawoff_tables (name, description, schema) VALUES (?1, ?2, ?3)
         ON CONFLICT (name) DO UPDATE SET description = excluded.description, schema = excluded.schema
         WHERE description <> excluded.description OR schema <> excluded.schema",
        params![name, spec.description, now.to_json()],
    )
    .map_err(fail)?;
    Ok(changes)
}

fn check_size(name: &str, schema: &TableSchema) -> Result<()> {
    let n = schema.columns.len();
    if n <= MOST_COLUMNS {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Schema,
        format!("table `{name}` would have {n} columns, and SQLite takes {MOST_COLUMNS}"),
    )
    .hint("leave columns out of the stream's schema, or put several into one JSON column"))
}

/// SQLite changes no column's type or NOT NULL in place: the rows go into a new table, which takes
/// the old one's name, indexes and triggers.
fn rebuild(
    tx: &Transaction<'_>,
    name: &str,
    have: &TableSchema,
    now: &TableSchema,
) -> rusqlite::Result<()> {
    const NEW: &str = "_drawoff_rebuilt";
    let belongings: Vec<String> = tx
        .prepare(
            "SELECT sql FROM main.sqlite_schema
             WHERE tbl_name = ?1 COLLATE NOCASE AND type IN ('index', 'trigger') AND sql IS NOT NULL",
        )?
        .query_map([name], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let values: Vec<String> = have
        .columns
        .iter()
        .zip(&now.columns)
        .map(|(a, b)| {
            let column = quoted(&a.name);
            match b.kind {
                kind if kind == a.kind => column,
                ColumnType::Float64 => format!("CAST({column} AS REAL)"),
                _ => format!("CAST({column} AS TEXT)"),
            }
        })
        .collect();
    tx.execute_batch(&create_table(NEW, now))?;
    let names = list(have.columns.iter().map(|c| c.name.as_str()));
    tx.execute_batch(&format!(
        // Views may name the table that is gone for a moment.
        "INSERT INTO {new} ({names}) SELECT {values} FROM {old};
         DROP TABLE {old};
         PRAGMA legacy_alter_table = ON;
         ALTER TABLE {new} RENAME TO {old};
         PRAGMA legacy_alter_table = OFF;",
        new = quoted(NEW),
        old = quoted(name),
        values = values.join(", "),
    ))?;
    belongings.iter().try_for_each(|sql| tx.execute_batch(sql))
}

/// The unique index on the primary key: there exactly when rows are unique by it. With history, only
/// current versions are.
fn index(tx: &Transaction<'_>, table: &TableSpec, place: &str) -> Result<()> {
    let name = format!("{}__key", table.name);
    let fail = |e| failed(format!("could not prepare index `{name}` in {place}"), e);
    let there: Vec<String> = tx
        .prepare("SELECT name FROM pragma_index_info(?1) ORDER BY seqno")
        .and_then(|mut s| s.query_map([&name], |r| r.get(0))?.collect())
        .map_err(fail)?;
    let wanted: &[String] = match Key::of(table)? {
        Some(_) => &table.primary_key,
        None => &[],
    };
    let partial: Option<bool> = tx
        .query_row(
            "SELECT partial FROM pragma_index_list(?1) WHERE name = ?2",
            [&table.name, &name],
            |r| r.get(0),
        )
        .optional()
        .map_err(fail)?;
    let history = table.disposition == Disposition::Scd2;
    let same = partial.unwrap_or(history) == history
        && there.len() == wanted.len()
        && there
            .iter()
            .zip(wanted)
            .all(|(a, b)| a.eq_ignore_ascii_case(b));
    if same {
        return Ok(());
    }
    tx.execute_batch(&format!("DROP INDEX IF EXISTS {}", quoted(&name)))
        .map_err(fail)?;
    if wanted.is_empty() {
        return Ok(());
    }
    let current = match history {
        true => format!(" WHERE {} IS NULL", quoted(column::VALID_TO)),
        false => String::new(),
    };
    let created = tx.execute_batch(&format!(
        "CREATE UNIQUE INDEX {} ON {} ({}){current}",
        quoted(&name),
        quoted(&table.name),
        list(wanted.iter().map(String::as_str))
    ));
    created.map_err(|e| match e.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation) => Error::new(
            ErrorKind::Schema,
            format!(
                "table `{}` in {place} has several rows with the same primary key ({})",
                table.name,
                wanted.join(", ")
            ),
        )
        .hint("rows were appended before: drop the table, or remove the doubles, then run with `--full-refresh`"),
        _ => fail(e),
    })
}

/// The columns of a table as it is now.
pub fn existing(
    conn: &Connection,
    table: &str,
) -> std::result::Result<Option<TableSchema>, rusqlite::Error> {
    let there: Vec<(String, String, bool)> = conn
        .prepare("SELECT name, type, \"notnull\" FROM pragma_table_info(?1, 'main') ORDER BY cid")?
        .query_map([table], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
        .collect::<std::result::Result<_, _>>()?;
    if there.is_empty() {
        return Ok(None);
    }
    let saved: Option<String> = if has_table(conn, "_drawoff_tables")? {
        conn.query_row(
            "SELECT schema FROM main._drawoff_tables WHERE name = ?1",
            [table],
            |r| r.get(0),
        )
        .optional()?
    } else {
        None
    };
    let saved: HashMap<String, Column> = saved
        .and_then(|json| serde_json::from_str::<TableSchema>(&json).ok())
        .unwrap_or_default()
        .columns
        .into_iter()
        .map(|c| (c.name.to_ascii_lowercase(), c))
        .collect();
    let columns = there
        .into_iter()
        .map(|(name, declared, required)| {
            saved
                .get(&name.to_ascii_lowercase())
                .cloned()
                .unwrap_or_else(|| foreign(name, &declared, required))
        })
        .collect();
    Ok(Some(TableSchema { columns }))
}

/// A column that somebody else made, by SQLite's own rules on declared types.
fn foreign(name: String, declared: &str, required: bool) -> Column {
    let declared = declared.to_ascii_uppercase();
    let has = |parts: &[&str]| parts.iter().any(|p| declared.contains(p));
    let kind = if has(&["BOOL"]) {
        ColumnType::Bool
    } else if has(&["INT"]) {
        ColumnType::Int64
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        ColumnType::Float64
    } else if has(&["BLOB"]) {
        ColumnType::Bytes
    } else {
        ColumnType::String
    };
    Column::new(name, kind).mode(if required {
        Mode::Required
    } else {
        Mode::Nullable
    })
}

/// Whether the database has a table.
pub fn has_table(conn: &Connection, name: &str) -> std::result::Result<bool, rusqlite::Error> {
    conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?1)",
        [name],
        |r| r.get(0),
    )
}
