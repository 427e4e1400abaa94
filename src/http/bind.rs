//! Listening sockets, TCP and UNIX: binds or adopts them, and sets the options of their connections.

use std::fs;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, chmod, fchmod};
use rustix::net::sockopt::socket_peercred;
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use super::config::UnixSocket;
use super::peer::{Peer, Process};
use crate::limits::{
    BACKLOG, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, Limits, NOTSENT_LOWAT, RECEIVE_BUFFER,
    SEND_BUFFER, TCP_USER_TIMEOUT,
};

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    /// The file that this server has created for a UNIX socket. This field comes before the socket
    /// and so is dropped before it: while the socket is open, no other file gets the inode's number.
    file: Option<SocketFile>,
    socket: Socket,
    pub(super) address: Address,
    /// The read and the write timeout of the connections.
    timeouts: [Duration; 2],
}

/// The address of a listening socket.
#[derive(Debug)]
pub(super) enum Address {
    /// With the port that the system chose for port 0.
    Tcp(SocketAddr),
    /// The path of a UNIX socket; empty if it has none.
    Unix(PathBuf),
}

impl Listener {
    /// Opens a listening TCP socket, and sets the options of all its connections.
    ///
    /// On Linux, accepted TCP sockets inherit the options, which saves several system calls for
    /// each connection.
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
        socket.bind(&addr.into())?;
        Self::listen(socket, None, limits)
    }

    /// Opens a listening UNIX socket.
    ///
    /// Replaces a socket file on which no program listens, and no other file.
    pub(super) fn bind_unix(
        UnixSocket { path, mode }: &UnixSocket,
        limits: &Limits,
    ) -> io::Result<Self> {
        let address = SockAddr::unix(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        let mode = mode.map(Mode::from_raw_mode);
        if let Some(mode) = mode {
            fchmod(&socket, mode)?; // the file never has a wider mode, not even for a moment
        }
        match socket.bind(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path, &address)?;
                socket.bind(&address)?;
            }
            bound => bound?,
        }
        let file = SocketFile::at(path)?;
        if let Some(mode) = mode {
            chmod(path, mode)?; // `bind` has removed the bits of the umask
        }
        Self::listen(socket, Some(file), limits)
    }

    fn listen(socket: Socket, file: Option<SocketFile>, limits: &Limits) -> io::Result<Self> {
        let listener = Self::new(socket, file, limits)?;
        listener.socket.listen(BACKLOG)?;
        Ok(listener)
    }

    /// Prepares a listener that another program has opened and keeps open.
    pub(super) fn adopt(socket: OwnedFd, limits: &Limits) -> io::Result<Self> {
        let socket = Socket::from(socket);
        if !socket.is_listener()? {
            let detail = "a socket that was passed in does not listen; pass listening sockets only";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, detail));
        }
        Self::new(socket, None, limits)
    }

    /// Prepares a bound socket.
    fn new(socket: Socket, file: Option<SocketFile>, limits: &Limits) -> io::Result<Self> {
        let address = if socket.domain()? == Domain::UNIX {
            let path = socket.local_addr()?.as_pathname().map(Path::to_owned);
            Address::Unix(path.unwrap_or_default())
        } else {
            set_options(&socket, limits)?;
            let address = socket.local_addr()?.as_socket();
            Address::Tcp(address.ok_or(io::ErrorKind::Unsupported)?)
        };
        // `accept` must not block if another process has accepted the connection that `poll`
        // reported. Accepted sockets do not inherit this.
        socket.set_nonblocking(true)?;
        let timeouts = [limits.keep_alive, limits.write_deadline];
        Ok(Self { file, socket, address, timeouts })
    }

    /// Accepts a connection, if one waits.
    pub(super) fn accept(&self) -> io::Result<(Socket, Peer)> {
        let (socket, peer) = self.socket.accept()?;
        let Address::Tcp(_) = self.address else {
            // Accepted UNIX sockets inherit no options.
            socket.set_read_timeout(Some(self.timeouts[0]))?;
            socket.set_write_timeout(Some(self.timeouts[1]))?;
            socket.set_send_buffer_size(SEND_BUFFER)?;
            let peer = Peer::Unix(process(&socket));
            return Ok((socket, peer));
        };
        let peer = peer.as_socket().ok_or(io::ErrorKind::ConnectionAborted)?;
        // An IPv4 client of an IPv6 listener is logged, counted and trusted as IPv4.
        Ok((socket, Peer::Tcp(SocketAddr::new(peer.ip().to_canonical(), peer.port()))))
    }

    /// Returns whether only programs of this machine can connect.
    pub(super) fn is_on_loopback(&self) -> bool {
        match &self.address {
            Address::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Address::Unix(_) => true,
        }
    }

    /// Returns the name of the listener's accepting thread.
    pub(super) fn thread_name(&self) -> String {
        match &self.address {
            Address::Tcp(address) => format!("accept-{}", address.port()),
            Address::Unix(_) => "accept-unix".to_owned(),
        }
    }

    /// Removes the socket's file, and refuses connections from now on.
    pub(super) fn shut_down(&self) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.remove();
        }
        self.socket.shutdown(Shutdown::Both)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sets the options that accepted TCP sockets inherit.
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

/// Returns the process that has connected; `None` if it is in a PID namespace that this process
/// cannot see.
fn process(socket: &Socket) -> Option<Process> {
    let peer = socket_peercred(socket).ok()?;
    Some(Process { pid: peer.pid.as_raw_nonzero().get(), uid: peer.uid.as_raw() })
}

/// Removes the socket file at `path`, unless a server listens on it.
///
/// Fails with `AddrInUse` if a server does, and with `AlreadyExists` if the file is not a socket.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?; // a server with a full queue would block the probe
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// The file of a UNIX socket that this server has created. Dropping this value removes the file.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// The device and the inode of the file.
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        // An absolute path, because the program may change its working directory.
        Ok(Self { path: std::path::absolute(path)?, identity: identity(path)? })
    }

    /// Removes the file, unless another file has taken its path.
    fn remove(&self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("cannot remove {}: {error}; remove it", self.path.display());
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn accepted_sockets_inherit_options_of_the_listener() {
        let limits = Limits::default();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), &[], &limits).unwrap();
        let Address::Tcp(address) = listener.address else { panic!("not TCP") };
        let _client = TcpStream::connect(address).unwrap();
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

    #[test]
    fn accepted_unix_sockets_have_deadlines_and_a_bounded_buffer() {
        let limits = Limits::default();
        let path = std::env::temp_dir().join(format!("threadcast-bind-{}", std::process::id()));
        let unix = UnixSocket { path: path.clone(), mode: None };
        let listener = Listener::bind_unix(&unix, &limits).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        let (socket, peer) = listener.accept().unwrap();
        assert_eq!(socket.read_timeout().unwrap(), Some(limits.keep_alive));
        assert_eq!(socket.write_timeout().unwrap(), Some(limits.write_deadline));
        assert_eq!(socket.send_buffer_size().unwrap(), 2 * SEND_BUFFER);
        let Peer::Unix(Some(process)) = peer else { panic!("{peer:?}") };
        assert_eq!(process.pid, i32::try_from(std::process::id()).unwrap());
        drop(listener);
        assert!(!path.exists());
    }
}
