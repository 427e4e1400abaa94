//! Runs the accepting thread of a listener: a loop of `accept` and `spawn`. A connection also gets the
//! thread of one that has just ended, if there is such an idle thread.
//!
//! When thousands of clients connect at once, the kernel's queue must not overflow: a client whose
//! first packet is dropped waits a second before it sends the packet again. `spawn` takes longer than
//! `accept`. So the thread first accepts all connections that wait, then spawns the threads of a few,
//! and then looks at the queue again.
//!
//! This thread never writes to a client, and an error never ends the loop. Errors of `accept` and
//! `spawn` are logged once per burst. The thread keeps one descriptor in reserve: when the process
//! has no other descriptor left, the thread accepts a connection with the reserve and closes the
//! connection, so that the client does not wait for a response. The thread pauses only if no
//! connection could be accepted.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use rustix::io::Errno;
use socket2::Socket;

use super::admission::{Reason, limited_address};
use super::bind::Listener;
use super::connection::{self, Accepted, Running};
use super::connections::ConnectionPermit;
use super::forwarded::is_trusted;
use super::idle::IdleThreads;
use super::log_limit::Burst;
use super::peer::Peer;
use super::routes::Table;
use super::server_state::{Alive, ServerState};
use crate::counters::{CONNECTIONS_OF_ADDRESS, SYSTEM};

/// How many connections are accepted in a row, before threads are spawned again.
const ACCEPTS: usize = 1_024;

/// How many threads are spawned in a row, before the kernel's queue is emptied again.
const SPAWNS: usize = 4;

/// How long the thread pauses after `accept` has failed, so that repeated failures do not keep a
/// core busy.
const BACK_OFF: Duration = Duration::from_millis(20);

/// Accepts connections until the server closes. Each connection gets a thread of its own.
pub(super) fn run(
    server: &Arc<ServerState>,
    routes: &Arc<Table>,
    listener: &Listener,
    alive: &Sender<Alive>,
) {
    let on_loopback = listener.is_on_loopback();
    let threads = Arc::<IdleThreads>::default();
    let mut acceptor = Acceptor {
        server,
        listener,
        reserve: File::open("/dev/null").ok(),
        accepted: VecDeque::new(),
        errors: Burst::default(),
        rejections: Burst::default(),
    };
    while !server.has_stopped_accepting() || !acceptor.accepted.is_empty() {
        if !server.has_stopped_accepting() {
            acceptor.accept_all();
        }
        for (socket, peer) in acceptor.take_some() {
            let socket = Arc::new(socket);
            let Some(permit) = acceptor.admit(&socket, peer) else { continue };
            let accepted = Accepted { socket, permit, peer, on_loopback };
            let (state, routes) = (Arc::clone(server), Arc::clone(routes));
            let running = Running::new(alive);
            // If `run` fails, it drops the closure, which closes the socket.
            let started = threads.run(peer, move |is_reused| {
                connection::serve(&state, &routes, accepted, is_reused, &running)
            });
            if let Err(error) = started {
                acceptor.handle(&Failure::Closed(error));
            }
        }
    }
}

/// The state of an accepting thread.
struct Acceptor<'a> {
    server: &'a ServerState,
    listener: &'a Listener,
    reserve: Option<File>,
    /// Connections whose threads have not been spawned yet.
    accepted: VecDeque<(Socket, Peer)>,
    errors: Burst,
    rejections: Burst,
}

