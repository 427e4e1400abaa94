//! One client that reads a stream: its connection, and the counts of what it has received.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use mio::net::TcpStream;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::Plan;
use super::stream::{Seen, Stream};

/// The maximum number of clients per source address. The kernel has about 28,000 ports for one
/// source address, so more clients use further addresses.
const CLIENTS_PER_SOURCE: usize = 20_000;

/// One client that reads a stream.
#[derive(Debug)]
pub(super) struct Client {
    /// `None` once the stream has ended.
    pub socket: Option<TcpStream>,
    /// The request; empty once it is sent.
    request: Vec<u8>,
    pub stream: Stream,
    /// The numbers of events and of gap frames received since [`Load::mark`](super::Load::mark).
    pub events: u64,
    pub gaps: u64,
    /// The numbers of three events: the first that the client received, the last that it received,
    /// and the last that it received before [`Load::mark`](super::Load::mark).
    pub oldest: Option<u64>,
    pub newest: Option<u64>,
    pub marked: Option<u64>,
    /// When the client last received an event or [`Load::mark`](super::Load::mark) was called,
    /// whichever is later, in nanoseconds since the Unix epoch.
    pub last_read: u64,
}

impl Client {
    pub(crate) fn new(socket: TcpStream, request: &[u8]) -> Self {
        let (stream, request) = (Stream::default(), request.to_vec());
        let (socket, oldest, newest, marked) = (Some(socket), None, None, None);
        Self { socket, request, stream, events: 0, gaps: 0, oldest, newest, marked, last_read: 0 }
    }

    /// Sends the request. An error is ignored here: the socket then becomes readable, and reading
    /// it returns the error.
    pub(crate) fn send_request(&mut self) {
        if let Some(socket) = self.socket.as_mut().filter(|_| !self.request.is_empty()) {
            // The request has about a hundred bytes and the send buffer is empty, so the kernel
            // accepts all bytes or none.
            if socket.write(&self.request).is_ok() {
                self.request = Vec::new();
            }
        }
    }

    pub(crate) fn count(&mut self, seen: &Seen) {
        self.events += seen.events;
        self.gaps += seen.gaps;
        self.oldest = self.oldest.or(seen.oldest.map(|stamp| stamp.number));
        self.newest = seen.newest.map(|stamp| stamp.number).or(self.newest);
    }

    /// Returns how many events have not arrived since [`Load::mark`](super::Load::mark), computed
    /// from the events' numbers.
    pub(crate) fn lost(&self) -> u64 {
        let Some((oldest, newest)) = self.oldest.zip(self.newest) else { return 0 };
        let before = self.marked.unwrap_or(oldest.saturating_sub(1));
        newest.saturating_sub(before).saturating_sub(self.events)
    }
}

pub(super) fn request(plan: &Plan) -> Vec<u8> {
    let Plan { server, path, .. } = plan;
    format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nAccept: text/event-stream\r\n\r\n").into()
}

/// Starts to connect the client with this index, without waiting for the connection.
pub(super) fn connect(server: SocketAddr, index: usize) -> io::Result<TcpStream> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    if index >= CLIENTS_PER_SOURCE {
        let last = u8::try_from(index / CLIENTS_PER_SOURCE + 1)
            .map_err(|_| io::ErrorKind::AddrNotAvailable)?;
        rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0))?;
    }
    // Connections are closed with a reset. Otherwise 10,000 connections in TIME_WAIT would use
    // ports and memory that the next run needs.
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    match rustix::net::connect(&socket, &server) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(TcpStream::from_std(std::net::TcpStream::from(socket)))
}
