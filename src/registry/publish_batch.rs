//! A batch of publish requests: the new events, and the pending reply to each publisher.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::publish_queue::PublishRequest;
use super::state::HubState;
use super::{Published, RegistryOptions};
use crate::error::PublishError;
use crate::event::Event;
use crate::id::EventId;
use crate::store::{Key, Record};

/// The new events of a batch, to be written to the store.
#[derive(Default)]
pub(super) struct PublishBatch {
    pub(super) records: Vec<Record>,
    /// The channels of the records. They are held until the store has answered, so that no other
    /// request evicts them before the events are in their rings.
    pub(super) held: Vec<Arc<str>>,
}

/// The reply to a publisher, which can be completed once the store has the batch.
pub(super) enum PendingReply {
    /// The request is a repeat. This is the result of the first request with its key.
    Known(Published),
    /// The request is new. `last` will give the id of its last event.
    New { last: Last, subscribers: usize, count: usize },
}

/// The last event of a request, from which the reply gets its id.
#[derive(Clone, Copy)]
pub(super) enum Last {
    /// The event is a repeat. This is the id of the first event with its client-supplied id.
    Known(EventId),
    /// The event is new. This is its index in the batch.
    New(usize),
}

impl PublishBatch {
    /// Adds the new events of a request, by the same rules as
    /// [`Registry::publish_update`] without a store.
    ///
    /// [`Registry::publish_update`]: super::Registry::publish_update
    pub(super) fn add(
        &mut self,
        request: PublishRequest,
        state: &mut HubState,
        at: Duration,
        options: &RegistryOptions,
    ) -> Result<PendingReply, PublishError> {
        let topics: Vec<Arc<str>> = request.topics().cloned().collect();
        let PublishRequest { channel, events, key, reach, presence, subscribers, .. } = request;
        if let Some(key) = &key
            && let Some(first) = state.published_with_key(&topics, key)?
        {
            return Ok(PendingReply::Known(first));
        }
        state.make_all(&topics, at, options)?;
        state.hold(&topics);
        let count = || topics.iter().map(|topic| state.count(topic, None)).sum();
        let subscribers = subscribers.unwrap_or_else(count);
        for topic in &topics {
            state.ensure_stored(topic);
        }
        self.held.extend(topics.iter().cloned());
        let count = if presence { 0 } else { events.len() };
        let begin = self.records.len();
        let mut last = Last::New(begin);
        let mut own_ids: HashMap<String, usize> = HashMap::new();
        for event in events {
            let place = self.records.len();
            if let Some(own) = event.id() {
                let known = state.published_with_id(&topics, own);
                let known = known.map(|published| Last::Known(published.id));
                if let Some(known) = known.or_else(|| own_ids.get(own).copied().map(Last::New)) {
                    last = known;
                    continue;
                }
                own_ids.insert(own.to_owned(), place);
            }
            last = Last::New(place);
            let channel = Arc::clone(&channel);
            let reach = reach.clone();
            self.records.push(Record { channel, at, event, key: None, subscribers, count, reach });
        }
        if let Some(newest) = self.records[begin..].last_mut() {
            // The newest event of the request carries the key, so the key is kept until that event
            // is evicted.
            newest.key = key;
        }
        Ok(PendingReply::New { last, subscribers, count })
    }
}

impl PendingReply {
    /// Completes the reply with the ids that the store gave, or with its error.
    pub(super) fn complete(
        self,
        ids: &Result<Vec<EventId>, PublishError>,
    ) -> Result<Published, PublishError> {
        let (last, subscribers, count) = match self {
            Self::Known(published) => return Ok(published),
            Self::New { last, subscribers, count } => (last, subscribers, count),
        };
        let ids = ids.as_ref().map_err(Clone::clone)?;
        let id = match last {
            Last::Known(id) => id,
            Last::New(place) => ids[place],
        };
        Ok(Published { id, subscribers, count })
    }
}

/// The client-supplied ids and idempotency keys of one batch, each with its channel.
///
/// Repeats are looked up in the channels' dedup indexes, which a batch enters only at its end. So
/// two requests with the same id or key must not be in one batch.
#[derive(Default)]
pub(super) struct BatchNames(HashSet<(Arc<str>, Name)>);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Name {
    Own(Box<str>),
    Key(Key),
}

impl BatchNames {
    /// Adds the ids and the key of a request, and returns `true`. If the batch has one of them
    /// already, adds none and returns `false`.
    pub(super) fn add(&mut self, request: &PublishRequest) -> bool {
        let own = request.events.iter().filter_map(Event::id).map(|own| Name::Own(own.into()));
        let key = request.key.iter().map(|key| Name::Key(key.clone()));
        let names = own
            .chain(key)
            .flat_map(|name| request.topics().map(move |topic| (Arc::clone(topic), name.clone())));
        let names: HashSet<_> = names.collect();
        let is_new = self.0.is_disjoint(&names);
        if is_new {
            self.0.extend(names);
        }
        is_new
    }
}
