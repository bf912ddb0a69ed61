//! Secrets by reference: where one is, who can read it, and who can write it. A secret's value is held as a
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
    pub number: Option<u64>,
}

/// What became of a value that was written; never the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where it is now: `projects/p/secrets/s`, or a file's path.
    pub place: String,
    /// Its version's number, where the place keeps versions.
    pub version: Option<u64>,
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(f, "{}/versions/{version}", self.place),
            None => f.write_str(&self.place),
        }
    }
}

/// Writes secrets.
#[async_trait]
pub trait SecretWriter: Send + Sync {
    /// Makes this the value that readers of the reference find from now on, in this process and in
    /// others. What they would refuse (an empty value, control characters, more than 64 KiB) is not
    /// written; nor is a value whose reference would not lead to it (`@7`). When it fails, the old
    /// value is as it was, unless the error says that this is not known.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`] for a value or a reference that cannot be written,
    /// [`crate::error::ErrorKind::Auth`] saying what to grant; never a value.
    async fn put(&self, reference: &SecretRef, value: &SecretString) -> Result<Stored>;

    /// Makes a version that was replaced unusable. Harmless where it is already, and where the place
    /// keeps no versions.
    ///
    /// # Errors
    /// As [`Self::put`].
    async fn disable(&self, reference: &SecretRef, version: u64) -> Result<()>;

    /// Makes the newest value unusable: a file goes, a version is disabled.
    ///
    /// # Errors
    /// As [`Self::put`].
    async fn remove(&self, reference: &SecretRef) -> Result<()>;
}
