//! One client: what it has asked for, how far it has come, and what its socket did not take.
//!
//! What a thread keeps on its stack between two lines is kept in [`State`] here.

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
    /// Of the request, what has come; given back once it is answered.
    pub(super) request: Vec<u8>,
    /// What the socket did not take yet.
    pub(super) rest: Vec<u8>,
    pub(super) state: State,
    /// When silence has lasted long enough.
    pub(super) due: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Asking,
    /// Its stream has come so far in the log.
    Streaming(u64),
    /// It goes when the rest has.
    Leaving,
}

/// A client that is to be forgotten, for whatever reason.
pub(super) struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Client {
    /// Reads the request and answers it; reads the end of those who leave.
    pub(super) fn read(&mut self, log: &Log) -> Result<(), Gone> {
        let mut piece = [0; 2048];
        loop {
            match self.socket.read(&mut piece) {
                Ok(0) => return Err(Gone),
                Ok(read) if self.state == State::Asking => {
                    self.request.extend_from_slice(&piece[..read]);
                    self.answer(log)?;
                }
                Ok(_) => {} // a stream is its connection's last answer
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn answer(&mut self, log: &Log) -> Result<(), Gone> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let status = request.parse(&self.request).map_err(|_| Gone)?;
        let Some(path) = request.path.filter(|_| status.is_complete()) else {
            let limit = Limits::default().head;
            return if self.request.len() < limit { Ok(()) } else { Err(Gone) };
        };
        if path == PATH {
            self.rest = preamble(log, log.next());
            self.state = State::Streaming(log.next());
        } else {
            let slow = path.strip_prefix("/lab/slow/").and_then(Slow::named);
            // Here it happens: nobody is served until this has come back.
            let answer = slow.map(Slow::work).transpose()?;
            self.rest = finite(answer.map(|answer| answer.to_string()).as_deref());
            self.state = State::Leaving;
        }
        self.request = Vec::new();
        Ok(())
    }

    /// Sends the rest, then what the log has, for as long as the socket takes it.
    pub(super) fn go_on(&mut self, log: &Log) -> Result<(), Gone> {
        loop {
            let rest = std::mem::take(&mut self.rest);
            let at = match self.state {
                State::Streaming(at) => at,
                State::Asking | State::Leaving => 0,
            };
            if !self.send(&rest, at)? {
                return Ok(());
            }
            match self.state {
                State::Asking => return Ok(()),
                State::Leaving => return Err(Gone),
                State::Streaming(at) if at == log.next() => return Ok(()),
                State::Streaming(at) => {
                    let next = log.read(at, &mut self.rest)?;
                    self.state = State::Streaming(next);
                }
            }
        }
    }

    /// Sends what can leave now, and keeps what cannot: the stream has then come to `next`. Whether it
    /// all left.
    pub(super) fn send(&mut self, bytes: &[u8], next: u64) -> Result<bool, Gone> {
        if let State::Streaming(_) = self.state {
            self.state = State::Streaming(next);
        }
        let mut sent = 0;
        while sent < bytes.len() {
            match self.socket.write(&bytes[sent..]) {
                Ok(0) => return Err(Gone),
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if sent > 0 {
            self.due = Instant::now() + Limits::default().heartbeat;
        }
        self.rest = bytes[sent..].to_vec();
        Ok(self.rest.is_empty())
    }
}

/// The head of a stream.
pub(in crate::lab::engine) const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
    Cache-Control: no-cache, no-transform\r\nX-Accel-Buffering: no\r\n\
    Transfer-Encoding: chunked\r\n\r\n";

/// The head of a stream and its first frame.
fn preamble(log: &Log, next: u64) -> Vec<u8> {
    let cursor = EventId { epoch: log.epoch, n: next - 1 };
    [HEAD, Frame::cursor(RETRY, cursor, false).bytes(Framing::Chunked)].concat()
}

/// A finite answer, the connection's last; without a body it is a 404.
fn finite(body: Option<&str>) -> Vec<u8> {
    let (status, body) = body.map_or(("404 Not Found", ""), |body| ("200 OK", body));
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        .into()
}
