//! Streams that several tasks read, in parts: which can be split, into what, and what the stream's
//! checkpoint is once all parts are read. Pure.
//!
//! A stream can be split where rows are merged, so that it does no harm where two parts touch: by spans of time,
//! where the API takes an upper bound, and by partitions, where it is the child of another. Any other stream is
//! read whole by one task: the rows of an appended table would be doubled, and what replaces a table, or tells
//! which of its rows are gone, has to be whole.

use std::time::Duration;

use super::cursor::{Cursor, CursorKind};
use super::plan::Bounds;
use super::shard::MOST_TASKS;
use crate::connector::{CursorField, Incremental, Stream, TimeFormat};
use crate::destination::{Absent, Disposition, TableSpec};
use crate::source::parents::Partition;
use crate::state::{Checkpoint, PartMark, Parts, Split};

/// Most parts for each task, unless the windows of the connector are fewer: each part costs a lease and a
/// checkpoint, and many small ones let tasks end together.
const PARTS_A_TASK: u64 = 16;

/// A part is not made shorter than this to have one for each task.
const SHORTEST: Duration = Duration::from_secs(1);
/// The same where bounds are written as dates.
const DAY: Duration = Duration::from_secs(86_400);

/// By what a stream can be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Spans of the cursor's time.
    Spans,
    /// Partitions, by their keys.
    Partitions,
}

/// A part of a split stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// What lies between these bounds.
    Span(Bounds),
    /// The partitions whose keys fall to this share.
    Share {
        /// Its number, from 0.
        index: u32,
        /// Of how many.
        of: u32,
    },
}

impl Way {
    /// By what the stream can be split, as far as its connector says; its columns may still forbid it.
    pub fn of(stream: &Stream) -> Option<Self> {
        if stream.table.disposition != Disposition::Merge || stream.table.soft_delete {
            return None;
        }
        if stream.parent.is_some() {
            return Some(Self::Partitions);
        }
        let incremental = stream.incremental.as_ref()?;
        let own = matches!(incremental.cursor, CursorField::Own(_));
        (own && stream.names_until()).then_some(Self::Spans)
    }

    /// The same with what is known of the table.
    pub fn of_table(stream: &Stream, spec: &TableSpec, cursor: Option<CursorKind>) -> Option<Self> {
        if spec.disposition != Disposition::Merge || spec.absent == Absent::Close {
            return None;
        }
        // Parts list the parents one after the other, and only of times is it known which are older than all
        // those lists.
        let by_parent = stream
            .incremental
            .as_ref()
            .is_some_and(|i| matches!(i.cursor, CursorField::Parent(_)));
        Self::of(stream).filter(|way| {
            (*way == Self::Partitions && !by_parent) || cursor == Some(CursorKind::Time)
        })
    }

    /// The parts for that many tasks of what lies between the bounds, which are asked for as the connector says.
    pub fn parts(self, bounds: &Bounds, asked: Option<&Incremental>, tasks: u32) -> Parts {
        if self == Self::Partitions {
            return Parts::Partitions { count: tasks };
        }
        let (Some(Cursor::Time(since)), Some(Cursor::Time(until))) = (&bounds.since, &bounds.until)
        else {
            return Parts::Whole;
        };
        let Ok(span) = Duration::try_from(until.duration_since(*since)) else {
            return Parts::Whole;
        };
        let window = asked.and_then(|i| i.window);
        let shortest = match asked.map(|i| &i.format) {
            Some(TimeFormat::Date) => DAY,
            _ => SHORTEST,
        };
        let even = (span / tasks.max(1)).max(shortest);
        let length = match window {
            None => even,
            Some(window) => {
                let windows = span.as_nanos() / window.as_nanos().max(1);
                let most = u128::from((PARTS_A_TASK * u64::from(tasks)).min(MOST_TASKS.into()));
                // Whole windows, so that no request asks for less than it could.
                let together = u32::try_from(windows.div_ceil(most).max(1)).unwrap_or(u32::MAX);
                window.saturating_mul(together).min(even)
            }
        };
        Parts::Spans {
            since: *since,
            until: *until,
            // Rounded up: there may be fewer parts, never one too many.
            length_ms: u64::try_from(length.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX),
            windows: window.is_some(),
        }
    }
}

