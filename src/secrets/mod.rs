//! Secrets by reference: where one is, who can read it, and who can write it. A secret's value is held as a
//! [`SecretString`], whose `Debug` prints nothing, and registered with [`crate::telemetry::redact`]
//! as soon as it is known.

mod google;
pub mod local;
pub mod resolve;

pub use google::{Added, SecretManager, Seen, SeenState};

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::error::{Error, Result};

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretRef {
    /// `gcp://PROJECT/SECRET[@VERSION]`, or `gcp://PROJECT/LOCATION/SECRET[@VERSION]` for a regional
    /// one; or the resource's name, `projects/P[/locations/L]/secrets/S[/versions/V]`.
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

impl SecretRef {
    /// Whether it means one version for good: a number, or an alias.
    pub fn is_pinned(&self) -> bool {
        matches!(self, Self::Gcp { version, .. } if version != "latest")
    }
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
        let (parts, version): (Vec<&str>, _) = if text.starts_with("projects/") {
            let mut parts: Vec<&str> = text.split('/').collect();
            let version = match parts[..] {
                [.., "versions", version] => {
                    parts.truncate(parts.len() - 2);
                    version
                }
                _ => "latest",
            };
            match parts[..] {
                ["projects", project, "secrets", secret] => (vec![project, secret], version),
                [
                    "projects",
                    project,
                    "locations",
                    location,
                    "secrets",
                    secret,
                ] => (vec![project, location, secret], version),
                _ => {
                    return Err(bad("and this name is not projects/…/secrets/…/versions/…"));
                }
            }
        } else if let Some(rest) = text.strip_prefix("gcp://") {
            let (name, version) = rest.split_once('@').unwrap_or((rest, "latest"));
            (name.split('/').collect(), version)
        } else {
            return Err(bad("and this text is none"));
        };
        if version.is_empty() || parts.iter().any(|p| p.is_empty()) {
            return Err(bad("and this one has an empty part"));
        }
        let (project, location, secret) = match parts[..] {
            [project, secret] => (project, None, secret),
            [project, location, secret] => (project, Some(location.to_owned()), secret),
            _ => return Err(bad("and this `gcp://` reference is not project/secret")),
        };
        // They become a host and a path, to which credentials go.
        for (part, what, may) in [
            (project, "project", "-.:"),
            (location.as_deref().unwrap_or("global"), "location", "-"),
            (secret, "secret", "-_"),
            (version, "version", "-_"),
        ] {
            let good = |c: char| c.is_ascii_alphanumeric() || may.contains(c);
            if part.len() > 255 || part.starts_with(['.', ':']) || !part.chars().all(good) {
                return Err(bad(&format!(
                    "and in this one the {what} has characters that no {what} has"
                )));
            }
        }
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

    /// Whether a value can be stored there, as far as that can be found out without storing one: to be
    /// asked before something that happens once is turned into a value.
    ///
    /// # Errors
    /// As [`Self::put`].
    async fn writable(&self, reference: &SecretRef) -> Result<()>;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_and_resource_names_are_one() {
        for (text, means) in [
            ("gcp://p/s", "gcp://p/s@latest"),
            ("gcp://p/s@7", "gcp://p/s@7"),
            ("gcp://p/s@good-one", "gcp://p/s@good-one"),
            (
                "gcp://example.com:p/europe-west4/s_1",
                "gcp://example.com:p/europe-west4/s_1@latest",
            ),
            ("projects/p/secrets/s", "gcp://p/s@latest"),
            ("projects/123/secrets/s/versions/7", "gcp://123/s@7"),
            (
                "projects/p/locations/europe-west4/secrets/s/versions/latest",
                "gcp://p/europe-west4/s@latest",
            ),
            (
                "projects/p/locations/europe-west4/secrets/s",
                "gcp://p/europe-west4/s@latest",
            ),
        ] {
            let reference: SecretRef = text.parse().unwrap();
            assert_eq!(reference.to_string(), means);
            assert_eq!(means.parse::<SecretRef>().unwrap(), reference);
        }
    }

    #[test]
    fn what_is_no_reference_is_not_quoted() {
        for text in [
            "canary",
            "gcp://canary",
            "gcp://p/l/s/canary",
            "gcp://p/canary@",
            "gcp://p//canary",
            "projects/p/canary/s",
            "projects/p/secrets/s/versions/",
            "projects/p/secrets/s/versions/7/canary",
            // A location is a part of a host.
            "gcp://p/canary.example:443?/s",
            "gcp://p/canary#/s",
            "gcp://../canary",
            "gcp://p/can ary",
            "gcp://p/s@../canary",
        ] {
            let e = text.parse::<SecretRef>().unwrap_err();
            assert!(!format!("{e:?}").contains("canary"), "{text}: {e:?}");
        }
    }
}
