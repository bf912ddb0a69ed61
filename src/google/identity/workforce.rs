//! `external_account_authorized_user`: a person of another company's directory, logged in through
//! workforce identity federation. `google-cloud-auth` does not know the type; Google's Security
//! Token Service renews its tokens as RFC 6749 §6 says.

use std::time::Duration;

use google_cloud_auth::errors::CredentialsError;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::Mutex;

use super::kept::{Ask, Granted, body};
use crate::google::Google;
use crate::telemetry::redact;

const PATIENCE: Duration = Duration::from_secs(30);

/// Asks with the refresh token of such a file.
pub(super) struct Workforce {
    google: Google,
    token_url: String,
    client_id: String,
    client_secret: SecretString,
    scopes: String,
    refresh: Mutex<SecretString>,
}

impl Workforce {
    pub fn new(google: &Google, json: &Value, scopes: &[String]) -> Self {
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        let sts = google.settings().service("sts");
        Self {
            google: google.clone(),
            token_url: match text("token_url") {
                url if url.is_empty() => sts.url(&["v1", "oauthtoken"], &[]).into(),
                url => url,
            },
            client_id: text("client_id"),
            client_secret: text("client_secret").into(),
            scopes: scopes.join(" "),
            refresh: Mutex::new(text("refresh_token").into()),
        }
    }
}

impl Ask for Workforce {
    async fn ask(&self) -> Result<Granted, CredentialsError> {
        let mut refresh = self.refresh.lock().await;
        let form: String = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", refresh.expose_secret())
            .append_pair("scope", &self.scopes)
            .finish();
        let sent = self
            .google
            .remote()
            .post(&self.token_url)
            .basic_auth(&self.client_id, Some(self.client_secret.expose_secret()))
            .header(
                http::header::CONTENT_TYPE,
                "application/x-www-form-urlencoded",
            )
            .timeout(PATIENCE)
            .body(form)
            .send()
            .await;
        let json: Value = serde_json::from_str(&body(sent).await?).unwrap_or_default();
        let token = json["access_token"]
            .as_str()
            .ok_or_else(|| CredentialsError::from_msg(true, "the answer has no `access_token`"))?;
        if let Some(next) = json["refresh_token"].as_str() {
            redact::register(next);
            *refresh = next.to_owned().into();
        }
        Ok(Granted {
            token: token.to_owned(),
            life: Duration::from_secs(json["expires_in"].as_u64().unwrap_or(3_600)),
        })
    }
}
