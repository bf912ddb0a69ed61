//! Checkpoints, leases and the record of runs, in tables of the database.

use std::collections::HashMap;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::failure::failed;
use super::{Place, SqliteDestination, ddl};
use crate::destination::audit::{self, Cell, LOADS, RUNS};
use crate::destination::leases::{self, LeaseKeeper};
use crate::destination::{Published, TableSpec, blocking};
use crate::error::{Error, ErrorKind, Result};
use crate::state::{
    Acquired, Checkpoint, CheckpointKey, CheckpointUpdate, Held, HeldLeases, Lease, RunRecord,
    SavedCheckpoint, StateStore,
};

#[async_trait]
impl StateStore for SqliteDestination {
    async fn checkpoints(&self, source: &str) -> Result<HashMap<CheckpointKey, SavedCheckpoint>> {
        let (place, source) = (self.place.clone(), source.to_owned());
        blocking::run(move || place.checkpoints(&source)).await
    }

    async fn forget(&self, source: &str, streams: &[(String, u64)]) -> Result<()> {
        let (place, source, streams) = (self.place.clone(), source.to_owned(), streams.to_vec());
        blocking::run(move || place.forget(&source, &streams)).await
    }

    async fn acquire(&self, lease: &Lease) -> Result<Acquired> {
        leases::acquire(&self.place, lease).await
    }

    async fn renew(&self, lease: &Lease) -> Result<()> {
        leases::renew(&self.place, lease).await
    }

    async fn release(&self, lease: &Lease) -> Result<()> {
        leases::release(&self.place, lease).await
    }

    async fn record(&self, runs: &mut [RunRecord]) -> Result<()> {
        let (place, runs) = (self.place.clone(), runs.to_vec());
        blocking::run(move || place.record(&runs)).await
    }

    async fn triggered(&self, source: &str, trigger: &str) -> Result<Vec<RunRecord>> {
        let place = self.place.clone();
        let (source, trigger) = (source.to_owned(), trigger.to_owned());
        blocking::run(move || place.triggered(&source, &trigger)).await
    }
}

impl Place {
    fn checkpoints(&self, source: &str) -> Result<HashMap<CheckpointKey, SavedCheckpoint>> {
        let fail = |e| {
            failed(
                format!(
                    "could not read the checkpoints of `{source}` in {}",
                    self.shown
                ),
                e,
            )
        };
        let conn = self.connection();
        if !ddl::has_table(&conn, "_drawoff_checkpoints").map_err(fail)? {
            return Ok(HashMap::new());
        }
        let rows: Vec<(String, u64, String)> = conn
            .prepare(
                "SELECT stream, version, checkpoint FROM _drawoff_checkpoints WHERE source = ?1",
            )
            .and_then(|mut s| {
                s.query_map([source], |r| {
                    Ok((r.get(0)?, r.get(1).map(i64::unsigned_abs)?, r.get(2)?))
                })?
                .collect()
            })
            .map_err(fail)?;
        rows.into_iter()
            .map(|(stream, version, json)| {
                let checkpoint: Checkpoint = serde_json::from_str(&json).map_err(|e| {
                    Error::new(
                        ErrorKind::State,
                        format!(
                            "could not read the checkpoint of `{source}`/`{stream}` in {}",
                            self.shown
                        ),
                    )
                    .hint("a newer drawoff may have written it: use that one")
                    .source(e)
                })?;
                let key = CheckpointKey {
                    source: source.to_owned(),
                    stream,
                };
                Ok((
                    key,
                    SavedCheckpoint {
                        checkpoint,
                        version,
                    },
                ))
            })
            .collect()
    }

    fn forget(&self, source: &str, streams: &[(String, u64)]) -> Result<()> {
        let fail = |e| {
            failed(
                format!(
                    "could not forget checkpoints of `{source}` in {}",
                    self.shown
                ),
                e,
            )
        };
        let mut conn = self.connection();
        let tx = conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        for (stream, version) in streams {
            tx.execute(
                "DELETE FROM _drawoff_checkpoints WHERE source = ?1 AND stream = ?2 AND version = ?3",
                params![source, stream, version.cast_signed()],
            )
            .map_err(fail)?;
        }
        tx.commit().map_err(fail)
    }

    fn record(&self, runs: &[RunRecord]) -> Result<()> {
        let fail = |e| failed(format!("could not write to `{RUNS}` in {}", self.shown), e);
        let names = audit::run_column_names();
        let sql = insert(RUNS, names.iter().map(String::as_str));
        let mut conn = self.connection();
        let tx = conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        ddl::own_tables(&tx).map_err(fail)?;
        for run in runs {
            let cells = audit::run_cells(run).into_iter().map(value);
            tx.execute(&sql, rusqlite::params_from_iter(cells))
                .map_err(fail)?;
        }
        tx.commit().map_err(fail)
    }

