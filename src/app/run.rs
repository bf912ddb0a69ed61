//! A run: every wanted stream of a source, some at a time, into the destination.

mod streams;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::App;
use super::lease::Holding;
use super::open::{Call, OpenSource};
use super::places::{self, Dry, Place};
use crate::clock::SharedClock;
use crate::connector::Stream;
use crate::destination::{Destination, Disposition, Plan};
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::contract;
use crate::pipeline::cursor::{Cursor, CursorKind};
use crate::pipeline::plan::Wish;
use crate::pipeline::report::{Observer, Outcome, Phase, RunReport, StreamReport};
use crate::pipeline::slice::{SliceContext, SliceWriter};
use crate::pipeline::stage::Budget;
use crate::pipeline::stream::{StreamRun, check_seam, cursor_of};
use crate::pipeline::table;
use crate::schema::TableSchema;
use crate::schema::grow::grow;
use crate::schema::landing::{Contract, column};
use crate::settings::BigQueryOptions;
use crate::state::{Checkpoint, CheckpointKey, SavedCheckpoint};
use crate::telemetry::Meter;

/// Streams at work at once, at the most; each holds a page and a batch.
const STREAMS_AT_ONCE: usize = 4;
/// Records that a schema is inferred from when a stream declares none.
const SAMPLE_RECORDS: u64 = 1_000;
/// Pages that it is inferred from, at the most.
const SAMPLE_PAGES: u64 = 5;

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
}

