//! The gRPC channel to the Storage Write API, its calls, and what its status codes mean.

use std::time::Duration;

use futures::channel::mpsc;
use gcloud_sdk::google::cloud::bigquery::storage::v1 as proto;
use gcloud_sdk::prost::Message;
use gcloud_sdk::tonic::metadata::{KeyAndValueRef, MetadataMap, MetadataValue};
use gcloud_sdk::tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use gcloud_sdk::tonic::{Code, Request, Status, Streaming};
use proto::big_query_write_client::BigQueryWriteClient;

use crate::error::{Error, ErrorKind, Result};
use crate::google::{Google, RetryPolicy, USER_AGENT, tidy};
use crate::http::system_roots;

/// Attempts of a call that is no append.
const ATTEMPTS: u32 = 8;

/// How long a table that was just created may be unknown to the service.
const NOT_FOUND_ATTEMPTS: u32 = 12;

/// Time for one call that is no append, as the service's configuration has it (2026-08).
const CALL_PATIENCE: Duration = Duration::from_secs(600);

/// Waits between attempts.
const BACKOFF: RetryPolicy = RetryPolicy {
    attempts: ATTEMPTS,
    first_delay: Duration::from_millis(250),
    longest_delay: Duration::from_secs(20),
    attempt_timeout: CALL_PATIENCE,
};

/// Waits after RESOURCE_EXHAUSTED: quotas are counted by the minute and the hour.
const CROWDED: RetryPolicy = RetryPolicy {
    attempts: ATTEMPTS,
    first_delay: Duration::from_secs(5),
    longest_delay: Duration::from_secs(120),
    attempt_timeout: CALL_PATIENCE,
};

/// A handle on the service; connects on first use, and clones share the connection.
#[derive(Clone)]
pub(in super::super) struct WriteClient {
    google: Google,
    grpc: BigQueryWriteClient<Channel>,
}

impl WriteClient {
    /// A client that has not connected yet.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the endpoint cannot be one of a gRPC service.
    pub(in super::super) fn new(google: Google, request_limit: usize) -> Result<Self> {
        let root = &google.settings().bigquery_storage;
        let bad = |e: gcloud_sdk::tonic::transport::Error| {
            Error::config(format!("`{root}` cannot be reached by gRPC")).source(e)
        };
        let mut endpoint = Endpoint::from_shared(root.as_str().to_owned())
            .map_err(bad)?
            .connect_timeout(Duration::from_secs(10))
            .user_agent(USER_AGENT)
            .map_err(bad)?
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .tcp_nodelay(true);
        if root.takes_credentials() {
            endpoint = endpoint
                .tls_config(
                    ClientTlsConfig::new().trust_anchors(system_roots().roots.iter().cloned()),
                )
                .map_err(bad)?;
        }
        let grpc = BigQueryWriteClient::new(endpoint.connect_lazy())
            .max_encoding_message_size(request_limit + (1 << 20));
        Ok(Self { google, grpc })
    }

    pub(super) async fn renew_credentials(&self) {
        let now = self.google.clock().instant();
        self.google.renew_credentials(now).await;
    }

    /// Waits after the `failures`-th failure in a row.
    pub(in super::super) async fn pause(&self, failures: u32) {
        self.pause_by(&BACKOFF, failures).await;
    }

    /// The same, by another policy.
    pub(super) async fn pause_by(&self, policy: &RetryPolicy, failures: u32) {
        self.google.clock().sleep(policy.delay(failures)).await;
    }

    /// Opens a pending stream of a table, `projects/p/datasets/d/tables/t`; its name.
    pub(in super::super) async fn create_pending(
        &self,
        parent: &str,
        table: &str,
    ) -> Result<String> {
        let stream = self
            .create(parent, table, proto::write_stream::Type::Pending)
            .await?;
        Ok(stream.name)
    }

    /// Opens a stream of a table, waiting for a table just created to be known.
    pub(in super::super) async fn create(
        &self,
        parent: &str,
        table: &str,
        kind: proto::write_stream::Type,
    ) -> Result<proto::WriteStream> {
        let what = || format!("open a write stream of `{table}`");
        let mut failures = 0;
        loop {
            let request = proto::CreateWriteStreamRequest {
                parent: parent.to_owned(),
                write_stream: Some(proto::WriteStream {
                    r#type: kind.into(),
                    ..Default::default()
                }),
            };
            let route = format!("parent={parent}");
            let status = match self.request(request, &route).await {
                Err(e) => return Err(e),
                Ok(request) => {
                    let mut grpc = self.grpc.clone();
                    match timed(grpc.create_write_stream(request)).await {
                        Ok(answer) => return Ok(answer.into_inner()),
                        Err(status) => status,
                    }
                }
            };
            failures += 1;
            // A table is known to the write API a while after it is created.
            let unknown_yet = status.code() == Code::NotFound && failures < NOT_FOUND_ATTEMPTS;
            if !unknown_yet {
                self.retry_or_fail(&status, failures, what).await?;
            } else {
                self.pause(failures).await;
            }
        }
    }

