//! Where a token goes on a request.

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderName, HeaderValue};

use super::api_key::QueryKey;
use super::{Credential, secret_header};
use crate::error::{Error, Result};
use crate::http::Request;

/// Where the tokens of an issuer go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TokenPlace {
    /// In this header, behind these words.
    Header {
        /// Its name.
        name: String,
        /// What stands before the token, its space included: `Bearer `.
        prefix: String,
    },
    /// In this query parameter.
    Query(String),
    /// In the cookie of this name.
    Cookie(String),
}

impl TokenPlace {
    /// `Authorization: Bearer …`.
    pub fn bearer() -> Self {
        Self::Header {
            name: AUTHORIZATION.as_str().to_owned(),
            prefix: "Bearer ".to_owned(),
        }
    }

    /// The token, in this place.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`]: a token, or a name, that cannot stand there.
    pub(super) fn hold(&self, token: Credential) -> Result<Placed> {
        Ok(match self {
            Self::Header { name, prefix } => Placed::Header(
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                    Error::config(format!("`{name}` cannot be the name of a header"))
                })?,
                secret_header(prefix, token.expose(), &token.from)?,
            ),
            Self::Query(name) => Placed::Query(QueryKey::new(name.clone(), token)?),
            Self::Cookie(name) => Placed::Header(
                COOKIE,
                secret_header(&format!("{name}="), token.expose(), &token.from)?,
            ),
        })
    }
}

/// A token in its place.
#[derive(Clone)]
pub(super) enum Placed {
    /// In a header.
    Header(HeaderName, HeaderValue),
    /// In the query.
    Query(QueryKey),
}

impl Placed {
    /// Puts the token on.
    pub fn put(&self, request: &mut Request) {
        match self {
            Self::Header(name, value) => {
                request.headers.insert(name.clone(), value.clone());
            }
            Self::Query(key) => key.put(request),
        }
    }

    /// Whether the request carries this very token.
    pub fn is_on(&self, request: &Request) -> bool {
        match self {
            Self::Header(name, value) => request.headers.get(name) == Some(value),
            Self::Query(key) => key.is_on(request),
        }
    }
}
