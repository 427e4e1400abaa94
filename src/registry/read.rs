//! Where a stream begins, and reading from there: events after a position, in the order of ids.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::channels::{Channels, StreamAccess};
use super::history::{Entry, LostIds, Missed, Ring};
use super::lock::Registry;
use super::state::{Channel, HubState};
use crate::event::{Event, Frame, Framing};
use crate::id::EventId;

/// How far another node's id may be ahead of this node's estimate of Redis's clock.
const AHEAD: Duration = Duration::from_secs(60);

/// The maximum number of channels that are searched for a client-supplied id while the lock is held
/// once.
const PAGE_CHANNELS: usize = 256;

/// For at most this many channels, a stream remembers which losses are not reported. Each takes 32
/// bytes.
const SUPPRESSED_MAX: usize = 1_024;

/// When a private event needs an access check, this many events of each channel are examined ahead.
const LOOK_AHEAD: usize = 64;

/// Where a stream begins.
///
/// ```
/// use threadcast::Start;
///
/// assert_eq!("10m".parse(), Ok(Start::Age(std::time::Duration::from_secs(600))));
/// assert_eq!("7-41".parse(), Ok(Start::After("7-41".into())));
/// assert!("yesterday".parse::<Start>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Start {
    /// With the next event.
    #[default]
    Now,
    /// After the event with this id: an id that the server assigned, or a client-supplied id. If
    /// the id is unknown, the stream begins with a gap and continues with the next event.
    After(String),
    /// With the events in the history that are at most this old.
    Age(Duration),
    /// With all events in the history. Earlier losses are not reported as gaps, unless more than
    /// 1,024 of the stream's channels have lost events, because a stream does not remember more of
    /// them.
    All,
}

impl std::str::FromStr for Start {
    type Err = ParseStartError;

    /// Parses `all`, a duration such as `30s`, or an id that the server assigned.
    ///
    /// A client-supplied id can be any text, so it cannot be parsed: create a [`Start::After`] with
    /// it instead.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "all" {
            return Ok(Self::All);
        }
        if text.parse::<EventId>().is_ok() {
            return Ok(Self::After(text.to_owned()));
        }
        humantime::parse_duration(text).map(Self::Age).map_err(|_| ParseStartError)
    }
}

/// The error for a text that is not a [`Start`].
///
/// A start is `all`, a duration, or an id that the server assigned.
///
/// ```
/// let error = "yesterday".parse::<threadcast::Start>().unwrap_err();
/// assert!(error.to_string().contains("30s"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseStartError;

impl std::fmt::Display for ParseStartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "a start must be `all`, a duration such as 30s or 10m, or an id of this server such as \
             1700000000000-42",
        )
    }
}

impl std::error::Error for ParseStartError {}

/// A subscriber's position in the order of all events.
#[derive(Debug, Clone, Default)]
pub(crate) struct Position {
    /// The last event that was read or skipped.
    pub(crate) after: EventId,
    /// The last id at or before `after` that the subscriber may know of. Unlike `after`, it is
    /// never the id of a private event that the subscriber may not read.
    pub(super) known: EventId,
    /// The losses that are not reported, because they happened before a stream with [`Start::All`]
    /// began.
    suppressed: Option<Box<Suppressed>>,
}

/// For each channel, the id up to which losses are not reported.
#[derive(Debug, Clone)]
struct Suppressed {
    /// The ids for channels that had lost events when the stream began, sorted by the channels'
    /// names.
    channels: Vec<(Arc<str>, EventId)>,
    /// The id for all other channels, such as those that did not exist when the stream began.
    others: EventId,
}

impl Position {
    /// A position after an event that the subscriber may know of.
    pub(super) fn at(after: EventId) -> Self {
        Self { after, known: after, suppressed: None }
    }

