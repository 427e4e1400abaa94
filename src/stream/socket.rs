//! The way to one client: a socket that one thread waits on and another does not.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::disconnect::Watch;
use crate::registry::Notifier;

/// A client's socket: its own thread writes and waits, the broadcaster sends and
/// does not.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    stream: Arc<TcpStream>,
    /// How long a write may make no progress.
    deadline: Timespec,
    watch: Arc<Watch>,
}

impl Socket {
    pub(crate) fn new(stream: &Arc<TcpStream>, deadline: Duration, watch: &Arc<Watch>) -> Self {
        let deadline = Timespec::try_from(deadline)
            .unwrap_or(Timespec { tv_sec: i32::MAX.into(), tv_nsec: 0 });
        Self { stream: Arc::clone(stream), deadline, watch: Arc::clone(watch) }
    }

    /// Its place with the watcher.
    pub(crate) fn place(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }

    /// Has this bell rung when the peer hangs up.
    pub(crate) fn notify_on_disconnect(&self, notifier: &Arc<Notifier>) {
        self.watch.notify_on_disconnect(&self.stream, notifier);
    }

    /// Where its own thread hears of a hang-up.
    pub(crate) fn notifications(&self) -> Receiver<u64> {
        self.watch.notifications(&self.stream)
    }
}

impl Write for Socket {
    /// Waits for the first byte to be taken, by the deadline, or for the peer to
    /// hang up. A blocking `send` would wait on after the last byte too, and so for
    /// twice as long.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.send(bytes)? {
                0 if !bytes.is_empty() => {
                    let room = PollFlags::OUT | PollFlags::RDHUP;
                    let mut room = [PollFd::new(&*self.stream, room)];
                    match poll(&mut room, Some(&self.deadline)) {
                        Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                        Ok(_) if room[0].revents().contains(PollFlags::RDHUP) => {
                            return Err(hung_up());
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

/// What is said of a peer that was seen to leave.
pub(crate) fn hung_up() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "hung up")
}

/// What can be asked to take bytes without waiting.
pub(crate) trait Sink {
    /// How many of the bytes were taken, which may be none.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Has the broadcaster told when the peer hangs up, or has hung up already, and
    /// by which number.
    fn watch(&self) -> u64;
}

impl Sink for Socket {
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let now = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::io::retry_on_intr(|| rustix::net::send(&self.stream, bytes, now)) {
            Err(Errno::AGAIN) => Ok(0),
            sent => Ok(sent?),
        }
    }

    fn watch(&self) -> u64 {
        self.watch.report_to_broadcaster(&self.stream);
        self.watch.id
    }
}
