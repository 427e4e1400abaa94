//! Allows access by pages of other origins (the CORS protocol of the Fetch standard).
//!
//! Pages of any origin can read the demo streams, but not with credentials. By default, only pages
//! of the server's own origin can read the other routes; such pages need no CORS headers. With
//! `--cors-origin`, pages of the named origins can read all routes, with credentials. With
//! `--cors-origin *`, pages of all origins can read all routes, without credentials.

use super::answer::{Answer, Headers};
use super::config::CorsOrigins;
use super::exchange::Exchange;
use super::mercure::reserved::EXPOSED;

/// Request headers, besides the CORS-safelisted ones, that a page of another origin may send.
const HEADERS: &str = "Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID";

/// Returns the headers that allow a page of the request's origin to read the response.
pub(super) fn headers(exchange: &Exchange<'_>) -> Headers {
    let request = &exchange.request;
    let origins = &exchange.server.config.cors_origins;
    let mut headers = Headers::new();
    let named = request.text("origin").filter(|_| origins.names(request));
    if let Some(origin) = named {
        headers.push(("Access-Control-Allow-Origin", origin.to_owned().into()));
        headers.push(("Access-Control-Allow-Credentials", "true".into()));
    } else if exchange.any_origin || *origins == CorsOrigins::Any {
        headers.push(("Access-Control-Allow-Origin", "*".into()));
    }
    if !headers.is_empty() {
        match exchange.browser {
            Some(browser) => {
                headers.push(("Access-Control-Expose-Headers", browser.exposed.into()));
            }
            None if exchange.server.config.mercure.is_on() => {
                headers.push(("Access-Control-Expose-Headers", EXPOSED.into()));
            }
            None => {}
        }
    }
    if let Some(browser) = exchange.browser {
        headers.extend(browser.always.iter().map(|(name, value)| (*name, (*value).into())));
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
pub(super) fn preflight(exchange: &Exchange<'_>, allow: String) -> Answer {
    let answer = Answer::new(204).with("Allow", allow.clone());
    if exchange.request.header("access-control-request-method").is_none() {
        return answer;
    }
    // The demo streams allow the methods that the tutorial's server allows.
    let methods = if exchange.any_origin { "GET, POST, PUT, DELETE".to_owned() } else { allow };
    let more = exchange.server.config.cors_headers.iter().map(String::as_str);
    let of_path = exchange.browser.map(|browser| browser.allowed);
    let headers: Vec<&str> = std::iter::once(HEADERS).chain(of_path).chain(more).collect();
    answer
        .with("Access-Control-Allow-Methods", methods)
        .with("Access-Control-Allow-Headers", headers.join(", "))
        .with("Access-Control-Max-Age", "86400")
}
