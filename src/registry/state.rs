//! The data under the registry's lock.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::channels::{Channels, EventAccess, Private};
use super::event_log::Eviction;
use super::history::{
    Cost, Entry, Floor, HISTORY_TOTAL, Histories, History, HistoryTotal, Ring, Visibility,
};
use super::patterns::{Bits, PatternMatches, Patterns, Slots};
use super::subscribers::{
    NodeReport, Notes, Notifiers, Presence, Subject, Subscribers, prefixes_of,
};
use super::update::DedupIndex;
use crate::counters::decrease;
use crate::error::PublishError;
use crate::id::EventId;

/// The settings of a [`Registry`](super::Registry).
///
/// ```
/// use threadcast::{Registry, RegistryOptions};
///
/// let registry = Registry::with(RegistryOptions { max_channels: 10, ..Default::default() });
/// ```
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// How much history each channel keeps.
    pub history: Histories,
    /// The maximum number of channels at one time. Default: 10,000.
    pub max_channels: usize,
    /// The memory limit of all histories together, in bytes. Default: 256 MiB.
    ///
    /// When the histories exceed the limit, the oldest events are evicted first, regardless of
    /// their channel. The newest event of all is never evicted for this limit.
    pub history_total: usize,
    /// Whether the frames of events contain an `id:` line. The clock turns this off, because no
    /// client resumes a clock.
    pub ids: bool,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            history: Histories::default(),
            max_channels: 10_000,
            history_total: HISTORY_TOTAL,
            ids: true,
        }
    }
}

/// The state of a registry. Event logs call its methods, and see none of its fields.
#[derive(Debug)]
pub(crate) struct HubState {
    /// `None` once the registry is closed. Dropping it disconnects `Registry::closed`.
    pub(super) open: Option<Sender<Infallible>>,
    /// `None` once the streams begin to end. Dropping it disconnects `Registry::closing`.
    pub(super) closing_sender: Option<Sender<Infallible>>,
    /// The times at which the streams end; `None` until the streams begin to end.
    pub(super) closing: Option<Arc<Closing>>,
    /// The newest event's id.
    pub(super) last: EventId,
    /// The newest public event's id.
    pub(super) last_public: EventId,
    /// Removed channels may have lost events up to these ids.
    pub(super) floor: Floor,
    pub(super) channels: BTreeMap<Arc<str>, Channel>,
    /// Names of channels that may be idle, including every channel that is idle. With this set, an
    /// idle channel is removed for a new one without a search through all channels.
    pub(super) idle: BTreeSet<Arc<str>>,
    /// When [`sweep`](Self::sweep) last ran, on the registry's clock.
    pub(super) swept: Duration,
    /// What all histories cost together, in bytes.
    pub(super) kept: HistoryTotal,
    /// The name of the channel in each slot. Bit sets refer to a channel by its slot, because a bit
    /// takes less memory than a name.
    pub(super) slots: Slots<Arc<str>>,
    pub(super) prefixes: BTreeMap<Arc<str>, Subscribers>,
    pub(super) patterns: Patterns,
    /// The key of the newest registered notifier.
    pub(super) last_key: u64,
    /// Evictions that the store has not recorded yet.
    pub(super) losses: Evictions,
    /// Whether the events are in a log that other nodes write too.
    pub(super) is_shared: bool,
    /// The subscribers at the other nodes.
    pub(super) others: NodeReport,
    /// How often the subscribers or presence names of this node have changed.
    pub(super) changes: u64,
    /// What has changed for the watch; `None` if there is none.
    pub(super) notes: Option<Notes>,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) ring: Ring,
    pub(super) history: History,
    pub(super) dedup: DedupIndex,
    pub(super) subscribers: Subscribers,
    pub(super) presence: Presence,
    /// The channel's slot in [`HubState::slots`].
    pub(super) slot: usize,
    /// The slots of the patterns that select this channel.
    pub(super) watchers: Bits,
    /// Whether the patterns have been matched against the channel's name. This is always `true`
    /// once the channel has had an event.
    pub(super) indexed: bool,
    /// Whether the store has a record of this channel.
    pub(super) stored: bool,
    /// The channel's last event; `None` if the channel goes on.
    ended: Option<Box<ChannelEnd>>,
    /// The number of requests in progress for which the channel must not be removed.
    held: usize,
    /// The id under which the channel is in the queue of [`HistoryTotal`]; `None` if it is not
    /// queued.
    pub(super) place: Option<EventId>,
}

