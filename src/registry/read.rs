//! Reading after a position: what a subscriber gets, in the order of ids.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::readable::Verdicts;
use super::ring::{Entry, Lost, Missed, Ring};
use super::{Channel, Channels, HubState, Position, Registry};
use crate::event::{Event, Frame, Framing};
use crate::id::EventId;

/// How many events of each channel are looked at ahead of one that is to be asked about.
const LOOK_AHEAD: usize = 64;

/// What one read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batch {
    /// How many events were read.
    pub(crate) events: u64,
    /// How many gaps had to be told.
    pub(crate) gaps: u64,
    /// When the first of them was published, since the registry began.
    pub(crate) since: Option<Duration>,
    /// Whether there is more right now.
    pub(crate) more: bool,
    /// Whether the streams are to end, and nothing is left to be read.
    pub(crate) ending: bool,
}

impl Registry {
    /// Appends to `out` what came into these channels after `position`, in the
    /// order of ids, until `limit` bytes are reached (one frame is always
    /// taken, whatever its size), and moves the position on. `upto` is the last
    /// id that is looked at.
    ///
    /// This is the only maker of gap frames. An event that is gone is never
    /// passed over in silence: what is missing before an event is said before
    /// that event, so wherever a client is cut off, the id it has is a cursor
    /// that loses nothing.
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
        let mut verdicts = Verdicts::default();
        let reading =
            Reading { channels, upto, limit: out.len() + limit.min(usize::MAX / 2), framing };
        // Until nothing is left to be asked about private events.
        while !self.read_known(&reading, position, out, &mut batch, &mut verdicts) {
            verdicts.ask(channels);
        }
        batch
    }

    /// Reads up to an event of which it is not known whether the stream may be given it:
    /// then it is `false`.
    fn read_known(
        &self,
        reading: &Reading<'_>,
        position: &mut Position,
        out: &mut Vec<u8>,
        batch: &mut Batch,
        verdicts: &mut Verdicts,
    ) -> bool {
        let Reading { channels, upto, limit, framing } = *reading;
        let state = self.lock();
        let upto = upto.map_or(state.last, |upto| upto.min(state.last));
        // Nobody resumes a clock: a tick that is gone is not missed.
        let gaps = self.inner.options.ids;
        let mut sources = state.sources(channels, position, upto, verdicts);
        if verdicts.lacks_some() {
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
                Some(private) => verdicts.of(channels, private),
            };
            let Some(given) = given else {
                sources.iter().for_each(|source| source.look_ahead(channels, upto, verdicts));
                position.after = next;
                return false;
            };
            // An event of several topics stands in several rings. And what is not for
            // this stream is not there for it: no gap, no id, nothing counted.
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
                let told = Told { after: next, known: position.known, upto: id, next: Some(id) };
                batch.gaps += write_gaps(channels, &sources, &told, framing, out).0;
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
                let told = Told { after: next, known: position.known, upto, next: None };
                let (count, newest) = write_gaps(channels, &sources, &told, framing, out);
                batch.gaps += count;
                position.known = position.known.max(newest);
            }
            next = next.max(upto);
            let known = state.last_known(channels);
            if known <= next {
                position.known = position.known.max(known);
            }
            position.forgiven = None;
        }
        position.after = next;
        let is_ending = state.open.is_none() || state.closing.is_some();
        batch.ending = is_ending && next >= state.last;
        true
    }
}

/// What is to be read, and in which form.
#[derive(Clone, Copy)]
struct Reading<'a> {
    channels: &'a Channels,
    upto: Option<EventId>,
    /// How long the output may become, if it has an event.
    limit: usize,
    framing: Framing,
}

impl Registry {
    /// Whether a stream that begins here is given all that came after, without a gap.
    pub(super) fn is_whole_after(&self, channels: &Channels, position: &Position) -> bool {
        let mut verdicts = Verdicts::default();
        loop {
            let state = self.lock();
            let sources = state.sources(channels, position, state.last, &mut verdicts);
            if !verdicts.lacks_some() {
                let misses = |source: &Source<'_>| {
                    source.lost.between(source.told_from, state.last).is_some()
                };
                return !sources.iter().any(misses);
            }
            drop(state);
            verdicts.ask(channels);
        }
    }
}

impl HubState {
    /// The channels that have something after `from`. Plain loops: this is the
    /// deepest that a stream's thread gets, and it pays for its stack for life.
    fn sources<'a>(
        &'a self,
        channels: &Channels,
        position: &Position,
        upto: EventId,
        verdicts: &mut Verdicts,
    ) -> Vec<Source<'a>> {
        let mut sources = Vec::with_capacity(channels.names.len());
        let mut add = |name, channel: &'a Channel| {
            sources.extend(Source::of((name, channel), channels, position, upto, verdicts));
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
            self.add_selected(&mut sources, channels, position, upto, verdicts);
        }
        sources
    }

    /// Adds those that patterns select, each once.
    #[inline(never)] // most streams have none
    fn add_selected<'a>(
        &'a self,
        sources: &mut Vec<Source<'a>>,
        channels: &Channels,
        position: &Position,
        upto: EventId,
        verdicts: &mut Verdicts,
    ) {
        for slot in self.patterns.selected(channels.patterns()).iter() {
            let channel = self.slots.get(slot).and_then(|name| self.channels.get_key_value(name));
            let Some((name, channel)) = channel else { continue };
            sources.extend(Source::of((name, channel), channels, position, upto, verdicts));
        }
        sources.sort_unstable_by_key(|source| source.name);
        sources.dedup_by_key(|source| source.name);
    }
}

