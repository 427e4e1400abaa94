//! What the registry's lock guards.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::audience::{Audience, Bells};
use super::marks::Marks;
use super::patterns::{Foreseen, Patterns};
use super::presence::Presence;
use super::readable::Private;
use super::ring::{Entry, Ring};
use super::sequencer::Entered;
use super::{Channels, Closing, History, RegistryOptions};
use crate::error::PublishError;
use crate::id::EventId;
use crate::matcher::{Matcher, Topic};
use crate::store::redis::Row;
use crate::store::{Kept, Loss};

#[derive(Debug)]
pub(super) struct State {
    /// Gone once the registry is closed.
    pub(super) open: Option<Sender<Infallible>>,
    /// Gone once the streams begin to end.
    pub(super) calls: Option<Sender<Infallible>>,
    /// When each stream is to end, once they do.
    pub(super) closing: Option<Arc<Closing>>,
    /// The newest event's id.
    pub(super) last: EventId,
    /// Events up to here may have been in a channel that is forgotten.
    pub(super) floor: EventId,
    pub(super) channels: BTreeMap<Arc<str>, Channel>,
    pub(super) prefixes: BTreeMap<Arc<str>, Audience>,
    pub(super) patterns: Patterns,
    /// The newest listener's key.
    pub(super) last_key: u64,
    /// What a store still has to be told.
    pub(super) losses: Losses,
    /// Whether the events are in a log that other nodes write too.
    pub(super) shared: bool,
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
    pub(super) marks: Marks,
    pub(super) audience: Audience,
    pub(super) presence: Presence,
    /// The patterns that somebody listens to and that select it.
    pub(super) watchers: Vec<Matcher>,
    /// Whether a store knows that there is such a channel.
    stored: bool,
}

/// What was let go and is still in the store. Without a store, nothing is noted.
#[derive(Debug, Default)]
pub(super) struct Losses(Option<Vec<Loss>>);

impl Losses {
    pub(super) fn noted() -> Self {
        Self(Some(Vec::new()))
    }

    fn event(&mut self, channel: &str, entry: &Entry) {
        if let Some(losses) = &mut self.0 {
            losses.push(Loss::of(channel, entry));
        }
    }

    fn before(&mut self, channel: &str, lost: EventId) {
        if let Some(losses) = self.0.as_mut().filter(|_| lost > EventId::ZERO) {
            let channel = channel.into();
            losses.push(Loss::Event { channel, id: lost, at: Duration::ZERO });
        }
    }

