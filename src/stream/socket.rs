//! The socket of a stream's client, with blocking and non-blocking writes.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use socket2::Socket as Connection;

use super::end::disconnect_error;
use super::writer::Sink;
use crate::disconnect::Watch;
use crate::registry::Notifier;

/// A client's socket: its own thread writes and blocks, the broadcaster sends without blocking.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    stream: Arc<Connection>,
    /// A write fails if the socket takes no byte for this long.
    deadline: Timespec,
    watch: Arc<Watch>,
}

impl Socket {
    pub(crate) fn new(stream: &Arc<Connection>, deadline: Duration, watch: &Arc<Watch>) -> Self {
        let deadline = Timespec::try_from(deadline)
            .unwrap_or(Timespec { tv_sec: i32::MAX.into(), tv_nsec: 0 });
        Self { stream: Arc::clone(stream), deadline, watch: Arc::clone(watch) }
    }

    /// The socket's registration with the disconnect watcher.
    pub(crate) fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }

    /// The number of the stream, by which it belongs to a broadcaster.
    pub(crate) fn stream_id(&self) -> u64 {
        self.watch.id
    }

    /// Notifies `notifier` when the peer disconnects.
    pub(crate) fn notify_on_disconnect(&self, notifier: &Arc<Notifier>) {
        self.watch.notify_on_disconnect(&self.stream, notifier);
    }

    /// Stops watching for a disconnect, because the connection goes on without a stream.
    pub(crate) fn release(&self) {
        self.watch.release(&self.stream);
    }

    /// Returns a channel that receives a message when the peer disconnects.
    pub(crate) fn notifications(&self) -> Receiver<u64> {
        self.watch.notifications(&self.stream)
    }
}

impl Write for Socket {
    /// Waits until the socket takes the first byte, the deadline passes, or the peer disconnects.
    ///
    /// A blocking `send` with a timeout could take twice the deadline: after it has sent a part of
    /// the bytes, it waits for more space and then returns the length of that part, and the next
    /// `send` waits again.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.send(bytes)? {
                0 if !bytes.is_empty() => {
                    let room = PollFlags::OUT | PollFlags::RDHUP;
                    let mut room = [PollFd::new(&*self.stream, room)];
                    match poll(&mut room, Some(&self.deadline)) {
                        Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                        Ok(_) if room[0].revents().contains(PollFlags::RDHUP) => {
                            return Err(disconnect_error());
                        }
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                sent => return Ok(sent),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Socket {
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let now = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::io::retry_on_intr(|| rustix::net::send(&self.stream, bytes, now)) {
            Err(Errno::AGAIN) => Ok(0),
            sent => Ok(sent?),
        }
    }

    fn report_to_broadcaster(&self) -> u64 {
        self.watch.report_to_broadcaster(&self.stream);
        self.watch.id
    }
}
