//! Decides whether a request is local. Only a local request may publish without a token.
//!
//! [`Locality::of`] decides this once for each request, from everything that shows where the
//! request comes from: the accepted socket, the Host, the headers that name the page that sent the
//! request (`Origin`, `Sec-Fetch-Site`, `Referer`), the forwarding headers and the HTTP version.
//! Routes use only the result of this decision.
//!
//! Any page in the user's browser can reach a server on loopback. A page whose name resolves to
//! 127.0.0.1 (DNS rebinding) still sends its own name as the Host. The server recognises other
//! foreign pages by headers that browsers add and pages cannot change.
//!
//! The server cannot recognise a proxy that adds no header, speaks HTTP/1.1 and sends a loopback
//! name as the Host. So behind a proxy, publishing needs a token (`docs/proxies.md`).

use std::net::{IpAddr, Ipv6Addr};

use crate::http::config::Config;
use crate::http::error::HttpError;
use crate::http::forwarded::is_trusted;
use crate::http::request::Request;

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locality {
    /// A program on this machine, or a page of this server in a browser on this machine.
    Local,
    /// Another machine, or a proxy.
    Remote,
    /// A page of another origin whose request has an `Origin` header.
    ForeignOrigin,
    /// A page of another origin whose request has no `Origin` header, such as the request of an
    /// `<img>`, of a `fetch` with `no-cors`, or of a link.
    ForeignPage,
    /// A connection over loopback whose request has a Host that is not a name of this server.
    Misdirected,
}

impl Locality {
    /// Decides where a request comes from. `on_loopback` says whether the connection's listener is
    /// bound to loopback.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(in crate::http) fn of(
        request: &Request,
        peer: IpAddr,
        on_loopback: bool,
        config: &Config,
    ) -> Self {
        let peer = peer.to_canonical();
        // Only HTTP/1.0 may omit the Host. Browsers always send a Host, so a request without one is
        // not from a page.
        let name = request.host.as_deref().map(host_name);
        let is_loopback_host = name.is_none_or(is_loopback_name);
        let is_named = |name: &str| config.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(name));
        let is_ours = is_loopback_host || name.is_some_and(is_named);
        if !is_ours && (on_loopback || peer.is_loopback()) {
            return Self::Misdirected;
        }
        if let Some(page) = foreign_page(request, config) {
            return page;
        }
        let is_local = peer.is_loopback()
            && is_loopback_host
            && request.minor_version > 0 // nginx forwards requests as HTTP/1.0 by default
            && !is_trusted(peer, &config.trusted_proxies)
            && !request.header_names().any(is_forwarding);
        if is_local { Self::Local } else { Self::Remote }
    }

    /// Fails with 421 if the Host is foreign and the connection is over loopback.
    pub(in crate::http) fn check_host(self) -> Result<(), HttpError> {
        if self != Self::Misdirected {
            return Ok(());
        }
        let detail = "the Host is not a name of this server, and the connection is over loopback; \
                      use localhost, or start the server with --host NAME";
        Err(HttpError::new(421, detail))
    }

    /// Fails with 403 if the request's `Origin` is foreign, even if the request has a valid token.
    pub(in crate::http) fn check_origin(self) -> Result<(), HttpError> {
        if self != Self::ForeignOrigin {
            return Ok(());
        }
        let detail = "a page of another origin sent this and must not publish here; start the \
                      server with --cors-origin ORIGIN to allow it";
        Err(HttpError::new(403, detail))
    }

    /// Fails with 403 if a page of another origin sent the request.
    pub(in crate::http) fn check_page(self) -> Result<(), HttpError> {
        self.check_origin()?;
        if self != Self::ForeignPage {
            return Ok(());
        }
        let detail = "a page of another origin sent this (Sec-Fetch-Site, Referer) and must not \
                      act here; send the request from a page of this server or from a program";
        Err(HttpError::new(403, detail))
    }

    /// Fails with 403 if the request is not local.
    pub(in crate::http) fn check_local(self) -> Result<(), HttpError> {
        self.check_page()?;
        if self == Self::Local {
            return Ok(());
        }
        let detail = "only programs on this machine may publish here, and not through a proxy; \
                      start the server with --publish-token to publish from elsewhere";
        Err(HttpError::new(403, detail))
    }
}

