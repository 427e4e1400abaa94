//! One client of the event loop: its request, its position in the log, and its unsent bytes.
//!
//! If each client had a thread, the thread's position in the code would be the client's state.
//! Here, all clients share a thread, so the state is stored in a [`State`].

use std::io::{self, Read, Write};
use std::time::Instant;

use mio::net::TcpStream;
use threadcast::{EventId, Limits};

use super::log::Log;
use crate::lab::engine::same::PATH;
use crate::live::slow::Slow;

/// The maximum number of header lines of a request, as in threadcast.
const HEADERS_MAX: usize = 100;

pub(super) struct Client {
    pub(super) socket: TcpStream,
    /// The bytes of the request that have arrived so far. They are freed when the request is
    /// answered.
    pub(super) request: Vec<u8>,
    /// Bytes of the response that the socket has not accepted yet.
    pub(super) unsent: Vec<u8>,
    pub(super) state: State,
    /// When the next heartbeat is due.
    pub(super) due: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Request,
    /// The client receives a stream. The number is that of the next event to send.
    Streaming(u64),
    /// The response is not a stream, and all its bytes are sent or in `unsent`. The connection
    /// closes once the unsent bytes are sent.
    Closing,
}

/// The error of every operation after which the client must be removed.
pub(super) struct Closed;

impl From<io::Error> for Closed {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Client {
    /// Reads the request, and answers it once it is complete. Returns an error if the client has
    /// closed the connection.
    pub(super) fn read(&mut self, log: &Log) -> Result<(), Closed> {
        let mut piece = [0; 2048];
        loop {
            match self.socket.read(&mut piece) {
                Ok(0) => return Err(Closed),
                Ok(read) if self.state == State::Request => {
                    self.request.extend_from_slice(&piece[..read]);
                    self.respond(log)?;
                }
                Ok(_) => {} // after the first request, more bytes are ignored
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
            // The slow handler runs on the event loop's thread, so no client is served until it
            // returns.
            let respond = slow.map(Slow::work).transpose()?;
            self.unsent = finite(respond.map(|respond| respond.to_string()).as_deref());
            self.state = State::Closing;
        }
        self.request = Vec::new();
        Ok(())
    }

    /// Sends the unsent bytes, then events from the log, until the socket is full or the client has
    /// caught up.
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
                    let next = log.read(at, &mut self.unsent).ok_or(Closed)?;
                    self.state = State::Streaming(next);
                }
            }
        }
    }

    /// Sends as many of `bytes` as the socket accepts, and keeps the others as unsent bytes. Sets
    /// the stream's position to `next`. Returns whether all bytes were sent.
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

/// The response head of a stream.
pub(in crate::lab::engine) const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
    Cache-Control: no-cache, no-transform\r\nX-Accel-Buffering: no\r\n\
    Transfer-Encoding: chunked\r\n\r\n";

/// Returns a stream's response head and first frame, which are those of threadcast.
fn preamble(log: &Log, next: u64) -> Vec<u8> {
    let frame = format!("retry: 3000\nid: {}\n\n", EventId { epoch: log.epoch, n: next - 1 });
    let chunk = format!("{:x}\r\n{frame}\r\n", frame.len());
    [HEAD, chunk.as_bytes()].concat()
}

/// Returns a complete response, after which the connection closes. If `body` is `None`, the status
/// is 404.
fn finite(body: Option<&str>) -> Vec<u8> {
    let (status, body) = body.map_or(("404 Not Found", ""), |body| ("200 OK", body));
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        .into()
}
