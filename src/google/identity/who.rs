//! Whose credentials are at hand, for a person who asks; never a token.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::access;
use super::file::CredentialFile;
use super::find::{self, Found};
use crate::error::Result;
use crate::google::read::small_text;
use crate::google::{Endpoint, Google};

const PATIENCE: Duration = Duration::from_secs(10);

/// Whose credentials are at hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Who {
    /// What was found, and where: "the `service_account` credentials of `key.json`".
    pub credentials: String,
    /// Their type, or `metadata`.
    pub r#type: String,
    /// E-mail address of who acts, where it can be told.
    pub account: Option<String>,
    /// The accounts on the way to an impersonated one.
    pub delegates: Vec<String>,
    /// Project that is taken where none is named.
    pub project: Option<String>,
    /// Project that pays for calls, where it is another than the one called.
    pub quota_project: Option<String>,
    /// `googleapis.com`, unless it is a sovereign cloud.
    pub universe_domain: String,
    /// What the access token may be used for.
    pub scopes: Vec<String>,
    /// Until when the access token at hand is good; the next one is asked for by itself.
    pub expires_at: Option<Timestamp>,
}

/// Says whose this access token is.
pub(super) async fn who(google: &Google, found: &Found, token: &str) -> Result<Who> {
    let settings = google.settings();
    let facts = match claims(token) {
        Some(claims) => claims,
        None => token_info(google, token).await.unwrap_or(Value::Null),
    };
    let text = |v: &Value| v.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    let number = |v: &Value| {
        v.as_i64()
            .or_else(|| v.as_str().and_then(|t| t.parse::<i64>().ok()))
    };
    let (account, delegates, quota) = match found {
        Found::File(file) => (
            named(file).map(str::to_owned),
            access::texts(&file.json["delegates"]),
            text(&file.json["quota_project_id"]),
        ),
        Found::Metadata(metadata) => (email(google, metadata).await, Vec::new(), None),
    };
    let (account, delegates) = match &settings.impersonate {
        Some(other) => (Some(other.target.clone()), other.delegates.clone()),
        None => (account, delegates),
    };
    let scopes = facts["scope"].as_str().unwrap_or_default();
    Ok(Who {
        credentials: found.to_string(),
        r#type: found
            .kind()
            .map_or_else(|| "metadata".to_owned(), |k| k.to_string()),
        account: account.or_else(|| text(&facts["email"])),
        delegates,
        project: google.project_id().await.ok(),
        quota_project: settings.quota_project.clone().or(quota),
        universe_domain: settings.universe.clone(),
        scopes: scopes.split_whitespace().map(str::to_owned).collect(),
        expires_at: number(&facts["exp"]).and_then(|s| Timestamp::from_second(s).ok()),
    })
}

/// Who acts with the credentials of a file, where it says so.
fn named(file: &CredentialFile) -> Option<&str> {
    let text = |key: &str| file.json[key].as_str().filter(|t| !t.is_empty());
    access::account(&file.json)
        .or_else(|| text("client_email"))
        .or_else(|| text("account"))
}

/// Who acts, where settings or a file say so; nothing is asked.
pub(in crate::google) fn account(google: &Google) -> Option<String> {
    match &google.settings().impersonate {
        Some(other) => Some(other.target.clone()),
        None => find::file(google)
            .ok()
            .flatten()
            .and_then(|file| named(&file).map(str::to_owned)),
    }
}

/// What a token that is a JWT says of itself.
pub(super) fn claims(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// What Google says of a token. It goes in the body: addresses are written into logs on the way.
async fn token_info(google: &Google, token: &str) -> Option<Value> {
    let endpoint = google.settings().service("oauth2");
    let body: String = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("access_token", token)
        .finish();
    let sent = google
        .remote()
        .post(endpoint.url(&["tokeninfo"], &[]))
        .header(
            http::header::CONTENT_TYPE,
            "application/x-www-form-urlencoded",
        )
        .timeout(PATIENCE)
        .body(body)
        .send()
        .await;
    serde_json::from_str(&small_text(sent).await?).ok()
}

async fn email(google: &Google, metadata: &Endpoint) -> Option<String> {
    let path = ["instance", "service-accounts", "default", "email"];
    let ask = google.ask_metadata(metadata, &path, &[]);
    let sent = ask.timeout(PATIENCE).send().await;
    let text = small_text(sent).await?.trim().to_owned();
    (text.contains('@') && text.len() < 300).then_some(text)
}
