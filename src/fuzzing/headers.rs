//! Fuzzes the headers whose values the server parses: the client's address behind a proxy, the
//! session's cookie, the handshake of a WebSocket, lists of tokens.
//!
//! The input consists of header lines, each of which ends with LF.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use percent_encoding::percent_decode;
use ring::digest;

use crate::http::access::credentials::session_cookie;
use crate::http::request::Request;
use crate::http::{forwarded, publish, websocket};

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

static TRUSTED: LazyLock<Vec<IpNet>> =
    LazyLock::new(|| vec!["10.0.0.0/8".parse().expect("a network")]);

/// Parses a request with these header lines, and checks the values that the server reads from them.
pub(super) fn check(bytes: &[u8]) {
    let head = [b"GET / HTTP/1.1\nHost: a\n", bytes, b"\n\n"].concat();
    let Ok(Some((request, _))) = Request::parse(&head) else { return };
    check_client_address(&request);
    check_cookie(&request);
    check_handshake(&request);
    let closes = request.headers("connection").any(|list| has(list, "close"));
    assert_eq!(request.keeps_alive(), !closes);
    if let Ok(Some(key)) = publish::idempotency_key(&request) {
        assert_eq!(request.header("idempotency-key"), Some(key.as_bytes()));
    }
    let kind = publish::content_type(&request);
    assert!(!kind.contains(';') && kind.trim() == kind && kind == kind.to_ascii_lowercase());
}

/// Checks that the client's address is that of the TCP peer or one that a header names, and that
/// headers count only if the peer is a trusted proxy.
fn check_client_address(request: &Request) {
    let stranger = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
    assert_eq!(forwarded::client(request, stranger, &TRUSTED), stranger);
    let client = forwarded::client(request, PROXY, &TRUSTED);
    let values = request.headers("x-forwarded-for").chain(request.headers("forwarded"));
    let text = values.map(String::from_utf8_lossy).collect::<Vec<_>>().join(",");
    let mut named = text.split([',', ';', '=']).filter_map(|part| address(part.trim()));
    assert!(client == PROXY || named.any(|address| address == client), "{client} in {text:?}");
}

fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim_matches('"');
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let address: Option<IpAddr> = bare.parse().ok();
    address.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip())).map(|ip| ip.to_canonical())
}

/// Checks that the session's token is the value of the first cookie named `threadcast_token`.
fn check_cookie(request: &Request) {
    let lists: Vec<&[u8]> = request.headers("cookie").collect();
    let pairs = lists.iter().flat_map(|list| list.split(|byte| *byte == b';'));
    let mut values = pairs.filter_map(|pair| pair.trim_ascii().strip_prefix(b"threadcast_token="));
    let expected: Option<Vec<u8>> = values.next().map(|value| percent_decode(value).collect());
    assert_eq!(session_cookie(request), expected);
}

/// Checks that a WebSocket handshake is accepted only for version 13 with a key, and answered as
/// RFC 6455 §4.2.2 requires.
fn check_handshake(request: &Request) {
    let key = request.header("sec-websocket-key").unwrap_or_default();
    let Ok(accept) = websocket::accept_key(request) else { return };
    assert!(request.headers("upgrade").any(|list| has(list, "websocket")));
    assert!(request.headers("connection").any(|list| has(list, "upgrade")));
    assert!(request.header("sec-websocket-version") == Some(b"13") && key.len() == 24);
    let text = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &text);
    assert_eq!(accept, STANDARD.encode(hash));
}

/// Whether a comma-separated list contains this token. This is a naive second implementation, to
/// compare results with.
fn has(list: &[u8], token: &str) -> bool {
    let list = String::from_utf8_lossy(list).to_ascii_lowercase();
    list.split(',').any(|part| part.trim_matches([' ', '\t']) == token)
}
