//! What is remembered between runs. The model only: each destination stores it beside its data, and
//! moves checkpoints in the same transaction as the rows they speak of.
//!
//! | module | owns |
//! |---|---|
//! | here | checkpoints, and the trait of whatever stores them |
//! | `lease` | nothing is worked on twice at a time |
//! | `holder` | who holds a lease, and whether that process still lives |
//! | `split` | a stream that several tasks read, in parts |
//! | `audit` | what a run did, for the record |

mod audit;
mod holder;
mod lease;
mod split;

pub use audit::{OUTCOMES, RunRecord};
pub use holder::{Holder, Life};
pub use lease::{
    Acquired, DEFAULT_LENGTH, Held, HeldBy, HeldLeases, Lease, SPLITTING, WITHIN, lease_within,
    lost,
};
pub use split::{PartMark, Parts, Split};

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Where checkpoints, leases and the record of runs are kept. Repeating a call is harmless, but for
/// [`StateStore::record`], which adds its records once more.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// Every checkpoint of a source. Empty where nothing was ever published.
    async fn checkpoints(&self, source: &str) -> Result<HashMap<CheckpointKey, SavedCheckpoint>>;

    /// Forgets those checkpoints of a source that are at these versions: what they speak of is read from
    /// its start again. Another version stays; whoever builds on none then finds it when it publishes.
    async fn forget(&self, source: &str, streams: &[(String, u64)]) -> Result<()>;

    /// Takes a lease, unless another run whose time is not up, by the clock of the store, holds it or one
    /// that it excludes ([`lease_within`]). A run that has it already keeps it.
    async fn acquire(&self, lease: &Lease) -> Result<Acquired>;

    /// Holds a lease for its length from now on.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::State`] when it is no longer this run's.
    async fn renew(&self, lease: &Lease) -> Result<()>;

    /// Lets go of a lease; one that is no longer this run's stays as it is.
    async fn release(&self, lease: &Lease) -> Result<()>;

    /// Stores what a run did, a record for each stream, after filling in what only the store knows:
    /// [`RunRecord::jobs`], [`RunRecord::bytes_billed`] and [`RunRecord::publishes_in_a_day`], which
    /// it does whether or not storing succeeds.
    async fn record(&self, runs: &mut [RunRecord]) -> Result<()>;

    /// What was stored of runs of a source that this trigger started, in no order; at least those of the
    /// last week. Of a run that is at work, or was killed, there is nothing. Whoever holds the source's lease
    /// sees every run that has let go of it.
    async fn triggered(&self, source: &str, trigger: &str) -> Result<Vec<RunRecord>>;
}

/// Where a stream's extraction stands. Stored as JSON; new fields need a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Checkpoint {
    /// Highest cursor value published, in the stream's own text form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The cursor of each partition (one parent record's children), by the partition's key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub partitions: BTreeMap<String, String>,
    /// In streams that append: marks of the records at the cursor, which an API that includes its lower
    /// bound serves again, by the partition's key; the stream's own have none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub seams: BTreeMap<String, Vec<String>>,
    /// The table was merged into or replaced, so that no seam says which of the records at the cursors it
    /// has: a stream that appends cannot go on from here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub seamless: bool,
    /// A pass over many partitions or windows that has published some of its slices but not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<Pass>,
    /// How the stream is split into parts that several tasks read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// In the checkpoint of such a part: which it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<PartMark>,
}

impl Checkpoint {
    /// The cursor, as people are shown it: of many partitions, the newest.
    pub fn newest(&self) -> Option<String> {
        self.cursor
            .clone()
            .or_else(|| self.partitions.values().max().cloned())
    }
}

/// An unfinished pass: what is already published of it, and the bound it was planned with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// When the pass was planned. Slices published since then are not read again until it ends.
    pub started: Timestamp,
    /// Highest parent cursor seen so far in this pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_cursor: Option<String>,
    /// Keys of the partitions already published in this pass.
    pub done: BTreeSet<String>,
}

/// Names one stored checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckpointKey {
    /// The source's name.
    pub source: String,
    /// The stream's name.
    pub stream: String,
}

/// A checkpoint as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedCheckpoint {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Counts publishes, from 1. A publish names the version it builds on; another means that
    /// somebody else has published meanwhile.
    pub version: u64,
}

/// A checkpoint to be stored with a slice's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointUpdate {
    /// Which.
    pub key: CheckpointKey,
    /// Its new value.
    pub checkpoint: Checkpoint,
    /// The version that must be stored now (0: none) for the publish to go through; the new one is
    /// this plus one.
    pub expected_version: u64,
    /// The run that publishes.
    pub run_id: String,
    /// The lease that it works under, which must not be another's.
    pub lease: String,
    /// What it took to read the slice.
    pub facts: SliceFacts,
}

/// What it took to read a slice, for the record of its publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceFacts {
    /// Records received.
    pub records: u64,
    /// Of them, those left out because the table has them already.
    pub skipped: u64,
    /// Of them, those that do not fit the table.
    pub rejected: u64,
    /// Bytes of bodies received.
    pub bytes: u64,
    /// Requests, retries included.
    pub requests: u64,
    /// Answers that said "too many requests".
    pub throttled: u64,
    /// The saved cursor before.
    pub cursor_before: Option<String>,
    /// The saved cursor after.
    pub cursor_after: Option<String>,
}
