//! Keeps a source's requests within its limits: the declared rates, the number on the wire, and the
//! pauses that the API asks for. One for all streams of a source, because the API counts them
//! together.
//!
//! `governor` spreads requests out (burst and pace). Alone it lets almost twice the limit through in
//! the first period, so a log of the last requests holds each limit exactly, in any span.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::Clock as GovernorClock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{CallContext, RateLimit};
use crate::clock::SharedClock;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Meter;

/// Added to each declared period, at most this, because requests take unequal times to arrive.
const MOST_SLACK: Duration = Duration::from_millis(50);

type Pacer = RateLimiter<NotKeyed, InMemoryState, Time, NoOpMiddleware<Instant>>;

/// The gate that every request of a source passes.
pub(super) struct Gate {
    clock: SharedClock,
    permits: Semaphore,
    pacers: Vec<Pacer>,
    /// Held by the one request that is next; the others queue in order.
    next: tokio::sync::Mutex<Vec<Window>>,
    /// Before this it is the turn of others who share the limits.
    turn: Instant,
    paused_until: Mutex<Option<Instant>>,
}

/// The requests of the last period.
struct Window {
    limit: usize,
    per: Duration,
    sent: VecDeque<Instant>,
}

impl Gate {
    /// # Errors
    /// [`ErrorKind::Config`]: a rate without a period.
    pub fn new(clock: SharedClock, limits: &[RateLimit], concurrency: usize) -> Result<Self> {
        let mut pacers = Vec::new();
        let mut windows = Vec::new();
        for limit in limits {
            let one = limit.per / limit.requests.get();
            let quota = Quota::with_period(one)
                .ok_or_else(|| {
                    Error::config("a rate limit has no period")
                        .hint("write `per: 1m` or another time longer than zero")
                })?
                .allow_burst(limit.burst.unwrap_or(limit.requests));
            pacers.push(RateLimiter::direct_with_clock(quota, Time(clock.clone())));
            windows.push(Window {
                limit: usize::try_from(limit.requests.get()).unwrap_or(usize::MAX),
                per: limit.per + (limit.per / 50).min(MOST_SLACK),
                sent: VecDeque::new(),
            });
        }
        let turn = limits.iter().map(|l| l.turn).max().unwrap_or_default();
        let start = clock.instant();
        Ok(Self {
            clock,
            turn: start.checked_add(turn).unwrap_or(start),
            permits: Semaphore::new(concurrency.clamp(1, Semaphore::MAX_PERMITS)),
            pacers,
            next: tokio::sync::Mutex::new(windows),
            paused_until: Mutex::new(None),
        })
    }

