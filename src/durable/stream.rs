//! One stream: its bytes, its end, its producers, and the threads that wait for it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, FixedOffset, Utc};

use super::cursor;
use super::file_log::FileLog;
use super::frames::incomplete_suffix;
use super::log::{self, BOUNDARY, Log, Part, PartialAppendError};
use super::media::{Content, MediaType};
use super::messages::{BodyError, Messages};
use super::offset::{Offset, Start};
use super::producers::{Known, Novelty, Producer, ProducerError, Producers};
use super::usage::Reserved;
use crate::error::PublishError;
use crate::registry::Notifier;

/// The longest value of `Stream-Seq`, in bytes.
pub(crate) const SEQ_MAX: usize = 256;

/// How many bytes of a stream in a file are also in memory, for its live readers, unless one commit has
/// more. Live readers that have caught up read only these.
const CACHED: usize = 256 * 1024;

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
    /// The log in the store's file; `None` if the stream is in memory.
    pub(super) file: Option<FileLog>,
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
    /// All bytes. If they are in a file, the log has only the last ones, and only while there are
    /// readers.
    pub(super) log: Log,
    pub(super) life: Life,
    /// The number of streams that are forks of this one.
    pub(super) forks: usize,
    pub(super) ledger: Ledger,
    /// The producers, unless they are in a file.
    producers: Producers,
    pub(super) idle: Idle,
    /// Whether the lifetime was found to have ended. Then nothing can restart it.
    has_expired: bool,
    /// The notifiers in the order of their keys. They are in an `Arc`, so that a writer can notify
    /// them after it has released the lock.
    notifiers: Arc<Vec<(u64, Arc<Notifier>)>>,
    last_key: u64,
    /// The number of live readers, which may be between two notifiers.
    readers: usize,
    /// The room of the bytes, their boundaries and the producers.
    pub(super) room: Reserved,
    /// The memory of `log`, if the bytes are in a file.
    cached: Reserved,
}

/// What decides whether an append is carried out.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    /// The position after the last byte.
    pub(super) end: u64,
    /// The room of the bytes, their boundaries and the producers.
    pub(super) room: usize,
    pub(super) producers: usize,
    pub(super) closed: Option<Closed>,
    pub(super) last_seq: Option<Box<[u8]>>,
}

/// The end of a stream.
#[derive(Debug, Clone)]
pub(super) struct Closed {
    /// The producer's request that closed the stream.
    pub(super) by: Option<Producer>,
}

/// How long a stream has been idle: without a read or a write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Idle {
    since: Instant,
    /// How long it had been idle before `since`: before the server started.
    before: Duration,
}

impl Idle {
    pub(super) fn new(before: Duration) -> Self {
        Self { since: Instant::now(), before }
    }

    pub(super) fn time(self) -> Duration {
        self.before + self.since.elapsed()
    }
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
    /// All streams together would take more room than the limit.
    Full,
    /// The store has not stored the append.
    Store(PublishError),
}

/// Why a stream cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unavailable {
    Missing,
    SoftDeleted,
}

/// Why an offset is not a position of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OffsetError {
    /// It is that of an earlier stream.
    Gone,
    /// The stream has never had it.
    Unknown,
    /// The store cannot be read.
    Store(PublishError),
}

/// An append that was checked and can be carried out.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) messages: Messages,
    /// The room that it takes, in bytes.
    pub(super) room: usize,
    closes: bool,
    seq: Option<Box<[u8]>>,
    pub(super) producer: Option<Producer>,
    is_new_producer: bool,
}

