//! Patterns, and the index that records which patterns select which channels.
//!
//! The registry does not know the syntax of any pattern: a protocol compiles its patterns and adds
//! them as a [`Pattern`]. A pattern is matched against a channel's name once: when the channel gets
//! its first event, or when the first stream with the pattern subscribes. Reading and publishing
//! look up the result.
//!
//! # Invariants
//!
//! * **No pattern is matched under the registry's lock.** A publisher matches the name of a new
//!   channel on its own thread without the lock, and then takes the lock again. If patterns were
//!   added in between, the publisher repeats this for the added patterns. A new stream matches its
//!   patterns in the same way, one page of channels at a time.
//! * **A channel without events is matched against no pattern.** So clients cannot cause matching
//!   by subscribing to many names. Such a channel is *unindexed* until its first event.
//! * **The index is bounded**: two bits for each pattern and channel.

use std::any::Any;
#[cfg(debug_assertions)]
use std::cell::Cell;
use std::cell::OnceCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use super::channels::EventAccess;
use super::state::HubState;
use super::subscription::Subscribers;
use super::{Guard, Registry};
use crate::counters::decrease;
use crate::error::PublishError;
use crate::limits::PATTERNS_MAX;

/// How many patterns or channels are processed under one hold of the lock, so that the hold is
/// short.
const PAGE: usize = 256;

/// A pattern of channel names.
///
/// The registry tells patterns apart by their addresses. So an implementation should return the
/// same `Arc` for equal patterns; otherwise the registry matches each of them separately. The drop
/// of a pattern may run under the registry's lock, so it must be short.
pub(crate) trait Pattern: Send + Sync {
    /// Whether the pattern selects this name. Not called under the registry's lock.
    fn matches(&self, name: &Name<'_>) -> bool;

    /// The text that the pattern was compiled from.
    fn text(&self) -> &str;

    /// The name of the pattern's syntax, such as `template`.
    fn syntax(&self) -> &'static str;

    /// The pattern's memory, in bytes.
    fn bytes(&self) -> usize;
}

/// A channel's name that is matched against several patterns.
pub(crate) struct Name<'a> {
    text: &'a str,
    memo: OnceCell<Box<dyn Any>>,
}

impl<'a> Name<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, memo: OnceCell::new() }
    }

    pub(crate) fn text(&self) -> &'a str {
        self.text
    }

    /// Returns what the first call computed from the name, so that a protocol parses a name once
    /// for all of its patterns. Returns `None` if the first call computed another type.
    pub(crate) fn memo<T: 'static>(&self, compute: impl FnOnce() -> T) -> Option<&T> {
        self.memo.get_or_init(|| Box::new(compute())).downcast_ref()
    }
}

/// A pattern that is shared by all streams and tokens that use it. It is equal only to itself.
#[derive(Clone)]
pub(super) struct SharedPattern(Arc<dyn Pattern>);

impl SharedPattern {
    pub(super) fn new(pattern: Arc<dyn Pattern>) -> Self {
        Self(pattern)
    }

    /// Whether the pattern selects this name. Must not be called under the lock.
    pub(super) fn matches(&self, name: &Name<'_>) -> bool {
        check_unlocked();
        self.0.matches(name)
    }

    pub(super) fn text(&self) -> &str {
        self.0.text()
    }

    pub(super) fn syntax(&self) -> &'static str {
        self.0.syntax()
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

impl PartialEq for SharedPattern {
    fn eq(&self, other: &Self) -> bool {
        self.address() == other.address()
    }
}

impl Eq for SharedPattern {}

impl PartialOrd for SharedPattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Patterns are ordered by their texts, so that a set of channels lists them in the same order
/// every time.
impl Ord for SharedPattern {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text().cmp(other.text()).then_with(|| self.address().cmp(&other.address()))
    }
}

impl Hash for SharedPattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address().hash(state);
    }
}

impl fmt::Debug for SharedPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:?}", self.syntax(), self.text())
    }
}

#[cfg(debug_assertions)]
thread_local! {
    /// The number of registries that this thread has locked.
    static LOCKED: Cell<usize> = const { Cell::new(0) };
}

