//! Lists of channels with their numbers of subscribers, and of the names present on a channel.
//!
//! A list is read in pages. The work under the lock is bounded for each page, regardless of the
//! number of channels and the length of their names.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::iter;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::state::{Channel, HubState, prefixes_of};
use super::{Readable, Registry};
use crate::id::EventId;

/// The maximum number of channels that are read under one hold of the lock.
pub(super) const PAGE_CHANNELS: usize = 32;

/// The maximum number of present names that are read under one hold of the lock.
const PAGE_NAMES: usize = 64;

/// How long the lock may be held before the page ends.
///
/// Counting subscribers takes long if many prefixes or patterns select a channel.
pub(super) const PAGE_TIME: Duration = Duration::from_micros(200);

/// One channel in the result of [`Registry::list`].
///
/// ```
/// use threadcast::{Event, Registry};
///
/// let registry = Registry::new();
/// let published = registry.publish("news", &Event::new("hello"))?;
/// let news = &registry.list()[0];
/// assert_eq!((&*news.name, news.events, news.last_id), ("news", 1, Some(published.id)));
/// # Ok::<(), threadcast::PublishError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelInfo {
    /// The channel's name.
    pub name: String,
    /// How many streams are subscribed to the channel.
    pub subscribers: usize,
    /// How many events the channel's history has.
    pub events: usize,
    /// The size of the history's events, in bytes.
    pub bytes: usize,
    /// The id of the channel's newest event, if it ever had one.
    pub last_id: Option<EventId>,
}

/// Iterates over channels: see [`Registry::channels`].
pub(super) fn channels(
    registry: &Registry,
    readable: &Readable,
) -> impl Iterator<Item = ChannelInfo> + Send + use<> {
    let (registry, reads_all) = (registry.clone(), readable.is_all());
    let (mut last, mut is_complete) = (None::<String>, false);
    let pages = iter::from_fn(move || {
        if is_complete {
            return None;
        }
        let page = channels_after(&registry, last.as_deref(), reads_all);
        is_complete = page.last.is_none();
        last = page.last;
        Some(page.channels)
    });
    pages.flatten()
}

/// Reads the next channels after this name.
fn channels_after(registry: &Registry, last: Option<&str>, reads_all: bool) -> Page {
    let read = |state: &HubState, began| state.page(last, reads_all, began);
    in_turn(registry, read, |page| page.last.is_some())
}

/// Reads a page of a list under the lock. `has_more` tells whether the list has more pages.
///
/// Only one list at a time reads a page. It then pauses for as long as it has held the lock. So
/// all lists together hold the lock at most half of the time. Without the pause they could hold
/// it nearly all of the time, because the lock is not fair.
pub(super) fn in_turn<P>(
    registry: &Registry,
    read: impl FnOnce(&HubState, Instant) -> P,
    has_more: impl FnOnce(&P) -> bool,
) -> P {
    let _turn = registry.inner.listing.lock().unwrap_or_else(PoisonError::into_inner);
    let state = registry.lock();
    let began = Instant::now();
    let page = read(&state, began);
    let held = began.elapsed();
    drop(state);
    if has_more(&page) {
        registry.wait(held);
    }
    page
}

/// One page of the list of channels.
struct Page {
    channels: Vec<ChannelInfo>,
    /// The name after which the next page begins; `None` if this is the last page.
    last: Option<String>,
}

impl HubState {
    fn page(&self, last: Option<&str>, reads_all: bool, began: Instant) -> Page {
        let mut channels = Vec::with_capacity(PAGE_CHANNELS);
        let (mut looked_at, mut last) = (0, last);
        for (name, channel, _) in merged(&self.channels, &self.others.names, last) {
            if looked_at == PAGE_CHANNELS || looked_at > 0 && began.elapsed() >= PAGE_TIME {
                return Page { channels, last: last.map(str::to_owned) };
            }
            channels.extend(self.info(name, channel, reads_all));
            (looked_at, last) = (looked_at + 1, Some(name));
        }
        Page { channels, last: None }
    }

    /// Returns what a reader may know of a channel. Returns `None` if the reader may not know that
    /// the channel exists.
    fn info(&self, name: &str, channel: Option<&Channel>, reads_all: bool) -> Option<ChannelInfo> {
        let subscribers = self.subscribers(name);
        let name = name.to_owned();
        let Some(ring) = channel.map(|channel| &channel.ring) else {
            return Some(ChannelInfo { name, subscribers, events: 0, bytes: 0, last_id: None });
        };
        let (events, bytes) = if reads_all { (ring.len(), ring.bytes()) } else { ring.public() };
        let last_id = if reads_all {
            Some(ring.last_id()).filter(|id| *id > self.floor.all)
        } else {
            Some(ring.last_public_id()).filter(|id| *id > self.floor.public)
        };
        let is_shown = reads_all || last_id.is_some() || subscribers > 0 || !ring.has_private();
        is_shown.then_some(ChannelInfo { name, subscribers, events, bytes, last_id })
    }

    /// How many streams are subscribed to a channel, at all nodes.
    pub(crate) fn subscribers(&self, channel: &str) -> usize {
        self.count(channel, None) + self.others.subscribers(channel)
    }
}

/// The number of subscribers and the presence names, of one node or summed over several nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NodeReport {
    /// For each channel, the number of streams that select it by its name or by a pattern.
    pub(crate) names: BTreeMap<String, usize>,
    /// For each prefix, the number of streams that select channels by it.
    pub(crate) prefixes: BTreeMap<String, usize>,
    /// For each channel, the presence names, each with its number of streams.
    pub(crate) present: BTreeMap<String, BTreeMap<String, usize>>,
}

