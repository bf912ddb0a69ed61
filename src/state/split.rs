//! A stream that several tasks read, in parts: each part has a lease and a checkpoint of its own, and the
//! stream's checkpoint says how it was split, so that all tasks, also those that start late or again, mean
//! the same parts.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How a stream is split. Stored in the stream's checkpoint as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Tells it from others: the run that made it.
    pub id: String,
    /// When it was made. Nothing newer counts as read.
    pub started: Timestamp,
    /// Its parts.
    pub parts: Parts,
    /// `--since`, in the cursor's text form, when it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// `--until`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// The execution whose tasks made it, where it has a name: a task of it that comes when all is read
    /// finds nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<String>,
    /// All parts are read, and the stream's cursor has moved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
}

impl Split {
    /// Whether one task has been left to read all of the stream, and has not got to the end.
    pub fn is_whole(&self) -> bool {
        !self.ended && self.parts == Parts::Whole
    }
}

/// The parts of a split stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Parts {
    /// Spans of the cursor's time.
    Spans {
        /// Lower bound of the first.
        since: Timestamp,
        /// Upper bound of the last.
        until: Timestamp,
        /// Length of each but the last, in milliseconds.
        length_ms: u64,
        /// They are windows of the connector's: one that is read is done, whether or not anything was there.
        #[serde(default)]
        windows: bool,
    },
    /// The partitions of a child stream, by a hash of their keys.
    Partitions {
        /// How many parts.
        count: u32,
    },
    /// None: it cannot be split for now, so one task reads all of it, also when it is started again and could.
    Whole,
}

/// In the checkpoint of a part: which it is of, and whether it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartMark {
    /// [`Split::id`]; a checkpoint of another split says nothing.
    pub split: String,
    /// All of it is published.
    pub read: bool,
}
