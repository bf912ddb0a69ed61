//! The slice being filled: decodes pages into batches, stages them, and publishes with a checkpoint.

use std::sync::Arc;
use std::time::Instant;

use arrow_array::RecordBatch;

use super::cursor::{Cursor, CursorColumn};
use super::seam::{Seam, Seamed};
use super::stage::{Budget, Stager};
use super::table;
use crate::clock::SharedClock;
use crate::destination::rejects;
use crate::destination::{BatchKind, Destination, Disposition, TableSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::decode::Decoder;
use crate::source::records::{Layout, Walked};
use crate::state::{Checkpoint, CheckpointKey, CheckpointUpdate};
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
    /// …and its version when the run began.
    pub version: u64,
    /// Time.
    pub clock: SharedClock,
    /// Bytes on their way, shared with the other streams.
    pub budget: Budget,
    /// Counters.
    pub meter: Arc<Meter>,
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
        decoder.set_constant(table::RUN_ID, &context.run_id)?;
        let share = context.budget.bytes() / (4 * context.streams.max(1));
        Ok(Self {
            destination: context.destination,
            table: context.table,
            run_id: context.run_id,
            key: context.key,
            version: context.version,
            clock: context.clock,
            budget: context.budget,
            meter: context.meter,
            decoder,
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
        })
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
        self.decoder
            .set_constant(table::EXTRACTED_AT, &self.clock.now().to_string())?;
        let position = self.decoder.position();
        let walked = match &mut self.seam {
            None => layout.walk(body, &mut self.decoder)?,
            Some(seam) => {
                let decoder = &mut self.decoder;
                layout.walk(body, &mut Seamed { decoder, seam })?
            }
        };
        if let Some(column) = &self.cursor {
            let found = column.highest(&self.decoder, position);
            if sorted && !column.is_ascending(&self.decoder, position) {
                return Err(self.unsorted());
            }
            self.highest = self.highest.take().max(found);
        }
        Meter::add(&self.meter.records, walked.records);
        Meter::add(&self.meter.deduplicated, self.decoder.take_skipped());
        if self.decoder.len() >= BATCH_ROWS || self.decoder.bytes() >= self.batch_bytes {
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
        let name = format!("{:04}", self.slices);
        let slice = self
            .destination
            .open(&self.table, &self.run_id, &name)
            .await?;
        Ok(Open {
            stager: Stager::start(slice, self.budget.clone()),
            since: self.clock.instant(),
        })
    }

    /// Rows and rejects since the last publish.
    pub fn pending(&self) -> u64 {
        self.staged + self.kept_rejects + (self.decoder.len() + self.decoder.rejected()) as u64
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
    /// The destination's; and [`ErrorKind::Destination`] when the rows that it published and removed
    /// as duplicates are not the rows that were staged.
    pub async fn publish(&mut self, checkpoint: Checkpoint) -> Result<()> {
        self.flush().await?;
        let open = self.opened().await?;
        let slice = open.stager.finish().await?;
        let update = CheckpointUpdate {
            key: self.key.clone(),
            checkpoint,
            expected_version: self.version,
            run_id: self.run_id.clone(),
        };
        let published = slice.publish(&update).await?;
        self.version += 1;
        let staged = std::mem::take(&mut self.staged);
        let rejected = std::mem::take(&mut self.kept_rejects);
        Meter::add(&self.meter.rejected, rejected);
        Meter::add(&self.meter.published, published.rows);
        Meter::add(&self.meter.deduplicated, published.deduplicated);
        if published.rows + published.deduplicated != staged {
            return Err(Error::new(
                ErrorKind::Destination,
                format!(
                    "`{}` staged {staged} rows for table `{}` and then published {} and removed {} duplicates",
                    self.destination.describe(),
                    self.table.name,
                    published.rows,
                    published.deduplicated
                ),
            )
            .hint("the counts must add up: compare the table with the source before the next run"));
        }
        Ok(())
    }

    /// Throws away what is read and not published.
    pub async fn abandon(&mut self) {
        // Only a bug could fail here, and the rows are thrown away in any case.
        let _ = self.decoder.take();
        self.decoder.take_rejects();
        self.staged = 0;
        self.kept_rejects = 0;
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
    }

    /// Whether publishing nothing would empty the table.
    pub fn would_empty(&self) -> bool {
        self.table.disposition == Disposition::Replace
            && self.staged + self.decoder.len() as u64 == 0
    }
}
