//! The journal of open slices, and how the rows of one that was never published are taken back.
//!
//! A slice is noted here before its first row is sent, and struck off by the transaction that
//! publishes it. So a slice that is still here was never published: its rows are a dead run's, or a
//! living one's that has lost the race for the checkpoint. Who takes it back claims it first, which
//! keeps it from being published, whatever its own run is up to.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::api::{Ended, Query, Row};
use super::super::{BigQuery, CHECKPOINTS, LEASES, OPEN_SLICES, shape, unique_mark};
use super::sql;
use crate::destination::audit::LOADS;
use crate::destination::{TableSpec, WriteMethod, lease_lost, version_conflict};
use crate::error::{Error, ErrorKind, Result};
use crate::google::RetryPolicy;
use crate::schema::landing::column::{EXTRACTED_AT, SLICE_ID};
use crate::schema::{Column, ColumnType};
use crate::state::{CheckpointKey, CheckpointUpdate, SliceFacts};

/// Rows of `insertAll` cannot be changed so long (BigQuery's page on DML, 2026-08).
const BUFFERED: Duration = Duration::from_secs(30 * 60);

/// A request of a dead run may still be on its way: so long after a slice of `insertAll` was first taken
/// back, every run of its stream looks for more of its rows. A write stream is ended instead.
const LATE: i64 = 3600;

/// How far the clocks of this machine and of BigQuery, and the time between receiving a row and sending
/// it, may set rows before their slice.
const EARLIER: i64 = 24 * 3600;

/// How often rows are looked for until all can be read, which takes seconds: about half a minute.
const MOST_LOOKS: u32 = 6;

/// A slice that is open.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: CheckpointKey,
    /// As in its rows.
    pub slice_id: String,
    pub table: String,
    pub method: WriteMethod,
    pub write_stream: Option<String>,
    /// Seconds since 1970.
    pub opened_at: i64,
}

impl Entry {
    fn key(&self) -> Vec<(&'static str, &'static str, String)> {
        vec![
            ("source", "STRING", self.key.source.clone()),
            ("stream", "STRING", self.key.stream.clone()),
            ("slice_id", "STRING", self.slice_id.clone()),
        ]
    }
}

fn text<'a>(row: &'a Row, name: &str) -> Option<&'a str> {
    row.get(name).and_then(Option::as_deref)
}

fn number(row: Option<&Row>, name: &str) -> Option<i64> {
    text(row?, name)?.parse().ok()
}

/// Where a slice's rows are, so far as the table's resource says.
struct Place {
    table: String,
    /// Partitioned by when rows were received.
    partitioned: bool,
    /// Rows say when they were received.
    dated: bool,
}

impl Place {
    /// `None` for a table that has no column for slices.
    fn of(to: &BigQuery, table: &str, resource: &Value) -> Option<Self> {
        let fields = resource["schema"]["fields"].as_array()?;
        let has = |name: &str, kind: ColumnType| shape::has_all(fields, &[Column::new(name, kind)]);
        let partition = &resource["timePartitioning"]["field"];
        has(SLICE_ID, ColumnType::String).then(|| Self {
            table: to.quoted(table),
            partitioned: partition
                .as_str()
                .is_some_and(|f| f.eq_ignore_ascii_case(EXTRACTED_AT)),
            dated: has(EXTRACTED_AT, ColumnType::Timestamp),
        })
    }

    fn parameters(&self, entry: &Entry) -> Vec<(&'static str, &'static str, String)> {
        let mut all = vec![("slice_id", "STRING", entry.slice_id.clone())];
        if self.partitioned {
            all.push(("since", "INT64", (entry.opened_at - EARLIER).to_string()));
        }
        all
    }
}

impl BigQuery {
    /// Makes the journal exist.
    pub(super) async fn ensure_journal(&self) -> Result<()> {
        self.ensure_own_tables().await?;
        self.0
            .direct
            .journal
            .get_or_try_init(|| async {
                let body = json!({
                    "description": "Slices whose rows went straight into a table and are not published yet; written by drawoff.",
                    "clustering": {"fields": ["source", "stream"]},
                    "labels": {"drawoff": "open_slices"},
                });
                self.ensure_table(OPEN_SLICES, &sql::journal_columns(), body, false)
                    .await
                    .map(drop)
            })
            .await
            .copied()
    }

