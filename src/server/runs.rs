//! The runs of this process: at work, one at a time for a source, and those that ended lately.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::app::{App, RunOptions};
use crate::clock::{Clock as _, SystemClock};
use crate::error::Error;
use crate::pipeline::report::{Observer, Phase, RunReport, Watched};
use crate::telemetry::log::{self, Whose};

/// Ended runs that can still be looked at.
const KEPT: usize = 100;

/// The runs of this process.
pub(super) struct Runs {
    app: Arc<App>,
    cancel: CancellationToken,
    tasks: TaskTracker,
    known: Mutex<VecDeque<Known>>,
}

struct Known {
    id: String,
    source: String,
    started: Timestamp,
    observer: Arc<Observer>,
    outcome: Option<Arc<Result<RunReport, Error>>>,
}

/// What came of asking for a run.
pub(super) enum Begun {
    /// It has begun.
    At {
        id: String,
        /// Becomes true when it has ended.
        end: watch::Receiver<bool>,
    },
    /// Another one of the source is at work.
    Busy { source: String, id: String },
    /// The process is about to end.
    Stopping,
}

/// A run as it is now.
pub(super) struct Seen {
    pub id: String,
    pub source: String,
    pub started: Timestamp,
    /// Its streams so far.
    pub streams: Vec<Watched>,
    /// How it ended.
    pub outcome: Option<Arc<Result<RunReport, Error>>>,
}

impl Runs {
    pub fn new(app: Arc<App>, cancel: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            app,
            cancel,
            tasks: TaskTracker::new(),
            known: Mutex::default(),
        })
    }

    fn known(&self) -> MutexGuard<'_, VecDeque<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a run, which goes on when whoever asked has gone.
    pub fn begin(self: &Arc<Self>, mut options: RunOptions) -> Begun {
        if self.cancel.is_cancelled() {
            return Begun::Stopping;
        }
        let started = SystemClock.now();
        let id = App::new_run_id(started);
        let observer = Arc::new(Observer::default());
        {
            let mut known = self.known();
            let same = |k: &&Known| k.outcome.is_none() && k.source == options.source;
            if let Some(other) = known.iter().find(same) {
                return Begun::Busy {
                    source: other.source.clone(),
                    id: other.id.clone(),
                };
            }
            let ended = known.iter().filter(|k| k.outcome.is_some()).count();
            if ended >= KEPT
                && let Some(oldest) = known.iter().position(|k| k.outcome.is_some())
            {
                known.remove(oldest);
            }
            known.push_back(Known {
                id: id.clone(),
                source: options.source.clone(),
                started,
                observer: observer.clone(),
                outcome: None,
            });
        }
        options.run_id = Some(id.clone());
        options.hurry = self.cancel.clone();
        let (done, end) = watch::channel(false);
        let (runs, run, source) = (self.clone(), id.clone(), options.source.clone());
        let inner = self.clone();
        // Lines and spans of the run are the request's.
        let work = async move {
            inner
                .app
                .run(&options, inner.cancel.clone(), observer)
                .await
        };
        let work = tokio::spawn(work.in_current_span());
        let watch = async move {
            let outcome = work.await.unwrap_or_else(|e| {
                Err(Error::new(crate::error::ErrorKind::Bug, "the run broke off").source(e))
            });
            if let Err(error) = &outcome {
                let whose = Whose {
                    source: Some(&source),
                    run_id: Some(&run),
                    stream: None,
                };
                log::failed("run", whose, error);
            }
            if let Some(known) = runs.known().iter_mut().find(|k| k.id == run) {
                known.outcome = Some(Arc::new(outcome));
            }
            let _ = done.send(true);
        };
        self.tasks.spawn(watch.in_current_span());
        Begun::At { id, end }
    }

    /// The run of that id, if it is one of this process's that is remembered.
    pub fn look(&self, id: &str) -> Option<Seen> {
        let known = self.known();
        let run = known.iter().find(|k| k.id == id)?;
        Some(Seen {
            id: run.id.clone(),
            source: run.source.clone(),
            started: run.started,
            streams: run.observer.streams(),
            outcome: run.outcome.clone(),
        })
    }

    /// Returns when no run is at work any more, and none will begin.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A phase, as a word.
pub(super) fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Queued => "queued",
        Phase::Reading => "reading",
        Phase::Publishing => "publishing",
        Phase::Done => "done",
        Phase::Failed => "failed",
    }
}
