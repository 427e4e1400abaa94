//! A registry whose events are in a log that several nodes share.
//!
//! ```text
//!  publishers         LogPublisher, one thread           Redis          LogFollower, one thread
//!  request ──queue──▶ batch ──── one script call ──────▶ log ─ XREAD ─▶ enter, under the lock
//!  reply   ◀───────── one to each publisher ◀─── ids                     └─notify─▶ read
//! ```
//!
//! Redis decides which events of a request are new, and assigns the ids. All nodes deliver events
//! in the order of the log. So a node adds even its own events to its rings only after it has read
//! them back from Redis.
//!
//! # Invariants
//!
//! * **A publisher gets its reply only after Redis has its event.** The reply does not wait until
//!   the publisher's node has read the event back.
//! * **A loss in the log is reported.** A hole in the log empties the rings, and every
//!   subscriber whose position is before the hole gets a gap event.
//! * **No I/O happens under the registry's lock.**

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
use super::store_writer::StoredEvent;
use super::subscribers::{Notifier, Notifiers};
use super::{Channels, Registry, RegistryOptions};
use crate::counters::Counters;
use crate::error::StoreError;
use crate::id::EventId;
use crate::store::redis::{LogBounds, LogItem, LogReader, LogWriter, NodeReport};
use crate::store::{Floor, RedisUrl};

/// The size of the log, as a multiple of the largest history of one channel.
///
/// With a smaller log, one busy channel would quickly evict the events of the others.
const CHANNELS: usize = 100;

/// How long a new subscription waits for the event with an unknown client-supplied id.
///
/// The client may have received this event from a node that has read further in the log.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Whether Redis could be reached at the last attempt.
#[derive(Debug)]
pub(super) struct Contact(AtomicBool);

impl Contact {
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(true))
    }
}

impl Registry {
    /// Creates a registry that shares its events with all nodes of the same Redis.
    ///
    /// The caller must run the publisher and the follower, each on a thread of its own. The
    /// publisher writes events to the log, and the follower reads them from it.
    pub(crate) fn with_redis(
        options: RegistryOptions,
        counters: &Arc<Counters>,
        url: &RedisUrl,
    ) -> Result<(Self, LogPublisher, LogFollower), StoreError> {
        let rules = || options.history.all_rules();
        let bounds = LogBounds {
            events: rules().map(|rule| rule.events).max().unwrap_or_default().max(1) * CHANNELS,
            age: rules().map(|rule| rule.age).max().unwrap_or_default(),
        };
        let node = format!("{:016x}", fastrand::u64(..));
        let mut log = LogWriter::new(url, bounds, node.clone());
        let mut reader = LogReader::new(url, bounds, node);
        let mut state = HubState::with_shared_log();
        let began = reader.begin(&mut |item| state.receive(item, &options));
        let (floor, status) = began.map_err(|error| error.at_start(url))?;
        state.begin_at(floor, status.last);
        state.others = status.others.unwrap_or_default();
        let known = log.refresh(status.last, &NodeReport::default(), true);
        known.map_err(|error| error.at_start(url))?;
        let names: Vec<Arc<str>> = state.channels.keys().cloned().collect();
        let newest = state.channels.values().filter_map(|channel| channel.ring.newest_at()).max();
        let now = status.now.max(newest.unwrap_or_default());
        names.iter().for_each(|name| state.trim(name, now));
        let (sender, queue) = PublishQueue::new();
        let registry = Self::of(state, options, counters, Some(sender), now);
        let publisher = LogPublisher::new(registry.clone(), log, queue);
        let follower = LogFollower::new(registry.clone(), reader);
        Ok((registry, publisher, follower))
    }

    /// Whether the shared log can be reached; `None` if there is no shared log.
    pub(crate) fn reaches_the_log(&self) -> Option<bool> {
        self.inner.contact.as_ref().map(|contact| contact.0.load(Ordering::Relaxed))
    }

    /// Whether `id` comes after everything that this node has read. Another node may have sent it
    /// to a client already.
    pub(crate) fn is_ahead(&self, id: EventId) -> bool {
        self.inner.contact.is_some() && id > self.last_id()
    }

