//! The client: one a source, shared by its streams. It guards, admits, signs, sends, follows, reads,
//! and holds the only retry ring towards third parties.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, TRANSFER_ENCODING};
use http::{HeaderValue, StatusCode, Version};
use tracing::Instrument as _;
use url::Url;

use super::body::{self, BodyError};
use super::classify::{self, Verdict, what};
use super::connect::build;
use super::failure::{Failure, given_up, not_answered, root_cause, throttled};
use super::network;
use super::origin::origin;
use super::rate::Gate;
use super::redirect::redirected;
use super::retry::Attempts;
use super::{CallContext, HttpOptions, Request, Response, Sign};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::span::Exchange;
use crate::telemetry::{Meter, redact};

/// From so many failed attempts in a row on, they are worth a warning.
const QUIET_FAILURES: u32 = 3;
/// How long after the deadline an answer is waited for.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// For a request on the wire when the run is asked to stop: the rest of the time is for the last publish.
const LAST_REQUEST: Duration = Duration::from_secs(2);

/// Sends requests to the origins of one source, within its limits.
pub struct HttpClient {
    options: HttpOptions,
    gate: Gate,
    /// For other machines; obeys `HTTPS_PROXY` and its kin.
    remote: Option<reqwest::Client>,
    /// For this machine; never by a proxy, which would see what is meant to stay here.
    local: Option<reqwest::Client>,
}

/// What came of one attempt.
enum Outcome {
    Answer(Response),
    Redirect(Url, StatusCode),
    Unauthorized,
    Throttled(StatusCode, Option<Duration>),
    Failed(Failure),
}

impl HttpClient {
    /// A client for the origins in `options`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: an unreadable certificate authority, a rate without a period, a user
    /// agent that is no header value.
    pub fn new(options: HttpOptions) -> Result<Self> {
        let local = |url: &&Url| url.host().is_some_and(|h| network::is_loopback(&h));
        let needs_local = options.origins.urls().any(|u| local(&u));
        let needs_remote = options.origins.urls().any(|u| !local(&u));
        Ok(Self {
            gate: Gate::new(
                options.clock.clone(),
                &options.rate_limits,
                options.concurrency,
            )?,
            local: needs_local.then(|| build(&options, false)).transpose()?,
            remote: needs_remote.then(|| build(&options, true)).transpose()?,
            options,
        })
    }

    /// The options it was made with.
    pub fn options(&self) -> &HttpOptions {
        &self.options
    }

