//! One stream of a run: its table, its checkpoint, and what became of it.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Run;
use crate::app::open::Call;
use crate::connector::Stream;
use crate::destination::{Base, Disposition, Plan, TableSpec};
use crate::error::{ErrorKind, Result};
use crate::pipeline::contract;
use crate::pipeline::cursor::{Cursor, CursorColumn, CursorKind};
use crate::pipeline::plan::Wish;
use crate::pipeline::report::{Outcome, Phase, Share, StreamReport};
use crate::pipeline::slice::{SliceContext, SliceWriter};
use crate::pipeline::split::Part;
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
pub(super) struct Found {
    pub cursor_before: Option<String>,
    pub cursor_after: Option<String>,
    plan: Option<Plan>,
}

impl Found {
    pub fn see(&mut self, place: &Place) {
        self.cursor_before = place.checkpoint.newest();
        self.cursor_after.clone_from(&self.cursor_before);
    }
}

/// What is known of a stream before it is read.
#[derive(Clone)]
pub(super) struct Ready<'a> {
    pub stream: &'a Stream,
    pub spec: TableSpec,
    pub contract: Contract,
    pub column: Option<CursorColumn>,
    pub kind: Option<CursorKind>,
    /// Not so of a cursor of a parent's without a schema, which is taken for a time.
    pub kind_is_declared: bool,
    pub since: Option<Cursor>,
    pub until: Option<Cursor>,
}

/// A checkpoint to go on from.
pub(super) struct Place {
    pub key: CheckpointKey,
    pub checkpoint: Checkpoint,
    /// As stored; 0 where it is not.
    pub version: u64,
    /// It is of a span that does not join what was read before.
    pub backfill: bool,
}

/// What work is done under: a lease, and what stops it.
pub(super) struct Lot {
    pub lease: String,
    pub stop: CancellationToken,
}

