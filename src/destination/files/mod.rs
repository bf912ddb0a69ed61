//! A folder of Parquet files: `parquet:DIR`.
//!
//! ```text
//! DIR/tickets/part-….parquet            what readers glob
//! DIR/tickets__rejects/part-….parquet
//! DIR/_drawoff/manifest.json            checkpoints, schemas, live files; replaced whole
//! DIR/_drawoff/lock                     held while the manifest or a lease is changed
//! DIR/_drawoff/leases.json              which run works on which source; replaced whole
//! DIR/_drawoff/runs.ndjson              a line for each stream of each run
//! DIR/_drawoff/staging/<id>/            a slice being staged; its `owner` file is locked by it
//! ```
//!
//! A publish replaces the manifest, then moves the staged files to their places and removes the
//! replaced ones; a run that finds it half-way finishes it first. The locks are the operating
//! system's, so a process that dies lets go of them.
//!
//! A column that is added later is not in older files: readers unite files by column name.

mod close;
pub(super) mod conform;
mod durable;
pub(super) mod encode;
mod failure;
mod manifest;
mod merge;
mod publish;
mod rewrite;
mod staging;
mod state;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use self::failure::failed;
use self::manifest::Manifest;
use super::key::Key;
use super::{Destination, Disposition, Plan, Slice, TableSpec, audit, blocking, rejects};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::TableSchema;
use crate::schema::evolution::{Change, frozen, made, reconcile};

/// Name of the folder that is ours.
const OWN: &str = "_drawoff";

/// Memory for the keys of a merge: a million of them.
const MERGE_MEMORY: usize = 16 << 20;

/// A folder of Parquet files.
pub struct FilesDestination {
    folder: Arc<Folder>,
}

/// Where the files are.
pub struct Folder {
    /// Absolute.
    pub root: PathBuf,
    /// `parquet:DIR` as the person gave it.
    pub shown: String,
    /// Bytes that keys of a merge may take.
    merge_memory: usize,
}

impl FilesDestination {
    /// Names the folder; it is made when a table is prepared.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a path that is none, [`ErrorKind::Destination`] when a file is in
    /// its place.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let root = dir.as_ref();
        let shown = format!("parquet:{}", root.display());
        if root.as_os_str().is_empty() {
            return Err(
                Error::config(format!("`{shown}` names no folder")).hint("write `parquet:DIR`")
            );
        }
        if root.exists() && !root.is_dir() {
            return Err(failed(
                format!("could not open {shown}"),
                std::io::ErrorKind::NotADirectory.into(),
            ));
        }
        let root = std::path::absolute(root)
            .map_err(|e| failed(format!("could not find the path of {shown}"), e))?;
        Ok(Self {
            folder: Arc::new(Folder {
                root,
                shown,
                merge_memory: MERGE_MEMORY,
            }),
        })
    }

    /// Sets how many bytes the keys of a merge may take; 16 MiB when not set. With less, a merge of
    /// many rows reads keys more often.
    #[must_use]
    pub fn merge_memory(self, bytes: usize) -> Self {
        Self {
            folder: Arc::new(Folder {
                root: self.folder.root.clone(),
                shown: self.folder.shown.clone(),
                merge_memory: bytes,
            }),
        }
    }
}

impl Folder {
    /// The folder that is ours.
    pub fn own(&self) -> PathBuf {
        self.root.join(OWN)
    }

    /// Waits for the lock of the manifest; held as long as the file is open.
    pub fn lock(&self) -> Result<File> {
        self.lock_file("lock")
    }

