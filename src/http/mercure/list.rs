//! Serves the API that lists the active Mercure subscriptions.

use std::iter;
use std::sync::Arc;

use serde_json::{Value, json};

use super::reserved::{EVENT_NAME, LINK};
use super::subscriptions::{CONTEXT, Subscriptions, topic};
use crate::http::access::{Api, ReadAccess};
use crate::http::answer::{Answer, list_pieces};
use crate::http::error::HttpError;
use crate::http::exchange::Exchange;
use crate::http::reply::Reply;
use crate::id::EventId;

/// Answers `GET /.well-known/mercure/subscriptions` and the paths below it.
///
/// The path decides the generation of the response. The path that lists all subscriptions is the
/// same in both generations, so there the token decides the generation.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(in crate::http) fn list(exchange: &Exchange<'_>, parts: &[&str]) -> Result<Reply, HttpError> {
    let path = topic(parts);
    let reader = ReadAccess::of(exchange, Api::Mercure)?;
    reader.check_private(exchange, &path)?;
    let is_older = match parts {
        [] => reader.rights().is_some_and(|rights| rights.is_older),
        ["exact" | "urlpattern", _] | [_, _, _] => false,
        _ => true,
    };
    let hub = &exchange.server.hub;
    let last = hub.last_id();
    // While there is no event, a local id ends in 0, and the id of the shared log is 0-0.
    let shared = hub.is_shared();
    let nothing_yet = if shared { last == EventId::ZERO } else { last.n == 0 };
    let last = if nothing_yet { "earliest".to_owned() } else { last.to_string() };
    let subscriptions = exchange.server.subscriptions.as_ref().ok_or_else(none)?;
    let one = subscriptions.get(&path);
    if one.is_none() && is_one(parts) {
        return Err(none());
    }
    // `last` was read before the list, so that a client which subscribes from this id gets every
    // change that the list may lack.
    let add_id = |document: &mut Value| {
        if is_older {
            document["lastEventID"] = last.as_str().into();
        }
    };
    let content_type = if is_older { "application/ld+json" } else { "application/json" };
    let tag = format!("\"{last}\"");
    let answer = if !shared && exchange.request.has_token("if-none-match", &tag) {
        Answer::new(304)
    } else if let Some(one) = one {
        let mut document = Arc::unwrap_or_clone(one);
        add_id(&mut document);
        let answer = Answer::new(200).with("Content-Type", content_type);
        answer.with_body(document.to_string().into_bytes())
    } else {
        let mut document = if is_older {
            json!({ "@context": CONTEXT, "id": path, "type": "Subscriptions" })
        } else {
            json!({ "id": path, "type": "subscriptions" })
        };
        add_id(&mut document);
        let documents = below(subscriptions.clone(), path, parts);
        let answer = Answer::new(200).with("Content-Type", content_type);
        answer.with_pieces(list_pieces(&document, "subscriptions", documents))
    };
    let link = format!(
        "{LINK}; last-event-id=\"{last}\"; type=\"{EVENT_NAME}\"; content-type=\"application/json\""
    );
    let answer = answer.with("Link", if is_older { LINK.to_owned() } else { link });
    // With a shared log, the response has no ETag. Another node with the same last id lists other
    // subscriptions, so it must not validate this node's responses.
    let answer = if shared { answer } else { answer.with("ETag", tag) };
    Ok(Reply::Answer(answer.with("Cache-Control", "private, must-revalidate")))
}

/// Returns the documents below this path. The iterator reads them page by page.
fn below(
    subscriptions: Subscriptions,
    path: String,
    parts: &[&str],
) -> impl Iterator<Item = Arc<Value>> + Send + use<> {
    let parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
    let prefix = path + "/";
    let mut last = prefix.clone();
    let pages = iter::from_fn(move || {
        let page = subscriptions.page(&prefix, &last);
        page.last()?["id"].as_str()?.clone_into(&mut last);
        Some(page)
    });
    pages.flatten().filter(move |document| parts.is_empty() || is_of(document, &parts))
}

fn none() -> HttpError {
    HttpError::new(
        404,
        "no such subscription is active; GET /.well-known/mercure/subscriptions lists them",
    )
}

/// Returns whether a path names one subscription: `type/match/subscriber` in the current
/// generation, `topic/subscriber` in 0.x.
fn is_one(parts: &[&str]) -> bool {
    match parts {
        ["exact" | "urlpattern", _] => false,
        [_, _] | [_, _, _] => true,
        _ => false,
    }
}

/// Returns whether a document has the matcher of this path. The paths of documents with other
/// matchers can begin with this path too.
fn is_of(document: &Value, parts: &[String]) -> bool {
    match parts {
        [topic] => document["topic"] == *topic,
        [kind, text] => document["match_type"] == *kind && document["match"] == *text,
        _ => false,
    }
}