/// The last event of a channel that has ended.
///
/// It is kept even if the event has left the ring because of `RegistryOptions::history_total`: for
/// as long as the history's age allows the event. So a channel never goes on while a client may
/// still take an older answer for its end.
#[derive(Debug, Clone, Copy)]
struct ChannelEnd {
    id: EventId,
    /// When the event was published, on the registry's clock.
    at: Duration,
}

/// The minimum time between sweeps that requests cause when there are too many channels.
///
/// Without this pause, each such request would examine all channels.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// How many runs of lost ids a channel keeps when memory is short.
const RUNS_KEPT: usize = 64;

/// Evictions that the store has not recorded yet. Without a store, this is `None`.
#[derive(Debug, Default)]
pub(super) struct Evictions(Option<Vec<Eviction>>);

impl Evictions {
    pub(super) fn noted() -> Self {
        Self(Some(Vec::new()))
    }

    pub(super) fn event(&mut self, channel: &str, entry: &Entry) {
        if let Some(losses) = &mut self.0 {
            losses.push(Eviction::of(channel, entry));
        }
    }

    pub(super) fn before(&mut self, channel: &str, floor: Floor) {
        let Some(losses) = &mut self.0 else { return };
        let visibility =
            if floor.other_topics { Visibility::PrivateTopics } else { Visibility::PrivateChannel };
        let newest = (floor.public > EventId::ZERO).then_some((floor.public, Visibility::Public));
        let hidden = floor.hides_some().then_some((floor.all, visibility));
        for (id, visibility) in newest.into_iter().chain(hidden) {
            losses.push(Eviction::Event {
                channel: channel.into(),
                id,
                at: Duration::ZERO,
                visibility,
            });
        }
    }

    fn reopened(&mut self, channel: &str, id: EventId) {
        if let Some(losses) = &mut self.0 {
            losses.push(Eviction::End { channel: channel.into(), id });
        }
    }

