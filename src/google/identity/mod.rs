//! Who this program is to Google: Application Default Credentials, found once, on first need, and
//! the tokens they give, kept while they are good.
//!
//! `google-cloud-auth` mints and renews the tokens of key files, federated identities and impersonated
//! accounts; those of logins and of the metadata server are asked for here, past proxies and redirects
//! ([`login`], [`metadata`]). The search is here, too, so that an empty variable
//! counts as unset, `gcloud`'s configuration folder is honoured, files are checked before a secret
//! of theirs is sent anywhere, and a failure can say where it has looked and what to do.

mod access;
mod file;
mod find;
mod id_token;
mod kept;
mod login;
mod metadata;
mod refusal;
mod who;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use google_cloud_auth::credentials::idtoken::IDTokenCredentials;
use google_cloud_auth::credentials::{CacheableResource, Credentials};
use google_cloud_auth::errors::CredentialsError;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use self::find::Found;
use super::Google;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::redact;

pub(super) use self::find::file;
pub use self::who::Who;
pub(super) use self::who::account;

/// What tokens are asked for; what they may do is decided by roles.
pub const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";

/// How long a token may take, retries included.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to do where there are no credentials that work.
const LOGIN: &str = "run `gcloud auth application-default login`, or set `GOOGLE_APPLICATION_CREDENTIALS` to a file with credentials";

/// A service account to act as, and those in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impersonation {
    /// E-mail address of the account.
    pub target: String,
    /// E-mail addresses of the accounts on the way to it, the first that is impersonated first.
    pub delegates: Vec<String>,
}

impl Impersonation {
    /// Reads `ACCOUNT`, or `DELEGATE,…,ACCOUNT`, as `gcloud` does. `setting` is named in errors.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when a part is no e-mail address.
    pub fn parse(text: &str, setting: &str) -> Result<Self> {
        let mut accounts: Vec<String> = text.split(',').map(|a| a.trim().to_owned()).collect();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._@:+".contains(c);
        let good = |a: &String| a.contains('@') && a.chars().all(plain);
        match accounts.pop() {
            Some(target) if good(&target) && accounts.iter().all(good) => Ok(Self {
                target,
                delegates: accounts,
            }),
            _ => Err(Error::config(format!(
                "`{setting}` names no service account"
            ))
            .hint("write its e-mail address, `name@project.iam.gserviceaccount.com`; accounts on the way to it come before it, with commas")),
        }
    }
}

/// The credentials, once found, and what was made of them.
#[derive(Default)]
pub(super) struct Identity {
    found: Mutex<Option<(Arc<Found>, Instant)>>,
    /// By the scopes asked for.
    access: Mutex<HashMap<Vec<String>, Credentials>>,
    /// By the audience.
    id: Mutex<HashMap<String, IDTokenCredentials>>,
}

impl Identity {
    /// Headers with an access token of these scopes that is valid now.
    pub async fn headers(&self, google: &Google, scopes: &[String]) -> Result<HeaderMap> {
        let found = self.found(google).await?;
        let credentials = {
            let mut made = self.access.lock().await;
            match made.get(scopes) {
                Some(there) => there.clone(),
                None => {
                    let new = access::credentials(google, &found, scopes)?;
                    made.insert(scopes.to_vec(), new.clone());
                    new
                }
            }
        };
        let asked = credentials.headers(Extensions::new());
        let answer = in_time("an access token", &found, google, asked).await;
        if answer.as_ref().is_err_and(Error::is_transient) {
            // The crate keeps a failure for ten seconds; whoever asks again means it.
            self.access.lock().await.remove(scopes);
        }
        let answer = answer?;
        match answer {
            CacheableResource::New { data, .. }
                if data
                    .get(AUTHORIZATION)
                    .and_then(bearer)
                    .is_none_or(|token| token.trim().is_empty()) =>
            {
                self.access.lock().await.remove(scopes);
                Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("the access token for Google that came with {found} is empty"),
                )
                .transient(true))
            }
            CacheableResource::New { mut data, .. } => {
                for (name, value) in &mut data {
                    if name == AUTHORIZATION {
                        value.set_sensitive(true);
                        if let Some(token) = bearer(value) {
                            redact::register(token);
                        }
                    }
                }
                Ok(data)
            }
            CacheableResource::NotModified => Err(Error::new(
                ErrorKind::Bug,
                "the credentials answered `not modified` to a first question",
            )),
        }
    }

    /// An access token of these scopes that is valid now.
    pub async fn access_token(&self, google: &Google, scopes: &[String]) -> Result<SecretString> {
        let headers = self.headers(google, scopes).await?;
        headers
            .get(AUTHORIZATION)
            .and_then(bearer)
            .map(|token| SecretString::from(token.to_owned()))
            .ok_or_else(|| Error::new(ErrorKind::Bug, "the credentials gave no bearer token"))
    }

    /// An ID token for this audience that is valid now.
    pub async fn id_token(&self, google: &Google, audience: &str) -> Result<SecretString> {
        let found = self.found(google).await?;
        let credentials = {
            let mut made = self.id.lock().await;
            match made.get(audience) {
                Some(there) => there.clone(),
                None => {
                    let new = id_token::credentials(google, &found, audience)?;
                    made.insert(audience.to_owned(), new.clone());
                    new
                }
            }
        };
        let token = in_time("an ID token", &found, google, credentials.id_token()).await?;
        redact::register(&token);
        Ok(SecretString::from(token))
    }

    /// Whose credentials these are; never a token.
    pub async fn who(&self, google: &Google, scopes: &[String]) -> Result<Who> {
        let found = self.found(google).await?;
        let token = self.access_token(google, scopes).await?;
        who::who(google, &found, token.expose_secret()).await
    }

    /// Drops all tokens, and what was found: the file may have changed. Not what was made after
    /// `refused`, when the request went out that showed an old token.
    pub async fn forget(&self, refused: Instant) {
        let mut slot = self.found.lock().await;
        if slot.as_ref().is_some_and(|(_, at)| *at <= refused) {
            *slot = None;
            self.access.lock().await.clear();
            self.id.lock().await.clear();
        }
    }

    async fn found(&self, google: &Google) -> Result<Arc<Found>> {
        let mut slot = self.found.lock().await;
        match &*slot {
            Some((found, _)) => Ok(found.clone()),
            None => {
                let found = Arc::new(find::find(google).await?);
                *slot = Some((found.clone(), google.clock().instant()));
                Ok(found)
            }
        }
    }
}

fn bearer(value: &http::HeaderValue) -> Option<&str> {
    value.to_str().ok()?.strip_prefix("Bearer ")
}

async fn in_time<T>(
    what: &str,
    found: &Found,
    google: &Google,
    asked: impl Future<Output = Result<T, CredentialsError>>,
) -> Result<T> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(got)) => Ok(got),
        Ok(Err(e)) => Err(refusal::explain(what, found, google, &e)),
        Err(_) => Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "{what} for Google, with {found}, did not come within {} s",
                PATIENCE.as_secs()
            ),
        )),
    }
}

#[cfg(test)]
mod tests;
