//! Credentials on requests: [`build`] makes a [`Sign`] of a configuration whose templates are
//! filled in. Knows nothing of connectors or of where secrets come from, except the words that say
//! so.

mod api_key;
mod basic;
mod bearer;
mod jwt;
mod keeper;
pub mod login;
mod oauth;
mod place;
mod session;
mod vault;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use self::keeper::Keeper;
use crate::error::{Error, ErrorKind, Result};
use crate::http::{CallContext, HttpOptions, Request, Sign};
use crate::telemetry::redact;

pub use self::jwt::{JwtAlgorithm, JwtConfig};
pub use self::place::TokenPlace;
pub use self::session::{Session, TokenSpot};
pub use self::vault::{Hold, Kept, Vault};

/// A credential and where it came from.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The value, used verbatim.
    pub value: SecretString,
    /// For messages: "secret `token` of source `acme`".
    pub from: String,
}

impl Credential {
    /// A credential with the words that say where it came from.
    pub fn new(value: impl Into<String>, from: impl Into<String>) -> Self {
        Self {
            value: SecretString::from(value.into()),
            from: from.into(),
        }
    }

    fn expose(&self) -> &str {
        self.value.expose_secret()
    }
}

/// How requests are authorized, ready to use.
#[derive(Clone, Debug)]
pub enum AuthConfig {
    /// Not at all.
    None,
    /// RFC 7617. Either half may be empty.
    Basic {
        /// User id; must not contain `:`.
        username: Credential,
        /// Password.
        password: Credential,
    },
    /// RFC 6750, `Authorization: Bearer`.
    Bearer {
        /// The token.
        token: Credential,
    },
    /// A key in this header.
    HeaderKey {
        /// Header name.
        name: String,
        /// Header value.
        value: Credential,
    },
    /// A key in this query parameter.
    QueryKey {
        /// Parameter name.
        name: String,
        /// Parameter value.
        value: Credential,
    },
    /// OAuth 2.0.
    OAuth(Box<OAuth>),
    /// A token that the client signs itself.
    Jwt(Box<JwtConfig>, TokenPlace),
    /// A token that a login call of the API gives.
    Session(Box<Session>),
}

/// OAuth 2.0: who asks where, and what is offered.
#[derive(Clone, Debug)]
pub struct OAuth {
    /// The token endpoint, and the client.
    pub client: OAuthClient,
    /// What is offered.
    pub grant: Grant,
}

/// What is offered for a token.
#[derive(Clone)]
pub enum Grant {
    /// Nothing but who the client is (RFC 6749 §4.4).
    ClientCredentials,
    /// A person's name and password (§4.3).
    Password {
        /// Name.
        username: Credential,
        /// Password.
        password: Credential,
    },
    /// The newest refresh token of that place (§6).
    RefreshToken(Arc<dyn Vault>),
    /// A signed statement (RFC 7523 §2.1).
    JwtBearer(Box<JwtConfig>),
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ClientCredentials => "ClientCredentials",
            Self::Password { .. } => "Password",
            Self::RefreshToken(_) => "RefreshToken",
            Self::JwtBearer(_) => "JwtBearer",
        })
    }
}

/// A token endpoint, and the client that asks it.
#[derive(Clone, Debug)]
pub struct OAuthClient {
    /// Token endpoint. The client's secret goes to its origin and nowhere else.
    pub token_url: Url,
    /// Client id; empty where the server wants none.
    pub client_id: Credential,
    /// Client secret; empty for a public client.
    pub client_secret: Credential,
    /// Asked for, space separated on the wire.
    pub scopes: Vec<String>,
    /// How the client shows who it is.
    pub client_auth: ClientAuth,
    /// How the token request's body is written.
    pub body: TokenBody,
    /// Further parameters: `audience`, `resource`, …
    pub params: BTreeMap<String, String>,
    /// Further headers of the token request.
    pub headers: BTreeMap<String, String>,
    /// Lifetime to assume when the answer gives none. `None`: until refused.
    pub default_ttl: Option<Duration>,
}