    fn channel(&mut self, channel: &Arc<str>, floor: Floor) {
        if let Some(losses) = &mut self.0 {
            losses.push(Eviction::Channel { channel: Arc::clone(channel), floor });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(Vec::is_empty)
    }

    fn take(&mut self) -> Vec<Eviction> {
        self.0.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl Eviction {
    pub(super) fn of(channel: &str, entry: &Entry) -> Self {
        Self::Event {
            channel: channel.into(),
            id: entry.id,
            at: entry.at,
            visibility: entry.visibility(),
        }
    }
}

impl Channel {
    fn new(floor: Floor, history: History, cost: Cost, slot: usize) -> Self {
        Self {
            ring: Ring::new(floor).counted(cost),
            history,
            dedup: DedupIndex::default(),
            subscribers: Subscribers::default(),
            presence: Presence::default(),
            slot,
            watchers: Bits::default(),
            indexed: false,
            stored: false,
            ended: None,
            held: 0,
            place: None,
        }
    }

    /// Whether the channel can be removed, because it is empty and no request holds it.
    fn is_idle(&self) -> bool {
        self.ring.is_empty()
            && self.subscribers.is_empty()
            && self.presence.is_empty()
            && self.ended.is_none()
            && self.held == 0
    }

    /// The id of the channel's last event; `None` if the channel goes on.
    pub(super) fn end(&self) -> Option<EventId> {
        self.ended.as_ref().map(|ended| ended.id)
    }

    /// Whether the history's age limit still allows the channel's last event.
    fn has_ended(&self, now: Duration) -> bool {
        let ended = self.ended.as_ref();
        ended.is_some_and(|ended| now.saturating_sub(ended.at) <= self.history.age)
    }

    /// Records the end of the channel, if the new event `id` is the last one. Any other event shows
    /// that the history of an earlier end has gone. Returns the id of that end.
    pub(super) fn note_event(
        &mut self,
        id: EventId,
        at: Duration,
        is_end: bool,
    ) -> Option<EventId> {
        if self.ended.is_none() && !is_end {
            return None; // the common case
        }
        let end = is_end.then(|| Box::new(ChannelEnd { id, at }));
        std::mem::replace(&mut self.ended, end).map(|ended| ended.id).filter(|ended| *ended < id)
    }

    /// Lets the channel go on if the history's age limit no longer allows its last event. Returns
    /// the id of that event.
    fn reopen(&mut self, now: Duration) -> Option<EventId> {
        if self.ended.is_none() || self.has_ended(now) {
            return None;
        }
        self.ended.take().map(|ended| ended.id)
    }

    /// Evicts the events that exceed the history's limits, and calls `gone` with each of them.
    pub(super) fn trim(&mut self, now: Duration, mut gone: impl FnMut(&Entry)) {
        let Self { ring, history, dedup, .. } = self;
        ring.trim(now, history, |entry| {
            entry.dedup.iter().for_each(|names| dedup.forget(names));
            gone(entry);
        });
    }

    /// Evicts the oldest event, and calls `gone` with it.
    pub(super) fn evict(&mut self, mut gone: impl FnMut(&Entry)) {
        let Self { ring, dedup, .. } = self;
        ring.evict(|entry| {
            entry.dedup.iter().for_each(|names| dedup.forget(names));
            gone(entry);
        });
    }

    /// Deletes all events, and lets the channel go on if it had ended.
    pub(super) fn clear(&mut self) {
        self.ended = None;
        self.ring.clear();
        self.dedup = DedupIndex::default();
    }
}

impl HubState {
    /// Creates an empty state whose first event gets the id after `last`. The registry counts as
    /// closed until `open` is set.
    pub(super) fn new(last: EventId) -> Self {
        Self {
            open: None,
            closing_sender: None,
            closing: None,
            last,
            last_public: last,
            floor: Floor::default(),
            channels: BTreeMap::new(),
            idle: BTreeSet::new(),
            swept: Duration::ZERO,
            kept: HistoryTotal::default(),
            slots: Slots::default(),
            prefixes: BTreeMap::new(),
            patterns: Patterns::default(),
            last_key: 0,
            losses: Evictions::default(),
            is_shared: false,
            others: NodeReport::default(),
            changes: 0,
            notes: None,
        }
    }

    /// The newest event's id.
    pub(crate) fn last_id(&self) -> EventId {
        self.last
    }

    /// How often the subscribers or presence names of this node have changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Returns the evictions since the last call, for the store to record.
    pub(crate) fn take_evictions(&mut self) -> Vec<Eviction> {
        self.losses.take()
    }

    /// Returns the channel, and creates it if necessary, even beyond the limit of channels.
    ///
    /// The limit does not apply, because the store or the shared log already has this channel's
    /// events.
    pub(super) fn channel_without_limit(
        &mut self,
        name: &str,
        options: &RegistryOptions,
        matches: &PatternMatches,
    ) -> &mut Channel {
        self.insert(name, options);
        self.index(name, matches);
        self.channels.get_mut(name).expect("it exists or has just been created")
    }

    fn insert(&mut self, name: &str, options: &RegistryOptions) {
        if !self.channels.contains_key(name) {
            self.insert_new(name, options);
        }
    }

    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    fn insert_new(&mut self, name: &str, options: &RegistryOptions) {
        let name: Arc<str> = name.into();
        let slot = self.slots.add(Arc::clone(&name));
        let (history, cost) = (options.history.of(&name), self.kept.part());
        let channel = Channel::new(self.floor, history, cost, slot);
        self.idle.insert(Arc::clone(&name));
        self.channels.insert(name, channel);
    }

    /// Evicts the events that exceed the limits of this channel's history.
    pub(super) fn trim(&mut self, name: &str, now: Duration) {
        let Self { channels, losses, .. } = self;
        if let Some(channel) = channels.get_mut(name) {
            channel.trim(now, |entry| losses.event(name, entry));
            channel.reopen(now).into_iter().for_each(|end| losses.reopened(name, end));
        }
        self.note_idle(name);
    }

    /// Records that a channel has a new event. `is_end` says whether it is the channel's last.
    pub(super) fn note_event(&mut self, name: &str, id: EventId, at: Duration, is_end: bool) {
        let Self { channels, losses, .. } = self;
        let Some(channel) = channels.get_mut(name) else { return };
        let before = channel.note_event(id, at, is_end);
        before.into_iter().for_each(|end| losses.reopened(name, end));
    }

    /// Records that a channel has ended, unless it has a newer event.
    pub(super) fn restore_end(&mut self, name: &str, id: EventId, at: Duration) {
        if let Some(channel) = self.channels.get_mut(name).filter(|it| it.ring.last_id() <= id) {
            channel.ended = Some(Box::new(ChannelEnd { id, at }));
        }
    }

    /// Fails if one of these channels has ended.
    pub(crate) fn check_open(
        &self,
        names: &[impl AsRef<str>],
        now: Duration,
    ) -> Result<(), PublishError> {
        let mut channels = names.iter().filter_map(|name| self.channels.get(name.as_ref()));
        if channels.any(|channel| channel.has_ended(now)) {
            Err(PublishError::Ended)
        } else {
            Ok(())
        }
    }

    /// Deletes all events of a channel, and returns whether the channel exists.
    pub(crate) fn clear(&mut self, name: &str) -> bool {
        let is_there = self.channels.get_mut(name).map(Channel::clear).is_some();
        self.note_idle(name);
        is_there
    }

    /// Creates the channels that do not exist yet: all of them, or none if the limit is reached.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(crate) fn make_all<N: AsRef<str>>(
        &mut self,
        names: &[N],
        now: Duration,
        options: &RegistryOptions,
    ) -> Result<(), PublishError> {
        let limit = options.max_channels;
        if self.excess(names, limit) > 0 && !self.make_room(names, now, limit) {
            return Err(PublishError::TooManyChannels { limit });
        }
        names.iter().for_each(|name| self.insert(name.as_ref(), options));
        Ok(())
    }

    /// Returns by how many the limit of channels would be exceeded if all of `names` existed.
    fn excess(&self, names: &[impl AsRef<str>], limit: usize) -> usize {
        let new = names.iter().filter(|name| !self.channels.contains_key(name.as_ref()));
        match new.count() {
            0 => 0,
            new => (self.channels.len() + new).saturating_sub(limit),
        }
    }

    /// Removes as many idle channels as the new ones need, and returns whether there is room now.
    ///
    /// Channels in `names` are not removed.
    fn make_room(&mut self, names: &[impl AsRef<str>], now: Duration, limit: usize) -> bool {
        self.hold(names);
        let excess = self.excess(names, limit);
        let found = (0..excess).all(|_| self.remove_idle());
        if !found && now.abs_diff(self.swept) >= SWEEP_PAUSE {
            self.sweep(now);
        }
        self.release(names);
        self.excess(names, limit) == 0
    }

    /// Removes one idle channel, and returns whether there was one.
    fn remove_idle(&mut self) -> bool {
        while let Some(name) = self.idle.pop_first() {
            if self.channels.get(&name).is_some_and(Channel::is_idle) {
                self.remove(&name);
                return true;
            }
        }
        false
    }

    /// Removes a channel, and raises the registry's floor to at least the channel's floor.
    fn remove(&mut self, name: &str) {
        let Self { channels, losses, floor, patterns, kept, slots, .. } = self;
        let Some((name, channel)) = channels.remove_entry(name) else { return };
        kept.remove(channel.place, &name);
        *floor = floor.max(channel.ring.floor());
        if channel.stored {
            losses.channel(&name, *floor);
        }
        patterns.unindex(channel.slot, &channel.watchers);
        slots.free(channel.slot);
    }

    /// Records that a channel may have become idle.
    pub(super) fn note_idle(&mut self, name: &str) {
        if let Some((name, channel)) = self.channels.get_key_value(name)
            && channel.is_idle()
        {
            self.idle.insert(Arc::clone(name));
        }
    }

    /// Keeps these channels, even while they are empty, until they are [released](Self::release).
    pub(crate) fn hold(&mut self, names: &[impl AsRef<str>]) {
        for name in names {
            if let Some(channel) = self.channels.get_mut(name.as_ref()) {
                channel.held += 1;
            }
        }
    }

    /// Releases channels that were [held](Self::hold).
    pub(crate) fn release(&mut self, names: &[impl AsRef<str>]) {
        for name in names {
            if let Some(channel) = self.channels.get_mut(name.as_ref()) {
                decrease(&mut channel.held, 1);
            }
            self.note_idle(name.as_ref());
        }
    }

    /// Creates channels as [`make_all`](Self::make_all) does, and indexes them, because the caller
    /// is about to add events to them.
    pub(super) fn make_all_for_events<N: AsRef<str>>(
        &mut self,
        names: &[N],
        now: Duration,
        options: &RegistryOptions,
        matches: &PatternMatches,
    ) -> Result<(), PublishError> {
        self.make_all(names, now, options)?;
        names.iter().for_each(|name| self.index(name.as_ref(), matches));
        Ok(())
    }

    /// Evicts expired events, and removes idle channels.
    pub(super) fn sweep(&mut self, now: Duration) {
        let Self { channels, losses, idle, .. } = self;
        for (name, channel) in channels {
            channel.trim(now, |entry| losses.event(name, entry));
            channel.reopen(now).into_iter().for_each(|end| losses.reopened(name, end));
            if channel.is_idle() {
                idle.insert(Arc::clone(name));
            }
        }
        while self.remove_idle() {}
        self.swept = now;
    }

    /// Counts a channel's streams. If `access` is given, counts only the streams that may read the
    /// private event that `access` is about.
    pub(super) fn count(&self, name: &str, access: Option<&EventAccess>) -> usize {
        self.subscribers_of(name, &PatternMatches::default()).map(|it| it.count(access)).sum()
    }

    /// Returns the notifiers of a channel's streams. For a private event, they notify only the
    /// streams that may read it.
    pub(super) fn notifiers(&self, name: &str, private: Option<&Arc<Private>>) -> Vec<Notifiers> {
        self.subscribers_of(name, &PatternMatches::default())
            .map(|it| it.notifiers(private))
            .collect()
    }

    /// Returns the subscribers that select a channel by its name, by a prefix or by a pattern.
    ///
    /// The cost depends on the length of the name and on the number of patterns that select the
    /// channel. It does not depend on the number of prefixes.
    ///
    /// A channel without events is not indexed, so the patterns that select it are found only if
    /// `matches` contains them.
    pub(super) fn subscribers_of<'a>(
        &'a self,
        name: &'a str,
        matches: &'a PatternMatches,
    ) -> impl Iterator<Item = &'a Subscribers> {
        let channel = self.channels.get(name);
        let watchers = match channel {
            Some(channel) if channel.indexed => Some(&channel.watchers),
            _ => matches.of(name),
        };
        let by_pattern = watchers.into_iter().flat_map(Bits::iter);
        let by_pattern = by_pattern.filter_map(|slot| self.patterns.subscribers(slot));
        let by_name = channel.map(|channel| &channel.subscribers);
        by_name.into_iter().chain(prefixes_of(&self.prefixes, name)).chain(by_pattern)
    }

