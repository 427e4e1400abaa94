//! The subscribers of a name, their notifiers, and the names present on a channel.
//!
//! A stream may have a name under which it is present on its channels. A name joins with its first
//! stream and leaves with its last, so a user with two tabs joins once.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter;
use std::ops::Bound::{Included, Unbounded};
use std::sync::Arc;
#[cfg(not(feature = "loom"))]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use crossbeam_channel::Sender;
#[cfg(feature = "loom")]
use loom::sync::atomic::AtomicBool;

use super::channels::{EventAccess, Private, ReadRights};
use crate::counters::decrease;
use crate::slot::Slot;

/// Wakes a sleeping thread, because there are new events or the client has disconnected. It does not
/// pass the events.
///
/// The thread reads the events from the registry. So several calls of [`notify`](Self::notify)
/// before the thread runs have the same effect as one.
#[derive(Debug)]
pub(crate) struct Notifier {
    target: Target,
    is_notified: AtomicBool,
}

/// Where the thread waits.
#[derive(Debug)]
enum Target {
    /// At a queue, which gets this id.
    Queue(Sender<u64>, u64),
    /// At a slot, which gets this value.
    Slot(Arc<Slot<Wakeup>>, Wakeup),
}

/// Why a client's thread wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wakeup {
    /// There are new events.
    Events,
    /// The client has disconnected.
    Disconnect,
}

impl Notifier {
    /// Creates a notifier that sends `id` to a queue. The queue must have room for one message from
    /// each notifier that sends to it.
    pub(crate) fn of_queue(sender: Sender<u64>, id: u64) -> Arc<Self> {
        Self::new(Target::Queue(sender, id))
    }

    /// Creates a notifier that puts `wakeup` into a slot.
    pub(crate) fn of_slot(slot: &Arc<Slot<Wakeup>>, wakeup: Wakeup) -> Arc<Self> {
        Self::new(Target::Slot(Arc::clone(slot), wakeup))
    }

    fn new(target: Target) -> Arc<Self> {
        Arc::new(Self { target, is_notified: AtomicBool::new(false) })
    }

    /// Wakes the thread, unless it has been notified since it last called [`rearm`](Self::rearm).
    pub(crate) fn notify(&self) {
        if self.is_notified.swap(true, Ordering::AcqRel) {
            return;
        }
        match &self.target {
            // The queue is never full: it has room for one message of each notifier, and no notifier
            // has more than one message in it. An error means that the thread has ended.
            Target::Queue(sender, id) => drop(sender.try_send(*id)),
            // A disconnect that is in the slot stays there, because it ends the stream.
            Target::Slot(slot, Wakeup::Events) => slot.offer(Wakeup::Events),
            Target::Slot(slot, Wakeup::Disconnect) => slot.put(Wakeup::Disconnect),
        }
    }

    /// Makes the next [`notify`](Self::notify) wake the thread again.
    ///
    /// The thread must call this *before* it reads the registry. Then an event that is published
    /// after the call notifies the thread again, and the thread reads any event that was published
    /// before.
    ///
    /// This is a swap and not a store, because a publisher that finds the flag set does not send a
    /// message. This thread must then see that publisher's event when it reads the registry. It
    /// does, because this swap reads the value that the publisher's swap wrote, and so synchronizes
    /// with the publisher.
    pub(crate) fn rearm(&self) {
        self.is_notified.swap(false, Ordering::AcqRel);
    }
}

/// The subscribers of one name, prefix or pattern.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    /// The number of streams. Several streams may share a notifier.
    streams: usize,
    /// The number of streams for each set of rights. Counts only streams that may read private
    /// events.
    by_rights: HashMap<ReadRights, usize>,
    /// The notifiers in the order of their keys, which is the order of registration. They are in an
    /// `Arc`, so that a publisher can notify them after it has released the lock.
    notifiers: Arc<Vec<Registered>>,
}

/// A registered notifier.
#[derive(Debug, Clone)]
struct Registered {
    key: u64,
    notifier: Arc<Notifier>,
    rights: ReadRights,
}

impl Subscribers {
    /// Counts a new stream.
    pub(super) fn enter(&mut self, rights: &ReadRights) {
        self.streams += 1;
        if rights.reads_some_private() {
            *self.by_rights.entry(rights.clone()).or_default() += 1;
        }
    }

    /// Subtracts a stream that has ended from the counts.
    pub(super) fn leave(&mut self, rights: &ReadRights) {
        decrease(&mut self.streams, 1);
        if let Some(streams) = self.by_rights.get_mut(rights) {
            decrease(streams, 1);
            if *streams == 0 {
                self.by_rights.remove(rights);
            }
        }
    }

    /// Counts the streams. If `access` is given, counts only the streams that, according to
    /// `access`, may read its private event.
    pub(super) fn count(&self, access: Option<&EventAccess>) -> usize {
        let Some(access) = access else { return self.streams };
        let streams = self.by_rights.iter().filter(|(rights, _)| access.allows(rights));
        streams.map(|(_, count)| count).sum()
    }

    /// The rights of the streams that may read private events.
    pub(super) fn private_rights(&self) -> impl Iterator<Item = &ReadRights> {
        self.by_rights.keys()
    }

    pub(super) fn add(&mut self, key: u64, notifier: Arc<Notifier>, rights: ReadRights) {
        Arc::make_mut(&mut self.notifiers).push(Registered { key, notifier, rights });
    }

