//! The subscribers of a channel: their number and their notifiers.

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

/// Wakes a sleeping thread. It says that there are new events, not which.
///
/// The thread reads the events from the registry. So ten calls of [`notify`](Self::notify) before
/// the thread runs have the effect of one, and the queue needs no more room than one place for each
/// notifier.
#[derive(Debug)]
pub(crate) struct Notifier {
    sender: Sender<u64>,
    /// Identifies the notifier to the thread that receives from the queue.
    id: u64,
    is_notified: AtomicBool,
}

impl Notifier {
    /// Creates a notifier that sends `id`. The queue must have room for one message of each of its
    /// notifiers.
    pub(crate) fn new(sender: Sender<u64>, id: u64) -> Arc<Self> {
        Arc::new(Self { sender, id, is_notified: AtomicBool::new(false) })
    }

    /// The id of the second notifier of [`two`](Self::two).
    pub(crate) const SECOND: u64 = 1;

    /// Creates two notifiers with a queue of their own.
    #[inline(never)] // crossbeam builds a channel on the stack and then moves it
    pub(crate) fn two() -> ([Arc<Self>; 2], Receiver<u64>) {
        let (sender, notifications) = crossbeam_channel::bounded(2);
        ([Self::new(sender.clone(), 0), Self::new(sender, Self::SECOND)], notifications)
    }

    /// Wakes the thread, unless it has been notified since it last called [`rearm`](Self::rearm).
    pub(crate) fn notify(&self) {
        if !self.is_notified.swap(true, Ordering::AcqRel) {
            // The queue cannot be full. If it is disconnected, the thread has ended.
            let _ = self.sender.try_send(self.id);
        }
    }

    /// Makes the next [`notify`](Self::notify) wake the thread again.
    ///
    /// The thread must call this *before* it reads the registry. An event that is published later
    /// then notifies again, and an event that was published earlier is read.
    ///
    /// A swap, not a store: a publisher that found the flag set had published before. Only by
    /// reading the value that this publisher's swap wrote does this thread synchronize with it, and
    /// is sure to see the event.
    pub(crate) fn rearm(&self) {
        self.is_notified.swap(false, Ordering::AcqRel);
    }
}

/// The subscribers of one name, prefix or pattern.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    /// The number of streams, several of which may share a notifier.
    streams: usize,
    /// The number of streams by rights, for streams that may read private events.
    by_rights: HashMap<ReadRights, usize>,
    /// In the order of their keys, which is the order of registration. Shared, so that a publisher
    /// can notify them after it has released the lock.
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

    /// Subtracts a stream that has ended.
    pub(super) fn leave(&mut self, rights: &ReadRights) {
        decrease(&mut self.streams, 1);
        if let Some(streams) = self.by_rights.get_mut(rights) {
            decrease(streams, 1);
            if *streams == 0 {
                self.by_rights.remove(rights);
            }
        }
    }

    /// Counts the streams. With `access`, counts only those that are known to be allowed to read
    /// the private event.
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

    /// The notifiers of all streams; for a private event, of those that may read it.
    pub(super) fn notifiers(&self, private: Option<&Arc<Private>>) -> Notifiers {
        Notifiers { registered: Arc::clone(&self.notifiers), private: private.cloned() }
    }
}

/// Notifiers to be notified once the registry's lock is free, because waking a thread is a system
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_notify_sends_one_message_until_rearmed() {
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
