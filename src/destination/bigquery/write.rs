//! The Storage Write API: one stream, one connection, Arrow rows, offsets.
//!
//! A request is kept until it is acknowledged. After a cut, all that is unacknowledged is sent again
//! at its offset; what had arrived is answered ALREADY_EXISTS and counts as written. The rows of a
//! pending stream are not visible until [`StreamWriter::commit`], those of a committed one at once.
//!
//! Of a request with rows that BigQuery refuses it takes none. Those rows are taken out and handed
//! back ([`StreamWriter::take_refused`]), the others sent again at the same offset, and what had been
//! sent behind them at offsets that are now lower. That waits until the connection has answered all
//! that it was sent: a request still on its way would be taken at an offset that is now other rows'.
//! Where a connection breaks before, or has broken with such requests, a pending stream is ended where
//! it is, the rest goes into a new one, and both are committed together; a committed one fails.

mod connect;
mod encode;

pub(super) use connect::WriteClient;
pub(super) use encode::Encoder;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use arrow_array::RecordBatch;
use futures::channel::mpsc;
use gcloud_sdk::google::cloud::bigquery::storage::v1 as proto;
use gcloud_sdk::tonic::{Code, Status, Streaming};
use proto::append_rows_request::{ArrowData, Rows};
use proto::append_rows_response::Response;

use crate::error::{Error, ErrorKind, Result};
use crate::google::tidy;

/// Connections in a row without one acknowledged request before a stream is given up.
const MOST_FAILURES: u32 = 10;

/// How long the service may take to answer a request that it has been sent.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);

/// Most requests sent and not acknowledged, whatever their size.
const MOST_IN_FLIGHT: usize = 64;

/// Limits on what is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Largest request, in bytes.
    pub request: usize,
    /// Most bytes sent and not acknowledged.
    pub in_flight: usize,
}

/// Rows on their way into one table.
pub(super) struct StreamWriter {
    client: WriteClient,
    /// For messages: `p.d.t`.
    table: String,
    /// The table as the service names it, `projects/p/datasets/d/tables/t`, where the stream is pending
    /// and another may take its place.
    parent: Option<String>,
    stream: String,
    /// Streams that were ended when rows were refused, and the number of their rows.
    ended: Vec<String>,
    ended_rows: i64,
    encoder: Encoder,
    limits: Limits,
    connection: Option<Connection>,
    in_flight: VecDeque<Request>,
    bytes_in_flight: usize,
    /// Offset in `stream` of the next row to be taken in.
    next_offset: i64,
    failures: u32,
    refused: Vec<Refused>,
    /// Answers to come on this connection to requests that were sent behind one with refused rows;
    /// until then nothing is sent.
    stale: usize,
    /// Offset before which a connection that broke may still bring requests.
    doubt: i64,
}

/// Rows that BigQuery refused.
pub(super) struct Refused {
    /// The rows.
    pub rows: RecordBatch,
    /// Why, for each of them, without its values.
    pub reasons: Vec<String>,
}

struct Request {
    offset: i64,
    rows: i64,
    encoded: Vec<u8>,
}

struct Connection {
    requests: mpsc::Sender<proto::AppendRowsRequest>,
    answers: Streaming<proto::AppendRowsResponse>,
}

impl StreamWriter {
    /// Opens a pending stream of the table, waiting for a table just created to be known.
    pub(super) async fn open(
        client: WriteClient,
        project: &str,
        dataset: &str,
        table: &str,
        encoder: Encoder,
        limits: Limits,
    ) -> Result<Self> {
        let parent = format!("projects/{project}/datasets/{dataset}/tables/{table}");
        let table = format!("{project}.{dataset}.{table}");
        let stream = client.create_pending(&parent, &table).await?;
        Ok(Self {
            parent: Some(parent),
            ..Self::of(client, table, stream, encoder, limits)
        })
    }