    /// Waits until a request may be sent, and counts it. It is on the wire until the permit is
    /// dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`] when the run is asked to stop; [`ErrorKind::RateLimited`], at once,
    /// when the wait would go past the deadline.
    pub async fn admit(&self, api: &str, context: &CallContext) -> Result<SemaphorePermit<'_>> {
        if context.cancel.is_cancelled() {
            return Err(interrupted());
        }
        self.check_pause(api, context)?;
        let permit = self
            .within(context, self.permits.acquire())
            .await?
            .map_err(|_| Error::new(ErrorKind::Bug, "the gate of a source was closed"))?;
        let mut windows = self.within(context, self.next.lock()).await?;
        if self.clock.instant() < self.turn {
            self.wait_until(self.turn, context, || own_limit(api))
                .await?;
        }
        for pacer in &self.pacers {
            while let Err(not_until) = pacer.check() {
                self.wait_until(not_until.earliest_possible(), context, || own_limit(api))
                    .await?;
            }
        }
        loop {
            let now = self.clock.instant();
            let room = windows.iter_mut().filter_map(|w| w.room_at(now)).max();
            if let Some(room) = room {
                self.wait_until(room, context, || own_limit(api)).await?;
            } else if let Some(resumed) = self.paused_until(now) {
                self.wait_until(resumed, context, || asked(api, resumed - now))
                    .await?;
            } else {
                for window in windows.iter_mut() {
                    window.sent.push_back(now);
                }
                return Ok(permit);
            }
        }
    }

    /// The API asked for no requests for this long.
    pub fn pause(&self, wait: Duration) {
        let Some(until) = self.clock.instant().checked_add(wait) else {
            return;
        };
        let mut paused = self
            .paused_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *paused = (*paused).max(Some(until));
    }

    /// Fails at once when the API's pause outlasts the deadline.
    pub fn check_pause(&self, api: &str, context: &CallContext) -> Result<()> {
        let now = self.clock.instant();
        match (self.paused_until(now), context.deadline) {
            (Some(until), Some(deadline)) if until > deadline => Err(asked(api, until - now)),
            _ => Ok(()),
        }
    }

    /// Waits before another attempt. `false`, at once, when the deadline would pass.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`].
    pub async fn back_off(&self, wait: Duration, context: &CallContext) -> Result<bool> {
        let until = self.clock.instant() + wait;
        if context.deadline.is_some_and(|d| until >= d) {
            return Ok(false);
        }
        self.sleep_until(until, context).await?;
        Ok(true)
    }

    fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .filter(|until| *until > now)
    }

    /// A wait for the rate limit, shown as such.
    async fn wait_until(
        &self,
        until: Instant,
        context: &CallContext,
        too_long: impl FnOnce() -> Error,
    ) -> Result<()> {
        if context.deadline.is_some_and(|d| until > d) {
            return Err(too_long());
        }
        let _shown = Waiting::show(&context.meter);
        let begun = self.clock.instant();
        let waited = self.sleep_until(until, context).await;
        let took = self.clock.instant().saturating_duration_since(begun);
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Meter::add(&context.meter.waited, took);
        waited
    }

    async fn sleep_until(&self, until: Instant, context: &CallContext) -> Result<()> {
        let wait = until.saturating_duration_since(self.clock.instant());
        tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(interrupted()),
            () = self.clock.sleep(wait) => Ok(()),
        }
    }

    /// `queue`, unless the run stops or its time is over first.
    async fn within<T>(&self, context: &CallContext, queue: impl Future<Output = T>) -> Result<T> {
        let deadline = async {
            match context.deadline {
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(self.clock.instant());
                    self.clock.sleep(left).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = context.cancel.cancelled() => Err(interrupted()),
            out = queue => Ok(out),
            () = deadline => Err(Error::new(
                ErrorKind::RateLimited,
                "the run's time was over before a request could be sent",
            )
            .hint("run again: it goes on from what was published")),
        }
    }
}

impl Window {
    /// When the next request fits, if not now.
    fn room_at(&mut self, now: Instant) -> Option<Instant> {
        while self.sent.front().is_some_and(|s| *s + self.per <= now) {
            self.sent.pop_front();
        }
        // Only full windows have anything to wait for; the oldest leaves first.
        (self.sent.len() >= self.limit)
            .then(|| self.sent.front().map(|s| *s + self.per))
            .flatten()
    }
}

/// Shows the wait for as long as it lives.
struct Waiting<'a>(&'a Meter);

impl<'a> Waiting<'a> {
    fn show(meter: &'a Meter) -> Self {
        meter.waiting.store(true, Relaxed);
        Self(meter)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.store(false, Relaxed);
    }
}

/// Our clock as `governor` wants it.
#[derive(Clone)]
struct Time(SharedClock);

impl GovernorClock for Time {
    type Instant = Instant;

    fn now(&self) -> Instant {
        self.0.instant()
    }
}

/// The error of a call that was asked to stop.
pub(super) fn interrupted() -> Error {
    Error::new(
        ErrorKind::Interrupted,
        "the run was asked to stop while it waited to send a request",
    )
}

