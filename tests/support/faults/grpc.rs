//! A proxy for the Storage Write API, which knows its calls and the requests inside of an AppendRows.
//!
//! It also holds the lines that the emulator does not: requests of at most 20 MB, the stream's name and
//! the schema in the first request of a connection, the header that finds the region.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_array::Int64Array;
use arrow_ipc::reader::StreamReader;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use gcloud_sdk::google::cloud::bigquery::storage::v1 as proto;
use gcloud_sdk::google::rpc;
use gcloud_sdk::prost::Message;
use gcloud_sdk::prost_types::Any;
use gcloud_sdk::tonic::Code;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use proto::append_rows_request::Rows;
use proto::append_rows_response;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::support::binary::moment;

/// Largest AppendRows request that BigQuery takes.
const LARGEST: usize = 20_000_000;

/// A call of the service; of AppendRows each request counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    Create,
    Append,
    Get,
    Finalize,
    Commit,
}

impl Call {
    fn of(path: &str) -> Option<Self> {
        let (service, method) = path.rsplit_once('/')?;
        if service != "/google.cloud.bigquery.storage.v1.BigQueryWrite" {
            return None;
        }
        Some(match method {
            "CreateWriteStream" => Self::Create,
            "AppendRows" => Self::Append,
            "GetWriteStream" => Self::Get,
            "FinalizeWriteStream" => Self::Finalize,
            "BatchCommitWriteStreams" => Self::Commit,
            _ => return None,
        })
    }
}

/// What happens to one call, or one request of an AppendRows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The call ends with this status, and it does not arrive.
    Refuse(Code),
    /// The connection is cut before it arrives.
    Cut,
    /// It arrives, and the connection is cut instead of the answer.
    LoseAnswer,
    /// It arrives, and the answer takes its time.
    Slow(Duration),
    /// AppendRows: an error inside of the answer; it does not arrive, the call goes on.
    Within(Code),
    /// AppendRows: an error inside of the answer, which says that the table lacks columns of the rows; it
    /// does not arrive, the call goes on.
    ExtraFields,
    /// CreateWriteStream: it arrives, and the answer has the first column of the table only, as the service
    /// knew it before the others were added.
    OldSchema,
    /// AppendRows: the call is ended well, as an idle one; it does not arrive.
    End,
    /// BatchCommitWriteStreams: well, but nothing is committed; it does not arrive.
    NotCommitted,
    /// Nothing more happens until it is let go; it has not arrived…
    HoldBefore,
    /// …or it has.
    HoldAfter,
}

struct Rule {
    call: Call,
    /// How many more of these calls go by before.
    skip: usize,
    fault: Fault,
}

#[derive(Default)]
struct Shared {
    rules: Mutex<Vec<Rule>>,
    counts: Mutex<HashMap<Call, usize>>,
    held: AtomicUsize,
    go: Notify,
    bad_rows: Mutex<BTreeSet<i64>>,
    largest: Mutex<Option<usize>>,
    complaints: Mutex<Vec<String>>,
}

/// The proxy.
pub struct GrpcProxy {
    /// `host:port` for clients.
    pub address: String,
    shared: Arc<Shared>,
}

impl GrpcProxy {
    /// A proxy to `upstream` (`host:port`).
    pub async fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared::default());
        let (upstream, of_task) = (upstream.to_owned(), shared.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, upstream.clone(), of_task.clone()));
            }
        });
        Self { address, shared }
    }

    /// Plays `fault` on the `nth` (from 1) such call from now on, once.
    pub fn on(&self, call: Call, nth: usize, fault: Fault) -> &Self {
        let skip = nth - 1;
        let mut rules = self.shared.rules.lock().unwrap();
        rules.push(Rule { call, skip, fault });
        self
    }

    /// Refuses, from now on, rows with these numbers in their column `id`, as BigQuery refuses rows.
    pub fn refuse_rows(&self, ids: impl IntoIterator<Item = i64>) {
        *self.shared.bad_rows.lock().unwrap() = ids.into_iter().collect();
    }

    /// Takes no larger requests than that.
    pub fn at_most(&self, bytes: usize) {
        *self.shared.largest.lock().unwrap() = Some(bytes);
    }

    /// Faults that no call has met yet.
    pub fn left(&self) -> usize {
        self.shared.rules.lock().unwrap().len()
    }

    /// Forgets faults that no call has met.
    pub fn clear(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// Calls held so far.
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::SeqCst)
    }

    /// Lets go of the calls that are held.
    pub fn release(&self) {
        self.shared.go.notify_waiters();
    }

    /// Such calls so far.
    pub fn count(&self, call: Call) -> usize {
        *self.shared.counts.lock().unwrap().get(&call).unwrap_or(&0)
    }

    /// What BigQuery would not have put up with.
    pub fn complaints(&self) -> Vec<String> {
        self.shared.complaints.lock().unwrap().clone()
    }
}

