//! Runs the accepting thread of a listener: a loop of `accept` and `spawn`.
//!
//! This thread never writes to a client, and an error never ends the loop. Errors of `accept` and
//! `spawn` are logged once per burst. The thread keeps one descriptor in reserve: when the process
//! has no other descriptor left, the thread accepts a connection with the reserve and closes the
//! connection, so that the client does not wait for a response. The thread pauses only if no
//! connection could be accepted.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::admission::{Reason, limited_address};
use super::connection::{self, Running};
use super::forwarded::is_trusted;
use super::log_limit::Burst;
use super::routes::Table;
use super::server_state::{Alive, ServerState};
use crate::counters::{CONNECTIONS_OF_ADDRESS, SYSTEM};
use crate::limits::{
    BACKLOG, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, Limits, NOTSENT_LOWAT, RECEIVE_BUFFER,
    SEND_BUFFER, TCP_USER_TIMEOUT,
};

/// How long the thread pauses after `accept` has failed, so that repeated failures do not keep a
/// core busy.
const BACK_OFF: Duration = Duration::from_millis(20);

/// Opens a listening socket, and sets the options of all its connections.
///
/// On Linux, accepted sockets inherit the options, which saves several system calls for each
/// connection.
///
/// `[::]` also accepts IPv4 connections if the system allows it (`net.ipv6.bindv6only` is 0),
/// unless one of the `others` is an IPv4 address with the same port.
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

/// Prepares a listener that another program has opened and keeps open.
pub(super) fn adopt(listener: &TcpListener, limits: &Limits) -> io::Result<()> {
    let socket = SockRef::from(listener);
    if !socket.is_listener()? {
        let detail = "a socket that was passed in does not listen; pass listening sockets only";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, detail));
    }
    set_options(&socket, limits)?;
    // `accept` must not block if another process has accepted the connection that `poll` reported.
    socket.set_nonblocking(true)
}

/// Sets the options that accepted sockets inherit.
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

/// Accepts connections until the server closes. Each connection gets a thread.
pub(super) fn run(
    server: &Arc<ServerState>,
    routes: &Arc<Table>,
    listener: &TcpListener,
    alive: &Sender<Alive>,
) {
    let on_loopback =
        listener.local_addr().is_ok_and(|addr| addr.ip().to_canonical().is_loopback());
    let mut reserve = File::open("/dev/null").ok();
    let (mut errors, mut rejections) = (Burst::default(), Burst::default());
    loop {
        let mut accepted = server.stop.accept(listener).map_err(Failure::NotAccepted);
        if matches!(&accepted, Err(Failure::NotAccepted(error)) if is_out_of_descriptors(error)) {
            accepted = accept_with_reserve(&mut reserve, || server.stop.accept(listener));
        }
        let failure = match accepted {
            Ok((socket, peer)) => {
                server.counters.accepted.inc();
                // An IPv4 client of an IPv6 listener is logged, counted and trusted as IPv4.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                start(server, routes, socket, peer, on_loopback, alive, &mut rejections)
                    .map_err(Failure::Closed)
                    .err()
            }
            Err(Failure::NotAccepted(error)) if is_without_client(&error) => None,
            Err(failure) => Some(failure),
        };
        if server.has_stopped_accepting() {
            return;
        }
        let Some(failure) = failure else { continue };
        server.counters.reject(SYSTEM);
        // The system allows fewer connections than the computed capacity, so a waiting connection
        // is shed (closed to make room) for the next one.
        server.connections.shed();
        let (Failure::Closed(error) | Failure::NotAccepted(error)) = &failure;
        if errors.begins() {
            log::warn!(
                "cannot serve a connection: {error}; `threadcast doctor` reports which limit to \
                 raise (further errors in this burst are not logged)"
            );
        }
        if matches!(failure, Failure::NotAccepted(_)) && !server.hub.wait(BACK_OFF) {
            return;
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

/// Starts a connection's thread, or closes the connection if it exceeds a limit.
///
/// Fails if the system cannot create a thread.
fn start(
    server: &Arc<ServerState>,
    routes: &Arc<Table>,
    socket: TcpStream,
    peer: SocketAddr,
    on_loopback: bool,
    alive: &Sender<Alive>,
    rejections: &mut Burst,
) -> io::Result<()> {
    let socket = Arc::new(socket);
    let address = peer.ip();
    let is_trusted = is_trusted(address, &server.config.trusted_proxies);
    let counted = if is_trusted { None } else { limited_address(address) };
    let permit = match server.connections.admit(&socket, counted) {
        Ok(permit) => Box::new(permit),
        Err(reason) => {
            server.counters.reject(reason);
            if rejections.begins() {
                log::warn!("rejected a connection of {address}: {}", advice(reason));
            }
            return Ok(());
        }
    };
    let (server, routes) = (Arc::clone(server), Arc::clone(routes));
    let running = Running::new(alive);
    // If `spawn` fails, it drops the closure, which closes the socket.
    connection::spawn(peer, move || {
        connection::serve(&server, &routes, socket, permit, peer, on_loopback, &running);
    })?;
    Ok(())
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

/// Returns whether `accept` failed because there was no client.
///
/// Either no client connected within the read time-out, which the listener has so that accepted
/// sockets inherit it, or the client has already disconnected.
fn is_without_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | ConnectionAborted | Interrupted)
}

/// Accepts the next connection with the reserved descriptor.
///
/// Without a free descriptor, `accept` fails even before a client connects. So this function first
/// gives up the reserve. When a client has connected, another descriptor may be free and becomes
/// the new reserve; if none is free, this function closes the connection.
fn accept_with_reserve<T>(
    reserve: &mut Option<File>,
    accept: impl FnOnce() -> io::Result<T>,
) -> Result<T, Failure> {
    *reserve = None;
    let accepted = accept().map_err(Failure::NotAccepted)?;
    if let Ok(spare) = File::open("/dev/null") {
        *reserve = Some(spare);
        return Ok(accepted);
    }
    drop(accepted);
    *reserve = File::open("/dev/null").ok();
    Err(Failure::Closed(Errno::MFILE.into()))
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_sockets_inherit_options_of_the_listener() {
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
