//! When to send again: how often, how long to wait in between, when to stop.

use std::time::{Duration, Instant};

/// Bounds of the retry ring. Waits that a server asks for do not count against `max_elapsed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most times one request is sent because of failures, the first time included.
    pub attempts: u32,
    /// Most times one request is sent because of "too many requests", the first time included.
    pub throttled_attempts: u32,
    /// Upper bound of the first wait; doubles each time.
    pub base: Duration,
    /// Upper bound of any wait.
    pub cap: Duration,
    /// No new attempt of a failing request after this long.
    pub max_elapsed: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 6,
            throttled_attempts: 30,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(30),
            max_elapsed: Duration::from_secs(600),
        }
    }
}

impl RetryPolicy {
    /// Statuses that may pass on their own.
    pub(super) const STATUSES: [u16; 7] = [408, 425, 429, 500, 502, 503, 504];

    /// Longest wait before the `n`th repetition, counted from 1.
    fn ceiling(&self, n: u32) -> Duration {
        let factor = 1u32
            .checked_shl(n.saturating_sub(1))
            .filter(|f| *f != 0)
            .unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// A wait before the `n`th repetition, anywhere below its ceiling ("full jitter"), so that
    /// clients that failed together do not come back together.
    pub(super) fn wait(&self, n: u32) -> Duration {
        self.ceiling(n).mul_f64(rand::random::<f64>())
    }
}

/// The attempts of one request.
pub(super) struct Attempts {
    policy: RetryPolicy,
    started: Instant,
    asked_to_wait: Duration,
    failures: u32,
    throttles: u32,
}

impl Attempts {
    pub fn new(policy: RetryPolicy, now: Instant) -> Self {
        Self {
            policy,
            started: now,
            asked_to_wait: Duration::ZERO,
            failures: 0,
            throttles: 0,
        }
    }

    /// After a failure: how long to wait before the next attempt. `None`: no more attempts.
    pub fn after_failure(&mut self, asked: Option<Duration>, now: Instant) -> Option<Duration> {
        self.failures += 1;
        let wait = self
            .policy
            .wait(self.failures)
            .max(asked.unwrap_or_default());
        let spent = now
            .saturating_duration_since(self.started)
            .saturating_sub(self.asked_to_wait);
        let more = self.failures < self.policy.attempts
            && spent.saturating_add(wait.min(self.policy.cap)) <= self.policy.max_elapsed;
        self.asked_to_wait += asked.unwrap_or_default();
        more.then_some(wait)
    }

    /// After "too many requests": how long the source pauses. `None`: no more attempts.
    pub fn after_throttle(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.throttles += 1;
        // Without a word from the server, at least half the ceiling: it did ask for fewer requests.
        let own = || {
            let ceiling = self.policy.ceiling(self.throttles.saturating_add(1));
            ceiling.mul_f64(0.5 + 0.5 * rand::random::<f64>())
        };
        let wait = asked.unwrap_or_else(own);
        self.asked_to_wait += wait;
        (self.throttles < self.policy.throttled_attempts).then_some(wait)
    }

    /// How often it was sent so far.
    pub fn sent(&self) -> u32 {
        self.failures + self.throttles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        attempts: 4,
        throttled_attempts: 3,
        base: Duration::from_secs(1),
        cap: Duration::from_secs(3),
        max_elapsed: Duration::from_secs(60),
    };

    #[test]
    fn waits_double_up_to_the_cap_and_never_overflow() {
        let ceilings: Vec<u64> = [1, 2, 3, 40, u32::MAX]
            .map(|n| POLICY.ceiling(n).as_secs())
            .into();
        assert_eq!(ceilings, [1, 2, 3, 3, 3]);
        assert!((0..1000).all(|n| POLICY.wait(n) <= POLICY.cap));
    }

    #[test]
    fn attempts_and_time_are_bounded() {
        let start = Instant::now();
        let mut a = Attempts::new(POLICY, start);
        assert!((0..3).all(|_| a.after_failure(None, start).is_some()));
        assert_eq!(a.after_failure(None, start), None);
        assert_eq!(a.sent(), 4);

        let mut a = Attempts::new(POLICY, start);
        assert_eq!(a.after_failure(None, start + Duration::from_secs(61)), None);
    }

    #[test]
    fn what_the_server_asks_for_is_kept_and_not_counted() {
        let start = Instant::now();
        let mut a = Attempts::new(POLICY, start);
        let hour = Duration::from_secs(3600);
        assert_eq!(a.after_throttle(Some(hour)), Some(hour));
        assert_eq!(a.after_failure(Some(hour), start + hour), Some(hour));
        assert!(a.after_throttle(None).is_some_and(|w| w >= POLICY.base));
        assert_eq!(a.after_throttle(Some(hour)), None);
    }
}
