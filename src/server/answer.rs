//! Answers. A scheduler repeats what is not 2xx; a status says whether that is of any use.

use axum::http::header::{CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::runs::{Seen, word};
use crate::error::{Error, ErrorKind};
use crate::google::Refusal;
use crate::pipeline::report::{Outcome, RunReport, StreamReport};
use crate::telemetry::{Meter, redact};

/// Seconds after which to ask again.
const LATER: &str = "30";

fn of(status: StatusCode, body: &Value) -> Response {
    // Past no secret.
    let text = redact::scrub(&format!("{body}\n"));
    (status, [(CONTENT_TYPE, "application/json")], text).into_response()
}

fn with(mut response: Response, name: HeaderName, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

fn message(status: StatusCode, what: &str) -> Response {
    of(status, &json!({"error": {"message": what}}))
}

pub(super) fn healthy() -> Response {
    of(StatusCode::OK, &json!({"status": "ok"}))
}

pub(super) fn nothing_here() -> Response {
    message(
        StatusCode::NOT_FOUND,
        "nothing is here; there are `POST /run`, `GET /runs/ID` and `GET /healthz`",
    )
}

pub(super) fn no_such_run(id: &str) -> Response {
    message(
        StatusCode::NOT_FOUND,
        &format!(
            "this process knows no run `{id}`; the table `_drawoff_runs` has those that have ended"
        ),
    )
}

pub(super) fn busy(source: &str, id: &str) -> Response {
    let body = json!({
        "error": {"message": format!("a run of source `{source}` is at work: `{id}`")},
        "run_id": id,
    });
    with(
        of(StatusCode::CONFLICT, &body),
        LOCATION,
        &format!("/runs/{id}"),
    )
}

pub(super) fn stopping() -> Response {
    let response = message(
        StatusCode::SERVICE_UNAVAILABLE,
        "this process is about to end",
    );
    with(response, RETRY_AFTER, LATER)
}

pub(super) fn turned_away(refusal: &Refusal) -> Response {
    match refusal {
        Refusal::Unknown(why) => with(
            message(StatusCode::UNAUTHORIZED, why),
            WWW_AUTHENTICATE,
            "Bearer error=\"invalid_token\"",
        ),
        Refusal::NotAllowed(email) => message(
            StatusCode::FORBIDDEN,
            &format!("`{email}` may not call this service"),
        ),
        Refusal::Unavailable(_) => with(
            message(
                StatusCode::SERVICE_UNAVAILABLE,
                "it cannot be told now who you are",
            ),
            RETRY_AFTER,
            LATER,
        ),
    }
}

/// The failure of a run, or to begin one.
pub(super) fn failed(error: &Error) -> Response {
    let response = of(status(error), &json!({"error": told(error)}));
    match status(error) {
        StatusCode::SERVICE_UNAVAILABLE => with(response, RETRY_AFTER, LATER),
        _ => response,
    }
}

fn status(error: &Error) -> StatusCode {
    match error.kind() {
        ErrorKind::Config => StatusCode::BAD_REQUEST,
        // Another run holds the lease.
        ErrorKind::State if error.is_transient() => StatusCode::CONFLICT,
        _ => of_code(error.exit_code()),
    }
}

fn of_code(exit_code: u8) -> StatusCode {
    match exit_code {
        0 => StatusCode::OK,
        2 => StatusCode::BAD_REQUEST,
        75 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn told(error: &Error) -> Value {
    json!({
        "kind": error.kind().word(),
        "message": error.chain(),
        "hint": error.find_hint(),
    })
}

/// The answer to whoever asked for the run: how it ended, or where to look.
pub(super) fn run(seen: &Seen) -> Response {
    let status = match seen.outcome.as_deref() {
        None => StatusCode::ACCEPTED,
        Some(Ok(report)) => of_code(report.exit_code()),
        Some(Err(error)) => self::status(error),
    };
    let response = of(status, &body(seen));
    let response = with(response, LOCATION, &format!("/runs/{}", seen.id));
    match status {
        StatusCode::SERVICE_UNAVAILABLE => with(response, RETRY_AFTER, LATER),
        _ => response,
    }
}

/// The answer to whoever looks at a run.
pub(super) fn seen(seen: &Seen) -> Response {
    of(StatusCode::OK, &body(seen))
}

fn body(seen: &Seen) -> Value {
    let mut body = json!({
        "run_id": seen.id,
        "source": seen.source,
        "started_at": seen.started.to_string(),
    });
    let rest = match seen.outcome.as_deref() {
        None => json!({
            "state": "at_work",
            "streams": seen.streams.iter().map(|s| json!({
                "stream": s.stream,
                "state": word(s.phase),
                "records": Meter::get(&s.meter.records),
                "rows": Meter::get(&s.meter.published),
            })).collect::<Vec<_>>(),
        }),
        Some(Ok(report)) => ended(report),
        Some(Err(error)) => json!({"state": "failed", "error": told(error)}),
    };
    if let (Value::Object(body), Value::Object(rest)) = (&mut body, rest) {
        body.extend(rest);
    }
    body
}

fn ended(report: &RunReport) -> Value {
    json!({
        "state": if report.exit_code() == 0 { "done" } else { "failed" },
        "exit_code": report.exit_code(),
        "destination": report.destination,
        "dry_run": report.dry_run,
        "seconds": report.duration.as_secs_f64(),
        "streams": report.streams.iter().map(stream).collect::<Vec<_>>(),
    })
}

fn stream(stream: &StreamReport) -> Value {
    let (state, error) = match &stream.outcome {
        Outcome::Done => ("done", None),
        Outcome::Interrupted => ("interrupted", None),
        Outcome::Failed(error) => ("failed", Some(told(error))),
        Outcome::TooManyRejects { .. } => ("too_many_rejects", None),
    };
    json!({
        "stream": stream.stream,
        "table": stream.table,
        "state": state,
        "error": error,
        "records": stream.records,
        "rows": stream.rows,
        "rejected": stream.rejected,
        "deduplicated": stream.deduplicated,
        "requests": stream.requests,
        "cursor": stream.cursor_after,
        "changes": stream.changes,
    })
}
