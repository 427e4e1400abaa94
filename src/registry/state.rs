//! What the registry's lock guards.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::bits::{Bits, Slots};
use super::dedup::DedupIndex;
use super::kept::{Cost, Kept as Total};
use super::patterns::{Answers, Patterns};
use super::presence::Presence;
use super::readable::{Private, Readers};
use super::ring::{Entry, Ring};
use super::store_writer::Entered;
use super::subscribers::{Notifiers, Subscribers};
use super::{Channels, Closing, History, RegistryOptions};
use crate::counters::decrease;
use crate::error::PublishError;
use crate::id::EventId;
use crate::store::redis::{Row, prefixes_of};
use crate::store::{self, Eviction, Floor, Kept};

#[derive(Debug)]
pub(super) struct HubState {
    /// Gone once the registry is closed.
    pub(super) open: Option<Sender<Infallible>>,
    /// Gone once the streams begin to end.
    pub(super) calls: Option<Sender<Infallible>>,
    /// When each stream is to end, once they do.
    pub(super) closing: Option<Arc<Closing>>,
    /// The newest event's id.
    pub(super) last: EventId,
    /// The newest public event's id.
    pub(super) last_public: EventId,
    /// Events up to here may have been in a channel that is forgotten.
    pub(super) floor: Floor,
    pub(super) channels: BTreeMap<Arc<str>, Channel>,
    /// The channels that may be idle: every idle one is among them. It makes room for a
    /// new channel without a look at all others.
    pub(super) idle: BTreeSet<Arc<str>>,
    /// When all channels were swept last.
    pub(super) swept: Duration,
    /// What all histories cost together.
    pub(super) kept: Total,
    /// The names of the channels, by slots that are smaller to note.
    pub(super) slots: Slots<Arc<str>>,
    pub(super) prefixes: BTreeMap<Arc<str>, Subscribers>,
    pub(super) patterns: Patterns,
    /// The newest listener's key.
    pub(super) last_key: u64,
    /// What a store still has to be told.
    pub(super) losses: Evictions,
    /// Whether the events are in a log that other nodes write too.
    pub(super) is_shared: bool,
    /// Who listens at those.
    pub(super) others: Row,
    /// How often it has changed who listens here.
    pub(super) changes: u64,
    /// Whether the others are to be told anew of every name that is present here, for
    /// there was no room for the order to tell them of one.
    pub(super) untold: bool,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) ring: Ring,
    pub(super) history: History,
    pub(super) dedup: DedupIndex,
    pub(super) subscribers: Subscribers,
    pub(super) presence: Presence,
    /// Its slot.
    pub(super) slot: usize,
    /// The slots of the patterns that select it.
    pub(super) watchers: Bits,
    /// Whether the patterns have been matched against its name: before it has any event.
    pub(super) indexed: bool,
    /// Whether a store knows that there is such a channel.
    stored: bool,
    /// How many requests under way need the channel to stay.
    held: usize,
    /// Its place in the queue of [`kept`](super::kept), if it has one.
    pub(super) place: Option<EventId>,
}

/// The least time between two sweeps of all channels that requests ask for which find no
/// room. Without it, each such request would cost as much as there are channels.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// What was let go and is still in the store. Without a store, nothing is noted.
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

    fn before(&mut self, channel: &str, floor: Floor) {
        let Some(losses) = &mut self.0 else { return };
        let who =
            if floor.other_topics { store::Readers::OfTopics } else { store::Readers::OfChannel };
        let newest = (floor.public > EventId::ZERO).then_some((floor.public, store::Readers::All));
        let hidden = floor.hides_some().then_some((floor.all, who));
        for (id, who) in newest.into_iter().chain(hidden) {
            losses.push(Eviction::Event { channel: channel.into(), id, at: Duration::ZERO, who });
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

    pub(super) fn take(&mut self) -> Vec<Eviction> {
        self.0.as_mut().map(std::mem::take).unwrap_or_default()
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
            held: 0,
            place: None,
        }
    }

    /// Whether nothing would be lost with it.
    fn is_idle(&self) -> bool {
        self.ring.is_empty()
            && self.subscribers.is_empty()
            && self.presence.is_empty()
            && self.held == 0
    }

    /// Lets go of what is too much or too old, and says what that was.
    pub(super) fn trim(&mut self, now: Duration, mut gone: impl FnMut(&Entry)) {
        let Self { ring, history, dedup, .. } = self;
        ring.trim(now, history, |entry| {
            entry.mark.iter().for_each(|mark| dedup.forget(mark));
            gone(entry);
        });
    }

    /// Evicts the oldest event.
    pub(super) fn evict(&mut self, mut gone: impl FnMut(&Entry)) {
        let Self { ring, dedup, .. } = self;
        ring.evict(|entry| {
            entry.mark.iter().for_each(|mark| dedup.forget(mark));
            gone(entry);
        });
    }

    /// Lets go of everything.
    pub(super) fn clear(&mut self) {
        self.ring.clear();
        self.dedup = DedupIndex::default();
    }
}

