//! The index that records which patterns select which channels.
//!
//! A pattern is matched against a channel's name once: when the channel gets its first event, or
//! when the first stream with the pattern subscribes (see [`lock`](super::lock)). Reading and
//! publishing look up the result.
//!
//! # Invariants
//!
//! * **A channel without events is matched against no pattern.** So clients cannot cause matching
//!   by subscribing to many names. Such a channel is *unindexed* until its first event.
//! * **The index is bounded**: two bits for each pattern and channel.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::channels::{Name, SharedPattern};
use super::subscribers::Subscribers;
use crate::counters::decrease;

/// How many patterns are matched at a time.
const PAGE: usize = 256;

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
pub(super) type PendingPattern = (u64, usize, SharedPattern);

/// The results of matching some channels' names against the patterns up to serial number `upto`.
#[derive(Debug, Default)]
pub(super) struct PatternMatches {
    pub(super) upto: u64,
    /// For each name, the slots of the patterns that select it.
    pub(super) names: HashMap<Box<str>, Bits>,
}

impl PatternMatches {
    /// The slots of the patterns that select this name.
    pub(super) fn of(&self, name: &str) -> Option<&Bits> {
        self.names.get(name)
    }

    /// Matches these patterns against all names. Must not be called under the lock.
    pub(super) fn resolve(&mut self, pending: &[PendingPattern]) {
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
    pub(super) fn len_with(&self, patterns: &[SharedPattern]) -> usize {
        let new = patterns.iter().filter(|pattern| !self.by_pattern.contains_key(*pattern));
        self.slots.len() + new.count()
    }

    /// Returns the next page of patterns that were added after the pattern with this serial number.
    pub(super) fn after(&self, serial: u64) -> Vec<PendingPattern> {
        let next = self.by_serial.range((Bound::Excluded(serial), Bound::Unbounded)).take(PAGE);
        let to_pending = |(serial, slot): (&u64, &usize)| {
            let watched = self.slots.get(*slot)?;
            Some((*serial, *slot, watched.pattern.clone()))
        };
        next.filter_map(to_pending).collect()
    }

    pub(super) fn has_any_after(&self, serial: u64) -> bool {
        self.by_serial.last_key_value().is_some_and(|(last, _)| *last > serial)
    }

    /// Begins a use of a pattern, and adds the pattern if it is new.
    ///
    /// Returns the pattern's slot, and whether the channels that it selects must still be found.
    pub(super) fn acquire(&mut self, pattern: &SharedPattern) -> (usize, bool) {
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
    pub(super) fn release(&mut self, slot: usize) {
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
    pub(super) fn index(&mut self, selecting: &Bits, channel: usize) -> Bits {
        let mut watchers = Bits::default();
        for slot in selecting.iter().filter(|slot| self.is_in_use(*slot)).collect::<Vec<_>>() {
            if let Some(watched) = self.slots.get_mut(slot) {
                watched.channels.insert(channel);
                watchers.insert(slot);
            }
        }
        watchers
    }

    /// Records that all channels that this pattern selects have been found.
    pub(super) fn set_complete(&mut self, slot: usize) {
        if let Some(watched) = self.slots.get_mut(slot) {
            watched.complete = true;
        }
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

    /// Whether there are unused patterns to [forget](Self::take_retired).
    pub(super) fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// Takes the slots of the unused patterns, and returns them with the slots of the channels that
    /// these patterns selected. The caller [frees](Self::free) the patterns' slots.
    pub(super) fn take_retired(&mut self) -> (Vec<usize>, Bits) {
        let slots = std::mem::take(&mut self.retired);
        let mut channels = Bits::default();
        for watched in slots.iter().filter_map(|slot| self.slots.get(*slot)) {
            channels.extend(&watched.channels);
        }
        (slots, channels)
    }

    /// Frees the slot of an unused pattern to which no channel refers any more.
    pub(super) fn free(&mut self, slot: usize) {
        self.slots.free(slot);
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
