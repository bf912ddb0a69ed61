//! Who holds a lease. A run that is started again after it was killed need not wait for its lease to
//! end when it can be seen that its predecessor is gone: on the same machine by the lock of a file,
//! which the system takes away with the process; in Cloud Run by the attempt of the task.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{self, Environment};

/// How long the sign of a run is kept that did not come to its end; its leases have ended long before.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Who holds a lease, as its successors see it. Stored as JSON; new fields need a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holder {
    /// A file on the holder's machine that is locked while it lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<PathBuf>,
    /// Cloud Run's execution and task, of which one attempt runs at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The attempt, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
}

/// The sign of life of this process: a locked file, which goes when this is dropped. The lock goes
/// with the process, however that ends.
#[derive(Debug)]
pub struct Life(Option<(PathBuf, File)>);

impl Life {
    /// Begins to show that this run lives. Where no file can be made or locked, nothing is shown, and
    /// a successor waits for the lease to end.
    pub fn of(run_id: &str) -> Self {
        let path = std::env::temp_dir().join(file_name(run_id));
        let locked = File::create_new(&path)
            .ok()
            .filter(|f| f.try_lock().is_ok());
        Self(locked.map(|file| (path, file)))
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Some((path, _)) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn file_name(run_id: &str) -> String {
    format!("drawoff-{run_id}.lock")
}

impl Holder {
    /// This process.
    pub fn this(environment: &Environment, life: &Life) -> Self {
        let execution = environment.get(config::CLOUD_RUN_EXECUTION);
        let index = environment.get(config::CLOUD_RUN_TASK_INDEX);
        let attempt = environment.get(config::CLOUD_RUN_TASK_ATTEMPT);
        Self {
            lock: life.0.as_ref().map(|(path, _)| path.clone()),
            task: execution
                .zip(index)
                .map(|(execution, index)| format!("{execution}/{index}")),
            attempt: attempt.and_then(|a| a.parse().ok()),
        }
    }

    /// Whether the holder, which held the lease for that run, is known to have ended, as `self` sees
    /// it. `false`: it lives, or nobody can tell.
    pub fn sees_end_of(&self, other: &Self, run_id: &str) -> bool {
        let retried = self.task.is_some() && self.task == other.task;
        let gone = other.lock.as_ref().is_some_and(|lock| {
            // Only a file of that name, which is of that very run, is looked at.
            let named = lock.file_name() == Some(file_name(run_id).as_ref());
            named && lock.is_file() && is_free(lock)
        });
        if gone {
            sweep();
        }
        gone || (retried && self.attempt > other.attempt && other.attempt.is_some())
    }
}

/// Whether a file is there that nobody has locked. It stays: the run may have left several leases.
fn is_free(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
    })
}

/// Removes what runs left long ago that did not come to their end.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let id = name
            .to_str()
            .and_then(|n| n.strip_prefix("drawoff-")?.strip_suffix(".lock"));
        // Ids of runs begin with their time.
        let of_run = id.is_some_and(|id| id.starts_with(|c: char| c.is_ascii_digit()));
        let old = || {
            let age = entry.metadata().and_then(|m| m.modified()).ok()?.elapsed();
            age.ok().filter(|age| *age > KEPT)
        };
        if of_run && old().is_some() && is_free(&entry.path()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_shows_life() {
        let run = format!("test_{:016x}", rand::random::<u64>());
        let nobody = Environment::of::<String, String>([]);
        let life = Life::of(&run);
        let other = Holder::this(&nobody, &life);
        let me = Holder::default();
        assert!(other.lock.is_some() && other.task.is_none());
        assert!(!me.sees_end_of(&other, &run), "it lives");
        assert!(!me.sees_end_of(&Holder::default(), &run), "nobody can tell");
        // As after a kill: the file is there, its lock is gone.
        let path = other.lock.clone().unwrap();
        drop(life);
        assert!(
            !me.sees_end_of(&other, &run),
            "the file is gone: nobody can tell"
        );
        File::create_new(&path).unwrap();
        assert!(!me.sees_end_of(&other, "another run"));
        assert!(me.sees_end_of(&other, &run));
        assert!(me.sees_end_of(&other, &run), "of its next lease, too");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_later_attempt_of_the_same_task_follows_an_earlier() {
        let of = |execution: &str, index: &str, attempt: &str| {
            let variables = [
                (config::CLOUD_RUN_EXECUTION, execution),
                (config::CLOUD_RUN_TASK_INDEX, index),
                (config::CLOUD_RUN_TASK_ATTEMPT, attempt),
            ];
            Holder::this(&Environment::of(variables), &Life(None))
        };
        let first = of("job-abc", "0", "0");
        assert!(of("job-abc", "0", "1").sees_end_of(&first, "r"));
        assert!(!first.sees_end_of(&of("job-abc", "0", "1"), "r"));
        assert!(!of("job-abc", "0", "0").sees_end_of(&first, "r"));
        assert!(!of("job-abc", "1", "1").sees_end_of(&first, "r"));
        assert!(!of("job-xyz", "0", "1").sees_end_of(&first, "r"));
        let plain = of("", "", "");
        assert!(!plain.sees_end_of(&plain, "r"));
    }
}
