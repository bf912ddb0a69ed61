//! Checkpoints, leases and the record of runs, in tables of the database.

use std::collections::HashMap;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::failure::failed;
use super::{Place, SqliteDestination, ddl};
use crate::destination::audit::{self, Cell, LOADS, RUNS};
use crate::destination::{Published, TableSpec, blocking};
use crate::error::{Error, ErrorKind, Result};
use crate::state::{
    Acquired, Checkpoint, CheckpointKey, CheckpointUpdate, Held, Lease, RunRecord, SavedCheckpoint,
    StateStore,
};

#[async_trait]
impl StateStore for SqliteDestination {
    async fn checkpoints(&self, source: &str) -> Result<HashMap<CheckpointKey, SavedCheckpoint>> {
        let (place, source) = (self.place.clone(), source.to_owned());
        blocking::run(move || place.checkpoints(&source)).await
    }

    async fn acquire(&self, lease: &Lease) -> Result<Acquired> {
        let (place, lease) = (self.place.clone(), lease.clone());
        blocking::run(move || {
            let mut answer = None;
            place.change_lease(&lease, |stored| {
                let (acquired, held) = lease.claim(stored, Timestamp::now());
                answer = Some(acquired);
                Ok(held)
            })?;
            answer.ok_or_else(|| Error::new(ErrorKind::Bug, "a lease was not looked at"))
        })
        .await
    }

    async fn renew(&self, lease: &Lease) -> Result<()> {
        let (place, lease) = (self.place.clone(), lease.clone());
        blocking::run(move || {
            place.change_lease(&lease, |stored| {
                lease
                    .extend(stored, Timestamp::now(), &place.shown)
                    .map(Some)
            })
        })
        .await
    }

    async fn release(&self, lease: &Lease) -> Result<()> {
        let (place, lease) = (self.place.clone(), lease.clone());
        blocking::run(move || place.change_lease(&lease, |stored| Ok(lease.give_up(stored)))).await
    }

    async fn record(&self, runs: &mut [RunRecord]) -> Result<()> {
        let (place, runs) = (self.place.clone(), runs.to_vec());
        blocking::run(move || place.record(&runs)).await
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

    /// Changes a source's lease in a transaction of its own; nothing where `how` gives nothing.
    fn change_lease(
        &self,
        lease: &Lease,
        how: impl FnOnce(Option<Held>) -> Result<Option<Held>>,
    ) -> Result<()> {
        let fail = |e| {
            failed(
                format!(
                    "could not change the lease of `{}` in {}",
                    lease.source, self.shown
                ),
                e,
            )
        };
        let mut conn = self.connection();
        self.use_wal(&conn)?;
        let tx = conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(fail)?;
        ddl::own_tables(&tx).map_err(fail)?;
        let Some(held) = how(stored_lease(&tx, &lease.source).map_err(fail)?)? else {
            return Ok(());
        };
        let holder = serde_json::to_string(&held.holder).map_err(|e| {
            Error::new(ErrorKind::Bug, "could not write a lease's holder as JSON").source(e)
        })?;
        tx.execute(
            "INSERT OR REPLACE INTO main._drawoff_leases (source, run_id, acquired_at, expires_at, holder)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                lease.source,
                held.run_id,
                held.acquired_at.to_string(),
                held.expires_at.to_string(),
                holder
            ],
        )
        .map_err(fail)?;
        tx.commit().map_err(fail)
    }

    fn record(&self, runs: &[RunRecord]) -> Result<()> {
        let fail = |e| failed(format!("could not write to `{RUNS}` in {}", self.shown), e);
        let names: Vec<String> = audit::run_columns().into_iter().map(|c| c.name).collect();
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
}

/// The lease of a source as stored; `None` also for a row that nobody can read.
fn stored_lease(conn: &Connection, source: &str) -> rusqlite::Result<Option<Held>> {
    let row: Option<(String, String, String, String)> = conn
        .query_row(
            "SELECT run_id, acquired_at, expires_at, holder FROM main._drawoff_leases WHERE source = ?1",
            [source],
            |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)),
        )
        .optional()?;
    Ok(row.and_then(|(run_id, acquired_at, expires_at, holder)| {
        Some(Held {
            run_id,
            acquired_at: acquired_at.parse().ok()?,
            expires_at: expires_at.parse().ok()?,
            holder: serde_json::from_str(&holder).unwrap_or_default(),
        })
    }))
}

/// The run that holds the source's lease, when it is another than the one that publishes.
pub(super) fn other_holder(
    tx: &Transaction<'_>,
    update: &CheckpointUpdate,
) -> rusqlite::Result<Option<String>> {
    tx.query_row(
        "SELECT run_id FROM main._drawoff_leases WHERE source = ?1 AND run_id <> ?2",
        [&update.key.source, &update.run_id],
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
        Cell::Time(time) => Value::Text(time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()),
    }
}
