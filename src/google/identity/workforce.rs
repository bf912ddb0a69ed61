//! `external_account_authorized_user`: a person of another company's directory, logged in through
//! workforce identity federation. `google-cloud-auth` does not know the type; Google's Security
//! Token Service renews its tokens as RFC 6749 §6 says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use google_cloud_auth::credentials::{CacheableResource, CredentialsProvider, EntityTag};
use google_cloud_auth::errors::CredentialsError;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::Mutex;

use super::file::CredentialFile;
use crate::google::Google;
use crate::telemetry::redact;

/// A token is renewed this long before it expires.
const MARGIN: Duration = Duration::from_secs(240);
const PATIENCE: Duration = Duration::from_secs(30);

/// Gives access tokens for the refresh token of such a file.
#[derive(Clone)]
pub(super) struct Workforce(Arc<Inner>);

struct Inner {
    google: Google,
    token_url: String,
    client_id: String,
    client_secret: SecretString,
    scopes: String,
    quota: Option<HeaderValue>,
    state: Mutex<State>,
}

struct State {
    refresh: SecretString,
    token: Option<(HeaderValue, EntityTag, Instant)>,
}

impl std::fmt::Debug for Workforce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workforce").finish_non_exhaustive()
    }
}

impl Workforce {
    pub fn new(
        google: &Google,
        file: &CredentialFile,
        json: &Value,
        scopes: &[String],
        quota: Option<&str>,
    ) -> Self {
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        let quota = quota
            .or_else(|| file.json["quota_project_id"].as_str())
            .and_then(|q| HeaderValue::from_str(q).ok());
        let universe = &google.settings().universe;
        let token_url = match text("token_url") {
            url if url.is_empty() => format!("https://sts.{universe}/v1/oauthtoken"),
            url => url,
        };
        Self(Arc::new(Inner {
            google: google.clone(),
            token_url,
            client_id: text("client_id"),
            client_secret: text("client_secret").into(),
            scopes: scopes.join(" "),
            quota,
            state: Mutex::new(State {
                refresh: text("refresh_token").into(),
                token: None,
            }),
        }))
    }
}

impl CredentialsProvider for Workforce {
    async fn headers(
        &self,
        extensions: Extensions,
    ) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        let mut state = self.0.state.lock().await;
        let now = Instant::now();
        let (value, tag) = match &state.token {
            Some((value, tag, until)) if now < *until => (value.clone(), tag.clone()),
            _ => {
                let (value, until) = self.0.renew(&mut state.refresh, now).await?;
                let tag = EntityTag::new();
                state.token = Some((value.clone(), tag.clone(), until));
                (value, tag)
            }
        };
        if extensions.get::<EntityTag>() == Some(&tag) {
            return Ok(CacheableResource::NotModified);
        }
        let mut data = HeaderMap::new();
        data.insert(AUTHORIZATION, value);
        if let Some(quota) = &self.0.quota {
            data.insert("x-goog-user-project", quota.clone());
        }
        Ok(CacheableResource::New {
            entity_tag: tag,
            data,
        })
    }

    async fn universe_domain(&self) -> Option<String> {
        Some(self.0.google.settings().universe.clone())
    }
}

impl Inner {
    async fn renew(
        &self,
        refresh: &mut SecretString,
        now: Instant,
    ) -> Result<(HeaderValue, Instant), CredentialsError> {
        let failed = |transient: bool, what: String| CredentialsError::from_msg(transient, what);
        let body: String = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", refresh.expose_secret())
            .append_pair("scope", &self.scopes)
            .finish();
        let answer = self
            .google
            .remote()
            .post(&self.token_url)
            .basic_auth(&self.client_id, Some(self.client_secret.expose_secret()))
            .header(
                http::header::CONTENT_TYPE,
                "application/x-www-form-urlencoded",
            )
            .timeout(PATIENCE)
            .body(body)
            .send()
            .await
            .map_err(|e| CredentialsError::from_source(true, e.without_url()))?;
        let status = answer.status();
        let text = answer
            .text()
            .await
            .map_err(|e| CredentialsError::from_source(true, e.without_url()))?;
        if !status.is_success() {
            let transient = status.is_server_error() || [408, 429].contains(&status.as_u16());
            return Err(failed(transient, format!("{status}, body=<{text}>")));
        }
        let json: Value = serde_json::from_str(&text)
            .map_err(|_| failed(true, "the answer is no JSON".to_owned()))?;
        let token = json["access_token"]
            .as_str()
            .ok_or_else(|| failed(true, "the answer has no `access_token`".to_owned()))?;
        redact::register(token);
        if let Some(next) = json["refresh_token"].as_str() {
            redact::register(next);
            *refresh = next.to_owned().into();
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| failed(false, "the `access_token` is no header value".to_owned()))?;
        value.set_sensitive(true);
        let lifetime = Duration::from_secs(json["expires_in"].as_u64().unwrap_or(3_600));
        let until = now + lifetime.saturating_sub(MARGIN.min(lifetime / 10));
        Ok((value, until))
    }
}
