//! The disconnect watcher: detects that a client has disconnected, without writing to its socket.
//!
//! While a stream has no events, the server writes to it only at each heartbeat. Without the
//! watcher, a client that has disconnected would keep its thread, its descriptor and its
//! subscription until the next heartbeat. So one thread waits on the sockets of all streams for
//! `EPOLLRDHUP`. The kernel reports this condition without a read from the socket. The condition
//! means that the peer has sent FIN or RST, or that the kernel has found that the peer no longer
//! responds.
//!
//! A client that closes only its writing half counts as disconnected, as in nginx and Go, but not
//! in Node. No `EventSource` closes only that half, and a FIN does not say whether the client still
//! reads.
//!
//! The watcher reports a disconnect to the holder of the client's writer: to the broadcaster with a
//! message, or to the client's own thread through its notifier. A thread that waits on a full
//! socket detects the disconnect by itself (`Socket::write`).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::counters::Counters;
use crate::registry::Notifier;

/// The maximum number of disconnects that the watcher takes from the kernel in one call.
const BATCH: usize = 256;

/// The number by which epoll reports a request to stop the watcher. Streams have numbers from 1.
const STOP: u64 = 0;

/// Returns which of `broadcasters` the stream belongs to.
pub(crate) fn share(stream_id: u64, broadcasters: usize) -> usize {
    usize::try_from(stream_id % broadcasters as u64).expect("less than a usize")
}

/// A message to a broadcaster. (A writer is handed over through another channel.)
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// The client of the stream with this number has disconnected.
    Disconnected(u64),
    /// Reply on this channel, to show that the broadcaster is running.
    Ping(Sender<()>),
    /// Return every writer to its client's thread.
    ReturnWriters,
    /// End the streams that were opened with a withdrawn token or key.
    EndWithdrawn,
}

/// Watches the sockets of all streams for a disconnect.
#[derive(Debug)]
pub(crate) struct Watcher {
    epoll: OwnedFd,
    stop: OwnedFd,
    last: AtomicU64,
    watched: Mutex<HashMap<u64, Watched>>,
    /// Sends the broadcasters the disconnects of streams that have no notifier of their own.
    broadcasters: Vec<Sender<Message>>,
    counters: Arc<Counters>,
}

/// The watcher's entry for one stream.
#[derive(Debug, Default)]
struct Watched {
    /// The notifier of the stream's own thread. If it is `None`, the broadcaster gets a message.
    notifier: Option<Arc<Notifier>>,
    /// When the peer's disconnect was detected.
    since: Option<Instant>,
}

