//! A registry whose events are in a log that several nodes share.
//!
//! ```text
//!  publishers        LogPublisher, one thread          Redis           LogFollower, one thread
//!  order ──mailbox─▶ gather ── one script a batch ─▶ log ── XREAD ─▶ enter, under the lock
//!  answer ◀───────── each publisher's own ◀─── ids                    └─bells─▶ read
//! ```
//!
//! The log says what of a request is new, and gives the ids. Its order is that of
//! every node: events of this one too enter the rings only as they are read back.
//!
//! # Invariants
//!
//! * **A publisher is answered when Redis has its event**, and not before; nobody
//!   waits for his own node to have read it.
//! * **What the log has lost is said.** A hole in it empties the rings, and every
//!   reader that was before it is told by a gap.
//! * **No I/O under the registry's lock.**

mod follower;
mod publisher;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) use self::follower::LogFollower;
pub(crate) use self::publisher::LogPublisher;
use super::dedup::DedupIndex;
use super::patterns::PatternMatches;
use super::publish_queue::PublishQueue;
use super::readable::{Private, StreamAccess};
use super::state::{Channel, HubState};
use super::store_writer::Entered;
use super::subscribers::{Notifier, Notifiers};
use super::{Channels, Registry, RegistryOptions};
use crate::counters::Counters;
use crate::error::StoreError;
use crate::id::EventId;
use crate::store::redis::{Bounds, News, Reader, Row, Writer};
use crate::store::{Floor, RedisUrl};

/// How many times the events that the most generous channel keeps the log holds, so
/// that a busy channel does not at once push out the others' history.
const CHANNELS: usize = 100;

/// How long a publisher's own id may be unknown that a client brings from another node.
const CATCH_UP: Duration = Duration::from_secs(1);

/// What a registry knows of the log that it shares.
#[derive(Debug)]
pub(super) struct Contact(AtomicBool);

impl Contact {
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(true))
    }
}

impl Registry {
    /// A registry that shares its events with every other one of the same Redis;
    /// and who is to be run for events to be published, and to be read.
    pub(crate) fn with_redis(
        options: RegistryOptions,
        counters: &Arc<Counters>,
        url: &RedisUrl,
    ) -> Result<(Self, LogPublisher, LogFollower), StoreError> {
        let rules = || options.history.all_rules();
        let bounds = Bounds {
            events: rules().map(|rule| rule.events).max().unwrap_or_default().max(1) * CHANNELS,
            age: rules().map(|rule| rule.age).max().unwrap_or_default(),
        };
        let node = format!("{:016x}", fastrand::u64(..));
        let mut log = Writer::new(url, bounds, node.clone());
        let mut reader = Reader::new(url, bounds, node);
        let mut state = HubState::of_a_log();
        let began = reader.begin(&mut |news| state.hear(news, &options));
        let (floor, look) = began.map_err(|trouble| trouble.at_start(url))?;
        state.begin_at(floor, look.last);
        state.others = look.others.unwrap_or_default();
        let known = log.refresh(look.last, &Row::default(), true);
        known.map_err(|trouble| trouble.at_start(url))?;
        let names: Vec<Arc<str>> = state.channels.keys().cloned().collect();
        let newest = state.channels.values().filter_map(|channel| channel.ring.newest_at()).max();
        let now = look.now.max(newest.unwrap_or_default());
        names.iter().for_each(|name| state.trim(name, now));
        let (mailbox, queue) = PublishQueue::new();
        let registry = Self::of(state, options, counters, Some(mailbox), now);
        let publisher = LogPublisher::new(registry.clone(), log, queue);
        let follower = LogFollower::new(registry.clone(), reader);
        Ok((registry, publisher, follower))
    }

    /// Whether the log that it shares can be reached; `None` if it shares none.
    pub(crate) fn reaches_the_log(&self) -> Option<bool> {
        self.inner.contact.as_ref().map(|contact| contact.0.load(Ordering::Relaxed))
    }

    /// Whether a position is one that this node has not come to yet.
    pub(crate) fn is_ahead(&self, id: EventId) -> bool {
        self.inner.contact.is_some() && id > self.last_id()
    }

    /// Gives this node a moment to read an event that another one has told, where its id
    /// does not say how new it is.
    #[inline(never)] // most streams do without
    pub(super) fn await_own_id(&self, channels: &Channels, id: &str) {
        if self.inner.contact.is_none() || id.parse::<EventId>().is_ok() {
            return;
        }
        let (sender, notifications) = crossbeam_channel::bounded(1);
        let notifier = Notifier::new(sender, 0);
        let _listening = self.listen(channels, &notifier);
        let deadline = Instant::now() + CATCH_UP;
        while self.find(channels, id).is_none() && notifications.recv_deadline(deadline).is_ok() {
            notifier.rearm();
        }
    }

    /// The event that an id means, if it can still be told.
    fn find(&self, channels: &Channels, id: &str) -> Option<EventId> {
        let mut access = StreamAccess::default();
        loop {
            let found = self.lock().find(channels, id, self.now(), &mut access);
            if !access.has_pending() {
                return found;
            }
            access.resolve(channels);
        }
    }

    /// Goes on from what Redis's clock says, later or earlier. Events have their time from
    /// that clock, so how old they are is told by no other: not even by this node's from
    /// before it was set back, or from before another Redis took over.
    fn set_clock(&self, now: Duration) {
        let began = super::nanoseconds(now.saturating_sub(self.inner.started.elapsed()));
        self.inner.began.store(began, Ordering::Relaxed);
    }

