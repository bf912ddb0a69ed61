//! The gRPC channel to the Storage Write API, its calls, and what its status codes mean.

use std::time::Duration;

use futures::channel::mpsc;
use gcloud_sdk::google::cloud::bigquery::storage::v1 as proto;
use gcloud_sdk::tonic::metadata::{KeyAndValueRef, MetadataMap, MetadataValue};
use gcloud_sdk::tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use gcloud_sdk::tonic::{Code, Request, Status, Streaming};
use proto::big_query_write_client::BigQueryWriteClient;

use crate::error::{Error, ErrorKind, Result};
use crate::google::{Google, RetryPolicy, USER_AGENT, tidy};

/// Attempts of a call that is no append.
const ATTEMPTS: u32 = 8;

/// How long a table that was just created may be unknown to the service.
const NOT_FOUND_ATTEMPTS: u32 = 12;

/// Time for one call that is no append.
const CALL_PATIENCE: Duration = Duration::from_secs(120);

/// Waits between attempts.
const BACKOFF: RetryPolicy = RetryPolicy {
    attempts: ATTEMPTS,
    first_delay: Duration::from_millis(250),
    longest_delay: Duration::from_secs(20),
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
                .tls_config(ClientTlsConfig::new().with_webpki_roots())
                .map_err(bad)?;
        }
        let grpc = BigQueryWriteClient::new(endpoint.connect_lazy())
            .max_encoding_message_size(request_limit + (1 << 20));
        Ok(Self { google, grpc })
    }

    pub(super) async fn renew_credentials(&self) {
        self.google.renew_credentials().await;
    }

    /// Waits after the `failures`-th failure in a row.
    pub(super) async fn pause(&self, failures: u32) {
        self.google.clock().sleep(BACKOFF.delay(failures)).await;
    }

    /// Opens a pending stream of a table; its name.
    pub(in super::super) async fn create_pending(
        &self,
        project: &str,
        dataset: &str,
        table: &str,
    ) -> Result<String> {
        let parent = format!("projects/{project}/datasets/{dataset}/tables/{table}");
        let what = || format!("open a write stream of `{project}.{dataset}.{table}`");
        let mut failures = 0;
        loop {
            let request = proto::CreateWriteStreamRequest {
                parent: parent.clone(),
                write_stream: Some(proto::WriteStream {
                    r#type: proto::write_stream::Type::Pending.into(),
                    ..Default::default()
                }),
            };
            let route = format!("parent={parent}");
            let status = match self.request(request, &route).await {
                Err(e) => return Err(e),
                Ok(request) => {
                    let mut grpc = self.grpc.clone();
                    match timed(grpc.create_write_stream(request)).await {
                        Ok(answer) => return Ok(answer.into_inner().name),
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
        requests: mpsc::UnboundedReceiver<proto::AppendRowsRequest>,
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
            let request = self
                .request(
                    proto::FinalizeWriteStreamRequest {
                        name: stream.to_owned(),
                    },
                    &format!("name={stream}"),
                )
                .await?;
            let mut grpc = self.grpc.clone();
            match timed(grpc.finalize_write_stream(request)).await {
                Ok(answer) => return Ok(answer.into_inner().row_count),
                Err(status) => {
                    failures += 1;
                    self.retry_or_fail(&status, failures, what).await?;
                }
            }
        }
    }

    /// Makes an ended stream's rows readable. Repeating after a lost answer is harmless.
    pub(in super::super) async fn commit(&self, stream: &str, table: &str) -> Result<()> {
        let what = || format!("commit the write stream of `{table}`");
        // A stream belongs to a table: `projects/p/datasets/d/tables/t/streams/s`.
        let parent = stream.split("/streams/").next().unwrap_or(stream);
        let mut failures = 0;
        loop {
            let request = self
                .request(
                    proto::BatchCommitWriteStreamsRequest {
                        parent: parent.to_owned(),
                        write_streams: vec![stream.to_owned()],
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
                    if failures > 0 && self.is_committed(stream).await? {
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

    async fn is_committed(&self, stream: &str) -> Result<bool> {
        let request = self
            .request(
                proto::GetWriteStreamRequest {
                    name: stream.to_owned(),
                    ..Default::default()
                },
                &format!("name={stream}"),
            )
            .await?;
        let mut grpc = self.grpc.clone();
        let answer = timed(grpc.get_write_stream(request)).await;
        Ok(answer.is_ok_and(|a| a.into_inner().commit_time.is_some()))
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
        self.pause(failures).await;
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
