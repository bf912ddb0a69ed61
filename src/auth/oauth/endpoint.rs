//! The token endpoint: asks it for a token. The `oauth2` crate writes the request and reads the
//! answer as the standard says; [`Endpoint::carry`] sends them over the one HTTP stack and bends them
//! to what servers really want.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

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
    AsyncHttpClient, AuthType, AuthorizationCode, ClientId, ClientSecret, EndpointNotSet,
    EndpointSet, HttpRequest, HttpResponse, PkceCodeVerifier, RedirectUrl, RefreshToken,
    RequestTokenError, ResourceOwnerPassword, ResourceOwnerUsername, Scope, StandardRevocableToken,
    TokenResponse, TokenUrl,
};
use secrecy::{ExposeSecret as _, SecretString};
use url::{Url, form_urlencoded};

use super::answer::{self, Answer};
use crate::auth::jwt::Signer;
use crate::auth::keeper::Granted;
use crate::auth::place::TokenPlace;
use crate::auth::{
    ClientAuth, Credential, OAuthClient, TokenBody, both, check_characters, secret_header,
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

/// How a client that signs statements says what they are (RFC 7523 §2.2).
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// The grant of a signed statement (RFC 7523 §2.1).
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// A token endpoint, and who asks it.
pub(in crate::auth) struct Endpoint {
    config: OAuthClient,
    client: Client,
    /// What the client shows itself with, where it signs.
    assertion: Option<Signer>,
    /// Of every token request.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Its own client: the secret goes to this origin only.
    http: HttpClient,
}

/// What is offered for a token.
#[derive(Clone, Copy)]
pub(in crate::auth) enum Offer<'a> {
    /// Nothing but who the client is (RFC 6749 §4.4).
    Client,
    /// A person's name and password (§4.3).
    Password(&'a Credential, &'a Credential),
    /// A refresh token (§6), and where it came from.
    Refresh(&'a SecretString, &'a str),
    /// A statement that is signed for each attempt anew (RFC 7523).
    Assertion(&'a Arc<Signer>),
    /// The code that a login brought (RFC 6749 §4.1), with the proof that it is this program's.
    Code {
        code: &'a str,
        verifier: &'a str,
        redirect: &'a RedirectUrl,
    },
}

/// What came of it.
pub(in crate::auth) struct Answered {
    /// The token.
    pub granted: Granted,
    /// For the next one.
    pub refresh_token: Option<SecretString>,
}

/// Why there is no token.
pub(in crate::auth) struct Refusal {
    /// In words.
    pub error: Error,
    /// What was offered is not good (any more): `invalid_grant`.
    pub invalid_grant: bool,
    /// It was offered before, and no answer came that could be used.
    pub repeated: bool,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self {
            error,
            invalid_grant: false,
            repeated: false,
        }
    }
}

