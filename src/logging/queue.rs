//! The server's log: a bounded queue, and one thread that writes its lines to standard error.
//!
//! ```text
//!  any thread                      `log-writer`
//!  format ──try_send──▶ queue ──▶ write, poll ──▶ standard error
//!     └─ full: drop, count
//! ```
//!
//! # Invariants
//!
//! * **A log call never blocks.** If the log is a pipe without a reader, a stopped terminal or a
//!   file on a full disk, only log lines are lost.
//! * **A dropped line is counted**: in `/metrics`, in `/status`, and in the log itself once a line
//!   can be written again.

use std::convert::Infallible;
use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::counters::{count_dropped_log_line, dropped_log_lines};

/// The capacity of the queue, in lines. With [`LINE_MAX`], it bounds the queue's memory to 8 MiB.
const LINES_MAX: usize = 1_024;

/// The longest log line, in bytes, including its line break.
pub(super) const LINE_MAX: usize = 8 * 1024;

/// How long the process waits for the log before it exits.
const FLUSH_MAX: Duration = Duration::from_secs(1);

enum Request {
    Line(Vec<u8>),
    /// When the queue is empty, the log thread drops this sender, which ends the wait in `flush`.
    Flush(Sender<Infallible>),
}

/// The sending end of the queue.
#[derive(Clone)]
pub(super) struct Queue(Sender<Request>);

impl Queue {
    /// Creates a queue, and starts the thread that writes its lines to standard error.
    pub(super) fn start() -> io::Result<Self> {
        let (queue, requests) = bounded(LINES_MAX);
        thread::Builder::new().name("log-writer".into()).spawn(move || {
            // `Out` does not take the lock of `io::stderr()`. If it did, every other thread that
            // prints would wait whenever this thread waits for the reader of the log.
            let mut out = Out { to: io::stderr(), torn: false };
            run(&requests, &mut |line| out.write(line));
        })?;
        Ok(Self(queue))
    }

    /// Waits until all lines sent so far are written, for at most [`FLUSH_MAX`].
    pub(super) fn flush(&self) {
        let deadline = Instant::now() + FLUSH_MAX;
        let (done, written) = bounded(0);
        if self.0.send_deadline(Request::Flush(done), deadline).is_ok() {
            let _ = written.recv_deadline(deadline);
        }
    }
}

/// Each call to `write` sends one line.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if line.len() > LINE_MAX || self.0.try_send(Request::Line(line.into())).is_err() {
            count_dropped_log_line();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // a log call must not wait
    }
}

/// Writes the queued lines until all senders are dropped.
fn run(requests: &Receiver<Request>, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) {
    let mut report = Report::default();
    let mut flushing = None;
    for request in requests {
        match request {
            Request::Line(line) => report.record(write(&line)),
            Request::Flush(done) => flushing = Some(done),
        }
        // The dropped lines are reported when the queue is empty, and so after the lines that were
        // queued before them. If the queue never becomes empty, they are reported after every
        // `LINES_MAX` written lines.
        if report.written > 0 && requests.is_empty() || report.written >= LINES_MAX {
            report.log_dropped();
        }
        if requests.is_empty() {
            drop(flushing.take());
        }
    }
}

/// Tracks which dropped lines the log has not reported yet.
#[derive(Default)]
struct Report {
    /// Lines written since the last report or failure.
    written: usize,
    /// Dropped lines that the log has reported.
    reported: u64,
    error: Option<io::Error>,
}

impl Report {
    fn record(&mut self, written: io::Result<()>) {
        match written {
            Ok(()) => self.written += 1,
            Err(error) => {
                count_dropped_log_line();
                self.error = Some(error);
                self.written = 0; // no report now: its line would be dropped too
            }
        }
    }

    /// Logs how many lines were dropped, if any were.
    fn log_dropped(&mut self) {
        self.written = 0;
        let dropped = dropped_log_lines();
        if dropped == self.reported {
            return;
        }
        let new = dropped - self.reported;
        match &self.error {
            Some(error) => warn(new, error),
            None => warn(new, &"the log's reader was too slow"),
        }
        // If more lines were dropped meanwhile, the report may be among them, so a later call
        // reports all of them again.
        if dropped_log_lines() == dropped {
            self.reported = dropped;
            self.error = None;
        }
    }
}

fn warn(dropped: u64, why: &dyn Display) {
    let lines = if dropped == 1 { "line" } else { "lines" };
    log::warn!("{dropped} log {lines} dropped: {why}");
}

/// The output of the log.
struct Out<F> {
    to: F,
    /// Whether the last line was only partly written.
    torn: bool,
}

impl<F: AsFd> Out<F> {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.write_all(b"\n")?;
        }
        self.write_all(line)
    }

    /// Writes all bytes. While the output takes no bytes, waits without a time limit, even if the
    /// descriptor is non-blocking.
    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.to, bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.torn = !bytes.is_empty();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let _ = poll(&mut [PollFd::new(&self.to, PollFlags::OUT)], None);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_queue_drops_and_counts_lines() {
        let (queue, requests) = bounded(2);
        let mut queue = Queue(queue);
        let before = dropped_log_lines();
        for line in ["a\n", "b\n", "c\n"] {
            queue.write_all(line.as_bytes()).unwrap();
        }
        queue.write_all(&vec![b'x'; LINE_MAX + 1]).unwrap();
        // Other tests in this process may drop lines too.
        assert!(dropped_log_lines() - before >= 2);
        drop(queue);
        let mut written = Vec::new();
        run(&requests, &mut |line| {
            written.extend_from_slice(line);
            Ok(())
        });
        assert_eq!(written, b"a\nb\n");
    }

    #[test]
    fn failed_write_loses_only_its_line() {
        let (queue, requests) = bounded(4);
        let mut queue = Queue(queue);
        for line in ["a\n", "b\n", "c\n"] {
            queue.write_all(line.as_bytes()).unwrap();
        }
        drop(queue);
        let mut written = Vec::new();
        run(&requests, &mut |line| match line {
            b"b\n" => Err(io::ErrorKind::StorageFull.into()),
            line => {
                written.extend_from_slice(line);
                Ok(())
            }
        });
        assert_eq!(written, b"a\nc\n");
    }
}
