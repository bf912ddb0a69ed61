//! A stream's share of one task, where several share a run: what it is, under which leases it is read, and
//! who says when all of it is read.
//!
//! The first task that comes splits the stream and stores in its checkpoint how ([`Split`]), so that all mean
//! the same parts, whenever they start. Each part is read under a lease of its own, into a checkpoint of its own.
//! Whoever finds that all parts are read joins their checkpoints into the stream's. A stream that cannot be
//! split is read whole by one task.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Run;
use super::stream::{Found, Lot, Place, Ready};
use crate::app::lease::Holding;
use crate::connector::Stream;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::cursor::Cursor;
use crate::pipeline::report::Share;
use crate::pipeline::shard::Shard;
use crate::pipeline::split::{Part, Way};
use crate::state::{Checkpoint, CheckpointKey, Parts, SavedCheckpoint, Split, lease_within};
use crate::telemetry::Meter;

/// Beyond the time that a dead task's lease holds, how long one waits for it, or until another task has split
/// or joined a stream.
const PATIENCE: Duration = Duration::from_secs(60);

/// In the name of the lease under which a stream is split, and its parts are joined.
const SPLITTING: &str = "split";

/// Checkpoints as stored.
pub(super) type Stored = HashMap<CheckpointKey, SavedCheckpoint>;

/// What a task finds to do for a stream.
enum Work {
    /// The stream cannot be split.
    Whole,
    /// Parts of it.
    Parts(Box<(Place, Split)>),
    /// All of it is read.
    Nothing,
}

impl Run {
    /// This task's share of a stream.
    pub(super) async fn draw_share(
        &self,
        stream: &Stream,
        shard: Shard,
        meter: &Arc<Meter>,
        found: &mut Found,
    ) -> Result<Share> {
        let whole = lease_within(&self.source.name, &stream.name);
        if Way::of(stream).is_none() || self.options.full_refresh {
            let lot = self.lot(whole);
            return self
                .draw_alone(stream, None, shard, &lot, meter, found)
                .await;
        }
        let lot = self.lot(lease_within(&whole, SPLITTING));
        let Some(ready) = self.ready(stream, &lot, meter).await? else {
            return Ok(Share::Nothing);
        };
        let (place, split) = match self.join(&ready, shard, &lot, meter).await? {
            Work::Whole => {
                let lot = self.lot(whole);
                return self
                    .draw_alone(stream, Some(&ready), shard, &lot, meter, found)
                    .await;
            }
            Work::Nothing => return Ok(Share::Nothing),
            Work::Parts(parts) => *parts,
        };
        found.see(&place);
        let read = self
            .read_parts(&ready, &place, &split, shard, None, meter)
            .await?;
        match self.close(&ready, &split, &lot, None, meter).await? {
            Some(joined) => {
                found.cursor_after = joined.newest();
                Ok(Share::All(Some(split.started)))
            }
            None if read => Ok(Share::Part),
            None => Ok(Share::Nothing),
        }
    }

    /// Finishes, in a run that is alone, what tasks that shared an earlier one have left of a stream.
    /// Whether there was anything.
    pub(super) async fn finishes_split(
        &self,
        ready: &Ready<'_>,
        place: &Place,
        lot: &Lot,
        meter: &Arc<Meter>,
    ) -> Result<bool> {
        let skipped = self.options.full_refresh || self.options.dry_run;
        let Some(split) = open_split(place).filter(|_| !skipped && ready.way().is_some()) else {
            return Ok(false);
        };
        // As they wanted it.
        let bound = |text: &Option<String>| Cursor::parse(ready.kind?, text.as_deref()?);
        let ready = &Ready {
            since: bound(&split.since),
            until: bound(&split.until),
            ..ready.clone()
        };
        tracing::info!(
            stream = ready.stream.name,
            "tasks that shared an earlier run have not read all their parts of the stream: reading the rest"
        );
        let alone = Shard { index: 0, count: 1 };
        self.read_parts(ready, place, &split, alone, Some(lot), meter)
            .await?;
        self.close(ready, &split, lot, Some(lot), meter).await?;
        Ok(true)
    }

    /// A stream that cannot be split, where it is this task's; `ready` where it cannot be split for now.
    async fn draw_alone(
        &self,
        stream: &Stream,
        ready: Option<&Ready<'_>>,
        shard: Shard,
        lot: &Lot,
        meter: &Arc<Meter>,
        found: &mut Found,
    ) -> Result<Share> {
        if !shard.owns(self.number(stream), 0) {
            return Ok(Share::Nothing);
        }
        let held = self.wait_for(lot).await?;
        let drawn = async {
            let share = self.draw_all(stream, lot, meter, found).await?;
            if let Some(ready) = ready {
                self.mark_read(ready, lot, meter).await?;
            }
            Ok(share)
        };
        end(held, drawn.await).await
    }