/// Marks this thread as holding a registry's lock, until this value is dropped.
///
/// Clients choose their patterns, and so how long a match takes. If a match ran under the lock, all
/// threads that need this lock would wait for it. Debug builds check that none does.
#[derive(Debug)]
pub(super) struct Locked(());

impl Locked {
    pub(super) fn new() -> Self {
        #[cfg(debug_assertions)]
        LOCKED.with(|locked| locked.set(locked.get() + 1));
        Self(())
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        LOCKED.with(|locked| locked.set(locked.get() - 1));
    }
}

/// Panics in debug builds if this thread holds a registry's lock.
fn check_unlocked() {
    #[cfg(debug_assertions)]
    assert_eq!(LOCKED.with(Cell::get), 0, "a pattern is matched under the registry's lock");
}

/// All patterns of all streams.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    slots: Slots<Watched>,
    /// The slots of the patterns in use.
    by_pattern: HashMap<SharedPattern, usize>,
    /// The slots of the patterns in use, by serial number: in the order in which the patterns were
    /// added.
    by_serial: BTreeMap<u64, usize>,
    last_serial: u64,
    /// The slots of unused patterns to which channels may still refer. These slots are not free
    /// yet.
    retired: Vec<usize>,
}

/// A pattern and the channels that it selects.
#[derive(Debug)]
struct Watched {
    pattern: SharedPattern,
    serial: u64,
    subscribers: Subscribers,
    /// How many streams with this pattern are being set up.
    starting: usize,
    /// Whether `channels` already contains all channels that the pattern selects.
    complete: bool,
    /// The slots of the selected channels.
    channels: Bits,
}

impl Watched {
    fn is_unused(&self) -> bool {
        self.starting == 0 && self.subscribers.is_empty()
    }
}

/// A pattern that must still be matched: its serial number, its slot, and the pattern.
type PendingPattern = (u64, usize, SharedPattern);

/// The results of matching some channels' names against the patterns up to serial number `upto`.
#[derive(Debug, Default)]
pub(super) struct PatternMatches {
    upto: u64,
    /// For each name, the slots of the patterns that select it.
    names: HashMap<Box<str>, Bits>,
}

impl PatternMatches {
    /// The slots of the patterns that select this name.
    pub(super) fn of(&self, name: &str) -> Option<&Bits> {
        self.names.get(name)
    }

    /// Matches these patterns against all names. Must not be called under the lock.
    fn resolve(&mut self, pending: &[PendingPattern]) {
        for (name, selecting) in &mut self.names {
            let name = Name::new(name);
            for (_, slot, pattern) in pending {
                if pattern.matches(&name) {
                    selecting.insert(*slot);
                } else {
                    // The slot may still be set because of the pattern that had it before.
                    selecting.remove(*slot);
                }
            }
        }
        self.upto = pending.last().map_or(self.upto, |(serial, ..)| *serial);
    }
}

