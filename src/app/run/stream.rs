//! One stream of a run: its table, its checkpoint, and what became of it.

use std::sync::Arc;

use jiff::Timestamp;

use super::Run;
use crate::app::open::Call;
use crate::connector::Stream;
use crate::destination::{Disposition, Plan};
use crate::error::{ErrorKind, Result};
use crate::pipeline::contract;
use crate::pipeline::cursor::{Cursor, CursorKind};
use crate::pipeline::plan::Wish;
use crate::pipeline::report::{Outcome, Phase, StreamReport};
use crate::pipeline::slice::{SliceContext, SliceWriter};
use crate::pipeline::stream::{StreamRun, check_seam, cursor_of};
use crate::pipeline::table;
use crate::schema::TableSchema;
use crate::schema::grow::grow;
use crate::schema::landing::{Contract, column};
use crate::state::{Checkpoint, CheckpointKey, SavedCheckpoint};
use crate::telemetry::Meter;

/// Records that a schema is inferred from when a stream declares none.
const SAMPLE_RECORDS: u64 = 1_000;
/// Pages that it is inferred from, at the most.
const SAMPLE_PAGES: u64 = 5;

/// What was found out about a stream before it ended.
#[derive(Default)]
struct Found {
    cursor_before: Option<String>,
    cursor_after: Option<String>,
    plan: Option<Plan>,
}

impl Run {
    pub(super) async fn stream(&self, stream: &Stream, meter: &Arc<Meter>) -> StreamReport {
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
