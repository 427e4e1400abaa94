//! Deduplication recognises events and requests that were published before.
//!
//! An event is recognised by its client-supplied id, and a request by its idempotency key. Both are
//! known for as long as the history of one of the topics has the event that carries them.
//!
//! [`HubState::new_events`] decides which events of a request are new, with and without a file
//! store. With a shared Redis, `publish.lua` decides by the same rules, but knows ids and keys for
//! the history's age, even if the event is evicted earlier. `tests/dedup.rs` compares the three.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::Published;
use super::state::HubState;
use crate::error::PublishError;
use crate::event::Event;
use crate::id::EventId;
use crate::store::Key;

/// The result of checking a request for repeats.
pub(super) enum Checked<E> {
    /// The request is a repeat. This is the result of the first request with its key.
    Repeat(Published),
    /// The request is new. So are these of its events, in their order. `last` gives the id for the
    /// reply.
    New { events: Vec<E>, last: Last },
}

/// The last event of a request, from which the reply gets its id.
#[derive(Clone, Copy)]
pub(super) enum Last {
    /// The event is a repeat. This is the id of the first event with its client-supplied id.
    Known(EventId),
    /// The event is new, or repeats a new event of the same request. This is the index of that
    /// event among the new events.
    New(usize),
}

impl Last {
    /// The event's id. `id_of` returns the id of a new event.
    pub(super) fn id(self, id_of: impl FnOnce(usize) -> EventId) -> EventId {
        match self {
            Self::Known(id) => id,
            Self::New(place) => id_of(place),
        }
    }
}

impl HubState {
    /// Finds the new events of a request, which has at least one event.
    ///
    /// If the history of any topic has the request's key, the whole request is a repeat. If the
    /// history of any topic has an event's client-supplied id, or an earlier event of the request
    /// has it, the event is a repeat.
    ///
    /// Fails if the key was used for other events.
    pub(super) fn new_events<E: Borrow<Event>>(
        &self,
        topics: &[impl AsRef<str>],
        key: Option<&Key>,
        events: impl IntoIterator<Item = E>,
    ) -> Result<Checked<E>, PublishError> {
        if let Some(key) = key
            && let Some(first) = self.published_with_key(topics, key)?
        {
            return Ok(Checked::Repeat(first));
        }
        let (mut new, mut last) = (Vec::new(), Last::New(0));
        let mut own_ids: HashMap<Box<str>, usize> = HashMap::new();
        for event in events {
            if let Some(own) = event.borrow().id() {
                if let Some(first) = self.published_with_id(topics, own) {
                    last = Last::Known(first.id);
                    continue;
                }
                if let Some(place) = own_ids.get(own) {
                    last = Last::New(*place);
                    continue;
                }
                own_ids.insert(own.into(), new.len());
            }
            last = Last::New(new.len());
            new.push(event);
        }
        Ok(Checked::New { events: new, last })
    }

    /// Returns the result of the first request that published an event with this client-supplied id
    /// to any of these channels.
    fn published_with_id(&self, topics: &[impl AsRef<str>], own: &str) -> Option<Published> {
        let mut channels = topics.iter().filter_map(|topic| self.channels.get(topic.as_ref()));
        channels.find_map(|channel| channel.dedup.by_id(own))
    }

    /// Returns the result of the first request with this key to any of these channels. Fails if
    /// that request published other events.
    pub(super) fn published_with_key(
        &self,
        topics: &[impl AsRef<str>],
        key: &Key,
    ) -> Result<Option<Published>, PublishError> {
        for topic in topics {
            if let Some(channel) = self.channels.get(topic.as_ref())
                && let Some(first) = channel.dedup.by_key(key)?
            {
                return Ok(Some(first));
            }
        }
        Ok(None)
    }
}

/// The client-supplied ids and idempotency keys of one channel's kept events.
#[derive(Debug, Default)]
pub(super) struct DedupIndex {
    own: HashMap<Arc<str>, Published>,
    keys: HashMap<Key, Published>,
}

/// The index entries of one event. They are removed when the event leaves the ring.
#[derive(Debug, Clone, Default)]
pub(super) struct DedupEntry {
    pub(super) own: Option<Arc<str>>,
    pub(super) key: Option<Key>,
}

impl DedupIndex {
    /// The server's id of the event with this client-supplied id.
    pub(super) fn event_id(&self, own: &str) -> Option<EventId> {
        self.own.get(own).map(|published| published.id)
    }

    /// The result of the first request that published an event with this client-supplied id.
    pub(super) fn by_id(&self, own: &str) -> Option<Published> {
        self.own.get(own).copied()
    }

    /// The result of the first request with this key. Fails if that request published other events.
    pub(super) fn by_key(&self, key: &Key) -> Result<Option<Published>, PublishError> {
        match self.keys.get_key_value(key) {
            Some((first, published)) if first.fits(key) => Ok(Some(*published)),
            Some(_) => Err(PublishError::KeyReused),
            None => Ok(None),
        }
    }

    /// Returns all client-supplied ids, and all idempotency keys as the publishers sent them.
    pub(super) fn ids_and_keys(&self) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let keys = self.keys.keys().map(|key| Arc::from(key.name()));
        (self.own.keys().cloned().collect(), keys.collect())
    }

    pub(super) fn add(&mut self, entry: &DedupEntry, published: Published) {
        if let Some(own) = &entry.own {
            self.own.insert(Arc::clone(own), published);
        }
        if let Some(key) = &entry.key {
            let id = key.reply_id(published.id);
            self.keys.insert(key.clone(), Published { id, ..published });
        }
    }

    pub(super) fn forget(&mut self, entry: &DedupEntry) {
        if let Some(own) = &entry.own {
            self.own.remove(own);
            shrink(&mut self.own);
        }
        if let Some(key) = &entry.key {
            self.keys.remove(key);
            shrink(&mut self.keys);
        }
    }
}

/// Releases memory that the index needed when it was larger.
fn shrink<K: Eq + Hash>(index: &mut HashMap<K, Published>) {
    if index.capacity() > 32.max(4 * index.len()) {
        index.shrink_to(2 * index.len());
    }
}
