//! Where rows land. A destination makes a slice's rows and its checkpoint visible together or not
//! at all; that contract is the same for every kind and checked by one conformance suite.
//!
//! `Ok` means durable. Whatever is staged and not published never shows in a table, and is cleared
//! away by a later run.

pub mod bigquery;
mod blocking;
pub mod files;
mod key;
pub mod rejects;
pub mod sqlite;

use std::collections::HashMap;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::schema::TableSchema;
use crate::state::{CheckpointKey, CheckpointUpdate, SavedCheckpoint};

/// What publishing a slice does to the rows already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// Adds the rows.
    Append,
    /// Replaces the rows with the same primary key, adds the others.
    Merge,
    /// The slice's rows become the whole table.
    Replace,
}

/// A table as a stream wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// Table name inside the destination's dataset, database or folder.
    pub name: String,
    /// Shown to analysts.
    pub description: String,
    /// All columns, those of the engine (`_extracted_at`, `_run_id`) included.
    pub schema: TableSchema,
    /// How slices are published.
    pub disposition: Disposition,
    /// Columns whose values name a row; not empty for [`Disposition::Merge`].
    pub primary_key: Vec<String>,
    /// The column that says how new a row is: of two staged rows with one key, the higher wins,
    /// and of two equal ones the later staged.
    pub cursor: Option<String>,
    /// Top-level DATE, DATETIME or TIMESTAMP column to partition by, per day.
    pub partition_by: Option<String>,
    /// Up to four top-level columns to cluster by.
    pub cluster_by: Vec<String>,
}

/// What a staged batch holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BatchKind {
    /// Rows of the table, in [`TableSpec::schema`]'s Arrow schema.
    Rows,
    /// Records that do not fit, in [`rejects::schema`]'s; they go to `<table>__rejects`, appended
    /// in the same transaction as the slice's rows, whatever the table's disposition.
    Rejects,
}

/// What a publish did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Rows that are in the table now because of this slice, after removal of duplicate keys.
    pub rows: u64,
    /// Staged rows that a newer staged row with the same key replaced.
    pub deduplicated: u64,
}

/// A place where rows land. Repeating any call is harmless.
#[async_trait]
pub trait Destination: Send + Sync {
    /// What a person would call it: `sqlite:drawoff.db`, `bigquery:project.dataset`.
    fn describe(&self) -> String;

    /// Makes the table, its rejects table, and the table of checkpoints exist in the wanted shape,
    /// adding nullable columns where the table lacks them, and clears away what dead runs left
    /// staged for it.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Schema`] when the table is there with a shape that cannot become
    /// the wanted one by adding columns.
    async fn prepare(&self, table: &TableSpec) -> Result<()>;

    /// The columns of a table as it is now, or `None` where it does not exist.
    async fn existing(&self, table: &str) -> Result<Option<TableSchema>>;

    /// Every checkpoint of a source. Empty where nothing was ever published.
    async fn checkpoints(&self, source: &str) -> Result<HashMap<CheckpointKey, SavedCheckpoint>>;

    /// Opens a slice of a prepared table. `slice` is unique within a run and safe in a file name.
    async fn open(&self, table: &TableSpec, run_id: &str, slice: &str) -> Result<Box<dyn Slice>>;
}

/// A slice being staged.
#[async_trait]
pub trait Slice: Send {
    /// Takes a batch in. Bounded: waits rather than buffer without limit.
    async fn stage(&mut self, kind: BatchKind, batch: RecordBatch) -> Result<()>;

    /// Makes all staged rows visible and stores the checkpoint, in one transaction.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::State`] when the stored checkpoint is not at the expected version
    /// (another run has published); nothing is changed then.
    async fn publish(self: Box<Self>, checkpoint: &CheckpointUpdate) -> Result<Published>;

    /// Throws the staged rows away.
    async fn abandon(self: Box<Self>) -> Result<()>;
}

/// The error of a publish that builds on another version than the stored one.
pub(crate) fn version_conflict(update: &CheckpointUpdate, stored: u64, place: &str) -> Error {
    Error::new(
        ErrorKind::State,
        format!(
            "could not publish stream `{}` of source `{}` in {place}: its checkpoint is at version {stored}, and this run builds on version {}",
            update.key.stream, update.key.source, update.expected_version
        ),
    )
    .transient(true)
    .hint("another run has published meanwhile: run again to go on from there, and keep runs of one source from overlapping")
}
