//! `bigquery.googleapis.com`: who may, and then on to the emulator where a test has one.

use axum::http::Method;
use serde_json::json;

use super::answer::{Answer, Outcome};
use super::calls::Call;
use super::identities::Role;
use super::tokens::CLOUD_PLATFORM;
use super::world::World;
use crate::support::plain_http;

pub const HOST: &str = "bigquery.googleapis.com";

/// Headers that end with a connection.
const OF_THE_CONNECTION: &[&str] = &[
    "host",
    "content-length",
    "authorization",
    "x-goog-user-project",
    "accept-encoding",
];

pub async fn answer(world: &World, call: &mut Call) -> Outcome {
    let upstream = {
        let mut state = world.state();
        let who = state.authenticate(
            call,
            &[CLOUD_PLATFORM, "https://www.googleapis.com/auth/bigquery"],
        )?;
        if !state.holds(&who.name, &Role::BigQuery) {
            let text = "Access Denied: User does not have permission, or it does not exist.";
            return Err(Answer::api(403, text).listing("accessDenied").wrong());
        }
        state.bigquery.clone()
    };
    let Some(upstream) = upstream else {
        return match (call.method.as_str(), call.path.as_str()) {
            ("GET", path)
                if path.starts_with("/bigquery/v2/projects/") && path.contains("/datasets/") =>
            {
                let text = format!("Not found: {}", path.trim_start_matches("/bigquery/v2/"));
                Err(Answer::api(404, &text).listing("notFound"))
            }
            ("GET", "/bigquery/v2/projects") => {
                Ok(Answer::json(&json!({"kind": "bigquery#projectList"})))
            }
            _ => Err(Answer::api(404, "Not found").listing("notFound").wrong()),
        };
    };
    let mut headers = call.headers.clone();
    for name in OF_THE_CONNECTION {
        headers.remove(*name);
    }
    let query = if call.query.is_empty() {
        String::new()
    } else {
        format!("?{}", call.query)
    };
    let method = Method::from_bytes(call.method.as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client
        .request(method, format!("{upstream}{}{query}", call.path))
        .headers(headers)
        .body(call.body.clone());
    let answer = plain_http::send(request).await;
    let mut relayed = Answer::relayed(answer.status, answer.body.clone());
    for name in ["etag", "range"] {
        if !answer.header(name).is_empty() {
            relayed = relayed.header(name, answer.header(name));
        }
    }
    if !answer.header("location").is_empty() {
        let location = answer
            .header("location")
            .replace(&upstream, &format!("https://{HOST}"));
        relayed = relayed.header("location", &location);
    }
    Ok(relayed)
}
