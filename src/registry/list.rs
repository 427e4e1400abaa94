//! Lists of channels with their numbers of subscribers, and of the names present on a channel. Also,
//! a watch: the same for a program that follows the changes.
//!
//! A list is read in pages. The work under the lock is bounded for each page, regardless of the
//! number of channels and the length of their names.
//!
//! A stream that starts or ends only notes *that* something has changed. The watcher reads the
//! state afterwards, whenever it is ready, so a slow watcher delays no stream.
//!
//! # Invariants
//!
//! * **A note is one insertion into a set.** Several changes of a subject are one note.
//! * **The notes have a bound.** Beyond it they are incomplete, and the watcher reads everything.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::channels::Readable;
use super::lock::Registry;
use super::state::{Channel, HubState};
use super::subscribers::{NodeReport, Notes, Subject};
use crate::id::EventId;

/// The maximum number of channels that are read under one hold of the lock.
const PAGE_CHANNELS: usize = 32;

/// The maximum number of present names that are read under one hold of the lock.
const PAGE_NAMES: usize = 64;

/// How long the lock may be held before the page ends.
///
/// Counting subscribers takes long if many prefixes or patterns select a channel.
const PAGE_TIME: Duration = Duration::from_micros(200);

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
fn channels_after(registry: &Registry, last: Option<&str>, reads_all: bool) -> ChannelPage {
    let read = |state: &HubState, began| state.page(last, reads_all, began);
    in_turn(registry, read, |page| page.last.is_some())
}

/// Reads a page of a list under the lock. `has_more` tells whether the list has more pages.
///
/// Only one list at a time reads a page. It then pauses for as long as it has held the lock. So
/// all lists together hold the lock at most half of the time. Without the pause they could hold
/// it nearly all of the time, because the lock is not fair.
fn in_turn<P>(
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
struct ChannelPage {
    channels: Vec<ChannelInfo>,
    /// The name after which the next page begins; `None` if this is the last page.
    last: Option<String>,
}

impl HubState {
    fn page(&self, last: Option<&str>, reads_all: bool, began: Instant) -> ChannelPage {
        let mut channels = Vec::with_capacity(PAGE_CHANNELS);
        let (mut looked_at, mut last) = (0, last);
        for (name, channel, _) in merged(&self.channels, &self.others.names, last) {
            if looked_at == PAGE_CHANNELS || looked_at > 0 && began.elapsed() >= PAGE_TIME {
                return ChannelPage { channels, last: last.map(str::to_owned) };
            }
            channels.extend(self.info(name, channel, reads_all));
            (looked_at, last) = (looked_at + 1, Some(name));
        }
        ChannelPage { channels, last: None }
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
fn names(
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
fn merged<'a, K: Borrow<str> + Ord, V, W>(
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

/// Where a [`Subject`] is: the channel has subscribers there, or the name is present there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// On this node.
    pub(crate) here: bool,
    /// On another node that shares the log. Always `false` for a channel, because the other nodes
    /// do not report which streams name it.
    pub(crate) elsewhere: bool,
}

/// What has changed since a [`Watch`] was last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changes {
    /// What may have changed.
    pub(crate) subjects: BTreeSet<Subject>,
    /// Whether nothing else has changed. If not, read [`Watch::all`].
    pub(crate) complete: bool,
}

/// Follows which channels have subscribers, and which names are present. Dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Watch {
    registry: Registry,
}

/// Starts to note changes for a watcher: see [`Registry::watch`].
pub(super) fn watch(registry: &Registry) -> Option<Watch> {
    let notes = &mut registry.lock().notes;
    if notes.is_some() {
        return None;
    }
    *notes = Some(Notes::default());
    Some(Watch { registry: registry.clone() })
}

impl Watch {
    /// Returns what has changed since the last call. Does not wait.
    pub(crate) fn take(&self) -> Changes {
        let notes = self.registry.lock().notes.as_mut().map(std::mem::take).unwrap_or_default();
        Changes { subjects: notes.subjects, complete: !notes.incomplete }
    }

    /// Returns the number of noted changes that have not been taken.
    pub(crate) fn pending(&self) -> usize {
        self.registry.lock().notes.as_ref().map_or(0, |notes| notes.subjects.len())
    }

    /// Returns where a subject is now.
    pub(crate) fn look(&self, subject: &Subject) -> Seen {
        let state = self.registry.lock();
        match subject {
            Subject::Channel(name) => Seen { here: state.is_named(name), elsewhere: false },
            Subject::Name { channel, name } => {
                let here = state.channels.get(channel);
                let elsewhere = state.others.present.get(&**channel);
                Seen {
                    here: here.is_some_and(|channel| channel.presence.0.contains_key(&**name)),
                    elsewhere: elsewhere.is_some_and(|names| names.contains_key(&**name)),
                }
            }
        }
    }

    /// Iterates over all subjects that are somewhere, in the order of channels.
    ///
    /// They are read in pages while the iterator advances, so that publishers do not wait. A subject
    /// that changes meanwhile is noted, as always.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Subject, Seen)> + Send + use<> {
        let registry = self.registry.clone();
        let (mut last, mut is_complete) = (None::<Arc<str>>, false);
        let pages = iter::from_fn(move || {
            if is_complete {
                return None;
            }
            let began = |state: &HubState, began| state.named_after(last.as_deref(), began);
            let page = in_turn(&registry, began, |page| page.last.is_some());
            is_complete = page.last.is_none();
            last = page.last;
            let registry = registry.clone();
            Some(page.channels.into_iter().flat_map(move |found| subjects(&registry, found)))
        });
        pages.flatten()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let notes = self.registry.lock().notes.take();
        drop(notes); // after the lock is released
    }
}