    /// The notifiers of all streams.
    pub(super) fn all_notifiers(&self) -> Vec<Notifiers> {
        let by_name = self.channels.values().map(|channel| &channel.subscribers);
        let all = by_name.chain(self.prefixes.values()).chain(self.patterns.all_subscribers());
        all.map(|subscribers| subscribers.notifiers(None)).collect()
    }

    /// Applies `change` to the subscribers of each name, prefix and pattern. Removes the prefixes
    /// and patterns that are left without subscribers.
    pub(super) fn change_subscribers(
        &mut self,
        channels: &Channels,
        mut change: impl FnMut(&mut Subscribers),
    ) {
        self.changes += 1;
        for name in channels.names.iter() {
            let Some(channel) = self.channels.get_mut(name) else { continue };
            let was_named = channel.subscribers.has_streams();
            change(&mut channel.subscribers);
            let changed = channel.subscribers.has_streams() != was_named;
            if channel.subscribers.is_empty() {
                self.note_idle(name);
            }
            if changed {
                self.note(|| Subject::Channel(Arc::clone(name)));
            }
        }
        for prefix in channels.prefixes.iter() {
            let subscribers = self.prefixes.entry(Arc::clone(prefix)).or_default();
            change(subscribers);
            if subscribers.is_empty() {
                self.prefixes.remove(prefix);
            }
        }
        for pattern in channels.patterns() {
            self.patterns.change(pattern, &mut change);
        }
    }

