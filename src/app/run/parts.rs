//! A stream's share of one task, where several share a run: what it is, under which leases it is read, and
//! who says when all of it is read.
//!
//! The first task that comes splits the stream and stores in its checkpoint how ([`Split`]), so that all mean
//! the same parts, whenever they start. Each part is read under a lease of its own, into a checkpoint of its own.
//! Whoever finds that all parts are read joins their checkpoints into the stream's. A stream that cannot be
//! split is read whole by one task.

mod split;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use self::split::{Work, open_split, refused};
use super::Run;
use super::stream::{Found, Lot, Place, Ready, is_of};
use crate::app::lease::{Holding, is_busy};
use crate::connector::Stream;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::cursor::Cursor;
use crate::pipeline::report::Share;
use crate::pipeline::shard::Shard;
use crate::pipeline::split::{Part, Way};
use crate::schema::evolution::adopt;
use crate::schema::landing::Contract;
use crate::state::{CheckpointKey, SPLITTING, SavedCheckpoint, Split, lease_within};
use crate::telemetry::Meter;

/// Beyond the time that a dead task's lease holds, how long one waits for it, or until another task has split
/// or joined a stream.
const PATIENCE: Duration = Duration::from_secs(60);

/// Parts that a task fails to read before it gives up: then it is hardly theirs.
const MOST_FAILED: usize = 3;