impl Endpoint {
    /// # Errors
    /// [`ErrorKind::Config`]: credentials with control characters, a raw client id with a colon,
    /// impossible headers, a token URL that may not be used.
    pub fn new(config: OAuthClient, http: &HttpOptions) -> Result<Self> {
        check_characters(&config.client_id)?;
        check_characters(&config.client_secret)?;
        let (id, secret) = (config.client_id.expose(), config.client_secret.expose());
        if matches!(config.client_auth, ClientAuth::BasicRaw) && id.contains(':') {
            return Err(Error::config(format!(
                "the client id ({}) contains a `:`, which `basic_raw` cannot carry",
                config.client_id.from
            ))
            .hint("use `client_auth: basic`, which encodes it"));
        }
        if !secret.is_empty() {
            for form in [
                secret.to_owned(),
                encode(secret),
                STANDARD.encode(format!("{}:{}", encode(id), encode(secret))),
                STANDARD.encode(format!("{id}:{secret}")),
            ] {
                redact::register(&form);
            }
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
        let mut client = oauth2::Client::new(ClientId::new(id.to_owned())).set_auth_type(
            match config.client_auth {
                ClientAuth::Basic | ClientAuth::BasicRaw => AuthType::BasicAuth,
                ClientAuth::Post | ClientAuth::PrivateKeyJwt(_) => AuthType::RequestBody,
            },
        );
        // Without one it is a public client, which only says its id.
        if !secret.is_empty() {
            client = client.set_client_secret(ClientSecret::new(secret.to_owned()));
        }
        let client = client.set_token_uri(TokenUrl::from_url(config.token_url.clone()));
        let assertion = match &config.client_auth {
            ClientAuth::PrivateKeyJwt(jwt) => {
                let mut jwt = (**jwt).clone();
                jwt.issuer.get_or_insert_with(|| id.to_owned());
                jwt.subject.get_or_insert_with(|| id.to_owned());
                Some(Signer::new(jwt, http.clock.clone())?)
            }
            _ => None,
        };
        Ok(Self {
            client,
            assertion,
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

    /// Offers something for a token.
    ///
    /// # Errors
    /// Those of [`HttpClient::send`]; [`ErrorKind::Auth`] for a refusal, naming its code and which
    /// credentials to check; [`ErrorKind::Decode`] for an answer that is none.
    pub async fn ask(
        self: &Arc<Self>,
        offer: Offer<'_>,
        context: &CallContext,
    ) -> Result<Answered, Refusal> {
        let asked_at = self.http.options().clock.instant();
        let who = self.who(offer);
        let carrier = Carrier {
            endpoint: self.clone(),
            context: context.clone(),
            status: AtomicU16::new(0),
            attempts: AtomicU16::new(0),
            who: who.clone(),
            assertion: match offer {
                Offer::Assertion(signer) => Some(signer.clone()),
                _ => None,
            },
        };
        let client = &self.client;
        let scopes = || self.config.scopes.iter().cloned().map(Scope::new);
        let answer = match offer {
            Offer::Client | Offer::Assertion(_) => {
                let exchange = client.exchange_client_credentials();
                exchange.add_scopes(scopes()).request_async(&carrier).await
            }
            Offer::Password(username, password) => {
                let username = ResourceOwnerUsername::new(username.expose().to_owned());
                let password = ResourceOwnerPassword::new(password.expose().to_owned());
                let exchange = client.exchange_password(&username, &password);
                exchange.add_scopes(scopes()).request_async(&carrier).await
            }
            Offer::Refresh(token, _) => {
                let token = RefreshToken::new(token.expose_secret().to_owned());
                let exchange = client.exchange_refresh_token(&token);
                exchange.add_scopes(scopes()).request_async(&carrier).await
            }
            Offer::Code {
                code,
                verifier,
                redirect,
            } => {
                client
                    .exchange_code(AuthorizationCode::new(code.to_owned()))
                    .set_pkce_verifier(PkceCodeVerifier::new(verifier.to_owned()))
                    .set_redirect_uri(Cow::Borrowed(redirect))
                    .request_async(&carrier)
                    .await
            }
        };
        let answer = answer.map_err(|e| self.failed(offer, &carrier, e))?;
        // Known to redaction before anything is made of it.
        let refresh_token = answer.refresh_token().map(|token| {
            redact::register(token.secret());
            SecretString::from(token.secret().clone())
        });
        if !answer.is_bearer() {
            return Err(Error::new(
                ErrorKind::Rejected,
                format!("{} gave a token that is not a bearer token", self.name()),
            )
            .hint("ask the API's makers for a bearer token; no other kind is supported")
            .into());
        }
        let token = Credential::new(answer.access_token().secret().clone(), "access token");
        if token.expose().trim().is_empty() {
            return Err(Error::new(
                ErrorKind::Decode,
                format!("{} gave an `access_token` that is empty", self.name()),
            )
            .hint("check `token_url`, and `body`, `params` and `headers` of the token request")
            .into());
        }
        let placed = TokenPlace::bearer().hold(token).map_err(|_| {
            Error::new(
                ErrorKind::Decode,
                format!("{} gave a token that cannot stand in a header", self.name()),
            )
            .hint("check `token_url`")
        })?;
        Ok(Answered {
            granted: Granted {
                placed,
                asked_at,
                lifetime: answer
                    .expires_in()
                    .or(self.config.default_ttl.filter(|ttl| !ttl.is_zero())),
            },
            refresh_token,
        })
    }

    /// Which credentials the client shows itself with.
    pub fn describe(&self) -> String {
        let (id, secret) = (&self.config.client_id, &self.config.client_secret);
        match &self.assertion {
            Some(signer) => both(&id.from, &signer.describe()),
            None if secret.expose().is_empty() => id.from.clone(),
            None if id.expose().is_empty() => secret.from.clone(),
            None => both(&id.from, &secret.from),
        }
    }

    /// Those and what is offered.
    fn who(&self, offer: Offer<'_>) -> String {
        let offered = match offer {
            Offer::Client | Offer::Code { .. } => return self.describe(),
            Offer::Password(username, password) => both(&username.from, &password.from),
            Offer::Refresh(_, from) => from.to_owned(),
            Offer::Assertion(signer) => signer.describe(),
        };
        let client = &self.config;
        match client.client_id.expose().is_empty() && client.client_secret.expose().is_empty() {
            true => offered,
            false => both(&offered, &self.describe()),
        }
    }

    /// Revokes a refresh token: this endpoint is one for that (RFC 7009). A token that is not known
    /// there counts as revoked, as the standard has it.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn revoke(
        self: &Arc<Self>,
        token: &SecretString,
        context: &CallContext,
    ) -> Result<()> {
        let carrier = Carrier {
            endpoint: self.clone(),
            context: context.clone(),
            status: AtomicU16::new(0),
            attempts: AtomicU16::new(0),
            who: self.describe(),
            assertion: None,
        };
        let (id, secret) = (&self.config.client_id, &self.config.client_secret);
        let mut params = vec![
            ("token".to_owned(), token.expose_secret().to_owned()),
            ("token_type_hint".to_owned(), "refresh_token".to_owned()),
        ];
        let mut standard = HttpRequest::default();
        let basic = matches!(
            self.config.client_auth,
            ClientAuth::Basic | ClientAuth::BasicRaw
        );
        if basic && !secret.expose().is_empty() {
            let pair = format!("{}:{}", encode(id.expose()), encode(secret.expose()));
            let header = secret_header("Basic ", &STANDARD.encode(pair), &self.describe())?;
            standard.headers_mut().insert(AUTHORIZATION, header);
        } else {
            params.push(("client_id".to_owned(), id.expose().to_owned()));
            if !secret.expose().is_empty() {
                params.push(("client_secret".to_owned(), secret.expose().to_owned()));
            }
        }
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(&params)
            .finish();
        *standard.body_mut() = body.into_bytes();
        let answer = self.carry(standard, &carrier).await?;
        if answer.status().is_success() {
            return Ok(());
        }
        let body: Option<serde_json::Value> = serde_json::from_slice(answer.body()).ok();
        let code = body.as_ref().and_then(|body| body["error"].as_str());
        let code = code.and_then(answer::code).map(|code| format!(" `{code}`"));
        Err(Error::new(
            ErrorKind::Auth,
            format!(
                "{} answered {}{}",
                self.name().replace("token endpoint", "revocation endpoint"),
                answer.status().as_u16(),
                code.unwrap_or_default()
            ),
        )
        .hint(self.client_hint()))
    }

    /// Sends the crate's request by our client, changed to what this server wants, and gives the
    /// answer back in the form the crate knows.
    async fn carry(&self, standard: HttpRequest, carrier: &Carrier) -> Result<HttpResponse> {
        let (parts, body) = standard.into_parts();
        let mut request = Request {
            method: Method::POST,
            headers: parts.headers,
            body: None,
            // Asking for a token twice does no harm. Where what was offered is good for one time, and
            // the answer was lost, nothing is lost by asking again either: some servers answer a
            // second time for a while, and without that answer there is no way on anyway.
            repeatable: true,
            // Bodies of refusals say why.
            accept: (400..500)
                .filter(|s| ![408, 425, 429].contains(s))
                .collect(),
            ..Request::get(self.config.token_url.clone())
        };
        let config = &self.config;
        if matches!(config.client_auth, ClientAuth::BasicRaw)
            && !config.client_secret.expose().is_empty()
        {
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
        let mut set = |name: String, value: String| {
            params.retain(|(known, _)| *known != name);
            params.push((name, value));
        };
        for (name, value) in form_urlencoded::parse(&body) {
            set(name.into_owned(), value.into_owned());
        }
        if carrier.assertion.is_some() {
            set("grant_type".to_owned(), JWT_BEARER.to_owned());
        }
        for (name, value) in &config.params {
            set(name.clone(), value.clone());
        }
        if config.client_id.expose().is_empty() {
            params.retain(|(name, value)| name != "client_id" || !value.is_empty());
        }
        let signer = Carried { carrier, params };
        let response = self.http.send(request, &signer, &carrier.context).await?;
        carrier.status.store(response.status.as_u16(), Relaxed);
        Ok(answer::standard(&response))
    }

    /// The body of a token request.
    fn body(&self, params: &[(String, String)]) -> String {
        match self.config.body {
            TokenBody::Form => form_urlencoded::Serializer::new(String::new())
                .extend_pairs(params)
                .finish(),
            TokenBody::Json => serde_json::Value::from_iter(params.iter().cloned()).to_string(),
        }
    }

    /// The error for a token request that brought no token. Never quotes the answer, except for a
    /// code of the standard's form.
    fn failed(
        &self,
        offer: Offer<'_>,
        carrier: &Carrier,
        e: RequestTokenError<Error, BasicErrorResponse>,
    ) -> Refusal {
        let invalid_grant = matches!(
            &e,
            RequestTokenError::ServerResponse(said) if said.error().as_ref() == "invalid_grant"
        );
        Refusal {
            error: self.explained(offer, carrier.status.load(Relaxed), e),
            invalid_grant,
            repeated: carrier.attempts.load(Relaxed) > 1,
        }
    }

    fn explained(
        &self,
        offer: Offer<'_>,
        status: u16,
        e: RequestTokenError<Error, BasicErrorResponse>,
    ) -> Error {
        let endpoint = self.name();
        let code = match &e {
            RequestTokenError::Request(_) => None,
            RequestTokenError::ServerResponse(said) => answer::code(said.error().as_ref()),
            _ => None,
        };
        if let RequestTokenError::Request(e) = e {
            return e.context(format!("could not get a token from {endpoint}"));
        }
        let who = self.who(offer);
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
                    format!("allow the {} grant for this client", offer.grant())
                }
                "invalid_grant" => offer.remedy().to_owned(),
                _ => "check `scopes`, `params`, `body` and `client_auth` of the token request against the API's documentation".to_owned(),
            }),
        }
    }

