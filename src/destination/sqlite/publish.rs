//! A slice: staged in its own database, published in one transaction of the main one.

use std::sync::{Arc, PoisonError};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};

use super::Place;
use super::ddl::{list, quoted};
use super::failure::failed;
use super::staging::Staging;
use crate::destination::{
    BatchKind, Disposition, Published, Slice, TableSpec, blocking, rejects, version_conflict,
};
use crate::error::{Error, ErrorKind, Result};
use crate::state::CheckpointUpdate;

pub struct SqliteSlice {
    place: Arc<Place>,
    table: Arc<TableSpec>,
    name: String,
    /// Away while a batch is being staged; stays away when that fails or is given up half-way, so
    /// that a slice with a gap cannot be published.
    staging: Option<Staging>,
}

impl SqliteSlice {
    pub fn open(place: Arc<Place>, table: TableSpec, name: String) -> Result<Self> {
        let staging = Staging::open(&place, &table)?;
        Ok(Self {
            place,
            table: Arc::new(table),
            name,
            staging: Some(staging),
        })
    }

    fn take(&mut self) -> Result<Staging> {
        self.staging.take().ok_or_else(|| {
            Error::new(
                ErrorKind::Bug,
                format!(
                    "slice `{}` of table `{}` was used on after a batch of it failed",
                    self.name, self.table.name
                ),
            )
        })
    }
}

#[async_trait]
impl Slice for SqliteSlice {
    async fn stage(&mut self, kind: BatchKind, batch: RecordBatch) -> Result<()> {
        let mut staging = self.take()?;
        let (place, table) = (self.place.clone(), self.table.clone());
        let staging = blocking::run(move || {
            staging.add(&place, &table, kind, &batch)?;
            Ok(staging)
        })
        .await?;
        self.staging = Some(staging);
        Ok(())
    }

    async fn publish(mut self: Box<Self>, checkpoint: &CheckpointUpdate) -> Result<Published> {
        let staging = self.take()?;
        let checkpoint = checkpoint.clone();
        blocking::run(move || publish(&self, staging, &checkpoint)).await
    }

    async fn abandon(self: Box<Self>) -> Result<()> {
        // Closing the staging database is all: its file has no name.
        Ok(())
    }
}

fn publish(
    slice: &SqliteSlice,
    mut staging: Staging,
    update: &CheckpointUpdate,
) -> Result<Published> {
    let (place, table) = (&slice.place, &slice.table);
    let fail = |e| {
        failed(
            format!(
                "could not publish slice `{}` of table `{}` in {}",
                slice.name, table.name, place.shown
            ),
            e,
        )
    };
    // Before the lock is taken: it may take a while.
    let deduplicated = staging.find_losers(table).map_err(fail)?;
    let published = Published {
        rows: staging.rows - deduplicated,
        deduplicated,
    };

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
        && stored.is_some_and(|(_, run, name)| run == update.run_id && name == slice.name)
    {
        // This very slice went through before and its answer was lost.
        return Ok(published);
    }
    if version != update.expected_version {
        return Err(version_conflict(update, version, &place.shown));
    }

    if table.disposition == Disposition::Replace {
        tx.execute(&format!("DELETE FROM main.{}", quoted(&table.name)), [])
            .map_err(fail)?;
    }
    tx.execute(
        &insert_rows(&tx, table, keyed, extra, deduplicated).map_err(fail)?,
        [],
    )
    .map_err(fail)?;
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
    store(&tx, slice, update)?;
    tx.commit().map_err(fail)?;
    Ok(published)
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
    let winners = match losers {
        0 => "true",
        _ => "rowid NOT IN staging.losers",
    };
    let conflict = match table.disposition {
        Disposition::Merge => {
            let set: Vec<String> = names
                .iter()
                .filter(|n| !table.primary_key.iter().any(|k| k.eq_ignore_ascii_case(n)))
                .map(|n| format!("{0} = excluded.{0}", quoted(n)))
                .collect();
            let key = list(table.primary_key.iter().map(String::as_str));
            match set.is_empty() {
                true => format!(" ON CONFLICT ({key}) DO NOTHING"),
                false => format!(" ON CONFLICT ({key}) DO UPDATE SET {}", set.join(", ")),
            }
        }
        Disposition::Append | Disposition::Replace => String::new(),
    };
    Ok(format!(
        "INSERT INTO main.{target} ({columns}) SELECT {columns} FROM staging.rows WHERE {winners}{conflict}"
    ))
}

fn store(tx: &Transaction<'_>, slice: &SqliteSlice, update: &CheckpointUpdate) -> Result<()> {
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
            slice.name,
        ],
    )
    .map_err(|e| {
        failed(
            format!(
                "could not store the checkpoint of `{}`/`{}` in {}",
                update.key.source, update.key.stream, slice.place.shown
            ),
            e,
        )
    })?;
    Ok(())
}
