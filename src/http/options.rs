//! How a source's requests are sent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::RateLimit;
use super::origin::Origins;
use super::retry::RetryPolicy;
use crate::clock::SharedClock;

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
