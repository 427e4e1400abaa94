//! The connections between requests: each waits for its client, and can be told to
//! leave.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The connections that wait for their client to say something, so that they
/// can be told to leave.
#[derive(Debug, Default)]
pub(super) struct Idle {
    waiting: Mutex<Waiting>,
    /// Told when one has left.
    left: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Each with whether it is fresh: has not been answered yet.
    sockets: HashMap<SocketKey, (Arc<TcpStream>, bool)>,
    /// Whether only fresh ones may still wait, for their one answer.
    draining: bool,
}

type SocketKey = usize;

impl Idle {
    /// Enters a connection until the guard is dropped; `None` if it is too late.
    pub(super) fn enter(&self, socket: &Arc<TcpStream>, is_fresh: bool) -> Option<IdleGuard<'_>> {
        let mut waiting = self.lock();
        if waiting.draining && !is_fresh {
            return None;
        }
        let key = Arc::as_ptr(socket) as SocketKey;
        waiting.sockets.insert(key, (Arc::clone(socket), is_fresh));
        Some(IdleGuard { idle: self, key })
    }

    /// Ends the waits of those who have been answered.
    pub(super) fn drain(&self) {
        let mut waiting = self.lock();
        waiting.draining = true;
        waiting
            .sockets
            .values()
            .filter(|(_, is_fresh)| !is_fresh)
            .for_each(|(socket, _)| hush(socket));
    }

    /// Waits until this moment for the fresh ones to say what they came for, then
    /// ends their waits. Who was accepted last is still heard.
    pub(super) fn close(&self, until: Instant) {
        let time = until.saturating_duration_since(Instant::now());
        let some_are_fresh =
            |waiting: &mut Waiting| waiting.sockets.values().any(|(_, fresh)| *fresh);
        let waited = self.left.wait_timeout_while(self.lock(), time, some_are_fresh);
        let (waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        waiting.sockets.values().for_each(|(socket, _)| hush(socket));
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a connection's wait. What it has already been sent can still be read.
fn hush(socket: &TcpStream) {
    // A socket that is no longer connected needs no telling.
    let _ = socket.shutdown(Shutdown::Read);
}

pub(super) struct IdleGuard<'a> {
    idle: &'a Idle,
    key: SocketKey,
}

impl Drop for IdleGuard<'_> {
    fn drop(&mut self) {
        let mut waiting = self.idle.lock();
        waiting.sockets.remove(&self.key);
        if waiting.draining {
            self.idle.left.notify_one();
        }
    }
}