impl Shared {
    fn meet(&self, call: Call) -> Option<Fault> {
        *self.counts.lock().unwrap().entry(call).or_default() += 1;
        let mut rules = self.rules.lock().unwrap();
        let at = rules.iter().position(|r| r.call == call && r.skip == 0);
        for rule in rules.iter_mut().filter(|r| r.call == call) {
            rule.skip = rule.skip.saturating_sub(1);
        }
        at.map(|at| rules.remove(at).fault)
    }

    async fn hold(&self) {
        let go = self.go.notified();
        self.held.fetch_add(1, Ordering::SeqCst);
        go.await;
    }

    fn complain(&self, what: String) {
        self.complaints.lock().unwrap().push(what);
    }
}

/// Ends a call: nobody listens any more, which is for the client to see.
type Gone<T> = Result<T, h2::Error>;

async fn connection(client: TcpStream, upstream: String, shared: Arc<Shared>) {
    let _ = client.set_zero_linger();
    let cut = CancellationToken::new();
    let Ok(server) = TcpStream::connect(&upstream).await else {
        return;
    };
    let (server, driver) = h2::client::Builder::new()
        .initial_window_size(64 << 20)
        .handshake::<_, Bytes>(server)
        .await
        .unwrap();
    let driver = tokio::spawn(driver);
    let mut calls = h2::server::Builder::new()
        .initial_window_size(64 << 20)
        .initial_connection_window_size(256 << 20)
        .handshake::<_, Bytes>(client)
        .await
        .unwrap();
    loop {
        let call = tokio::select! {
            call = calls.accept() => call,
            () = cut.cancelled() => break,
        };
        let Some(Ok((request, answer))) = call else {
            break;
        };
        let call = OneCall {
            shared: shared.clone(),
            server: server.clone(),
            upstream: upstream.clone(),
            cut: cut.clone(),
        };
        let (cut, upstream) = (cut.clone(), driver.abort_handle());
        tokio::spawn(async move {
            // Where the server has gone, so does the proxy; what else breaks is the client's doing.
            if call.relay(request, answer).await.is_err() && upstream.is_finished() {
                cut.cancel();
            }
        });
    }
    driver.abort();
}

struct OneCall {
    shared: Arc<Shared>,
    server: h2::client::SendRequest<Bytes>,
    upstream: String,
    cut: CancellationToken,
}

impl OneCall {
    async fn relay(self, request: Request<RecvStream>, answer: SendResponse<Bytes>) -> Gone<()> {
        let (parts, body) = request.into_parts();
        let mut onward = Request::builder()
            .method(parts.method)
            .uri(format!("http://{}{}", self.upstream, parts.uri.path()))
            .body(())
            .unwrap();
        *onward.headers_mut() = parts.headers;
        let route = onward.headers().get("x-goog-request-params");
        if route.is_none_or(|r| !r.to_str().unwrap().contains("projects%2F")) {
            self.shared
                .complain(format!("{} without its route", parts.uri.path()));
        }
        match Call::of(parts.uri.path()) {
            Some(Call::Append) => self.append(onward, body, answer).await,
            Some(call) => self.unary(call, onward, body, answer).await,
            None => panic!("nobody calls {}", parts.uri.path()),
        }
    }

    async fn unary(
        mut self,
        call: Call,
        onward: Request<()>,
        body: RecvStream,
        mut answer: SendResponse<Bytes>,
    ) -> Gone<()> {
        let fault = self.shared.meet(call);
        let request = whole(body).await?.0;
        match fault {
            Some(Fault::Refuse(code)) => return refuse(&mut answer, code),
            Some(Fault::Cut) => return self.cut(),
            Some(Fault::HoldBefore) => self.shared.hold().await,
            Some(Fault::NotCommitted) => {
                let nothing = proto::BatchCommitWriteStreamsResponse {
                    commit_time: None,
                    stream_errors: vec![proto::StorageError {
                        code: proto::storage_error::StorageErrorCode::InvalidStreamState.into(),
                        ..Default::default()
                    }],
                };
                let mut to = answer.send_response(opening(), false)?;
                to.send_data(framed(&nothing.encode_to_vec()), false)?;
                return to.send_trailers(status(Code::Ok));
            }
            _ => {}
        }
        let (response, mut to) = self.server.send_request(onward, false)?;
        to.send_data(request, true)?;
        let (parts, body) = response.await?.into_parts();
        let (mut bytes, trailers) = whole(body).await?;
        match fault {
            Some(Fault::OldSchema) => bytes = with_old_schema(&bytes),
            Some(Fault::LoseAnswer) => return self.cut(),
            Some(Fault::HoldAfter) => self.shared.hold().await,
            Some(Fault::Slow(time)) => moment(time).await,
            _ => {}
        }
        let Some(trailers) = trailers else {
            answer.send_response(Response::from_parts(parts, ()), true)?;
            return Ok(());
        };
        let mut to = answer.send_response(Response::from_parts(parts, ()), false)?;
        to.send_data(bytes, false)?;
        to.send_trailers(trailers)
    }

