//! What a Google service answered when it did not do what was asked: its reason code, which is what
//! decisions are made on, and its message, which is only shown.

use std::time::Duration;

use serde_json::Value;

use super::RetryPolicy;
use crate::error::{Error, ErrorKind};

/// Longest wait that a service's `Retry-After` is obeyed for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(120);

/// Longest part of a service's message that is shown.
const LONGEST_MESSAGE: usize = 400;

/// What to do after a failure, so that nothing is lost or done twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Make the same call again, with the same id: what it asked for is done once at the most.
    Repeat,
    /// The job with that id has failed for good: run it again under a new one.
    NewJob,
    /// The thing is there: take it for what was asked for, after looking at it.
    Adopt,
    /// Asking again changes nothing.
    GiveUp,
}

/// What to do after an answer with that status (none: no answer) and reason code, or with that
/// reason in a job's `errorResult`. BigQuery's page on errors, 2026-08.
pub(crate) fn next(status: Option<u16>, reason: &str, in_job: bool) -> Next {
    match reason {
        "quotaExceeded" | "notImplemented" => Next::GiveUp,
        "jobBackendError" | "jobInternalError" | "jobRateLimitExceeded" => Next::NewJob,
        "backendError"
        | "internalError"
        | "rateLimitExceeded"
        | "userRateLimitExceeded"
        | "tableUnavailable"
        | "UNAVAILABLE"
        | "RESOURCE_EXHAUSTED"
        | "INTERNAL"
        | "ABORTED"
        | "DEADLINE_EXCEEDED" => match in_job {
            true => Next::NewJob,
            false => Next::Repeat,
        },
        _ if in_job => Next::GiveUp,
        _ => match status {
            None | Some(408 | 429 | 500 | 502..=599) => Next::Repeat,
            Some(409) => Next::Adopt,
            Some(_) => Next::GiveUp,
        },
    }
}

