//! The Storage Write API: every request is acknowledged with its offset.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use gcloud_sdk::google::cloud::bigquery::storage::v1 as proto;
use gcloud_sdk::prost::Message;
use gcloud_sdk::prost_types::Timestamp;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use proto::append_rows_request::Rows;
use proto::append_rows_response::{AppendResult, Response as Outcome};

use super::Taken;

/// Rows of each stream so far.
type Streams = Arc<Mutex<HashMap<String, i64>>>;

pub async fn serve(listener: tokio::net::TcpListener, taken: Arc<Taken>) {
    let (streams, names) = (Streams::default(), Arc::new(AtomicU64::new(0)));
    loop {
        let (socket, _) = listener.accept().await.expect("a client");
        let (taken, streams, names) = (taken.clone(), streams.clone(), names.clone());
        tokio::spawn(async move {
            let mut builder = h2::server::Builder::new();
            builder
                .initial_window_size(32 << 20)
                .initial_connection_window_size(64 << 20);
            let mut calls = builder.handshake::<_, Bytes>(socket).await.expect("HTTP/2");
            while let Some(Ok((request, answer))) = calls.accept().await {
                let call = Call {
                    taken: taken.clone(),
                    streams: streams.clone(),
                    names: names.clone(),
                };
                // A client that has gone is none of this program's business.
                tokio::spawn(async move { call.answer(request, answer).await });
            }
        });
    }
}

struct Call {
    taken: Arc<Taken>,
    streams: Streams,
    names: Arc<AtomicU64>,
}

impl Call {
    async fn answer(
        self,
        request: Request<RecvStream>,
        mut answer: SendResponse<Bytes>,
    ) -> Result<(), h2::Error> {
        let method = request
            .uri()
            .path()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let mut requests = Frames {
            body: request.into_body(),
            unread: BytesMut::new(),
        };
        let opening = Response::builder().header("content-type", "application/grpc");
        let mut to = answer.send_response(opening.body(()).expect("a response"), false)?;
        let mut stream = String::new();
        while let Some(frame) = requests.next().await? {
            let message = match method.as_str() {
                "AppendRows" => self.append(&mut stream, frame),
                "CreateWriteStream" => {
                    let number = self.names.fetch_add(1, Ordering::SeqCst);
                    let asked = proto::CreateWriteStreamRequest::decode(frame);
                    let parent = asked.expect("a request").parent;
                    let name = format!("{parent}/streams/{number}");
                    self.streams().insert(name.clone(), 0);
                    proto::WriteStream {
                        name,
                        ..Default::default()
                    }
                    .encode_to_vec()
                }
                "FinalizeWriteStream" => {
                    let asked = proto::FinalizeWriteStreamRequest::decode(frame);
                    let name = asked.expect("a request").name;
                    let row_count = self.streams().remove(&name).unwrap_or_default();
                    proto::FinalizeWriteStreamResponse { row_count }.encode_to_vec()
                }
                "BatchCommitWriteStreams" => proto::BatchCommitWriteStreamsResponse {
                    commit_time: Some(Timestamp {
                        seconds: 1,
                        nanos: 0,
                    }),
                    ..Default::default()
                }
                .encode_to_vec(),
                other => unreachable!("nobody calls {other}"),
            };
            to.send_data(framed(&message), false)?;
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", 0.into());
        to.send_trailers(trailers)
    }

    fn append(&self, stream: &mut String, frame: Bytes) -> Vec<u8> {
        let request = proto::AppendRowsRequest::decode(frame).expect("a request");
        if !request.write_stream.is_empty() {
            *stream = request.write_stream;
        }
        let Some(Rows::ArrowRows(arrow)) = request.rows else {
            unreachable!("rows are sent as Arrow");
        };
        let batch = arrow.rows.expect("a batch").serialized_record_batch;
        // Behind the marker and the length of the metadata, as Arrow's stream format has it.
        let header = arrow_ipc::root_as_message(&batch[8..]).expect("a batch's header");
        let rows = header.header_as_record_batch().expect("a batch").length();
        let mut streams = self.streams();
        let so_far = streams.entry(stream.clone()).or_default();
        let at = *so_far;
        *so_far += rows;
        self.taken
            .rows
            .fetch_add(rows.unsigned_abs(), Ordering::SeqCst);
        proto::AppendRowsResponse {
            response: Some(Outcome::AppendResult(AppendResult { offset: Some(at) })),
            ..Default::default()
        }
        .encode_to_vec()
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, HashMap<String, i64>> {
        self.streams.lock().expect("nobody panicked")
    }
}

/// The messages in a body.
struct Frames {
    body: RecvStream,
    unread: BytesMut,
}

impl Frames {
    async fn next(&mut self) -> Result<Option<Bytes>, h2::Error> {
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
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a short message"));
    frame.extend_from_slice(message);
    frame.freeze()
}
