//! The writer: everything that is needed to write to one client.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::end::{End, StreamCounts};
use super::source::Source;
use crate::credential::Credential;
use crate::event::{Frame, Framing};
use crate::id::EventId;
use crate::registry::{Batch, Ending};

/// How long a client waits before it reconnects, give or take half of this time, if its stream
/// ended by the age limit, by its token's expiry or withdrawal, by an immediate drain, or with its
/// channels.
const AGED_RETRY: Duration = Duration::from_secs(1);

/// The size, in bytes, above which a client's own thread frees its buffer when all bytes are sent.
/// The broadcaster frees a buffer of any size, because the members of its groups have no unsent
/// bytes.
const KEEP_BUFFER: usize = 4 * 1024;

fn aged_retry() -> Duration {
    AGED_RETRY.mul_f64(0.5 + fastrand::f64())
}

/// Everything that is needed to write to one client.
///
/// A writer is not `Clone`: only its holder may write, so two threads can never mix parts of events
/// on one socket. Dropping the writer ends its subscription.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    out: W,
    pub(crate) framing: Framing,
    pub(crate) source: Source,
    unsent: Unsent,
    /// The reason if the stream ends once the unsent bytes are sent; `None` if the stream then goes
    /// on.
    last: Option<End>,
    heartbeat: Heartbeat,
    /// When the next heartbeat, or the scheduled end, is due.
    pub(crate) due: Instant,
    /// When and why the server will end this stream; `None` if no end is scheduled.
    scheduled_end: Option<ScheduledEnd>,
    /// The token or key that the stream was opened with, if any.
    credential: Option<Credential>,
    slow: SlowClient,
    /// Whether the client has caught up at least once. After that, a gap means that the client was
    /// too slow.
    caught_up: bool,
    pub(crate) counts: StreamCounts,
}

/// An end that the server has scheduled for a stream that could otherwise go on.
#[derive(Debug, Clone, Copy)]
struct ScheduledEnd {
    at: Instant,
    reason: EndReason,
}

/// Why the server ends a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndReason {
    /// The server is draining. The client reconnects after this time.
    Drained { retry: Duration },
    /// The stream has reached the age limit.
    Aged,
    /// The token that the stream was opened with has expired.
    Expired,
    /// The token or key that the stream was opened with has been withdrawn.
    Withdrawn,
}

/// The bytes that must be sent before more events are read: whole frames, or the end of a shared
/// batch that the socket has taken only in part.
#[derive(Debug, Default)]
struct Unsent {
    bytes: Vec<u8>,
    /// How many of the bytes have been sent.
    sent: usize,
}

/// The frame that the server sends after a silence, and the length of that silence.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeat {
    every: Duration,
    frame: Frame,
}

impl Heartbeat {
    /// Creates a heartbeat with this period, give or take a tenth. The variation prevents that
    /// clients that connected at the same time need their heartbeats at the same time.
    pub(crate) fn new(every: Duration, frame: Frame) -> Self {
        Self { every: every.mul_f64(0.9 + 0.2 * fastrand::f64()), frame }
    }
}

/// What happens to a client that is so slow that its next event has left the history.
///
/// ```
/// use threadcast::{Config, SlowClient};
///
/// let config = Config { slow_client: SlowClient::Disconnect, ..Config::default() };
/// assert_eq!(Config::default().slow_client, SlowClient::Gap);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowClient {
    /// The client gets a gap event that reports the missed events, and the stream goes on.
    #[default]
    Gap,
    /// The stream ends. The client reconnects and resumes after its last event.
    Disconnect,
}

/// The result of a refill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refilled {
    /// There are bytes to write.
    Some,
    /// There are no new events.
    Nothing,
    /// The stream has ended, and its end has been written.
    Ended,
}