pub(super) enum Planned {
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
    /// Creates an empty stream. `count` counts the stream, `room` the room that it takes, and `cached`
    /// the memory besides, if it is in a file.
    pub(super) fn new(head: Head, count: Reserved, room: Reserved, cached: Reserved) -> Self {
        let begin = head.base.as_ref().map_or(0, |base| base.upto);
        let state = State {
            log: Log::new(begin),
            life: Life::Alive,
            forks: 0,
            ledger: Ledger { end: begin, ..Ledger::default() },
            producers: Producers::default(),
            idle: Idle::new(Duration::ZERO),
            has_expired: false,
            notifiers: Arc::default(),
            last_key: 0,
            readers: 0,
            room,
            cached,
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
        Status { tail: state.ledger.end, is_closed: state.ledger.closed.is_some() }
    }

    /// Fails if the stream was deleted or has expired.
    pub(super) fn check(&self) -> Result<(), Unavailable> {
        let state = self.lock();
        state.check()?;
        match state.has_expired {
            true if state.forks > 0 => Err(Unavailable::SoftDeleted),
            true => Err(Unavailable::Missing),
            false => Ok(()),
        }
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
        self.lock().idle = Idle::new(Duration::ZERO);
    }

    /// Whether the lifetime has ended. A waiting reader keeps an idle stream alive.
    pub(super) fn is_expired(&self) -> bool {
        if self.head.lifetime == Lifetime::Unlimited {
            return false;
        }
        let mut state = self.lock();
        state.has_expired |= match &self.head.lifetime {
            Lifetime::Unlimited => false,
            Lifetime::Idle { seconds } => {
                state.notifiers.is_empty() && state.idle.time() >= Duration::from_secs(*seconds)
            }
            Lifetime::Until { at, .. } => *at <= Utc::now(),
        };
        state.has_expired
    }

    /// Adds the first bytes of a stream that no other thread sees yet, and closes it.
    pub(super) fn fill(&self, messages: Messages, closes: bool) -> Result<(), AppendError> {
        let mut state = self.lock();
        let plan = self.first_plan(&state.ledger, messages, closes)?;
        state.apply(plan)
    }

    /// Plans the first append of a stream.
    pub(super) fn first_plan(
        &self,
        ledger: &Ledger,
        messages: Messages,
        closes: bool,
    ) -> Result<Plan, AppendError> {
        let room = ledger.room_for(&messages, 0, self.head.limits)?;
        Ok(Plan { messages, room, closes, seq: None, producer: None, is_new_producer: false })
    }

    /// Appends a body, or closes the stream, or both in one step.
    pub(crate) fn append(self: &Arc<Self>, append: Append) -> Result<Appended, AppendError> {
        let Append { media, body, closes, seq, producer } = append;
        let is_empty = body.is_empty();
        let is_of_type = is_empty || media.as_ref() == Some(&self.head.media);
        // The body is parsed before the lock is taken, because the client sets the cost of parsing.
        let parsed = if is_empty || !is_of_type {
            Ok(Messages::default())
        } else {
            Messages::of(self.head.media.content(), body, self.head.limits.message)
        };
        let request = Request { is_empty, is_of_type, closes, seq, producer };
        let mut state = self.lock();
        state.check().map_err(AppendError::Unavailable)?;
        state.idle = Idle::new(Duration::ZERO);
        if let Some(file) = &self.head.file {
            drop(state);
            return file.append(self, request, parsed);
        }
        let known = request.producer.as_ref().map(|producer| state.producers.known(&producer.id));
        let known = known.unwrap_or_default();
        let appended = match self.plan(&state.ledger, &known, request, parsed)? {
            Planned::Repeated { producer } => self.appended(&state.ledger, false, producer),
            Planned::New(plan) => {
                let (is_new, producer) = plan.outcome();
                state.apply(plan)?;
                self.appended(&state.ledger, is_new, producer)
            }
        };
        let notifiers = Arc::clone(&state.notifiers);
        drop(state);
        notifiers.iter().for_each(|(_, notifier)| notifier.notify());
        Ok(appended)
    }

    /// Returns what a request has done, after which the stream has this ledger.
    pub(super) fn appended(
        &self,
        ledger: &Ledger,
        is_new: bool,
        producer: Option<(u64, u64)>,
    ) -> Appended {
        let (next, is_closed) = (self.offset_of(ledger.end), ledger.closed.is_some());
        Appended { next, is_closed, is_new, producer }
    }

    /// Checks a request in the order that the protocol sets. Changes nothing.
    pub(super) fn plan(
        &self,
        ledger: &Ledger,
        known: &Known,
        request: Request,
        parsed: Result<Messages, BodyError>,
    ) -> Result<Planned, AppendError> {
        let Request { is_empty, is_of_type, closes, seq, producer } = request;
        if let Some(Closed { by }) = &ledger.closed {
            return match (by, producer) {
                (Some(by), Some(producer)) if *by == producer => {
                    Ok(Planned::Repeated { producer: Some((by.epoch, by.seq)) })
                }
                (_, None) if closes && is_empty => Ok(Planned::Repeated { producer: None }),
                _ => Err(AppendError::Closed { next: self.offset_of(ledger.end) }),
            };
        }
        if !is_of_type {
            return Err(AppendError::MediaType);
        }
        if let Some(producer) = &producer {
            let novelty = known.check(producer).map_err(AppendError::Producer)?;
            if let Novelty::Duplicate(last) = novelty {
                return Ok(Planned::Repeated { producer: Some((producer.epoch, last)) });
            }
        }
        if seq.is_some() && ledger.last_seq >= seq {
            return Err(AppendError::Seq);
        }
        let messages = parsed.map_err(AppendError::Body)?;
        if messages.is_empty() && !is_empty {
            return Err(AppendError::Body(BodyError::Nothing));
        }
        let cost = producer.as_ref().map_or(0, |producer| known.cost(producer));
        let room = ledger.room_for(&messages, cost, self.head.limits)?;
        let is_new_producer = producer.is_some() && known.last.is_none();
        Ok(Planned::New(Plan { messages, room, closes, seq, producer, is_new_producer }))
    }

    /// Returns how far a read of at most `limit` bytes goes: up to a whole JSON message, even if the
    /// first one is longer, and not into the middle of a character of a text that continues.
    pub(crate) fn extent(&self, from: u64, limit: usize) -> Result<Extent, PublishError> {
        let Status { tail, is_closed } = self.status();
        let stop = from.saturating_add(limit as u64).min(tail);
        let mut end = from;
        match self.head.media.content() {
            Content::Json => {
                while end < stop {
                    let (stream, upto) = self.holder_of(end);
                    let whole = stream.whole_messages(&(end..stop.min(upto)))?;
                    if whole > stop && end > from {
                        break;
                    }
                    end = whole;
                }
            }
            Content::Text => {
                let mut last = Vec::new();
                self.copy(stop.saturating_sub(3).max(from)..stop, &mut last)?;
                end = if stop < tail { stop - incomplete_suffix(&last) as u64 } else { stop };
            }
            Content::Binary => end = stop,
        }
        let is_tail = end == tail;
        Ok(Extent { end, is_tail, is_eof: is_tail && is_closed })
    }

    /// Returns the extent of a read that ends at `end`, or at the end of the stream.
    pub(super) fn extent_to(&self, end: u64) -> Extent {
        let Status { tail, is_closed } = self.status();
        let end = end.min(tail);
        let is_tail = end == tail;
        Extent { end, is_tail, is_eof: is_tail && is_closed }
    }

    /// Appends these bytes to `out`. The range must be inside the stream.
    pub(crate) fn copy(&self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), PublishError> {
        let mut at = range.start;
        while at < range.end {
            let (stream, upto) = self.holder_of(at);
            let end = range.end.min(upto);
            stream.copy_own(at..end, out)?;
            at = end;
        }
        Ok(())
    }

    /// Appends bytes of the stream's own log to `out`.
    fn copy_own(&self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), PublishError> {
        match self.in_memory(range.start, |log| log.slice(range.clone())) {
            Ok(parts) => parts.iter().for_each(|(bytes, part)| out.extend(&bytes[part.clone()])),
            Err(file) => file.copy(range, out)?,
        }
        Ok(())
    }

    /// Returns the bytes of a range, most of them shared with the stream; `None` if only the store's file
    /// has some of them. The range must be inside the stream.
    pub(crate) fn parts(&self, range: Range<u64>) -> Option<Vec<Part>> {
        let (mut parts, mut at) = (Vec::new(), range.start);
        while at < range.end {
            let (stream, upto) = self.holder_of(at);
            let end = range.end.min(upto);
            parts.extend(stream.in_memory(at, |log| log.slice(at..end)).ok()?);
            at = end;
        }
        Some(parts)
    }

    /// See [`Log::whole_messages`].
    fn whole_messages(&self, range: &Range<u64>) -> Result<u64, PublishError> {
        let whole = self.in_memory(range.start, |log| log.whole_messages(range));
        whole.or_else(|file| file.whole_messages(range))
    }

    /// Calls `read` with the log in memory. Returns the log in the file if only that has the bytes after
    /// `at`.
    ///
    /// The check and the read are under one lock, because other threads free the bytes in memory.
    fn in_memory<T>(&self, at: u64, read: impl FnOnce(&Log) -> T) -> Result<T, &FileLog> {
        let state = self.lock();
        match &self.head.file {
            Some(file) if at < state.log.start() => Err(file),
            _ => Ok(read(&state.log)),
        }
    }

    /// Whether a read from `at` would wait for the store's file.
    pub(super) fn waits_for_file(&self, at: u64) -> bool {
        let (stream, _) = self.holder_of(at);
        stream.in_memory(at, |_| ()).is_err()
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
        if is_json && !self.holder_before(offset.byte).is_boundary(offset.byte)? {
            return Err(OffsetError::Unknown);
        }
        Ok(offset.byte)
    }

    /// See [`Log::is_boundary`].
    fn is_boundary(&self, at: u64) -> Result<bool, PublishError> {
        if self.head.base.as_ref().map_or(0, |base| base.upto) == at {
            return Ok(true);
        }
        let is_boundary = self.in_memory(at, |log| log.is_boundary(at));
        is_boundary.or_else(|file| file.is_boundary(at))
    }

    /// This stream, its source, the source's source, and so on.
    pub(super) fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |stream| Some(&*stream.head.base.as_ref()?.source))
    }

    /// Returns the first part of the append after `from`, for a fork.
    pub(super) fn partial(&self, from: u64, count: u64) -> Result<Messages, PartialError> {
        let (stream, upto) = self.holder_of(from);
        let append = stream.in_memory(from, |log| log.append_after(from).to_vec());
        let append = append.or_else(|file| file.append_after(from))?;
        let is_json = self.head.media.content() == Content::Json;
        let ends = log::partial(&append, from, upto, count, is_json)?;
        let mut bytes = Vec::new();
        self.copy(from..from + ends.last().copied().unwrap_or(0) as u64, &mut bytes)?;
        Ok(Messages { bytes, ends })
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

    /// Frees the bytes that the file has too, if there is no reader.
    fn forget_unread(&self, state: &mut State) {
        if self.head.file.is_some() && state.readers == 0 && state.notifiers.is_empty() {
            state.forget();
        }
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
#[derive(Debug)]
pub(super) struct Request {
    is_empty: bool,
    is_of_type: bool,
    closes: bool,
    seq: Option<Box<[u8]>>,
    pub(super) producer: Option<Producer>,
}

/// Why a fork cannot begin inside an append.
#[derive(Debug)]
pub(super) enum PartialError {
    /// The append is shorter.
    Append,
    /// The store cannot be read.
    Store(PublishError),
}

impl From<PartialAppendError> for PartialError {
    fn from(PartialAppendError: PartialAppendError) -> Self {
        Self::Append
    }
}

impl From<PublishError> for PartialError {
    fn from(error: PublishError) -> Self {
        Self::Store(error)
    }
}

impl From<PublishError> for OffsetError {
    fn from(error: PublishError) -> Self {
        Self::Store(error)
    }
}

impl Plan {
    /// Returns whether the plan adds bytes, and the epoch and the sequence number of its producer.
    pub(super) fn outcome(&self) -> (bool, Option<(u64, u64)>) {
        let producer = self.producer.as_ref().map(|it| (it.epoch, it.seq));
        (!self.messages.is_empty(), producer)
    }
}

impl Ledger {
    /// Returns the room for these messages and a producer that takes `producer`. Fails if the stream
    /// would take too much.
    fn room_for(
        &self,
        messages: &Messages,
        producer: usize,
        limits: StreamLimits,
    ) -> Result<usize, AppendError> {
        let room = messages.bytes.len() + messages.ends.len() * BOUNDARY + producer;
        if room > limits.bytes.saturating_sub(self.room) {
            return Err(AppendError::StreamFull { limit: limits.bytes });
        }
        Ok(room)
    }

    /// Records that a plan is carried out.
    pub(super) fn accept(&mut self, plan: &Plan) {
        self.end += plan.messages.bytes.len() as u64;
        self.room += plan.room;
        self.producers += usize::from(plan.is_new_producer);
        if plan.seq.is_some() {
            self.last_seq.clone_from(&plan.seq);
        }
        if plan.closes {
            self.closed = Some(Closed { by: plan.producer.clone() });
        }
    }
}

impl State {
    fn check(&self) -> Result<(), Unavailable> {
        match self.life {
            Life::Alive => Ok(()),
            Life::SoftDeleted => Err(Unavailable::SoftDeleted),
            Life::Removed => Err(Unavailable::Missing),
        }
    }

    /// Returns how long the stream has been idle. It is not idle while a reader waits.
    pub(super) fn idle_time(&self) -> Duration {
        if self.notifiers.is_empty() { self.idle.time() } else { Duration::ZERO }
    }

    /// Carries out a plan in memory: all of it, or nothing if there is no room.
    fn apply(&mut self, plan: Plan) -> Result<(), AppendError> {
        self.room.grow(plan.room).map_err(|_| AppendError::Full)?;
        self.ledger.accept(&plan);
        self.log.append(plan.messages);
        if let Some(producer) = &plan.producer {
            self.producers.accept(producer);
        }
        Ok(())
    }

    /// Continues a stream that is in the file.
    pub(super) fn restore(&mut self, ledger: Ledger, life: Life, idle: Duration) {
        self.room.grow_anyway(ledger.room);
        self.log = Log::new(ledger.end);
        (self.ledger, self.life, self.idle) = (ledger, life, Idle::new(idle));
    }

    /// Shows appends that the file has: the ledger after them, and their bytes.
    pub(super) fn show(&mut self, ledger: Ledger, appends: Vec<Messages>) {
        let added: usize = appends.iter().map(|it| it.bytes.len() + it.ends.len() * BOUNDARY).sum();
        if self.cached.amount() + added > CACHED {
            self.forget();
        }
        let has_readers = self.readers > 0 || !self.notifiers.is_empty();
        let is_cached = has_readers && self.cached.grow(added).is_ok();
        self.ledger = ledger;
        if is_cached {
            appends.into_iter().for_each(|messages| self.log.append(messages));
        } else {
            self.forget();
        }
    }

    /// Frees the bytes that the file has too.
    fn forget(&mut self) {
        self.log = Log::new(self.ledger.end);
        self.cached.release();
    }
}

/// Keeps the last bytes of a stream in memory, although they are in a file, until this value is
/// dropped.
#[derive(Debug)]
pub(super) struct Reading(Arc<Stream>);

impl Reading {
    pub(super) fn new(stream: &Arc<Stream>) -> Self {
        stream.lock().readers += 1;
        Self(Arc::clone(stream))
    }

    pub(super) fn stream(&self) -> &Arc<Stream> {
        &self.0
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.readers -= 1;
        self.0.forget_unread(&mut state);
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
        state.idle = Idle::new(Duration::ZERO);
        self.stream.forget_unread(&mut state);
    }
}