    /// Sends `request`, signed anew for each attempt, until there is an answer. Waits for the rate
    /// limit, follows redirects within the origin, and repeats what may be repeated.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] before anything is sent when the URL's origin is not allowed, or when
    /// the API refuses; [`ErrorKind::Auth`] for 401 and 403; [`ErrorKind::RateLimited`] when the API
    /// asks to wait past the deadline; [`ErrorKind::Unavailable`] when the attempts are used up;
    /// [`ErrorKind::Decode`] for a body over the limit; [`ErrorKind::Interrupted`] when asked to stop.
    pub async fn send(
        &self,
        request: Request,
        signer: &dyn Sign,
        context: &CallContext,
    ) -> Result<Response> {
        let clock = &self.options.clock;
        let started = clock.instant();
        let mut attempts = Attempts::new(self.options.retry, started);
        let mut replayed = false;
        let mut redirects = 0;
        let mut request = request;
        loop {
            self.guard(&request, signer)?;
            let api = origin(&request.url);
            let permit = self.gate.admit(&api, context).await?;
            let mut signed = request.clone();
            signer.sign(&mut signed, context).await?;
            self.guard(&signed, signer)?;
            let outcome = tokio::select! {
                outcome = self.traced(&signed, &request.url, signer, context) => outcome,
                () = self.out_of_time(context) => Err(Error::new(
                    ErrorKind::Interrupted,
                    format!("{} was given up: the run was asked to stop", what(&request.method, &request.url)),
                )),
            };
            drop(permit);
            match outcome? {
                Outcome::Answer(response) => return Ok(response),
                Outcome::Redirect(to, status) => {
                    redirects += 1;
                    request = redirected(request, to, status, redirects)?;
                }
                Outcome::Unauthorized => {
                    if replayed || !signer.refused(&signed, context).await? {
                        return Err(classify::refusal(
                            &request,
                            StatusCode::UNAUTHORIZED,
                            &signer.describe(),
                        ));
                    }
                    replayed = true;
                }
                Outcome::Throttled(status, asked) => {
                    Meter::add(&context.meter.throttled, 1);
                    let wait = attempts.after_throttle(asked);
                    if let Some(wait) = wait.or(asked) {
                        self.gate.pause(wait);
                    }
                    self.gate.check_pause(&api, context)?;
                    if wait.is_none() || !request.repeatable {
                        return Err(throttled(&request, status, attempts.sent()));
                    }
                    Meter::add(&context.meter.retries, 1);
                }
                Outcome::Failed(failure) => {
                    let now = clock.instant();
                    let wait = attempts
                        .after_failure(failure.asked, now)
                        .filter(|_| request.repeatable || failure.unsent);
                    let again = match wait {
                        Some(wait) => {
                            // Who watches a run that stands still should know why.
                            match attempts.sent() {
                                ..QUIET_FAILURES => {
                                    tracing::debug!("{}, trying again", failure.error.chain())
                                }
                                n => tracing::warn!(
                                    "{}, {n} times in a row; trying again in {:.1} s",
                                    failure.error.chain(),
                                    wait.as_secs_f64()
                                ),
                            }
                            self.gate.back_off(wait, context).await?
                        }
                        None => false,
                    };
                    if !again {
                        let over = now.saturating_duration_since(started);
                        return Err(given_up(failure.error, attempts.sent(), over));
                    }
                    Meter::add(&context.meter.retries, 1);
                }
            }
        }
    }

    /// Ends some time after the run was asked to stop.
    async fn out_of_time(&self, context: &CallContext) {
        context.cancel.cancelled().await;
        self.options.clock.sleep(LAST_REQUEST).await;
    }

    /// Refuses a request that must not leave: to an origin that is not allowed, or with credentials
    /// over plain http to another machine.
    fn guard(&self, request: &Request, signer: &dyn Sign) -> Result<()> {
        self.options.origins.check(&request.url)?;
        let Some(host) = request.url.host() else {
            return Err(Error::new(ErrorKind::Rejected, "a URL without a host"));
        };
        network::check_host(&host)?;
        if request.url.scheme() == "http"
            && !network::is_loopback(&host)
            && (signer.sends_credentials() || holds_secret(request))
        {
            return Err(Error::config(format!(
                "refused to send credentials over plain http to `{}`",
                origin(&request.url)
            ))
            .hint("write `https://`; plain http is only for this machine"));
        }
        Ok(())
    }

    /// One attempt, as a span of its own.
    async fn traced(
        &self,
        signed: &Request,
        url: &Url,
        signer: &dyn Sign,
        context: &CallContext,
    ) -> Result<Outcome> {
        let exchange = Exchange::begin(&signed.method, &signed.url);
        self.attempt(signed, url, signer, context, &exchange)
            .instrument(exchange.span())
            .await
    }

    /// One attempt: what came back, or an error that ends the call.
    async fn attempt(
        &self,
        signed: &Request,
        url: &Url,
        signer: &dyn Sign,
        context: &CallContext,
        exchange: &Exchange,
    ) -> Result<Outcome> {
        let mut answer = match self.exchange(signed, context).await? {
            Ok(answer) => answer,
            Err(failure) => return Ok(Outcome::Failed(failure)),
        };
        let status = answer.status();
        exchange.answered(status);
        let now = self.options.clock.now();
        let (verdict, pause) = classify::verdict(signed, status, answer.headers(), now);
        if let Some(pause) = pause {
            self.gate.pause(pause);
        }
        if verdict == Verdict::Answer {
            return self.read(signed, answer, url, context).await;
        }
        let location = answer.headers().get(LOCATION).cloned();
        body::drain(&mut answer).await;
        let refusal = || classify::refusal(signed, status, &signer.describe());
        let failed = |asked| {
            Outcome::Failed(Failure {
                error: refusal(),
                unsent: false,
                asked,
            })
        };
        match verdict {
            Verdict::Unauthorized => Ok(Outcome::Unauthorized),
            Verdict::Throttled(asked) => Ok(Outcome::Throttled(status, asked)),
            Verdict::Retry(asked) => Ok(failed(asked)),
            Verdict::Redirect => {
                let to = location
                    .and_then(|l| url.join(l.to_str().ok()?).ok())
                    .ok_or_else(refusal)?;
                Ok(Outcome::Redirect(to, status))
            }
            Verdict::Refused | Verdict::Answer => Err(refusal()),
        }
    }

