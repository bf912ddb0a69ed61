//! Token answers as servers give them: the standard's fields, read leniently where servers are
//! known to differ and strictly where safety hangs on it.

use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use oauth2::basic::BasicTokenType;
use oauth2::{AccessToken, HttpResponse, RefreshToken, Scope, TokenResponse};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::http::Response;

/// Longer lifetimes than this mean "does not expire" anyway.
const LONGEST: f64 = 366.0 * 24.0 * 60.0 * 60.0;

/// A token, its kind and its lifetime.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    access_token: AccessToken,
    /// Some servers leave it out, or call it something of their own.
    #[serde(default = "bearer", deserialize_with = "kind")]
    token_type: BasicTokenType,
    /// Seconds.
    #[serde(default, deserialize_with = "seconds")]
    expires_in: Option<f64>,
    /// A new one, where the server gives one.
    #[serde(default, deserialize_with = "text", skip_serializing)]
    refresh_token: Option<RefreshToken>,
}

impl Answer {
    /// Whether the token is used by bearing it. Kinds that need a signature or a key are not.
    pub fn is_bearer(&self) -> bool {
        match &self.token_type {
            BasicTokenType::Bearer => true,
            BasicTokenType::Mac => false,
            BasicTokenType::Extension(name) => !["dpop", "pop", "n_a"].contains(&name.as_str()),
        }
    }
}

impl TokenResponse for Answer {
    type TokenType = BasicTokenType;

    fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &BasicTokenType {
        &self.token_type
    }

    fn expires_in(&self) -> Option<Duration> {
        self.expires_in
            .and_then(|s| Duration::try_from_secs_f64(s).ok())
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        self.refresh_token.as_ref()
    }

    fn scopes(&self) -> Option<&Vec<Scope>> {
        None
    }
}

fn bearer() -> BasicTokenType {
    BasicTokenType::Bearer
}

/// Spelled in any case; null is as good as absent.
fn kind<'de, D: Deserializer<'de>>(from: D) -> Result<BasicTokenType, D::Error> {
    let name = Option::<String>::deserialize(from)?.unwrap_or_default();
    Ok(match name.to_ascii_lowercase().as_str() {
        "" | "bearer" => BasicTokenType::Bearer,
        "mac" => BasicTokenType::Mac,
        other => BasicTokenType::Extension(other.to_owned()),
    })
}

/// `3600`, `3600.0`, `"3600"`; absent, null, zero, negative and garbage alike are "not given".
fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let seconds = match Value::deserialize(from)? {
        Value::Number(n) => n.as_f64(),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    };
    Ok(seconds
        .filter(|s| s.is_finite() && *s > 0.0)
        .map(|s| s.min(LONGEST)))
}

/// A text that is not blank; anything else is as good as absent.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<RefreshToken>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::String(text) if !text.trim().is_empty() => Some(RefreshToken::new(text)),
        _ => None,
    })
}

/// The answer in the form that the `oauth2` crate accepts: a JSON label on JSON, 200 for every
/// success, and a failure's status on a failure that came with 200.
pub(super) fn standard(response: &Response) -> HttpResponse {
    let body = response
        .body
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(&response.body);
    let fields: Option<serde_json::Map<String, Value>> = serde_json::from_slice(body).ok();
    let has = |name: &str| {
        fields.as_ref().and_then(|f| f.get(name)).is_some_and(|v| {
            v.as_str()
                .map_or(!v.is_null(), |text| !text.trim().is_empty())
        })
    };
    let status = match response.status.is_success() {
        true if has("error") && !has("access_token") => StatusCode::BAD_REQUEST,
        true => StatusCode::OK,
        false => response.status,
    };
    let mut standard = HttpResponse::new(body.to_vec());
    *standard.status_mut() = status;
    if fields.is_some() {
        standard
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    standard
}

/// An error code fit for a message: anything else could be text of the server's choosing.
pub(in crate::auth) fn code(code: &str) -> Option<&str> {
    let fit =
        (1..=40).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    fit.then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Answer {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn lifetimes_in_every_form() {
        for (json, expected) in [
            ("3600", Some(3600)),
            ("3600.0", Some(3600)),
            ("\"3600\"", Some(3600)),
            ("\" 3600 \"", Some(3600)),
            ("null", None),
            ("0", None),
            ("-5", None),
            ("\"soon\"", None),
            ("\"NaN\"", None),
            ("[]", None),
            ("1e99", Some(LONGEST as u64)),
        ] {
            let answer = read(&format!(r#"{{"access_token":"t","expires_in":{json}}}"#));
            assert_eq!(
                answer.expires_in(),
                expected.map(Duration::from_secs),
                "{json}"
            );
        }
        assert_eq!(read(r#"{"access_token":"t"}"#).expires_in(), None);
    }

    #[test]
    fn kinds_of_token() {
        for (kind, fits) in [
            ("\"Bearer\"", true),
            ("\"BEARER\"", true),
            ("\"bearer\"", true),
            ("\"BearerToken\"", true),
            ("null", true),
            ("\"MAC\"", false),
            ("\"DPoP\"", false),
        ] {
            let answer = read(&format!(r#"{{"access_token":"t","token_type":{kind}}}"#));
            assert_eq!(answer.is_bearer(), fits, "{kind}");
        }
        assert!(read(r#"{"access_token":"t","scope":7,"refresh_token":[]}"#).is_bearer());
    }

    #[test]
    fn a_refresh_token_is_a_text() {
        for (json, given) in [
            ("\"r\"", true),
            ("\"\"", false),
            ("\" \"", false),
            ("null", false),
            ("[]", false),
        ] {
            let answer = read(&format!(r#"{{"access_token":"t","refresh_token":{json}}}"#));
            assert_eq!(answer.refresh_token().is_some(), given, "{json}");
        }
    }

    #[test]
    fn codes_are_codes() {
        assert_eq!(code("invalid_client"), Some("invalid_client"));
        for bad in ["", "Invalid client: secret hunter2", "a b", &"x".repeat(41)] {
            assert_eq!(code(bad), None);
        }
    }
}
