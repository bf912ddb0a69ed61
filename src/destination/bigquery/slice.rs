//! A slice: staged in tables of its own, published by one transaction, recognised again when the
//! answer was lost.

use arrow_array::RecordBatch;
use arrow_select::concat::concat_batches;
use async_trait::async_trait;
use serde_json::json;

use super::api::{Ended, Query, Row};
use super::write::{Encoder, StreamWriter};
use super::{
    BigQuery, CHECKPOINTS, STAGING_LIFETIME, STAGING_PREFIX, shape, spec, sql, unique_mark,
};
use crate::destination::{BatchKind, Published, Slice, TableSpec, rejects, version_conflict};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::{TableSchema, arrow_schema};
use crate::state::CheckpointUpdate;

/// Batches are put together until they are this large: a request costs a round trip.
const GATHER_BYTES: usize = 2 << 20;

/// Attempts of a publish whose job was cancelled or failed for a passing reason.
const ATTEMPTS: u32 = 12;

/// A slice being staged in BigQuery.
pub(super) struct BigQuerySlice {
    destination: BigQuery,
    spec: TableSpec,
    run_id: String,
    name: String,
    rows: Stage,
    rejects: Stage,
}

/// Rows of one kind on their way into a staging table, which is made when the first come.
struct Stage {
    table: String,
    schema: TableSchema,
    gathered: Vec<RecordBatch>,
    gathered_bytes: usize,
    writer: Option<StreamWriter>,
    created: bool,
}

impl Stage {
    fn new(table: String, schema: TableSchema) -> Self {
        Self {
            table,
            schema,
            gathered: Vec::new(),
            gathered_bytes: 0,
            writer: None,
            created: false,
        }
    }

    fn staged(&self) -> u64 {
        self.writer.as_ref().map_or(0, StreamWriter::rows)
    }

