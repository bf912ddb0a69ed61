//! BigQuery. A slice is staged in a table of its own, through the Storage Write API or by a load job,
//! and published by one multi-statement transaction, which moves rows, rejects and checkpoint together.
//!
//! | module | owns |
//! |---|---|
//! | `spec` | whether BigQuery can have the table |
//! | `shape` | columns ↔ REST resources, staging columns, evolution |
//! | `partitions` | which partitions a publish touches |
//! | `sql` | every statement |
//! | `api` | dataset, tables, jobs |
//! | `write` | the Storage Write API |
//! | `load` | load jobs: a file in Parquet or JSON, its upload, the job |
//! | `stage` | a staging table and the ways into it |
//! | `slice` `publish` | a slice, and the transaction that makes it visible |
//! | `direct` | slices whose rows go straight into the table, and how they are taken back |
//! | `check` | what the account may do |
//! | `state` | checkpoints, leases, the record of runs |
//! | `plan` | what a run would do |
//!
//! Tables of its own: `_drawoff_checkpoints`, `_drawoff_leases`, `_drawoff_loads`, `_drawoff_runs`; `_drawoff_open_slices` where rows go
//! straight into tables; and `_drawoff_stage_…`, which BigQuery itself drops a
//! day after they were made, whatever happens to the run.

mod api;
mod check;
mod direct;
mod load;
mod partitions;
mod plan;
mod publish;
mod sequence;
mod shape;
mod slice;
mod spec;
mod sql;
mod stage;
mod state;
mod write;

pub use check::CheckStep;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};

use super::{Destination, Plan, Slice, TableSpec, rejects};
use crate::error::{Error, ErrorKind, Result};
use crate::google::Google;
use crate::schema::evolution::{self, Change};
use crate::schema::{Column, TableSchema};
use crate::state::CheckpointKey;

use api::{Api, Query};
use write::{Limits, WriteClient};

/// Table of checkpoints.
const CHECKPOINTS: &str = "_drawoff_checkpoints";