    /// The id after which losses of this channel are reported.
    fn gaps_from(&self, channel: &str) -> EventId {
        let Some(Suppressed { channels, others }) = self.suppressed.as_deref() else {
            return self.after;
        };
        let upto = match channels.binary_search_by(|(name, _)| (**name).cmp(channel)) {
            Ok(place) => channels[place].1,
            Err(_) => *others,
        };
        self.after.max(upto)
    }
}

/// The position and the first frames of a stream.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) position: Position,
    /// The cursor from which a client resumes if it is cut off before its first event. Everything
    /// that is read from `position` on comes after this cursor.
    ///
    /// `None` if the client must keep the cursor that it sent, so that it receives the gap again
    /// when it resumes.
    pub(super) cursor: Option<EventId>,
    /// The gap frames for a start that could not be found.
    pub(super) unknown: Vec<Frame>,
}

impl HubState {
    /// Finds the position of a start. If the start cannot be found, creates gap frames.
    ///
    /// The result is final only if `access` has no pending check.
    pub(super) fn begin(
        &self,
        channels: &Channels,
        start: &Start,
        now: Duration,
        access: &mut StreamAccess,
    ) -> Beginning {
        if matches!(start, Start::Now) {
            return self.begin_now(channels);
        }
        self.resume(channels, start, now, access)
    }

    /// The beginning of a stream that receives only what is published from now on.
    pub(super) fn begin_now(&self, channels: &Channels) -> Beginning {
        let position = self.now(channels);
        let cursor = Some(position.known);
        Beginning { position, cursor, unknown: Vec::new() }
    }

    /// The position after all published events.
    fn now(&self, channels: &Channels) -> Position {
        Position { after: self.last, known: self.last_known(channels), suppressed: None }
    }

    /// The newest id that a stream of these channels may know of.
    pub(super) fn last_known(&self, channels: &Channels) -> EventId {
        if channels.reads_all() { self.last } else { self.last_public }
    }

    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    fn resume(
        &self,
        channels: &Channels,
        start: &Start,
        now: Duration,
        access: &mut StreamAccess,
    ) -> Beginning {
        let found = |position: Position| {
            let cursor = Some(position.known.max(self.first_cursor()));
            Beginning { position, cursor, unknown: Vec::new() }
        };
        match start {
            Start::Now => found(self.now(channels)),
            Start::After(id) => match self.find(channels, id, now, access) {
                Some(after) => found(Position::at(after)),
                None => Beginning {
                    position: self.now(channels),
                    cursor: None,
                    unknown: self.unknown(channels, id),
                },
            },
            Start::Age(age) => {
                let oldest = now.checked_sub(*age);
                match oldest.and_then(|oldest| self.last_before(channels, oldest, access)) {
                    Some(after) => found(Position::at(after)),
                    None => found(Position {
                        after: self.floor_of(channels),
                        known: self.floor.public,
                        suppressed: None,
                    }),
                }
            }
            Start::All => {
                let suppressed = self.losses_to_suppress(channels, access).map(Box::new);
                found(Position { suppressed, ..Position::default() })
            }
        }
    }

    /// Returns the newest event, kept or lost, that a stream of these channels may know of and that
    /// was published before `time`. Later events have higher ids.
    fn last_before(
        &self,
        channels: &Channels,
        time: Duration,
        access: &mut StreamAccess,
    ) -> Option<EventId> {
        let mut newest = None;
        for (name, channel) in self.selected(channels) {
            let lost = lost_of(channels, name, &channel.ring, access);
            let sees = |entry: &Entry| access.may_read(channels, entry.private.as_ref());
            newest = newest.max(channel.ring.last_before(time, lost, sees));
        }
        newest
    }

    /// Returns the losses that a stream of all events does not report. `None` if there are none, or
    /// too many to remember.
    fn losses_to_suppress(
        &self,
        channels: &Channels,
        access: &mut StreamAccess,
    ) -> Option<Suppressed> {
        let others = self.floor_of(channels);
        let mut losses = Vec::new();
        for (name, channel) in self.selected(channels) {
            let lost = lost_of(channels, name, &channel.ring, access).to();
            if lost > EventId::ZERO {
                losses.push((Arc::clone(name), lost));
            }
        }
        losses.sort_unstable();
        let has_any = !losses.is_empty() || others > EventId::ZERO;
        (has_any && losses.len() <= SUPPRESSED_MAX)
            .then_some(Suppressed { channels: losses, others })
    }