    /// Opens the connection of a stream. The service answers when it has the first request.
    pub(super) async fn append(
        &self,
        stream: &str,
        requests: mpsc::Receiver<proto::AppendRowsRequest>,
    ) -> Result<Streaming<proto::AppendRowsResponse>, Status> {
        let route = format!("write_stream={stream}");
        let request = self
            .request(requests, &route)
            .await
            .map_err(|e| status_of(&e))?;
        let mut grpc = self.grpc.clone();
        Ok(timed(grpc.append_rows(request)).await?.into_inner())
    }

    /// Ends a stream; the number of its rows. Repeating is harmless.
    pub(in super::super) async fn finalize(&self, stream: &str, table: &str) -> Result<i64> {
        let what = || format!("end the write stream of `{table}`");
        let mut failures = 0;
        loop {
            let status = match self.try_finalize(stream).await? {
                Ok(rows) => return Ok(rows),
                Err(status) => status,
            };
            failures += 1;
            self.retry_or_fail(&status, failures, what).await?;
        }
    }

    /// Ends the stream of a dead run, so that nobody adds to it any more. One that is gone is fine.
    pub(in super::super) async fn end(&self, stream: &str, table: &str) -> Result<()> {
        let what = || format!("end the write stream that a dead run left of `{table}`");
        let mut failures = 0;
        loop {
            match self.try_finalize(stream).await? {
                Ok(_) => return Ok(()),
                // The name is one that the service gave: it can only be too old.
                Err(s) if matches!(s.code(), Code::NotFound | Code::InvalidArgument) => {
                    return Ok(());
                }
                Err(status) => {
                    failures += 1;
                    self.retry_or_fail(&status, failures, what).await?;
                }
            }
        }
    }

    async fn try_finalize(&self, stream: &str) -> Result<Result<i64, Status>> {
        let name = stream.to_owned();
        let message = proto::FinalizeWriteStreamRequest { name };
        let request = self.request(message, &format!("name={stream}")).await?;
        let mut grpc = self.grpc.clone();
        let answer = timed(grpc.finalize_write_stream(request)).await;
        Ok(answer.map(|a| a.into_inner().row_count))
    }

    /// Makes the rows of a table's ended streams readable, all at once. Repeating after a lost answer
    /// is harmless.
    pub(in super::super) async fn commit(
        &self,
        parent: &str,
        streams: &[String],
        table: &str,
    ) -> Result<()> {
        let what = || format!("commit what was written to `{table}`");
        let mut failures = 0;
        loop {
            let request = self
                .request(
                    proto::BatchCommitWriteStreamsRequest {
                        parent: parent.to_owned(),
                        write_streams: streams.to_vec(),
                    },
                    &format!("parent={parent}"),
                )
                .await?;
            let mut grpc = self.grpc.clone();
            match timed(grpc.batch_commit_write_streams(request)).await {
                // An OK answer has committed only if it says when.
                Ok(answer) => {
                    let answer = answer.into_inner();
                    let codes: Vec<proto::storage_error::StorageErrorCode> =
                        answer.stream_errors.iter().map(|e| e.code()).collect();
                    let before = failures > 0
                        && codes.iter().all(|c| {
                            *c == proto::storage_error::StorageErrorCode::StreamAlreadyCommitted
                        })
                        && !codes.is_empty();
                    if answer.commit_time.is_some() || before {
                        return Ok(());
                    }
                    // A lost answer of an emulator shows as a stream in the wrong state.
                    if failures > 0 && self.are_committed(streams, what).await? {
                        return Ok(());
                    }
                    let names: Vec<&str> = codes.iter().map(|c| c.as_str_name()).collect();
                    return Err(Error::destination(format!(
                        "could not {}: nothing was committed ({})",
                        what(),
                        names.join(", ")
                    )));
                }
                Err(status) => {
                    failures += 1;
                    self.retry_or_fail(&status, failures, what).await?;
                }
            }
        }
    }

