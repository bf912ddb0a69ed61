//! Secrets by reference: where one is, and who can read it. A secret's value is held as a
//! [`SecretString`], whose `Debug` prints nothing, and registered with [`crate::telemetry::redact`]
//! as soon as it is known.

mod google;
pub mod local;
pub mod resolve;

pub use google::SecretManager;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::error::{Error, Result};

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretRef {
    /// `gcp://PROJECT/SECRET[@VERSION]`, or `gcp://PROJECT/LOCATION/SECRET[@VERSION]` for a regional one.
    Gcp {
        /// Project id.
        project: String,
        /// Location of a regional secret.
        location: Option<String>,
        /// Secret id.
        secret: String,
        /// Version number, alias or `latest`.
        version: String,
    },
    /// `env://NAME`.
    Env(String),
    /// `file://PATH`.
    File(PathBuf),
}

impl FromStr for SecretRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The text itself may be a secret that somebody put in the wrong place: never quote it.
        let bad = |what: &str| {
            Error::config(format!("a secret must be a reference, {what}")).hint(
                "write `gcp://project/secret`, `gcp://project/secret@7`, `env://NAME` or `file:///path`; never the secret itself",
            )
        };
        if let Some(name) = text.strip_prefix("env://") {
            return match name {
                "" => Err(bad("and `env://` names no variable")),
                name => Ok(Self::Env(name.to_owned())),
            };
        }
        if let Some(path) = text.strip_prefix("file://") {
            return match path {
                "" => Err(bad("and `file://` names no file")),
                path => Ok(Self::File(path.into())),
            };
        }
        let Some(rest) = text.strip_prefix("gcp://") else {
            return Err(bad("and this text is none"));
        };
        let (name, version) = rest.split_once('@').unwrap_or((rest, "latest"));
        let parts: Vec<&str> = name.split('/').collect();
        if version.is_empty() || parts.iter().any(|p| p.is_empty()) {
            return Err(bad("and this `gcp://` reference has an empty part"));
        }
        let (project, location, secret) = match parts[..] {
            [project, secret] => (project, None, secret),
            [project, location, secret] => (project, Some(location.to_owned()), secret),
            _ => return Err(bad("and this `gcp://` reference is not project/secret")),
        };
        Ok(Self::Gcp {
            project: project.to_owned(),
            location,
            secret: secret.to_owned(),
            version: version.to_owned(),
        })
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gcp {
                project,
                location,
                secret,
                version,
            } => {
                write!(f, "gcp://{project}/")?;
                if let Some(location) = location {
                    write!(f, "{location}/")?;
                }
                write!(f, "{secret}@{version}")
            }
            Self::Env(name) => write!(f, "env://{name}"),
            Self::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

/// Reads secrets.
#[async_trait]
pub trait SecretStore: Send + Sync {
    /// The secret's value, one trailing newline removed, registered for redaction.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Auth`] naming the reference, where it was looked for, and what to
    /// grant or create; never a value.
    async fn get(&self, reference: &SecretRef) -> Result<SecretString>;

    /// The same as it is now, never as it was when it was read before.
    ///
    /// # Errors
    /// As [`Self::get`].
    async fn newest(&self, reference: &SecretRef) -> Result<Version>;
}

/// A secret as it was read.
#[derive(Clone, Debug)]
pub struct Version {
    /// The value.
    pub value: SecretString,
    /// The version's number, where the place counts them.
    pub number: Option<String>,
}

/// Writes secrets that replace themselves: refresh tokens.
#[async_trait]
pub trait SecretWriter: Send + Sync {
    /// Stores a value as the newest, durably. Its number, where the place counts versions.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Auth`] naming the reference, and what to grant; never a value.
    async fn add(&self, reference: &SecretRef, value: &SecretString) -> Result<Option<String>>;

    /// Makes a version that was replaced unusable. Harmless where it is already, and where the place
    /// does not count versions.
    ///
    /// # Errors
    /// As [`Self::add`].
    async fn disable(&self, reference: &SecretRef, version: &str) -> Result<()>;

    /// Makes the newest value unusable: the file goes, a version is disabled.
    ///
    /// # Errors
    /// As [`Self::add`].
    async fn remove(&self, reference: &SecretRef) -> Result<()>;
}
