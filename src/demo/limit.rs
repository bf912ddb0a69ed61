//! The rate limit: so many requests in each whole second of the clock, counted over all endpoints.

use std::sync::{Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::{Demo, RATE_LIMIT, problem};

/// The second at hand and how many requests it has seen.
#[derive(Default)]
pub struct Limit(Mutex<(i64, u32)>);

impl Limit {
    /// Counts a request: how many more this second may hold, or `None` when it is one too many.
    fn take(&self, second: i64) -> Option<u32> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.0 != second {
            *window = (second, 0);
        }
        window.1 = window.1.saturating_add(1);
        RATE_LIMIT.checked_sub(window.1)
    }
}

/// Answers 429 past the limit; tells every answer how much is left.
pub async fn enforce(State(demo): State<Demo>, request: Request, next: Next) -> Response {
    let second = demo.clock.now().as_second();
    let left = demo.limit.take(second);
    let mut response = match left {
        Some(_) => next.run(request).await,
        None => {
            let message = format!("more than {RATE_LIMIT} requests in one second");
            let mut refusal = problem(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message);
            refusal
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            refusal
        }
    };
    let headers = response.headers_mut();
    headers.insert("x-ratelimit-limit", RATE_LIMIT.into());
    headers.insert("x-ratelimit-remaining", left.unwrap_or(0).into());
    headers.insert("x-ratelimit-reset", (second + 1).into());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_starts_afresh() {
        let limit = Limit::default();
        for n in 1..=RATE_LIMIT {
            assert_eq!(limit.take(10), Some(RATE_LIMIT - n));
        }
        assert_eq!(limit.take(10), None);
        assert_eq!(limit.take(10), None);
        assert_eq!(limit.take(11), Some(RATE_LIMIT - 1));
    }
}