/// Checkpoints as stored.
pub(super) type Stored = HashMap<CheckpointKey, SavedCheckpoint>;

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
            // There is no record: one of the tasks says so.
            return Ok(match shard.owns(self.number(stream), 0) {
                true => Share::All(None),
                false => Share::Nothing,
            });
        };
        let (place, split) = loop {
            match self.join(&ready, shard, &lot, meter).await? {
                Work::Whole => {
                    let lot = self.lot(whole);
                    return self
                        .draw_alone(stream, Some(&ready), shard, &lot, meter, found)
                        .await;
                }
                Work::Nothing => return Ok(Share::Nothing),
                Work::Parts(parts) => break *parts,
                Work::Left(parts) => {
                    let (place, split) = *parts;
                    self.finish_left(&ready, &place, &split, &lot, meter)
                        .await?;
                }
            }
        };
        found.see(&place);
        let read = self
            .read_parts(&ready, &place, &split, shard, meter)
            .await?;
        match self.close(&ready, &split, &lot, meter).await? {
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
        let splittable = !skipped && ready.way().is_some();
        let Some(split) = open_split(place).filter(|s| splittable && !s.is_whole()) else {
            return Ok(false);
        };
        tracing::info!(
            stream = ready.stream.name,
            "tasks that shared an earlier run have not read all their parts of the stream: reading the rest"
        );
        let ready = &as_wanted(ready, &split);
        let ready = &self.prepare_with_others(ready, meter).await?;
        self.finish_held(ready, place, &split, lot, meter).await?;
        Ok(true)
    }

    /// Finishes, together with the other tasks of this execution, what those of an earlier one have left of a
    /// stream, whoever's it was: a part that nobody holds is read, others are waited for.
    async fn finish_left(
        &self,
        ready: &Ready<'_>,
        place: &Place,
        split: &Split,
        lot: &Lot,
        meter: &Arc<Meter>,
    ) -> Result<()> {
        tracing::info!(
            stream = ready.stream.name,
            "tasks of an earlier execution have not read all their parts of the stream: reading the rest first"
        );
        let ready = &as_wanted(ready, split);
        let ready = &self.prepare_with_others(ready, meter).await?;
        let (mut waiting, mut failed) = (false, Failed::default());
        loop {
            let stored = self.stored().await?;
            let mut left = left(place, split, &stored);
            left.retain(|(key, _)| !failed.has(key));
            if !is_open(place, split, &stored) || left.is_empty() {
                break;
            }
            if newer(ready, split, &stored).is_some() {
                return self.finish_alone(ready, place, split, meter).await;
            }
            // Not all at the same one.
            let first = rand::random_range(0..left.len());
            left.rotate_left(first);
            if waiting {
                left.truncate(1);
            }
            waiting = true;
            for (key, part) in left {
                let lot = self.part_lot(ready, &key);
                let held = match self.leases.take(&lot.lease, lot.stop.clone()).await {
                    Ok(held) => held,
                    Err(e) if is_busy(&e) => continue,
                    Err(e) => return Err(e),
                };
                let read = self
                    .read_part(ready, place, split, (key.clone(), part), &lot, meter)
                    .await;
                failed.note(key, end(held, read).await)?;
                waiting = false;
            }
            if waiting {
                self.leases.pause(&lot.stop).await?;
            }
        }
        failed.first()?;
        self.close(ready, split, lot, meter).await?;
        Ok(())
    }

    /// The same where the stream was split anew for another span meanwhile, whose tasks may be at work or never
    /// come back: with the stream's lease, that they are not.
    async fn finish_alone(
        &self,
        ready: &Ready<'_>,
        place: &Place,
        split: &Split,
        meter: &Arc<Meter>,
    ) -> Result<()> {
        let lot = self.lot(lease_within(&self.source.name, &ready.stream.name));
        let held = self.wait_for(&lot).await?;
        let read = self.finish_held(ready, place, split, &lot, meter).await;
        end(held, read).await
    }

    /// The same under a lease that is held, of all of the stream.
    async fn finish_held(
        &self,
        ready: &Ready<'_>,
        place: &Place,
        split: &Split,
        lot: &Lot,
        meter: &Arc<Meter>,
    ) -> Result<()> {
        let stored = self.stored().await?;
        for part in left(place, split, &stored) {
            self.read_part(ready, place, split, part, lot, meter)
                .await?;
        }
        self.close_held(ready, split, lot, meter).await?;
        Ok(())
    }

    /// Brings the table of a stream that tasks share into shape; the stream with the columns that others have
    /// given an evolving one meanwhile.
    pub(super) async fn prepare_with_others<'a>(
        &self,
        ready: &Ready<'a>,
        meter: &Meter,
    ) -> Result<Ready<'a>> {
        let mut ready = self.adopted(ready).await?;
        loop {
            match self.prepare(&ready, meter).await {
                Ok(()) => return Ok(ready),
                Err(e) if e.kind() == ErrorKind::Schema => {
                    let now = self.adopted(&ready).await?;
                    if now.spec.schema == ready.spec.schema {
                        return Err(e);
                    }
                    ready = now;
                }
                Err(e) => return Err(e),
            }
        }
    }

    async fn adopted<'a>(&self, ready: &Ready<'a>) -> Result<Ready<'a>> {
        let mut ready = ready.clone();
        if ready.contract == Contract::Evolve
            && let Some(there) = self.destination.existing(&ready.spec.name).await?
        {
            ready.spec.schema = adopt(&ready.spec.schema, &there, true);
        }
        Ok(ready)
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
                self.close_whole(ready, lot, meter).await?;
            }
            Ok(share)
        };
        end(held, drawn.await).await
    }

    /// Reads this task's parts of a split stream, one after the other, each under a lease of its own. Whether
    /// there were any.
    async fn read_parts(
        &self,
        ready: &Ready<'_>,
        place: &Place,
        split: &Split,
        shard: Shard,
        meter: &Arc<Meter>,
    ) -> Result<bool> {
        let number = self.number(ready.stream);
        let stored = self.stored().await?;
        let own: Vec<CheckpointKey> = (0..split.parts().len())
            .filter(|n| shard.owns(number, *n))
            .map(|n| key_of(place, n))
            .collect();
        let mut left = left(place, split, &stored);
        left.retain(|(key, _)| own.contains(key));
        if left.is_empty() {
            return Ok(false);
        }
        let ready = &self.prepare_with_others(ready, meter).await?;
        let (mut busy, mut failed) = (Vec::new(), Failed::default());
        for (key, part) in left {
            let lot = self.part_lot(ready, &key);
            let held = match self.leases.take(&lot.lease, lot.stop.clone()).await {
                Ok(held) => held,
                // An earlier attempt's, most likely; the other parts need not wait for it.
                Err(e) if is_busy(&e) => {
                    busy.push((key, part, lot));
                    continue;
                }
                Err(e) => return Err(e),
            };
            let read = self
                .read_part(ready, place, split, (key.clone(), part), &lot, meter)
                .await;
            failed.note(key, end(held, read).await)?;
        }
        for (key, part, lot) in busy {
            let held = self.wait_for(&lot).await?;
            let read = self
                .read_part(ready, place, split, (key.clone(), part), &lot, meter)
                .await;
            failed.note(key, end(held, read).await)?;
        }
        failed.first()?;
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
        if !is_open(place, split, &stored) || is_read(saved.as_ref(), split) {
            return Ok(());
        }
        // What those of the newer one have published may be newer than what this reads now and publishes later.
        let shared = lot.lease == self.part_lot(ready, &key).lease;
        if let Some(newer) = newer(ready, split, &stored).filter(|_| shared) {
            return Err(refused(ready, newer).transient(true));
        }
        let ready = &self.adopted(ready).await?;
        let version = saved.as_ref().map_or(0, |s| s.version);
        let checkpoint = saved
            .map(|s| s.checkpoint)
            .filter(|c| c.part.as_ref().is_some_and(|p| p.split == split.id))
            .unwrap_or_else(|| split.first_checkpoint(&part, &place.checkpoint));
        let place = Place {
            key,
            checkpoint,
            version,
            backfill: place.backfill,
        };
        let part = Some((part, split.started));
        self.work(ready, &place, part, lot, meter)?.run().await
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

    /// Waits for a lease that another task holds, which may be dead.
    async fn wait_for(&self, lot: &Lot) -> Result<Holding> {
        let patience = self.patience();
        self.leases.wait_for(&lot.lease, patience, &lot.stop).await
    }

    fn patience(&self) -> Duration {
        self.leases.length() + PATIENCE
    }
}