/// A call that failed for good (refused, or retried to the end), or a job that did.
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
    /// `google.rpc.ErrorInfo`, which tells apart what one status is for; `Null` where there is none.
    pub info: Box<Value>,
    /// How long the service asked to wait.
    pub(super) retry_after: Option<Duration>,
    /// An error that is already complete (credentials).
    pub(super) cause: Option<Error>,
    /// Of a job that was started and failed.
    pub(super) in_job: bool,
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
            info: Box::new(info(error)),
            retry_after: None,
            cause: None,
            in_job: false,
        }
    }

    /// From a request that got no whole answer.
    pub(crate) fn from_transport(what: &str, message: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            status: None,
            reason: String::new(),
            message: message.into(),
            info: Box::default(),
            retry_after: None,
            cause: None,
            in_job: false,
        }
    }

    /// From a job's `errorResult`.
    pub(crate) fn of_job(what: &str, error: &Value) -> Self {
        Self {
            reason: error["reason"].as_str().unwrap_or_default().to_owned(),
            in_job: true,
            ..Self::from_transport(what, tidy(error["message"].as_str().unwrap_or_default()))
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

    /// Whether it reached the service, as far as is known: it does not without credentials.
    pub fn was_sent(&self) -> bool {
        self.cause.is_none()
    }

    /// How long to wait after it, the `failures`-th in a row: as the service asked, else by the policy.
    pub(crate) fn wait(&self, policy: &RetryPolicy, failures: u32) -> Duration {
        self.retry_after
            .map(|d| d.min(LONGEST_RETRY_AFTER))
            .unwrap_or_else(|| policy.delay(failures))
    }

    /// Whether a job was started, and failed.
    pub fn is_of_job(&self) -> bool {
        self.in_job
    }

    /// What to do. Decided by status and reason, never by words.
    pub fn next(&self) -> Next {
        match &self.cause {
            Some(cause) if cause.is_transient() => Next::Repeat,
            Some(_) => Next::GiveUp,
            None => next(self.status, &self.reason, self.in_job),
        }
    }

    /// Whether the same may succeed later, as it is or in a new job.
    pub fn is_transient(&self) -> bool {
        matches!(self.next(), Next::Repeat | Next::NewJob)
    }

    /// As the crate's error; who must act, and what they should do, follows from status and reason.
    pub fn into_error(self) -> Error {
        if let Some(cause) = self.cause {
            return cause.context(format!("could not {}", self.what));
        }
        let answer = match (self.status, self.reason.as_str()) {
            (None, "") => self.message.clone(),
            (None, reason) => format!("{reason}: {}", self.message),
            (Some(status), "") => format!("{status}, {}", self.message),
            (Some(status), reason) => format!("{status} {reason}: {}", self.message),
        };
        let transient = self.is_transient();
        let kind = match (self.status, self.reason.as_str()) {
            (Some(401), _) | (_, "accessDenied") => ErrorKind::Auth,
            (_, "quotaExceeded") => ErrorKind::RateLimited,
            (_, "billingNotEnabled" | "billingTierLimitExceeded") => ErrorKind::Destination,
            _ if transient => ErrorKind::Unavailable,
            (Some(403), _) => ErrorKind::Auth,
            _ => ErrorKind::Destination,
        };
        let error =
            Error::new(kind, format!("could not {}: {answer}", self.what)).transient(transient);
        let hint = match (self.status, self.reason.as_str()) {
            (Some(401), _) => {
                "the credentials were refused: run `gcloud auth application-default login` again, or check the service account's key"
            }
            (_, "quotaExceeded") => {
                "a quota is used up: IAM & Admin > Quotas & System Limits in the Google Cloud console shows which one; a daily one is refilled over 24 hours, so try again tomorrow, or ask for more there"
            }
            (_, "billingNotEnabled") => {
                "link a billing account to the project (Billing in the Google Cloud console)"
            }
            (_, "billingTierLimitExceeded") => {
                "the query needs more than the project's billing tier gives: lift its custom quota or limit"
            }
            (_, "bytesBilledLimitExceeded") => {
                "raise `bigquery: {maximum_bytes_billed}`, or partition and cluster the table so that less of it is read"
            }
            (_, "responseTooLarge" | "resourcesExceeded") => {
                "publish smaller slices: set `DRAWOFF_SLICE_ROWS` lower"
            }
            _ => return error,
        };
        error.hint(hint)
    }
}

fn info(error: &Value) -> Value {
    let details = error["details"].as_array();
    details
        .into_iter()
        .flatten()
        .find(|d| {
            d["@type"]
                .as_str()
                .is_some_and(|t| t.ends_with("google.rpc.ErrorInfo"))
        })
        .cloned()
        .unwrap_or_default()
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

    /// BigQuery's page on errors, row by row: an answer's status and reason, what to do then, what to do
    /// when a job failed for that reason, exit code, and a word of the hint.
    #[test]
    fn every_documented_reason() {
        use Next::*;
        type Line = (&'static [u16], &'static str, Next, Next, u8, &'static str);
        let table: [Line; 26] = [
            (
                &[500, 502, 503, 504],
                "backendError",
                Repeat,
                NewJob,
                75,
                "",
            ),
            (&[500], "internalError", Repeat, NewJob, 75, ""),
            (&[403], "rateLimitExceeded", Repeat, NewJob, 75, ""),
            (&[403], "userRateLimitExceeded", Repeat, NewJob, 75, ""),
            (&[400], "jobBackendError", NewJob, NewJob, 75, ""),
            (&[400], "jobInternalError", NewJob, NewJob, 75, ""),
            (&[400], "jobRateLimitExceeded", NewJob, NewJob, 75, ""),
            (&[400], "tableUnavailable", Repeat, NewJob, 75, ""),
            (&[403], "quotaExceeded", GiveUp, GiveUp, 1, "tomorrow"),
            (&[403], "responseTooLarge", GiveUp, GiveUp, 1, "SLICE_ROWS"),
            (&[400], "resourcesExceeded", GiveUp, GiveUp, 1, "SLICE_ROWS"),
            (&[400], "resourceInUse", GiveUp, GiveUp, 1, ""),
            (&[400], "timeout", GiveUp, GiveUp, 1, ""),
            (&[403], "blocked", GiveUp, GiveUp, 1, ""),
            (&[409], "duplicate", Adopt, GiveUp, 1, ""),
            (&[404], "notFound", GiveUp, GiveUp, 1, ""),
            (&[403], "accessDenied", GiveUp, GiveUp, 1, ""),
            (&[403], "billingNotEnabled", GiveUp, GiveUp, 1, "billing"),
            (
                &[400],
                "billingTierLimitExceeded",
                GiveUp,
                GiveUp,
                1,
                "tier",
            ),
            (
                &[400],
                "bytesBilledLimitExceeded",
                GiveUp,
                GiveUp,
                1,
                "maximum_bytes_billed",
            ),
            (&[400], "invalid", GiveUp, GiveUp, 1, ""),
            (&[400], "invalidQuery", GiveUp, GiveUp, 1, ""),
            (&[400], "invalidUser", GiveUp, GiveUp, 1, ""),
            (&[501], "notImplemented", GiveUp, GiveUp, 1, ""),
            (&[400], "stopped", GiveUp, GiveUp, 1, ""),
            (&[408, 429, 500, 520, 599], "", Repeat, GiveUp, 75, ""),
        ];
        for (statuses, reason, answered, in_job, code, hint) in table {
            for status in statuses {
                let body = format!(r#"{{"error":{{"errors":[{{"reason":"{reason}"}}]}}}}"#);
                let f = Failure::from_answer("x", *status, body.as_bytes());
                assert_eq!(f.next(), answered, "{status} {reason}");
                let e = f.into_error();
                assert_eq!(e.exit_code(), code, "{status} {reason}");
                assert!(
                    e.find_hint().unwrap_or_default().contains(hint),
                    "{status} {reason}: {e:?}"
                );
            }
            let f = Failure::of_job("x", &serde_json::json!({"reason": reason, "message": "m"}));
            assert_eq!(f.next(), in_job, "{reason} in a job");
        }
        assert_eq!(next(None, "", false), Next::Repeat, "no answer at all");
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
