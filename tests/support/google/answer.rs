//! Answers, and Google's forms of saying no.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use serde_json::{Value, json};

/// What goes back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
    /// Why the request is none that Google would have taken.
    pub(super) wrong: Option<String>,
}

/// An answer, or a refusal that ends the matter.
pub type Outcome = Result<Answer, Answer>;

impl Answer {
    fn new(status: u16, media: &str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: vec![("content-type".into(), media.into())],
            body: body.into(),
            wrong: None,
        }
    }

    /// 200 with JSON.
    pub fn json(value: &Value) -> Self {
        Self::new(200, "application/json; charset=UTF-8", value.to_string())
    }

    /// 200 with plain text, as the metadata server answers.
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self::new(200, "application/text", text)
    }

    /// What came back from elsewhere.
    pub fn relayed(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, "application/json; charset=UTF-8", body)
    }

    /// A page for people, which some of Google's servers send where they refuse.
    pub fn page(status: u16, text: &str) -> Self {
        let body = format!("<!DOCTYPE html>\n<html><title>Error {status}</title><p>{text}</html>");
        Self::new(status, "text/html; charset=UTF-8", body)
    }

    /// A token service's refusal (RFC 6749, section 5.2); the request was wrong.
    pub fn oauth(status: u16, error: &str, description: &str) -> Self {
        let body = json!({"error": error, "error_description": description});
        Self {
            wrong: Some(format!("{error}: {description}")),
            ..Self::json(&body)
        }
        .with_status(status)
    }

    /// An API's refusal; the request may have been all right.
    pub fn api(code: u16, message: &str) -> Self {
        let status = rpc_status(code);
        let body = json!({"error": {"code": code, "message": message, "status": status}});
        Self::json(&body).with_status(code)
    }

    /// An API's refusal with another status than the code's usual one.
    pub fn failed_precondition(message: &str) -> Self {
        Self::api(400, message).edited(|error| error["status"] = json!("FAILED_PRECONDITION"))
    }

    /// With `google.rpc.ErrorInfo`.
    pub fn because(self, reason: &str, domain: &str, metadata: Value) -> Self {
        self.edited(|error| {
            error["details"] = json!([{
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": reason,
                "domain": domain,
                "metadata": metadata,
            }]);
        })
    }

    /// With the older list of errors, which BigQuery's decisions are made on.
    pub fn listing(self, reason: &str) -> Self {
        self.edited(|error| {
            error["errors"] = json!([{
                "message": error["message"], "domain": "global", "reason": reason,
            }]);
        })
    }

    /// As the answer to a request that was wrong, as its message says.
    pub fn wrong(mut self) -> Self {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        self.wrong = Some(match body["error"]["message"].as_str() {
            Some(message) => message.to_owned(),
            None => String::from_utf8_lossy(&self.body).into_owned(),
        });
        self
    }

    /// As the answer to a request that was wrong, in these words.
    pub fn wrong_as(self, wrong: &str) -> Self {
        Self {
            wrong: Some(wrong.to_owned()),
            ..self
        }
    }

    /// With another status.
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// With a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn edited(mut self, edit: impl FnOnce(&mut Value)) -> Self {
        let mut body: Value = serde_json::from_slice(&self.body).unwrap();
        edit(&mut body["error"]);
        self.body = body.to_string().into();
        self
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = Response::builder().status(StatusCode::from_u16(self.status).unwrap());
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        response.body(Body::from(self.body)).unwrap()
    }
}

fn rpc_status(code: u16) -> &'static str {
    match code {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ALREADY_EXISTS",
        429 => "RESOURCE_EXHAUSTED",
        500 => "INTERNAL",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "UNKNOWN",
    }
}