/// Table of leases.
const LEASES: &str = "_drawoff_leases";
/// Table of the slices that write straight into tables and are not published yet.
const OPEN_SLICES: &str = "_drawoff_open_slices";

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
    /// Location of a dataset that has to be made, `US` when not given; one that is there keeps its own.
    pub location: Option<String>,
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
            location: None,
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
    own_tables_ready: OnceCell<()>,
    swept: OnceCell<()>,
    direct: direct::Shared,
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
            own_tables_ready: OnceCell::new(),
            swept: OnceCell::new(),
            direct: direct::Shared::default(),
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

    /// The resource that a table should have, but for its columns.
    fn resource_of(table: &TableSpec) -> Value {
        let mut body = json!({
            "description": shape::table_description(&table.description),
            "labels": {"drawoff": "table"},
        });
        if let Some(partition) = &table.partition {
            body["timePartitioning"] =
                json!({"type": partition.unit.sql(), "field": partition.column});
        }
        if !table.cluster_by.is_empty() {
            body["clustering"] = json!({"fields": table.cluster_by});
        }
        body
    }

    /// Makes a table exist with those columns and the rest of its resource, or brings it there; what
    /// changed. `frozen`: one that is there must not change.
    async fn ensure_table(
        &self,
        table: &str,
        columns: &[Column],
        mut body: Value,
        frozen: bool,
    ) -> Result<Vec<String>> {
        let columns = &shape::described(columns)[..];
        let full = format!("{}.{table}", self.api().target());
        let mut said = Vec::new();
        // Another run may change the table between reading and patching it; then it is read again.
        for _ in 0..10 {
            let Some(resource) = self.api().table(table).await? else {
                let schema = TableSchema {
                    columns: columns.to_vec(),
                };
                spec::check_size(table, columns)?;
                body["schema"] = json!({"fields": shape::to_fields(columns)});
                if self.api().create_table(table, body.clone()).await? {
                    return Ok(vec![evolution::made(table, &schema)]);
                }
                continue;
            };
            if let Some(kind) = resource["type"].as_str().filter(|k| *k != "TABLE") {
                return Err(Error::new(
                    ErrorKind::Schema,
                    format!("table `{full}` is a {kind}, not a table that takes rows"),
                ));
            }
            let existing = resource["schema"]["fields"].as_array();
            let evolved = shape::evolve(&full, existing.map_or(&[], Vec::as_slice), columns)?;
            let mut patch = self.patch(table, &resource, &body)?;
            if frozen {
                return match evolved.changes.is_empty() {
                    true => Ok(said),
                    false => Err(evolution::frozen(&full, &evolved.changes)),
                };
            }
            spec::check_size(table, &evolved.schema.columns)?;
            let wider = |c: &&Change| matches!(c, Change::Widened { .. });
            let widened = evolved.changes.iter().filter(wider);
            if said.is_empty() && widened.clone().count() > 0 {
                for change in widened {
                    self.widen(table, change).await?;
                    said.push(change.done(table));
                }
                // The table's tag is another now.
                continue;
            }
            if let Some(fields) = evolved.fields {
                patch["schema"] = json!({"fields": fields});
            }
            if patch.as_object().is_none_or(serde_json::Map::is_empty) {
                return Ok(said);
            }
            let etag = resource["etag"].as_str();
            let Some(patched) = self.api().patch_table(table, etag, &patch).await? else {
                continue;
            };
            let fields = patched["schema"]["fields"].as_array();
            if shape::has_all(fields.map_or(&[], Vec::as_slice), columns) {
                let others = evolved.changes.iter().filter(|c| !wider(c));
                said.extend(others.map(|c| c.done(table)));
                return Ok(said);
            }
            return Err(Error::destination(format!(
                "columns were added to table `{full}`, and it does not have them"
            )));
        }
        Err(
            Error::destination(format!("table `{full}` is changed by others all the time"))
                .transient(true),
        )
    }

    /// Gives a column a wider type, which only a statement can.
    async fn widen(&self, table: &str, change: &Change) -> Result<()> {
        let Change::Widened { path, from, to } = change else {
            return Ok(());
        };
        let query = Query {
            what: format!(
                "widen column `{path}` of table `{}.{table}` from {from} to {to}",
                self.api().target()
            ),
            sql: sql::widen(&self.quoted(table), path, to),
            parameters: Vec::new(),
            labels: vec![("drawoff", "widen")],
            transaction: false,
            names_job: false,
            mark: unique_mark(),
        };
        self.api().query(&query).await.map(|_| ()).map_err(|e| {
            e.hint("BigQuery changes no column of a table that rows were streamed into within the last hours: run again later, or change the column by hand")
        })
    }

    /// What must change in a table's resource, its columns aside; an empty object when nothing.
    fn patch(&self, table: &str, resource: &Value, wanted: &Value) -> Result<Value> {
        let refuse = |text: String| {
            Err(Error::new(
                ErrorKind::Schema,
                format!("table `{}.{table}` {text}", self.api().target()),
            ))
        };
        let mut patch = json!({});
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
                    "is partitioned {now}, and the stream wants it by {} of `{}`",
                    partition["type"].as_str().unwrap_or_default(),
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

    async fn prepare(&self, table: &TableSpec) -> Result<Vec<String>> {
        spec::check(table)?;
        self.api().ensure_dataset().await?;
        self.ensure_own_tables().await?;
        self.sweep().await?;
        self.before_direct(table).await?;
        let changes = self
            .ensure_table(
                &table.name,
                &table.schema.columns,
                Self::resource_of(table),
                table.frozen,
            )
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
            false,
        )
        .await?;
        Ok(changes)
    }

    async fn existing(&self, table: &str) -> Result<Option<TableSchema>> {
        self.api()
            .table(table)
            .await?
            .map(|resource| shape::from_resource(table, &resource))
            .transpose()
    }

    async fn plan(&self, table: &TableSpec) -> Result<Plan> {
        self.plan_table(table).await
    }

    async fn take_back(&self, table: &TableSpec, key: &CheckpointKey) -> Result<Vec<String>> {
        self.take_back_dead(table, key).await
    }

    async fn open(&self, table: &TableSpec, run_id: &str, slice: &str) -> Result<Box<dyn Slice>> {
        spec::check(table)?;
        if table.write_method.is_direct() {
            return Ok(Box::new(direct::DirectSlice::new(
                self.clone(),
                table.clone(),
                run_id,
                slice,
            )));
        }
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
