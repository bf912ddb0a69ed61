//! What is remembered between runs. The model only: each destination stores checkpoints beside its
//! data, and moves them in the same transaction as the rows they speak of.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
    /// A pass over many partitions or windows that has published some of its slices but not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass: Option<Pass>,
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
}
