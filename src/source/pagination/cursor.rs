//! Pages by an opaque token out of the page before.

use super::{PageFacts, Paginate, Target, Token, set_query};
use crate::connector::Locator;
use crate::error::Result;

pub(super) struct Cursor {
    /// Query parameter, or JSON pointer into the body when it starts with `/`.
    pub param: String,
    pub next: Locator,
}

impl Paginate for Cursor {
    fn first(&self) -> Token {
        Token::Start
    }

    fn apply(&self, token: &Token, target: &mut Target<'_>) {
        let Token::Cursor(cursor) = token else { return };
        if !self.param.starts_with('/') {
            set_query(target.url, &self.param, cursor);
            return;
        }
        if let Some(body) = target.body.as_deref_mut() {
            put(body, &self.param, cursor);
        }
    }

    fn next(&self, _: &Token, facts: &PageFacts<'_>) -> Result<Option<Token>> {
        Ok(facts.next(&self.next).map(|c| Token::Cursor(c.to_owned())))
    }

    fn nth(&self, _: u64) -> Option<Token> {
        None
    }
}

/// Sets a string at a JSON pointer, making the objects on the way.
fn put(body: &mut serde_json::Value, pointer: &str, text: &str) {
    let mut at = body;
    for step in pointer.split('/').skip(1) {
        if !at.is_object() {
            *at = serde_json::Value::Object(serde_json::Map::new());
        }
        let Some(object) = at.as_object_mut() else {
            return;
        };
        at = object
            .entry(step.replace("~1", "/").replace("~0", "~"))
            .or_insert(serde_json::Value::Null);
    }
    *at = serde_json::Value::String(text.to_owned());
}
