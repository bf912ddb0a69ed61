//! How a stream is split for the tasks of a run, and how its parts are joined when all are read.

use std::sync::Arc;

use futures::FutureExt as _;

use super::{Stored, end, is_read, key_of};
use crate::app::lease::{Waited, is_busy};
use crate::app::run::Run;
use crate::app::run::stream::{Lot, Place, Ready, is_of};
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::cursor::Cursor;
use crate::pipeline::shard::Shard;
use crate::pipeline::slice::SliceWriter;
use crate::pipeline::split::Way;
use crate::state::{Checkpoint, CheckpointKey, Parts, SavedCheckpoint, Split, lease_within};
use crate::telemetry::Meter;

/// What a task finds to do for a stream.
pub(super) enum Work {
    /// The stream cannot be split: all of it, for one task.
    Whole,
    /// Parts of it.
    Parts(Box<(Place, Split)>),
    /// First, what tasks of an earlier execution have left of it.
    Left(Box<(Place, Split)>),
    /// All of it is read.
    Nothing,
}

impl Run {
    /// Finds out how the stream is split, and splits it where nobody has.
    pub(super) async fn join(
        &self,
        ready: &Ready<'_>,
        shard: Shard,
        lot: &Lot,
        meter: &Arc<Meter>,
    ) -> Result<Work> {
        let Some(way) = ready.way() else {
            return Ok(Work::Whole);
        };
        // Somebody else may split it meanwhile, and hold leases that keep this task from its own.
        let is_split = || {
            async {
                let place = self.place(ready, &self.stored().await?);
                let Some(split) = open_split(&place) else {
                    return Ok(None);
                };
                if !wants(ready, &split) && !self.is_earlier(&split) {
                    return Ok(None);
                }
                let table = self.destination.existing(&ready.spec.name).await?;
                Ok(table.map(|_| self.work_of(place, split)))
            }
            .boxed()
        };
        let waited = self
            .leases
            .wait_unless(&lot.lease, self.patience(), &lot.stop, is_split)
            .await?;
        match waited {
            Waited::Needless(work) => Ok(work),
            Waited::Held(held) => {
                let work = self.split(ready, way, shard, lot, meter).await;
                end(held, work).await
            }
        }
    }

    /// Splits the stream, with its lease held.
    async fn split(
        &self,
        ready: &Ready<'_>,
        way: Way,
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
        if let Some(split) = open_split(&place) {
            return match wants(ready, &split) || self.is_earlier(&split) {
                true => Ok(self.work_of(place, split)),
                false => Err(refused(ready, &split)),
            };
        }
        self.tidy(&place, &stored).await?;
        let same = |s: &Split| {
            s.ended && wants(ready, s) && s.execution.is_some() && s.execution == self.execution
        };
        if let Some(split) = place.checkpoint.split.as_ref().filter(|s| same(s)) {
            tracing::warn!(
                stream = ready.stream.name,
                execution = self.execution,
                until = %split.started,
                "nothing is left to read: tasks of this execution have read all up to its start; another round needs another name of the execution"
            );
            return Ok(Work::Nothing);
        }
        let work = self.work(ready, &place, None, lot, meter)?;
        let parts = way.parts(
            &work.bounds()?,
            ready.stream.incremental.as_ref(),
            shard.count,
        );
        let split = self.new_split(ready, parts);
        // Tasks with bounds of their own may be at work: what they have read, and not published, may be older
        // than what this one's will read. Those that come later find that this split is newer.
        let others = stored.iter().find_map(|(key, saved)| {
            let split = saved.checkpoint.split.as_ref()?;
            (is_of(key, ready.stream) && !split.ended).then_some(split)
        });
        let quiet = match others {
            None => None,
            Some(others) => {
                let whole = self.lot(lease_within(&self.source.name, &ready.stream.name));
                let taken = self.leases.take(&whole.lease, whole.stop.clone()).await;
                Some(taken.map_err(|e| match is_busy(&e) {
                    true => refused(ready, others).transient(true),
                    false => e,
                })?)
            }
        };
        let made = self
            .make_split(ready, place, split, shard, work.writer, meter)
            .await;
        match quiet {
            None => made,
            Some(held) => end(held, made).await,
        }
    }

