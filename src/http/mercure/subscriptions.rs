//! Publishes Mercure's subscription events, and serves the API that lists active subscriptions.
//!
//! With `--mercure-subscriptions`, the hub publishes a private update when a subscription begins
//! and when it ends.

use std::collections::BTreeMap;
use std::iter;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::reserved::EVENT_NAME;
use super::{HUB, LINK};
use crate::error::PublishError;
use crate::event::Event;
use crate::http::ServerState;
use crate::http::access::{Api, ReadAccess};
use crate::http::answer::Answer;
use crate::http::connection::Exchange;
use crate::http::error::HttpError;
use crate::http::listing;
use crate::http::routes::Reply;
use crate::id::EventId;
use crate::jwt::Rights;
use crate::matcher::Matcher;
use crate::registry::{NAME_MAX, Update};

/// The characters to percent-encode in a path segment: all but the unreserved ones
/// (RFC 6570 §3.2.2).
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The JSON-LD context of subscription documents in Mercure 0.x.
const CONTEXT: &str = "https://mercure.rocks/";

/// The maximum number of subscriptions that are read under one lock while a list is sent.
const PAGE: usize = 64;

/// One topic matcher of a subscriber.
#[derive(Debug, PartialEq)]
pub(super) struct Selected {
    /// The match type in the current generation; `None` in 0.x, which has only one match type.
    pub(super) kind: Option<&'static str>,
    pub(super) matcher: Matcher,
}

/// The JSON documents of all active subscriptions, by topic.
#[derive(Debug, Default)]
pub(in crate::http) struct Subscriptions(Mutex<BTreeMap<String, Arc<Value>>>);

impl Subscriptions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Value>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns at most [`PAGE`] documents: the first ones after the topic `last`, as long as their
    /// topics begin with `prefix`.
    fn page(&self, prefix: &str, last: &str) -> Vec<Arc<Value>> {
        let subscriptions = self.lock();
        let after = subscriptions.range::<str, _>((Excluded(last), Unbounded)).take(PAGE);
        let below = after.take_while(|(topic, _)| topic.starts_with(prefix));
        below.map(|(_, document)| Arc::clone(document)).collect()
    }
}

/// The subscriptions of one stream. Dropping this value ends the subscriptions, and publishes that
/// they ended.
#[must_use = "dropping this ends the subscriptions at once"]
pub(in crate::http) struct StreamSubscriptions {
    server: Arc<ServerState>,
    topics: Vec<String>,
}

impl StreamSubscriptions {
    /// Adds these subscriptions to the active ones, and publishes that they begin.
    ///
    /// Returns `None` without `--mercure-subscriptions`. If the beginning of a subscription cannot
    /// be published, the function fails and ends the subscriptions that it has already begun.
    pub(super) fn begin(
        server: &Arc<ServerState>,
        selected: &[Selected],
        rights: Option<&Rights>,
    ) -> Result<Option<Box<Self>>, HttpError> {
        let Some(subscriptions) = &server.subscriptions else { return Ok(None) };
        // The subscriber gets a random name, which does not identify the client.
        let subscriber = Uuid::new_v4().urn().to_string();
        let topic_of = |Selected { kind, matcher }: &Selected| {
            let parts: Vec<&str> =
                kind.iter().copied().chain([matcher.text(), &subscriber]).collect();
            topic(&parts)
        };
        let topics: Vec<String> = selected.iter().map(topic_of).collect();
        if topics.iter().any(|topic| topic.len() > NAME_MAX) {
            let detail = "a matcher is too long for a subscription event; shorten it, or start the \
                          server without --mercure-subscriptions";
            return Err(HttpError::new(400, detail));
        }
        // Before anything is published, this call reserves the channels of all subscriptions. If it
        // fails, no channel is reserved.
        let _reserved = server.hub.reserve(&topics)?;
        let mut begun = Box::new(Self { server: Arc::clone(server), topics: Vec::new() });
        for (Selected { kind, matcher }, topic) in selected.iter().zip(&topics) {
            let text = matcher.text();
            let mut document = json!({ "id": topic });
            if let Some(kind) = kind {
                document["type"] = "subscription".into();
                document["match_type"] = (*kind).into();
                document["match"] = text.into();
            } else {
                document["@context"] = CONTEXT.into();
                document["type"] = "Subscription".into();
                document["topic"] = text.into();
            }
            document["subscriber"] = subscriber.as_str().into();
            document["active"] = true.into();
            if let Some(payload) = rights.and_then(|rights| rights.payload(text)) {
                document["payload"] = payload.clone();
            }
            // The subscription is added to the list before its beginning is published, so that a
            // client which reads the list and then subscribes from the list's id misses no
            // subscription.
            subscriptions.lock().insert(topic.clone(), Arc::new(document.clone()));
            if let Err(error) = publish(server, topic, &document) {
                subscriptions.lock().remove(topic);
                return Err(error.into());
            }
            begun.topics.push(topic.clone());
        }
        Ok(Some(begun))
    }
}

