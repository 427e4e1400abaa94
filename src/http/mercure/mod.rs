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

use self::list::list;
use self::publish::publish;
use self::subscribe::subscribe;
use super::access::COOKIE;
use super::answer::Answer;
use super::config::Config;
use super::exchange::Exchange;
use super::reply::Reply;
use super::route::{Requirement, Route};
use crate::mercure::jwt::DETAIL_TYPE;

/// Returns the routes of the protocol.
pub(super) fn routes(config: &Config) -> Vec<Route> {
    let hub = Requirement {
        flags: &["--mercure"],
        is_met: config.mercure.is_on(),
        detail: "the Mercure protocol is off; start the server with --mercure",
    };
    let subscriptions = Requirement {
        flags: &["--mercure-subscriptions"],
        is_met: config.mercure.has_subscriptions(),
        detail: "reports of subscriptions are off; start the server with --mercure and \
                 --mercure-subscriptions",
    };
    let audience = Requirement {
        flags: &["--mercure", "--jwt-audience"],
        is_met: config.mercure.is_on() && config.jwt_audience.is_some(),
        detail: "the server has no metadata; start it with --mercure and --jwt-audience",
    };
    vec![
        Route::get("/.well-known/mercure", |it, _| subscribe(it)).needs(hub),
        Route::post("/.well-known/mercure", |it, _| publish(it)).needs(hub),
        Route::get("/.well-known/mercure/subscriptions", |it, path| list(it, path))
            .needs(subscriptions),
        Route::get("/.well-known/mercure/subscriptions/TOPIC", |it, path| list(it, path))
            .needs(subscriptions),
        Route::get("/.well-known/mercure/subscriptions/TYPE/MATCH", |it, path| list(it, path))
            .needs(subscriptions),
        Route::get("/.well-known/mercure/subscriptions/TYPE/MATCH/SUBSCRIBER", |it, path| {
            list(it, path)
        })
        .needs(subscriptions),
        Route::get("/.well-known/oauth-protected-resource/.well-known/mercure", |it, _| {
            Ok(Reply::Answer(metadata(it)))
        })
        .needs(audience),
    ]
}

/// `GET /.well-known/oauth-protected-resource/.well-known/mercure`: returns the metadata that a
/// client needs to get a token for this server (RFC 9728).
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
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
