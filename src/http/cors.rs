//! What a page of another origin may read (the Fetch standard's CORS protocol).
//!
//! The recipes answer any origin, as the articles do, but never with
//! credentials. The rest answers its own alone, which takes no header at all.
//! `--cors-origin` opens everything to the origins it names, with credentials;
//! or to `*`, without.

use super::answer::{Answer, Headers};
use super::connection::Exchange;
use super::mercure;
use super::request::Request;
use crate::demo::DemoStream;

/// What a page may send besides what it always may.
const HEADERS: &str = "Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID";

/// The origins that `--cors-origin` names.
///
/// ```
/// use threadcast::{Config, CorsOrigins};
///
/// let cors_origins = CorsOrigins::These(vec!["https://app.example.org".into()]);
/// let config = Config { cors_origins, ..Config::default() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CorsOrigins {
    /// None: a page reads its own server's channels alone.
    #[default]
    Own,
    /// These, written as browsers write them: `https://a.example:8443`. In
    /// `https://*.a.example` the `*` stands for one label or more.
    These(Vec<String>),
    /// Every one, without credentials.
    Any,
}

impl CorsOrigins {
    /// Whether the request's Origin is one of these by name.
    pub(super) fn names(&self, request: &Request) -> bool {
        request.text("origin").is_some_and(|origin| self.has(origin))
    }

    /// Whether this origin is one of these by name.
    pub(super) fn has(&self, origin: &str) -> bool {
        matches!(self, Self::These(these) if these.iter().any(|known| fits(known, origin)))
    }
}

/// Whether `pattern` names this origin, itself or by `*` in place of the first labels of its host.
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

/// The headers by which a page of the request's origin may read the answer.
pub(super) fn headers(exchange: &Exchange<'_>) -> Headers {
    let request = &exchange.request;
    let origins = &exchange.server.config.cors_origins;
    let mut headers = Headers::new();
    let named = request.text("origin").filter(|_| origins.names(request));
    if let Some(origin) = named {
        headers.push(("Access-Control-Allow-Origin", origin.to_owned().into()));
        headers.push(("Access-Control-Allow-Credentials", "true".into()));
    } else if is_recipe(request) || *origins == CorsOrigins::Any {
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

/// The answer to OPTIONS: what the path answers to, and to a preflight what the
/// page may send.
pub(super) fn preflight(exchange: &Exchange<'_>, allow: &'static str) -> Answer {
    let answer = Answer::new(204).with("Allow", allow);
    if exchange.request.header("access-control-request-method").is_none() {
        return answer;
    }
    // A recipe allows what the article's B allows.
    let methods = if is_recipe(&exchange.request) { "GET, POST, PUT, DELETE" } else { allow };
    let more = exchange.server.config.cors_headers.iter().map(String::as_str);
    let headers: Vec<&str> = std::iter::once(HEADERS).chain(more).collect();
    answer
        .with("Access-Control-Allow-Methods", methods)
        .with("Access-Control-Allow-Headers", headers.join(", "))
        .with("Access-Control-Max-Age", "86400")
}

fn is_recipe(request: &Request) -> bool {
    let parts: Vec<&str> = request.segments.iter().map(String::as_str).collect();
    DemoStream::at(&parts).is_some() || parts == ["send-data"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_whole_labels() {
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
