//! Clocks: one that can be put forward, one without patience, and one on which waits are only noted.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use drawoff::clock::{Clock, SystemClock};
use jiff::Timestamp;

/// The machine's clock, ahead of it by as much as a test says. Sleeps are real.
#[derive(Default)]
pub struct AheadClock(Mutex<Duration>);

impl AheadClock {
    /// A clock that is right.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Puts it forward.
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }

    fn ahead(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

#[async_trait]
impl Clock for AheadClock {
    fn now(&self) -> Timestamp {
        SystemClock.now() + self.ahead()
    }

    fn instant(&self) -> Instant {
        SystemClock.instant() + self.ahead()
    }

    async fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration).await;
    }
}

/// The machine's clock, on which nobody sleeps for long: for what only waits before it tries again.
pub struct ImpatientClock;

#[async_trait]
impl Clock for ImpatientClock {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn instant(&self) -> Instant {
        SystemClock.instant()
    }

    async fn sleep(&self, duration: Duration) {
        SystemClock
            .sleep(duration.min(Duration::from_millis(50)))
            .await;
    }
}

/// The machine's clock, on which nobody sleeps: waits are remembered instead.
#[derive(Default)]
pub struct NotingClock(Mutex<Vec<Duration>>);

impl NotingClock {
    /// One that was not waited on yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The waits so far.
    pub fn waits(&self) -> Vec<Duration> {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl Clock for NotingClock {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn instant(&self) -> Instant {
        SystemClock.instant()
    }

    async fn sleep(&self, duration: Duration) {
        self.0.lock().unwrap().push(duration);
    }
}
