//! State that all connection threads share, and the steps of a shutdown.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::admission::{Admission, Reason, StreamPermit};
use super::assets::Assets;
use super::bind::Listener;
use super::config::Config;
use super::connections::Connections;
use super::error::HttpError;
use super::hooks::Attachments;
use super::keyring::{AccessKeys, Keyring};
use super::log_limit::{Burst, LogRateLimit};
use super::mercure::subscriptions::Subscriptions;
use super::publish_rate::PublishRate;
use super::request::Request;
use crate::broadcast::{Delivery, Mailboxes};
use crate::capacity::{Capacity, Costs};
use crate::counters::{ADDRESS, CONNECTIONS, Counters, DRAINING, FULL};
use crate::disconnect::Watcher;
use crate::durable::Streams;
use crate::error::StartError;
use crate::limits::DRAIN_REQUEST_TIME;
use crate::process::Threads;
use crate::registry::{Closing, Registry};

/// The message type of the channel that tracks connection threads; no message is ever sent.
///
/// Each connection's thread holds a sender. When the last thread ends, the channel disconnects.
pub(super) type Alive = Infallible;

/// How often events that are older than the history allows are dropped, in seconds.
const SWEEP_EVERY: u32 = 10;

/// How old the capacity in a status of the stream may be. To read it costs as much as to read some
/// hundred threads, because the kernel lists all mappings and descriptors of the process for it.
const CAPACITY_AGE: Duration = Duration::from_secs(10);

/// State that all connection threads share.
#[derive(Debug)]
pub(crate) struct ServerState {
    pub(super) config: Config,
    pub(super) attached: Attachments,
    /// The tokens and keys, which `config` no longer has.
    pub(super) keyring: Keyring,
    pub(super) listeners: Vec<Listener>,
    /// The pages. [`assets`](Self::assets) returns them.
    pub(super) pages: RwLock<Arc<Assets>>,
    /// The registry of the channels that publishers use.
    pub(super) hub: Registry,
    /// The registry of the channels that the ticker publishes to.
    pub(super) clock: Registry,
    /// Sends to the broadcasters, if there are any. There are none with [`Delivery::Wake`], unless
    /// the delivery is switchable.
    pub(super) mailboxes: Option<Mailboxes>,
    pub(super) watcher: Arc<Watcher>,
    pub(super) connections: Arc<Connections>,
    /// An eventfd that is readable while the server drains, for threads that wait in `poll`.
    pub(super) drain_event: OwnedFd,
    /// `None` without `--mercure-subscriptions`.
    pub(super) subscriptions: Option<Subscriptions>,
    /// `None` without `--durable-streams`.
    pub(super) durable: Option<Arc<Streams>>,
    pub(super) admission: Arc<Admission>,
    /// `None` without `--publish-rate`.
    pub(super) publish_rate: Option<PublishRate>,
    /// The maximum memory of one client and of the channels.
    pub(super) costs: Costs,
    pub(super) counters: Arc<Counters>,
    /// CPU time spent on computing the status so far, in nanoseconds.
    pub(super) status_nanos: AtomicU64,
    pub(super) kept_status: Mutex<KeptStatus>,
    pub(super) stop: Stop,
    /// Set when load balancers should send no more clients.
    pub(super) retired: AtomicBool,
    /// Set when the drain starts.
    pub(super) draining: AtomicBool,
    /// Set when the server stops accepting connections.
    pub(super) stopped_accepting: AtomicBool,
    /// Set at the end of [`drain`](Self::drain), once; `Server::run` waits for it.
    pub(super) drain_started: OnceLock<()>,
    /// Groups rejected streams, so that only the first of a burst is logged.
    pub(super) rejections: Mutex<Burst>,
    /// Limits the rate of the log lines about rejected tokens.
    pub(super) token_log_limit: LogRateLimit,
    pub(super) started: Instant,
}

