//! BigQuery. A slice is staged in a table of its own through the Storage Write API and published by
//! one multi-statement transaction, which moves rows, rejects and checkpoint together.
//!
//! | module | owns |
//! |---|---|
//! | `spec` | whether BigQuery can have the table |
//! | `shape` | columns ↔ REST resources, staging columns, evolution |
//! | `sql` | every statement |
//! | `api` | dataset, tables, query jobs |
//! | `write` | the Storage Write API |
//! | `slice` | staging and publishing |
//! | `check` | what the account may do |
//!
//! Tables of its own: `_drawoff_checkpoints`, and `_drawoff_stage_…`, which BigQuery itself drops a
//! day after they were made, whatever happens to the run.

mod api;
mod check;
mod shape;
mod slice;
mod spec;
mod sql;
mod write;

pub use check::CheckStep;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};

use super::{Destination, Slice, TableSpec, rejects};
use crate::error::{Error, ErrorKind, Result};
use crate::google::Google;
use crate::schema::{Column, TableSchema};
use crate::state::{Checkpoint, CheckpointKey, SavedCheckpoint};

use api::{Api, Query};
use write::{Limits, WriteClient};

/// Table of checkpoints.
const CHECKPOINTS: &str = "_drawoff_checkpoints";

/// Start of the names of staging tables.
const STAGING_PREFIX: &str = "_drawoff_stage_";

/// After this a staging table is dropped by BigQuery. A pending stream must be committed within a
/// day (Storage Write API, 2026-08), so no live slice is older.
const STAGING_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Largest request sent to BigQuery, which takes 20 MB.
const REQUEST_BYTES: usize = 9 << 20;

/// Largest request sent to an emulator: gRPC servers take 4 MiB unless told otherwise.
const EMULATOR_REQUEST_BYTES: usize = 3_670_016;

/// `PROJECT.DATASET`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Project id.
    pub project: String,
    /// Dataset id.
    pub dataset: String,
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::config(format!("`{text}` is not a BigQuery dataset"))
                .hint("write `bigquery:PROJECT.DATASET`, as in `bigquery:my-project.raw_github`")
        };
        // A project of an old domain (`example.com:project`) has dots of its own.
        let (project, dataset) = text.rsplit_once('.').ok_or_else(bad)?;
        let project_fits = !project.is_empty()
            && (!project.contains('.') || project.contains(':'))
            && project
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_'));
        let dataset_fits = (1..=1024).contains(&dataset.len())
            && dataset
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !project_fits || !dataset_fits {
            return Err(bad());
        }
        Ok(Self {
            project: project.to_owned(),
            dataset: dataset.to_owned(),
        })
    }
}

impl Target {
    /// Path of a table's resource in BigQuery's API.
    fn table_path<'a>(&'a self, table: &'a str) -> [&'a str; 6] {
        [
            "projects",
            &self.project,
            "datasets",
            &self.dataset,
            "tables",
            table,
        ]
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.project, self.dataset)
    }
}

/// How to write to BigQuery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BigQuerySettings {
    /// Location of a dataset that has to be made; one that is there keeps its own.
    pub location: String,
    /// Project in which jobs run and are paid for; the target's when not given.
    pub job_project: Option<String>,
    /// Largest Storage Write request in bytes; 9 MiB, or 3.5 MiB for an emulator, when not given.
    pub request_bytes: Option<usize>,
    /// Most bytes of rows sent and not acknowledged, for each slice being staged.
    pub in_flight_bytes: usize,
    /// A job that would bill more fails before it starts.
    pub maximum_bytes_billed: Option<u64>,
}

impl Default for BigQuerySettings {
    fn default() -> Self {
        Self {
            location: "US".into(),
            job_project: None,
            request_bytes: None,
            in_flight_bytes: 18 << 20,
            maximum_bytes_billed: None,
        }
    }
}

/// A BigQuery dataset to which rows go. Clones share everything.
#[derive(Clone)]
pub struct BigQuery(Arc<Inner>);

struct Inner {
    api: Api,
    write: WriteClient,
    limits: Limits,
    /// One transaction at a time: all of them mutate the table of checkpoints, and BigQuery cancels
    /// those that meet.
    publishing: Mutex<()>,
    checkpoints_ready: OnceCell<()>,
    swept: OnceCell<()>,
}

impl BigQuery {
    /// A destination. Nothing is sent before the first call.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the Storage Write endpoint cannot be one.
    pub fn new(google: Google, target: Target, settings: BigQuerySettings) -> Result<Self> {
        let request = settings
            .request_bytes
            .unwrap_or(match google.settings().is_emulated() {
                true => EMULATOR_REQUEST_BYTES,
                false => REQUEST_BYTES,
            });
        let write = WriteClient::new(google.clone(), request)?;
        Ok(Self(Arc::new(Inner {
            api: Api::new(
                google,
                target,
                settings.location,
                settings.job_project,
                settings.maximum_bytes_billed,
            ),
            write,
            limits: Limits {
                request,
                in_flight: settings.in_flight_bytes.max(request),
            },
            publishing: Mutex::new(()),
            checkpoints_ready: OnceCell::new(),
            swept: OnceCell::new(),
        })))
    }

