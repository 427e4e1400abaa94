//! What every connection's thread knows of its server, and how the server stops.

use std::convert::Infallible;
use std::net::{IpAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use super::Config;
use super::admission::{Admission, Reason, StreamPermit};
use super::assets::Assets;
use super::connections::Connections;
use super::error::HttpError;
use super::lab::Lab;
use super::listener::{Burst, Pace, Stop};
use super::mercure::Subscriptions;
use super::request::Request;
use crate::broadcast::{Delivery, Mailbox};
use crate::capacity::{Capacity, Costs};
use crate::counters::{ADDRESS, CONNECTIONS, Counters, DRAINING, FULL};
use crate::disconnect::Watcher;
use crate::limits::LAST_WORDS;
use crate::registry::{Closing, Registry};

/// What every connection's thread knows.
#[derive(Debug)]
pub(crate) struct ServerState {
    pub(super) config: Config,
    pub(super) listeners: Vec<TcpListener>,
    pub(super) assets: Assets,
    /// The channels that anybody may publish to.
    pub(super) hub: Registry,
    /// The ticker's own.
    pub(super) clock: Registry,
    /// The way to the broadcaster, if there is one: always with the lab, which may want it yet.
    pub(super) mailbox: Option<Mailbox>,
    pub(super) watcher: Arc<Watcher>,
    pub(super) connections: Arc<Connections>,
    /// Readable once the server drains, for what waits by `poll`.
    pub(super) drain_event: OwnedFd,
    /// There only if it was asked for.
    pub(super) lab: Option<Lab>,
    /// The same.
    pub(super) subscriptions: Option<Subscriptions>,
    pub(super) admission: Arc<Admission>,
    /// What it is built to cost at most.
    pub(super) costs: Costs,
    pub(super) counters: Arc<Counters>,
    /// What telling the status has taken of the processor, in nanoseconds.
    pub(super) looking: AtomicU64,
    pub(super) stop: Stop,
    /// Set once the server has been told to stop, and once it accepts no more.
    pub(super) draining: AtomicBool,
    pub(super) accepts_no_more: AtomicBool,
    /// Disconnected when the server is told to stop.
    pub(super) told_to_stop: (Mutex<Option<Sender<Infallible>>>, Receiver<Infallible>),
    /// Whether many are being refused, of which the first is told of.
    pub(super) refusing: Mutex<Burst>,
    /// Limits the rate of the log lines about rejected tokens.
    pub(super) token_lines: Pace,
    pub(super) started: Instant,
}

impl ServerState {
    /// Lets one more stream in, or says when to come back.
    pub(super) fn enter(
        &self,
        client: IpAddr,
        request: &Request,
    ) -> Result<StreamPermit, HttpError> {
        let permit = self.admission.enter(client, self.is_draining());
        permit.map_err(|reason| self.refuse(reason, client, request))
    }

    #[cold]
    pub(super) fn refuse(&self, reason: Reason, client: IpAddr, request: &Request) -> HttpError {
        self.counters.reject(reason);
        let detail = match reason {
            FULL => {
                "the server holds as many streams as it may; come back later, \
                 or have --max-clients raised (`threadcast doctor` says how far)"
            }
            ADDRESS => {
                "your address has as many streams as it may; close some, or have \
                 --max-per-address raised, or the proxy between us named by --trusted-proxy"
            }
            CONNECTIONS => {
                "the server has as many connections as it can hold; come back in a moment \
                 (`threadcast doctor` says which limit to raise)"
            }
            _ => "the server is stopping; come back in a moment",
        };
        let mut refusing = self.refusing.lock().unwrap_or_else(PoisonError::into_inner);
        if refusing.begins() && reason != DRAINING {
            log::warn!("a stream of {client} is refused (more follow in silence): {detail}");
        }
        HttpError::later(detail, self.admission.wait(reason), request)
    }

    /// How many clients it can hold, of which it holds this many.
    pub(super) fn capacity(&self, clients: usize) -> Capacity {
        Capacity::of_this_server(&self.costs, self.listeners.len(), clients)
    }

    /// Who writes to the clients that have caught up, now.
    pub(super) fn delivery(&self) -> Delivery {
        self.mailbox.as_ref().map_or(Delivery::Wake, Mailbox::delivery)
    }

    /// Has them written to in this way from here on, without an event lost or repeated.
    pub(super) fn switch(&self, delivery: Delivery) {
        if let Some(mailbox) = &self.mailbox {
            mailbox.switch(delivery);
        }
    }

    /// Whether the server has been told to stop.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(super) fn has_stopped_accepting(&self) -> bool {
        self.accepts_no_more.load(Ordering::Acquire)
    }

    /// Accepts no more connections, on any listener.
    pub(super) fn stop_accepting(&self) {
        self.accepts_no_more.store(true, Ordering::Release);
        self.stop.stop(&self.listeners);
    }

    /// Tells the streams to end, one after the other.
    pub(super) fn drain(&self) {
        if self.draining.swap(true, Ordering::AcqRel) {
            return;
        }
        let closing = Closing::new(self.config.limits.drain / 2, self.admission.clients());
        self.hub.close_over(&closing);
        self.clock.close_over(&closing);
        self.connections.drain();
        // It can only be full, which says the same.
        let _ = rustix::io::write(&self.drain_event, &1_u64.to_ne_bytes());
        if let Some(lab) = &self.lab {
            lab.load_clients.end();
        }
        if self.stop.spares_the_listener() {
            // The next server takes over at once: nobody needs to be refused by this one.
            self.stop_accepting();
        }
        drop(self.told_to_stop.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Ends everything that waits, by this moment.
    pub(super) fn close(&self, deadline: Instant) {
        self.stop_accepting();
        self.hub.close();
        self.clock.close();
        self.connections.close(deadline.min(Instant::now() + LAST_WORDS));
    }
}
