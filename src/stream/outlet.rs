//! The output of a finite stream.

use std::io::Write;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use super::end::{End, StreamCounts, disconnect_error};
use crate::event::{Event, Frame, Framing};
use crate::registry::{Ending, Registry};

/// Sends events and waits between them: `send`, `wait`, `send`, and return.
///
/// Such straight-line code is the advantage of a thread per stream. If the stream ends early (the
/// client disconnects, the server drains), `send` and `wait` return an error, which the caller
/// passes on with `?`.
pub(crate) struct Outlet<'a, W> {
    out: W,
    framing: Framing,
    registry: &'a Registry,
    /// Receives a message when the client disconnects.
    disconnects: &'a Receiver<u64>,
    /// When the server's drain ends this stream, and the `retry` that the client then gets.
    drain: Option<(Instant, Duration)>,
    counts: StreamCounts,
}

impl<'a, W: Write> Outlet<'a, W> {
    /// Writes the preamble, runs `scripted` on an outlet, and writes the end of the body.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(crate) fn run(
        out: W,
        framing: Framing,
        registry: &'a Registry,
        disconnects: &'a Receiver<u64>,
        preamble: &[u8],
        scripted: impl FnOnce(&mut Self) -> Result<(), End>,
    ) -> (End, StreamCounts) {
        let mut outlet = Self {
            out,
            framing,
            registry,
            disconnects,
            drain: None,
            counts: StreamCounts::default(),
        };
        let mut last = Vec::new();
        let end = match outlet.write(preamble).and_then(|()| scripted(&mut outlet)) {
            Ok(()) => End::Finished,
            Err(end) => end,
        };
        if let (End::Closed, Some((_, retry))) = (&end, outlet.drain) {
            last.extend_from_slice(Frame::retry(retry).bytes(framing));
        }
        last.extend_from_slice(framing.last());
        let last = match end {
            End::Finished | End::Closed | End::Aged | End::Expired | End::Withdrawn => {
                outlet.write(&last)
            }
            End::Stuck | End::FellBehind | End::Disconnected(_) => Ok(()),
        };
        outlet.counts.count_since(StreamCounts::default(), registry.counters());
        (last.err().unwrap_or(end), outlet.counts)
    }

    /// Sends one event now.
    pub(crate) fn send(&mut self, event: &Event) -> Result<(), End> {
        self.write(event.frame(None).bytes(self.framing))?;
        self.counts.events += 1;
        Ok(())
    }

    /// Waits for `time`. Fails if, before that, the server's drain ends this stream or the client
    /// disconnects.
    pub(crate) fn wait(&mut self, time: Duration) -> Result<(), End> {
        let until = Instant::now() + time;
        let never = crossbeam_channel::never();
        loop {
            let closing = if self.drain.is_some() { &never } else { self.registry.closing() };
            let next = self.drain.map_or(until, |(at, _)| at.min(until));
            select! {
                recv(self.registry.closed()) -> _ => return Err(End::Closed),
                recv(self.disconnects) -> _ => return Err(End::Disconnected(disconnect_error())),
                recv(closing) -> _ => {
                    if let Ending::Over(closing) = self.registry.ending() {
                        self.drain = Some((closing.moment(), closing.retry()));
                    }
                }
                default(next.saturating_duration_since(Instant::now())) => {
                    let drained = self.drain.is_some_and(|(at, _)| at <= until);
                    return if drained { Err(End::Closed) } else { Ok(()) };
                }
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.out.write_all(bytes)?;
        self.out.flush()?;
        self.counts.bytes += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finite_stream_always_ends_with_the_last_chunk() {
        let registry = Registry::new();
        for closed in [false, true] {
            if closed {
                registry.close();
            }
            let mut bytes = Vec::new();
            let framing = Framing::Chunked;
            let disconnects = crossbeam_channel::never();
            let (end, _) = Outlet::run(&mut bytes, framing, &registry, &disconnects, b"", |out| {
                out.send(&Event::new("x"))?;
                out.wait(Duration::from_millis(1))
            });
            assert_eq!(matches!(end, End::Closed), closed, "{end}");
            assert_eq!(bytes, b"9\r\ndata: x\n\n\r\n0\r\n\r\n");
        }
    }
}
