//! Answers. A scheduler repeats what is not 2xx; a status says whether that is of any use.

use axum::http::header::{CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::call::Sender;
use super::listen::Unread;
use super::runs::{Seen, word};
use crate::error::{Error, ErrorKind};
use crate::google::Refusal;
use crate::pipeline::report::{Outcome, RunReport, StreamReport};
use crate::state::HeldBy;
use crate::telemetry::{Meter, redact};

/// In an answer of 200 to what is dropped: the status that it would have had.
const DROPPED: HeaderName = HeaderName::from_static("x-drawoff-dropped");

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
        "nothing is here; there are `POST /run` (and `POST /`), `GET /runs/ID` and `GET /healthz`",
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

/// So many runs are at work that no other may begin.
pub(super) fn full(most: usize) -> Response {
    let response = message(
        StatusCode::TOO_MANY_REQUESTS,
        &format!("{most} runs are at work in this process, which are as many as it takes on"),
    );
    with(response, RETRY_AFTER, LATER)
}

/// Requests come faster than they may.
pub(super) fn too_fast() -> Response {
    let response = message(
        StatusCode::TOO_MANY_REQUESTS,
        "more requests come than this process takes on",
    );
    with(response, RETRY_AFTER, "1")
}

/// A body that was not read to its end.
pub(super) fn unread(why: &Unread, most: usize) -> Response {
    match why {
        Unread::TooLarge(_) => message(
            StatusCode::PAYLOAD_TOO_LARGE,
            &format!("the body has more than {most} bytes"),
        ),
        Unread::TooSlow => message(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
        Unread::BrokenOff => message(StatusCode::BAD_REQUEST, "the body broke off"),
    }
}

/// The answer in the terms of whoever gets it. Trying again what cannot succeed helps nobody: a sender that
/// would do so for days is told that all is well, and the log says what is not.
pub(super) fn to(sender: Sender, response: Response) -> Response {
    let status = response.status();
    let passes = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::CONFLICT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE
    );
    if passes || status.is_success() || sender != Sender::Repeats {
        return response;
    }
    let mut response = response;
    *response.status_mut() = StatusCode::OK;
    with(response, DROPPED, status.as_str())
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

/// The answer to whoever asked for the run: how it ended, or where to look. `again`: somebody else had
/// asked for the same before.
pub(super) fn run(seen: &Seen, again: bool) -> Response {
    let status = match seen.outcome.as_deref() {
        None => StatusCode::ACCEPTED,
        Some(Ok(report)) => of_code(report.exit_code()),
        Some(Err(error)) => self::status(error),
    };
    let mut body = body(seen);
    if again {
        body["duplicate"] = true.into();
    }
    let response = of(status, &body);
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
        Some(Err(error)) => {
            let mut rest = json!({"state": "failed", "error": told(error)});
            if let Some(held) = HeldBy::of(error) {
                rest["held_by"] = held.run_id.clone().into();
            }
            rest
        }
    };
    if let (Value::Object(body), Value::Object(rest)) = (&mut body, rest) {
        body.extend(rest);
    }
    body
}

fn ended(report: &RunReport) -> Value {
    let mut body = json!({
        "state": if report.exit_code() == 0 { "done" } else { "failed" },
        "exit_code": report.exit_code(),
        "destination": report.destination,
        "dry_run": report.dry_run,
        "seconds": report.duration.as_secs_f64(),
        "streams": report.streams.iter().map(stream).collect::<Vec<_>>(),
    });
    if report.repeated {
        // Another process has run it.
        body["run_id"] = report.run_id.clone().into();
        body["duplicate"] = true.into();
    }
    body
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
