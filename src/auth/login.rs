//! A person's login, once (RFC 6749 §4.1 with RFC 7636 and RFC 8252): the URL to open in a browser,
//! what comes back to this machine, and the refresh token that it is exchanged for. And the way back:
//! a token revoked (RFC 7009).

use std::sync::Arc;

use oauth2::{AuthUrl, CsrfToken, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::OAuthClient;
use super::oauth::{Endpoint, Offer, error_code};
use crate::error::{Error, ErrorKind, Result};
use crate::http::{CallContext, HttpOptions, shown};

/// Where a person logs in.
#[derive(Clone, Debug)]
pub struct LoginConfig {
    /// The token endpoint, and the client.
    pub client: OAuthClient,
    /// The page to open.
    pub authorization_url: Url,
    /// Further parameters of it.
    pub params: Vec<(String, String)>,
    /// Host of the address that the browser comes back to: `127.0.0.1` or `localhost`.
    pub redirect_host: String,
    /// Its port, where the API wants a fixed one.
    pub redirect_port: Option<u16>,
}

/// Path of the address that the browser comes back to.
pub const CALLBACK: &str = "/callback";

/// A login that waits for the browser to come back.
pub struct Login {
    endpoint: Arc<Endpoint>,
    /// To be opened in a browser. It holds no secret.
    pub url: Url,
    state: CsrfToken,
    verifier: PkceCodeVerifier,
    redirect: RedirectUrl,
}

/// What the browser brought back.
pub enum Came {
    /// The code to be exchanged.
    Code(SecretString),
    /// The answer to another login, or to none: to be ignored.
    Stray,
    /// The person, or the server, said no; why.
    Refused(Error),
}

impl Login {
    /// Begins a login whose browser comes back to this machine at `port`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: see [`super::build`].
    pub fn begin(config: LoginConfig, port: u16, http: &HttpOptions) -> Result<Self> {
        let redirect = format!("http://{}:{port}{CALLBACK}", config.redirect_host);
        let redirect = RedirectUrl::new(redirect)
            .map_err(|e| Error::config("the address to come back to is no URL").source(e))?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        // The crate writes the page's URL as the standard says; it goes to the browser, not to us.
        let client = oauth2::basic::BasicClient::new(oauth2::ClientId::new(
            config.client.client_id.expose().to_owned(),
        ))
        .set_auth_uri(AuthUrl::from_url(config.authorization_url))
        .set_redirect_uri(redirect.clone());
        let mut request = client
            .authorize_url(CsrfToken::new_random)
            .set_pkce_challenge(challenge)
            .add_scopes(config.client.scopes.iter().cloned().map(Scope::new));
        for (name, value) in &config.params {
            request = request.add_extra_param(name, value);
        }
        let (url, state) = request.url();
        Ok(Self {
            endpoint: Arc::new(Endpoint::new(config.client, http)?),
            url,
            state,
            verifier,
            redirect,
        })
    }

    /// What the address says that the browser came back to.
    pub fn read(&self, address: &Url) -> Came {
        let param = |wanted: &str| {
            address
                .query_pairs()
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| value.into_owned())
        };
        if param("state").as_deref() != Some(self.state.secret().as_str()) {
            return Came::Stray;
        }
        match (param("code"), param("error")) {
            (Some(code), None) if !code.is_empty() => Came::Code(SecretString::from(code)),
            (_, error) => {
                let said = error.as_deref().and_then(error_code);
                let said = said.map(|code| format!(": `{code}`")).unwrap_or_default();
                Came::Refused(
                    Error::new(
                        ErrorKind::Auth,
                        format!(
                            "the authorization server `{}` did not allow the login{said}",
                            shown(&self.url)
                        ),
                    )
                    .hint("log in again and agree; else check `client_id`, `scopes` and which addresses to come back to the client may use"),
                )
            }
        }
    }

    /// The refresh token that a code is exchanged for.
    ///
    /// # Errors
    /// As of any token request; [`ErrorKind::Rejected`] when the server gives no refresh token.
    pub async fn exchange(
        &self,
        code: &SecretString,
        context: &CallContext,
    ) -> Result<SecretString> {
        crate::telemetry::redact::register(code.expose_secret());
        let offer = Offer::Code {
            code: code.expose_secret(),
            verifier: self.verifier.secret(),
            redirect: &self.redirect,
        };
        let answered = self
            .endpoint
            .ask(offer, context)
            .await
            .map_err(|r| r.error)?;
        answered.refresh_token.ok_or_else(|| {
            Error::new(
                ErrorKind::Rejected,
                format!("{} gave no refresh token for the login", self.endpoint.name()),
            )
            .hint("ask for one as the API's documentation says: often a scope (`offline_access`), or `params` of the authorization (`{access_type: offline, prompt: consent}`)")
        })
    }
}

/// Revokes a refresh token at `url`, as the client that it was given to.
///
/// # Errors
/// As of any token request.
pub async fn revoke(
    client: OAuthClient,
    url: Url,
    token: &SecretString,
    http: &HttpOptions,
    context: &CallContext,
) -> Result<()> {
    // The revocation endpoint authenticates clients as the token endpoint does.
    let client = OAuthClient {
        token_url: url,
        params: Default::default(),
        ..client
    };
    Arc::new(Endpoint::new(client, http)?)
        .revoke(token, context)
        .await
}
