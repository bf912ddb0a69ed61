//! A staging table: made when rows need it, filled by one of the ways in, read once by the publish,
//! dropped.

use arrow_array::RecordBatch;
use arrow_select::concat::concat_batches;
use serde_json::json;

use super::load::LoadWriter;
use super::write::{Encoder, Refused, StreamWriter};
use super::{BigQuery, STAGING_LIFETIME, STAGING_PREFIX, shape};
use crate::destination::WriteMethod;
use crate::error::{Error, ErrorKind, Result};
use crate::schema::{TableSchema, arrow_schema};
use crate::state::CheckpointKey;

/// Batches are put together until they are this large: a request costs a round trip.
const GATHER_BYTES: usize = 2 << 20;

/// Rows of one kind on their way into a staging table.
pub(super) struct Stage {
    pub(super) table: String,
    /// The table that the rows are for, and the run: for the labels of jobs.
    target: String,
    run_id: String,
    /// The checkpoint that the rows build on, where that is known: for the labels, too.
    key: Option<CheckpointKey>,
    schema: TableSchema,
    method: WriteMethod,
    gathered: Vec<RecordBatch>,
    gathered_bytes: usize,
    writer: Option<Writer>,
    created: bool,
}

/// The ways into a staging table.
enum Writer {
    /// The Storage Write API.
    Storage(Box<StreamWriter>),
    /// A load job.
    Load(Box<LoadWriter>),
}

impl Writer {
    fn rows(&self) -> u64 {
        match self {
            Self::Storage(writer) => writer.rows(),
            Self::Load(writer) => writer.rows(),
        }
    }

    async fn append(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::Storage(writer) => writer.append(batch).await,
            Self::Load(writer) => writer.append(batch).await,
        }
    }

    async fn commit(&mut self) -> Result<()> {
        match self {
            Self::Storage(writer) => writer.commit().await,
            Self::Load(writer) => writer.commit().await,
        }
    }
}

impl Stage {
    /// For rows that are on their way to `target` and come in by that method. Nothing is made yet.
    pub(super) fn new(
        target: &str,
        schema: TableSchema,
        method: WriteMethod,
        run_id: &str,
        slice: &str,
    ) -> Self {
        Self {
            table: staging_name(target, run_id, slice),
            target: target.to_owned(),
            run_id: run_id.to_owned(),
            key: None,
            schema,
            method,
            gathered: Vec::new(),
            gathered_bytes: 0,
            writer: None,
            created: false,
        }
    }

    /// Is told which checkpoint the rows build on.
    pub(super) fn is_for(&mut self, key: &CheckpointKey) {
        self.key = Some(key.clone());
    }

    /// Rows taken in, without those that were refused.
    pub(super) fn staged(&self) -> u64 {
        self.writer.as_ref().map_or(0, Writer::rows)
    }

    /// Takes rows in; they may wait for others to share a request with.
    pub(super) async fn take(&mut self, destination: &BigQuery, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.gathered_bytes += batch.get_array_memory_size();
        self.gathered.push(batch);
        if self.gathered_bytes >= GATHER_BYTES {
            self.flush(destination).await?;
        }
        Ok(())
    }

    /// Rows that BigQuery has refused since this was last asked.
    pub(super) fn take_refused(&mut self) -> Vec<Refused> {
        match &mut self.writer {
            Some(Writer::Storage(writer)) => writer.take_refused(),
            // A load job takes all rows or none.
            Some(Writer::Load(_)) | None => Vec::new(),
        }
    }

