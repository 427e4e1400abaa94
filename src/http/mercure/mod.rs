//! The Mercure protocol, in both its generations: the current draft
//! (draft-dunglas-mercure-08, as of August 2026) and 0.x (draft-07). Its topics are
//! channels: what is published in one way reaches the subscribers of the other.
//!
//! Only with `--mercure`; without it these paths are 404, which names the flag. What is
//! served and where it differs from the drafts is told in `docs/mercure.md`.

pub(crate) mod publish;
mod reserved;
mod subscribe;
mod subscriptions;

use serde_json::json;
use tiny_http::Method;

pub(super) use self::reserved::{check_event_name, is_reserved};
pub(super) use self::subscriptions::{Active, Subscriptions};
use super::access::COOKIE;
use super::answer::Answer;
use super::connection::Exchange;
use super::error::HttpError;
use super::forwarded::is_trusted;
use super::routes::Reply;
use crate::jwt::DETAIL_TYPE;
use crate::matcher::Base;

/// The path of the hub, which every path of the protocol begins with.
const HUB: &str = "/.well-known/mercure";

/// How a page tells its reader where the hub is.
pub(super) const LINK: &str = "</.well-known/mercure>; rel=\"mercure\"";

/// The headers of ours that a page of another origin may read.
pub(super) const EXPOSED: &str = "Link, Mercure-Last-Event-ID, Last-Event-ID";

/// Answers a request to one of the protocol's paths.
#[inline(never)] // or its frame would lie under every stream
pub(super) fn answer(
    exchange: &mut Exchange<'_>,
    parts: &[&str],
    method: &Method,
) -> Result<Reply, HttpError> {
    match (parts, method) {
        ([_, "mercure"], Method::Post) => publish::publish(exchange),
        ([_, "mercure"], _) => subscribe::subscribe(exchange),
        ([_, "mercure", "subscriptions", which @ ..], _) => subscriptions::tell(exchange, which),
        _ => Ok(Reply::Answer(metadata(exchange))),
    }
}

/// The URL that relative topics and URL patterns are resolved against: the one that tokens
/// name, or else the one that the request was sent to.
#[inline(never)] // or its frame would lie under every stream
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

/// What a client has to know to get a token for this server (RFC 9728).
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
    if config.mercure.tells() {
        document["mercure_subscriptions"] = true.into();
    }
    Answer::json(&document)
}
