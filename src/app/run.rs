//! A run: every wanted stream of a source, some at a time, into the destination.

mod failures;
mod parts;
mod stream;
mod streams;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::App;
use super::lease::{Holding, Leases};
use super::open::OpenSource;
use super::places::{self, Dry, Place};
use crate::clock::SharedClock;
use crate::config::{self, Environment};
use crate::connector::Stream;
use crate::destination::Destination;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::report::{Observer, RunReport};
use crate::pipeline::shard::Shard;
use crate::pipeline::stage::Budget;
use crate::settings::BigQueryOptions;
use crate::state::{CheckpointKey, SavedCheckpoint};
use crate::telemetry::span;

/// Streams at work at once, at the most; each holds a page and a batch.
const STREAMS_AT_ONCE: usize = 4;

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Source.
    pub source: String,
    /// Streams; all when empty.
    pub streams: Vec<String>,
    /// Lower bound in place of the saved cursor.
    pub since: Option<Timestamp>,
    /// Upper bound.
    pub until: Option<Timestamp>,
    /// Read everything; it becomes the whole table, so that no bound goes with it.
    pub full_refresh: bool,
    /// Read and decode, store nothing.
    pub dry_run: bool,
    /// Stop after this long.
    pub deadline: Option<Duration>,
    /// Cancelled when the process must end within seconds: what is at hand may not be published then.
    pub hurry: CancellationToken,
    /// The run's id, where it has one already; of [`App::new_run_id`].
    pub run_id: Option<String>,
    /// What the run is started for. Where a run that was started for the same has ended well, nothing is
    /// run again: its report is the answer.
    pub trigger: Option<String>,
    /// The share of this task, where several share the run.
    pub shard: Option<Shard>,
}

impl RunOptions {
    /// Whether they can be meant together. What a full refresh does not list is gone from the table, or
    /// marked as gone, and a bound would leave out records that are there.
    fn check(&self) -> Result<()> {
        if let (Some(shard), true) = (self.shard, self.dry_run) {
            return Err(Error::config(format!(
                "could not try out task {shard} of a run of source `{}`: a dry run splits nothing",
                self.source
            ))
            .hint("run `--dry-run` with one task, without `--shard`"));
        }
        let bound = match (self.since, self.until) {
            (Some(_), _) => "--since",
            (None, Some(_)) => "--until",
            (None, None) => return Ok(()),
        };
        if !self.full_refresh {
            return Ok(());
        }
        Err(Error::config(format!(
            "could not run source `{}` with both `--full-refresh` and `{bound}`: a full refresh makes what is read the whole table, and rows beyond the bound would be lost or marked as deleted",
            self.source
        ))
        .hint(format!(
            "leave `{bound}` out; or leave `--full-refresh` out to read only a span again"
        )))
    }
}

/// What the streams of a run share.
struct Run {
    options: RunOptions,
    clock: SharedClock,
    slice_rows: u64,
    source: OpenSource,
    destination: Arc<dyn Destination>,
    leases: Leases,
    execution: Option<String>,
    saved: HashMap<CheckpointKey, SavedCheckpoint>,
    run_id: String,
    started: Timestamp,
    budget: Budget,
    streams: usize,
    cancel: CancellationToken,
    observer: Arc<Observer>,
}

impl App {
    /// An id for a run that starts then. Sorts by time, and is a word in file names and SQL.
    pub fn new_run_id(started: Timestamp) -> String {
        format!(
            "{}_{:08x}",
            started.strftime("%Y%m%dT%H%M%S"),
            rand::random::<u32>()
        )
    }

    /// Runs a source. Streams fail one by one: the report says how each ended.
    ///
    /// # Errors
    /// What keeps all streams from running: options that contradict each other, settings, secrets, a
    /// destination that cannot be opened.
    pub async fn run(
        &self,
        options: &RunOptions,
        cancel: CancellationToken,
        observer: Arc<Observer>,
    ) -> Result<RunReport> {
        let started = self.clock.now();
        let run_id = match &options.run_id {
            Some(id) => id.clone(),
            None => Self::new_run_id(started),
        };
        let span = span::run(&options.source, &run_id);
        self.begin(options, run_id, started, cancel, observer)
            .instrument(span)
            .await
    }