    /// A cursor before every event in the history. [`find`](Self::find) accepts this cursor.
    pub(super) fn first_cursor(&self) -> EventId {
        if self.is_shared { EventId::ZERO } else { EventId { n: 0, ..self.last } }
    }

    /// The id up to which a stream of these channels may have lost events in channels that have
    /// been removed.
    fn floor_of(&self, channels: &Channels) -> EventId {
        if channels.reads_some_private() { self.floor.all } else { self.floor.public }
    }

    /// Finds the event with this id. The result is final only if `access` has nothing pending.
    pub(super) fn find(
        &self,
        channels: &Channels,
        id: &str,
        now: Duration,
        access: &mut StreamAccess,
    ) -> Option<EventId> {
        if let Ok(id) = id.parse::<EventId>() {
            if self.is_shared {
                // Another node may have read further and sent a newer id, and this node will catch
                // up. Ids keep ascending if Redis's clock is set back, so the newest id counts as a
                // time too.
                let now = now.max(Duration::from_millis(self.last.epoch));
                let latest = (now + AHEAD).as_millis();
                return (id <= self.last || u128::from(id.epoch) <= latest).then_some(id);
            }
            // A reader of public events cannot use an id above that of the newest public event as a
            // cursor. So such a reader cannot learn from the result whether there are newer private
            // events.
            let last = if channels.reads_some_private() { self.last } else { self.last_public };
            return (id.epoch == last.epoch && id <= last).then_some(id);
        }
        // If several channels have an event with this id, resume after the earliest: receiving
        // events again is better than losing events. Skip an event that the stream may not read,
        // because the stream must not learn that it exists.
        let mut own = |channel: &Channel| {
            let id = channel.dedup.event_id(id)?;
            let entry = channel.ring.get_exactly(id)?;
            let private = entry.private.as_ref();
            let given = private.map_or(Some(true), |private| access.check(channels, private));
            (given == Some(true)).then_some(id)
        };
        self.selected(channels).filter_map(|(_, channel)| own(channel)).min()
    }

    /// Returns the gaps for an unknown id, one for each name, prefix and pattern.
    ///
    /// The gaps have no counts, because it is unknown how many events were lost. The stream
    /// continues with the next event.
    fn unknown(&self, channels: &Channels, id: &str) -> Vec<Frame> {
        let mut names: Vec<String> = channels.names().map(str::to_owned).collect();
        names.extend(channels.prefixes.iter().map(|prefix| format!("{prefix}*")));
        names.extend(channels.patterns().iter().map(|pattern| pattern.text().to_owned()));
        let last = self.last_known(channels);
        group(names.iter().map(|name| gap(name, None, id, last)), Some(last))
    }
}

/// Finds the earliest event with this client-supplied id: see [`Registry::earliest`].
pub(super) fn earliest(registry: &Registry, channels: &Channels, id: &str) -> Option<EventId> {
    let public = |channel: &Channel| {
        let id = channel.dedup.event_id(id)?;
        let entry = channel.ring.get_exactly(id)?;
        (entry.private.is_none() || channels.reads_all()).then_some(id)
    };
    // In the channels that it selects, a stream may also find private events that it may read.
    let mut earliest = find(registry, channels, id);
    let mut last: Option<Arc<str>> = None;
    loop {
        let state = registry.lock();
        let from = last.as_deref().map_or(Unbounded, Excluded);
        let mut page = state.channels.range::<str, _>((from, Unbounded));
        for (name, channel) in page.by_ref().take(PAGE_CHANNELS) {
            earliest = earliest.into_iter().chain(public(channel)).min();
            last = Some(Arc::clone(name));
        }
        if page.next().is_none() {
            return earliest;
        }
    }
}

