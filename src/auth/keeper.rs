//! Tokens that somebody issues and that end: keeps one while it is good, renews it early, once for
//! however many requests wait, and replaces it when it is refused. Who issues it, and for what, is the
//! business of an [`Issue`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::place::Placed;
use crate::clock::SharedClock;
use crate::error::{Error, ErrorKind, Result};
use crate::http::{CallContext, HttpOptions, Request, Sign};

/// A token is renewed this long before it expires, or a tenth of its lifetime when that is less.
const MARGIN: Duration = Duration::from_secs(60);

/// When an early renewal fails, how long the old token is used before the next try.
const RENEW_AGAIN: Duration = Duration::from_secs(5);

/// Gets tokens.
#[async_trait]
pub(super) trait Issue: Send + Sync {
    /// A new token. Never called twice at once.
    ///
    /// # Errors
    /// Transient where asking again later may do.
    async fn issue(&self, context: &CallContext) -> Result<Granted>;

    /// Which credentials it asks with.
    fn describe(&self) -> String;
}

/// A token that was issued.
pub(super) struct Granted {
    /// The token, in its place.
    pub placed: Placed,
    /// When it was asked for: it may live as long as it is said to from then on.
    pub asked_at: Instant,
    /// How long that is; `None`: until it is refused.
    pub lifetime: Option<Duration>,
}

/// Signs with tokens of an issuer.
pub(super) struct Keeper {
    issuer: Box<dyn Issue>,
    clock: SharedClock,
    state: Mutex<State>,
    /// Held by the one request that fetches a token; the others wait for what it gets.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    token: Option<Arc<Token>>,
    /// Token requests that came to an end.
    fetched: u64,
    /// How the last one failed, if it did.
    failure: Option<Failure>,
}

struct Token {
    placed: Placed,
    renew_at: Option<Instant>,
    expires_at: Option<Instant>,
}

/// A failed token request, told to all who waited for it, and, when it will not pass, to all who
/// come later: a wrong secret is sent once.
struct Failure {
    kind: ErrorKind,
    transient: bool,
    message: String,
    hint: Option<String>,
}

impl Keeper {
    /// One without a token yet.
    pub fn new(issuer: impl Issue + 'static, http: &HttpOptions) -> Self {
        Self {
            issuer: Box::new(issuer),
            clock: http.clock.clone(),
            state: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token that is good for now.
    async fn token(&self, context: &CallContext) -> Result<Arc<Token>> {
        let seen = {
            let state = self.state();
            match state.fresh(self.clock.instant()) {
                Some(token) => return Ok(token),
                None => state.fetched,
            }
        };
        let _fetching = tokio::select! {
            biased;
            () = context.cancel.cancelled() => return Err(Error::new(
                ErrorKind::Interrupted,
                "the run was asked to stop while it waited for a token",
            )),
            lock = self.fetching.lock() => lock,
        };
        {
            let state = self.state();
            if let Some(token) = state.fresh(self.clock.instant()) {
                return Ok(token);
            }
            if let Some(failure) = &state.failure
                && (!failure.transient || state.fetched != seen)
            {
                return Err(failure.error());
            }
        }
        let asked = self.issuer.issue(context).await;
        let now = self.clock.instant();
        let mut state = self.state();
        match asked {
            Ok(granted) => {
                let token = Arc::new(Token::new(granted));
                state.fetched += 1;
                state.failure = None;
                state.token = Some(token.clone());
                Ok(token)
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => Err(e),
            Err(e) => {
                state.fetched += 1;
                // Renewal is early: what we have is good for a while yet.
                if e.is_transient()
                    && let Some(token) = state.keep_for_now(now)
                {
                    return Ok(token);
                }
                let failure = Failure::of(&e);
                // One that the deadline cut short says nothing to a later call.
                state.failure = (e.kind() != ErrorKind::RateLimited).then_some(failure);
                Err(e)
            }
        }
    }
}

#[async_trait]
impl Sign for Keeper {
    async fn sign(&self, request: &mut Request, context: &CallContext) -> Result<()> {
        let token = self.token(context).await?;
        token.placed.put(request);
        Ok(())
    }

    async fn refused(&self, request: &Request, _: &CallContext) -> Result<bool> {
        let mut state = self.state();
        // Another request may have renewed it since this one was signed: then keep the new one.
        if let Some(token) = &state.token
            && token.placed.is_on(request)
        {
            state.token = None;
        }
        Ok(true)
    }

    fn describe(&self) -> String {
        self.issuer.describe()
    }
}

impl Token {
    fn new(granted: Granted) -> Self {
        let after = |span: Duration| granted.asked_at.checked_add(span);
        Self {
            renew_at: granted.lifetime.and_then(|l| after(l - MARGIN.min(l / 10))),
            expires_at: granted.lifetime.and_then(after),
            placed: granted.placed,
        }
    }
}

impl State {
    fn fresh(&self, now: Instant) -> Option<Arc<Token>> {
        self.token
            .as_ref()
            .filter(|t| t.renew_at.is_none_or(|at| now < at))
            .cloned()
    }

    /// The token, if it has not expired, for use until renewal is tried again.
    fn keep_for_now(&mut self, now: Instant) -> Option<Arc<Token>> {
        let old = self.token.take()?;
        let expires_at = old.expires_at.filter(|at| now < *at)?;
        let kept = Arc::new(Token {
            placed: old.placed.clone(),
            renew_at: now.checked_add(RENEW_AGAIN).map(|at| at.min(expires_at)),
            expires_at: Some(expires_at),
        });
        self.token = Some(kept.clone());
        Some(kept)
    }
}

impl Failure {
    fn of(e: &Error) -> Self {
        Self {
            kind: e.kind(),
            transient: e.is_transient(),
            message: e.chain(),
            hint: e.find_hint().map(str::to_owned),
        }
    }

    fn error(&self) -> Error {
        let e = Error::new(self.kind, self.message.clone()).transient(self.transient);
        match &self.hint {
            Some(hint) => e.hint(hint.clone()),
            None => e,
        }
    }
}