/// What one status of the stream keeps for the next, so that less must be read again.
#[derive(Debug, Default)]
pub(super) struct KeptStatus {
    pub(super) threads: Threads,
    capacity: Option<(Instant, Capacity)>,
}

impl KeptStatus {
    /// Returns the capacity, which is at most [`CAPACITY_AGE`] old.
    pub(super) fn capacity(&mut self, server: &ServerState, clients: usize) -> &Capacity {
        self.capacity.take_if(|(read, _)| read.elapsed() >= CAPACITY_AGE);
        let (_, capacity) =
            self.capacity.get_or_insert_with(|| (Instant::now(), server.capacity(clients)));
        capacity
    }
}

impl ServerState {
    /// Admits one more stream, or returns the rejection with its `Retry-After`.
    pub(super) fn admit(
        &self,
        client: IpAddr,
        request: &Request,
    ) -> Result<StreamPermit, HttpError> {
        let permit = self.admission.admit(client, self.is_draining());
        permit.map_err(|reason| self.reject(reason, client, request))
    }

    /// Counts and logs a rejected stream, and returns the error response.
    #[cold]
    pub(super) fn reject(&self, reason: Reason, client: IpAddr, request: &Request) -> HttpError {
        self.counters.reject(reason);
        let detail = match reason {
            FULL => {
                "the server has reached its maximum number of streams; retry later, or ask the \
                 operator to raise --max-clients (`threadcast doctor` reports how far)"
            }
            ADDRESS => {
                "this address has reached its maximum number of streams; close some, or ask the \
                 operator to raise --max-per-address or, behind a proxy, to set --trusted-proxy"
            }
            CONNECTIONS => {
                "the server has reached its maximum number of connections; retry in a moment \
                 (`threadcast doctor` reports which limit to raise)"
            }
            _ => "the server is shutting down; retry in a moment",
        };
        let mut rejections = self.rejections.lock().unwrap_or_else(PoisonError::into_inner);
        if rejections.begins() && reason != DRAINING {
            log::warn!(
                "rejected a stream of {client}: {detail} (further rejections in this burst are \
                 not logged)"
            );
        }
        let wait = self.admission.retry_after(reason);
        HttpError::later(detail, wait, request.accepts_event_stream())
    }

    /// Computes the capacity of this server, which holds this many clients now.
    pub(super) fn capacity(&self, clients: usize) -> Capacity {
        let broadcasters = self.mailboxes.as_ref().map_or(0, Mailboxes::len);
        Capacity::of_running_server(&self.costs, self.listeners.len(), broadcasters, clients)
    }

    /// Returns the current delivery mode.
    pub(super) fn delivery(&self) -> Delivery {
        self.mailboxes.as_ref().map_or(Delivery::Wake, Mailboxes::delivery)
    }

    /// Changes the delivery mode of all streams. No client loses an event or receives one twice.
    pub(super) fn switch(&self, delivery: Delivery) {
        if let Some(mailboxes) = &self.mailboxes {
            mailboxes.switch(delivery);
        }
    }

    /// Replaces the tokens and keys, and ends the streams that were opened with one that is no
    /// longer among them.
    pub(super) fn replace_keys(&self, keys: AccessKeys) {
        if self.keyring.replace(keys) {
            if let Some(mailboxes) = &self.mailboxes {
                mailboxes.end_withdrawn();
            }
            self.hub.wake_streams();
            self.clock.wake_streams();
        }
    }

