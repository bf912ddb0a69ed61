//! What an answer means: whether to read it, wait, try again, or whom to tell. The one table of
//! statuses, and the words for people.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use jiff::Timestamp;
use std::time::Duration;
use url::Url;

use super::headers;
use super::origin::shown;
use super::retry::RetryPolicy;
use super::{Request, Response};
use crate::error::{Error, ErrorKind, Result};

/// What to do with an answer, by its status and headers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Read the body.
    Answer,
    /// Go where `Location` says.
    Redirect,
    /// The credentials were refused.
    Unauthorized,
    /// The source as a whole sends too much; the wait, when given.
    Throttled(Option<Duration>),
    /// May pass on its own; the wait, when given.
    Retry(Option<Duration>),
    /// Will not pass.
    Refused,
}

/// The verdict, and the pause that the rate headers ask of the requests after this one.
pub(super) fn verdict(
    request: &Request,
    status: StatusCode,
    answer: &HeaderMap,
    now: Timestamp,
) -> (Verdict, Option<Duration>) {
    let code = status.as_u16();
    let now = headers::server_now(answer, now);
    let exhausted = headers::exhausted(answer, now);
    let reset = exhausted.and_then(|e| e.reset);
    let asked = || headers::retry_after(answer, now);
    let verdict = match code {
        429 => Verdict::Throttled(asked().or(reset)),
        503 if asked().is_some() => Verdict::Throttled(asked()),
        403 if exhausted.is_some() || answer.contains_key(RETRY_AFTER) => {
            Verdict::Throttled(asked().or(reset))
        }
        _ if status.is_success() || request.accept.contains(&code) => Verdict::Answer,
        401 => Verdict::Unauthorized,
        301 | 302 | 303 | 307 | 308 if answer.contains_key(LOCATION) => Verdict::Redirect,
        _ if RetryPolicy::STATUSES.contains(&code) || request.retry.contains(&code) => {
            Verdict::Retry(asked())
        }
        _ => Verdict::Refused,
    };
    (verdict, reset)
}

/// `` `GET https://api.example.com/v1/tickets` ``: never with a query.
pub(super) fn what(method: &Method, url: &Url) -> String {
    format!("`{method} {}`", shown(url))
}

/// The error for an answer that is none.
pub(super) fn refusal(request: &Request, status: StatusCode, credentials: &str) -> Error {
    let what = what(&request.method, &request.url);
    let code = status.as_u16();
    let answered = format!("{what} answered {code}");
    match code {
        401 => Error::new(
            ErrorKind::Auth,
            format!("{answered}: the API refused the credentials ({credentials})"),
        )
        .hint(format!(
            "check {credentials}: is it the right one, complete, and still valid for this account"
        )),
        403 => Error::new(
            ErrorKind::Auth,
            format!("{answered}: the API knows the credentials but does not allow this ({credentials})"),
        )
        .hint("grant the account behind these credentials access to this endpoint, or leave the stream out"),
        407 => Error::config(format!("{answered}: the proxy wants credentials"))
            .hint("put them in `HTTPS_PROXY`"),
        404 | 410 => Error::new(ErrorKind::Rejected, format!("{answered}: there is nothing there"))
            .hint(format!(
                "check the stream's `path` and `base_url`; where it means \"no rows\", add {code} to `ignore_status`"
            )),
        400 | 422 => Error::new(
            ErrorKind::Rejected,
            format!("{answered}: the API does not accept the request"),
        )
        .hint("check the stream's `params`, its paging parameters and page size, against the API's documentation"),
        429 => Error::new(
            ErrorKind::RateLimited,
            format!("{answered}: too many requests"),
        )
        .hint("lower `rate_limit` in the connector, or run again later"),
        300..=399 => Error::new(
            ErrorKind::Rejected,
            format!("{answered}, a redirect to nowhere"),
        )
        .hint("check the stream's `path` and `base_url`"),
        _ if may_pass(request, code) => Error::new(ErrorKind::Unavailable, answered)
            .hint("the API has trouble; run again later"),
        500.. => Error::new(ErrorKind::Unavailable, answered)
            .hint(format!("if this passes on its own, add {code} to `retry_status`")),
        _ => Error::new(ErrorKind::Rejected, answered)
            .hint("check the stream's request against the API's documentation"),
    }
}

