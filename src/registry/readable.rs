//! Which private events a stream may be given.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::channels::{Channels, ReadRights};
use super::ring::Entry;
use super::subscribers::Subscribers;
use crate::matcher::{Matcher, Topic};

/// Which private events a stream may be given. What is public, everybody may.
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
    /// None.
    #[default]
    Public,
    /// Those of which at least one topic is selected by at least one of these.
    Matching(Arc<[Matcher]>),
    /// All.
    All,
}

impl Readable {
    /// Whether every private event may be given.
    pub(super) fn is_all(&self) -> bool {
        match self {
            Self::Public => false,
            Self::Matching(matchers) => matchers.iter().any(Matcher::is_any),
            Self::All => true,
        }
    }

    /// Whether an event of these topics may be given, `None` being a public one.
    pub(super) fn allows(&self, private: Option<&Private>) -> bool {
        match (private, self) {
            (None, _) | (_, Self::All) => true,
            (Some(_), Self::Public) => false,
            (Some(private), Self::Matching(matchers)) => private.is_selected_by(matchers),
        }
    }

    /// Whether private events may be given, if that is the same for all of them.
    pub(super) fn of_all(&self) -> Option<bool> {
        match self {
            Self::Public => Some(false),
            Self::All => Some(true),
            Self::Matching(_) => None,
        }
    }
}

/// All topics of a private event.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Private {
    pub(super) topics: Box<[Arc<str>]>,
}

impl Private {
    pub(super) fn of(topics: &[impl AsRef<str>]) -> Self {
        Self { topics: topics.iter().map(|topic| topic.as_ref().into()).collect() }
    }

    #[inline(never)] // its URL must not lie under every stream's reading
    fn is_selected_by(&self, matchers: &[Matcher]) -> bool {
        self.topics.iter().any(|topic| {
            let topic = Topic::new(topic);
            matchers.iter().any(|matcher| matcher.is_of(&topic))
        })
    }
}

/// How many questions are noted under one lock, so that nobody waits long for it.
const PAGE: usize = 64;

/// Which private events one stream may be given. Its matchers are asked without the
/// registry's lock: what is not known is noted under it, asked, and looked up the next
/// time.
#[derive(Debug, Default)]
pub(super) struct StreamAccess {
    known: BTreeMap<Arc<Private>, bool>,
    pending: Vec<Arc<Private>>,
}

impl StreamAccess {
    /// Whether an event may be given; `None` if that is still to be asked.
    pub(super) fn check(&mut self, channels: &Channels, private: &Arc<Private>) -> Option<bool> {
        let known = channels.may_read_all().or_else(|| self.known.get(private).copied());
        if known.is_none() && !self.is_full() && !self.pending.contains(private) {
            self.pending.push(Arc::clone(private));
        }
        known
    }

    /// Whether a stream of these channels may be given an event. A full list of questions ends a
    /// search for such an event: what it has found until then is no answer anyway.
    pub(super) fn may_read(&mut self, channels: &Channels, entry: &Entry) -> bool {
        let Some(private) = &entry.private else { return true };
        self.check(channels, private) == Some(true) || self.is_full()
    }

    /// Whether something is still to be asked.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= PAGE
    }

    /// Asks what was noted; not under the lock.
    #[inline(never)] // its URL must not lie under every stream's reading
    pub(super) fn resolve(&mut self, channels: &Channels) {
        for private in std::mem::take(&mut self.pending) {
            let may = channels.may_read(Some(&private));
            self.known.insert(private, may);
        }
    }
}

/// Which streams may be given one private event; found out in the same way.
#[derive(Debug)]
pub(super) struct EventAccess {
    private: Arc<Private>,
    /// By the addresses of those that are held here.
    known: BTreeMap<usize, (ReadRights, bool)>,
    pending: Vec<ReadRights>,
}

impl EventAccess {
    pub(super) fn of(private: &Arc<Private>) -> Self {
        Self { private: Arc::clone(private), known: BTreeMap::new(), pending: Vec::new() }
    }

    /// Notes whoever is still to be asked; `false` if nobody is.
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

    /// Asks those that were noted; not under the lock.
    pub(super) fn resolve(&mut self) {
        for rights in std::mem::take(&mut self.pending) {
            let may = rights.may_read(&self.private);
            self.known.insert(rights.address(), (rights, may));
        }
    }

    /// Whether this one may be given the event, as far as that is known.
    pub(super) fn allows(&self, rights: &ReadRights) -> bool {
        let known = || self.known.get(&rights.address()).is_some_and(|(_, may)| *may);
        rights.may_read_all().unwrap_or_else(known)
    }
}
