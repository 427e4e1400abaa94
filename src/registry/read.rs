//! Reads events after a position, in the order of ids.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::readable::StreamAccess;
use super::ring::{Entry, LostIds, Missed, Ring};
use super::{Channel, Channels, HubState, Position, Registry};
use crate::event::{Event, Frame, Framing};
use crate::id::EventId;

/// When a private event needs an access check, this many events of each channel are examined ahead.
const LOOK_AHEAD: usize = 64;

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
}

impl Registry {
    /// Appends the events after `position` to `out`, and advances the position.
    ///
    /// Events are written in the order of ids until `limit` bytes are reached; the first frame is
    /// always written, regardless of its size. No event after `upto` is read.
    ///
    /// A lost event is never skipped silently: a gap frame is written before the next event. So
    /// wherever a client is cut off, it can resume after the last id that it received, and loses
    /// nothing. Besides this function, only the start of a stream writes gap frames.
    pub(crate) fn read(
        &self,
        channels: &Channels,
        position: &mut Position,
        upto: Option<EventId>,
        limit: usize,
        framing: Framing,
        out: &mut Vec<u8>,
    ) -> Batch {
        let mut batch = Batch { events: 0, gaps: 0, since: None, more: false, ending: false };
        let mut access = StreamAccess::default();
        let reading =
            Reading { channels, upto, limit: out.len() + limit.min(usize::MAX / 2), framing };
        // Repeat until every private event in the range has an access decision.
        while !self.read_known(&reading, position, out, &mut batch, &mut access) {
            access.resolve(channels);
        }
        batch
    }

    /// Reads until the limit is reached, or until a private event has no access decision yet.
    ///
    /// Returns `false` in the latter case.
    fn read_known(
        &self,
        reading: &Reading<'_>,
        position: &mut Position,
        out: &mut Vec<u8>,
        batch: &mut Batch,
        access: &mut StreamAccess,
    ) -> bool {
        let Reading { channels, upto, limit, framing } = *reading;
        let state = self.lock();
        let upto = upto.map_or(state.last, |upto| upto.min(state.last));
        // A stream without ids is a clock, which no client resumes, so a lost tick is not reported.
        let gaps = self.inner.options.ids;
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
            // Skip an event of several topics that another ring has already supplied. Also skip an
            // event that the stream may not read: the stream gets no gap, id or count for it.
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
        true
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

impl Registry {
    /// Whether a stream that begins at `position` receives everything after it, without a gap.
    pub(super) fn is_whole_after(&self, channels: &Channels, position: &Position) -> bool {
        let mut access = StreamAccess::default();
        loop {
            let state = self.lock();
            let sources = state.sources(channels, position, state.last, &mut access);
            if !access.has_pending() {
                let misses = |source: &Source<'_>| {
                    source.lost.between(source.gaps_from, state.last).is_some()
                };
                return !sources.iter().any(misses);
            }
            drop(state);
            access.resolve(channels);
        }
    }
}

impl HubState {
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
    #[inline(never)] // most streams have no patterns
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
            lost = channels.lost_of(name, ring, access);
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
#[inline(never)] // rarely called, so keep its stack frame out of the caller
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
pub(super) fn group(gaps: impl ExactSizeIterator<Item = Event>, id: Option<EventId>) -> Vec<Frame> {
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
pub(super) fn gap(channel: &str, missed: Option<u64>, from: &str, to: EventId) -> Event {
    let data = json!({ "channel": channel, "missed": missed, "from": from, "to": to.to_string() });
    Event::new(data.to_string()).with_name("gap").expect("a literal without line breaks")
}
