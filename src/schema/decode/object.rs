//! The fields of a record, or of a RECORD inside one: which key goes to which column.

use std::collections::HashMap;
use std::fmt::Write as _;

use arrow_array::ArrayRef;
use arrow_schema::Fields;
use jiter::{Jiter, JiterError, Peek};

use super::buffer::Buffer;
use super::{Cell, Highest, MOST_UNKNOWN, Notes, Problem, is_extra};
use crate::schema::{Column, Mode, name};

/// Where a key's value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Column(usize),
    Nowhere,
}

pub(super) struct Object {
    /// Dotted name of this object in the record, empty for the record itself.
    path: String,
    names: Vec<String>,
    columns: Vec<Buffer>,
    constants: Vec<Option<String>>,
    extra: Option<usize>,
    /// Keys met so far; the first is none, the place before an object's first key.
    keys: Vec<Key>,
    known: HashMap<Box<str>, usize>,
    rows: usize,
}

/// A key met in a record.
struct Key {
    name: Box<str>,
    slot: Slot,
    /// Index of the key that followed it last time, and so is likely to follow it again.
    next: usize,
}

/// Keys that come without end (an object used as a map) must not fill the memory.
const MOST_KEYS: usize = 10_000;

fn no_key() -> Key {
    Key {
        name: "".into(),
        slot: Slot::Nowhere,
        next: 0,
    }
}

impl Object {
    pub(super) fn new(columns: &[Column], path: &str) -> Self {
        let extra = if path.is_empty() {
            columns.iter().position(is_extra)
        } else {
            None
        };
        Self {
            path: path.to_owned(),
            names: columns.iter().map(|c| c.name.clone()).collect(),
            columns: columns
                .iter()
                .map(|c| {
                    let path = if path.is_empty() {
                        c.name.clone()
                    } else {
                        format!("{path}.{}", c.name)
                    };
                    Buffer::new(c, &path)
                })
                .collect(),
            constants: vec![None; columns.len()],
            extra,
            keys: vec![no_key()],
            known: HashMap::new(),
            rows: 0,
        }
    }

