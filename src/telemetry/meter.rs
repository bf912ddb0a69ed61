//! Counters of a stream at work: written by whoever does the work, read by whoever shows it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// What a stream has done so far. All counters only grow.
#[derive(Debug, Default)]
pub struct Meter {
    /// Requests sent, retries and token requests included.
    pub requests: AtomicU64,
    /// Requests sent again after a passing failure.
    pub retries: AtomicU64,
    /// Answers that said "too many requests".
    pub throttled: AtomicU64,
    /// Milliseconds that requests waited for the API's rate limit.
    pub waited: AtomicU64,
    /// Bytes of bodies received, decompressed.
    pub bytes: AtomicU64,
    /// Pages read.
    pub pages: AtomicU64,
    /// Records received.
    pub records: AtomicU64,
    /// Slices published.
    pub slices: AtomicU64,
    /// Rows published.
    pub published: AtomicU64,
    /// Staged rows that a newer one with the same key replaced, or that are no new version.
    pub deduplicated: AtomicU64,
    /// Records left out since they are no newer than what was read before.
    pub skipped: AtomicU64,
    /// Records kept in the rejects table.
    pub rejected: AtomicU64,
    /// Whether the stream is waiting for the API's rate limit right now.
    pub waiting: AtomicBool,
    /// Records' fields that the table has no column for, first few by name.
    pub unknown_fields: Mutex<std::collections::BTreeSet<String>>,
    /// What changed in the table, a sentence each.
    pub changes: Mutex<Vec<String>>,
}

impl Meter {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }

    /// Notes what changed in the table, and logs it.
    pub fn changed(&self, sentences: Vec<String>) {
        for sentence in &sentences {
            tracing::info!("{sentence}");
        }
        if let Ok(mut changes) = self.changes.lock() {
            changes.extend(sentences);
        }
    }

    /// Reads a counter.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Relaxed)
    }
}
