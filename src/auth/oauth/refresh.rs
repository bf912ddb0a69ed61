//! The refresh-token grant (RFC 6749 §6), for tokens that may be good for one time only: the newest is
//! read, offered, and what comes back is stored, all while nobody else may do the same, and before
//! anything is done with the answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::endpoint::{Answered, Endpoint, Offer, Refusal};
use crate::auth::keeper::Granted;
use crate::auth::vault::{Kept, Vault};
use crate::clock::SharedClock;
use crate::error::{Error, ErrorKind, Result};
use crate::http::CallContext;

/// Longest that the token endpoint is asked again and again: others wait for the token meanwhile.
const LONGEST: Duration = Duration::from_secs(90);

/// When the run is asked to stop while the token endpoint is asked, how long the answer is still waited
/// for: the token that was offered may be spent by then, and the answer holds the only other one.
const LAST_ANSWER: Duration = Duration::from_secs(3);

/// Offers the refresh token of a vault.
pub(super) struct Refresh {
    endpoint: Arc<Endpoint>,
    vault: Arc<dyn Vault>,
    clock: SharedClock,
    /// A token that could not be stored, and the one in the vault that it stands in for.
    unsaved: Mutex<Option<Unsaved>>,
}

#[derive(Clone)]
struct Unsaved {
    spent: SecretString,
    newest: SecretString,
}

impl Refresh {
    pub fn new(endpoint: Arc<Endpoint>, vault: Arc<dyn Vault>, clock: SharedClock) -> Self {
        Self {
            endpoint,
            vault,
            clock,
            unsaved: Mutex::default(),
        }
    }

    /// Which credentials it asks with.
    pub fn describe(&self) -> String {
        super::both(&self.vault.describe(), &self.endpoint.describe())
    }

    /// An access token, after the refresh token that came with it is stored.
    ///
    /// # Errors
    /// As [`Endpoint::ask`] and [`Vault::hold`], [`Vault::newest`]. Not being able to store a new token
    /// is none: the access token is good, the old refresh token is spent either way, and
    /// [`Vault::owe`] says so.
    pub async fn issue(self: &Arc<Self>, context: &CallContext) -> Result<Granted> {
        let (this, context) = (self.clone(), context.clone());
        // A task of its own: whoever waits for the token may go away, and this must not stop halfway.
        let work = tokio::spawn(async move { this.exclusively(&context).await }.in_current_span());
        work.await
            .map_err(|e| Error::new(ErrorKind::Bug, "renewing a token came to no end").source(e))?
    }

    async fn exclusively(&self, context: &CallContext) -> Result<Granted> {
        let hold = self.vault.hold(context).await?;
        let outcome = match context.cancel.is_cancelled() {
            true => Err(Error::new(
                ErrorKind::Interrupted,
                "the run was asked to stop before it got a token",
            )),
            false => {
                let (patient, _watching) = self.patient(context);
                self.exchange(&patient).await
            }
        };
        hold.end().await;
        outcome
    }

    /// The call, given a while longer when it is to stop, and no more than [`LONGEST`].
    fn patient(&self, context: &CallContext) -> (CallContext, AbortOnDropHandle<()>) {
        let cancel = CancellationToken::new();
        let watching = {
            let (clock, asked, cancel) =
                (self.clock.clone(), context.cancel.clone(), cancel.clone());
            tokio::spawn(async move {
                asked.cancelled().await;
                clock.sleep(LAST_ANSWER).await;
                cancel.cancel();
            })
        };
        let patient = CallContext {
            deadline: self.clock.instant().checked_add(LONGEST),
            cancel,
            meter: context.meter.clone(),
        };
        (patient, AbortOnDropHandle::new(watching))
    }

    async fn exchange(&self, context: &CallContext) -> Result<Granted> {
        let mut used = self.newest().await?;
        let answered = match self.offer(&used, context).await {
            Err(refusal) if refusal.invalid_grant => {
                // Somebody who does not wait for others may have stored a newer one meanwhile.
                let again = self.newest().await?;
                if again.value.expose_secret() == used.value.expose_secret() {
                    return Err(self.refused(refusal));
                }
                used = again;
                self.offer(&used, context)
                    .await
                    .map_err(|refusal| self.refused(refusal))?
            }
            outcome => outcome.map_err(|refusal| refusal.error)?,
        };
        let new = answered
            .refresh_token
            .filter(|new| new.expose_secret() != used.value.expose_secret());
        if let Some(new) = new {
            match self.vault.store(&new, &used).await {
                Ok(()) => self.set_unsaved(None),
                Err(why) => {
                    let spent = match self.unsaved() {
                        Some(unsaved) => unsaved.spent,
                        None => used.value.clone(),
                    };
                    let old = Kept {
                        value: spent.clone(),
                        version: used.version,
                    };
                    self.vault.owe(&new, &old, why);
                    self.set_unsaved(Some(Unsaved { spent, newest: new }));
                }
            }
        }
        Ok(answered.granted)
    }

    async fn offer(&self, token: &Kept, context: &CallContext) -> Result<Answered, Refusal> {
        let from = self.vault.describe();
        let offer = Offer::Refresh(&token.value, &from);
        self.endpoint.ask(offer, context).await
    }

    /// The newest token: the vault's, unless this process has one that it could not store there.
    async fn newest(&self) -> Result<Kept> {
        let kept = self.vault.newest().await?;
        Ok(match self.unsaved() {
            Some(unsaved) if unsaved.spent.expose_secret() == kept.value.expose_secret() => Kept {
                value: unsaved.newest,
                ..kept
            },
            Some(_) => {
                self.set_unsaved(None);
                kept
            }
            None => kept,
        })
    }

    fn unsaved(&self) -> Option<Unsaved> {
        let unsaved = self.unsaved.lock();
        unsaved.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_unsaved(&self, to: Option<Unsaved>) {
        *self.unsaved.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }

    /// The error of a token that is not taken, with what to do about it.
    fn refused(&self, refusal: Refusal) -> Error {
        if !refusal.invalid_grant {
            return refusal.error;
        }
        let why = match refusal.repeated {
            true => "the refresh token was probably spent by this program itself: it was offered before, and the answer was lost".to_owned(),
            false => refusal.error.find_hint().unwrap_or_default().to_owned(),
        };
        refusal
            .error
            .hint(format!("{why}: {}", self.vault.remedy()))
    }
}
