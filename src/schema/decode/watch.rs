//! What is noted on the way through the fields of an object that its columns do not hold. All of it is
//! bounded, and nothing of it is touched by fields that fit.

use std::collections::{BTreeMap, BTreeSet};

use jiter::{Jiter, Peek};

use super::Problem;
use super::buffer::Buffer;
use crate::schema::grow::{JSON_LANE, Misfit, News, TEXT_LANE};
use crate::schema::shape::{Fields, Shape, shape};
use crate::schema::{Column, ColumnType, Mode, name};

/// See [`News`], of one object.
pub(super) struct Watch {
    fresh: Fields,
    /// REQUIRED columns without a value, by position.
    pub(super) absent: BTreeSet<usize>,
    misfits: BTreeMap<usize, Misfit>,
    /// Of each column the one beside it for single values, and the one for lists and objects.
    lanes: Vec<Lanes>,
}

#[derive(Clone, Default)]
struct Lanes {
    text: Option<usize>,
    json: Option<usize>,
    /// Of a list or a RECORD with one of them: what it is tried on first.
    trial: Option<Column>,
}

impl Watch {
    /// Values of a field that are looked at for their shape.
    pub(super) const LOOKS: u16 = 1_000;
    /// Fields whose shapes are kept.
    const MOST_FRESH: usize = 1_000;

    pub(super) fn new(names: &[String], columns: &[Buffer], lanes: bool) -> Self {
        let beside = |name: &str, suffix: &str, kind: ColumnType| {
            let lane = name::suffixed(name, suffix);
            let is = |(n, c): (&String, &Buffer)| {
                n.eq_ignore_ascii_case(&lane) && c.is_plain(kind, Mode::Nullable)
            };
            names.iter().zip(columns).position(is).filter(|_| lanes)
        };
        let of = |(name, column): (&String, &Buffer)| {
            let text = beside(name, TEXT_LANE, ColumnType::String);
            let json = beside(name, JSON_LANE, ColumnType::Json);
            let any = text.is_some() || json.is_some();
            Lanes {
                text,
                json,
                trial: column.nested().filter(|_| any).cloned(),
            }
        };
        Self {
            fresh: Fields::default(),
            absent: BTreeSet::new(),
            misfits: BTreeMap::new(),
            lanes: names.iter().zip(columns).map(of).collect(),
        }
    }

    /// What a list or a RECORD that has a column beside it is tried on.
    pub(super) fn trial(&self, i: usize) -> Option<&Column> {
        self.lanes.get(i)?.trial.as_ref()
    }

    /// Whether there is a column beside this one for such values.
    pub(super) fn has_lane(&self, i: usize, peek: Peek) -> bool {
        self.lanes.get(i).is_some_and(|l| l.of(peek).is_some())
    }

    /// The column for a value that does not fit this one, when that can be null and it is still empty.
    pub(super) fn lane(
        &self,
        i: usize,
        peek: Peek,
        problem: &Problem,
        columns: &[Buffer],
    ) -> Option<usize> {
        let lane = self.lanes.get(i)?.of(peek)?;
        let free = columns[lane].len() < columns[i].len();
        let can = !problem.absent && columns[i].mode() != Mode::Required;
        (free && can).then_some(lane)
    }

    /// Notes a value that does not fit.
    pub(super) fn misfit(&mut self, i: usize, peek: Peek, raw: &[u8], problem: &Problem) {
        if problem.absent {
            // Of a column further inside its own object knows.
            if problem.path.is_empty() {
                self.absent.insert(i);
            }
            return;
        }
        let number = peek.is_num();
        let whole = number && !raw.iter().any(|b| matches!(b, b'.' | b'e' | b'E'));
        let nested = matches!(peek, Peek::Array | Peek::Object);
        self.misfits.entry(i).or_default().join(Misfit {
            whole,
            fraction: number && !whole,
            other: !number && !nested,
            nested,
        });
    }

    /// Forgets what did not fit a column.
    pub(super) fn forget(&mut self, i: usize) {
        self.misfits.remove(&i);
        self.absent.remove(&i);
    }

    /// Notes a value of a field without a column.
    pub(super) fn fresh(&mut self, key: &str, raw: &[u8]) {
        if self.fresh.len() >= Self::MOST_FRESH && self.fresh.get(key).is_none() {
            return;
        }
        let mut json = Jiter::new(raw);
        if let Ok(peek) = json.peek()
            && let Ok(found) = shape(&mut json, peek, 0)
        {
            self.fresh.add(key, found);
        }
    }

    /// All that was noted, RECORDs' own included.
    pub(super) fn news(&self, names: &[String], columns: &[Buffer]) -> News {
        let name = |i: &usize| names[*i].clone();
        let mut news = News {
            fresh: self.fresh.clone(),
            absent: self.absent.iter().map(|i| vec![name(i)]).collect(),
            misfits: self.misfits.iter().map(|(i, m)| (name(i), *m)).collect(),
        };
        for (column, buffer) in names.iter().zip(columns) {
            let Some((object, list)) = buffer.object() else {
                continue;
            };
            let inner = object.news();
            if inner.fresh.len() > 0 {
                let shape = Shape::Object(inner.fresh);
                let shape = match list {
                    true => Shape::List(Box::new(shape)),
                    false => shape,
                };
                news.fresh.add(column, shape);
            }
            for mut path in inner.absent {
                path.insert(0, column.clone());
                news.absent.insert(path);
            }
        }
        news
    }
}

impl Lanes {
    fn of(&self, peek: Peek) -> Option<usize> {
        match peek {
            Peek::Array | Peek::Object => self.json,
            _ => self.text,
        }
    }
}
