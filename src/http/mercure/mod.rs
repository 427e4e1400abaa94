//! Serves the Mercure protocol, in both generations.
//!
//! The generations are the current draft (draft-dunglas-mercure-08, as of August 2026) and 0.x
//! (draft-07). Topics are channels: an event that is published with the Mercure protocol also
//! reaches the subscribers of the server's own API, and vice versa. Without `--mercure`, the paths
//! of the protocol return 404, and the response names the flag. `docs/mercure.md` lists what the
//! server implements and where it differs from the drafts.

mod list;
pub(crate) mod publish;
pub(super) mod reserved;
mod subscribe;
pub(super) mod subscriptions;

use serde_json::json;

pub(super) use self::list::list;
pub(super) use self::publish::publish;
pub(super) use self::subscribe::subscribe;
use super::access::COOKIE;
use super::answer::Answer;
use super::exchange::Exchange;
use crate::mercure::jwt::DETAIL_TYPE;

/// `GET /.well-known/oauth-protected-resource/.well-known/mercure`: returns the metadata that a
/// client needs to get a token for this server (RFC 9728).
#[inline(never)] // inlining would enlarge the stack of every stream
pub(super) fn metadata(exchange: &Exchange<'_>) -> Answer {
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
