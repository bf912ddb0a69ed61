//! The folder that a slice stages its files in. It is its owner's as long as the owner holds the
//! lock on its `owner` file; a folder whose file nobody holds is a dead run's.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::PathBuf;

use super::Folder;
use super::failure::failed;
use crate::error::Result;

/// Held while staging folders are made and swept, so that none is seen without its owner.
const LOCK: &str = "staging.lock";
const STAGING: &str = "staging";
const OWNER: &str = "owner";

/// A staging folder; removed with what is in it when dropped.
pub struct StagingFolder {
    /// Its own name: random, never used twice.
    pub id: String,
    pub path: PathBuf,
    _owner: File,
}

impl StagingFolder {
    pub fn create(folder: &Folder) -> Result<Self> {
        let id = format!("{:016x}", rand::random::<u64>());
        let path = folder.own().join(STAGING).join(&id);
        let _lock = folder.lock_file(LOCK)?;
        let create = || {
            fs::create_dir_all(&path)?;
            let owner = File::create_new(path.join(OWNER))?;
            owner.lock()?;
            Ok(owner)
        };
        let owner =
            create().map_err(|e| failed(format!("could not create {}", path.display()), e))?;
        Ok(Self {
            id,
            path,
            _owner: owner,
        })
    }

    /// The path of a file in it, relative to the destination's folder.
    pub fn relative(&self, name: &str) -> String {
        format!("{}/{STAGING}/{}/{name}", super::OWN, self.id)
    }
}

impl Drop for StagingFolder {
    fn drop(&mut self) {
        // What stays is swept by a later run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what dead runs have staged. The caller holds the manifest's lock and has settled it.
pub fn sweep(folder: &Folder) -> Result<()> {
    let path = folder.own().join(STAGING);
    let _lock = folder.lock_file(LOCK)?;
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(format!("could not read {}", path.display()), e)),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let owner = File::options().write(true).open(path.join(OWNER));
        let alive = match owner {
            Ok(owner) => matches!(owner.try_lock(), Err(TryLockError::WouldBlock)),
            Err(e) => e.kind() != io::ErrorKind::NotFound,
        };
        if !alive {
            match fs::remove_dir_all(&path) {
                // Its owner has just removed it.
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(
                        format!(
                            "could not remove what a dead run left in {}",
                            path.display()
                        ),
                        e,
                    ));
                }
                _ => {}
            }
        }
    }
    Ok(())
}