    fn channel(&mut self, channel: &Arc<str>, floor: EventId) {
        if let Some(losses) = &mut self.0 {
            losses.push(Loss::Channel { channel: Arc::clone(channel), floor });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(Vec::is_empty)
    }

    pub(super) fn take(&mut self) -> Vec<Loss> {
        self.0.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl Channel {
    fn new(floor: EventId, history: History) -> Self {
        Self {
            ring: Ring::new(floor),
            history,
            marks: Marks::default(),
            audience: Audience::default(),
            presence: Presence::default(),
            watchers: Vec::new(),
            stored: false,
        }
    }

    /// Lets go of what is too much or too old, and says what that was.
    pub(super) fn trim(&mut self, now: Duration, mut gone: impl FnMut(&Entry)) {
        let Self { ring, history, marks, .. } = self;
        ring.trim(now, history, |entry| {
            entry.mark.iter().for_each(|mark| marks.forget(mark));
            gone(entry);
        });
    }

    /// Lets go of everything.
    pub(super) fn clear(&mut self) {
        self.ring.clear();
        self.marks = Marks::default();
    }
}

impl State {
    /// Nothing yet but the place before the first event. It is not open.
    pub(super) fn new(last: EventId) -> Self {
        Self {
            open: None,
            calls: None,
            closing: None,
            last,
            floor: EventId::ZERO,
            channels: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            patterns: Patterns::default(),
            last_key: 0,
            losses: Losses::default(),
            shared: false,
            others: Row::default(),
            changes: 0,
            untold: false,
        }
    }

    /// The newest event that a stream of these channels may know of.
    pub(super) fn newest_for(&self, _channels: &Channels) -> EventId {
        self.last
    }

    /// The channel of this name, made if need be.
    pub(super) fn channel(
        &mut self,
        name: &str,
        now: Duration,
        options: &RegistryOptions,
    ) -> Result<&mut Channel, PublishError> {
        if !self.channels.contains_key(name) {
            self.make(name, now, options)?;
        }
        Ok(self.channels.get_mut(name).expect("it was there or has just been made"))
    }

    /// The same beyond every limit, for events that are kept already.
    pub(super) fn channel_of_any_number(
        &mut self,
        name: &str,
        options: &RegistryOptions,
    ) -> &mut Channel {
        if !self.channels.contains_key(name) {
            let mut channel = Channel::new(self.floor, options.history.of(name));
            let name: Arc<str> = name.into();
            if !self.patterns.is_empty() {
                channel.watchers = self.patterns.greet(&name);
            }
            self.channels.insert(name, channel);
        }
        self.channels.get_mut(name).expect("it was there or has just been made")
    }

    /// Lets an event that a store keeps into its rings.
    pub(super) fn enter(&mut self, entered: Entered, options: &RegistryOptions) {
        let Entered { channels, entry, published } = entered;
        self.last = self.last.max(entry.id);
        for channel in &channels {
            self.channel_of_any_number(channel, options);
            let target = self.introduce(channel);
            entry.mark.iter().for_each(|mark| target.marks.add(mark, published));
            target.ring.push(entry.clone());
        }
    }

    /// The channel, of which the store is to know. What it has lost so far goes with
    /// its first event: after a restart it could not be told any more.
    pub(super) fn introduce(&mut self, name: &str) -> &mut Channel {
        let Self { channels, losses, .. } = self;
        let channel = channels.get_mut(name).expect("it has been made");
        if !std::mem::replace(&mut channel.stored, true) {
            losses.before(name, channel.ring.lost_to());
        }
        channel
    }

    /// Takes over what a store remembers besides the events.
    pub(super) fn restore(&mut self, kept: Kept, options: &RegistryOptions) {
        for (channel, to, at) in kept.lost {
            let target = self.channel_of_any_number(&channel, options);
            target.ring.lost_before(to, at);
            target.stored = true;
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
    }

    #[inline(never)] // only a channel's first client has this on its stack
    fn make(
        &mut self,
        name: &str,
        now: Duration,
        options: &RegistryOptions,
    ) -> Result<(), PublishError> {
        self.make_all(&[name], now, options)
    }

    /// Makes those of these channels that are not there, or none of them.
    #[inline(never)] // as above
    pub(super) fn make_all<N: AsRef<str>>(
        &mut self,
        names: &[N],
        now: Duration,
        options: &RegistryOptions,
    ) -> Result<(), PublishError> {
        let limit = options.max_channels;
        let is_too_many = |state: &Self| {
            let new = names.iter().filter(|name| !state.channels.contains_key(name.as_ref()));
            let new = new.count();
            new > 0 && state.channels.len() + new > limit
        };
        if is_too_many(self) {
            self.sweep(now);
        }
        if is_too_many(self) {
            return Err(PublishError::TooManyChannels { limit });
        }
        for name in names {
            self.channel_of_any_number(name.as_ref(), options);
        }
        Ok(())
    }

    /// Sees to it that it is known which channels these patterns select, before
    /// somebody listens to them. Only of channels that have come since it was foreseen
    /// they are asked here.
    #[inline(never)] // most streams have none
    pub(super) fn watch(
        &mut self,
        patterns: &[Matcher],
        foreseen: &Foreseen,
        limit: usize,
    ) -> Result<(), PublishError> {
        if self.patterns.len_with(patterns) > limit {
            return Err(PublishError::TooManyPatterns { limit });
        }
        for (at, pattern) in patterns.iter().enumerate() {
            if self.patterns.has(pattern) {
                continue;
            }
            let mut selected = BTreeSet::new();
            let mut known = foreseen.iter().peekable();
            for (name, channel) in &mut self.channels {
                while known.next_if(|(before, _)| before < name).is_some() {}
                let selects = match known.next_if(|(known, _)| known == name) {
                    Some((_, answers)) => answers[at],
                    None => pattern.is_of(&Topic::new(name)),
                };
                if selects {
                    channel.watchers.push(pattern.clone());
                    selected.insert(Arc::clone(name));
                }
            }
            self.patterns.add(pattern, selected);
        }
        Ok(())
    }

    /// Lets go of what is too old, and of channels in which nothing is left.
    pub(super) fn sweep(&mut self, now: Duration) {
        let Self { channels, losses, floor, patterns, .. } = self;
        channels.retain(|name, channel| {
            channel.trim(now, |entry| losses.event(name, entry));
            let idle = channel.ring.is_empty()
                && channel.audience.is_empty()
                && channel.presence.is_empty();
            if idle {
                *floor = (*floor).max(channel.ring.lost_to());
                if channel.stored {
                    losses.channel(name, *floor);
                }
                patterns.dismiss(name, &channel.watchers);
            }
            !idle
        });
    }

    /// How many listen to a channel, by its name, by a prefix or by a pattern, and
    /// their bells; of a private event, those who may read it.
    ///
    /// Looks up each prefix of the name: bounded by the name's length, however
    /// many prefixes are listened to.
    pub(super) fn audience(
        &self,
        name: &str,
        private: Option<&Arc<Private>>,
    ) -> (usize, Vec<Bells>) {
        let channel = self.channels.get(name);
        let by_prefix = (0..=name.len())
            .filter(|_| !self.prefixes.is_empty())
            .filter_map(|end| self.prefixes.get(name.get(..end)?));
        let watchers = channel.map_or(&[][..], |channel| &channel.watchers);
        let by_pattern = watchers.iter().filter_map(|pattern| self.patterns.audience(pattern));
        let by_name = channel.map(|channel| &channel.audience);
        let all = by_name.into_iter().chain(by_prefix).chain(by_pattern);
        all.fold((0, Vec::new()), |(subscribers, mut bells), audience| {
            bells.push(audience.bells(private));
            (subscribers + audience.count(private.map(|private| &**private)), bells)
        })
    }

    /// Everybody's bells.
    pub(super) fn all_bells(&self) -> Vec<Bells> {
        let by_name = self.channels.values().map(|channel| &channel.audience);
        let all = by_name.chain(self.prefixes.values()).chain(self.patterns.audiences());
        all.map(|audience| audience.bells(None)).collect()
    }

    /// Changes the audience of each name, prefix and pattern, and forgets the prefixes
    /// and patterns to which nobody listens any more.
    pub(super) fn audiences(&mut self, channels: &Channels, mut change: impl FnMut(&mut Audience)) {
        self.changes += 1;
        for name in channels.names.iter() {
            if let Some(channel) = self.channels.get_mut(name) {
                change(&mut channel.audience);
            }
        }
        for prefix in channels.prefixes.iter() {
            let audience = self.prefixes.entry(Arc::clone(prefix)).or_default();
            change(audience);
            if audience.is_empty() {
                self.prefixes.remove(prefix);
            }
        }
        for pattern in channels.patterns() {
            for name in self.patterns.change(pattern, &mut change) {
                if let Some(channel) = self.channels.get_mut(&name) {
                    channel.watchers.retain(|watcher| watcher != pattern);
                }
            }
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
        let by_pattern = (channels.patterns().iter())
            .flat_map(|pattern| self.patterns.selected(pattern))
            .filter_map(|name| self.channels.get_key_value(name));
        by_name.chain(by_prefix).chain(by_pattern)
    }
}
