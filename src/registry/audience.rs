//! Who is listening to a channel: how many, and whose doorbells ring.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[cfg(feature = "loom")]
use loom::sync::atomic::AtomicBool;
#[cfg(not(feature = "loom"))]
use std::sync::atomic::AtomicBool;

use crossbeam_channel::{Receiver, Sender};

use super::channels::Reader;
use super::readable::{Private, Readers};
use crate::counters::decrease;

/// A thread's doorbell: it says that there is news, never what.
///
/// The news is read from the registry. So a bell that rings ten times before
/// its thread gets up has rung once, and the queue behind it needs no more
/// room than one place for each bell.
#[derive(Debug)]
pub(crate) struct Doorbell {
    door: Sender<u64>,
    /// What the thread behind the door tells its bells apart by.
    name: u64,
    rung: AtomicBool,
}

impl Doorbell {
    /// A bell called `name` at a door. The door must have room for every bell
    /// at it once.
    pub(crate) fn new(door: Sender<u64>, name: u64) -> Arc<Self> {
        Arc::new(Self { door, name, rung: AtomicBool::new(false) })
    }

    /// What the second of two bells is called.
    pub(crate) const SECOND: u64 = 1;

    /// Two bells at a door of their own.
    #[inline(never)] // a crossbeam channel is made on the stack and then moved
    pub(crate) fn two() -> ([Arc<Self>; 2], Receiver<u64>) {
        let (door, visitors) = crossbeam_channel::bounded(2);
        ([Self::new(door.clone(), 0), Self::new(door, Self::SECOND)], visitors)
    }

    /// Wakes the thread, unless it has been woken and has not answered yet.
    pub(crate) fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // A full door cannot be, a closed one means that the thread has left.
            let _ = self.door.try_send(self.name);
        }
    }

    /// The thread is up. It must say so *before* it reads the registry: what is
    /// published after this rings again, what came before is read.
    ///
    /// A swap, not a store: whoever found the bell rung has published before, and
    /// only by reading what he left there is this thread sure to see that.
    pub(crate) fn answer(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }
}

/// The listeners of one name or prefix.
#[derive(Debug, Default)]
pub(super) struct Audience {
    /// Streams, however many share a doorbell.
    subscribers: usize,
    /// Those of them that may read something private.
    readers: HashMap<Reader, usize>,
    /// In the order of their keys, which is the order in which they came.
    /// Shared, so that a publisher can ring them after it let go of the lock.
    bells: Arc<Vec<Hung>>,
}

/// A doorbell at its place.
#[derive(Debug, Clone)]
struct Hung {
    key: u64,
    bell: Arc<Doorbell>,
    reader: Reader,
}

impl Audience {
    /// A stream has come.
    pub(super) fn enter(&mut self, reader: &Reader) {
        self.subscribers += 1;
        if reader.has_rights() {
            *self.readers.entry(reader.clone()).or_default() += 1;
        }
    }

    /// A stream has gone.
    pub(super) fn leave(&mut self, reader: &Reader) {
        decrease(&mut self.subscribers, 1);
        if let Some(streams) = self.readers.get_mut(reader) {
            decrease(streams, 1);
            if *streams == 0 {
                self.readers.remove(reader);
            }
        }
    }

    /// How many streams may be given an event, which for a private one is known of some.
    pub(super) fn count(&self, readers: Option<&Readers>) -> usize {
        let Some(known) = readers else { return self.subscribers };
        let readers = self.readers.iter().filter(|(reader, _)| known.include(reader));
        readers.map(|(_, streams)| streams).sum()
    }

    /// Those of its streams that may be given private events.
    pub(super) fn readers(&self) -> impl Iterator<Item = &Reader> {
        self.readers.keys()
    }

    pub(super) fn add(&mut self, key: u64, bell: Arc<Doorbell>, reader: Reader) {
        Arc::make_mut(&mut self.bells).push(Hung { key, bell, reader });
    }

    pub(super) fn remove(&mut self, key: u64) {
        if let Ok(place) = self.bells.binary_search_by_key(&key, |hung| hung.key) {
            Arc::make_mut(&mut self.bells).remove(place);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.subscribers == 0 && self.bells.is_empty()
    }

    /// Everybody's bells, or those of whoever may read a private event.
    pub(super) fn bells(&self, private: Option<&Arc<Private>>) -> Bells {
        Bells { hung: Arc::clone(&self.bells), private: private.cloned() }
    }
}

/// Doorbells to ring once the registry's lock is free: ringing wakes a thread,
/// which is a system call.
#[must_use = "nobody hears of the news until these are rung"]
pub(super) struct Bells {
    hung: Arc<Vec<Hung>>,
    private: Option<Arc<Private>>,
}

impl Bells {
    pub(super) fn ring(&self) {
        for Hung { bell, reader, .. } in self.hung.iter() {
            if self.private.as_ref().is_none_or(|private| reader.may_read(private)) {
                bell.ring();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_rung_twice_is_heard_once_until_it_is_answered() {
        let (door, visitors) = crossbeam_channel::bounded(1);
        let bell = Doorbell::new(door, 7);
        bell.ring();
        bell.ring();
        assert_eq!(visitors.try_recv(), Ok(7));
        assert!(visitors.is_empty());
        bell.answer();
        bell.ring();
        assert_eq!(visitors.try_recv(), Ok(7));
    }
}
