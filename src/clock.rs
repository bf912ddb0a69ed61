//! Time, as something that can be handed in: the wall clock for stamps, the monotonic one for
//! deadlines, and the only place that sleeps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;

/// The time and the way to wait.
#[async_trait]
pub trait Clock: Send + Sync {
    /// Wall-clock time, for stamps and for servers' dates.
    fn now(&self) -> Timestamp;
    /// Monotonic time, for deadlines and token lifetimes.
    fn instant(&self) -> Instant;
    /// Returns after `duration`, never before.
    async fn sleep(&self, duration: Duration);
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl SystemClock {
    /// A shared handle to the machine's clock.
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }

    #[allow(clippy::disallowed_methods)]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
