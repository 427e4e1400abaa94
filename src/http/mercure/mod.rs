//! The Mercure protocol, in both its generations: the current draft
//! (draft-dunglas-mercure-08) and 0.x (draft-07). Its topics are our channels, so what
//! is published by one way is heard by the other.
//!
//! Only with `--mercure`; without it these paths are 404, which names the flag. What is
//! served and where it differs from the drafts is told in `docs/mercure.md`.

pub(crate) mod publish;
mod reserved;
mod subscribe;
mod subscriptions;

use serde_json::json;
use tiny_http::Method;

pub(super) use self::reserved::is_reserved;
pub(super) use self::subscriptions::{Active, Subscriptions};
use super::answer::Answer;
use super::connection::Exchange;
use super::refusal::Refusal;
use super::routes::Reply;

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
) -> Result<Reply, Refusal> {
    match (parts, method) {
        ([_, "mercure"], Method::Post) => publish::publish(exchange),
        ([_, "mercure"], _) => subscribe::subscribe(exchange),
        ([_, "mercure", "subscriptions", which @ ..], _) => subscriptions::tell(exchange, which),
        _ => Ok(Reply::Answer(metadata(exchange))),
    }
}

/// What a client has to know to get a token for this server (RFC 9728).
fn metadata(exchange: &Exchange<'_>) -> Answer {
    let config = &exchange.server.config;
    let mut document = json!({
        "resource": config.jwt_audience,
        "authorization_details_types_supported":
            ["mercure", "https://mercure.rocks/authorization-detail"],
        "bearer_methods_supported": ["header", "query"],
        "mercure_cookie": true,
    });
    if config.mercure.tells() {
        document["mercure_subscriptions"] = true.into();
    }
    Answer::json(&document)
}
