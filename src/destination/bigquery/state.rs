//! Checkpoints, leases and the record of runs, in tables of the dataset.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::json;

use super::api::{Query, Row};
use super::{BigQuery, CHECKPOINTS, LEASES, checkpoint, sql, unique_mark};
use crate::destination::audit::{self, Cell, LOADS, RUNS};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::Column;
use crate::state::{Acquired, CheckpointKey, Held, Lease, RunRecord, SavedCheckpoint, StateStore};

/// Streams whose record goes into one statement, which may have 10,000 parameters.
const RECORDS_AT_ONCE: usize = 200;

/// Checkpoints that one statement forgets.
const FORGOTTEN_AT_ONCE: usize = 500;

/// How often a source that has no row yet is given one.
const SEEDINGS: u32 = 3;

#[async_trait]
impl StateStore for BigQuery {
    async fn checkpoints(&self, source: &str) -> Result<HashMap<CheckpointKey, SavedCheckpoint>> {
        let mut found: HashMap<CheckpointKey, SavedCheckpoint> = HashMap::new();
        // Read as it is rather than queried, which costs nothing and is no job.
        let Some(rows) = self.api().table_rows(CHECKPOINTS).await? else {
            return Ok(found);
        };
        for row in rows {
            let text = |name: &str| row.get(name).and_then(Option::as_deref);
            if text("source") != Some(source) || text("version") == Some("0") {
                continue;
            }
            let bad = || {
                Error::new(
                    ErrorKind::State,
                    format!(
                        "a checkpoint of `{source}` in `{}.{CHECKPOINTS}` cannot be read",
                        self.api().target()
                    ),
                )
                .hint("it was written by a newer drawoff, or by hand: use the newer one, or delete the row to start over")
            };
            let stream = text("stream").ok_or_else(bad)?;
            let version: u64 = text("version")
                .and_then(|v| v.parse().ok())
                .ok_or_else(bad)?;
            let checkpoint = text("state")
                .and_then(checkpoint::of_text)
                .ok_or_else(bad)?;
            let key = CheckpointKey {
                source: source.to_owned(),
                stream: stream.to_owned(),
            };
            // Of several, the highest version holds.
            if found.get(&key).is_none_or(|f| f.version < version) {
                found.insert(
                    key,
                    SavedCheckpoint {
                        checkpoint,
                        version,
                    },
                );
            }
        }
        Ok(found)
    }

    async fn forget(&self, source: &str, streams: &[(String, u64)]) -> Result<()> {
        for streams in streams.chunks(FORGOTTEN_AT_ONCE) {
            let names: Vec<(String, String)> = (0..streams.len())
                .map(|i| (format!("stream{i}"), format!("version{i}")))
                .collect();
            let mut parameters = vec![("source", "STRING", source.to_owned())];
            for ((stream, version), (name, number)) in streams.iter().zip(&names) {
                parameters.push((name, "STRING", stream.clone()));
                parameters.push((number, "INT64", version.to_string()));
            }
            let query = Query {
                what: format!(
                    "forget checkpoints of source `{source}` in `{}`",
                    self.api().target()
                ),
                sql: sql::forget(&self.quoted(CHECKPOINTS), &names),
                parameters,
                labels: vec![("drawoff", "checkpoints"), ("drawoff_source", source)],
                transaction: true,
                names_job: false,
                mark: unique_mark(),
            };
            self.api().query(&query).await?;
        }
        Ok(())
    }

