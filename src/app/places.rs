//! Destinations by name.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;

use crate::destination::bigquery::{BigQuery, BigQuerySettings};
use crate::destination::files::FilesDestination;
use crate::destination::sqlite::SqliteDestination;
use crate::destination::{BatchKind, Destination, Plan, Published, Slice, TableSpec};
use crate::error::{Error, Result};
use crate::google::Google;
use crate::schema::TableSchema;
use crate::settings::BigQueryOptions;
use crate::state::{
    Acquired, CheckpointKey, CheckpointUpdate, Lease, RunRecord, SavedCheckpoint, StateStore,
};

/// Where rows land when nobody says.
pub const DEFAULT: &str = "sqlite:drawoff.db";

/// A destination, and what more the `check` command can ask of it.
pub enum Place {
    /// A local database or folder.
    Local(Arc<dyn Destination>),
    /// BigQuery.
    BigQuery(BigQuery),
}

impl Place {
    /// The destination that the text names: `sqlite:FILE`, `parquet:DIR`, `bigquery:PROJECT.DATASET`.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`] for a text that names none; what opening it says.
    pub fn open(text: &str, google: &Google, bigquery: &BigQueryOptions) -> Result<Self> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let wants =
            |what: &str| Error::config(format!("destination `{text}` names no {what}")).hint(KINDS);
        match (kind, rest) {
            ("sqlite", "") => Err(wants("file")),
            ("parquet", "") => Err(wants("folder")),
            ("sqlite", path) => Ok(Self::Local(Arc::new(SqliteDestination::open(path)?))),
            ("parquet", dir) => Ok(Self::Local(Arc::new(FilesDestination::open(dir)?))),
            ("bigquery", target) => {
                let settings = BigQuerySettings {
                    location: bigquery.location.clone(),
                    job_project: bigquery.job_project.clone(),
                    maximum_bytes_billed: bigquery.maximum_bytes_billed,
                    request_bytes: bigquery.request_bytes.and_then(|n| n.try_into().ok()),
                    ..BigQuerySettings::default()
                };
                Ok(Self::BigQuery(BigQuery::new(
                    google.clone(),
                    target.parse()?,
                    settings,
                )?))
            }
            (kind, _) => {
                let near = crate::error::nearest(kind, ["sqlite", "parquet", "bigquery"]);
                let near = near
                    .map(|n| format!(" (did you mean `{n}:`?)"))
                    .unwrap_or_default();
                Err(
                    Error::config(format!("there is no destination of kind `{kind}`{near}"))
                        .hint(KINDS),
                )
            }
        }
    }

    /// The destination.
    pub fn destination(&self) -> Arc<dyn Destination> {
        match self {
            Self::Local(destination) => destination.clone(),
            Self::BigQuery(bigquery) => Arc::new(bigquery.clone()),
        }
    }

    /// Whether opening it would make something that is not there yet, in a folder that is.
    pub fn is_new(text: &str) -> bool {
        let there = |path: &Path| path.as_os_str().is_empty() || path.is_dir();
        match text.split_once(':') {
            Some(("sqlite" | "parquet", path)) if !path.is_empty() => {
                let path = Path::new(path);
                !path.exists() && path.parent().is_some_and(there)
            }
            _ => false,
        }
    }
}

const KINDS: &str = "write `sqlite:FILE`, `parquet:DIR` or `bigquery:PROJECT.DATASET`";

/// Stands before a destination in a dry run: reads from it, stores nothing.
pub struct Dry {
    /// The destination, unless it does not exist yet.
    pub inner: Option<Arc<dyn Destination>>,
    /// Its name.
    pub name: String,
}

struct DrySlice {
    rows: u64,
}

#[async_trait]
impl Destination for Dry {
    fn describe(&self) -> String {
        self.name.clone()
    }

    async fn prepare(&self, _: &TableSpec) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn existing(&self, table: &str) -> Result<Option<TableSchema>> {
        match &self.inner {
            Some(inner) => inner.existing(table).await,
            None => Ok(None),
        }
    }

    async fn plan(&self, table: &TableSpec) -> Result<Plan> {
        match &self.inner {
            Some(inner) => inner.plan(table).await,
            None => Ok(Plan {
                changes: Plan::of_new(table)
                    .into_iter()
                    .map(|change| format!("{change} in {}, which does not exist yet", self.name))
                    .collect(),
                ..Plan::default()
            }),
        }
    }

    async fn open(&self, _: &TableSpec, _: &str, _: &str) -> Result<Box<dyn Slice>> {
        Ok(Box::new(DrySlice { rows: 0 }))
    }
}

/// Leases and records are not for those who store nothing.
#[async_trait]
impl StateStore for Dry {
    async fn checkpoints(&self, source: &str) -> Result<HashMap<CheckpointKey, SavedCheckpoint>> {
        match &self.inner {
            Some(inner) => inner.checkpoints(source).await,
            None => Ok(HashMap::new()),
        }
    }

    async fn forget(&self, _: &str, _: &[(String, u64)]) -> Result<()> {
        Ok(())
    }

    async fn acquire(&self, _: &Lease) -> Result<Acquired> {
        Ok(Acquired::Ours { before: None })
    }

    async fn renew(&self, _: &Lease) -> Result<()> {
        Ok(())
    }

    async fn release(&self, _: &Lease) -> Result<()> {
        Ok(())
    }

    async fn record(&self, _: &mut [RunRecord]) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Slice for DrySlice {
    async fn stage(&mut self, kind: BatchKind, batch: RecordBatch) -> Result<()> {
        if kind == BatchKind::Rows {
            self.rows += batch.num_rows() as u64;
        }
        Ok(())
    }

    async fn publish(self: Box<Self>, _: &CheckpointUpdate) -> Result<Published> {
        Ok(Published {
            rows: self.rows,
            ..Published::default()
        })
    }

    async fn keep_absent(&mut self) -> Result<()> {
        Ok(())
    }

    async fn abandon(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
