//! Who may call.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

use crate::google::{Google, Refusal, Verifier};
use crate::telemetry::log::{self, Whose};

/// Who may call, and what their tokens must be for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callers {
    /// What the tokens must be for: this service's own addresses.
    pub audiences: Vec<String>,
    /// E-mail addresses of the accounts that may call.
    pub allowed: Vec<String>,
}

/// Lets callers pass, or not.
pub(super) struct Gate(Option<Verifier>);

impl Gate {
    pub fn new(google: Google, callers: Option<Callers>) -> Self {
        Self(callers.map(|c| Verifier::new(google, c.audiences, c.allowed)))
    }

    /// Whether whoever sent these headers may go on.
    pub async fn pass(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(verifier) = &self.0 else {
            return Ok(());
        };
        let header = headers.get(AUTHORIZATION).and_then(|h| h.to_str().ok());
        match verifier.caller(header).await {
            Ok(caller) => {
                tracing::debug!(caller = caller.email, "a verified caller");
                Ok(())
            }
            Err(refusal) => {
                match &refusal {
                    Refusal::Unknown(why) => tracing::warn!("turned a caller away: {why}"),
                    Refusal::NotAllowed(email) => {
                        tracing::warn!(
                            "turned `{email}` away: not among the accounts that may call"
                        );
                    }
                    Refusal::Unavailable(e) => {
                        log::failed("verification", Whose::default(), e);
                    }
                }
                Err(refusal)
            }
        }
    }
}
