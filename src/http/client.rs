//! The client: one a source, shared by its streams. It guards, admits, signs, sends, follows, reads,
//! and holds the only retry ring towards third parties.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as StdError;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use url::Url;

use super::body::{self, BodyError};
use super::classify::{self, Verdict, what};
use super::network::{self, GuardedResolver};
use super::origin::{Origins, origin};
use super::rate::{Gate, seconds};
use super::retry::{Attempts, RetryPolicy};
use super::{CallContext, RateLimit, Request, Response, Sign, tls};
use crate::clock::SharedClock;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Meter, redact};

/// From so many failed attempts in a row on, they are worth a warning.
const QUIET_FAILURES: u32 = 3;
/// Redirects followed for one request.
const MOST_REDIRECTS: u32 = 5;
/// How long after the deadline an answer is waited for.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// For a request on the wire when the run is asked to stop: the rest of the time is for the last publish.
const LAST_REQUEST: Duration = Duration::from_secs(2);

/// How a source's requests are sent. Values, so that tests and messages can read them.
#[derive(Clone)]
pub struct HttpOptions {
    /// `User-Agent` of every request.
    pub user_agent: String,
    /// Certificates to trust beside the usual ones, PEM.
    pub ca_file: Option<PathBuf>,
    /// Where requests may go.
    pub origins: Origins,
    /// All are kept.
    pub rate_limits: Vec<RateLimit>,
    /// Most requests on the wire at once.
    pub concurrency: usize,
    /// To connect, TLS included.
    pub connect_timeout: Duration,
    /// Longest silence while waiting for an answer or reading it.
    pub read_timeout: Duration,
    /// For one attempt from start to the last byte.
    pub timeout: Duration,
    /// Most bytes of a body, decompressed.
    pub max_body: usize,
    /// When to send again.
    pub retry: RetryPolicy,
    /// Host names may resolve to private addresses.
    pub allow_private_network: bool,
    /// Addresses of host names, as in a hosts file; the rules for addresses hold for them too.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Time.
    pub clock: SharedClock,
}

impl HttpOptions {
    /// The defaults: no origins yet, no rate limit, 4 requests at once, 64 MiB a body, 10 s to
    /// connect, 60 s of silence, 120 s an attempt.
    pub fn new(clock: SharedClock) -> Self {
        Self {
            user_agent: concat!("drawoff/", env!("CARGO_PKG_VERSION")).to_owned(),
            ca_file: None,
            origins: Origins::default(),
            rate_limits: Vec::new(),
            concurrency: 4,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
            timeout: Duration::from_secs(120),
            max_body: 64 * 1024 * 1024,
            retry: RetryPolicy::default(),
            allow_private_network: false,
            hosts: BTreeMap::new(),
            clock,
        }
    }
}

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

/// An attempt that failed and may pass.
struct Failure {
    error: Error,
    /// Surely nothing reached the server.
    unsent: bool,
    /// The wait that the server asked for.
    asked: Option<Duration>,
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
                outcome = self.attempt(&signed, &request.url, signer, context) => outcome,
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

    /// One attempt: what came back, or an error that ends the call.
    async fn attempt(
        &self,
        signed: &Request,
        url: &Url,
        signer: &dyn Sign,
        context: &CallContext,
    ) -> Result<Outcome> {
        let mut answer = match self.exchange(signed, context).await? {
            Ok(answer) => answer,
            Err(failure) => return Ok(Outcome::Failed(failure)),
        };
        let status = answer.status();
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
            Err(e) => self.not_answered(signed, timeout, &e).map(Err),
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

    /// The failure of a request without an answer; an error when it will not pass.
    fn not_answered(
        &self,
        signed: &Request,
        timeout: Duration,
        e: &reqwest::Error,
    ) -> Result<Failure> {
        let what = what(&signed.method, &signed.url);
        let mut at = e.source();
        while let Some(cause) = at {
            if let Some(ours) = cause.downcast_ref::<Error>() {
                let error = Error::new(ours.kind(), format!("could not send {what}: {ours}"));
                let error = match ours.find_hint() {
                    Some(hint) => error.hint(hint),
                    None => error,
                };
                return match error.is_transient() {
                    true => Ok(Failure {
                        error,
                        unsent: true,
                        asked: None,
                    }),
                    false => Err(error),
                };
            }
            if let Some(tls) = tls_error(cause) {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "could not send {what}: the TLS certificate of the server is not valid: {tls}"
                    ),
                )
                .transient(false)
                .hint("if the server's certificate is signed by a private authority, give that with `--ca-file` or `SSL_CERT_FILE`; verification cannot be turned off"));
            }
            at = cause.source();
        }
        let unsent = e.is_connect();
        let message = match (unsent, e.is_timeout()) {
            (true, true) => format!(
                "could not send {what}: no connection within {}",
                seconds(self.options.connect_timeout)
            ),
            (true, false) => format!("could not send {what}: {}", root_cause(e)),
            (false, true) => format!(
                "{what} did not answer within {}",
                seconds(timeout.min(self.options.read_timeout))
            ),
            (false, false) => format!("{what}: no answer: {}", root_cause(e)),
        };
        Ok(Failure {
            error: Error::new(ErrorKind::Unavailable, message)
                .hint("check that the API is up and can be reached from this machine"),
            unsent,
            asked: None,
        })
    }
}

