//! An update is a batch of events that are published together to one or several channels.
//!
//! An event that was published before is recognised by its client-supplied id, and a request by its
//! idempotency key. Both are known for as long as the history of one of the topics has the event
//! that carries them.
//!
//! `HubState::new_events` decides which events of a request are new, with and without a file store.
//! With a shared Redis, `publish.lua` decides by the same rules, but knows ids and keys for the
//! history's age, even if the event is evicted earlier. `tests/cluster/dedup.rs` compares the three.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::error::PublishError;
use crate::event::Event;
use crate::id::EventId;

/// The maximum number of topics of one event.
pub(crate) const TOPICS_MAX: usize = 100;

/// A batch of events, each published to all of its topics.
///
/// ```
/// use threadcast::{Channels, Event, Registry, Start, Update};
///
/// let registry = Registry::new();
/// let both = registry.subscribe(&Channels::new(["books", "news"])?, &Start::Now)?;
/// let events = [Event::new("a new book")];
/// let update = Update { topics: &["books", "news"], events: &events, private: false, key: None };
/// assert_eq!(registry.publish_update(&update)?.count, 1); // one event, with one id
/// # drop(both);
/// # Ok::<(), threadcast::PublishError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// The channels of the events: the first is the canonical topic, the others are
    /// alternates. A repeated topic counts once.
    pub topics: &'a [&'a str],
    /// The events, in the order in which they are published.
    pub events: &'a [Event],
    /// Whether the events are private: only streams with permission receive them. See
    /// [`Readable`](super::Readable).
    pub private: bool,
    /// The idempotency key: see [`Registry::publish_all`](super::Registry::publish_all).
    pub key: Option<&'a str>,
}

/// The result of [`Registry::publish`](super::Registry::publish).
///
/// ```
/// use threadcast::{Event, Registry};
///
/// let batch = [Event::new("one"), Event::new("two")];
/// let published = Registry::new().publish_all("numbers", &batch, None)?;
/// assert_eq!((published.id.n, published.count, published.subscribers), (2, 2, 0));
/// # Ok::<(), threadcast::PublishError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The id that the server assigned; for several events, the id of the last one.
    pub id: EventId,
    /// How many streams were subscribed to the channel.
    pub subscribers: usize,
    /// How many events were published.
    pub count: usize,
}

/// The result of checking a request for repeats.
pub(crate) enum Checked<E> {
    /// The request is a repeat. This is the result of the first request with its key.
    Repeat(Published),
    /// The request is new. So are these of its events, in their order. `last` gives the id for the
    /// reply.
    New { events: Vec<E>, last: Last },
}

/// The last event of a request, from which the reply gets its id.
#[derive(Clone, Copy)]
pub(crate) enum Last {
    /// The event is a repeat. This is the id of the first event with its client-supplied id.
    Known(EventId),
    /// The event is new, or repeats a new event of the same request. This is the index of that
    /// event among the new events.
    New(usize),
}

