//! Keeps the active Mercure subscriptions, and publishes subscription events.
//!
//! With `--mercure-subscriptions`, the hub publishes a private update when a subscription begins
//! and when it ends.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::reserved::{EVENT_NAME, HUB};
use crate::error::PublishError;
use crate::event::Event;
use crate::http::error::HttpError;
use crate::mercure::jwt::Rights;
use crate::registry::{Matcher, NAME_MAX, Registry, Update};

/// The characters to percent-encode in a path segment: all but the unreserved ones
/// (RFC 6570 §3.2.2).
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The JSON-LD context of documents of 0.x.
pub(super) const CONTEXT: &str = "https://mercure.rocks/";

/// The maximum number of subscriptions that are read under one lock while a list is sent.
const PAGE: usize = 64;

/// One topic matcher of a subscriber.
#[derive(Debug, PartialEq)]
pub(super) struct Selected {
    /// The match type in the current generation; `None` in 0.x, which has only one match type.
    pub(super) kind: Option<&'static str>,
    pub(super) matcher: Matcher,
}

/// All active subscriptions: their documents, by topic. Clones are the same table.
#[derive(Debug, Clone, Default)]
pub(in crate::http) struct Subscriptions(Arc<Mutex<BTreeMap<String, Arc<Value>>>>);

impl Subscriptions {
    /// Returns the document of the subscription with this topic, if it is active.
    pub(super) fn get(&self, topic: &str) -> Option<Arc<Value>> {
        self.lock().get(topic).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Value>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns up to [`PAGE`] documents after the topic `last` whose topics begin with `prefix`.
    pub(super) fn page(&self, prefix: &str, last: &str) -> Vec<Arc<Value>> {
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
    hub: Registry,
    active: Subscriptions,
    topics: Vec<String>,
}

impl StreamSubscriptions {
    /// Adds these subscriptions to the active ones, and publishes that they begin.
    ///
    /// If the beginning of a subscription cannot be published, the function fails and ends the
    /// subscriptions before it.
    pub(super) fn begin(
        hub: &Registry,
        active: &Subscriptions,
        selected: &[Selected],
        rights: Option<&Rights>,
    ) -> Result<Self, HttpError> {
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
        // Reserves the channels of all subscriptions, or of none, before anything is published.
        let _reserved = hub.reserve(&topics)?;
        let mut begun = Self { hub: hub.clone(), active: active.clone(), topics: Vec::new() };
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
            // The subscription is listed before it is published, so that a client which reads the
            // list and then subscribes from the list's id misses no subscription.
            active.lock().insert(topic.clone(), Arc::new(document.clone()));
            if let Err(error) = publish(hub, topic, &document) {
                active.lock().remove(topic);
                return Err(error.into());
            }
            begun.topics.push(topic.clone());
        }
        Ok(begun)
    }
}

impl Drop for StreamSubscriptions {
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    fn drop(&mut self) {
        for topic in &self.topics {
            let Some(document) = self.active.lock().remove(topic) else { continue };
            let mut document = Arc::unwrap_or_clone(document);
            document["active"] = false.into();
            if let Err(error) = publish(&self.hub, topic, &document) {
                log::warn!("failed to publish the end of a Mercure subscription: {error}");
            }
        }
    }
}

/// Publishes a subscription event as a private update. In the current generation, this event has
/// the reserved event type.
fn publish(hub: &Registry, topic: &str, document: &Value) -> Result<(), PublishError> {
    let mut event = Event::new(document.to_string());
    if !is_older(document) {
        event = event.with_name(EVENT_NAME).expect("the name has no line break");
    }
    let update = Update { topics: &[topic], events: &[event], private: true, key: None };
    hub.publish_update(&update).map(drop)
}

/// Returns the topic of a subscription, which is also the path of its document.
///
/// With fewer parts, returns the path of a list of subscriptions.
pub(super) fn topic(parts: &[&str]) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_a_subscription_topic_is_encoded_once() {
        let expected = "/.well-known/mercure/subscriptions/exact/a%2Fb%3A%25c%20%C3%BC~-._%7Bd%7D";
        assert_eq!(topic(&["exact", "a/b:%c ü~-._{d}"]), expected);
    }
}
