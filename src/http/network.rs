//! Which addresses may be connected to: never link-local or a cloud's metadata service; a private
//! address only when the connector names it as an address, or the operator allows private networks.
//! Checked where connections are made, so that a name cannot point elsewhere after it was checked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Host;

use crate::error::{Error, ErrorKind, Result};

/// Google's metadata service, by its names.
const METADATA_NAMES: [&str; 3] = ["metadata", "metadata.google.internal", "metadata.goog"];

/// Metadata services outside the link-local ranges: Google's and Amazon's over IPv6.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
];

/// Refuses hosts that are never an API: link-local addresses and metadata services.
pub(super) fn check_host(host: &Host<&str>) -> Result<()> {
    let refused = match host {
        Host::Domain(name) => METADATA_NAMES.contains(&bare(name).as_str()),
        Host::Ipv4(ip) => never((*ip).into()),
        Host::Ipv6(ip) => never((*ip).into()),
    };
    if refused {
        return Err(never_error(&host.to_string()));
    }
    Ok(())
}

/// Whether the host is this machine: `localhost`, a name under it, or a loopback address.
pub(super) fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => is_localhost(name),
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.to_canonical().is_loopback(),
    }
}

fn is_localhost(name: &str) -> bool {
    let name = bare(name);
    name == "localhost" || name.ends_with(".localhost")
}

fn bare(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// Never connected to.
fn never(ip: IpAddr) -> bool {
    match plain(ip) {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || METADATA_V6.contains(&ip),
    }
}

/// Not reachable from the internet at large.
fn private(ip: IpAddr) -> bool {
    match plain(ip) {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            ip.is_private()
                || ip.is_loopback()
                || ip.is_broadcast()
                || ip.is_multicast()
                || a == 0
                || (a == 100 && (64..128).contains(&b)) // shared, RFC 6598
        }
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_multicast()
        }
    }
}

/// The IPv4 address inside an IPv4-mapped or NAT64 (RFC 6052) one.
fn plain(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => match ip.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
                Ipv4Addr::new(a, b, c, d).into()
            }
            _ => ip.into(),
        },
        ip => ip,
    }
}

fn never_error(host: &str) -> Error {
    Error::new(
        ErrorKind::Rejected,
        format!("`{host}` is a link-local or metadata address, which is never an API"),
    )
    .hint("check `base_url`, `token_url` and what the API's next links point to")
}

/// Looks names up and keeps the addresses that may be connected to.
#[derive(Clone)]
pub(super) struct GuardedResolver {
    /// Addresses by name, instead of asking the system.
    pub hosts: Arc<BTreeMap<String, Vec<IpAddr>>>,
    /// Names of the APIs. Other names are proxies, chosen by the operator, who may have them inside.
    pub guarded: Arc<BTreeSet<String>>,
    /// APIs may be inside too.
    pub allow_private: bool,
}

impl GuardedResolver {
    async fn lookup(self, name: String) -> Result<Vec<SocketAddr>> {
        let found: Vec<SocketAddr> = match self.hosts.get(&bare(&name)) {
            Some(ips) => ips.iter().map(|ip| SocketAddr::new(*ip, 0)).collect(),
            None => tokio::net::lookup_host((name.as_str(), 0))
                .await
                .map_err(|e| {
                    Error::new(
                        ErrorKind::Unavailable,
                        format!("could not look up the host `{name}`: {e}"),
                    )
                    .hint("check the spelling of the host, and that this machine has a network")
                })?
                .collect(),
        };
        self.keep(&name, found)
    }

    fn keep(&self, name: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>> {
        let inside_is_fine = self.allow_private || !self.guarded.contains(&bare(name));
        let kept: Vec<SocketAddr> = found
            .iter()
            .filter(|a| !never(a.ip()))
            .filter(|a| {
                inside_is_fine
                    || !private(a.ip())
                    || (is_localhost(name) && plain(a.ip()).is_loopback())
            })
            .copied()
            .collect();
        if !kept.is_empty() {
            return Ok(kept);
        }
        Err(match found.iter().any(|a| !never(a.ip())) {
            true => Error::new(
                ErrorKind::Rejected,
                format!("the host `{name}` resolves to a private address"),
            )
            .hint("if the API is meant to be inside your network, set `allow_private_network: true` for the source"),
            false if found.is_empty() => Error::new(
                ErrorKind::Unavailable,
                format!("the host `{name}` has no address"),
            ),
            false => never_error(name),
        })
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let lookup = self.clone().lookup(name.as_str().to_owned());
        Box::pin(async move {
            let addresses = lookup.await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver(allow_private: bool) -> GuardedResolver {
        GuardedResolver {
            hosts: Arc::default(),
            guarded: Arc::new(["api.test".to_owned(), "localhost".to_owned()].into()),
            allow_private,
        }
    }

    fn keep(name: &str, ip: &str, allow_private: bool) -> bool {
        let found = vec![SocketAddr::new(ip.parse().unwrap(), 0)];
        resolver(allow_private).keep(name, found).is_ok()
    }

    #[test]
    fn link_local_and_metadata_are_refused_whatever_is_allowed() {
        for ip in [
            "169.254.169.254",
            "169.254.0.1",
            "fe80::1",
            "fd20:ce::254",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
        ] {
            assert!(!keep("api.test", ip, true), "{ip}");
            assert!(!keep("proxy.test", ip, true), "{ip}");
            let host = match ip.parse().unwrap() {
                IpAddr::V4(ip) => Host::Ipv4(ip),
                IpAddr::V6(ip) => Host::Ipv6(ip),
            };
            assert!(check_host(&host).is_err(), "{ip}");
        }
        for name in [
            "metadata.google.internal",
            "METADATA.google.internal.",
            "metadata",
        ] {
            assert!(check_host(&Host::Domain(name)).is_err(), "{name}");
        }
        assert!(check_host(&Host::Domain("api.example.com")).is_ok());
    }

    #[test]
    fn names_may_point_inside_only_when_allowed() {
        for ip in [
            "10.0.0.1",
            "127.0.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "fd12::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!keep("api.test", ip, false), "{ip}");
            assert!(keep("api.test", ip, true), "{ip}");
            assert!(keep("proxy.test", ip, false), "{ip}");
        }
        assert!(keep("api.test", "93.184.216.34", false));
        assert!(keep("localhost", "127.0.0.1", false));
        assert!(!keep("localhost", "10.0.0.1", false));
    }
}
