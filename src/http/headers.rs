//! What an answer's headers say about waiting: `Retry-After` and the families of rate-limit
//! headers in use. Pure; whatever a server sends, a result is a sane duration or nothing.

use std::time::Duration;

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};
use jiff::Timestamp;

/// Longer waits than this are taken for garbage: no API counts its quota in longer periods.
const LONGEST: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// Numbers above this are seconds since 1970 (2001-09-09), not seconds from now.
const EPOCH_SECONDS: f64 = 1e9;

/// Numbers above this are milliseconds since 1970 (2001-09-09).
const EPOCH_MILLIS: f64 = 1e12;

/// The server's clock: its `Date` header, else ours. Waits until a point in time are measured
/// against it, so that a wrong clock on either side does no harm.
pub(super) fn server_now(headers: &HeaderMap, ours: Timestamp) -> Timestamp {
    text(headers, DATE.as_str())
        .and_then(http_date)
        .unwrap_or(ours)
}

/// The wait that `Retry-After` asks for (RFC 9110 §10.2.3: seconds or a date). `None` for zero,
/// the past and garbage: the caller backs off by its own rule.
pub(super) fn retry_after(headers: &HeaderMap, server_now: Timestamp) -> Option<Duration> {
    let value = text(headers, RETRY_AFTER.as_str())?.trim();
    match value.parse::<f64>() {
        Ok(seconds) => from_seconds(seconds),
        Err(_) => between(server_now, http_date(value)?),
    }
}

/// What the rate-limit headers say when one of them says that nothing is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted {
    /// Wait until requests are allowed again, when given.
    pub reset: Option<Duration>,
}

/// Looks for an exhausted quota in `X-RateLimit-*`, `X-Rate-Limit-*`, `RateLimit-*` (any header
/// with `remaining` in its name and its sibling with `reset`) and in the structured `RateLimit`.
pub(super) fn exhausted(headers: &HeaderMap, server_now: Timestamp) -> Option<Exhausted> {
    let mut found: Option<Exhausted> = None;
    let mut note = |reset: Option<Duration>| {
        let longest = found.and_then(|f| f.reset).max(reset);
        found = Some(Exhausted { reset: longest });
    };
    for (name, value) in headers {
        let name = name.as_str();
        if !name.contains("ratelimit") && !name.contains("rate-limit") {
            continue;
        }
        let Ok(value) = value.to_str() else { continue };
        if name.contains("remaining") {
            if leading_number(value).is_some_and(|left| left < 1.0) {
                note(sibling_reset(headers, name, server_now));
            }
        } else if name == "ratelimit" {
            for (left, reset) in structured(value) {
                if left < 1.0 {
                    note(reset.and_then(from_seconds));
                }
            }
        }
    }
    found
}

/// The reset that belongs to the header `remaining`.
fn sibling_reset(headers: &HeaderMap, remaining: &str, server_now: Timestamp) -> Option<Duration> {
    let after = text(headers, &remaining.replace("remaining", "reset-after"))
        .and_then(leading_number)
        .and_then(from_seconds);
    if after.is_some() {
        return after;
    }
    let value = text(headers, &remaining.replace("remaining", "reset"))?.trim();
    match leading_number(value) {
        Some(millis) if millis > EPOCH_MILLIS => between(server_now, epoch(millis / 1e3)?),
        Some(seconds) if seconds > EPOCH_SECONDS => between(server_now, epoch(seconds)?),
        // `2026-01-02T…` and `Fri, 02 Jan…` are dates, `30` and `30, 60;w=60` are not.
        _ if value.len() >= 19 => {
            between(server_now, value.parse().ok().or_else(|| http_date(value))?)
        }
        Some(seconds) => from_seconds(seconds),
        None => None,
    }
}

/// Remaining and reset (seconds from now) of each item of `RateLimit: "policy";r=0;t=30` and of
/// the earlier drafts' `limit=100, remaining=0, reset=30`.
fn structured(value: &str) -> Vec<(f64, Option<f64>)> {
    let unquoted: String = value
        .split('"')
        .enumerate()
        .filter_map(|(i, part)| (i % 2 == 0).then_some(part))
        .collect();
    let read = |item: &str, separator: char, left: &str, reset: &str| {
        let get = |key: &str| {
            item.split(separator)
                .filter_map(|pair| pair.trim().split_once('='))
                .find(|(k, _)| k.trim().eq_ignore_ascii_case(key))
                .and_then(|(_, v)| leading_number(v))
        };
        get(left).map(|l| (l, get(reset)))
    };
    if let Some(item) = read(&unquoted, ',', "remaining", "reset") {
        return vec![item];
    }
    unquoted
        .split(',')
        .filter_map(|item| read(item, ';', "r", "t"))
        .collect()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The number that `value` starts with, up to a `,` or `;`.
fn leading_number(value: &str) -> Option<f64> {
    let value = value.split([',', ';']).next()?.trim();
    value.parse().ok().filter(|n: &f64| n.is_finite())
}

fn from_seconds(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|wait| !wait.is_zero() && *wait <= LONGEST)
}

fn between(now: Timestamp, then: Timestamp) -> Option<Duration> {
    Duration::try_from(then.duration_since(now))
        .ok()
        .filter(|wait| !wait.is_zero() && *wait <= LONGEST)
}

fn epoch(seconds: f64) -> Option<Timestamp> {
    // Saturates, and `from_millisecond` refuses what jiff cannot hold.
    Timestamp::from_millisecond((seconds * 1e3) as i64).ok()
}

