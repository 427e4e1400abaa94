//! Who listens, told to those who may know: by private updates when a subscription
//! begins and ends, and by an API. Only with `--mercure-subscriptions`.

use std::collections::BTreeMap;
use std::iter;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

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
use crate::jwt::{Rights, random_urn};
use crate::matcher::Matcher;
use crate::registry::{NAME_MAX, Update};

/// A part of a path, percent-encoded once: all but what is unreserved (RFC 6570 §3.2.2).
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What the terms of a document of 0.x mean.
const CONTEXT: &str = "https://mercure.rocks/";

/// The most subscriptions that are read under one hold of their lock.
const PAGE: usize = 64;

/// One topic matcher of a subscriber.
#[derive(Debug, PartialEq)]
pub(super) struct Selected {
    /// How the current generation calls its kind; `None` in 0.x, which has one.
    pub(super) kind: Option<&'static str>,
    pub(super) matcher: Matcher,
}

/// The subscriptions that are active: their documents, by their topics.
#[derive(Debug, Default)]
pub(in crate::http) struct Subscriptions(Mutex<BTreeMap<String, Arc<Value>>>);

impl Subscriptions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Value>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next few documents after this topic, of those whose topic begins so.
    fn page(&self, start: &str, last: &str) -> Vec<Arc<Value>> {
        let subscriptions = self.lock();
        let after = subscriptions.range::<str, _>((Excluded(last), Unbounded)).take(PAGE);
        let below = after.take_while(|(topic, _)| topic.starts_with(start));
        below.map(|(_, document)| Arc::clone(document)).collect()
    }
}

/// The subscriptions of one stream. Dropping it ends them, and says so.
#[must_use = "dropping this ends the subscriptions at once"]
pub(in crate::http) struct Active {
    server: Arc<ServerState>,
    topics: Vec<String>,
}

impl Active {
    /// Says that these begin, if anybody is to be told at all.
    ///
    /// Fails if that cannot be said; what was said of it is then taken back.
    pub(super) fn begin(
        server: &Arc<ServerState>,
        selected: &[Selected],
        rights: Option<&Rights>,
    ) -> Result<Option<Box<Self>>, HttpError> {
        let Some(subscriptions) = &server.subscriptions else { return Ok(None) };
        // It says nothing of who it is.
        let subscriber = random_urn();
        let topic_of = |Selected { kind, matcher }: &Selected| {
            let parts: Vec<&str> =
                kind.iter().copied().chain([matcher.text(), &subscriber]).collect();
            topic(&parts)
        };
        let topics: Vec<String> = selected.iter().map(topic_of).collect();
        if topics.iter().any(|topic| topic.len() > NAME_MAX) {
            let detail = "a matcher is too long to be announced as a subscription; \
                          shorten it, or have the server started without --mercure-subscriptions";
            return Err(HttpError::new(400, detail));
        }
        // Before the first is told: there is a channel for each of them, or for none.
        let _reserved = server.hub.reserve(&topics)?;
        let mut active = Box::new(Self { server: Arc::clone(server), topics: Vec::new() });
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
            // Listed first: who reads the list, and follows from the id it tells, misses none.
            subscriptions.lock().insert(topic.clone(), Arc::new(document.clone()));
            if let Err(error) = publish(server, topic, &document) {
                subscriptions.lock().remove(topic);
                return Err(error.into());
            }
            active.topics.push(topic.clone());
        }
        Ok(Some(active))
    }
}

impl Drop for Active {
    #[inline(never)] // or its frame would lie under every stream
    fn drop(&mut self) {
        let Some(subscriptions) = &self.server.subscriptions else { return };
        for topic in &self.topics {
            let Some(document) = subscriptions.lock().remove(topic) else { continue };
            let mut document = Arc::unwrap_or_clone(document);
            document["active"] = false.into();
            if let Err(error) = publish(&self.server, topic, &document) {
                log::warn!("failed to publish a subscription-ended update: {error}");
            }
        }
    }
}

/// Publishes a subscription event: privately, and in the current generation under the
/// reserved event name.
fn publish(server: &ServerState, topic: &str, document: &Value) -> Result<(), PublishError> {
    let mut event = Event::new(document.to_string());
    if !is_older(document) {
        event = event.with_name(EVENT_NAME).expect("a name without a line break");
    }
    let update = Update { topics: &[topic], events: &[event], private: true, key: None };
    server.hub.publish_update(&update).map(drop)
}

