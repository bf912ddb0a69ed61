//! JSON records → Arrow batches, typed by the table's schema, in one pass over the bytes and without
//! a value tree.
//!
//! A record that does not fit is kept as a [`Reject`] with its reason and its text; its neighbours
//! are not touched. Numbers are read from their text, so nothing passes through a double that is
//! not one.

mod buffer;
mod cell;
mod fingerprint;
mod object;
mod watch;

use std::collections::BTreeSet;

use arrow_array::{BooleanArray, RecordBatch};
use arrow_buffer::BooleanBufferBuilder;
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;
use jiter::{Jiter, JiterError, Peek};

use super::grow::News;
use super::name::Spoken;
use super::{Column, ColumnType, Mode, TableSchema, arrow_schema};
use crate::error::{Error, ErrorKind, Result};
use object::Object;

/// Column that takes the fields no other column is for, as one JSON object by dotted name.
pub const EXTRA_COLUMN: &str = "_extra";

/// Whether a top-level column is the [`EXTRA_COLUMN`].
fn is_extra(column: &Column) -> bool {
    column.name == EXTRA_COLUMN && column.kind == ColumnType::Json && column.mode == Mode::Nullable
}

/// Names of unknown fields that are remembered.
const MOST_UNKNOWN: usize = 20;

/// A record that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Why, without the value.
    pub reason: String,
    /// Where, as a JSON pointer.
    pub path: String,
    /// The record as received.
    pub record: String,
}

/// The highest value of a column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd)]
pub enum Highest {
    /// Of an INT64.
    Number(i64),
    /// Of a TIMESTAMP, DATETIME or TIME.
    Micros(i64),
    /// Of a DATE, in days since 1970.
    Days(i32),
    /// Of a STRING.
    Text(String),
}

/// Turns records into batches of one schema. Not shared between streams.
pub struct Decoder {
    schema: SchemaRef,
    root: Object,
    notes: Notes,
    /// Per row since the last batch: whether it fits. Empty while all do.
    keep: Option<BooleanBufferBuilder>,
    rows: usize,
    kept: usize,
    bytes: usize,
    rejects: Vec<Reject>,
    floor: Option<(Vec<String>, Highest)>,
    skipped: u64,
}

/// What is noticed on the way through a record.
#[derive(Debug, Default)]
struct Notes {
    unknown: BTreeSet<String>,
    /// The [`EXTRA_COLUMN`]'s object for the record at hand, when the table has that column.
    extra: Option<String>,
    /// Two keys of the record were for one column, and it is settled now which of them has it: the
    /// record is to be read again.
    again: bool,
}

/// Why and where a record does not fit.
#[derive(Debug)]
struct Problem {
    reason: &'static str,
    path: String,
    /// A REQUIRED column has no value; else there is one that does not fit.
    absent: bool,
}

impl Problem {
    fn new(reason: &'static str) -> Box<Self> {
        Box::new(Self {
            reason,
            path: String::new(),
            absent: false,
        })
    }

    fn absent(reason: &'static str) -> Box<Self> {
        Box::new(Self {
            absent: true,
            ..*Self::new(reason)
        })
    }

    /// Puts a step in front of the path.
    fn within(mut self: Box<Self>, step: &str) -> Box<Self> {
        let step = step.replace('~', "~0").replace('/', "~1");
        self.path = format!("/{step}{}", self.path);
        self
    }
}

/// What reading a value gives: the value is in its buffer, or a placeholder is and the record has a
/// problem. `Err` is broken JSON.
type Cell = Result<Option<Box<Problem>>, JiterError>;

impl Decoder {
    /// A decoder for tables of this schema.
    pub fn new(schema: &TableSchema) -> Self {
        let extra = schema.columns.iter().any(is_extra);
        Self {
            schema: arrow_schema(schema),
            root: Object::new(&schema.columns, ""),
            notes: Notes {
                extra: extra.then(String::new),
                ..Notes::default()
            },
            keep: None,
            rows: 0,
            kept: 0,
            bytes: 0,
            rejects: Vec::new(),
            floor: None,
            skipped: 0,
        }
    }

