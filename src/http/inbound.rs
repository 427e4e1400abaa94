//! A connection that is no stream: it reads requests, and writes finite responses, with deadlines.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use socket2::Socket;

use super::connections::{ConnectionPermit, Wait};
use crate::limits::{LINGER_BYTES, LINGER_SILENCE, LINGER_TIME};

/// The maximum number of bytes that one `read` returns.
const READ_SIZE: usize = 4 * 1024;

/// A connection that is no stream, or not yet.
pub(crate) struct Inbound {
    pub(crate) socket: Arc<Socket>,
    /// Bytes that were received and not yet used.
    pub(crate) bytes: Vec<u8>,
    /// Whether the connection has had no response yet.
    pub(super) is_fresh: bool,
    /// The current read time-out of the socket, which is set again only when it must change.
    timeout: Duration,
    /// The connection's permit; `None` for a stream. This field comes after the socket and so is
    /// dropped after it: a free permit implies a free descriptor.
    pub(super) permit: Option<Box<ConnectionPermit>>,
}

impl Inbound {
    /// `timeout` is the read time-out that the socket has inherited from its listener.
    pub(super) fn new(
        socket: Arc<Socket>,
        permit: Box<ConnectionPermit>,
        timeout: Duration,
    ) -> Self {
        Self { socket, bytes: Vec::new(), is_fresh: true, timeout, permit: Some(permit) }
    }

    /// Begins a wait for the client, during which the connection can be shed.
    ///
    /// Returns false if the connection must end because the server is draining.
    pub(super) fn wait(&mut self, wait: Wait) -> bool {
        let Some(permit) = &mut self.permit else { return true };
        permit.wait(wait, &self.socket, self.is_fresh)
    }

    /// Ends the wait. Returns false if the connection was shed and its socket is shut down.
    pub(super) fn resume(&mut self) -> bool {
        self.permit.as_mut().is_none_or(|permit| permit.resume())
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.permit.as_ref().is_some_and(|permit| permit.is_waiting())
    }

    pub(super) fn is_shed(&self) -> bool {
        self.permit.as_ref().is_some_and(|permit| permit.is_shed())
    }

    /// Writes these bytes, and ends the wait for the client.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)?;
        if self.resume() { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
    }

    /// Reads available bytes, or waits for some until the deadline. Returns 0 at the end of the
    /// input.
    pub(crate) fn fill(&mut self, deadline: Instant) -> io::Result<usize> {
        if !self.is_waiting() {
            self.wait(Wait::Request);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // The time-out is set only if it differs enough from the time left, which saves system
        // calls.
        if left > self.timeout || self.timeout.saturating_sub(left) > Duration::from_millis(100) {
            self.socket.set_read_timeout(Some(left))?;
            self.timeout = left;
        }
        let filled = self.bytes.len();
        self.bytes.resize(filled + READ_SIZE, 0);
        let read = loop {
            match (&*self.socket).read(&mut self.bytes[filled..]) {
                // An ignored signal interrupts a `read` that has a time-out, and the kernel does
                // not restart it.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.bytes.truncate(filled + read.as_ref().map_or(0, |n| *n));
        read
    }

    /// Calls [`linger`](Self::linger) after the end of a stream, with a new permit.
    pub(super) fn linger_as(mut self, permit: ConnectionPermit) {
        self.permit = Some(Box::new(permit));
        self.linger();
    }

    /// Closes the sending side, then reads and discards what the client still sends.
    ///
    /// Closing a socket with unread bytes resets the connection, and the client could lose the
    /// response before it has read it (RFC 9112 §9.6). [`LINGER_BYTES`], [`LINGER_TIME`] and
    /// [`LINGER_SILENCE`] limit how much the server reads, and how long it waits.
    pub(super) fn linger(mut self) {
        if self.socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        self.wait(Wait::Request);
        let deadline = Instant::now() + LINGER_TIME;
        let mut read = 0;
        while read < LINGER_BYTES {
            self.bytes.clear();
            match self.fill(deadline.min(Instant::now() + LINGER_SILENCE)) {
                Ok(n @ 1..) => read += n,
                Ok(0) | Err(_) => return,
            }
        }
    }
}

/// Writes to the client. A socket normally takes a response at once. If it does not, the connection waits
/// for the client, and can be shed.
impl Write for Inbound {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.is_waiting() {
            let now = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match sendmsg(&self.socket, parts, &mut SendAncillaryBuffer::default(), now) {
                Err(Errno::AGAIN) => drop(self.wait(Wait::Answer)),
                sent => return Ok(sent?),
            }
        }
        (&*self.socket).write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns whether a read or write has timed out.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
