//! The database that a slice stages its rows in: a file beside the main one, without a name once it
//! is open, attached to the slice's connection as `staging`.

use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use rusqlite::Connection;

use super::ddl::{definition, list, quoted};
use super::failure::failed;
use super::{Place, connect, encode};
use crate::destination::key::{Key, check_filled, check_shape, schema_of};
use crate::destination::{BatchKind, TableSpec};
use crate::error::Result;
use crate::schema::ColumnType;

/// Column of staged rows by which a decimal cursor sorts.
pub const ORDER: &str = "_drawoff_order";

/// Rows on their way into a table.
pub struct Staging {
    /// Connected to the main database and to the staging one.
    pub conn: Connection,
    pub key: Option<Key>,
    /// The column that [`ORDER`] is made from.
    pub order: Option<usize>,
    /// Rows staged.
    pub rows: u64,
    /// Rejects staged.
    pub rejects: u64,
    insert_rows: String,
    insert_rejects: String,
    /// Removes the file where an open file keeps its name (Windows); last, after the connection.
    _file: RemoveOnDrop,
}

impl Staging {
    /// Opens an empty one.
    pub fn open(place: &Place, table: &TableSpec) -> Result<Self> {
        let key = Key::of(table)?;
        let order = key.as_ref().and_then(|k| k.cursor).filter(|at| {
            matches!(
                table.schema.columns[*at].kind,
                ColumnType::Numeric | ColumnType::BigNumeric
            )
        });
        let conn = connect(&place.path, &place.shown, place.busy_timeout)?;
        let file = file_name(&place.path);
        let fail = |e| {
            failed(
                format!("could not create a staging file beside {}", place.shown),
                e,
            )
        };
        conn.execute("ATTACH ?1 AS staging", [file.to_string_lossy()])
            .map_err(fail)?;
        // From here on the file is gone when this process is. What cannot be removed while open
        // is removed on drop, or swept by a later run.
        let file = RemoveOnDrop(file);
        let _ = std::fs::remove_file(&file.0);
        // Nothing of it outlives the connection, so it needs no safety from crashes; only a
        // rollback of the batch at work.
        conn.execute_batch(
            "PRAGMA staging.locking_mode = EXCLUSIVE;
             PRAGMA staging.journal_mode = MEMORY;
             PRAGMA staging.synchronous = OFF;",
        )
        .map_err(fail)?;
        let mut inserts = Vec::new();
        for (kind, name) in [(BatchKind::Rows, "rows"), (BatchKind::Rejects, "rejects")] {
            let schema = schema_of(table, kind);
            let mut columns: Vec<String> = schema.columns.iter().map(definition).collect();
            let mut names: Vec<&str> = schema.columns.iter().map(|c| c.name.as_str()).collect();
            if order.is_some() && kind == BatchKind::Rows {
                columns.push(format!("{} BLOB", quoted(ORDER)));
                names.push(ORDER);
            }
            conn.execute_batch(&format!(
                "CREATE TABLE staging.{name} ({})",
                columns.join(", ")
            ))
            .map_err(fail)?;
            let places = vec!["?"; names.len()].join(", ");
            inserts.push(format!(
                "INSERT INTO staging.{name} ({}) VALUES ({places})",
                list(names)
            ));
        }
        let insert_rejects = inserts.pop().unwrap_or_default();
        let insert_rows = inserts.pop().unwrap_or_default();
        Ok(Self {
            conn,
            key,
            order,
            rows: 0,
            rejects: 0,
            insert_rows,
            insert_rejects,
            _file: file,
        })
    }

    /// Takes a batch in, in one transaction.
    pub fn add(
        &mut self,
        place: &Place,
        table: &TableSpec,
        kind: BatchKind,
        batch: &RecordBatch,
    ) -> Result<()> {
        check_shape(&table.name, &schema_of(table, kind), batch)?;
        let fail = |e| {
            failed(
                format!(
                    "could not stage {} rows for table `{}` beside {}",
                    batch.num_rows(),
                    table.name,
                    place.shown
                ),
                e,
            )
        };
        let (sql, order) = match kind {
            BatchKind::Rows => {
                check_filled(table, batch)?;
                (&self.insert_rows, self.order)
            }
            BatchKind::Rejects => (&self.insert_rejects, None),
        };
        let tx = self.conn.transaction().map_err(fail)?;
        {
            let mut statement = tx.prepare_cached(sql).map_err(fail)?;
            encode::insert(&mut statement, batch, order, &fail)?;
        }
        tx.commit().map_err(fail)?;
        match kind {
            BatchKind::Rows => self.rows += batch.num_rows() as u64,
            BatchKind::Rejects => self.rejects += batch.num_rows() as u64,
        }
        Ok(())
    }

    /// Makes rows quick to find by their key.
    pub fn index(&self, table: &TableSpec) -> rusqlite::Result<()> {
        let key = list(table.primary_key.iter().map(String::as_str));
        self.conn
            .execute_batch(&format!("CREATE INDEX staging.by_key ON rows ({key})"))
    }

    /// Finds the rows that a newer one with the same key replaces, by rowid, into
    /// `staging.losers`; gives their number.
    pub fn find_losers(&self, table: &TableSpec) -> rusqlite::Result<u64> {
        let Some(key) = &self.key else {
            return Ok(0);
        };
        let partition = list(table.primary_key.iter().map(String::as_str));
        let order = match (self.order, key.cursor) {
            (Some(_), _) => format!("{}, rowid", quoted(ORDER)),
            (None, Some(at)) => format!("{}, rowid", quoted(&table.schema.columns[at].name)),
            (None, None) => "rowid".to_owned(),
        };
        // NULLs sort first, so a row without a cursor loses to one that has it.
        self.conn.execute_batch(&format!(
            "CREATE TABLE staging.losers (id INTEGER PRIMARY KEY);
             INSERT INTO staging.losers SELECT id FROM (
               SELECT rowid AS id, lead(rowid) OVER (PARTITION BY {partition} ORDER BY {order}) AS newer
               FROM staging.rows)
             WHERE newer IS NOT NULL"
        ))?;
        self.conn
            .query_row("SELECT count(*) FROM staging.losers", [], |r| {
                r.get(0).map(i64::unsigned_abs)
            })
    }
}

/// Removes staging files that still have a name: those of a process that died in the moment between
/// creating one and removing its name, and on Windows those of dead processes. Harmless to live ones.
pub fn sweep(main: &Path) {
    let (Some(folder), Some(name)) = (main.parent(), main.file_name()) else {
        return;
    };
    let prefix = format!("{}{MARK}", name.to_string_lossy());
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

const MARK: &str = "-staging-";

fn file_name(main: &Path) -> PathBuf {
    let mut name = main.as_os_str().to_owned();
    name.push(format!("{MARK}{:016x}", rand::random::<u64>()));
    name.into()
}

struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
