//! The token endpoint: asks it for a token. The `oauth2` crate writes the request and reads the
//! answer as the standard says; [`Endpoint::carry`] sends them over the one HTTP stack and bends them
//! to what servers really want.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method};
use oauth2::basic::{
    BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse,
};
use oauth2::{
    AsyncHttpClient, AuthType, ClientId, ClientSecret, EndpointNotSet, EndpointSet, HttpRequest,
    HttpResponse, RequestTokenError, Scope, StandardRevocableToken, TokenResponse, TokenUrl,
};
use url::form_urlencoded;

use super::answer::{self, Answer};
use crate::auth::{
    ClientAuth, ClientCredentials, TokenBody, both, check_characters, secret_header,
};
use crate::error::{Error, ErrorKind, Result};
use crate::http::{CallContext, HttpClient, HttpOptions, Origins, Request, Sign};
use crate::telemetry::redact;

/// A token answer is a few hundred bytes; with large claims a few thousand.
const MAX_ANSWER: usize = 1024 * 1024;

type Client = oauth2::Client<
    BasicErrorResponse,
    Answer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// A token endpoint, and who asks it.
pub(super) struct Endpoint {
    config: ClientCredentials,
    client: Client,
    /// Of every token request.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Its own client: the secret goes to this origin only.
    http: HttpClient,
}

/// What it gave.
pub(super) struct Granted {
    /// The token.
    pub value: String,
    /// Put on requests.
    pub header: HeaderValue,
    /// Since it was asked for.
    pub lifetime: Option<Duration>,
}

impl Endpoint {
    /// # Errors
    /// [`ErrorKind::Config`]: credentials with control characters, a raw client id with a colon,
    /// impossible headers, a token URL that may not be used.
    pub fn new(config: ClientCredentials, http: &HttpOptions) -> Result<Self> {
        check_characters(&config.client_id)?;
        check_characters(&config.client_secret)?;
        let (id, secret) = (config.client_id.expose(), config.client_secret.expose());
        if config.client_auth == ClientAuth::BasicRaw && id.contains(':') {
            return Err(Error::config(format!(
                "the client id ({}) contains a `:`, which `basic_raw` cannot carry",
                config.client_id.from
            ))
            .hint("use `client_auth: basic`, which encodes it"));
        }
        for form in [
            secret.to_owned(),
            encode(secret),
            STANDARD.encode(format!("{}:{}", encode(id), encode(secret))),
            STANDARD.encode(format!("{id}:{secret}")),
        ] {
            redact::register(&form);
        }
        let mut headers = Vec::new();
        for (name, value) in &config.headers {
            let bad = || Error::config(format!("`{name}` cannot be a header of the token request"));
            let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
            value.set_sensitive(true);
            headers.push((
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?,
                value,
            ));
        }
        let mut origins = Origins::default();
        origins.allow_url(&config.token_url)?;
        let client = oauth2::Client::new(ClientId::new(id.to_owned()))
            .set_client_secret(ClientSecret::new(secret.to_owned()))
            .set_auth_type(match config.client_auth {
                ClientAuth::Basic | ClientAuth::BasicRaw => AuthType::BasicAuth,
                ClientAuth::Post => AuthType::RequestBody,
            })
            .set_token_uri(TokenUrl::from_url(config.token_url.clone()));
        Ok(Self {
            client,
            headers,
            http: HttpClient::new(HttpOptions {
                origins,
                rate_limits: Vec::new(),
                concurrency: 1,
                max_body: MAX_ANSWER,
                ..http.clone()
            })?,
            config,
        })
    }

    /// Asks for a token.
    ///
    /// # Errors
    /// Those of [`HttpClient::send`]; [`ErrorKind::Auth`] for a refusal, naming its code and which
    /// credentials to check; [`ErrorKind::Decode`] for an answer that is none.
    pub async fn ask(self: &Arc<Self>, context: &CallContext) -> Result<Granted> {
        let carrier = Carrier {
            endpoint: self.clone(),
            context: context.clone(),
            status: AtomicU16::new(0),
        };
        let mut exchange = self.client.exchange_client_credentials();
        for scope in &self.config.scopes {
            exchange = exchange.add_scope(Scope::new(scope.clone()));
        }
        for (name, value) in &self.config.params {
            exchange = exchange.add_extra_param(name, value);
        }
        let answer = exchange.request_async(&carrier).await;
        let answer = answer.map_err(|e| self.failed(carrier.status.load(Relaxed), e))?;
        if !answer.is_bearer() {
            return Err(Error::new(
                ErrorKind::Rejected,
                format!("{} gave a token that is not a bearer token", self.name()),
            )
            .hint("ask the API's makers for a bearer token; no other kind is supported"));
        }
        let value = answer.access_token().secret().clone();
        let header = secret_header("Bearer ", &value, "access token").map_err(|_| {
            Error::new(
                ErrorKind::Decode,
                format!("{} gave a token that cannot stand in a header", self.name()),
            )
            .hint("check `token_url`")
        })?;
        Ok(Granted {
            value,
            header,
            lifetime: answer
                .expires_in()
                .or(self.config.default_ttl.filter(|ttl| !ttl.is_zero())),
        })
    }

    /// Which credentials it asks with.
    pub fn describe(&self) -> String {
        both(&self.config.client_id.from, &self.config.client_secret.from)
    }

