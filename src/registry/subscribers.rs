//! Who is listening to a channel: how many, and whose doorbells ring.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[cfg(feature = "loom")]
use loom::sync::atomic::AtomicBool;
#[cfg(not(feature = "loom"))]
use std::sync::atomic::AtomicBool;

use crossbeam_channel::{Receiver, Sender};

use super::channels::ReadRights;
use super::readable::{EventAccess, Private};
use crate::counters::decrease;

/// A thread's doorbell: it says that there is news, never what.
///
/// The news is read from the registry. So a bell that rings ten times before
/// its thread gets up has rung once, and the queue behind it needs no more
/// room than one place for each bell.
#[derive(Debug)]
pub(crate) struct Notifier {
    sender: Sender<u64>,
    /// What the thread behind the door tells its bells apart by.
    name: u64,
    is_notified: AtomicBool,
}

impl Notifier {
    /// A bell called `name` at a door. The door must have room for every bell
    /// at it once.
    pub(crate) fn new(sender: Sender<u64>, name: u64) -> Arc<Self> {
        Arc::new(Self { sender, name, is_notified: AtomicBool::new(false) })
    }

    /// What the second of two bells is called.
    pub(crate) const SECOND: u64 = 1;

    /// Two bells at a door of their own.
    #[inline(never)] // a crossbeam channel is made on the stack and then moved
    pub(crate) fn two() -> ([Arc<Self>; 2], Receiver<u64>) {
        let (sender, notifications) = crossbeam_channel::bounded(2);
        ([Self::new(sender.clone(), 0), Self::new(sender, Self::SECOND)], notifications)
    }

    /// Wakes the thread, unless it has been woken and has not answered yet.
    pub(crate) fn notify(&self) {
        if !self.is_notified.swap(true, Ordering::AcqRel) {
            // A full door cannot be, a closed one means that the thread has left.
            let _ = self.sender.try_send(self.name);
        }
    }

    /// The thread is up. It must say so *before* it reads the registry: what is
    /// published after this rings again, what came before is read.
    ///
    /// A swap, not a store: whoever found the bell rung has published before, and
    /// only by reading what he left there is this thread sure to see that.
    pub(crate) fn rearm(&self) {
        self.is_notified.swap(false, Ordering::AcqRel);
    }
}

/// The listeners of one name or prefix.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    /// Streams, however many share a doorbell.
    subscribers: usize,
    /// Those of them that may read something private.
    by_rights: HashMap<ReadRights, usize>,
    /// In the order of their keys, which is the order in which they came.
    /// Inner, so that a publisher can ring them after it let go of the lock.
    notifiers: Arc<Vec<Registered>>,
}

/// A doorbell at its place.
#[derive(Debug, Clone)]
struct Registered {
    key: u64,
    notifier: Arc<Notifier>,
    rights: ReadRights,
}

impl Subscribers {
    /// A stream has come.
    pub(super) fn enter(&mut self, rights: &ReadRights) {
        self.subscribers += 1;
        if rights.reads_some_private() {
            *self.by_rights.entry(rights.clone()).or_default() += 1;
        }
    }

    /// A stream has gone.
    pub(super) fn leave(&mut self, rights: &ReadRights) {
        decrease(&mut self.subscribers, 1);
        if let Some(streams) = self.by_rights.get_mut(rights) {
            decrease(streams, 1);
            if *streams == 0 {
                self.by_rights.remove(rights);
            }
        }
    }

    /// How many streams may be given an event, which for a private one is known of some.
    pub(super) fn count(&self, access: Option<&EventAccess>) -> usize {
        let Some(access) = access else { return self.subscribers };
        let streams = self.by_rights.iter().filter(|(rights, _)| access.allows(rights));
        streams.map(|(_, count)| count).sum()
    }

    /// Those of its streams that may be given private events.
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
        self.subscribers == 0 && self.notifiers.is_empty()
    }

    /// Everybody's bells, or those of whoever may read a private event.
    pub(super) fn notifiers(&self, private: Option<&Arc<Private>>) -> Notifiers {
        Notifiers { registered: Arc::clone(&self.notifiers), private: private.cloned() }
    }
}

/// Doorbells to ring once the registry's lock is free: ringing wakes a thread,
/// which is a system call.
#[must_use = "nobody hears of the news until these are notified"]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_notify_sends_one_message_until_answered() {
        let (sender, notifications) = crossbeam_channel::bounded(1);
        let notifier = Notifier::new(sender, 7);
        notifier.notify();
        notifier.notify();
        assert_eq!(notifications.try_recv(), Ok(7));
        assert!(notifications.is_empty());
        notifier.rearm();
        notifier.notify();
        assert_eq!(notifications.try_recv(), Ok(7));
    }
}
