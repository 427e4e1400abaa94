//! One stream: its bytes, its end, its producers, and the threads that wait for it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, FixedOffset, Utc};

use super::cursor;
use super::frames::incomplete_suffix;
use super::log::{BOUNDARY, Log, PartialAppendError};
use super::media::{Content, MediaType};
use super::messages::{BodyError, Messages};
use super::offset::{Offset, Start};
use super::producers::{Novelty, Producer, ProducerError, Producers};
use super::usage::Reserved;
use crate::registry::Notifier;

/// The longest value of `Stream-Seq`, in bytes.
pub(crate) const SEQ_MAX: usize = 256;

/// When a stream is removed by itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Lifetime {
    Unlimited,
    /// After this time without a read, a write or a waiting reader.
    Idle {
        seconds: u64,
    },
    /// At this time. The text is the time as the creator wrote it.
    Until {
        at: DateTime<FixedOffset>,
        text: Box<str>,
    },
}

/// What the creator of a stream asked for. A repeated request must ask for the same.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) lifetime: Lifetime,
    pub(super) fork: Option<Fork>,
}

/// Which part of another stream a fork begins with.
#[derive(Debug, Clone)]
pub(crate) struct Fork {
    /// The name of the source.
    pub(crate) source: Box<str>,
    /// The end of the inherited part; `None` means the source's tail.
    pub(crate) offset: Option<Offset>,
    /// How many messages (JSON) or bytes (other types) the fork also has of the append after the
    /// offset.
    pub(crate) part: u64,
}

/// The part of another stream with which a fork begins.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) source: Arc<Stream>,
    pub(super) upto: u64,
}

/// A stream. Bytes before the end of its base are those of the base's source; its own log has the
/// rest.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(super) head: Head,
    /// The greatest cursor that was sent to a reader.
    cursor: AtomicU64,
    state: Mutex<State>,
    /// Counts the stream until it is dropped.
    _count: Reserved,
}

/// What never changes of a stream.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) name: Arc<str>,
    pub(super) settings: Settings,
    pub(super) media: MediaType,
    pub(super) lifetime: Lifetime,
    pub(super) incarnation: u64,
    pub(super) base: Option<Base>,
    pub(super) limits: StreamLimits,
}

/// The limits of one stream, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamLimits {
    pub(super) message: usize,
    pub(super) bytes: usize,
}

/// Whether a stream can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Alive,
    /// The stream was deleted, but forks still read its bytes.
    SoftDeleted,
    Removed,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) log: Log,
    pub(super) life: Life,
    /// The number of streams that are forks of this one.
    pub(super) forks: usize,
    closed: Option<Closed>,
    producers: Producers,
    last_seq: Option<Box<[u8]>>,
    /// The time of the last read or write.
    used: Instant,
    /// The notifiers in the order of their keys. They are in an `Arc`, so that a writer can notify
    /// them after it has released the lock.
    notifiers: Arc<Vec<(u64, Arc<Notifier>)>>,
    last_key: u64,
    /// The memory of the bytes, their boundaries and the producers.
    memory: Reserved,
}

/// The end of a stream.
#[derive(Debug)]
struct Closed {
    /// The producer's request that closed the stream.
    by: Option<Producer>,
}

/// A request to append or to close.
#[derive(Debug)]
pub(crate) struct Append {
    /// The type of the body; `None` if the request has no valid type.
    pub(crate) media: Option<MediaType>,
    pub(crate) body: Vec<u8>,
    pub(crate) closes: bool,
    /// The writer's own order.
    pub(crate) seq: Option<Box<[u8]>>,
    pub(crate) producer: Option<Producer>,
}

/// What a request to append has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    /// The position after the last byte.
    pub(crate) next: Offset,
    pub(crate) is_closed: bool,
    /// Whether the request has added bytes.
    pub(crate) is_new: bool,
    /// The epoch and the last sequence number of the request's producer.
    pub(crate) producer: Option<(u64, u64)>,
}

/// Why a request to append is rejected.
#[derive(Debug)]
pub(crate) enum AppendError {
    Unavailable(Unavailable),
    Closed {
        next: Offset,
    },
    /// The type of the body is not that of the stream.
    MediaType,
    Producer(ProducerError),
    /// `Stream-Seq` is not greater than the last one.
    Seq,
    Body(BodyError),
    /// The stream would be longer than this many bytes.
    StreamFull {
        limit: usize,
    },
    /// All streams together would take more memory than the limit.
    Full,
}

