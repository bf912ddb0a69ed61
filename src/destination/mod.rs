//! Where rows land. A destination makes a slice's rows and its checkpoint visible together or not
//! at all; that contract is the same for every kind and checked by one conformance suite.
//!
//! `Ok` means durable. Whatever is staged and not published never shows in a table, and is cleared
//! away by a later run.

mod audit;
pub mod bigquery;
mod blocking;
pub mod files;
mod key;
mod leases;
mod plan;
pub mod rejects;
pub mod sqlite;

use arrow_array::RecordBatch;
use async_trait::async_trait;

use crate::error::{Error, ErrorKind, Result};
use crate::schema::TableSchema;
pub use plan::Plan;

pub use crate::schema::landing::{Absent, Disposition, PartitionUnit, Partitioning, WriteMethod};
use crate::state::{CheckpointKey, CheckpointUpdate, StateStore, lost};

/// A table as a stream wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableSpec {
    /// Table name inside the destination's dataset, database or folder.
    pub name: String,
    /// Name of the stream that the rows are of.
    pub stream: String,
    /// Shown to analysts.
    pub description: String,
    /// All columns, those of the engine (`_extracted_at`, `_run_id`) included.
    pub schema: TableSchema,
    /// How slices are published.
    pub disposition: Disposition,
    /// How rows come in.
    pub write_method: WriteMethod,
    /// What becomes of rows whose key a slice lacks, in tables that are merged into or keep history. Where a
    /// slice has rejects, any of them may be one of these rows: they are kept then.
    pub absent: Absent,
    /// Columns whose values name a row; not empty where [`Disposition::is_keyed`].
    pub primary_key: Vec<String>,
    /// The column that says how new a row is: of two staged rows with one key, the higher wins,
    /// and of two equal ones the later staged.
    pub cursor: Option<String>,
    /// Time partitioning.
    pub partition: Option<Partitioning>,
    /// Up to four top-level columns to cluster by.
    pub cluster_by: Vec<String>,
    /// A table that is there must not change: where it would have to, that is an error.
    pub frozen: bool,
}

impl TableSpec {
    /// Whether publishing a slice of so many rows and rejects removes the rows that are there. Where it
    /// has rejects alone, records were there, and nothing is known of what they would have become.
    fn is_cleared_by(&self, rows: u64, rejects: u64) -> bool {
        self.disposition == Disposition::Replace && (rows > 0 || rejects == 0)
    }
}

/// What a staged batch holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BatchKind {
    /// Rows of the table, in [`TableSpec::schema`]'s Arrow schema.
    Rows,
    /// Records that do not fit, in [`rejects::schema`]'s; they go to `<table>__rejects`, appended
    /// in the same transaction as the slice's rows, whatever the table's disposition. A slice that has
    /// nothing else leaves the table's rows as they are.
    Rejects,
}

/// What a publish did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Rows that are in the table now because of this slice, after removal of duplicate keys.
    pub rows: u64,
    /// Staged rows that a newer staged row with the same key replaced.
    pub deduplicated: u64,
    /// Staged rows that the destination itself refused; they are in the rejects table.
    pub rejected: u64,
}

/// A place where rows land, and what is known about them beside them. Repeating any call is harmless.
#[async_trait]
pub trait Destination: StateStore {
    /// What a person would call it: `sqlite:drawoff.db`, `bigquery:project.dataset`.
    fn describe(&self) -> String;

    /// Makes the table, its rejects table, and the table of checkpoints exist in the wanted shape, a
    /// table that is there by the rules of [`crate::schema::evolution`], and clears away what dead
    /// runs left staged for it. Answers with what it changed, a sentence each, for the report.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Schema`] when the table is there with a shape that cannot become
    /// the wanted one, or must not ([`TableSpec::frozen`]); and for a table that this kind of
    /// destination cannot have.
    async fn prepare(&self, table: &TableSpec) -> Result<Vec<String>>;

    /// The columns of a table as it is now, or `None` where it does not exist.
    async fn existing(&self, table: &str) -> Result<Option<TableSchema>>;

    /// What [`Self::prepare`] and a publish would do for the table as things are. Changes nothing.
    ///
    /// # Errors
    /// As [`Self::prepare`]'s.
    async fn plan(&self, table: &TableSpec) -> Result<Plan>;

    /// Takes back what dead runs have left in a prepared table of slices that were never published,
    /// where rows go straight into it ([`WriteMethod::is_direct`]); elsewhere there is nothing to do.
    /// Answers with what it did, a sentence each, for the report.
    ///
    /// # Errors
    /// Transient where such rows cannot be deleted yet: the stream must not be read again before.
    async fn take_back(&self, _table: &TableSpec, _key: &CheckpointKey) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Opens a slice of a prepared table. `slice` is unique within a run and safe in a file name.
    async fn open(&self, table: &TableSpec, run_id: &str, slice: &str) -> Result<Box<dyn Slice>>;
}

/// What a slice builds on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The checkpoint that is published with it.
    pub key: CheckpointKey,
    /// The version of that checkpoint which must be stored.
    pub version: u64,
    /// The lease that its run works under.
    pub lease: String,
}

/// A slice being staged.
#[async_trait]
pub trait Slice: Send {
    /// Is told, before the first batch, what it builds on. A slice whose rows show before it is published
    /// must know so early; others name the stream in what they leave.
    fn builds_on(&mut self, _base: &Base) {}

    /// Takes a batch in. Bounded: waits rather than buffer without limit.
    async fn stage(&mut self, kind: BatchKind, batch: RecordBatch) -> Result<()>;

    /// Makes all staged rows visible and stores the checkpoint, in one transaction.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::State`] when the stored checkpoint is not at the expected version
    /// (another run has published), or another run has taken the lease; nothing is changed
    /// then.
    async fn publish(self: Box<Self>, checkpoint: &CheckpointUpdate) -> Result<Published>;

    /// Is told that the slice does not hold all that there is after all: rows whose key it lacks are kept,
    /// whatever [`TableSpec::absent`] says.
    async fn keep_absent(&mut self) -> Result<()>;

    /// Throws the staged rows away.
    async fn abandon(self: Box<Self>) -> Result<()>;
}

/// The error of a publish by a run whose lease is another's.
pub(crate) fn lease_lost(update: &CheckpointUpdate, by: &str, place: &str) -> Error {
    lost(&update.lease, &update.run_id, Some(by), place).context(format!(
        "could not publish stream `{}` of source `{}`; nothing was changed",
        update.key.stream, update.key.source
    ))
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