/// Any of the three date formats of RFC 9110 §5.6.7.
fn http_date(value: &str) -> Option<Timestamp> {
    httpdate::parse_http_date(value.trim())
        .ok()?
        .try_into()
        .ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    const NOW: &str = "2026-03-01T12:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| {
                (
                    HeaderName::from_bytes(k.as_bytes()).unwrap(),
                    HeaderValue::from_str(v).unwrap(),
                )
            })
            .collect()
    }

    fn secs(n: u64) -> Option<Duration> {
        Some(Duration::from_secs(n))
    }

    #[test]
    fn retry_after_in_every_form() {
        let cases = [
            ("0", None),
            ("-1", None),
            ("", None),
            ("soon", None),
            ("NaN", None),
            ("inf", None),
            ("1e300", None),
            ("1.5", Some(Duration::from_millis(1500))),
            ("7200", secs(7200)),
            ("Sun, 01 Mar 2026 12:00:30 GMT", secs(30)),
            ("Sunday, 01-Mar-26 12:00:30 GMT", secs(30)),
            ("Sun Mar  1 12:00:30 2026", secs(30)),
            ("Sun, 01 Mar 2026 11:59:30 GMT", None),
            ("Sun, 01 Mar 2099 12:00:00 GMT", None),
        ];
        for (value, expected) in cases {
            assert_eq!(
                retry_after(&map(&[("retry-after", value)]), now()),
                expected,
                "{value}"
            );
        }
        assert_eq!(retry_after(&HeaderMap::new(), now()), None);
    }

    #[test]
    fn dates_are_measured_against_the_servers_clock() {
        // The server is an hour behind us.
        let headers = map(&[
            ("date", "Sun, 01 Mar 2026 11:00:00 GMT"),
            ("retry-after", "Sun, 01 Mar 2026 11:00:07 GMT"),
        ]);
        assert_eq!(retry_after(&headers, server_now(&headers, now())), secs(7));
        assert_eq!(server_now(&map(&[("date", "yesterday")]), now()), now());
    }

    #[test]
    fn every_family_of_rate_headers() {
        let epoch = now().as_second() + 40;
        let (s, ms) = (epoch.to_string(), format!("{epoch}000"));
        type Pairs<'a> = &'a [(&'a str, &'a str)];
        let cases: &[(Pairs, Option<Option<Duration>>)] = &[
            (
                &[("x-ratelimit-remaining", "1"), ("x-ratelimit-reset", &s)],
                None,
            ),
            (
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &s)],
                Some(secs(40)),
            ),
            (
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &ms)],
                Some(secs(40)),
            ),
            (
                &[
                    ("x-rate-limit-remaining", "0"),
                    ("x-rate-limit-reset", "40"),
                ],
                Some(secs(40)),
            ),
            (
                &[("ratelimit-remaining", "0"), ("ratelimit-reset", "40")],
                Some(secs(40)),
            ),
            (
                &[("ratelimit-remaining", "-3"), ("ratelimit-reset", "-1")],
                Some(None),
            ),
            (&[("x-ratelimit-remaining", "0")], Some(None)),
            (
                &[
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "junk"),
                ],
                Some(None),
            ),
            (
                &[
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset", "2026-03-01T12:00:40Z"),
                ],
                Some(secs(40)),
            ),
            (
                &[
                    ("x-ratelimit-remaining", "0"),
                    ("x-ratelimit-reset-after", "0.5"),
                ],
                Some(Some(Duration::from_millis(500))),
            ),
            (
                &[
                    ("x-ratelimit-remaining-minute", "0"),
                    ("x-ratelimit-reset-minute", "9"),
                ],
                Some(secs(9)),
            ),
            (&[("ratelimit", r#""p";r=0;t=40"#)], Some(secs(40))),
            (
                &[("ratelimit", r#""a,b;r=0";r=5;t=40, "day";r=0;t=90"#)],
                Some(secs(90)),
            ),
            (
                &[("ratelimit", "limit=100, remaining=0, reset=40")],
                Some(secs(40)),
            ),
            (&[("ratelimit", r#""p";r=3;t=40"#)], None),
            (&[("x-remaining", "0")], None),
        ];
        for (headers, expected) in cases {
            assert_eq!(
                exhausted(&map(headers), now()).map(|e| e.reset),
                *expected,
                "{headers:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_value_panics_or_gives_a_senseless_wait(
            value in "[ -~]{0,40}", number in any::<f64>(), remaining in any::<i64>(),
        ) {
            for value in [value, number.to_string(), format!("{number:e}")] {
                let Ok(value) = HeaderValue::from_str(&value) else { continue };
                let mut headers = HeaderMap::new();
                for name in [
                    "retry-after", "date", "ratelimit", "ratelimit-reset", "x-ratelimit-reset",
                    "x-rate-limit-reset", "x-ratelimit-reset-after",
                ] {
                    headers.insert(HeaderName::from_static(name), value.clone());
                }
                for name in ["ratelimit-remaining", "x-ratelimit-remaining", "x-rate-limit-remaining"] {
                    headers.insert(HeaderName::from_static(name), HeaderValue::from(remaining.min(1)));
                }
                let at = server_now(&headers, now());
                for wait in [
                    retry_after(&headers, at),
                    exhausted(&headers, at).and_then(|e| e.reset),
                ].into_iter().flatten() {
                    prop_assert!(!wait.is_zero() && wait <= LONGEST);
                }
            }
        }

        #[test]
        fn whole_seconds_are_kept_exactly(seconds in 1u64..2_000_000) {
            let headers = map(&[("retry-after", &seconds.to_string())]);
            prop_assert_eq!(retry_after(&headers, now()), secs(seconds));
        }
    }
}