impl Patterns {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.slots.len() == 0
    }

    /// Returns how many patterns there would be if these were added.
    fn len_with(&self, patterns: &[SharedPattern]) -> usize {
        let new = patterns.iter().filter(|pattern| !self.by_pattern.contains_key(*pattern));
        self.slots.len() + new.count()
    }

    /// Returns the next page of patterns that were added after the pattern with this serial number.
    fn after(&self, serial: u64) -> Vec<PendingPattern> {
        let next = self.by_serial.range((Bound::Excluded(serial), Bound::Unbounded)).take(PAGE);
        let to_pending = |(serial, slot): (&u64, &usize)| {
            let watched = self.slots.get(*slot)?;
            Some((*serial, *slot, watched.pattern.clone()))
        };
        next.filter_map(to_pending).collect()
    }

    fn has_any_after(&self, serial: u64) -> bool {
        self.by_serial.last_key_value().is_some_and(|(last, _)| *last > serial)
    }

    /// Begins a use of a pattern, and adds the pattern if it is new.
    ///
    /// Returns the pattern's slot, and whether the channels that it selects must still be found.
    fn acquire(&mut self, pattern: &SharedPattern) -> (usize, bool) {
        let slot = self.by_pattern.get(pattern).copied().unwrap_or_else(|| {
            self.last_serial += 1;
            let slot = self.slots.add(Watched {
                pattern: pattern.clone(),
                serial: self.last_serial,
                subscribers: Subscribers::default(),
                starting: 0,
                complete: false,
                channels: Bits::default(),
            });
            self.by_pattern.insert(pattern.clone(), slot);
            self.by_serial.insert(self.last_serial, slot);
            slot
        });
        let watched = self.slots.get_mut(slot).expect("it is in use");
        watched.starting += 1;
        (slot, !watched.complete)
    }

    /// Ends a use that [`acquire`](Self::acquire) began.
    fn release(&mut self, slot: usize) {
        if let Some(watched) = self.slots.get_mut(slot) {
            decrease(&mut watched.starting, 1);
            self.retire_if_unused(slot);
        }
    }

    /// Changes the subscribers of a pattern in use.
    pub(super) fn change(
        &mut self,
        pattern: &SharedPattern,
        change: impl FnOnce(&mut Subscribers),
    ) {
        let Some(slot) = self.by_pattern.get(pattern).copied() else { return };
        if let Some(watched) = self.slots.get_mut(slot) {
            change(&mut watched.subscribers);
            self.retire_if_unused(slot);
        }
    }

    fn retire_if_unused(&mut self, slot: usize) {
        if let Some(watched) = self.slots.get(slot).filter(|watched| watched.is_unused()) {
            self.by_serial.remove(&watched.serial);
            self.by_pattern.remove(&watched.pattern);
            self.retired.push(slot);
        }
    }

    fn is_in_use(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(|watched| self.by_serial.contains_key(&watched.serial))
    }

    /// Records that these patterns select a channel, and returns those of them still in use.
    fn index(&mut self, selecting: &Bits, channel: usize) -> Bits {
        let mut watchers = Bits::default();
        for slot in selecting.iter().filter(|slot| self.is_in_use(*slot)).collect::<Vec<_>>() {
            if let Some(watched) = self.slots.get_mut(slot) {
                watched.channels.insert(channel);
                watchers.insert(slot);
            }
        }
        watchers
    }

    /// Removes a channel from the patterns that select it.
    pub(super) fn unindex(&mut self, channel: usize, watchers: &Bits) {
        for slot in watchers.iter() {
            if let Some(watched) = self.slots.get_mut(slot) {
                watched.channels.remove(channel);
            }
        }
    }

    /// The subscribers of the pattern in this slot.
    pub(super) fn subscribers(&self, slot: usize) -> Option<&Subscribers> {
        self.slots.get(slot).map(|watched| &watched.subscribers)
    }

    pub(super) fn all_subscribers(&self) -> impl Iterator<Item = &Subscribers> {
        self.slots.iter().map(|watched| &watched.subscribers)
    }

    /// The slots of the channels that these patterns select.
    pub(super) fn selected(&self, patterns: &[SharedPattern]) -> Bits {
        let mut selected = Bits::default();
        let slots = patterns.iter().filter_map(|pattern| self.by_pattern.get(pattern));
        slots.filter_map(|slot| self.slots.get(*slot)).for_each(|it| selected.extend(&it.channels));
        selected
    }
}

impl HubState {
    /// Returns those of these channels that are not indexed. They do not exist or have had no
    /// event.
    fn unindexed<'a, N: AsRef<str>>(&self, names: &'a [N]) -> impl Iterator<Item = &'a str> {
        let is_unindexed =
            |name: &&str| self.channels.get(*name).is_none_or(|channel| !channel.indexed);
        names.iter().map(AsRef::as_ref).filter(is_unindexed)
    }

    /// Returns the next patterns that must be matched against channels that are about to get
    /// events.
    fn pending(
        &self,
        names: &[impl AsRef<str>],
        matches: &mut PatternMatches,
    ) -> Vec<PendingPattern> {
        if !self.patterns.has_any_after(0) {
            return Vec::new();
        }
        let missing = |name: &str| !matches.names.contains_key(name);
        if self.unindexed(names).any(missing) {
            let names = self.unindexed(names).map(|name| (name.into(), Bits::default()));
            *matches = PatternMatches { upto: 0, names: names.collect() };
        }
        if matches.names.is_empty() { Vec::new() } else { self.patterns.after(matches.upto) }
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
}

