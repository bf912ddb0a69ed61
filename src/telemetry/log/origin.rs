//! Where lines come from: what all lines of this process say.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use jiff::Timestamp;

use crate::config::{self, Environment};
use crate::telemetry::trace::TraceContext;

static ORIGIN: OnceLock<Origin> = OnceLock::new();
static PROJECT: OnceLock<String> = OnceLock::new();
/// Entries made so far.
static ENTRIES: AtomicU64 = AtomicU64::new(0);

/// What all lines of a process say.
#[derive(Debug)]
pub struct Origin {
    /// The Cloud Run service or job, else the program.
    pub(super) service: String,
    /// Which task of which execution this is.
    pub(super) labels: Vec<(&'static str, String)>,
    /// The trace that the process belongs to.
    pub(super) trace: Option<TraceContext>,
    /// Tells this process's entries from others', and sorts by its start.
    process: String,
}

impl Origin {
    /// Of a process with this environment.
    pub fn of(environment: &Environment) -> Self {
        let first = |names: [&str; 2]| names.iter().find_map(|name| environment.get(name));
        let labels = [
            (
                "execution",
                [config::CLOUD_RUN_EXECUTION, config::EXECUTION],
            ),
            (
                "task_index",
                [config::CLOUD_RUN_TASK_INDEX, config::JOB_COMPLETION_INDEX],
            ),
            ("attempt", [config::CLOUD_RUN_TASK_ATTEMPT; 2]),
        ];
        let trace = environment.get(config::TRACEPARENT);
        Self {
            service: first([config::K_SERVICE, config::CLOUD_RUN_JOB])
                .unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned()),
            labels: labels
                .into_iter()
                .filter_map(|(label, names)| Some((label, first(names)?)))
                .collect(),
            trace: trace.and_then(|t| TraceContext::of_traceparent(&t)),
            process: format!(
                "{:014x}{:08x}",
                Timestamp::now().as_microsecond(),
                rand::random::<u32>()
            ),
        }
    }

    /// Makes it this process's, once.
    pub(super) fn settle(self) {
        let _ = ORIGIN.set(self);
    }

    pub(super) fn here() -> &'static Self {
        ORIGIN.get_or_init(|| Self::of(&Environment::of::<String, String>([])))
    }

    /// Cloud Logging shows entries of the same time and id once, and sorts those of the same time by it.
    pub(super) fn next_id(&self) -> String {
        format!("{}-{:010x}", self.process, ENTRIES.fetch_add(1, Relaxed))
    }
}

/// The trace that the process belongs to, as `TRACEPARENT` says.
pub fn trace_of_process() -> Option<TraceContext> {
    Origin::here().trace
}

/// Says whose project traces are in; the first word counts. Before, lines leave the trace out, since
/// Cloud Logging wants it with its project.
pub fn set_project(project: &str) {
    let _ = PROJECT.set(project.to_owned());
}

/// The project that traces are in, where it is known.
pub fn project() -> Option<&'static str> {
    PROJECT.get().map(String::as_str)
}