    /// Waits up to [`CATCH_UP`] for this node to read the event with a client-supplied id.
    ///
    /// The client may have received the event from a node that has read further in the log. Unlike
    /// the server's ids, a client-supplied id does not show how new its event is.
    #[inline(never)] // rarely called
    pub(super) fn await_client_id(&self, channels: &Channels, id: &str) {
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

    /// Finds the position of the event with this id, if the event is still in a history.
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

    /// Sets the registry's clock to that of Redis, forwards or backwards.
    ///
    /// Redis assigns the times of events, so their age must be measured with Redis's clock. The
    /// newest reading always applies: Redis's clock may have been set back, or another Redis may
    /// have taken over.
    fn set_clock(&self, now: Duration) {
        let began = super::nanoseconds(now.saturating_sub(self.inner.started.elapsed()));
        self.inner.began.store(began, Ordering::Relaxed);
    }

    /// Adds the items read from the log to the rings, and notifies the subscribers.
    ///
    /// The call that adds an event to a channel never evicts the channel's newest event by age.
    /// Until the next reading of Redis's clock, this node's clock may be ahead, so a new event may
    /// seem old. If it were evicted, subscribers would get a gap instead of the event.
    fn enter(&self, read: Vec<LogItem>) {
        let options = &self.inner.options;
        // Encode the events before taking the lock, to hold it for a short time.
        let items: Vec<EncodedItem> =
            read.into_iter().map(|item| EncodedItem::of(item, options)).collect();
        let targets: BTreeSet<(Arc<str>, Option<Arc<Private>>)> =
            items.iter().flat_map(EncodedItem::targets).collect();
        let lost = items.iter().any(|item| matches!(item, EncodedItem::Lost(_)));
        let names: Vec<&Arc<str>> = targets.iter().map(|(name, _)| name).collect();
        let now = self.now();
        let (mut state, answers) = self.lock_to_enter(&names);
        items.into_iter().for_each(|item| state.apply(item, options, &answers));
        for (name, _) in &targets {
            let newest = state.channels.get(name).and_then(|channel| channel.ring.newest_at());
            state.trim(name, newest.map_or(now, |newest| newest.min(now)));
        }
        state.evict(options.history_total);
        let notifiers: Vec<Notifiers> = if lost {
            state.all_notifiers()
        } else {
            let notifiers =
                targets.iter().flat_map(|(name, private)| state.notifiers(name, private.as_ref()));
            notifiers.collect()
        };
        drop(state);
        notifiers.iter().for_each(Notifiers::notify);
    }
}

/// An item of the log, with its event encoded.
enum EncodedItem {
    Event(StoredEvent),
    Forget(EventId, Arc<str>, Floor),
    Lost(EventId),
}

impl EncodedItem {
    fn of(item: LogItem, options: &RegistryOptions) -> Self {
        match item {
            LogItem::Event(id, record) => Self::Event(StoredEvent::new(id, &record, options)),
            LogItem::Forget(id, channel, newest) => Self::Forget(id, channel, newest),
            LogItem::Lost(upto) => Self::Lost(upto),
        }
    }

    /// Returns the channels that this item changes, each with the topics of the event if it is
    /// private.
    fn targets(&self) -> Vec<(Arc<str>, Option<Arc<Private>>)> {
        match self {
            Self::Event(entered) => entered.targets().collect(),
            Self::Forget(_, channel, _) => vec![(Arc::clone(channel), None)],
            Self::Lost(_) => Vec::new(),
        }
    }
}

impl HubState {
    /// Creates the state of a registry whose events are in a shared log.
    pub(super) fn with_shared_log() -> Self {
        Self { is_shared: true, ..Self::new(EventId::ZERO) }
    }

    /// Records that the log begins at `floor`, so any channel may have lost events up to there.
    pub(super) fn begin_at(&mut self, floor: EventId, last: EventId) {
        self.floor = self.floor.max(Floor::unknown(floor));
        self.last = self.last.max(last);
        self.last_public = self.last_public.max(floor);
        let floor = self.floor;
        self.channels.values_mut().for_each(|channel| channel.ring.begin_at(floor));
    }

    /// Records that any channel may have lost any event up to this id, and empties the rings.
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

    /// Returns the report of this node's subscribers and presence names for the other nodes.
    pub(super) fn report(&self) -> NodeReport {
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
        NodeReport {
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

    /// Applies one item of the log while the registry starts.
    fn receive(&mut self, item: LogItem, options: &RegistryOptions) {
        let item = EncodedItem::of(item, options);
        let targets = item.targets();
        self.apply(item, options, &PatternMatches::default());
        // Evict by size after each item, because the log keeps far more events than the rings.
        // `with_redis` evicts by age later, because Redis's clock is not known yet.
        targets.iter().for_each(|(name, _)| self.trim(name, Duration::ZERO));
        self.evict(options.history_total);
    }

    fn apply(&mut self, item: EncodedItem, options: &RegistryOptions, answers: &PatternMatches) {
        match item {
            EncodedItem::Event(entered) => self.enter(entered, options, answers),
            EncodedItem::Forget(id, channel, newest) => {
                self.last = self.last.max(id);
                self.last_public = self.last_public.max(id);
                let target = self.channel_without_limit(&channel, options, answers);
                target.clear();
                // Events that Redis deleted before this node could read them are lost too.
                target.ring.begin_at(newest);
                self.note_idle(&channel);
            }
            EncodedItem::Lost(upto) => self.lose(upto),
        }
    }
}

#[cfg(test)]
mod tests;
