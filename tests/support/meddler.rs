//! A proxy before the emulator's REST surface that answers in its place, changes what goes through, or
//! sends it twice: what the real service does at times, and the emulator never.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::net::TcpListener;

/// What happens to one call.
pub enum Meddling {
    /// It goes through.
    Pass,
    /// It does not arrive; this is the answer.
    Answer(u16, Value),
    /// These bodies arrive in its place, one after the other; the last one's answer is the answer.
    Send(Vec<Value>),
    /// It goes through, and its answer is changed.
    Edit(fn(&mut Value)),
}

/// Decides by method, path and body.
type Decide = dyn Fn(&str, &str, &Value) -> Meddling + Send + Sync;

struct Between {
    upstream: String,
    decide: Box<Decide>,
    client: reqwest::Client,
}

/// Starts a proxy to `upstream`; its root for clients.
pub async fn start(
    upstream: &str,
    decide: impl Fn(&str, &str, &Value) -> Meddling + Send + Sync + 'static,
) -> String {
    let between = Arc::new(Between {
        upstream: upstream.to_owned(),
        decide: Box::new(decide),
        client: reqwest::Client::builder().no_proxy().build().unwrap(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = axum::Router::new().fallback(meddle).with_state(between);
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

async fn meddle(State(between): State<Arc<Between>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    let json = serde_json::from_slice(&body).unwrap_or_default();
    let decided = (between.decide)(parts.method.as_str(), parts.uri.path(), &json);
    let bodies = match &decided {
        Meddling::Answer(status, answer) => {
            let status = axum::http::StatusCode::from_u16(*status).unwrap();
            return (status, axum::Json(answer.clone())).into_response();
        }
        Meddling::Send(bodies) => bodies.iter().map(|b| b.to_string().into()).collect(),
        Meddling::Pass | Meddling::Edit(_) => vec![body],
    };
    let mut last = None;
    for body in bodies {
        let mut headers = parts.headers.clone();
        headers.remove("host");
        headers.remove("content-length");
        last = Some(forward(&between, &parts, headers, body).await);
    }
    let (status, mut answer) = last.unwrap();
    if let Meddling::Edit(edit) = decided {
        let mut json: Value = serde_json::from_slice(&answer).unwrap();
        edit(&mut json);
        answer = json.to_string().into();
    }
    (status, [("content-type", "application/json")], answer).into_response()
}

#[allow(clippy::disallowed_methods)]
async fn forward(
    between: &Between,
    parts: &axum::http::request::Parts,
    headers: axum::http::HeaderMap,
    body: bytes::Bytes,
) -> (axum::http::StatusCode, bytes::Bytes) {
    let answer = between
        .client
        .request(
            parts.method.clone(),
            format!("{}{}", between.upstream, parts.uri),
        )
        .headers(headers)
        .body(body)
        .send()
        .await
        .unwrap();
    (answer.status(), answer.bytes().await.unwrap())
}
