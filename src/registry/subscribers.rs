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

/// Wakes a sleeping thread because there are new events. It does not pass the events.
///
/// The thread reads the events from the registry. So several calls of [`notify`](Self::notify)
/// before the thread runs have the same effect as one. The queue therefore needs room for only one
/// message from each notifier.
#[derive(Debug)]
pub(crate) struct Notifier {
    sender: Sender<u64>,
    /// Identifies the notifier to the thread that receives from the queue.
    id: u64,
    is_notified: AtomicBool,
}

impl Notifier {
    /// Creates a notifier that sends `id`. The queue must have room for one message from each
    /// notifier that sends to it.
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
            // Sending cannot fail because of a full queue: each notifier has at most one message in
            // it. If the queue is disconnected, the thread has ended.
            let _ = self.sender.try_send(self.id);
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