    /// Notes that this execution has read a stream which can be split from now on, since it has a cursor: a
    /// task that comes late must not begin the next round by itself.
    async fn mark_read(&self, ready: &Ready<'_>, lot: &Lot, meter: &Arc<Meter>) -> Result<()> {
        if self.execution.is_none() {
            return Ok(());
        }
        let place = self.place(ready, &self.stored().await?);
        let read = place.published();
        if place.backfill || read.newest().is_none() {
            return Ok(());
        }
        let split = Split {
            ended: true,
            ..self.new_split(ready, Parts::Partitions { count: 1 })
        };
        let mut writer = self.writer(ready, &place, lot, meter)?;
        writer
            .publish(Checkpoint {
                split: Some(split),
                ..read
            })
            .await
    }

    fn new_split(&self, ready: &Ready<'_>, parts: Parts) -> Split {
        Split {
            id: self.run_id.clone(),
            started: self.started,
            parts,
            since: ready.since.as_ref().map(Cursor::to_string),
            until: ready.until.as_ref().map(Cursor::to_string),
            execution: self.execution.clone(),
            ended: false,
        }
    }

    /// Finds out how the stream is split, and splits it where nobody has.
    async fn join(
        &self,
        ready: &Ready<'_>,
        shard: Shard,
        lot: &Lot,
        meter: &Arc<Meter>,
    ) -> Result<Work> {
        let place = self.place(ready, &self.stored().await?);
        if let Some(split) = open_split(&place)
            && wants(ready, &split)
            && self.destination.existing(&ready.spec.name).await?.is_some()
        {
            return Ok(Work::Parts(Box::new((place, split))));
        }
        let held = self.wait_for(lot).await?;
        let work = self.split(ready, shard, lot, meter).await;
        end(held, work).await
    }

    /// Splits the stream, with its lease held.
    async fn split(
        &self,
        ready: &Ready<'_>,
        shard: Shard,
        lot: &Lot,
        meter: &Arc<Meter>,
    ) -> Result<Work> {
        let mut stored = self.stored().await?;
        if self
            .starts_over(ready.stream, &ready.spec.name, &stored)
            .await?
        {
            stored.clear();
        }
        let place = self.place(ready, &stored);
        let before = place.published();
        if let Some(split) = open_split(&place) {
            check_wish(ready, &split)?;
            return Ok(Work::Parts(Box::new((place, split))));
        }
        self.tidy(&place, &stored).await?;
        let same = |s: &Split| s.ended && s.execution.is_some() && s.execution == self.execution;
        if let Some(split) = before.split.as_ref().filter(|s| same(s)) {
            tracing::warn!(
                stream = ready.stream.name,
                execution = self.execution,
                until = %split.started,
                "nothing is left to read: tasks of this execution have read all up to its start; another round needs another name of the execution"
            );
            return Ok(Work::Nothing);
        }
        let Some(way) = ready.way() else {
            return Ok(Work::Whole);
        };
        let version = place.version();
        let mut work = self.work(ready, place, None, lot, meter)?;
        let window = ready.stream.incremental.as_ref().and_then(|i| i.window);
        let Some(parts) = way.parts(&work.bounds()?, window, shard.count) else {
            return Ok(Work::Whole);
        };
        let split = self.new_split(ready, parts);
        self.prepare(ready, meter).await?;
        let checkpoint = Checkpoint {
            split: Some(split.clone()),
            ..before
        };
        work.writer.publish(checkpoint.clone()).await?;
        tracing::info!(
            stream = ready.stream.name,
            parts = split.parts().len(),
            tasks = shard.count,
            "split the stream into parts"
        );
        let place = Place {
            saved: Some(SavedCheckpoint {
                checkpoint,
                version: version + 1,
            }),
            ..self.place(ready, &stored)
        };
        Ok(Work::Parts(Box::new((place, split))))
    }

