//! New versions, what there is of a secret, and new secrets.

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::look::is_denied;
use super::{Ask, Deed, Name, SecretManager, answered_version, explain, payload};
use crate::error::{Error, ErrorKind, Result};
use crate::google::{Failure, RetryPolicy};
use crate::secrets::local::fit;
use crate::secrets::{SecretRef, SecretWriter, Stored};

/// Versions newer than the one that `latest` shows that are looked through for a value.
const NEWER: u64 = 5;

/// A version that was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// The secret's name: `projects/p/secrets/s`.
    pub place: String,
    /// The version's number.
    pub version: u64,
    /// The secret was made for it.
    pub created: bool,
}

impl SecretManager {
    /// Adds a version to the secret, whatever version the reference names. The request is not simply
    /// sent again: where its answer is lost, the version may be there, so it is looked for first. A
    /// secret that is missing is made where `create` says so: replicated automatically, or in the
    /// reference's location.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a value that no reader would take, [`ErrorKind::Auth`] saying what to
    /// grant or create; transient when it is not known whether the version is there.
    pub async fn add(
        &self,
        reference: &SecretRef,
        value: &SecretString,
        create: bool,
    ) -> Result<Added> {
        let name = Name::of(reference)?;
        fit(reference, value)?;
        let data = value.expose_secret().as_bytes();
        let body = json!({"payload": {
            "data": STANDARD.encode(data),
            // An int64 is text in proto3 JSON.
            "dataCrc32c": crc32c::crc32c(data).to_string(),
        }});
        let policy = RetryPolicy::SECRETS;
        let mut failures = 0;
        let mut created = false;
        let version = loop {
            let failure = match self.add_once(&name, body.clone()).await {
                Ok(version) => break version,
                Err(failure) if failure.is_not_found() && create && !created => {
                    self.create(&name).await?;
                    created = true;
                    continue;
                }
                Err(failure) => failure,
            };
            failures += 1;
            let lost = failure.is_transient() && failure.was_sent();
            if !lost {
                return Err(explain(&self.google, Deed::Add, &name, failure));
            }
            self.google
                .clock()
                .sleep(failure.wait(&policy, failures))
                .await;
            match self.find(reference, data).await {
                Ok(Some(version)) => break version,
                Ok(None) if failures < policy.attempts => {}
                Ok(None) => return Err(failure.into_error()),
                Err(unknown) => {
                    let secret = name.parent();
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        format!(
                            "{}; whether secret `{secret}` has the new version all the same is not known: {}",
                            failure.into_error(),
                            unknown.chain()
                        ),
                    )
                    .hint(format!(
                        "see whether it is there: gcloud secrets versions list {}; adding it once more does no harm",
                        name.flags()
                    )));
                }
            }
        };
        // Where the newest one is meant, this is it.
        let newest = SecretRef::Gcp {
            project: name.project.to_owned(),
            location: name.location.map(str::to_owned),
            secret: name.secret.to_owned(),
            version: "latest".to_owned(),
        };
        let cell = std::sync::Arc::new(tokio::sync::OnceCell::new_with(Some(value.clone())));
        self.read.lock().await.insert(newest, cell);
        tracing::debug!(
            version = format!("{}/versions/{version}", name.parent()),
            "added a version of a secret"
        );
        Ok(Added {
            place: name.parent(),
            version,
            created,
        })
    }

    async fn add_once(&self, name: &Name<'_>, body: serde_json::Value) -> Result<u64, Failure> {
        let what = format!("add a version to secret `{}`", name.parent());
        let tail = [&*format!("{}:addVersion", name.secret)];
        let ask = Ask {
            retry: RetryPolicy {
                attempts: 1,
                ..RetryPolicy::SECRETS
            },
            ..Ask::post(&tail, body)
        };
        let answer = self.ask(name, what.clone(), ask).await?;
        answered_version(&answer).ok_or_else(|| {
            Failure::from_transport(&what, "the answer does not name the new version")
        })
    }

    /// The number of the version with this value, if it is the newest. `latest` may show an older one
    /// for a while, a number does not.
    async fn find(&self, reference: &SecretRef, data: &[u8]) -> Result<Option<u64>> {
        let name = &Name::of(reference)?;
        let mut newest = 0;
        match self.answer(name, "latest").await {
            Ok(answer) => {
                newest = answered_version(&answer).unwrap_or_default();
                if payload(name, &answer)? == data {
                    return Ok(Some(newest));
                }
            }
            Err(failure) if failure.is_not_found() => {}
            Err(failure) if failure.reason == "FAILED_PRECONDITION" => {
                newest = self.newest_number(reference).await?.unwrap_or_default();
            }
            Err(failure) => return Err(explain(&self.google, Deed::Read, name, failure)),
        }
        for version in newest + 1..=newest + NEWER {
            match self.answer(name, &version.to_string()).await {
                Ok(answer) if payload(name, &answer)? == data => return Ok(Some(version)),
                Ok(_) => {}
                Err(failure) if failure.is_not_found() => return Ok(None),
                Err(failure) if failure.reason == "FAILED_PRECONDITION" => {}
                Err(failure) => return Err(explain(&self.google, Deed::Read, name, failure)),
            }
        }
        Ok(None)
    }

    /// Makes the secret, without a version. One that is there already is as good.
    async fn create(&self, name: &Name<'_>) -> Result<()> {
        let body = match name.location {
            None => json!({"replication": {"automatic": {}}}),
            Some(_) => json!({}),
        };
        let query = [("secretId", name.secret)];
        let ask = Ask {
            query: &query,
            ..Ask::post(&[], body)
        };
        let what = format!("create secret `{}`", name.parent());
        match self.ask(name, what, ask).await {
            Err(failure) if !failure.is_duplicate() => {
                Err(explain(&self.google, Deed::Create, name, failure))
            }
            _ => Ok(()),
        }
    }

    /// Disables a version: it cannot be read until it is enabled again. Done twice, it is done.
    ///
    /// # Errors
    /// [`ErrorKind::Auth`] saying what to grant, or that the version is destroyed.
    pub async fn disable(&self, reference: &SecretRef, version: u64) -> Result<()> {
        self.switch(reference, version, "disable").await
    }

    /// Enables a version that was disabled.
    ///
    /// # Errors
    /// As [`Self::disable`].
    pub async fn enable(&self, reference: &SecretRef, version: u64) -> Result<()> {
        self.switch(reference, version, "enable").await
    }

    async fn switch(&self, reference: &SecretRef, version: u64, verb: &str) -> Result<()> {
        let version = version.to_string();
        let name = Name {
            version: &version,
            ..Name::of(reference)?
        };
        let what = format!("{verb} secret `{}`", name.full());
        let tail = [name.secret, "versions", &format!("{version}:{verb}")];
        self.ask(&name, what, Ask::post(&tail, json!({})))
            .await
            .map_err(|failure| explain(&self.google, Deed::Switch, &name, failure))?;
        Ok(())
    }
}

