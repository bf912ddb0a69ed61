//! Changes to files that outlast a loss of power.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::failure::failed;
use crate::error::Result;

/// Replaces a JSON file of the folder whole; durable when it returns. The caller holds the lock.
pub fn replace_json(folder: &Path, name: &str, content: &impl Serialize) -> Result<()> {
    let (path, new) = (folder.join(name), folder.join(format!("{name}.new")));
    let write = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(content)?)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&new, &path)?;
        sync_folder(folder)
    };
    write().map_err(|e| failed(format!("could not write {}", path.display()), e))
}

/// Makes names in a folder durable.
///
/// # Errors
/// As [`failed`] says.
pub fn flush_folder(path: &Path) -> Result<()> {
    sync_folder(path).map_err(|e| failed(format!("could not flush {}", path.display()), e))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    // Windows opens no folders as files, and needs no such thing.
    if cfg!(unix) {
        File::open(path)?.sync_all()?;
    }
    Ok(())
}
