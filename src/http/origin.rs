//! Where requests may go: the origins that a source names, and no others. An origin is scheme, host
//! and port as the `url` crate normalises them, so that user info, case, default ports, IDNA and
//! protocol-relative links cannot disguise one.

use url::{Origin, Url};

use super::network;
use crate::error::{Error, ErrorKind, Result};

/// The origins that a source's requests, with its credentials, may go to.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    allowed: Vec<Url>,
}

impl Origins {
    /// Allows the origin of a base or token URL.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: not http(s), with user info, or a link-local or metadata address.
    pub fn allow_url(&mut self, url: &Url) -> Result<()> {
        usable(url).map_err(|why| Error::config(format!("the URL `{}` {why}", shown(url))))?;
        if let Some(host) = url.host() {
            network::check_host(&host)?;
        }
        if !self.allowed.iter().any(|a| a.origin() == url.origin()) {
            self.allowed.push(url.clone());
        }
        Ok(())
    }

    /// Allows `host` or `host:port` over https, and over http too when it is this machine.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: the text is not a host.
    pub fn allow_host(&mut self, host: &str) -> Result<()> {
        let bad = || {
            Error::config(format!("`{host}` in `allowed_hosts` is not a host"))
                .hint("write `host` or `host:port`, without scheme and path")
        };
        let url = Url::parse(&format!("https://{host}/")).map_err(|_| bad())?;
        if url.path() != "/" || url.query().is_some() || host.contains(['/', '\\', '@', '#', '?']) {
            return Err(bad());
        }
        self.allow_url(&url)?;
        if url.host().is_some_and(|h| network::is_loopback(&h)) {
            let plain = Url::parse(&format!("http://{host}/")).map_err(|_| bad())?;
            self.allow_url(&plain)?;
        }
        Ok(())
    }

    /// Refuses a URL whose origin is not allowed.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] naming the URL's origin and the allowed ones.
    pub fn check(&self, url: &Url) -> Result<()> {
        let refused = |why: String| {
            Error::new(
                ErrorKind::Rejected,
                format!("refused to send a request to `{}`: {why}", origin(url)),
            )
        };
        usable(url).map_err(|why| refused(format!("the URL {why}")))?;
        if !self.allowed.iter().any(|a| a.origin() == url.origin()) {
            let known: Vec<String> = self.urls().map(|u| format!("`{}`", origin(u))).collect();
            return Err(refused(format!("the source's requests go to {}", known.join(", "))).hint(
                match url.host_str() {
                    Some(host) if url.scheme() == "https" => format!(
                        "if the API is meant to lead there, with the source's credentials, add `{host}` to `allowed_hosts`"
                    ),
                    _ => "the API gave a link that leaves it; report it to its makers".to_owned(),
                },
            ));
        }
        Ok(())
    }

    /// One URL of each allowed origin.
    pub(super) fn urls(&self) -> impl Iterator<Item = &Url> {
        self.allowed.iter()
    }
}

/// Scheme, host and port, for messages.
pub(super) fn origin(url: &Url) -> String {
    match url.origin() {
        Origin::Opaque(_) => format!("{}:", url.scheme()),
        tuple => tuple.ascii_serialization(),
    }
}

/// The URL without user info, query and fragment, for messages.
pub fn shown(url: &Url) -> String {
    crate::telemetry::redact::scrub(&format!("{}{}", origin(url), url.path()))
}

fn usable(url: &Url) -> Result<(), String> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("has the scheme `{}`, not https", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user name or password in it; write them under `auth`".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins() -> Origins {
        let mut o = Origins::default();
        o.allow_url(&Url::parse("https://api.example.com/v1").unwrap())
            .unwrap();
        o.allow_host("files.example.com:8443").unwrap();
        o.allow_host("localhost:9").unwrap();
        o
    }

    #[test]
    fn the_same_origin_in_disguise_is_allowed() {
        for url in [
            "https://api.example.com/v2?x=1",
            "HTTPS://API.EXAMPLE.COM:443/",
            "https://files.example.com:8443/a",
            "http://localhost:9/",
        ] {
            origins().check(&Url::parse(url).unwrap()).unwrap();
        }
    }

    #[test]
    fn another_origin_in_disguise_is_refused() {
        let base = Url::parse("https://api.example.com/v1/x").unwrap();
        for link in [
            "http://api.example.com/v1",
            "https://api.example.com:444/",
            "https://api.example.com@evil.com/",
            "https://user:pw@api.example.com/",
            "//evil.com/",
            "\\\\evil.com/",
            "https://api.example.com./",
            "https://api.example.com.evil.com/",
            "https://evil.com\\.api.example.com/",
            "https://%65vil.com/",
            "https://аpi.example.com/",
            "https://files.example.com/",
            "ftp://api.example.com/",
            "file:///etc/passwd",
            "data:text/plain,x",
        ] {
            let url = base.join(link).unwrap();
            let e = origins().check(&url).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Rejected, "{link}");
            assert!(!e.to_string().contains("pw"), "{e}");
        }
    }

    #[test]
    fn hosts_must_be_hosts() {
        for bad in ["", "https://x", "a/b", "a@b", "a?b", "a b", "a#b"] {
            assert!(Origins::default().allow_host(bad).is_err(), "{bad}");
        }
        let metadata = Url::parse("http://169.254.169.254/").unwrap();
        assert!(Origins::default().allow_url(&metadata).is_err());
    }
}