fn may_pass(request: &Request, code: u16) -> bool {
    RetryPolicy::STATUSES.contains(&code) || request.retry.contains(&code)
}

/// The answer's body as JSON text, without a byte order mark. `None`: the answer has no content by
/// its status (204, 205). The text is not parsed here, only looked at.
///
/// # Errors
/// [`ErrorKind::Decode`] saying what came instead: an HTML page, nothing, something else.
pub fn expect_json(response: &Response) -> Result<Option<Bytes>> {
    if matches!(response.status.as_u16(), 204 | 205) {
        return Ok(None);
    }
    let body = match response.body.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => response.body.slice_ref(rest),
        None => response.body.clone(),
    };
    let media = media_type(&response.headers);
    let first = body.iter().find(|b| !b.is_ascii_whitespace());
    let came = match first {
        // NaN and Infinity, which some servers write, are for the parser to refuse.
        Some(b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') if !is_page(&media) => {
            return Ok(Some(body));
        }
        // JSON whatever its label says.
        Some(b'{' | b'[') => return Ok(Some(body)),
        None => "an empty body",
        Some(b'<') if is_page(&media) || looks_like_html(&body) => "an HTML page",
        Some(b'<') => "XML",
        Some(0xfe | 0xff) => "UTF-16",
        Some(_) if is_page(&media) => "an HTML page",
        Some(_) => "something else",
    };
    let hint = match came {
        "an HTML page" => {
            "this is often a login or error page: check `base_url`, the stream's `path`, and the credentials"
        }
        "an empty body" => {
            "if this means \"no rows\", the API should answer 204; check the stream's `path`"
        }
        _ => {
            "ask the API for JSON, often by a header `Accept: application/json` or a parameter such as `format`"
        }
    };
    Err(Error::new(
        ErrorKind::Decode,
        format!(
            "`{}` answered {} with {came}, not JSON (content-type {})",
            shown(&response.url),
            response.status.as_u16(),
            if media.is_empty() {
                "not given"
            } else {
                &media
            },
        ),
    )
    .hint(hint))
}

/// Whether a body whose end nothing marks (no length, no chunks) stops in the middle of JSON.
pub(super) fn stops_early(body: &[u8]) -> bool {
    let mut visible = body.iter().filter(|b| !b.is_ascii_whitespace());
    let first = visible.next();
    let last = visible.next_back().or(first);
    match first {
        Some(b'{') => last != Some(&b'}'),
        Some(b'[') => last != Some(&b']'),
        _ => false,
    }
}

fn is_page(media: &str) -> bool {
    media.contains("html")
}

fn looks_like_html(body: &[u8]) -> bool {
    let start = &body[..body.len().min(512)];
    let start = String::from_utf8_lossy(start).to_ascii_lowercase();
    start.contains("<!doctype html") || start.contains("<html")
}

