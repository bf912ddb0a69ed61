//! BigQuery. A slice is staged in a table of its own, through the Storage Write API or by a load job,
//! and published by one multi-statement transaction, which moves rows, rejects and checkpoint together.
//!
//! | module | owns |
//! |---|---|
//! | `target` | which dataset it is |
//! | `spec` | whether BigQuery can have the table |
//! | `shape` | columns ↔ REST resources, staging columns, evolution |
//! | `table` | a table, made or brought to the wanted shape |
//! | `partitions` | which partitions a publish touches |
//! | `sql` | every statement |
//! | `api` | dataset, tables, jobs |
//! | `write` | the Storage Write API |
//! | `load` | load jobs: a file in Parquet or JSON, its upload, the job |
//! | `stage` | a staging table and the ways into it |
//! | `slice` `publish` | a slice, and the transaction that makes it visible |
//! | `direct` | slices whose rows go straight into the table, and how they are taken back |
//! | `check` | what the account may do |
//! | `state` `checkpoint` | checkpoints, leases, the record of runs; a checkpoint as text |
//! | `plan` | what a run would do |
//!
//! Tables of its own: `_drawoff_checkpoints`, `_drawoff_leases`, `_drawoff_loads`, `_drawoff_runs`; `_drawoff_open_slices` where rows go
//! straight into tables; and `_drawoff_stage_…`, which BigQuery itself drops a
//! day after they were made, whatever happens to the run.

mod api;
mod check;
mod checkpoint;
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
mod table;
mod target;
mod write;

pub use check::CheckStep;
pub use target::Target;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::{Mutex, OnceCell};

use super::{Destination, Plan, Slice, TableSpec, rejects};
use crate::error::Result;
use crate::google::Google;
use crate::schema::TableSchema;
use crate::state::CheckpointKey;

use api::Api;
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
    /// [`crate::error::ErrorKind::Config`] when the Storage Write endpoint cannot be one.
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
