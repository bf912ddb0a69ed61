//! Calls to Google's REST surfaces, with the one retry ring around them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;
use url::Url;

use super::read::{ReadError, read};
use super::{Endpoint, Failure, Google, Next};
use crate::http::retry_after;

/// Largest answer that is read; a page of query results is at most 20 MB (BigQuery's quota page, 2026-08).
const LARGEST_ANSWER: usize = 64 << 20;

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

/// One call. It may be sent twice without harm, unless its policy has one attempt.
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
    pub body: Option<Bytes>,
    /// The `ETag` that the thing must still have.
    pub if_match: Option<&'a str>,
    /// How patiently.
    pub retry: RetryPolicy,
}

/// One exchange with a service, once.
pub(crate) struct Exchange<'a> {
    /// What it does, as [`Call::what`].
    pub what: &'a str,
    /// Method.
    pub method: Method,
    /// Service; says whether credentials go along.
    pub endpoint: &'a Endpoint,
    /// Where to.
    pub url: &'a Url,
    /// Headers beside the credentials.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// From connecting to the last byte.
    pub timeout: Duration,
}

/// A whole answer, whatever its status.
pub(crate) struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// How long the service asked to wait.
    pub retry_after: Option<Duration>,
}

impl Answer {
    /// The answer as a failure of `what`.
    pub fn failure(&self, what: &str) -> Failure {
        let mut failure = Failure::from_answer(what, self.status, &self.body);
        failure.retry_after = self.retry_after;
        failure
    }

    /// The body; `Null` where there is none.
    pub fn json(&self, what: &str, endpoint: &Endpoint) -> Result<Value, Failure> {
        if self.body.is_empty() || self.status == 204 {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).map_err(|_| {
            // A page of a proxy or a cut body under status 200: not the API's answer, so ask again.
            let status = self.status;
            Failure::from_transport(
                what,
                format!("`{endpoint}` answered {status} with something that is no JSON"),
            )
        })
    }
}

/// The retry ring: after each failure of one call, whether it is made again, and when.
pub(crate) struct Ring<'a> {
    google: &'a Google,
    what: &'a str,
    endpoint: &'a Endpoint,
    retry: RetryPolicy,
    failures: u32,
    renewed: bool,
    /// When the attempt at hand began.
    asked: Instant,
}

impl Ring<'_> {
    /// Returns when it is time for another attempt.
    ///
    /// # Errors
    /// The failure, where another attempt is of no use or there were enough.
    pub async fn again(&mut self, failure: Failure) -> Result<(), Failure> {
        // A token may be revoked or expire on the way; a new one decides, once.
        if failure.status == Some(401) && !self.renewed && self.endpoint.takes_credentials() {
            self.renewed = true;
            self.google.renew_credentials(self.asked).await;
            self.asked = self.google.clock().instant();
            return Ok(());
        }
        self.failures += 1;
        if failure.next() != Next::Repeat || self.failures >= self.retry.attempts {
            return Err(failure);
        }
        let delay = failure.wait(&self.retry, self.failures);
        let delay_ms = delay.as_millis() as u64;
        let (status, reason) = (failure.status, failure.reason.as_str());
        // Who watches a run that stands still should know why.
        match self.failures {
            ..3 => tracing::debug!(
                what = self.what,
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
                self.what
            ),
        }
        self.google.clock().sleep(delay).await;
        self.asked = self.google.clock().instant();
        Ok(())
    }
}

impl Google {
    /// Makes the call, again where it failed in a way that may pass. An empty answer is `Null`.
    ///
    /// # Errors
    /// The last [`Failure`].
    pub async fn call(&self, call: Call<'_>) -> Result<Value, Failure> {
        let url = call.endpoint.url(call.path, call.query);
        let mut ring = self.ring(&call.what, call.endpoint, call.retry);
        loop {
            match self.attempt(&call, &url).await {
                Ok(value) => return Ok(value),
                Err(failure) => ring.again(failure).await?,
            }
        }
    }

    /// A ring for one call that is made with [`Self::exchange`].
    pub(crate) fn ring<'a>(
        &'a self,
        what: &'a str,
        endpoint: &'a Endpoint,
        retry: RetryPolicy,
    ) -> Ring<'a> {
        Ring {
            google: self,
            what,
            endpoint,
            retry,
            failures: 0,
            renewed: false,
            asked: self.clock().instant(),
        }
    }

    async fn attempt(&self, call: &Call<'_>, url: &Url) -> Result<Value, Failure> {
        let mut headers = HeaderMap::new();
        if let Some(etag) = call.if_match
            && let Ok(etag) = HeaderValue::from_str(etag)
        {
            headers.insert(http::header::IF_MATCH, etag);
        }
        let mut body = Bytes::new();
        if let Some(json) = &call.body {
            headers.insert(
                http::header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            );
            body = json.clone();
        }
        let answer = self
            .exchange(Exchange {
                what: &call.what,
                method: call.method.clone(),
                endpoint: call.endpoint,
                url,
                headers,
                body,
                timeout: call.retry.attempt_timeout,
            })
            .await?;
        match answer.status {
            200..300 => answer.json(&call.what, call.endpoint),
            _ => Err(answer.failure(&call.what)),
        }
    }

    /// Sends a request with credentials, once, and reads the whole answer.
    ///
    /// # Errors
    /// A [`Failure`] without a status, where no whole answer came.
    pub(crate) async fn exchange(&self, exchange: Exchange<'_>) -> Result<Answer, Failure> {
        let Exchange { what, endpoint, .. } = exchange;
        let credentials = self
            .headers(endpoint)
            .await
            .map_err(|e| Failure::from_error(what, e))?;
        let mut request = self
            .http(endpoint)
            .request(exchange.method, exchange.url.clone())
            .headers(credentials)
            .headers(exchange.headers)
            .timeout(exchange.timeout);
        if !exchange.body.is_empty() {
            request = request.body(exchange.body);
        }
        let transport = |e: reqwest::Error| Failure::from_transport(what, transport(endpoint, &e));
        let mut answer = request.send().await.map_err(transport)?;
        let status = answer.status().as_u16();
        let headers = answer.headers().clone();
        let body = match read(&mut answer, LARGEST_ANSWER).await {
            Ok(body) => body,
            Err(ReadError::Transport(e)) => return Err(transport(e)),
            Err(ReadError::TooLarge) => {
                return Err(Failure {
                    status: Some(status),
                    reason: "responseTooLarge".into(),
                    ..Failure::from_transport(
                        what,
                        format!("the answer is larger than {} MiB", LARGEST_ANSWER >> 20),
                    )
                });
            }
        };
        Ok(Answer {
            status,
            retry_after: retry_after(&headers, self.clock().now()),
            headers,
            body,
        })
    }
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
