//! Cursor values: how new a record is, comparable, as text in a checkpoint, and as a bound in a
//! request.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::connector::TimeFormat;
use crate::error::{Error, Result};
use crate::schema::decode::{Decoder, Highest};
use crate::schema::{Column, ColumnType, Mode, TableSchema, value};

/// A cursor value. All values of a stream are of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cursor {
    /// A point in time.
    Time(Timestamp),
    /// A number that grows.
    Number(i64),
    /// Text that sorts.
    Text(String),
}

/// What kind a stream's cursor is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorKind {
    /// From TIMESTAMP, DATETIME and DATE columns.
    Time,
    /// From INT64 columns.
    Number,
    /// From STRING columns.
    Text,
}

impl Cursor {
    /// Reads a cursor as a checkpoint, a flag or a record holds it.
    pub fn parse(kind: CursorKind, text: &str) -> Option<Self> {
        match kind {
            CursorKind::Time => {
                let micros =
                    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && !text.is_empty() {
                        value::epoch(text)
                    } else {
                        value::timestamp(text)
                    };
                Timestamp::from_microsecond(micros.ok()?)
                    .ok()
                    .map(Self::Time)
            }
            CursorKind::Number => text.parse().ok().map(Self::Number),
            CursorKind::Text => Some(Self::Text(text.to_owned())),
        }
    }

    /// The value earlier by `by`; other kinds than times stay.
    #[must_use]
    pub fn minus(&self, by: Duration) -> Self {
        match self {
            Self::Time(t) => {
                let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
                Self::Time(t.checked_sub(by).unwrap_or(Timestamp::MIN))
            }
            other => other.clone(),
        }
    }

    /// The value later by `by`; other kinds than times stay.
    #[must_use]
    pub fn plus(&self, by: Duration) -> Self {
        match self {
            Self::Time(t) => {
                let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
                Self::Time(t.checked_add(by).unwrap_or(Timestamp::MAX))
            }
            other => other.clone(),
        }
    }

    /// The next lower value: an API whose lower bound leaves its own value out still gives all that
    /// share it. `None` for text, which has none.
    pub fn just_below(&self) -> Option<Self> {
        match self {
            Self::Time(_) => Some(self.minus(Duration::from_micros(1))),
            Self::Number(n) => Some(Self::Number(n.saturating_sub(1))),
            Self::Text(_) => None,
        }
    }

    /// As a request's parameter. Times finer than the format are cut, so that a lower bound never
    /// skips anything.
    pub fn format(&self, format: &TimeFormat) -> String {
        let Self::Time(t) = self else {
            return self.to_string();
        };
        match format {
            TimeFormat::Rfc3339 => t.to_string(),
            TimeFormat::Date => t.to_zoned(TimeZone::UTC).date().to_string(),
            TimeFormat::EpochSeconds => t.as_second().to_string(),
            TimeFormat::EpochMillis => t.as_millisecond().to_string(),
            TimeFormat::Strftime(pattern) => t.strftime(pattern).to_string(),
        }
    }
}

/// As a checkpoint holds it: RFC 3339 in UTC, a number, or the text.
impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Time(t) => write!(f, "{t}"),
            Self::Number(n) => write!(f, "{n}"),
            Self::Text(t) => f.write_str(t),
        }
    }
}

/// The cursor's place in the stream's rows.
#[derive(Clone, Debug)]
pub struct CursorColumn {
    path: Vec<String>,
    column: ColumnType,
    /// Its kind.
    pub kind: CursorKind,
}

