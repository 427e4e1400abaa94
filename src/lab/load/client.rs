//! One reading client: its connection, and what it has seen.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use mio::net::TcpStream;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::Plan;
use super::stream::{Seen, Stream};

/// The kernel has about 28,000 ports for one source address; beyond this the next address is taken.
const CLIENTS_PER_SOURCE: usize = 20_000;

/// One reading client.
#[derive(Debug)]
pub(super) struct Client {
    /// `None` once the stream has ended.
    pub socket: Option<TcpStream>,
    /// What is still to be asked; empty once it was.
    request: Vec<u8>,
    pub stream: Stream,
    /// Events and gap frames since the mark.
    pub events: u64,
    pub gaps: u64,
    /// Numbers of the first and the last event ever, and of the last one at the mark.
    pub oldest: Option<u64>,
    pub newest: Option<u64>,
    pub marked: Option<u64>,
    /// When it was read last, or marked, in nanoseconds since the Unix epoch.
    pub heard: u64,
}

impl Client {
    pub(crate) fn new(socket: TcpStream, request: &[u8]) -> Self {
        let (stream, request) = (Stream::default(), request.to_vec());
        let (socket, oldest, newest, marked) = (Some(socket), None, None, None);
        Self { socket, request, stream, events: 0, gaps: 0, oldest, newest, marked, heard: 0 }
    }

    /// Sends the request. A failure is not told here: the socket becomes readable with it.
    pub(crate) fn ask(&mut self) {
        if let Some(socket) = self.socket.as_mut().filter(|_| !self.request.is_empty()) {
            // A hundred bytes into an empty socket go out whole or not at all.
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

    /// The numbers since the mark that never came.
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

/// A connection under way for the client of this index.
pub(super) fn connect(server: SocketAddr, index: usize) -> io::Result<TcpStream> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    if index >= CLIENTS_PER_SOURCE {
        let last = u8::try_from(index / CLIENTS_PER_SOURCE + 1)
            .map_err(|_| io::ErrorKind::AddrNotAvailable)?;
        rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0))?;
    }
    // Closing resets: ten thousand connections in TIME_WAIT would cost the next run ports and memory.
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    match rustix::net::connect(&socket, &server) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(TcpStream::from_std(std::net::TcpStream::from(socket)))
}
