//! Allows access by pages of other origins (the CORS protocol of the Fetch standard).
//!
//! Pages of any origin can read the demo streams, but not with credentials. By default, only pages
//! of the server's own origin can read the other routes; such pages need no CORS headers. With
//! `--cors-origin`, pages of the named origins can read all routes, with credentials. With
//! `--cors-origin *`, pages of all origins can read all routes, without credentials.

use super::answer::{Answer, Headers};
use super::connection::Exchange;
use super::mercure;
use super::request::Request;
use crate::demo::DemoStream;

/// Request headers, besides the CORS-safelisted ones, that a page of another origin may send.
const HEADERS: &str = "Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID";

/// The other origins whose pages may use the server (`--cors-origin`).
///
/// ```
/// use threadcast::{Config, CorsOrigins};
///
/// let cors_origins = CorsOrigins::These(vec!["https://app.example.org".into()]);
/// let config = Config { cors_origins, ..Config::default() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CorsOrigins {
    /// No other origin: only pages of the server's own origin can read its channels.
    #[default]
    Own,
    /// The origins in this list, which may read and publish with credentials.
    ///
    /// The syntax is that of the `Origin` header: `https://a.example:8443`. In
    /// `https://*.a.example` the `*` stands for one or more labels.
    These(Vec<String>),
    /// All origins, which may read without credentials.
    Any,
}

impl CorsOrigins {
    /// Returns whether the list in [`These`](Self::These) contains the request's `Origin`.
    pub(super) fn names(&self, request: &Request) -> bool {
        request.text("origin").is_some_and(|origin| self.has(origin))
    }

    /// Returns whether the list in [`These`](Self::These) contains this origin.
    pub(super) fn has(&self, origin: &str) -> bool {
        matches!(self, Self::These(these) if these.iter().any(|known| fits(known, origin)))
    }
}

/// Returns whether `pattern` matches this origin.
///
/// A `*` at the start of the host matches one or more labels.
fn fits(pattern: &str, origin: &str) -> bool {
    let Some((scheme, parent)) = pattern.split_once("://*.") else { return pattern == origin };
    let host = origin.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
    let labels = host.and_then(|host| host.strip_suffix(parent)?.strip_suffix('.'));
    labels.is_some_and(|labels| {
        labels.split('.').all(|label| {
            let is_of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            !label.is_empty() && label.bytes().all(is_of_a_name)
        })
    })
}

/// Returns the headers that allow a page of the request's origin to read the response.
pub(super) fn headers(exchange: &Exchange<'_>) -> Headers {
    let request = &exchange.request;
    let origins = &exchange.server.config.cors_origins;
    let mut headers = Headers::new();
    let named = request.text("origin").filter(|_| origins.names(request));
    if let Some(origin) = named {
        headers.push(("Access-Control-Allow-Origin", origin.to_owned().into()));
        headers.push(("Access-Control-Allow-Credentials", "true".into()));
    } else if is_demo(request) || *origins == CorsOrigins::Any {
        headers.push(("Access-Control-Allow-Origin", "*".into()));
    }
    if exchange.server.config.mercure.is_on() && !headers.is_empty() {
        headers.push(("Access-Control-Expose-Headers", mercure::EXPOSED.into()));
    }
    if matches!(origins, CorsOrigins::These(_)) {
        headers.push(("Vary", "Origin".into()));
    }
    headers
}

/// Returns the response to OPTIONS.
///
/// The response names the methods of the path. For a preflight, it also names the headers that the
/// page may send.
pub(super) fn preflight(exchange: &Exchange<'_>, allow: &'static str) -> Answer {
    let answer = Answer::new(204).with("Allow", allow);
    if exchange.request.header("access-control-request-method").is_none() {
        return answer;
    }
    // The demo streams allow the methods that the server in their tutorial allows.
    let methods = if is_demo(&exchange.request) { "GET, POST, PUT, DELETE" } else { allow };
    let more = exchange.server.config.cors_headers.iter().map(String::as_str);
    let headers: Vec<&str> = std::iter::once(HEADERS).chain(more).collect();
    answer
        .with("Access-Control-Allow-Methods", methods)
        .with("Access-Control-Allow-Headers", headers.join(", "))
        .with("Access-Control-Max-Age", "86400")
}

fn is_demo(request: &Request) -> bool {
    let parts: Vec<&str> = request.segments.iter().map(String::as_str).collect();
    DemoStream::at(&parts).is_some() || parts == ["send-data"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_matches_whole_labels_only() {
        let pattern = "https://*.a.example:8443";
        for origin in ["https://x.a.example:8443", "https://x-1.y_2.a.example:8443"] {
            assert!(fits(pattern, origin), "{origin}");
        }
        for origin in [
            "https://a.example:8443",
            "https://.a.example:8443",
            "https://x..a.example:8443",
            "https://xa.example:8443",
            "https://x.a.example",
            "https://x.a.example:84430",
            "http://x.a.example:8443",
            "xhttps://x.a.example:8443",
            "https://evil.example/.a.example:8443",
            "https://evil.example:1.a.example:8443",
            "https://evil@x.a.example:8443",
            "https://*.a.example:8443",
            "null",
            "",
        ] {
            assert!(!fits(pattern, origin), "{origin}");
        }
    }
}