impl Split {
    /// The parts, in order; the number of a part is its place.
    pub fn parts(&self) -> Vec<Part> {
        match self.parts {
            Parts::Whole => Vec::new(),
            Parts::Partitions { count } => (0..count)
                .map(|index| Part::Share { index, of: count })
                .collect(),
            Parts::Spans {
                since,
                until,
                length_ms,
                ..
            } => {
                let bounds = Bounds {
                    since: Some(Cursor::Time(since)),
                    until: Some(Cursor::Time(until)),
                };
                let length = Duration::from_millis(length_ms.max(1));
                let mut spans = bounds.spans(Some(length));
                // What is at the border of two is in one of them at least, whichever of its bounds an API leaves out.
                for span in spans.iter_mut().skip(1) {
                    let below = span.since.as_ref().and_then(Cursor::just_below);
                    span.since = below.or(span.since.take());
                }
                spans.into_iter().map(Part::Span).collect()
            }
        }
    }

    /// The checkpoint from which a part is read that has none: what the stream's says of it.
    pub fn first_checkpoint(&self, part: &Part, stream: &Checkpoint) -> Checkpoint {
        let mark = Some(PartMark {
            split: self.id.clone(),
            read: false,
        });
        match part {
            Part::Span(_) => Checkpoint {
                part: mark,
                ..Checkpoint::default()
            },
            Part::Share { .. } => Checkpoint {
                cursor: stream.cursor.clone(),
                partitions: stream
                    .partitions
                    .iter()
                    .filter(|(key, _)| part.has_key(key))
                    .map(|(key, cursor)| (key.clone(), cursor.clone()))
                    .collect(),
                seamless: stream.seamless,
                part: mark,
                ..Checkpoint::default()
            },
        }
    }

    /// The stream's checkpoint once all its parts are read: `parts` are theirs, in order; `kind` is the
    /// cursor's.
    pub fn joined(
        &self,
        stream: &Checkpoint,
        parts: &[Checkpoint],
        kind: Option<CursorKind>,
    ) -> Checkpoint {
        let mut joined = Checkpoint {
            split: Some(Split {
                ended: true,
                ..self.clone()
            }),
            pass: None,
            ..stream.clone()
        };
        let mut reached: Vec<Option<Cursor>> = Vec::new();
        let parse = |text: &Option<String>| Cursor::parse(kind?, text.as_deref()?);
        let spans = self.parts();
        let windows = matches!(self.parts, Parts::Spans { windows: true, .. });
        for (number, (part, read)) in spans.iter().zip(parts).enumerate() {
            joined.seamless |= read.seamless;
            match part {
                Part::Span(span) => {
                    reached.push(parse(&read.cursor));
                    // As without tasks: where there are windows, all up to the end of every one but the last.
                    if windows && number + 1 < spans.len() {
                        reached.push(span.until.clone());
                    }
                }
                Part::Share { .. } => {
                    joined.partitions.extend(read.partitions.clone());
                    reached.push(parse(&read.cursor));
                }
            }
        }
        let reached = reached.into_iter().max().flatten();
        if reached > parse(&joined.cursor) {
            joined.cursor = reached.map(|c| c.to_string());
        }
        joined
    }
}

impl Part {
    /// Whether a partition is of this part.
    pub fn has(&self, partition: &Partition) -> bool {
        self.has_key(&partition.key())
    }

