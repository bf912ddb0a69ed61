//! What a Google service answered when it did not do what was asked: its reason code, which is what
//! decisions are made on, and its message, which is only shown.

use std::time::Duration;

use serde_json::Value;

use crate::error::{Error, ErrorKind};

/// Longest part of a service's message that is shown.
const LONGEST_MESSAGE: usize = 400;

/// A call that failed for good: refused, or retried to the end.
#[derive(Debug)]
pub struct Failure {
    /// What was attempted, on what: `create table \`p.d.t\``.
    pub what: String,
    /// HTTP status, or `None` where no answer came.
    pub status: Option<u16>,
    /// BigQuery's `reason` (`notFound`), else the RPC status (`NOT_FOUND`), else empty.
    pub reason: String,
    /// The service's words, tidied: one line, bounded, quoted values masked.
    pub message: String,
    /// How long the service asked to wait.
    pub(super) retry_after: Option<Duration>,
    /// An error that is already complete (credentials).
    pub(super) cause: Option<Error>,
}

impl Failure {
    /// From an answer that is not 2xx. Errors may be JSON in Google's form, HTML, or nothing.
    pub(super) fn from_answer(what: &str, status: u16, body: &[u8]) -> Self {
        let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let error = &json["error"];
        let reason = error["errors"][0]["reason"]
            .as_str()
            .filter(|r| !r.is_empty())
            .or_else(|| error["status"].as_str())
            .unwrap_or_default();
        let message = error["message"].as_str().map(tidy).unwrap_or_else(|| {
            match body.iter().find(|b| !b.is_ascii_whitespace()) {
                None => "an empty answer".into(),
                Some(b'<') => "an HTML page, not an answer of the API".into(),
                Some(_) => "an answer that is not in the API's form".into(),
            }
        });
        Self {
            what: what.to_owned(),
            status: Some(status),
            reason: reason.to_owned(),
            message,
            retry_after: None,
            cause: None,
        }
    }

    /// From a request that got no whole answer.
    pub(super) fn from_transport(what: &str, message: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            status: None,
            reason: String::new(),
            message: message.into(),
            retry_after: None,
            cause: None,
        }
    }

    /// From an error that is already complete.
    pub(super) fn from_error(what: &str, error: Error) -> Self {
        Self {
            cause: Some(error),
            ..Self::from_transport(what, "")
        }
    }

    /// Whether the thing is not there.
    pub fn is_not_found(&self) -> bool {
        self.status == Some(404)
    }

    /// Whether the thing is there already.
    pub fn is_duplicate(&self) -> bool {
        self.status == Some(409)
    }

    /// Whether the thing has changed since it was read (`If-Match`).
    pub fn is_precondition(&self) -> bool {
        self.status == Some(412)
    }

    /// Whether the same call may succeed later. Decided by status and reason, never by words.
    pub fn is_transient(&self) -> bool {
        if let Some(cause) = &self.cause {
            return cause.is_transient();
        }
        match (self.status, self.reason.as_str()) {
            (None, _) => true,
            (Some(408 | 429 | 500 | 502 | 503 | 504), reason) => {
                !matches!(reason, "notImplemented" | "quotaExceeded")
            }
            (_, reason) => is_transient_reason(reason),
        }
    }

    /// As the crate's error; who must act follows from status and reason.
    pub fn into_error(self) -> Error {
        if let Some(cause) = self.cause {
            return cause.context(format!("could not {}", self.what));
        }
        let answer = match (self.status, self.reason.as_str()) {
            (None, _) => self.message.clone(),
            (Some(status), "") => format!("{status}, {}", self.message),
            (Some(status), reason) => format!("{status} {reason}: {}", self.message),
        };
        let transient = self.is_transient();
        let kind = match (self.status, self.reason.as_str()) {
            (Some(401), _) => ErrorKind::Auth,
            (_, "quotaExceeded") => ErrorKind::RateLimited,
            (Some(403), "billingNotEnabled" | "billingTierLimitExceeded") => ErrorKind::Destination,
            _ if transient => ErrorKind::Unavailable,
            (Some(403), _) => ErrorKind::Auth,
            _ => ErrorKind::Destination,
        };
        let error =
            Error::new(kind, format!("could not {}: {answer}", self.what)).transient(transient);
        match (self.status, self.reason.as_str()) {
            (Some(401), _) => error.hint(
                "the credentials were refused: run `gcloud auth application-default login` again, or check the service account's key",
            ),
            (_, "quotaExceeded") => {
                error.hint("a quota is used up: see IAM & Admin > Quotas, or try again tomorrow")
            }
            (_, "billingNotEnabled") => error.hint("enable billing for the project"),
            _ => error,
        }
    }
}