    /// Notes from here on what the columns do not hold, for [`Self::news`]; and puts values that do not
    /// fit a column into the one beside it that is for them, where there is one.
    pub fn watch(&mut self) {
        self.root.watch();
    }

    /// What the columns did not hold since [`Self::watch`].
    pub fn news(&self) -> News {
        self.root.news()
    }

    /// Gives the columns of these names to the fields that are spelled so, from here on.
    pub fn go_by(&mut self, spoken: Spoken) {
        self.root.go_by(spoken);
    }

    /// What it was told by [`Self::go_by`].
    pub fn spoken(&self) -> &Spoken {
        self.root.spoken()
    }

    /// A decoder for the table with other columns, that goes on as this one would: by the same names, with its
    /// constants, the columns that stay null, its floor, and the names of unknown fields. Only between batches.
    ///
    /// # Errors
    /// As [`Self::set_constant`].
    pub fn with_columns(&self, schema: &TableSchema) -> Result<Self> {
        let mut fresh = Self::new(schema);
        fresh.go_by(self.root.spoken().clone());
        for (column, text) in self.root.constants() {
            fresh.set_constant(column, text)?;
        }
        self.root.reserved().for_each(|c| fresh.reserve(c));
        if let Some(column) = self.root.fingerprinted() {
            fresh.fingerprint_into(column)?;
        }
        fresh.floor.clone_from(&self.floor);
        fresh.skipped = self.skipped;
        fresh.notes.unknown.clone_from(&self.notes.unknown);
        if self.root.is_watched() {
            fresh.watch();
        }
        Ok(fresh)
    }

    /// Leaves out, from here on, records whose value in the column at `path` is below `floor`:
    /// they were read before. Records without a value stay.
    pub fn set_floor(&mut self, path: &[String], floor: Option<Highest>) {
        self.floor = floor.map(|floor| (path.to_vec(), floor));
    }

    /// Takes the number of records left out since this was last asked.
    pub fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    /// Counts a record that was left out before it came here among those skipped.
    pub fn pass_over(&mut self) {
        self.skipped += 1;
    }

    /// Sets a column that has the same value in all records from here on, whatever they hold.
    ///
    /// # Errors
    /// [`ErrorKind::Schema`] when there is no such column or its type cannot hold the text.
    pub fn set_constant(&mut self, column: &str, text: &str) -> Result<()> {
        self.root.set_constant(column, text).map_err(|reason| {
            Error::new(
                ErrorKind::Schema,
                format!("could not fill column `{column}`: {reason}"),
            )
            .hint("declare the column in the stream's schema with a type that holds the value")
        })
    }

    /// Keeps a nullable column null from here on, whatever fields the records have.
    pub fn reserve(&mut self, column: &str) {
        self.root.reserve(column);
    }

    /// Puts into a STRING column, which no field goes to, a hash that tells versions of a record apart: of
    /// the fields that the table keeps, whatever its columns, and of [`Self::set_constant`]'s, but for those
    /// of the engine.
    ///
    /// # Errors
    /// As [`Self::set_constant`].
    pub fn fingerprint_into(&mut self, column: &str) -> Result<()> {
        self.set_constant(column, "")?;
        self.root.fingerprint_into(column);
        Ok(())
    }

    /// Reads the record at the cursor, which is left behind it.
    ///
    /// # Errors
    /// Broken JSON. The row is then dropped from the batch and the cursor is wherever the reader
    /// stopped; [`Self::reject`] can keep the record's text.
    pub fn record(&mut self, json: &mut Jiter<'_>, peek: Peek) -> Result<(), JiterError> {
        let start = json.current_index();
        let mut outcome = self.row(json, peek);
        while std::mem::take(&mut self.notes.again) && outcome.is_ok() {
            self.drop_row();
            let mut again = Jiter::new(json.slice_to_current(start));
            let peek = again.peek()?;
            outcome = self.row(&mut again, peek);
        }
        let problem = match outcome {
            Ok(None) => None,
            Ok(Some(problem)) => Some(problem),
            Err(broken) => {
                self.drop_row();
                return Err(broken);
            }
        };
        self.bytes += json.current_index() - start;
        match problem {
            None if self.is_known() => {
                self.skipped += 1;
                self.drop_row();
            }
            None => {
                let all = self.notes.extra.is_some();
                self.root.fingerprint(json.slice_to_current(start), all);
                self.kept += 1;
                if let Some(keep) = &mut self.keep {
                    keep.append(true);
                }
            }
            Some(problem) => {
                self.drop_row();
                let text = String::from_utf8_lossy(json.slice_to_current(start)).into_owned();
                self.reject(problem.reason.to_owned(), problem.path, text);
            }
        }
        Ok(())
    }