impl Drop for StreamSubscriptions {
    #[inline(never)] // inlining would enlarge the stack of every stream
    fn drop(&mut self) {
        let Some(subscriptions) = &self.server.subscriptions else { return };
        for topic in &self.topics {
            let Some(document) = subscriptions.lock().remove(topic) else { continue };
            let mut document = Arc::unwrap_or_clone(document);
            document["active"] = false.into();
            if let Err(error) = publish(&self.server, topic, &document) {
                log::warn!("failed to publish the end of a Mercure subscription: {error}");
            }
        }
    }
}

/// Publishes a subscription event as a private update. In the current generation, this event has
/// the reserved event type.
fn publish(server: &ServerState, topic: &str, document: &Value) -> Result<(), PublishError> {
    let mut event = Event::new(document.to_string());
    if !is_older(document) {
        event = event.with_name(EVENT_NAME).expect("the name has no line break");
    }
    let update = Update { topics: &[topic], events: &[event], private: true, key: None };
    server.hub.publish_update(&update).map(drop)
}

/// Returns the topic of a subscription, which is also the path of its document.
///
/// If the last parts are left out, returns the path of a list of subscriptions.
fn topic(parts: &[&str]) -> String {
    let mut topic = format!("{HUB}/subscriptions");
    for part in parts {
        topic.push('/');
        topic.extend(utf8_percent_encode(part, PART));
    }
    topic
}

/// Returns whether a document is of Mercure 0.x. Only those documents have a field `topic`.
fn is_older(document: &Value) -> bool {
    document.get("topic").is_some()
}

/// Answers `GET /.well-known/mercure/subscriptions` and the paths below it.
///
/// The path decides the generation of the response. The path that lists all subscriptions is the
/// same in both generations, so there the token decides the generation.
pub(super) fn answer(exchange: &Exchange<'_>, parts: &[&str]) -> Result<Reply, HttpError> {
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
    // Until the first event, the last id of this node is `EPOCH-0`, and the last id of a shared log
    // is `0-0`.
    let shared = hub.reaches_the_log().is_some();
    let nothing_yet = if shared { last == EventId::ZERO } else { last.n == 0 };
    let last = if nothing_yet { "earliest".to_owned() } else { last.to_string() };
    let subscriptions = exchange.server.subscriptions.as_ref().ok_or_else(none)?;
    let one = subscriptions.lock().get(&path).cloned();
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
        let documents = below(exchange.server, path, parts);
        let answer = Answer::new(200).with("Content-Type", content_type);
        answer.with_pieces(listing::pieces(&document, "subscriptions", documents))
    };
    let link = format!(
        "{LINK}; last-event-id=\"{last}\"; type=\"{EVENT_NAME}\"; content-type=\"application/json\""
    );
    let answer = answer.with("Link", if is_older { LINK.to_owned() } else { link });
    // With a shared log, the response has no ETag. The tag would be the last id, but another node
    // lists other subscriptions with the same last id, so that node would wrongly confirm a list of
    // this node.
    let answer = if shared { answer } else { answer.with("ETag", tag) };
    Ok(Reply::Answer(answer.with("Cache-Control", "private, must-revalidate")))
}

/// Returns the documents below this path. The iterator reads them page by page.
fn below(
    server: &Arc<ServerState>,
    path: String,
    parts: &[&str],
) -> impl Iterator<Item = Arc<Value>> + Send + use<> {
    let parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
    let (server, prefix) = (Arc::clone(server), path + "/");
    let mut last = prefix.clone();
    let pages = iter::from_fn(move || {
        let page = server.subscriptions.as_ref()?.page(&prefix, &last);
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

/// Returns whether a document has the matcher of this path. This must be checked, because the path
/// of a document with another matcher can begin with this path too.
fn is_of(document: &Value, parts: &[String]) -> bool {
    match parts {
        [topic] => document["topic"] == *topic,
        [kind, text] => document["match_type"] == *kind && document["match"] == *text,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_a_subscription_topic_is_encoded_once() {
        let expected = "/.well-known/mercure/subscriptions/exact/a%2Fb%3A%25c%20%C3%BC~-._%7Bd%7D";
        assert_eq!(topic(&["exact", "a/b:%c ü~-._{d}"]), expected);
    }
}
