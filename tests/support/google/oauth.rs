//! `oauth2.googleapis.com`: tokens for service accounts and for people.

use serde_json::{Value, json};

use super::answer::{Answer, Outcome};
use super::calls::Call;
use super::tokens::{Unfit, words};
use super::world::State;
use jiff::Timestamp;

pub const HOST: &str = "oauth2.googleapis.com";

/// What an assertion may name as its audience: the address it is sent to.
const AUDIENCE: &str = "https://oauth2.googleapis.com/token";

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

pub fn answer(state: &mut State, call: &mut Call) -> Outcome {
    match (call.method.as_str(), call.path.as_str()) {
        ("POST", "/token") => token(state, call),
        ("GET" | "POST", "/tokeninfo") => token_info(state, call),
        _ => Err(Answer::page(404, "Not Found").wrong()),
    }
}

fn token(state: &mut State, call: &mut Call) -> Outcome {
    if !call.query.is_empty() || call.header("authorization").is_some() {
        return Err(Answer::oauth(
            400,
            "invalid_request",
            "nothing but a body is expected",
        ));
    }
    // RFC 6749 knows forms only; Google reads JSON too.
    let json = call.json();
    let field = |name: &str| match call.media() {
        "application/x-www-form-urlencoded" => call.field(name),
        "application/json" => json[name].as_str().map(str::to_owned),
        _ => None,
    };
    let required = |name: &str| {
        let text = field(name).filter(|text| !text.is_empty());
        text.ok_or_else(|| {
            Answer::oauth(
                400,
                "invalid_request",
                &format!("Missing required parameter: {name}"),
            )
        })
    };
    let grant = required("grant_type")?;
    let (_, answer) = match grant.as_str() {
        JWT_BEARER => by_assertion(state, &required("assertion")?)?,
        "refresh_token" => {
            let client = (required("client_id")?, required("client_secret")?);
            let scope = field("scope");
            by_refresh_token(state, client, &required("refresh_token")?, scope.as_deref())?
        }
        other => {
            let text = format!("Invalid grant_type: {other}");
            return Err(Answer::oauth(400, "unsupported_grant_type", &text));
        }
    };
    Ok(Answer::json(&answer).header(
        "cache-control",
        "no-cache, no-store, max-age=0, must-revalidate",
    ))
}

fn by_assertion(state: &mut State, assertion: &str) -> Result<(String, Value), Answer> {
    let grant = |text: &str| Answer::oauth(400, "invalid_grant", text);
    let claims = state.own_claims(assertion).map_err(|unfit| match unfit {
        Unfit::Account => grant("Invalid grant: account not found"),
        Unfit::Signature => grant("Invalid JWT Signature."),
        Unfit::Time => grant("Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim."),
    })?;
    if claims["aud"] != AUDIENCE {
        return Err(grant(&format!(
            "Invalid JWT: Failed audience check. The right audience is {AUDIENCE}"
        )));
    }
    let name = claims["iss"].as_str().unwrap_or_default().to_owned();
    // To speak for somebody else needs a domain's consent, which nobody here has given.
    if claims.get("sub").is_some_and(|sub| *sub != name.as_str()) {
        return Err(Answer::oauth(
            401,
            "unauthorized_client",
            "Client is unauthorized to retrieve access tokens using this method, or client not authorized for any of the scopes requested.",
        ));
    }
    let scopes = words(claims["scope"].as_str().unwrap_or_default());
    match (claims["target_audience"].as_str(), scopes.is_empty()) {
        (Some(audience), true) if !audience.is_empty() => {
            let token = state.id_token(&name, audience, true);
            Ok((name, json!({"id_token": token})))
        }
        (None, false) => {
            let (token, life) = state.issue(&name, scopes, state.token_life);
            Ok((
                name,
                json!({"access_token": token, "expires_in": life, "token_type": "Bearer"}),
            ))
        }
        _ => Err(Answer::oauth(
            400,
            "invalid_scope",
            "Invalid OAuth scope or ID token audience provided.",
        )),
    }
}

fn by_refresh_token(
    state: &mut State,
    (id, secret): (String, String),
    refresh_token: &str,
    scope: Option<&str>,
) -> Result<(String, Value), Answer> {
    let clients = state.users.iter().filter(|u| u.workforce.is_none());
    let mut clients = clients.filter(|u| u.client_id == id).peekable();
    if clients.peek().is_none() {
        return Err(Answer::oauth(
            401,
            "invalid_client",
            "The OAuth client was not found.",
        ));
    }
    let mut clients = clients.filter(|u| u.client_secret == secret).peekable();
    if clients.peek().is_none() {
        return Err(Answer::oauth(401, "invalid_client", "Unauthorized"));
    }
    let user = clients.find(|u| u.refresh_token == refresh_token);
    let user = user
        .ok_or_else(|| Answer::oauth(400, "invalid_grant", "Bad Request"))?
        .clone();
    if user.revoked {
        return Err(Answer::oauth(
            400,
            "invalid_grant",
            "Token has been expired or revoked.",
        ));
    }
    let scopes = match scope.map(words) {
        Some(asked) if asked.iter().any(|s| !user.scopes.contains(s)) => {
            return Err(Answer::oauth(400, "invalid_scope", "Bad Request"));
        }
        Some(asked) => asked,
        None => user.scopes.clone(),
    };
    let (token, life) = state.issue(&user.name, scopes.clone(), state.token_life);
    let mut answer = json!({
        "access_token": token,
        "expires_in": life,
        "scope": scopes.join(" "),
        "token_type": "Bearer",
    });
    if scopes.iter().any(|s| s == "openid") {
        // A person's ID token is for the client, whoever asks for another audience.
        answer["id_token"] = json!(state.id_token(&user.name, &user.client_id, true));
    }
    Ok((user.name, answer))
}

fn token_info(state: &State, call: &Call) -> Outcome {
    let token = call
        .param("access_token")
        .or_else(|| call.field("access_token"));
    let no = || Answer::oauth(400, "invalid_token", "Invalid Value");
    let token = token.ok_or_else(no)?;
    let issued = state.tokens.get(&token).ok_or_else(no)?;
    let left = issued.expires.as_second() - Timestamp::now().as_second();
    if left <= 0 || state.over.contains(&token) {
        return Err(no());
    }
    Ok(Answer::json(&json!({
        "azp": "100000000000000000000",
        "aud": "100000000000000000000",
        "scope": issued.scopes.join(" "),
        "exp": issued.expires.as_second().to_string(),
        "expires_in": left.to_string(),
        "email": issued.who,
        "email_verified": "true",
        "access_type": "online",
    })))
}
