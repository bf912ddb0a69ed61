//! The pages of one listing, in order. Where the connector trusts the totals, pages are asked for
//! ahead of the one being read, up to the source's concurrency, and still delivered in order.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::pagination::{PageFacts, Pager, Token};
use super::records::Walked;
use super::{Endpoint, request};
use crate::connector::template::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::http::{Response, expect_json, shown};
use crate::telemetry::Meter;

/// A page as received.
#[derive(Debug)]
pub struct Page {
    token: Token,
    /// The JSON text; empty where the answer says that there is nothing.
    pub body: Bytes,
    response: Response,
    /// The answer's status is one that the stream declares to mean "nothing here".
    ignored: bool,
}

impl Page {
    /// Where it came from, without query.
    pub fn shown(&self) -> String {
        shown(&self.response.url)
    }
}

/// Draws the pages of one listing.
pub struct Pages<'a> {
    endpoint: &'a Arc<Endpoint>,
    scope: Scope,
    pager: Pager<'a>,
    next: Option<Token>,
    /// Pages on their way, in order.
    ahead: VecDeque<AbortOnDropHandle<Result<Page>>>,
    /// Pages to ask for as soon as there is room.
    queued: VecDeque<Token>,
}

impl<'a> Pages<'a> {
    /// The listing of `scope`: one partition, one span of time.
    pub fn new(endpoint: &'a Arc<Endpoint>, scope: Scope) -> Self {
        let pager = Pager::new(&endpoint.stream.pagination);
        Self {
            next: Some(pager.first()),
            pager,
            endpoint,
            scope,
            ahead: VecDeque::new(),
            queued: VecDeque::new(),
        }
    }

    /// The next page; `None` after the last. [`Self::turn`] must be told of each page.
    ///
    /// # Errors
    /// What the HTTP boundary says, and an answer that is not JSON.
    pub async fn next(&mut self) -> Result<Option<Page>> {
        let Some(token) = self.next.take() else {
            return Ok(None);
        };
        self.top_up()?;
        let page = match self.ahead.pop_front() {
            Some(task) => {
                self.top_up()?;
                task.await
                    .map_err(|e| Error::new(ErrorKind::Bug, "a page's task ended").source(e))??
            }
            None => fetch(self.endpoint, self.request(&token)?, token).await?,
        };
        Meter::add(&self.endpoint.context.meter.pages, 1);
        Ok(Some(page))
    }

    /// Asks for the first page now, before anybody waits for it.
    ///
    /// # Errors
    /// A request that cannot be made.
    pub fn prime(&mut self) -> Result<()> {
        if let (Some(token), true) = (&self.next, self.ahead.is_empty()) {
            self.queued.push_front(token.clone());
            self.top_up()?;
        }
        Ok(())
    }

    /// Whether the last page turned was the last of the listing.
    pub fn at_end(&self) -> bool {
        self.next.is_none()
    }

    /// Takes in what a page held, which decides what comes next.
    ///
    /// # Errors
    /// See [`Pager::turn`].
    pub fn turn(&mut self, page: &Page, walked: &Walked) -> Result<()> {
        let facts = PageFacts {
            url: &page.response.url,
            headers: &page.response.headers,
            walked,
            fingerprint: fingerprint(&page.body),
        };
        if page.ignored {
            self.next = None;
            return Ok(());
        }
        self.next = self.pager.turn(&page.token, &facts).map_err(|e| {
            e.context(format!(
                "could not page through stream `{}`",
                self.endpoint.stream.name
            ))
        })?;
        if self.next.is_none() {
            self.ahead.clear();
            self.queued.clear();
        } else {
            self.queued.extend(self.pager.ahead(&facts));
        }
        Ok(())
    }

    /// Whether records may have slipped through; see [`Pager::may_have_slipped`].
    pub fn may_have_slipped(&self) -> bool {
        self.pager.may_have_slipped()
    }

    /// Whether the listing, read to its end, is known not to have shown every record.
    pub fn is_incomplete(&self) -> bool {
        let (read, announced) = self.counts();
        self.may_have_slipped() || announced.is_some_and(|announced| read < announced)
    }

    /// Records so far, and how many the API announced.
    pub fn counts(&self) -> (u64, Option<u64>) {
        (self.pager.records(), self.pager.announced())
    }

    fn top_up(&mut self) -> Result<()> {
        while self.ahead.len() < self.endpoint.concurrency {
            let Some(token) = self.queued.pop_front() else {
                break;
            };
            let request = self.request(&token)?;
            let endpoint = self.endpoint.clone();
            self.ahead.push_back(AbortOnDropHandle::new(tokio::spawn(
                async move { fetch(&endpoint, request, token).await }.in_current_span(),
            )));
        }
        Ok(())
    }

    fn request(&self, token: &Token) -> Result<crate::http::Request> {
        request::build(
            &self.endpoint.stream,
            &self.endpoint.base_url,
            &self.scope,
            &self.pager,
            token,
        )
    }
}

async fn fetch(endpoint: &Endpoint, request: crate::http::Request, token: Token) -> Result<Page> {
    let response = endpoint
        .client
        .send(request, &*endpoint.signer, &endpoint.context)
        .await
        .map_err(|e| e.context(format!("could not read stream `{}`", endpoint.stream.name)))?;
    let ignored = endpoint
        .stream
        .request
        .ignore_status
        .contains(&response.status.as_u16());
    let body = if ignored {
        Bytes::new()
    } else {
        expect_json(&response)
            .map_err(|e| e.context(format!("could not read stream `{}`", endpoint.stream.name)))?
            .unwrap_or_default()
    };
    Ok(Page {
        token,
        body,
        response,
        ignored,
    })
}

/// Tells pages apart; a few hundred bytes from both ends, the length, and samples between.
fn fingerprint(body: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    body.len().hash(&mut hasher);
    body[..body.len().min(512)].hash(&mut hasher);
    body[body.len().saturating_sub(512)..].hash(&mut hasher);
    for chunk in body.chunks(4096) {
        chunk[..chunk.len().min(32)].hash(&mut hasher);
    }
    hasher.finish()
}
