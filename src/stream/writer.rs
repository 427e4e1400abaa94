//! All that writing to one client needs.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::{End, Outcome, Sink, Socket, StreamCounts};
use crate::event::{Frame, Framing};
use crate::id::EventId;
use crate::registry::{Batch, Ending, Subscription};

/// How many bytes one read of the registry takes: enough that a burst costs one
/// `write`, little enough that the lock is soon free again.
pub(crate) const READ_LIMIT: usize = 64 * 1024;

/// How long a client that has reached the age limit is told to stay away, give or
/// take half of it.
const AGED_RETRY: Duration = Duration::from_secs(1);

/// A client's own thread gives back a buffer above this between events. The
/// broadcaster, whose members owe nothing, gives back any.
const KEEP_BUFFER: usize = 4 * 1024;

/// Writes to one client. Not `Clone`: whoever holds it is the only one who may
/// write, so two halves of events can never meet on a socket. Dropping it is
/// leaving.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    out: W,
    pub(crate) framing: Framing,
    pub(crate) subscription: Subscription,
    unsent: Unsent,
    /// How this stream ends once the rest has left.
    last: Option<End>,
    heartbeat: Heartbeat,
    /// When silence has lasted long enough to be broken, or the stream is to end.
    pub(crate) due: Instant,
    /// When the server is to end it.
    leaves: Option<Leaves>,
    slow: SlowClient,
    /// Whether it has once read all there was: from then on a gap is its own.
    caught_up: bool,
    pub(crate) counts: StreamCounts,
}

/// When and how the server ends a stream that could go on.
#[derive(Debug, Clone, Copy)]
struct Leaves {
    at: Instant,
    /// How long the client is told to stay away.
    retry: Duration,
    why: Why,
}

/// Why the server ends a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The server stops.
    Drained,
    /// It is as old as streams may become.
    Aged,
    /// The token that it was opened with is valid no longer.
    Expired,
}

/// What has to leave before anything else is read. Frames enter it whole.
#[derive(Debug, Default)]
struct Unsent {
    bytes: Vec<u8>,
    /// How many of them have left.
    sent: usize,
}

/// What breaks the silence of a stream, and when.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeat {
    every: Duration,
    frame: Frame,
}

impl Heartbeat {
    /// A heartbeat after this long, off by up to a tenth: clients that came
    /// together are not to be due together.
    pub(crate) fn new(every: Duration, frame: Frame) -> Self {
        Self { every: every.mul_f64(0.9 + 0.2 * fastrand::f64()), frame }
    }
}

/// What becomes of a client that is so slow that its next event is gone.
///
/// ```
/// use threadcast::{Config, SlowClient};
///
/// let config = Config { slow_client: SlowClient::Disconnect, ..Config::default() };
/// assert_eq!(Config::default().slow_client, SlowClient::Gap);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowClient {
    /// It is told by a gap event what it has missed, and goes on.
    #[default]
    Gap,
    /// Its stream is ended, to be resumed from the last event it has.
    Disconnect,
}

/// What a refill came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refilled {
    /// There is something to write.
    Some,
    /// There is nothing new.
    Nothing,
    /// The stream has ended, and its end is written.
    Over,
}

impl<W> Writer<W> {
    /// A writer that first sends `preamble`, then what the subscription reads. In
    /// a box, because it moves from stack to stack.
    #[inline(never)] // made on a frame that is gone when the stream begins
    pub(crate) fn new(
        out: W,
        framing: Framing,
        preamble: Vec<u8>,
        mut subscription: Subscription,
        heartbeat: Heartbeat,
    ) -> Box<Self> {
        let mut unsent = Unsent { bytes: preamble, sent: 0 };
        for frame in std::mem::take(&mut subscription.unknown) {
            unsent.bytes.extend_from_slice(frame.bytes(framing));
        }
        let due = Instant::now() + heartbeat.every;
        Box::new(Self {
            out,
            framing,
            subscription,
            unsent,
            last: None,
            heartbeat,
            due,
            leaves: None,
            slow: SlowClient::default(),
            caught_up: false,
            counts: StreamCounts::default(),
        })
    }

