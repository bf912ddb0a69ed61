//! The one module that knows every implementation, and wires them: sources, destinations, secrets.

mod credentials;
mod deploy;
mod inspect;
mod lease;
mod login;
mod open;
mod places;
mod run;
mod secrets;
mod vault;

pub use deploy::{Deployment, KeptSecret, Needed, Turnover};
pub use inspect::Preview;
pub use login::{LoginOptions, LoginShown, LogoutOptions};
pub use run::RunOptions;
pub use secrets::{NewSecret, SecretRow, SecretTarget, SetOptions};

use std::sync::Arc;

use crate::clock::{SharedClock, SystemClock};
use crate::config::Environment;
use crate::error::Result;
use crate::google::{Google, GoogleSettings, Impersonation};
use crate::secrets::SecretManager;
use crate::secrets::resolve::Secrets;
use crate::settings::Settings;

/// Everything that the commands need, made once a process.
pub struct App {
    settings: Settings,
    clock: SharedClock,
    google: Google,
    secrets: Secrets,
    manager: Arc<SecretManager>,
    environment: Environment,
}

impl App {
    /// Wires the program together; sends nothing.
    ///
    /// # Errors
    /// A setting of Google's endpoints that cannot be used.
    pub fn new(settings: Settings, environment: Environment) -> Result<Self> {
        let clock = SystemClock::shared();
        let lookup = |name: &str| environment.get(name);
        let mut at = GoogleSettings::from_lookup(lookup)?;
        if let Some(account) = &settings.impersonate {
            at.impersonate = Some(Impersonation::parse(
                account,
                "--impersonate-service-account",
            )?);
        }
        let google = Google::new(at, clock.clone())?;
        let manager = Arc::new(SecretManager::new(google.clone()));
        Ok(Self {
            settings,
            clock,
            secrets: Secrets::new(environment.clone(), Some(manager.clone())),
            manager,
            environment,
            google,
        })
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The way to Google.
    pub fn google(&self) -> &Google {
        &self.google
    }

    async fn open(&self, source: &str) -> Result<open::OpenSource> {
        let config = self.settings.source(source)?;
        open::OpenSource::open(config, self).await
    }
}