    /// Lets what was read from the log into the rings.
    ///
    /// A channel's newest event does not leave its ring by its age in the step in which it
    /// has come, even where it seems to be old: until the next look at Redis's clock, this
    /// node's may be ahead of it, and whoever is awake would get a gap in its place.
    fn enter(&self, read: Vec<News>) {
        let options = &self.inner.options;
        // Encoded before the lock is taken.
        let heard: Vec<Heard> = read.into_iter().map(|news| Heard::of(news, options)).collect();
        let rings: BTreeSet<(Arc<str>, Option<Arc<Private>>)> =
            heard.iter().flat_map(Heard::rings).collect();
        let lost = heard.iter().any(|one| matches!(one, Heard::Lost(_)));
        let names: Vec<&Arc<str>> = rings.iter().map(|(name, _)| name).collect();
        let now = self.now();
        let (mut state, answers) = self.lock_to_enter(&names);
        heard.into_iter().for_each(|one| state.take_in(one, options, &answers));
        for (name, _) in &rings {
            let newest = state.channels.get(name).and_then(|channel| channel.ring.newest_at());
            state.trim(name, newest.map_or(now, |newest| newest.min(now)));
        }
        state.evict(options.history_total);
        let notifiers: Vec<Notifiers> = if lost {
            state.all_notifiers()
        } else {
            rings.iter().flat_map(|(name, who)| state.notifiers(name, who.as_ref())).collect()
        };
        drop(state);
        notifiers.iter().for_each(Notifiers::notify);
    }
}

/// News, with what is encoded of it.
enum Heard {
    Event(Entered),
    Forget(EventId, Arc<str>, Floor),
    Lost(EventId),
}

impl Heard {
    fn of(news: News, options: &RegistryOptions) -> Self {
        match news {
            News::Event(id, record) => Self::Event(Entered::new(id, &record, options)),
            News::Forget(id, channel, newest) => Self::Forget(id, channel, newest),
            News::Lost(upto) => Self::Lost(upto),
        }
    }

    /// Which channels it changes, and whose bells are to ring for that.
    fn rings(&self) -> Vec<(Arc<str>, Option<Arc<Private>>)> {
        match self {
            Self::Event(entered) => entered.rings().collect(),
            Self::Forget(_, channel, _) => vec![(Arc::clone(channel), None)],
            Self::Lost(_) => Vec::new(),
        }
    }
}

impl HubState {
    /// The same, for events that are in a log which other nodes write too.
    pub(super) fn of_a_log() -> Self {
        Self { is_shared: true, ..Self::new(EventId::ZERO) }
    }

    /// What was before the log's beginning is not known, of any channel.
    pub(super) fn begin_at(&mut self, floor: EventId, last: EventId) {
        self.floor = self.floor.max(Floor::unknown(floor));
        self.last = self.last.max(last);
        self.last_public = self.last_public.max(floor);
        let floor = self.floor;
        self.channels.values_mut().for_each(|channel| channel.ring.begin_at(floor));
    }

    /// Whatever there was up to this id may be gone, of any channel.
    pub(super) fn lose(&mut self, upto: EventId) {
        self.floor = self.floor.max(Floor::unknown(upto));
        self.last = self.last.max(upto);
        self.last_public = self.last_public.max(upto);
        for (name, channel) in &mut self.channels {
            channel.ring.lose(upto);
            channel.dedup = DedupIndex::default();
            self.idle.insert(Arc::clone(name));
        }
    }

    /// Who listens here, for the other nodes.
    pub(super) fn row(&self) -> Row {
        let counted = |(name, subscribers): (&Arc<str>, usize)| {
            (subscribers > 0).then(|| (name.to_string(), subscribers))
        };
        let by_name = |channel: &Channel| {
            let watchers =
                channel.watchers.iter().filter_map(|slot| self.patterns.subscribers(slot));
            let watching: usize = watchers.map(|subscribers| subscribers.count(None)).sum();
            channel.subscribers.count(None) + watching
        };
        let present = self.channels.iter().filter(|(_, channel)| !channel.presence.is_empty());
        Row {
            names: self
                .channels
                .iter()
                .map(|(name, it)| (name, by_name(it)))
                .filter_map(counted)
                .collect(),
            prefixes: self
                .prefixes
                .iter()
                .map(|(name, it)| (name, it.count(None)))
                .filter_map(counted)
                .collect(),
            present: present
                .map(|(name, channel)| (name.to_string(), channel.presence.0.clone()))
                .collect(),
        }
    }

    fn hear(&mut self, news: News, options: &RegistryOptions) {
        let heard = Heard::of(news, options);
        let rings = heard.rings();
        self.take_in(heard, options, &PatternMatches::default());
        // The log keeps far more than the rings do, and it is not yet known how old it is.
        rings.iter().for_each(|(name, _)| self.trim(name, Duration::ZERO));
        self.evict(options.history_total);
    }

    fn take_in(&mut self, heard: Heard, options: &RegistryOptions, answers: &PatternMatches) {
        match heard {
            Heard::Event(entered) => self.enter(entered, options, answers),
            Heard::Forget(id, channel, newest) => {
                self.last = self.last.max(id);
                self.last_public = self.last_public.max(id);
                let target = self.channel_without_limit(&channel, options, answers);
                target.clear();
                // What was deleted before this node could read it is lost as well.
                target.ring.begin_at(newest);
                self.note_idle(&channel);
            }
            Heard::Lost(upto) => self.lose(upto),
        }
    }
}

#[cfg(test)]
mod tests;
