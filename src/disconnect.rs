//! Who has hung up, seen without writing to them.
//!
//! A silent stream is written to once in a heartbeat, and a client that left
//! would keep its thread, its descriptor and its name until then. So one thread
//! waits, for all streams, for the one thing that can be waited for without
//! reading what a client sends: `EPOLLRDHUP`, the peer's FIN or RST, or the
//! kernel's word that the peer answers no more.
//!
//! A client that closes its writing half alone has hung up too, as for nginx and
//! Go, though not for Node: no `EventSource` does it, and from a FIN nobody can
//! tell whether the other half is still read.
//!
//! Who is told depends on who has the client's writer: the broadcaster, or the
//! client's own thread at its doorbell. A thread that waits on a full socket sees
//! it by itself (`Socket::write`).

use std::collections::HashMap;
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
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

/// How many hang-ups are taken from the kernel at once.
const BATCH: usize = 256;

/// The number of what ends the watching; streams count from 1.
const STOP: u64 = 0;

/// What the broadcaster is told besides what it is lent.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// The stream of this number has lost its client.
    Gone(u64),
    /// Say that you are there.
    Ping(Sender<()>),
    /// Give every writer back to its own thread.
    ReturnWriters,
}

/// Sees the peers of all streams hang up.
#[derive(Debug)]
pub(crate) struct Watcher {
    epoll: OwnedFd,
    stop: OwnedFd,
    last: AtomicU64,
    watched: Mutex<HashMap<u64, Watched>>,
    /// Told of those who have no bell of their own.
    broadcaster: Sender<Message>,
    counters: Arc<Counters>,
}

/// One stream, as the watcher knows it.
#[derive(Debug, Default)]
struct Watched {
    /// Its own thread's bell; without one, the broadcaster is told.
    notifier: Option<Arc<Notifier>>,
    /// When its peer was seen to have hung up.
    since: Option<Instant>,
}

impl Watcher {
    /// A watcher that tells the broadcaster by `broadcaster`.
    ///
    /// Fails if there is no descriptor left for it.
    pub(crate) fn new(
        broadcaster: Sender<Message>,
        counters: &Arc<Counters>,
    ) -> io::Result<Arc<Self>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &stop, EventData::new_u64(STOP), EventFlags::IN)?;
        let (last, watched) = (AtomicU64::new(STOP), Mutex::default());
        let counters = Arc::clone(counters);
        Ok(Arc::new(Self { epoll, stop, last, watched, broadcaster, counters }))
    }

    /// Watches until it is told to stop. Reads nothing, writes to nobody.
    pub(crate) fn run(&self) {
        let mut events = Vec::with_capacity(BATCH);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return log::error!("hang-ups are no longer seen: {error}"),
            }
            for event in &events {
                match event.data.u64() {
                    STOP => return,
                    id => self.tell(id),
                }
            }
        }
    }

    /// Ends [`run`](Self::run), now or as soon as it begins.
    pub(crate) fn stop(&self) {
        // It can only be full, which says the same.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
    }

    /// Tells who has the stream's writer. Nobody is told under the lock.
    fn tell(&self, id: u64) {
        let notifier = match self.lock().get_mut(&id) {
            Some(watched) => {
                watched.since.get_or_insert_with(Instant::now);
                watched.notifier.clone()
            }
            None => return, // it has ended by itself
        };
        match notifier {
            Some(notifier) => notifier.notify(),
            // a broadcaster that has ended has let go of all its streams.
            None => drop(self.broadcaster.send(Message::Gone(id))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream's place with the watcher, until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    watcher: Arc<Watcher>,
    pub(crate) id: u64,
    /// Whether the kernel knows of it.
    known: AtomicBool,
}

impl Watch {
    /// A place for a stream. Nothing is watched before it is armed.
    pub(crate) fn new(watcher: &Arc<Watcher>) -> Self {
        let id = watcher.last.fetch_add(1, Ordering::Relaxed) + 1;
        watcher.lock().insert(id, Watched::default());
        Self { watcher: Arc::clone(watcher), id, known: AtomicBool::new(false) }
    }

    /// Has the broadcaster told, once, when the socket's peer hangs up, or at once
    /// if it has already.
    pub(crate) fn arm(&self, socket: &TcpStream) {
        // Once: the level stays, and would keep the watcher awake until the socket closes.
        let flags = EventFlags::RDHUP | EventFlags::ONESHOT;
        let (epoll, data) = (&self.watcher.epoll, EventData::new_u64(self.id));
        let armed = if self.known.swap(true, Ordering::Relaxed) {
            epoll::modify(epoll, socket, data, flags)
        } else {
            epoll::add(epoll, socket, data, flags)
        };
        if let Err(error) = armed {
            // The next heartbeat finds out.
            log::warn!("a stream's end will be seen late: {error}");
        }
    }

    /// As [`arm`](Self::arm), after a bell was rung perhaps: from now on the broadcaster
    /// is told. Whatever the bell was rung for is told again.
    pub(crate) fn report_to_broadcaster(&self, socket: &TcpStream) {
        if self.known.load(Ordering::Relaxed)
            && let Some(watched) = self.watcher.lock().get_mut(&self.id)
        {
            watched.notifier = None;
        }
        self.arm(socket);
    }

    /// Has this bell rung instead.
    pub(crate) fn notify_on_disconnect(&self, socket: &TcpStream, notifier: &Arc<Notifier>) {
        if let Some(watched) = self.watcher.lock().get_mut(&self.id) {
            watched.notifier = Some(Arc::clone(notifier));
        }
        self.arm(socket);
    }

    /// Where the stream's own thread hears of it.
    pub(crate) fn notifications(&self, socket: &TcpStream) -> Receiver<u64> {
        let (sender, notifications) = crossbeam_channel::bounded(1);
        self.notify_on_disconnect(socket, &Notifier::new(sender, self.id));
        notifications
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Closing the socket is what the kernel needs to forget it.
        let watched = self.watcher.lock().remove(&self.id);
        if let Some(since) = watched.and_then(|watched| watched.since) {
            self.watcher.counters.disconnect(since.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener};
    use std::time::Duration;

    use super::*;

    /// A connection's two ends.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, client)
    }

    fn number(word: &Message) -> u64 {
        match *word {
            Message::Gone(number) => number,
            Message::Ping(_) | Message::ReturnWriters => panic!("nobody asks"),
        }
    }

    #[test]
    fn every_kind_of_hang_up_is_seen_once_and_talk_is_none() {
        let (broadcaster, gone) = crossbeam_channel::bounded(8);
        let watcher = Watcher::new(broadcaster, &Arc::default()).unwrap();
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
                    gone.recv_timeout(Duration::from_millis(20)).is_err(),
                    "talk is not leaving"
                );
                leave(&client);
                drop(client);
                let told = gone.recv_timeout(Duration::from_secs(10));
                assert_eq!(told.as_ref().map(number), Ok(watch.id));
                assert!(gone.recv_timeout(Duration::from_millis(20)).is_err(), "told once");
                watch.arm(&server);
                let again = gone.recv_timeout(Duration::from_secs(10));
                assert_eq!(
                    again.as_ref().map(number),
                    Ok(watch.id),
                    "armed too late, told all the same"
                );
                let notifications = watch.notifications(&server);
                assert_eq!(notifications.recv_timeout(Duration::from_secs(10)), Ok(watch.id));
            }
            assert!(watcher.lock().is_empty(), "nobody is kept");
            watcher.stop();
        });
    }
}