impl HubState {
    /// Nothing yet but the place before the first event. It is not open.
    pub(super) fn new(last: EventId) -> Self {
        Self {
            open: None,
            calls: None,
            closing: None,
            last,
            last_public: last,
            floor: Floor::default(),
            channels: BTreeMap::new(),
            idle: BTreeSet::new(),
            swept: Duration::ZERO,
            kept: Total::default(),
            slots: Slots::default(),
            prefixes: BTreeMap::new(),
            patterns: Patterns::default(),
            last_key: 0,
            losses: Evictions::default(),
            is_shared: false,
            others: Row::default(),
            changes: 0,
            untold: false,
        }
    }

    /// The channel of this name, made if need be beyond every limit: for events that are
    /// kept already.
    pub(super) fn channel_of_any_number(
        &mut self,
        name: &str,
        options: &RegistryOptions,
        answers: &Answers,
    ) -> &mut Channel {
        self.insert(name, options);
        self.index(name, answers);
        self.channels.get_mut(name).expect("it was there or has just been made")
    }

    fn insert(&mut self, name: &str, options: &RegistryOptions) {
        if !self.channels.contains_key(name) {
            self.insert_new(name, options);
        }
    }

    #[inline(never)] // its frame is 4 KB: only a channel's first client has it on its stack
    fn insert_new(&mut self, name: &str, options: &RegistryOptions) {
        let name: Arc<str> = name.into();
        let slot = self.slots.add(Arc::clone(&name));
        let (history, cost) = (options.history.of(&name), self.kept.part());
        let channel = Channel::new(self.floor, history, cost, slot);
        self.idle.insert(Arc::clone(&name));
        self.channels.insert(name, channel);
    }

    /// Lets an event that a store keeps into its rings.
    pub(super) fn enter(&mut self, entered: Entered, options: &RegistryOptions, answers: &Answers) {
        let Entered { channels, entry, published } = entered;
        self.last = self.last.max(entry.id);
        if entry.private.is_none() {
            self.last_public = self.last_public.max(entry.id);
        }
        for channel in &channels {
            self.channel_of_any_number(channel, options, answers);
            let target = self.introduce(channel);
            let is_queued = target.place.is_some();
            entry.mark.iter().for_each(|mark| target.dedup.add(mark, published));
            target.ring.push(entry.clone());
            if !is_queued {
                self.queue(channel, entry.id);
            }
        }
    }

    /// The channel, of which the store is to know. What it has lost so far goes with
    /// its first event: after a restart it could not be told any more.
    pub(super) fn introduce(&mut self, name: &str) -> &mut Channel {
        let Self { channels, losses, .. } = self;
        let channel = channels.get_mut(name).expect("it has been made");
        if !std::mem::replace(&mut channel.stored, true) {
            losses.before(name, channel.ring.floor());
        }
        channel
    }

    /// Takes over what a store remembers besides the events.
    pub(super) fn restore(&mut self, kept: Kept, options: &RegistryOptions) {
        let begin = EventId { n: 0, ..kept.last };
        self.last_public = self.last_public.max(begin).max(kept.floor.public);
        for lost in kept.lost {
            let target = self.channel_of_any_number(&lost.channel, options, &Answers::default());
            target.ring.lost_before(lost.floor, lost.at, lost.public_at);
            target.stored = true;
            self.last_public = self.last_public.max(lost.floor.public);
        }
        self.last = self.last.max(kept.last);
        self.floor = kept.floor;
    }

    /// Lets go of what is too much or too old of one channel.
    pub(super) fn trim(&mut self, name: &str, now: Duration) {
        let Self { channels, losses, .. } = self;
        if let Some(channel) = channels.get_mut(name) {
            channel.trim(now, |entry| losses.event(name, entry));
        }
        self.note_idle(name);
    }

    /// Lets go of all events of a channel, and says whether there is one of this name.
    pub(super) fn clear(&mut self, name: &str) -> bool {
        let is_there = self.channels.get_mut(name).map(Channel::clear).is_some();
        self.note_idle(name);
        is_there
    }