    fn client_hint(&self) -> String {
        let other = match &self.config.client_auth {
            ClientAuth::Basic => "`client_auth: post` or `basic_raw`",
            ClientAuth::BasicRaw => "`client_auth: basic` or `post`",
            ClientAuth::Post => "`client_auth: basic`",
            ClientAuth::PrivateKeyJwt(_) => {
                return format!(
                    "check {}, `alg` and `kid`, that the server has the public key, and this machine's clock",
                    self.describe()
                );
            }
        };
        format!("check {}; some servers want {other}", self.describe())
    }

    /// What it is called in messages.
    pub fn name(&self) -> String {
        let url = &self.config.token_url;
        let shown = format!("{}{}", url.origin().ascii_serialization(), url.path());
        format!("the token endpoint `{}`", redact::scrub(&shown))
    }
}

impl Offer<'_> {
    fn grant(&self) -> &'static str {
        match self {
            Self::Client => "client-credentials",
            Self::Password(..) => "password",
            Self::Refresh(..) => "refresh-token",
            Self::Assertion(_) => "JWT-bearer",
            Self::Code { .. } => "authorization-code",
        }
    }

    /// What to do when what is offered is not taken.
    fn remedy(&self) -> &'static str {
        match self {
            Self::Client => "check `params` and `scopes` of the token request",
            Self::Password(..) => {
                "check user name and password, and that this person may log in without a second factor"
            }
            Self::Refresh(..) => {
                "the refresh token has ended, was revoked, or is spent: by somebody else, or by this program when the answer to an earlier run was lost"
            }
            Self::Assertion(_) => {
                "check `issuer`, `subject`, `audience`, `kid` and the key, and this machine's clock"
            }
            Self::Code { .. } => "log in once more: a code is good for a minute, and once",
        }
    }
}

