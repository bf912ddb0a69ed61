//! A bare HTTP client, for talking to a server without the engine's own.

use reqwest::header::HeaderMap;
use serde_json::Value;

/// An answer, read to its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Sends a request and reads the whole answer.
pub async fn send(request: reqwest::RequestBuilder) -> Answer {
    let mut response = request.send().await.expect("the server should answer");
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.expect("the body should be whole") {
        body.extend_from_slice(&chunk);
    }
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body,
    }
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body should be JSON")
    }

    /// A header's text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}