    /// Reads this task's parts of a split stream, one after the other, each under a lease of its own, or all
    /// under that of `whole`. Whether there were any.
    async fn read_parts(
        &self,
        ready: &Ready<'_>,
        place: &Place,
        split: &Split,
        shard: Shard,
        whole: Option<&Lot>,
        meter: &Arc<Meter>,
    ) -> Result<bool> {
        let number = self.number(ready.stream);
        let stored = self.stored().await?;
        let left: Vec<(CheckpointKey, Part)> = split
            .parts()
            .into_iter()
            .enumerate()
            .filter(|(n, _)| shard.owns(number, *n))
            .map(|(n, part)| (key_of(place, n), part))
            .filter(|(key, _)| !is_read(stored.get(key), split))
            .collect();
        if left.is_empty() {
            return Ok(false);
        }
        self.prepare(ready, meter).await?;
        let mut busy = Vec::new();
        for (key, part) in left {
            if let Some(lot) = whole {
                self.read_part(ready, place, split, (key, part), lot, meter)
                    .await?;
                continue;
            }
            let lot = self.part_lot(ready, &key);
            let held = match self.leases.take(&lot.lease, lot.stop.clone()).await {
                Ok(held) => held,
                // An earlier attempt's, most likely; the other parts need not wait for it.
                Err(e) if e.kind() == ErrorKind::State && e.is_transient() => {
                    busy.push((key, part, lot));
                    continue;
                }
                Err(e) => return Err(e),
            };
            let read = self
                .read_part(ready, place, split, (key, part), &lot, meter)
                .await;
            end(held, read).await?;
        }
        for (key, part, lot) in busy {
            let held = self.wait_for(&lot).await?;
            let read = self
                .read_part(ready, place, split, (key, part), &lot, meter)
                .await;
            end(held, read).await?;
        }
        Ok(true)
    }

    async fn read_part(
        &self,
        ready: &Ready<'_>,
        place: &Place,
        split: &Split,
        (key, part): (CheckpointKey, Part),
        lot: &Lot,
        meter: &Arc<Meter>,
    ) -> Result<()> {
        // Another attempt of this task may have got further meanwhile, or to the end of all.
        let mut stored = self.stored().await?;
        let saved = stored.remove(&key);
        let now = stored.get(&place.key);
        let open = now.is_some_and(|s| s.checkpoint.split.as_ref() == Some(split));
        if !open || is_read(saved.as_ref(), split) {
            return Ok(());
        }
        let version = saved.as_ref().map_or(0, |s| s.version);
        let checkpoint = saved
            .map(|s| s.checkpoint)
            .filter(|c| c.part.as_ref().is_some_and(|p| p.split == split.id))
            .unwrap_or_else(|| split.first_checkpoint(&part, &place.published()));
        let place = Place {
            key,
            saved: Some(SavedCheckpoint {
                checkpoint,
                version,
            }),
            backfill: place.backfill,
        };
        let part = Some((part, split.started));
        self.work(ready, place, part, lot, meter)?.run().await
    }

    /// Joins the parts' checkpoints into the stream's, once all are read; the stream's then.
    async fn close(
        &self,
        ready: &Ready<'_>,
        split: &Split,
        lot: &Lot,
        held: Option<&Lot>,
        meter: &Arc<Meter>,
    ) -> Result<Option<Checkpoint>> {
        let stored = self.stored().await?;
        if self.read_all(ready, split, &stored).is_none() {
            return Ok(None);
        }
        if held.is_some() {
            return self.close_held(ready, split, lot, meter).await;
        }
        let held = self.wait_for(lot).await?;
        let closed = self.close_held(ready, split, lot, meter).await;
        end(held, closed).await
    }

    async fn close_held(
        &self,
        ready: &Ready<'_>,
        split: &Split,
        lot: &Lot,
        meter: &Arc<Meter>,
    ) -> Result<Option<Checkpoint>> {
        let stored = self.stored().await?;
        let place = self.place(ready, &stored);
        let before = place.published();
        if before.split.as_ref() != Some(split) {
            // Another task has joined them, and the cursor has moved.
            return Ok(Some(before));
        }
        let Some(parts) = self.read_all(ready, split, &stored) else {
            return Ok(None);
        };
        let checkpoints: Vec<Checkpoint> =
            parts.iter().map(|(_, s)| s.checkpoint.clone()).collect();
        let mut joined = split.joined(&before, &checkpoints, ready.kind);
        if place.backfill {
            // Done: the same backfill, asked for again, reads all of it again.
            joined = Checkpoint {
                split: joined.split,
                ..Checkpoint::default()
            };
        }
        let mut writer = self.writer(ready, &place, lot, meter)?;
        writer.publish(joined.clone()).await?;
        let which: Vec<(String, u64)> = parts
            .into_iter()
            .map(|(key, saved)| (key.stream, saved.version))
            .collect();
        self.destination.forget(&self.source.name, &which).await?;
        tracing::info!(
            stream = ready.stream.name,
            parts = which.len(),
            "all parts of the stream are read"
        );
        Ok(Some(joined))
    }

