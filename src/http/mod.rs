//! The HTTP boundary to third-party APIs and token endpoints: one client that signs, keeps the rate
//! limit, bounds bodies, guards origins, classifies answers and holds the only retry ring.
//!
//! It declares [`Sign`], which puts credentials on a request; `auth` implements it.
//!
//! | module | owns |
//! |---|---|
//! | here | requests, answers, and who signs them |
//! | `client` | a request's way, and the retry ring |
//! | `options` | how a source's requests are sent |
//! | `connect` `tls` `network` | the clients beneath; certificates; which addresses may be reached |
//! | `origin` | where requests may go |
//! | `rate` `retry` | when one may go out; when it is sent again |
//! | `redirect` | which redirects are followed |
//! | `classify` `headers` `body` | what an answer means; what its head says; its bytes |
//! | `failure` | attempts without a usable answer |

mod body;
mod classify;
mod client;
mod connect;
mod failure;
mod headers;
mod network;
mod options;
mod origin;
mod rate;
mod redirect;
mod retry;
mod tls;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::error::Result;
use crate::telemetry::Meter;

pub use classify::expect_json;
pub use client::HttpClient;
pub use connect::collector_client;
pub use options::HttpOptions;
pub use origin::{Origins, shown};
pub use retry::RetryPolicy;
pub(crate) use tls::system_roots;

/// A request as the engine wants it sent, before credentials.
#[derive(Clone, Debug)]
pub struct Request {
    /// GET or POST.
    pub method: Method,
    /// Absolute URL with query.
    pub url: Url,
    /// Headers, without credentials.
    pub headers: HeaderMap,
    /// Body of a POST.
    pub body: Option<Bytes>,
    /// Whether sending it twice does no harm: GETs, and POSTs that the connector says only read.
    pub repeatable: bool,
    /// Statuses that are answers, not failures, beside 2xx.
    pub accept: Vec<u16>,
    /// Statuses to retry beside the usual ones.
    pub retry: Vec<u16>,
}

impl Request {
    /// A repeatable GET.
    pub fn get(url: Url) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: None,
            repeatable: true,
            accept: Vec::new(),
            retry: Vec::new(),
        }
    }
}

/// A whole answer: its status is 2xx or one that the request accepts, its body complete and within
/// bounds.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status.
    pub status: StatusCode,
    /// URL that answered, after same-origin redirects.
    pub url: Url,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, decompressed.
    pub body: Bytes,
}

/// What a call may cost, and who watches it.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// Retries and waits end before this.
    pub deadline: Option<Instant>,
    /// Ends waits at once when the run is asked to stop; a request on the wire has a moment to finish.
    pub cancel: CancellationToken,
    /// Counts requests, retries, bytes; shows waiting.
    pub meter: Arc<Meter>,
}

/// Puts credentials on requests.
#[async_trait]
pub trait Sign: Send + Sync {
    /// Puts the credentials on. Called for each attempt, after the origin guard has passed the URL.
    async fn sign(&self, request: &mut Request, context: &CallContext) -> Result<()>;

    /// The server answered 401 to `request` as signed. `true`: there are other credentials now, and
    /// the request should be signed and sent once more. Called at most once a request.
    async fn refused(&self, request: &Request, context: &CallContext) -> Result<bool>;

    /// Whether it puts credentials on: those never go over plain http to another machine.
    fn sends_credentials(&self) -> bool {
        true
    }

    /// Which credentials these are, for messages: "secret `token` of source `x`". Never a value.
    fn describe(&self) -> String;
}

/// A limit on requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests…
    pub requests: std::num::NonZeroU32,
    /// …in any span this long.
    pub per: Duration,
    /// Requests that may go out at once; `requests` when not given.
    pub burst: Option<std::num::NonZeroU32>,
    /// How long after the start the first request goes out: zero, but for a process that shares the limit
    /// with more others than it has requests, so that they take turns.
    pub turn: Duration,
}

/// The wait that an answer's `Retry-After` asks for, as seconds or as a date by the server's clock.
pub(crate) fn retry_after(answer: &HeaderMap, now: jiff::Timestamp) -> Option<std::time::Duration> {
    headers::retry_after(answer, headers::server_now(answer, now))
}