    async fn make_split(
        &self,
        ready: &Ready<'_>,
        place: Place,
        split: Split,
        shard: Shard,
        mut writer: SliceWriter,
        meter: &Arc<Meter>,
    ) -> Result<Work> {
        self.prepare_with_others(ready, meter).await?;
        let place = Place {
            checkpoint: Checkpoint {
                split: Some(split.clone()),
                ..place.checkpoint
            },
            version: place.version + 1,
            ..place
        };
        writer.publish(place.checkpoint.clone()).await?;
        tracing::info!(
            stream = ready.stream.name,
            parts = split.parts().len(),
            tasks = shard.count,
            "split the stream into parts"
        );
        Ok(self.work_of(place, split))
    }

    /// Notes that all of a stream is read that was left to one task: a task that comes late must not begin the
    /// next round by itself, though the stream could be split from now on, since it has a cursor.
    pub(super) async fn close_whole(
        &self,
        ready: &Ready<'_>,
        lot: &Lot,
        meter: &Arc<Meter>,
    ) -> Result<()> {
        let place = self.place(ready, &self.stored().await?);
        let Some(split) = place.checkpoint.split.clone().filter(Split::is_whole) else {
            return Ok(());
        };
        let split = Split {
            ended: true,
            // It may have been an earlier one that left it to one task.
            execution: self.execution.clone(),
            ..split
        };
        let mut writer = self.writer(ready, &place, lot, meter)?;
        writer
            .publish(Checkpoint {
                split: Some(split),
                ..place.checkpoint
            })
            .await
    }

    fn work_of(&self, place: Place, split: Split) -> Work {
        match (split.is_whole(), self.is_earlier(&split)) {
            (true, _) => Work::Whole,
            (false, true) => Work::Left(Box::new((place, split))),
            (false, false) => Work::Parts(Box::new((place, split))),
        }
    }

    /// Whether a stream was split by an earlier execution, as far as executions have names.
    fn is_earlier(&self, split: &Split) -> bool {
        self.execution.is_some() && self.execution != split.execution
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

    /// Joins the parts' checkpoints into the stream's, once all are read; the stream's then.
    pub(super) async fn close(
        &self,
        ready: &Ready<'_>,
        split: &Split,
        lot: &Lot,
        meter: &Arc<Meter>,
    ) -> Result<Option<Checkpoint>> {
        let stored = self.stored().await?;
        if self.read_all(ready, split, &stored).is_none() {
            return Ok(None);
        }
        let held = self.wait_for(lot).await?;
        let closed = self.close_held(ready, split, lot, meter).await;
        end(held, closed).await
    }

    /// The same under a lease that is held.
    pub(super) async fn close_held(
        &self,
        ready: &Ready<'_>,
        split: &Split,
        lot: &Lot,
        meter: &Arc<Meter>,
    ) -> Result<Option<Checkpoint>> {
        let stored = self.stored().await?;
        let place = self.place(ready, &stored);
        if place.checkpoint.split.as_ref() != Some(split) {
            // Another task has joined them, and says so.
            return Ok(None);
        }
        let Some(parts) = self.read_all(ready, split, &stored) else {
            return Ok(None);
        };
        let checkpoints: Vec<Checkpoint> =
            parts.iter().map(|(_, s)| s.checkpoint.clone()).collect();
        let mut joined = split.joined(&place.checkpoint, &checkpoints, ready.kind);
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
    pub(in crate::app::run) async fn tidy(&self, place: &Place, stored: &Stored) -> Result<()> {
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
}

/// How a stream is split that is not read yet.
pub(super) fn open_split(place: &Place) -> Option<Split> {
    let split = place.checkpoint.split.as_ref()?;
    (!split.ended).then(|| split.clone())
}

/// Whether a run wants the same of a stream as those who split it.
fn wants(ready: &Ready<'_>, split: &Split) -> bool {
    let text = |c: &Option<Cursor>| c.as_ref().map(Cursor::to_string);
    split.since == text(&ready.since) && split.until == text(&ready.until)
}

/// The error of a run that wants another span than those who split the stream.
pub(super) fn refused(ready: &Ready<'_>, split: &Split) -> Error {
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
    Error::new(
        ErrorKind::State,
        format!(
            "could not split stream `{}` for tasks with {}: it is split with {}, and not all of its parts are read",
            ready.stream.name,
            shown(&text(&ready.since), &text(&ready.until)),
            shown(&split.since, &split.until)
        ),
    )
    .hint("give all tasks of a run the same bounds; what earlier tasks have left is read by the same tasks again, or by a run with the same bounds and without `--shard`")
}