    async fn take(&mut self, destination: &BigQuery, batch: RecordBatch) -> Result<()> {
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

    async fn writer(&mut self, destination: &BigQuery) -> Result<&mut StreamWriter> {
        if self.writer.is_none() {
            let inner = &destination.0;
            if !self.created {
                let now = inner.api.google().clock().now().as_millisecond();
                let expires = now + STAGING_LIFETIME.as_millis() as i64;
                let body = json!({
                    "description": "Rows on their way; made and dropped by drawoff.",
                    "schema": {"fields": shape::to_fields(&shape::staging(&self.schema.columns))},
                    "expirationTime": expires.to_string(),
                    "labels": {"drawoff": "staging"},
                });
                // The name is nobody else's: one that is there is ours, its answer was lost.
                inner.api.create_table(&self.table, body).await?;
                self.created = true;
            }
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
            self.writer = Some(writer);
        }
        self.writer
            .as_mut()
            .ok_or_else(|| Error::new(ErrorKind::Bug, "a writer went missing"))
    }

    /// Everything staged, acknowledged and readable.
    async fn commit(&mut self, destination: &BigQuery) -> Result<()> {
        self.flush(destination).await?;
        match &mut self.writer {
            Some(writer) => writer.commit().await,
            None => Ok(()),
        }
    }

    /// Best effort: a table that stays is dropped by BigQuery when its time is up.
    async fn drop_table(&self, destination: &BigQuery) {
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

impl BigQuerySlice {
    pub(super) fn new(destination: BigQuery, spec: TableSpec, run_id: &str, name: &str) -> Self {
        Self {
            rows: Stage::new(staging_name(&spec.name, run_id, name), spec.schema.clone()),
            rejects: Stage::new(
                staging_name(&rejects::table_name(&spec.name), run_id, name),
                rejects::schema(),
            ),
            destination,
            spec,
            run_id: run_id.to_owned(),
            name: name.to_owned(),
        }
    }

    async fn publish_staged(&self, update: &CheckpointUpdate) -> Result<Published> {
        let destination = &self.destination;
        let api = destination.api();
        destination.ensure_checkpoints().await?;
        let checkpoints = destination.quoted(CHECKPOINTS);
        let key = |more: Vec<(&'static str, &'static str, String)>| {
            let mut all = vec![
                ("source", "STRING", update.key.source.clone()),
                ("stream", "STRING", update.key.stream.clone()),
            ];
            all.extend(more);
            all
        };
        let labels = |what: &'static str| {
            vec![
                ("drawoff", what),
                ("drawoff_source", update.key.source.as_str()),
                ("drawoff_stream", update.key.stream.as_str()),
                ("drawoff_run", update.run_id.as_str()),
            ]
        };
        let state = serde_json::to_string(&update.checkpoint).map_err(|e| {
            Error::new(ErrorKind::Bug, "could not write a checkpoint as JSON").source(e)
        })?;
        let what = format!(
            "publish slice `{}` of `{}.{}`",
            self.name,
            api.target(),
            self.spec.name
        );
        let publish = Query {
            what: what.clone(),
            sql: sql::publish(&sql::Publish {
                spec: &self.spec,
                target: destination.quoted(&self.spec.name),
                staged: self.staging_of(&self.rows),
                rejects: self.staging_of(&self.rejects).map(|staged| {
                    (
                        destination.quoted(&rejects::table_name(&self.spec.name)),
                        staged,
                    )
                }),
                checkpoints: checkpoints.clone(),
            }),
            parameters: key(vec![
                (
                    "expected_version",
                    "INT64",
                    update.expected_version.to_string(),
                ),
                ("state", "STRING", state),
                ("run_id", "STRING", update.run_id.clone()),
                ("slice", "STRING", self.name.clone()),
                ("staged", "INT64", self.rows.staged().to_string()),
                ("rejected", "INT64", self.rejects.staged().to_string()),
            ]),
            labels: labels("publish"),
            mark: format!("{}/{}", self.run_id, self.name),
        };
        let last = Query {
            what: format!(
                "read the checkpoint of `{}`/`{}` in `{}`",
                update.key.source,
                update.key.stream,
                api.target()
            ),
            sql: sql::last_publish(&checkpoints),
            parameters: key(vec![]),
            labels: labels("checkpoints"),
            mark: String::new(),
        };
        if update.expected_version == 0 {
            api.query(&Query {
                what: format!("prepare to {what}"),
                sql: sql::seed(&checkpoints),
                parameters: key(vec![]),
                labels: labels("checkpoints"),
                mark: unique_mark(),
            })
            .await?;
        }
        let mut attempt = 0;
        loop {
            let ended = {
                let _one_at_a_time = destination.0.publishing.lock().await;
                api.run(&publish, attempt).await
            };
            attempt += 1;
            let problem = match ended {
                Ok(Ended::Well(rows)) => match self.answer(&rows) {
                    Some(published) => return Ok(published),
                    None => Problem::Refused(rows.into_iter().next().unwrap_or_default()),
                },
                Ok(failed) => Problem::Failed(failed),
                Err(error) => Problem::Lost(error),
            };
            // Whatever was answered, what is stored decides: a job may fail after its commit, and an
            // answer may be lost on the way.
            let stored = match api
                .query(&Query {
                    mark: unique_mark(),
                    what: last.what.clone(),
                    sql: last.sql.clone(),
                    parameters: last.parameters.clone(),
                    labels: last.labels.clone(),
                })
                .await
            {
                Ok(rows) => Stored::of(rows.first()),
                // The first problem says more.
                Err(_) if matches!(problem, Problem::Lost(_)) => {
                    return Err(problem.into_error(&publish));
                }
                Err(error) => return Err(error),
            };
            if stored.version == update.expected_version + 1
                && stored.run_id == update.run_id
                && stored.slice == self.name
            {
                return Ok(stored.published);
            }
            if stored.version != update.expected_version {
                let place = format!("bigquery:{}", api.target());
                return Err(version_conflict(update, stored.version, &place));
            }
            match problem {
                Problem::Failed(failed) if failed.may_pass() && attempt < ATTEMPTS => {
                    tracing::debug!(
                        ?failed,
                        attempt,
                        what,
                        "a publish was rolled back and is repeated"
                    );
                    api.pause(attempt).await;
                }
                problem => return Err(problem.into_error(&publish)),
            }
        }
    }

    fn staging_of(&self, stage: &Stage) -> Option<String> {
        (stage.staged() > 0).then(|| self.destination.quoted(&stage.table))
    }

    /// What a script that went through has published.
    fn answer(&self, rows: &[Row]) -> Option<Published> {
        let row = rows.first()?;
        let text = |name: &str| row.get(name).and_then(Option::as_deref);
        if text(sql::answer::OUTCOME) != Some("published") {
            return None;
        }
        let kept: u64 = text(sql::answer::KEPT)?.parse().ok()?;
        Some(Published {
            rows: kept,
            deduplicated: self.rows.staged().saturating_sub(kept),
        })
    }
}

/// Why a publish is not known to have gone through.
enum Problem {
    /// The script found something that must not be, and changed nothing.
    Refused(Row),
    /// The job failed.
    Failed(Ended),
    /// The job could not be started or followed.
    Lost(Error),
}

impl Problem {
    fn into_error(self, query: &Query<'_>) -> Error {
        match self {
            Self::Lost(error) => error,
            Self::Failed(ended) => super::api::failed(query, ended),
            Self::Refused(row) => {
                let shown = |name: &str| {
                    row.get(name)
                        .and_then(Option::as_deref)
                        .unwrap_or("an unknown number")
                        .to_owned()
                };
                Error::destination(format!(
                    "could not {}: {} rows and {} rejects are readable in the staging tables, which is not what was sent; nothing was changed",
                    query.what,
                    shown(sql::answer::STAGED),
                    shown(sql::answer::REJECTED)
                ))
                .transient(true)
                .hint("run again")
            }
        }
    }
}

/// The checkpoint as stored now.
struct Stored {
    version: u64,
    run_id: String,
    slice: String,
    published: Published,
}

impl Stored {
    fn of(row: Option<&Row>) -> Self {
        let text = |name: &str| {
            row.and_then(|r| r.get(name))
                .and_then(Option::as_deref)
                .unwrap_or_default()
        };
        let number = |name: &str| text(name).parse().unwrap_or(0);
        Self {
            version: number("version"),
            run_id: text("run_id").to_owned(),
            slice: text("slice").to_owned(),
            published: Published {
                rows: number("published"),
                deduplicated: number("deduplicated"),
            },
        }
    }
}

#[async_trait]
impl Slice for BigQuerySlice {
    async fn stage(&mut self, kind: BatchKind, batch: RecordBatch) -> Result<()> {
        match kind {
            BatchKind::Rows => {
                spec::check_keys(&self.spec, &batch)?;
                self.rows.take(&self.destination, batch).await
            }
            BatchKind::Rejects => self.rejects.take(&self.destination, batch).await,
        }
    }

    async fn publish(mut self: Box<Self>, checkpoint: &CheckpointUpdate) -> Result<Published> {
        self.rows.commit(&self.destination).await?;
        self.rejects.commit(&self.destination).await?;
        let published = self.publish_staged(checkpoint).await;
        // After an unclear failure the job may still be running: its staging must stay for it.
        let settled = match &published {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::State,
        };
        if settled {
            self.rows.drop_table(&self.destination).await;
            self.rejects.drop_table(&self.destination).await;
        }
        published
    }

    async fn abandon(self: Box<Self>) -> Result<()> {
        self.rows.drop_table(&self.destination).await;
        self.rejects.drop_table(&self.destination).await;
        Ok(())
    }
}

/// `_drawoff_stage_<table>_<run>_<slice>_<random>`: readable, and another each time a slice is opened,
/// because a table that is dropped and made again is not soon known to the write API.
fn staging_name(table: &str, run_id: &str, slice: &str) -> String {
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