    pub(super) fn remove(&mut self, key: u64) {
        if let Ok(place) = self.notifiers.binary_search_by_key(&key, |registered| registered.key) {
            Arc::make_mut(&mut self.notifiers).remove(place);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.streams == 0 && self.notifiers.is_empty()
    }

    pub(super) fn has_streams(&self) -> bool {
        self.streams > 0
    }

    /// Returns the notifiers of all streams. For a private event, they notify only the streams that
    /// may read it.
    pub(super) fn notifiers(&self, private: Option<&Arc<Private>>) -> Notifiers {
        Notifiers { registered: Arc::clone(&self.notifiers), private: private.cloned() }
    }
}

/// Notifiers to call after the registry's lock is released, because waking a thread is a system
/// call.
#[must_use = "subscribers are not woken until `notify` is called"]
pub(super) struct Notifiers {
    registered: Arc<Vec<Registered>>,
    private: Option<Arc<Private>>,
}

impl Notifiers {
    pub(super) fn notify(&self) {
        for Registered { notifier, rights, .. } in self.registered.iter() {
            if self.private.as_ref().is_none_or(|private| rights.may_read(private)) {
                notifier.notify();
            }
        }
    }
}

/// The values of all keys that are a prefix of `name`, the longest key first.
///
/// Each lookup finds a prefix of `name`, or rules out all prefixes above some length. So there are
/// at most `name.len() + 1` lookups, and usually one or two.
pub(super) fn prefixes_of<'a, K: Borrow<str> + Ord, V>(
    map: &'a BTreeMap<K, V>,
    name: &'a str,
) -> impl Iterator<Item = &'a V> {
    let mut longest = Some(name);
    iter::from_fn(move || {
        loop {
            let below = (Unbounded, Included(longest?));
            let (key, value) = map.range::<str, _>(below).next_back()?;
            let key: &str = key.borrow();
            if name.starts_with(key) {
                longest = key.char_indices().next_back().map(|(end, _)| &name[..end]);
                return Some(value);
            }
            let common = iter::zip(key.bytes(), name.bytes()).take_while(|(a, b)| a == b).count();
            // A prefix of the name that is longer than the common part would sort after this key,
            // so the map has no such prefix.
            let end = (0..=common).rev().find(|end| name.is_char_boundary(*end));
            longest = end.map(|end| &name[..end]);
        }
    })
}

/// The names present on one channel, each with its number of streams.
#[derive(Debug, Default)]
pub(super) struct Presence(pub(super) BTreeMap<String, usize>);

impl Presence {
    /// Counts a stream of this name. Returns whether it is the first one.
    pub(super) fn enter(&mut self, name: &str) -> bool {
        let streams = self.0.entry(name.to_owned()).or_default();
        *streams += 1;
        *streams == 1
    }

    /// Removes a stream of this name. Returns whether it was the last one.
    pub(super) fn leave(&mut self, name: &str) -> bool {
        let Some(streams) = self.0.get_mut(name) else { return false };
        decrease(streams, 1);
        *streams == 0 && self.0.remove(name).is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
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

/// The maximum memory of the notes that the watcher has not taken, in bytes. Names of some 30 bytes
/// take about 100, so there is room for about 40,000 changes.
pub(super) const NOTES_MAX: usize = 4 * 1024 * 1024;

/// The memory of a note besides its names, in bytes.
const NOTE_COST: usize = 72;

/// What a [`Watch`](super::Watch) follows: whether a channel has subscribers, or whether a name is
/// present.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Subject {
    /// Whether a stream names this channel. Streams that select it by a prefix or a pattern do not
    /// count, because they select channels that do not exist too.
    Channel(Arc<str>),
    /// Whether a name is present on a channel.
    Name {
        /// The channel.
        channel: Arc<str>,
        /// The presence name.
        name: Arc<str>,
    },
}

/// What has changed since the watcher last asked.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) subjects: BTreeSet<Subject>,
    bytes: usize,
    pub(super) incomplete: bool,
}

impl Notes {
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(super) fn add(&mut self, subject: impl FnOnce() -> Subject) {
        if self.bytes >= NOTES_MAX {
            // The notes stay as they are: the watcher's thread frees them without the lock.
            self.incomplete = true;
            return;
        }
        let subject = subject();
        let names = match &subject {
            Subject::Channel(channel) => channel.len(),
            Subject::Name { channel, name } => channel.len() + name.len(),
        };
        if self.subjects.insert(subject) {
            self.bytes += names + NOTE_COST;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_notify_sends_one_message_until_rearmed() {
        let (sender, notifications) = crossbeam_channel::bounded(1);
        let notifier = Notifier::of_queue(sender, 7);
        notifier.notify();
        notifier.notify();
        assert_eq!(notifications.try_recv(), Ok(7));
        assert!(notifications.is_empty());
        notifier.rearm();
        notifier.notify();
        assert_eq!(notifications.try_recv(), Ok(7));
    }

    #[test]
    fn prefixes_of_a_name_are_found_among_neighbours() {
        let keys = ["", "a", "a!", "aaa", "aab", "aaaa", "b", "aüx", "aü", "ü"];
        let map: BTreeMap<&str, &str> = keys.into_iter().map(|key| (key, key)).collect();
        for name in ["", "a", "aa", "aaa", "aaaaa", "aab", "aac", "aü", "aûa", "aüxy", "z", "a\"x"]
        {
            let found: Vec<&str> = prefixes_of(&map, name).copied().collect();
            let mut expected: Vec<&str> = map.keys().copied().collect();
            expected.retain(|key| name.starts_with(key));
            expected.sort_by_key(|key| std::cmp::Reverse(key.len()));
            assert_eq!(found, expected, "{name}");
        }
    }
}
