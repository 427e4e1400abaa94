//! What a stream reads: the events of channels, or another log.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::event::Framing;
use crate::id::EventId;
use crate::registry::{self, Batch, Channels, Notifier, Position, Registry, Subscription};

/// How many bytes one read of the registry takes at most: enough that a burst of events costs one
/// `write`, and few enough that the read soon releases the registry's lock.
pub(crate) const READ_LIMIT: usize = 64 * 1024;

/// What a stream reads, with its position.
#[derive(Debug)]
pub(crate) enum Source {
    /// The events of channels, from a registry.
    Channels(Box<Subscription>),
    /// Another log.
    Log(Box<dyn Follow>),
}

/// A position in a log that is not a channel.
///
/// Streams at the same position of the same log receive the same bytes.
pub(crate) trait Follow: fmt::Debug + Send + Sync {
    /// Identifies the log.
    fn log_id(&self) -> u64;

    /// The position: everything before it has been read.
    fn position(&self) -> u64;

    /// Whether no other reader reaches the position, which is where this one has begun. Others that have
    /// caught up may wait before it.
    fn is_ahead(&self) -> bool;

    /// Moves to a position.
    fn seek(&mut self, position: u64);

    /// Reads what comes next in the stream, at most up to the position `upto`.
    fn read(&mut self, upto: Option<u64>, framing: Framing, out: &mut Vec<u8>) -> Batch;

    /// Notifies `notifier` of every change, until the returned value is dropped.
    fn listen(&self, notifier: &Arc<Notifier>) -> Box<dyn Any + Send + Sync>;

    /// Returns another reader at the same position.
    fn duplicate(&self) -> Box<dyn Follow>;

    /// The registry whose end also ends the streams of this log.
    fn registry(&self) -> &Registry;

    /// Whether the next read may wait for a disk, which the broadcaster must not.
    fn waits_for_disk(&self) -> bool;
}

/// Identifies what a stream reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum SourceKey {
    /// The address in memory of the registry, and the channels.
    Channels(usize, Channels),
    Log(u64),
}

/// Keeps a notifier registered until this value is dropped.
#[derive(Debug)]
#[must_use = "dropping this unregisters the notifier at once"]
pub(crate) struct Listening {
    _registered: Registered,
}

#[derive(Debug)]
enum Registered {
    Channels { _listening: registry::Listening },
    Log { _listening: Box<dyn Any + Send + Sync> },
}

impl Source {
    pub(crate) fn key(&self) -> SourceKey {
        match self {
            Self::Channels(subscription) => {
                let Subscription { registry, channels, .. } = &**subscription;
                SourceKey::Channels(registry.address(), channels.clone())
            }
            Self::Log(log) => SourceKey::Log(log.log_id()),
        }
    }

    /// The registry that has the counters, and whose end ends the stream.
    pub(crate) fn registry(&self) -> &Registry {
        match self {
            Self::Channels(subscription) => &subscription.registry,
            Self::Log(log) => log.registry(),
        }
    }

    /// The position: everything up to it has been read. Positions of the same source can be compared.
    pub(crate) fn position(&self) -> EventId {
        match self {
            Self::Channels(subscription) => subscription.position.after,
            Self::Log(log) => EventId { epoch: 0, n: log.position() },
        }
    }

    /// The position, if it is ahead of what this node has read of a log that nodes share, or of where the
    /// others wait that have caught up.
    pub(crate) fn ahead(&self) -> Option<EventId> {
        match self {
            Self::Channels(subscription) => {
                let after = subscription.position.after;
                subscription.registry.is_ahead(after).then_some(after)
            }
            Self::Log(log) => log.is_ahead().then(|| self.position()),
        }
    }

    /// Whether the next read may wait for a disk.
    pub(crate) fn waits_for_disk(&self) -> bool {
        match self {
            Self::Channels(_) => false,
            Self::Log(log) => log.waits_for_disk(),
        }
    }

    /// Reads what comes next, at most up to the position `upto`.
    pub(crate) fn read(
        &mut self,
        upto: Option<EventId>,
        framing: Framing,
        out: &mut Vec<u8>,
    ) -> Batch {
        match self {
            Self::Channels(subscription) => {
                let Subscription { registry, channels, position, .. } = &mut **subscription;
                registry.read(channels, position, upto, READ_LIMIT, framing, out)
            }
            Self::Log(log) => log.read(upto.map(|upto| upto.n), framing, out),
        }
    }

    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(crate) fn listen(&self, notifier: &Arc<Notifier>) -> Listening {
        let registered = match self {
            Self::Channels(subscription) => {
                let Subscription { registry, channels, .. } = &**subscription;
                Registered::Channels { _listening: registry.listen(channels, notifier) }
            }
            Self::Log(log) => Registered::Log { _listening: log.listen(notifier) },
        };
        Listening { _registered: registered }
    }

    /// Returns a reader at the same position, for a broadcast group.
    pub(crate) fn reader(&self) -> Reader {
        match self {
            Self::Channels(subscription) => {
                let Subscription { registry, channels, position, .. } = &**subscription;
                let (registry, position) = (registry.clone(), position.clone());
                Reader(Read::Channels { registry, channels: channels.clone(), position })
            }
            Self::Log(log) => Reader(Read::Log(log.duplicate())),
        }
    }

    /// Moves to the position of a reader of the same source.
    pub(crate) fn seek(&mut self, reader: &Reader) {
        match (self, &reader.0) {
            (Self::Channels(subscription), Read::Channels { position, .. }) => {
                subscription.position = position.clone();
            }
            (Self::Log(log), Read::Log(reader)) => log.seek(reader.position()),
            _ => unreachable!("a stream is in the group of its own source"),
        }
    }
}

impl From<Box<Subscription>> for Source {
    fn from(subscription: Box<Subscription>) -> Self {
        Self::Channels(subscription)
    }
}

/// A position in a source that several streams share. Unlike a [`Source`], it is not a subscription.
#[derive(Debug)]
pub(crate) struct Reader(Read);

#[derive(Debug)]
enum Read {
    Channels { registry: Registry, channels: Channels, position: Position },
    Log(Box<dyn Follow>),
}

impl Reader {
    pub(crate) fn registry(&self) -> &Registry {
        match &self.0 {
            Read::Channels { registry, .. } => registry,
            Read::Log(log) => log.registry(),
        }
    }

    /// See [`Source::position`].
    pub(crate) fn position(&self) -> EventId {
        match &self.0 {
            Read::Channels { position, .. } => position.after,
            Read::Log(log) => EventId { epoch: 0, n: log.position() },
        }
    }

    /// Whether the position is ahead: see [`Source::ahead`].
    pub(crate) fn is_ahead(&self) -> bool {
        match &self.0 {
            Read::Channels { registry, position, .. } => registry.is_ahead(position.after),
            Read::Log(log) => log.is_ahead(),
        }
    }

    /// Whether the next read may wait for a disk.
    pub(crate) fn waits_for_disk(&self) -> bool {
        match &self.0 {
            Read::Channels { .. } => false,
            Read::Log(log) => log.waits_for_disk(),
        }
    }

    /// Reads what comes next.
    pub(crate) fn read(&mut self, framing: Framing, out: &mut Vec<u8>) -> Batch {
        match &mut self.0 {
            Read::Channels { registry, channels, position } => {
                registry.read(channels, position, None, READ_LIMIT, framing, out)
            }
            Read::Log(log) => log.read(None, framing, out),
        }
    }
}
