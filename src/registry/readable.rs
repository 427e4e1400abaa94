//! Which streams may read which private events.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::channels::{Channels, ReadRights};
use super::ring::Entry;
use super::subscribers::Subscribers;
use crate::matcher::{Matcher, Topic};

/// Which private events a stream may read. Every stream may read public events.
///
/// ```
/// use threadcast::{Channels, Event, Matcher, Readable, Registry, Start, Update};
///
/// let registry = Registry::new();
/// let own = Readable::Matching([Matcher::selector("/users/{id}")?].into());
/// let mine = Channels::new(["/users/7"])?.readable(own);
/// let subscription = registry.subscribe(&mine, &Start::Now)?;
///
/// let secret = [Event::new("for 7 alone")];
/// let update = Update { topics: &["/users/7"], events: &secret, private: true, key: None };
/// assert_eq!(registry.publish_update(&update)?.subscribers, 1);
/// # drop(subscription);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Readable {
    /// No private events.
    #[default]
    Public,
    /// Private events with at least one topic that at least one of these matchers selects.
    Matching(Arc<[Matcher]>),
    /// All private events.
    All,
}

impl Readable {
    /// Whether every private event may be read.
    pub(super) fn is_all(&self) -> bool {
        match self {
            Self::Public => false,
            Self::Matching(matchers) => matchers.iter().any(Matcher::is_any),
            Self::All => true,
        }
    }

    /// Whether an event with these topics may be read. `None` stands for a public event.
    pub(super) fn allows(&self, private: Option<&Private>) -> bool {
        match (private, self) {
            (None, _) | (_, Self::All) => true,
            (Some(_), Self::Public) => false,
            (Some(private), Self::Matching(matchers)) => private.is_selected_by(matchers),
        }
    }

    /// Whether all private events may be read (`true`) or none (`false`). `None` if this depends on
    /// the event.
    pub(super) fn of_all(&self) -> Option<bool> {
        match self {
            Self::Public => Some(false),
            Self::All => Some(true),
            Self::Matching(_) => None,
        }
    }
}

/// The topics of a private event.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Private {
    pub(super) topics: Box<[Arc<str>]>,
}

impl Private {
    pub(super) fn of(topics: &[impl AsRef<str>]) -> Self {
        Self { topics: topics.iter().map(|topic| topic.as_ref().into()).collect() }
    }

    #[inline(never)] // its stack frame is large, and most reads do not call it
    fn is_selected_by(&self, matchers: &[Matcher]) -> bool {
        self.topics.iter().any(|topic| {
            let topic = Topic::new(topic);
            matchers.iter().any(|matcher| matcher.matches_topic(&topic))
        })
    }
}

/// How many checks are collected while the lock is held once, so that it is held for a short time.
const PAGE: usize = 64;

/// A cache of access checks: which private events one stream may read.
///
/// Matchers must never run under the registry's lock. So a check under the lock only looks in the
/// cache, and records a missing result as pending. The caller then releases the lock, calls
/// [`resolve`](Self::resolve), which runs the matchers, and tries again under the lock.
#[derive(Debug, Default)]
pub(super) struct StreamAccess {
    known: BTreeMap<Arc<Private>, bool>,
    pending: Vec<Arc<Private>>,
}

impl StreamAccess {
    /// Whether an event may be read; `None` if the check is pending.
    pub(super) fn check(&mut self, channels: &Channels, private: &Arc<Private>) -> Option<bool> {
        let known = channels.may_read_all().or_else(|| self.known.get(private).copied());
        if known.is_none() && !self.is_full() && !self.pending.contains(private) {
            self.pending.push(Arc::clone(private));
        }
        known
    }

    /// Whether a stream of these channels may read an event. If the list of pending checks is full,
    /// returns `true` to end the caller's search early. The result of such a search is not final
    /// anyway.
    pub(super) fn may_read(&mut self, channels: &Channels, entry: &Entry) -> bool {
        let Some(private) = &entry.private else { return true };
        self.check(channels, private) == Some(true) || self.is_full()
    }

    /// Whether a check is pending. If so, earlier results are not final.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= PAGE
    }

    /// Runs the pending checks. Must not be called under the lock.
    #[inline(never)] // its stack frame is large, and most reads do not call it
    pub(super) fn resolve(&mut self, channels: &Channels) {
        for private in std::mem::take(&mut self.pending) {
            let may = channels.may_read(Some(&private));
            self.known.insert(private, may);
        }
    }
}

/// A cache of access checks, like [`StreamAccess`]: which streams may read one private event.
#[derive(Debug)]
pub(super) struct EventAccess {
    private: Arc<Private>,
    /// The rights and the result of each check, by the address of the rights. The entry keeps the
    /// rights in memory, so that no other rights can get their address.
    known: BTreeMap<usize, (ReadRights, bool)>,
    pending: Vec<ReadRights>,
}

impl EventAccess {
    pub(super) fn of(private: &Arc<Private>) -> Self {
        Self { private: Arc::clone(private), known: BTreeMap::new(), pending: Vec::new() }
    }

    /// Records the subscribers whose checks are pending, and returns whether there are any.
    pub(super) fn note_pending<'a>(
        &mut self,
        all_subscribers: impl Iterator<Item = &'a Subscribers>,
    ) -> bool {
        let rights = all_subscribers.flat_map(Subscribers::private_rights);
        let is_unknown = |rights: &&ReadRights| {
            rights.may_read_all().is_none() && !self.known.contains_key(&rights.address())
        };
        self.pending.extend(rights.filter(is_unknown).take(PAGE).cloned());
        !self.pending.is_empty()
    }

    /// Runs the pending checks. Must not be called under the lock.
    pub(super) fn resolve(&mut self) {
        for rights in std::mem::take(&mut self.pending) {
            let may = rights.may_read(&self.private);
            self.known.insert(rights.address(), (rights, may));
        }
    }

    /// Whether a stream with these rights may read the event. Returns `false` if no check has been
    /// run.
    pub(super) fn allows(&self, rights: &ReadRights) -> bool {
        let known = || self.known.get(&rights.address()).is_some_and(|(_, may)| *may);
        rights.may_read_all().unwrap_or_else(known)
    }
}
