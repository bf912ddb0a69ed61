//! An SQLite database: `sqlite:PATH`.
//!
//! A slice stages its rows in a database of its own, a file beside the main one that has no name
//! once it is open: it goes with the process, however that ends, so nothing staged can be left
//! behind, and staging never waits for the main database's lock. Publishing is one transaction on
//! the main database, whose write-ahead log lets others read meanwhile.

mod ddl;
mod encode;
mod failure;
mod history;
mod publish;
mod staging;
mod state;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use self::failure::failed;
use super::audit::{self, LOADS};
use super::{Destination, Plan, Slice, TableSpec, blocking, rejects};
use crate::error::{Error, Result};
use crate::schema::TableSchema;

/// How long to wait for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// An SQLite database.
pub struct SqliteDestination {
    place: Arc<Place>,
}

/// Where the database is, and how to get at it.
struct Place {
    path: PathBuf,
    /// `sqlite:PATH` as the person gave it.
    shown: String,
    busy_timeout: Duration,
    /// For everything but slices, which have a connection each.
    connection: Mutex<Connection>,
    /// Slices of this process publish in turn instead of polling for SQLite's lock.
    publishing: Mutex<()>,
}

impl SqliteDestination {
    /// Opens the database file, or creates it empty.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Destination`] when it cannot be opened or is no database, [`crate::error::ErrorKind::Config`]
    /// for a path that is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::with_busy_timeout(path, BUSY_TIMEOUT)
    }

    /// [`Self::open`], waiting no longer than this for other processes that write.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn with_busy_timeout(path: impl AsRef<Path>, busy_timeout: Duration) -> Result<Self> {
        let path = path.as_ref();
        let shown = format!("sqlite:{}", path.display());
        let bad = |why: &str| {
            Err(Error::config(format!("`{shown}` names no database: {why}"))
                .hint("write `sqlite:PATH`, such as `sqlite:drawoff.db`"))
        };
        match path.to_str() {
            None => return bad("the path is not UTF-8"),
            Some("") => return bad("the path is empty"),
            Some(":memory:") => return bad("rows in memory would be gone when the run ends"),
            Some(_) => {}
        }
        // Absolute, so that SQLite never takes it for a URI.
        let path = std::path::absolute(path).map_err(|e| {
            Error::destination(format!("could not find the path of {shown}")).source(e)
        })?;
        let connection = connect(&path, &shown, busy_timeout)?;
        Ok(Self {
            place: Arc::new(Place {
                path,
                shown,
                busy_timeout,
                connection: Mutex::new(connection),
                publishing: Mutex::new(()),
            }),
        })
    }
}

impl Place {
    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere leaves no transaction behind: they roll back when dropped.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn prepare(&self, table: &TableSpec) -> Result<Vec<String>> {
        staging::sweep(&self.path);
        let mut conn = self.connection();
        self.use_wal(&conn)?;
        let fail = |e| {
            failed(
                format!("could not prepare table `{}` in {}", table.name, self.shown),
                e,
            )
        };
        let tx = conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        let changes = ddl::prepare(&tx, table, &self.shown)?;
        tx.commit().map_err(fail)?;
        Ok(changes)
    }

    /// Write-ahead logging; a property of the file once set.
    fn use_wal(&self, conn: &Connection) -> Result<()> {
        let fail = |e| {
            failed(
                format!("could not set up write-ahead logging in {}", self.shown),
                e,
            )
        };
        let mode = || conn.query_row("PRAGMA journal_mode", [], |r| r.get::<_, String>(0));
        if mode().map_err(fail)? == "wal" {
            return Ok(());
        }
        let set = || conn.query_row("PRAGMA journal_mode = WAL", [], |r| r.get::<_, String>(0));
        let begun = Instant::now();
        loop {
            let Err(e) = set() else { return Ok(()) };
            // Another process may be doing the same; this change does not wait by itself.
            if mode().is_ok_and(|mode| mode == "wal") {
                return Ok(());
            }
            let busy = e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy);
            if !busy || begun.elapsed() >= self.busy_timeout {
                return Err(fail(e));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn existing(&self, table: &str) -> Result<Option<TableSchema>> {
        ddl::existing(&self.connection(), table).map_err(|e| {
            failed(
                format!(
                    "could not read the columns of table `{table}` in {}",
                    self.shown
                ),
                e,
            )
        })
    }

    fn plan(&self, table: &TableSpec) -> Result<Plan> {
        let rejected = rejects::table_name(&table.name);
        let mut changes = Vec::new();
        for (name, wanted) in [
            (&table.name, &table.schema),
            (&rejected, &rejects::schema()),
        ] {
            let existing = self.existing(name)?;
            let frozen = table.frozen && *name == table.name;
            changes.extend(Plan::of_table(name, existing.as_ref(), wanted, frozen)?);
        }
        Ok(Plan {
            changes,
            steps: vec![
                format!("stage rows in a file beside {}", self.shown),
                format!(
                    "in one transaction: rows into `{}` ({}), rejects into `{rejected}`, the checkpoint, a row of `{LOADS}`",
                    table.name,
                    audit::disposition(table.disposition)
                ),
            ],
            ..Plan::default()
        })
    }
}

/// A connection to the main database.
fn connect(path: &Path, shown: &str, busy_timeout: Duration) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let conn = Connection::open_with_flags(path, flags)?;
        conn.busy_timeout(busy_timeout)?;
        // `Ok` means durable: flush at each commit. The log is cut back after large publishes.
        conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 67108864;")?;
        // The first look into the file, where one that is no database shows.
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(conn)
    };
    open().map_err(|e| failed(format!("could not open {shown}"), e))
}

#[async_trait]
impl Destination for SqliteDestination {
    fn describe(&self) -> String {
        self.place.shown.clone()
    }

    async fn prepare(&self, table: &TableSpec) -> Result<Vec<String>> {
        let (place, table) = (self.place.clone(), table.clone());
        blocking::run(move || place.prepare(&table)).await
    }

    async fn existing(&self, table: &str) -> Result<Option<TableSchema>> {
        let (place, table) = (self.place.clone(), table.to_owned());
        blocking::run(move || place.existing(&table)).await
    }

    async fn plan(&self, table: &TableSpec) -> Result<Plan> {
        let (place, table) = (self.place.clone(), table.clone());
        blocking::run(move || place.plan(&table)).await
    }

    async fn open(&self, table: &TableSpec, _: &str, slice: &str) -> Result<Box<dyn Slice>> {
        let (place, table, slice) = (self.place.clone(), table.clone(), slice.to_owned());
        let slice = publish::SqliteSlice::open(place, table, slice).await?;
        Ok(Box::new(slice))
    }
}