/// Locks the registry to publish to these channels, with all pattern matches and access checks
/// done.
///
/// When this function returns, all patterns have been matched against those of these channels that
/// are not indexed. For a private event, `access` then knows which subscribers may read it.
///
/// The loop ends, because patterns are matched faster than streams can add new ones.
pub(super) fn lock_to_publish<'a>(
    registry: &'a Registry,
    names: &[impl AsRef<str>],
    access: &mut Option<EventAccess>,
) -> (Guard<'a>, PatternMatches) {
    let mut matches = PatternMatches::default();
    loop {
        let guard = registry.lock();
        let pending = guard.pending(names, &mut matches);
        if !pending.is_empty() {
            drop(guard);
            matches.resolve(&pending);
            continue;
        }
        let Some(access) = access.as_mut() else { return (guard, matches) };
        let all_subscribers =
            names.iter().flat_map(|name| guard.subscribers_of(name.as_ref(), &matches));
        if !access.note_pending(all_subscribers) {
            return (guard, matches);
        }
        drop(guard);
        access.resolve();
    }
}

/// Locks the registry to add events that the store or the log has accepted already.
pub(super) fn lock_to_enter<'a>(
    registry: &'a Registry,
    names: &[impl AsRef<str>],
) -> (Guard<'a>, PatternMatches) {
    lock_to_publish(registry, names, &mut None)
}

/// Finds the channels that these patterns select, before a stream subscribes to them.
///
/// Fails if these patterns would exceed the maximum number of patterns.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(super) fn watch<'a>(
    registry: &'a Registry,
    patterns: &[SharedPattern],
) -> Result<Watching<'a>, PublishError> {
    let limit = registry.inner.options.max_channels.min(PATTERNS_MAX);
    let mut state = registry.lock();
    if state.patterns.len_with(patterns) > limit {
        return Err(PublishError::TooManyPatterns { limit });
    }
    let acquired: Vec<_> = patterns.iter().map(|it| state.patterns.acquire(it)).collect();
    drop(state);
    let slots = acquired.iter().map(|(slot, _)| *slot).collect();
    let watching = Watching { registry, slots };
    let mut new = Vec::new();
    for ((slot, is_new), pattern) in acquired.into_iter().zip(patterns) {
        if is_new {
            new.push((slot, pattern));
        }
    }
    if !new.is_empty() {
        index_patterns(registry, &new);
    }
    Ok(watching)
}

/// Matches new patterns against all indexed channels.
///
/// If a publisher indexes a channel at the same time, that publisher matches these patterns
/// too, because they are in use already.
fn index_patterns(registry: &Registry, patterns: &[(usize, &SharedPattern)]) {
    let mut last: Option<Arc<str>> = None;
    let mut found: Vec<(Arc<str>, Bits)> = Vec::new();
    loop {
        let mut state = registry.lock();
        for (name, selecting) in found.drain(..) {
            let HubState { channels, patterns, .. } = &mut *state;
            if let Some(channel) = channels.get_mut(&name).filter(|channel| channel.indexed) {
                let more = patterns.index(&selecting, channel.slot);
                channel.watchers.extend(&more);
            }
        }
        let begin = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let page = state.channels.range::<Arc<str>, _>((begin, Bound::Unbounded)).take(PAGE);
        let page: Vec<(Arc<str>, bool)> =
            page.map(|(name, channel)| (Arc::clone(name), channel.indexed)).collect();
        let Some((name, _)) = page.last() else {
            for (slot, _) in patterns {
                if let Some(watched) = state.patterns.slots.get_mut(*slot) {
                    watched.complete = true;
                }
            }
            return;
        };
        last = Some(Arc::clone(name));
        drop(state);
        for (name, _) in page.into_iter().filter(|(_, indexed)| *indexed) {
            let matched = Name::new(&name);
            let mut selecting = Bits::default();
            let all = patterns.iter().filter(|(_, pattern)| pattern.matches(&matched));
            all.for_each(|(slot, _)| selecting.insert(*slot));
            if !selecting.is_empty() {
                found.push((name, selecting));
            }
        }
    }
}

