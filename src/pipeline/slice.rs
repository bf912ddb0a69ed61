//! The slice being filled: decodes pages into batches, stages them, and publishes with a checkpoint.

use std::sync::Arc;
use std::time::Instant;

use arrow_array::RecordBatch;

use super::contract;
use super::cursor::{Cursor, CursorColumn};
use super::fingerprint;
use super::seam::{Seam, Seamed};
use super::stage::{Budget, Stager};
use super::table;
use crate::clock::SharedClock;
use crate::destination::rejects;
use crate::destination::{Absent, BatchKind, Destination, Disposition, TableSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::decode::Decoder;
use crate::schema::grow::grow;
use crate::schema::landing::{Contract, column};
use crate::source::records::{Layout, Walked};
use crate::state::{Checkpoint, CheckpointKey, CheckpointUpdate, SliceFacts};
use crate::telemetry::Meter;

/// Rows after which a batch is handed over, whatever its size.
const BATCH_ROWS: usize = 16 * 1024;
/// JSON bytes after which a batch is handed over, when the budget allows that much.
const BATCH_BYTES: usize = 2 << 20;

/// Fills slices of one stream's table, one after the other.
pub struct SliceWriter {
    destination: Arc<dyn Destination>,
    table: TableSpec,
    run_id: String,
    key: CheckpointKey,
    version: u64,
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
    staged: u64,
    kept_rejects: u64,
    /// What was read is known not to be all that there is.
    partial: bool,
    /// Records since the last publish, and those of them that were left out.
    read: u64,
    skipped: u64,
    /// What it took to read them is counted from here.
    counted: Counted,
    /// The saved cursor.
    saved: Option<String>,
}

/// Counters as they stood.
struct Counted {
    bytes: u64,
    requests: u64,
    throttled: u64,
}

impl Counted {
    fn now(meter: &Meter) -> Self {
        Self {
            bytes: Meter::get(&meter.bytes),
            requests: Meter::get(&meter.requests),
            throttled: Meter::get(&meter.throttled),
        }
    }
}

struct Open {
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
    /// The stream's checkpoint…
    pub key: CheckpointKey,
    /// …its version when the run began…
    pub version: u64,
    /// …and its cursor.
    pub saved: Option<String>,
    /// Time.
    pub clock: SharedClock,
    /// Bytes on their way, shared with the other streams.
    pub budget: Budget,
    /// Counters.
    pub meter: Arc<Meter>,
    /// What becomes of what the table's columns do not hold.
    pub contract: Contract,
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
        if matches!(context.contract, Contract::Evolve | Contract::Freeze) {
            decoder.watch();
        }
        let has = |name| context.table.schema.column(name).is_some();
        if has(table::RUN_ID) {
            decoder.set_constant(table::RUN_ID, &context.run_id)?;
        }
        let share = context.budget.bytes() / (4 * context.streams.max(1));
        let mut writer = Self {
            stamped: has(table::EXTRACTED_AT),
            destination: context.destination,
            table: context.table,
            run_id: context.run_id,
            key: context.key,
            version: context.version,
            clock: context.clock,
            budget: context.budget,
            // What came before, such as a sample for the schema, is part of the first slice's cost.
            counted: Counted::now(&Meter::default()),
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
            staged: 0,
            kept_rejects: 0,
            partial: false,
            read: 0,
            skipped: 0,
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
            format!("the records of stream `{}` do not come in ascending order of its cursor", self.key.stream),
        )
        .hint("the connector says `sorted: true`: have the API sort by the cursor, oldest first (often a parameter such as `sort`), or leave `sorted` out")
    }

    /// Decodes a page, and stages what fills a batch. `sorted`: its records must come in ascending
    /// order of the cursor.
    ///
    /// # Errors
    /// A page that is not what the layout says, or not sorted; staging that failed.
    pub async fn page(&mut self, layout: &Layout, body: &[u8], sorted: bool) -> Result<Walked> {
        if self.stamped {
            self.decoder
                .set_constant(table::EXTRACTED_AT, &self.clock.now().to_string())?;
        }
        if self.table.disposition == Disposition::Scd2 {
            self.decoder
                .set_constant(column::VALID_FROM, &self.clock.now().to_string())?;
            // Until the batch is whole.
            self.decoder.set_constant(column::ROW_HASH, "")?;
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
        self.skipped += skipped;
        Meter::add(&self.meter.deduplicated, skipped);
        let walked = match walked {
            Ok(walked) => walked,
            Err(error) => {
                // What came before the fault may still be published.
                self.read += self.held() - held + skipped;
                return Err(error);
            }
        };
        self.read += walked.records;
        if self.contract == Contract::Freeze {
            contract::check_frozen(&self.decoder, &self.key.stream, &self.table.name)?;
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
            self.staged += batch.num_rows() as u64;
            let batch = match self.table.disposition {
                Disposition::Scd2 => fingerprint::fill(batch)?,
                _ => batch,
            };
            self.send(BatchKind::Rows, batch).await?;
        }
        if !found.is_empty() {
            self.kept_rejects += found.len() as u64;
            let batch = rejects::batch(&found, &self.key.stream, &self.run_id, self.clock.now())?;
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
        let mut slice = self
            .destination
            .open(&self.table, &self.run_id, &name)
            .await?;
        slice.builds_on(&self.key, self.version);
        Ok(Open {
            stager: Stager::start(slice, self.budget.clone()),
            since: self.clock.instant(),
        })
    }

    /// Rows and rejects that are decoded and not handed over.
    fn held(&self) -> u64 {
        (self.decoder.len() + self.decoder.rejected()) as u64
    }

    /// Rows and rejects since the last publish.
    pub fn pending(&self) -> u64 {
        self.staged + self.kept_rejects + self.held()
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

    /// Publishes what is staged together with `checkpoint`.
    ///
    /// # Errors
    /// The destination's; and [`ErrorKind::Destination`] when the records read are not those staged,
    /// rejected and left out, in which case nothing is published, or the rows staged are not those
    /// published, rejected and removed as duplicates.
    pub async fn publish(&mut self, checkpoint: Checkpoint) -> Result<()> {
        self.flush().await?;
        let (read, staged, rejected) = (self.read, self.staged, self.kept_rejects);
        if read != staged + rejected + self.skipped {
            return Err(self.miscounted(format!(
                "{read} records were read, and {staged} were staged, {rejected} rejected and {} left out as known; nothing was published",
                self.skipped
            )));
        }
        let open = self.opened().await?;
        let mut slice = open.stager.finish().await?;
        if self.table.absent == Absent::Close {
            if self.partial {
                slice.keep_absent().await?;
            }
            if self.partial || rejected > 0 {
                tracing::warn!(
                    stream = self.key.stream,
                    rejected,
                    "rows that were not listed keep their state: records were missing or rejected, and any of them may be one of these rows"
                );
            }
        }
        let counted = Counted::now(&self.meter);
        let cursor = checkpoint.newest();
        let update = CheckpointUpdate {
            key: self.key.clone(),
            checkpoint,
            expected_version: self.version,
            run_id: self.run_id.clone(),
            facts: SliceFacts {
                records: read,
                skipped: self.skipped,
                rejected,
                bytes: counted.bytes - self.counted.bytes,
                requests: counted.requests - self.counted.requests,
                throttled: counted.throttled - self.counted.throttled,
                cursor_before: self.saved.clone(),
                cursor_after: cursor.clone(),
            },
        };
        let published = slice.publish(&update).await?;
        self.version += 1;
        self.counted = counted;
        self.saved = cursor;
        (self.read, self.skipped, self.staged, self.kept_rejects) = (0, 0, 0, 0);
        self.mark_rows()?;
        Meter::add(&self.meter.slices, 1);
        Meter::add(&self.meter.rejected, rejected + published.rejected);
        Meter::add(&self.meter.published, published.rows);
        Meter::add(&self.meter.deduplicated, published.deduplicated);
        let fitted = published.rows + published.deduplicated;
        if self.is_whole() && fitted == 0 && rejected + published.rejected > 0 {
            tracing::warn!(
                stream = self.key.stream,
                rejected = rejected + published.rejected,
                "none of the records fits table `{}`, so its rows stay as they are; `{}` says why",
                self.table.name,
                rejects::table_name(&self.table.name)
            );
        }
        if published.rows + published.deduplicated + published.rejected != staged {
            return Err(self.miscounted(format!(
                "{staged} rows were staged, and {} were published, {} removed as duplicates and {} rejected by the destination",
                published.rows, published.deduplicated, published.rejected
            )));
        }
        Ok(())
    }

    /// Gives an evolving table the columns for what came since it was last given some and what its
    /// columns do not hold; between slices. Rows that go straight into the table (`at_end`: no more
    /// will) must not meet a change: the write API learns of it minutes later.
    ///
    /// # Errors
    /// The destination's.
    pub async fn evolve(&mut self, at_end: bool) -> Result<()> {
        if self.contract != Contract::Evolve || (self.table.write_method.is_direct() && !at_end) {
            return Ok(());
        }
        let news = self.decoder.news();
        let schema = grow(&self.table.schema, &news, &contract::rules(&self.table));
        if news.is_empty() || schema == self.table.schema {
            return Ok(());
        }
        let table = TableSpec {
            schema,
            ..self.table.clone()
        };
        let changes = self.destination.prepare(&table).await.map_err(|e| {
            e.context(format!(
                "everything read was published, and table `{}` could not be given the columns for what is new in it",
                table.name
            ))
        })?;
        self.decoder = self.decoder.with_columns(&table.schema)?;
        self.table = table;
        self.meter.changed(changes);
        Ok(())
    }

    fn miscounted(&self, what: String) -> Error {
        Error::new(
            ErrorKind::Destination,
            format!(
                "the counts of table `{}` in `{}` do not add up: {what}",
                self.table.name,
                self.destination.describe()
            ),
        )
        .hint("compare the table with the source before the next run, and report this with the lines of the log")
    }

    /// Throws away what is read and not published.
    pub async fn abandon(&mut self) {
        // Only a bug could fail here, and the rows are thrown away in any case.
        let _ = self.decoder.take();
        self.decoder.take_rejects();
        self.decoder.take_skipped();
        (self.read, self.skipped, self.staged, self.kept_rejects) = (0, 0, 0, 0);
        self.partial = false;
        if let Some(open) = self.open.take()
            && let Ok(slice) = open.stager.finish().await
            && let Err(error) = slice.abandon().await
        {
            tracing::warn!(
                table = self.table.name,
                "staged rows stay until a later run clears them: {}",
                error.chain()
            );
        }
        let _ = self.mark_rows();
    }

    /// Whether a slice that has to hold all that there is has no row: the table would be empty, or all of
    /// its rows marked.
    pub fn would_empty(&self) -> bool {
        self.is_whole() && self.staged + self.decoder.len() as u64 == 0
    }
}

/// The name of a run's `n`-th slice of a stream.
fn slice_name(n: u32) -> String {
    format!("{n:04}")
}

#[cfg(test)]
#[path = "slice_tests.rs"]
mod tests;
