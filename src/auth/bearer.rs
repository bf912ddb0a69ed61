//! A fixed bearer token (RFC 6750).

use async_trait::async_trait;
use http::HeaderValue;
use http::header::AUTHORIZATION;

use super::{Credential, check_characters, secret_header};
use crate::error::Result;
use crate::http::{CallContext, Request, Sign};

/// `Authorization: Bearer …`. A refusal is final.
pub(super) struct Bearer {
    header: HeaderValue,
    from: String,
}

impl Bearer {
    pub fn new(token: &Credential) -> Result<Self> {
        check_characters(token)?;
        Ok(Self {
            header: secret_header("Bearer ", token.expose(), &token.from)?,
            from: token.from.clone(),
        })
    }
}

#[async_trait]
impl Sign for Bearer {
    async fn sign(&self, request: &mut Request, _: &CallContext) -> Result<()> {
        request.headers.insert(AUTHORIZATION, self.header.clone());
        Ok(())
    }

    async fn refused(&self, _: &Request, _: &CallContext) -> Result<bool> {
        Ok(false)
    }

    fn describe(&self) -> String {
        self.from.clone()
    }
}