    fn api(&self) -> &Api {
        &self.0.api
    }

    /// A table of the dataset, quoted.
    fn quoted(&self, table: &str) -> String {
        let target = self.api().target();
        sql::table(&target.project, &target.dataset, table)
    }

    async fn ensure_checkpoints(&self) -> Result<()> {
        self.0
            .checkpoints_ready
            .get_or_try_init(|| async {
                let body = json!({
                    "description": "Where each stream's extraction stands; written by drawoff together with the rows.",
                    "clustering": {"fields": ["source", "stream"]},
                    "labels": {"drawoff": "checkpoints"},
                });
                self.ensure_table(CHECKPOINTS, &sql::checkpoint_columns(), body)
                    .await
            })
            .await
            .copied()
    }

    /// Makes a table exist with those columns and the rest of its resource, or brings it there.
    async fn ensure_table(&self, table: &str, columns: &[Column], mut body: Value) -> Result<()> {
        // Another run may change the table between reading and patching it; then it is read again.
        for _ in 0..10 {
            let Some(resource) = self.api().table(table).await? else {
                body["schema"] = json!({"fields": shape::to_fields(columns)});
                if self.api().create_table(table, body.clone()).await? {
                    return Ok(());
                }
                continue;
            };
            let patch = self.patch(table, &resource, columns, &body)?;
            if patch.as_object().is_none_or(serde_json::Map::is_empty) {
                return Ok(());
            }
            let etag = resource["etag"].as_str();
            let Some(patched) = self.api().patch_table(table, etag, &patch).await? else {
                continue;
            };
            let fields = patched["schema"]["fields"].as_array();
            if shape::has_all(fields.map_or(&[], Vec::as_slice), columns) {
                return Ok(());
            }
            return Err(Error::destination(format!(
                "columns were added to table `{}.{table}`, and it does not have them",
                self.api().target()
            )));
        }
        Err(Error::destination(format!(
            "table `{}.{table}` is changed by others all the time",
            self.api().target()
        ))
        .transient(true))
    }

    /// What must change in a table's resource; an empty object when nothing.
    fn patch(
        &self,
        table: &str,
        resource: &Value,
        columns: &[Column],
        wanted: &Value,
    ) -> Result<Value> {
        let refuse = |text: String| {
            Err(Error::new(
                ErrorKind::Schema,
                format!("table `{}.{table}` {text}", self.api().target()),
            ))
        };
        if let Some(kind) = resource["type"].as_str().filter(|k| *k != "TABLE") {
            return refuse(format!("is a {kind}, not a table that takes rows"));
        }
        let existing = resource["schema"]["fields"].as_array();
        let mut patch = json!({});
        let full = format!("{}.{table}", self.api().target());
        if let Some(fields) = shape::evolve(&full, existing.map_or(&[], Vec::as_slice), columns)? {
            patch["schema"] = json!({"fields": fields});
        }
        let description = &wanted["description"];
        if description.as_str().is_some_and(|d| !d.is_empty())
            && resource["description"] != *description
        {
            patch["description"] = description.clone();
        }
        let (there, partition) = (&resource["timePartitioning"], &wanted["timePartitioning"]);
        if !partition.is_null() {
            let same = there["field"]
                .as_str()
                .zip(partition["field"].as_str())
                .is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
                && there["type"] == partition["type"];
            if !same {
                let now = match (there["type"].as_str(), there["field"].as_str()) {
                    (Some(kind), Some(field)) => format!("by {kind} of `{field}`"),
                    (Some(kind), None) => format!("by {kind} of arrival"),
                    _ => "not at all".to_owned(),
                };
                return refuse(format!(
                    "is partitioned {now}, and the stream wants it by DAY of `{}`",
                    partition["field"].as_str().unwrap_or_default()
                ))
                .map_err(|e| e.hint("BigQuery fixes partitioning when a table is made: correct `partition_by`, give the stream another table, or make the table anew"));
            }
        }
        if !wanted["clustering"].is_null()
            && resource["clustering"]["fields"] != wanted["clustering"]["fields"]
        {
            patch["clustering"] = wanted["clustering"].clone();
        }
        Ok(patch)
    }

