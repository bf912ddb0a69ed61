//! A clock for which waiting takes next to no time.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use drawoff::clock::{Clock, SystemClock};
use jiff::Timestamp;

/// Sleeps are a hundredth as long, and count in full or more.
pub struct HastyClock {
    ahead: Mutex<Duration>,
    times: u32,
}

impl HastyClock {
    /// A clock that is right so far.
    pub fn new() -> Arc<Self> {
        Self::times(1)
    }

    /// One on which a sleep is so many times as long as asked for.
    pub fn times(times: u32) -> Arc<Self> {
        Arc::new(Self {
            ahead: Mutex::default(),
            times,
        })
    }

    fn ahead(&self) -> Duration {
        *self.ahead.lock().unwrap()
    }
}

#[async_trait]
impl Clock for HastyClock {
    fn now(&self) -> Timestamp {
        SystemClock.now() + self.ahead()
    }

    fn instant(&self) -> Instant {
        SystemClock.instant() + self.ahead()
    }

    async fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration / 100).await;
        *self.ahead.lock().unwrap() += duration * self.times;
    }
}