    /// One request after the other, each with its answer.
    async fn append(
        mut self,
        onward: Request<()>,
        body: RecvStream,
        mut answer: SendResponse<Bytes>,
    ) -> Gone<()> {
        let (response, mut to_server) = self.server.send_request(onward, false)?;
        let mut requests = Frames::new(body);
        let mut response = Some(response);
        let mut answers: Option<Frames> = None;
        let mut to_client: Option<SendStream<Bytes>> = None;
        let mut first: Option<First> = None;
        while let Some(frame) = requests.next().await? {
            if to_client.is_none() {
                to_client = Some(answer.send_response(opening(), false)?);
            }
            let Some(to_client) = &mut to_client else {
                return Ok(());
            };
            let fault = self.shared.meet(Call::Append);
            let refused = self.look_at(&frame, &mut first);
            match fault {
                Some(Fault::Refuse(code)) => return to_client.send_trailers(status(code)),
                Some(Fault::End) => return to_client.send_trailers(status(Code::Ok)),
                Some(Fault::Cut) => return self.cut(),
                Some(Fault::HoldBefore) => self.shared.hold().await,
                Some(Fault::Within(code)) => {
                    to_client.send_data(error_within(code, Vec::new()), false)?;
                    continue;
                }
                Some(Fault::ExtraFields) => {
                    to_client.send_data(extra_fields(), false)?;
                    continue;
                }
                _ => {}
            }
            let most = self.shared.largest.lock().unwrap().unwrap_or(LARGEST);
            if frame.len() > most {
                return to_client.send_trailers(status(Code::InvalidArgument));
            }
            if !refused.is_empty() {
                to_client.send_data(error_within(Code::InvalidArgument, refused), false)?;
                continue;
            }
            match (&response, &first) {
                // What was refused here says what the others of its connection are about.
                (Some(_), Some(first)) => to_server.send_data(first.begin(&frame), false)?,
                _ => to_server.send_data(framed(&frame), false)?,
            }
            if let Some(response) = response.take() {
                let (parts, body) = response.await?.into_parts();
                if parts.headers.contains_key("grpc-status") {
                    return to_client.send_trailers(parts.headers);
                }
                answers = Some(Frames::new(body));
            }
            let Some(answers) = &mut answers else {
                return Ok(());
            };
            let Some(frame) = answers.next().await? else {
                return to_client.send_trailers(answers.trailers().await?);
            };
            match fault {
                Some(Fault::LoseAnswer) => return self.cut(),
                Some(Fault::HoldAfter) => self.shared.hold().await,
                Some(Fault::Slow(time)) => moment(time).await,
                _ => {}
            }
            to_client.send_data(framed(&frame), false)?;
        }
        to_server.send_data(Bytes::new(), true)?;
        match &mut to_client {
            Some(to_client) => to_client.send_trailers(status(Code::Ok)),
            None => refuse(&mut answer, Code::Ok),
        }
    }

    /// The rows that are to be refused; complains about what BigQuery would not put up with.
    fn look_at(&self, frame: &[u8], first: &mut Option<First>) -> Vec<proto::RowError> {
        let request = proto::AppendRowsRequest::decode(frame).unwrap();
        let Some(Rows::ArrowRows(arrow)) = request.rows else {
            panic!("rows are sent as Arrow");
        };
        let first = first.get_or_insert_with(|| {
            if request.write_stream.is_empty() || arrow.writer_schema.is_none() {
                self.shared
                    .complain("a connection's first request does not say what it is about".into());
            }
            First {
                stream: request.write_stream,
                schema: arrow.writer_schema.unwrap_or_default(),
            }
        });
        let bad = self.shared.bad_rows.lock().unwrap();
        if bad.is_empty() {
            return Vec::new();
        }
        let schema = Bytes::from(first.schema.serialized_schema.clone());
        let batch = arrow.rows.unwrap().serialized_record_batch;
        let stream = schema.chain(batch.as_slice()).reader();
        let batch = StreamReader::try_new(stream, None)
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let Some(ids) = batch.column_by_name("id") else {
            return Vec::new();
        };
        let ids: &Int64Array = ids.as_any().downcast_ref().unwrap();
        ids.iter()
            .zip(0..)
            .filter(|(id, _)| id.is_some_and(|id| bad.contains(&id)))
            .map(|(id, index)| proto::RowError {
                index,
                code: proto::row_error::RowErrorCode::FieldsError.into(),
                message: format!("Field id: value {} is too odd", id.unwrap()),
            })
            .collect()
    }