/// Returns the kind of foreign page that sent the request; `None` if no foreign page sent it.
/// Origins of `--cors-origin` are not foreign.
///
/// Browsers send `Origin` with WebSocket and CORS requests, and with all methods except GET and
/// HEAD. They send `Sec-Fetch-Site` with every request. Older browsers lack `Sec-Fetch-Site`, but
/// may send `Referer`. A page from another port of this host is foreign: it has the same site, but
/// another origin.
fn foreign_page(request: &Request, config: &Config) -> Option<Locality> {
    let is_ours = |origin: &str| !is_foreign(request, origin) || config.cors_origins.has(origin);
    let text = |value| std::str::from_utf8(value).unwrap_or_default();
    if request.header("origin").is_some() {
        let is_foreign = !request.headers("origin").map(text).all(is_ours);
        return is_foreign.then_some(Locality::ForeignOrigin);
    }
    let is_foreign = if request.header("sec-fetch-site").is_some() {
        // `none` means that the user typed the address or opened a bookmark.
        !request.headers("sec-fetch-site").all(|site| matches!(site, b"same-origin" | b"none"))
    } else {
        let from = |referer| origin_of(text(referer)).is_some_and(is_ours);
        !request.headers("referer").all(from)
    };
    is_foreign.then_some(Locality::ForeignPage)
}

/// Returns whether this origin differs from the origin that the request was sent to.
///
/// Browsers send `null` for a page without an origin, which counts as different.
pub(super) fn is_foreign(request: &Request, origin: &str) -> bool {
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

/// Returns the origin of an HTTP URL: its scheme and authority.
pub(super) fn origin_of(url: &str) -> Option<&str> {
    let start = url.find("://")? + 3;
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |end| start + end);
    Some(&url[..end])
}

/// Headers that proxies, load balancers, CDNs and tunnels add to the requests that they forward.
///
/// A direct client sends none of them. A header that is on this list by mistake does little harm: a
/// client that sends it only needs a token.
const FORWARDING: [&str; 21] = [
    "ali-cdn-real-ip",
    "cdn-loop",
    "client-ip",
    "forwarded",
    "front-end-https",
    "incap-client-ip",
    "true-client-ip",
    "via",
    "wl-proxy-client-ip",
    "x-amzn-trace-id",
    "x-client-ip",
    "x-cloud-trace-context",
    "x-cluster-client-ip",
    "x-nginx-proxy",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-real-port",
    "x-rewrite-url",
    "x-scheme",
    "x-true-client-ip",
    "x-varnish",
];

/// Prefixes of further forwarding headers. For example, `x-forwarded` covers `X-Forwarded-For` and
/// `cf-` covers `CF-Connecting-IP`.
const FORWARDING_GROUPS: [&str; 20] = [
    "akamai-",
    "cf-",
    "cloudfront-",
    "fastly-",
    "fly-",
    "ngrok-",
    "proxy-",
    "tailscale-",
    "x-akamai-",
    "x-amz-cf-",
    "x-appengine-",
    "x-arr-",
    "x-azure-",
    "x-envoy-",
    "x-forwarded",
    "x-nf-",
    "x-ngrok-",
    "x-original-",
    "x-sucuri-",
    "x-vercel-",
];

fn is_forwarding(name: &str) -> bool {
    FORWARDING.contains(&name) || FORWARDING_GROUPS.iter().any(|group| name.starts_with(group))
}

