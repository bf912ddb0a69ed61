//! Pages by number, by records to skip, and no paging at all.

use super::{PageFacts, Paginate, Target, Token, set_query};
use crate::connector::Locator;
use crate::error::{Error, ErrorKind, Result};

/// One page only.
pub(super) struct Single;

impl Paginate for Single {
    fn first(&self) -> Token {
        Token::Start
    }

    fn apply(&self, _: &Token, _: &mut Target<'_>) {}

    fn next(&self, _: &Token, _: &PageFacts<'_>) -> Result<Option<Token>> {
        Ok(None)
    }

    fn nth(&self, _: u64) -> Option<Token> {
        None
    }
}

/// `page=1`, `page=2`, … or the number that the server names.
pub(super) struct Page {
    pub param: String,
    pub first: u64,
    pub next: Option<Locator>,
}

impl Paginate for Page {
    fn first(&self) -> Token {
        Token::Page(self.first)
    }

    fn apply(&self, token: &Token, target: &mut Target<'_>) {
        if let Token::Page(page) = token {
            set_query(target.url, &self.param, &page.to_string());
        }
    }

    fn next(&self, token: &Token, facts: &PageFacts<'_>) -> Result<Option<Token>> {
        let Token::Page(page) = token else {
            return Ok(None);
        };
        let Some(locator) = &self.next else {
            return Ok(Some(Token::Page(page + 1)));
        };
        match facts.next(locator) {
            None => Ok(None),
            Some(text) => text
                .parse()
                .map(|page| Some(Token::Page(page)))
                .map_err(|_| {
                    Error::new(ErrorKind::Decode, "the next page's number is not a number")
                        .hint("check the connector's `next_page`")
                }),
        }
    }

    fn nth(&self, n: u64) -> Option<Token> {
        Some(Token::Page(self.first + n))
    }
}

/// `offset=0`, `offset=100`, …: as many as really came.
pub(super) struct Offset {
    pub param: String,
    /// Page size asked for.
    pub size: u64,
}

impl Paginate for Offset {
    fn first(&self) -> Token {
        Token::Offset(0)
    }

    fn apply(&self, token: &Token, target: &mut Target<'_>) {
        if let Token::Offset(offset) = token {
            set_query(target.url, &self.param, &offset.to_string());
        }
    }

    fn next(&self, token: &Token, facts: &PageFacts<'_>) -> Result<Option<Token>> {
        let Token::Offset(offset) = token else {
            return Ok(None);
        };
        // A server that caps the size serves fewer than asked for; an empty page still moves on,
        // where empty pages do not end the listing.
        let step = if facts.walked.records > 0 {
            facts.walked.records
        } else {
            self.size
        };
        Ok((step > 0).then_some(Token::Offset(offset + step)))
    }

    fn nth(&self, n: u64) -> Option<Token> {
        (self.size > 0).then_some(Token::Offset(n * self.size))
    }
}