    /// A writer of a committed stream that is there. `table` is for messages: `p.d.t`.
    pub(super) fn of(
        client: WriteClient,
        table: String,
        stream: String,
        encoder: Encoder,
        limits: Limits,
    ) -> Self {
        Self {
            client,
            table,
            parent: None,
            stream,
            ended: Vec::new(),
            ended_rows: 0,
            encoder,
            limits,
            connection: None,
            in_flight: VecDeque::new(),
            bytes_in_flight: 0,
            next_offset: 0,
            failures: 0,
            refused: Vec::new(),
            stale: 0,
            doubt: 0,
        }
    }

    /// Name of the stream.
    pub(super) fn stream(&self) -> &str {
        &self.stream
    }

    /// Rows taken in so far, without those that were refused.
    pub(super) fn rows(&self) -> u64 {
        (self.ended_rows + self.next_offset).unsigned_abs()
    }

    /// Rows that were refused since this was last asked.
    pub(super) fn take_refused(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.refused)
    }

    /// Takes rows in. Returns when they are on their way, and what is unacknowledged is within the
    /// limit.
    pub(super) async fn append(&mut self, batch: &RecordBatch) -> Result<()> {
        for (rows, encoded) in self
            .encoder
            .encode(batch, self.limits.request, &self.table)?
        {
            while !self.in_flight.is_empty()
                && (self.bytes_in_flight + encoded.len() > self.limits.in_flight
                    || self.in_flight.len() >= MOST_IN_FLIGHT)
            {
                self.receive().await?;
            }
            let offset = self.next_offset;
            self.next_offset += rows;
            self.bytes_in_flight += encoded.len();
            self.in_flight.push_back(Request {
                offset,
                rows,
                encoded,
            });
            self.send_last().await?;
        }
        Ok(())
    }

    /// Sends the newest request.
    async fn send_last(&mut self) -> Result<()> {
        if self.stale > 0 {
            return Ok(());
        }
        let message = self.in_flight.back().map(|r| self.message(r, false));
        match (&mut self.connection, message) {
            // A closed channel shows when the answer is waited for; all is sent again then.
            (Some(open), Some(message)) => {
                let _ = open.requests.try_send(message);
                Ok(())
            }
            _ => self.connect().await,
        }
    }

    /// Waits until every row is acknowledged or refused.
    pub(super) async fn settle(&mut self) -> Result<()> {
        while !self.in_flight.is_empty() || self.stale > 0 {
            self.receive().await?;
        }
        Ok(())
    }

    /// Settles, ends the streams and makes their rows readable. Repeating is harmless.
    pub(super) async fn commit(&mut self) -> Result<()> {
        self.finish().await?;
        let Some(parent) = &self.parent else {
            return Ok(());
        };
        let mut streams = self.ended.clone();
        streams.push(self.stream.clone());
        self.client.commit(parent, &streams, &self.table).await
    }

    /// Settles and ends the stream, which has the rows that were sent. Repeating is harmless.
    pub(super) async fn finish(&mut self) -> Result<()> {
        self.settle().await?;
        self.end(self.next_offset).await
    }

    /// Ends the stream, which must hold so many rows.
    async fn end(&mut self, rows: i64) -> Result<()> {
        self.connection = None;
        let taken = self.client.finalize(&self.stream, &self.table).await?;
        if taken != rows {
            return Err(Error::destination(format!(
                "`{}` took {taken} rows, and {rows} were sent to it",
                self.table
            )));
        }
        Ok(())
    }

    /// Handles one answer, connecting where there is no connection.
    async fn receive(&mut self) -> Result<()> {
        let Some(connection) = &mut self.connection else {
            return self.connect().await;
        };
        let answer = tokio::time::timeout(ANSWER_PATIENCE, connection.answers.message()).await;
        let problem = match answer {
            Ok(Ok(Some(answer))) => return self.handle(answer).await,
            Ok(Ok(None)) => Status::unavailable("the service ended the connection"),
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("no answer came in time"),
        };
        self.broken(problem).await
    }

    async fn handle(&mut self, answer: proto::AppendRowsResponse) -> Result<()> {
        if self.stale > 0 {
            return self.pass_stale(answer);
        }
        let Some(first) = self.in_flight.front() else {
            return Err(Error::new(
                ErrorKind::Bug,
                format!("`{}` answered a request that was not sent", self.table),
            ));
        };
        match answer.response {
            Some(Response::AppendResult(result)) => {
                if let Some(offset) = result.offset
                    && offset != first.offset
                {
                    return Err(Error::destination(format!(
                        "`{}` put rows at offset {offset} that were sent for offset {}",
                        self.table, first.offset
                    )));
                }
                self.acknowledge();
                Ok(())
            }
            Some(Response::Error(error)) => match Code::from_i32(error.code) {
                Code::AlreadyExists => {
                    self.acknowledge();
                    Ok(())
                }
                _ if !answer.row_errors.is_empty() => self.refuse(&answer.row_errors).await,
                // Columns that were just added are known to the write API after a while.
                _ if connect::lacks_columns(&error) => {
                    self.broken(Status::unavailable(error.message)).await
                }
                code => self.broken(Status::new(code, error.message)).await,
            },
            // Only a notice, about the schema.
            None => Ok(()),
        }
    }

    fn acknowledge(&mut self) {
        if let Some(done) = self.in_flight.pop_front() {
            self.bytes_in_flight -= done.encoded.len();
            self.failures = 0;
        }
    }

    /// Takes the rows that the service names out of the oldest request, of which it has taken none,
    /// and sees to it that the others get there.
    async fn refuse(&mut self, errors: &[proto::RowError]) -> Result<()> {
        let Some(request) = self.in_flight.pop_front() else {
            return Ok(());
        };
        self.bytes_in_flight -= request.encoded.len();
        let reasons: BTreeMap<usize, String> = errors
            .iter()
            .filter(|e| (0..request.rows).contains(&e.index))
            .map(|e| (e.index.unsigned_abs() as usize, reason(e)))
            .collect();
        if reasons.is_empty() {
            return Err(Error::destination(format!(
                "`{}` refused rows of a request that has no such rows",
                self.table
            )));
        }
        let places: Vec<usize> = reasons.keys().copied().collect();
        let (kept, rows) = self.encoder.take_out(&request.encoded, &places)?;
        self.refused.push(Refused {
            rows,
            reasons: reasons.into_values().collect(),
        });
        self.failures = 0;
        self.stale = self.in_flight.len();
        if let Some((rows, encoded)) = kept {
            self.bytes_in_flight += encoded.len();
            self.in_flight.push_front(Request {
                offset: request.offset,
                rows,
                encoded,
            });
        }
        self.renumber(request.offset);
        if self.doubt > request.offset + request.rows {
            self.stale = 0;
            return self.move_on().await;
        }
        self.send_all();
        Ok(())
    }

    /// An answer to a request behind one with refused rows: it was refused for its offset.
    fn pass_stale(&mut self, answer: proto::AppendRowsResponse) -> Result<()> {
        match answer.response {
            Some(Response::AppendResult(_)) => Err(Error::destination(format!(
                "`{}` took rows behind rows that it had refused",
                self.table
            ))),
            Some(Response::Error(_)) => {
                self.stale -= 1;
                self.send_all();
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Sends all that is unacknowledged on the open connection, where nothing stale is on its way.
    fn send_all(&mut self) {
        if self.stale > 0 {
            return;
        }
        let messages: Vec<_> = self
            .in_flight
            .iter()
            .map(|r| self.message(r, false))
            .collect();
        if let Some(open) = &mut self.connection {
            for message in messages {
                let _ = open.requests.try_send(message);
            }
        }
    }

    /// Ends the stream where it is, and goes on in a new one.
    async fn move_on(&mut self) -> Result<()> {
        let taken = self.next_offset_acknowledged();
        let Some(parent) = self.parent.clone() else {
            return Err(Error::destination(format!(
                "a connection broke while rows were taken out of what is sent to `{}`",
                self.table
            ))
            .transient(true)
            .hint("run again"));
        };
        self.end(taken).await?;
        let next = self.client.create_pending(&parent, &self.table).await?;
        let ended = std::mem::replace(&mut self.stream, next);
        if taken > 0 {
            self.ended.push(ended);
            self.ended_rows += taken;
        }
        self.renumber(0);
        self.doubt = 0;
        Ok(())
    }

    /// Gives the unacknowledged requests the offsets from that one on.
    fn renumber(&mut self, from: i64) {
        self.next_offset = from;
        for request in &mut self.in_flight {
            request.offset = self.next_offset;
            self.next_offset += request.rows;
        }
    }

    /// The connection is of no more use; opens another where that may help.
    async fn broken(&mut self, status: Status) -> Result<()> {
        self.connection = None;
        self.failures += 1;
        self.doubt = self.doubt.max(self.next_offset);
        // Of a call that ends so it is the oldest request, for they are answered in their order; whether
        // that is so shows in the number of rows when the stream is ended.
        if status.code() == Code::AlreadyExists && self.stale == 0 && self.failures <= MOST_FAILURES
        {
            let failures = self.failures;
            self.acknowledge();
            self.failures = failures;
            return Ok(());
        }
        // OUT_OF_RANGE: something before it was lost, which sending again from there mends. What ends a
        // connection behind refused rows is about requests that are not sent again as they were.
        let may_pass = connect::may_pass(status.code())
            || matches!(status.code(), Code::OutOfRange)
            || self.stale > 0
            || (status.code() == Code::NotFound && self.next_offset_acknowledged() == 0);
        if !may_pass || self.failures > MOST_FAILURES {
            return Err(connect::explain(
                &status,
                format!("write rows to `{}`", self.table),
            ));
        }
        if status.code() == Code::Unauthenticated {
            self.client.renew_credentials().await;
        }
        tracing::debug!(
            table = self.table,
            code = ?status.code(),
            message = tidy(status.message()),
            unacknowledged = self.in_flight.len(),
            "the connection for rows broke; sending what is unacknowledged again"
        );
        self.client
            .pause_by(connect::patience(status.code()), self.failures)
            .await;
        match std::mem::take(&mut self.stale) {
            0 => Ok(()),
            _ => self.move_on().await,
        }
    }

    /// Offset up to which everything is acknowledged.
    fn next_offset_acknowledged(&self) -> i64 {
        self.in_flight
            .front()
            .map_or(self.next_offset, |r| r.offset)
    }

    /// Opens a connection and sends everything that is unacknowledged.
    async fn connect(&mut self) -> Result<()> {
        // All that is unacknowledged has room in it.
        let (mut sender, receiver) = mpsc::channel(MOST_IN_FLIGHT);
        for (n, request) in self.in_flight.iter().enumerate() {
            let _ = sender.try_send(self.message(request, n == 0));
        }
        match self.client.append(&self.stream, receiver).await {
            Ok(answers) => {
                self.connection = Some(Connection {
                    requests: sender,
                    answers,
                });
                Ok(())
            }
            Err(status) => self.broken(status).await,
        }
    }

    /// A request as the service takes it; the first of a connection says what the others mean.
    fn message(&self, request: &Request, first: bool) -> proto::AppendRowsRequest {
        #[allow(deprecated)]
        let batch = proto::ArrowRecordBatch {
            serialized_record_batch: request.encoded.clone(),
            row_count: request.rows,
        };
        proto::AppendRowsRequest {
            write_stream: if first {
                self.stream.clone()
            } else {
                String::new()
            },
            offset: Some(request.offset),
            trace_id: if first {
                "drawoff:".to_owned() + env!("CARGO_PKG_VERSION")
            } else {
                String::new()
            },
            rows: Some(Rows::ArrowRows(ArrowData {
                writer_schema: first.then(|| proto::ArrowSchema {
                    serialized_schema: self.encoder.schema().to_vec(),
                }),
                rows: Some(batch),
            })),
            ..Default::default()
        }
    }
}

/// Code and words of the service for one row. Its words may quote the row, so they are tidied.
fn reason(error: &proto::RowError) -> String {
    let code = error.code().as_str_name();
    match tidy(&error.message) {
        words if words.is_empty() => format!("BigQuery refused the row: {code}"),
        words => format!("BigQuery refused the row: {code}: {words}"),
    }
}
