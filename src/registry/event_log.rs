//! The interface between the registry and the place where its events are kept.
//!
//! Without a store, the events are only in the rings: the publisher's thread adds them itself (see
//! [`publish`](super::publish)), and there is no log. Any other place is an [`EventLog`]: a file or a
//! log that several nodes share. The modules in `store` implement it; the registry imports none of
//! them.
//!
//! ```text
//!  publisher ──▶ Registry ─ EventLog::publish ────▶ thread of the log ──▶ file or shared log
//!  reply     ◀──────────────────────────────────────┤
//!  read      ◀── rings ◀─── Registry::append ───────┘ once the log has the events
//! ```
//!
//! A log fills the rings at the start with `Restoring`, and later with `Registry::append`: see
//! [`publish`](super::publish).
//!
//! # Invariants
//!
//! * **A log calls `Registry::append` only with events that it has.** So no subscriber sees an
//!   event that a crash could undo.
//! * **Events enter the rings in the order of their ids.**
//! * **A hole in the log is reported.** It empties the rings, and every subscriber whose position
//!   is before the hole gets a gap event.
//! * **The registry's lock is not held during I/O.**

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::history::{Floor, Visibility};
use super::update::{Key, Published, Update};
use crate::error::PublishError;
use crate::event::Event;
use crate::id::EventId;

/// A place where events are kept besides the rings.
///
/// Its threads write the events, and call `Registry::append` once the log has them.
pub(crate) trait EventLog: fmt::Debug + Send + Sync {
    /// Publishes an update with valid topics, and waits until the log has its events.
    ///
    /// `readers` is the number of streams that may read the events, if they are private.
    fn publish(
        &self,
        update: &Update<'_>,
        readers: Option<usize>,
    ) -> Result<Published, PublishError>;

    /// Deletes a channel's history from the log and then from the ring, and waits for that.
    ///
    /// Returns whether the channel existed.
    fn forget(&self, channel: &str) -> Result<bool, PublishError>;

    /// Publishes a presence event. Does not wait for the log, but fails if its queue is full.
    ///
    /// Called only if [`report_presence`](Self::report_presence) returns `false`.
    fn publish_presence(&self, channel: &str, event: &Event) -> Result<(), PublishError> {
        let _ = (channel, event);
        Ok(())
    }

    /// Reports that a name joins or leaves a channel on this node, if nodes share the log.
    ///
    /// Only such a log knows whether the name is also present on another node, so the log publishes
    /// the event. Returns whether it does so. Must not block: the caller holds the registry's lock,
    /// so that the log gets the changes in the order in which they happened.
    fn report_presence(&self, channel: &Arc<str>, name: &str, joins: bool) -> bool {
        let _ = (channel, name, joins);
        false
    }

    /// Deletes soon what the rings have evicted, if the log keeps exactly what the rings have.
    fn delete_evicted(&self) {}

    /// Whether the log can be reached; `None` if it belongs to this node alone.
    fn is_reachable(&self) -> Option<bool> {
        None
    }
}

/// An item that the log has, for the rings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LogItem {
    /// An event.
    Event(EventId, Record),
    /// An order to all nodes to forget a channel's history, up to this floor.
    Forget(EventId, Arc<str>, Floor),
    /// A hole in the log: an unknown number of entries up to this id is missing.
    Lost(EventId),
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
    /// A channel whose last event was `id` goes on.
    End { channel: Arc<str>, id: EventId },
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

/// The data that a log has besides the events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct StoreMeta {
    /// The newest id that the store has assigned.
    pub(crate) last: EventId,
    pub(crate) floor: Floor,
    /// The channels that have lost events.
    pub(crate) lost: Vec<ChannelLosses>,
    /// The channels that have ended, each with the id and the time of its last event.
    pub(crate) ended: Vec<(Arc<str>, EventId, Duration)>,
}

/// What a ring has of a channel's history, for a log that deletes it.
#[derive(Debug, Default)]
pub(crate) struct KeptHistory {
    pub(crate) events: BTreeMap<EventId, Visibility>,
    /// The client-supplied ids of the events.
    pub(crate) own_ids: Vec<Arc<str>>,
    /// The idempotency keys, as the publishers sent them.
    pub(crate) keys: Vec<Arc<str>>,
}