impl NodeReport {
    /// The number of streams that select a channel by its name, a pattern or a prefix.
    pub(crate) fn subscribers(&self, channel: &str) -> usize {
        let by_name = self.names.get(channel).copied().unwrap_or_default();
        by_name + prefixes_of(&self.prefixes, channel).sum::<usize>()
    }

    /// Adds the report of another node.
    pub(crate) fn add(&mut self, other: Self) {
        add(&mut self.names, other.names);
        add(&mut self.prefixes, other.prefixes);
        for (channel, present) in other.present {
            add(self.present.entry(channel).or_default(), present);
        }
    }
}

fn add(to: &mut BTreeMap<String, usize>, from: BTreeMap<String, usize>) {
    for (name, count) in from {
        *to.entry(name).or_default() += count;
    }
}

impl HubState {
    /// Returns the report of this node's subscribers and presence names for the other nodes.
    pub(crate) fn report(&self) -> NodeReport {
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

    /// Replaces the sum of the other nodes' reports.
    pub(crate) fn set_others(&mut self, others: NodeReport) {
        self.others = others;
    }
}

/// Iterates over the names present on a channel: see [`Registry::presence`].
pub(super) fn present(
    registry: &Registry,
    channel: &str,
) -> impl Iterator<Item = (String, usize)> + Send + use<> {
    names(registry, channel).map(|(name, here, elsewhere)| (name, here + elsewhere))
}

/// Iterates over the names present on a channel, each with its number of streams on this node and on
/// the other nodes.
pub(super) fn names(
    registry: &Registry,
    channel: &str,
) -> impl Iterator<Item = (String, usize, usize)> + Send + use<> {
    let (registry, channel, mut last) = (registry.clone(), channel.to_owned(), None::<String>);
    let pages = iter::from_fn(move || {
        let page = names_after(&registry, &channel, last.as_deref());
        last = Some(page.last()?.0.clone());
        Some(page)
    });
    pages.flatten()
}

fn names_after(
    registry: &Registry,
    channel: &str,
    last: Option<&str>,
) -> Vec<(String, usize, usize)> {
    let state = registry.lock();
    let none = BTreeMap::new();
    let here = state.channels.get(channel).map_or(&none, |channel| &channel.presence.0);
    let elsewhere = state.others.present.get(channel).unwrap_or(&none);
    let names = merged(here, elsewhere, last).take(PAGE_NAMES);
    let count = |streams: Option<&usize>| streams.copied().unwrap_or_default();
    names.map(|(name, here, there)| (name.to_owned(), count(here), count(there))).collect()
}

/// A key of at least one of two maps, and its value in each map that has it.
type Merged<'a, V, W> = (&'a str, Option<&'a V>, Option<&'a W>);

/// Iterates over the keys of both maps that come after `last`, in order. Each key occurs once.
pub(super) fn merged<'a, K: Borrow<str> + Ord, V, W>(
    one: &'a BTreeMap<K, V>,
    other: &'a BTreeMap<String, W>,
    last: Option<&str>,
) -> impl Iterator<Item = Merged<'a, V, W>> {
    let after = (last.map_or(Unbounded, Excluded), Unbounded);
    let mut one = one.range::<str, _>(after).peekable();
    let mut other = other.range::<str, _>(after).peekable();
    iter::from_fn(move || {
        let names =
            [one.peek().map(|(key, _)| (*key).borrow()), other.peek().map(|(key, _)| &***key)];
        let name: &'a str = names.into_iter().flatten().min()?;
        let in_one = one.next_if(|(key, _)| (*key).borrow() == name).map(|(_, value)| value);
        let in_other = other.next_if(|(key, _)| *key == name).map(|(_, value)| value);
        Some((name, in_one, in_other))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    #[test]
    fn two_maps_merge_in_order_without_repeats() {
        let map = |keys: &[&str]| -> BTreeMap<String, u8> {
            keys.iter().map(|key| ((*key).to_owned(), 1)).collect()
        };
        let (one, other) = (map(&["a", "c", "d"]), map(&["b", "c", "e"]));
        let keys = |last| -> String { merged(&one, &other, last).map(|(key, ..)| key).collect() };
        assert_eq!(
            (keys(None), keys(Some("b")), keys(Some("e"))),
            ("abcde".into(), "cde".into(), String::new())
        );
        assert_eq!(merged(&one, &other, Some("b")).next(), Some(("c", Some(&1), Some(&1))));
    }

    #[test]
    fn a_list_of_several_pages_is_complete_and_sorted() {
        let registry = Registry::new();
        let mut names: Vec<String> = (0..300).map(|n| format!("{n}{}", "x".repeat(n))).collect();
        for name in &names {
            registry.publish(name, &Event::new("x")).expect("there is room");
        }
        names.sort();
        assert_eq!(registry.list().into_iter().map(|info| info.name).collect::<Vec<_>>(), names);
        assert!(channels_after(&registry, None, true).channels.len() <= PAGE_CHANNELS);
    }

    #[test]
    fn channels_changed_meanwhile_are_listed_at_most_once() {
        let registry = Registry::new();
        let publish = |name: &str| {
            registry.publish(name, &Event::new("x")).expect("there is room");
        };
        (0..200).for_each(|n| publish(&format!("b{n:03}")));
        let mut list = registry.channels(&Readable::All);
        let mut names: Vec<String> = list.by_ref().take(PAGE_CHANNELS).map(|it| it.name).collect();
        publish("a");
        publish("c");
        registry.forget("b199").expect("there is no store");
        names.extend(list.map(|it| it.name));
        let mut expected: Vec<String> = (0..200).map(|n| format!("b{n:03}")).collect();
        expected.push("c".into());
        assert_eq!(names, expected, "a channel before the current page is not listed");
    }
}
