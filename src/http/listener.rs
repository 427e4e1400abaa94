//! The accepting thread: `accept`, then `spawn`, for ever.
//!
//! It never writes to a client and never stops accepting. An error of `accept` or
//! `spawn` is logged once per burst and survived. One descriptor is held in reserve for
//! the moment when there is none left: a connection that cannot be served is then taken
//! and dropped, so that its client sees it closed at once. The thread pauses only when
//! nothing could be taken: a queue of connections is never kept waiting by an error.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::admission::{Reason, limited};
use super::connection;
use super::forwarded::is_trusted;
use super::{Alive, ServerState};
use crate::counters::{CONNECTIONS_OF_ADDRESS, SYSTEM};
use crate::limits::{
    BACKLOG, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, Limits, NOTSENT_LOWAT, RECEIVE_BUFFER,
    SEND_BUFFER, STACK, TCP_USER_TIMEOUT,
};
use crate::process::check_address_space;

/// How long to pause when `accept` fails and takes no connection.
const BACK_OFF: Duration = Duration::from_millis(20);

/// Errors that come closer together than this are one burst, and one log line.
const BURST: Duration = Duration::from_secs(5);

/// Opens a listening socket. Its options are those of every connection: Linux
/// hands them on to accepted sockets, which saves five system calls on each.
///
/// `[::]` takes IPv4 connections too where the system has it so (`net.ipv6.bindv6only` is 0),
/// unless one of the `other` addresses needs its port for IPv4.
pub(super) fn bind(
    addr: SocketAddr,
    others: &[SocketAddr],
    limits: &Limits,
) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    let shares_port =
        |other: &SocketAddr| other.is_ipv4() && other.port() == addr.port() && addr.port() != 0;
    if addr.is_ipv6() && addr.ip().is_unspecified() && others.iter().any(shares_port) {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    set_options(&socket, limits)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Takes a listener that somebody else has opened, and will give to the next
/// server too.
pub(super) fn adopt(listener: &TcpListener, limits: &Limits) -> io::Result<()> {
    let socket = SockRef::from(listener);
    if !socket.is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
    }
    set_options(&socket, limits)?;
    // Who else holds it may take the client that `poll` has told us of.
    socket.set_nonblocking(true)
}

/// The options that accepted sockets inherit.
fn set_options(socket: &Socket, limits: &Limits) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    let probes = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_read_timeout(Some(limits.keep_alive))?;
    socket.set_write_timeout(Some(limits.write_deadline))?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)
}

/// What makes the accepting threads return.
#[derive(Debug)]
pub(super) struct Stop(Option<OwnedFd>);

