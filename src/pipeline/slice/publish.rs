//! The end of a slice: published with a checkpoint, or thrown away; and what the table is given before
//! the next.

use tracing::Instrument as _;

use super::super::contract;
use super::SliceWriter;
use super::tally::{Cost, Tally};
use crate::destination::{Absent, TableSpec, rejects};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::evolution::adopt;
use crate::schema::grow::grow;
use crate::schema::landing::Contract;
use crate::state::{Checkpoint, CheckpointUpdate, SliceFacts};
use crate::telemetry::{Meter, span};

impl SliceWriter {
    /// Publishes what is staged together with `checkpoint`.
    ///
    /// # Errors
    /// The destination's; and [`ErrorKind::Destination`] when the records read are not those staged,
    /// rejected and left out, in which case nothing is published, or the rows staged are not those
    /// published, rejected and removed as duplicates.
    pub async fn publish(&mut self, checkpoint: Checkpoint) -> Result<()> {
        self.flush().await?;
        self.tally.check().map_err(|what| self.miscounted(&what))?;
        let rejected = self.tally.rejected;
        let open = self.opened().await?;
        let mut slice = open.stager.finish().await?;
        if self.table.absent == Absent::Close {
            if self.partial {
                slice.keep_absent().await?;
            }
            if self.partial || rejected > 0 {
                tracing::warn!(
                    stream = self.base.key.stream,
                    rejected,
                    "rows that were not listed keep their state: records were missing or rejected, and any of them may be one of these rows"
                );
            }
        }
        let cost = Cost::now(&self.meter);
        let cursor = checkpoint.newest();
        let update = CheckpointUpdate {
            key: self.base.key.clone(),
            checkpoint,
            expected_version: self.base.version,
            run_id: self.run_id.clone(),
            lease: self.base.lease.clone(),
            facts: SliceFacts {
                records: self.tally.read,
                skipped: self.tally.skipped,
                rejected,
                bytes: cost.bytes - self.cost.bytes,
                requests: cost.requests - self.cost.requests,
                throttled: cost.throttled - self.cost.throttled,
                cursor_before: self.saved.clone(),
                cursor_after: cursor.clone(),
            },
        };
        let published = slice
            .publish(&update)
            .instrument(span::publish(&open.span))
            .await?;
        self.base.version += 1;
        self.cost = cost;
        self.saved = cursor;
        let tally = std::mem::take(&mut self.tally);
        self.mark_rows()?;
        Meter::add(&self.meter.slices, 1);
        Meter::add(&self.meter.rejected, rejected + published.rejected);
        Meter::add(&self.meter.published, published.rows);
        Meter::add(&self.meter.deduplicated, published.deduplicated);
        let (fitted, rejected) = (
            published.rows + published.deduplicated,
            rejected + published.rejected,
        );
        if self.is_whole() && fitted == 0 && rejected > 0 {
            tracing::warn!(
                stream = self.base.key.stream,
                rejected,
                "none of the records fits table `{}`, so its rows stay as they are; `{}` says why",
                self.table.name,
                rejects::table_name(&self.table.name)
            );
        }
        tally
            .check_published(&published)
            .map_err(|what| self.miscounted(&what))
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
        let mut news = self.decoder.news();
        if news.is_empty() {
            return Ok(());
        }
        let mut columns = self.table.schema.clone();
        let (table, changes) = loop {
            let schema = grow(
                &columns,
                &news,
                &contract::rules(&self.table, self.decoder.spoken()),
            );
            if schema == self.table.schema {
                return Ok(());
            }
            let table = TableSpec {
                schema,
                ..self.table.clone()
            };
            let error = match self.destination.prepare(&table).await {
                Ok(changes) => break (table, changes),
                Err(e) => e.context(format!(
                    "everything read was published, and table `{}` could not be given the columns for what is new in it",
                    table.name
                )),
            };
            // Another task may have given it others meanwhile. Then fields without a column wait, in the extra
            // one, until they come again.
            let there = match error.kind() {
                ErrorKind::Schema => self.destination.existing(&table.name).await?,
                _ => None,
            };
            let adopted = there.map(|there| adopt(&self.table.schema, &there, true));
            match adopted {
                Some(adopted) if adopted != columns => columns = adopted,
                _ => return Err(error),
            }
            news = news.of_columns();
        };
        self.decoder = self.decoder.with_columns(&table.schema)?;
        self.table = table;
        self.meter.changed(changes);
        Ok(())
    }

    fn miscounted(&self, what: &str) -> Error {
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
        self.tally = Tally::default();
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
}
