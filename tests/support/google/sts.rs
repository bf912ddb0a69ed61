//! `sts.googleapis.com`: tokens for identities from elsewhere.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use super::answer::{Answer, Outcome};
use super::calls::Call;
use super::tokens::words;
use super::world::State;

pub const HOST: &str = "sts.googleapis.com";

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

pub fn answer(state: &mut State, call: &mut Call) -> Outcome {
    if call.method != "POST" || !matches!(call.path.as_str(), "/v1/token" | "/v1/oauthtoken") {
        return Err(Answer::api(404, "Method not found.").wrong());
    }
    if call.media() != "application/x-www-form-urlencoded" {
        return Err(Answer::oauth(
            400,
            "invalid_request",
            "The body is not said to be a form.",
        ));
    }
    match call.path.as_str() {
        "/v1/token" => exchange(state, call),
        _ => refresh(state, call),
    }
}

fn exchange(state: &mut State, call: &Call) -> Outcome {
    let no = |error: &str, text: &str| Answer::oauth(400, error, text);
    let field = |name: &str| {
        let text = call.field(name).filter(|text| !text.is_empty());
        text.ok_or_else(|| {
            no(
                "invalid_request",
                &format!("Missing required field: {name}"),
            )
        })
    };
    if field("grant_type")? != "urn:ietf:params:oauth:grant-type:token-exchange" {
        return Err(no(
            "unsupported_grant_type",
            "Invalid \"grant_type\". It should be \"urn:ietf:params:oauth:grant-type:token-exchange\".",
        ));
    }
    if field("requested_token_type")? != ACCESS_TOKEN {
        return Err(no("invalid_request", "Invalid requested_token_type"));
    }
    let audience = field("audience")?;
    if !audience.starts_with("//iam.googleapis.com/") {
        return Err(no(
            "invalid_request",
            "Invalid value for \"audience\". This value should be the full resource name of the Identity Provider. See https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token for the list of possible formats.",
        ));
    }
    let scopes = words(&field("scope")?);
    let (token, kind) = (field("subject_token")?, field("subject_token_type")?);
    let provider: Vec<_> = state
        .federated
        .iter()
        .filter(|f| f.audience == audience)
        .collect();
    if provider.is_empty() {
        return Err(no(
            "invalid_target",
            "The target service indicated by the \"audience\" parameters is invalid. This might either be because the pool or provider is disabled or deleted or because it doesn't exist.",
        ));
    }
    let found = provider.into_iter().find(|f| f.subject_token == token);
    let found = found.filter(|f| !f.revoked);
    let found = found.ok_or_else(|| {
        no(
            "invalid_grant",
            "The subject token is not one of this provider, or is over.",
        )
    })?;
    if found.subject_token_type != kind {
        return Err(no(
            "invalid_request",
            "Invalid token type. The subject_token_type does not match the provider.",
        ));
    }
    let name = found.name.clone();
    let (token, life) = state.issue(&name, scopes, state.token_life);
    Ok(Answer::json(&json!({
        "access_token": token,
        "issued_token_type": ACCESS_TOKEN,
        "token_type": "Bearer",
        "expires_in": life,
    })))
}

/// For people of a workforce pool, whose client authenticates by Basic.
fn refresh(state: &mut State, call: &Call) -> Outcome {
    let basic = call
        .header("authorization")
        .and_then(|value| value.strip_prefix("Basic "));
    let basic = basic.and_then(|text| {
        let bytes = STANDARD
            .decode(text)
            .or_else(|_| URL_SAFE_NO_PAD.decode(text))
            .ok()?;
        String::from_utf8(bytes).ok()
    });
    let client = basic.as_deref().and_then(|text| text.split_once(':'));
    let (id, secret) = client
        .ok_or_else(|| Answer::oauth(401, "invalid_client", "The client does not authenticate."))?;
    let mut clients = state.users.iter().filter(|u| u.workforce.is_some());
    if call.field("grant_type").as_deref() != Some("refresh_token") {
        return Err(Answer::oauth(
            400,
            "unsupported_grant_type",
            "Invalid \"grant_type\".",
        ));
    }
    let refresh_token = call.field("refresh_token").unwrap_or_default();
    let user = clients.find(|u| u.client_id == id && u.client_secret == secret);
    let user = user
        .ok_or_else(|| Answer::oauth(401, "invalid_client", "The OAuth client was not found."))?;
    if user.refresh_token != refresh_token || user.revoked {
        return Err(Answer::oauth(
            400,
            "invalid_grant",
            "The refresh token is invalid, expired or revoked.",
        ));
    }
    let (name, scopes) = (user.name.clone(), user.scopes.clone());
    let (token, life) = state.issue(&name, scopes, state.token_life);
    Ok(Answer::json(&json!({
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": life,
        "refresh_token": refresh_token,
    })))
}