    pub(super) fn set_constant(&mut self, column: &str, text: &str) -> Result<(), &'static str> {
        let i = self
            .names
            .iter()
            .position(|n| n.eq_ignore_ascii_case(column))
            .ok_or("the table has no such column")?;
        // Tried on a buffer of its own, so that a refusal leaves no trace.
        self.columns[i].accepts(text)?;
        if self.constants[i].is_none() {
            self.forget();
        }
        self.constants[i] = Some(text.to_owned());
        Ok(())
    }

    /// Reads one object. On a problem every column still gets one cell once [`Self::complete`] ran.
    pub(super) fn read(&mut self, json: &mut Jiter<'_>, peek: Peek, notes: &mut Notes) -> Cell {
        let wanted = self.rows + 1;
        if peek != Peek::Object {
            json.known_skip(peek)?;
            return Ok(Some(Problem::new("the value is not an object")));
        }
        let mut problem = None;
        let mut key = match json.known_object()? {
            Some(name) => self.key(name, 0, notes),
            None => return Ok(self.missing(wanted)),
        };
        loop {
            let peek = json.peek()?;
            let found = match self.keys[key].slot {
                Slot::Column(i) if self.columns[i].len() < wanted => {
                    self.columns[i].read(json, peek, notes)?
                }
                Slot::Column(_) if notes.extra.is_none() => {
                    json.known_skip(peek)?;
                    Some(Problem::new("two fields are for the same column"))
                }
                Slot::Column(_) | Slot::Nowhere => {
                    self.nowhere(json, peek, key, notes)?;
                    None
                }
            };
            if let Some(found) = found
                && problem.is_none()
            {
                problem = Some(found.within(&self.keys[key].name));
            }
            key = match json.next_key()? {
                Some(name) => self.key(name, key, notes),
                None => return Ok(problem.or_else(|| self.missing(wanted))),
            };
        }
    }

    /// The value of an unknown field: skipped, or kept for the extra column.
    fn nowhere(
        &self,
        json: &mut Jiter<'_>,
        peek: Peek,
        key: usize,
        notes: &mut Notes,
    ) -> Result<(), JiterError> {
        let start = json.current_index();
        json.known_skip(peek)?;
        if let Some(extra) = &mut notes.extra {
            let key = &self.keys[key].name;
            let name = if self.path.is_empty() {
                key.to_string()
            } else {
                format!("{}.{key}", self.path)
            };
            extra.push(if extra.is_empty() { '{' } else { ',' });
            let raw = String::from_utf8_lossy(json.slice_to_current(start));
            let _ = write!(extra, "{}:{}", serde_json::Value::String(name), raw);
        }
        Ok(())
    }

    /// The first REQUIRED column that the object did not have.
    fn missing(&self, wanted: usize) -> Option<Box<Problem>> {
        let absent = |i: usize| {
            self.columns[i].len() < wanted
                && self.columns[i].mode() == Mode::Required
                && self.constants[i].is_none()
        };
        (0..self.columns.len())
            .find(|i| absent(*i))
            .map(|i| Problem::new("a required field is missing").within(&self.names[i]))
    }

    /// Gives every column a cell for row number `rows`.
    pub(super) fn complete(&mut self, rows: usize, notes: &mut Notes) {
        self.rows = rows;
        for (i, column) in self.columns.iter_mut().enumerate() {
            if column.len() < rows {
                match &self.constants[i] {
                    Some(text) => column.push_constant(text),
                    None => column.push_missing(),
                }
            }
        }
        if let (Some(i), Some(extra)) = (self.extra, &mut notes.extra)
            && !extra.is_empty()
        {
            extra.push('}');
            self.columns[i].replace_last(extra);
            extra.clear();
        }
    }

    /// Index of the key that came after `previous`.
    fn key(&mut self, name: &str, previous: usize, notes: &mut Notes) -> usize {
        let likely = self.keys[previous].next;
        if *self.keys[likely].name == *name && likely != 0 {
            return likely;
        }
        if let Some(key) = self.known.get(name) {
            self.keys[previous].next = *key;
            return *key;
        }
        let slot = self.resolve(name);
        if slot == Slot::Nowhere && notes.unknown.len() < MOST_UNKNOWN {
            let dot = if self.path.is_empty() { "" } else { "." };
            notes.unknown.insert(format!("{}{dot}{name}", self.path));
        }
        if self.keys.len() >= MOST_KEYS {
            self.forget();
        } else {
            self.keys[previous].next = self.keys.len();
        }
        let key = self.keys.len();
        self.keys.push(Key {
            name: name.into(),
            slot,
            next: 0,
        });
        self.known.insert(name.into(), key);
        key
    }

    fn forget(&mut self) {
        self.keys = vec![no_key()];
        self.known.clear();
    }

    /// The column of exactly that name, else the one that the key normalizes to.
    fn resolve(&self, key: &str) -> Slot {
        let free = |i: &usize| self.constants[*i].is_none() && Some(*i) != self.extra;
        let find = |test: &dyn Fn(&str) -> bool| {
            (0..self.names.len()).find(|i| test(&self.names[*i]) && free(i))
        };
        let normal = name::normalize(key);
        find(&|n| n == key)
            .or_else(|| find(&|n| n.eq_ignore_ascii_case(&normal)))
            .map_or(Slot::Nowhere, Slot::Column)
    }

    /// See [`Buffer::highest`]; `path` begins at this object's fields.
    pub(super) fn highest(&self, path: &[String], from: usize) -> Option<Highest> {
        let (first, rest) = path.split_first()?;
        let i = self
            .names
            .iter()
            .position(|n| n.eq_ignore_ascii_case(first))?;
        self.columns[i].highest(rest, from)
    }

    /// See [`Buffer::is_ascending`]; `path` begins at this object's fields.
    pub(super) fn is_ascending(&self, path: &[String], cells: &[usize]) -> bool {
        let Some((first, rest)) = path.split_first() else {
            return true;
        };
        let column = self
            .names
            .iter()
            .position(|n| n.eq_ignore_ascii_case(first));
        column.is_none_or(|i| self.columns[i].is_ascending(rest, cells))
    }

    pub(super) fn finish(&mut self, fields: &Fields) -> Vec<ArrayRef> {
        self.rows = 0;
        self.columns
            .iter_mut()
            .zip(fields)
            .map(|(c, f)| c.finish(f))
            .collect()
    }
}
