//! Secrets in Google Secret Manager, global and regional, read over REST and checked by their
//! CRC32C. Each is read once a process.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::{Mutex, OnceCell};

use super::{SecretRef, SecretStore, Version};
use crate::error::{Error, ErrorKind, Result};
use crate::google::{Call, Failure, Google, RetryPolicy};
use crate::telemetry::redact;

/// Reads `gcp://` references. Concurrent questions for one secret are one request.
pub struct SecretManager {
    google: Google,
    read: Mutex<HashMap<SecretRef, Arc<OnceCell<SecretString>>>>,
}

impl SecretManager {
    /// A store with an empty cache.
    pub fn new(google: Google) -> Self {
        Self {
            google,
            read: Mutex::new(HashMap::new()),
        }
    }

    async fn access(&self, name: &Name<'_>) -> Result<Version> {
        let endpoint = match (&self.google.settings().secret_manager, name.location) {
            (Some(elsewhere), _) => elsewhere.clone(),
            (None, None) => self.google.settings().service("secretmanager"),
            // The global endpoint does not serve regional secrets.
            (None, Some(location)) => {
                let regional = format!("secretmanager.{location}.rep");
                self.google.settings().service(&regional)
            }
        };
        let version = format!("{}:access", name.version);
        let mut path = vec!["v1", "projects", name.project];
        if let Some(location) = name.location {
            path.extend(["locations", location]);
        }
        path.extend(["secrets", name.secret, "versions", &version]);
        let answer = self
            .google
            .call(Call {
                what: format!("read secret `{}`", name.full()),
                method: Method::GET,
                endpoint: &endpoint,
                path: &path,
                query: &[],
                body: None,
                if_match: None,
                retry: RetryPolicy::SECRETS,
            })
            .await
            .map_err(|failure| explain(name, failure))?;
        let number = answered_name(name, &answer)
            .rsplit('/')
            .next()
            .filter(|number| number.bytes().all(|b| b.is_ascii_digit()))
            .map(str::to_owned);
        Ok(Version {
            value: payload(name, &answer)?,
            number,
        })
    }
}

#[async_trait]
impl SecretStore for SecretManager {
    async fn get(&self, reference: &SecretRef) -> Result<SecretString> {
        let name = Name::of(reference)?;
        let cell = self
            .read
            .lock()
            .await
            .entry(reference.clone())
            .or_default()
            .clone();
        cell.get_or_try_init(|| async { Ok(self.access(&name).await?.value) })
            .await
            .cloned()
    }

    async fn newest(&self, reference: &SecretRef) -> Result<Version> {
        self.access(&Name::of(reference)?).await
    }
}

struct Name<'a> {
    project: &'a str,
    location: Option<&'a str>,
    secret: &'a str,
    version: &'a str,
}

impl<'a> Name<'a> {
    fn of(reference: &'a SecretRef) -> Result<Self> {
        match reference {
            SecretRef::Gcp {
                project,
                location,
                secret,
                version,
            } => Ok(Self {
                project,
                location: location.as_deref(),
                secret,
                version,
            }),
            _ => Err(Error::new(
                ErrorKind::Bug,
                format!("`{reference}` is no secret of Secret Manager"),
            )),
        }
    }

    fn full(&self) -> String {
        format!("{}/versions/{}", self.parent(), self.version)
    }

    fn parent(&self) -> String {
        let location = self
            .location
            .map(|l| format!("/locations/{l}"))
            .unwrap_or_default();
        format!(
            "projects/{}{location}/secrets/{}",
            self.project, self.secret
        )
    }

    /// `gcloud`'s flag for a regional secret.
    fn location_flag(&self) -> String {
        self.location
            .map(|l| format!(" --location={l}"))
            .unwrap_or_default()
    }
}

fn explain(name: &Name<'_>, failure: Failure) -> Error {
    let (status, reason) = (failure.status, failure.reason.clone());
    let full = name.full();
    if failure.is_transient() || !matches!(status, Some(400 | 403 | 404)) {
        return failure.into_error();
    }
    let message = failure.message;
    match (status, reason.as_str()) {
        (Some(403), _) => Error::new(
            ErrorKind::Auth,
            format!("no permission to read secret `{full}`, or it does not exist (403 {reason}: {message})"),
        )
        .hint(format!(
            "create the secret if it is missing, and grant `roles/secretmanager.secretAccessor` on it: gcloud secrets add-iam-policy-binding {} --project={}{} --member=serviceAccount:NAME --role=roles/secretmanager.secretAccessor",
            name.secret,
            name.project,
            name.location_flag(),
        )),
        (Some(404), _) => Error::new(
            ErrorKind::Auth,
            format!("secret `{full}` does not exist ({message})"),
        )
        .hint(format!(
            "create it: printf %s VALUE | gcloud secrets create {} --project={}{} --data-file=-",
            name.secret,
            name.project,
            name.location_flag(),
        )),
        (Some(400), "FAILED_PRECONDITION") => Error::new(
            ErrorKind::Auth,
            format!("version `{}` of secret `{}` is disabled or destroyed ({message})", name.version, name.parent()),
        )
        .hint(if name.version == "latest" {
            "`latest` is the version created last, even when it is disabled: enable it, add a new version, or name one (`@7`)"
        } else {
            "enable the version, or name another (`@7`)"
        }),
        _ => Error::new(
            ErrorKind::Auth,
            format!("could not read secret `{full}`: {message} ({reason})"),
        ),
    }
}

fn payload(name: &Name<'_>, answer: &Value) -> Result<SecretString> {
    let bad = |what: &str| {
        Error::new(
            ErrorKind::Auth,
            format!("secret `{}` {what}", answered_name(name, answer)),
        )
    };
    let payload = &answer["payload"];
    let data = match &payload["data"] {
        Value::String(text) => STANDARD
            .decode(text)
            .map_err(|_| bad("came in a form that is no base64").transient(true))?,
        // Proto3 JSON leaves empty bytes out.
        _ => Vec::new(),
    };
    // An int64 is text in proto3 JSON; some senders write a number.
    let sum = match &payload["dataCrc32c"] {
        Value::String(text) => text.parse::<i64>().ok(),
        Value::Number(number) => number.as_i64(),
        _ => None,
    };
    match sum {
        Some(sum) if sum == i64::from(crc32c::crc32c(&data)) => {}
        Some(_) => {
            return Err(bad("arrived damaged: its bytes do not match its CRC32C checksum")
                .transient(true)
                .hint("try again; if it stays so, something between here and Secret Manager changes answers"));
        }
        None => {
            return Err(bad("came without the CRC32C checksum that proves it whole")
                .hint("something between here and Secret Manager changes answers, or the endpoint is not Secret Manager"));
        }
    }
    let text = String::from_utf8(data)
        .map_err(|_| bad("is not UTF-8 text").hint("store the credential as text"))?;
    let text = text
        .strip_suffix('\n')
        .map(|t| t.strip_suffix('\r').unwrap_or(t))
        .unwrap_or(&text);
    if text.is_empty() {
        return Err(bad("is empty").hint("add a version that holds the credential"));
    }
    redact::register(text);
    tracing::debug!(version = answered_name(name, answer), "read a secret");
    Ok(SecretString::from(text.to_owned()))
}

/// The name with the version's number, as the service resolved it.
fn answered_name(name: &Name<'_>, answer: &Value) -> String {
    answer["name"]
        .as_str()
        .filter(|n| n.len() < 400 && n.starts_with("projects/"))
        .map_or_else(|| name.full(), str::to_owned)
}