    /// Drops the staging tables of dead runs, once a process. BigQuery drops them by itself as well;
    /// this is for emulators, and for a dataset whose own default lets tables live longer.
    async fn sweep(&self) -> Result<()> {
        self.0
            .swept
            .get_or_try_init(|| async {
                let now = self.api().google().clock().now().as_millisecond();
                let oldest = now - STAGING_LIFETIME.as_millis() as i64;
                for (table, created) in self.api().tables_named(STAGING_PREFIX).await? {
                    if created < oldest {
                        tracing::debug!(table, "dropping a staging table of a dead run");
                        self.api().drop_table(&table).await?;
                    }
                }
                Ok(())
            })
            .await
            .copied()
    }
}

#[async_trait]
impl Destination for BigQuery {
    fn describe(&self) -> String {
        format!("bigquery:{}", self.api().target())
    }

    async fn prepare(&self, table: &TableSpec) -> Result<()> {
        spec::check(table)?;
        self.api().ensure_dataset().await?;
        self.ensure_checkpoints().await?;
        self.sweep().await?;
        let mut body = json!({
            "description": table.description,
            "labels": {"drawoff": "table"},
        });
        if let Some(field) = &table.partition_by {
            body["timePartitioning"] = json!({"type": "DAY", "field": field});
        }
        if !table.cluster_by.is_empty() {
            body["clustering"] = json!({"fields": table.cluster_by});
        }
        self.ensure_table(&table.name, &table.schema.columns, body)
            .await?;
        let about = json!({
            "description": format!("Records that do not fit `{}`, with the reason; as received.", table.name),
            "timePartitioning": {"type": "DAY", "field": "_extracted_at"},
            "labels": {"drawoff": "rejects"},
        });
        self.ensure_table(
            &rejects::table_name(&table.name),
            &rejects::schema().columns,
            about,
        )
        .await
    }

    async fn existing(&self, table: &str) -> Result<Option<TableSchema>> {
        self.api()
            .table(table)
            .await?
            .map(|resource| shape::from_resource(table, &resource))
            .transpose()
    }

    async fn checkpoints(&self, source: &str) -> Result<HashMap<CheckpointKey, SavedCheckpoint>> {
        // Asked of the catalogue: a query cannot tell a missing table from a wrong location.
        if self.api().table(CHECKPOINTS).await?.is_none() {
            return Ok(HashMap::new());
        }
        let query = Query {
            what: format!(
                "read the checkpoints of `{source}` from `{}`",
                self.describe()
            ),
            sql: sql::checkpoints(&self.quoted(CHECKPOINTS)),
            parameters: vec![("source", "STRING", source.to_owned())],
            labels: vec![("drawoff", "checkpoints"), ("drawoff_source", source)],
            mark: unique_mark(),
        };
        let mut found: HashMap<CheckpointKey, SavedCheckpoint> = HashMap::new();
        for row in self.api().query(&query).await? {
            let bad = || {
                Error::new(
                    ErrorKind::State,
                    format!(
                        "a checkpoint of `{source}` in `{}.{CHECKPOINTS}` cannot be read",
                        self.api().target()
                    ),
                )
                .hint("it was written by a newer drawoff, or by hand: use the newer one, or delete the row to start over")
            };
            let text = |name: &str| row.get(name).and_then(Option::as_deref);
            let stream = text("stream").ok_or_else(bad)?;
            let version = text("version")
                .and_then(|v| v.parse().ok())
                .ok_or_else(bad)?;
            let checkpoint: Checkpoint = text("state")
                .and_then(|s| serde_json::from_str(s).ok())
                .ok_or_else(bad)?;
            let key = CheckpointKey {
                source: source.to_owned(),
                stream: stream.to_owned(),
            };
            // Rows come in order of version; the last is the one that holds.
            found.insert(
                key,
                SavedCheckpoint {
                    checkpoint,
                    version,
                },
            );
        }
        Ok(found)
    }

    async fn open(&self, table: &TableSpec, run_id: &str, slice: &str) -> Result<Box<dyn Slice>> {
        spec::check(table)?;
        Ok(Box::new(slice::BigQuerySlice::new(
            self.clone(),
            table.clone(),
            run_id,
            slice,
        )))
    }
}

/// A mark that no other query has.
fn unique_mark() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let t: Target = "my-project.raw_github".parse().unwrap();
        assert_eq!(
            (t.project.as_str(), t.dataset.as_str()),
            ("my-project", "raw_github")
        );
        let t: Target = "example.com:p.d".parse().unwrap();
        assert_eq!(
            (t.project.as_str(), t.dataset.as_str()),
            ("example.com:p", "d")
        );
        for bad in ["", "p", ".d", "p.", "p.d-e", "p`.d", "p q.d"] {
            let e = bad.parse::<Target>().unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Config);
            assert!(e.find_hint().unwrap().contains("PROJECT.DATASET"));
        }
    }
}