    /// Sends and waits for the head of the answer.
    async fn exchange(
        &self,
        signed: &Request,
        context: &CallContext,
    ) -> Result<Result<reqwest::Response, Failure>> {
        let here = signed.url.host().is_some_and(|h| network::is_loopback(&h));
        let client = if here { &self.local } else { &self.remote };
        let client = client
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Bug, "an allowed origin has no client"))?;
        let mut timeout = self.options.timeout;
        if let Some(deadline) = context.deadline {
            // The page on the wire at the deadline may still come in.
            let left = deadline.saturating_duration_since(self.options.clock.instant());
            timeout = timeout.min(left + LAST_ANSWER);
        }
        let mut wire = reqwest::Request::new(signed.method.clone(), signed.url.clone());
        *wire.headers_mut() = signed.headers.clone();
        *wire.timeout_mut() = Some(timeout);
        if let Some(body) = &signed.body {
            *wire.body_mut() = Some(body.clone().into());
            wire.headers_mut()
                .entry(CONTENT_TYPE)
                .or_insert(HeaderValue::from_static("application/json"));
        }
        Meter::add(&context.meter.requests, 1);
        match client.execute(wire).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(e) => not_answered(&self.options, signed, timeout, &e).map(Err),
        }
    }

    /// Reads an answer's body whole.
    async fn read(
        &self,
        signed: &Request,
        mut answer: reqwest::Response,
        url: &Url,
        context: &CallContext,
    ) -> Result<Outcome> {
        let what = what(&signed.method, &signed.url);
        let failed = |error| {
            Ok(Outcome::Failed(Failure {
                error,
                unsent: false,
                asked: None,
            }))
        };
        let status = answer.status();
        let endless = answer.version() < Version::HTTP_2
            && !answer.headers().contains_key(CONTENT_LENGTH)
            && !answer.headers().contains_key(TRANSFER_ENCODING);
        let headers = std::mem::take(answer.headers_mut());
        match body::read(&mut answer, self.options.max_body).await {
            Ok(body) if endless && classify::stops_early(&body) => failed(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "{what}: the answer stopped after {} bytes, in the middle",
                    body.len()
                ),
            )),
            Ok(body) => {
                context.meter.bytes.fetch_add(body.len() as u64, Relaxed);
                Ok(Outcome::Answer(Response {
                    status,
                    url: url.clone(),
                    headers,
                    body,
                }))
            }
            Err(BodyError::TooLarge) => Err(Error::new(
                ErrorKind::Decode,
                format!(
                    "{what}: the answer is larger than the limit of {} bytes",
                    self.options.max_body
                ),
            )
            .hint("ask for smaller pages: `size` under `pagination`")),
            Err(BodyError::Cut(after, e)) => failed(Error::new(
                ErrorKind::Unavailable,
                match e.is_timeout() {
                    true => format!("{what}: the answer stalled after {after} bytes"),
                    false => format!(
                        "{what}: the answer was cut off after {after} bytes: {}",
                        root_cause(&e)
                    ),
                },
            )),
        }
    }
}

/// Whether a value that was registered as a secret is anywhere in the request.
fn holds_secret(request: &Request) -> bool {
    let secret = |text: &str| redact::scrub(text) != text;
    secret(request.url.as_str())
        || request
            .headers
            .values()
            .any(|v| v.is_sensitive() || v.to_str().is_ok_and(secret))
        || request
            .body
            .as_ref()
            .is_some_and(|b| secret(&String::from_utf8_lossy(b)))
}
