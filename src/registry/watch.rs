//! A watch: which channels have subscribers and which names are present, for a program that follows
//! the changes.
//!
//! A stream that starts or ends only notes *that* something has changed. The watcher reads the
//! state afterwards, whenever it is ready, so a slow watcher delays no stream.
//!
//! # Invariants
//!
//! * **A note is one insertion into a set.** Several changes of a subject are one note.
//! * **The notes have a bound.** Beyond it they are incomplete, and the watcher reads everything.

use std::collections::BTreeSet;
use std::iter;
use std::sync::Arc;
use std::time::Instant;

use super::Registry;
use super::list::{self, PAGE_CHANNELS, PAGE_TIME, merged};
use super::state::HubState;

/// The maximum memory of the notes that the watcher has not taken, in bytes. Names of some 30 bytes
/// take about 100, so there is room for about 40,000 changes.
const NOTES_MAX: usize = 4 * 1024 * 1024;

/// The memory of a note besides its names, in bytes.
const NOTE_COST: usize = 72;

/// What a [`Watch`] follows: whether a channel has subscribers, or whether a name is present.
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

impl Registry {
    /// Starts to note changes for a watcher. Returns `None` if this registry has a [`Watch`]
    /// already.
    pub(crate) fn watch(&self) -> Option<Watch> {
        let notes = &mut self.lock().notes;
        if notes.is_some() {
            return None;
        }
        *notes = Some(Notes::default());
        Some(Watch { registry: self.clone() })
    }
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
            let page = list::in_turn(&registry, began, |page| page.last.is_some());
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
struct Page {
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
    let names = has_names.then(|| list::names(registry, &channel));
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
    fn named_after(&self, last: Option<&str>, began: Instant) -> Page {
        let mut channels = Vec::new();
        let (mut looked_at, mut last) = (0, last);
        for (name, channel, others) in merged(&self.channels, &self.others.present, last) {
            if looked_at == PAGE_CHANNELS || looked_at > 0 && began.elapsed() >= PAGE_TIME {
                return Page { channels, last: last.map(Arc::from) };
            }
            let is_named = channel.is_some_and(|channel| channel.subscribers.has_streams());
            let has_names =
                others.is_some() || channel.is_some_and(|channel| !channel.presence.is_empty());
            if is_named || has_names {
                channels.push(Found { name: name.into(), is_named, has_names });
            }
            (looked_at, last) = (looked_at + 1, Some(name));
        }
        Page { channels, last: None }
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
}

/// What has changed since the watcher last asked.
#[derive(Debug, Default)]
pub(super) struct Notes {
    subjects: BTreeSet<Subject>,
    bytes: usize,
    incomplete: bool,
}

impl Notes {
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    fn add(&mut self, subject: impl FnOnce() -> Subject) {
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
    use crate::registry::{Channels, NodeReport, Start, Subscription};

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