/// One channel, as far as it has been read.
struct Source<'a> {
    name: &'a str,
    ring: &'a Ring,
    /// What is gone of it, as far as the stream is to know.
    lost: &'a Lost,
    place: usize,
    /// After where its losses are told.
    told_from: EventId,
}

impl<'a> Source<'a> {
    /// `None` if it has nothing after this position.
    fn of(
        (name, channel): (&'a str, &'a Channel),
        channels: &Channels,
        position: &Position,
        upto: EventId,
        verdicts: &mut Verdicts,
    ) -> Option<Self> {
        let (ring, told_from) = (&channel.ring, position.told_from(name));
        let mut lost = ring.lost();
        if lost.to() > told_from {
            lost = channels.lost_of(name, ring, verdicts);
        }
        let place = ring.place_after(position.after);
        let source = Source { name, ring, lost, place, told_from };
        (source.next(upto).is_some() || lost.to() > told_from).then_some(source)
    }

    fn next(&self, upto: EventId) -> Option<&'a Entry> {
        self.ring.get(self.place).filter(|entry| entry.id <= upto)
    }

    /// Notes the next private events that are still to be asked about, so that few locks
    /// are taken for many of them.
    fn look_ahead(&self, channels: &Channels, upto: EventId, verdicts: &mut Verdicts) {
        let ahead = (self.place..).map_while(|place| self.ring.get(place));
        for entry in ahead.take_while(|entry| entry.id <= upto).take(LOOK_AHEAD) {
            if verdicts.is_full() {
                return;
            }
            if let Some(private) = &entry.private {
                verdicts.of(channels, private);
            }
        }
    }
}

/// Which losses are told.
struct Told {
    /// After this id, of which the stream may know nothing but `known`.
    after: EventId,
    known: EventId,
    upto: EventId,
    /// The event before which they are told.
    next: Option<EventId>,
}

/// Writes what is missing, and says of how many channels something is, and the newest id of it.
fn write_gaps(
    channels: &Channels,
    sources: &[Source<'_>],
    told: &Told,
    framing: Framing,
    out: &mut Vec<u8>,
) -> (u64, EventId) {
    let Told { after, known, upto, next } = *told;
    let losses = sources.iter().filter_map(|source| {
        let from = source.told_from.max(after);
        let shown = if from == after { known } else { from };
        source.lost.between(from, upto).map(|missed| (source.name, missed, shown))
    });
    let losses: Vec<Loss<'_>> = losses.collect();
    let Some(newest) = losses.iter().map(|(_, missed, _)| missed.to).max() else {
        return (0, EventId::ZERO);
    };
    // Where it is not known which are gone, the newest may be the event that comes
    // next. Its id must not be said before it is.
    let id = (next != Some(newest)).then_some(newest);
    let gaps = if losses.len() > GAPS_MAX {
        summary(channels, &losses, known, newest)
    } else {
        let gap =
            |(name, missed, from): &Loss<'_>| gap(name, missed.count, &from.to_string(), missed.to);
        losses.iter().map(gap).collect()
    };
    for frame in group(gaps.into_iter(), id) {
        out.extend_from_slice(frame.bytes(framing));
    }
    (losses.len() as u64, newest)
}

/// How many channels have a gap event each. Where more have lost events at once, each name, prefix
/// and pattern of the stream has one instead, so that a stream's unsent bytes are bounded: a gap
/// names its channel, which takes up to 6 KiB.
const GAPS_MAX: usize = 16;

/// What is missing of a channel, and after which event.
type Loss<'a> = (&'a str, Missed, EventId);

/// One gap for each name and prefix of a stream that has lost events, and for each pattern.
#[inline(never)] // few streams ever need it
fn summary(
    channels: &Channels,
    losses: &[Loss<'_>],
    after: EventId,
    newest: EventId,
) -> Vec<Event> {
    let (names, prefixes) = (&channels.names, &channels.prefixes);
    let mut gaps = Vec::new();
    let mut by_prefix: Vec<Option<Missed>> = vec![None; prefixes.len()];
    for (name, missed, from) in losses {
        // Both are sorted, and no prefix begins with another.
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
    // To ask a pattern of each channel would take long, and the lock is held.
    gaps.extend(channels.patterns().iter().map(|it| gap(it.text(), None, &from, newest)));
    gaps
}

/// Gaps that belong together: the last alone carries the id, so that a client
/// that is cut off between them is told all of them again.
pub(super) fn group(gaps: impl ExactSizeIterator<Item = Event>, id: Option<EventId>) -> Vec<Frame> {
    let last = gaps.len().saturating_sub(1);
    gaps.enumerate()
        .map(|(place, gap)| {
            let id = id.as_ref().filter(|_| place == last);
            gap.frame(id.map(|id| id as &dyn fmt::Display))
        })
        .collect()
}

/// A loss, said out loud: how many events (if that is known) are missing after
/// `from` and up to `to`.
pub(super) fn gap(channel: &str, missed: Option<u64>, from: &str, to: EventId) -> Event {
    let data = json!({ "channel": channel, "missed": missed, "from": from, "to": to.to_string() });
    Event::new(data.to_string()).with_name("gap").expect("a literal without line breaks")
}
