//! Where one Google service is.

use std::fmt;

use url::{Host, Url};

use crate::error::{Error, Result};

/// The root of a service: scheme, host, port, perhaps a path; no query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    /// Reads `https://host[:port]`, `http://host[:port]` or `host[:port]`, which means plain http
    /// as the ecosystem's emulator variables do. `setting` is named in errors.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`] naming the setting.
    pub fn parse(text: &str, setting: &str) -> Result<Self> {
        let full = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let bad = |why: &str| {
            Error::config(format!("`{setting}` is not the root of a service: {why}")).hint(format!(
                "write `{setting}=http://127.0.0.1:9050` or `{setting}=https://host`"
            ))
        };
        let url = Url::parse(&full).map_err(|e| bad(&e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("its scheme is neither `http` nor `https`"));
        }
        if url.host().is_none() {
            return Err(bad("it names no host"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("it holds a user name or password"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("it holds a query or fragment"));
        }
        Ok(Self(url))
    }

    /// Google's own endpoint of that host name.
    pub(crate) fn google(host: &str) -> Self {
        match Url::parse(&format!("https://{host}")) {
            Ok(url) => Self(url),
            // A host name that makes no URL cannot be reached; `.invalid` says so when it is tried.
            Err(_) => Self(invalid()),
        }
    }

    /// Whether requests there carry credentials. Plain http never does: an emulator, a stand-in on
    /// loopback or the metadata server wants none, and anything else must not see a token in the clear.
    pub fn takes_credentials(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether the host is this machine.
    pub fn is_loopback(&self) -> bool {
        match self.0.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        }
    }

    /// The URL of `path` below the root. Each segment is percent-encoded.
    pub fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.0.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// The root as text, without a slash at the end.
    pub fn as_str(&self) -> &str {
        self.0.as_str().trim_end_matches('/')
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[allow(clippy::expect_used)]
fn invalid() -> Url {
    Url::parse("https://endpoint.invalid").expect("a constant URL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_hosts_are_plain_http_and_get_no_credentials() {
        let e = Endpoint::parse("localhost:9050", "X").unwrap();
        assert_eq!(e.as_str(), "http://localhost:9050");
        assert!(!e.takes_credentials());
        assert!(e.is_loopback());
        let e = Endpoint::parse("https://bigquery.example/", "X").unwrap();
        assert!(e.takes_credentials());
        assert!(!e.is_loopback());
    }

    #[test]
    fn errors_name_the_setting_and_never_the_password() {
        let e = Endpoint::parse("http://me:hunter22@host", "BIGQUERY_EMULATOR_HOST").unwrap_err();
        assert!(e.chain().contains("`BIGQUERY_EMULATOR_HOST`"));
        assert!(!e.chain().contains("hunter22"));
        assert!(Endpoint::parse("ftp://host", "X").is_err());
        assert!(Endpoint::parse("", "X").is_err());
    }

    #[test]
    fn paths_are_encoded_segment_by_segment() {
        let e = Endpoint::parse("http://h:1/base/", "X").unwrap();
        let url = e.url(
            &["a b", "c/d", "versions", "latest:access"],
            &[("q", "1 2")],
        );
        assert_eq!(
            url.as_str(),
            "http://h:1/base/a%20b/c%2Fd/versions/latest:access?q=1+2"
        );
    }
}
