//! `www.googleapis.com`: the public keys under which Google signs ID tokens.

use serde_json::{Value, json};

use super::answer::{Answer, Outcome};
use super::calls::Call;
use super::world::State;

pub const HOST: &str = "www.googleapis.com";

pub fn answer(state: &mut State, call: &Call) -> Outcome {
    match (call.method.as_str(), call.path.as_str()) {
        ("GET", "/oauth2/v3/certs") => {
            let keys: Vec<Value> = state.google_keys.iter().map(|key| key.jwk()).collect();
            Ok(Answer::json(&json!({"keys": keys})).header(
                "cache-control",
                "public, max-age=20000, must-revalidate, no-transform",
            ))
        }
        _ => Err(Answer::api(404, "Not Found").wrong()),
    }
}
