//! Tokens of a person who has logged in, for the refresh token that the login left (RFC 6749 §6):
//! `authorized_user`, and `external_account_authorized_user`, a person of another company's directory
//! (workforce identity federation).
//!
//! Not by `google-cloud-auth`: it does not know the second type, and its client follows redirects, with
//! the client's secret and the refresh token in the body.

use std::time::Duration;

use google_cloud_auth::errors::CredentialsError;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::Mutex;

use super::file::Kind;
use super::kept::{Ask, Granted, body};
use crate::google::Google;
use crate::telemetry::redact;

const PATIENCE: Duration = Duration::from_secs(30);

/// Asks with the refresh token of such a file.
pub(super) struct Login {
    google: Google,
    token_url: String,
    /// Whether the client shows who it is in the body, or by Basic.
    in_body: bool,
    client_id: String,
    client_secret: SecretString,
    scopes: String,
    refresh: Mutex<SecretString>,
}

impl Login {
    pub fn new(google: &Google, kind: Kind, json: &Value, scopes: &[String]) -> Self {
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        let (named, usual) = match kind {
            Kind::AuthorizedUser => {
                let oauth = google.settings().service("oauth2");
                (text("token_uri"), oauth.url(&["token"], &[]))
            }
            _ => {
                let sts = google.settings().service("sts");
                (text("token_url"), sts.url(&["v1", "oauthtoken"], &[]))
            }
        };
        Self {
            google: google.clone(),
            token_url: match named.is_empty() {
                true => usual.into(),
                false => named,
            },
            in_body: kind == Kind::AuthorizedUser,
            client_id: text("client_id"),
            client_secret: text("client_secret").into(),
            scopes: scopes.join(" "),
            refresh: Mutex::new(text("refresh_token").into()),
        }
    }
}

impl Ask for Login {
    async fn ask(&self) -> Result<Granted, CredentialsError> {
        let mut refresh = self.refresh.lock().await;
        let secret = self.client_secret.expose_secret();
        let mut post = self.google.remote().post(&self.token_url);
        let mut fields = vec![
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh.expose_secret()),
        ];
        if self.in_body {
            // What a person may was said at the login: the token has all of that, and no more.
            fields.extend([("client_id", &*self.client_id), ("client_secret", secret)]);
        } else {
            fields.push(("scope", &self.scopes));
            post = post.basic_auth(&self.client_id, Some(secret));
        }
        let form: String = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let sent = post
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