    fn triggered(&self, source: &str, trigger: &str) -> Result<Vec<RunRecord>> {
        let names = audit::run_column_names();
        let sql = format!(
            "SELECT {} FROM main.{RUNS} WHERE source = ?1 AND trigger_id = ?2",
            ddl::list(names.iter().map(String::as_str))
        );
        let read = || {
            let mut conn = self.connection();
            // Makes the table, or the column, where there is none yet.
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            ddl::own_tables(&tx)?;
            let rows: Vec<HashMap<&str, Value>> = tx
                .prepare(&sql)?
                .query_map([source, trigger], |row| {
                    let cells = names.iter().enumerate();
                    cells
                        .map(|(i, name)| Ok((name.as_str(), row.get(i)?)))
                        .collect()
                })?
                .collect::<rusqlite::Result<_>>()?;
            tx.commit()?;
            Ok(rows)
        };
        let rows = read().map_err(|e| {
            failed(
                format!(
                    "could not look for runs of `{source}` in `{RUNS}` in {}",
                    self.shown
                ),
                e,
            )
        })?;
        let text = |cell: Option<&Value>| match cell? {
            Value::Text(text) => Some(text.clone()),
            Value::Integer(number) => Some(number.to_string()),
            _ => None,
        };
        Ok(rows
            .iter()
            .filter_map(|row| audit::run_of(|name| text(row.get(name))))
            .collect())
    }
}

impl LeaseKeeper for Place {
    fn shown(&self) -> &str {
        &self.shown
    }

    /// In a transaction of its own.
    fn change_lease<T>(
        &self,
        name: &str,
        how: impl FnOnce(&HeldLeases) -> Result<(T, HeldLeases)>,
    ) -> Result<T> {
        let fail = |e| {
            failed(
                format!("could not change the lease of `{name}` in {}", self.shown),
                e,
            )
        };
        let mut conn = self.connection();
        self.use_wal(&conn)?;
        let tx = conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        ddl::own_tables(&tx).map_err(fail)?;
        let (answer, changed) = how(&stored_leases(&tx).map_err(fail)?)?;
        for (name, held) in changed {
            let holder = serde_json::to_string(&held.holder).map_err(|e| {
                Error::new(ErrorKind::Bug, "could not write a lease's holder as JSON").source(e)
            })?;
            tx.execute(
                "INSERT OR REPLACE INTO main._drawoff_leases (source, run_id, acquired_at, expires_at, holder)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    name,
                    held.run_id,
                    held.acquired_at.to_string(),
                    held.expires_at.to_string(),
                    holder
                ],
            )
            .map_err(fail)?;
        }
        tx.commit().map_err(fail)?;
        Ok(answer)
    }
}

/// The leases as stored, by name, without rows that nobody can read.
fn stored_leases(conn: &Connection) -> rusqlite::Result<HeldLeases> {
    let mut rows = conn.prepare(
        "SELECT source, run_id, acquired_at, expires_at, holder FROM main._drawoff_leases",
    )?;
    let rows = rows.query_map([], |r| {
        let (acquired_at, expires_at, holder): (String, String, String) =
            (r.get(2)?, r.get(3)?, r.get(4)?);
        let run_id: String = r.get(1)?;
        let held = acquired_at.parse().ok().zip(expires_at.parse().ok()).map(
            |(acquired_at, expires_at)| Held {
                run_id,
                acquired_at,
                expires_at,
                holder: serde_json::from_str(&holder).unwrap_or_default(),
            },
        );
        Ok(r.get(0).ok().zip(held))
    })?;
    rows.filter_map(Result::transpose).collect()
}

/// The run that holds the lease, when it is another than the one that publishes.
pub(super) fn other_holder(
    tx: &Transaction<'_>,
    update: &CheckpointUpdate,
) -> rusqlite::Result<Option<String>> {
    tx.query_row(
        "SELECT run_id FROM main._drawoff_leases WHERE source = ?1 AND run_id <> ?2",
        [&update.lease, &update.run_id],
        |r| r.get(0),
    )
    .optional()
}

/// Notes a slice as published.
pub(super) fn note_load(
    tx: &Transaction<'_>,
    table: &TableSpec,
    slice: &str,
    update: &CheckpointUpdate,
    published: Published,
) -> rusqlite::Result<()> {
    let mut cells = audit::load_cells(table, slice, update);
    cells.extend([
        (
            "staged",
            (published.rows + published.deduplicated + published.rejected).into(),
        ),
        ("published", published.rows.into()),
        (
            "rejected",
            (update.facts.rejected + published.rejected).into(),
        ),
        ("deduplicated", published.deduplicated.into()),
        ("published_at", Cell::Time(Timestamp::now())),
    ]);
    let sql = insert(LOADS, cells.iter().map(|(name, _)| *name));
    let cells = cells.into_iter().map(|(_, cell)| value(cell));
    tx.execute(&sql, rusqlite::params_from_iter(cells))?;
    Ok(())
}

fn insert<'a>(table: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    let places = vec!["?"; names.clone().count()].join(", ");
    format!(
        "INSERT INTO main.{table} ({}) VALUES ({places})",
        ddl::list(names)
    )
}

fn value(cell: Cell) -> Value {
    match cell {
        Cell::Text(text) => text.map_or(Value::Null, Value::Text),
        // Counts stay far below 2^63.
        Cell::Count(count) => Value::Integer(count as i64),
        Cell::Time(time) => Value::Text(audit::time_text(time)),
    }
}