    /// Returns the existing channels that these names, prefixes and patterns select. A channel that
    /// several of them select may occur more than once.
    pub(super) fn selected<'a>(
        &'a self,
        channels: &'a Channels,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Channel)> {
        let by_name = channels.names.iter().filter_map(|name| self.channels.get_key_value(name));
        let by_prefix = channels.prefixes.iter().flat_map(|prefix| {
            (self.channels.range(Arc::clone(prefix)..))
                .take_while(move |(name, _)| name.starts_with(&**prefix))
        });
        let by_pattern = self.patterns.selected(channels.patterns());
        let by_pattern: Vec<usize> = by_pattern.iter().collect();
        let by_pattern = (by_pattern.into_iter().filter_map(|slot| self.slots.get(slot)))
            .filter_map(|name| self.channels.get_key_value(name));
        by_name.chain(by_prefix).chain(by_pattern)
    }

    /// Records the patterns that select a channel that is about to get an event.
    pub(super) fn index(&mut self, name: &str, matches: &PatternMatches) {
        let Self { channels, patterns, .. } = self;
        let Some(channel) = channels.get_mut(name).filter(|channel| !channel.indexed) else {
            return;
        };
        channel.indexed = true;
        match matches.of(name) {
            Some(selecting) => channel.watchers = patterns.index(selecting, channel.slot),
            None => debug_assert!(!patterns.has_any_after(0), "no pattern was matched: {name:?}"),
        }
    }

    /// Notes that a subject has changed, if there is a watch.
    pub(super) fn note(&mut self, subject: impl FnOnce() -> Subject) {
        if let Some(notes) = &mut self.notes {
            notes.add(subject);
        }
    }

    /// Notes that subjects may have changed that cannot be named, if there is a watch.
    pub(crate) fn note_incomplete(&mut self) {
        if let Some(notes) = &mut self.notes {
            notes.incomplete = true;
        }
    }

    /// Queues a channel that has just received the event `id`, unless it is queued already.
    pub(super) fn queue(&mut self, name: &str, id: EventId) {
        let Some((name, _)) = self.channels.get_key_value(name) else { return };
        let name = Arc::clone(name);
        let Some(channel) = self.channels.get_mut(&name) else { return };
        if channel.place.is_none() {
            channel.place = Some(id);
            self.kept.queue.insert((id, name));
        }
    }

    /// Evicts the oldest events of all channels until all histories cost at most `limit` bytes.
    ///
    /// The newest event of all channels is never evicted.
    ///
    /// This takes O(log channels) per event, amortized over the events that have left their rings.
    pub(super) fn evict(&mut self, limit: usize) {
        if self.kept.bytes() > limit {
            self.evict_oldest(limit);
        }
    }

    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    fn evict_oldest(&mut self, limit: usize) {
        let Self { kept: HistoryTotal { total, queue }, channels, losses, last, .. } = self;
        while total.load(Ordering::Relaxed) > limit {
            let Some((id, name)) = queue.pop_first() else { return };
            let Some(channel) = channels.get_mut(&name) else { continue };
            channel.place = match channel.ring.oldest() {
                Some(oldest) if oldest != id => Some(oldest),
                // Free the runs of lost ids, and with them the counts in gaps, before evicting
                // events.
                Some(_) if channel.ring.forget_runs(RUNS_KEPT) => Some(id),
                Some(oldest) if oldest == *last => {
                    queue.insert((id, name));
                    return;
                }
                Some(_) => {
                    channel.evict(|entry| losses.event(&name, entry));
                    Some(id)
                }
                None => {
                    channel.ring.forget_runs(1);
                    None
                }
            };
            queue.extend(channel.place.map(|place| (place, name)));
        }
    }
}