    fn journal_query<'a>(&self, what: String, sql: String, entry: &'a Entry) -> Query<'a> {
        Query {
            what,
            sql,
            parameters: entry.key(),
            labels: vec![
                ("drawoff", "open_slices"),
                ("drawoff_source", entry.key.source.as_str()),
                ("drawoff_stream", entry.key.stream.as_str()),
            ],
            transaction: true,
            names_job: false,
            mark: unique_mark(),
        }
    }

    /// Notes a slice as open.
    ///
    /// # Errors
    /// [`ErrorKind::State`] where its checkpoint is not at that version, or another run holds the lease.
    pub(super) async fn note_open(
        &self,
        entry: &Entry,
        version: u64,
        lease: &str,
        run_id: &str,
    ) -> Result<()> {
        let mut query = self.journal_query(
            format!(
                "note that slice `{}` writes to `{}.{}`",
                entry.slice_id,
                self.api().target(),
                entry.table
            ),
            sql::open(
                &self.quoted(OPEN_SLICES),
                &self.quoted(CHECKPOINTS),
                &self.quoted(LEASES),
            ),
            entry,
        );
        query.parameters.extend([
            ("table_name", "STRING", entry.table.clone()),
            ("method", "STRING", entry.method.word().to_owned()),
            (
                "write_stream",
                "STRING",
                entry.write_stream.clone().unwrap_or_default(),
            ),
            ("expected_version", "INT64", version.to_string()),
            ("run_id", "STRING", run_id.to_owned()),
            ("lease", "STRING", lease.to_owned()),
        ]);
        let rows = self.api().query(&query).await?;
        let answer = rows.first();
        if number(answer, "open") == Some(1) {
            return Ok(());
        }
        let update = CheckpointUpdate {
            key: entry.key.clone(),
            checkpoint: Default::default(),
            expected_version: version,
            run_id: run_id.to_owned(),
            lease: lease.to_owned(),
            facts: SliceFacts::default(),
        };
        let place = format!("bigquery:{}", self.api().target());
        if let Some(by) = answer.and_then(|row| text(row, "holder")) {
            return Err(lease_lost(&update, by, &place));
        }
        let stored = number(answer, "version").unwrap_or_default();
        Err(version_conflict(&update, stored.unsigned_abs(), &place))
    }

    /// Notes a slice as being taken back, where it is neither in the journal nor published.
    pub(super) async fn note_again(&self, entry: &Entry, run_id: &str, slice: &str) -> Result<()> {
        let mut query = self.journal_query(
            format!(
                "note that slice `{}` of `{}.{}` is taken back",
                entry.slice_id,
                self.api().target(),
                entry.table
            ),
            sql::open_again(&self.quoted(OPEN_SLICES), &self.quoted(LOADS)),
            entry,
        );
        query.parameters.extend([
            ("table_name", "STRING", entry.table.clone()),
            ("method", "STRING", entry.method.word().to_owned()),
            ("opened_at", "INT64", entry.opened_at.to_string()),
            ("run_id", "STRING", run_id.to_owned()),
            ("slice", "STRING", slice.to_owned()),
        ]);
        self.api().query(&query).await.map(drop)
    }

    /// Takes back what dead runs left of a stream's slices.
    pub(in super::super) async fn take_back_dead(
        &self,
        spec: &TableSpec,
        key: &CheckpointKey,
    ) -> Result<Vec<String>> {
        let mut done = Vec::new();
        let known = self.0.direct.journal.initialized();
        if !known && self.api().table(OPEN_SLICES).await?.is_none() {
            return Ok(done);
        }
        for entry in self.open_slices(spec, key).await? {
            let target = self.api().target();
            if entry.key != *key {
                done.push(format!(
                    "rows of slice `{}` are in `{target}.{}` and were never published: if no run is at work on `{}`, start that one again, which takes them back",
                    entry.slice_id, entry.table, entry.key.stream
                ));
                continue;
            }
            let rows = self.take_back_slice(&entry).await?;
            if rows > 0 {
                done.push(format!(
                    "{rows} rows of slice `{}`, which was never published, were taken out of `{target}.{}` and are read again",
                    entry.slice_id, entry.table
                ));
            }
        }
        Ok(done)
    }

    async fn open_slices(&self, spec: &TableSpec, key: &CheckpointKey) -> Result<Vec<Entry>> {
        let rows = self
            .api()
            .query(&Query {
                what: format!(
                    "read the open slices of `{}`/`{}` from `{}.{OPEN_SLICES}`",
                    key.source,
                    key.stream,
                    self.api().target()
                ),
                sql: sql::list(&self.quoted(OPEN_SLICES)),
                parameters: vec![
                    ("source", "STRING", key.source.clone()),
                    ("stream", "STRING", key.stream.clone()),
                    ("table_name", "STRING", spec.name.clone()),
                ],
                labels: vec![
                    ("drawoff", "open_slices"),
                    ("drawoff_source", key.source.as_str()),
                    ("drawoff_stream", key.stream.as_str()),
                ],
                transaction: false,
                names_job: false,
                mark: unique_mark(),
            })
            .await?;
        rows.iter()
            .map(|row| {
                let read = || {
                    Some(Entry {
                        key: CheckpointKey {
                            source: key.source.clone(),
                            stream: text(row, "stream")?.to_owned(),
                        },
                        slice_id: text(row, "slice_id")?.to_owned(),
                        table: text(row, "table_name")?.to_owned(),
                        method: [WriteMethod::Stream, WriteMethod::InsertAll]
                            .into_iter()
                            .find(|m| Some(m.word()) == text(row, "method"))?,
                        write_stream: text(row, "write_stream").map(str::to_owned),
                        opened_at: number(Some(row), "opened_at")?,
                    })
                };
                read().ok_or_else(|| {
                    Error::new(
                        ErrorKind::State,
                        format!(
                            "an open slice of `{}`/`{}` in `{}.{OPEN_SLICES}` cannot be read",
                            key.source,
                            key.stream,
                            self.api().target()
                        ),
                    )
                    .hint("it was written by a newer drawoff, or by hand: use the newer one")
                })
            })
            .collect()
    }

    /// Deletes the rows of a slice that was not published, and keeps it from being published; how many
    /// there were. One that was published, or is struck off, is left alone.
    ///
    /// # Errors
    /// Transient when `insertAll` wrote them less than half an hour ago.
    pub(super) async fn take_back_slice(&self, entry: &Entry) -> Result<u64> {
        let target = self.api().target();
        let what = |verb: &str| {
            format!(
                "{verb} slice `{}` of `{target}.{}`",
                entry.slice_id, entry.table
            )
        };
        let journal = self.quoted(OPEN_SLICES);
        let claim = self.journal_query(what("take back"), sql::claim(&journal), entry);
        let claimed = {
            let _not_while_publishing = self.0.publishing.lock().await;
            self.api().query(&claim).await?
        };
        if number(claimed.first(), "open") != Some(1) {
            return Ok(0);
        }
        if let Some(stream) = &entry.write_stream {
            let table = format!("{target}.{}", entry.table);
            self.0.write.end(stream, &table).await?;
        }
        let rows = match self.api().table(&entry.table).await? {
            Some(resource) => match Place::of(self, &entry.table, &resource) {
                Some(place) => self.delete_rows(entry, &place).await?,
                None => 0,
            },
            None => 0,
        };
        let age = number(claimed.first(), "age").unwrap_or_default();
        if entry.method == WriteMethod::InsertAll && age < LATE {
            return Ok(rows);
        }
        let forget = self.journal_query(what("strike off"), sql::forget(&journal), entry);
        let _not_while_publishing = self.0.publishing.lock().await;
        self.api().query(&forget).await?;
        Ok(rows)
    }

    /// How many rows of a slice its table has, and when the newest was received, in seconds since 1970.
    async fn count_rows(&self, entry: &Entry, place: &Place) -> Result<(u64, Option<i64>)> {
        let rows = self
            .api()
            .query(&Query {
                parameters: place.parameters(entry),
                ..self.journal_query(
                    format!(
                        "count the rows of slice `{}` in `{}.{}`",
                        entry.slice_id,
                        self.api().target(),
                        entry.table
                    ),
                    sql::count(&place.table, place.partitioned, place.dated),
                    entry,
                )
            })
            .await?;
        let n = number(rows.first(), "n").unwrap_or_default();
        Ok((n.unsigned_abs(), number(rows.first(), "last")))
    }

    async fn delete_rows(&self, entry: &Entry, place: &Place) -> Result<u64> {
        let (n, last) = self.count_rows(entry, place).await?;
        if n == 0 {
            return Ok(0);
        }
        let table = format!("{}.{}", self.api().target(), entry.table);
        let delete = Query {
            parameters: place.parameters(entry),
            ..self.journal_query(
                format!(
                    "delete the {n} rows of slice `{}`, which was never published, from `{table}`",
                    entry.slice_id
                ),
                sql::delete(&place.table, place.partitioned),
                entry,
            )
        };
        let mut attempt = 0;
        let failure = loop {
            let failure = match self.api().run(&delete, attempt).await? {
                Ended::Well(_) => return Ok(n),
                Ended::Failed(failure) => failure,
            };
            attempt += 1;
            // Others may be changing the table: those of a merge, or of somebody's own.
            match delete.again(&failure, attempt) {
                Some(delay) => self.api().sleep(delay).await,
                None => break failure,
            }
        };
        // BigQuery has no reason code of its own for rows that are still in its streaming buffer, so
        // their age decides.
        let now = self.api().google().clock().now();
        let free = Timestamp::from_second(last.unwrap_or(now.as_second()))
            .unwrap_or(now)
            .saturating_add(BUFFERED)
            .unwrap_or(now);
        let refused = !matches!(
            failure.reason.as_str(),
            "accessDenied" | "quotaExceeded" | "bytesBilledLimitExceeded"
        );
        if entry.method == WriteMethod::InsertAll && refused && free > now {
            return Err(Error::destination(format!(
                "could not {}: BigQuery does not delete rows within 30 minutes after `insertAll` wrote them",
                delete.what
            ))
            .transient(true)
            .hint(format!(
                "run again after {}; until then the rows are there, with `{SLICE_ID}` = '{}'",
                free.strftime("%Y-%m-%dT%H:%M:%SZ"),
                entry.slice_id
            )));
        }
        Err(self.api().failed(failure).await)
    }

    /// Waits until a slice's rows can be read, and checks that they are as many as were taken.
    ///
    /// # Errors
    /// Transient when there are more or less: the slice must be taken back and read again.
    pub(super) async fn check_count(&self, entry: &Entry, sent: u64) -> Result<()> {
        let table = format!("{}.{}", self.api().target(), entry.table);
        let resource = self.api().table(&entry.table).await?.unwrap_or_default();
        let place = Place::of(self, &entry.table, &resource).ok_or_else(|| {
            Error::new(
                ErrorKind::Schema,
                format!("table `{table}` has lost its column `{SLICE_ID}`"),
            )
        })?;
        let mut looks = 0;
        loop {
            let (n, _) = self.count_rows(entry, &place).await?;
            let problem = match n {
                n if n == sent => return Ok(()),
                n if n > sent => "some were taken twice, though they were sent with the same ids",
                _ => "some cannot be read yet, or were lost",
            };
            looks += 1;
            if n > sent || looks == MOST_LOOKS {
                return Err(Error::destination(format!(
                    "`{table}` has {n} rows of slice `{}`, and {sent} were sent: {problem}; the slice is not published",
                    entry.slice_id
                ))
                .transient(true)
                .hint("run again: its rows are deleted, as soon as BigQuery allows it, and read once more"));
            }
            self.api().sleep(RetryPolicy::BIGQUERY.delay(looks)).await;
        }
    }
}

/// The columns that a table lacks of those wanted, by the resource it has.
pub(super) fn lacking(resource: &Value, wanted: &[Column]) -> Vec<String> {
    let fields = resource["schema"]["fields"].as_array();
    let fields = fields.map_or(&[][..], Vec::as_slice);
    wanted
        .iter()
        .filter(|column| !shape::has_all(fields, std::slice::from_ref(column)))
        .map(|column| column.name.clone())
        .collect()
}
