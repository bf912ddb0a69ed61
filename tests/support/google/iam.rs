//! `iamcredentials.googleapis.com`: tokens for a service account, asked for by another identity.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::answer::{Answer, Outcome};
use super::calls::Call;
use super::identities::Role;
use super::tokens::CLOUD_PLATFORM;
use super::world::State;

pub const HOST: &str = "iamcredentials.googleapis.com";

const ACCOUNTS: &str = "projects/-/serviceAccounts/";

pub fn answer(state: &mut State, call: &mut Call) -> Outcome {
    let who = state.authenticate(
        call,
        &[CLOUD_PLATFORM, "https://www.googleapis.com/auth/iam"],
    )?;
    let path = call.path.strip_prefix("/v1/").unwrap_or_default();
    let Some((target, method)) = path
        .strip_prefix(ACCOUNTS)
        .and_then(|rest| rest.split_once(':'))
    else {
        return Err(Answer::api(404, "Method not found.").wrong());
    };
    let permission = match (call.method.as_str(), method) {
        ("POST", "generateAccessToken") => "iam.serviceAccounts.getAccessToken",
        ("POST", "generateIdToken") => "iam.serviceAccounts.getOpenIdToken",
        ("POST", "signJwt") => "iam.serviceAccounts.signJwt",
        _ => return Err(Answer::api(404, "Method not found.").wrong()),
    };
    if call.media() != "application/json" {
        return Err(Answer::api(
            400,
            "Invalid JSON payload received: it is not said to be JSON.",
        )
        .wrong());
    }
    let asked = call.json();
    let target = target.replace("%40", "@");
    may_act(state, &who.name, &target, &asked["delegates"], permission)?;
    match method {
        "generateAccessToken" => access_token(state, &target, &asked),
        "generateIdToken" => id_token(state, &target, &asked),
        _ => sign(state, &target, &asked),
    }
}

/// Each of the chain must be a token creator of the next.
fn may_act(
    state: &State,
    who: &str,
    target: &str,
    delegates: &Value,
    permission: &str,
) -> Result<(), Answer> {
    let mut chain = vec![who.to_owned()];
    for delegate in delegates.as_array().into_iter().flatten() {
        let name = delegate.as_str().and_then(|d| d.strip_prefix(ACCOUNTS));
        let name = name.ok_or_else(|| {
            Answer::api(400, &format!("Invalid form of account ID {delegate}. Should be [Gaia ID |Email |Unique ID |] of the account")).wrong()
        })?;
        chain.push(name.to_owned());
    }
    chain.push(target.to_owned());
    let known = state
        .accounts
        .get(target)
        .is_some_and(|account| !account.disabled);
    let allowed = chain
        .windows(2)
        .all(|pair| state.holds(&pair[0], &Role::TokenCreator(pair[1].clone())));
    match known && allowed {
        true => Ok(()),
        false => Err(Answer::api(
            403,
            &format!("Permission '{permission}' denied on resource (or it may not exist)."),
        )
        .because(
            "IAM_PERMISSION_DENIED",
            "iam.googleapis.com",
            json!({"permission": permission}),
        )
        .wrong()),
    }
}

fn access_token(state: &mut State, target: &str, asked: &Value) -> Outcome {
    let scopes: Vec<String> = asked["scope"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|s| s.as_str().map(str::to_owned))
        .collect();
    if scopes.is_empty() {
        return Err(Answer::api(400, "At least one scope must be provided.").wrong());
    }
    let lifetime = match asked["lifetime"].as_str() {
        None => 3600.0,
        Some(text) => text
            .strip_suffix('s')
            .and_then(|seconds| seconds.parse::<f64>().ok())
            .filter(|seconds| (1.0..=3600.0).contains(seconds))
            .ok_or_else(|| {
                Answer::api(400, "The access token lifetime cannot exceed 3600 seconds.").wrong()
            })?,
    };
    let life = Duration::from_secs_f64(lifetime).min(state.token_life);
    let (token, life) = state.issue(target, scopes, life);
    let expires = Timestamp::from_second(Timestamp::now().as_second() + life as i64).unwrap();
    Ok(Answer::json(
        &json!({"accessToken": token, "expireTime": expires.to_string()}),
    ))
}

fn id_token(state: &State, target: &str, asked: &Value) -> Outcome {
    let audience = asked["audience"].as_str().filter(|a| !a.is_empty());
    let audience = audience.ok_or_else(|| {
        Answer::api(400, "Request contains an invalid argument: audience").wrong()
    })?;
    let email = asked["includeEmail"] == true;
    Ok(Answer::json(
        &json!({"token": state.id_token(target, audience, email)}),
    ))
}

fn sign(state: &State, target: &str, asked: &Value) -> Outcome {
    let payload = asked["payload"]
        .as_str()
        .and_then(|p| serde_json::from_str::<Value>(p).ok());
    let payload = payload.filter(Value::is_object);
    let payload = payload
        .ok_or_else(|| Answer::api(400, "Request contains an invalid argument: payload").wrong())?;
    let key = &state.accounts[target].google_key;
    Ok(Answer::json(
        &json!({"keyId": key.id, "signedJwt": key.sign(&payload)}),
    ))
}
