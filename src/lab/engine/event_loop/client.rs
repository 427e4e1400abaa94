//! One client: its request, its position in the log, and its unsent bytes.
//!
//! [`State`] holds what a thread would keep on its stack between two lines.

use std::io::{self, Read, Write};
use std::time::Instant;

use mio::net::TcpStream;

use super::PATH;
use super::log::Log;
use crate::event::{Frame, Framing};
use crate::id::EventId;
use crate::limits::{HEADERS_MAX, Limits, RETRY};
use crate::slow::Slow;

pub(super) struct Client {
    pub(super) socket: TcpStream,
    /// The bytes of the request so far; freed once the request is answered.
    pub(super) request: Vec<u8>,
    /// Unsent bytes.
    pub(super) unsent: Vec<u8>,
    pub(super) state: State,
    /// When the next heartbeat is due.
    pub(super) due: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Request,
    /// The stream, and the next event that it gets.
    Streaming(u64),
    /// The connection closes once the unsent bytes are sent.
    Closing,
}

/// The client must be removed, for any reason.
pub(super) struct Closed;

impl From<io::Error> for Closed {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Client {
    /// Reads the request and answers it; detects the end of the connection.
    pub(super) fn read(&mut self, log: &Log) -> Result<(), Closed> {
        let mut piece = [0; 2048];
        loop {
            match self.socket.read(&mut piece) {
                Ok(0) => return Err(Closed),
                Ok(read) if self.state == State::Request => {
                    self.request.extend_from_slice(&piece[..read]);
                    self.respond(log)?;
                }
                Ok(_) => {} // ignored: a stream is its connection's last response
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn respond(&mut self, log: &Log) -> Result<(), Closed> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let status = request.parse(&self.request).map_err(|_| Closed)?;
        let Some(path) = request.path.filter(|_| status.is_complete()) else {
            let limit = Limits::default().head;
            return if self.request.len() < limit { Ok(()) } else { Err(Closed) };
        };
        if path == PATH {
            self.unsent = preamble(log, log.next());
            self.state = State::Streaming(log.next());
        } else {
            let slow = path.strip_prefix("/lab/slow/").and_then(Slow::named);
            // The handler runs on the loop's thread: no client is served until it returns.
            let respond = slow.map(Slow::work).transpose()?;
            self.unsent = finite(respond.map(|respond| respond.to_string()).as_deref());
            self.state = State::Closing;
        }
        self.request = Vec::new();
        Ok(())
    }

    /// Sends the unsent bytes, then events from the log, as long as the socket takes them.
    pub(super) fn send_log(&mut self, log: &Log) -> Result<(), Closed> {
        loop {
            let unsent = std::mem::take(&mut self.unsent);
            let at = match self.state {
                State::Streaming(at) => at,
                State::Request | State::Closing => 0,
            };
            if !self.send(&unsent, at)? {
                return Ok(());
            }
            match self.state {
                State::Request => return Ok(()),
                State::Closing => return Err(Closed),
                State::Streaming(at) if at == log.next() => return Ok(()),
                State::Streaming(at) => {
                    let next = log.read(at, &mut self.unsent)?;
                    self.state = State::Streaming(next);
                }
            }
        }
    }

    /// Sends what the socket takes and keeps the rest; the stream's position is then `next`.
    /// Returns whether everything was sent.
    pub(super) fn send(&mut self, bytes: &[u8], next: u64) -> Result<bool, Closed> {
        if let State::Streaming(_) = self.state {
            self.state = State::Streaming(next);
        }
        let mut sent = 0;
        while sent < bytes.len() {
            match self.socket.write(&bytes[sent..]) {
                Ok(0) => return Err(Closed),
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if sent > 0 {
            self.due = Instant::now() + Limits::default().heartbeat;
        }
        self.unsent = bytes[sent..].to_vec();
        Ok(self.unsent.is_empty())
    }
}

/// The head of a stream's response.
pub(in crate::lab::engine) const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
    Cache-Control: no-cache, no-transform\r\nX-Accel-Buffering: no\r\n\
    Transfer-Encoding: chunked\r\n\r\n";

/// A stream's response head and first frame.
fn preamble(log: &Log, next: u64) -> Vec<u8> {
    let cursor = EventId { epoch: log.epoch, n: next - 1 };
    [HEAD, Frame::cursor(RETRY, cursor, false).bytes(Framing::Chunked)].concat()
}

/// The connection's last, finite response; without a body it is a 404.
fn finite(body: Option<&str>) -> Vec<u8> {
    let (status, body) = body.map_or(("404 Not Found", ""), |body| ("200 OK", body));
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        .into()
}