/// How an OAuth client shows who it is.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// Basic, id and secret each form-urlencoded first, as RFC 6749 §2.3.1 says.
    Basic,
    /// Basic with id and secret as they are, as many servers want it.
    BasicRaw,
    /// In the body.
    Post,
    /// By a signed statement (RFC 7523 §2.2); issuer, subject and audience are the client's id and the
    /// token URL unless said.
    PrivateKeyJwt(Box<JwtConfig>),
}

/// How a token request's body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenBody {
    /// `application/x-www-form-urlencoded`, the standard.
    Form,
    /// A JSON object.
    Json,
}

impl TokenBody {
    /// Its media type.
    pub fn media(self) -> &'static str {
        match self {
            Self::Form => "application/x-www-form-urlencoded",
            Self::Json => "application/json",
        }
    }
}

/// Makes the signer. `http` is how the source's requests are sent: a token endpoint gets a client
/// of its own with the same certificates, timeouts and clock, and its own origin.
///
/// One signer serves all streams of a source that share the credentials, so that they share a token.
///
/// # Errors
/// [`ErrorKind::Config`]: a colon in a user id, a control character in a credential, a name that
/// cannot be a header, a token URL that may not be used.
pub fn build(config: AuthConfig, http: &HttpOptions) -> Result<Arc<dyn Sign>> {
    Ok(match config {
        AuthConfig::None => Arc::new(Anonymous),
        AuthConfig::Basic { username, password } => {
            Arc::new(basic::Basic::new(&username, &password)?)
        }
        AuthConfig::Bearer { token } => Arc::new(bearer::Bearer::new(&token)?),
        AuthConfig::HeaderKey { name, value } => Arc::new(api_key::HeaderKey::new(&name, &value)?),
        AuthConfig::QueryKey { name, value } => Arc::new(api_key::QueryKey::new(name, value)?),
        AuthConfig::OAuth(config) => {
            Arc::new(Keeper::new(oauth::OAuthIssuer::new(*config, http)?, http))
        }
        AuthConfig::Jwt(config, place) => {
            let issuer = jwt::SelfSigned::new(*config, place, http.clock.clone())?;
            Arc::new(Keeper::new(issuer, http))
        }
        AuthConfig::Session(config) => {
            Arc::new(Keeper::new(session::Login::new(*config, http)?, http))
        }
    })
}

/// No credentials.
struct Anonymous;

#[async_trait]
impl Sign for Anonymous {
    async fn sign(&self, _: &mut Request, _: &CallContext) -> Result<()> {
        Ok(())
    }

    async fn refused(&self, _: &Request, _: &CallContext) -> Result<bool> {
        Ok(false)
    }

    fn sends_credentials(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        "none: the connector has no `auth`".to_owned()
    }
}

/// Tells redaction of a credential.
fn known(credential: &Credential) {
    redact::register(credential.expose());
}

/// A header value that is never printed, and known to redaction with and without its scheme.
fn secret_header(scheme: &str, value: &str, from: &str) -> Result<HeaderValue> {
    redact::register(value);
    let text = format!("{scheme}{value}");
    let mut header = HeaderValue::from_str(&text).map_err(|_| unusable(from))?;
    header.set_sensitive(true);
    Ok(header)
}

/// Refuses control characters, most often the newline at a file's end.
fn check_characters(credential: &Credential) -> Result<()> {
    match credential.expose().chars().any(char::is_control) {
        true => Err(unusable(&credential.from)),
        false => Ok(()),
    }
}

fn unusable(from: &str) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("the {from} contains a control character, such as a line break"),
    )
    .hint("store the value again without it; `printf %s` writes no newline, `echo` does")
}

/// "a and b", or one of them when both are the same.
fn both(a: &str, b: &str) -> String {
    match a == b {
        true => a.to_owned(),
        false => format!("{a} and {b}"),
    }
}
