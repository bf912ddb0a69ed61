//! The clients beneath ours, which hold the connections.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue};
use url::Url;

use super::failure::root_cause;
use super::network::{self, GuardedResolver};
use super::{HttpOptions, tls};
use crate::error::{Error, Result};

/// A client for the origins in `options`; `remote`: one that obeys `HTTPS_PROXY` and its kin.
///
/// # Errors
/// [`crate::error::ErrorKind::Config`]: an unreadable certificate authority, a user agent that is no
/// header value.
pub(super) fn build(options: &HttpOptions, remote: bool) -> Result<reqwest::Client> {
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

/// A client for a collector of traces and metrics at `url`, each of whose answers may take so long. The
/// operator names it, so it may be anywhere; redirected it is not, since its headers are credentials.
///
/// # Errors
/// [`crate::error::ErrorKind::Config`].
pub fn collector_client(url: &Url, timeout: Duration) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("drawoff/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .timeout(timeout);
    builder = match url.scheme() {
        "https" => builder.tls_backend_preconfigured(tls::config(None)?),
        _ => builder.tls_certs_only([]),
    };
    if url.host().is_some_and(|h| network::is_loopback(&h)) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|e| {
        Error::config(format!(
            "could not set the HTTP client for the collector up: {}",
            root_cause(&e)
        ))
    })
}