impl<W> Writer<W> {
    /// Creates a writer that first sends `preamble`, then what its source has. The writer is
    /// boxed because it moves between threads.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(crate) fn new(
        out: W,
        framing: Framing,
        preamble: Vec<u8>,
        mut source: Source,
        heartbeat: Heartbeat,
    ) -> Box<Self> {
        let mut unsent = Unsent { bytes: preamble, sent: 0 };
        if let Source::Channels(subscription) = &mut source {
            for frame in std::mem::take(&mut subscription.unknown) {
                unsent.bytes.extend_from_slice(frame.bytes(framing));
            }
        }
        let due = Instant::now() + heartbeat.every;
        Box::new(Self {
            out,
            framing,
            source,
            unsent,
            last: None,
            heartbeat,
            due,
            scheduled_end: None,
            credential: None,
            slow: SlowClient::default(),
            caught_up: false,
            counts: StreamCounts::default(),
        })
    }

    /// Sets what happens if the client is so slow that its next event has left the history.
    pub(crate) fn when_slow(mut self: Box<Self>, slow: SlowClient) -> Box<Self> {
        self.slow = slow;
        self
    }

    /// Schedules the stream's end at this age, give or take a tenth. The variation prevents that
    /// clients that connected at the same time also reconnect at the same time.
    pub(crate) fn for_at_most(mut self: Box<Self>, age: Option<Duration>) -> Box<Self> {
        if let Some(age) = age {
            let at = Instant::now() + age.mul_f64(0.9 + 0.2 * fastrand::f64());
            self.schedule_end(ScheduledEnd { at, reason: EndReason::Aged });
        }
        self
    }

    /// Schedules the stream's end at the time when its token expires, unless an earlier end is
    /// scheduled.
    pub(crate) fn until(mut self: Box<Self>, expires: Option<Instant>) -> Box<Self> {
        if let Some(at) = expires
            && self.scheduled_end.is_none_or(|end| at < end.at)
        {
            self.schedule_end(ScheduledEnd { at, reason: EndReason::Expired });
        }
        self
    }

    /// Sets the token or key that the stream was opened with. The stream ends if it is withdrawn.
    pub(crate) fn opened_with(mut self: Box<Self>, credential: Option<Credential>) -> Box<Self> {
        self.credential = credential;
        self
    }

    fn schedule_end(&mut self, end: ScheduledEnd) {
        self.scheduled_end = Some(end);
        self.due = self.due.min(end.at);
    }

    /// Schedules this stream's end if the registry is ending its streams. A drain that is already
    /// scheduled keeps its time.
    pub(crate) fn schedule_drain(&mut self) {
        let now = Instant::now();
        let (at, retry) = match self.source.registry().ending() {
            Ending::No => return,
            Ending::Over(_) if self.is_draining() => return,
            Ending::Over(closing) => (closing.moment(), closing.retry()),
            Ending::Now => (now, aged_retry()),
        };
        // If the stream's age limit or its token's expiry is earlier, the stream ends at that time.
        let at = self.scheduled_end.map_or(at, |end| end.at.min(at));
        self.schedule_end(ScheduledEnd { at, reason: EndReason::Drained { retry } });
    }

    fn is_draining(&self) -> bool {
        matches!(self.scheduled_end, Some(ScheduledEnd { reason: EndReason::Drained { .. }, .. }))
    }

    /// If the token or key that the stream was opened with has been withdrawn, appends the end to the
    /// unsent bytes. Returns whether it has been withdrawn.
    pub(crate) fn end_if_withdrawn(&mut self) -> bool {
        if !self.credential.as_ref().is_some_and(Credential::is_withdrawn) {
            return false;
        }
        let now = Instant::now();
        self.scheduled_end = Some(ScheduledEnd { at: now, reason: EndReason::Withdrawn });
        self.end_if_due(now)
    }

    /// If the scheduled end is due, appends the end to the unsent bytes. Returns whether it is due.
    pub(crate) fn end_if_due(&mut self, now: Instant) -> bool {
        let Some(ScheduledEnd { reason, .. }) = self.scheduled_end.filter(|end| end.at <= now)
        else {
            return false;
        };
        if self.last.is_none() {
            let (retry, end) = match reason {
                EndReason::Drained { retry } => (retry, End::Closed),
                EndReason::Aged => (aged_retry(), End::Aged),
                EndReason::Expired => (aged_retry(), End::Expired),
                EndReason::Withdrawn => (aged_retry(), End::Withdrawn),
            };
            self.unsent.bytes.extend_from_slice(Frame::retry(retry).bytes(self.framing));
            self.finish(end);
        }
        true
    }

    /// Whether the stream reads another log than that of channels.
    pub(crate) fn reads_a_log(&self) -> bool {
        matches!(self.source, Source::Log(_))
    }

    /// Reads new events from the source into the unsent bytes, at most [`READ_LIMIT`](super::source::READ_LIMIT). With
    /// `upto`, reads only the events up to this id.
    pub(crate) fn refill(&mut self, upto: Option<EventId>) -> Refilled {
        if self.last.is_some() {
            return Refilled::Ended;
        }
        // A client that reads slowly may never catch up, so the age limit, the token's expiry and
        // its withdrawal end its stream here. A drain ends the stream only below, when the client
        // has caught up.
        let has_a_term = self.scheduled_end.is_some() && !self.is_draining();
        if self.end_if_withdrawn() || has_a_term && self.end_if_due(Instant::now()) {
            return Refilled::Some;
        }
        let batch = self.source.read(upto, self.framing, &mut self.unsent.bytes);
        self.source.registry().counters().gaps.inc_by(batch.gaps);
        if self.must_disconnect(&batch) {
            self.unsent.bytes.clear();
            self.finish(End::FellBehind);
            return Refilled::Some;
        }
        self.counts.events += batch.events;
        if !self.unsent.bytes.is_empty() {
            return Refilled::Some;
        }
        self.caught_up = true;
        if batch.over {
            self.finish_with_channels();
            return Refilled::Some;
        }
        if batch.ending {
            self.schedule_drain();
            if self.end_if_due(Instant::now()) {
                return Refilled::Some;
            }
        }
        Refilled::Nothing
    }

    /// Whether this batch has a gap that ends the stream, so that the client reconnects and
    /// resumes.
    pub(crate) fn must_disconnect(&self, batch: &Batch) -> bool {
        batch.gaps > 0 && self.caught_up && self.slow == SlowClient::Disconnect
    }

    /// Appends the end of the body, from which the client can tell a regular end of the stream from
    /// a broken connection.
    pub(crate) fn finish(&mut self, end: End) {
        self.unsent.bytes.extend_from_slice(self.framing.last());
        self.last = Some(end);
    }

    /// Appends the stream's end, because all its channels have ended.
    ///
    /// The client reconnects once, to get the status that says so. The reconnection times are
    /// spread, because many streams end at the same time.
    pub(crate) fn finish_with_channels(&mut self) {
        let retry = AGED_RETRY.mul_f64(0.5 + fastrand::f64());
        self.unsent.bytes.extend_from_slice(Frame::retry(retry).bytes(self.framing));
        self.finish(End::Finished);
    }

    /// Appends the stream's end if the end is due, and otherwise a heartbeat.
    pub(crate) fn handle_due(&mut self, now: Instant) {
        if self.end_if_due(now) {
            return;
        }
        self.unsent.bytes.extend_from_slice(self.heartbeat.frame.bytes(self.framing));
    }

    /// Returns why the stream has ended, and how much it carried. An I/O error takes precedence.
    pub(crate) fn take_end(&mut self, error: Option<io::Error>) -> (End, StreamCounts) {
        let end = error.map(End::from).or(self.last.take());
        (end.unwrap_or(End::Closed), self.counts)
    }

    /// Adds what was counted since `before` to the server's counters.
    pub(crate) fn count_since(&self, before: StreamCounts) {
        self.counts.count_since(before, self.source.registry().counters());
    }

    fn has_sent(&mut self, count: usize, now: Instant) {
        if self.counts.bytes == 0 {
            self.has_sent_first(count, now);
        }
        self.counts.bytes += count as u64;
        self.due = now + self.heartbeat.every;
        if let Some(end) = self.scheduled_end {
            self.due = self.due.min(end.at);
        }
    }
}

