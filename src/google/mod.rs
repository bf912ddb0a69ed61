//! The way to Google: where its services are, one set of credentials for all of them, and the one
//! retry ring around their REST calls.
//!
//! Knows nothing of tables, secrets or rows. [`Google`] is a cheap handle; clone it freely.

mod endpoint;
mod failure;
mod identity;
mod project;
mod read;
mod rest;
mod settings;
mod sign;
mod verify;

pub use endpoint::Endpoint;
pub use failure::{Failure, Next};
pub(crate) use failure::{next, tidy};
pub use identity::{CLOUD_PLATFORM, Impersonation, Who};
pub(crate) use rest::{Answer, Exchange};
pub use rest::{Call, RetryPolicy};
pub use settings::GoogleSettings;
pub use sign::{GoogleSign, GoogleToken};
pub use verify::{Caller, Refusal, Verifier};

use std::sync::Arc;

use crate::clock::SharedClock;
use crate::error::{Error, ErrorKind, Result};

use identity::Identity;

/// How the program names itself to Google.
pub(crate) const USER_AGENT: &str = concat!("drawoff/", env!("CARGO_PKG_VERSION"));

/// A handle on Google's services: settings, credentials and HTTP clients, shared by all clones.
#[derive(Clone)]
pub struct Google(Arc<Inner>);

struct Inner {
    settings: GoogleSettings,
    clock: SharedClock,
    identity: Identity,
    /// For Google itself; honours the system's proxy settings.
    remote: reqwest::Client,
    /// For emulators, stand-ins and the metadata server, which no proxy may see.
    direct: reqwest::Client,
    project: tokio::sync::OnceCell<String>,
}

impl Google {
    /// A handle. Nothing is looked up or sent before the first call.
    ///
    /// # Errors
    /// [`ErrorKind::Bug`] when the HTTP client cannot be built.
    pub fn new(settings: GoogleSettings, clock: SharedClock) -> Result<Self> {
        let remote = client(false)?;
        let direct = client(true)?;
        Ok(Self(Arc::new(Inner {
            identity: Identity::default(),
            settings,
            clock,
            remote,
            direct,
            project: tokio::sync::OnceCell::new(),
        })))
    }

    /// Where the services are.
    pub fn settings(&self) -> &GoogleSettings {
        &self.0.settings
    }

    /// The clock that waits between attempts.
    pub fn clock(&self) -> &SharedClock {
        &self.0.clock
    }

    /// Headers that put the credentials on a request to `endpoint`: none for a plain-http one, where
    /// a token would travel in the clear.
    ///
    /// # Errors
    /// [`ErrorKind::Auth`] saying where credentials were looked for.
    pub async fn headers(&self, endpoint: &Endpoint) -> Result<http::HeaderMap> {
        if endpoint.takes_credentials() {
            let scopes = [CLOUD_PLATFORM.to_owned()];
            self.0.identity.headers(self, &scopes).await
        } else {
            Ok(http::HeaderMap::new())
        }
    }

    /// Forgets the tokens at hand after a service has refused one; the next call gets another. Of
    /// many calls that went out with the same one, the first does it: `asked` is when it went out.
    pub(crate) async fn renew_credentials(&self, asked: std::time::Instant) {
        self.0.identity.forget(asked).await;
    }

    /// An access token of these scopes that is valid now; registered for redaction.
    ///
    /// # Errors
    /// [`ErrorKind::Auth`] saying where credentials were looked for, or what refused them.
    pub async fn access_token(&self, scopes: &[String]) -> Result<secrecy::SecretString> {
        self.0.identity.access_token(self, scopes).await
    }

    /// An ID token for this audience that is valid now; registered for redaction.
    ///
    /// # Errors
    /// As [`Self::access_token`]; and where the credentials have no ID tokens for an audience.
    pub async fn id_token(&self, audience: &str) -> Result<secrecy::SecretString> {
        self.0.identity.id_token(self, audience).await
    }

    /// Whose credentials are at hand, as an access token of these scopes tells.
    ///
    /// # Errors
    /// As [`Self::access_token`].
    pub async fn who(&self, scopes: &[String]) -> Result<Who> {
        self.0.identity.who(self, scopes).await
    }

    /// E-mail address of who acts, where settings or a credentials file say so. Asks nobody, so it may
    /// be called where a message is being made.
    pub fn account(&self) -> Option<String> {
        identity::account(self)
    }

    /// The project to use where none is named: the setting, the credentials' own, or the one this
    /// machine runs in. Looked up once.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when nothing names one.
    pub async fn project_id(&self) -> Result<String> {
        self.0
            .project
            .get_or_try_init(|| project::discover(self))
            .await
            .cloned()
    }

    /// The client for Google itself and what else is beyond this machine.
    fn remote(&self) -> &reqwest::Client {
        &self.0.remote
    }

    /// A question to the metadata server that is at `at`. It gives its tokens to whoever asks like this.
    fn ask_metadata(
        &self,
        at: &Endpoint,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> reqwest::RequestBuilder {
        let path = [&["computeMetadata", "v1"], path].concat();
        self.http(at)
            .get(at.url(&path, query))
            .header("Metadata-Flavor", "Google")
    }

    fn http(&self, endpoint: &Endpoint) -> &reqwest::Client {
        if endpoint.takes_credentials() {
            &self.0.remote
        } else {
            &self.0.direct
        }
    }
}

fn client(direct: bool) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        // A redirect of an API call is never wanted, and 308 is an answer of uploads.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(std::time::Duration::from_secs(10));
    if direct {
        builder = builder.no_proxy();
    }
    builder
        .build()
        .map_err(|e| Error::new(ErrorKind::Bug, "could not build the HTTP client").source(e))
}