/// `text/html` of `text/html; charset=utf-8`, and nothing that could not be a media type.
fn media_type(headers: &HeaderMap) -> String {
    headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(';').next())
        .map(|v| v.trim().to_ascii_lowercase())
        .filter(|v| {
            v.len() <= 60
                && v.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"/.+-_".contains(&b))
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn answer(status: u16, content_type: &'static str, body: &'static [u8]) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Response {
            status: StatusCode::from_u16(status).unwrap(),
            url: Url::parse("https://api.example.com/v1/x?key=hidden").unwrap(),
            headers,
            body: Bytes::from_static(body),
        }
    }

    #[test]
    fn json_in_many_guises() {
        for (content_type, body) in [
            ("application/json", &b"[]"[..]),
            ("text/plain", b" \n{}"),
            ("text/html; charset=utf-8", b"{\"a\":1}"),
            ("application/json", b"\xef\xbb\xbf{}"),
            ("application/json", b"null"),
        ] {
            let json = expect_json(&answer(200, content_type, body)).unwrap();
            assert!(!json.unwrap().starts_with(b"\xef"));
        }
        assert_eq!(expect_json(&answer(204, "", b"")).unwrap(), None);
    }

    #[test]
    fn what_is_no_json_is_named() {
        for (content_type, body, expected) in [
            (
                "text/html; charset=utf-8",
                &b"<!DOCTYPE html><title>Log in</title>"[..],
                "answered 200 with an HTML page, not JSON (content-type text/html)",
            ),
            ("application/json", b"<HTML>", "an HTML page"),
            ("text/html", b"Please log in", "an HTML page"),
            ("application/xml", b"<?xml version='1.0'?><a/>", "XML"),
            ("application/json", b"", "an empty body"),
            ("application/json", b"  \n", "an empty body"),
            ("text/csv", b"id,name\n", "something else"),
            ("application/json", b"\xff\xfe{\0", "UTF-16"),
        ] {
            let e = expect_json(&answer(200, content_type, body)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Decode);
            assert!(e.to_string().contains(expected), "{e}");
            assert!(!e.chain().contains("hidden"), "{e}");
        }
    }

    #[test]
    fn unmarked_ends_are_checked() {
        for whole in [
            &b"{}"[..],
            b" [1] \n",
            b"",
            b"{\"a\":1}\n{\"a\":2}\n",
            b"null",
            b"x",
        ] {
            assert!(!stops_early(whole));
        }
        for cut in [&b"{"[..], b"[", b"[{\"a\":1},", b"{\"a\":[1]"] {
            assert!(stops_early(cut));
        }
    }

    #[test]
    fn verdicts() {
        let mut request = Request::get(Url::parse("https://a.test/").unwrap());
        request.accept = vec![404];
        request.retry = vec![420];
        let check = |code: u16, header: Option<(&'static str, &'static str)>| {
            let mut headers = HeaderMap::new();
            if let Some((k, v)) = header {
                headers.insert(k, HeaderValue::from_static(v));
            }
            let status = StatusCode::from_u16(code).unwrap();
            verdict(&request, status, &headers, Timestamp::UNIX_EPOCH).0
        };
        let five = Some(Duration::from_secs(5));
        assert_eq!(check(200, None), Verdict::Answer);
        assert_eq!(check(404, None), Verdict::Answer);
        assert_eq!(check(410, None), Verdict::Refused);
        assert_eq!(check(401, None), Verdict::Unauthorized);
        assert_eq!(check(403, None), Verdict::Refused);
        assert_eq!(
            check(403, Some(("retry-after", "5"))),
            Verdict::Throttled(five)
        );
        assert_eq!(
            check(403, Some(("x-ratelimit-remaining", "0"))),
            Verdict::Throttled(None)
        );
        assert_eq!(
            check(403, Some(("x-ratelimit-remaining", "7"))),
            Verdict::Refused
        );
        assert_eq!(check(429, None), Verdict::Throttled(None));
        assert_eq!(
            check(429, Some(("retry-after", "x"))),
            Verdict::Throttled(None)
        );
        assert_eq!(
            check(503, Some(("retry-after", "5"))),
            Verdict::Throttled(five)
        );
        assert_eq!(check(503, None), Verdict::Retry(None));
        assert_eq!(check(500, Some(("retry-after", "5"))), Verdict::Retry(five));
        assert_eq!(check(420, None), Verdict::Retry(None));
        assert_eq!(check(501, None), Verdict::Refused);
        assert_eq!(check(302, Some(("location", "/x"))), Verdict::Redirect);
        assert_eq!(check(304, None), Verdict::Refused);
    }
}