impl Ready<'_> {
    fn way(&self) -> Option<Way> {
        let kind = self.kind.filter(|_| self.kind_is_declared);
        Way::of_table(self.stream, &self.spec, kind)
    }
}

/// Parts that could not be read.
#[derive(Default)]
struct Failed(Vec<(CheckpointKey, Error)>);

impl Failed {
    /// Takes note of how a part ended. One that cannot be read does not keep its task from the others.
    ///
    /// # Errors
    /// What is not the part's own failure, or one too many.
    fn note(&mut self, part: CheckpointKey, outcome: Result<()>) -> Result<()> {
        let Err(error) = outcome else { return Ok(()) };
        let own = matches!(
            error.kind(),
            ErrorKind::Unavailable | ErrorKind::Rejected | ErrorKind::Decode | ErrorKind::Schema
        );
        if !own || self.0.len() + 1 == MOST_FAILED {
            return Err(error);
        }
        tracing::warn!(
            part = part.stream,
            "a part of the stream could not be read, going on with the others: {}",
            error.chain()
        );
        self.0.push((part, error));
        Ok(())
    }

    fn has(&self, part: &CheckpointKey) -> bool {
        self.0.iter().any(|(failed, _)| failed == part)
    }

    fn first(self) -> Result<()> {
        let first = self.0.into_iter().next();
        first.map_or(Ok(()), |(_, error)| Err(error))
    }
}

/// The parts that are not read, with their keys.
fn left(place: &Place, split: &Split, stored: &Stored) -> Vec<(CheckpointKey, Part)> {
    let parts = split.parts().into_iter().enumerate();
    parts
        .map(|(n, part)| (key_of(place, n), part))
        .filter(|(key, _)| !is_read(stored.get(key), split))
        .collect()
}

/// Whether the stream is split so, and not read to its end.
fn is_open(place: &Place, split: &Split, stored: &Stored) -> bool {
    let now = stored.get(&place.key);
    now.is_some_and(|s| s.checkpoint.split.as_ref() == Some(split))
}

/// A split of another span of the stream, made later, and not read to its end.
fn newer<'s>(ready: &Ready<'_>, split: &Split, stored: &'s Stored) -> Option<&'s Split> {
    stored
        .iter()
        .filter(|(key, _)| is_of(key, ready.stream))
        .filter_map(|(_, saved)| saved.checkpoint.split.as_ref())
        .find(|other| !other.ended && other.id != split.id && other.started > split.started)
}

/// A stream as those wanted it who split it.
fn as_wanted<'a>(ready: &Ready<'a>, split: &Split) -> Ready<'a> {
    let bound = |text: &Option<String>| Cursor::parse(ready.kind?, text.as_deref()?);
    Ready {
        since: bound(&split.since),
        until: bound(&split.until),
        ..ready.clone()
    }
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
