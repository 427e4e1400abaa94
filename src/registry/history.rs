//! A channel's history: its latest events in a ring, its limits, and a record of the lost events.
//!
//! The ring is the channel's history, the source of replays, and the buffer of slow clients.
//!
//! Each ring counts its memory cost and adds it to one total. When the total exceeds its limit,
//! the registry evicts the oldest event of all channels, then the next oldest, until the total
//! fits. An evicted event becomes part of a gap, like an event that leaves its ring because of
//! the channel's own limits.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::channels::Private;
use super::update::{DedupEntry, Key};
use crate::counters::decrease;
use crate::event::Frame;
use crate::id::EventId;

/// The limits of a channel's history. The limit that is reached first applies.
///
/// ```
/// use threadcast::History;
///
/// let history = History { events: 100, ..History::default() };
/// assert_eq!(history.bytes, 1024 * 1024);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The maximum number of events. Default: 1,000.
    pub events: usize,
    /// The maximum size of the encoded events, in bytes. Default: 1 MiB.
    pub bytes: usize,
    /// The maximum age of an event. Default: 1 hour.
    pub age: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self { events: 1_000, bytes: 1024 * 1024, age: Duration::from_secs(3_600) }
    }
}

/// The history limits of all channels, by name pattern.
///
/// A name takes precedence over a prefix, and a longer prefix over a shorter one.
///
/// ```
/// use threadcast::{Histories, History};
///
/// let short = History { events: 10, ..History::default() };
/// let histories = Histories::default().with("chat*", short);
/// assert_ne!(histories, Histories::all(short));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histories {
    /// The limits of channels that no pattern matches.
    default: History,
    patterns: Vec<(String, History)>,
}

impl Histories {
    /// Applies the same limits to every channel.
    pub fn all(default: History) -> Self {
        Self { default, patterns: Vec::new() }
    }

    /// Sets the limits of the channels that match `pattern`: a name, or a prefix and `*`.
    ///
    /// If it is called twice with the same pattern, the later limits apply.
    #[must_use]
    pub fn with(mut self, pattern: impl Into<String>, history: History) -> Self {
        let pattern = pattern.into();
        self.patterns.retain(|(known, _)| *known != pattern);
        self.patterns.push((pattern, history));
        self
    }

    /// Returns the limits of this channel.
    pub(crate) fn of(&self, channel: &str) -> History {
        let matching =
            self.patterns.iter().filter(|(pattern, _)| match pattern.strip_suffix('*') {
                Some(prefix) => channel.starts_with(prefix),
                None => channel == pattern,
            });
        let closest = matching.max_by_key(|(pattern, _)| (!pattern.ends_with('*'), pattern.len()));
        closest.map_or(self.default, |(_, history)| *history)
    }

    /// The limits of all patterns, and the default limits.
    pub(crate) fn all_rules(&self) -> impl Iterator<Item = &History> {
        self.patterns.iter().map(|(_, history)| history).chain([&self.default])
    }
}

/// The default memory limit of all histories together, in bytes.
pub(crate) const HISTORY_TOTAL: usize = 256 << 20;

/// An event in a ring.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: EventId,
    /// When the event was published, on the registry's clock.
    pub(super) at: Duration,
    pub(super) frame: Frame,
    /// The client-supplied id and the idempotency key, if any.
    pub(super) dedup: Option<Box<DedupEntry>>,
    /// The topics of a private event; `None` if it is public.
    pub(super) private: Option<Arc<Private>>,
    /// Whether this is a presence event. A history's limits apply to presence events and to
    /// published events separately, so that presence events never evict published events.
    pub(super) presence: bool,
}

impl Entry {
    /// Which streams may learn that this event is lost.
    pub(super) fn visibility(&self) -> Visibility {
        match &self.private {
            None => Visibility::Public,
            Some(private) if private.topics.len() > 1 => Visibility::PrivateTopics,
            Some(_) => Visibility::PrivateChannel,
        }
    }