/// Carries one request of the crate. Owns what it needs: the crate's trait cannot be met for a
/// borrowed one inside `async`.
struct Carrier {
    endpoint: Arc<Endpoint>,
    context: CallContext,
    /// Of the answer; the crate's errors forget it.
    status: AtomicU16,
    /// How often it was sent.
    attempts: AtomicU16,
    who: String,
    /// Signs what is offered.
    assertion: Option<Arc<Signer>>,
}

impl<'c> AsyncHttpClient<'c> for Carrier {
    type Error = Error;
    type Future = BoxFuture<'c, Result<HttpResponse>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.endpoint.carry(request, self))
    }
}

/// Writes the body of a token request, which carries the client's credentials. Statements are signed
/// for each attempt: servers take each of them once.
struct Carried<'a> {
    carrier: &'a Carrier,
    params: Vec<(String, String)>,
}

#[async_trait]
impl Sign for Carried<'_> {
    async fn sign(&self, request: &mut Request, _: &CallContext) -> Result<()> {
        if request.method != Method::POST {
            // A redirect has made a GET of it, which has no body.
            return Ok(());
        }
        self.carrier.attempts.fetch_add(1, Relaxed);
        let endpoint = &self.carrier.endpoint;
        let audience = without_query(&endpoint.config.token_url);
        let mut params = self.params.clone();
        if let Some(signer) = &self.carrier.assertion {
            params.push(("assertion".to_owned(), signer.sign(&audience)?));
        }
        if let Some(signer) = &endpoint.assertion {
            let kind = (
                "client_assertion_type".to_owned(),
                ASSERTION_TYPE.to_owned(),
            );
            params.push(kind);
            params.push(("client_assertion".to_owned(), signer.sign(&audience)?));
        }
        let media = HeaderValue::from_static(endpoint.config.body.media());
        request.headers.insert(CONTENT_TYPE, media);
        request.body = Some(endpoint.body(&params).into());
        Ok(())
    }

    async fn refused(&self, _: &Request, _: &CallContext) -> Result<bool> {
        Ok(false)
    }

    fn describe(&self) -> String {
        self.carrier.who.clone()
    }
}

/// How a token endpoint is called as an audience.
fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