    async fn are_committed(&self, streams: &[String], what: impl Fn() -> String) -> Result<bool> {
        for stream in streams {
            let request = self
                .request(
                    proto::GetWriteStreamRequest {
                        name: stream.clone(),
                        ..Default::default()
                    },
                    &format!("name={stream}"),
                )
                .await?;
            let mut grpc = self.grpc.clone();
            match timed(grpc.get_write_stream(request)).await {
                Ok(stream) if stream.get_ref().commit_time.is_some() => {}
                Ok(_) => return Ok(false),
                Err(status) => return Err(explain(&status, what())),
            }
        }
        Ok(true)
    }

    async fn retry_or_fail(
        &self,
        status: &Status,
        failures: u32,
        what: impl Fn() -> String,
    ) -> Result<()> {
        if !may_pass(status.code()) || failures >= ATTEMPTS {
            return Err(explain(status, what()));
        }
        if status.code() == Code::Unauthenticated {
            self.renew_credentials().await;
        }
        self.pause_by(patience(status.code()), failures).await;
        Ok(())
    }

    /// A request with credentials, and the route by which the service finds the region.
    async fn request<T>(&self, message: T, route: &str) -> Result<Request<T>> {
        let mut request = Request::new(message);
        let headers = self
            .google
            .headers(&self.google.settings().bigquery_storage)
            .await?;
        for entry in MetadataMap::from_headers(headers).iter() {
            if let KeyAndValueRef::Ascii(name, value) = entry {
                request.metadata_mut().insert(name, value.clone());
            }
        }
        if let Ok(value) = MetadataValue::try_from(route.replace('/', "%2F")) {
            request
                .metadata_mut()
                .insert("x-goog-request-params", value);
        }
        Ok(request)
    }
}

async fn timed<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(CALL_PATIENCE, call)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer came in time")))
}

/// How to wait before another attempt after that code.
pub(super) fn patience(code: Code) -> &'static RetryPolicy {
    match code {
        Code::ResourceExhausted => &CROWDED,
        _ => &BACKOFF,
    }
}

/// Whether the same call may succeed later.
pub(super) fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Internal
            | Code::Aborted
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Unknown
            | Code::Unauthenticated
    )
}

/// Whether an append was refused because the table has no such column, so far as its server knows.
pub(super) fn lacks_columns(error: &gcloud_sdk::google::rpc::Status) -> bool {
    error
        .details
        .iter()
        .filter(|d| {
            d.type_url
                .ends_with("/google.cloud.bigquery.storage.v1.StorageError")
        })
        .filter_map(|d| proto::StorageError::decode(d.value.as_slice()).ok())
        .any(|e| e.code() == proto::storage_error::StorageErrorCode::SchemaMismatchExtraFields)
}

/// A status as the crate's error.
pub(super) fn explain(status: &Status, what: String) -> Error {
    let code = status.code();
    let kind = match code {
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Auth,
        code if may_pass(code) => ErrorKind::Unavailable,
        _ => ErrorKind::Destination,
    };
    let error = Error::new(
        kind,
        format!("could not {what}: {code:?}: {}", tidy(status.message())),
    );
    match code {
        Code::PermissionDenied => error
            .hint("grant `roles/bigquery.dataEditor` on the dataset to the account in use (it needs `bigquery.tables.updateData`)"),
        Code::Unauthenticated => {
            error.hint("the credentials were refused: run `gcloud auth application-default login` again, or check the service account's key")
        }
        _ => error,
    }
}

fn status_of(error: &Error) -> Status {
    let code = if error.is_transient() {
        Code::Unavailable
    } else {
        Code::PermissionDenied
    };
    Status::new(code, error.chain())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gcloud_sdk::prost_types::Any;
    use proto::storage_error::StorageErrorCode;

    #[test]
    fn a_column_that_is_not_known_yet_is_told_by_its_code() {
        let of = |code: StorageErrorCode| gcloud_sdk::google::rpc::Status {
            code: Code::InvalidArgument.into(),
            message: "Input schema has more fields than BigQuery schema".into(),
            details: vec![Any {
                type_url: "type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError"
                    .into(),
                value: proto::StorageError {
                    code: code.into(),
                    ..Default::default()
                }
                .encode_to_vec(),
            }],
        };
        assert!(lacks_columns(&of(
            StorageErrorCode::SchemaMismatchExtraFields
        )));
        assert!(!lacks_columns(&of(StorageErrorCode::OffsetOutOfRange)));
        assert!(!lacks_columns(&Default::default()));
    }
}