/// Finds the position of the event with this id, if the event is still in a history.
pub(super) fn find(registry: &Registry, channels: &Channels, id: &str) -> Option<EventId> {
    let mut access = StreamAccess::default();
    loop {
        let found = registry.lock().find(channels, id, registry.now(), &mut access);
        if !access.has_pending() {
            return found;
        }
        access.resolve(channels);
    }
}

/// The outcome of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batch {
    /// How many events were read.
    pub(crate) events: u64,
    /// How many gaps were written.
    pub(crate) gaps: u64,
    /// When the first event that was read was published, on the registry's clock.
    pub(crate) since: Option<Duration>,
    /// Whether more events are available now.
    pub(crate) more: bool,
    /// Whether the registry is closing or closed, and everything has been read.
    pub(crate) ending: bool,
    /// Whether everything has been read, and nothing will follow: all channels have ended.
    pub(crate) over: bool,
}

impl Batch {
    /// A batch of which nothing has been read.
    pub(crate) const EMPTY: Self =
        Self { events: 0, gaps: 0, since: None, more: false, ending: false, over: false };
}

/// Reads events: see [`Registry::read`].
pub(super) fn read(
    registry: &Registry,
    channels: &Channels,
    position: &mut Position,
    upto: Option<EventId>,
    limit: usize,
    framing: Framing,
    out: &mut Vec<u8>,
) -> Batch {
    let mut batch = Batch::EMPTY;
    let mut access = StreamAccess::default();
    let reading = Reading { channels, upto, limit: out.len() + limit.min(usize::MAX / 2), framing };
    // Repeat until every private event in the range has an access decision.
    while !read_known(registry, &reading, position, out, &mut batch, &mut access) {
        access.resolve(channels);
    }
    batch
}

/// Reads until the limit is reached, or until a private event has no access decision yet.
///
/// Returns `false` in the latter case.
fn read_known(
    registry: &Registry,
    reading: &Reading<'_>,
    position: &mut Position,
    out: &mut Vec<u8>,
    batch: &mut Batch,
    access: &mut StreamAccess,
) -> bool {
    let Reading { channels, upto, limit, framing } = *reading;
    let state = registry.lock();
    let upto = upto.map_or(state.last, |upto| upto.min(state.last));
    // A stream without ids is a clock, which no client resumes, so a lost tick is not reported.
    let gaps = registry.inner.options.ids;
    let mut sources = state.sources(channels, position, upto, access);
    if access.has_pending() {
        return false;
    }
    let mut order: BinaryHeap<_> = (sources.iter().enumerate())
        .filter_map(|(index, source)| Some(Reverse((source.next(upto)?.id, index))))
        .collect();
    let mut next = position.after;
    while let Some(Reverse((id, index))) = order.pop() {
        let Some(entry) = sources[index].next(upto) else { continue };
        let given = match &entry.private {
            None => Some(true),
            Some(private) => access.check(channels, private),
        };
        let Some(given) = given else {
            sources.iter().for_each(|source| source.look_ahead(channels, upto, access));
            position.after = next;
            return false;
        };
        // Skip an event of several topics if another ring has already supplied it. Also skip an
        // event that the stream may not read: it causes no gap, and no gap counts it.
        if id == next || !given {
            sources[index].place += 1;
            order.extend(sources[index].next(upto).map(|entry| Reverse((entry.id, index))));
            continue;
        }
        if batch.events > 0 && out.len() + entry.frame.len() > limit {
            batch.more = true;
            break;
        }
        if gaps {
            let span = GapSpan { after: next, known: position.known, upto: id, next: Some(id) };
            batch.gaps += write_gaps(channels, &sources, &span, framing, out).0;
        }
        out.extend_from_slice(entry.frame.bytes(framing));
        batch.events += 1;
        batch.since.get_or_insert(entry.at);
        next = id;
        position.known = id;
        sources[index].place += 1;
        order.extend(sources[index].next(upto).map(|entry| Reverse((entry.id, index))));
    }
    if !batch.more {
        if gaps {
            let span = GapSpan { after: next, known: position.known, upto, next: None };
            let (count, newest) = write_gaps(channels, &sources, &span, framing, out);
            batch.gaps += count;
            position.known = position.known.max(newest);
        }
        next = next.max(upto);
        let known = state.last_known(channels);
        if known <= next {
            position.known = position.known.max(known);
        }
        position.suppressed = None;
    }
    position.after = next;
    let is_ending = state.open.is_none() || state.closing.is_some();
    batch.ending = is_ending && next >= state.last;
    batch.over = !batch.more && state.have_ended(channels, next);
    true
}

