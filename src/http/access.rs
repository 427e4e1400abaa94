//! Who may do what.
//!
//! A server on loopback is reached by every page that its user's browser opens.
//! Two checks keep those pages out: the Host must be ours (a page that has its
//! own name resolved to 127.0.0.1 still says its own name, which is how DNS
//! rebinding is seen), and whoever publishes must not be a page of another
//! origin.

use std::net::{IpAddr, Ipv6Addr};

use super::connection::Exchange;
use super::refusal::Refusal;
use super::request::Request;
use super::session;
use crate::token::Token;

/// Refuses a request for a host that is not ours, while we are on loopback.
pub(super) fn check_host(exchange: &Exchange<'_>) -> Result<(), Refusal> {
    // HTTP/1.0 may have no Host; a browser, which is who this is about, has.
    let Some(host) = &exchange.request.host else { return Ok(()) };
    let name = host_name(host);
    let named = || exchange.server.config.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(name));
    if !exchange.on_loopback || is_loopback_name(name) || named() {
        return Ok(());
    }
    let detail = "this server is on loopback and does not go by the name in Host; \
                  ask for localhost, or start it with --host NAME";
    Err(Refusal::new(421, detail))
}

/// Refuses who may not read, if reading takes a token: it is the bearer's, or
/// in the cookie that [`super::session`] sets.
pub(super) fn check_read(exchange: &Exchange<'_>) -> Result<(), Refusal> {
    let Some(token) = &exchange.server.config.subscribe_token else { return Ok(()) };
    let request = &exchange.request;
    if session::token(request).is_some_and(|candidate| token.is(&candidate)) {
        return Ok(());
    }
    check_bearer(request, token)
}

/// Refuses who may not publish: pages of another origin, and, without a token,
/// anybody but loopback and whatever came through a proxy (whose loopback
/// address says nothing). With a token everybody needs it.
pub(super) fn check_publish(exchange: &Exchange<'_>) -> Result<(), Refusal> {
    let (request, config) = (&exchange.request, &exchange.server.config);
    if is_foreign_origin(request) && !config.cors_origins.names(request) {
        let detail = "a page of another origin must not publish here; --cors-origin lets one";
        return Err(Refusal::new(403, detail));
    }
    if let Some(token) = &config.publish_token {
        return check_bearer(request, token);
    }
    if !exchange.peer.ip().to_canonical().is_loopback() || was_forwarded(request) {
        let detail = "publishing is open to this machine alone, and not through a proxy; \
                      start the server with --publish-token to publish from elsewhere";
        return Err(Refusal::new(403, detail));
    }
    Ok(())
}

/// Refuses a request without this token (RFC 6750).
pub(super) fn check_bearer(request: &Request, token: &Token) -> Result<(), Refusal> {
    let missing = "this needs a token; send Authorization: Bearer TOKEN";
    let Some(credentials) = request.header("authorization") else {
        return Err(Refusal::new(401, missing).with("WWW-Authenticate", "Bearer"));
    };
    let (scheme, candidate) = credentials.split_at(credentials.len().min(7));
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(Refusal::new(401, missing).with("WWW-Authenticate", "Bearer"));
    }
    if !token.is(candidate.trim_ascii()) {
        let refusal = Refusal::new(401, "this is not the token; ask who runs the server for it");
        return Err(refusal.with("WWW-Authenticate", "Bearer error=\"invalid_token\""));
    }
    Ok(())
}

/// Whether a browser says that a page of another origin made it send this.
/// `null` is the origin of a page that has none to show.
pub(super) fn is_foreign_origin(request: &Request) -> bool {
    let Some(origin) = request.header("origin") else { return false };
    let ours = || {
        let (scheme, authority) = std::str::from_utf8(origin).ok()?.split_once("://")?;
        let port = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => return None,
        };
        let bare = |text: &str| text.strip_suffix(port).unwrap_or(text).to_ascii_lowercase();
        Some(bare(authority) == bare(request.host.as_deref()?))
    };
    ours() != Some(true)
}

fn was_forwarded(request: &Request) -> bool {
    const MARKS: [&str; 3] = ["forwarded", "x-real-ip", "via"];
    request.header_names().any(|name| MARKS.contains(&name) || name.starts_with("x-forwarded-"))
}

/// The host without its port, which does not count.
fn host_name(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, _)) => inside,
        None => host.split(':').next().unwrap_or(host),
    }
}

fn is_loopback_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || name.parse::<Ipv6Addr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &str) -> Box<Request> {
        let head = format!("GET / HTTP/1.1\r\nHost: a.example:8844\r\n{headers}\r\n");
        Request::parse(head.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn only_the_same_scheme_host_and_port_is_our_origin() {
        for ours in ["", "Origin: http://a.example:8844\r\n", "Origin: https://A.example:8844\r\n"]
        {
            assert!(!is_foreign_origin(&request(ours)), "{ours}");
        }
        for foreign in
            ["null", "http://a.example", "http://b.example:8844", "x://a.example:8844", ""]
        {
            assert!(is_foreign_origin(&request(&format!("Origin: {foreign}\r\n"))), "{foreign}");
        }
    }

    #[test]
    fn loopback_has_a_few_names() {
        for ours in ["localhost", "LOCALHOST.", "127.0.0.1", "127.1.2.3", "::1"] {
            assert!(is_loopback_name(ours), "{ours}");
        }
        for foreign in ["", "localhost.example", "10.0.0.1", "127.0.0.1.example", "::2"] {
            assert!(!is_loopback_name(foreign), "{foreign}");
        }
        assert_eq!(host_name("[::1]:80"), "::1");
        assert_eq!(host_name("localhost:80"), "localhost");
    }

    #[test]
    fn every_mark_of_a_proxy_is_seen() {
        for mark in ["Forwarded", "Via", "X-Real-IP", "X-Forwarded-For", "x-forwarded-host"] {
            assert!(was_forwarded(&request(&format!("{mark}: x\r\n"))), "{mark}");
        }
        assert!(!was_forwarded(&request("X-Other: x\r\n")));
    }
}
