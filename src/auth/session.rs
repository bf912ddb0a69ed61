//! Sessions: a login call of the API itself gives a token, which goes on the requests after it until
//! its time is up or it is refused.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use url::Url;

use super::Credential;
use super::keeper::{Granted, Issue};
use super::place::TokenPlace;
use crate::error::{Error, ErrorKind, Result};
use crate::http::{
    CallContext, HttpClient, HttpOptions, Request, Response, Sign, expect_json, shown,
};
use crate::telemetry::redact;

/// An answer to a login is small.
const MAX_ANSWER: usize = 1024 * 1024;

/// How one logs in, and what becomes of the token.
#[derive(Clone, Debug)]
pub struct Session {
    /// Where one logs in: at one of the API's own origins.
    pub url: Url,
    /// POST, or GET.
    pub method: Method,
    /// Headers of the login call, credentials among them.
    pub headers: BTreeMap<String, SecretString>,
    /// Media type and text of its body.
    pub body: Option<(&'static str, SecretString)>,
    /// Which credentials those are, for messages.
    pub from: String,
    /// Where the token is in the answer.
    pub token: TokenSpot,
    /// Where it goes on requests.
    pub place: TokenPlace,
    /// How long it is good. `None`: until it is refused.
    pub ttl: Option<Duration>,
}

/// Where a token is in an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TokenSpot {
    /// JSON pointer into the body.
    Body(String),
    /// In this header.
    Header(String),
    /// In the cookie of this name that the answer sets.
    Cookie(String),
}

impl std::fmt::Display for TokenSpot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Body(pointer) => write!(f, "`{pointer}` of its body"),
            Self::Header(name) => write!(f, "header `{name}`"),
            Self::Cookie(name) => write!(f, "cookie `{name}`"),
        }
    }
}

/// Logs in.
pub(super) struct Login {
    config: Session,
    headers: HeaderMap,
    /// Its own client, for the API's own origins: pages wait for the login, and must not hold it up.
    http: HttpClient,
}

impl Login {
    /// # Errors
    /// [`ErrorKind::Config`]: a login URL that is not at one of the API's origins, a header that
    /// cannot be.
    pub fn new(config: Session, http: &HttpOptions) -> Result<Self> {
        http.origins.check(&config.url).map_err(|e| {
            Error::config(format!("the login URL cannot be used: {e}"))
                .hint("log in at the API's own host, or name the other one in `allowed_hosts`")
        })?;
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let bad = || Error::config(format!("`{name}` cannot be a header of the login"));
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            let mut value = HeaderValue::from_str(value.expose_secret()).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        if let Some((media, _)) = &config.body {
            let media = HeaderValue::from_static(media);
            headers.entry(CONTENT_TYPE).or_insert(media);
        }
        Ok(Self {
            http: HttpClient::new(HttpOptions {
                rate_limits: Vec::new(),
                concurrency: 1,
                max_body: MAX_ANSWER,
                ..http.clone()
            })?,
            headers,
            config,
        })
    }

    fn what(&self) -> String {
        format!(
            "the login `{} {}`",
            self.config.method,
            shown(&self.config.url)
        )
    }

    fn find(&self, answer: &Response) -> Result<Option<String>> {
        let name = match &self.config.token {
            TokenSpot::Body(pointer) => {
                let Some(body) = expect_json(answer)? else {
                    return Ok(None);
                };
                let body: Value = serde_json::from_slice(&body).map_err(|_| {
                    Error::new(
                        ErrorKind::Decode,
                        format!("{} answered with something that is not JSON", self.what()),
                    )
                    .hint("check the login's `path`")
                })?;
                return Ok(match body.pointer(pointer) {
                    Some(Value::String(text)) => Some(text.clone()),
                    Some(Value::Number(number)) => Some(number.to_string()),
                    _ => None,
                });
            }
            TokenSpot::Header(name) => {
                let value = answer.headers.get(name.as_str());
                return Ok(value.and_then(|v| v.to_str().ok()).map(str::to_owned));
            }
            TokenSpot::Cookie(name) => name,
        };
        // The last one counts, as in a browser.
        Ok(answer
            .headers
            .get_all(SET_COOKIE)
            .iter()
            .filter_map(|line| line.to_str().ok()?.split(';').next()?.split_once('='))
            .filter(|(known, _)| known.trim() == name)
            .map(|(_, value)| value.trim().to_owned())
            .next_back())
    }
}

#[async_trait]
impl Issue for Login {
    async fn issue(&self, context: &CallContext) -> Result<Granted> {
        let asked_at = self.http.options().clock.instant();
        let config = &self.config;
        let request = Request {
            method: config.method.clone(),
            headers: self.headers.clone(),
            body: config
                .body
                .as_ref()
                .map(|(_, text)| text.expose_secret().to_owned().into()),
            // A second session does no harm.
            repeatable: true,
            ..Request::get(config.url.clone())
        };
        let answer = self
            .http
            .send(request, &Carried(&config.from), context)
            .await
            .map_err(|e| e.context(format!("could not log in by {}", self.what())))?;
        let token = self.find(&answer)?;
        let token = token.filter(|token| !token.trim().is_empty());
        let Some(token) = token else {
            return Err(Error::new(
                ErrorKind::Decode,
                format!(
                    "{} answered {} without a token in {}",
                    self.what(),
                    answer.status.as_u16(),
                    config.token
                ),
            )
            .hint(
                "check `token` of `session`, and the login's body, against the API's documentation",
            ));
        };
        redact::register(&token);
        let placed = config
            .place
            .hold(Credential::new(token, "session token"))
            .map_err(|_| {
                Error::new(
                    ErrorKind::Decode,
                    format!(
                        "{} gave a token that cannot stand where `send` says",
                        self.what()
                    ),
                )
                .hint("check `token` and `send` of `session`")
            })?;
        Ok(Granted {
            placed,
            asked_at,
            lifetime: config.ttl,
        })
    }

    fn describe(&self) -> String {
        self.config.from.clone()
    }
}

/// The login carries its credentials already.
struct Carried<'a>(&'a str);

#[async_trait]
impl Sign for Carried<'_> {
    async fn sign(&self, _: &mut Request, _: &CallContext) -> Result<()> {
        Ok(())
    }

    async fn refused(&self, _: &Request, _: &CallContext) -> Result<bool> {
        Ok(false)
    }

    fn describe(&self) -> String {
        self.0.to_owned()
    }
}
