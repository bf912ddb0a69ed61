//! Paging: a state, how it is put on a request, how the next state follows from an answer, and when
//! it ends. Pure: nothing here sends anything.
//!
//! A transition is a [`Paginate`], one file each; [`Pager`] adds what all share: the signals to stop,
//! the check for loops, the limits.

mod cursor;
mod link;
mod number;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use http::HeaderMap;
use url::Url;

use super::records::Walked;
use crate::connector::{Locator, Pagination, Step};
use crate::error::{Error, ErrorKind, Result};

/// Where the paging is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Token {
    /// The first page of a transition that has no name for it.
    Start,
    /// A page number.
    Page(u64),
    /// Records to skip.
    Offset(u64),
    /// What the server gave to ask for the next page with.
    Cursor(String),
    /// The URL of the next page, as the server gave it.
    Url(Url),
}

/// An answer, as paging sees it.
#[derive(Clone, Copy, Debug)]
pub struct PageFacts<'a> {
    /// URL that answered.
    pub url: &'a Url,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its records and wanted values.
    pub walked: &'a Walked,
    /// A hash of its body.
    pub fingerprint: u64,
}

impl PageFacts<'_> {
    /// The text at a locator; `None` when absent, null or empty.
    pub fn get(&self, locator: &Locator) -> Option<&str> {
        let text = match locator {
            Locator::Body(pointer) => self.walked.values.get(pointer).map(String::as_str),
            Locator::Header(name) => self.headers.get(name).and_then(|v| v.to_str().ok()),
        };
        text.map(str::trim).filter(|t| !t.is_empty())
    }

    /// The text at a locator that names the next page; an API may say `false` when there is none.
    fn next(&self, locator: &Locator) -> Option<&str> {
        self.get(locator).filter(|text| *text != "false")
    }

    fn number(&self, locator: Option<&Locator>) -> Option<u64> {
        let text = self.get(locator?)?;
        text.parse().ok().or_else(|| {
            // Some servers write counts as `12.0`.
            text.parse::<f64>()
                .ok()
                .filter(|f| *f >= 0.0 && f.fract() == 0.0 && *f < 9e15)
                .map(|f| f as u64)
        })
    }
}

/// A request that a token is put on.
#[derive(Debug)]
pub struct Target<'a> {
    /// URL; query parameters are added to it, or it is replaced.
    pub url: &'a mut Url,
    /// JSON body of a POST.
    pub body: Option<&'a mut serde_json::Value>,
}

