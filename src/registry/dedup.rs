//! The dedup index recognises events and requests that were published before.
//!
//! An event is recognised by its client-supplied id, and a request by its idempotency key.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::Published;
use crate::error::PublishError;
use crate::id::EventId;
use crate::store::Key;

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
            Some((first, _)) if !first.fits(key) => Err(PublishError::KeyReused),
            first => Ok(first.map(|(_, published)| *published)),
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
            self.keys.insert(key.clone(), published);
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
