//! What publishers called their events: their own ids, and the keys by which a
//! repeated request is known to be one.

use std::collections::HashMap;
use std::sync::Arc;

use super::Published;
use crate::id::EventId;

/// The names of one channel's kept events.
#[derive(Debug, Default)]
pub(super) struct Marks {
    own: HashMap<Arc<str>, Published>,
    keys: HashMap<Arc<str>, Published>,
}

/// The names of one event, to be forgotten with it.
#[derive(Debug, Clone, Default)]
pub(super) struct Mark {
    pub(super) own: Option<Arc<str>>,
    pub(super) key: Option<Arc<str>>,
}

impl Marks {
    /// The event that a publisher called so.
    pub(super) fn own(&self, id: &str) -> Option<EventId> {
        self.own.get(id).map(|published| published.id)
    }

    /// What was answered to the first request with this key, or of this id.
    pub(super) fn answered(&self, key: Option<&str>, own: Option<&str>) -> Option<Published> {
        let by_key = key.and_then(|key| self.keys.get(key));
        by_key.or_else(|| own.and_then(|own| self.own.get(own))).copied()
    }

    /// Every own id, and every key.
    pub(super) fn names(&self) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        (self.own.keys().cloned().collect(), self.keys.keys().cloned().collect())
    }

    pub(super) fn add(&mut self, mark: &Mark, published: Published) {
        if let Some(own) = &mark.own {
            self.own.insert(Arc::clone(own), published);
        }
        if let Some(key) = &mark.key {
            self.keys.insert(Arc::clone(key), published);
        }
    }

    pub(super) fn forget(&mut self, mark: &Mark) {
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
fn shrink(index: &mut HashMap<Arc<str>, Published>) {
    if index.capacity() > 32.max(4 * index.len()) {
        index.shrink_to(2 * index.len());
    }
}