/// A transition between pages.
pub trait Paginate: Send + Sync {
    /// The token of the first page.
    fn first(&self) -> Token;
    /// Puts a token on a request.
    fn apply(&self, token: &Token, target: &mut Target<'_>);
    /// The token after `token`; `None` when the answer names no next page.
    ///
    /// # Errors
    /// The answer names a next page in a way that cannot be followed.
    fn next(&self, token: &Token, facts: &PageFacts<'_>) -> Result<Option<Token>>;
    /// The token of the page `n` pages after the first, where it can be known without the ones between.
    fn nth(&self, n: u64) -> Option<Token>;
}

/// The transition that the model names.
pub fn paginate(pagination: &Pagination) -> Box<dyn Paginate> {
    match &pagination.step {
        Step::Single => Box::new(number::Single),
        Step::Page { param, first, next } => Box::new(number::Page {
            param: param.clone(),
            first: *first,
            next: next.clone(),
        }),
        Step::Offset { param } => Box::new(number::Offset {
            param: param.clone(),
            size: pagination.size.as_ref().map_or(0, |s| s.value),
        }),
        Step::Cursor { param, next } => Box::new(cursor::Cursor {
            param: param.clone(),
            next: next.clone(),
        }),
        Step::Link { rel } => Box::new(link::Link { rel: rel.clone() }),
        Step::NextUrl { next } => Box::new(link::NextUrl { next: next.clone() }),
    }
}

/// JSON pointers that paging wants to see.
pub fn wanted(pagination: &Pagination) -> Vec<&str> {
    let step = match &pagination.step {
        Step::Page { next, .. } => next.as_ref(),
        Step::Cursor { next, .. } | Step::NextUrl { next } => Some(next),
        Step::Single | Step::Offset { .. } | Step::Link { .. } => None,
    };
    [
        step,
        pagination.has_more.as_ref(),
        pagination.total_pages.as_ref(),
        pagination.total.as_ref(),
    ]
    .into_iter()
    .flatten()
    .filter_map(|l| match l {
        Locator::Body(pointer) => Some(pointer.as_str()),
        Locator::Header(_) => None,
    })
    .collect()
}

/// Follows one listing from its first page to its end.
pub struct Pager<'a> {
    rules: &'a Pagination,
    step: Box<dyn Paginate>,
    pages: u64,
    records: u64,
    /// Records of the first page: the size that the server really serves.
    page_size: u64,
    empty_in_a_row: u32,
    seen: HashSet<u64>,
    last_fingerprint: Option<u64>,
    totals: Option<u64>,
    shrank: bool,
}

impl<'a> Pager<'a> {
    /// A pager before its first page.
    pub fn new(rules: &'a Pagination) -> Self {
        Self {
            rules,
            step: paginate(rules),
            pages: 0,
            records: 0,
            page_size: 0,
            empty_in_a_row: 0,
            seen: HashSet::new(),
            last_fingerprint: None,
            totals: None,
            shrank: false,
        }
    }

    /// Token of the first page.
    pub fn first(&self) -> Token {
        self.step.first()
    }

    /// Records so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The number of records that the API announced, where it did.
    pub fn announced(&self) -> Option<u64> {
        self.totals
    }

    /// Whether records went away while the listing was read. Where pages are counted, those behind
    /// them moved up, and some may have slipped from a page not yet read to one already read.
    pub fn may_have_slipped(&self) -> bool {
        self.shrank && matches!(self.rules.step, Step::Page { .. } | Step::Offset { .. })
    }

    /// Tokens of the pages that can be asked for ahead, now that the first page is known. Empty
    /// where the connector does not trust the totals, or there are none.
    pub fn ahead(&self, facts: &PageFacts<'_>) -> Vec<Token> {
        if !self.rules.read_ahead || self.pages != 1 {
            return Vec::new();
        }
        let pages = facts.number(self.rules.total_pages.as_ref()).or_else(|| {
            let total = facts.number(self.rules.total.as_ref())?;
            (self.page_size > 0).then(|| total.div_ceil(self.page_size))
        });
        let pages = pages.unwrap_or(0).min(self.rules.max_pages);
        (1..pages).map_while(|n| self.step.nth(n)).collect()
    }

    /// Takes an answer in; the token of the next page, or `None` at the end.
    ///
    /// # Errors
    /// The paging turns in a circle, exceeds its limits, or cannot be followed.
    pub fn turn(&mut self, token: &Token, facts: &PageFacts<'_>) -> Result<Option<Token>> {
        let count = facts.walked.records;
        self.pages += 1;
        self.records += count;
        if self.pages == 1 {
            self.page_size = count;
        }
        if let Some(total) = facts.number(self.rules.total.as_ref()) {
            self.shrank |= self.totals.is_some_and(|before| total < before);
            self.totals = Some(total);
        }
        if let Some(limit) = self.rules.max_records
            && self.records >= limit
        {
            return Err(Error::new(
                ErrorKind::Rejected,
                format!("the listing reached {limit} records, beyond which this API serves none"),
            )
            .hint("records would be missing: split the extraction with `incremental.window`, or read with `--since` and `--until`"));
        }
        // The page itself coming again is a circle, but an empty page may look like the one before.
        if count > 0 && self.last_fingerprint.replace(facts.fingerprint) == Some(facts.fingerprint)
        {
            return Err(circle("the same page came twice in a row"));
        }
        if self.stops(facts) {
            return Ok(None);
        }
        let Some(next) = self.step.next(token, facts)? else {
            return Ok(None);
        };
        let mut hasher = DefaultHasher::new();
        token.hash(&mut hasher);
        self.seen.insert(hasher.finish());
        let mut hasher = DefaultHasher::new();
        next.hash(&mut hasher);
        if self.seen.contains(&hasher.finish()) {
            return Err(circle("the answer leads to a page that was read before"));
        }
        if self.pages >= self.rules.max_pages {
            return Err(Error::new(
                ErrorKind::Rejected,
                format!("the listing did not end within `max_pages: {}`", self.rules.max_pages),
            )
            .hint("raise `max_pages` if the listing is really that long; else the API does not signal its last page the way the connector says"));
        }
        Ok(Some(next))
    }

