//! Where a finite stream is written to.

use std::io::Write;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use super::{End, StreamCounts, hung_up};
use crate::event::{Event, Frame, Framing};
use crate::registry::{Ending, Registry};

/// `send`, `wait`, `send`, and return.
///
/// That simplicity is what a thread buys. What ends the stream early (the
/// client left, the server drains) comes out of `send` and `wait` as an error,
/// for `?` to hand on.
pub(crate) struct Outlet<'a, W> {
    out: W,
    framing: Framing,
    registry: &'a Registry,
    /// Where it is heard that the client is gone.
    gone: &'a Receiver<u64>,
    /// When the server is to end it, and how long the client is told to stay away.
    leaves: Option<(Instant, Duration)>,
    counts: StreamCounts,
}

impl<'a, W: Write> Outlet<'a, W> {
    /// Writes the preamble, then hands the outlet to `story`, then the end.
    #[inline(never)] // its frame is under finite stories only
    pub(crate) fn run(
        out: W,
        framing: Framing,
        registry: &'a Registry,
        gone: &'a Receiver<u64>,
        preamble: &[u8],
        scripted: impl FnOnce(&mut Self) -> Result<(), End>,
    ) -> (End, StreamCounts) {
        let mut outlet =
            Self { out, framing, registry, gone, leaves: None, counts: StreamCounts::default() };
        let mut last = Vec::new();
        let end = match outlet.write(preamble).and_then(|()| scripted(&mut outlet)) {
            Ok(()) => End::Finished,
            Err(end) => end,
        };
        if let (End::Closed, Some((_, retry))) = (&end, outlet.leaves) {
            last.extend_from_slice(Frame::retry(retry).bytes(framing));
        }
        last.extend_from_slice(framing.last());
        let last = match end {
            End::Finished | End::Closed | End::Aged | End::Expired => outlet.write(&last),
            End::Stuck | End::FellBehind | End::Left(_) => Ok(()),
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

    /// Waits, or ends the stream if the server drains and its moment comes, or the
    /// client hangs up.
    pub(crate) fn wait(&mut self, time: Duration) -> Result<(), End> {
        let until = Instant::now() + time;
        let told = crossbeam_channel::never();
        loop {
            let closing = if self.leaves.is_some() { &told } else { self.registry.closing() };
            let next = self.leaves.map_or(until, |(leaves, _)| leaves.min(until));
            select! {
                recv(self.registry.closed()) -> _ => return Err(End::Closed),
                recv(self.gone) -> _ => return Err(End::Left(hung_up())),
                recv(closing) -> _ => {
                    if let Ending::Over(closing) = self.registry.ending() {
                        self.leaves = Some((closing.moment(), closing.retry()));
                    }
                }
                default(next.saturating_duration_since(Instant::now())) => {
                    let leaves = self.leaves.is_some_and(|(leaves, _)| leaves <= until);
                    return if leaves { Err(End::Closed) } else { Ok(()) };
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
    fn a_story_ends_with_the_last_chunk_however_it_ends() {
        let registry = Registry::new();
        for closed in [false, true] {
            if closed {
                registry.close();
            }
            let mut bytes = Vec::new();
            let framing = Framing::Chunked;
            let gone = crossbeam_channel::never();
            let (end, _) = Outlet::run(&mut bytes, framing, &registry, &gone, b"", |out| {
                out.send(&Event::new("x"))?;
                out.wait(Duration::from_millis(1))
            });
            assert_eq!(matches!(end, End::Closed), closed, "{end}");
            assert_eq!(bytes, b"9\r\ndata: x\n\n\r\n0\r\n\r\n");
        }
    }
}