/// Reasons that mean "not now".
pub(crate) fn is_transient_reason(reason: &str) -> bool {
    matches!(
        reason,
        "backendError"
            | "internalError"
            | "rateLimitExceeded"
            | "userRateLimitExceeded"
            | "jobBackendError"
            | "jobInternalError"
            | "jobRateLimitExceeded"
            | "tableUnavailable"
            | "UNAVAILABLE"
            | "RESOURCE_EXHAUSTED"
            | "INTERNAL"
            | "ABORTED"
            | "DEADLINE_EXCEEDED"
    )
}

/// A service's message fit to be shown: one line, bounded, and what stands in straight quotes, which
/// may be a row's value, masked. Names of tables and columns come in backticks or bare, and stay.
pub(crate) fn tidy(message: &str) -> String {
    let mut clean = String::new();
    let mut quote: Option<char> = None;
    let mut previous = ' ';
    for c in message.chars() {
        let c = if c.is_control() { ' ' } else { c };
        match quote {
            Some(open) if c == open => {
                clean.push('…');
                clean.push(c);
                quote = None;
            }
            Some(_) => {}
            // An apostrophe inside a word opens nothing.
            None if matches!(c, '"' | '\'') && !previous.is_alphanumeric() => {
                clean.push(c);
                quote = Some(c);
            }
            None if c == ' ' && clean.ends_with(' ') => {}
            None => clean.push(c),
        }
        previous = c;
    }
    if quote.is_some() {
        clean.push('…');
    }
    let clean = clean.trim().trim_end_matches('.');
    match clean.char_indices().nth(LONGEST_MESSAGE) {
        Some((at, _)) => format!("{}…", &clean[..at]),
        None => clean.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_reason_codes() {
        let f = Failure::from_answer(
            "create table `t`",
            403,
            br#"{"error":{"code":403,"message":"Exceeded rate limits: too many table update operations for this table.","errors":[{"reason":"rateLimitExceeded"}],"status":"PERMISSION_DENIED"}}"#,
        );
        assert_eq!(f.reason, "rateLimitExceeded");
        assert!(f.is_transient());
        let e = f.into_error();
        assert_eq!(e.kind(), ErrorKind::Unavailable);
        assert_eq!(
            e.to_string(),
            "could not create table `t`: 403 rateLimitExceeded: Exceeded rate limits: too many table update operations for this table"
        );
    }

    #[test]
    fn classifies_by_code_not_by_words() {
        let of = |status, reason: &str| {
            let body = format!(
                r#"{{"error":{{"message":"rateLimitExceeded backendError","errors":[{{"reason":"{reason}"}}]}}}}"#
            );
            let f = Failure::from_answer("x", status, body.as_bytes());
            (f.is_transient(), f.into_error().kind())
        };
        assert_eq!(of(403, "accessDenied"), (false, ErrorKind::Auth));
        assert_eq!(of(403, "quotaExceeded"), (false, ErrorKind::RateLimited));
        assert_eq!(of(400, "invalidQuery"), (false, ErrorKind::Destination));
        assert_eq!(
            of(400, "jobRateLimitExceeded"),
            (true, ErrorKind::Unavailable)
        );
        assert_eq!(of(503, "backendError"), (true, ErrorKind::Unavailable));
        assert_eq!(of(404, "notFound"), (false, ErrorKind::Destination));
        assert_eq!(of(401, "authError"), (false, ErrorKind::Auth));
        assert_eq!(of(501, "notImplemented"), (false, ErrorKind::Destination));
    }

    #[test]
    fn html_and_empty_answers_fall_back_to_the_status() {
        let f = Failure::from_answer("x", 502, b"<html>Bad Gateway</html>");
        assert!(f.is_transient());
        assert!(f.message.contains("HTML"));
        let f = Failure::from_answer("x", 404, b"");
        assert!(!f.is_transient());
        assert!(f.message.contains("empty"));
        let f = Failure::from_answer("x", 500, b"[1]");
        assert!(f.message.contains("not in the API's form"));
    }

    #[test]
    fn messages_do_not_quote_values() {
        assert_eq!(
            tidy("Bad int64 value: 'canary' for field `a`\nin \"canary two\" don't"),
            "Bad int64 value: '…' for field `a` in \"…\" don't"
        );
        assert!(tidy(&"x".repeat(2000)).chars().count() <= LONGEST_MESSAGE + 1);
    }
}