    /// What becomes of it if it falls off the end of the history.
    pub(crate) fn when_slow(mut self: Box<Self>, slow: SlowClient) -> Box<Self> {
        self.slow = slow;
        self
    }

    /// Has it end at about this age, give or take a tenth: those who came together
    /// are not to leave together.
    pub(crate) fn for_at_most(mut self: Box<Self>, age: Option<Duration>) -> Box<Self> {
        if let Some(age) = age {
            let at = Instant::now() + age.mul_f64(0.9 + 0.2 * fastrand::f64());
            let retry = AGED_RETRY.mul_f64(0.5 + fastrand::f64());
            self.leave(Leaves { at, retry, why: Why::Aged });
        }
        self
    }

    /// Has it end then at the latest: what it was opened with is valid no longer.
    pub(crate) fn until(mut self: Box<Self>, expires: Option<Instant>) -> Box<Self> {
        if let Some(at) = expires.filter(|at| self.leaves.is_none_or(|leaves| *at < leaves.at)) {
            let retry = AGED_RETRY.mul_f64(0.5 + fastrand::f64());
            self.leave(Leaves { at, retry, why: Why::Expired });
        }
        self
    }

    fn leave(&mut self, leaves: Leaves) {
        self.leaves = Some(leaves);
        self.due = self.due.min(leaves.at);
    }

    /// Hears that the streams are to end, and when this one is. It may hear it more
    /// than once.
    pub(crate) fn note_closing(&mut self) {
        let now = Instant::now();
        let (at, retry) = match self.subscription.registry.ending() {
            Ending::No => return,
            Ending::Over(_) if self.leaves.is_some_and(|leaves| leaves.why == Why::Drained) => {
                return;
            }
            Ending::Over(closing) => (closing.moment(), closing.retry()),
            Ending::Now => (now, AGED_RETRY.mul_f64(0.5 + fastrand::f64())),
        };
        // Who would have left earlier by age leaves then.
        let at = self.leaves.map_or(at, |leaves| leaves.at.min(at));
        self.leave(Leaves { at, retry, why: Why::Drained });
    }

    /// Whether the moment has come at which the server ends it; if so, its end is
    /// written.
    pub(crate) fn leaves_now(&mut self, now: Instant) -> bool {
        let Some(Leaves { retry, why, .. }) = self.leaves.filter(|leaves| leaves.at <= now) else {
            return false;
        };
        if self.last.is_none() {
            self.unsent.bytes.extend_from_slice(Frame::retry(retry).bytes(self.framing));
            self.finish(match why {
                Why::Drained => End::Closed,
                Why::Aged => End::Aged,
                Why::Expired => End::Expired,
            });
        }
        true
    }

    /// Takes what is new from the registry, to be written next: all of it, or
    /// what there is up to an id.
    pub(crate) fn refill(&mut self, upto: Option<EventId>) -> Refilled {
        if self.last.is_some() {
            return Refilled::Over;
        }
        // Who reads slowly may never be up to date; the end of all streams alone waits for him.
        let has_a_term = self.leaves.is_some_and(|leaves| leaves.why != Why::Drained);
        if has_a_term && self.leaves_now(Instant::now()) {
            return Refilled::Some;
        }
        let Subscription { registry, channels, position, .. } = &mut self.subscription;
        let out = &mut self.unsent.bytes;
        let batch = registry.read(channels, position, upto, READ_LIMIT, self.framing, out);
        registry.counters().gaps.inc_by(batch.gaps);
        if self.must_leave(&batch) {
            self.unsent.bytes.clear();
            self.finish(End::FellBehind);
            return Refilled::Some;
        }
        self.counts.events += batch.events;
        if !self.unsent.bytes.is_empty() {
            return Refilled::Some;
        }
        self.caught_up = true;
        if batch.ending {
            self.note_closing();
            if self.leaves_now(Instant::now()) {
                return Refilled::Some;
            }
        }
        Refilled::Nothing
    }