    /// Whether any definite signal says that this was the last page.
    fn stops(&mut self, facts: &PageFacts<'_>) -> bool {
        let count = facts.walked.records;
        self.empty_in_a_row = if count == 0 {
            self.empty_in_a_row + 1
        } else {
            0
        };
        if let Some(locator) = &self.rules.has_more {
            // Says more than any count: a server that filters after paging sends short and empty pages.
            return !matches!(facts.get(locator), Some("true" | "True" | "1" | "yes"));
        }
        // A transition by the server's own word ends when it gives none.
        if matches!(
            self.rules.step,
            Step::Cursor { .. } | Step::Link { .. } | Step::NextUrl { .. }
        ) {
            return false;
        }
        if self.empty_in_a_row >= self.rules.stop_after_empty_pages.max(1) {
            return true;
        }
        // A short page ends a listing only where the connector says so, or the totals agree: servers
        // cap the size asked for, and filter after paging.
        let short = count < self.page_size;
        if self.rules.stop_on_short_page
            && (short
                || self.pages == 1
                    && self
                        .rules
                        .size
                        .as_ref()
                        .is_some_and(|s| self.page_size < s.value))
        {
            return true;
        }
        let all_pages = facts
            .number(self.rules.total_pages.as_ref())
            .is_some_and(|total| self.pages >= total);
        let all_records = facts
            .number(self.rules.total.as_ref())
            .is_some_and(|total| self.records >= total);
        // A total is an aid, not a bound, unless the connector trusts it: a full last page is
        // followed by one more question.
        (all_pages || all_records)
            && (self.rules.read_ahead || short || self.page_size_is_partial())
    }

    /// The first page was not full, so nothing can follow it.
    fn page_size_is_partial(&self) -> bool {
        self.pages == 1
            && self
                .rules
                .size
                .as_ref()
                .is_some_and(|s| self.page_size < s.value)
    }

    /// Puts a token on a request.
    pub fn apply(&self, token: &Token, target: &mut Target<'_>) {
        if let (Some(size), false) = (&self.rules.size, matches!(token, Token::Url(_)))
            && let Some(param) = &size.param
        {
            set_query(target.url, param, &size.value.to_string());
        }
        self.step.apply(token, target);
    }
}

fn circle(what: &str) -> Error {
    Error::new(ErrorKind::Decode, format!("the paging turns in a circle: {what}"))
        .hint("check the connector's `pagination`: a parameter that the API ignores, or a wrong first page")
}

/// Sets a query parameter, in place of one of that name.
pub fn set_query(url: &mut Url, name: &str, value: &str) {
    let others: Vec<(String, String)> = url
        .query_pairs()
        .filter(|(k, _)| k != name)
        .map(|(k, v)| (k.into_owned(), v.into_owned()))
        .collect();
    url.query_pairs_mut()
        .clear()
        .extend_pairs(others)
        .append_pair(name, value);
}

#[cfg(test)]
mod tests;