impl Watcher {
    /// Creates a watcher that reports to the broadcasters, at least one.
    ///
    /// Fails if the process has no descriptor left.
    pub(crate) fn new(
        broadcasters: Vec<Sender<Message>>,
        counters: &Arc<Counters>,
    ) -> io::Result<Arc<Self>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &stop, EventData::new_u64(STOP), EventFlags::IN)?;
        let (last, watched) = (AtomicU64::new(STOP), Mutex::default());
        let counters = Arc::clone(counters);
        Ok(Arc::new(Self { epoll, stop, last, watched, broadcasters, counters }))
    }

    /// Watches until [`stop`](Self::stop). Reads from no client and writes to none.
    pub(crate) fn run(&self) {
        let mut events = Vec::with_capacity(BATCH);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    return log::error!(
                        "disconnect watcher stopped: {error}; disconnects are noticed at the next heartbeat"
                    );
                }
            }
            for event in &events {
                match event.data.u64() {
                    STOP => return,
                    id => self.report(id),
                }
            }
        }
    }

    /// Makes [`run`](Self::run) return: immediately, or as soon as `run` is called.
    pub(crate) fn stop(&self) {
        // The write fails only if the eventfd's counter is full. A request to stop is then pending
        // already.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }

    /// Reports a disconnect to the holder of the stream's writer, after releasing the lock.
    fn report(&self, id: u64) {
        let notifier = match self.lock().get_mut(&id) {
            Some(watched) => {
                watched.since.get_or_insert_with(Instant::now);
                watched.notifier.clone()
            }
            None => return, // the stream has ended by itself
        };
        if let Some(notifier) = notifier {
            return notifier.notify();
        }
        // The send fails if the broadcaster has ended; it has then dropped all its streams.
        let broadcaster = &self.broadcasters[share(id, self.broadcasters.len())];
        drop(broadcaster.send(Message::Disconnected(id)));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The registration of one stream with the watcher. Dropping this value ends the registration.
#[derive(Debug)]
pub(crate) struct Watch {
    watcher: Arc<Watcher>,
    pub(crate) id: u64,
    /// Whether the socket has been added to the epoll set.
    is_added: AtomicBool,
}

impl Watch {
    /// Registers a stream. The watcher ignores the stream's socket until [`arm`](Self::arm).
    pub(crate) fn new(watcher: &Arc<Watcher>) -> Self {
        let id = watcher.last.fetch_add(1, Ordering::Relaxed) + 1;
        watcher.lock().insert(id, Watched::default());
        Self { watcher: Arc::clone(watcher), id, is_added: AtomicBool::new(false) }
    }

    /// Makes the watcher report the peer's disconnect one time: immediately if the peer has
    /// disconnected already.
    pub(crate) fn arm(&self, socket: &impl AsFd) {
        // One-shot, because the condition is level-triggered: without one-shot, it would wake the
        // watcher again and again until the socket is closed.
        let flags = EventFlags::RDHUP | EventFlags::ONESHOT;
        let (epoll, data) = (&self.watcher.epoll, EventData::new_u64(self.id));
        let armed = if self.is_added.swap(true, Ordering::Relaxed) {
            epoll::modify(epoll, socket, data, flags)
        } else {
            epoll::add(epoll, socket, data, flags)
        };
        if let Err(error) = armed {
            // The write of a heartbeat will detect the disconnect instead.
            log::warn!(
                "cannot watch a stream for its disconnect: {error}; noticed at the next heartbeat"
            );
        }
    }

    /// Makes the watcher report the client's disconnect to the broadcaster, even if it has already
    /// reported that disconnect to the stream's own thread.
    pub(crate) fn report_to_broadcaster(&self, socket: &impl AsFd) {
        if self.is_added.load(Ordering::Relaxed)
            && let Some(watched) = self.watcher.lock().get_mut(&self.id)
        {
            watched.notifier = None;
        }
        self.arm(socket);
    }

    /// Makes the watcher report the client's disconnect to the stream's own thread, through
    /// `notifier`.
    pub(crate) fn notify_on_disconnect(&self, socket: &impl AsFd, notifier: &Arc<Notifier>) {
        if let Some(watched) = self.watcher.lock().get_mut(&self.id) {
            watched.notifier = Some(Arc::clone(notifier));
        }
        self.arm(socket);
    }

    /// Stops watching a socket that stays open. The watcher ignores a report that is under way, because
    /// the registration ends too.
    pub(crate) fn release(&self, socket: &impl AsFd) {
        if self.is_added.swap(false, Ordering::Relaxed) {
            // This fails only if the socket is not in the set, and then nothing is to be done.
            let _ = epoll::delete(&self.watcher.epoll, socket);
        }
    }

    /// Returns a channel that receives a message when the peer disconnects.
    pub(crate) fn notifications(&self, socket: &impl AsFd) -> Receiver<u64> {
        let (sender, notifications) = crossbeam_channel::bounded(1);
        self.notify_on_disconnect(socket, &Notifier::of_queue(sender, self.id));
        notifications
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Only the entry is removed: the kernel removes a closed socket from the epoll set itself.
        let watched = self.watcher.lock().remove(&self.id);
        if let Some(since) = watched.and_then(|watched| watched.since) {
            self.watcher.counters.disconnect(since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    /// The two ends of a connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, client)
    }

    fn stream_id(message: &Message) -> u64 {
        match *message {
            Message::Disconnected(stream_id) => stream_id,
            _ => panic!("not a disconnect"),
        }
    }

    #[test]
    fn each_disconnect_is_reported_once_and_data_is_not_one() {
        let (broadcaster, disconnects) = crossbeam_channel::bounded(8);
        let watcher = Watcher::new(vec![broadcaster], &Arc::default()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| watcher.run());
            let leave: [fn(&TcpStream); 3] = [
                |client| client.shutdown(Shutdown::Both).unwrap(),
                |client| client.shutdown(Shutdown::Write).unwrap(),
                |client| {
                    socket2::SockRef::from(client).set_linger(Some(Duration::ZERO)).unwrap();
                },
            ];
            for leave in leave {
                let (server, client) = pair();
                let watch = Watch::new(&watcher);
                watch.arm(&server);
                std::io::Write::write_all(&mut &client, b"talk").unwrap();
                assert!(
                    disconnects.recv_timeout(Duration::from_millis(20)).is_err(),
                    "sending data is not a disconnect"
                );
                leave(&client);
                drop(client);
                let reported = disconnects.recv_timeout(Duration::from_secs(10));
                assert_eq!(reported.as_ref().map(stream_id), Ok(watch.id));
                assert!(
                    disconnects.recv_timeout(Duration::from_millis(20)).is_err(),
                    "reported once"
                );
                watch.arm(&server);
                let again = disconnects.recv_timeout(Duration::from_secs(10));
                assert_eq!(
                    again.as_ref().map(stream_id),
                    Ok(watch.id),
                    "reported although it was armed too late"
                );
                let notifications = watch.notifications(&server);
                assert_eq!(notifications.recv_timeout(Duration::from_secs(10)), Ok(watch.id));
            }
            assert!(watcher.lock().is_empty(), "no entry is left");
            watcher.stop();
        });
    }
}
