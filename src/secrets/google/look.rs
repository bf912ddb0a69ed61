//! What there is of a secret, without its value.

use jiff::Timestamp;
use serde_json::Value;

use super::{Ask, Deed, Name, SecretManager, answered_version, explain};
use crate::error::{Error, ErrorKind, Result};
use crate::google::Failure;
use crate::secrets::SecretRef;

/// What there is at a place of a secret; never its value.
#[derive(Debug)]
pub struct Seen {
    /// Whether it can be used.
    pub state: SeenState,
    /// The version's number, where the place keeps versions and tells.
    pub version: Option<u64>,
    /// When it was stored, where the place tells.
    pub created: Option<Timestamp>,
}

/// Whether a secret can be used.
#[derive(Debug)]
pub enum SeenState {
    /// It is there.
    Present,
    /// It is not.
    Missing,
    /// It is there, and may not be read for now.
    Disabled,
    /// It was there.
    Destroyed,
    /// It is there, and no run can use it.
    Unusable(Error),
    /// Whoever asks may not know.
    Denied(Error),
    /// It could not be found out.
    Unknown(Error),
}

impl Seen {
    /// In this state, and nothing else is known.
    pub fn only(state: SeenState) -> Self {
        Self {
            state,
            version: None,
            created: None,
        }
    }
}

impl SecretManager {
    /// What there is of the version that a reference names. Its value is read only where whoever asks
    /// may read values and nothing else, and is dropped.
    pub async fn look(&self, reference: &SecretRef) -> Seen {
        let name = match Name::of(reference) {
            Ok(name) => name,
            Err(e) => return Seen::only(SeenState::Unknown(e)),
        };
        match self.described(&name).await {
            Ok(answer) => {
                let state = match answer["state"].as_str() {
                    Some("ENABLED") => SeenState::Present,
                    Some("DISABLED") => SeenState::Disabled,
                    Some("DESTROYED") => SeenState::Destroyed,
                    _ => SeenState::Unknown(Error::new(
                        ErrorKind::Unavailable,
                        format!("Secret Manager did not name the state of `{}`", name.full()),
                    )),
                };
                Seen {
                    state,
                    version: answered_version(&answer),
                    created: answer["createTime"].as_str().and_then(|t| t.parse().ok()),
                }
            }
            Err(failure) if failure.is_not_found() => Seen::only(SeenState::Missing),
            Err(failure) if is_denied(&failure) => self.tried(&name).await,
            Err(failure) => Seen::only(SeenState::Unknown(explain(
                &self.google,
                Deed::Look,
                &name,
                failure,
            ))),
        }
    }

    /// What reading it says.
    async fn tried(&self, name: &Name<'_>) -> Seen {
        match self.answer(name, name.version).await {
            Ok(answer) => Seen {
                version: answered_version(&answer),
                ..Seen::only(SeenState::Present)
            },
            Err(failure) if failure.is_not_found() => Seen::only(SeenState::Missing),
            Err(failure) if failure.reason == "FAILED_PRECONDITION" => {
                Seen::only(SeenState::Disabled)
            }
            Err(failure) => {
                let denied = is_denied(&failure);
                let error = explain(&self.google, Deed::Read, name, failure);
                Seen::only(match denied {
                    true => SeenState::Denied(error),
                    false => SeenState::Unknown(error),
                })
            }
        }
    }

    /// The number of the version made last, whatever its state; `None` where there is none yet.
    ///
    /// # Errors
    /// [`ErrorKind::Auth`] saying what to grant.
    pub async fn newest_number(&self, reference: &SecretRef) -> Result<Option<u64>> {
        let name = Name {
            version: "latest",
            ..Name::of(reference)?
        };
        match self.described(&name).await {
            Ok(answer) => answered_version(&answer).map(Some).ok_or_else(|| {
                Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "Secret Manager did not name the newest version of `{}`",
                        name.parent()
                    ),
                )
            }),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(explain(&self.google, Deed::Switch, &name, failure)),
        }
    }

    async fn described(&self, name: &Name<'_>) -> Result<Value, Failure> {
        let what = format!("look up secret `{}`", name.full());
        self.ask(
            name,
            what,
            Ask::get(&[name.secret, "versions", name.version]),
        )
        .await
    }
}

/// Whether it is a permission that is missing, and not the service itself.
pub(super) fn is_denied(failure: &Failure) -> bool {
    failure.status == Some(403)
        && matches!(
            failure.info["reason"].as_str(),
            None | Some("IAM_PERMISSION_DENIED")
        )
}