/// Why a stream cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unavailable {
    Missing,
    SoftDeleted,
}

/// Why an offset is not a position of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OffsetError {
    /// It is that of an earlier stream.
    Gone,
    /// The stream has never had it.
    Unknown,
}

/// An append that was checked and can be carried out.
struct Plan {
    messages: Messages,
    /// The memory that it takes, in bytes.
    memory: usize,
    closes: bool,
    seq: Option<Box<[u8]>>,
    producer: Option<Producer>,
}

enum Planned {
    New(Plan),
    /// Nothing is to be done.
    Repeated {
        producer: Option<(u64, u64)>,
    },
}

/// How far a read goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// The position after the bytes.
    pub(crate) end: u64,
    /// Whether the stream has nothing after `end`.
    pub(crate) is_tail: bool,
    /// Whether the stream is closed and has nothing after `end`.
    pub(crate) is_eof: bool,
}

/// What HEAD reports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Status {
    pub(crate) tail: u64,
    pub(crate) is_closed: bool,
}

impl Stream {
    /// Creates an empty stream. `count` counts the stream, and `memory` what it takes.
    pub(super) fn new(head: Head, count: Reserved, memory: Reserved) -> Self {
        let state = State {
            log: Log::new(head.base.as_ref().map_or(0, |base| base.upto)),
            life: Life::Alive,
            forks: 0,
            closed: None,
            producers: Producers::default(),
            last_seq: None,
            used: Instant::now(),
            notifiers: Arc::default(),
            last_key: 0,
            memory,
        };
        Self { head, cursor: AtomicU64::new(0), state: Mutex::new(state), _count: count }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn name(&self) -> &str {
        &self.head.name
    }

    pub(crate) fn media(&self) -> &MediaType {
        &self.head.media
    }

    pub(crate) fn lifetime(&self) -> &Lifetime {
        &self.head.lifetime
    }

    pub(crate) fn status(&self) -> Status {
        let state = self.lock();
        Status { tail: state.log.end(), is_closed: state.closed.is_some() }
    }

    /// Returns why the stream cannot be used, if it was deleted.
    pub(crate) fn unavailable(&self) -> Option<Unavailable> {
        self.lock().check().err()
    }

    /// Identifies the stream among all that this server has had.
    pub(crate) fn incarnation(&self) -> u64 {
        self.head.incarnation
    }

    /// Restarts the lifetime of an idle stream.
    pub(crate) fn touch(&self) {
        self.lock().used = Instant::now();
    }

    /// Whether the lifetime has ended. A waiting reader keeps an idle stream alive.
    pub(super) fn is_expired(&self) -> bool {
        match &self.head.lifetime {
            Lifetime::Unlimited => false,
            Lifetime::Idle { seconds } => {
                let state = self.lock();
                state.notifiers.is_empty() && state.used.elapsed() >= Duration::from_secs(*seconds)
            }
            Lifetime::Until { at, .. } => *at <= Utc::now(),
        }
    }

    /// Adds the first bytes of a stream that no other thread sees yet, and closes it.
    pub(super) fn fill(&self, messages: Messages, closes: bool) -> Result<(), AppendError> {
        let mut state = self.lock();
        let memory = state.room_for(&messages, None, self.head.limits)?;
        let plan = Plan { messages, memory, closes, seq: None, producer: None };
        state.apply(plan)
    }

    /// Appends a body, or closes the stream, or both in one step.
    pub(crate) fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let Append { media, body, closes, seq, producer } = append;
        let is_empty = body.is_empty();
        let is_of_type = is_empty || media.as_ref() == Some(&self.head.media);
        // The body is parsed before the lock is taken, because the client sets the cost of parsing.
        let parsed = if is_empty || !is_of_type {
            Ok(Messages::default())
        } else {
            Messages::of(self.head.media.content(), body, self.head.limits.message)
        };
        let mut state = self.lock();
        state.check().map_err(AppendError::Unavailable)?;
        state.used = Instant::now();
        let request = Request { is_empty, is_of_type, closes, seq, producer };
        let (is_new, producer) = match self.plan(&state, request, parsed)? {
            Planned::Repeated { producer } => (false, producer),
            Planned::New(plan) => {
                let producer = plan.producer.as_ref().map(|it| (it.epoch, it.seq));
                let is_new = !plan.messages.is_empty();
                state.apply(plan)?;
                (is_new, producer)
            }
        };
        let (end, is_closed) = (state.log.end(), state.closed.is_some());
        let notifiers = Arc::clone(&state.notifiers);
        drop(state);
        notifiers.iter().for_each(|(_, notifier)| notifier.notify());
        Ok(Appended { next: self.offset_of(end), is_closed, is_new, producer })
    }

