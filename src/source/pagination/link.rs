//! Pages by URLs that the server gives: in the `Link` header (RFC 8288) or in the body.
//!
//! The URL is kept as it is, resolved against the one that answered; whether it may be followed is
//! the HTTP boundary's to say.

use url::Url;

use super::{PageFacts, Paginate, Target, Token};
use crate::connector::Locator;
use crate::error::{Error, ErrorKind, Result};

/// The `Link` header.
pub(super) struct Link {
    pub rel: String,
}

/// A URL in the body or in a header.
pub(super) struct NextUrl {
    pub next: Locator,
}

fn follow(target: &mut Target<'_>, token: &Token) {
    if let Token::Url(url) = token {
        *target.url = url.clone();
    }
}

fn resolve(base: &Url, reference: &str) -> Result<Option<Token>> {
    base.join(reference)
        .map(|url| Some(Token::Url(url)))
        .map_err(|e| {
            Error::new(ErrorKind::Decode, "the next page's URL is not a URL")
                .source(e)
                .hint("check the connector's `pagination`")
        })
}

impl Paginate for Link {
    fn first(&self) -> Token {
        Token::Start
    }

    fn apply(&self, token: &Token, target: &mut Target<'_>) {
        follow(target, token);
    }

    fn next(&self, _: &Token, facts: &PageFacts<'_>) -> Result<Option<Token>> {
        let headers = facts.headers.get_all(http::header::LINK);
        for header in headers.iter().filter_map(|h| h.to_str().ok()) {
            if let Some(reference) = find(header, &self.rel) {
                return resolve(facts.url, reference);
            }
        }
        Ok(None)
    }

    fn nth(&self, _: u64) -> Option<Token> {
        None
    }
}

impl Paginate for NextUrl {
    fn first(&self) -> Token {
        Token::Start
    }

    fn apply(&self, token: &Token, target: &mut Target<'_>) {
        follow(target, token);
    }

    fn next(&self, _: &Token, facts: &PageFacts<'_>) -> Result<Option<Token>> {
        facts
            .next(&self.next)
            .map_or(Ok(None), |reference| resolve(facts.url, reference))
    }

    fn nth(&self, _: u64) -> Option<Token> {
        None
    }
}

/// The target of the first link with the relation. Links are separated by commas, which may also
/// stand inside `<…>` and quotes.
fn find<'a>(header: &'a str, rel: &str) -> Option<&'a str> {
    let mut rest = header;
    loop {
        let open = rest.find('<')?;
        let close = open + rest[open..].find('>')?;
        let target = &rest[open + 1..close];
        let (params, after) = until_comma(&rest[close + 1..]);
        if has_relation(params, rel) {
            return Some(target.trim());
        }
        rest = after;
    }
}

fn until_comma(text: &str) -> (&str, &str) {
    let mut quoted = false;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => return (&text[..i], &text[i + 1..]),
            _ => {}
        }
    }
    (text, "")
}

fn has_relation(params: &str, rel: &str) -> bool {
    let mut quoted = false;
    params
        .split(|c| {
            if c == '"' {
                quoted = !quoted;
            }
            c == ';' && !quoted
        })
        .filter_map(|p| p.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("rel"))
        .is_some_and(|(_, value)| {
            value
                .trim()
                .trim_matches('"')
                .split_ascii_whitespace()
                .any(|r| r.eq_ignore_ascii_case(rel))
        })
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn links() {
        let header =
            r#"<https://a/x?page=1,2>; title="a, \"b; rel=next"; rel="prev first", </y>; REL=Next"#;
        assert_eq!(find(header, "next"), Some("/y"));
        assert_eq!(find(header, "first"), Some("https://a/x?page=1,2"));
        assert_eq!(find(header, "last"), None);
        assert_eq!(find(r#"<x>; rel="next last""#, "next"), Some("x"));
        for odd in [
            "",
            "<",
            "<a",
            "<a>",
            "<a>;",
            "<a>; rel",
            ",,,",
            "<a>; rel=\"next",
        ] {
            let _ = find(odd, "next");
        }
    }
}