    async fn acquire(&self, lease: &Lease) -> Result<Acquired> {
        self.api().ensure_dataset().await?;
        self.ensure_own_tables().await?;
        let holder = serde_json::to_string(&lease.holder).map_err(|e| {
            Error::new(ErrorKind::Bug, "could not write a lease's holder as JSON").source(e)
        })?;
        let leases = self.quoted(LEASES);
        for _ in 0..SEEDINGS {
            let mut query = self.lease_query("take", lease, sql::acquire(&leases));
            query.parameters.extend([
                ("over", "STRING", lease.over.join(" ")),
                ("length", "INT64", millis(lease.length)),
                ("holder", "STRING", holder.clone()),
            ]);
            let rows = self.api().query(&query).await?;
            let row = rows.first();
            let text = |name: &str| row.and_then(|r| r.get(name)).and_then(Option::as_deref);
            if text("there") == Some("0") {
                let seed = self.lease_query("prepare", lease, sql::seed_lease(&leases));
                self.api().query(&seed).await?;
                continue;
            }
            let other = row.and_then(|row| held(row, "by_"));
            match row.and_then(|row| held(row, "")) {
                // Its id alone may be from before.
                Some(now) if now.run_id == lease.run_id && other.is_none() => {
                    let was = row.and_then(|row| held(row, "was_"));
                    return Ok(Acquired::Ours {
                        before: was
                            .filter(|w| w.run_id != lease.run_id && w.acquired_at < w.expires_at),
                    });
                }
                now => {
                    if let Some(other) = other.or(now) {
                        return Ok(Acquired::Theirs(other));
                    }
                }
            }
            // Another run has made the row after this one looked for it, and does not hold it yet.
            if text("run_id").is_some() {
                break;
            }
        }
        Err(Error::new(
            ErrorKind::State,
            format!(
                "the lease of `{}` in `{}.{LEASES}` cannot be read",
                lease.name,
                self.api().target()
            ),
        )
        .hint("somebody has changed the table: delete its row and run again"))
    }

    async fn renew(&self, lease: &Lease) -> Result<()> {
        let mut query = self.lease_query("renew", lease, sql::renew(&self.quoted(LEASES)));
        query
            .parameters
            .push(("length", "INT64", millis(lease.length)));
        let rows = self.api().query(&query).await?;
        let holder = rows.first().and_then(|r| r.get("run_id")?.as_deref());
        match holder {
            Some(run) if run == lease.run_id => Ok(()),
            other => Err(lease.lost(other, &format!("bigquery:{}", self.api().target()))),
        }
    }

    async fn release(&self, lease: &Lease) -> Result<()> {
        let query = self.lease_query("release", lease, sql::release(&self.quoted(LEASES)));
        self.api().query(&query).await.map(drop)
    }

    async fn record(&self, runs: &mut [RunRecord]) -> Result<()> {
        for run in runs.iter_mut() {
            let spent = self.api().spent_on(&run.stream);
            run.bytes_billed = spent.jobs.iter().map(|(_, billed)| billed).sum();
            run.jobs = spent.jobs.into_iter().map(|(id, _)| id).collect();
            run.publishes_in_a_day = spent.publishes_in_a_day;
        }
        self.ensure_runs().await?;
        let columns = audit::run_column_names();
        for runs in runs.chunks(RECORDS_AT_ONCE) {
            let Some(first) = runs.first() else { continue };
            let rows: Vec<Vec<Cell>> = runs.iter().map(audit::run_cells).collect();
            let names: Vec<Vec<String>> = (0..rows.len())
                .map(|i| {
                    (0..columns.len())
                        .map(|j| sql::run_parameter(i, j))
                        .collect()
                })
                .collect();
            let parameters = rows
                .iter()
                .zip(&names)
                .flat_map(|(cells, names)| cells.iter().zip(names))
                .filter(|(cell, _)| **cell != Cell::Text(None))
                .map(|(cell, name)| {
                    let (kind, value) = sql::parameter(cell);
                    (name.as_str(), kind, value)
                })
                .collect();
            let query = Query {
                what: format!("write to `{}.{RUNS}`", self.api().target()),
                sql: sql::record_runs(&self.quoted(RUNS), &columns, &rows),
                parameters,
                labels: vec![
                    ("drawoff", "runs"),
                    ("drawoff_source", &first.source),
                    ("drawoff_run", &first.run_id),
                ],
                transaction: true,
                names_job: false,
                mark: first.run_id.clone(),
            };
            self.api().query(&query).await?;
        }
        Ok(())
    }

