//! Which Google to talk to, as settings. The environment is read elsewhere and handed in through a
//! lookup, so every variable that matters is named here once.

use std::path::PathBuf;

use super::{Endpoint, Impersonation};
pub use crate::config::GOOGLE_CLOUD_PROJECT;
use crate::error::{Error, Result};

/// BigQuery's REST surface elsewhere: `http://host:port` or `host:port`.
pub const BIGQUERY_EMULATOR_HOST: &str = "BIGQUERY_EMULATOR_HOST";
/// The Storage Write API (gRPC, plain h2c for `http`) elsewhere; must be set together with
/// [`BIGQUERY_EMULATOR_HOST`]. A name of our own: the ecosystem has none for BigQuery's second port.
pub const BIGQUERY_STORAGE_EMULATOR_HOST: &str = "BIGQUERY_STORAGE_EMULATOR_HOST";
/// Secret Manager elsewhere, as `gcloud` reads it.
pub const SECRET_MANAGER: &str = "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER";
/// Host and port of the metadata server.
pub const GCE_METADATA_HOST: &str = "GCE_METADATA_HOST";
/// `true`: there is no metadata server, do not look for it.
pub const NO_GCE_CHECK: &str = "NO_GCE_CHECK";
/// File with credentials; empty counts as unset.
pub const GOOGLE_APPLICATION_CREDENTIALS: &str = "GOOGLE_APPLICATION_CREDENTIALS";
/// The older name of [`GOOGLE_CLOUD_PROJECT`].
pub const GCLOUD_PROJECT: &str = "GCLOUD_PROJECT";
/// Project that pays for calls made with a person's credentials.
pub const GOOGLE_CLOUD_QUOTA_PROJECT: &str = "GOOGLE_CLOUD_QUOTA_PROJECT";
/// Folder of `gcloud`'s configuration.
pub const CLOUDSDK_CONFIG: &str = "CLOUDSDK_CONFIG";

/// `1`: a file with credentials may name a program that is run to get a token.
pub const ALLOW_EXECUTABLES: &str = "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES";
/// Domain of Google's services, where it is a sovereign cloud's.
pub const GOOGLE_CLOUD_UNIVERSE_DOMAIN: &str = "GOOGLE_CLOUD_UNIVERSE_DOMAIN";
/// Service account to act as, as `gcloud` reads it.
pub const IMPERSONATE: &str = "CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT";

/// Where Google's services and credentials are. [`Default`] is Google itself with nothing found in
/// the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoogleSettings {
    /// BigQuery's REST surface; `https://bigquery.googleapis.com`.
    pub bigquery: Endpoint,
    /// The Storage Write API; `https://bigquerystorage.googleapis.com`.
    pub bigquery_storage: Endpoint,
    /// Secret Manager; `None` is Google's own, of the secret's location.
    pub secret_manager: Option<Endpoint>,
    /// The metadata server; `None`: there is none. `http://metadata.google.internal`.
    pub metadata: Option<Endpoint>,
    /// File with credentials that the person named.
    pub credentials_file: Option<PathBuf>,
    /// File that `gcloud auth application-default login` writes.
    pub well_known_file: Option<PathBuf>,
    /// Project where none is named.
    pub project: Option<String>,
    /// Project that pays for calls made with a person's credentials.
    pub quota_project: Option<String>,
    /// Service account to act as.
    pub impersonate: Option<Impersonation>,
    /// Domain of Google's services.
    pub universe: String,
    /// Whether a file with credentials may name a program to be run.
    pub allow_executables: bool,
}

impl Default for GoogleSettings {
    fn default() -> Self {
        Self {
            bigquery: Endpoint::google(&format!("bigquery.{}", Self::UNIVERSE)),
            bigquery_storage: Endpoint::google(&format!("bigquerystorage.{}", Self::UNIVERSE)),
            secret_manager: None,
            metadata: Endpoint::parse("http://metadata.google.internal", GCE_METADATA_HOST).ok(),
            credentials_file: None,
            well_known_file: None,
            project: None,
            quota_project: None,
            impersonate: None,
            universe: Self::UNIVERSE.to_owned(),
            allow_executables: false,
        }
    }
}

impl GoogleSettings {
    /// The domain of Google's services, but for sovereign clouds.
    pub const UNIVERSE: &str = "googleapis.com";

    /// The service of this name, where nothing says that it is elsewhere.
    pub(crate) fn service(&self, name: &str) -> Endpoint {
        Endpoint::google(&format!("{name}.{}", self.universe))
    }

