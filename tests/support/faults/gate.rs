//! A proxy for BigQuery's REST surface that knows the calls of a slice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, LOCATION, RANGE};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;

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
    /// The request that opens the upload of a load job.
    OpenUpload,
    /// A chunk of such an upload, or the question how far it is.
    Upload,
    /// `jobs.get` of a load job.
    LoadJob,
    /// `jobs.insert` of the statement that notes a slice as open.
    NoteOpen,
    /// `tabledata.insertAll`.
    InsertAll,
    /// `jobs.insert` of the query that counts a slice's rows.
    Count,
    /// `jobs.insert` of the statement that takes the lease.
    TakeLease,
    /// `jobs.insert` of the statement that writes the record of the run.
    Record,
    /// `jobs.insert` of the query for the partitions that a publish will change.
    Positions,
    /// `jobs.insert` of the statement that keeps a dead slice from being published.
    Claim,
    /// `jobs.insert` of the statement that deletes a dead slice's rows.
    DeleteRows,
    /// `jobs.insert` of the statement that strikes a dead slice off.
    Forget,
}

impl Call {
    /// Whether it inserts a query job.
    fn is_query(self) -> bool {
        use Call::{
            Claim, Count, DeleteRows, Forget, NoteOpen, Positions, Publish, Record, TakeLease,
        };
        let queries = [
            Claim, Count, DeleteRows, Forget, NoteOpen, Positions, Publish, Record, TakeLease,
        ];
        queries.contains(&self)
    }
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
    /// It arrives, and the job in its answer is still at work, as BigQuery's are.
    AtWork,
    /// Nothing more happens until it is let go; it has not arrived…
    HoldBefore,
    /// …or it has.
    HoldAfter,
}

#[derive(Default)]
struct Shared {
    upstream: String,
    client: reqwest::Client,
    rules: Mutex<Vec<(Call, Fault)>>,
    /// The query job that was inserted last.
    inserted: Mutex<String>,
    /// The job that publishes, once it was inserted.
    publish: Mutex<String>,
    held: AtomicUsize,
    go: Notify,
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

    /// Lets go of what is held.
    pub fn release(&self) {
        self.shared.go.notify_waiters();
    }

    /// Calls held so far.
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn call(&self, method: &Method, path: &str, body: &[u8]) -> Option<Call> {
        let text = std::str::from_utf8(body).unwrap_or_default();
        let last = path.rsplit('/').next().unwrap_or_default();
        let staging = "_drawoff_stage_";
        match *method {
            Method::POST if path.contains("/upload/") => Some(Call::OpenUpload),
            Method::PUT if path.contains("/upload/") => Some(Call::Upload),
            Method::POST if last == "tables" && text.contains(staging) => Some(Call::CreateStaging),
            Method::DELETE if last.starts_with(staging) => Some(Call::DropStaging),
            Method::POST if last == "insertAll" => Some(Call::InsertAll),
            Method::POST if last == "jobs" => {
                let body: Value = serde_json::from_str(text).unwrap();
                let id = body["jobReference"]["jobId"].as_str().unwrap();
                *self.inserted.lock().unwrap() = id.to_owned();
                let sql = body["configuration"]["query"]["query"].as_str().unwrap();
                let journal = sql.contains("_drawoff_open_slices");
                let begins = |words: &str| sql.starts_with(words);
                if sql.contains("COMMIT TRANSACTION") {
                    *self.publish.lock().unwrap() = id.to_owned();
                    Some(Call::Publish)
                } else if sql.contains("was_run_id") {
                    Some(Call::TakeLease)
                } else if begins("INSERT INTO") && sql.contains("_drawoff_runs") {
                    Some(Call::Record)
                } else if begins("INSERT INTO") && journal {
                    Some(Call::NoteOpen)
                } else if begins("UPDATE") && journal {
                    Some(Call::Claim)
                } else if begins("DELETE FROM") {
                    Some(if journal {
                        Call::Forget
                    } else {
                        Call::DeleteRows
                    })
                } else if begins("SELECT COUNT(*) AS n") {
                    Some(Call::Count)
                } else if begins("SELECT DISTINCT") {
                    Some(Call::Positions)
                } else {
                    None
                }
            }
            Method::GET if last.starts_with("drawoff_load_") => Some(Call::LoadJob),
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

    /// Waits for the end of a query job: what was inserted and not answered may else be done at any
    /// later time, which a test cannot tell from never.
    async fn ended(&self) {
        let id = self.inserted.lock().unwrap().clone();
        let url = format!("{}/bigquery/v2/projects/{PROJECT}/jobs/{id}", self.upstream);
        loop {
            let answer = self.client.get(&url).send().await.unwrap();
            let job: Value = serde_json::from_slice(&whole(answer).await).unwrap();
            if job["status"]["state"] == "DONE" {
                return;
            }
            moment(Duration::from_millis(20)).await;
        }
    }

    async fn hold(&self) {
        let go = self.go.notified();
        self.held.fetch_add(1, Ordering::SeqCst);
        go.await;
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
    // An upload says by headers where it goes on.
    let kept: Vec<(HeaderName, HeaderValue)> = [CONTENT_TYPE, LOCATION, RANGE]
        .into_iter()
        .filter_map(|name| Some((name.clone(), answer.headers().get(name)?.clone())))
        .collect();
    let mut body = whole(answer).await;
    if call.is_some_and(Call::is_query) && fault.is_some() {
        shared.ended().await;
    }
    match fault {
        Some(Fault::AtWork) => {
            let mut job: Value = serde_json::from_slice(&body).unwrap();
            job["status"] = json!({"state": "RUNNING"});
            body = job.to_string().into();
        }
        Some(Fault::LoseAnswer) => return cut(body.slice(..body.len().min(5))),
        Some(Fault::HoldAfter) => shared.hold().await,
        _ => {}
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().extend(kept);
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