impl CursorColumn {
    /// The column of that dotted name.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`] when there is none or it cannot be a cursor.
    pub fn find(schema: &TableSchema, name: &str, stream: &str) -> Result<Self> {
        let column = resolve(&schema.columns, name).ok_or_else(|| {
            Error::config(format!(
                "stream `{stream}` has the cursor `{name}`, which its table has no column for"
            ))
            .hint("name a column of the stream's schema in `incremental.cursor`")
        })?;
        let kind = match (column.kind, column.mode) {
            (_, Mode::Repeated) => None,
            (ColumnType::Timestamp | ColumnType::DateTime | ColumnType::Date, _) => {
                Some(CursorKind::Time)
            }
            (ColumnType::Int64, _) => Some(CursorKind::Number),
            (ColumnType::String, _) => Some(CursorKind::Text),
            _ => None,
        };
        let kind = kind.ok_or_else(|| {
            Error::config(format!(
                "stream `{stream}` has the cursor `{name}`, a column of type {}",
                column.kind.sql()
            ))
            .hint("a cursor is a TIMESTAMP, DATETIME, DATE, INT64 or STRING that is no list")
        })?;
        Ok(Self {
            path: name.split('.').map(str::to_owned).collect(),
            column: column.kind,
            kind,
        })
    }

    /// Whether the records that a decoder read since `position` come in ascending order.
    pub fn is_ascending(&self, decoder: &Decoder, position: usize) -> bool {
        decoder.is_ascending(&self.path, position)
    }

    /// Makes a decoder leave out records below `floor`.
    pub fn set_floor(&self, decoder: &mut Decoder, floor: Option<&Cursor>) {
        let bits = floor.and_then(|floor| match floor {
            Cursor::Time(t) if self.column == ColumnType::Date => {
                i32::try_from(t.as_second().div_euclid(86_400))
                    .ok()
                    .map(Highest::Days)
            }
            Cursor::Time(t) => Some(Highest::Micros(t.as_microsecond())),
            Cursor::Number(n) => Some(Highest::Number(*n)),
            Cursor::Text(t) => Some(Highest::Text(t.clone())),
        });
        decoder.set_floor(&self.path, bits);
    }

    /// The highest value in the records that a decoder read since `position`; `None` when all are
    /// null.
    pub fn highest(&self, decoder: &Decoder, position: usize) -> Option<Cursor> {
        let micros = |m: i64| Timestamp::from_microsecond(m).ok().map(Cursor::Time);
        match decoder.highest(&self.path, position)? {
            Highest::Number(n) => Some(Cursor::Number(n)),
            Highest::Micros(m) => micros(m),
            Highest::Days(d) => micros(i64::from(d) * 86_400_000_000),
            Highest::Text(t) => Some(Cursor::Text(t)),
        }
    }
}

fn resolve<'a>(columns: &'a [Column], name: &str) -> Option<&'a Column> {
    let (first, rest) = name
        .split_once('.')
        .map_or((name, None), |(f, r)| (f, Some(r)));
    let column = columns
        .iter()
        .find(|c| c.name.eq_ignore_ascii_case(first))?;
    rest.map_or(Some(column), |rest| resolve(&column.fields, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        let t = Cursor::parse(CursorKind::Time, "2026-01-02T03:04:05.123456+01:00").unwrap();
        assert_eq!(t.to_string(), "2026-01-02T02:04:05.123456Z");
        assert_eq!(t.format(&TimeFormat::Date), "2026-01-02");
        assert_eq!(t.format(&TimeFormat::EpochSeconds), "1767319445");
        assert_eq!(t.format(&TimeFormat::EpochMillis), "1767319445123");
        assert_eq!(
            t.format(&TimeFormat::Strftime("%d.%m.%Y".into())),
            "02.01.2026"
        );
        assert_eq!(
            t.minus(Duration::from_secs(3600)).to_string(),
            "2026-01-02T01:04:05.123456Z"
        );
        assert_eq!(
            Cursor::parse(CursorKind::Time, "1767319445"),
            Cursor::parse(CursorKind::Time, "2026-01-02T02:04:05Z")
        );
        assert_eq!(Cursor::parse(CursorKind::Number, "x"), None);
        assert_eq!(
            t.just_below().unwrap().to_string(),
            "2026-01-02T02:04:05.123455Z"
        );
    }
}
