//! What a run did, for whoever shows or stores it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;

use crate::destination::Plan;
use crate::error::{Error, worst_exit_code};
use crate::state::RunRecord;
use crate::telemetry::{Meter, redact};

/// What a run did.
#[derive(Debug)]
pub struct RunReport {
    /// Id of the run; also in each row's `_run_id`.
    pub run_id: String,
    /// Source.
    pub source: String,
    /// Destination, as it describes itself.
    pub destination: String,
    /// Nothing was stored.
    pub dry_run: bool,
    /// Nothing was run: this is what an earlier run came to that was started for the same.
    pub repeated: bool,
    /// One for each stream of the run, in the order in which they ran.
    pub streams: Vec<StreamReport>,
    /// From start to end.
    pub duration: Duration,
    /// What is wrong beside the streams, and has to be mended before the next run.
    pub problem: Option<Error>,
}

/// What a run did for one stream.
#[derive(Debug)]
pub struct StreamReport {
    /// Stream.
    pub stream: String,
    /// Its table.
    pub table: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Pages read.
    pub pages: u64,
    /// Records received.
    pub records: u64,
    /// Rows published.
    pub rows: u64,
    /// Rows that a newer one of the same slice replaced before they were published, or that are no new
    /// version where the table keeps history.
    pub deduplicated: u64,
    /// Records left out since they are no newer than what was read before.
    pub skipped: u64,
    /// Whether the table keeps history.
    pub keeps_history: bool,
    /// Records kept in the rejects table.
    pub rejected: u64,
    /// Records' fields that the table has no column for, first few by name.
    pub unknown_fields: Vec<String>,
    /// Whether those fields are kept, in the table's `_extra`.
    pub keeps_unknown: bool,
    /// What the run changed in the table, a sentence each: `added column `y` STRING to `x``.
    pub changes: Vec<String>,
    /// Requests, retries included.
    pub requests: u64,
    /// Requests sent again.
    pub retries: u64,
    /// Answers that said "too many requests".
    pub throttled: u64,
    /// Bytes of bodies received.
    pub bytes: u64,
    /// From the stream's start to its end.
    pub duration: Duration,
    /// Saved cursor when the run started.
    pub cursor_before: Option<String>,
    /// Saved cursor now.
    pub cursor_after: Option<String>,
    /// When the stream ended.
    pub ended: Timestamp,
    /// Slices published.
    pub slices: u64,
    /// In a dry run: what the destination would do.
    pub plan: Option<Plan>,
    /// Ids of the jobs that the destination ran for the stream.
    pub jobs: Vec<String>,
    /// Bytes that those are billed for.
    pub bytes_billed: u64,
    /// How often the table was published within a day, where the destination counts.
    pub publishes_in_a_day: u64,
    /// How much of the stream was this run's.
    pub share: Share,
}

/// How much of a stream is read when a run has ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// All: up to the run's start, or up to this time, when tasks began to share the work.
    All(Option<Timestamp>),
    /// Parts of it; other tasks read the rest.
    Part,
    /// None of it.
    Nothing,
}

/// Publishes a day above which somebody should know. Of BigQuery's limits of 1,500 a day and table,
/// two thirds.
const MANY_PUBLISHES: u64 = 1_000;

/// What to do about a table that is published too often.
pub const PUBLISH_LESS: &str =
    "publish larger slices (`DRAWOFF_SLICE_ROWS`), or run the source less often";

impl StreamReport {
    /// Whether the table nears BigQuery's limits.
    pub fn is_published_too_often(&self) -> bool {
        self.publishes_in_a_day > MANY_PUBLISHES
    }

    /// Whether records came and none of them fits the table, whose rows are therefore as they were.
    pub fn fits_nothing(&self) -> bool {
        let ended = matches!(self.outcome, Outcome::Done | Outcome::TooManyRejects { .. });
        ended && self.rejected > 0 && self.rows + self.deduplicated + self.skipped == 0
    }

    /// That, in words.
    pub fn published_too_often(&self) -> String {
        format!(
            "table `{}` was published {} times within 24 hours; BigQuery queues the INSERTs of a table, and refuses load and copy jobs, after 1,500 a day",
            self.table, self.publishes_in_a_day
        )
    }

    /// Whether it is recorded before the run ends: that all parts of a stream are read is said once, by a task
    /// that may be killed while it reads another.
    pub fn is_recorded_at_once(&self) -> bool {
        matches!(self.share, Share::All(Some(_)))
    }

