//! A token that is kept while it is good: for the ways to one that `google-cloud-auth` lacks, or does
//! not go as we must.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use google_cloud_auth::credentials::idtoken::IDTokenCredentialsProvider;
use google_cloud_auth::credentials::{CacheableResource, CredentialsProvider, EntityTag};
use google_cloud_auth::errors::CredentialsError;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, HeaderValue};
use tokio::sync::Mutex;

use crate::google::read::{ReadError, SMALL, read};
use crate::telemetry::redact;

/// A token is renewed this long before it expires, or a tenth of its life when that is less.
const MARGIN: Duration = Duration::from_secs(240);

/// A way to a token.
pub(super) trait Ask: Send + Sync + 'static {
    /// Asks for a new one.
    fn ask(&self) -> impl Future<Output = Result<Granted, CredentialsError>> + Send;
}

/// A token as it was given.
pub(super) struct Granted {
    pub token: String,
    pub life: Duration,
}

/// Keeps the token that [`Ask`] gives.
pub(super) struct Kept<A>(Arc<Inner<A>>);

struct Inner<A> {
    way: A,
    quota: Option<HeaderValue>,
    universe: String,
    token: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    text: String,
    tag: EntityTag,
    until: Instant,
}

impl<A> fmt::Debug for Kept<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

impl<A: Ask> Kept<A> {
    /// `quota` is the project that pays.
    pub fn new(way: A, quota: Option<&str>, universe: &str) -> Self {
        Self(Arc::new(Inner {
            way,
            quota: quota.and_then(|q| HeaderValue::from_str(q).ok()),
            universe: universe.to_owned(),
            token: Mutex::new(None),
        }))
    }

    async fn token(&self) -> Result<Token, CredentialsError> {
        // Whoever comes meanwhile waits for what the first one gets.
        let mut kept = self.0.token.lock().await;
        let now = Instant::now();
        if let Some(token) = kept.as_ref().filter(|t| now < t.until) {
            return Ok(token.clone());
        }
        let granted = self.0.way.ask().await?;
        if granted.token.trim().is_empty() {
            return Err(CredentialsError::from_msg(
                true,
                "the token that came is empty",
            ));
        }
        redact::register(&granted.token);
        let margin = MARGIN.min(granted.life / 10);
        let token = Token {
            text: granted.token,
            tag: EntityTag::new(),
            until: now + granted.life.saturating_sub(margin),
        };
        *kept = Some(token.clone());
        Ok(token)
    }
}

impl<A: Ask> CredentialsProvider for Kept<A> {
    async fn headers(
        &self,
        extensions: Extensions,
    ) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        let token = self.token().await?;
        if extensions.get::<EntityTag>() == Some(&token.tag) {
            return Ok(CacheableResource::NotModified);
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.text)).map_err(|_| {
            CredentialsError::from_msg(false, "the access token is no header value")
        })?;
        value.set_sensitive(true);
        let mut data = HeaderMap::new();
        data.insert(AUTHORIZATION, value);
        if let Some(quota) = &self.0.quota {
            data.insert("x-goog-user-project", quota.clone());
        }
        Ok(CacheableResource::New {
            entity_tag: token.tag,
            data,
        })
    }

    async fn universe_domain(&self) -> Option<String> {
        Some(self.0.universe.clone())
    }
}

impl<A: Ask> IDTokenCredentialsProvider for Kept<A> {
    async fn id_token(&self) -> Result<String, CredentialsError> {
        Ok(self.token().await?.text)
    }
}

/// Reads an answer of a token service.
///
/// # Errors
/// What it said, in the form in which the crate puts answers into its errors.
pub(super) async fn body(
    sent: Result<reqwest::Response, reqwest::Error>,
) -> Result<String, CredentialsError> {
    let transport = |e: reqwest::Error| CredentialsError::from_source(true, e.without_url());
    let mut answer = sent.map_err(transport)?;
    if answer.status().is_redirection() {
        return Err(CredentialsError::from_msg(
            false,
            "the token service sends elsewhere, and secrets are not sent after it",
        ));
    }
    let refused = answer.error_for_status_ref().err();
    let text = match read(&mut answer, SMALL).await {
        Ok(body) => String::from_utf8_lossy(&body).into_owned(),
        Err(ReadError::Transport(e)) => return Err(transport(e)),
        Err(ReadError::TooLarge) => {
            return Err(CredentialsError::from_msg(false, "the answer is too large"));
        }
    };
    match refused {
        None => Ok(text),
        Some(e) => {
            let passing =
                |s: http::StatusCode| s.is_server_error() || [408, 429].contains(&s.as_u16());
            let passes = e.status().is_some_and(passing);
            let said = format!("body=<{text}>");
            Err(CredentialsError::new(passes, said, e.without_url()))
        }
    }
}
