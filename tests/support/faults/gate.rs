//! A proxy for BigQuery's REST surface that knows the calls of a slice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;

use crate::support::binary::moment;
use crate::support::emulator::PROJECT;

/// A call of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `tables.insert` of a staging table.
    CreateStaging,
    /// `tables.delete` of a staging table.
    DropStaging,
    /// `jobs.insert` of the transaction that publishes.
    Publish,
    /// `jobs.get` of the transaction that publishes.
    Job,
    /// `jobs.getQueryResults` of the transaction that publishes.
    Results,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 503 with a page for people, and it does not arrive.
    Refuse,
    /// The connection is cut before it arrives.
    Cut,
    /// It arrives, a job is done, and the connection is cut in the middle of the answer.
    LoseAnswer,
    /// Nothing more happens, ever; it has not arrived…
    HoldBefore,
    /// …or it has.
    HoldAfter,
}

#[derive(Default)]
struct Shared {
    upstream: String,
    client: reqwest::Client,
    rules: Mutex<Vec<(Call, Fault)>>,
    /// The job that publishes, once it was inserted.
    publish: Mutex<String>,
    held: AtomicUsize,
}

/// The proxy.
pub struct RestGate {
    /// Root for clients.
    pub url: String,
    shared: Arc<Shared>,
}

impl RestGate {
    /// A proxy to `upstream`.
    pub async fn start(upstream: &str) -> Self {
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            ..Shared::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new()
            .fallback(forward)
            .with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, shared }
    }

    /// Plays `fault` on the next such call, once.
    pub fn on(&self, call: Call, fault: Fault) {
        self.shared.rules.lock().unwrap().push((call, fault));
    }

    /// Faults that no call has met yet.
    pub fn left(&self) -> usize {
        self.shared.rules.lock().unwrap().len()
    }

    /// Forgets faults that no call has met.
    pub fn clear(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// Calls held for ever.
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn call(&self, method: &Method, path: &str, body: &[u8]) -> Option<Call> {
        let body = std::str::from_utf8(body).unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        let staging = "_drawoff_stage_";
        match *method {
            Method::POST if last == "tables" && body.contains(staging) => Some(Call::CreateStaging),
            Method::DELETE if last.starts_with(staging) => Some(Call::DropStaging),
            Method::POST if last == "jobs" && body.contains("COMMIT TRANSACTION") => {
                let body: serde_json::Value = serde_json::from_str(body).unwrap();
                let id = body["jobReference"]["jobId"].as_str().unwrap();
                *self.publish.lock().unwrap() = id.to_owned();
                Some(Call::Publish)
            }
            Method::GET if last == *self.publish.lock().unwrap() => {
                match path.contains("/queries/") {
                    true => Some(Call::Results),
                    false => Some(Call::Job),
                }
            }
            _ => None,
        }
    }

    fn meet(&self, call: Call) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        let at = rules.iter().position(|r| r.0 == call)?;
        Some(rules.remove(at).1)
    }

    /// Waits for the end of the job that publishes: what was inserted and not answered may else be done
    /// at any later time, which a test cannot tell from never.
    async fn publish_ended(&self) {
        let id = self.publish.lock().unwrap().clone();
        let url = format!("{}/bigquery/v2/projects/{PROJECT}/jobs/{id}", self.upstream);
        loop {
            let answer = self.client.get(&url).send().await.unwrap();
            let job: serde_json::Value = serde_json::from_slice(&whole(answer).await).unwrap();
            if job["status"]["state"] == "DONE" {
                return;
            }
            moment(Duration::from_millis(20)).await;
        }
    }

    async fn hold(&self) {
        self.held.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<()>().await;
    }
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    let call = shared.call(&parts.method, parts.uri.path(), &body);
    let fault = call.and_then(|call| shared.meet(call));
    match fault {
        Some(Fault::Refuse) => {
            let page = "<html>upstream is having a moment</html>";
            return (StatusCode::SERVICE_UNAVAILABLE, page).into_response();
        }
        Some(Fault::Cut) => return cut(Bytes::new()),
        Some(Fault::HoldBefore) => shared.hold().await,
        _ => {}
    }
    let mut headers = parts.headers;
    headers.remove("host");
    let answer = shared
        .client
        .request(parts.method, format!("{}{}", shared.upstream, parts.uri))
        .headers(headers)
        .body(body)
        .send()
        .await;
    // The emulator may be gone: then this is too.
    let Ok(answer) = answer else {
        return cut(Bytes::new());
    };
    let status = answer.status();
    let kind = answer.headers().get("content-type").cloned();
    let body = whole(answer).await;
    if call == Some(Call::Publish) && fault.is_some() {
        shared.publish_ended().await;
    }
    match fault {
        Some(Fault::LoseAnswer) => return cut(body.slice(..body.len().min(5))),
        Some(Fault::HoldAfter) => shared.hold().await,
        _ => {}
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    if let Some(kind) = kind {
        response.headers_mut().insert("content-type", kind);
    }
    response
}

#[allow(clippy::disallowed_methods)] // whatever it says is passed on
async fn whole(answer: reqwest::Response) -> Bytes {
    answer.bytes().await.unwrap()
}

/// An answer that breaks off after that much of it.
fn cut(begun: Bytes) -> Response {
    Response::new(Body::from_stream(futures::stream::iter([
        Ok(begun),
        Err(std::io::Error::other("cut")),
    ])))
}