    async fn begin(
        &self,
        options: &RunOptions,
        run_id: String,
        started: Timestamp,
        cancel: CancellationToken,
        observer: Arc<Observer>,
    ) -> Result<RunReport> {
        options.check()?;
        let begun = self.clock.instant();
        let source = self.settings.source(&options.source)?;
        let place = source
            .destination
            .clone()
            .unwrap_or_else(|| places::DEFAULT.to_owned());
        let bigquery = source.bigquery.clone();
        let source = OpenSource::open(source, self, options.shard).await?;
        let wanted = wanted(&source, &options.streams)?;
        let destination = self.destination(&place, &bigquery, options.dry_run)?;
        // Stopped by whoever started it, or by the loss of the lease.
        let cancel = cancel.child_token();
        let leases = Leases::new(
            destination.clone(),
            &run_id,
            self.settings.lease,
            &self.environment,
            self.clock.clone(),
        )
        .because_of(options.trigger.clone());
        // The tasks of a run take leases of its parts.
        let lease = match options.dry_run || options.shard.is_some() {
            true => None,
            false => Some(whole(&leases, &source.name, &*destination, cancel.clone()).await?),
        };
        // Looked for under the lease: whoever held it before has stored what it did.
        if let (Some(trigger), Some(_)) = (&options.trigger, &lease) {
            let before = repeated(trigger, &source.name, wanted.len(), &*destination).await;
            if let Some(report) = before.transpose() {
                if let Some(lease) = lease {
                    lease.end().await;
                }
                return report;
            }
        }
        let run = Run {
            options: options.clone(),
            clock: self.clock.clone(),
            slice_rows: self.settings.slice_rows,
            destination,
            leases,
            execution: execution(&self.environment),
            saved: HashMap::new(),
            run_id,
            started,
            budget: Budget::new(self.settings.memory),
            streams: wanted.len().clamp(1, STREAMS_AT_ONCE),
            cancel,
            observer,
            source,
        };
        let outcome = run.all(wanted, lease.as_ref()).await;
        if let Some(lease) = lease {
            lease.end().await;
        }
        let report = outcome?;
        failures::tell(&report);
        Ok(RunReport {
            duration: self.clock.instant() - begun,
            ..report
        })
    }

    fn destination(
        &self,
        text: &str,
        bigquery: &BigQueryOptions,
        dry: bool,
    ) -> Result<Arc<dyn Destination>> {
        let open = || Ok(Place::open(text, &self.google, bigquery)?.destination());
        if !dry {
            return open();
        }
        let inner = match Place::is_new(text) {
            true => None,
            false => Some(open()?),
        };
        Ok(Arc::new(Dry {
            inner,
            name: text.to_owned(),
        }))
    }
}

/// Takes the lease of a whole source.
async fn whole(
    leases: &Leases,
    source: &str,
    destination: &dyn Destination,
    stop: CancellationToken,
) -> Result<Holding> {
    let taken = leases.take(source, stop).await;
    taken.map_err(|e| match e.kind() {
        ErrorKind::State => e,
        _ => e.context(format!(
            "could not take the lease of source `{source}` in {}",
            destination.describe()
        )),
    })
}

/// What the run came to that was started for the same before, if there was one that has ended well.
async fn repeated(
    trigger: &str,
    source: &str,
    streams: usize,
    destination: &dyn Destination,
) -> Result<Option<RunReport>> {
    let records = destination.triggered(source, trigger).await.map_err(|e| {
        e.context(format!(
            "could not tell whether source `{source}` was run for this already"
        ))
    })?;
    Ok(RunReport::repeated(
        records,
        streams,
        &destination.describe(),
    ))
}

/// The name of the execution that this process is a task of.
fn execution(environment: &Environment) -> Option<String> {
    environment
        .get(config::CLOUD_RUN_EXECUTION)
        .or_else(|| environment.get(config::EXECUTION))
}

/// The streams that were asked for, in the connector's order.
fn wanted(source: &OpenSource, names: &[String]) -> Result<Vec<Stream>> {
    for name in names {
        source.stream(name)?;
    }
    let asked = |s: &&Stream| names.is_empty() || names.contains(&s.name);
    Ok(source
        .connector
        .streams
        .iter()
        .filter(asked)
        .cloned()
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_refresh_has_no_bounds() {
        let day: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let of = |full_refresh, since, until| RunOptions {
            source: "shop".into(),
            full_refresh,
            since,
            until,
            ..RunOptions::default()
        };
        for (since, until, named) in [
            (None, Some(day), "`--until`"),
            (Some(day), None, "`--since`"),
        ] {
            let error = of(true, since, until).check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(named), "{error}");
            assert!(error.find_hint().unwrap().contains(named));
            of(false, since, until).check().unwrap();
        }
        of(true, None, None).check().unwrap();
    }
}
