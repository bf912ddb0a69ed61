//! `write_method: insert_all`: requests to `tabledata.insertAll`, two under way at a time.

use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::super::BigQuery;
use super::rows::{self, Row};
use crate::error::{Error, ErrorKind, Result};
use crate::google::RetryPolicy;

/// Requests under way at once, each with its rows in memory.
const AT_ONCE: usize = 2;

/// How often a table that was just created may be unknown, in a row: about two minutes.
const MOST_UNKNOWN: u32 = 9;

/// How often rows may come back without one of them going in or being refused for good.
const MOST_STALLS: u32 = 8;

/// How long servers may take to know a column that was added (some minutes, say BigQuery's pages).
pub(super) const COLUMN_PATIENCE: Duration = Duration::from_secs(300);

/// Columns that were just added to a table: until then a row with one of them is not refused for good.
#[derive(Clone, Debug)]
pub(super) struct Added {
    pub columns: Vec<String>,
    pub until: Instant,
}

/// A row that BigQuery refused.
#[derive(Debug)]
pub(super) struct Refused {
    /// Its values as a JSON object, as sent.
    pub values: Vec<u8>,
    /// BigQuery's reason code.
    pub reason: String,
    /// The column, dotted, where BigQuery says.
    pub column: String,
}

/// The rows of a slice on their way.
pub(super) struct Sender {
    to: BigQuery,
    table: String,
    slice_id: String,
    added: Option<Added>,
    taken: u64,
    under_way: JoinSet<Result<Vec<Refused>>>,
}

impl Sender {
    pub(super) fn new(to: BigQuery, table: &str, slice_id: &str, added: Option<Added>) -> Self {
        Self {
            to,
            table: table.to_owned(),
            slice_id: slice_id.to_owned(),
            added,
            taken: 0,
            under_way: JoinSet::new(),
        }
    }

    /// Rows taken in.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Sends rows. Answers with those that were refused since the last call.
    pub(super) async fn send(&mut self, batch: &RecordBatch) -> Result<Vec<Refused>> {
        let full = format!("{}.{}", self.to.api().target(), self.table);
        let requests = rows::requests(batch, &self.slice_id, self.taken, &full)?;
        self.taken += batch.num_rows() as u64;
        let mut refused = Vec::new();
        for request in requests {
            while self.under_way.len() >= AT_ONCE {
                refused.extend(self.ended().await?);
            }
            let (to, table, added) = (self.to.clone(), self.table.clone(), self.added.clone());
            self.under_way.spawn(
                async move { insert(&to, &table, request, added.as_ref()).await }.in_current_span(),
            );
        }
        Ok(refused)
    }

    /// Waits until all is in the table or refused. Answers with those that were refused since the last
    /// call.
    pub(super) async fn finish(&mut self) -> Result<Vec<Refused>> {
        let mut refused = Vec::new();
        while !self.under_way.is_empty() {
            refused.extend(self.ended().await?);
        }
        Ok(refused)
    }

    async fn ended(&mut self) -> Result<Vec<Refused>> {
        match self.under_way.join_next().await {
            None => Ok(Vec::new()),
            Some(Ok(outcome)) => outcome,
            Some(Err(e)) => {
                Err(Error::new(ErrorKind::Bug, "a task that sends rows ended").source(e))
            }
        }
    }
}

/// Sends rows until each is in the table or refused for good.
async fn insert(
    to: &BigQuery,
    table: &str,
    mut rows: Vec<Row>,
    added: Option<&Added>,
) -> Result<Vec<Refused>> {
    let api = to.api();
    let mut refused = Vec::new();
    let (mut unknown, mut stalls) = (0, 0);
    while !rows.is_empty() {
        let answer = match api.insert_all(table, rows::body(&rows)).await {
            Ok(answer) => answer,
            // A table is known to these servers a while after it is created.
            Err(f) if f.is_not_found() && unknown < MOST_UNKNOWN => {
                unknown += 1;
                api.sleep(RetryPolicy::BIGQUERY.delay(unknown)).await;
                continue;
            }
            Err(failure) => return Err(api.not_inserted(failure)),
        };
        let verdict = rows::verdict(&answer, rows.len());
        let now = api.google().clock().instant();
        let doubted = |column: &str| {
            added.is_some_and(|a| {
                let first = column.split('.').next().unwrap_or(column);
                now < a.until && a.columns.iter().any(|c| c.eq_ignore_ascii_case(first))
            })
        };
        let mut again = verdict.again;
        let mut settled = rows.len() - again.len() - verdict.refused.len();
        for refusal in verdict.refused {
            if doubted(&refusal.column) {
                again.push(refusal.at);
                continue;
            }
            settled += 1;
            refused.push(Refused {
                values: std::mem::take(&mut rows[refusal.at].values),
                reason: refusal.reason,
                column: refusal.column,
            });
        }
        again.sort_unstable();
        let may_learn = added.is_some_and(|a| now < a.until);
        rows = again
            .iter()
            .map(|at| std::mem::take(&mut rows[*at]))
            .collect();
        match settled {
            _ if rows.is_empty() => {}
            0 if stalls >= MOST_STALLS && !may_learn => {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "could not insert rows into `{}.{table}`: BigQuery put {} of them off again and again",
                        api.target(),
                        rows.len()
                    ),
                ));
            }
            0 => {
                stalls += 1;
                api.sleep(RetryPolicy::BIGQUERY.delay(stalls)).await;
            }
            _ => stalls = 0,
        }
    }
    Ok(refused)
}
