//! A slice: staged as files, published by a new manifest.

use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;

use super::Folder;
use super::close::{copy_marked, has_unmarked};
use super::durable::flush_folder;
use super::encode::{PartWriter, Written};
use super::manifest::{Manifest, Part, Pending, Stored};
use super::merge::{Existing, Kept, KeyFile, Keys, copy_kept, superseded};
use super::staging::StagingFolder;
use crate::destination::blocking::Worker;
use crate::destination::key::{Key, check_filled, check_shape, schema_of};
use crate::destination::{
    Absent, BatchKind, Disposition, Published, Slice, TableSpec, lease_lost, rejects,
    version_conflict,
};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::arrow_schema;
use crate::state::CheckpointUpdate;

pub struct FilesSlice(Worker<Work>);

/// A slice at work.
struct Work {
    folder: Arc<Folder>,
    table: TableSpec,
    /// Start of the names of the files that it publishes.
    names: String,
    slice: String,
    rows: PartWriter,
    rejects: PartWriter,
    key: Option<(Key, KeyFile)>,
    staged: u64,
    /// Last, so that the files are closed when it is removed.
    staging: StagingFolder,
}

impl FilesSlice {
    pub async fn open(
        folder: Arc<Folder>,
        table: TableSpec,
        run_id: String,
        slice: String,
    ) -> Result<Self> {
        Worker::start(move || Work::start(folder, table, &run_id, slice))
            .await
            .map(Self)
    }
}

#[async_trait]
impl Slice for FilesSlice {
    async fn stage(&mut self, kind: BatchKind, batch: RecordBatch) -> Result<()> {
        self.0.run(move |work| work.add(kind, &batch)).await
    }

    async fn publish(self: Box<Self>, checkpoint: &CheckpointUpdate) -> Result<Published> {
        let checkpoint = checkpoint.clone();
        self.0.finish(move |work| publish(work, &checkpoint)).await
    }

    async fn keep_absent(&mut self) -> Result<()> {
        self.0
            .run(|work| {
                work.table.absent = Absent::Keep;
                Ok(())
            })
            .await
    }

    async fn abandon(self: Box<Self>) -> Result<()> {
        self.0.stop().await;
        Ok(())
    }
}

impl Work {
    fn start(folder: Arc<Folder>, table: TableSpec, run_id: &str, slice: String) -> Result<Self> {
        let key = Key::of(&table)?;
        // Rows are written in the table's schema, which may have more columns.
        let manifest = Manifest::load(&folder)?;
        let schema = |name: &str| {
            manifest
                .tables
                .get(name)
                .map(|t| arrow_schema(&t.schema))
                .ok_or_else(|| {
                    Error::new(
                        ErrorKind::Bug,
                        format!(
                            "table `{name}` in {} was not prepared before rows came",
                            folder.shown
                        ),
                    )
                })
        };
        let (rows, rejected) = (
            schema(&table.name)?,
            schema(&rejects::table_name(&table.name))?,
        );
        let staging = StagingFolder::create(&folder)?;
        let key = match key {
            Some(key) => Some((key, KeyFile::create(staging.path.join("keys"))?)),
            None => None,
        };
        // Files sort by the run's id, which begins with its time.
        let run: String = run_id
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
            .take(40)
            .collect();
        Ok(Self {
            names: format!("part-{run}-{}", staging.id),
            slice,
            table,
            folder,
            rows: PartWriter::new(staging.path.clone(), "rows", rows),
            rejects: PartWriter::new(staging.path.clone(), "rejects", rejected),
            key,
            staged: 0,
            staging,
        })
    }

    fn add(&mut self, kind: BatchKind, batch: &RecordBatch) -> Result<()> {
        check_shape(&self.table.name, &schema_of(&self.table, kind), batch)?;
        if kind == BatchKind::Rejects {
            return self.rejects.write(batch);
        }
        if let Some((key, file)) = &mut self.key {
            check_filled(&self.table, batch)?;
            file.add(batch, &key.columns)?;
        }
        self.staged += batch.num_rows() as u64;
        self.rows.write(batch)
    }
}