    /// Returns the pages.
    pub(super) fn assets(&self) -> Arc<Assets> {
        Arc::clone(&self.pages.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens the folder of the pages again. If it cannot be read, the server keeps the old one.
    pub(super) fn reload_pages(&self) -> Result<(), StartError> {
        let pages = Arc::new(open_pages(&self.config)?);
        *self.pages.write().unwrap_or_else(PoisonError::into_inner) = pages;
        Ok(())
    }

    /// Makes [`is_ready`](Self::is_ready) false.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Returns whether load balancers should send new clients.
    pub(super) fn is_ready(&self) -> bool {
        !self.is_draining() && !self.retired.load(Ordering::Acquire)
    }

    /// Returns whether the drain has started.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(super) fn has_stopped_accepting(&self) -> bool {
        self.stopped_accepting.load(Ordering::Acquire)
    }

    /// Stops accepting connections, on all listeners.
    pub(super) fn stop_accepting(&self) {
        self.stopped_accepting.store(true, Ordering::Release);
        self.stop.stop(&self.listeners);
    }

    /// Starts the drain: the streams end one after the other. Later calls have no effect.
    pub(super) fn drain(&self) {
        if self.draining.swap(true, Ordering::AcqRel) {
            return;
        }
        let closing = Closing::new(self.config.limits.drain / 2, self.admission.clients());
        self.hub.close_over(&closing);
        self.clock.close_over(&closing);
        if let Some(streams) = &self.durable {
            streams.notify_all();
        }
        self.connections.drain();
        // The write fails only if the eventfd's counter is full, and a full counter makes it
        // readable too.
        let _ = rustix::io::write(&self.drain_event, &1_u64.to_ne_bytes());
        self.attached.hooks.iter().for_each(|hooks| hooks.draining());
        if self.stop.keeps_listeners_open() {
            // This server stops accepting at once. The next server accepts the connections that
            // wait in the inherited listeners.
            self.stop_accepting();
        }
        self.drain_started.get_or_init(|| ());
    }

    /// Drops what is too old. The ticker calls this once a second, with the second of the minute.
    pub(super) fn sweep(&self, second: u32) {
        if second.is_multiple_of(SWEEP_EVERY) {
            self.hub.sweep();
        }
        if let Some(streams) = &self.durable {
            streams.sweep();
        }
    }

    /// Ends all waits of streams and connections, at the latest at `deadline`.
    pub(super) fn close(&self, deadline: Instant) {
        self.stop_accepting();
        self.hub.close();
        self.clock.close();
        if let Some(streams) = &self.durable {
            streams.notify_all();
        }
        self.connections.close(deadline.min(Instant::now() + DRAIN_REQUEST_TIME));
    }
}

/// Opens the folder of the pages, if there is one.
pub(super) fn open_pages(config: &Config) -> Result<Assets, StartError> {
    let folder = config.public.as_deref();
    Assets::open(folder).map_err(|source| StartError::Public {
        folder: folder.map(|folder| folder.display().to_string()).unwrap_or_default(),
        source,
    })
}

/// Makes the accepting threads return, with an eventfd.
///
/// The server's own listeners are then shut down, so that clients are refused at once. Inherited
/// listeners must not be shut down.
#[derive(Debug)]
pub(super) struct Stop {
    event: OwnedFd,
    inherited: bool,
}

impl Stop {
    pub(super) fn new(inherited: bool) -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event, inherited })
    }

    /// Returns whether the listeners stay open, so that new connections wait for the next server.
    pub(super) fn keeps_listeners_open(&self) -> bool {
        self.inherited
    }

    /// Makes [`wait`](Self::wait) return at once, now and on every later call.
    pub(super) fn stop(&self, listeners: &[Listener]) {
        // The write fails only if the eventfd's counter is full, and a full counter makes it
        // readable too.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        for listener in listeners.iter().filter(|_| !self.inherited) {
            if let Err(error) = listener.shut_down() {
                log::error!("cannot shut a listening socket down: {error}");
            }
        }
    }

    /// Waits until a client connects, or until [`stop`](Self::stop).
    ///
    /// Fails if the kernel has no memory.
    pub(super) fn wait(&self, listener: &Listener) -> io::Result<()> {
        let flags = PollFlags::IN;
        let mut either = [PollFd::new(&self.event, flags), PollFd::new(listener, flags)];
        rustix::io::retry_on_intr(|| poll(&mut either, None))?;
        Ok(())
    }
}
