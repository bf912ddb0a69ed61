//! The runs of this process: at work, one at a time for a source, and those that ended lately.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::app::{App, RunOptions};
use crate::clock::{Clock as _, SystemClock};
use crate::error::{Error, ErrorKind};
use crate::pipeline::report::{Observer, Phase, RunReport, Watched};
use crate::state::HeldBy;
use crate::telemetry::log::{self, Whose};

/// Ended runs that can still be looked at.
const KEPT: usize = 100;

/// Waits between two looks at a run that is at work elsewhere: the first, and the longest. In BigQuery a look
/// costs two small queries.
const LOOKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// The runs of this process.
pub(super) struct Runs {
    app: Arc<App>,
    cancel: CancellationToken,
    tasks: TaskTracker,
    /// Runs at work at once, at the most.
    most: usize,
    known: Mutex<VecDeque<Known>>,
}

struct Known {
    id: String,
    source: String,
    trigger: Option<String>,
    started: Timestamp,
    observer: Arc<Observer>,
    end: watch::Receiver<bool>,
    outcome: Option<Arc<Result<RunReport, Error>>>,
}

impl Known {
    fn is_well(&self) -> bool {
        matches!(self.outcome.as_deref(), Some(Ok(report)) if report.exit_code() == 0)
    }
}

/// What came of asking for a run.
pub(super) enum Begun {
    /// It has begun, or had.
    At {
        id: String,
        /// Becomes true when it has ended.
        end: watch::Receiver<bool>,
        /// It was asked for before, and has ended well or is at work.
        again: bool,
    },
    /// Another one of the source is at work.
    Busy { source: String, id: String },
    /// As many runs are at work as may be.
    Full { most: usize },
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
    pub fn new(app: Arc<App>, most: usize, cancel: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            app,
            cancel,
            tasks: TaskTracker::new(),
            most,
            known: Mutex::default(),
        })
    }

    fn known(&self) -> MutexGuard<'_, VecDeque<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a run, which goes on when whoever asked has gone; or finds the one that was begun for the same.
    pub fn begin(self: &Arc<Self>, mut options: RunOptions) -> Begun {
        let started = SystemClock.now();
        let id = App::new_run_id(started);
        let observer = Arc::new(Observer::default());
        let (done, end) = watch::channel(false);
        let place = {
            let mut known = self.known();
            // Before the look at `cancel`: whoever cancels and then waits in `ended` waits for this one, too.
            let place = self.tasks.token();
            let same = |k: &&Known| options.trigger.is_some() && k.trigger == options.trigger;
            // One that failed may be tried again.
            let same = known.iter().rev().filter(same);
            if let Some(before) = same.clone().find(|k| k.outcome.is_none() || k.is_well()) {
                return Begun::At {
                    id: before.id.clone(),
                    end: before.end.clone(),
                    again: true,
                };
            }
            if self.cancel.is_cancelled() {
                return Begun::Stopping;
            }
            let mut at_work = known.iter().filter(|k| k.outcome.is_none());
            if let Some(other) = at_work.clone().find(|k| k.source == options.source) {
                return Begun::Busy {
                    source: other.source.clone(),
                    id: other.id.clone(),
                };
            }
            if at_work.by_ref().count() >= self.most {
                return Begun::Full { most: self.most };
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
                trigger: options.trigger.clone(),
                started,
                observer: observer.clone(),
                end: end.clone(),
                outcome: None,
            });
            place
        };
        options.run_id = Some(id.clone());
        options.hurry = self.cancel.clone();
        let (runs, run, source) = (self.clone(), id.clone(), options.source.clone());
        let inner = self.clone();
        // Lines and spans of the run are the request's.
        let work = async move { inner.work(options, observer).await };
        let work = tokio::spawn(work.in_current_span());
        let watch = async move {
            let outcome = work
                .await
                .unwrap_or_else(|e| Err(Error::new(ErrorKind::Bug, "the run broke off").source(e)));
            say(&source, &run, &outcome);
            if let Some(known) = runs.known().iter_mut().find(|k| k.id == run) {
                known.outcome = Some(Arc::new(outcome));
            }
            let _ = done.send(true);
        };
        self.tasks.spawn(watch.in_current_span());
        drop(place);
        Begun::At {
            id,
            end,
            again: false,
        }
    }

    /// Runs; where another process is at work for the same, waits until it has ended, and answers with
    /// what it came to. If it failed, this is the next try.
    async fn work(&self, options: RunOptions, observer: Arc<Observer>) -> Result<RunReport, Error> {
        let (mut pause, longest) = LOOKS;
        loop {
            let outcome = self
                .app
                .run(&options, self.cancel.clone(), observer.clone())
                .await;
            let is_same = |error: &Error| {
                options.trigger.is_some()
                    && HeldBy::of(error).is_some_and(|by| by.holder.trigger == options.trigger)
            };
            match outcome {
                Err(error) if is_same(&error) => {
                    tracing::info!(
                        source = options.source,
                        "asked for what another process is at: {}",
                        error.chain()
                    );
                    tokio::select! {
                        () = SystemClock.sleep(pause) => {}
                        () = self.cancel.cancelled() => {
                            return Err(Error::new(
                                ErrorKind::Interrupted,
                                "this process was stopped while another one is at work for the same",
                            )
                            .transient(true));
                        }
                    }
                    pause = (pause * 2).min(longest);
                }
                outcome => return outcome,
            }
        }
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

/// Logs how a run ended, where the run has not: its streams' failures it has.
fn say(source: &str, run_id: &str, outcome: &Result<RunReport, Error>) {
    match outcome {
        Err(error) => {
            let whose = Whose {
                source: Some(source),
                run_id: Some(run_id),
                stream: None,
            };
            log::failed("run", whose, error);
        }
        Ok(report) if report.repeated => tracing::info!(
            run_id,
            before = report.run_id,
            source,
            "nothing was run: run `{}` has done the same",
            report.run_id
        ),
        Ok(_) => {}
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
