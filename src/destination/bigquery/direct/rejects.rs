//! Records that do not fit, staged by statements: this way needs no gRPC, and they are few.

use arrow_array::RecordBatch;
use serde_json::json;

use super::super::api::Query;
use super::super::stage::staging_name;
use super::super::{BigQuery, STAGING_LIFETIME, shape};
use super::sql;
use crate::destination::rejects;
use crate::error::{Error, ErrorKind, Result};
use crate::schema::render::write_ndjson;

/// JSON bytes after which records are put into the staging table.
const GATHER_BYTES: usize = 1 << 20;

/// Largest record: BigQuery takes requests of 10 MB, and quotes in JSON inside JSON count twice.
const LARGEST: usize = 4 << 20;

/// The rejects of a slice, in a staging table that is made when the first come.
pub(super) struct Rejects {
    table: String,
    /// The rejects table's own name, for messages.
    target: String,
    /// Objects of JSON.
    gathered: Vec<String>,
    bytes: usize,
    taken: u64,
    statements: u32,
    created: bool,
}

impl Rejects {
    /// Of a slice of that table.
    pub(super) fn new(table: &str, run_id: &str, slice: &str) -> Self {
        let target = rejects::table_name(table);
        Self {
            table: staging_name(&target, run_id, slice),
            target,
            gathered: Vec::new(),
            bytes: 0,
            taken: 0,
            statements: 0,
            created: false,
        }
    }

    /// Records taken in.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// The staging table, where there is one.
    pub(super) fn staging(&self) -> Option<&str> {
        self.created.then_some(self.table.as_str())
    }

    /// Takes a batch of [`rejects::schema`] in.
    pub(super) async fn take(&mut self, to: &BigQuery, batch: &RecordBatch) -> Result<()> {
        let mut lines = Vec::new();
        write_ndjson(batch, &mut lines)?;
        let lines = String::from_utf8(lines)
            .map_err(|e| Error::new(ErrorKind::Bug, "JSON that is not UTF-8").source(e))?;
        for line in lines.lines() {
            if line.len() > LARGEST {
                return Err(Error::new(
                    ErrorKind::Schema,
                    format!(
                        "a record for `{}` is {} bytes; {LARGEST} can be kept of one that does not fit",
                        self.target,
                        line.len()
                    ),
                )
                .hint("correct the stream's schema, so that the record fits"));
            }
            self.bytes += line.len();
            self.taken += 1;
            self.gathered.push(line.to_owned());
            if self.bytes >= GATHER_BYTES {
                self.flush(to).await?;
            }
        }
        Ok(())
    }

    /// Puts what is gathered into the staging table.
    pub(super) async fn flush(&mut self, to: &BigQuery) -> Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let api = to.api();
        if !self.created {
            let expires =
                api.google().clock().now().as_millisecond() + STAGING_LIFETIME.as_millis() as i64;
            let body = json!({
                "description": "Rows on their way; made and dropped by drawoff.",
                "schema": {"fields": shape::to_fields(&shape::staging(&rejects::schema().columns))},
                "expirationTime": expires.to_string(),
                "labels": {"drawoff": "staging"},
            });
            // The name is nobody else's: one that is there is ours, its answer was lost.
            api.create_table(&self.table, body).await?;
            self.created = true;
        }
        let records = format!("[{}]", self.gathered.join(","));
        api.query(&Query {
            what: format!(
                "keep records that do not fit in `{}.{}`",
                api.target(),
                self.table
            ),
            sql: sql::stage_rejects(&to.quoted(&self.table)),
            parameters: vec![("records", "STRING", records)],
            labels: vec![("drawoff", "rejects")],
            transaction: false,
            names_job: false,
            mark: format!("{}/{}", self.table, self.statements),
        })
        .await?;
        self.statements += 1;
        self.gathered.clear();
        self.bytes = 0;
        Ok(())
    }

    /// Best effort: a table that stays is dropped by BigQuery when its time is up.
    pub(super) async fn drop_table(&self, to: &BigQuery) {
        if self.created
            && let Err(error) = to.api().drop_table(&self.table).await
        {
            tracing::warn!(
                table = self.table,
                error = error.chain(),
                "a staging table could not be dropped; BigQuery drops it within a day"
            );
        }
    }
}