    /// Waits for a lock of ours.
    pub fn lock_file(&self, name: &str) -> Result<File> {
        let path = self.own().join(name);
        let lock = || {
            fs::create_dir_all(self.own())?;
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(|e| failed(format!("could not lock {}", path.display()), e))
    }

    fn prepare(&self, spec: &TableSpec) -> Result<Vec<String>> {
        check_name(&spec.name)?;
        Key::of(spec)?;
        if spec.disposition == Disposition::Scd2 {
            return Err(Error::config(format!(
                "table `{}` cannot keep history (`disposition: scd2`) in {}: ending a version would rewrite its file",
                spec.name, self.shown
            ))
            .hint("use `disposition: merge`, or a destination `sqlite:` or `bigquery:`"));
        }
        let _lock = self.lock()?;
        let mut manifest = Manifest::load(self)?;
        manifest.settle(self)?;
        // After that, whatever a dead run has staged was not published.
        staging::sweep(self)?;
        manifest.pending = manifest::Pending::default();
        let rejects = TableSpec {
            name: rejects::table_name(&spec.name),
            description: format!("Records that do not fit `{}`.", spec.name),
            schema: rejects::schema(),
            ..TableSpec::default()
        };
        // Held until the rewritten files have their names.
        let staging = staging::StagingFolder::create(self)?;
        let changes = self.shape(&mut manifest, &staging, spec)?;
        self.shape(&mut manifest, &staging, &rejects)?;
        manifest.save(self)?;
        manifest.settle(self)?;
        Ok(changes)
    }

    fn plan(&self, table: &TableSpec) -> Result<Plan> {
        check_name(&table.name)?;
        Key::of(table)?;
        let manifest = Manifest::load(self)?;
        let rejected = rejects::table_name(&table.name);
        let mut changes = Vec::new();
        for (name, wanted) in [
            (&table.name, &table.schema),
            (&rejected, &rejects::schema()),
        ] {
            let existing = manifest.tables.get(name).map(|t| &t.schema);
            let frozen = table.frozen && *name == table.name;
            changes.extend(Plan::of_table(name, existing, wanted, frozen)?);
        }
        Ok(Plan {
            changes,
            steps: vec![
                format!("stage files in `{OWN}/staging` of {}", self.shown),
                format!(
                    "publish them into `{}` ({}) and `{rejected}` with a new manifest, which holds the checkpoint",
                    table.name,
                    audit::disposition(table.disposition)
                ),
            ],
            ..Plan::default()
        })
    }

    fn shape(
        &self,
        manifest: &mut Manifest,
        staging: &staging::StagingFolder,
        spec: &TableSpec,
    ) -> Result<Vec<String>> {
        let name = &spec.name;
        let path = self.root.join(name);
        fs::create_dir_all(&path)
            .map_err(|e| failed(format!("could not create {}", path.display()), e))?;
        let Some(table) = manifest.tables.get_mut(name) else {
            let table = manifest::Table {
                schema: spec.schema.clone(),
                description: spec.description.clone(),
                ..manifest::Table::default()
            };
            manifest.tables.insert(name.clone(), table);
            return Ok(vec![made(name, &spec.schema)]);
        };
        let now = reconcile(name, &table.schema, &spec.schema)?;
        if spec.frozen {
            return match now.changes.is_empty() {
                true => Ok(Vec::new()),
                false => Err(frozen(name, &now.changes)),
            };
        }
        let widened = |c: &Change| matches!(c, Change::Widened { from, to, .. } if from.split('(').next() != to.split('(').next());
        table.schema = now.schema;
        table.description.clone_from(&spec.description);
        if now.changes.iter().any(widened) {
            // Readers unite files by column name: those of one table must agree on types.
            rewrite::rewrite(self, manifest, staging, name)?;
        }
        Ok(now.changes.iter().map(|c| c.done(name)).collect())
    }
}

/// A table's name is a folder's.
fn check_name(name: &str) -> Result<()> {
    let bad = name.is_empty()
        || name.starts_with('.')
        || name.starts_with(OWN)
        || name.contains(|c: char| c.is_control() || "/\\:*?\"<>|".contains(c));
    if !bad {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Schema,
        format!(
            "a table of files cannot be called `{}`",
            name.escape_default()
        ),
    )
    .hint("give the stream a table name of letters, digits and underscores"))
}

#[async_trait]
impl Destination for FilesDestination {
    fn describe(&self) -> String {
        self.folder.shown.clone()
    }

    async fn prepare(&self, table: &TableSpec) -> Result<Vec<String>> {
        let (folder, table) = (self.folder.clone(), table.clone());
        blocking::run(move || folder.prepare(&table)).await
    }

    async fn existing(&self, table: &str) -> Result<Option<TableSchema>> {
        let (folder, table) = (self.folder.clone(), table.to_owned());
        blocking::run(move || {
            Ok(Manifest::load(&folder)?
                .tables
                .remove(&table)
                .map(|t| t.schema))
        })
        .await
    }

    async fn plan(&self, table: &TableSpec) -> Result<Plan> {
        let (folder, table) = (self.folder.clone(), table.clone());
        blocking::run(move || folder.plan(&table)).await
    }

    async fn open(&self, table: &TableSpec, run_id: &str, slice: &str) -> Result<Box<dyn Slice>> {
        let (folder, table) = (self.folder.clone(), table.clone());
        let (run_id, slice) = (run_id.to_owned(), slice.to_owned());
        let slice = publish::FilesSlice::open(folder, table, run_id, slice).await?;
        Ok(Box::new(slice))
    }
}
