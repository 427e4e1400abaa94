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
use crate::recipes::Recipe;

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
    /// Exactly these, written as browsers write them: `https://a.example:8443`.
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
        matches!(self, Self::These(these) if these.iter().any(|known| known == origin))
    }
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
    answer
        .with("Access-Control-Allow-Methods", methods)
        .with("Access-Control-Allow-Headers", HEADERS)
        .with("Access-Control-Max-Age", "86400")
}

fn is_recipe(request: &Request) -> bool {
    let parts: Vec<&str> = request.segments.iter().map(String::as_str).collect();
    Recipe::at(&parts).is_some() || parts == ["send-data"]
}