    /// Reads the ecosystem's variables through `lookup`. An empty value counts as unset.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`] naming the variable that is wrong, or that is missing
    /// beside another.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| lookup(name).filter(|v| !v.trim().is_empty());
        let endpoint = |name: &str| get(name).map(|v| Endpoint::parse(&v, name)).transpose();
        let mut settings = Self::default();
        if let Some(universe) = get(GOOGLE_CLOUD_UNIVERSE_DOMAIN) {
            let domain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
            if !universe.contains('.') || !universe.chars().all(domain) {
                return Err(Error::config(format!(
                    "`{GOOGLE_CLOUD_UNIVERSE_DOMAIN}` is no domain"
                ))
                .hint(format!("write it like `{}`", Self::UNIVERSE)));
            }
            settings.universe = universe;
            settings.bigquery = settings.service("bigquery");
            settings.bigquery_storage = settings.service("bigquerystorage");
        }
        match (
            endpoint(BIGQUERY_EMULATOR_HOST)?,
            endpoint(BIGQUERY_STORAGE_EMULATOR_HOST)?,
        ) {
            (Some(rest), Some(grpc)) => {
                settings.bigquery = rest;
                settings.bigquery_storage = grpc;
            }
            (None, None) => {}
            // Half an emulator would send rows to the real service.
            (Some(_), None) => {
                return Err(half(BIGQUERY_EMULATOR_HOST, BIGQUERY_STORAGE_EMULATOR_HOST));
            }
            (None, Some(_)) => {
                return Err(half(BIGQUERY_STORAGE_EMULATOR_HOST, BIGQUERY_EMULATOR_HOST));
            }
        }
        settings.secret_manager = endpoint(SECRET_MANAGER)?;
        if let Some(metadata) = endpoint(GCE_METADATA_HOST)? {
            settings.metadata = Some(metadata);
        }
        if get(NO_GCE_CHECK).is_some_and(|v| v.eq_ignore_ascii_case("true") || v == "1") {
            settings.metadata = None;
        }
        settings.credentials_file = get(GOOGLE_APPLICATION_CREDENTIALS).map(PathBuf::from);
        settings.well_known_file = get(CLOUDSDK_CONFIG)
            .map(PathBuf::from)
            .or_else(|| get("APPDATA").map(|d| PathBuf::from(d).join("gcloud")))
            .or_else(|| get("HOME").map(|d| PathBuf::from(d).join(".config/gcloud")))
            .map(|folder| folder.join("application_default_credentials.json"));
        settings.project = get(GOOGLE_CLOUD_PROJECT).or_else(|| get(GCLOUD_PROJECT));
        settings.quota_project = get(GOOGLE_CLOUD_QUOTA_PROJECT);
        settings.allow_executables = get(ALLOW_EXECUTABLES).is_some_and(|v| v == "1");
        settings.impersonate = get(IMPERSONATE)
            .map(|v| Impersonation::parse(&v, IMPERSONATE))
            .transpose()?;
        Ok(settings)
    }

    /// Whether BigQuery is somewhere else than at Google: an emulator.
    pub fn is_emulated(&self) -> bool {
        !self.bigquery_storage.takes_credentials()
    }
}

fn half(set: &str, missing: &str) -> Error {
    Error::config(format!("`{set}` is set and `{missing}` is not"))
        .hint("set both, or neither: one is the emulator's REST port, the other its gRPC port")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<GoogleSettings> {
        GoogleSettings::from_lookup(|name| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn nothing_set_is_google_itself() {
        assert_eq!(of(&[]).unwrap(), GoogleSettings::default());
        assert!(!of(&[]).unwrap().is_emulated());
    }

    #[test]
    fn empty_is_unset() {
        let s = of(&[
            (GOOGLE_APPLICATION_CREDENTIALS, ""),
            (BIGQUERY_EMULATOR_HOST, " "),
            (GOOGLE_CLOUD_PROJECT, ""),
            (GCLOUD_PROJECT, "old"),
        ])
        .unwrap();
        assert_eq!(s.credentials_file, None);
        assert_eq!(s.project.as_deref(), Some("old"));
        assert_eq!(s.bigquery, GoogleSettings::default().bigquery);
    }

    #[test]
    fn an_emulator_needs_both_ports() {
        let e = of(&[(BIGQUERY_EMULATOR_HOST, "localhost:9050")]).unwrap_err();
        assert!(e.chain().contains("`BIGQUERY_STORAGE_EMULATOR_HOST`"));
        let s = of(&[
            (BIGQUERY_EMULATOR_HOST, "localhost:9050"),
            (BIGQUERY_STORAGE_EMULATOR_HOST, "localhost:9060"),
        ])
        .unwrap();
        assert!(s.is_emulated());
        assert_eq!(s.bigquery_storage.as_str(), "http://localhost:9060");
    }

    #[test]
    fn the_well_known_file_follows_gclouds_folder() {
        let s = of(&[("HOME", "/home/me")]).unwrap();
        assert_eq!(
            s.well_known_file,
            Some("/home/me/.config/gcloud/application_default_credentials.json".into())
        );
        let s = of(&[("HOME", "/home/me"), (CLOUDSDK_CONFIG, "/c")]).unwrap();
        assert_eq!(
            s.well_known_file,
            Some("/c/application_default_credentials.json".into())
        );
    }

    #[test]
    fn the_metadata_server_can_be_moved_and_switched_off() {
        let s = of(&[(GCE_METADATA_HOST, "127.0.0.1:80")]).unwrap();
        assert_eq!(s.metadata.unwrap().as_str(), "http://127.0.0.1");
        assert_eq!(of(&[(NO_GCE_CHECK, "True")]).unwrap().metadata, None);
    }
}
