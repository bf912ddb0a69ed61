//! OAuth 2.0 without a person at hand: a token endpoint is offered something, and gives tokens.

mod answer;
mod endpoint;
mod refresh;

use std::sync::Arc;

use async_trait::async_trait;

pub(super) use self::answer::code as error_code;
pub(super) use self::endpoint::{Endpoint, Offer};
use self::refresh::Refresh;
use super::jwt::Signer;
use super::keeper::{Granted, Issue};
use super::{Credential, Grant, OAuth, both, check_characters};
use crate::error::Result;
use crate::http::{CallContext, HttpOptions};

/// Issues tokens of one grant.
pub(super) struct OAuthIssuer {
    endpoint: Arc<Endpoint>,
    grant: Ready,
}

/// A grant, ready to be offered.
enum Ready {
    Client,
    Password(Credential, Credential),
    Refresh(Arc<Refresh>),
    Assertion(Arc<Signer>),
}

impl OAuthIssuer {
    /// # Errors
    /// [`crate::error::ErrorKind::Config`]: see [`Endpoint::new`]; a key that does not fit, a name or
    /// password with control characters.
    pub fn new(config: OAuth, http: &HttpOptions) -> Result<Self> {
        let endpoint = Arc::new(Endpoint::new(config.client, http)?);
        let grant = match config.grant {
            Grant::ClientCredentials => Ready::Client,
            Grant::Password { username, password } => {
                check_characters(&username)?;
                check_characters(&password)?;
                super::known(&password);
                Ready::Password(username, password)
            }
            Grant::RefreshToken(vault) => Ready::Refresh(Arc::new(Refresh::new(
                endpoint.clone(),
                vault,
                http.clock.clone(),
            ))),
            Grant::JwtBearer(jwt) => {
                Ready::Assertion(Arc::new(Signer::new(*jwt, http.clock.clone())?))
            }
        };
        Ok(Self { endpoint, grant })
    }
}

#[async_trait]
impl Issue for OAuthIssuer {
    async fn issue(&self, context: &CallContext) -> Result<Granted> {
        let offer = match &self.grant {
            Ready::Client => Offer::Client,
            Ready::Password(username, password) => Offer::Password(username, password),
            Ready::Assertion(signer) => Offer::Assertion(signer),
            Ready::Refresh(refresh) => return refresh.issue(context).await,
        };
        match self.endpoint.ask(offer, context).await {
            Ok(answered) => Ok(answered.granted),
            Err(refusal) => Err(refusal.error),
        }
    }

    fn describe(&self) -> String {
        match &self.grant {
            Ready::Client => self.endpoint.describe(),
            Ready::Password(username, password) => both(&username.from, &password.from),
            Ready::Assertion(signer) => signer.describe(),
            Ready::Refresh(refresh) => refresh.describe(),
        }
    }
}
