//! Attempts without a usable answer: what went wrong, whether it may pass, and what is said in the end.

use std::error::Error as StdError;
use std::time::Duration;

use http::StatusCode;

use super::classify::what;
use super::rate::seconds;
use super::{HttpOptions, Request};
use crate::error::{Error, ErrorKind, Result};

/// An attempt that failed and may pass.
pub(super) struct Failure {
    /// What went wrong.
    pub error: Error,
    /// Surely nothing reached the server.
    pub unsent: bool,
    /// The wait that the server asked for.
    pub asked: Option<Duration>,
}

/// The failure of a request without an answer.
///
/// # Errors
/// One that will not pass.
pub(super) fn not_answered(
    options: &HttpOptions,
    signed: &Request,
    timeout: Duration,
    e: &reqwest::Error,
) -> Result<Failure> {
    let what = what(&signed.method, &signed.url);
    let mut at = e.source();
    while let Some(cause) = at {
        if let Some(ours) = cause.downcast_ref::<Error>() {
            let error = Error::new(ours.kind(), format!("could not send {what}: {ours}"));
            let error = match ours.find_hint() {
                Some(hint) => error.hint(hint),
                None => error,
            };
            return match error.is_transient() {
                true => Ok(Failure {
                    error,
                    unsent: true,
                    asked: None,
                }),
                false => Err(error),
            };
        }
        if let Some(tls) = tls_error(cause) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "could not send {what}: the TLS certificate of the server is not valid: {tls}"
                ),
            )
            .transient(false)
            .hint("if the server's certificate is signed by a private authority, give that with `--ca-file` or `SSL_CERT_FILE`; verification cannot be turned off"));
        }
        at = cause.source();
    }
    let unsent = e.is_connect();
    let message = match (unsent, e.is_timeout()) {
        (true, true) => format!(
            "could not send {what}: no connection within {}",
            seconds(options.connect_timeout)
        ),
        (true, false) => format!("could not send {what}: {}", root_cause(e)),
        (false, true) => format!(
            "{what} did not answer within {}",
            seconds(timeout.min(options.read_timeout))
        ),
        (false, false) => format!("{what}: no answer: {}", root_cause(e)),
    };
    Ok(Failure {
        error: Error::new(ErrorKind::Unavailable, message)
            .hint("check that the API is up and can be reached from this machine"),
        unsent,
        asked: None,
    })
}

/// The error of an answer that says `too many requests`, after which nothing is sent again.
pub(super) fn throttled(request: &Request, status: StatusCode, sent: u32) -> Error {
    let what = what(&request.method, &request.url);
    let times = if sent > 1 {
        format!(", {sent} times")
    } else {
        String::new()
    };
    Error::new(
        ErrorKind::RateLimited,
        format!(
            "{what} answered {}{times}: too many requests",
            status.as_u16()
        ),
    )
    .hint("lower `rate_limit` in the connector, or run again later")
}

/// The error of a call whose attempts are used up.
pub(super) fn given_up(error: Error, sent: u32, over: Duration) -> Error {
    match sent {
        0 | 1 => error,
        _ => error.context(format!(
            "gave up after {sent} attempts in {}",
            seconds(over)
        )),
    }
}

/// What went wrong with a certificate, if that is what went wrong.
fn tls_error(cause: &(dyn StdError + 'static)) -> Option<String> {
    if let Some(io) = cause.downcast_ref::<std::io::Error>() {
        // An I/O error that wraps another is not among that one's sources.
        return tls_error(io.get_ref()?);
    }
    match cause.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(why) => Some(why.to_string()),
        _ => None,
    }
}

/// The last error of the chain: the fact, without the layers' names or the URL.
pub(super) fn root_cause(e: &reqwest::Error) -> String {
    let mut cause: &dyn StdError = e;
    while let Some(next) = cause.source() {
        cause = next;
    }
    match cause.downcast_ref::<reqwest::Error>() {
        // Its own text would quote the URL.
        Some(_) => "the request failed".to_owned(),
        None => cause.to_string(),
    }
}
