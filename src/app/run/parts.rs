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

use self::split::{Work, open_split};
use super::Run;
use super::stream::{Found, Lot, Place, Ready};
use crate::app::lease::Holding;
use crate::connector::Stream;
use crate::error::{ErrorKind, Result};
use crate::pipeline::cursor::Cursor;
use crate::pipeline::report::Share;
use crate::pipeline::shard::Shard;
use crate::pipeline::split::{Part, Way};
use crate::state::{CheckpointKey, SavedCheckpoint, Split, lease_within};
use crate::telemetry::Meter;

/// Beyond the time that a dead task's lease holds, how long one waits for it, or until another task has split
/// or joined a stream.
const PATIENCE: Duration = Duration::from_secs(60);

/// In the name of the lease under which a stream is split, and its parts are joined.
const SPLITTING: &str = "split";

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
        self.close_held(ready, &split, lot, meter).await?;
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
        let patience = self.leases.length() + PATIENCE;
        self.leases.wait_for(&lot.lease, patience, &lot.stop).await
    }
}

impl Ready<'_> {
    fn way(&self) -> Option<Way> {
        Way::of_table(self.stream, &self.spec, self.kind)
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
