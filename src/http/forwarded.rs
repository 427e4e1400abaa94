//! Whose a request is that comes through a proxy.
//!
//! Only a proxy that is trusted by name (`--trusted-proxy`) is believed, and only
//! what it has added itself: the list is read from its end, and the first address
//! that is no such proxy's is the client's. What stands before it the client may
//! have written.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::request::Request;

/// The client's address: the peer's own, or what trusted proxies say.
///
/// Where both headers are given `X-Forwarded-For` is read, for it is what proxies
/// write; one that writes `Forwarded` must take the other away.
pub(crate) fn client(request: &Request, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    if is_trusted(peer, trusted) { behind(peer, request, trusted) } else { peer }
}

/// Whose a request is, as logs name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// The peer of the connection.
    Peer(SocketAddr),
    /// The client that a trusted proxy names; its port is not known.
    Behind(IpAddr),
}

impl Client {
    pub(super) fn of(request: &Request, peer: SocketAddr, trusted: &[IpNet]) -> Self {
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

/// Whether this is the address of a proxy that `--trusted-proxy` names.
pub(super) fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// Who is behind a proxy that is trusted.
#[inline(never)] // most streams have no proxy before them: they need no frame for this
fn behind(proxy: IpAddr, request: &Request, trusted: &[IpNet]) -> IpAddr {
    let mut client = proxy;
    let mut hops = hops(request, "x-forwarded-for", |hop| Some(hop));
    if hops.is_empty() {
        hops = self::hops(request, "forwarded", forwarded_for);
    }
    for hop in hops.into_iter().rev() {
        // A proxy that hides who asks (`unknown`) is itself who asks.
        let Some(address) = hop.and_then(|hop| address(&hop)) else { break };
        client = address;
        if !is_trusted(client, trusted) {
            break;
        }
    }
    client
}

/// The elements of all headers of this name, in their order.
fn hops(request: &Request, name: &str, read: impl Fn(&str) -> Option<&str>) -> Vec<Option<String>> {
    let values = request.headers(name).map(String::from_utf8_lossy);
    values
        .flat_map(|value| {
            let hops = value.split(',').map(|hop| read(hop.trim()).map(str::to_owned));
            hops.collect::<Vec<_>>()
        })
        .collect()
}

/// `for=192.0.2.1;proto=http` (RFC 7239).
fn forwarded_for(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then_some(value.trim_matches('"'))
    })
}

/// An address with or without a port, in IPv6 with or without brackets.
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
    fn a_trusted_proxy_is_believed_and_nobody_else() {
        check("X-Forwarded-For: 192.0.2.1\r\n", "10.0.0.1", "192.0.2.1");
        check("X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.9", "192.0.2.9");
        check("X-Forwarded-For: 192.0.2.1\r\n", "::ffff:10.0.0.1", "192.0.2.1");
        check("", "10.0.0.1", "10.0.0.1");
    }

    #[test]
    fn what_the_client_wrote_itself_is_not_believed() {
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
    fn both_headers_are_read_with_ports_and_brackets() {
        check("Forwarded: proto=https;For=\"[2001:db8::1]:4711\"\r\n", "fd00::1", "2001:db8::1");
        check("Forwarded: for=192.0.2.1, for=10.1.1.1\r\n", "10.0.0.1", "192.0.2.1");
        check("X-Forwarded-For: [2001:db8::1]\r\n", "10.0.0.1", "2001:db8::1");
        check("X-Forwarded-For: 2001:db8::1\r\n", "10.0.0.1", "2001:db8::1");
        check("X-Forwarded-For: 192.0.2.1:4711\r\n", "10.0.0.1", "192.0.2.1");
    }
}