    /// The memory of this event, in bytes.
    ///
    /// An event of several topics is counted in full in each of its channels, although the rings
    /// share its frame.
    pub(super) fn cost(&self) -> usize {
        let names = |entry: &DedupEntry| -> usize {
            let texts = [entry.own.as_deref(), entry.key.as_ref().map(Key::stored)];
            texts.into_iter().flatten().map(|name| NAME + name.len()).sum()
        };
        let topics = self.private.iter().flat_map(|private| private.topics.iter());
        ENTRY
            + self.frame.len()
            + self.dedup.as_deref().map_or(0, names)
            + topics.map(|topic| TOPIC + topic.len()).sum::<usize>()
    }
}

/// The cost of an event besides its frame, in bytes: its entry in the ring (which has room for up
/// to twice as many), the frame's two counters, and the allocator's overhead.
const ENTRY: usize = 2 * size_of::<Entry>() + 32;

/// The cost of a client-supplied id or a key besides its text, in bytes: its places in the event
/// and in the dedup index, and the allocator's overhead.
const NAME: usize = 160;

/// The cost of a private event's topic besides its text, in bytes.
const TOPIC: usize = 48;

/// A channel's events in the order of their ids, and a record of the evicted ones.
#[derive(Debug)]
pub(super) struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The number and size of the presence events among the entries.
    presence: Amount,
    /// The number and size of the private events among the entries.
    private: Amount,
    /// What the entries cost in memory, in bytes.
    entries_cost: usize,
    /// The ring's share of the registry's total: `entries_cost` plus the cost of the runs of lost
    /// ids.
    cost: Cost,
    lost: LostIds,
    /// The separate record of lost public events; `None` until a private event is lost.
    hidden: Option<Box<Hidden>>,
}

/// The number and size of some of a ring's entries.
#[derive(Debug, Default, Clone, Copy)]
struct Amount {
    events: usize,
    bytes: usize,
}

impl Amount {
    /// Whether this amount exceeds the history's limits. A single event never exceeds them, because
    /// every caught-up subscriber must have a chance to read it.
    fn exceeds(self, history: &History) -> bool {
        self.events > 1 && (self.events > history.events || self.bytes > history.bytes)
    }

    fn add(&mut self, entry: &Entry) {
        self.events += 1;
        self.bytes += entry.frame.len();
    }

    fn subtract(&mut self, entry: &Entry) {
        decrease(&mut self.events, 1);
        decrease(&mut self.bytes, entry.frame.len());
    }
}

/// The additional record of losses that a ring keeps once it has lost a private event.
///
/// Subscribers that may not know of private events get their gaps from this record.
#[derive(Debug)]
struct Hidden {
    /// The lost events that were public.
    public: LostIds,
    /// Whether a lost private event had several topics.
    other_topics: bool,
}

