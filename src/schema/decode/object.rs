//! The fields of a record, or of a RECORD inside one: which key goes to which column.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt::Write as _;

use arrow_array::ArrayRef;
use arrow_schema::Fields;
use jiter::{Jiter, JiterError, Peek};

use super::buffer::Buffer;
use super::watch::Watch;
use super::{Cell, Highest, MOST_UNKNOWN, Notes, Problem, fingerprint, is_extra};
use crate::schema::grow::News;
use crate::schema::name::{self, Spoken};
use crate::schema::{Column, Mode, landing};

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
    /// Columns that no field goes to.
    reserved: Vec<bool>,
    extra: Option<usize>,
    /// The column for [`fingerprint`]s, of the record itself.
    fingerprint: Option<usize>,
    /// Keys met so far; the first is none, the place before an object's first key.
    keys: Vec<Key>,
    known: HashMap<Box<str>, usize>,
    /// Of columns that several keys were for: the key that has it.
    owners: HashMap<usize, Box<str>>,
    /// Names that are written down.
    spoken: Spoken,
    /// What is known of keys no longer holds.
    stale: bool,
    /// What is noted for [`News`], where somebody wants it.
    watch: Option<Box<Watch>>,
    rows: usize,
}

/// A key met in a record.
struct Key {
    name: Box<str>,
    slot: Slot,
    /// Index of the key that followed it last time, and so is likely to follow it again.
    next: usize,
    /// Values looked at for their shape, of a key without a column.
    looked: u16,
}

/// Keys that come without end (an object used as a map) must not fill the memory.
const MOST_KEYS: usize = 10_000;