/// How many clients can reconnect in a second (see `http::admission`).
const RECONNECTS_PER_SECOND: u32 = 500;

/// The minimum time before a client reconnects.
const MIN_RETRY: Duration = Duration::from_secs(1);

/// Assigns each stream the time at which it ends.
///
/// If all streams ended at the same time, all clients would reconnect at the same time.
#[derive(Debug)]
pub(crate) struct Closing {
    since: Instant,
    over: Duration,
    streams: u32,
    given: AtomicU32,
}

impl Closing {
    /// Creates a schedule that begins now and ends this many streams over the time `over`.
    pub(crate) fn new(over: Duration, streams: usize) -> Arc<Self> {
        let streams = u32::try_from(streams).unwrap_or(u32::MAX);
        Arc::new(Self { since: Instant::now(), over, streams, given: AtomicU32::new(0) })
    }

    /// Returns the end time of the next stream. The first stream ends at once, and the others at
    /// equal intervals.
    pub(crate) fn moment(&self) -> Instant {
        let given = self.given.fetch_add(1, Ordering::Relaxed).min(self.streams);
        self.since + self.over.mul_f64(f64::from(given) / f64::from(self.streams.max(1)))
    }

    /// Returns the time after which one client should reconnect.
    ///
    /// It is random, and its range grows with the number of streams. So the clients that reconnect
    /// in the same second are not more than the server can accept.
    pub(crate) fn retry(&self) -> Duration {
        let spread = Duration::from_secs(1) * self.streams / RECONNECTS_PER_SECOND;
        MIN_RETRY + spread.max(MIN_RETRY * 2).mul_f64(fastrand::f64())
    }
}