impl Ring {
    /// Creates an empty ring. Events up to `floor` count as lost, in unknown number.
    pub(super) fn new(floor: Floor) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            presence: Amount::default(),
            private: Amount::default(),
            entries_cost: 0,
            cost: Cost::default(),
            lost: LostIds::below(floor.all),
            hidden: Hidden::below(floor),
        }
    }

    /// Makes an empty ring count its cost as a share of the total behind `cost`.
    pub(super) fn counted(self, cost: Cost) -> Self {
        Self { cost, ..self }
    }

    /// Updates the ring's share of the total. Every method that changes the ring ends with this
    /// call.
    fn settle(&mut self) {
        self.cost.set(self.entries_cost + self.runs_cost());
    }

    /// The memory of the runs of lost ids, in bytes. The first run is not counted, because it is
    /// part of the fixed cost of a channel.
    pub(super) fn runs_cost(&self) -> usize {
        let more = |lost: &LostIds| lost.runs.len().saturating_sub(1);
        let hidden = self.hidden.as_ref().map_or(0, |hidden| more(&hidden.public));
        RUN * (more(&self.lost) + hidden)
    }

    /// Appends the newest event. This method does not enforce the history's limits;
    /// [`trim`](Self::trim) does.
    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.frame.len();
        if entry.presence {
            self.presence.add(&entry);
        }
        if entry.private.is_some() {
            self.private.add(&entry);
        }
        self.entries_cost += entry.cost();
        self.entries.push_back(entry);
        self.settle();
    }

    /// Gives the newest event an idempotency key.
    pub(super) fn set_newest_key(&mut self, key: Key) {
        if let Some(entry) = self.entries.back_mut() {
            self.entries_cost -= entry.cost();
            entry.dedup.get_or_insert_default().key = Some(key);
            self.entries_cost += entry.cost();
            self.settle();
        }
    }

    /// Evicts the events that exceed the history's limits, and calls `gone` with each of them.
    ///
    /// The newest event is evicted only when it is too old, because every caught-up subscriber must
    /// have a chance to read it.
    pub(super) fn trim(&mut self, now: Duration, history: &History, mut gone: impl FnMut(&Entry)) {
        if self.presence.exceeds(history) {
            self.thin(history, &mut gone);
        }
        while let Some(oldest) = self.entries.front() {
            let too_many = self.published().exceeds(history);
            if !too_many && now.saturating_sub(oldest.at) <= history.age {
                return;
            }
            self.evict(&mut gone);
        }
    }

    /// The number and size of the entries that are not presence events.
    fn published(&self) -> Amount {
        let Amount { events, bytes } = self.presence;
        Amount {
            events: self.entries.len().saturating_sub(events),
            bytes: self.bytes.saturating_sub(bytes),
        }
    }

    /// Evicts the oldest presence events, and keeps the published events between them.
    ///
    /// Each call examines all entries. So that calls are rare, each one evicts presence events
    /// until they take at most nine tenths of the history's limits.
    #[cold]
    fn thin(&mut self, history: &History, gone: &mut impl FnMut(&Entry)) {
        let (events, bytes) = (history.events / 10 * 9, history.bytes / 10 * 9);
        let enough = History { events, bytes, ..*history };
        let (mut presence, mut thinned) = (self.presence, Vec::new());
        self.entries.retain(|entry| {
            let goes = entry.presence && presence.exceeds(&enough);
            if goes {
                presence.subtract(entry);
                thinned.push(entry.clone());
            }
            !goes
        });
        for entry in &thinned {
            self.subtract(entry);
            self.record_loss(entry);
            gone(entry);
        }
        self.settle();
    }

    /// Evicts the oldest event, and calls `gone` with it.
    pub(super) fn evict(&mut self, mut gone: impl FnMut(&Entry)) {
        let Some(entry) = self.entries.pop_front() else { return };
        self.subtract(&entry);
        self.record_loss(&entry);
        gone(&entry);
        // Release the memory of a ring that was once full.
        if self.entries.capacity() > SPARE.max(4 * self.entries.len()) {
            self.entries.shrink_to(2 * self.entries.len());
        }
        self.settle();
    }

    /// Subtracts an entry that has left the ring from the ring's counts, sizes and cost.
    fn subtract(&mut self, entry: &Entry) {
        decrease(&mut self.bytes, entry.frame.len());
        decrease(&mut self.entries_cost, entry.cost());
        if entry.presence {
            self.presence.subtract(entry);
        }
        if entry.private.is_some() {
            self.private.subtract(entry);
        }
    }

    /// The id of the oldest event in the ring.
    pub(super) fn oldest(&self) -> Option<EventId> {
        self.entries.front().map(|entry| entry.id)
    }

    /// Forgets all but the newest `keep` runs of lost ids, and returns whether it forgot any.
    ///
    /// A gap before the remaining runs is reported without a count.
    pub(super) fn forget_runs(&mut self, keep: usize) -> bool {
        let hidden = self.hidden.as_mut().is_some_and(|hidden| hidden.public.forget_runs(keep));
        let forgot = self.lost.forget_runs(keep) || hidden;
        self.settle();
        forgot
    }

    /// Deletes all events, and records them as lost.
    pub(super) fn clear(&mut self) {
        (self.bytes, self.entries_cost) = (0, 0);
        (self.presence, self.private) = (Amount::default(), Amount::default());
        for entry in std::mem::take(&mut self.entries) {
            self.record_loss(&entry);
        }
        self.settle();
    }

    fn record_loss(&mut self, entry: &Entry) {
        if let Some(private) = &entry.private {
            let public = &self.lost;
            let hidden = self.hidden.get_or_insert_with(|| {
                Box::new(Hidden { public: public.clone(), other_topics: false })
            });
            hidden.other_topics |= private.topics.len() > 1;
        } else if let Some(hidden) = &mut self.hidden {
            hidden.public.add(entry.id, entry.at);
        }
        self.lost.add(entry.id, entry.at);
    }

    /// Records that events up to a floor are lost, in unknown number.
    ///
    /// `at` is when the newest lost event was published, and `public_at` when the newest lost
    /// public event was published.
    pub(super) fn lost_before(&mut self, floor: Floor, at: Duration, public_at: Duration) {
        let floor = self.floor().max(floor);
        self.lost = LostIds { at, ..LostIds::below(floor.all) };
        self.hidden = Hidden::below(floor);
        if let Some(hidden) = &mut self.hidden {
            hidden.public.at = public_at;
        }
        self.settle();
    }

    /// Records that events up to `floor` may have been lost, unless the ring has recorded this
    /// already.
    pub(super) fn begin_at(&mut self, floor: Floor) {
        let known = self.floor();
        if known.max(floor) != known {
            self.lost_before(floor, Duration::ZERO, Duration::ZERO);
        }
    }

    /// Deletes all events, and records that any other event up to `to` may be lost too.
    pub(super) fn lose(&mut self, to: EventId) {
        self.clear();
        self.lost_before(Floor::unknown(to), self.lost.at, self.lost.at);
    }

    /// Returns the id of the newest lost event, and that of the newest lost public event.
    pub(super) fn floor(&self) -> Floor {
        let public = self.lost_of(|_| false).to;
        let other_topics = self.hidden.as_ref().is_some_and(|hidden| hidden.other_topics);
        Floor { all: self.lost.to, public, other_topics }
    }

    /// When the newest event in the ring was published.
    pub(super) fn newest_at(&self) -> Option<Duration> {
        self.entries.back().map(|entry| entry.at)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of public events, and their size in bytes.
    pub(super) fn public(&self) -> (usize, usize) {
        let Amount { events, bytes } = self.private;
        (self.len().saturating_sub(events), self.bytes.saturating_sub(bytes))
    }

    /// Whether the ring has, or once had, a private event.
    pub(super) fn has_private(&self) -> bool {
        self.private.events > 0 || self.hidden.is_some()
    }

    /// The id of the newest event that the ring ever had, whether it is kept or lost.
    pub(super) fn last_id(&self) -> EventId {
        self.entries.back().map_or(self.lost.to, |entry| entry.id)
    }

    /// The id of the newest public event that the ring ever had, whether it is kept or lost.
    pub(super) fn last_public_id(&self) -> EventId {
        let kept = self.entries.iter().rev().find(|entry| entry.private.is_none());
        kept.map_or(self.floor().public, |entry| entry.id)
    }

    /// Returns the newest event that was published before `time`, whether it is kept or lost.
    ///
    /// Considers only the kept events for which `sees` returns `true`, and the losses in `lost`.
    /// Returns `None` if no such event is known.
    pub(super) fn last_before(
        &self,
        time: Duration,
        lost: &LostIds,
        mut sees: impl FnMut(&Entry) -> bool,
    ) -> Option<EventId> {
        let place = self.entries.partition_point(|entry| entry.at < time);
        let newest = self.entries.range(..place).rev().find(|entry| sees(entry));
        // A lost presence event may be newer than an event in the ring.
        newest.map(|entry| entry.id).max((lost.at < time).then_some(lost.to))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The index of the first entry after `id`.
    pub(super) fn place_after(&self, id: EventId) -> usize {
        // Most readers' positions are at the end of the ring or a few events before it, so search
        // there first.
        let behind = self.entries.iter().rev().take(4).take_while(|entry| entry.id > id).count();
        if behind < 4 {
            return self.entries.len() - behind;
        }
        self.entries.partition_point(|entry| entry.id <= id)
    }

    pub(super) fn get(&self, place: usize) -> Option<&Entry> {
        self.entries.get(place)
    }

    /// The event with this id, if it is in the ring.
    pub(super) fn get_exactly(&self, id: EventId) -> Option<&Entry> {
        let place = self.place_after(id).checked_sub(1)?;
        self.get(place).filter(|entry| entry.id == id)
    }

    /// The ids of all lost events.
    pub(super) fn lost(&self) -> &LostIds {
        &self.lost
    }

    /// Returns the lost events that a stream may know of.
    ///
    /// `may_miss` decides whether the stream may know of lost private events. The argument of
    /// `may_miss` says whether a lost private event had several topics.
    pub(super) fn lost_of(&self, may_miss: impl FnOnce(bool) -> bool) -> &LostIds {
        match &self.hidden {
            Some(hidden) if !may_miss(hidden.other_topics) => &hidden.public,
            _ => &self.lost,
        }
    }
}

impl Hidden {
    /// Creates the record of the losses up to this floor. Returns `None` if the newest of them was
    /// public.
    fn below(floor: Floor) -> Option<Box<Self>> {
        let hidden =
            || Self { public: LostIds::below(floor.public), other_topics: floor.other_topics };
        floor.hides_some().then(|| Box::new(hidden()))
    }
}

/// Which subscribers may learn that an event is lost (evicted before they received it): those that
/// could have read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visibility {
    /// All subscribers: the event was public.
    Public,
    /// Readers of private events of the event's channel, which was its only topic.
    PrivateChannel,
    /// Readers of private events of the event's channel or of its other topics.
    PrivateTopics,
}

