//! Who may do what.
//!
//! What a request may do is found once, by the token it brings: [`Reader`] and
//! [`Publisher`] are the two roles, and every route asks one of them.
//!
//! A server on loopback is reached by every page that its user's browser opens.
//! Two checks keep those pages out: the Host must be ours (a page that has its
//! own name resolved to 127.0.0.1 still says its own name, which is how DNS
//! rebinding is seen), and whoever publishes must not be a page of another
//! origin.

mod challenge;
mod grant;
mod presented;

use std::net::{IpAddr, Ipv6Addr};

pub(super) use self::grant::{Publisher, Reader};
pub(super) use self::presented::Door;
use super::connection::Exchange;
use super::refusal::Refusal;
use super::request::Request;

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

/// Refuses anybody but loopback, and whatever came through a proxy: who may publish
/// where no token says it.
fn check_nearness(exchange: &Exchange<'_>) -> Result<(), Refusal> {
    if !exchange.peer.ip().to_canonical().is_loopback() || was_forwarded(&exchange.request) {
        let detail = "publishing is open to this machine alone, and not through a proxy; \
                      start the server with --publish-token to publish from elsewhere";
        return Err(Refusal::new(403, detail));
    }
    Ok(())
}

/// Whether a browser says that a page of another origin made it send this.
/// `null` is the origin of a page that has none to show.
pub(super) fn is_foreign_origin(request: &Request) -> bool {
    let Some(origin) = request.header("origin") else { return false };
    std::str::from_utf8(origin).map_or(true, |origin| is_foreign(request, origin))
}

/// Whether an origin is not the one that the request was sent to.
fn is_foreign(request: &Request, origin: &str) -> bool {
    let ours = || {
        let (scheme, authority) = origin.split_once("://")?;
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

/// The origin of an http URL, without what follows its authority.
fn origin_of(url: &str) -> Option<&str> {
    let start = url.find("://")? + 3;
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |end| start + end);
    Some(&url[..end])
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
