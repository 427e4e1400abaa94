//! Finds the client of a request that comes through a proxy.
//!
//! The server uses forwarding headers only from proxies that `--trusted-proxy` names. It reads the
//! list of addresses in these headers from the end; the first address that is not a trusted proxy
//! is the client. The entries to the left of that address are ignored, because the client itself
//! may have written them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::peer::Peer;
use super::request::Request;

/// Returns the client's address: the peer's, or the one that trusted proxies forward.
///
/// `X-Forwarded-For` takes precedence over `Forwarded`, because most proxies write
/// `X-Forwarded-For`. A proxy that writes `Forwarded` must remove `X-Forwarded-For`, because the
/// client may have written it.
pub(crate) fn client(request: &Request, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    if is_trusted(peer, trusted) { behind(peer, request, trusted) } else { peer }
}

/// The client of a request, as the log shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// The peer of the connection.
    Peer(Peer),
    /// The client whose address a trusted proxy forwards; the client's port is unknown.
    Behind(IpAddr),
}

impl Client {
    pub(super) fn of(request: &Request, peer: Peer, trusted: &[IpNet]) -> Self {
        match client(request, peer.ip(), trusted) {
            address if address == peer.ip() => Self::Peer(peer),
            address => Self::Behind(address),
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(peer) => peer.fmt(f),
            Self::Behind(address) => address.fmt(f),
        }
    }
}

/// Returns whether `--trusted-proxy` names this address.
pub(super) fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// Returns the address of the client for which this trusted proxy forwards the request.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn behind(proxy: IpAddr, request: &Request, trusted: &[IpNet]) -> IpAddr {
    let mut client = proxy;
    let mut hops = hops(request, "x-forwarded-for", |hop| Some(hop));
    if hops.is_empty() {
        hops = self::hops(request, "forwarded", forwarded_for);
    }
    for hop in hops.into_iter().rev() {
        // If an entry is not an address (a proxy writes `unknown` to hide its client), the proxy
        // that wrote the entry counts as the client.
        let Some(address) = hop.and_then(|hop| address(&hop)) else { break };
        client = address;
        if !is_trusted(client, trusted) {
            break;
        }
    }
    client
}

/// Applies `read` to each list element of all headers of this name, and returns the results in
/// order.
fn hops(request: &Request, name: &str, read: impl Fn(&str) -> Option<&str>) -> Vec<Option<String>> {
    let values = request.headers(name).map(String::from_utf8_lossy);
    values
        .flat_map(|value| {
            let hops = value.split(',').map(|hop| read(hop.trim()).map(str::to_owned));
            hops.collect::<Vec<_>>()
        })
        .collect()
}

/// Returns the `for` parameter of an element such as `for=192.0.2.1;proto=http` (RFC 7239).
fn forwarded_for(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then_some(value.trim_matches('"'))
    })
}

/// Parses an address with or without a port; an IPv6 address may have brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address: Option<IpAddr> = bare.parse().ok();
    address.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip())).map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(headers: &str, peer: &str, expected: &str) {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        let (request, _) = Request::parse(head.as_bytes()).unwrap().unwrap();
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap());
        let found = client(&request, peer.parse().unwrap(), &trusted);
        assert_eq!(found, expected.parse::<IpAddr>().unwrap(), "{headers}");
    }

    #[test]
    fn only_trusted_proxies_can_forward_an_address() {
        check("X-Forwarded-For: 192.0.2.1\r\n", "10.0.0.1", "192.0.2.1");
        check("X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.9", "192.0.2.9");
        check("X-Forwarded-For: 192.0.2.1\r\n", "::ffff:10.0.0.1", "192.0.2.1");
        check("", "10.0.0.1", "10.0.0.1");
    }

    #[test]
    fn forwarded_addresses_from_the_client_are_ignored() {
        check("X-Forwarded-For: 203.0.113.7, 192.0.2.1\r\n", "10.0.0.1", "192.0.2.1");
        check(
            "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 192.0.2.1, 10.0.0.2\r\n",
            "10.0.0.1",
            "192.0.2.1",
        );
        check(
            "Forwarded: for=203.0.113.7\r\nX-Forwarded-For: 192.0.2.1\r\n",
            "10.0.0.1",
            "192.0.2.1",
        );
        check("X-Forwarded-For: 192.0.2.1, rubbish\r\n", "10.0.0.1", "10.0.0.1");
        check("X-Forwarded-For: 192.0.2.1, unknown, 10.0.0.2\r\n", "10.0.0.1", "10.0.0.2");
    }

    #[test]
    fn both_headers_may_have_ports_and_brackets() {
        check("Forwarded: proto=https;For=\"[2001:db8::1]:4711\"\r\n", "fd00::1", "2001:db8::1");
        check("Forwarded: for=192.0.2.1, for=10.1.1.1\r\n", "10.0.0.1", "192.0.2.1");
        check("X-Forwarded-For: [2001:db8::1]\r\n", "10.0.0.1", "2001:db8::1");
        check("X-Forwarded-For: 2001:db8::1\r\n", "10.0.0.1", "2001:db8::1");
        check("X-Forwarded-For: 192.0.2.1:4711\r\n", "10.0.0.1", "192.0.2.1");
    }
}
