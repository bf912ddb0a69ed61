//! A wall clock that stands still until it is moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use drawoff::clock::{Clock, SystemClock};
use jiff::Timestamp;

/// Shows the second it was set to. Sleeping and the monotonic clock stay real.
pub struct FrozenClock(AtomicI64);

impl FrozenClock {
    /// Stands at `second` after 1970.
    pub fn at(second: i64) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(second)))
    }

    /// Moves on.
    pub fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, SeqCst);
    }
}

#[async_trait]
impl Clock for FrozenClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(SeqCst)).unwrap()
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }

    async fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration).await;
    }
}