    /// Sends the crate's request by our client, changed to what this server wants, and gives the
    /// answer back in the form the crate knows.
    async fn carry(
        &self,
        standard: HttpRequest,
        status: &AtomicU16,
        context: &CallContext,
    ) -> Result<HttpResponse> {
        let (parts, body) = standard.into_parts();
        let mut request = Request {
            method: Method::POST,
            headers: parts.headers,
            body: None,
            // Asking for a token twice does no harm.
            repeatable: true,
            // Bodies of refusals say why.
            accept: (400..500)
                .filter(|s| ![408, 425, 429].contains(s))
                .collect(),
            ..Request::get(self.config.token_url.clone())
        };
        if self.config.client_auth == ClientAuth::BasicRaw {
            let (id, secret) = (&self.config.client_id, &self.config.client_secret);
            let pair = STANDARD.encode(format!("{}:{}", id.expose(), secret.expose()));
            let header = secret_header("Basic ", &pair, &self.describe())?;
            request.headers.insert(AUTHORIZATION, header);
        }
        for (name, value) in &self.headers {
            request.headers.insert(name, value.clone());
        }
        // Configured parameters come last, and stand in for standard ones of the same name.
        let mut params: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(&body) {
            params.retain(|(known, _)| *known != name);
            params.push((name.into_owned(), value.into_owned()));
        }
        let (media, body) = match self.config.body {
            TokenBody::Form => (
                "application/x-www-form-urlencoded",
                form_urlencoded::Serializer::new(String::new())
                    .extend_pairs(&params)
                    .finish(),
            ),
            TokenBody::Json => (
                "application/json",
                serde_json::Value::from_iter(params).to_string(),
            ),
        };
        request
            .headers
            .insert(CONTENT_TYPE, HeaderValue::from_static(media));
        request.body = Some(body.into());
        let response = self
            .http
            .send(request, &Carried(self.describe()), context)
            .await?;
        status.store(response.status.as_u16(), Relaxed);
        Ok(answer::standard(&response))
    }

    /// The error for a token request that brought no token. Never quotes the answer, except for a
    /// code of the standard's form.
    fn failed(&self, status: u16, e: RequestTokenError<Error, BasicErrorResponse>) -> Error {
        let endpoint = self.name();
        let code = match &e {
            RequestTokenError::Request(_) => None,
            RequestTokenError::ServerResponse(said) => answer::code(said.error().as_ref()),
            _ => None,
        };
        if let RequestTokenError::Request(e) = e {
            return e.context(format!("could not get a token from {endpoint}"));
        }
        let who = self.describe();
        let Some(code) = code else {
            return match status {
                200..=299 => Error::new(
                    ErrorKind::Decode,
                    format!("{endpoint} answered {status} without an `access_token` in JSON"),
                )
                .hint("check `token_url`"),
                401 | 403 => Error::new(
                    ErrorKind::Auth,
                    format!("{endpoint} answered {status}: it refused the client ({who})"),
                )
                .hint(self.client_hint()),
                _ => Error::new(
                    ErrorKind::Rejected,
                    format!("{endpoint} answered {status} without a token"),
                )
                .hint("check `token_url`, and `body`, `params` and `headers` of the token request"),
            };
        };
        let message = format!("{endpoint} answered {status} `{code}` ({who})");
        match code {
            "temporarily_unavailable" | "server_error" => {
                Error::new(ErrorKind::Unavailable, message).hint("run again later")
            }
            _ => Error::new(ErrorKind::Auth, message).hint(match code {
                "invalid_client" | "access_denied" => self.client_hint(),
                "invalid_scope" => "check `scopes` against what the client may ask for".to_owned(),
                "unauthorized_client" | "unsupported_grant_type" => {
                    "allow the client-credentials grant for this client".to_owned()
                }
                _ => "check `scopes`, `params`, `body` and `client_auth` of the token request against the API's documentation".to_owned(),
            }),
        }
    }

    fn client_hint(&self) -> String {
        let other = match self.config.client_auth {
            ClientAuth::Basic => "`client_auth: post` or `basic_raw`",
            ClientAuth::BasicRaw => "`client_auth: basic` or `post`",
            ClientAuth::Post => "`client_auth: basic`",
        };
        format!("check {}; some servers want {other}", self.describe())
    }

    fn name(&self) -> String {
        let url = &self.config.token_url;
        let shown = format!("{}{}", url.origin().ascii_serialization(), url.path());
        format!("the token endpoint `{}`", redact::scrub(&shown))
    }
}

/// Carries one request of the crate. Owns what it needs: the crate's trait cannot be met for a
/// borrowed one inside `async`.
struct Carrier {
    endpoint: Arc<Endpoint>,
    context: CallContext,
    /// Of the answer; the crate's errors forget it.
    status: AtomicU16,
}

impl<'c> AsyncHttpClient<'c> for Carrier {
    type Error = Error;
    type Future = BoxFuture<'c, Result<HttpResponse>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.endpoint.carry(request, &self.status, &self.context))
    }
}

/// The token request carries the client's credentials already.
struct Carried(String);

#[async_trait]
impl Sign for Carried {
    async fn sign(&self, _: &mut Request, _: &CallContext) -> Result<()> {
        Ok(())
    }

    async fn refused(&self, _: &Request, _: &CallContext) -> Result<bool> {
        Ok(false)
    }

    fn describe(&self) -> String {
        self.0.clone()
    }
}

fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
