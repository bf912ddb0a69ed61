//! Tokens of the metadata server. Not by `google-cloud-auth`, whose client would send the question,
//! and get the token, through the proxy that `HTTP_PROXY` names.

use std::time::Duration;

use google_cloud_auth::errors::CredentialsError;
use serde_json::Value;

use super::kept::{Ask, Granted, body};
use super::who::claims;
use crate::google::{Endpoint, Google};

const PATIENCE: Duration = Duration::from_secs(10);
/// Life of an ID token that does not say.
const AN_HOUR: Duration = Duration::from_secs(3_600);

/// Asks for tokens of the machine's own account.
pub(super) struct Metadata {
    google: Google,
    at: Endpoint,
    wanted: Wanted,
}

/// What is asked for.
pub(super) enum Wanted {
    /// An access token of these scopes.
    Access(Vec<String>),
    /// An ID token for this audience.
    Id(String),
}

impl Metadata {
    pub fn new(google: &Google, at: &Endpoint, wanted: Wanted) -> Self {
        Self {
            google: google.clone(),
            at: at.clone(),
            wanted,
        }
    }

    async fn get(&self, what: &str, query: &[(&str, &str)]) -> Result<String, CredentialsError> {
        let path = ["instance", "service-accounts", "default", what];
        let ask = self.google.ask_metadata(&self.at, &path, query);
        body(ask.timeout(PATIENCE).send().await).await
    }
}

impl Ask for Metadata {
    async fn ask(&self) -> Result<Granted, CredentialsError> {
        match &self.wanted {
            Wanted::Access(scopes) => {
                let text = self.get("token", &[("scopes", &scopes.join(","))]).await?;
                let json: Value = serde_json::from_str(&text).unwrap_or_default();
                let token = json["access_token"].as_str().ok_or_else(|| {
                    CredentialsError::from_msg(true, "the answer has no `access_token`")
                })?;
                Ok(Granted {
                    token: token.to_owned(),
                    life: json["expires_in"]
                        .as_u64()
                        .map_or(AN_HOUR, Duration::from_secs),
                })
            }
            Wanted::Id(audience) => {
                let query = [("audience", audience.as_str()), ("format", "full")];
                let token = self.get("identity", &query).await?.trim().to_owned();
                let claims = claims(&token)
                    .ok_or_else(|| CredentialsError::from_msg(true, "the answer is no ID token"))?;
                let now = self.google.clock().now().as_second();
                let left = |exp: i64| u64::try_from(exp - now).ok().map(Duration::from_secs);
                let life = claims["exp"].as_i64().map_or(Some(AN_HOUR), left);
                Ok(Granted {
                    token,
                    life: life.unwrap_or_default(),
                })
            }
        }
    }
}
