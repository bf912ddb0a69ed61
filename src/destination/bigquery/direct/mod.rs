//! Slices whose rows go straight into their table, where they show at once: `write_method: stream` and
//! `insert_all`.
//!
//! | module | owns |
//! |---|---|
//! | `stream` | a committed write stream |
//! | `insert_all` `rows` | requests to `tabledata.insertAll` |
//! | `rejects` | records that do not fit, staged by statements |
//! | `journal` | which slices are open; taking one back that was never published |
//! | `sql` | the statements |

mod insert_all;
mod journal;
mod rejects;
mod rows;
mod sql;
mod stream;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use arrow_array::RecordBatch;
use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::OnceCell;

use self::insert_all::{Added, COLUMN_PATIENCE, Refused, Sender};
use self::journal::Entry;
use self::rejects::Rejects;
use super::api::{Query, Row};
use super::publish::load_parameters;
use super::sql::answer;
use super::write::StreamWriter;
use super::{BigQuery, CHECKPOINTS, LEASES, OPEN_SLICES, checkpoint};
use crate::destination::audit::{LOAD_PARAMETERS, LOADS};
use crate::destination::rejects as rejects_table;
use crate::destination::{Base, BatchKind, Disposition, Published, Slice, TableSpec, WriteMethod};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::decode::Reject;
use crate::schema::landing::column::{EXTRACTED_AT, SLICE_ID};
use crate::state::CheckpointUpdate;

/// What the direct slices of a destination share.
#[derive(Default)]
pub(super) struct Shared {
    journal: OnceCell<()>,
    /// Columns that this process added, by table.
    added: Mutex<HashMap<String, Added>>,
}

impl BigQuery {
    /// What must be known or made before a table is brought into shape that rows go straight into.
    pub(super) async fn before_direct(&self, spec: &TableSpec) -> Result<()> {
        let was_direct = spec.schema.column(SLICE_ID).is_some();
        if !was_direct && spec.disposition == Disposition::Append {
            return Ok(());
        }
        let Some(resource) = self.api().table(&spec.name).await? else {
            return self.journal_of(spec).await;
        };
        // Found out now rather than when everything is read.
        if spec.disposition != Disposition::Append && !resource["streamingBuffer"].is_null() {
            return Err(Error::destination(format!(
                "table `{}.{}` cannot be {} now: rows that were streamed into it are still in BigQuery's streaming buffer, which no transaction may touch",
                self.api().target(),
                spec.name,
                match spec.disposition {
                    Disposition::Replace => "replaced",
                    _ => "merged into",
                },
            ))
            .transient(true)
            .hint("run again when nothing was streamed into it for some time: half an hour, at times 90 minutes"));
        }
        let columns = journal::lacking(&resource, &spec.schema.columns);
        if spec.write_method == WriteMethod::InsertAll && !columns.is_empty() {
            let until = self.api().google().clock().instant() + COLUMN_PATIENCE;
            let mut added = self.added();
            added.insert(spec.name.clone(), Added { columns, until });
        }
        self.journal_of(spec).await
    }

    /// The script that publishes slices of a table, for people to read.
    pub(super) fn planned_publish(&self, spec: &TableSpec) -> String {
        sql::publish(&self.publish_of(
            &spec.name,
            true,
            Some(&self.quoted("_drawoff_stage_…rejects…")),
        ))
    }

    fn publish_of(&self, table: &str, journaled: bool, rejects: Option<&str>) -> sql::Publish {
        sql::Publish {
            journaled,
            journal: self.quoted(OPEN_SLICES),
            rejects: rejects.map(|staged| {
                let table = rejects_table::table_name(table);
                (self.quoted(&table), staged.to_owned())
            }),
            checkpoints: self.quoted(CHECKPOINTS),
            leases: self.quoted(LEASES),
            loads: (self.quoted(LOADS), LOAD_PARAMETERS.to_vec()),
        }
    }

    async fn journal_of(&self, spec: &TableSpec) -> Result<()> {
        match spec.write_method.is_direct() {
            true => self.ensure_journal().await,
            false => Ok(()),
        }
    }

    fn added(&self) -> std::sync::MutexGuard<'_, HashMap<String, Added>> {
        let added = &self.0.direct.added;
        added.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way in, once rows were sent.
enum Way {
    Stream(Box<StreamWriter>),
    InsertAll(Sender),
}

/// A slice whose rows go straight into the table.
pub(super) struct DirectSlice {
    to: BigQuery,
    spec: TableSpec,
    run_id: String,
    name: String,
    builds_on: Option<Base>,
    /// Once rows are about to be sent.
    open: Option<(Entry, Way)>,
    rejects: Rejects,
    /// Rows that BigQuery refused.
    refused: u64,
}

impl DirectSlice {
    pub(super) fn new(to: BigQuery, spec: TableSpec, run_id: &str, name: &str) -> Self {
        Self {
            rejects: Rejects::new(&spec.name, run_id, name),
            to,
            spec,
            run_id: run_id.to_owned(),
            name: name.to_owned(),
            builds_on: None,
            open: None,
            refused: 0,
        }
    }