    /// Checks a request in the order that the protocol sets. Changes nothing.
    fn plan(
        &self,
        state: &State,
        request: Request,
        parsed: Result<Messages, BodyError>,
    ) -> Result<Planned, AppendError> {
        let Request { is_empty, is_of_type, closes, seq, producer } = request;
        if let Some(Closed { by }) = &state.closed {
            return match (by, producer) {
                (Some(by), Some(producer)) if *by == producer => {
                    Ok(Planned::Repeated { producer: Some((by.epoch, by.seq)) })
                }
                (_, None) if closes && is_empty => Ok(Planned::Repeated { producer: None }),
                _ => Err(AppendError::Closed { next: self.offset_of(state.log.end()) }),
            };
        }
        if !is_of_type {
            return Err(AppendError::MediaType);
        }
        if let Some(producer) = &producer {
            let novelty = state.producers.check(producer).map_err(AppendError::Producer)?;
            if let Novelty::Duplicate(last) = novelty {
                return Ok(Planned::Repeated { producer: Some((producer.epoch, last)) });
            }
        }
        if seq.is_some() && state.last_seq >= seq {
            return Err(AppendError::Seq);
        }
        let messages = parsed.map_err(AppendError::Body)?;
        if messages.is_empty() && !is_empty {
            return Err(AppendError::Body(BodyError::Nothing));
        }
        let memory = state.room_for(&messages, producer.as_ref(), self.head.limits)?;
        Ok(Planned::New(Plan { messages, memory, closes, seq, producer }))
    }

    /// Returns how far a read of at most `limit` bytes goes: up to a whole JSON message, even if the
    /// first one is longer, and not into the middle of a character of a text that continues.
    pub(crate) fn extent(&self, from: u64, limit: usize) -> Extent {
        let Status { tail, is_closed } = self.status();
        let stop = from.saturating_add(limit as u64).min(tail);
        let mut end = from;
        match self.head.media.content() {
            Content::Json => {
                while end < stop {
                    let (stream, upto) = self.holder_of(end);
                    let whole = stream.lock().log.whole_messages(&(end..stop.min(upto)));
                    if whole > stop && end > from {
                        break;
                    }
                    end = whole;
                }
            }
            Content::Text => {
                let mut last = Vec::new();
                self.copy(stop.saturating_sub(3).max(from)..stop, &mut last);
                end = if stop < tail { stop - incomplete_suffix(&last) as u64 } else { stop };
            }
            Content::Binary => end = stop,
        }
        let is_tail = end == tail;
        Extent { end, is_tail, is_eof: is_tail && is_closed }
    }

    /// Appends these bytes to `out`. The range must be inside the stream.
    pub(crate) fn copy(&self, range: Range<u64>, out: &mut Vec<u8>) {
        let mut at = range.start;
        while at < range.end {
            let (stream, upto) = self.holder_of(at);
            let end = range.end.min(upto);
            let slice = stream.lock().log.slice(at..end);
            slice.copy_to(out);
            at = end;
        }
    }

    /// Returns the stream whose own log has the byte `at`, and where its part of this stream ends.
    fn holder_of(&self, at: u64) -> (&Self, u64) {
        let (mut stream, mut upto) = (self, u64::MAX);
        while let Some(base) = stream.head.base.as_ref().filter(|base| at < base.upto) {
            (stream, upto) = (&base.source, base.upto.min(upto));
        }
        (stream, upto)
    }

    /// Returns the offset of a position. In its inherited part, a fork has the offsets of its source.
    pub(crate) fn offset_of(&self, byte: u64) -> Offset {
        Offset { incarnation: self.holder_before(byte).head.incarnation, byte }
    }

    /// Returns the stream whose own log ends at `at`, or has the byte before it.
    fn holder_before(&self, at: u64) -> &Self {
        let mut stream = self;
        while let Some(base) = stream.head.base.as_ref().filter(|base| at <= base.upto) {
            stream = &base.source;
        }
        stream
    }

    /// Returns the position of a start.
    pub(crate) fn resolve(&self, start: Start) -> Result<u64, OffsetError> {
        match start {
            Start::Beginning | Start::At(Offset::START) => Ok(0),
            Start::Now => Ok(self.status().tail),
            Start::At(offset) => self.position_of(offset),
        }
    }

