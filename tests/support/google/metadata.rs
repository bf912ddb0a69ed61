//! The metadata server, in plain http.

use serde_json::json;

use super::answer::Answer;
use super::calls::Call;
use super::tokens::CLOUD_PLATFORM;
use super::world::State;

pub const HOST: &str = "metadata.google.internal";

const ROOT: &str = "/computeMetadata/v1/";

pub fn answer(state: &mut State, call: &Call) -> Answer {
    let answer = content(state, call).header("server", "Metadata Server for VM");
    match state.flavoured {
        true => answer.header("metadata-flavor", "Google"),
        false => answer,
    }
}

fn content(state: &mut State, call: &Call) -> Answer {
    let wrong = |text: &str| Answer::page(403, text).wrong_as(text);
    if call.method != "GET" {
        return Answer::page(405, "Method Not Allowed").wrong_as("not a GET");
    }
    if call.headers.contains_key("x-forwarded-for") || call.headers.contains_key("authorization") {
        return wrong(
            "Unsupported headers: the request came through a proxy, or with a credential",
        );
    }
    if call.path == "/" {
        return Answer::text("computeMetadata/\n");
    }
    if call.header("metadata-flavor") != Some("Google") {
        return wrong("Missing Metadata-Flavor:Google header");
    }
    let Some(path) = call.path.strip_prefix(ROOT) else {
        return Answer::page(404, "The requested URL was not found on this server.");
    };
    match path {
        "project/project-id" => return Answer::text(state.project.clone()),
        "project/numeric-project-id" => return Answer::text("123456789012"),
        "instance/region" => return Answer::text("projects/123456789012/regions/europe-west4"),
        "instance/zone" => return Answer::text("projects/123456789012/zones/europe-west4-1"),
        "universe/universe-domain" | "universe/universe_domain" => {
            return Answer::text("googleapis.com");
        }
        _ => {}
    }
    let (Some(rest), Some(email)) = (
        path.strip_prefix("instance/service-accounts/"),
        state.attached.clone(),
    ) else {
        return Answer::page(404, "The requested URL was not found on this server.");
    };
    let (account, what) = rest.split_once('/').unwrap_or((rest, ""));
    if account.is_empty() {
        return Answer::text(format!("default/\n{email}/\n"));
    }
    if account != "default" && account != email {
        return Answer::page(404, "The requested URL was not found on this server.");
    }
    match what {
        "" if call.param("recursive").as_deref() == Some("true") => Answer::json(&json!({
            "aliases": ["default"],
            "email": email,
            "scopes": [CLOUD_PLATFORM],
        })),
        "" => Answer::text("aliases\nemail\nidentity\nscopes\ntoken\n"),
        "email" => Answer::text(email),
        "scopes" => Answer::text(format!("{CLOUD_PLATFORM}\n")),
        "token" => {
            let scopes = call
                .param("scopes")
                .unwrap_or_else(|| CLOUD_PLATFORM.to_owned());
            let scopes = scopes.split(',').map(str::to_owned).collect();
            let (token, life) = state.issue(&email, scopes, state.token_life);
            Answer::json(
                &json!({"access_token": token, "expires_in": life, "token_type": "Bearer"}),
            )
        }
        "identity" => match call.param("audience").filter(|a| !a.is_empty()) {
            Some(audience) => {
                let full = call.param("format").as_deref() == Some("full");
                Answer::text(state.id_token(&email, &audience, full))
            }
            None => {
                Answer::page(400, "non-empty audience parameter required").wrong_as("no audience")
            }
        },
        _ => Answer::page(404, "The requested URL was not found on this server."),
    }
}