    fn has_key(&self, key: &str) -> bool {
        match self {
            Self::Span(_) => true,
            Self::Share { index, of } => crc32c::crc32c(key.as_bytes()) % (*of).max(1) == *index,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn bounds(from: i64, to: i64) -> Bounds {
        Bounds {
            since: Some(Cursor::Time(at(from))),
            until: Some(Cursor::Time(at(to))),
        }
    }

    fn asked(window: Duration, format: TimeFormat) -> Incremental {
        Incremental {
            cursor: CursorField::Own("at".into()),
            since_param: None,
            until_param: None,
            format,
            lookback: Duration::ZERO,
            start: None,
            window: Some(window),
            sorted: false,
        }
    }

    fn split(parts: Parts) -> Split {
        Split {
            id: "r".into(),
            started: at(0),
            parts,
            since: None,
            until: None,
            execution: None,
            ended: false,
        }
    }

    proptest! {
        #[test]
        fn spans_are_complete_and_meet(
            from in 0i64..1_000_000, seconds in 1i64..100_000_000, window in prop::option::of(1u64..10_000_000), tasks in 1u32..50,
        ) {
            let bounds = bounds(from, from + seconds);
            let asked = window.map(|w| asked(Duration::from_secs(w), TimeFormat::Rfc3339));
            let parts = split(Way::Spans.parts(&bounds, asked.as_ref(), tasks)).parts();
            let spans: Vec<_> = parts.iter().map(|p| match p {
                Part::Span(span) => span.clone(),
                Part::Share { .. } => unreachable!(),
            }).collect();
            prop_assert_eq!(&spans[0].since, &bounds.since);
            prop_assert_eq!(&spans[spans.len() - 1].until, &bounds.until);
            prop_assert!(spans.windows(2).all(|w| w[0].until.as_ref().unwrap().just_below() == w[1].since));
            // One for each task wherever that can be, and not very many.
            prop_assert!(spans.len() as u64 <= (PARTS_A_TASK + 1) * u64::from(tasks));
            prop_assert!(spans.len() as u32 >= tasks.min(u32::try_from(seconds).unwrap() / 2 + 1).min(tasks / 2 + 1));
        }

        #[test]
        fn every_partition_is_of_one_part(key in ".*", count in 1u32..40) {
            let parts = split(Parts::Partitions { count }).parts();
            prop_assert_eq!(parts.len(), count as usize);
            prop_assert_eq!(parts.iter().filter(|p| p.has_key(&key)).count(), 1);
        }
    }

    #[test]
    fn windows_are_kept_whole_and_every_task_gets_one() {
        let hour = Duration::from_secs(3_600);
        let day = 86_400;
        let count = |to: i64, tasks| {
            let asked = asked(hour, TimeFormat::Rfc3339);
            split(Way::Spans.parts(&bounds(0, to), Some(&asked), tasks))
                .parts()
                .len()
        };
        let dates = asked(hour, TimeFormat::Date);
        let parts = Way::Spans.parts(&bounds(0, 2 * day), Some(&dates), 48);
        assert_eq!(split(parts).parts().len(), 48, "the connector's windows");
        let dates = Incremental {
            window: None,
            ..dates
        };
        let parts = Way::Spans.parts(&bounds(0, 2 * day), Some(&dates), 48);
        assert_eq!(split(parts).parts().len(), 2, "no shorter than a day");
        assert_eq!(count(day, 2), 24);
        assert_eq!(count(day, 48), 48, "shorter than a window rather than none");
        assert_eq!(count(100 * day, 2), 32, "75 hours each");
        assert_eq!(count(0, 4), 1);
        let open = Bounds {
            since: None,
            ..bounds(0, 1)
        };
        let parts = Way::Spans.parts(&open, Some(&dates), 2);
        assert_eq!(
            (&parts, split(parts.clone()).parts()),
            (&Parts::Whole, vec![])
        );
    }

    #[test]
    fn parts_join_into_the_streams_checkpoint() {
        let spans = split(Parts::Spans {
            since: at(0),
            until: at(30),
            length_ms: 10_000,
            windows: true,
        });
        let read = |cursor: Option<i64>| Checkpoint {
            cursor: cursor.map(|c| at(c).to_string()),
            ..Checkpoint::default()
        };
        let stream = Checkpoint {
            cursor: Some(at(-5).to_string()),
            ..Checkpoint::default()
        };
        let cursor =
            |parts: &[Checkpoint]| spans.joined(&stream, parts, Some(CursorKind::Time)).cursor;
        assert_eq!(
            cursor(&[read(Some(3)), read(None), read(Some(27))]),
            Some(at(27).to_string())
        );
        assert_eq!(
            cursor(&[read(Some(3)), read(None), read(None)]),
            Some(at(20).to_string())
        );
        assert!(spans.joined(&stream, &[], None).split.unwrap().ended);

        let shares = split(Parts::Partitions { count: 2 });
        let partition =
            |key: &str, second| BTreeMap::from([(key.to_owned(), at(second).to_string())]);
        let stream = Checkpoint {
            partitions: partition("a", 1),
            ..Checkpoint::default()
        };
        let of = |key, second| Checkpoint {
            partitions: partition(key, second),
            ..Checkpoint::default()
        };
        let joined = shares.joined(&stream, &[of("a", 4), of("b", 2)], Some(CursorKind::Time));
        assert_eq!(joined.partitions.len(), 2);
        assert_eq!(joined.partitions["a"], at(4).to_string());
        let firsts = shares
            .parts()
            .iter()
            .map(|p| shares.first_checkpoint(p, &joined).partitions.len())
            .sum::<usize>();
        assert_eq!(firsts, 2, "each partition goes on in one part");
    }
}
