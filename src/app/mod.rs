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
use std::time::Duration;

use crate::clock::{SharedClock, SystemClock};
use crate::config::{self, Environment};
use crate::error::Result;
use crate::google::{Google, GoogleSettings, Impersonation};
use crate::secrets::SecretManager;
use crate::secrets::resolve::Secrets;
use crate::settings::Settings;
use crate::telemetry::log;

/// Longest that log lines wait for the name of their project; Cloud Run says it within milliseconds.
const LOOKUP: Duration = Duration::from_secs(1);

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

    /// Whether there is such a source, with such streams, if any is named.
    ///
    /// # Errors
    /// What is not there; what is missing in its settings.
    pub fn knows(&self, source: &str, streams: &[String]) -> Result<()> {
        let config = self.settings.source(source)?;
        for stream in streams {
            open::stream_of(&config.connector, source, stream)?;
        }
        Ok(())
    }

    /// Finds out whose project traces are in, so that log lines can name them: as Google's variables say,
    /// else as Cloud Run does, else the one of the secrets. Does not wait long, and elsewhere asks nobody.
    pub async fn learn_project(&self) {
        if log::project().is_some() {
            return;
        }
        let get = |name: &str| self.environment.get(name);
        let in_cloud_run = get(config::K_SERVICE)
            .or(get(config::CLOUD_RUN_JOB))
            .is_some();
        let mut project = self.google.settings().project.clone();
        if project.is_none() && in_cloud_run {
            project = tokio::select! {
                found = self.google.project_id() => found.ok(),
                () = self.clock.sleep(LOOKUP) => None,
            };
        }
        if let Some(project) = project.as_ref().or(self.settings.project.as_ref()) {
            log::set_project(project);
        }
    }

    async fn open(&self, source: &str) -> Result<open::OpenSource> {
        let config = self.settings.source(source)?;
        open::OpenSource::open(config, self, None).await
    }
}