fn asked(api: &str, wait: Duration) -> Error {
    Error::new(
        ErrorKind::RateLimited,
        format!(
            "`{api}` asks to wait {} before the next request, longer than this run may take",
            seconds(wait)
        ),
    )
    .hint("run again after that; everything published so far is kept")
}

fn own_limit(api: &str) -> Error {
    Error::new(
        ErrorKind::RateLimited,
        format!("the rate limit set for `{api}` leaves no time for another request in this run"),
    )
    .hint("run again: it goes on from what was published")
}

/// `90 s`, rounded up.
pub(super) fn seconds(wait: Duration) -> String {
    format!("{} s", wait.as_millis().div_ceil(1000))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use async_trait::async_trait;
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Clock;

    /// Time that passes only by sleeping.
    struct Still(Instant, Mutex<Duration>);

    impl Still {
        fn shared() -> Arc<Self> {
            Arc::new(Self(Instant::now(), Mutex::default()))
        }
    }

    #[async_trait]
    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
        fn instant(&self) -> Instant {
            self.0 + *self.1.lock().unwrap()
        }
        async fn sleep(&self, duration: Duration) {
            *self.1.lock().unwrap() += duration;
        }
    }

    fn context() -> CallContext {
        CallContext {
            deadline: None,
            cancel: Default::default(),
            meter: Default::default(),
        }
    }

    fn limit(requests: u32, per: Duration, burst: Option<u32>) -> RateLimit {
        RateLimit {
            requests: NonZeroU32::new(requests).unwrap(),
            per,
            burst: burst.and_then(NonZeroU32::new),
            turn: Duration::ZERO,
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    /// When each of `n` requests goes out.
    async fn times(limits: &[RateLimit], n: usize) -> Vec<Instant> {
        let clock = Still::shared();
        let gate = Gate::new(clock.clone(), limits, 4).unwrap();
        let mut times = Vec::new();
        for _ in 0..n {
            drop(gate.admit("api", &context()).await.unwrap());
            times.push(clock.instant());
        }
        times
    }

    proptest! {
        #[test]
        fn no_span_ever_holds_more_than_any_limit(
            limits in prop::collection::vec(
                (1u32..20, 1u64..90, prop::option::of(1u32..20)), 1..4),
            n in 1usize..80,
        ) {
            let limits: Vec<RateLimit> = limits
                .into_iter()
                .map(|(r, s, b)| limit(r, Duration::from_secs(s), b))
                .collect();
            let times = block_on(times(&limits, n));
            for limit in limits {
                let count = limit.requests.get() as usize;
                for span in times.windows(count + 1) {
                    prop_assert!(span[count] - span[0] >= limit.per);
                }
            }
        }
    }

    #[tokio::test]
    async fn the_limit_is_used_and_the_burst_bounds_what_goes_at_once() {
        let minute = Duration::from_secs(60);
        let t = times(&[limit(60, minute, Some(5))], 61).await;
        assert_eq!(t[4], t[0], "five at once");
        assert!(
            t[5] - t[0] >= Duration::from_millis(900),
            "then a second each"
        );
        assert!(t[60] - t[0] <= Duration::from_secs(61));
    }

    #[tokio::test]
    async fn a_pause_past_the_deadline_fails_at_once_and_says_how_long() {
        let clock = Still::shared();
        let gate = Gate::new(clock.clone(), &[], 1).unwrap();
        gate.pause(Duration::from_secs(7200));
        gate.pause(Duration::from_secs(1));
        let short = CallContext {
            deadline: Some(clock.instant() + Duration::from_secs(600)),
            ..context()
        };
        let e = gate.admit("api.test", &short).await.unwrap_err();
        assert_eq!((e.kind(), e.exit_code()), (ErrorKind::RateLimited, 75));
        assert!(e.to_string().contains("7200 s"), "{e}");
        assert_eq!(*clock.1.lock().unwrap(), Duration::ZERO);

        drop(gate.admit("api.test", &context()).await.unwrap());
        assert_eq!(*clock.1.lock().unwrap(), Duration::from_secs(7200));
    }
}
