//! Checkpoints, leases and the record of runs, in files of the folder that is ours: checkpoints in the
//! manifest, leases in a file that is replaced whole under the manifest's lock, runs in one that grows
//! by a line for each stream.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write};

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::durable::replace_json;
use super::failure::failed;
use super::manifest::{Manifest, Stored};
use super::{FilesDestination, Folder};
use crate::destination::audit::{self, Cell};
use crate::destination::blocking;
use crate::destination::leases::{self, LeaseKeeper};
use crate::error::Result;
use crate::state::{
    Acquired, CheckpointKey, HeldLeases, Lease, RunRecord, SavedCheckpoint, StateStore,
};

/// HeldLeases, by name.
const LEASES: &str = "leases.json";

/// A JSON object a line.
const RUNS: &str = "runs.ndjson";

#[async_trait]
impl StateStore for FilesDestination {
    async fn checkpoints(&self, source: &str) -> Result<HashMap<CheckpointKey, SavedCheckpoint>> {
        let (folder, source) = (self.folder.clone(), source.to_owned());
        blocking::run(move || {
            let stored = Manifest::load(&folder)?.checkpoints.into_iter();
            Ok(stored
                .filter(|s| s.source == source)
                .map(|s| {
                    let key = CheckpointKey {
                        source: s.source,
                        stream: s.stream,
                    };
                    let saved = SavedCheckpoint {
                        checkpoint: s.checkpoint,
                        version: s.version,
                    };
                    (key, saved)
                })
                .collect())
        })
        .await
    }

    async fn forget(&self, source: &str, streams: &[(String, u64)]) -> Result<()> {
        let (folder, source, streams) = (self.folder.clone(), source.to_owned(), streams.to_vec());
        blocking::run(move || {
            let _lock = folder.lock()?;
            let mut manifest = Manifest::load(&folder)?;
            let named = |s: &Stored| {
                let is_it = |(stream, version): &(String, u64)| {
                    s.stream == *stream && s.version == *version
                };
                s.source == source && streams.iter().any(is_it)
            };
            manifest.checkpoints.retain(|s| !named(s));
            manifest.save(&folder)
        })
        .await
    }

    async fn acquire(&self, lease: &Lease) -> Result<Acquired> {
        leases::acquire(&self.folder, lease).await
    }

    async fn renew(&self, lease: &Lease) -> Result<()> {
        leases::renew(&self.folder, lease).await
    }

    async fn release(&self, lease: &Lease) -> Result<()> {
        leases::release(&self.folder, lease).await
    }

    async fn record(&self, runs: &mut [RunRecord]) -> Result<()> {
        let (folder, runs) = (self.folder.clone(), runs.to_vec());
        blocking::run(move || folder.record(&runs)).await
    }

    async fn triggered(&self, source: &str, trigger: &str) -> Result<Vec<RunRecord>> {
        let folder = self.folder.clone();
        let (source, trigger) = (source.to_owned(), trigger.to_owned());
        blocking::run(move || folder.triggered(&source, &trigger)).await
    }
}

impl Folder {
    /// The leases as stored. The caller holds the lock.
    fn leases(&self) -> Result<HeldLeases> {
        let path = self.own().join(LEASES);
        match fs::read(&path) {
            // One that nobody can read says nothing, as if it were not there.
            Ok(text) => Ok(serde_json::from_slice(&text).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(HeldLeases::new()),
            Err(e) => Err(failed(format!("could not read {}", path.display()), e)),
        }
    }

    /// The run that holds a lease, when it is another. The caller holds the lock.
    pub(super) fn other_holder(&self, lease: &str, run_id: &str) -> Result<Option<String>> {
        let held = self.leases()?.remove(lease);
        Ok(held.map(|h| h.run_id).filter(|by| by != run_id))
    }

    fn record(&self, runs: &[RunRecord]) -> Result<()> {
        let _lock = self.lock()?;
        let path = self.own().join(RUNS);
        let names = audit::run_column_names();
        let mut lines = Vec::new();
        for run in runs {
            let row: Map<String, Value> = names
                .iter()
                .cloned()
                .zip(audit::run_cells(run).into_iter().map(value))
                .collect();
            lines.extend_from_slice(Value::from(row).to_string().as_bytes());
            lines.push(b'\n');
        }
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(&lines))
            .map_err(|e| failed(format!("could not write {}", path.display()), e))
    }

    fn triggered(&self, source: &str, trigger: &str) -> Result<Vec<RunRecord>> {
        let _lock = self.lock()?;
        let path = self.own().join(RUNS);
        let fail = |e| failed(format!("could not read {}", path.display()), e);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(fail(e)),
        };
        let needle = Value::from(trigger).to_string();
        let mut found = Vec::new();
        for line in BufReader::new(file).lines() {
            let line = line.map_err(fail)?;
            // Looked at closely only where it may be: the file grows for years.
            if !line.contains(&needle) {
                continue;
            }
            // A line that was cut off by a crash says nothing.
            let Ok(row) = serde_json::from_str::<Map<String, Value>>(&line) else {
                continue;
            };
            let text = |name: &str| match row.get(name)? {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            };
            if text("source").as_deref() == Some(source)
                && text("trigger_id").as_deref() == Some(trigger)
            {
                found.extend(audit::run_of(text));
            }
        }
        Ok(found)
    }
}

impl LeaseKeeper for Folder {
    fn shown(&self) -> &str {
        &self.shown
    }

    fn change_lease<T>(
        &self,
        _name: &str,
        how: impl FnOnce(&HeldLeases) -> Result<(T, HeldLeases)>,
    ) -> Result<T> {
        let _lock = self.lock()?;
        let mut leases = self.leases()?;
        let (answer, changed) = how(&leases)?;
        if !changed.is_empty() {
            leases.extend(changed);
            replace_json(&self.own(), LEASES, &leases)?;
        }
        Ok(answer)
    }
}

fn value(cell: Cell) -> Value {
    match cell {
        Cell::Text(text) => text.into(),
        Cell::Count(count) => count.into(),
        Cell::Time(time) => audit::time_text(time).into(),
    }
}