/// The topic of a subscription, which is the path of its document, or the path of several.
fn topic(parts: &[&str]) -> String {
    let mut topic = format!("{HUB}/subscriptions");
    for part in parts {
        topic.push('/');
        topic.extend(utf8_percent_encode(part, PART));
    }
    topic
}

/// Whether a subscription is one of 0.x, which names a topic, and no kind of matcher.
fn is_older(document: &Value) -> bool {
    document.get("topic").is_some()
}

/// `GET /.well-known/mercure/subscriptions` and what is below it.
///
/// The path says which generation the answer is of. That of all subscriptions is the same in
/// both: there the token says it.
pub(super) fn tell(exchange: &Exchange<'_>, parts: &[&str]) -> Result<Reply, HttpError> {
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
    // Ids of our own count from 0; Redis's only begin there.
    let shared = hub.reaches_the_log().is_some();
    let nothing_yet = if shared { last == EventId::ZERO } else { last.n == 0 };
    let last = if nothing_yet { "earliest".to_owned() } else { last.to_string() };
    let subscriptions = exchange.server.subscriptions.as_ref().ok_or_else(none)?;
    let one = subscriptions.lock().get(&path).cloned();
    if one.is_none() && is_one(parts) {
        return Err(none());
    }
    // The id is older than the list: who reads the list, and follows from the id, is told of
    // every change that the list may not have.
    let with_id = |document: &mut Value| {
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
        with_id(&mut document);
        let answer = Answer::new(200).with("Content-Type", content_type);
        answer.with_body(document.to_string().into_bytes())
    } else {
        let mut document = if is_older {
            json!({ "@context": CONTEXT, "id": path, "type": "Subscriptions" })
        } else {
            json!({ "id": path, "type": "subscriptions" })
        };
        with_id(&mut document);
        let chosen = chosen(exchange.server, path, parts);
        let answer = Answer::new(200).with("Content-Type", content_type);
        answer.with_pieces(listing::pieces(&document, "subscriptions", chosen))
    };
    let link = format!(
        "{LINK}; last-event-id=\"{last}\"; type=\"{EVENT_NAME}\"; content-type=\"application/json\""
    );
    let answer = answer.with("Link", if is_older { LINK.to_owned() } else { link });
    // Another node that has come as far lists others: its answer must not pass for this one.
    let answer = if shared { answer } else { answer.with("ETag", tag) };
    Ok(Reply::Answer(answer.with("Cache-Control", "private, must-revalidate")))
}

/// The documents below this path, read while the iterator is.
fn chosen(
    server: &Arc<ServerState>,
    path: String,
    parts: &[&str],
) -> impl Iterator<Item = Arc<Value>> + Send + use<> {
    let parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
    let (server, below) = (Arc::clone(server), path + "/");
    let mut last = below.clone();
    let pages = iter::from_fn(move || {
        let page = server.subscriptions.as_ref()?.page(&below, &last);
        page.last()?["id"].as_str()?.clone_into(&mut last);
        Some(page)
    });
    pages.flatten().filter(move |document| parts.is_empty() || is_of(document, &parts))
}

fn none() -> HttpError {
    HttpError::new(
        404,
        "there is no such subscription now; GET /.well-known/mercure/subscriptions lists them",
    )
}

/// Whether a path is of one subscription, and not of several: of the current
/// generation, `type/match/subscriber`; of 0.x, `topic/subscriber`.
fn is_one(parts: &[&str]) -> bool {
    match parts {
        ["exact" | "urlpattern", _] => false,
        [_, _] | [_, _, _] => true,
        _ => false,
    }
}

/// Whether a document is of just this matcher, not of one that goes on behind it.
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
    fn a_topic_is_encoded_once_and_as_a_whole() {
        let expected = "/.well-known/mercure/subscriptions/exact/a%2Fb%3A%25c%20%C3%BC~-._%7Bd%7D";
        assert_eq!(topic(&["exact", "a/b:%c ü~-._{d}"]), expected);
    }
}
