//! The slot: a place for one value, in which a client's thread waits for what wakes it.
//!
//! A slot is a mutex and a condition variable. A bounded queue of crossbeam would do the same, but
//! its receiver spins before it sleeps, which costs CPU time while many clients connect, and it
//! takes more memory. The model checker loom sees every step of a slot.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

#[cfg(feature = "loom")]
use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(feature = "loom"))]
use std::sync::{Condvar, Mutex, MutexGuard};

/// A place for one value. One thread takes the values; other threads put them.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    value: Mutex<Option<T>>,
    filled: Condvar,
}

impl<T> Slot<T> {
    /// Creates an empty slot.
    pub(crate) fn new() -> Self {
        Self { value: Mutex::new(None), filled: Condvar::new() }
    }

    /// Puts a value into the slot, in place of the value that is there, if any.
    pub(crate) fn put(&self, value: T) {
        let old = self.lock().replace(value);
        self.filled.notify_one();
        drop(old); // after the lock has been released
    }

    /// Puts a value into the slot, unless a value is there.
    pub(crate) fn offer(&self, value: T) {
        self.lock().get_or_insert(value);
        self.filled.notify_one();
    }

    /// Waits for a value, and takes it.
    pub(crate) fn take(&self) -> T {
        let mut value = self.lock();
        loop {
            if let Some(value) = value.take() {
                return value;
            }
            value = self.filled.wait(value).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for a value until `deadline`, and takes it.
    pub(crate) fn take_until(&self, deadline: Instant) -> Option<T> {
        let mut value = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if value.is_some() || left.is_zero() {
                return value.take();
            }
            let waited = self.filled.wait_timeout(value, left);
            value = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes the value, if one is there.
    #[cfg(test)]
    pub(crate) fn try_take(&self) -> Option<T> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the reply to a request, which another thread waits for. If it is dropped without a reply, that
/// thread gets `None`.
///
/// The receiver of a queue of crossbeam would call `sched_yield` several times before it sleeps, which
/// delays the thread that is to reply.
#[derive(Debug)]
pub(crate) struct ReplySender<T>(Option<Arc<Slot<Option<T>>>>);

/// Waits for the reply to a request.
#[derive(Debug)]
pub(crate) struct ReplyReceiver<T>(Arc<Slot<Option<T>>>);

/// Creates the two ends of a reply.
pub(crate) fn reply<T>() -> (ReplySender<T>, ReplyReceiver<T>) {
    let slot = Arc::new(Slot::new());
    (ReplySender(Some(Arc::clone(&slot))), ReplyReceiver(slot))
}

impl<T> ReplySender<T> {
    pub(crate) fn send(mut self, reply: T) {
        if let Some(slot) = self.0.take() {
            slot.put(Some(reply));
        }
    }
}

impl<T> Drop for ReplySender<T> {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.put(None);
        }
    }
}

impl<T> ReplyReceiver<T> {
    /// Waits for the reply. Returns `None` if there will be none.
    pub(crate) fn wait(self) -> Option<T> {
        self.0.take()
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn put_replaces_a_value_and_offer_does_not() {
        let slot = Slot::new();
        slot.offer(1);
        slot.offer(2);
        assert_eq!(slot.take(), 1);
        slot.offer(1);
        slot.put(2);
        assert_eq!((slot.take(), slot.try_take()), (2, None));
    }

    #[test]
    fn wait_for_a_reply_ends_with_it_or_without_its_sender() {
        let ((sender, receiver), (dropped, without)) = (reply(), reply::<i32>());
        std::thread::scope(|scope| {
            let waiting = [receiver, without].map(|receiver| scope.spawn(|| receiver.wait()));
            sender.send(1);
            drop(dropped);
            assert_eq!(waiting.map(|waiting| waiting.join().unwrap()), [Some(1), None]);
        });
    }

    #[test]
    fn wait_ends_with_a_value_or_at_its_deadline() {
        let slot = Slot::new();
        assert_eq!(slot.take_until(Instant::now() + Duration::from_millis(1)), None);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| slot.take_until(Instant::now() + Duration::from_secs(60)));
            slot.put(1);
            assert_eq!(waiting.join().unwrap(), Some(1));
        });
        slot.put(2);
        assert_eq!(slot.take_until(Instant::now()), Some(2), "a value that is there is taken");
    }
}
