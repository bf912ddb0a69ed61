//! Whether a caller is who an ID token of Google's says: signature, issuer, audience, expiry, and
//! an allow-list of e-mail addresses.
//!
//! For services whose platform does not verify callers already. Google's keys are fetched when they
//! are needed, kept as long as their answer allows, and asked for again when a token names one that is
//! not among them, at most once a minute: strangers must not make this program ask Google at their pace.

use std::time::{Duration, Instant};

use http::header::CACHE_CONTROL;
use jsonwebtoken::errors::ErrorKind as JwtError;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::Google;
use super::read::{ReadError, SMALL, read};
use crate::error::{Error, ErrorKind, Result};

const ISSUERS: [&str; 2] = ["https://accounts.google.com", "accounts.google.com"];
/// Clocks differ by this much.
const LEEWAY: Duration = Duration::from_secs(30);
/// Keys are not asked for more often.
const PAUSE: Duration = Duration::from_secs(60);
/// Nor after a failure.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How long keys are kept whose answer does not say.
const KEPT: Duration = Duration::from_secs(3_600);
/// How long keys are used at the most, when new ones cannot be had.
const LONGEST_KEPT: Duration = Duration::from_secs(86_400);
const PATIENCE: Duration = Duration::from_secs(10);
/// What Cloud Run leaves of the signature of a token that it has verified itself.
const REMOVED: &str = ".SIGNATURE_REMOVED_BY_GOOGLE";

/// Verifies callers.
pub struct Verifier {
    google: Google,
    audiences: Vec<String>,
    allowed: Vec<String>,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    set: Option<JwkSet>,
    fetched: Option<Instant>,
    fresh_until: Option<Instant>,
    tried: Option<Instant>,
    failed: Option<Instant>,
}

/// Who called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// E-mail address of the account.
    pub email: String,
}

/// Why a caller is turned away.
#[derive(Debug)]
pub enum Refusal {
    /// There is no token, or none that is good; what is wrong with it.
    Unknown(String),
    /// The token is good, and its account is not on the list.
    NotAllowed(String),
    /// It cannot be told: Google's keys could not be had.
    Unavailable(Error),
}

#[derive(Deserialize)]
struct Claims {
    email: Option<String>,
    #[serde(default)]
    email_verified: bool,
}

impl Verifier {
    /// Takes tokens for one of these audiences, of one of these accounts.
    pub fn new(google: Google, audiences: Vec<String>, allowed: Vec<String>) -> Self {
        Self {
            google,
            audiences,
            allowed,
            keys: Mutex::default(),
        }
    }