    fn cut(&self) -> Gone<()> {
        self.cut.cancel();
        Ok(())
    }
}

/// What the first request of a connection says of all that follow.
struct First {
    stream: String,
    schema: proto::ArrowSchema,
}

impl First {
    /// A request as the first of a connection, framed.
    fn begin(&self, frame: &[u8]) -> Bytes {
        let mut request = proto::AppendRowsRequest::decode(frame).unwrap();
        request.write_stream.clone_from(&self.stream);
        if let Some(Rows::ArrowRows(arrow)) = &mut request.rows {
            arrow.writer_schema = Some(self.schema.clone());
        }
        framed(&request.encode_to_vec())
    }
}

/// The messages in a body.
struct Frames {
    body: RecvStream,
    unread: BytesMut,
}

impl Frames {
    fn new(body: RecvStream) -> Self {
        Self {
            body,
            unread: BytesMut::new(),
        }
    }

    async fn next(&mut self) -> Gone<Option<Bytes>> {
        loop {
            if let Some(head) = self.unread.first_chunk::<5>() {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if self.unread.len() >= 5 + length {
                    self.unread.advance(5);
                    return Ok(Some(self.unread.split_to(length).freeze()));
                }
            }
            match self.body.data().await.transpose()? {
                Some(more) => {
                    self.body.flow_control().release_capacity(more.len())?;
                    self.unread.extend_from_slice(&more);
                }
                None => return Ok(None),
            }
        }
    }

    async fn trailers(&mut self) -> Gone<HeaderMap> {
        Ok(self
            .body
            .trailers()
            .await?
            .unwrap_or_else(|| status(Code::Unknown)))
    }
}

async fn whole(mut body: RecvStream) -> Gone<(Bytes, Option<HeaderMap>)> {
    let mut bytes = BytesMut::new();
    while let Some(more) = body.data().await.transpose()? {
        body.flow_control().release_capacity(more.len())?;
        bytes.extend_from_slice(&more);
    }
    Ok((bytes.freeze(), body.trailers().await?))
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.extend_from_slice(message);
    frame.freeze()
}

fn opening() -> Response<()> {
    Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

fn status(code: Code) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", (code as i32).into());
    headers
}

fn refuse(answer: &mut SendResponse<Bytes>, code: Code) -> Gone<()> {
    let mut response = opening();
    response.headers_mut().extend(status(code));
    answer.send_response(response, true).map(drop)
}

fn error_within(code: Code, row_errors: Vec<proto::RowError>) -> Bytes {
    let error = rpc::Status {
        code: code as i32,
        message: "so it is".into(),
        ..Default::default()
    };
    answer_within(error, row_errors)
}

fn answer_within(error: rpc::Status, row_errors: Vec<proto::RowError>) -> Bytes {
    let answer = proto::AppendRowsResponse {
        response: Some(append_rows_response::Response::Error(error)),
        row_errors,
        ..Default::default()
    };
    framed(&answer.encode_to_vec())
}

/// INVALID_ARGUMENT, of which only the details say that it may pass.
fn extra_fields() -> Bytes {
    let detail = proto::StorageError {
        code: proto::storage_error::StorageErrorCode::SchemaMismatchExtraFields.into(),
        ..Default::default()
    };
    let error = rpc::Status {
        code: Code::InvalidArgument as i32,
        message: "so it is".into(),
        details: vec![Any {
            type_url: "type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError".into(),
            value: detail.encode_to_vec(),
        }],
    };
    answer_within(error, Vec::new())
}

/// A framed WriteStream, with one column only.
fn with_old_schema(frame: &[u8]) -> Bytes {
    let mut stream = proto::WriteStream::decode(&frame[5..]).unwrap();
    let first = proto::TableFieldSchema {
        name: "id".into(),
        r#type: proto::table_field_schema::Type::Int64.into(),
        mode: proto::table_field_schema::Mode::Required.into(),
        ..Default::default()
    };
    stream.table_schema = Some(proto::TableSchema {
        fields: vec![first],
    });
    framed(&stream.encode_to_vec())
}