/// Whether a checkpoint is of a stream, of a backfill of it, or of a part.
pub(super) fn is_of(key: &CheckpointKey, stream: &Stream) -> bool {
    let rest = key.stream.strip_prefix(stream.name.as_str());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

impl Run {
    pub(super) async fn stream(&self, stream: &Stream, meter: &Arc<Meter>) -> StreamReport {
        let begun = self.clock.instant();
        self.observer.set(&stream.name, meter, Phase::Reading);
        let mut found = Found::default();
        let drawn = self.draw(stream, meter, &mut found).await;
        let share = *drawn.as_ref().unwrap_or(&Share::Part);
        let outcome = match drawn {
            Ok(_) if Meter::get(&meter.rejected) > stream.table.max_rejects => {
                Outcome::TooManyRejects {
                    limit: stream.table.max_rejects,
                }
            }
            Ok(_) => Outcome::Done,
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
            share,
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

    async fn draw(&self, stream: &Stream, meter: &Arc<Meter>, found: &mut Found) -> Result<Share> {
        match self.options.shard {
            Some(shard) => self.draw_share(stream, shard, meter, found).await,
            None => {
                let whole = Lot {
                    lease: self.source.name.clone(),
                    stop: self.cancel.clone(),
                };
                self.draw_all(stream, &whole, meter, found).await
            }
        }
    }

    /// All of a stream.
    pub(super) async fn draw_all(
        &self,
        stream: &Stream,
        lot: &Lot,
        meter: &Arc<Meter>,
        found: &mut Found,
    ) -> Result<Share> {
        let Some(ready) = self.ready(stream, lot, meter).await? else {
            return Ok(Share::All(None));
        };
        let now;
        let saved = match self.options.shard {
            None => &self.saved,
            // Other tasks are at work.
            Some(_) => {
                now = self.stored().await?;
                &now
            }
        };
        let starts_over = self.starts_over(stream, &ready.spec.name, saved).await?;
        let mut place = match starts_over {
            true => self.place(&ready, &HashMap::new()),
            false => self.place(&ready, saved),
        };
        found.see(&place);
        if !self.options.full_refresh && ready.since.is_none() {
            check_seam(stream, &place.checkpoint, ready.kind)?;
        }
        if self.options.dry_run {
            found.plan = Some(self.destination.plan(&ready.spec).await.map_err(|e| {
                e.context(format!(
                    "could not plan table `{}` in {}",
                    ready.spec.name,
                    self.destination.describe()
                ))
            })?);
        }
        self.prepare(&ready, meter).await?;
        let taken_back = self.destination.take_back(&ready.spec, &place.key).await?;
        for done in taken_back {
            tracing::warn!(stream = stream.name, "{done}");
        }
        if self.finishes_split(&ready, &place, lot, meter).await? {
            place = self.place(&ready, &self.stored().await?);
        } else if !self.options.dry_run && !starts_over {
            self.tidy(&place, saved).await?;
        }
        let mut work = self.work(&ready, &place, None, lot, meter)?;
        // It may be large.
        drop(place);
        let outcome = work.run().await;
        found.cursor_after = work.published.newest();
        outcome.map(|()| Share::All(None))
    }

    /// What has to be known of a stream before any of it is read; `None` where there is neither a table
    /// nor a record: the table comes with the first.
    pub(super) async fn ready<'a>(
        &self,
        stream: &'a Stream,
        lot: &Lot,
        meter: &Arc<Meter>,
    ) -> Result<Option<Ready<'a>>> {
        let call = self.call(lot, meter);
        let parents = self.source.parents(stream, &call)?;
        let Some(columns) = self.columns(stream, &call).await? else {
            return Ok(None);
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
        if until.is_some() && !stream.names_until() {
            tracing::warn!(
                stream = stream.name,
                "`--until` has no effect: the connector gives the API no upper bound (`until_param`)"
            );
        }
        Ok(Some(Ready {
            stream,
            spec,
            contract,
            column,
            kind,
            kind_is_declared: parents.first().is_none_or(|p| p.stream.schema.is_some()),
            since,
            until,
        }))
    }

    fn call(&self, lot: &Lot, meter: &Arc<Meter>) -> Call {
        Call {
            deadline: self.options.deadline.map(|d| self.clock.instant() + d),
            cancel: lot.stop.clone(),
            meter: meter.clone(),
        }
    }

    /// Brings the stream's table into shape.
    pub(super) async fn prepare(&self, ready: &Ready<'_>, meter: &Meter) -> Result<()> {
        let changes = self.destination.prepare(&ready.spec).await.map_err(|e| {
            e.context(format!(
                "could not prepare table `{}` in {}",
                ready.spec.name,
                self.destination.describe()
            ))
        })?;
        meter.changed(changes);
        Ok(())
    }

    /// The checkpoints of the source, as they are now.
    pub(super) async fn stored(&self) -> Result<HashMap<CheckpointKey, SavedCheckpoint>> {
        let stored = self.destination.checkpoints(&self.source.name).await;
        stored.map_err(|e| {
            e.context(format!(
                "could not read the checkpoints in {}",
                self.destination.describe()
            ))
        })
    }

    /// What publishes slices at a place.
    pub(super) fn writer(
        &self,
        ready: &Ready<'_>,
        place: &Place,
        lot: &Lot,
        meter: &Arc<Meter>,
    ) -> Result<SliceWriter> {
        let mut writer = SliceWriter::new(SliceContext {
            destination: self.destination.clone(),
            table: ready.spec.clone(),
            run_id: self.run_id.clone(),
            base: Base {
                key: place.key.clone(),
                version: place.version,
                lease: lot.lease.clone(),
            },
            saved: place.checkpoint.newest(),
            clock: self.clock.clone(),
            budget: self.budget.clone(),
            meter: meter.clone(),
            contract: ready.contract,
            spoken: contract::spoken(ready.stream),
            cursor: ready.column.clone(),
            appends: ready.stream.table.disposition == Disposition::Append,
            streams: self.streams,
        })?;
        table::reserved(ready.stream).for_each(|column| writer.reserve(&column));
        Ok(writer)
    }

    /// The work on a stream, or on a part of it, from a place on.
    pub(super) fn work(
        &self,
        ready: &Ready<'_>,
        place: &Place,
        part: Option<(Part, Timestamp)>,
        lot: &Lot,
        meter: &Arc<Meter>,
    ) -> Result<StreamRun> {
        let call = self.call(lot, meter);
        let writer = self.writer(ready, place, lot, meter)?;
        let published = place.checkpoint.clone();
        let (part, started) = part.unzip();
        Ok(StreamRun {
            endpoint: self.source.endpoint(ready.stream, &call)?,
            parents: self.source.parents(ready.stream, &call)?,
            writer,
            checkpoint: if self.options.full_refresh {
                Checkpoint::default()
            } else {
                Checkpoint {
                    // Else it has ended, or means nothing any more.
                    split: published
                        .split
                        .clone()
                        .filter(|s| self.options.shard.is_some() && s.is_whole()),
                    ..published.clone()
                }
            },
            published,
            cursor: ready.kind,
            since: ready.since.clone(),
            until: ready.until.clone(),
            slice_rows: self.slice_rows,
            started: started.unwrap_or(self.started),
            full_refresh: self.options.full_refresh,
            hurry: self.options.hurry.clone(),
            clock: self.clock.clone(),
            backfill: place.backfill,
            part,
        })
    }

    /// Whether the stream's table is gone, or is another than before, though checkpoints say how far it
    /// was filled: then nothing of what they speak of is in it. They are forgotten, before the table is
    /// made, and the stream is read from its start.
    pub(super) async fn starts_over(
        &self,
        stream: &Stream,
        table: &str,
        saved: &HashMap<CheckpointKey, SavedCheckpoint>,
    ) -> Result<bool> {
        let of_stream: Vec<_> = saved
            .iter()
            .filter(|(key, saved)| is_of(key, stream) && saved.checkpoint != Checkpoint::default())
            .collect();
        if of_stream.is_empty() || self.destination.existing(table).await?.is_some() {
            return Ok(false);
        }
        tracing::warn!(
            stream = stream.name,
            table,
            "table `{table}` is not there, so the stream is read from its start: its checkpoint speaks of rows that no table has"
        );
        let which: Vec<(String, u64)> = of_stream
            .into_iter()
            .map(|(key, saved)| (key.stream.clone(), saved.version))
            .collect();
        self.destination.forget(&self.source.name, &which).await?;
        Ok(true)
    }

    /// Which checkpoint a stream goes by. A backfill that does not join what was read before has one
    /// of its own, so that the stream's stays where it is.
    pub(super) fn place(
        &self,
        ready: &Ready<'_>,
        stored: &HashMap<CheckpointKey, SavedCheckpoint>,
    ) -> Place {
        let key = CheckpointKey {
            source: self.source.name.clone(),
            stream: ready.stream.name.clone(),
        };
        let at = |key: CheckpointKey, backfill| {
            let saved = stored.get(&key);
            Place {
                checkpoint: saved.map(|s| s.checkpoint.clone()).unwrap_or_default(),
                version: saved.map_or(0, |s| s.version),
                key,
                backfill,
            }
        };
        let parse = |text: &String| Cursor::parse(ready.kind?, text);
        let lowest = stored.get(&key).and_then(|s| {
            let partitions = s.checkpoint.partitions.values().filter_map(parse).min();
            s.checkpoint.cursor.as_ref().and_then(parse).or(partitions)
        });
        let wish = Wish {
            since: ready.since.as_ref(),
            until: ready.until.as_ref(),
            saved: lowest.as_ref(),
            ..Wish::default()
        };
        if wish.moves_cursor() {
            return at(key, false);
        }
        let text = |c: &Option<Cursor>| c.as_ref().map(Cursor::to_string).unwrap_or_default();
        let span = format!("{}/{}", text(&ready.since), text(&ready.until));
        let key = CheckpointKey {
            stream: format!("{} {span}", ready.stream.name),
            ..key
        };
        at(key, true)
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
