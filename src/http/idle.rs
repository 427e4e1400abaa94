//! Idle threads: a thread whose connection has ended waits a moment for the next connection.
//!
//! Most connections that are not streams carry a few requests. To create and end a thread for each
//! costs more than to answer them. A stream never runs on a reused thread, because a thread keeps the
//! memory that it has used, and a thread that has run a stream ends with it.

use std::ffi::CString;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connection;
use super::peer::Peer;
use crate::slot::Slot;

/// How many threads may be idle at a time.
const MOST: usize = 16;

/// How long a thread is idle before it ends.
const WAIT: Duration = Duration::from_millis(100);

/// A connection for an idle thread: its client, and the function that serves it.
type Next = (Peer, Box<dyn FnOnce(bool) -> bool + Send>);

/// The threads of connections, and those of them that are idle.
#[derive(Default)]
pub(super) struct IdleThreads {
    idle: Mutex<Vec<Arc<Slot<Next>>>>,
}

impl IdleThreads {
    /// Serves a connection on an idle thread, or on a new one if there is none.
    ///
    /// The argument of `serve` says whether the thread has served another connection before; its
    /// result, whether the thread may serve one more. Fails if the system cannot create a thread, and
    /// then drops `serve`.
    pub(super) fn run(
        self: &Arc<Self>,
        peer: Peer,
        serve: impl FnOnce(bool) -> bool + Send + 'static,
    ) -> io::Result<()> {
        let idle = self.lock().pop();
        if let Some(thread) = idle {
            thread.put((peer, Box::new(serve)));
            return Ok(());
        }
        let threads = Arc::clone(self);
        let run = move || {
            if serve(false) {
                threads.serve_others();
            }
        };
        connection::spawn(peer, run).map(drop)
    }

    /// Serves further connections on this thread, until none comes in time.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    fn serve_others(&self) {
        let slot = Arc::new(Slot::new());
        while self.wait_at(&slot) {
            let (peer, serve) = match slot.take_until(Instant::now() + WAIT) {
                Some(next) => next,
                None if self.withdraw(&slot) => return,
                None => slot.take(), // the accepting thread has chosen this thread meanwhile
            };
            rename(&peer.thread_name());
            if !serve(true) {
                return;
            }
        }
    }

    /// Makes this thread idle, if there are not too many idle threads.
    fn wait_at(&self, slot: &Arc<Slot<Next>>) -> bool {
        rename("sse-idle");
        let mut idle = self.lock();
        let has_room = idle.len() < MOST;
        if has_room {
            idle.push(Arc::clone(slot));
        }
        has_room
    }

    /// Makes this thread no longer idle. Returns false if it has been chosen for a connection.
    fn withdraw(&self, slot: &Arc<Slot<Next>>) -> bool {
        let mut idle = self.lock();
        let at = idle.iter().position(|other| Arc::ptr_eq(other, slot));
        at.map(|at| idle.remove(at)).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Slot<Next>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names this thread, for `top -H`.
fn rename(name: &str) {
    if let Ok(name) = CString::new(name) {
        let _ = rustix::thread::set_name(&name);
    }
}
