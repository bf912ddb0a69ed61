//! The leases of a run: taken before anything is published, renewed while it works, let go of at the end.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::clock::SharedClock;
use crate::config::Environment;
use crate::destination::Destination;
use crate::error::{Error, ErrorKind, Result};
use crate::state::{Acquired, Holder, Lease, Life};

/// Between the first two looks at a lease that is waited for…
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// …and between later ones, each of which may be a query that costs, and gets in the way of others.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// What a run takes leases with.
pub(super) struct Leases {
    store: Arc<dyn Destination>,
    run_id: String,
    length: Duration,
    holder: Holder,
    clock: SharedClock,
    _life: Life,
}

/// A lease that is being renewed.
pub(super) struct Holding {
    store: Arc<dyn Destination>,
    lease: Lease,
    lost: Arc<OnceLock<Lost>>,
    renewing: AbortOnDropHandle<()>,
}

/// Whether a lease could not be taken because another run holds it.
pub(super) fn is_busy(error: &Error) -> bool {
    error.kind() == ErrorKind::State && error.is_transient()
}

/// What came of waiting for a lease.
pub(super) enum Waited<T> {
    /// It is this run's.
    Held(Holding),
    /// There is no need of it any more.
    Needless(T),
}

/// Why a lease is not held any more, in words.
#[derive(Clone, Debug)]
struct Lost {
    message: String,
    hint: Option<String>,
}

impl Leases {
    /// Of a run, which shows from now on that it lives.
    pub fn new(
        store: Arc<dyn Destination>,
        run_id: &str,
        length: Duration,
        environment: &Environment,
        clock: SharedClock,
    ) -> Self {
        let life = Life::of(run_id);
        Self {
            store,
            run_id: run_id.to_owned(),
            length,
            holder: Holder::this(environment, &life),
            clock,
            _life: life,
        }
    }

    /// The same, of a run that was started for that.
    pub fn because_of(mut self, trigger: Option<String>) -> Self {
        self.holder.trigger = trigger;
        self
    }

    /// Takes the lease of that name and keeps it renewed. When that does not work any more, `stop` is
    /// cancelled.
    ///
    /// # Errors
    /// [`ErrorKind::State`], transient, when another run holds it.
    pub async fn take(&self, name: &str, stop: CancellationToken) -> Result<Holding> {
        let (store, clock, run_id) = (&self.store, &self.clock, &self.run_id);
        let mut lease = Lease {
            name: name.to_owned(),
            run_id: run_id.clone(),
            length: self.length,
            holder: self.holder.clone(),
            over: Vec::new(),
        };
        // The store counts from when it is asked, or later.
        let mut asked = clock.instant();
        let mut answer = store.acquire(&lease).await?;
        // There may be several: those of the parts of a source.
        while let Acquired::Theirs(held) = &answer
            && !lease.over.contains(&held.run_id)
            && lease.holder.sees_end_of(&held.holder, &held.run_id)
        {
            lease.over.push(held.run_id.clone());
            asked = clock.instant();
            answer = store.acquire(&lease).await?;
        }
        match answer {
            Acquired::Ours { before: None } => {}
            Acquired::Ours {
                before: Some(before),
            } => tracing::warn!(
                lease = name,
                run_id,
                before = before.run_id,
                since = %before.acquired_at,
                "run `{}` did not come to its end: taking its lease over",
                before.run_id
            ),
            Acquired::Theirs(held) => return Err(lease.refused(&held, &store.describe())),
        }
        let lost = Arc::new(OnceLock::new());
        let renewing = {
            let (store, lease, lost) = (store.clone(), lease.clone(), lost.clone());
            let clock = clock.clone();
            AbortOnDropHandle::new(tokio::spawn(
                async move {
                    let error = renew(&*store, &lease, &clock, asked).await;
                    tracing::error!(
                        lease = lease.name,
                        run_id = lease.run_id,
                        "{}",
                        error.chain()
                    );
                    let _ = lost.set(Lost {
                        message: error.chain(),
                        hint: error.find_hint().map(str::to_owned),
                    });
                    stop.cancel();
                }
                .in_current_span(),
            ))
        };
        Ok(Holding {
            store: store.clone(),
            lease,
            lost,
            renewing,
        })
    }