#[async_trait]
impl SecretWriter for SecretManager {
    async fn put(&self, reference: &SecretRef, value: &SecretString) -> Result<Stored> {
        unpinned(reference)?;
        let added = self.add(reference, value, false).await?;
        Ok(Stored {
            place: added.place,
            version: Some(added.version),
        })
    }

    async fn writable(&self, reference: &SecretRef) -> Result<()> {
        unpinned(reference)?;
        let name = Name::of(reference)?;
        let what = format!("look up secret `{}`", name.parent());
        match self.ask(&name, what, Ask::get(&[name.secret])).await {
            // Who may add versions need not be allowed to look.
            Err(failure) if !is_denied(&failure) => {
                Err(explain(&self.google, Deed::Add, &name, failure))
            }
            _ => Ok(()),
        }
    }

    async fn disable(&self, reference: &SecretRef, version: u64) -> Result<()> {
        self.switch(reference, version, "disable").await
    }

    async fn remove(&self, reference: &SecretRef) -> Result<()> {
        match self.newest_number(reference).await? {
            Some(version) => self.switch(reference, version, "disable").await,
            None => Ok(()),
        }
    }
}

/// Refuses a reference that names one version: it would not lead to a new value.
fn unpinned(reference: &SecretRef) -> Result<()> {
    match reference.is_pinned() {
        true => Err(Error::config(format!(
            "`{reference}` names one version, and a new value is a new version"
        ))
        .hint("leave the version out of the reference, so that it means the newest")),
        false => Ok(()),
    }
}