/// Returns a Host without its port.
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
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::http::config::CorsOrigins;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const LAN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 7));
    const OTHER: &str = "http://other.example";

    fn request(head: &str) -> Box<Request> {
        Request::parse(format!("{head}\r\n\r\n").as_bytes()).unwrap().unwrap().0
    }

    fn config() -> Config {
        Config {
            hosts: vec!["box.example".into()],
            cors_origins: CorsOrigins::These(vec![OTHER.into()]),
            ..Config::default()
        }
    }

    /// Returns the locality of a request to `localhost:8844` over loopback, with these header
    /// lines.
    fn with(headers: &str) -> Locality {
        let head = format!("GET / HTTP/1.1\r\nHost: localhost:8844{headers}");
        Locality::of(&request(&head), HERE, true, &config())
    }

    #[test]
    fn locality_depends_on_host_and_socket() {
        use Locality::{Local, Misdirected, Remote};
        let mapped = IpAddr::V6(Ipv4Addr::new(127, 0, 0, 9).to_ipv6_mapped());
        for (host, peer, on_loopback, expected) in [
            ("localhost", HERE, true, Local),
            ("LOCALHOST.:1", HERE, false, Local),
            ("127.1.2.3", HERE, false, Local),
            ("[::1]:80", IpAddr::V6(Ipv6Addr::LOCALHOST), false, Local),
            ("[::ffff:127.0.0.1]", mapped, false, Local),
            ("localhost", LAN, false, Remote),
            ("evil.example", HERE, true, Misdirected),
            ("evil.example", HERE, false, Misdirected),
            ("evil.example", mapped, false, Misdirected),
            ("localhost.evil.example", HERE, false, Misdirected),
            ("192.168.1.7", HERE, false, Misdirected),
            ("", HERE, false, Misdirected),
            ("evil.example", LAN, false, Remote),
            // A proxy may also send a name given with `--host` as its Host, so such a name does not
            // make a request local.
            ("BOX.example:443", HERE, false, Remote),
            ("box.example", LAN, false, Remote),
        ] {
            let request = request(&format!("GET / HTTP/1.1\r\nHost: {host}"));
            let found = Locality::of(&request, peer, on_loopback, &config());
            assert_eq!(found, expected, "{host} from {peer}");
        }
        let older = request("GET / HTTP/1.0");
        assert_eq!(Locality::of(&older, HERE, true, &config()), Remote);
    }

    #[test]
    fn trusted_proxy_is_never_local() {
        let trusted = vec!["127.0.0.0/8".parse().unwrap()];
        let config = Config { trusted_proxies: trusted, ..Config::default() };
        let request = request("GET / HTTP/1.1\r\nHost: localhost");
        assert_eq!(Locality::of(&request, HERE, true, &config), Locality::Remote);
    }

    #[test]
    fn page_of_another_origin_is_recognised() {
        use Locality::{ForeignOrigin, ForeignPage, Local};
        for (headers, expected) in [
            ("", Local),
            ("Origin: http://localhost:8844", Local),
            ("Origin: https://LOCALHOST:8844", Local),
            ("Origin: http://other.example", Local),
            ("Origin: http://other.example\r\nSec-Fetch-Site: cross-site", Local),
            ("Origin: http://localhost", ForeignOrigin),
            ("Origin: http://127.0.0.1:8844", ForeignOrigin),
            ("Origin: x://localhost:8844", ForeignOrigin),
            ("Origin: null", ForeignOrigin),
            ("Origin:", ForeignOrigin),
            ("Origin: http://localhost:8844\r\nOrigin: http://a.example", ForeignOrigin),
            ("Sec-Fetch-Site: same-origin", Local),
            ("Sec-Fetch-Site: none", Local),
            ("Sec-Fetch-Site: same-site", ForeignPage),
            ("Sec-Fetch-Site: cross-site", ForeignPage),
            ("Sec-Fetch-Site:", ForeignPage),
            ("Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site", ForeignPage),
            ("Sec-Fetch-Site: cross-site\r\nReferer: http://localhost:8844/", ForeignPage),
            ("Referer: http://localhost:8844/lab.html?x#y", Local),
            ("Referer: http://other.example/a", Local),
            ("Referer: http://localhost:3000/", ForeignPage),
            ("Referer: https://evil.example", ForeignPage),
            ("Referer: about:client", ForeignPage),
        ] {
            assert_eq!(with(&format!("\r\n{headers}")), expected, "{headers}");
        }
    }

    #[test]
    fn forwarding_headers_of_all_vendors_are_recognised() {
        for name in [
            "Forwarded",
            "Via",
            "X-Real-IP",
            "X-Forwarded-For",
            "x-forwarded-host",
            "X-Original-Forwarded-For",
            "CDN-Loop",
            "CF-Connecting-IP",
            "CF-Ray",
            "True-Client-IP",
            "Fastly-Client-IP",
            "Fly-Client-IP",
            "Tailscale-User-Login",
            "X-Azure-ClientIP",
            "X-Amzn-Trace-Id",
            "X-Envoy-External-Address",
            "X-Sucuri-ClientIP",
            "WL-Proxy-Client-IP",
        ] {
            assert_eq!(with(&format!("\r\n{name}: x")), Locality::Remote, "{name}");
        }
        for name in ["X-Other", "X-Request-Id", "Traceparent", "Max-Forwards", "User-Agent"] {
            assert_eq!(with(&format!("\r\n{name}: x")), Locality::Local, "{name}");
        }
    }
}