    /// Whether this batch means that the stream is to be ended and resumed.
    pub(crate) fn must_leave(&self, batch: &Batch) -> bool {
        batch.gaps > 0 && self.caught_up && self.slow == SlowClient::Disconnect
    }

    /// Ends the stream so that the client knows it was not cut off.
    pub(crate) fn finish(&mut self, end: End) {
        self.unsent.bytes.extend_from_slice(self.framing.last());
        self.last = Some(end);
    }

    /// Breaks the silence, or ends the stream, whichever is due.
    pub(crate) fn beat(&mut self, now: Instant) {
        if self.leaves_now(now) {
            return;
        }
        self.unsent.bytes.extend_from_slice(self.heartbeat.frame.bytes(self.framing));
    }

    /// How the stream has ended, and what it carried.
    pub(crate) fn ended(&mut self, error: Option<io::Error>) -> (End, StreamCounts) {
        let end = error.map(End::from).or(self.last.take());
        (end.unwrap_or(End::Closed), self.counts)
    }

    /// The same, for the stream's own thread.
    pub(crate) fn over(&mut self, error: Option<io::Error>) -> Outcome<W> {
        let (end, counts) = self.ended(error);
        Outcome::Over(end, counts)
    }

    fn has_sent(&mut self, count: usize, now: Instant) {
        self.counts.bytes += count as u64;
        self.due = now + self.heartbeat.every;
        if let Some(leaves) = self.leaves {
            self.due = self.due.min(leaves.at);
        }
    }
}

impl Writer<Socket> {
    /// The way to the client, for who only waits.
    pub(crate) fn socket(&self) -> &Socket {
        &self.out
    }
}

impl<W: Write> Writer<W> {
    /// Writes all that is owed, for as long as `out` makes progress within its
    /// deadline.
    pub(crate) fn write_unsent(&mut self) -> io::Result<()> {
        if self.unsent.bytes.is_empty() {
            return Ok(());
        }
        let unsent = &self.unsent.bytes[self.unsent.sent..];
        self.out.write_all(unsent)?;
        self.out.flush()?;
        let count = unsent.len();
        self.has_sent(count, Instant::now());
        self.unsent.sent = 0;
        self.unsent.bytes.clear();
        self.unsent.bytes.shrink_to(KEEP_BUFFER);
        Ok(())
    }
}

impl<W: Sink> Writer<W> {
    /// Has the broadcaster told of a hang-up: see [`Sink::watch`].
    pub(crate) fn watch(&self) -> u64 {
        self.out.watch()
    }

    /// Sends of the rest what can leave now, and says whether that was all.
    pub(crate) fn send_unsent(&mut self, now: Instant) -> io::Result<bool> {
        let unsent = &self.unsent.bytes[self.unsent.sent..];
        if unsent.is_empty() {
            return Ok(true);
        }
        let sent = self.out.send(unsent)?;
        let all = sent == unsent.len();
        self.has_sent(sent, now);
        if all {
            self.unsent = Unsent::default();
        } else {
            self.unsent.sent += sent;
        }
        Ok(all)
    }

    /// Sends a batch that it shares with others, and says whether it all left.
    /// What did not is its rest from then on; nothing else may be owed before.
    pub(crate) fn send_shared(
        &mut self,
        bytes: &[u8],
        events: u64,
        now: Instant,
    ) -> io::Result<bool> {
        debug_assert!(self.unsent.bytes.is_empty(), "a member owes nothing");
        let sent = self.out.send(bytes)?;
        self.counts.events += events;
        self.has_sent(sent, now);
        if sent < bytes.len() {
            self.unsent.bytes.extend_from_slice(&bytes[sent..]);
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether the rest is the last it is owed.
    pub(crate) fn is_over(&self) -> bool {
        self.last.is_some()
    }
}
