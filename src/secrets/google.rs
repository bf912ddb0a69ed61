//! Secrets in Google Secret Manager, global and regional, read and written over REST and checked by
//! their CRC32C. Each is read once a process.

mod look;
mod refusal;
mod write;

pub use look::{Seen, SeenState};
pub use write::Added;

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
use refusal::{Deed, explain};

/// Reads and writes `gcp://` references. Concurrent questions for one secret are one request.
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
        let answer = self
            .answer(name, name.version)
            .await
            .map_err(|failure| explain(&self.google, Deed::Read, name, failure))?;
        let value = text(name, &answer, payload(name, &answer)?)?;
        tracing::debug!(version = answered_name(name, &answer), "read a secret");
        Ok(Version {
            value,
            number: answered_version(&answer),
        })
    }

    /// What the service says to a question for a version's value.
    async fn answer(&self, name: &Name<'_>, version: &str) -> Result<Value, Failure> {
        self.ask(
            name,
            format!("read secret `{}/versions/{version}`", name.parent()),
            Ask::get(&[name.secret, "versions", &format!("{version}:access")]),
        )
        .await
    }

    /// Asks about a secret, or tells it to do something.
    async fn ask(&self, name: &Name<'_>, what: String, ask: Ask<'_>) -> Result<Value, Failure> {
        let settings = self.google.settings();
        let endpoint = match (&settings.secret_manager, name.location) {
            (Some(elsewhere), _) => elsewhere.clone(),
            (None, None) => settings.service("secretmanager"),
            // The global endpoint does not serve regional secrets.
            (None, Some(location)) => settings.service(&format!("secretmanager.{location}.rep")),
        };
        let mut path = vec!["v1", "projects", name.project];
        if let Some(location) = name.location {
            path.extend(["locations", location]);
        }
        path.push("secrets");
        path.extend(ask.tail);
        self.google
            .call(Call {
                what,
                method: ask.method,
                endpoint: &endpoint,
                path: &path,
                query: ask.query,
                body: ask.body.map(|json| json.to_string().into()),
                if_match: None,
                retry: ask.retry,
            })
            .await
    }
}

/// A question or an order, below `secrets`.
struct Ask<'a> {
    method: Method,
    tail: &'a [&'a str],
    query: &'a [(&'a str, &'a str)],
    body: Option<Value>,
    retry: RetryPolicy,
}

impl<'a> Ask<'a> {
    fn get(tail: &'a [&'a str]) -> Self {
        Self {
            method: Method::GET,
            tail,
            query: &[],
            body: None,
            retry: RetryPolicy::SECRETS,
        }
    }

    fn post(tail: &'a [&'a str], body: Value) -> Self {
        Self {
            method: Method::POST,
            body: Some(body),
            ..Self::get(tail)
        }
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

    /// How `gcloud secrets` is told which secret is meant.
    fn flags(&self) -> String {
        let location = self
            .location
            .map(|l| format!(" --location={l}"))
            .unwrap_or_default();
        format!("{} --project={}{location}", self.secret, self.project)
    }
}

/// The bytes of an answer with a value.
fn payload(name: &Name<'_>, answer: &Value) -> Result<Vec<u8>> {
    let bad = |what: &str| unfit(name, answer, what);
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
    Ok(data)
}

/// The value as it may be used, registered for redaction.
fn text(name: &Name<'_>, answer: &Value, data: Vec<u8>) -> Result<SecretString> {
    let bad = |what: &str| unfit(name, answer, what);
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
    Ok(SecretString::from(text.to_owned()))
}

fn unfit(name: &Name<'_>, answer: &Value, what: &str) -> Error {
    Error::new(
        ErrorKind::Auth,
        format!("secret `{}` {what}", answered_name(name, answer)),
    )
}

/// The name with the version's number, as the service resolved it.
fn answered_name(name: &Name<'_>, answer: &Value) -> String {
    answer["name"]
        .as_str()
        .filter(|n| n.len() < 400 && n.starts_with("projects/"))
        .map_or_else(|| name.full(), str::to_owned)
}

/// The version's number, as the service resolved it.
fn answered_version(answer: &Value) -> Option<u64> {
    let (_, number) = answer["name"].as_str()?.rsplit_once("/versions/")?;
    number.parse().ok()
}