/// Whether a stream that starts here would get nothing: see [`Registry::is_over`].
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(super) fn is_over(registry: &Registry, channels: &Channels, start: &Start) -> bool {
    let Start::After(id) = start else { return false };
    let mut access = StreamAccess::default();
    loop {
        let state = registry.lock();
        if !state.have_ended(channels, EventId { epoch: u64::MAX, n: u64::MAX }) {
            return false;
        }
        let found = state.find(channels, id, registry.now(), &mut access);
        if !access.has_pending() {
            return found.is_some_and(|after| state.have_ended(channels, after));
        }
        drop(state);
        access.resolve(channels);
    }
}

/// The parameters of one read.
#[derive(Clone, Copy)]
struct Reading<'a> {
    channels: &'a Channels,
    upto: Option<EventId>,
    /// The maximum length of the output, once it has an event.
    limit: usize,
    framing: Framing,
}

/// Whether a stream that begins at `position` receives everything after it, without a gap.
pub(super) fn is_whole_after(
    registry: &Registry,
    channels: &Channels,
    position: &Position,
) -> bool {
    let mut access = StreamAccess::default();
    loop {
        let state = registry.lock();
        let sources = state.sources(channels, position, state.last, &mut access);
        if !access.has_pending() {
            let misses =
                |source: &Source<'_>| source.lost.between(source.gaps_from, state.last).is_some();
            return !sources.iter().any(misses);
        }
        drop(state);
        access.resolve(channels);
    }
}

impl HubState {
    /// Whether all of these channels have ended at or before `position`.
    ///
    /// A prefix or a pattern never ends, because it also selects channels that do not exist yet.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    fn have_ended(&self, channels: &Channels, position: EventId) -> bool {
        let has_ended = |name: &Arc<str>| {
            let end = self.channels.get(name).and_then(Channel::end);
            end.is_some_and(|end| end <= position)
        };
        channels.prefixes.is_empty()
            && channels.patterns().is_empty()
            && channels.names.iter().all(has_ended)
    }

    /// Returns the channels that have events or losses after `position`.
    ///
    /// Written with plain loops, to need little stack. This is the deepest point of a stream
    /// thread's stack, and a thread keeps the stack memory that it has touched for its lifetime.
    fn sources<'a>(
        &'a self,
        channels: &Channels,
        position: &Position,
        upto: EventId,
        access: &mut StreamAccess,
    ) -> Vec<Source<'a>> {
        let mut sources = Vec::with_capacity(channels.names.len());
        let mut add = |name, channel: &'a Channel| {
            sources.extend(Source::of((name, channel), channels, position, upto, access));
        };
        for name in channels.names.iter() {
            if let Some((name, channel)) = self.channels.get_key_value(name) {
                add(name, channel);
            }
        }
        for prefix in channels.prefixes.iter() {
            for (name, channel) in self.channels.range(Arc::clone(prefix)..) {
                if !name.starts_with(&**prefix) {
                    break;
                }
                add(name, channel);
            }
        }
        if !channels.patterns().is_empty() {
            self.add_selected(&mut sources, channels, position, upto, access);
        }
        sources
    }

    /// Adds the channels that the patterns select. Afterwards each channel is in `sources` once.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    fn add_selected<'a>(
        &'a self,
        sources: &mut Vec<Source<'a>>,
        channels: &Channels,
        position: &Position,
        upto: EventId,
        access: &mut StreamAccess,
    ) {
        for slot in self.patterns.selected(channels.patterns()).iter() {
            let channel = self.slots.get(slot).and_then(|name| self.channels.get_key_value(name));
            let Some((name, channel)) = channel else { continue };
            sources.extend(Source::of((name, channel), channels, position, upto, access));
        }
        sources.sort_unstable_by_key(|source| source.name);
        sources.dedup_by_key(|source| source.name);
    }
}