impl Last {
    /// The event's id. `id_of` returns the id of a new event.
    pub(crate) fn id(self, id_of: impl FnOnce(usize) -> EventId) -> EventId {
        match self {
            Self::Known(id) => id,
            Self::New(place) => id_of(place),
        }
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

/// Separates the parts of a key in a store. A key cannot contain this character, because no header
/// value can.
const SEPARATOR: char = '\0';

/// The first character of the part that gives the reply's id.
const REPLY: char = '=';

/// The length of a fingerprint, in hex digits.
const DIGITS: usize = 16;

/// An idempotency key as a store keeps it: the key, NUL, and the fingerprint.
///
/// If the last event of the request is a repeat, NUL and the reply's id follow. This id is
/// `=EPOCH-N`, or `=-N` for the id that is `N` before that of the event that carries the key.
///
/// The fingerprint is 16 hex digits. A key that an older version of threadcast stored has no
/// fingerprint, and fits any request. Two keys are equal if their names (the texts that the
/// publishers sent) are equal, even if their fingerprints differ.
#[derive(Debug, Clone)]
pub(crate) struct Key(Arc<str>);

impl Key {
    /// The key of a request that publishes these events.
    pub(crate) fn new(name: &str, events: &[Event], private: bool) -> Self {
        let mut stored = String::with_capacity(name.len() + 1 + DIGITS);
        let print = fingerprint(events, private);
        // Writing to a String cannot fail.
        let _ = write!(stored, "{name}{SEPARATOR}{print:0DIGITS$x}");
        Self(stored.into())
    }

    /// Creates a key from text that [`stored`](Self::stored) returned.
    pub(crate) fn from_stored(stored: &str) -> Self {
        Self(stored.into())
    }

    pub(crate) fn stored(&self) -> &str {
        &self.0
    }

    /// Adds the reply's id, because it is not that of the event that carries the key.
    #[must_use]
    pub(crate) fn with_reply_id(&self, id: EventId) -> Self {
        Self(format!("{}{SEPARATOR}{REPLY}{id}", self.0).into())
    }

    /// Records in the key how far the reply's id is before the id of the event that has the key.
    #[must_use]
    pub(crate) fn with_reply_before(&self, distance: usize) -> Self {
        Self(format!("{}{SEPARATOR}{REPLY}-{distance}", self.0).into())
    }

    /// The reply's id. `carrier` is the id of the event that carries the key.
    pub(crate) fn reply_id(&self, carrier: EventId) -> EventId {
        let Some(reply) = self.parts().2 else { return carrier };
        let id = match reply.strip_prefix('-') {
            Some(distance) => {
                let distance = distance.parse::<u64>().ok();
                let n = distance.and_then(|distance| carrier.n.checked_sub(distance));
                n.map(|n| EventId { n, ..carrier })
            }
            None => reply.parse().ok(),
        };
        id.unwrap_or(carrier)
    }

    /// The key as the publisher sent it.
    pub(crate) fn name(&self) -> &str {
        self.parts().0
    }

    /// The fingerprint in hex; `None` if an older version of threadcast stored the key.
    pub(crate) fn fingerprint(&self) -> Option<&str> {
        self.parts().1
    }

    /// Whether both keys can belong to the same request. A missing fingerprint fits any other.
    pub(crate) fn fits(&self, other: &Self) -> bool {
        self.fingerprint().zip(other.fingerprint()).is_none_or(|(one, two)| one == two)
    }

    /// The name, the fingerprint and the reply's id.
    fn parts(&self) -> (&str, Option<&str>, Option<&str>) {
        let (rest, reply) = match self.0.rsplit_once(SEPARATOR) {
            Some((rest, reply)) if reply.starts_with(REPLY) => (rest, Some(&reply[1..])),
            _ => (&*self.0, None),
        };
        match rest.rsplit_once(SEPARATOR) {
            Some((name, print)) if print.len() == DIGITS => (name, Some(print), reply),
            _ => (&self.0, None, None),
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        self.name()
    }
}

/// Computes the 64-bit FNV-1a hash of everything that subscribers would receive.
///
/// The hash of the same events must never change, because stores keep it. It need not resist
/// attacks: a publisher that creates a collision harms only itself.
fn fingerprint(events: &[Event], private: bool) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    add(&[u8::from(private)]);
    for event in events {
        let retry = event.retry().map(|retry| retry.as_millis().to_string());
        for text in [Some(event.data()), event.name(), event.id(), retry.as_deref()] {
            // Hash the length too, so that different splits of the same bytes differ.
            add(&text.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
            add(text.unwrap_or_default().as_bytes());
        }
        if event.is_end() {
            add(b"end");
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_key_is_read_back_unchanged() {
        let key = Key::new("k ü", &[Event::new("x")], false);
        let again = Key::from_stored(key.stored());
        assert_eq!((again.name(), again.fingerprint()), ("k ü", key.fingerprint()));
        let older = Key::from_stored("k ü");
        assert_eq!((older.name(), older.fingerprint()), ("k ü", None));
        assert!(older == key && older.fits(&key) && key.fits(&older));
    }

    #[test]
    fn a_stored_key_gives_the_id_of_the_reply() {
        let carrier = EventId { epoch: 1_764_386_176_123, n: 45 };
        let known = EventId { n: 41, ..carrier };
        let key = Key::new("k", &[Event::new("x")], false);
        for (key, id) in [
            (key.clone(), carrier),
            (key.with_reply_id(known), known),
            (key.with_reply_before(4), known),
            (key.with_reply_before(46), carrier), // threadcast cannot have written this
        ] {
            let again = Key::from_stored(key.stored());
            assert_eq!((again.name(), again.reply_id(carrier)), ("k", id));
            assert!(again.fingerprint().is_some() && again.fingerprint() == key.fingerprint());
        }
        assert_eq!(Key::from_stored("k").reply_id(carrier), carrier);
    }

    #[test]
    fn a_fingerprint_covers_everything_that_is_published() {
        let event = Event::new("x");
        let all = [
            (vec![event.clone()], false),
            (vec![event.clone()], true),
            (vec![event.clone(), Event::new("")], false),
            (vec![Event::new("y")], false),
            (vec![Event::new("")], false),
            (vec![Event::new("").with_name("x").unwrap()], false),
            (vec![Event::new("").with_id("x").unwrap()], false),
            (vec![event.clone().with_retry(std::time::Duration::ZERO)], false),
            (vec![event.with_end()], false),
        ];
        let prints: std::collections::HashSet<u64> =
            all.iter().map(|(events, private)| fingerprint(events, *private)).collect();
        assert_eq!(prints.len(), all.len());
        // Existing stores contain fingerprints, so the fingerprint of the same events must never
        // change.
        assert_eq!(fingerprint(&[Event::new("hello")], false), 10_892_765_705_434_266_970);
    }
}
