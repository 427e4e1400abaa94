//! Where events are kept so that they outlive the process.
//!
//! A registry without a store keeps its events in its rings alone. With one, its
//! sequencer hands every batch to the store before anybody sees it, and the
//! rings are filled from the store at the start. The rings are still the only
//! thing ever read by a stream.
//!
//! The store gives the ids. A `file` is one node's own: it counts on, and what it
//! has kept enters the rings at once. A log in `redis` is shared between nodes: it
//! says what of a request is new, and events enter the rings of every node, the
//! publisher's own too, as they are read back from it.
//!
//! Nothing here knows a socket, or who listens.

mod disk;
pub(crate) mod file;
mod inspect;
mod key;
mod quiet;
pub(crate) mod redis;
pub(crate) mod tables;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::file::File;
pub use self::inspect::{ChannelStats, Stats, export, stats};
pub(crate) use self::key::Key;
pub use self::redis::{RedisUrl, StoreAt};
use crate::error::PublishError;
use crate::event::Event;
use crate::id::EventId;

/// Who keeps events for one node alone.
pub(crate) trait Store: fmt::Debug + Send {
    /// Keeps these events and lets go of what is lost, all of it or nothing, and
    /// gives the events' ids, in the order of ids. Once it returns, no crash and
    /// no power cut takes it back.
    ///
    /// After an error it can be tried again.
    fn append(
        &mut self,
        records: &[Record],
        losses: &[Eviction],
    ) -> Result<Vec<EventId>, PublishError>;

    /// Puts the house in order, while no publisher waits.
    fn tidy(&mut self) {}
}

/// One event, with all that a registry has to know of it after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) channel: Arc<str>,
    /// When it came, since 1970 more or less: it never goes back.
    pub(crate) at: Duration,
    pub(crate) event: Event,
    /// The idempotency key of the batch that it is the last of.
    pub(crate) key: Option<Key>,
    /// What its publisher was answered, to be answered again. A count of 0 is a presence event:
    /// the server itself has published it, and nobody was answered.
    pub(crate) subscribers: usize,
    pub(crate) count: usize,
    /// `None`: it is of its channel alone, and for everybody.
    pub(crate) reach: Option<Arc<Reach>>,
}

/// Where else an event is, and who may read it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Reach {
    pub(crate) private: bool,
    /// Its topics besides its channel, in their order.
    pub(crate) others: Vec<Arc<str>>,
    /// Those of all its topics whose rings have let it go: a store says so of what it
    /// kept.
    pub(crate) gone: Vec<Arc<str>>,
}

impl Record {
    /// All its topics, the first one first.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        let others = self.reach.iter().flat_map(|reach| &reach.others);
        std::iter::once(&self.channel).chain(others)
    }

    /// The channels in whose rings it is.
    pub(crate) fn channels(&self) -> impl Iterator<Item = &Arc<str>> {
        let gone = self.reach.as_ref().map_or(&[][..], |reach| &reach.gone);
        self.topics().filter(|topic| !gone.contains(topic))
    }

    /// Whether it announces who comes or goes.
    pub(crate) fn is_presence(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn is_private(&self) -> bool {
        self.reach.as_ref().is_some_and(|reach| reach.private)
    }
}

/// Something that need not be kept any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Eviction {
    /// An event has left its ring. That there was one is not forgotten.
    Event { channel: Arc<str>, id: EventId, at: Duration, who: Readers },
    /// An idle channel is forgotten. What is remembered is the floor alone, below
    /// which any channel may have lost something.
    Channel { channel: Arc<str>, floor: Floor },
}

/// Who may learn that an event is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Everybody: it was public.
    All,
    /// Those who may read private events of its channel, which was its only topic.
    OfChannel,
    /// The same, and those who may read one of its other topics.
    OfTopics,
}

/// Up to which events are lost: private and public ones, and the public ones alone.
/// A reader that may not read private events must learn nothing but the latter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Floor {
    /// The newest lost event.
    pub(crate) all: EventId,
    /// The newest lost event that was public, at most `all`.
    pub(crate) public: EventId,
    /// Whether a private one had several topics.
    pub(crate) other_topics: bool,
}

impl Floor {
    /// The floor where it is not known which of the lost events were private.
    pub(crate) fn unknown(id: EventId) -> Self {
        Self { all: id, public: id, other_topics: false }
    }

    /// The floor below one lost event.
    pub(crate) fn of(id: EventId, who: Readers) -> Self {
        let public = if who == Readers::All { id } else { EventId::ZERO };
        Self { all: id, public, other_topics: who == Readers::OfTopics }
    }

    /// The floor of two sets of lost events.
    #[must_use]
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            all: self.all.max(other.all),
            public: self.public.max(other.public),
            other_topics: self.other_topics | other.other_topics,
        }
    }

    /// Whether a private event is the newest that is lost.
    pub(crate) fn hides_some(self) -> bool {
        self.public < self.all
    }
}

/// What a channel has lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) channel: Arc<str>,
    pub(crate) floor: Floor,
    /// When the newest of the lost events came, and the newest public one.
    pub(crate) at: Duration,
    pub(crate) public_at: Duration,
}

/// What a store remembers besides the events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Kept {
    /// The newest id there has been.
    pub(crate) last: EventId,
    pub(crate) floor: Floor,
    /// Of each channel that has lost events, which.
    pub(crate) lost: Vec<Lost>,
}
