//! A REST proxy that plays faults on the requests that rules name.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What happens to one request.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Nothing: it goes through. Puts the faults after it off by one request.
    Pass,
    /// It is answered with this status and an HTML page, and does not arrive.
    Refuse(u16),
    /// It is answered with this status and reason as Google's APIs do, and does not arrive.
    Reason(u16, &'static str),
    /// The connection is cut, and it does not arrive.
    LoseRequest,
    /// It arrives, and the connection is cut before the answer is complete.
    LoseAnswer,
    /// It arrives, and is answered with this status and an HTML page; the true answer is for
    /// [`Fault::Reveal`].
    Hide(u16),
    /// It gets the answer that was hidden last, and does not arrive.
    Reveal,
    /// It arrives, and its JSON answer is changed.
    Edit(fn(&mut Value)),
    /// Of a chunk of an upload only that many bytes arrive.
    Short(usize),
    /// It is answered with this status and sent on to that root, and does not arrive.
    Redirect(u16, &'static str),
    /// It arrives, and where its answer says by `Location` how to go on, that is at that root.
    Elsewhere(&'static str),
}

/// The requests of one kind, and the faults that they meet, one each, in order.
pub struct Rule {
    method: &'static str,
    path: &'static str,
    anywhere: bool,
    faults: VecDeque<Fault>,
}

impl Rule {
    /// Requests of that method whose path ends so.
    pub fn ending(method: &'static str, path: &'static str, faults: &[Fault]) -> Self {
        Self {
            method,
            path,
            anywhere: false,
            faults: faults.iter().copied().collect(),
        }
    }

    /// Requests of that method whose path has this somewhere.
    pub fn containing(method: &'static str, path: &'static str, faults: &[Fault]) -> Self {
        Self {
            anywhere: true,
            ..Self::ending(method, path, faults)
        }
    }

    fn fits(&self, method: &str, path: &str) -> bool {
        self.method == method
            && match self.anywhere {
                true => path.contains(self.path),
                false => path.ends_with(self.path),
            }
    }
}

/// A REST proxy. A request meets the next fault of the first rule that fits it and has one left.
pub struct RestProxy {
    /// Root for clients.
    pub url: String,
    inner: Arc<Inner>,
}

struct Inner {
    upstream: String,
    rules: Mutex<Vec<Rule>>,
    hidden: Mutex<Option<Answer>>,
    seen: Mutex<Vec<Seen>>,
    client: reqwest::Client,
}

/// A request that came to the proxy, whether or not it went on.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `POST /path`.
    pub line: String,
    /// Its query; empty where it has none.
    pub query: String,
    /// Its `Content-Range`; empty where it has none.
    pub range: String,
    /// Its `If-Match`; empty where it has none.
    pub if_match: String,
    /// Its body, where that is JSON.
    pub json: Value,
}

#[derive(Clone)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl RestProxy {
    /// A proxy to `upstream` that plays `faults` on requests of `method` whose path ends in `suffix`.
    pub async fn start(
        upstream: &str,
        method: &'static str,
        suffix: &'static str,
        faults: &[Fault],
    ) -> Self {
        Self::with(upstream, vec![Rule::ending(method, suffix, faults)]).await
    }

    /// A proxy to `upstream` with those rules.
    pub async fn with(upstream: &str, rules: Vec<Rule>) -> Self {
        let inner = Arc::new(Inner {
            upstream: upstream.to_owned(),
            rules: Mutex::new(rules),
            hidden: Mutex::default(),
            seen: Mutex::default(),
            client: reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .unwrap(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new()
            .fallback(forward)
            .with_state(inner.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, inner }
    }

    /// Faults that no request has met yet.
    pub fn left(&self) -> usize {
        let rules = self.inner.rules.lock().unwrap();
        rules.iter().map(|r| r.faults.len()).sum()
    }

    /// The requests so far whose `POST /path` has this somewhere.
    pub fn seen(&self, part: &str) -> Vec<Seen> {
        let seen = self.inner.seen.lock().unwrap();
        seen.iter()
            .filter(|s| s.line.contains(part))
            .cloned()
            .collect()
    }
}

async fn forward(State(proxy): State<Arc<Inner>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (method, path) = (parts.method.as_str(), parts.uri.path());
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    let text = |name| -> String {
        let value = parts.headers.get(name);
        value
            .map(|v| v.to_str().unwrap().into())
            .unwrap_or_default()
    };
    let range = text(header::CONTENT_RANGE);
    proxy.seen.lock().unwrap().push(Seen {
        line: format!("{method} {path}"),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        range: range.clone(),
        if_match: text(header::IF_MATCH),
        json: serde_json::from_slice(&body).unwrap_or_default(),
    });
    let fault = proxy
        .rules
        .lock()
        .unwrap()
        .iter_mut()
        .filter(|rule| rule.fits(method, path))
        .find_map(|rule| rule.faults.pop_front())
        .unwrap_or(Fault::Pass);
    match fault {
        Fault::Refuse(status) => html(status),
        Fault::Reason(status, reason) => reasoned(status, reason),
        Fault::LoseRequest => cut(&Bytes::new()),
        Fault::Redirect(status, root) => {
            let mut response = html(status);
            let location = format!("{root}{}", parts.uri);
            let location = location.parse().unwrap();
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        Fault::Elsewhere(root) => {
            let mut answer = proxy.send(&parts, body).await;
            let location = answer.headers[header::LOCATION].to_str().unwrap();
            let path = location.splitn(4, '/').nth(3).expect("a whole URL");
            let location = format!("{root}/{path}").parse().unwrap();
            answer.headers.insert(header::LOCATION, location);
            whole(answer)
        }
        Fault::Reveal => whole(
            proxy
                .hidden
                .lock()
                .unwrap()
                .take()
                .expect("a hidden answer"),
        ),
        Fault::Pass => whole(proxy.send(&parts, body).await),
        Fault::LoseAnswer => cut(&proxy.send(&parts, body).await.body),
        Fault::Hide(status) => {
            let answer = proxy.send(&parts, body).await;
            *proxy.hidden.lock().unwrap() = Some(answer);
            html(status)
        }
        Fault::Edit(edit) => {
            let mut answer = proxy.send(&parts, body).await;
            let mut value = serde_json::from_slice(&answer.body).unwrap();
            edit(&mut value);
            answer.body = value.to_string().into();
            whole(answer)
        }
        Fault::Short(bytes) => {
            let start: usize = range
                .trim_start_matches("bytes ")
                .split('-')
                .next()
                .and_then(|n| n.parse().ok())
                .expect("a chunk of an upload");
            assert!(bytes < body.len(), "the chunk is {} bytes", body.len());
            let mut parts = parts;
            let range = format!("bytes {start}-{}/*", start + bytes - 1);
            parts
                .headers
                .insert(header::CONTENT_RANGE, range.parse().unwrap());
            whole(proxy.send(&parts, body.slice(..bytes)).await)
        }
    }
}

impl Inner {
    #[allow(clippy::disallowed_methods)]
    async fn send(&self, parts: &axum::http::request::Parts, body: Bytes) -> Answer {
        let mut headers = parts.headers.clone();
        headers.remove(header::HOST);
        headers.remove(header::CONTENT_LENGTH);
        let answer = self
            .client
            .request(
                parts.method.clone(),
                format!("{}{}", self.upstream, parts.uri),
            )
            .headers(headers)
            .body(body)
            .send()
            .await
            .unwrap();
        let mut headers = answer.headers().clone();
        for hop in [
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
        ] {
            headers.remove(hop);
        }
        Answer {
            status: answer.status(),
            headers,
            body: answer.bytes().await.unwrap(),
        }
    }
}

fn whole(answer: Answer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

/// The start of an answer, and then no more.
fn cut(body: &Bytes) -> Response {
    let start = body.slice(..body.len().min(5));
    Response::new(Body::from_stream(futures::stream::iter([
        Ok(start),
        Err(std::io::Error::other("cut")),
    ])))
}

fn html(status: u16) -> Response {
    (
        StatusCode::from_u16(status).unwrap(),
        "<html>upstream is having a moment</html>",
    )
        .into_response()
}

fn reasoned(status: u16, reason: &str) -> Response {
    let message = "It is not to be.";
    let error = json!({"reason": reason, "message": message, "domain": "global"});
    let body = json!({"error": {"code": status, "message": message, "errors": [error]}});
    (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
}