    /// Makes those of these channels that are not there, or none of them.
    #[inline(never)] // only a channel's first client has this on its stack
    pub(super) fn make_all<N: AsRef<str>>(
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

    /// How many channels there would be too many with these.
    fn excess(&self, names: &[impl AsRef<str>], limit: usize) -> usize {
        let new = names.iter().filter(|name| !self.channels.contains_key(name.as_ref()));
        match new.count() {
            0 => 0,
            new => (self.channels.len() + new).saturating_sub(limit),
        }
    }

    /// Removes as many idle channels as these need, none of these among them, and says
    /// whether there were enough.
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

    /// Removes one idle channel, if there is one.
    fn remove_idle(&mut self) -> bool {
        while let Some(name) = self.idle.pop_first() {
            if self.channels.get(&name).is_some_and(Channel::is_idle) {
                self.remove(&name);
                return true;
            }
        }
        false
    }

    /// Removes a channel. Of what it has lost, the floor remains.
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

    /// Notes that a channel may have become idle.
    pub(super) fn note_idle(&mut self, name: &str) {
        if let Some((name, channel)) = self.channels.get_key_value(name)
            && channel.is_idle()
        {
            self.idle.insert(Arc::clone(name));
        }
    }

    /// Keeps these channels until they are released, though nothing is in them yet.
    pub(super) fn hold(&mut self, names: &[impl AsRef<str>]) {
        for name in names {
            if let Some(channel) = self.channels.get_mut(name.as_ref()) {
                channel.held += 1;
            }
        }
    }

    /// Releases channels that were held.
    pub(super) fn release(&mut self, names: &[impl AsRef<str>]) {
        for name in names {
            if let Some(channel) = self.channels.get_mut(name.as_ref()) {
                decrease(&mut channel.held, 1);
            }
            self.note_idle(name.as_ref());
        }
    }

    /// The same, for channels that are to get events.
    pub(super) fn make_all_for_events<N: AsRef<str>>(
        &mut self,
        names: &[N],
        now: Duration,
        options: &RegistryOptions,
        answers: &Answers,
    ) -> Result<(), PublishError> {
        self.make_all(names, now, options)?;
        names.iter().for_each(|name| self.index(name.as_ref(), answers));
        Ok(())
    }

    /// Lets go of what is too old, and of channels in which nothing is left.
    pub(super) fn sweep(&mut self, now: Duration) {
        let Self { channels, losses, idle, .. } = self;
        for (name, channel) in channels {
            channel.trim(now, |entry| losses.event(name, entry));
            if channel.is_idle() {
                idle.insert(Arc::clone(name));
            }
        }
        while self.remove_idle() {}
        self.swept = now;
    }

    /// How many streams a channel has; for a private event, how many of them may read it.
    pub(super) fn count(&self, name: &str, readers: Option<&Readers>) -> usize {
        self.subscribers_of(name, &Answers::default()).map(|it| it.count(readers)).sum()
    }

    /// The bells of a channel's streams; for a private event, of those that may read it.
    pub(super) fn notifiers(&self, name: &str, private: Option<&Arc<Private>>) -> Vec<Notifiers> {
        self.subscribers_of(name, &Answers::default()).map(|it| it.notifiers(private)).collect()
    }

    /// Those who listen to a channel, by its name, by a prefix or by a pattern.
    ///
    /// The work is bounded by the name's length, however many prefixes there are, and by
    /// the number of patterns that select the channel.
    /// Of a channel without events it is not known which do, except where `answers` say so.
    pub(super) fn subscribers_of<'a>(
        &'a self,
        name: &'a str,
        answers: &'a Answers,
    ) -> impl Iterator<Item = &'a Subscribers> {
        let channel = self.channels.get(name);
        let watchers = match channel {
            Some(channel) if channel.indexed => Some(&channel.watchers),
            _ => answers.of(name),
        };
        let by_pattern = watchers.into_iter().flat_map(Bits::iter);
        let by_pattern = by_pattern.filter_map(|slot| self.patterns.subscribers(slot));
        let by_name = channel.map(|channel| &channel.subscribers);
        by_name.into_iter().chain(prefixes_of(&self.prefixes, name)).chain(by_pattern)
    }

    /// Everybody's bells.
    pub(super) fn all_notifiers(&self) -> Vec<Notifiers> {
        let by_name = self.channels.values().map(|channel| &channel.subscribers);
        let all = by_name.chain(self.prefixes.values()).chain(self.patterns.all_subscribers());
        all.map(|subscribers| subscribers.notifiers(None)).collect()
    }

    /// Changes the subscribers of each name, prefix and pattern, and forgets the prefixes
    /// and patterns to which nobody listens any more.
    pub(super) fn change_subscribers(
        &mut self,
        channels: &Channels,
        mut change: impl FnMut(&mut Subscribers),
    ) {
        self.changes += 1;
        for name in channels.names.iter() {
            let Some(channel) = self.channels.get_mut(name) else { continue };
            change(&mut channel.subscribers);
            if channel.subscribers.is_empty() {
                self.note_idle(name);
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

    /// The channels there are of these names, prefixes and patterns, some of them
    /// perhaps more than once.
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
}
