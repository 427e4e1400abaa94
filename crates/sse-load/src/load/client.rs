//! One client that reads a stream: its connection, and the counts of what it has received.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::counted::{self, Seen};
use super::decoded;
use super::plan::{Form, Plan};

/// The maximum number of clients per source address. The kernel has about 28,000 ports for one
/// source address, so more clients of a server on this machine use further addresses.
const CLIENTS_PER_SOURCE: usize = 20_000;

/// One client that reads a stream.
#[derive(Debug)]
pub(super) struct Client {
    /// `None` once the stream has ended.
    pub socket: Option<TcpStream>,
    /// The request; empty once it is sent.
    request: Vec<u8>,
    /// When the connection was started; once the request is sent, when it was sent.
    began: Instant,
    pub stream: Stream,
    /// Why the response is not an event stream.
    pub rejected: Option<String>,
    /// The numbers of events, of events with a stamp, of repeated events, and of gap frames received
    /// since [`Load::mark`](super::Load::mark).
    pub events: u64,
    pub stamped: u64,
    pub repeated: u64,
    pub gaps: u64,
    /// Whether the client has received an event.
    pub served: bool,
    /// The numbers of three events: the first that the client received, the last that it received,
    /// and the last that it received before [`Load::mark`](super::Load::mark).
    pub oldest: Option<u64>,
    pub newest: Option<u64>,
    pub marked: Option<u64>,
    /// When the client last received an event or [`Load::mark`](super::Load::mark) was called,
    /// whichever is later, in nanoseconds since the Unix epoch. 0 before both.
    pub last_read: u64,
}

/// A client's stream, which is read as [`Plan::form`] says.
#[derive(Debug)]
pub(super) enum Stream {
    Counted(counted::Stream),
    Decoded(Box<decoded::Stream>),
}

impl Stream {
    pub(super) fn head_done(&self) -> bool {
        match self {
            Self::Counted(stream) => stream.head_done(),
            Self::Decoded(stream) => stream.response().head_done(),
        }
    }

    /// Whether the body of the response is complete, and nothing follows.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self, Self::Decoded(stream) if stream.response().has_ended())
    }

    /// Whether the stream may end here. Of a counted stream this is not known, and assumed.
    pub(super) fn may_end(&self) -> bool {
        match self {
            Self::Counted(_) => true,
            Self::Decoded(stream) => stream.response().may_end(),
        }
    }
}

impl Client {
    pub(super) fn new(socket: TcpStream, request: &[u8], form: Form) -> Self {
        let stream = match form {
            Form::Counted => Stream::Counted(counted::Stream::default()),
            Form::Any => Stream::Decoded(Box::new(decoded::Stream::new())),
        };
        Self {
            socket: Some(socket),
            request: request.to_vec(),
            began: Instant::now(),
            stream,
            rejected: None,
            events: 0,
            stamped: 0,
            repeated: 0,
            gaps: 0,
            served: false,
            oldest: None,
            newest: None,
            marked: None,
            last_read: 0,
        }
    }

    /// Sends the request, if it is not sent yet, and returns how long the connection took. An error
    /// is ignored here: the socket then becomes readable, and reading it returns the error.
    pub(super) fn send_request(&mut self) -> Option<Duration> {
        let socket = self.socket.as_mut().filter(|_| !self.request.is_empty())?;
        let sent = socket.write(&self.request).ok()?;
        self.request.drain(..sent);
        if !self.request.is_empty() {
            return None; // the socket will be writable again
        }
        self.request = Vec::new(); // frees the memory
        let connected = self.began.elapsed();
        self.began = Instant::now();
        Some(connected)
    }

    /// Whether no byte of the response has arrived.
    pub(super) fn is_unanswered(&self) -> bool {
        match &self.stream {
            Stream::Counted(stream) => stream.is_new(),
            Stream::Decoded(stream) => stream.response().is_new(),
        }
    }

    /// Returns the time since the request was sent.
    pub(super) fn waited(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn count(&mut self, seen: &Seen) {
        self.events += seen.events;
        self.stamped += seen.stamped;
        self.repeated += seen.repeated;
        self.gaps += seen.gaps;
        self.served |= seen.events > 0;
        self.oldest = self.oldest.or(seen.oldest.map(|stamp| stamp.number));
        self.newest = seen.newest.map(|stamp| stamp.number).or(self.newest);
    }

    /// Returns how many events have not arrived since [`Load::mark`](super::Load::mark), computed
    /// from the stamps' numbers.
    pub(super) fn lost(&self) -> u64 {
        let Some((oldest, newest)) = self.oldest.zip(self.newest) else { return 0 };
        let before = self.marked.unwrap_or(oldest.saturating_sub(1));
        newest.saturating_sub(before).saturating_sub(self.stamped)
    }
}

pub(super) fn request(plan: &Plan) -> Vec<u8> {
    let Plan { host, path, token, .. } = plan;
    let token = token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n"));
    let token = token.unwrap_or_default();
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{token}Accept: text/event-stream\r\n\r\n")
        .into()
}

/// Starts to connect the client with this index, without waiting for the connection.
pub(super) fn connect(server: SocketAddr, index: usize) -> io::Result<TcpStream> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    let loopback = server.is_ipv4() && server.ip().is_loopback();
    if loopback && index >= CLIENTS_PER_SOURCE {
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
