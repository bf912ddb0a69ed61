//! A slice: staged in its own database, published in one transaction of the main one.

use std::sync::{Arc, PoisonError};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};

use super::Place;
use super::ddl::{list, quoted};
use super::failure::failed;
use super::history;
use super::staging::Staging;
use super::state::{note_load, other_holder};
use crate::destination::blocking::Worker;
use crate::destination::{
    Absent, BatchKind, Disposition, Published, Slice, TableSpec, lease_lost, rejects,
    version_conflict,
};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::landing::column::is_of_last_write;
use crate::state::CheckpointUpdate;

pub struct SqliteSlice(Worker<Work>);

/// A slice at work.
struct Work {
    place: Arc<Place>,
    table: TableSpec,
    name: String,
    staging: Staging,
}

impl SqliteSlice {
    pub async fn open(place: Arc<Place>, table: TableSpec, name: String) -> Result<Self> {
        let work = move || {
            Ok(Work {
                staging: Staging::open(&place, &table)?,
                place,
                table,
                name,
            })
        };
        Worker::start(work).await.map(Self)
    }
}

#[async_trait]
impl Slice for SqliteSlice {
    async fn stage(&mut self, kind: BatchKind, batch: RecordBatch) -> Result<()> {
        self.0
            .run(move |work| work.staging.add(&work.place, &work.table, kind, &batch))
            .await
    }

    async fn publish(self: Box<Self>, checkpoint: &CheckpointUpdate) -> Result<Published> {
        let checkpoint = checkpoint.clone();
        self.0.finish(move |work| publish(work, &checkpoint)).await
    }

    async fn keep_absent(&mut self) -> Result<()> {
        self.0
            .run(|work| {
                work.table.absent = Absent::Keep;
                Ok(())
            })
            .await
    }

    async fn abandon(self: Box<Self>) -> Result<()> {
        // Closing the staging database is all: its file has no name.
        self.0.stop().await;
        Ok(())
    }
}

fn publish(mut work: Work, update: &CheckpointUpdate) -> Result<Published> {
    let (place, table, name, staging) = (&work.place, &work.table, &work.name, &mut work.staging);
    let fail = |e| {
        failed(
            format!(
                "could not publish slice `{}` of table `{}` in {}",
                name, table.name, place.shown
            ),
            e,
        )
    };
    // Before the lock is taken: it may take a while.
    let deduplicated = staging.find_losers(table).map_err(fail)?;
    let staged = staging.rows;
    let counted = |rows: u64| Published {
        rows,
        deduplicated: staged - rows,
        ..Published::default()
    };
    let closes =
        table.absent == Absent::Close && table.disposition.is_keyed() && staging.rejects == 0;
    if closes || table.disposition == Disposition::Scd2 {
        staging.index(table).map_err(fail)?;
    }
    if table.disposition == Disposition::Scd2 {
        history::date(&staging.conn).map_err(fail)?;
    }

    let _turn = place
        .publishing
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let keyed = staging.key.is_some();
    let extra = staging.order.is_some();
    let tx = staging
        .conn
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(fail)?;
    let stored: Option<(u64, String, String)> = tx
        .query_row(
            "SELECT version, run_id, slice FROM main._drawoff_checkpoints WHERE source = ?1 AND stream = ?2",
            params![update.key.source, update.key.stream],
            |r| Ok((r.get(0).map(i64::unsigned_abs)?, r.get(1)?, r.get(2)?)),
        )
        .optional()
        .map_err(fail)?;
    let version = stored.as_ref().map_or(0, |(version, ..)| *version);
    if version == update.expected_version + 1
        && stored.is_some_and(|(_, run, slice)| run == update.run_id && slice == *name)
    {
        // This very slice went through before and its answer was lost.
        let rows = match table.disposition {
            Disposition::Scd2 => history::published(&tx, table, deduplicated).map_err(fail)?,
            _ => staged - deduplicated,
        };
        return Ok(counted(rows));
    }
    if version != update.expected_version {
        return Err(version_conflict(update, version, &place.shown));
    }

    if let Some(by) = other_holder(&tx, update).map_err(fail)? {
        return Err(lease_lost(update, &by, &place.shown));
    }

    if table.is_cleared_by(staged, staging.rejects) {
        tx.execute(&format!("DELETE FROM main.{}", quoted(&table.name)), [])
            .map_err(fail)?;
    }
    let published = match table.disposition {
        Disposition::Scd2 => counted(history::publish(&tx, table, deduplicated).map_err(fail)?),
        _ => {
            let insert = insert_rows(&tx, table, keyed, extra, deduplicated).map_err(fail)?;
            tx.execute(&insert, []).map_err(fail)?;
            counted(staged - deduplicated)
        }
    };
    if closes {
        history::close_unlisted(&tx, table).map_err(fail)?;
    }
    let columns = rejects::schema().columns;
    let columns = list(columns.iter().map(|c| c.name.as_str()));
    tx.execute(
        &format!(
            "INSERT INTO main.{} ({columns}) SELECT {columns} FROM staging.rejects",
            quoted(&rejects::table_name(&table.name))
        ),
        [],
    )
    .map_err(fail)?;
    store(&tx, place, name, update)?;
    note_load(&tx, table, name, update, published).map_err(fail)?;
    tx.commit().map_err(fail)?;
    Ok(published)
}

