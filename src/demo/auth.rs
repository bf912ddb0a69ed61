//! Who may ask: Basic for the support part, the OAuth 2.0 client-credentials grant for billing.
//! Access tokens carry their own end and proof, so nothing has to be remembered.

use axum::Json;
use axum::extract::{Form, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{CLIENT_ID, CLIENT_SECRET, COMPANY_ID, Demo, TOKEN, TOKEN_SECONDS, problem};

/// A token request's body.
#[derive(Deserialize)]
pub struct TokenRequest {
    grant_type: Option<String>,
}

/// Lets requests with the right Basic credentials through.
pub async fn basic(request: Request, next: Next) -> Response {
    match credentials(request.headers()) {
        Some((user, password)) if user == COMPANY_ID && password == TOKEN => {
            next.run(request).await
        }
        _ => challenged(
            problem(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "the company id or the token is wrong",
            ),
            r#"Basic realm="demo", charset="UTF-8""#,
        ),
    }
}

/// Lets requests with a token of [`token`] through until it ends.
pub async fn bearer(State(demo): State<Demo>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token);
    let now = demo.clock.now().as_second();
    match given {
        Some(token) if is_valid(token, now) => next.run(request).await,
        given => challenged(
            problem(
                StatusCode::UNAUTHORIZED,
                "invalid_token",
                "the access token is missing, wrong or has ended",
            ),
            match given {
                Some(_) => r#"Bearer realm="demo", error="invalid_token""#,
                None => r#"Bearer realm="demo""#,
            },
        ),
    }
}

/// `POST /oauth/token` (RFC 6749 §4.4), the client known by Basic with both halves form-urlencoded.
pub async fn token(
    State(demo): State<Demo>,
    headers: HeaderMap,
    body: Result<Form<TokenRequest>, axum::extract::rejection::FormRejection>,
) -> Response {
    let client = credentials(&headers).map(|(id, secret)| (form_decode(&id), form_decode(&secret)));
    if client != Some((CLIENT_ID.to_owned(), CLIENT_SECRET.to_owned())) {
        return challenged(
            refusal(
                StatusCode::UNAUTHORIZED,
                "invalid_client",
                "the client is unknown or its secret is wrong",
            ),
            r#"Basic realm="demo""#,
        );
    }
    let Ok(Form(TokenRequest { grant_type })) = body else {
        return refusal(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "the body must be form-urlencoded",
        );
    };
    match grant_type.as_deref() {
        Some("client_credentials") => {}
        Some(_) => {
            return refusal(
                StatusCode::BAD_REQUEST,
                "unsupported_grant_type",
                "only client_credentials is offered",
            );
        }
        None => {
            return refusal(
                StatusCode::BAD_REQUEST,
                "invalid_request",
                "grant_type is missing",
            );
        }
    }
    let end = demo.clock.now().as_second() + TOKEN_SECONDS;
    let answer = serde_json::json!({
        "access_token": issue(end),
        "token_type": "Bearer",
        "expires_in": TOKEN_SECONDS,
        "scope": "billing:read",
    });
    ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}

fn issue(end: i64) -> String {
    let proof = Sha256::digest(format!("{CLIENT_SECRET}\n{end}"));
    format!("{end}.{}", URL_SAFE_NO_PAD.encode(proof))
}

fn is_valid(token: &str, now: i64) -> bool {
    token
        .split_once('.')
        .and_then(|(end, _)| end.parse::<i64>().ok())
        .is_some_and(|end| now < end && token == issue(end))
}

/// User id and password of a Basic header.
fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn form_decode(text: &str) -> String {
    // As a lone key of a form: `=` and `&` never stand bare in what was encoded.
    url::form_urlencoded::parse(text.as_bytes())
        .next()
        .map(|(key, _)| key.into_owned())
        .unwrap_or_default()
}

fn refusal(status: StatusCode, error: &str, description: &str) -> Response {
    let body = serde_json::json!({"error": error, "error_description": description});
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

fn challenged(mut response: Response, challenge: &'static str) -> Response {
    response.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static(challenge),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_until_its_end_only() {
        let token = issue(1_000);
        assert!(is_valid(&token, 999));
        assert!(!is_valid(&token, 1_000));
        assert!(!is_valid(&token.replacen("1000", "9000", 1), 999));
        assert!(!is_valid("", 999));
    }

    #[test]
    fn form_decoding_wants_encoded_halves() {
        assert_eq!(form_decode("a%2Fb%3Ac+d%25"), "a/b:c d%");
        assert_ne!(form_decode(CLIENT_SECRET), CLIENT_SECRET);
    }
}