    fn slice_id(&self) -> String {
        format!("{}/{}", self.run_id, self.name)
    }

    /// Opens the way in and notes the slice in the journal, before the first row.
    async fn opened(&mut self) -> Result<(Entry, Way)> {
        if let Some(open) = self.open.take() {
            return Ok(open);
        }
        let base = self.builds_on.clone().ok_or_else(|| {
            Error::new(
                ErrorKind::Bug,
                "rows came before it was known which checkpoint they build on",
            )
        })?;
        self.to.ensure_journal().await?;
        let method = self.spec.write_method;
        let table = &self.spec.name;
        let way = match method {
            WriteMethod::InsertAll => {
                let added = self.to.added().get(table).cloned();
                Way::InsertAll(Sender::new(self.to.clone(), table, &self.slice_id(), added))
            }
            _ => Way::Stream(Box::new(stream::open(&self.to, &self.spec).await?)),
        };
        let entry = Entry {
            key: base.key,
            slice_id: self.slice_id(),
            table: table.clone(),
            method,
            write_stream: match &way {
                Way::Stream(writer) => Some(writer.stream().to_owned()),
                Way::InsertAll(_) => None,
            },
            opened_at: self.to.api().google().clock().now().as_second(),
        };
        self.to
            .note_open(&entry, base.version, &base.lease, &self.run_id)
            .await?;
        Ok((entry, way))
    }

    async fn send(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let (entry, mut way) = self.opened().await?;
        let sent = match &mut way {
            Way::Stream(writer) => {
                async {
                    writer.append(batch).await?;
                    // They show when they are acknowledged, and a connection that broke is noticed then.
                    writer.settle().await?;
                    Ok(Vec::new())
                }
                .await
            }
            Way::InsertAll(sender) => sender.send(batch).await,
        };
        let out = match &mut way {
            Way::Stream(writer) => writer.take_refused(),
            Way::InsertAll(_) => Vec::new(),
        };
        self.open = Some((entry, way));
        self.keep(sent?).await?;
        self.keep_taken_out(out).await
    }

    /// The same, of rows that were taken out of requests of the Storage Write API.
    async fn keep_taken_out(&mut self, refused: Vec<super::write::Refused>) -> Result<()> {
        let Some(Base { key, .. }) = &self.builds_on else {
            return Ok(());
        };
        let now = self.to.api().google().clock().now();
        for refused in refused {
            let batch = rejects_table::of_rows(
                &refused.rows,
                &refused.reasons,
                &key.stream,
                &self.run_id,
                now,
            )?;
            self.refused += batch.num_rows() as u64;
            self.rejects.take(&self.to, &batch).await?;
        }
        Ok(())
    }

    /// Keeps rows that BigQuery refused with the records that do not fit.
    async fn keep(&mut self, refused: Vec<Refused>) -> Result<()> {
        if refused.is_empty() {
            return Ok(());
        }
        let Some(Base { key, .. }) = &self.builds_on else {
            return Ok(());
        };
        self.refused += refused.len() as u64;
        let now = self.to.api().google().clock().now();
        for row in refused {
            let sent: Value = serde_json::from_slice(&row.values).unwrap_or_default();
            let received = sent[EXTRACTED_AT].as_str();
            let at = received.and_then(|t| t.parse().ok()).unwrap_or(now);
            let reject = Reject {
                reason: format!("BigQuery refused the row: {}", row.reason),
                path: match row.column.as_str() {
                    "" => String::new(),
                    column => format!("/{}", column.replace('.', "/")),
                },
                record: String::from_utf8_lossy(&row.values).into_owned(),
            };
            let batch = rejects_table::batch(&[reject], &key.stream, &self.run_id, at)?;
            self.rejects.take(&self.to, &batch).await?;
        }
        Ok(())
    }

    /// Waits until every row is in the table for certain; how many there are.
    async fn finish(&mut self) -> Result<u64> {
        let Some((_, way)) = &mut self.open else {
            return Ok(0);
        };
        match way {
            Way::Stream(writer) => {
                writer.finish().await?;
                Ok(writer.rows())
            }
            Way::InsertAll(sender) => {
                let refused = sender.finish().await?;
                let taken = sender.taken();
                self.keep(refused).await?;
                let sent = taken - self.refused;
                if let Some((entry, _)) = &self.open {
                    self.to.check_count(entry, sent).await?;
                }
                Ok(sent)
            }
        }
    }