impl Acceptor<'_> {
    /// Accepts the connections that wait: at most [`ACCEPTS`], and only as many as the server has room
    /// for, or one. If no accepted connection waits for its thread, first waits for a client to connect
    /// or for the server to stop accepting.
    fn accept_all(&mut self) {
        if self.accepted.is_empty()
            && let Err(error) = self.server.stop.wait(self.listener)
        {
            return self.handle(&Failure::NotAccepted(error));
        }
        let max = self.server.connections.room().max(1);
        for _ in 0..ACCEPTS.min(max.saturating_sub(self.accepted.len())) {
            match self.accept() {
                Ok((socket, peer)) => {
                    self.server.counters.accepted.inc();
                    self.accepted.push_back((socket, peer));
                }
                Err(Failure::NotAccepted(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return;
                }
                Err(Failure::NotAccepted(error)) if is_without_client(&error) => {}
                Err(failure) => return self.handle(&failure),
            }
            if self.server.has_stopped_accepting() {
                return;
            }
        }
    }

    /// Accepts a connection if one waits, with the reserved descriptor if there is no other.
    fn accept(&mut self) -> Result<(Socket, Peer), Failure> {
        match self.listener.accept() {
            Err(error) if is_out_of_descriptors(&error) => {
                accept_with_reserve(&mut self.reserve, || self.listener.accept())
            }
            accepted => accepted.map_err(Failure::NotAccepted),
        }
    }

    /// Returns the permit for a connection, or `None` if it exceeds a limit.
    fn admit(&mut self, socket: &Arc<Socket>, peer: Peer) -> Option<Box<ConnectionPermit>> {
        let address = peer.ip();
        let is_trusted = is_trusted(address, &self.server.config.trusted_proxies);
        let counted = if is_trusted { None } else { limited_address(address) };
        match self.server.connections.admit(socket, counted) {
            Ok(permit) => Some(Box::new(permit)),
            Err(reason) => {
                self.server.counters.reject(reason);
                if self.rejections.begins() {
                    log::warn!("rejected a connection of {peer}: {}", advice(reason));
                }
                None
            }
        }
    }

    /// Returns the connections whose threads are spawned next.
    fn take_some(&mut self) -> Vec<(Socket, Peer)> {
        let some = self.accepted.len().min(SPAWNS);
        self.accepted.drain(..some).collect()
    }

    /// Makes room after a failure, and logs the first of a burst.
    fn handle(&mut self, failure: &Failure) {
        if self.server.has_stopped_accepting() {
            return;
        }
        self.server.counters.reject(SYSTEM);
        // The system allows fewer connections than the computed capacity, so a waiting connection
        // is shed (closed to make room) for the next one.
        self.server.connections.shed();
        let (Failure::Closed(error) | Failure::NotAccepted(error)) = failure;
        if self.errors.begins() {
            log::warn!(
                "cannot serve a connection: {error}; `threadcast doctor` reports which limit to \
                 raise (further errors in this burst are not logged)"
            );
        }
        if matches!(failure, Failure::NotAccepted(_)) {
            self.server.hub.wait(BACK_OFF); // ends early if the server stops
        }
    }
}

/// Why a connection is not served.
#[derive(Debug)]
enum Failure {
    /// A connection was accepted, and then closed without a response.
    Closed(io::Error),
    /// No connection was accepted; the client, if there is one, is still in the kernel's queue.
    NotAccepted(io::Error),
}

/// Returns the cause of a rejected connection, and what the operator can do.
fn advice(reason: Reason) -> &'static str {
    if reason == CONNECTIONS_OF_ADDRESS {
        "the address has reached its maximum number of connections; raise \
         --max-connections-per-address, or name a proxy with --trusted-proxy (further rejections \
         in this burst are not logged)"
    } else {
        "all connections that fit are busy with a request; `threadcast doctor` reports which \
         limit to raise (further rejections in this burst are not logged)"
    }
}

/// Returns whether `accept` failed because the client has already disconnected.
fn is_without_client(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted)
}

/// Accepts the next connection with the reserved descriptor.
///
/// This function gives the reserve up for it. If another descriptor has become free, that one becomes
/// the new reserve; otherwise this function closes the connection.
fn accept_with_reserve<T>(
    reserve: &mut Option<File>,
    accept: impl FnOnce() -> io::Result<T>,
) -> Result<T, Failure> {
    *reserve = None;
    let accepted = accept().map_err(Failure::NotAccepted);
    *reserve = File::open("/dev/null").ok();
    if reserve.is_none() && accepted.is_ok() {
        drop(accepted);
        *reserve = File::open("/dev/null").ok();
        return Err(Failure::Closed(Errno::MFILE.into()));
    }
    accepted
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}