    async fn flush(&mut self, destination: &BigQuery) -> Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        let Some(first) = gathered.first() else {
            return Ok(());
        };
        let batch = concat_batches(first.schema_ref(), &gathered).map_err(|e| {
            Error::new(
                ErrorKind::Bug,
                format!("batches for `{}` differ in their schema", self.table),
            )
            .source(e)
        })?;
        drop(gathered);
        self.writer(destination).await?.append(&batch).await
    }

    async fn writer(&mut self, destination: &BigQuery) -> Result<&mut Writer> {
        if self.writer.is_none() {
            let inner = &destination.0;
            if self.method != WriteMethod::LoadJob {
                self.create_table(destination).await?;
            }
            let writer = match self.method {
                WriteMethod::LoadJob => {
                    let mut labels = vec![
                        ("drawoff", "load"),
                        ("drawoff_table", self.target.as_str()),
                        ("drawoff_run", self.run_id.as_str()),
                    ];
                    if let Some(key) = &self.key {
                        labels.push(("drawoff_source", key.source.as_str()));
                        labels.push(("drawoff_stream", key.stream.as_str()));
                    }
                    let writer =
                        LoadWriter::open(&inner.api, &self.table, &self.schema, &labels).await?;
                    Writer::Load(Box::new(writer))
                }
                _ => {
                    let target = inner.api.target();
                    let writer = StreamWriter::open(
                        inner.write.clone(),
                        &target.project,
                        &target.dataset,
                        &self.table,
                        Encoder::new(&arrow_schema(&self.schema))?,
                        inner.limits,
                    )
                    .await?;
                    Writer::Storage(Box::new(writer))
                }
            };
            self.writer = Some(writer);
        }
        self.writer
            .as_mut()
            .ok_or_else(|| Error::new(ErrorKind::Bug, "a writer went missing"))
    }

    async fn create_table(&mut self, destination: &BigQuery) -> Result<()> {
        if self.created {
            return Ok(());
        }
        let api = &destination.0.api;
        let now = api.google().clock().now().as_millisecond();
        let expires = now + STAGING_LIFETIME.as_millis() as i64;
        let body = json!({
            "description": "Rows on their way; made and dropped by drawoff.",
            "schema": {"fields": shape::to_fields(&shape::staging(&self.schema.columns))},
            "expirationTime": expires.to_string(),
            "labels": {"drawoff": "staging"},
        });
        // The name is nobody else's: one that is there is ours, its answer was lost.
        api.create_table(&self.table, body).await?;
        self.created = true;
        Ok(())
    }

    /// Everything staged, acknowledged and readable.
    pub(super) async fn commit(&mut self, destination: &BigQuery) -> Result<()> {
        self.flush(destination).await?;
        // A load job needs the table when it starts; the file may take longer than the table is kept.
        if matches!(self.writer, Some(Writer::Load(_))) {
            self.create_table(destination).await?;
        }
        match &mut self.writer {
            Some(writer) => writer.commit().await,
            None => Ok(()),
        }
    }

    /// Best effort: a table that stays is dropped by BigQuery when its time is up.
    pub(super) async fn drop_table(&self, destination: &BigQuery) {
        if self.created
            && let Err(error) = destination.0.api.drop_table(&self.table).await
        {
            tracing::warn!(
                table = self.table,
                error = error.chain(),
                "a staging table could not be dropped; BigQuery drops it within a day"
            );
        }
    }
}

/// `_drawoff_stage_<table>_<run>_<slice>_<random>`: readable, and another each time a slice is opened,
/// because a table that is dropped and made again is not soon known to the write API.
pub(super) fn staging_name(table: &str, run_id: &str, slice: &str) -> String {
    let part = |text: &str, longest: usize| -> String {
        text.chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .take(longest)
            .collect()
    };
    format!(
        "{STAGING_PREFIX}{}_{}_{}_{:016x}",
        part(table, 320),
        part(run_id, 80),
        part(slice, 200),
        rand::random::<u64>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staging_names_are_readable_valid_and_unique() {
        let name = staging_name("tickets", "2024-01-02T03", "window/1");
        assert!(
            name.starts_with("_drawoff_stage_tickets_2024_01_02T03_window_1_"),
            "{name}"
        );
        assert_ne!(name, staging_name("tickets", "2024-01-02T03", "window/1"));
        let long = staging_name(&"t".repeat(300), &"r".repeat(500), &"s".repeat(500));
        assert!(long.len() <= 1024);
    }
}