impl RunOptions {
    /// Whether they can be meant together. What a full refresh does not list is gone from the table, or
    /// marked as gone, and a bound would leave out records that are there.
    fn check(&self) -> Result<()> {
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

/// What was found out about a stream before it ended.
#[derive(Default)]
struct Found {
    cursor_before: Option<String>,
    cursor_after: Option<String>,
    plan: Option<Plan>,
}

/// What the streams of a run share.
struct Run {
    options: RunOptions,
    clock: SharedClock,
    slice_rows: u64,
    source: OpenSource,
    destination: Arc<dyn Destination>,
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
        options.check()?;
        let begun = self.clock.instant();
        let started = self.clock.now();
        let config = self.settings.source(&options.source)?;
        let place = config
            .destination
            .clone()
            .unwrap_or_else(|| places::DEFAULT.to_owned());
        let bigquery = config.bigquery.clone();
        let source = OpenSource::open(config, self).await?;
        let wanted = wanted(&source, &options.streams)?;
        let destination = self.destination(&place, &bigquery, options.dry_run)?;
        let run_id = match &options.run_id {
            Some(id) => id.clone(),
            None => Self::new_run_id(started),
        };
        // Stopped by whoever started it, or by the loss of the lease.
        let cancel = cancel.child_token();
        let lease = match options.dry_run {
            true => None,
            false => Some(
                Holding::take(
                    destination.clone(),
                    &source.name,
                    &run_id,
                    self.settings.lease,
                    &self.environment,
                    self.clock.clone(),
                    cancel.clone(),
                )
                .await
                .map_err(|e| match e.kind() {
                    ErrorKind::State => e,
                    _ => e.context(format!(
                        "could not take the lease of source `{}` in {}",
                        source.name,
                        destination.describe()
                    )),
                })?,
            ),
        };
        let run = Run {
            options: options.clone(),
            clock: self.clock.clone(),
            slice_rows: self.settings.slice_rows,
            destination,
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
        outcome.map(|report| RunReport {
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

impl Run {
    async fn stream(&self, stream: &Stream, meter: &Arc<Meter>) -> StreamReport {
        let begun = self.clock.instant();
        self.observer.set(&stream.name, meter, Phase::Reading);
        let mut found = Found::default();
        let outcome = match self.draw(stream, meter, &mut found).await {
            Ok(()) if Meter::get(&meter.rejected) > stream.table.max_rejects => {
                Outcome::TooManyRejects {
                    limit: stream.table.max_rejects,
                }
            }
            Ok(()) => Outcome::Done,
            Err(e) if e.kind() == ErrorKind::Interrupted => Outcome::Interrupted,
            Err(e) => Outcome::Failed(e),
        };
        let phase = if matches!(outcome, Outcome::Done) {
            Phase::Done
        } else {
            Phase::Failed
        };
        self.observer.set(&stream.name, meter, phase);
        let duration = self.clock.instant() - begun;
        let report = StreamReport {
            stream: stream.name.clone(),
            table: stream.table.name.clone(),
            outcome,
            pages: Meter::get(&meter.pages),
            records: Meter::get(&meter.records),
            rows: Meter::get(&meter.published),
            deduplicated: Meter::get(&meter.deduplicated),
            skipped: Meter::get(&meter.skipped),
            keeps_history: stream.table.disposition == Disposition::Scd2,
            rejected: Meter::get(&meter.rejected),
            unknown_fields: meter
                .unknown_fields
                .lock()
                .map(|f| f.iter().cloned().collect())
                .unwrap_or_default(),
            keeps_unknown: contract::keeps_unknown(contract::of(stream)),
            changes: meter.changes.lock().map(|c| c.clone()).unwrap_or_default(),
            requests: Meter::get(&meter.requests),
            retries: Meter::get(&meter.retries),
            throttled: Meter::get(&meter.throttled),
            bytes: Meter::get(&meter.bytes),
            duration,
            cursor_before: found.cursor_before,
            cursor_after: found.cursor_after,
            ended: self.clock.now(),
            slices: Meter::get(&meter.slices),
            plan: found.plan,
            jobs: Vec::new(),
            bytes_billed: 0,
            publishes_in_a_day: 0,
        };
        tracing::info!(
            run_id = self.run_id,
            source = self.source.name,
            stream = report.stream,
            pages = report.pages,
            rows = report.rows,
            rejected = report.rejected,
            requests = report.requests,
            throttled = report.throttled,
            seconds = duration.as_secs_f64(),
            cursor = report.cursor_after.as_deref().unwrap_or_default(),
            "stream {}",
            match &report.outcome {
                Outcome::Done => "done",
                Outcome::Interrupted => "interrupted",
                Outcome::Failed(_) => "failed",
                Outcome::TooManyRejects { .. } => "done with too many rejects",
            }
        );
        report
    }

    async fn draw(&self, stream: &Stream, meter: &Arc<Meter>, found: &mut Found) -> Result<()> {
        let call = Call {
            deadline: self.options.deadline.map(|d| self.clock.instant() + d),
            cancel: self.cancel.clone(),
            meter: meter.clone(),
        };
        let endpoint = self.source.endpoint(stream, &call)?;
        let parents = self.source.parents(stream, &call)?;
        // The table comes with the first record.
        let Some(columns) = self.columns(stream, &call).await? else {
            return Ok(());
        };
        let contract = contract::of(stream);
        let mut spec = table::spec(stream, columns)?;
        spec.frozen = contract == Contract::Freeze;
        table::settle(&mut spec, stream, self.options.full_refresh);
        let (column, kind) = cursor_of(stream, &spec.schema, parents.first().map(|p| &p.stream))?;
        let point = |t: Option<Timestamp>| match kind {
            Some(CursorKind::Time) => t.map(Cursor::Time),
            _ => None,
        };
        let (since, until) = (point(self.options.since), point(self.options.until));
        if kind.is_none() && (self.options.since.is_some() || self.options.until.is_some()) {
            tracing::info!(
                stream = stream.name,
                "`--since` and `--until` do not apply: the stream is not incremental"
            );
        }
        if until.is_some() && !bounded_above(stream) {
            tracing::warn!(
                stream = stream.name,
                "`--until` has no effect: the connector gives the API no upper bound (`until_param`)"
            );
        }
        let (key, saved, backfill) = self.checkpoint(stream, since.as_ref(), until.as_ref(), kind);
        let saved = match self.starts_over(stream, &spec.name).await? {
            true => None,
            false => saved,
        };
        let published = saved
            .as_ref()
            .map(|s| s.checkpoint.clone())
            .unwrap_or_default();
        found.cursor_before = published.newest();
        found.cursor_after = published.newest();
        if !self.options.full_refresh && since.is_none() {
            check_seam(stream, &published, kind)?;
        }
        if self.options.dry_run {
            found.plan = Some(self.destination.plan(&spec).await.map_err(|e| {
                e.context(format!(
                    "could not plan table `{}` in {}",
                    spec.name,
                    self.destination.describe()
                ))
            })?);
        }
        let changes = self.destination.prepare(&spec).await.map_err(|e| {
            e.context(format!(
                "could not prepare table `{}` in {}",
                spec.name,
                self.destination.describe()
            ))
        })?;
        meter.changed(changes);
        let taken_back = self.destination.take_back(&spec, &key).await?;
        for done in taken_back {
            tracing::warn!(stream = stream.name, "{done}");
        }
        let mut writer = SliceWriter::new(SliceContext {
            destination: self.destination.clone(),
            table: spec,
            run_id: self.run_id.clone(),
            key,
            version: saved.as_ref().map_or(0, |s| s.version),
            saved: published.newest(),
            clock: self.clock.clone(),
            budget: self.budget.clone(),
            meter: meter.clone(),
            contract,
            spoken: contract::spoken(stream),
            cursor: column,
            appends: stream.table.disposition == Disposition::Append,
            streams: self.streams,
        })?;
        table::reserved(stream).for_each(|column| writer.reserve(&column));
        let mut work = StreamRun {
            endpoint,
            parents,
            writer,
            checkpoint: if self.options.full_refresh {
                Checkpoint::default()
            } else {
                published.clone()
            },
            published,
            cursor: kind,
            since,
            until,
            slice_rows: self.slice_rows,
            started: self.started,
            full_refresh: self.options.full_refresh,
            hurry: self.options.hurry.clone(),
            clock: self.clock.clone(),
            backfill,
        };
        let outcome = work.run().await;
        found.cursor_after = work.published.newest();
        outcome
    }

    /// Whether the stream's table is gone, or is another than before, though checkpoints say how far it
    /// was filled: then nothing of what they speak of is in it. They are forgotten, before the table is
    /// made, and the stream is read from its start.
    async fn starts_over(&self, stream: &Stream, table: &str) -> Result<bool> {
        let backfills = format!("{} ", stream.name);
        let of_stream: Vec<_> = self
            .saved
            .iter()
            .filter(|(key, saved)| {
                (key.stream == stream.name || key.stream.starts_with(&backfills))
                    && saved.checkpoint != Checkpoint::default()
            })
            .collect();
        let knows_how_far = of_stream
            .iter()
            .any(|(_, s)| s.checkpoint.newest().is_some());
        if !knows_how_far || self.destination.existing(table).await?.is_some() {
            return Ok(false);
        }
        tracing::warn!(
            stream = stream.name,
            table,
            "table `{table}` is not there, so the stream is read from its start: its checkpoint speaks of rows that no table has"
        );
        for (key, saved) in of_stream {
            self.destination.forget(key, saved.version).await?;
        }
        Ok(true)
    }

    /// Which checkpoint a stream goes by. A backfill that does not join what was read before has one
    /// of its own, so that the stream's stays where it is.
    fn checkpoint(
        &self,
        stream: &Stream,
        since: Option<&Cursor>,
        until: Option<&Cursor>,
        kind: Option<CursorKind>,
    ) -> (CheckpointKey, Option<SavedCheckpoint>, bool) {
        let key = CheckpointKey {
            source: self.source.name.clone(),
            stream: stream.name.clone(),
        };
        let saved = self.saved.get(&key).cloned();
        let parse = |text: &String| Cursor::parse(kind?, text);
        let lowest = saved.as_ref().and_then(|s| {
            let partitions = s.checkpoint.partitions.values().filter_map(parse).min();
            s.checkpoint.cursor.as_ref().and_then(parse).or(partitions)
        });
        let wish = Wish {
            since,
            until,
            saved: lowest.as_ref(),
            ..Wish::default()
        };
        if wish.moves_cursor() {
            return (key, saved, false);
        }
        let text = |c: Option<&Cursor>| c.map(Cursor::to_string).unwrap_or_default();
        let key = CheckpointKey {
            stream: format!("{} {}/{}", stream.name, text(since), text(until)),
            ..key
        };
        let saved = self.saved.get(&key).cloned();
        (key, saved, true)
    }

    /// Columns of a stream's table: as declared, or those of the table as it is, or what a sample
    /// shows; and in an inferred table that evolves, what a sample shows beside those it has. `None`
    /// where there is neither a table nor a record.
    async fn columns(&self, stream: &Stream, call: &Call) -> Result<Option<TableSchema>> {
        let contract = contract::of(stream);
        let existing = match (&stream.schema, contract) {
            (None, _) | (_, Contract::Evolve) => {
                self.destination.existing(&stream.table.name).await?
            }
            _ => None,
        };
        let Some(columns) = contract::columns(stream, existing.as_ref()) else {
            let sample = self
                .source
                .sample(stream, call, SAMPLE_PAGES, SAMPLE_RECORDS)
                .await?;
            return Ok((sample.records() > 0)
                .then(|| contract::inferred(sample.schema(&contract::spoken(stream)), contract)));
        };
        if contract != Contract::Evolve || stream.schema.is_some() {
            return Ok(Some(columns));
        }
        let table = table::spec(stream, columns)?;
        let news = self
            .source
            .news(stream, call, &table.schema, SAMPLE_PAGES, SAMPLE_RECORDS)
            .await?;
        let rules = contract::rules(&table, &contract::spoken(stream));
        let mut columns = grow(&table.schema, &news, &rules);
        columns.columns.retain(|c| !column::is_own(&c.name));
        Ok(Some(columns))
    }
}

/// Whether a stream's requests name an upper bound.
fn bounded_above(stream: &Stream) -> bool {
    let request = &stream.request;
    let templates = request
        .params
        .iter()
        .chain(&request.headers)
        .map(|(_, t)| t);
    stream
        .incremental
        .as_ref()
        .is_some_and(|i| i.until_param.is_some())
        || templates
            .chain(&request.body)
            .chain([&request.path])
            .any(|t| t.names().iter().any(|n| n == "until"))
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
