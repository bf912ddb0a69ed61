//! Paging by number, time filters, and how an endpoint refuses a parameter.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{MAX_PAGE, problem};

/// Records a page when the caller does not say.
const DEFAULT_PAGE: u64 = 25;

/// `page` and `per_page`, as sent.
#[derive(Debug, Default, Deserialize)]
pub struct PageQuery {
    page: Option<String>,
    per_page: Option<String>,
}

/// A page that can be served: numbers from 1, sizes up to [`MAX_PAGE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    number: u64,
    size: u64,
}

/// `updated_since` and `updated_until`, as sent.
#[derive(Debug, Default, Deserialize)]
pub struct TimeQuery {
    updated_since: Option<String>,
    updated_until: Option<String>,
}

/// Bounds on `updated_at`, both included, in seconds after 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Nothing older.
    pub since: i64,
    /// Records are served as they were then; nothing newer.
    pub until: i64,
}

#[derive(Serialize)]
struct Body<T> {
    data: Vec<T>,
    meta: Meta,
}

#[derive(Serialize)]
struct Meta {
    page: u64,
    per_page: u64,
    total_pages: u64,
    total: u64,
}

/// A parameter that cannot be understood: status 400.
#[derive(Debug)]
pub struct BadParameter {
    name: &'static str,
    wanted: &'static str,
}

impl BadParameter {
    /// Names the parameter and what it must be.
    pub fn new(name: &'static str, wanted: &'static str) -> Self {
        Self { name, wanted }
    }
}

impl IntoResponse for BadParameter {
    fn into_response(self) -> Response {
        let message = format!("parameter `{}` must be {}", self.name, self.wanted);
        problem(StatusCode::BAD_REQUEST, "invalid_parameter", message)
    }
}

impl PageQuery {
    /// The page asked for. A size above the cap is served with the cap, as most APIs do.
    pub fn page(&self) -> Result<Page, BadParameter> {
        Ok(Page {
            number: count("page", self.page.as_deref())?.unwrap_or(1),
            size: size("per_page", self.per_page.as_deref())?,
        })
    }
}

/// A page size as sent, capped.
pub fn size(name: &'static str, text: Option<&str>) -> Result<u64, BadParameter> {
    Ok(count(name, text)?.unwrap_or(DEFAULT_PAGE).min(MAX_PAGE))
}

fn count(name: &'static str, text: Option<&str>) -> Result<Option<u64>, BadParameter> {
    match text.map(str::parse) {
        None => Ok(None),
        Some(Ok(n)) if n >= 1 => Ok(Some(n)),
        Some(_) => Err(BadParameter {
            name,
            wanted: "a whole number from 1",
        }),
    }
}

impl Page {
    /// The page's part of `all`, made into records only then, with the totals.
    pub fn respond<I: Copy, T: Serialize>(self, all: &[I], record: impl Fn(I) -> T) -> Response {
        let total = all.len() as u64;
        let first = (self.number - 1).saturating_mul(self.size).min(total) as usize;
        let last = all.len().min(first + self.size as usize);
        Json(Body {
            data: all[first..last].iter().copied().map(record).collect(),
            meta: Meta {
                page: self.number,
                per_page: self.size,
                total_pages: total.div_ceil(self.size),
                total,
            },
        })
        .into_response()
    }
}

impl TimeQuery {
    /// The bounds; without them everything up to `now`. An upper bound in the future is now.
    pub fn bounds(&self, now: i64) -> Result<Bounds, BadParameter> {
        let since = match &self.updated_since {
            None => i64::MIN,
            // A fraction of a second above a whole one leaves that whole second out.
            Some(text) => {
                let since = parse("updated_since", text)?;
                since.as_second() + i64::from(since.subsec_nanosecond() > 0)
            }
        };
        let until = match &self.updated_until {
            None => now,
            Some(text) => parse("updated_until", text)?.as_second().min(now),
        };
        Ok(Bounds { since, until })
    }
}

fn parse(name: &'static str, text: &str) -> Result<Timestamp, BadParameter> {
    let midnight = || format!("{text}T00:00:00Z").parse();
    text.parse()
        .or_else(|_| midnight())
        .map_err(|_| BadParameter {
            name,
            wanted: "a date or an RFC 3339 time, like 2026-01-31 or 2026-01-31T12:00:00Z",
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(page: &str, per_page: &str) -> Result<Page, BadParameter> {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        PageQuery {
            page: given(page),
            per_page: given(per_page),
        }
        .page()
    }

    #[test]
    fn sizes_are_capped_and_numbers_start_at_one() {
        let of = |number, size| Page { number, size };
        assert_eq!(page("", "").unwrap(), of(1, DEFAULT_PAGE));
        assert_eq!(page("3", "500").unwrap(), of(3, MAX_PAGE));
        assert!(page("0", "").is_err());
        assert!(page("", "-1").is_err());
        assert!(page("two", "").is_err());
    }

    #[test]
    fn bounds_include_both_ends() {
        let query = |since: &str, until: &str| TimeQuery {
            updated_since: Some(since.to_owned()),
            updated_until: Some(until.to_owned()),
        };
        let bounds = |since, until| Bounds { since, until };
        assert_eq!(
            query("1970-01-02", "1970-01-01T00:00:09.9Z")
                .bounds(1_000_000)
                .unwrap(),
            bounds(86_400, 9)
        );
        assert_eq!(
            query("1970-01-01T01:00:00.001+01:00", "2999-01-01")
                .bounds(50)
                .unwrap(),
            bounds(1, 50)
        );
        assert!(query("yesterday", "1970-01-01").bounds(0).is_err());
    }
}