impl Stop {
    /// `inherited`: whether the listeners are not ours to be shut down.
    pub(super) fn new(inherited: bool) -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(inherited.then(|| eventfd(0, flags)).transpose()?))
    }

    /// Whether accepting can stop while the listener goes on: connections then wait
    /// in it for the next server.
    pub(super) fn spares_the_listener(&self) -> bool {
        self.0.is_some()
    }

    /// Makes a blocked [`run`] return, now and on every later call.
    pub(super) fn stop(&self, listeners: &[TcpListener]) {
        let Some(stop) = &self.0 else {
            for listener in listeners {
                if let Err(error) = SockRef::from(listener).shutdown(std::net::Shutdown::Both) {
                    log::error!("cannot stop listening: {error}");
                }
            }
            return;
        };
        // It can only be full, which says the same.
        let _ = rustix::io::write(stop, &1_u64.to_ne_bytes());
    }

    /// `accept`, that returns when it is to stop. Our own listener blocks until a
    /// client comes or it is shut down; one that is not ours must never be.
    fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        let Some(stop) = &self.0 else { return listener.accept() };
        loop {
            let flags = PollFlags::IN;
            let mut either = [PollFd::new(stop, flags), PollFd::new(listener, flags)];
            match poll(&mut either, None) {
                Ok(_) if !either[0].revents().is_empty() => return Err(Errno::CANCELED.into()),
                Ok(_) => return listener.accept(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Accepts until the server closes. Every connection gets a thread of its own.
pub(super) fn run(server: &Arc<ServerState>, listener: &TcpListener, alive: &Sender<Alive>) {
    let on_loopback =
        listener.local_addr().is_ok_and(|addr| addr.ip().to_canonical().is_loopback());
    let mut reserve = File::open("/dev/null").ok();
    let (mut burst, mut refusing) = (Burst::default(), Burst::default());
    loop {
        let mut taken = server.stop.accept(listener).map_err(Trouble::NothingTaken);
        if matches!(&taken, Err(Trouble::NothingTaken(error)) if is_out_of_descriptors(error)) {
            taken = take_with(&mut reserve, || server.stop.accept(listener));
        }
        let trouble = match taken {
            Ok((socket, peer)) => {
                server.counters.accepted.inc();
                // IPv4 through a listener of both is shown, counted and trusted as IPv4.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                start(server, socket, peer, on_loopback, alive, &mut refusing)
                    .map_err(Trouble::Dropped)
                    .err()
            }
            Err(Trouble::NothingTaken(error)) if is_nobody(&error) => None,
            Err(trouble) => Some(trouble),
        };
        if server.has_stopped_accepting() {
            return;
        }
        let Some(trouble) = trouble else { continue };
        server.counters.reject(SYSTEM);
        // The system has less than was computed: the next one gets this one's place.
        server.connections.shed();
        let (Trouble::Dropped(error) | Trouble::NothingTaken(error)) = &trouble;
        if burst.begins() {
            log::warn!(
                "a client was refused: {error}; `threadcast doctor` says which limit it is \
                 and how to raise it (more of these follow in silence)"
            );
        }
        if matches!(trouble, Trouble::NothingTaken(_)) && !server.hub.wait(BACK_OFF) {
            return;
        }
    }
}

/// Why a connection is not served.
#[derive(Debug)]
enum Trouble {
    /// It was taken and closed: the next one's turn has come.
    Dropped(io::Error),
    /// It is still in the queue, if there is one.
    NothingTaken(io::Error),
}

/// Starts a connection's thread. One that is over a limit is closed without a thread.
/// Fails if the system has no thread.
fn start(
    server: &Arc<ServerState>,
    socket: TcpStream,
    peer: SocketAddr,
    on_loopback: bool,
    alive: &Sender<Alive>,
    refusing: &mut Burst,
) -> io::Result<()> {
    let socket = Arc::new(socket);
    let address = peer.ip();
    let is_trusted = is_trusted(address, &server.config.trusted_proxies);
    let counted = if is_trusted { None } else { limited(address) };
    let permit = match server.connections.enter(&socket, counted) {
        Ok(permit) => Box::new(permit),
        Err(reason) => {
            server.counters.reject(reason);
            if refusing.begins() {
                log::warn!("a connection of {address} is refused: {}", advice(reason));
            }
            return Ok(());
        }
    };
    let (server, alive) = (Arc::clone(server), alive.clone());
    // If it fails, the socket is closed with the closure.
    spawn(peer, move || connection::serve(&server, socket, permit, peer, on_loopback, &alive))?;
    Ok(())
}

/// What the operator can do about a connection that is refused.
fn advice(reason: Reason) -> &'static str {
    if reason == CONNECTIONS_OF_ADDRESS {
        "it has as many as --max-connections-per-address allows; raise that, or name the proxy \
         between us with --trusted-proxy (more of these follow in silence)"
    } else {
        "all that this process can hold are in a handler; `threadcast doctor` says which limit \
         to raise (more of these follow in silence)"
    }
}

/// Gives a connection a thread, named after the client's port, so that `top -H`
/// leads to `ss -tn`.
pub(super) fn spawn(
    peer: SocketAddr,
    life: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    check_address_space(STACK)?;
    let name = format!("sse-{}", peer.port());
    thread::Builder::new().name(name).stack_size(STACK).spawn(life)
}

/// Whether `accept` failed for want of a client: none came within the time-out
/// that accepted sockets inherit, or the one that came has left again.
fn is_nobody(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | ConnectionAborted | Interrupted)
}

/// Takes the next connection with the descriptor in reserve. `accept` fails for want of one whether
/// a client waits or not, so there may be room again when one comes. If there is none, the
/// connection is closed.
fn take_with<T>(
    reserve: &mut Option<File>,
    accept: impl FnOnce() -> io::Result<T>,
) -> Result<T, Trouble> {
    *reserve = None;
    let taken = accept().map_err(Trouble::NothingTaken)?;
    if let Ok(spare) = File::open("/dev/null") {
        *reserve = Some(spare);
        return Ok(taken);
    }
    drop(taken);
    *reserve = File::open("/dev/null").ok();
    Err(Trouble::Dropped(Errno::MFILE.into()))
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

/// Errors of the same time, told once.
#[derive(Debug, Default)]
pub(super) struct Burst {
    last: Option<Instant>,
}

impl Burst {
    /// Whether this one is the first of a burst.
    pub(super) fn begins(&mut self) -> bool {
        let now = Instant::now();
        let begins = self.last.is_none_or(|last| now - last > BURST);
        self.last = Some(now);
        begins
    }
}

/// How many lines a [`Pace`] lets through in a second.
const LINES_A_SECOND: u32 = 10;

/// Limits the rate of a log line that any request can cause.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Second>);

#[derive(Debug, Default)]
struct Second {
    began: Option<Instant>,
    lines: u32,
    silent: u64,
}

impl Pace {
    /// How many there were without a line since the last line; `None` if this is to be one more.
    pub(super) fn line(&self) -> Option<u64> {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if second.began.is_none_or(|began| now - began >= Duration::from_secs(1)) {
            (second.began, second.lines) = (Some(now), 0);
        }
        if second.lines == LINES_A_SECOND {
            second.silent += 1;
            return None;
        }
        second.lines += 1;
        Some(std::mem::take(&mut second.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_a_number() {
        let pace = Pace::default();
        let lines = (0..1_000).filter_map(|_| pace.line()).count();
        let most = LINES_A_SECOND as usize;
        assert!((most..=10 * most).contains(&lines), "{lines}");
        let mut second = pace.0.lock().unwrap();
        assert!(second.silent > 0);
        (second.began, second.silent) = (None, 7);
        drop(second);
        assert_eq!((pace.line(), pace.line()), (Some(7), Some(0)));
    }

    #[test]
    fn accepted_sockets_inherit_the_listeners_options() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), &[], &Limits::default()).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let limits = Limits::default();
        assert!(socket.nodelay().unwrap());
        assert_eq!(socket.read_timeout().unwrap(), Some(limits.keep_alive));
        assert_eq!(socket.write_timeout().unwrap(), Some(limits.write_deadline));
        let socket = SockRef::from(&socket);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), NOTSENT_LOWAT);
        assert_eq!(socket.send_buffer_size().unwrap(), 2 * SEND_BUFFER);
        assert_eq!(socket.recv_buffer_size().unwrap(), 2 * RECEIVE_BUFFER);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(TCP_USER_TIMEOUT));
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
    }
}
