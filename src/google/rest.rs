//! JSON calls to Google's REST surfaces, with the one retry ring around them.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;
use url::Url;

use super::{Endpoint, Failure, Google};

/// Largest answer that is read; a page of query results is at most 20 MB (BigQuery's quota page, 2026-08).
const LARGEST_ANSWER: usize = 64 << 20;

/// Longest wait that a service's `Retry-After` is obeyed for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(120);

/// How often and how patiently a call is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, at least one.
    pub attempts: u32,
    /// Wait after the first failure; doubles each time, and is cut by up to half at random.
    pub first_delay: Duration,
    /// Longest wait.
    pub longest_delay: Duration,
    /// Time for one attempt, from connecting to the last byte.
    pub attempt_timeout: Duration,
}

impl RetryPolicy {
    /// For BigQuery's REST surface: about a minute in all.
    pub const BIGQUERY: Self = Self {
        attempts: 7,
        first_delay: Duration::from_secs(1),
        longest_delay: Duration::from_secs(32),
        attempt_timeout: Duration::from_secs(90),
    };

    /// For access to secrets, as Secret Manager's service configuration says.
    pub const SECRETS: Self = Self {
        attempts: 5,
        first_delay: Duration::from_secs(2),
        longest_delay: Duration::from_secs(60),
        attempt_timeout: Duration::from_secs(60),
    };

    /// The wait after the `failures`-th failure (from 1).
    pub(crate) fn delay(&self, failures: u32) -> Duration {
        let full = self
            .first_delay
            .saturating_mul(1 << failures.saturating_sub(1).min(16))
            .min(self.longest_delay);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// One call. Every call of this program may be sent twice without harm.
pub struct Call<'a> {
    /// What it does, on what, after "could not": `read dataset \`p.d\``.
    pub what: String,
    /// Method.
    pub method: Method,
    /// Service.
    pub endpoint: &'a Endpoint,
    /// Path below the service's root, a segment each.
    pub path: &'a [&'a str],
    /// Query.
    pub query: &'a [(&'a str, &'a str)],
    /// JSON body.
    pub body: Option<&'a Value>,
    /// The `ETag` that the thing must still have.
    pub if_match: Option<&'a str>,
    /// How patiently.
    pub retry: RetryPolicy,
}

impl Google {
    /// Makes the call, again where it failed in a way that may pass. An empty answer is `Null`.
    ///
    /// # Errors
    /// The last [`Failure`].
    pub async fn call(&self, call: Call<'_>) -> Result<Value, Failure> {
        let url = call.endpoint.url(call.path, call.query);
        let mut failures = 0;
        let mut renewed = false;
        loop {
            let failure = match self.attempt(&call, &url).await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            // A token may be revoked or expire on the way; a new one decides, once.
            if failure.status == Some(401) && !renewed && call.endpoint.takes_credentials() {
                renewed = true;
                self.renew_credentials().await;
                continue;
            }
            failures += 1;
            if !failure.is_transient() || failures >= call.retry.attempts {
                return Err(failure);
            }
            let delay = failure
                .retry_after
                .map(|d| d.min(LONGEST_RETRY_AFTER))
                .unwrap_or_else(|| call.retry.delay(failures));
            let delay_ms = delay.as_millis() as u64;
            let (status, reason) = (failure.status, failure.reason.as_str());
            // Who watches a run that stands still should know why.
            match failures {
                ..3 => tracing::debug!(
                    what = call.what,
                    status,
                    reason,
                    delay_ms,
                    "a call failed and will be repeated"
                ),
                n => tracing::warn!(
                    status,
                    reason,
                    delay_ms,
                    "could not {} {n} times in a row; trying again",
                    call.what
                ),
            }
            self.clock().sleep(delay).await;
        }
    }

    async fn attempt(&self, call: &Call<'_>, url: &Url) -> Result<Value, Failure> {
        let headers = self
            .headers(call.endpoint)
            .await
            .map_err(|e| Failure::from_error(&call.what, e))?;
        let mut request = self
            .http(call.endpoint)
            .request(call.method.clone(), url.clone())
            .headers(headers)
            .timeout(call.retry.attempt_timeout);
        if let Some(etag) = call.if_match {
            request = request.header(http::header::IF_MATCH, etag);
        }
        if let Some(body) = call.body {
            request = request
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(body.to_string());
        }
        let transport =
            |e: reqwest::Error| Failure::from_transport(&call.what, transport(call.endpoint, &e));
        let mut answer = request.send().await.map_err(transport)?;
        let status = answer.status();
        let retry_after = retry_after(answer.headers());
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(transport)? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(Failure {
                    status: Some(status.as_u16()),
                    reason: "responseTooLarge".into(),
                    ..Failure::from_transport(
                        &call.what,
                        format!("the answer is larger than {} MiB", LARGEST_ANSWER >> 20),
                    )
                });
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let mut failure = Failure::from_answer(&call.what, status.as_u16(), &body);
            failure.retry_after = retry_after;
            return Err(failure);
        }
        if body.is_empty() || status == StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|_| {
            // A page of a proxy or a cut body under status 200: not the API's answer, so ask again.
            Failure::from_transport(
                &call.what,
                format!(
                    "`{}` answered {status} with something that is no JSON",
                    call.endpoint
                ),
            )
        })
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// What went wrong on the way, without the URL, which may hold a query.
fn transport(endpoint: &Endpoint, error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "did not answer in time"
    } else if error.is_connect() {
        "could not be reached"
    } else {
        "cut the connection"
    };
    let mut cause = std::error::Error::source(error);
    let mut deepest = None;
    while let Some(inner) = cause {
        deepest = Some(inner.to_string());
        cause = inner.source();
    }
    match deepest {
        Some(deepest) => format!("`{endpoint}` {what} ({deepest})"),
        None => format!("`{endpoint}` {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_are_bounded() {
        let policy = RetryPolicy::SECRETS;
        for failures in 1..40 {
            let full = (2f64 * 2f64.powi(failures - 1)).min(60.0);
            let delay = policy.delay(failures as u32).as_secs_f64();
            assert!(
                delay <= full && delay >= full / 2.0 - 1e-6,
                "{failures}: {delay}"
            );
        }
    }
}
