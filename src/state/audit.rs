//! What a run did, for the record: one for each of its streams.

use jiff::Timestamp;

/// How a stream's part of a run may end; `done_in_part`: other tasks read the rest.
pub const OUTCOMES: [&str; 5] = [
    "done",
    "done_in_part",
    "interrupted",
    "failed",
    "too_many_rejects",
];

/// What a run did for one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunRecord {
    /// Run.
    pub run_id: String,
    /// Source.
    pub source: String,
    /// Stream.
    pub stream: String,
    /// Its table.
    pub table: String,
    /// What the run was started for: one firing of a schedule, one event, one message. A repeat of it has
    /// the same.
    pub trigger: Option<String>,
    /// When the run started; of a stream that tasks have read to its end together, when it was split.
    pub started_at: Timestamp,
    /// When the stream ended.
    pub ended_at: Timestamp,
    /// One of [`OUTCOMES`].
    pub outcome: &'static str,
    /// Who must act: the error's kind as one word.
    pub error_kind: Option<String>,
    /// The error and its causes.
    pub error: Option<String>,
    /// Records received.
    pub records: u64,
    /// Rows published.
    pub published: u64,
    /// Records kept in the rejects table.
    pub rejected: u64,
    /// Records and rows that were left out for a newer one with the same key, as no new version, or as no
    /// newer than those read before.
    pub deduplicated: u64,
    /// Slices published.
    pub slices: u64,
    /// Pages read.
    pub pages: u64,
    /// Bytes of bodies received.
    pub bytes: u64,
    /// Requests, retries included.
    pub requests: u64,
    /// Requests sent again.
    pub retries: u64,
    /// Answers that said "too many requests".
    pub throttled: u64,
    /// Saved cursor when the run started.
    pub cursor_before: Option<String>,
    /// Saved cursor when it ended.
    pub cursor_after: Option<String>,
    /// Jobs that the store ran for the stream, by id. The store knows.
    pub jobs: Vec<String>,
    /// Bytes that those jobs are billed for. The store knows.
    pub bytes_billed: u64,
    /// How often the table was published in the day before the last publish, that one included; 0
    /// where the store does not count or care. The store knows.
    pub publishes_in_a_day: u64,
}
