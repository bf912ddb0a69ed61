//! How a stream is split for the tasks of a run, and how its parts are joined when all are read.

use std::sync::Arc;

use super::{Stored, end, is_read, key_of};
use crate::app::run::Run;
use crate::app::run::stream::{Lot, Place, Ready};
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::cursor::Cursor;
use crate::pipeline::shard::Shard;
use crate::pipeline::split::Way;
use crate::state::{Checkpoint, CheckpointKey, Parts, SavedCheckpoint, Split};
use crate::telemetry::Meter;

/// What a task finds to do for a stream.
pub(super) enum Work {
    /// The stream cannot be split.
    Whole,
    /// Parts of it.
    Parts(Box<(Place, Split)>),
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
        let place = self.place(ready, &self.stored().await?);
        if let Some(split) = open_split(&place)
            && wants(ready, &split)
            && self.destination.existing(&ready.spec.name).await?.is_some()
        {
            return Ok(Work::Parts(Box::new((place, split))));
        }
        let held = self.wait_for(lot).await?;
        let work = self.split(ready, way, shard, lot, meter).await;
        end(held, work).await
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
            check_wish(ready, &split)?;
            return Ok(Work::Parts(Box::new((place, split))));
        }
        self.tidy(&place, &stored).await?;
        let same = |s: &Split| s.ended && s.execution.is_some() && s.execution == self.execution;
        if let Some(split) = place.checkpoint.split.as_ref().filter(|s| same(s)) {
            tracing::warn!(
                stream = ready.stream.name,
                execution = self.execution,
                until = %split.started,
                "nothing is left to read: tasks of this execution have read all up to its start; another round needs another name of the execution"
            );
            return Ok(Work::Nothing);
        }
        let mut work = self.work(ready, &place, None, lot, meter)?;
        let window = ready.stream.incremental.as_ref().and_then(|i| i.window);
        let Some(parts) = way.parts(&work.bounds()?, window, shard.count) else {
            return Ok(Work::Whole);
        };
        let split = self.new_split(ready, parts);
        self.prepare(ready, meter).await?;
        let place = Place {
            checkpoint: Checkpoint {
                split: Some(split.clone()),
                ..place.checkpoint
            },
            version: place.version + 1,
            ..place
        };
        work.writer.publish(place.checkpoint.clone()).await?;
        tracing::info!(
            stream = ready.stream.name,
            parts = split.parts().len(),
            tasks = shard.count,
            "split the stream into parts"
        );
        Ok(Work::Parts(Box::new((place, split))))
    }

    /// Notes that this execution has read a stream which can be split from now on, since it has a cursor: a
    /// task that comes late must not begin the next round by itself.
    pub(super) async fn mark_read(
        &self,
        ready: &Ready<'_>,
        lot: &Lot,
        meter: &Arc<Meter>,
    ) -> Result<()> {
        if self.execution.is_none() {
            return Ok(());
        }
        let place = self.place(ready, &self.stored().await?);
        if place.backfill || place.checkpoint.newest().is_none() {
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
                ..place.checkpoint
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
            // Another task has joined them, and the cursor has moved.
            return Ok(Some(place.checkpoint));
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