/// Returns the lost events of a channel that a stream of these channels may know of.
///
/// The result is final only if `access` has no pending check.
pub(super) fn lost_of<'a>(
    channels: &Channels,
    name: &str,
    ring: &'a Ring,
    access: &mut StreamAccess,
) -> &'a LostIds {
    ring.lost_of(|others| channels.may_miss(name, others, access) == Some(true))
}

/// The read position in one channel.
struct Source<'a> {
    name: &'a str,
    ring: &'a Ring,
    /// The channel's lost events that the stream may know of.
    lost: &'a LostIds,
    place: usize,
    /// Only losses after this id are reported.
    gaps_from: EventId,
}

impl<'a> Source<'a> {
    /// Returns `None` if the channel has no event and no loss after this position.
    fn of(
        (name, channel): (&'a str, &'a Channel),
        channels: &Channels,
        position: &Position,
        upto: EventId,
        access: &mut StreamAccess,
    ) -> Option<Self> {
        let (ring, gaps_from) = (&channel.ring, position.gaps_from(name));
        let mut lost = ring.lost();
        if lost.to() > gaps_from {
            lost = lost_of(channels, name, ring, access);
        }
        let place = ring.place_after(position.after);
        let source = Source { name, ring, lost, place, gaps_from };
        (source.next(upto).is_some() || lost.to() > gaps_from).then_some(source)
    }

    fn next(&self, upto: EventId) -> Option<&'a Entry> {
        self.ring.get(self.place).filter(|entry| entry.id <= upto)
    }

    /// Records which of the next private events need an access decision. So many events can be
    /// checked each time the lock is released.
    fn look_ahead(&self, channels: &Channels, upto: EventId, access: &mut StreamAccess) {
        let ahead = (self.place..).map_while(|place| self.ring.get(place));
        for entry in ahead.take_while(|entry| entry.id <= upto).take(LOOK_AHEAD) {
            if access.is_full() {
                return;
            }
            if let Some(private) = &entry.private {
                access.check(channels, private);
            }
        }
    }
}

/// The range of ids in which gaps are reported.
struct GapSpan {
    /// The exclusive start of the range. This id may belong to a private event, so gap frames name
    /// `known` instead.
    after: EventId,
    known: EventId,
    upto: EventId,
    /// The event that follows the gaps.
    next: Option<EventId>,
}

/// Writes the gap frames. Returns the number of channels with a gap, and the newest lost id.
fn write_gaps(
    channels: &Channels,
    sources: &[Source<'_>],
    span: &GapSpan,
    framing: Framing,
    out: &mut Vec<u8>,
) -> (u64, EventId) {
    let GapSpan { after, known, upto, next } = *span;
    let losses = sources.iter().filter_map(|source| {
        let from = source.gaps_from.max(after);
        let shown = if from == after { known } else { from };
        source.lost.between(from, upto).map(|missed| (source.name, missed, shown))
    });
    let losses: Vec<ChannelGap<'_>> = losses.collect();
    let Some(newest) = losses.iter().map(|(_, missed, _)| missed.to).max() else {
        return (0, EventId::ZERO);
    };
    // If it is unknown which events are lost, the newest id that may be lost can be the id of the
    // next event. A gap frame must not carry that id, because a client cut off after it would miss
    // the event.
    let id = (next != Some(newest)).then_some(newest);
    let gaps = if losses.len() > GAPS_MAX {
        summary(channels, &losses, known, newest)
    } else {
        let gap = |(name, missed, from): &ChannelGap<'_>| {
            gap(name, missed.count, &from.to_string(), missed.to)
        };
        losses.iter().map(gap).collect()
    };
    for frame in group(gaps.into_iter(), id) {
        out.extend_from_slice(frame.bytes(framing));
    }
    (losses.len() as u64, newest)
}

