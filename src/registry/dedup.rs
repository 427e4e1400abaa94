//! What publishers called their events: their own ids, and the keys by which a
//! repeated request is known to be one.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::Published;
use crate::error::PublishError;
use crate::id::EventId;
use crate::store::Key;

/// The names of one channel's kept events.
#[derive(Debug, Default)]
pub(super) struct DedupIndex {
    own: HashMap<Arc<str>, Published>,
    keys: HashMap<Key, Published>,
}

/// The names of one event, to be forgotten with it.
#[derive(Debug, Clone, Default)]
pub(super) struct DedupEntry {
    pub(super) own: Option<Arc<str>>,
    pub(super) key: Option<Key>,
}

impl DedupIndex {
    /// The event that a publisher called so.
    pub(super) fn own(&self, id: &str) -> Option<EventId> {
        self.own.get(id).map(|published| published.id)
    }

    /// What was answered to the first request that published an event with this id.
    pub(super) fn answered(&self, own: &str) -> Option<Published> {
        self.own.get(own).copied()
    }

    /// What was answered to the first request with this key. Fails if that request published
    /// something else.
    pub(super) fn repeated(&self, key: &Key) -> Result<Option<Published>, PublishError> {
        match self.keys.get_key_value(key) {
            Some((first, _)) if !first.fits(key) => Err(PublishError::KeyReused),
            first => Ok(first.map(|(_, published)| *published)),
        }
    }

    /// Every own id, and every key.
    pub(super) fn names(&self) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let keys = self.keys.keys().map(|key| Arc::from(key.name()));
        (self.own.keys().cloned().collect(), keys.collect())
    }

    pub(super) fn add(&mut self, mark: &DedupEntry, published: Published) {
        if let Some(own) = &mark.own {
            self.own.insert(Arc::clone(own), published);
        }
        if let Some(key) = &mark.key {
            self.keys.insert(key.clone(), published);
        }
    }

    pub(super) fn forget(&mut self, mark: &DedupEntry) {
        if let Some(own) = &mark.own {
            self.own.remove(own);
            shrink(&mut self.own);
        }
        if let Some(key) = &mark.key {
            self.keys.remove(key);
            shrink(&mut self.keys);
        }
    }
}

/// An index that held many names once does not keep the room for them.
fn shrink<K: Eq + Hash>(index: &mut HashMap<K, Published>) {
    if index.capacity() > 32.max(4 * index.len()) {
        index.shrink_to(2 * index.len());
    }
}