fn build(options: &HttpOptions, remote: bool) -> Result<reqwest::Client> {
    let urls = || options.origins.urls();
    let resolver = GuardedResolver {
        hosts: Arc::new(options.hosts.clone()),
        guarded: Arc::new(
            urls()
                .filter_map(Url::host_str)
                .map(|h| h.trim_end_matches('.').to_owned())
                .collect::<BTreeSet<_>>(),
        ),
        allow_private: options.allow_private_network,
    };
    let accept = HeaderValue::from_static("application/json, text/plain, */*");
    let mut builder = reqwest::Client::builder()
        .user_agent(options.user_agent.as_str())
        .default_headers(HeaderMap::from_iter([(ACCEPT, accept)]))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(options.connect_timeout)
        .read_timeout(options.read_timeout)
        .pool_idle_timeout(Duration::from_secs(60))
        .dns_resolver(Arc::new(resolver));
    // Reading the certificate authorities takes time that a plain-http source need not spend.
    if urls().any(|u| u.scheme() == "https") {
        builder = builder.tls_backend_preconfigured(tls::config(options.ca_file.as_deref())?);
    } else {
        builder = builder.tls_certs_only([]);
    }
    if !remote {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|e| {
        Error::config(format!(
            "could not set the HTTP client up: {}",
            root_cause(&e)
        ))
    })
}

/// The request that a redirect within the origin asks for.
fn redirected(
    mut request: Request,
    to: Url,
    status: StatusCode,
    redirects: u32,
) -> Result<Request> {
    let from = what(&request.method, &request.url);
    let code = status.as_u16();
    if to.origin() != request.url.origin() {
        return Err(Error::new(
            ErrorKind::Rejected,
            format!(
                "{from} answered {code}, a redirect from `{}` to `{}`, which is not followed",
                origin(&request.url),
                origin(&to)
            ),
        )
        .hint("if the API has moved, change `base_url`; credentials are not taken along to another origin"));
    }
    if redirects > MOST_REDIRECTS {
        return Err(Error::new(
            ErrorKind::Rejected,
            format!("{from} answered {code}: more than {MOST_REDIRECTS} redirects in a row"),
        )
        .hint("this is often a login page: check `path` and the credentials"));
    }
    if request.method != Method::GET {
        match code {
            303 => {
                request.method = Method::GET;
                request.body = None;
                request.headers.remove(CONTENT_TYPE);
            }
            307 | 308 => {}
            _ => {
                return Err(Error::new(
                    ErrorKind::Rejected,
                    format!("{from} answered {code}, which would turn it into a GET"),
                )
                .hint("check the stream's `path`: a missing or extra `/` at its end is the usual reason"));
            }
        }
    }
    request.url = to;
    Ok(request)
}

fn throttled(request: &Request, status: StatusCode, sent: u32) -> Error {
    let what = what(&request.method, &request.url);
    let times = if sent > 1 {
        format!(", {sent} times")
    } else {
        String::new()
    };
    Error::new(
        ErrorKind::RateLimited,
        format!(
            "{what} answered {}{times}: too many requests",
            status.as_u16()
        ),
    )
    .hint("lower `rate_limit` in the connector, or run again later")
}

fn given_up(error: Error, sent: u32, over: Duration) -> Error {
    match sent {
        0 | 1 => error,
        _ => error.context(format!(
            "gave up after {sent} attempts in {}",
            seconds(over)
        )),
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

/// What went wrong with a certificate, if that is what went wrong.
fn tls_error(cause: &(dyn StdError + 'static)) -> Option<String> {
    if let Some(io) = cause.downcast_ref::<std::io::Error>() {
        // An I/O error that wraps another is not among that one's sources.
        return tls_error(io.get_ref()?);
    }
    match cause.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(why) => Some(why.to_string()),
        _ => None,
    }
}

/// The last error of the chain: the fact, without the layers' names or the URL.
fn root_cause(e: &reqwest::Error) -> String {
    let mut cause: &dyn StdError = e;
    while let Some(next) = cause.source() {
        cause = next;
    }
    match cause.downcast_ref::<reqwest::Error>() {
        // Its own text would quote the URL.
        Some(_) => "the request failed".to_owned(),
        None => cause.to_string(),
    }
}