    fn position_of(&self, offset: Offset) -> Result<u64, OffsetError> {
        if offset.byte > self.status().tail || self.offset_of(offset.byte) != offset {
            let is_earlier =
                !self.chain().any(|stream| stream.head.incarnation == offset.incarnation)
                    && offset.incarnation < self.head.incarnation;
            return Err(if is_earlier { OffsetError::Gone } else { OffsetError::Unknown });
        }
        let is_json = self.head.media.content() == Content::Json;
        if is_json && !self.holder_before(offset.byte).lock().log.is_boundary(offset.byte) {
            return Err(OffsetError::Unknown);
        }
        Ok(offset.byte)
    }

    /// This stream, its source, the source's source, and so on.
    pub(super) fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |stream| Some(&*stream.head.base.as_ref()?.source))
    }

    /// Returns the first part of the append after `from`, for a fork.
    pub(super) fn partial(&self, from: u64, count: u64) -> Result<Messages, PartialAppendError> {
        let (stream, upto) = self.holder_of(from);
        stream.lock().log.partial(from, upto, count, self.head.media.content() == Content::Json)
    }

    /// Returns the cursor for a reader that has sent `client`.
    pub(crate) fn cursor(&self, client: Option<u64>) -> u64 {
        let now = cursor::interval(Utc::now());
        let mut next = 0;
        let raise = |last: u64| {
            next = cursor::next(last.max(now), client);
            Some(next)
        };
        let _ = self.cursor.fetch_update(Ordering::Relaxed, Ordering::Relaxed, raise);
        next
    }

    /// Wakes every thread that waits for this stream.
    pub(super) fn notify(&self) {
        let notifiers = Arc::clone(&self.lock().notifiers);
        notifiers.iter().for_each(|(_, notifier)| notifier.notify());
    }

    /// Notifies `notifier` of every change, until the returned value is dropped.
    pub(crate) fn listen(self: &Arc<Self>, notifier: &Arc<Notifier>) -> Listening {
        let mut state = self.lock();
        state.last_key += 1;
        let key = state.last_key;
        Arc::make_mut(&mut state.notifiers).push((key, Arc::clone(notifier)));
        drop(state);
        Listening { stream: Arc::clone(self), key }
    }
}

/// A request to append without its body.
struct Request {
    is_empty: bool,
    is_of_type: bool,
    closes: bool,
    seq: Option<Box<[u8]>>,
    producer: Option<Producer>,
}

impl State {
    fn check(&self) -> Result<(), Unavailable> {
        match self.life {
            Life::Alive => Ok(()),
            Life::SoftDeleted => Err(Unavailable::SoftDeleted),
            Life::Removed => Err(Unavailable::Missing),
        }
    }

    /// Returns the memory for these messages and this producer. Fails if the stream would have too
    /// much.
    fn room_for(
        &self,
        messages: &Messages,
        producer: Option<&Producer>,
        limits: StreamLimits,
    ) -> Result<usize, AppendError> {
        let memory = messages.bytes.len()
            + messages.ends.len() * BOUNDARY
            + producer.map_or(0, |producer| self.producers.cost(producer));
        if memory > limits.bytes.saturating_sub(self.memory.amount()) {
            return Err(AppendError::StreamFull { limit: limits.bytes });
        }
        Ok(memory)
    }

    /// Carries out a plan: all of it, or nothing if there is no memory.
    fn apply(&mut self, plan: Plan) -> Result<(), AppendError> {
        let Plan { messages, memory, closes, seq, producer } = plan;
        self.memory.grow(memory).map_err(|_| AppendError::Full)?;
        self.log.append(messages);
        if let Some(producer) = &producer {
            self.producers.accept(producer);
        }
        if seq.is_some() {
            self.last_seq = seq;
        }
        if closes {
            self.closed = Some(Closed { by: producer });
        }
        Ok(())
    }
}

/// Keeps a notifier registered until this value is dropped.
#[derive(Debug)]
#[must_use = "dropping this unregisters the notifier at once"]
pub(crate) struct Listening {
    stream: Arc<Stream>,
    key: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut state = self.stream.lock();
        if let Ok(place) = state.notifiers.binary_search_by_key(&self.key, |(key, _)| *key) {
            Arc::make_mut(&mut state.notifiers).remove(place);
        }
        state.used = Instant::now();
    }
}