/// The condition on staged rows that no newer one replaces them.
pub(super) fn winners(losers: u64) -> &'static str {
    match losers {
        0 => "true",
        _ => "new.rowid NOT IN staging.losers",
    }
}

/// The statement that moves the staged rows.
fn insert_rows(
    tx: &Transaction<'_>,
    table: &TableSpec,
    keyed: bool,
    extra: bool,
    losers: u64,
) -> rusqlite::Result<String> {
    let names: Vec<&str> = table
        .schema
        .columns
        .iter()
        .map(|c| c.name.as_str())
        .collect();
    let target = quoted(&table.name);
    let there: Vec<String> = tx
        .prepare("SELECT name FROM pragma_table_info(?1, 'main') ORDER BY cid")?
        .query_map([&table.name], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let same = there.len() == names.len() && there.iter().zip(&names).all(|(a, b)| a == b);
    if !keyed && !extra && same {
        // In this very form SQLite copies rows without taking them apart.
        return Ok(format!(
            "INSERT INTO main.{target} SELECT * FROM staging.rows"
        ));
    }
    let columns = list(names.iter().copied());
    let winners = winners(losers);
    let conflict = match table.disposition {
        Disposition::Merge => {
            let unspoken = there
                .iter()
                .filter(|n| is_of_last_write(n) && table.schema.column(n).is_none())
                .map(|n| format!("{} = NULL", quoted(n)));
            let set: Vec<String> = names
                .iter()
                .filter(|n| !table.primary_key.iter().any(|k| k.eq_ignore_ascii_case(n)))
                .map(|n| format!("{0} = excluded.{0}", quoted(n)))
                .chain(unspoken)
                .collect();
            let key = list(table.primary_key.iter().map(String::as_str));
            match set.is_empty() {
                true => format!(" ON CONFLICT ({key}) DO NOTHING"),
                false => format!(" ON CONFLICT ({key}) DO UPDATE SET {}", set.join(", ")),
            }
        }
        Disposition::Append | Disposition::Replace | Disposition::Scd2 => String::new(),
    };
    Ok(format!(
        "INSERT INTO main.{target} ({columns}) SELECT {columns} FROM staging.rows AS new WHERE {winners}{conflict}"
    ))
}

fn store(
    tx: &Transaction<'_>,
    place: &Place,
    slice: &str,
    update: &CheckpointUpdate,
) -> Result<()> {
    let json = serde_json::to_string(&update.checkpoint).map_err(|e| {
        Error::new(ErrorKind::Bug, "could not write a checkpoint as JSON").source(e)
    })?;
    tx.execute(
        "INSERT INTO main._drawoff_checkpoints (source, stream, version, checkpoint, run_id, slice, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
         ON CONFLICT (source, stream) DO UPDATE SET version = excluded.version,
           checkpoint = excluded.checkpoint, run_id = excluded.run_id, slice = excluded.slice,
           updated_at = excluded.updated_at",
        params![
            update.key.source,
            update.key.stream,
            // A count of publishes stays far below 2^63.
            (update.expected_version + 1) as i64,
            json,
            update.run_id,
            slice,
        ],
    )
    .map_err(|e| {
        failed(
            format!(
                "could not store the checkpoint of `{}`/`{}` in {}",
                update.key.source, update.key.stream, place.shown
            ),
            e,
        )
    })?;
    Ok(())
}
