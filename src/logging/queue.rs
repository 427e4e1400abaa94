//! The server's log: a bounded queue, and one thread that writes it to standard error.
//!
//! ```text
//!  any thread                      `log-writer`
//!  format ──try_send──▶ queue ──▶ write, poll ──▶ standard error
//!     └─ full: drop, count
//! ```
//!
//! # Invariants
//!
//! * **A log call never waits.** A pipe that nobody reads, a stopped terminal and a full
//!   disk cost lines of the log and nothing else.
//! * **A dropped line is counted**, in `/metrics`, in `/status` and, once a line gets
//!   through again, in the log itself.

use std::convert::Infallible;
use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// How many lines may wait for the writer. With [`LINE_MAX`] it bounds the queue's memory to 8 MiB.
const LINES_MAX: usize = 1_024;

/// The longest line of the log, in bytes, its line break included.
pub(super) const LINE_MAX: usize = 8 * 1024;

/// How long the process waits at its end for the log to be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);

enum Order {
    Line(Vec<u8>),
    /// To be disconnected once nothing is queued.
    Flush(Sender<Infallible>),
}

/// The way into the queue.
#[derive(Clone)]
pub(super) struct Queue(Sender<Order>);

impl Queue {
    /// A queue, and the thread that writes it to standard error.
    pub(super) fn start() -> io::Result<Self> {
        let (queue, orders) = bounded(LINES_MAX);
        thread::Builder::new().name("log-writer".into()).spawn(move || {
            // Not through `io::stderr()`'s lock: a thread that holds it while it waits
            // would stop every other one that prints.
            let mut out = Out { to: io::stderr(), torn: false };
            run(&orders, &mut |line| out.write(line));
        })?;
        Ok(Self(queue))
    }

    /// Waits until the lines so far are written, for [`FLUSH_MAX`] at most.
    pub(super) fn flush(&self) {
        let deadline = Instant::now() + FLUSH_MAX;
        let (done, written) = bounded(0);
        if self.0.send_deadline(Order::Flush(done), deadline).is_ok() {
            let _ = written.recv_deadline(deadline);
        }
    }
}

/// One call is one line.
impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if line.len() > LINE_MAX || self.0.try_send(Order::Line(line.into())).is_err() {
            threadcast::count_dropped_log_line();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // whoever logs does not wait
    }
}

/// Writes what is queued until the queue is disconnected.
fn run(orders: &Receiver<Order>, write: &mut dyn FnMut(&[u8]) -> io::Result<()>) {
    let mut report = Report::default();
    let mut flushing = None;
    for order in orders {
        match order {
            Order::Line(line) => report.record(write(&line)),
            Order::Flush(done) => flushing = Some(done),
        }
        // Behind the lines that were queued before the drop; or, if the log never
        // catches up, once in as many lines as the queue holds.
        if report.written > 0 && orders.is_empty() || report.written >= LINES_MAX {
            report.make();
        }
        if orders.is_empty() {
            drop(flushing.take());
        }
    }
}

/// What is not yet reported of the lines that were dropped.
#[derive(Default)]
struct Report {
    /// Lines written since the last report or failure.
    written: usize,
    /// Dropped lines that were reported.
    reported: u64,
    error: Option<io::Error>,
}

impl Report {
    fn record(&mut self, written: io::Result<()>) {
        match written {
            Ok(()) => self.written += 1,
            Err(error) => {
                threadcast::count_dropped_log_line();
                self.error = Some(error);
                self.written = 0; // a report would fail too, and be the next to report
            }
        }
    }

    /// Logs how many lines were dropped, if any were.
    fn make(&mut self) {
        self.written = 0;
        let dropped = threadcast::dropped_log_lines();
        if dropped == self.reported {
            return;
        }
        let new = dropped - self.reported;
        match &self.error {
            Some(error) => warn(new, error),
            None => warn(new, &"the log's reader was too slow"),
        }
        // Otherwise the report itself may be among the dropped: it is made again.
        if threadcast::dropped_log_lines() == dropped {
            self.reported = dropped;
            self.error = None;
        }
    }
}

fn warn(dropped: u64, why: &dyn Display) {
    let lines = if dropped == 1 { "line" } else { "lines" };
    log::warn!("{dropped} log {lines} dropped: {why}");
}

/// Where the log goes.
struct Out<F> {
    to: F,
    /// Whether it ends within a line, of which the rest could not be written.
    torn: bool,
}

impl<F: AsFd> Out<F> {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.write_all(b"\n")?;
        }
        self.write_all(line)
    }

    /// Waits as long as that takes, also where writes do not block.
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
    fn a_full_queue_drops_lines_and_counts_them() {
        let (queue, orders) = bounded(2);
        let mut queue = Queue(queue);
        let before = threadcast::dropped_log_lines();
        for line in ["a\n", "b\n", "c\n"] {
            queue.write_all(line.as_bytes()).unwrap();
        }
        queue.write_all(&vec![b'x'; LINE_MAX + 1]).unwrap();
        // Other tests of this process count too.
        assert!(threadcast::dropped_log_lines() - before >= 2);
        drop(queue);
        let mut written = Vec::new();
        run(&orders, &mut |line| {
            written.extend_from_slice(line);
            Ok(())
        });
        assert_eq!(written, b"a\nb\n");
    }

    #[test]
    fn a_failed_write_loses_its_line_alone() {
        let (queue, orders) = bounded(4);
        let mut queue = Queue(queue);
        for line in ["a\n", "b\n", "c\n"] {
            queue.write_all(line.as_bytes()).unwrap();
        }
        drop(queue);
        let mut written = Vec::new();
        run(&orders, &mut |line| match line {
            b"b\n" => Err(io::ErrorKind::StorageFull.into()),
            line => {
                written.extend_from_slice(line);
                Ok(())
            }
        });
        assert_eq!(written, b"a\nc\n");
    }
}
