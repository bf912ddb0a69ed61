//! What is published: checkpoints, and each table's schema and files, in one JSON file that is
//! replaced whole. Its replacement is the moment in which a publish happens.
//!
//! A manifest also holds what is still to be done on disk for it: files to be moved to where readers
//! look, and files to be removed. Doing so again does no harm, so whoever holds the lock does it
//! before anything else.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Folder;
use super::durable::{flush_folder, replace_json};
use super::encode::Written;
use super::failure::failed;
use super::staging::StagingFolder;
use crate::error::{Error, ErrorKind, Result};
use crate::schema::TableSchema;
use crate::state::{Checkpoint, CheckpointKey};

/// Name of the file.
const MANIFEST: &str = "manifest.json";

/// Of this format; a higher one is refused.
const FORMAT: u32 = 1;

/// What is published.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// By name.
    pub tables: BTreeMap<String, Table>,
    pub checkpoints: Vec<Stored>,
    #[serde(default)]
    pub pending: Pending,
}

/// A table.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Table {
    pub description: String,
    pub schema: TableSchema,
    /// Live files, oldest first.
    pub files: Vec<Part>,
}

/// A live file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Name inside the table's folder.
    pub name: String,
    pub rows: u64,
    pub bytes: u64,
}

/// A checkpoint, and what published it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stored {
    pub source: String,
    pub stream: String,
    pub version: u64,
    pub run_id: String,
    pub slice: String,
    pub checkpoint: Checkpoint,
}

/// What is still to be done on disk. Paths are relative to the destination's folder, and no path is
/// ever used for two files.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Pending {
    /// From, to.
    pub renames: Vec<(String, String)>,
    pub deletes: Vec<String>,
}

impl Pending {
    /// Has a staged file moved to a table's folder under that name; what the table is to list.
    pub fn bring(
        &mut self,
        file: &Written,
        staging: &StagingFolder,
        table: &str,
        name: String,
    ) -> Part {
        let from = file.path.file_name().unwrap_or_default().to_string_lossy();
        self.renames
            .push((staging.relative(&from), format!("{table}/{name}")));
        Part {
            name,
            rows: file.rows,
            bytes: file.bytes,
        }
    }

    /// Has files of a table removed.
    pub fn remove<'a>(&mut self, table: &str, names: impl IntoIterator<Item = &'a String>) {
        let paths = names.into_iter().map(|name| format!("{table}/{name}"));
        self.deletes.extend(paths);
    }
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            format: FORMAT,
            tables: BTreeMap::new(),
            checkpoints: Vec::new(),
            pending: Pending::default(),
        }
    }
}

impl Manifest {
    /// The manifest of the folder; an empty one where none was ever published.
    pub fn load(folder: &Folder) -> Result<Self> {
        let path = folder.own().join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(failed(format!("could not read {}", path.display()), e)),
        };
        let unreadable = || {
            Error::new(
                ErrorKind::State,
                format!("could not read the manifest {}", path.display()),
            )
        };
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        match serde_json::from_slice::<Format>(&text) {
            Ok(Format { format: FORMAT }) => {}
            Ok(Format { format }) => {
                return Err(unreadable()
                    .hint(format!("it has format {format}, and this drawoff knows format {FORMAT}: use a newer drawoff")));
            }
            Err(e) => return Err(unreadable().source(e)),
        }
        serde_json::from_slice(&text).map_err(|e| unreadable().source(e))
    }

    /// Replaces the folder's manifest; durable when it returns. The caller holds the lock.
    pub fn save(&self, folder: &Folder) -> Result<()> {
        replace_json(&folder.own(), MANIFEST, self)
    }

    /// Does what is still to be done on disk. The caller holds the lock.
    pub fn settle(&self, folder: &Folder) -> Result<()> {
        let mut touched = Vec::new();
        for (from, to) in &self.pending.renames {
            let (from, to) = (folder.root.join(from), folder.root.join(to));
            match rename(&from, &to) {
                Ok(()) => touched.extend(to.parent().map(ToOwned::to_owned)),
                // Done before.
                Err(e) if e.kind() == io::ErrorKind::NotFound && !from.exists() => {}
                Err(e) => {
                    return Err(failed(
                        format!(
                            "could not move the published file {} to {}",
                            from.display(),
                            to.display()
                        ),
                        e,
                    ));
                }
            }
        }
        for path in &self.pending.deletes {
            let path = folder.root.join(path);
            match fs::remove_file(&path) {
                Ok(()) => touched.extend(path.parent().map(ToOwned::to_owned)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    return Err(failed(
                        format!("could not remove the replaced file {}", path.display()),
                        e,
                    ));
                }
            }
        }
        touched.sort();
        touched.dedup();
        for path in touched {
            flush_folder(&path)?;
        }
        Ok(())
    }

    /// The stored checkpoint.
    pub fn checkpoint(&self, key: &CheckpointKey) -> Option<&Stored> {
        self.checkpoints
            .iter()
            .find(|s| s.source == key.source && s.stream == key.stream)
    }
}

/// Renames, also when somebody has removed the table's folder.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::rename(from, to)
}