impl<W> Writer<W> {
    /// The socket, so that the caller can register it with the disconnect watcher.
    pub(crate) fn socket(&self) -> &W {
        &self.out
    }

    /// Records the time from admitting the stream to its first byte.
    ///
    /// Until that byte, the stream's beginning is known from the time of its first heartbeat, so it
    /// takes no memory. A stream that is to end before that heartbeat is not recorded.
    #[cold]
    fn has_sent_first(&self, count: usize, now: Instant) {
        let ends_earlier = self.scheduled_end.is_some_and(|end| end.at <= self.due);
        if count > 0 && !ends_earlier {
            let left = self.due.saturating_duration_since(now);
            let took = self.heartbeat.every.saturating_sub(left);
            self.source.registry().counters().first_byte(took);
        }
    }
}

impl<W: Write> Writer<W> {
    /// Writes all unsent bytes. Blocks as long as `out` makes progress within its deadline.
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

/// A destination that takes bytes without blocking.
pub(crate) trait Sink {
    /// Sends the bytes that can be sent now. Returns their number, which may be 0.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Makes the watcher report the peer's disconnect to the broadcaster, immediately if the peer
    /// has disconnected already. Returns the number by which the report names the stream.
    fn report_to_broadcaster(&self) -> u64;
}

impl<W: Sink> Writer<W> {
    /// Calls [`Sink::report_to_broadcaster`] of the client's socket.
    pub(crate) fn report_to_broadcaster(&self) -> u64 {
        self.out.report_to_broadcaster()
    }

    /// Sends the unsent bytes that can be sent now. Returns whether all unsent bytes were sent.
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

    /// Sends a batch that is shared with other clients, and returns whether the whole batch was
    /// sent. Otherwise the remaining bytes become this client's unsent bytes; before the call, the
    /// client must have none.
    pub(crate) fn send_shared(
        &mut self,
        bytes: &[u8],
        events: u64,
        now: Instant,
    ) -> io::Result<bool> {
        debug_assert!(self.unsent.bytes.is_empty(), "a member has no unsent bytes");
        let sent = self.out.send(bytes)?;
        self.counts.events += events;
        self.has_sent(sent, now);
        if sent < bytes.len() {
            self.unsent.bytes.extend_from_slice(&bytes[sent..]);
            return Ok(false);
        }
        Ok(true)
    }

    /// Whether the unsent bytes, if any, are the stream's last.
    pub(crate) fn has_ended(&self) -> bool {
        self.last.is_some()
    }
}
