//! The Storage Write API: one pending stream, one connection, Arrow rows, offsets.
//!
//! A request is kept until it is acknowledged. After a cut, all that is unacknowledged is sent again
//! at its offset; what had arrived is answered ALREADY_EXISTS and counts as written. No rows are
//! visible until [`StreamWriter::commit`].

mod connect;
mod encode;

pub(super) use connect::WriteClient;
pub(super) use encode::Encoder;

use std::collections::VecDeque;
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

/// Limits on what is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Largest request, in bytes.
    pub request: usize,
    /// Most bytes sent and not acknowledged.
    pub in_flight: usize,
}

/// Rows on their way into one staging table.
pub(super) struct StreamWriter {
    client: WriteClient,
    /// For messages: `p.d.t`.
    table: String,
    stream: String,
    encoder: Encoder,
    limits: Limits,
    connection: Option<Connection>,
    in_flight: VecDeque<Request>,
    bytes_in_flight: usize,
    next_offset: i64,
    failures: u32,
}

struct Request {
    offset: i64,
    rows: i64,
    encoded: Vec<u8>,
}

struct Connection {
    requests: mpsc::UnboundedSender<proto::AppendRowsRequest>,
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
        let stream = client.create_pending(project, dataset, table).await?;
        Ok(Self {
            client,
            table: format!("{project}.{dataset}.{table}"),
            stream,
            encoder,
            limits,
            connection: None,
            in_flight: VecDeque::new(),
            bytes_in_flight: 0,
            next_offset: 0,
            failures: 0,
        })
    }

    /// Rows taken in so far.
    pub(super) fn rows(&self) -> u64 {
        self.next_offset.unsigned_abs()
    }

    /// Takes rows in. Returns when they are on their way, and what is unacknowledged is within the
    /// limit.
    pub(super) async fn append(&mut self, batch: &RecordBatch) -> Result<()> {
        for (rows, encoded) in self
            .encoder
            .encode(batch, self.limits.request, &self.table)?
        {
            while !self.in_flight.is_empty()
                && self.bytes_in_flight + encoded.len() > self.limits.in_flight
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
            let message = self
                .in_flight
                .back()
                .map(|r| self.message(r, false))
                .unwrap_or_default();
            match &self.connection {
                // A closed channel shows when the answer is waited for; all is sent again then.
                Some(open) => drop(open.requests.unbounded_send(message)),
                None => self.connect().await?,
            }
        }
        Ok(())
    }

    /// Waits until every row is acknowledged, ends the stream and makes its rows readable.
    /// Repeating is harmless.
    pub(super) async fn commit(&mut self) -> Result<()> {
        while !self.in_flight.is_empty() {
            self.receive().await?;
        }
        self.connection = None;
        let rows = self.client.finalize(&self.stream, &self.table).await?;
        if rows != self.next_offset {
            return Err(Error::destination(format!(
                "`{}` took {rows} rows, and {} were sent to it",
                self.table, self.next_offset
            )));
        }
        self.client.commit(&self.stream, &self.table).await
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
                _ if !answer.row_errors.is_empty() => Err(self.row_errors(&answer.row_errors)),
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

    /// The service names rows by their place in the request and says why in words that may quote
    /// them: index and code are kept, the words are not.
    fn row_errors(&self, errors: &[proto::RowError]) -> Error {
        let shown: Vec<String> = errors
            .iter()
            .take(3)
            .map(|e| format!("row {} {}", e.index, e.code().as_str_name()))
            .collect();
        Error::new(
            ErrorKind::Schema,
            format!(
                "BigQuery refused {} rows for `{}` ({}{})",
                errors.len(),
                self.table,
                shown.join(", "),
                if errors.len() > shown.len() { ", …" } else { "" }
            ),
        )
        .hint("a value is outside its column's range: see the limits of its type, or make the column a STRING")
    }

    /// The connection is of no more use; opens another where that may help.
    async fn broken(&mut self, status: Status) -> Result<()> {
        self.connection = None;
        self.failures += 1;
        // OUT_OF_RANGE: something before it was lost, which sending again from there mends.
        let may_pass = connect::may_pass(status.code())
            || matches!(status.code(), Code::OutOfRange)
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
        self.client.pause(self.failures).await;
        Ok(())
    }

    /// Offset up to which everything is acknowledged.
    fn next_offset_acknowledged(&self) -> i64 {
        self.in_flight
            .front()
            .map_or(self.next_offset, |r| r.offset)
    }

    /// Opens a connection and sends everything that is unacknowledged.
    async fn connect(&mut self) -> Result<()> {
        // Unbounded in form; what is in it is bounded by the limit on bytes in flight.
        let (sender, receiver) = mpsc::unbounded();
        for (n, request) in self.in_flight.iter().enumerate() {
            let _ = sender.unbounded_send(self.message(request, n == 0));
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
