//! Listening sockets: binds or adopts them, and sets the options of their connections.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::limits::{
    BACKLOG, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, Limits, NOTSENT_LOWAT, RECEIVE_BUFFER,
    SEND_BUFFER, TCP_USER_TIMEOUT,
};

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    /// The address, with the port that the system chose for port 0.
    pub(super) address: SocketAddr,
}

impl Listener {
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
    ) -> io::Result<Self> {
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
        socket.set_nonblocking(true)?; // accepted sockets do not inherit this
        let address = tcp_address(&socket)?;
        Ok(Self { socket, address })
    }

    /// Prepares a listener that another program has opened and keeps open.
    pub(super) fn adopt(socket: OwnedFd, limits: &Limits) -> io::Result<Self> {
        let socket = Socket::from(socket);
        if !socket.is_listener()? {
            let detail = "a socket that was passed in does not listen; pass listening sockets only";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, detail));
        }
        set_options(&socket, limits)?;
        // `accept` must not block if another process has accepted the connection that `poll`
        // reported.
        socket.set_nonblocking(true)?;
        let address = tcp_address(&socket)?;
        Ok(Self { socket, address })
    }

    /// Accepts a connection, if one waits.
    pub(super) fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        let (socket, peer) = self.socket.accept()?;
        let peer = peer.as_socket().ok_or(io::ErrorKind::ConnectionAborted)?;
        // An IPv4 client of an IPv6 listener is logged, counted and trusted as IPv4.
        Ok((socket, SocketAddr::new(peer.ip().to_canonical(), peer.port())))
    }

    /// Returns whether only programs of this machine can connect.
    pub(super) fn is_on_loopback(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }

    /// Refuses connections from now on.
    pub(super) fn shut_down(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Both)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Returns the address of a TCP socket.
fn tcp_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
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

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn accepted_sockets_inherit_options_of_the_listener() {
        let limits = Limits::default();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), &[], &limits).unwrap();
        let _client = TcpStream::connect(listener.address).unwrap();
        let (socket, _) = listener.accept().unwrap();
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.read_timeout().unwrap(), Some(limits.keep_alive));
        assert_eq!(socket.write_timeout().unwrap(), Some(limits.write_deadline));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), NOTSENT_LOWAT);
        assert_eq!(socket.send_buffer_size().unwrap(), 2 * SEND_BUFFER);
        assert_eq!(socket.recv_buffer_size().unwrap(), 2 * RECEIVE_BUFFER);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(TCP_USER_TIMEOUT));
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
    }
}