    /// Reads a record into a row of its own.
    fn row(&mut self, json: &mut Jiter<'_>, peek: Peek) -> Cell {
        let outcome = self.root.read(json, peek, &mut self.notes);
        self.rows += 1;
        self.root.complete(self.rows, &mut self.notes);
        outcome
    }

    /// Keeps a record that could not be read at all.
    pub fn reject(&mut self, reason: String, path: String, record: String) {
        self.bytes += record.len();
        self.rejects.push(Reject {
            reason,
            path,
            record,
        });
    }

    /// Whether the last row is below the floor.
    fn is_known(&self) -> bool {
        self.floor.as_ref().is_some_and(|(path, floor)| {
            self.root
                .highest(path, self.rows - 1)
                .is_some_and(|value| value < *floor)
        })
    }

    fn drop_row(&mut self) {
        let before = self.rows - 1;
        self.keep
            .get_or_insert_with(|| {
                let mut keep = BooleanBufferBuilder::new(before + 1024);
                keep.append_n(before, true);
                keep
            })
            .append(false);
    }

    /// Rows that the next batch will have.
    pub fn len(&self) -> usize {
        self.kept
    }

    /// Whether there is neither a row nor a reject to take.
    pub fn is_empty(&self) -> bool {
        self.kept == 0 && self.rejects.is_empty()
    }

    /// Rejects that [`Self::take_rejects`] would give.
    pub fn rejected(&self) -> usize {
        self.rejects.len()
    }

    /// Bytes of JSON since the last batch, rejects included: about what is held in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Records read since the last batch, those that were dropped included.
    pub fn position(&self) -> usize {
        self.rows
    }

    /// The highest value of the column at `path` (its name, and its fields' names inside RECORDs) in
    /// the records since `position`.
    pub fn highest(&self, path: &[String], position: usize) -> Option<Highest> {
        self.root.highest(path, position)
    }

    /// Whether the column at `path` ascends over the records since `position` that fit, nulls aside.
    pub fn is_ascending(&self, path: &[String], position: usize) -> bool {
        let fits = |i: &usize| self.keep.as_ref().is_none_or(|keep| keep.get_bit(*i));
        let rows: Vec<usize> = (position..self.rows).filter(fits).collect();
        self.root.is_ascending(path, &rows)
    }

    /// Takes the rows so far, `None` when there are none.
    ///
    /// # Errors
    /// [`ErrorKind::Bug`] only.
    pub fn take(&mut self) -> Result<Option<RecordBatch>> {
        let bug = |e| Error::new(ErrorKind::Bug, "could not build a batch").source(e);
        if self.rows == 0 {
            return Ok(None);
        }
        let columns = self.root.finish(self.schema.fields());
        let keep = self
            .keep
            .take()
            .map(|mut k| BooleanArray::new(k.finish(), None));
        let empty = self.kept == 0;
        self.rows = 0;
        self.kept = 0;
        self.bytes = 0;
        if empty {
            return Ok(None);
        }
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(bug)?;
        match keep {
            None => Ok(Some(batch)),
            Some(keep) => filter_record_batch(&batch, &keep).map(Some).map_err(bug),
        }
    }

    /// Takes the rejects so far.
    pub fn take_rejects(&mut self) -> Vec<Reject> {
        std::mem::take(&mut self.rejects)
    }

    /// Where and why the first of the rejects since they were last taken does not fit.
    pub fn first_reject(&self) -> Option<(&str, &str)> {
        let first = self.rejects.first()?;
        Some((&first.path, &first.reason))
    }

    /// Names of fields that no column of their own is for, the first few.
    pub fn unknown_fields(&self) -> &BTreeSet<String> {
        &self.notes.unknown
    }

    /// The Arrow schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

#[cfg(test)]
mod tests;