    async fn publish_sent(&mut self, update: &CheckpointUpdate) -> Result<Published> {
        let sent = self.finish().await?;
        self.rejects.flush(&self.to).await?;
        let to = &self.to;
        to.ensure_journal().await?;
        let state = checkpoint::to_text(&update.checkpoint)?;
        let mut publish = Query {
            what: format!(
                "publish slice `{}` of `{}.{}`",
                self.name,
                to.api().target(),
                self.spec.name
            ),
            sql: sql::publish(
                &to.publish_of(
                    &self.spec.name,
                    self.open.is_some(),
                    self.rejects
                        .staging()
                        .map(|staged| to.quoted(staged))
                        .as_deref(),
                ),
            ),
            parameters: vec![
                ("source", "STRING", update.key.source.clone()),
                ("stream", "STRING", update.key.stream.clone()),
                ("lease", "STRING", update.lease.clone()),
                (
                    "expected_version",
                    "INT64",
                    update.expected_version.to_string(),
                ),
                ("state", "STRING", state),
                ("sent", "INT64", sent.to_string()),
                ("rejected", "INT64", self.rejects.taken().to_string()),
            ]
            .into_iter()
            .chain(load_parameters(&self.spec, &self.name, update))
            .collect(),
            transaction: true,
            names_job: true,
            labels: vec![
                ("drawoff", "publish"),
                ("drawoff_source", update.key.source.as_str()),
                ("drawoff_stream", update.key.stream.as_str()),
                ("drawoff_run", update.run_id.as_str()),
            ],
            mark: self.slice_id(),
        };
        if self.open.is_some() {
            let slice_id = ("slice_id", "STRING", self.slice_id());
            publish.parameters.push(slice_id);
        }
        let done = Published {
            rows: sent,
            rejected: self.refused,
            ..Published::default()
        };
        let answer = |rows: &[Row]| {
            let outcome = rows.first()?.get(answer::OUTCOME)?.as_deref();
            (outcome == Some("published")).then_some(done)
        };
        let published = to
            .conclude(&publish, update, &self.name, answer, refusal)
            .await?;
        debug_assert_eq!(published.rows, sent);
        Ok(done)
    }

    /// Takes back what was sent, unless it was published after all.
    async fn withdraw(&mut self) -> Result<()> {
        let Some((entry, way)) = self.open.take() else {
            return Ok(());
        };
        // Requests under way end here, or are found by later runs.
        drop(way);
        if entry.method == WriteMethod::InsertAll {
            // Another run may have struck the slice off while this one stood still, and rows have gone
            // in since.
            self.to.note_again(&entry, &self.run_id, &self.name).await?;
        }
        self.to.take_back_slice(&entry).await.map(drop)
    }
}

/// Why a script that publishes a direct slice has changed nothing.
fn refusal(query: &Query<'_>, row: &Row) -> Error {
    let shown = |name: &str| row.get(name).and_then(Option::as_deref);
    let why = match shown(sql::OPEN) {
        Some("1") => format!(
            "{} rejects are readable in the staging table, which is not what was sent",
            shown(answer::REJECTED).unwrap_or("an unknown number of")
        ),
        _ => "another run has taken its rows back".to_owned(),
    };
    Error::new(
        ErrorKind::State,
        format!("could not {}: {why}; nothing was changed", query.what),
    )
    .transient(true)
    .hint("run again, and keep runs of one source from overlapping")
}

#[async_trait]
impl Slice for DirectSlice {
    fn builds_on(&mut self, base: &Base) {
        self.builds_on = Some(base.clone());
    }

    async fn stage(&mut self, kind: BatchKind, batch: RecordBatch) -> Result<()> {
        match kind {
            BatchKind::Rows => self.send(&batch).await,
            BatchKind::Rejects => self.rejects.take(&self.to, &batch).await,
        }
    }

    async fn keep_absent(&mut self) -> Result<()> {
        // Rows are only added.
        Ok(())
    }

    async fn publish(mut self: Box<Self>, checkpoint: &CheckpointUpdate) -> Result<Published> {
        let published = self.publish_sent(checkpoint).await;
        let settled = match &published {
            Ok(_) => true,
            // Nothing can be reached: the next run takes back what is not published.
            Err(error) if error.kind() == ErrorKind::Unavailable => false,
            Err(_) => {
                self.withdraw_or_say().await;
                true
            }
        };
        if settled {
            self.rejects.drop_table(&self.to).await;
        }
        published
    }

    async fn abandon(mut self: Box<Self>) -> Result<()> {
        self.rejects.drop_table(&self.to).await;
        self.withdraw().await
    }
}

impl DirectSlice {
    async fn withdraw_or_say(&mut self) {
        let slice = self.slice_id();
        if let Err(error) = self.withdraw().await {
            tracing::warn!(
                table = self.spec.name,
                slice,
                "rows stay until a later run takes them back: {}",
                error.chain()
            );
        }
    }
}
