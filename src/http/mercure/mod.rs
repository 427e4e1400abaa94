//! Serves the Mercure protocol, in both generations.
//!
//! The generations are the current draft (draft-dunglas-mercure-08, as of August 2026) and 0.x
//! (draft-07). Topics are channels: an event that is published with the Mercure protocol also
//! reaches the subscribers of the server's own API, and vice versa. Without `--mercure`, the paths
//! of the protocol return 404, and the response names the flag. `docs/mercure.md` lists what the
//! server implements and where it differs from the drafts.

pub(crate) mod publish;
mod reserved;
mod subscribe;
mod subscriptions;

use serde_json::json;
use tiny_http::Method;

pub(super) use self::reserved::{check_event_name, is_reserved};
pub(super) use self::subscriptions::{StreamSubscriptions, Subscriptions};
use super::access::COOKIE;
use super::answer::Answer;
use super::connection::Exchange;
use super::error::HttpError;
use super::forwarded::is_trusted;
use super::routes::Reply;
use crate::jwt::DETAIL_TYPE;
use crate::matcher::Base;

/// The path of the hub. All paths of the protocol begin with this path, except the path of the
/// metadata.
const HUB: &str = "/.well-known/mercure";

/// The `Link` header with which a page announces the hub.
pub(super) const LINK: &str = "</.well-known/mercure>; rel=\"mercure\"";

/// The response headers that a page of another origin may read.
pub(super) const EXPOSED: &str = "Link, Mercure-Last-Event-ID, Last-Event-ID";

/// Answers a request to one of the protocol's paths.
#[inline(never)] // inlining would enlarge the stack of every stream
pub(super) fn answer(
    exchange: &mut Exchange<'_>,
    parts: &[&str],
    method: &Method,
) -> Result<Reply, HttpError> {
    match (parts, method) {
        ([_, "mercure"], Method::Post) => publish::publish(exchange),
        ([_, "mercure"], _) => subscribe::subscribe(exchange),
        ([_, "mercure", "subscriptions", parts @ ..], _) => subscriptions::answer(exchange, parts),
        _ => Ok(Reply::Answer(metadata(exchange))),
    }
}

/// Returns the URL against which relative topics and URL patterns are resolved.
///
/// This is `--jwt-audience` if the flag is set, and otherwise the scheme and host that the request
/// was sent to.
#[inline(never)] // inlining would enlarge the stack of every stream
fn base(exchange: &Exchange<'_>) -> Base {
    let config = &exchange.server.config;
    if let Some(base) = config.jwt_audience.as_deref().and_then(Base::new) {
        return base;
    }
    let request = &exchange.request;
    let by_proxy = is_trusted(exchange.peer.ip().to_canonical(), &config.trusted_proxies);
    let is_https = request.text("x-forwarded-proto").is_some_and(|it| it == "https");
    let scheme = if by_proxy && is_https { "https" } else { "http" };
    let host = request.host.as_deref().unwrap_or_default();
    Base::new(&format!("{scheme}://{host}")).unwrap_or_default()
}

/// Returns the metadata that a client needs to get a token for this server (RFC 9728).
fn metadata(exchange: &Exchange<'_>) -> Answer {
    let config = &exchange.server.config;
    let mut document = json!({
        "resource": config.jwt_audience,
        "authorization_details_types_supported":
            [DETAIL_TYPE],
        "bearer_methods_supported": ["header"],
        "mercure_cookie": COOKIE,
        "mercure_matcher_types_supported": ["exact", "urlpattern"],
    });
    if config.mercure.has_subscriptions() {
        document["mercure_subscriptions"] = true.into();
    }
    Answer::json(&document)
}
