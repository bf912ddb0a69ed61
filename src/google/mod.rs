//! The way to Google: where its services are, one set of credentials for all of them, and the one
//! retry ring around their REST calls.
//!
//! Knows nothing of tables, secrets or rows. [`Google`] is a cheap handle; clone it freely.

mod credentials;
mod endpoint;
mod failure;
mod project;
mod rest;
mod settings;

pub use endpoint::Endpoint;
pub use failure::{Failure, Next};
pub(crate) use failure::{next, tidy};
pub(crate) use rest::{Answer, Exchange};
pub use rest::{Call, RetryPolicy};
pub use settings::GoogleSettings;

use std::sync::Arc;

use crate::clock::SharedClock;
use crate::error::{Error, ErrorKind, Result};

use credentials::CredentialSource;

/// How the program names itself to Google.
pub(crate) const USER_AGENT: &str = concat!("drawoff/", env!("CARGO_PKG_VERSION"));

/// A handle on Google's services: settings, credentials and HTTP clients, shared by all clones.
#[derive(Clone)]
pub struct Google(Arc<Inner>);

struct Inner {
    settings: GoogleSettings,
    clock: SharedClock,
    credentials: CredentialSource,
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
            credentials: CredentialSource::new(),
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
            self.0.credentials.headers(self).await
        } else {
            Ok(http::HeaderMap::new())
        }
    }

    /// Forgets the token at hand after a service has refused it; the next call gets another.
    pub(crate) async fn renew_credentials(&self) {
        self.0.credentials.forget().await;
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