/// The maximum number of channels that get a gap event of their own.
///
/// If more channels have lost events, each name, prefix and pattern of the stream gets one gap
/// instead. This bounds a stream's unsent bytes, because each gap event contains the channel's
/// name, which takes up to 6 KiB in JSON.
const GAPS_MAX: usize = 16;

/// A channel's name, its lost events, and the id after which they were lost.
type ChannelGap<'a> = (&'a str, Missed, EventId);

/// Returns one gap for each affected name and prefix of a stream, and for each pattern.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn summary(
    channels: &Channels,
    losses: &[ChannelGap<'_>],
    after: EventId,
    newest: EventId,
) -> Vec<Event> {
    let (names, prefixes) = (&channels.names, &channels.prefixes);
    let mut gaps = Vec::new();
    let mut by_prefix: Vec<Option<Missed>> = vec![None; prefixes.len()];
    for (name, missed, from) in losses {
        // Only the last prefix at or before the name can match: prefixes are sorted, and none
        // starts with another.
        let place = prefixes.partition_point(|prefix| **prefix <= **name).checked_sub(1);
        if let Some(place) = place.filter(|place| name.starts_with(&*prefixes[*place])) {
            let sum = by_prefix[place].get_or_insert(Missed { count: Some(0), to: missed.to });
            sum.count = sum.count.zip(missed.count).map(|(sum, count)| sum + count);
            sum.to = sum.to.max(missed.to);
        } else if names.binary_search_by(|known| (**known).cmp(name)).is_ok() {
            gaps.push(gap(name, missed.count, &from.to_string(), missed.to));
        }
    }
    let from = after.to_string();
    gaps.extend(prefixes.iter().zip(by_prefix).filter_map(|(prefix, missed)| {
        missed.map(|missed| gap(&format!("{prefix}*"), missed.count, &from, missed.to))
    }));
    // Gaps of patterns have no counts: the lock is held, and matching each channel against the
    // patterns would take long.
    gaps.extend(channels.patterns().iter().map(|it| gap(it.text(), None, &from, newest)));
    gaps
}

/// Encodes gap events that belong together.
///
/// Only the last frame carries the id. So a client that is cut off between the frames receives all
/// of them again.
fn group(gaps: impl ExactSizeIterator<Item = Event>, id: Option<EventId>) -> Vec<Frame> {
    let last = gaps.len().saturating_sub(1);
    gaps.enumerate()
        .map(|(place, gap)| {
            let id = id.as_ref().filter(|_| place == last);
            gap.frame(id.map(|id| id as &dyn fmt::Display))
        })
        .collect()
}

/// Creates a gap event: `missed` events were lost after `from` and up to `to`. `None` means that
/// the number is unknown.
fn gap(channel: &str, missed: Option<u64>, from: &str, to: EventId) -> Event {
    let data = json!({ "channel": channel, "missed": missed, "from": from, "to": to.to_string() });
    Event::new(data.to_string()).with_name("gap").expect("a literal without line breaks")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_parsed_from_text() {
        assert_eq!("all".parse(), Ok(Start::All));
        assert_eq!("30s".parse(), Ok(Start::Age(Duration::from_secs(30))));
        assert_eq!("7-41".parse(), Ok(Start::After("7-41".into())));
        for wrong in ["order-7", "all ", "30", "yesterday", ""] {
            assert_eq!(wrong.parse::<Start>(), Err(ParseStartError), "{wrong}");
        }
    }
}