fn no_key() -> Key {
    Key {
        name: "".into(),
        slot: Slot::Nowhere,
        next: 0,
        looked: 0,
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
            reserved: vec![false; columns.len()],
            extra,
            fingerprint: None,
            keys: vec![no_key()],
            known: HashMap::new(),
            owners: HashMap::new(),
            spoken: Spoken::default(),
            stale: false,
            watch: None,
            rows: 0,
        }
    }

    /// See [`super::Decoder::watch`]. Only the columns of the record itself have others beside them.
    pub(super) fn watch(&mut self) {
        let lanes = self.path.is_empty();
        self.watch = Some(Box::new(Watch::new(&self.names, &self.columns, lanes)));
        self.columns.iter_mut().for_each(Buffer::watch);
    }

    /// See [`super::Decoder::go_by`].
    pub(super) fn go_by(&mut self, spoken: Spoken) {
        for (name, column) in self.names.iter().zip(&mut self.columns) {
            if let Some(object) = column.object_mut() {
                object.go_by(spoken.within(name));
            }
        }
        self.spoken = spoken;
        self.forget();
    }

    /// Names that are written down.
    pub(super) fn spoken(&self) -> &Spoken {
        &self.spoken
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// What the columns did not hold.
    pub(super) fn news(&self) -> News {
        self.watch
            .as_ref()
            .map(|w| w.news(&self.names, &self.columns))
            .unwrap_or_default()
    }

    /// Columns that no field goes to.
    pub(super) fn reserved(&self) -> impl Iterator<Item = &str> {
        let all = self.names.iter().zip(&self.reserved);
        all.filter_map(|(name, reserved)| reserved.then_some(name.as_str()))
    }

    /// Columns that are the same in all records, with their text.
    pub(super) fn constants(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.names.iter().zip(&self.constants);
        all.filter_map(|(name, text)| Some((name.as_str(), text.as_deref()?)))
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

    /// From here on no field goes to the column, which is null.
    pub(super) fn reserve(&mut self, column: &str) {
        for (name, reserved) in self.names.iter().zip(&mut self.reserved) {
            *reserved |= name.eq_ignore_ascii_case(column);
        }
        self.forget();
    }

    /// See [`super::Decoder::fingerprint_into`]; the column is one that no field goes to.
    pub(super) fn fingerprint_into(&mut self, column: &str) {
        let is = |name: &String| name.eq_ignore_ascii_case(column);
        self.fingerprint = self.names.iter().position(is);
    }

    /// The column that fingerprints go into.
    pub(super) fn fingerprinted(&self) -> Option<&str> {
        self.fingerprint.map(|i| self.names[i].as_str())
    }

    /// Puts the fingerprint of the record that was read last, and whose row is complete, where it belongs.
    pub(super) fn fingerprint(&mut self, record: &[u8], all: bool) {
        let Some(i) = self.fingerprint else { return };
        let mut constants: Vec<(String, &str)> = self
            .constants()
            .filter(|(name, _)| !landing::column::is_own(name))
            .map(|(name, text)| (name.to_lowercase(), text))
            .collect();
        constants.sort_unstable();
        let hash = fingerprint::of(record, self, all, &constants);
        self.columns[i].replace_last(&hash);
    }

    /// Whether a column is for the key, as found out by reading the record; and the columns of its fields,
    /// where it is of a RECORD or a list of them.
    pub(super) fn column_of(&self, key: &str) -> Option<Option<&Object>> {
        let slot = match self.known.get(key) {
            Some(key) => self.keys[*key].slot,
            None => self.resolve(key),
        };
        match slot {
            Slot::Column(i) => Some(self.columns[i].object().map(|(object, _)| object)),
            Slot::Nowhere => None,
        }
    }

    /// Reads one object. On a problem every column still gets one cell once [`Self::complete`] ran.
    pub(super) fn read(&mut self, json: &mut Jiter<'_>, peek: Peek, notes: &mut Notes) -> Cell {
        let wanted = self.rows + 1;
        if peek != Peek::Object {
            json.known_skip(peek)?;
            return Ok(Some(Problem::new("the value is not an object")));
        }
        if std::mem::take(&mut self.stale) {
            self.forget();
        }
        let mut problem = None;
        let mut key = match json.known_object()? {
            Some(name) => self.key(name, 0, notes),
            None => return Ok(self.missing(wanted)),
        };
        loop {
            let peek = json.peek()?;
            let slot = self.keys[key].slot;
            let found = match slot {
                Slot::Column(i) if self.columns[i].len() < wanted => match self.watch {
                    None => self.columns[i].read(json, peek, notes)?,
                    Some(_) => self.watched(i, json, peek, notes)?,
                },
                Slot::Column(i) if self.contest(i) => {
                    json.known_skip(peek)?;
                    notes.again = true;
                    None
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

    /// Reads a value, and where it does not fit puts it beside the column or notes so.
    fn watched(&mut self, i: usize, json: &mut Jiter<'_>, peek: Peek, notes: &mut Notes) -> Cell {
        let Some(watch) = &mut self.watch else {
            return self.columns[i].read(json, peek, notes);
        };
        let start = json.current_index();
        let found = match watch.trial(i) {
            None => self.columns[i].read(json, peek, notes)?,
            Some(column) => {
                json.known_skip(peek)?;
                let raw = json.slice_to_current(start);
                let again = |into: &mut Buffer, notes: &mut Notes| {
                    let mut json = Jiter::new(raw);
                    let peek = json.peek()?;
                    into.read(&mut json, peek, notes)
                };
                // What was read in part cannot be taken out of a list or a RECORD again.
                let mut scratch = Notes {
                    extra: notes.extra.as_ref().map(|_| String::new()),
                    ..Notes::default()
                };
                match again(&mut Buffer::new(column, ""), &mut scratch)? {
                    Some(problem) if !problem.absent && watch.has_lane(i, peek) => {
                        self.columns[i].push_missing();
                        Some(problem)
                    }
                    _ => again(&mut self.columns[i], notes)?,
                }
            }
        };
        let Some(problem) = found else {
            return Ok(None);
        };
        let raw = json.slice_to_current(start);
        if let Some(lane) = watch.lane(i, peek, &problem, &self.columns) {
            let mut json = Jiter::new(raw);
            let peek = json.peek()?;
            let beside = self.columns[lane].read(&mut json, peek, &mut Notes::default())?;
            if beside.is_none() {
                return Ok(None);
            }
        }
        watch.misfit(i, peek, raw, &problem);
        Ok(Some(problem))
    }

    /// Settles which of the keys that are for a column has it. `false`: that is settled, or it is one
    /// key, twice in a record.
    fn contest(&mut self, i: usize) -> bool {
        let claims = self.keys.iter().filter(|k| k.slot == Slot::Column(i));
        let best = claims.clone().map(|k| &*k.name).reduce(|a, b| {
            match self.fit(a, i).cmp(&self.fit(b, i)) {
                Ordering::Greater => a,
                Ordering::Less => b,
                Ordering::Equal => name::better(a, b),
            }
        });
        let Some(best) = best.filter(|_| claims.count() > 1) else {
            return false;
        };
        let best: Box<str> = best.into();
        self.owners.insert(i, best);
        self.stale = true;
        // What was noted of the column may have been of the other's values.
        if let Some(watch) = &mut self.watch {
            watch.forget(i);
        }
        true
    }

    /// The value of an unknown field: skipped, or kept for the extra column.
    fn nowhere(
        &mut self,
        json: &mut Jiter<'_>,
        peek: Peek,
        key: usize,
        notes: &mut Notes,
    ) -> Result<(), JiterError> {
        let start = json.current_index();
        json.known_skip(peek)?;
        if let Some(watch) = &mut self.watch
            && peek != Peek::Null
        {
            let key = &mut self.keys[key];
            if key.looked < Watch::LOOKS {
                key.looked += 1;
                watch.fresh(&key.name, json.slice_to_current(start));
            }
        }
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
    fn missing(&mut self, wanted: usize) -> Option<Box<Problem>> {
        let absent = |i: usize| {
            self.columns[i].len() < wanted
                && self.columns[i].mode() == Mode::Required
                && self.constants[i].is_none()
        };
        let first = (0..self.columns.len()).find(|i| absent(*i))?;
        if let Some(watch) = &mut self.watch {
            let all = (first..self.columns.len()).filter(|i| {
                self.columns[*i].len() < wanted
                    && self.columns[*i].mode() == Mode::Required
                    && self.constants[*i].is_none()
            });
            watch.absent.extend(all);
        }
        Some(Problem::absent("a required field is missing").within(&self.names[first]))
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
            looked: 0,
        });
        self.known.insert(name.into(), key);
        key
    }

    fn forget(&mut self) {
        self.keys = vec![no_key()];
        self.known.clear();
    }

    /// The key's column, by the rule of [`name`]; not where another key has it.
    fn resolve(&self, key: &str) -> Slot {
        // No key finds a column that is not to be filled from records.
        const NOBODYS: &str = "\u{0}";
        let names = (0..self.names.len()).map(|i| {
            let free = self.constants[i].is_none() && !self.reserved[i] && Some(i) != self.extra;
            if free {
                self.names[i].as_str()
            } else {
                NOBODYS
            }
        });
        match name::find(key, names, &self.spoken) {
            Some((i, fit)) if key != NOBODYS => match self.owners.get(&i) {
                Some(owner) if **owner != *key && Some(fit) <= self.fit(owner, i) => Slot::Nowhere,
                _ => Slot::Column(i),
            },
            _ => Slot::Nowhere,
        }
    }

    /// How well a key fits a column, were it the only one.
    fn fit(&self, key: &str, i: usize) -> Option<name::Fit> {
        let only = std::iter::once(self.names[i].as_str());
        name::find(key, only, &self.spoken).map(|(_, fit)| fit)
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
