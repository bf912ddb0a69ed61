//! Proxies on loopback that misbehave on demand: one for REST, which knows requests, and one for any
//! stream of bytes, which only knows how many went through.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What happens to one request.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It is answered with this status and does not arrive.
    Refuse(u16),
    /// It arrives, and the connection is cut before the answer is complete.
    LoseAnswer,
}

/// A REST proxy. Requests whose method and path match the rule meet its faults, one each, in order.
pub struct RestProxy {
    /// Root for clients.
    pub url: String,
    faults: Arc<Mutex<VecDeque<Fault>>>,
}

struct Rule {
    upstream: String,
    method: &'static str,
    suffix: &'static str,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    client: reqwest::Client,
}

impl RestProxy {
    /// A proxy to `upstream` that plays `faults` on requests of `method` whose path ends in `suffix`.
    pub async fn start(
        upstream: &str,
        method: &'static str,
        suffix: &'static str,
        faults: &[Fault],
    ) -> Self {
        let faults = Arc::new(Mutex::new(faults.iter().copied().collect()));
        let rule = Arc::new(Rule {
            upstream: upstream.to_owned(),
            method,
            suffix,
            faults: faults.clone(),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new().fallback(forward).with_state(rule);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, faults }
    }

    /// Faults that no request has met yet.
    pub fn left(&self) -> usize {
        self.faults.lock().unwrap().len()
    }
}

#[allow(clippy::disallowed_methods)]
async fn forward(State(rule): State<Arc<Rule>>, request: Request) -> Response {
    let hit = request.method() == rule.method && request.uri().path().ends_with(rule.suffix);
    let fault = hit
        .then(|| rule.faults.lock().unwrap().pop_front())
        .flatten();
    if let Some(Fault::Refuse(status)) = fault {
        return (
            StatusCode::from_u16(status).unwrap(),
            "<html>upstream is having a moment</html>",
        )
            .into_response();
    }
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    let mut headers = parts.headers;
    headers.remove("host");
    let answer = rule
        .client
        .request(parts.method, format!("{}{}", rule.upstream, parts.uri))
        .headers(headers)
        .body(body)
        .send()
        .await
        .unwrap();
    let status = answer.status();
    let kind = answer.headers().get("content-type").cloned();
    let body = answer.bytes().await.unwrap();
    let body = match fault {
        Some(Fault::LoseAnswer) => Body::from_stream(futures::stream::iter([
            Ok(body.slice(..body.len().min(5))),
            Err(std::io::Error::other("cut")),
        ])),
        _ => Body::from(body),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    if let Some(kind) = kind {
        response.headers_mut().insert("content-type", kind);
    }
    response
}

/// A proxy for a stream of bytes that cuts each of its first connections after that many bytes from
/// the client.
pub struct CuttingProxy {
    /// `host:port` for clients.
    pub address: String,
    cuts: Arc<AtomicUsize>,
}

impl CuttingProxy {
    /// A proxy to `upstream` (`host:port`); connection `n` is cut after `after[n]` bytes, those
    /// beyond the list never.
    pub async fn start(upstream: &str, after: &'static [usize]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let upstream = upstream.to_owned();
        let cuts = Arc::new(AtomicUsize::new(0));
        let counter = cuts.clone();
        tokio::spawn(async move {
            let mut limits = after.iter().copied();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&upstream).await.unwrap();
                let limit = limits.next();
                let counter = counter.clone();
                tokio::spawn(async move {
                    if relay(client, server, limit).await {
                        counter.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { address, cuts }
    }

    /// Connections cut so far.
    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

/// Copies both ways until one side ends or the limit is reached; whether it was.
async fn relay(client: TcpStream, server: TcpStream, limit: Option<usize>) -> bool {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    });
    let mut left = limit;
    let mut buffer = vec![0; 16 << 10];
    let cut = loop {
        let n = match from_client.read(&mut buffer).await {
            Ok(0) | Err(_) => break false,
            Ok(n) => n,
        };
        if to_server.write_all(&buffer[..n]).await.is_err() {
            break false;
        }
        if let Some(rest) = &mut left {
            *rest = rest.saturating_sub(n);
            if *rest == 0 {
                break true;
            }
        }
    };
    back.abort();
    cut
}