/// The ids up to which events may be lost: one id for all events, and one for public events.
///
/// A subscriber that may not read private events must learn only of lost public events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Floor {
    /// The newest lost event.
    pub(crate) all: EventId,
    /// The newest lost event that was public. It is never newer than `all`.
    pub(crate) public: EventId,
    /// Whether a lost private event had several topics.
    pub(crate) other_topics: bool,
}

impl Floor {
    /// The floor up to `id` if it is unknown which of the lost events were private. All of them
    /// count as public.
    pub(crate) fn unknown(id: EventId) -> Self {
        Self { all: id, public: id, other_topics: false }
    }

    /// The floor for the loss of one event.
    pub(crate) fn of(id: EventId, visibility: Visibility) -> Self {
        let public = if visibility == Visibility::Public { id } else { EventId::ZERO };
        Self { all: id, public, other_topics: visibility == Visibility::PrivateTopics }
    }

    /// Combines two floors: the result covers the lost events of both.
    #[must_use]
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            all: self.all.max(other.all),
            public: self.public.max(other.public),
            other_topics: self.other_topics | other.other_topics,
        }
    }

    /// Whether the newest lost event was private.
    pub(crate) fn hides_some(self) -> bool {
        self.public < self.all
    }
}

/// Events that a reader has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missed {
    /// The number of lost events, if known.
    pub(super) count: Option<u64>,
    /// The newest lost event. If it is unknown which events are lost, the newest that may be lost.
    pub(super) to: EventId,
}

