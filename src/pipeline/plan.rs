//! What to read, decided before anything is read: the bounds of a run and the spans of time between
//! them. Pure.

use std::time::Duration;

use super::cursor::Cursor;
use crate::connector::TimeFormat;

/// The bounds of a run of one stream, or of one partition of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Records at or above this are read. `None`: all.
    pub since: Option<Cursor>,
    /// Records above this are left for a later run.
    pub until: Option<Cursor>,
}

/// What decides the bounds.
#[derive(Clone, Debug, Default)]
pub struct Wish<'a> {
    /// `--since`.
    pub since: Option<&'a Cursor>,
    /// `--until`.
    pub until: Option<&'a Cursor>,
    /// The saved cursor.
    pub saved: Option<&'a Cursor>,
    /// Where the first run starts.
    pub start: Option<&'a Cursor>,
    /// How far below the saved cursor reading starts again.
    pub lookback: Duration,
    /// When the run started; nothing newer is asked for.
    pub now: Option<&'a Cursor>,
}

impl Wish<'_> {
    /// The bounds.
    pub fn bounds(&self) -> Bounds {
        let resumed = self.saved.map(|s| s.minus(self.lookback));
        Bounds {
            since: self
                .since
                .cloned()
                .or(resumed)
                .or_else(|| self.start.cloned()),
            until: self.until.or(self.now).cloned(),
        }
    }

    /// Whether what is read joins what was read before without a gap, so that the saved cursor may
    /// move. A backfill of some other span must not move it.
    pub fn moves_cursor(&self) -> bool {
        self.until.is_none()
            && match (self.since, self.saved) {
                (None, _) | (Some(_), None) => true,
                (Some(since), Some(saved)) => since <= saved,
            }
    }
}

impl Bounds {
    /// No bounds.
    pub fn open() -> Self {
        Self {
            since: None,
            until: None,
        }
    }

    /// Both bounds as a request writes them; empty where there is none.
    pub fn texts(&self, format: &TimeFormat) -> (Option<String>, Option<String>) {
        let text =
            |c: &Option<Cursor>| Some(c.as_ref().map(|c| c.format(format)).unwrap_or_default());
        (text(&self.since), text(&self.until))
    }

    /// The spans of at most `window` from lower to upper bound, oldest first. One span where there
    /// is no window, or a bound is open.
    pub fn spans(&self, window: Option<Duration>) -> Vec<Bounds> {
        let (Some(window), Some(since @ Cursor::Time(_)), Some(until)) =
            (window, &self.since, &self.until)
        else {
            return vec![self.clone()];
        };
        let mut spans = Vec::new();
        let mut from = since.clone();
        while from < *until {
            let to = from.plus(window).min(until.clone());
            if to <= from {
                break;
            }
            spans.push(Bounds {
                since: Some(from),
                until: Some(to.clone()),
            });
            from = to;
        }
        // An API's upper bound may include or exclude its value; spans meet, so neither loses any.
        if spans.is_empty() {
            spans.push(self.clone());
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::cursor::CursorKind;

    fn at(text: &str) -> Cursor {
        Cursor::parse(CursorKind::Time, text).unwrap()
    }

    #[test]
    fn bounds_come_from_flags_then_state_then_start() {
        let (flag, saved, start, now) = (
            at("2026-01-01"),
            at("2026-02-01"),
            at("2020-01-01"),
            at("2026-03-01"),
        );
        let day = Duration::from_secs(86_400);
        let wish = Wish {
            saved: Some(&saved),
            start: Some(&start),
            lookback: day,
            now: Some(&now),
            ..Wish::default()
        };
        assert_eq!(wish.bounds().since, Some(at("2026-01-31")));
        assert_eq!(wish.bounds().until, Some(now.clone()));
        assert!(wish.moves_cursor());
        let first = Wish {
            saved: None,
            ..wish.clone()
        };
        assert_eq!(first.bounds().since, Some(start.clone()));
        let backfill = Wish {
            since: Some(&flag),
            ..wish.clone()
        };
        assert_eq!(backfill.bounds().since, Some(flag.clone()));
        assert!(
            backfill.moves_cursor(),
            "reads through to now, over the saved cursor"
        );
        assert!(
            !Wish {
                until: Some(&saved),
                ..backfill.clone()
            }
            .moves_cursor()
        );
        let later = at("2026-02-15");
        assert!(
            !Wish {
                since: Some(&later),
                ..wish
            }
            .moves_cursor(),
            "would leave a gap"
        );
    }

    #[test]
    fn spans_meet_and_cover() {
        let bounds = Bounds {
            since: Some(at("2026-01-01")),
            until: Some(at("2026-01-08T12:00:00Z")),
        };
        let spans = bounds.spans(Some(Duration::from_secs(3 * 86_400)));
        assert_eq!(spans.len(), 3);
        assert_eq!(spans[0].since, bounds.since);
        assert_eq!(spans[2].until, bounds.until);
        assert!(spans.windows(2).all(|w| w[0].until == w[1].since));
        assert_eq!(bounds.spans(None).len(), 1);
        let open = Bounds {
            since: None,
            ..bounds
        };
        assert_eq!(open.spans(Some(Duration::from_secs(1))).len(), 1);
    }
}