/// A channel in [`Watch::all`].
struct Found {
    name: Arc<str>,
    is_named: bool,
    has_names: bool,
}

/// Channels that were read under one hold of the lock.
struct SubjectPage {
    channels: Vec<Found>,
    /// The name after which the next page begins; `None` if this is the last page.
    last: Option<Arc<str>>,
}

/// Iterates over a channel and the names that are present on it.
fn subjects(
    registry: &Registry,
    found: Found,
) -> impl Iterator<Item = (Subject, Seen)> + Send + use<> {
    let Found { name: channel, is_named, has_names } = found;
    let itself = is_named
        .then(|| (Subject::Channel(Arc::clone(&channel)), Seen { here: true, elsewhere: false }));
    let names = has_names.then(|| names(registry, &channel));
    let names = names.into_iter().flatten().map(move |(name, here, elsewhere)| {
        let subject = Subject::Name { channel: Arc::clone(&channel), name: name.into() };
        (subject, Seen { here: here > 0, elsewhere: elsewhere > 0 })
    });
    itself.into_iter().chain(names)
}

impl HubState {
    /// Whether a stream of this node names the channel.
    fn is_named(&self, channel: &str) -> bool {
        self.channels.get(channel).is_some_and(|channel| channel.subscribers.has_streams())
    }

    /// Reads the next channels after this name that a stream names or on which a name is present.
    fn named_after(&self, last: Option<&str>, began: Instant) -> SubjectPage {
        let mut channels = Vec::new();
        let (mut looked_at, mut last) = (0, last);
        for (name, channel, others) in merged(&self.channels, &self.others.present, last) {
            if looked_at == PAGE_CHANNELS || looked_at > 0 && began.elapsed() >= PAGE_TIME {
                return SubjectPage { channels, last: last.map(Arc::from) };
            }
            let is_named = channel.is_some_and(|channel| channel.subscribers.has_streams());
            let has_names =
                others.is_some() || channel.is_some_and(|channel| !channel.presence.is_empty());
            if is_named || has_names {
                channels.push(Found { name: name.into(), is_named, has_names });
            }
            (looked_at, last) = (looked_at + 1, Some(name));
        }
        SubjectPage { channels, last: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::registry::subscribers::NOTES_MAX;
    use crate::registry::{Channels, Start, Subscription};

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

    fn subscribe(registry: &Registry, names: &[&str]) -> Subscription {
        let channels = Channels::new(names.iter().copied()).expect("valid names");
        registry.subscribe(&channels, &Start::Now).expect("there is room")
    }

    fn channel(name: &str) -> Subject {
        Subject::Channel(name.into())
    }

    fn name(channel: &str, name: &str) -> Subject {
        Subject::Name { channel: channel.into(), name: name.into() }
    }

    #[test]
    fn only_the_first_and_last_stream_of_a_subject_are_noted() {
        let registry = Registry::new();
        let watch = registry.watch().expect("the first watch");
        assert!(registry.watch().is_none(), "a registry has one watch");
        let taken = || Vec::from_iter(watch.take().subjects);
        let first = subscribe(&registry, &["a", "b"]).present_as("Ada");
        assert_eq!(taken(), [channel("a"), channel("b"), name("a", "Ada"), name("b", "Ada")]);
        let second = subscribe(&registry, &["a", "x*"]).present_as("Ada");
        assert_eq!(taken(), [], "a has a stream already, and a prefix names no channel");
        drop(first);
        assert_eq!(taken(), [channel("b"), name("b", "Ada")]);
        drop(second);
        assert_eq!((watch.pending(), taken()), (2, vec![channel("a"), name("a", "Ada")]));
        drop(watch);
        assert!(registry.watch().is_some(), "the first watch has ended");
    }

    #[test]
    fn notes_beyond_their_bound_are_reported_as_incomplete() {
        let registry = Registry::new();
        let watch = registry.watch().expect("the first watch");
        let long = "x".repeat(1_000);
        for n in 0..NOTES_MAX / 1_000 {
            drop(subscribe(&registry, &[&format!("{n} {long}")]));
        }
        let changes = watch.take();
        assert!(!changes.complete && changes.subjects.len() < NOTES_MAX / 1_000);
        assert!(watch.take().complete, "the watcher has been told");
    }

    #[test]
    fn all_subjects_are_listed_with_those_of_other_nodes() {
        let registry = Registry::new();
        let watch = registry.watch().expect("the first watch");
        let names: Vec<String> = (0..100).map(|n| format!("c{n:03}")).collect();
        let _streams: Vec<_> = names.iter().map(|name| subscribe(&registry, &[name])).collect();
        let _named = subscribe(&registry, &["c050"]).present_as("Ada");
        let elsewhere = [("Ada".to_owned(), 1), ("Bob".to_owned(), 2)];
        let present =
            [("c050".to_owned(), elsewhere.into()), ("z".to_owned(), [("Eve".into(), 1)].into())];
        registry.lock().set_others(NodeReport { present: present.into(), ..Default::default() });
        let all: Vec<_> = watch.all().collect();
        assert_eq!(all.len(), 100 + 3);
        let seen = |subject: Subject| {
            let found = all.iter().find(|(found, _)| *found == subject).map(|(_, seen)| *seen);
            assert_eq!(found.unwrap_or_default(), watch.look(&subject), "{subject:?}");
            watch.look(&subject)
        };
        assert_eq!(seen(name("c050", "Ada")), Seen { here: true, elsewhere: true });
        assert_eq!(seen(name("c050", "Bob")), Seen { here: false, elsewhere: true });
        assert_eq!(seen(name("z", "Eve")), Seen { here: false, elsewhere: true });
        assert_eq!(seen(channel("c099")), Seen { here: true, elsewhere: false });
        assert_eq!(seen(channel("z")), Seen::default());
    }
}