/// The ids of lost events, as runs of consecutive ids.
///
/// With these runs, the counts in gap events are exact. If events are published to only one
/// channel, all lost ids form one run. There are never more than [`RUNS_MAX`] runs.
#[derive(Debug, Clone)]
pub(super) struct LostIds {
    runs: VecDeque<Run>,
    /// It is unknown which of the events up to this id were lost.
    unknown_to: EventId,
    /// The newest lost event.
    to: EventId,
    /// When the newest lost event was published.
    at: Duration,
}

/// The maximum number of runs that a channel remembers. Gaps before the oldest remembered run have
/// no count.
const RUNS_MAX: usize = 4_096;

/// The memory of one run, in bytes. A deque may have room for twice as many runs as it holds, so
/// each run counts twice.
const RUN: usize = 2 * size_of::<Run>();

/// A deque with room for at most this many items is not shrunk.
const SPARE: usize = 32;

#[derive(Debug, Clone, Copy)]
struct Run {
    first: EventId,
    count: u64,
}

impl Run {
    fn last(&self) -> EventId {
        EventId { n: self.first.n + self.count - 1, ..self.first }
    }
}

impl LostIds {
    fn below(floor: EventId) -> Self {
        Self { runs: VecDeque::new(), unknown_to: floor, to: floor, at: Duration::ZERO }
    }

