//! Google's tokens on a source's requests: where the source is one of Google's own APIs, a Cloud Run
//! service, a function, or behind Identity-Aware Proxy.

use async_trait::async_trait;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::Google;
use crate::error::{Error, ErrorKind, Result};
use crate::http::{CallContext, Request, Sign};

/// Which token of Google's goes onto a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GoogleToken {
    /// An access token, for `*.googleapis.com` alone.
    Access {
        /// What it may be used for.
        scopes: Vec<String>,
    },
    /// An ID token.
    Id {
        /// Whom it is for; `None`: the origin of the request.
        audience: Option<String>,
    },
}

/// Signs with the tokens of the credentials that the whole program has.
pub struct GoogleSign {
    google: Google,
    token: GoogleToken,
}

impl GoogleSign {
    /// Asks for nothing before the first request.
    pub fn new(google: Google, token: GoogleToken) -> Self {
        Self { google, token }
    }

    /// The token for a request to `url`.
    async fn token(&self, url: &Url) -> Result<SecretString> {
        self.may_go(url)?;
        match &self.token {
            GoogleToken::Access { scopes } => self.google.access_token(scopes).await,
            GoogleToken::Id { audience } => {
                let origin = || url.origin().ascii_serialization();
                let audience = audience.clone().unwrap_or_else(origin);
                self.google.id_token(&audience).await
            }
        }
    }

    /// Refuses what would show a token to somebody whom it is not for.
    fn may_go(&self, url: &Url) -> Result<()> {
        let host = url.host_str().unwrap_or_default();
        if url.scheme() != "https" {
            return Err(Error::config(format!(
                "a token of Google's goes over https only, and the request to `{host}` is plain http"
            ))
            .hint("write the `base_url` with `https`"));
        }
        let universe = &self.google.settings().universe;
        let googles = host
            .strip_suffix(universe.as_str())
            .is_some_and(|h| h.ends_with('.'));
        match self.token {
            GoogleToken::Access { .. } if !googles => Err(Error::config(format!(
                "an access token of Google's goes to `*.{universe}` only, and the request is to `{host}`"
            ))
            .hint("for a service of your own write `auth: {google: {id_token: {}}}`: an ID token is good for one audience")),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Sign for GoogleSign {
    async fn sign(&self, request: &mut Request, _: &CallContext) -> Result<()> {
        let token = self.token(&request.url).await?;
        let text = format!("Bearer {}", token.expose_secret());
        let mut header = HeaderValue::from_str(&text).map_err(|_| {
            Error::new(
                ErrorKind::Auth,
                "Google gave a token that is no header value",
            )
        })?;
        header.set_sensitive(true);
        request.headers.insert(AUTHORIZATION, header);
        Ok(())
    }

    async fn refused(&self, request: &Request, _: &CallContext) -> Result<bool> {
        let sent = request
            .headers
            .get(AUTHORIZATION)
            .and_then(|h| h.to_str().ok())
            .and_then(|h| h.strip_prefix("Bearer "));
        // Another request may have brought a new one since this one was signed.
        let now = self.google.clock().instant();
        let current = self.token(&request.url).await?;
        if sent == Some(current.expose_secret()) {
            self.google.renew_credentials(now).await;
        }
        Ok(true)
    }

    fn describe(&self) -> String {
        match &self.token {
            GoogleToken::Access { .. } => "an access token of Google's".to_owned(),
            GoogleToken::Id { audience: Some(a) } => format!("an ID token of Google's for `{a}`"),
            GoogleToken::Id { audience: None } => "an ID token of Google's".to_owned(),
        }
    }
}