    /// For the table of runs; nothing of streams that were left to other tasks.
    pub fn record(&self, run_id: &str, source: &str, started_at: Timestamp) -> RunRecord {
        let error = match &self.outcome {
            Outcome::Failed(error) => Some(error),
            _ => None,
        };
        RunRecord {
            run_id: run_id.to_owned(),
            source: source.to_owned(),
            stream: self.stream.clone(),
            table: self.table.clone(),
            // What is older is in the table, so says the outcome.
            started_at: match self.share {
                Share::All(Some(began)) => began.min(started_at),
                _ => started_at,
            },
            ended_at: self.ended,
            outcome: match &self.outcome {
                Outcome::Done if self.share == Share::Part => "done_in_part",
                Outcome::Done => "done",
                Outcome::Interrupted => "interrupted",
                Outcome::Failed(_) => "failed",
                Outcome::TooManyRejects { .. } => "too_many_rejects",
            },
            error_kind: error.map(|e| e.kind().word().to_owned()),
            error: error.map(|e| redact::scrub(&e.chain())),
            records: self.records,
            published: self.rows,
            rejected: self.rejected,
            deduplicated: self.deduplicated + self.skipped,
            slices: self.slices,
            pages: self.pages,
            bytes: self.bytes,
            requests: self.requests,
            retries: self.retries,
            throttled: self.throttled,
            cursor_before: self.cursor_before.clone(),
            cursor_after: self.cursor_after.clone(),
            ..RunRecord::default()
        }
    }
}

impl From<RunRecord> for StreamReport {
    /// What a run did that has ended well, as far as its record tells.
    fn from(record: RunRecord) -> Self {
        let took = record.started_at.duration_until(record.ended_at);
        Self {
            stream: record.stream,
            table: record.table,
            outcome: Outcome::Done,
            pages: record.pages,
            records: record.records,
            rows: record.published,
            deduplicated: record.deduplicated,
            skipped: 0,
            keeps_history: false,
            rejected: record.rejected,
            unknown_fields: Vec::new(),
            keeps_unknown: false,
            changes: Vec::new(),
            requests: record.requests,
            retries: record.retries,
            throttled: record.throttled,
            bytes: record.bytes,
            duration: Duration::try_from(took).unwrap_or_default(),
            cursor_before: record.cursor_before,
            cursor_after: record.cursor_after,
            ended: record.ended_at,
            slices: record.slices,
            plan: None,
            share: Share::All(None),
            jobs: record.jobs,
            bytes_billed: record.bytes_billed,
            publishes_in_a_day: 0,
        }
    }
}

/// How a stream ended.
#[derive(Debug)]
pub enum Outcome {
    /// All of it is published.
    Done,
    /// The run was asked to stop; what is published stays, and the next run goes on from there.
    Interrupted,
    /// It failed; what is published stays.
    Failed(Error),
    /// More records were rejected than the stream allows; everything is published, rejects included.
    TooManyRejects {
        /// The limit.
        limit: u64,
    },
}

/// A run at work, as somebody who watches sees it.
#[derive(Debug, Default)]
pub struct Observer {
    streams: Mutex<Vec<Watched>>,
}

/// A stream at work.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its name.
    pub stream: String,
    /// Its counters.
    pub meter: Arc<Meter>,
    /// Whether it is queued, at work or ended.
    pub phase: Phase,
}

/// Where a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not begun.
    Queued,
    /// Reading.
    Reading,
    /// Publishing a slice.
    Publishing,
    /// Ended well.
    Done,
    /// Ended otherwise.
    Failed,
}

impl Observer {
    /// Adds a stream, or moves it to another phase.
    pub fn set(&self, stream: &str, meter: &Arc<Meter>, phase: Phase) {
        if let Ok(mut streams) = self.streams.lock() {
            match streams.iter_mut().find(|w| w.stream == stream) {
                Some(watched) => watched.phase = phase,
                None => streams.push(Watched {
                    stream: stream.to_owned(),
                    meter: meter.clone(),
                    phase,
                }),
            }
        }
    }

    /// The streams as they are now.
    pub fn streams(&self) -> Vec<Watched> {
        self.streams.lock().map(|s| s.clone()).unwrap_or_default()
    }
}

impl RunReport {
    /// The report of a run that ended well, from what was stored of runs that were started for the same;
    /// `None` where none of them did. It is the last one that did so with as many streams as are wanted now.
    pub fn repeated(records: Vec<RunRecord>, wanted: usize, destination: &str) -> Option<Self> {
        let mut runs: BTreeMap<String, Vec<RunRecord>> = BTreeMap::new();
        for record in records {
            runs.entry(record.run_id.clone()).or_default().push(record);
        }
        let ended_well = |streams: &[RunRecord]| {
            streams.len() == wanted && streams.iter().all(|s| s.outcome == "done")
        };
        let (run_id, mut streams) = runs.into_iter().rev().find(|(_, s)| ended_well(s))?;
        streams.sort_by(|a, b| a.stream.cmp(&b.stream));
        let first = streams.first()?;
        let ended = streams.iter().map(|s| s.ended_at).max()?;
        Some(Self {
            run_id,
            source: first.source.clone(),
            destination: destination.to_owned(),
            dry_run: false,
            repeated: true,
            duration: Duration::try_from(first.started_at.duration_until(ended))
                .unwrap_or_default(),
            streams: streams.into_iter().map(StreamReport::from).collect(),
            problem: None,
        })
    }

    /// The exit code that the run deserves: 0 when all is published; else the worst of its streams'.
    pub fn exit_code(&self) -> u8 {
        let streams = self.streams.iter().map(|s| match &s.outcome {
            Outcome::Done => 0,
            Outcome::Interrupted => 75,
            Outcome::TooManyRejects { .. } => 1,
            Outcome::Failed(e) => e.exit_code(),
        });
        worst_exit_code(streams.chain(self.problem.iter().map(Error::exit_code)))
    }
}