    /// Adds a lost event. Events are evicted from the front of a ring in the order of ids. Only a
    /// presence event can be evicted from between others, so its id may be lower than one added
    /// before.
    fn add(&mut self, id: EventId, at: Duration) {
        if id > self.to {
            (self.to, self.at) = (id, at);
        }
        if id <= self.unknown_to {
            return;
        }
        let mut place = self.runs.len();
        if self.runs.back().is_some_and(|run| run.first > id) {
            place = self.runs.partition_point(|run| run.first <= id);
        }
        if let Some(run) = place.checked_sub(1).and_then(|before| self.runs.get_mut(before))
            && run.last().next() == id
        {
            run.count += 1;
            return self.join(place);
        }
        if self.runs.len() == RUNS_MAX {
            let oldest = if place == 0 { None } else { self.runs.pop_front() };
            self.unknown_to = oldest.map_or(id, |run| run.last());
            if place == 0 {
                return;
            }
            place -= 1;
        }
        self.runs.insert(place, Run { first: id, count: 1 });
        self.join(place + 1);
    }

    /// Merges the runs at `place - 1` and `place` if they are consecutive.
    fn join(&mut self, place: usize) {
        let (Some(before), Some(run)) =
            (place.checked_sub(1).and_then(|before| self.runs.get(before)), self.runs.get(place))
        else {
            return;
        };
        if before.last().next() == run.first {
            let count = run.count;
            self.runs.remove(place);
            self.runs[place - 1].count += count;
        }
    }

    fn forget_runs(&mut self, keep: usize) -> bool {
        let forgotten = self.runs.len().saturating_sub(keep);
        let Some(last) = self.runs.drain(..forgotten).next_back() else { return false };
        self.unknown_to = last.last();
        self.runs.shrink_to_fit();
        true
    }

    /// The id of the newest lost event.
    pub(super) fn to(&self) -> EventId {
        self.to
    }

    /// Whether the channel itself is known to have lost an event. Otherwise, the record has only
    /// the losses of channels that were removed.
    pub(super) fn are_of_the_channel(&self) -> bool {
        self.at > Duration::ZERO
    }

    /// Returns the events that were lost after the id `after` and up to the id `upto`.
    ///
    /// Losses with unknown ids (up to `unknown_to`) are reported once, when a reader passes the
    /// newest of these ids.
    pub(super) fn between(&self, after: EventId, upto: EventId) -> Option<Missed> {
        if self.to <= after {
            return None; // the common case
        }
        let until = self.runs.partition_point(|run| run.first <= upto);
        let newest = until.checked_sub(1).map(|place| self.runs[place].last().min(upto));
        if after < self.unknown_to && upto >= self.unknown_to {
            let to = newest.unwrap_or(self.unknown_to);
            return Some(Missed { count: None, to });
        }
        let to = newest.filter(|to| *to > after)?;
        let from = self.runs.partition_point(|run| run.last() <= after);
        let count = (self.runs.range(from..until))
            .map(|run| {
                let first = run.first.max(EventId { n: after.n.saturating_add(1), ..after });
                run.last().min(upto).n - first.n + 1
            })
            .sum();
        Some(Missed { count: Some(count), to })
    }
}

