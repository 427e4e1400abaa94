//! Stores keep events after the process has ended.
//!
//! A registry without a store keeps events only in its rings, in memory: one ring for the last
//! events of each channel. With a store, the store writer gives every batch of events to the store
//! before any subscriber receives the batch; when the server starts, the rings are filled from the
//! store. Streams read only from the rings, with or without a store.
//!
//! A store assigns the ids of its events. There are two kinds of stores:
//!
//! * A store in a `file` belongs to one node. The store assigns consecutive ids, and the node adds
//!   each batch to its rings as soon as the store has committed the batch.
//! * A log in `redis` is shared between nodes. Redis decides which events of a publish request are
//!   new, and which repeat earlier events. Every node, including the publisher's, adds an event to
//!   its rings only when it reads the event from the log.
//!
//! The code in this module uses neither clients' sockets nor subscribers.

pub(crate) mod file;
mod key;
pub(crate) mod redis;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::file::File;
pub use self::file::{ChannelStats, Stats, export, stats};
pub(crate) use self::key::Key;
pub use self::redis::RedisUrl;
use crate::error::PublishError;
use crate::event::Event;
use crate::id::EventId;

/// The place where events are stored: a file or Redis.
///
/// ```
/// use threadcast::StoreAt;
///
/// assert!(matches!("history.redb".into(), StoreAt::File(_)));
/// assert!(matches!("redis://127.0.0.1".into(), StoreAt::Redis(_)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAt {
    /// A file that belongs to this node. It is created if it does not exist.
    File(PathBuf),
    /// A Redis server, shared by all nodes that use the same address.
    Redis(RedisUrl),
}

impl From<OsString> for StoreAt {
    /// Text that begins with a scheme of Redis, such as `redis://`, is the address of a Redis
    /// server; any other text is a file's path.
    fn from(text: OsString) -> Self {
        match text.to_str().and_then(RedisUrl::of) {
            Some(url) => Self::Redis(url),
            None => Self::File(text.into()),
        }
    }
}

impl From<PathBuf> for StoreAt {
    fn from(path: PathBuf) -> Self {
        path.into_os_string().into()
    }
}

impl From<&str> for StoreAt {
    fn from(text: &str) -> Self {
        OsString::from(text).into()
    }
}

/// A store that belongs to one node.
pub(crate) trait Store: fmt::Debug + Send {
    /// Stores the records and deletes the evicted events, in one transaction.
    ///
    /// Returns the ids of the records, in the order of `records`. Once this method returns `Ok`, no
    /// crash and no power cut can undo the transaction. After an error, the method can be called
    /// again.
    fn append(
        &mut self,
        records: &[Record],
        evictions: &[Eviction],
    ) -> Result<Vec<EventId>, PublishError>;

    /// Maintains the store. The store writer calls this method only after it has replied to the
    /// publishers.
    fn tidy(&mut self) {}
}

/// One event, with all its data that a registry needs after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) channel: Arc<str>,
    /// The time of publishing, since 1970. It never decreases, even if the clock is set back.
    pub(crate) at: Duration,
    pub(crate) event: Event,
    /// The idempotency key of the publish request. Of the new events in a request, only the last
    /// one has the key.
    pub(crate) key: Option<Key>,
    /// The numbers of subscribers and events in the reply to the publisher; repeats of the request
    /// get the same numbers. If `count` is 0, this is a presence event, which the server itself has
    /// published.
    pub(crate) subscribers: usize,
    pub(crate) count: usize,
    /// The topics besides the channel, and whether the event is private; `None` for a public event
    /// without other topics.
    pub(crate) reach: Option<Arc<Reach>>,
}

/// The other topics of an event, and whether it is private.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Reach {
    pub(crate) private: bool,
    /// The event's topics besides its channel, in the order of the request.
    pub(crate) others: Vec<Arc<str>>,
    /// The topics whose rings have evicted the event. A store sets this when it reads the event.
    pub(crate) gone: Vec<Arc<str>>,
}

impl Record {
    /// All topics of the event; its channel comes first.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        let others = self.reach.iter().flat_map(|reach| &reach.others);
        std::iter::once(&self.channel).chain(others)
    }

    /// The channels whose rings still have the event.
    pub(crate) fn channels(&self) -> impl Iterator<Item = &Arc<str>> {
        let gone = self.reach.as_ref().map_or(&[][..], |reach| &reach.gone);
        self.topics().filter(|topic| !gone.contains(topic))
    }

    /// Whether this is a presence event.
    pub(crate) fn is_presence(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn is_private(&self) -> bool {
        self.reach.as_ref().is_some_and(|reach| reach.private)
    }
}

/// An event or a channel that the store can delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Eviction {
    /// A channel's ring has evicted an event. The store keeps the id of the newest event that the
    /// channel has lost.
    Event { channel: Arc<str>, id: EventId, at: Duration, visibility: Visibility },
    /// The registry has removed an idle channel. Of this channel, the store keeps only the floor:
    /// the id up to which any channel may have lost events.
    Channel { channel: Arc<str>, floor: Floor },
}

/// Which subscribers may learn that an event is lost (evicted before they received it): those that
/// could have read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visibility {
    /// All subscribers: the event was public.
    Public,
    /// Readers of private events of the event's channel, which was its only topic.
    PrivateChannel,
    /// Readers of private events of the event's channel or of its other topics.
    PrivateTopics,
}

/// The ids up to which events may be lost: one id for all events, and one for public events.
///
/// A subscriber that may not read private events must learn only of lost public events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Floor {
    /// The newest lost event.
    pub(crate) all: EventId,
    /// The newest lost event that was public. It is never newer than `all`.
    pub(crate) public: EventId,
    /// Whether a lost private event had several topics.
    pub(crate) other_topics: bool,
}

impl Floor {
    /// The floor up to `id` if it is unknown which of the lost events were private. All of them
    /// count as public.
    pub(crate) fn unknown(id: EventId) -> Self {
        Self { all: id, public: id, other_topics: false }
    }

    /// The floor for the loss of one event.
    pub(crate) fn of(id: EventId, visibility: Visibility) -> Self {
        let public = if visibility == Visibility::Public { id } else { EventId::ZERO };
        Self { all: id, public, other_topics: visibility == Visibility::PrivateTopics }
    }

    /// Combines two floors: the result covers the lost events of both.
    #[must_use]
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            all: self.all.max(other.all),
            public: self.public.max(other.public),
            other_topics: self.other_topics | other.other_topics,
        }
    }

    /// Whether the newest lost event was private.
    pub(crate) fn hides_some(self) -> bool {
        self.public < self.all
    }
}

/// The lost events of one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChannelLosses {
    pub(crate) channel: Arc<str>,
    pub(crate) floor: Floor,
    /// When the newest lost event and the newest lost public event were published, since 1970.
    pub(crate) at: Duration,
    pub(crate) public_at: Duration,
}

/// The data that a store has besides the events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct StoreMeta {
    /// The newest id that the store has assigned.
    pub(crate) last: EventId,
    pub(crate) floor: Floor,
    /// The channels that have lost events.
    pub(crate) lost: Vec<ChannelLosses>,
}
