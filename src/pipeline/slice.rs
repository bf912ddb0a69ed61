//! The slice being filled: decodes pages into batches, stages them, and publishes with a checkpoint.
//!
//! | module | owns |
//! |---|---|
//! | here | what is read: pages, batches, marks |
//! | `publish` | how a slice ends, and what the table is given between two |
//! | `tally` | whether the counts add up, and what reading cost |

mod publish;
mod tally;

use std::sync::Arc;
use std::time::Instant;

use arrow_array::RecordBatch;
use tracing::{Instrument as _, Span};

use self::tally::{Cost, Tally};
use super::contract;
use super::cursor::{Cursor, CursorColumn};
use super::seam::{Seam, Seamed};
use super::stage::{Budget, Stager};
use super::table;
use crate::clock::SharedClock;
use crate::destination::rejects;
use crate::destination::{Absent, Base, BatchKind, Destination, Disposition, TableSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::decode::Decoder;
use crate::schema::landing::{Contract, column};
use crate::schema::name::Spoken;
use crate::source::records::{Layout, Walked};
use crate::telemetry::{Meter, span};

/// Rows after which a batch is handed over, whatever its size.
const BATCH_ROWS: usize = 16 * 1024;
/// JSON bytes after which a batch is handed over, when the budget allows that much.
const BATCH_BYTES: usize = 2 << 20;

/// Fills slices of one stream's table, one after the other.
pub struct SliceWriter {
    destination: Arc<dyn Destination>,
    table: TableSpec,
    run_id: String,
    base: Base,
    clock: SharedClock,
    budget: Budget,
    meter: Arc<Meter>,
    decoder: Decoder,
    contract: Contract,
    /// Rows say when they were received.
    stamped: bool,
    cursor: Option<CursorColumn>,
    /// In streams that append.
    seam: Option<Seam>,
    batch_bytes: usize,
    open: Option<Open>,
    /// Slices opened so far.
    slices: u32,
    /// Highest cursor in the records read since [`Self::take_highest`].
    highest: Option<Cursor>,
    /// What was read is known not to be all that there is.
    partial: bool,
    /// Records since the last publish.
    tally: Tally,
    /// What it took to read them is counted from here.
    cost: Cost,
    /// The saved cursor.
    saved: Option<String>,
}

struct Open {
    span: Span,
    stager: Stager,
    since: Instant,
}

/// What a [`SliceWriter`] works for.
pub struct SliceContext {
    /// Where rows land.
    pub destination: Arc<dyn Destination>,
    /// The table.
    pub table: TableSpec,
    /// The run.
    pub run_id: String,
    /// The checkpoint, its version, and the lease.
    pub base: Base,
    /// The cursor of that checkpoint.
    pub saved: Option<String>,
    /// Time.
    pub clock: SharedClock,
    /// Bytes on their way, shared with the other streams.
    pub budget: Budget,
    /// Counters.
    pub meter: Arc<Meter>,
    /// What becomes of what the table's columns do not hold.
    pub contract: Contract,
    /// Names of columns that the connector has written down.
    pub spoken: Spoken,
    /// The cursor's column, when rows have one.
    pub cursor: Option<CursorColumn>,
    /// Rows are added to those that are there, so none may come twice.
    pub appends: bool,
    /// Streams that share the budget.
    pub streams: usize,
}

impl SliceWriter {
    /// A writer with no slice open yet.
    ///
    /// # Errors
    /// [`ErrorKind::Bug`] only.
    pub fn new(context: SliceContext) -> Result<Self> {
        let mut decoder = Decoder::new(&context.table.schema);
        decoder.go_by(context.spoken);
        if matches!(context.contract, Contract::Evolve | Contract::Freeze) {
            decoder.watch();
        }
        let has = |name| context.table.schema.column(name).is_some();
        if has(table::RUN_ID) {
            decoder.set_constant(table::RUN_ID, &context.run_id)?;
        }
        if has(column::ROW_HASH) && context.table.disposition == Disposition::Scd2 {
            decoder.fingerprint_into(column::ROW_HASH)?;
        }
        let share = context.budget.bytes() / (4 * context.streams.max(1));
        let mut writer = Self {
            stamped: has(table::EXTRACTED_AT),
            destination: context.destination,
            table: context.table,
            run_id: context.run_id,
            base: context.base,
            clock: context.clock,
            budget: context.budget,
            // What came before, such as a sample for the schema, is part of the first slice's cost.
            cost: Cost::default(),
            meter: context.meter,
            saved: context.saved,
            decoder,
            contract: context.contract,
            seam: context
                .cursor
                .clone()
                .filter(|_| context.appends)
                .map(Seam::new),
            cursor: context.cursor,
            batch_bytes: BATCH_BYTES.min(share.max(64 << 10)),
            open: None,
            slices: 0,
            highest: None,
            partial: false,
            tally: Tally::default(),
        };
        writer.mark_rows()?;
        Ok(writer)
    }

    /// Marks the rows to come with the slice that they will be of, where the table has a column for it.
    fn mark_rows(&mut self) -> Result<()> {
        if self.table.schema.column(table::SLICE_ID).is_none() {
            return Ok(());
        }
        let id = table::slice_id(&self.run_id, &slice_name(self.slices + 1));
        self.decoder.set_constant(table::SLICE_ID, &id)
    }

    /// How slices are published.
    pub fn disposition(&self) -> Disposition {
        self.table.disposition
    }

    /// Whether a slice says of all rows of the table what becomes of them, so that it has to hold all
    /// that there is.
    pub fn is_whole(&self) -> bool {
        self.table.disposition == Disposition::Replace || self.table.absent == Absent::Close
    }

    /// Is told that the source may have more than was read: rows that the slice lacks are kept as they
    /// are.
    pub fn expect_more(&mut self) {
        self.partial = true;
    }

    /// Keeps a column of the engine's null, whatever fields records have.
    pub fn reserve(&mut self, column: &str) {
        self.decoder.reserve(column);
    }

    /// Sets columns that are the same for all records of a partition.
    ///
    /// # Errors
    /// A column that cannot hold the text.
    pub fn set_constants(&mut self, constants: &[(String, String)]) -> Result<()> {
        constants
            .iter()
            .try_for_each(|(column, text)| self.decoder.set_constant(column, text))
    }

    /// Leaves out, from here on, records below the cursor that was saved before: where rows are only
    /// added, reading them again would double them. Those at the cursor are the seam's.
    pub fn set_floor(&mut self, saved: Option<&Cursor>) {
        if let (Some(column), Disposition::Append) = (&self.cursor, self.table.disposition) {
            column.set_floor(&mut self.decoder, saved);
        }
    }

    fn unsorted(&self) -> Error {
        Error::new(
            ErrorKind::Decode,
            format!("the records of stream `{}` do not come in ascending order of its cursor", self.base.key.stream),
        )
        .hint("the connector says `sorted: true`: have the API sort by the cursor, oldest first (often a parameter such as `sort`), or leave `sorted` out")
    }

    /// Decodes a page, and stages what fills a batch. `sorted`: its records must come in ascending
    /// order of the cursor.
    ///
    /// # Errors
    /// A page that is not what the layout says, or not sorted; staging that failed.
    pub async fn page(&mut self, layout: &Layout, body: &[u8], sorted: bool) -> Result<Walked> {
        let received = self.clock.now().to_string();
        if self.stamped {
            self.decoder.set_constant(table::EXTRACTED_AT, &received)?;
        }
        if self.table.disposition == Disposition::Scd2 {
            self.decoder.set_constant(column::VALID_FROM, &received)?;
        }
        let held = self.held();
        let position = self.decoder.position();
        let walked = match &mut self.seam {
            None => layout.walk(body, &mut self.decoder),
            Some(seam) => {
                let decoder = &mut self.decoder;
                layout.walk(body, &mut Seamed { decoder, seam })
            }
        };
        let skipped = self.decoder.take_skipped();
        self.tally.skipped += skipped;
        Meter::add(&self.meter.skipped, skipped);
        let walked = match walked {
            Ok(walked) => walked,
            Err(error) => {
                // What came before the fault may still be published.
                self.tally.read += self.held() - held + skipped;
                return Err(error);
            }
        };
        self.tally.read += walked.records;
        if self.contract == Contract::Freeze {
            contract::check_frozen(&self.decoder, &self.base.key.stream, &self.table)?;
        }
        if let Some(column) = &self.cursor {
            let found = column.highest(&self.decoder, position);
            if sorted && !column.is_ascending(&self.decoder, position) {
                return Err(self.unsorted());
            }
            self.highest = self.highest.take().max(found);
        }
        Meter::add(&self.meter.records, walked.records);
        let full = self.decoder.len() >= BATCH_ROWS || self.decoder.bytes() >= self.batch_bytes;
        // Rows that show before their slice is published are to show soon.
        if full || self.table.write_method.is_direct() {
            self.flush().await?;
        }
        Ok(walked)
    }

    /// Hands over what is decoded.
    ///
    /// # Errors
    /// Staging that failed.
    pub async fn flush(&mut self) -> Result<()> {
        let found = self.decoder.take_rejects();
        if let Some(batch) = self.decoder.take()? {
            self.tally.staged += batch.num_rows() as u64;
            self.send(BatchKind::Rows, batch).await?;
        }
        if !found.is_empty() {
            self.tally.rejected += found.len() as u64;
            let batch = rejects::batch(
                &found,
                &self.base.key.stream,
                &self.run_id,
                self.clock.now(),
            )?;
            self.send(BatchKind::Rejects, batch).await?;
        }
        if let Ok(mut unknown) = self.meter.unknown_fields.lock()
            && unknown.len() != self.decoder.unknown_fields().len()
        {
            unknown.extend(self.decoder.unknown_fields().iter().cloned());
        }
        Ok(())
    }

    async fn send(&mut self, kind: BatchKind, batch: RecordBatch) -> Result<()> {
        let open = self.opened().await?;
        match open.stager.send(kind, batch).await {
            Ok(()) => {
                self.open = Some(open);
                Ok(())
            }
            Err(stopped) => Err(open.stager.finish().await.err().unwrap_or(stopped)),
        }
    }

    /// Takes the open slice, a new one where there is none.
    async fn opened(&mut self) -> Result<Open> {
        if let Some(open) = self.open.take() {
            return Ok(open);
        }
        self.slices += 1;
        let name = slice_name(self.slices);
        let span = span::slice(&self.table.name, &name);
        let mut slice = self
            .destination
            .open(&self.table, &self.run_id, &name)
            .instrument(span.clone())
            .await?;
        slice.builds_on(&self.base);
        Ok(Open {
            stager: span.in_scope(|| Stager::start(slice, self.budget.clone())),
            span,
            since: self.clock.instant(),
        })
    }

    /// Rows and rejects that are decoded and not handed over.
    fn held(&self) -> u64 {
        (self.decoder.len() + self.decoder.rejected()) as u64
    }

    /// Rows and rejects since the last publish.
    pub fn pending(&self) -> u64 {
        self.tally.handed_over() + self.held()
    }

    /// Seconds since the first batch after the last publish.
    pub fn age(&self) -> u64 {
        self.open.as_ref().map_or(0, |o| {
            self.clock.instant().duration_since(o.since).as_secs()
        })
    }

    /// Goes on behind records of a stream that appends: their cursor, and their marks.
    pub fn resume_seam(&mut self, at: Option<Cursor>, marks: Vec<String>) {
        if let Some(seam) = &mut self.seam {
            seam.resume(at, marks);
        }
    }

    /// Is told that a listing begins, which may serve the records at the highest cursor again.
    pub fn expect_seam(&mut self) {
        if let Some(seam) = &mut self.seam {
            seam.expect();
        }
    }

    /// Marks of the records at the highest cursor of a stream that appends.
    pub fn seam(&self) -> Option<Vec<String>> {
        self.seam.as_ref().map(Seam::marks)
    }

    /// The highest cursor in the records read since this was last asked.
    pub fn take_highest(&mut self) -> Option<Cursor> {
        self.highest.take()
    }

    /// Whether a slice that has to hold all that there is has no row: the table would be empty, or all of
    /// its rows marked.
    pub fn would_empty(&self) -> bool {
        self.is_whole() && self.tally.staged + self.decoder.len() as u64 == 0
    }
}

/// The name of a run's `n`-th slice of a stream.
fn slice_name(n: u32) -> String {
    format!("{n:04}")
}

#[cfg(test)]
mod tests;