    async fn triggered(&self, source: &str, trigger: &str) -> Result<Vec<RunRecord>> {
        self.ensure_runs().await?;
        let query = Query {
            what: format!(
                "look for runs of source `{source}` in `{}.{RUNS}`",
                self.api().target()
            ),
            sql: sql::triggered(&self.quoted(RUNS), &audit::run_columns()),
            parameters: vec![
                ("source", "STRING", source.to_owned()),
                ("trigger", "STRING", trigger.to_owned()),
            ],
            labels: vec![("drawoff", "runs"), ("drawoff_source", source)],
            transaction: false,
            names_job: false,
            mark: unique_mark(),
        };
        let rows = self.api().query(&query).await?;
        let text = |row: &Row, name: &str| row.get(name)?.clone();
        Ok(rows
            .iter()
            .filter_map(|row| audit::run_of(|name| text(row, name)))
            .collect())
    }
}

impl BigQuery {
    fn lease_query<'a>(&self, what: &str, lease: &'a Lease, sql: String) -> Query<'a> {
        Query {
            what: format!(
                "{what} the lease of `{}` in `{}`",
                lease.name,
                self.api().target()
            ),
            sql,
            parameters: vec![
                ("lease", "STRING", lease.name.clone()),
                ("run_id", "STRING", lease.run_id.clone()),
            ],
            labels: vec![
                ("drawoff", "lease"),
                ("drawoff_source", &lease.name),
                ("drawoff_run", &lease.run_id),
            ],
            transaction: true,
            names_job: false,
            mark: unique_mark(),
        }
    }

    /// Makes the tables of checkpoints, leases and loads exist, once a process.
    pub(super) async fn ensure_own_tables(&self) -> Result<()> {
        let make = async || {
            for (name, columns, body) in own_tables() {
                self.ensure_table(name, &columns, body, false).await?;
            }
            Ok(())
        };
        self.0.own_tables_ready.get_or_try_init(make).await.copied()
    }

    async fn ensure_runs(&self) -> Result<()> {
        let body = json!({
            "description": "What each run of drawoff did, a row for each stream.",
            "timePartitioning": {"type": "DAY", "field": "started_at"},
            "clustering": {"fields": ["source", "stream"]},
            "labels": {"drawoff": "runs"},
        });
        self.ensure_table(RUNS, &audit::run_columns(), body, false)
            .await
            .map(|_| ())
    }
}

/// The tables that a publish needs: names, columns, and the rest of their resources.
pub(super) fn own_tables() -> [(&'static str, Vec<Column>, serde_json::Value); 3] {
    [
        (
            CHECKPOINTS,
            sql::checkpoint_columns(),
            json!({
                "description": "Where each stream's extraction stands; written by drawoff together with the rows.",
                "clustering": {"fields": ["source", "stream"]},
                "labels": {"drawoff": "checkpoints"},
            }),
        ),
        (
            LEASES,
            sql::lease_columns(),
            json!({
                "description": "Which run of drawoff works on which source.",
                "labels": {"drawoff": "leases"},
            }),
        ),
        (
            LOADS,
            audit::load_columns(),
            json!({
                "description": "Each slice that drawoff has published, written together with its rows.",
                "timePartitioning": {"type": "DAY", "field": "published_at"},
                "clustering": {"fields": ["table_name", "source"]},
                "labels": {"drawoff": "loads"},
            }),
        ),
    ]
}

/// A lease as a script answers with it, in columns whose names begin so.
fn held(row: &Row, prefix: &str) -> Option<Held> {
    let text = |name: &str| {
        row.get(&format!("{prefix}{name}"))
            .and_then(Option::as_deref)
    };
    let time = |name: &str| Timestamp::from_microsecond(text(name)?.parse().ok()?).ok();
    Some(Held {
        run_id: text("run_id")?.to_owned(),
        acquired_at: time("acquired")?,
        expires_at: time("expires")?,
        holder: text("holder")
            .and_then(|h| serde_json::from_str(h).ok())
            .unwrap_or_default(),
    })
}

fn millis(length: Duration) -> String {
    length.as_millis().to_string()
}