/// The cost of all rings together, and a queue of the channels by their oldest event.
///
/// # Invariants
///
/// * **A channel that is not in the queue has no memory cost.** Each channel that has events, or
///   remembers more than one run of lost ids, has exactly one place in the queue.
/// * **A place in the queue is never later than its channel's oldest event.** It may be earlier,
///   because only `HubState::evict` moves a channel to its correct place.
#[derive(Debug, Default)]
pub(super) struct HistoryTotal {
    pub(super) total: Arc<AtomicUsize>,
    /// Each channel that has a cost, with an id that is not later than the channel's oldest event.
    pub(super) queue: BTreeSet<(EventId, Arc<str>)>,
}

impl HistoryTotal {
    /// Creates the share of a new ring, which is 0 at first.
    pub(super) fn part(&self) -> Cost {
        Cost { bytes: 0, total: Arc::clone(&self.total) }
    }

    /// The cost of all rings together, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Removes a channel's place from the queue, because the channel has been removed.
    pub(super) fn remove(&mut self, place: Option<EventId>, name: &Arc<str>) {
        if let Some(place) = place {
            self.queue.remove(&(place, Arc::clone(name)));
        }
    }
}

/// A ring's share of the total. Dropping this value subtracts the share from the total.
#[derive(Debug, Default)]
pub(super) struct Cost {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl Cost {
    /// Sets the ring's share. The caller holds the registry's lock, so relaxed operations suffice.
    pub(super) fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        let total = self.total.load(Ordering::Relaxed);
        self.total.store(total + bytes - before, Ordering::Relaxed);
    }
}

impl Drop for Cost {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn id(n: u64) -> EventId {
        EventId { epoch: 7, n }
    }

    fn entry(n: u64) -> Entry {
        let frame = Event::new("x").frame(Some(&id(n)));
        let at = Duration::from_secs(n);
        Entry { id: id(n), at, frame, dedup: None, private: None, presence: false }
    }

    fn push(ring: &mut Ring, n: u64, history: &History) {
        ring.push(entry(n));
        ring.trim(Duration::from_secs(n), history, |_| {});
    }

    fn missed(count: u64, to: u64) -> Missed {
        Missed { count: Some(count), to: id(to) }
    }

    #[test]
    fn the_most_specific_pattern_applies() {
        let keeping = |events| History { events, ..History::default() };
        let histories = Histories::all(keeping(1))
            .with("chat*", keeping(2))
            .with("chat/*", keeping(3))
            .with("chat/1", keeping(4));
        for (channel, events) in [("news", 1), ("chat", 2), ("chat/2", 3), ("chat/1", 4)] {
            assert_eq!(histories.of(channel).events, events, "{channel}");
        }
    }

    #[test]
    fn the_first_limit_reached_applies() {
        let by_count = History { events: 2, ..History::default() };
        let by_bytes = History { bytes: 2 * entry(1).frame.len(), ..History::default() };
        let by_age = History { age: Duration::from_secs(1), ..History::default() };
        for history in [by_count, by_bytes, by_age] {
            let mut ring = Ring::new(Floor::default());
            (1..=5).for_each(|n| push(&mut ring, n, &history));
            assert_eq!(ring.get(0).unwrap().id, id(4), "{history:?}");
            assert_eq!(ring.place_after(id(4)), 1);
            assert_eq!(ring.lost.between(id(0), id(9)), Some(missed(3, 3)));
        }
    }