    /// Forgets the checkpoints of parts that mean nothing any more: whoever joined them did not get to it, or
    /// the stream was read whole meanwhile.
    pub(super) async fn tidy(&self, place: &Place, stored: &Stored) -> Result<()> {
        let parts = format!("{} ", place.key.stream);
        let left: Vec<(String, u64)> = stored
            .iter()
            .filter(|(key, saved)| {
                key.stream.starts_with(&parts) && saved.checkpoint.part.is_some()
            })
            .filter(|(key, _)| {
                // Not those of a backfill.
                let number = key.stream.strip_prefix(&parts).unwrap_or_default();
                number.bytes().all(|b| b.is_ascii_digit())
            })
            .map(|(key, saved)| (key.stream.clone(), saved.version))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        self.destination.forget(&self.source.name, &left).await
    }

    /// The checkpoints of all parts, in order, if all are read.
    fn read_all(
        &self,
        ready: &Ready<'_>,
        split: &Split,
        stored: &Stored,
    ) -> Option<Vec<(CheckpointKey, SavedCheckpoint)>> {
        let place = self.place(ready, stored);
        (0..split.parts().len())
            .map(|n| {
                let key = key_of(&place, n);
                let saved = stored.get(&key).filter(|s| is_read(Some(s), split))?;
                Some((key, saved.clone()))
            })
            .collect()
    }

    /// The stream's number in the connector.
    fn number(&self, stream: &Stream) -> usize {
        let streams = &self.source.connector.streams;
        streams
            .iter()
            .position(|s| s.name == stream.name)
            .unwrap_or_default()
    }

    /// What work under a lease is done under.
    fn lot(&self, lease: String) -> Lot {
        Lot {
            lease,
            stop: self.cancel.child_token(),
        }
    }

    /// What work on the part with this checkpoint is done under.
    fn part_lot(&self, ready: &Ready<'_>, key: &CheckpointKey) -> Lot {
        let stream = &ready.stream.name;
        let part = key.stream.strip_prefix(stream.as_str());
        let whole = lease_within(&self.source.name, stream);
        self.lot(lease_within(&whole, part.unwrap_or_default().trim_start()))
    }

    async fn wait_for(&self, lot: &Lot) -> Result<Holding> {
        let patience = self.leases.length() + PATIENCE;
        self.leases.wait_for(&lot.lease, patience, &lot.stop).await
    }
}

impl Ready<'_> {
    fn way(&self) -> Option<Way> {
        Way::of_table(self.stream, &self.spec, self.kind)
    }
}

/// How a stream is split that is not read yet.
fn open_split(place: &Place) -> Option<Split> {
    let split = place.saved.as_ref()?.checkpoint.split.as_ref()?;
    (!split.ended).then(|| split.clone())
}

/// Whether a run wants the same of a stream as those who split it.
fn wants(ready: &Ready<'_>, split: &Split) -> bool {
    let text = |c: &Option<Cursor>| c.as_ref().map(Cursor::to_string);
    split.since == text(&ready.since) && split.until == text(&ready.until)
}

/// # Errors
/// [`ErrorKind::State`] where a run wants another span than those who split the stream.
fn check_wish(ready: &Ready<'_>, split: &Split) -> Result<()> {
    if wants(ready, split) {
        return Ok(());
    }
    let shown = |since: &Option<String>, until: &Option<String>| {
        let flag =
            |name: &str, value: &Option<String>| value.as_ref().map(|v| format!("`{name} {v}`"));
        let flags: Vec<String> = [flag("--since", since), flag("--until", until)]
            .into_iter()
            .flatten()
            .collect();
        match flags.is_empty() {
            true => "no bounds".to_owned(),
            false => flags.join(" and "),
        }
    };
    let text = |c: &Option<Cursor>| c.as_ref().map(Cursor::to_string);
    Err(Error::new(
        ErrorKind::State,
        format!(
            "could not split stream `{}` for tasks with {}: it is split with {}, and not all of its parts are read",
            ready.stream.name,
            shown(&text(&ready.since), &text(&ready.until)),
            shown(&split.since, &split.until)
        ),
    )
    .hint("give all tasks of a run the same bounds; what earlier tasks have left is read by the same tasks again, or by a run without `--shard`"))
}

/// The key of a part's checkpoint.
fn key_of(place: &Place, number: usize) -> CheckpointKey {
    CheckpointKey {
        stream: format!("{} {number}", place.key.stream),
        ..place.key.clone()
    }
}

fn is_read(saved: Option<&SavedCheckpoint>, split: &Split) -> bool {
    let mark = saved.and_then(|s| s.checkpoint.part.as_ref());
    mark.is_some_and(|m| m.read && m.split == split.id)
}

/// Lets go of a lease. Work that was stopped because the lease was lost says so.
async fn end<T>(held: Holding, outcome: Result<T>) -> Result<T> {
    let lost = held.lost();
    held.end().await;
    match (outcome, lost) {
        (Err(e), Some(lost)) if e.kind() == ErrorKind::Interrupted => Err(lost),
        (outcome, _) => outcome,
    }
}