    /// The same, waiting for up to `patience` while another run holds it.
    ///
    /// # Errors
    /// As [`Self::take`]'s, and [`ErrorKind::Interrupted`] when `stop` is cancelled meanwhile.
    pub async fn wait_for(
        &self,
        name: &str,
        patience: Duration,
        stop: &CancellationToken,
    ) -> Result<Holding> {
        let nothing = || std::future::ready(Ok(None::<Infallible>)).boxed();
        match self.wait_unless(name, patience, stop, nothing).await? {
            Waited::Held(held) => Ok(held),
            Waited::Needless(never) => match never {},
        }
    }

    /// The same, as long as there is need of it: until `needless` has an answer, which is asked for first, and
    /// after every wait.
    ///
    /// # Errors
    /// As [`Self::wait_for`]'s, and those of `needless`.
    pub async fn wait_unless<'n, T: 'n>(
        &self,
        name: &str,
        patience: Duration,
        stop: &CancellationToken,
        needless: impl Fn() -> BoxFuture<'n, Result<Option<T>>>,
    ) -> Result<Waited<T>> {
        let begun = self.clock.instant();
        let mut pause = FIRST_LOOK;
        loop {
            if let Some(answer) = needless().await? {
                return Ok(Waited::Needless(answer));
            }
            match self.take(name, stop.clone()).await {
                Ok(held) => return Ok(Waited::Held(held)),
                Err(e) if !is_busy(&e) => return Err(e),
                Err(e) => {
                    let waited = self.clock.instant() - begun;
                    if waited >= patience {
                        let waited = waited.as_secs();
                        return Err(e.context(format!("waited {waited} seconds in vain")));
                    }
                }
            }
            self.sleep(pause, stop).await?;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    /// Waits between two looks at what others hold.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`] when `stop` is cancelled meanwhile.
    pub async fn pause(&self, stop: &CancellationToken) -> Result<()> {
        self.sleep(LAST_LOOK, stop).await
    }

    async fn sleep(&self, longest: Duration, stop: &CancellationToken) -> Result<()> {
        // Tasks that came together need not look together.
        let pause = longest.mul_f64(rand::random_range(0.5..=1.0));
        tokio::select! {
            () = stop.cancelled() => Err(Error::new(
                ErrorKind::Interrupted,
                "the run was asked to stop while it waited for a lease",
            )),
            () = self.clock.sleep(pause) => Ok(()),
        }
    }

    /// How long a lease holds that nobody renews.
    pub fn length(&self) -> Duration {
        self.length
    }
}

impl Holding {
    /// Why the run was stopped, when that was because its lease was lost.
    pub fn lost(&self) -> Option<Error> {
        let lost = self.lost.get()?;
        let error = Error::new(ErrorKind::State, lost.message.clone()).transient(true);
        Some(match &lost.hint {
            Some(hint) => error.hint(hint.clone()),
            None => error,
        })
    }

    /// Lets go of it. A lease that cannot be given back ends by itself.
    pub async fn end(self) {
        drop(self.renewing);
        if let Err(error) = self.store.release(&self.lease).await {
            tracing::warn!(
                lease = self.lease.name,
                "the lease could not be given back and ends by itself: {}",
                error.chain()
            );
        }
    }
}

/// Renews three times as often as needed, until it is lost; why. `good` is when it was last asked for.
async fn renew(
    store: &dyn Destination,
    lease: &Lease,
    clock: &SharedClock,
    mut good: Instant,
) -> Error {
    let pause = lease.length / 3;
    loop {
        clock.sleep(pause).await;
        let begun = clock.instant();
        // Even one that is late may come in time: what counts is whether somebody else has it.
        let late = lease.length.saturating_sub(begun - good).max(pause);
        let problem = tokio::select! {
            renewed = store.renew(lease) => match renewed {
                Ok(()) => {
                    good = begun;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::State => return error,
                Err(error) => error,
            },
            () = clock.sleep(late) => Error::new(
                ErrorKind::Unavailable,
                format!("{} did not answer in time", store.describe()),
            ),
        };
        if clock.instant() - good >= lease.length {
            return problem.context(format!(
                "the lease of `{}` could not be renewed, so run `{}` stops",
                lease.name, lease.run_id
            ))
            .hint("the next run goes on from what is published; where this happens again, look at the destination, or make `DRAWOFF_LEASE` longer");
        }
        tracing::warn!(
            lease = lease.name,
            "the lease could not be renewed yet: {}",
            problem.chain()
        );
    }
}