/// Whether and how a registry is ending.
#[derive(Debug, Clone)]
pub(crate) enum Ending {
    /// The registry is open.
    No,
    /// The registry's streams end one after the other.
    Over(Arc<Closing>),
    /// The registry is closed.
    Now,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::registry::{Registry, Update};

    #[test]
    fn end_times_are_spread_evenly_from_now() {
        let closing = Closing::new(Duration::from_secs(4), 4);
        let after: Vec<_> = (0..6).map(|_| (closing.moment() - closing.since).as_secs()).collect();
        assert_eq!(after, [0, 1, 2, 3, 4, 4]);
        assert_eq!(Closing::new(Duration::from_secs(4), 0).moment().elapsed().as_secs(), 0);
    }

    #[test]
    fn more_streams_reconnect_over_a_longer_time() {
        let longest = |streams| {
            let closing = Closing::new(Duration::ZERO, streams);
            (0..1_000).map(|_| closing.retry()).max().unwrap_or_default()
        };
        assert!(longest(1) <= MIN_RETRY * 3);
        assert!(longest(5_000) > Duration::from_secs(9), "{:?}", longest(5_000));
    }

    /// Computes the cost of the rings from scratch, and checks the queue's invariants.
    fn recount(registry: &Registry) -> usize {
        let state = registry.lock();
        for (name, channel) in &state.channels {
            let places = state.kept.queue.iter().filter(|(_, queued)| queued == name);
            let places: Vec<EventId> = places.map(|(id, _)| *id).collect();
            assert_eq!(places, Vec::from_iter(channel.place), "{name}");
            let oldest = channel.ring.oldest();
            assert!(oldest.is_none_or(|oldest| places.iter().all(|id| *id <= oldest)), "{name}");
            assert!(channel.place.is_some() || channel.ring.is_empty(), "{name}");
        }
        let rings = state.channels.values().map(|channel| &channel.ring);
        rings.map(|ring| ring.entries().map(Entry::cost).sum::<usize>() + ring.runs_cost()).sum()
    }

    #[test]
    fn history_total_equals_the_cost_of_the_rings() {
        let rule = History { events: 5, age: Duration::from_millis(20), ..History::default() };
        for history_total in [2_000, 20_000, usize::MAX] {
            let history = Histories::default().with("short*", rule);
            let options = RegistryOptions { history, history_total, ..Default::default() };
            let registry = Registry::with(options);
            let mut random = fastrand::Rng::with_seed(7);
            for step in 0..3_000 {
                let topics = ["a", "short/a", "short/b", "c", "d"];
                let begin = random.usize(..topics.len());
                let topics = &topics[begin..(begin + random.usize(1..3)).min(topics.len())];
                let key = random.bool().then(|| format!("key-{step}"));
                let event = Event::new("x".repeat(random.usize(..300)));
                let event = event.with_id(format!("id-{step}")).expect("an id");
                let update = Update {
                    topics,
                    events: &[event],
                    private: random.bool(),
                    key: key.as_deref(),
                };
                registry.publish_update(&update).expect("all are names");
                match random.usize(..50) {
                    0 => registry.sweep(),
                    1 => drop(registry.forget(topics[0]).expect("there is no store")),
                    _ => {}
                }
                let counted = registry.history_bytes();
                assert_eq!(counted, recount(&registry), "after step {step}");
                let newest = 2 * 1_500; // the newest event is exempt, in at most two channels
                assert!(counted <= history_total.saturating_add(newest), "{counted}");
            }
        }
    }

    #[test]
    fn history_total_bounds_runs_of_lost_ids() {
        let rule = History { events: 1, ..History::default() };
        let history_total = 100_000;
        let history = Histories::all(rule);
        let options = RegistryOptions { history, history_total, ..Default::default() };
        let registry = Registry::with(options);
        // Each channel loses every tenth id, so each lost id is a run of its own.
        for n in 0..50_000 {
            let name = format!("channel-{}", n % 10);
            registry.publish(&name, &Event::new("")).expect("a name");
            assert!(registry.history_bytes() <= history_total + 1_000);
        }
        assert_eq!(registry.history_bytes(), recount(&registry));
    }
}