    #[test]
    fn presence_events_are_evicted_before_published_ones() {
        let history = History { events: 20, ..History::default() };
        let mut ring = Ring::new(Floor::default());
        for n in 1..=100 {
            ring.push(Entry { presence: n % 10 != 0, ..entry(n) });
            ring.trim(Duration::from_secs(n), &history, |entry| assert!(entry.presence));
        }
        let kept: Vec<u64> = ring.entries().map(|entry| entry.id.n).collect();
        assert!((10..=100).step_by(10).all(|n| kept.contains(&n)), "{kept:?}");
        assert!((28..=30).contains(&kept.len()), "{kept:?}");
        assert_eq!(ring.bytes(), ring.entries().map(|entry| entry.frame.len()).sum::<usize>());
        for after in 0..=100 {
            for upto in after..=100 {
                let gone = (after + 1..=upto).filter(|n| !kept.contains(n)).count() as u64;
                let found = ring.lost().between(id(after), id(upto));
                assert_eq!(found.map_or(Some(0), |missed| missed.count), Some(gone));
            }
        }
        for n in 101..=130 {
            push(&mut ring, n, &history);
        }
        assert!(
            ring.entries().all(|entry| entry.id.n > 110),
            "the limit of published events still applies"
        );
    }

    #[test]
    fn losses_in_any_order_become_sorted_runs() {
        let mut lost = LostIds::below(EventId::ZERO);
        for n in [5, 9, 7, 8, 1, 6, 3, 2, 20] {
            lost.add(id(n), Duration::from_secs(n));
        }
        let runs: Vec<(u64, u64)> = lost.runs.iter().map(|run| (run.first.n, run.count)).collect();
        assert_eq!(runs, [(1, 3), (5, 5), (20, 1)]);
        assert_eq!((lost.to, lost.at), (id(20), Duration::from_secs(20)));
    }

    #[test]
    fn unknown_losses_are_reported_once() {
        let lost = LostIds::below(id(8));
        assert_eq!(
            lost.between(id(5), id(7)),
            None,
            "the loss is reported when the reader passes 8"
        );
        assert_eq!(lost.between(id(7), id(8)), Some(Missed { count: None, to: id(8) }));
        assert_eq!(lost.between(id(8), id(9)), None);
    }

    #[test]
    fn the_newest_event_is_never_evicted() {
        let mut ring = Ring::new(Floor::default());
        push(&mut ring, 1, &History { events: 0, bytes: 0, ..History::default() });
        assert_eq!(ring.place_after(id(0)), 0);
        assert_eq!(ring.get(0).unwrap().id, id(1));
    }

    #[test]
    fn indexes_are_found_near_the_end_and_far_from_it() {
        let mut ring = Ring::new(Floor::default());
        (1..=100).for_each(|n| ring.push(entry(2 * n)));
        for n in 0..=201 {
            let expected = (1..=100).filter(|m| 2 * m <= n).count();
            assert_eq!(ring.place_after(id(n)), expected, "after {n}");
        }
    }

    #[test]
    fn losses_are_counted_between_any_two_ids() {
        let mut ring = Ring::new(Floor::default());
        let gone = [1, 2, 3, 7, 9, 10];
        let history = History { events: 1, ..History::default() };
        gone.iter().chain(&[11]).for_each(|n| push(&mut ring, *n, &history));
        for after in 0..12 {
            for upto in 0..12 {
                let count = gone.iter().filter(|n| **n > after && **n <= upto).count() as u64;
                let found = ring.lost.between(id(after), id(upto));
                assert_eq!(found.map_or(Some(0), |missed| missed.count), Some(count));
            }
        }
    }

    #[test]
    fn unknown_losses_have_no_count() {
        let mut ring = Ring::new(Floor::unknown(id(5)));
        assert_eq!(ring.lost.between(id(4), id(9)), Some(Missed { count: None, to: id(5) }));
        assert_eq!(ring.lost.between(id(5), id(9)), None);
        let history = History { events: 1, ..History::default() };
        let runs = RUNS_MAX as u64;
        (0..=runs + 1).for_each(|n| push(&mut ring, 10 + 2 * n, &history));
        assert_eq!(ring.lost.between(id(9), id(10)), Some(Missed { count: None, to: id(10) }));
        assert_eq!(ring.lost.between(id(10), id(u64::MAX)), Some(missed(runs, 10 + 2 * runs)));
    }
}