fn publish(work: Work, update: &CheckpointUpdate) -> Result<Published> {
    let Work {
        folder,
        table,
        names,
        slice,
        staged,
        staging: place,
        ..
    } = work;
    let mut new = New {
        rows: work.rows.finish()?,
        rejects: work.rejects.finish()?,
        removed: Vec::new(),
        deduplicated: 0,
        closes: false,
    };
    new.closes =
        table.absent == Absent::Close && table.disposition.is_keyed() && new.rejects.is_empty();
    let keys = work.key.map(|(_, file)| file.finish()).transpose()?;

    let _lock = folder.lock()?;
    let mut manifest = Manifest::load(&folder)?;
    manifest.settle(&folder)?;
    let stored = manifest.checkpoint(&update.key);
    let version = stored.map_or(0, |s| s.version);
    let before = version == update.expected_version + 1
        && stored.is_some_and(|s| s.run_id == update.run_id && s.slice == slice);
    if version != update.expected_version && !before {
        return Err(version_conflict(update, version, &folder.shown));
    }
    if !before && let Some(by) = folder.other_holder(&update.lease, &update.run_id)? {
        return Err(lease_lost(update, &by, &folder.shown));
    }
    let lost = |name: &str| {
        Error::new(
            ErrorKind::State,
            format!("table `{name}` is no longer in {}", folder.shown),
        )
        .hint("somebody removed it while rows came: run again")
    };
    let live = manifest
        .tables
        .get(&table.name)
        .ok_or_else(|| lost(&table.name))?;
    if let Some(keys) = &keys {
        // When it went through before, nothing of the table is looked at.
        let files: &[Part] = match table.disposition {
            Disposition::Merge if !before => &live.files,
            _ => &[],
        };
        new.resolve(&folder, &table, &place, keys, files, live)?;
    }
    let published = Published {
        rows: staged - new.deduplicated,
        deduplicated: new.deduplicated,
        ..Published::default()
    };
    if before {
        // This very slice went through before and its answer was lost.
        return Ok(published);
    }
    let rejects = new.rejects.iter().map(|f| f.rows).sum();
    if table.is_cleared_by(staged, rejects) {
        new.removed = live.files.iter().map(|f| f.name.clone()).collect();
    }

    manifest.pending = Pending::default();
    let mut number = 0;
    let rejected = rejects::table_name(&table.name);
    for (name, written, removed) in [
        (&table.name, new.rows, new.removed),
        (&rejected, new.rejects, Vec::new()),
    ] {
        let live = manifest.tables.get_mut(name).ok_or_else(|| lost(name))?;
        live.files.retain(|f| !removed.contains(&f.name));
        manifest.pending.remove(name, &removed);
        for file in written {
            let part = format!("{}-{number:04}.parquet", names);
            number += 1;
            live.files
                .push(manifest.pending.bring(&file, &place, name, part));
        }
    }
    manifest
        .checkpoints
        .retain(|s| s.source != update.key.source || s.stream != update.key.stream);
    manifest.checkpoints.push(Stored {
        source: update.key.source.clone(),
        stream: update.key.stream.clone(),
        version: update.expected_version + 1,
        run_id: update.run_id.clone(),
        slice: slice.clone(),
        checkpoint: update.checkpoint.clone(),
    });
    flush_folder(&place.path)?;
    manifest.save(&folder)?;
    // Published. Whoever comes next would do the rest, too.
    manifest.settle(&folder).map_err(|e| {
        e.context(format!(
            "published slice `{}` of table `{}` in {}, and could not move its files into place",
            slice, table.name, folder.shown
        ))
    })?;
    Ok(published)
}

/// What a slice changes.
struct New {
    rows: Vec<Written>,
    rejects: Vec<Written>,
    /// Names of the table's files that go.
    removed: Vec<String>,
    deduplicated: u64,
    /// Rows of the table whose key is not staged are closed.
    closes: bool,
}

impl New {
    /// Leaves out staged rows that newer ones replace, and rewrites files of the table that have
    /// rows which staged ones replace, or which are to be closed because no staged one has their key;
    /// other files stay as they are.
    fn resolve(
        &mut self,
        folder: &Folder,
        table: &TableSpec,
        place: &StagingFolder,
        keys: &Keys,
        files: &[Part],
        live: &super::manifest::Table,
    ) -> Result<()> {
        let schema = arrow_schema(&live.schema);
        let names: Vec<&str> = table.primary_key.iter().map(String::as_str).collect();
        let existing: Vec<Existing<'_>> = files
            .iter()
            .map(|f| Existing {
                path: folder.root.join(&table.name).join(&f.name),
                rows: f.rows,
                key: &names,
            })
            .collect();
        let cursor = table.cursor.as_deref();
        let found = superseded(keys, &self.rows, cursor, &existing, folder.merge_memory)?;
        let mut kept = PartWriter::new(place.path.clone(), "kept", schema.clone());
        for (file, rows) in existing.iter().zip(found.existing) {
            let dropped = rows.as_ref().map_or(0, Kept::dropped);
            let mask = rows.map(Kept::mask);
            let marks = self.closes && has_unmarked(&file.path, mask.as_ref())?;
            if mask.is_none() && !marks {
                continue;
            }
            self.removed.extend(
                file.path
                    .file_name()
                    .map(|n| n.to_string_lossy().into_owned()),
            );
            if dropped == file.rows {
                continue;
            }
            match &mask {
                mask if marks => copy_marked(&file.path, mask.as_ref(), &schema, &mut kept)?,
                Some(mask) => copy_kept(&file.path, mask, 0, &mut kept)?,
                None => {}
            }
        }
        let mut all = kept.finish()?;
        self.deduplicated = found.staged.dropped();
        if self.deduplicated > 0 {
            let staged = std::mem::take(&mut self.rows);
            self.rows = without(found.staged, staged, place, schema)?;
        }
        all.append(&mut self.rows);
        self.rows = all;
        Ok(())
    }
}

/// The staged files without the rows to be left out; files that have none of them stay.
fn without(
    kept: Kept,
    staged: Vec<Written>,
    place: &StagingFolder,
    schema: arrow_schema::SchemaRef,
) -> Result<Vec<Written>> {
    let mask = kept.mask();
    let mut out = PartWriter::new(place.path.clone(), "unique", schema);
    let mut untouched = Vec::new();
    let mut first = 0;
    for file in staged {
        // A mask that is in memory has as many rows.
        let rows = usize::try_from(file.rows).unwrap_or(usize::MAX);
        if mask.slice(first, rows).count_set_bits() == rows {
            untouched.push(file);
        } else {
            copy_kept(&file.path, &mask, first, &mut out)?;
        }
        first += rows;
    }
    let mut all = out.finish()?;
    all.append(&mut untouched);
    Ok(all)
}
