//! What was asked, and by whom.

use axum::http::HeaderMap;
use bytes::Bytes;
use serde_json::Value;
use url::form_urlencoded;

/// A request, and what became of it.
#[derive(Clone, Debug)]
pub struct Call {
    pub host: String,
    /// Whether it came over TLS.
    pub secure: bool,
    pub method: String,
    pub path: String,
    /// As on the wire, without the `?`.
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Who asked, where that was proven.
    pub who: Option<Who>,
    /// What it was answered with.
    pub status: u16,
}

/// Who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// An account's or a person's address, or the principal of another identity.
    pub name: String,
    pub proof: Proof,
    /// What the token is good for; empty for an ID token.
    pub scopes: Vec<String>,
    /// The token itself.
    pub token: String,
}

/// What proves who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// An access token that a token service has issued.
    AccessToken,
    /// A token that the service account has signed itself.
    SelfSigned,
    /// An ID token of Google's.
    IdToken,
}

impl Call {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A query parameter, decoded.
    pub fn param(&self, name: &str) -> Option<String> {
        pair(self.query.as_bytes(), name)
    }

    /// A field of a form, decoded.
    pub fn field(&self, name: &str) -> Option<String> {
        pair(&self.body, name)
    }

    /// The body as JSON; `Null` where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// What the body is said to be, without parameters.
    pub fn media(&self) -> &str {
        let media = self.header("content-type").unwrap_or_default();
        media.split(';').next().unwrap_or_default().trim()
    }

    /// `Authorization: Bearer …`.
    pub fn bearer(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ")
    }

    /// `GET host/path`, for people.
    pub fn line(&self) -> String {
        format!("{} {}{}", self.method, self.host, self.path)
    }
}

fn pair(text: &[u8], name: &str) -> Option<String> {
    form_urlencoded::parse(text)
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}