/// Frees unused patterns, after removing them from the channels that they selected.
///
/// A pattern may have selected many channels, so the lock is taken for one page of channels at
/// a time.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(super) fn forget_patterns(registry: &Registry) {
    let mut state = registry.lock();
    let slots = std::mem::take(&mut state.patterns.retired);
    let (mut retired, mut channels) = (Bits::default(), Bits::default());
    for slot in &slots {
        retired.insert(*slot);
        if let Some(watched) = state.patterns.slots.get(*slot) {
            channels.extend(&watched.channels);
        }
    }
    drop(state);
    let channels: Vec<usize> = channels.iter().collect();
    for page in channels.chunks(PAGE) {
        let HubState { slots, channels, .. } = &mut *registry.lock();
        for name in page.iter().filter_map(|slot| slots.get(*slot)) {
            if let Some(channel) = channels.get_mut(name) {
                channel.watchers.subtract(&retired);
            }
        }
    }
    let mut state = registry.lock();
    slots.into_iter().for_each(|slot| state.patterns.slots.free(slot));
}

/// The patterns of a stream that is being set up.
#[must_use = "dropping this may remove the patterns"]
pub(super) struct Watching<'a> {
    registry: &'a Registry,
    slots: Vec<usize>,
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        self.slots.iter().for_each(|slot| state.patterns.release(*slot));
        let any_retired = !state.patterns.retired.is_empty();
        drop(state);
        if any_retired {
            forget_patterns(self.registry);
        }
    }
}

/// A set of slot numbers, with one bit for each possible number.
#[derive(Debug, Clone, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn insert(&mut self, slot: usize) {
        let word = slot / 64;
        if self.0.len() <= word {
            self.0.reserve_exact(word + 1 - self.0.len());
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (slot % 64);
    }

    pub(super) fn remove(&mut self, slot: usize) {
        if let Some(word) = self.0.get_mut(slot / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    pub(super) fn extend(&mut self, others: &Self) {
        if self.0.len() < others.0.len() {
            self.0.resize(others.0.len(), 0);
        }
        self.0.iter_mut().zip(&others.0).for_each(|(word, other)| *word |= other);
    }

    pub(super) fn subtract(&mut self, others: &Self) {
        self.0.iter_mut().zip(&others.0).for_each(|(word, other)| *word &= !other);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Iterates over the slots in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(place, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros() as usize;
                rest &= rest.checked_sub(1)?;
                Some(place * 64 + bit)
            })
        })
    }
}

/// A table that assigns a slot number to each value. Free slots are reused.
#[derive(Debug)]
pub(super) struct Slots<T> {
    values: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    pub(super) fn add(&mut self, value: T) -> usize {
        if let Some(slot) = self.free.pop() {
            self.values[slot] = Some(value);
            return slot;
        }
        self.values.push(Some(value));
        self.values.len() - 1
    }

    pub(super) fn free(&mut self, slot: usize) {
        if self.values.get_mut(slot).and_then(Option::take).is_some() {
            self.free.push(slot);
        }
    }

    pub(super) fn get(&self, slot: usize) -> Option<&T> {
        self.values.get(slot)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.values.get_mut(slot)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter().flatten()
    }

    /// How many slots are in use.
    pub(super) fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_behave_as_a_set() {
        let mut bits = Bits::default();
        [0, 63, 64, 200, 63].into_iter().for_each(|slot| bits.insert(slot));
        bits.remove(64);
        bits.remove(9_999);
        assert_eq!(bits.iter().collect::<Vec<_>>(), [0, 63, 200]);
        let mut more = Bits::default();
        more.insert(1);
        more.extend(&bits);
        assert_eq!(more.iter().collect::<Vec<_>>(), [0, 1, 63, 200]);
        more.subtract(&bits);
        assert_eq!(more.iter().collect::<Vec<_>>(), [1]);
        more.remove(1);
        assert!(more.is_empty() && !bits.is_empty());
    }

    #[test]
    fn free_slots_are_reused() {
        let mut slots = Slots::default();
        assert_eq!([slots.add("a"), slots.add("b"), slots.add("c")], [0, 1, 2]);
        slots.free(1);
        slots.free(1);
        assert_eq!((slots.get(1), slots.len()), (None, 2));
        assert_eq!([slots.add("d"), slots.add("e")], [1, 3]);
        assert_eq!(slots.iter().copied().collect::<String>(), "adce");
    }
}