    /// Who it is that sent this `Authorization` header.
    ///
    /// # Errors
    /// Why it is not known, or may not call.
    pub async fn caller(&self, authorization: Option<&str>) -> Result<Caller, Refusal> {
        let unknown = |what: &str| Refusal::Unknown(what.to_owned());
        let header = authorization.ok_or_else(|| unknown("there is no `Authorization` header"))?;
        let token = header
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| unknown("`Authorization` holds no bearer token"))?;
        if token.ends_with(REMOVED) {
            return Err(unknown(
                "the platform has verified this caller and taken the signature off; leave `--verify-callers` out here",
            ));
        }
        let head = jsonwebtoken::decode_header(token).map_err(|_| {
            unknown("the bearer token is no ID token (an access token proves nothing here)")
        })?;
        if head.alg != Algorithm::RS256 {
            return Err(unknown(
                "the token is not signed by RS256, as Google's ID tokens are",
            ));
        }
        let kid = head
            .kid
            .ok_or_else(|| unknown("the token does not name its key"))?;
        let key = self
            .key(&kid)
            .await
            .map_err(Refusal::Unavailable)?
            .ok_or_else(|| unknown("the token is signed by a key that is not Google's"))?;
        let mut wanted = Validation::new(Algorithm::RS256);
        wanted.leeway = LEEWAY.as_secs();
        wanted.set_issuer(&ISSUERS);
        wanted.set_audience(&self.audiences);
        wanted.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &wanted)
            .map_err(|e| Refusal::Unknown(self.why(e.kind())))?
            .claims;
        let email = claims
            .email
            .filter(|_| claims.email_verified)
            .ok_or_else(|| unknown("the token names no verified e-mail address"))?;
        match self.allowed.iter().any(|a| a.eq_ignore_ascii_case(&email)) {
            true => Ok(Caller { email }),
            false => Err(Refusal::NotAllowed(email)),
        }
    }

    fn why(&self, kind: &JwtError) -> String {
        match kind {
            JwtError::ExpiredSignature => "the token has expired".to_owned(),
            JwtError::InvalidAudience => format!(
                "the token is for another audience than `{}`",
                self.audiences.join("`, `")
            ),
            JwtError::InvalidIssuer => "the token was not issued by Google".to_owned(),
            JwtError::InvalidSignature => "the token's signature is wrong".to_owned(),
            JwtError::MissingRequiredClaim(claim) => format!("the token has no `{claim}`"),
            _ => "the token cannot be read".to_owned(),
        }
    }

    /// Google's key of this name; `None` where there is none.
    async fn key(&self, kid: &str) -> Result<Option<DecodingKey>> {
        let mut keys = self.keys.lock().await;
        let now = Instant::now();
        let known = keys.set.as_ref().is_some_and(|s| s.find(kid).is_some());
        let fresh = keys.fresh_until.is_some_and(|until| now < until);
        let failed_now = keys.failed.is_some_and(|at| now < at + PAUSE_AFTER_FAILURE);
        if !known && failed_now {
            return Err(unavailable("that failed a moment ago"));
        }
        let may_ask = !failed_now && keys.tried.is_none_or(|at| now >= at + PAUSE);
        if !(known && fresh) && may_ask {
            keys.tried = Some(now);
            match self.fetch().await {
                Ok((set, life)) => {
                    *keys = Keys {
                        set: Some(set),
                        fetched: Some(now),
                        fresh_until: Some(now + life),
                        tried: keys.tried,
                        failed: None,
                    };
                }
                // Those at hand are good for a while yet.
                Err(e) if known && keys.fetched.is_some_and(|at| now < at + LONGEST_KEPT) => {
                    (keys.tried, keys.failed) = (None, Some(now));
                    tracing::warn!("using Google's keys of before: {}", e.chain());
                }
                Err(e) => {
                    (keys.tried, keys.failed) = (None, Some(now));
                    return Err(e);
                }
            }
        }
        let found = keys.set.as_ref().and_then(|s| s.find(kid));
        Ok(found.and_then(|jwk| DecodingKey::from_jwk(jwk).ok()))
    }

    async fn fetch(&self) -> Result<(JwkSet, Duration)> {
        let failed = |what: String| unavailable(&what);
        let endpoint = self.google.settings().service("www");
        let mut answer = self
            .google
            .remote()
            .get(endpoint.url(&["oauth2", "v3", "certs"], &[]))
            .timeout(PATIENCE)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(|e| failed(e.without_url().to_string()))?;
        let life = answer
            .headers()
            .get(CACHE_CONTROL)
            .and_then(|v| v.to_str().ok())
            .and_then(max_age)
            .unwrap_or(KEPT)
            .clamp(PAUSE, LONGEST_KEPT);
        let bytes = read(&mut answer, SMALL).await.map_err(|e| match e {
            ReadError::Transport(e) => failed(e.without_url().to_string()),
            ReadError::TooLarge => failed("the answer is too large".to_owned()),
        })?;
        let set = serde_json::from_slice(&bytes)
            .map_err(|_| failed("the answer is no set of keys".to_owned()))?;
        Ok((set, life))
    }
}

fn unavailable(why: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("could not get the keys of Google's ID tokens: {why}"),
    )
    .transient(true)
}

fn max_age(header: &str) -> Option<Duration> {
    let seconds = header
        .split(',')
        .find_map(|part| part.trim().strip_prefix("max-age="))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_as_long_as_the_answer_says() {
        let header = "public, max-age=19845, must-revalidate, no-transform";
        assert_eq!(max_age(header), Some(Duration::from_secs(19_845)));
        assert_eq!(max_age("no-store"), None);
        assert_eq!(max_age("max-age=soon"), None);
    }
}
