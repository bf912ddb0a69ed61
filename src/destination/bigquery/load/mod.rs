//! Load jobs: the rows of a staging table as one file, which is uploaded while it is being made, and
//! the job that reads it. Free, and atomic: a job that fails has changed nothing.
//!
//! Memory for each staging table: a row group being made and made (twice 8 MiB, Parquet only), and a
//! chunk waiting and under way (twice 4 MiB); the file itself up to 8 MiB, so that it can be sent again.

mod encode;
mod upload;

use std::time::Duration;

use arrow_array::RecordBatch;
use serde_json::{Value, json};

use super::api::{self, Api};
use super::{STAGING_PREFIX, shape};
use crate::error::{Error, ErrorKind, Result};
use crate::google::RetryPolicy;
use crate::schema::TableSchema;

use encode::{Encoder, Format};
use upload::{Job, Upload};

/// Jobs that are tried where they fail for a passing reason.
const ATTEMPTS: u32 = 6;

/// Longest wait between two looks at a load job: it runs on a pool that all share, and minutes are
/// normal.
const LONGEST_POLL: Duration = Duration::from_secs(10);

/// BigQuery ends load jobs that run for six hours (its quota page, 2026-08); before that they may wait.
const PATIENCE: Duration = Duration::from_secs(8 * 60 * 60);

/// Rows on their way into one staging table, by a load job.
pub(super) struct LoadWriter {
    api: Api,
    /// For messages: `p.d.t`.
    table: String,
    /// The stream that its jobs are counted for.
    stream: String,
    plan: Plan,
    encoder: Encoder,
    upload: Upload,
    rows: u64,
    committed: bool,
}

/// What is the same in all attempts of a load.
struct Plan {
    project: String,
    location: String,
    staging: String,
    configuration: Value,
}

impl LoadWriter {
    /// A writer into the staging table, which must be there by [`Self::commit`], empty. Nothing is sent
    /// yet.
    pub(super) async fn open(
        api: &Api,
        staging: &str,
        schema: &TableSchema,
        labels: &[(&str, &str)],
    ) -> Result<Self> {
        let target = api.target();
        let columns = shape::staging(&schema.columns);
        let format = Format::of(&columns);
        let mut load = json!({
            "destinationTable": {
                "projectId": target.project,
                "datasetId": target.dataset,
                "tableId": staging,
            },
            "schema": {"fields": shape::to_fields(&columns)},
            "autodetect": false,
            "createDisposition": "CREATE_NEVER",
            // The table is this writer's own: whatever an attempt before has left, it is this file's.
            "writeDisposition": "WRITE_TRUNCATE",
            "maxBadRecords": 0,
            "ignoreUnknownValues": false,
        });
        if let (Some(load), Value::Object(options)) = (load.as_object_mut(), format.options()) {
            load.extend(options);
        }
        let plan = Plan {
            project: api.job_project().to_owned(),
            location: api.location().await?.to_owned(),
            staging: staging.to_owned(),
            configuration: json!({"labels": api::labels(labels), "load": load}),
        };
        let table = format!("{target}.{staging}");
        Ok(Self {
            api: api.clone(),
            encoder: Encoder::new(schema, format)?,
            upload: Upload::new(
                api.clone(),
                format!("load rows into `{table}`"),
                plan.job(0),
            ),
            table,
            stream: api::label_of(labels, "drawoff_stream").to_owned(),
            plan,
            rows: 0,
            committed: false,
        })
    }

    /// Rows taken in so far.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes rows in. Returns when what of them is ready to be sent is sent, but for less than a
    /// chunk.
    pub(super) async fn append(&mut self, batch: &RecordBatch) -> Result<()> {
        for part in Encoder::parts(batch) {
            let bytes = self.encoder.encode(&part, &self.table)?;
            self.rows += part.num_rows() as u64;
            self.upload.push(bytes).await?;
        }
        Ok(())
    }

    /// Ends the file and waits until its job has made every row readable. Repeating is harmless.
    pub(super) async fn commit(&mut self) -> Result<()> {
        if self.committed {
            return Ok(());
        }
        let rest = self.encoder.finish()?;
        self.upload.push(rest).await?;
        let what = format!("load rows into `{}`", self.table);
        let mut attempt = 0;
        loop {
            let id = self.plan.id(attempt);
            let job = self.upload.finish().await.map_err(explain)?;
            self.is_own(&id, &job)?;
            self.api.spent(&self.stream, |s| s.add(&id, 0));
            let job = self
                .api
                .follow(&what, &id, job, LONGEST_POLL, PATIENCE)
                .await?;
            let Some(failure) = api::failure_of(&what, &job) else {
                self.check(&id, &job)?;
                self.committed = true;
                return Ok(());
            };
            attempt += 1;
            // An id stands for one job for ever: another attempt is another job, and needs the file.
            if !failure.is_transient()
                || attempt == ATTEMPTS
                || !self.upload.again(self.plan.job(attempt))
            {
                return Err(explain(self.api.failed(failure).await));
            }
            tracing::debug!(job = id, ?failure, "a load job failed and is repeated");
            self.api.sleep(RetryPolicy::BIGQUERY.delay(attempt)).await;
        }
    }

    /// A job that was found under our id must be the one that was asked for.
    fn is_own(&self, id: &str, job: &Value) -> Result<()> {
        let table = &job["configuration"]["load"]["destinationTable"]["tableId"];
        match table == &json!(self.plan.staging) {
            true => Ok(()),
            false => Err(Error::destination(format!(
                "job `{id}` was to load rows into `{}`, and is another",
                self.table
            ))),
        }
    }

    fn check(&self, id: &str, job: &Value) -> Result<()> {
        let load = &job["statistics"]["load"];
        let rows: Option<u64> = load["outputRows"].as_str().and_then(|n| n.parse().ok());
        tracing::debug!(
            job = id,
            rows,
            bytes = load["inputFileBytes"].as_str(),
            "a load job ended well"
        );
        match rows {
            Some(rows) if rows == self.rows => Ok(()),
            _ => Err(Error::destination(format!(
                "job `{id}` loaded {} rows into `{}`, and {} were sent to it",
                rows.map_or_else(|| "an unknown number of".to_owned(), |n| n.to_string()),
                self.table,
                self.rows
            ))),
        }
    }
}

impl Plan {
    /// `drawoff_load_<staging table>_<attempt>`: the staging table's name holds table, run, slice and
    /// what makes it unique.
    fn id(&self, attempt: u32) -> String {
        let name = self.staging.trim_start_matches(STAGING_PREFIX);
        format!("drawoff_load_{name}_{attempt}")
    }

    fn job(&self, attempt: u32) -> Job {
        let id = self.id(attempt);
        Job {
            resource: json!({
                "jobReference": {
                    "projectId": self.project,
                    "jobId": id,
                    "location": self.location,
                },
                "configuration": self.configuration,
            }),
            id,
        }
    }
}

/// Adds what to do about a load that failed.
fn explain(error: Error) -> Error {
    match (error.kind(), error.is_transient()) {
        (ErrorKind::RateLimited, false) => error.hint("BigQuery takes 100,000 load jobs a project in 24 hours, failed ones included: run less often or with larger slices, or use `write_method: storage_write`"),
        (_, true) if error.find_hint().is_none() => {
            error.hint("run again: nothing of the slice was published")
        }
        _ => error,
    }
}
