//! The interface between the registry and the place where its events are kept.
//!
//! Without a store, the events are only in the rings: the publisher's thread adds them itself (see
//! [`update`](super::update)), and there is no log. Any other place is an [`EventLog`]: a file or a
//! log that several nodes share. The modules in `store` implement it; the registry imports none of
//! them.
//!
//! ```text
//!  publisher ──▶ Registry ─ EventLog::publish ────▶ thread of the log ──▶ file or shared log
//!  reply     ◀──────────────────────────────────────┤
//!  read      ◀── rings ◀─── Registry::append ───────┘ once the log has the events
//! ```
//!
//! A log fills the rings at the start with [`Restoring`], and later with [`Registry::append`].
//!
//! # Invariants
//!
//! * **A log calls [`Registry::append`] only with events that it has.** So no subscriber sees an
//!   event that a crash could undo.
//! * **Events enter the rings in the order of their ids.**
//! * **A hole in the log is reported.** It empties the rings, and every subscriber whose position
//!   is before the hole gets a gap event.
//! * **The registry's lock is not held during I/O.**

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::channels::Private;
use super::dedup::{DedupEntry, DedupIndex, Key};
use super::patterns::{self, PatternMatches};
use super::ring::Entry;
use super::state::{Channel, Evictions, HubState};
use super::subscription::Notifiers;
use super::{Published, Registry, RegistryOptions, Update};
use crate::counters::Counters;
use crate::error::PublishError;
use crate::event::Event;
use crate::id::EventId;

/// A place where events are kept besides the rings.
///
/// Its threads write the events, and call [`Registry::append`] once the log has them.
pub(crate) trait EventLog: fmt::Debug + Send + Sync {
    /// Publishes an update with valid topics, and waits until the log has its events.
    ///
    /// `readers` is the number of streams that may read the events, if they are private.
    fn publish(
        &self,
        update: &Update<'_>,
        readers: Option<usize>,
    ) -> Result<Published, PublishError>;

    /// Deletes a channel's history from the log and then from the ring, and waits for that.
    ///
    /// Returns whether the channel existed.
    fn forget(&self, channel: &str) -> Result<bool, PublishError>;

    /// Publishes a presence event. Does not wait for the log, but fails if its queue is full.
    ///
    /// Called only if [`report_presence`](Self::report_presence) returns `false`.
    fn publish_presence(&self, channel: &str, event: &Event) -> Result<(), PublishError> {
        let _ = (channel, event);
        Ok(())
    }

    /// Reports that a name joins or leaves a channel on this node, if nodes share the log.
    ///
    /// Only such a log knows whether the name is also present on another node, so the log publishes
    /// the event. Returns whether it does so. Must not block: the caller holds the registry's lock,
    /// so that the log gets the changes in the order in which they happened.
    fn report_presence(&self, channel: &Arc<str>, name: &str, joins: bool) -> bool {
        let _ = (channel, name, joins);
        false
    }

    /// Deletes soon what the rings have evicted, if the log keeps exactly what the rings have.
    fn delete_evicted(&self) {}

    /// Whether the log can be reached; `None` if it belongs to this node alone.
    fn is_reachable(&self) -> Option<bool> {
        None
    }
}

/// An item that the log has, for the rings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LogItem {
    /// An event.
    Event(EventId, Record),
    /// An order to all nodes to forget a channel's history, up to this floor.
    Forget(EventId, Arc<str>, Floor),
    /// A hole in the log: an unknown number of entries up to this id is missing.
    Lost(EventId),
}

/// One event, with all its data that a registry needs after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) channel: Arc<str>,
    /// The time of publishing, since 1970. It never decreases, even if the clock is set back.
    pub(crate) at: Duration,
    pub(crate) event: Event,
    /// The idempotency key of the publish request. Of the new events in a request, only the last
    /// one has the key.
    pub(crate) key: Option<Key>,
    /// The numbers of subscribers and events in the reply to the publisher; repeats of the request
    /// get the same numbers. If `count` is 0, this is a presence event, which the server itself has
    /// published.
    pub(crate) subscribers: usize,
    pub(crate) count: usize,
    /// The topics besides the channel, and whether the event is private; `None` for a public event
    /// without other topics.
    pub(crate) reach: Option<Arc<Reach>>,
}

/// The other topics of an event, and whether it is private.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Reach {
    pub(crate) private: bool,
    /// The event's topics besides its channel, in the order of the request.
    pub(crate) others: Vec<Arc<str>>,
    /// The topics whose rings have evicted the event. A store sets this when it reads the event.
    pub(crate) gone: Vec<Arc<str>>,
}

impl Record {
    /// All topics of the event; its channel comes first.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        let others = self.reach.iter().flat_map(|reach| &reach.others);
        std::iter::once(&self.channel).chain(others)
    }

    /// The channels whose rings still have the event.
    pub(crate) fn channels(&self) -> impl Iterator<Item = &Arc<str>> {
        let gone = self.reach.as_ref().map_or(&[][..], |reach| &reach.gone);
        self.topics().filter(|topic| !gone.contains(topic))
    }

    /// Whether this is a presence event.
    pub(crate) fn is_presence(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn is_private(&self) -> bool {
        self.reach.as_ref().is_some_and(|reach| reach.private)
    }
}

/// An event or a channel that the store can delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Eviction {
    /// A channel's ring has evicted an event. The store keeps the id of the newest event that the
    /// channel has lost.
    Event { channel: Arc<str>, id: EventId, at: Duration, visibility: Visibility },
    /// The registry has removed an idle channel. Of this channel, the store keeps only the floor:
    /// the id up to which any channel may have lost events.
    Channel { channel: Arc<str>, floor: Floor },
    /// A channel whose last event was `id` goes on.
    End { channel: Arc<str>, id: EventId },
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

/// The lost events of one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChannelLosses {
    pub(crate) channel: Arc<str>,
    pub(crate) floor: Floor,
    /// When the newest lost event and the newest lost public event were published, since 1970.
    pub(crate) at: Duration,
    pub(crate) public_at: Duration,
}

/// The data that a log has besides the events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct StoreMeta {
    /// The newest id that the store has assigned.
    pub(crate) last: EventId,
    pub(crate) floor: Floor,
    /// The channels that have lost events.
    pub(crate) lost: Vec<ChannelLosses>,
    /// The channels that have ended, each with the id and the time of its last event.
    pub(crate) ended: Vec<(Arc<str>, EventId, Duration)>,
}

/// A registry that is being filled with the items of its log.
pub(crate) struct Restoring {
    state: HubState,
    options: RegistryOptions,
}

impl Restoring {
    /// Begins with no event, for a log that deletes the events that the rings evict.
    pub(crate) fn new(options: RegistryOptions) -> Self {
        let state = HubState { losses: Evictions::noted(), ..HubState::new(EventId::ZERO) };
        Self { state, options }
    }

    /// Begins with no event, for a log that other nodes write too.
    pub(crate) fn shared(options: RegistryOptions) -> Self {
        let state = HubState { is_shared: true, ..HubState::new(EventId::ZERO) };
        Self { state, options }
    }

    /// Adds the next item of the log.
    pub(crate) fn receive(&mut self, item: LogItem) {
        let Self { state, options } = self;
        let item = EncodedItem::of(item, options);
        let targets = if state.is_shared { item.targets() } else { Vec::new() };
        state.apply(item, options, &PatternMatches::default());
        // A shared log keeps far more events than the rings, so evict by size after each item. Evict
        // by age later, because the log's clock is not known yet.
        targets.iter().for_each(|(name, _)| state.trim(name, Duration::ZERO));
        state.evict(options.history_total);
    }

    /// Adds the data that the log has besides the events.
    pub(crate) fn restore(&mut self, kept: StoreMeta) {
        self.state.restore(kept, &self.options);
    }

    /// Records that the log begins at `floor` and ends at `last`, so any channel may have lost
    /// events up to `floor`.
    pub(crate) fn begin_at(&mut self, floor: EventId, last: EventId) {
        self.state.begin_at(floor, last);
    }

    /// When the newest event in the rings was published.
    pub(crate) fn newest_at(&self) -> Option<Duration> {
        self.state.channels.values().filter_map(|channel| channel.ring.newest_at()).max()
    }

    /// Evicts expired events, and starts the registry. `now` is the time on the log's clock.
    pub(crate) fn start(
        mut self,
        now: Duration,
        counters: &Arc<Counters>,
        log: Box<dyn EventLog>,
    ) -> Registry {
        let names: Vec<Arc<str>> = self.state.channels.keys().cloned().collect();
        names.iter().for_each(|name| self.state.trim(name, now));
        Registry::of(self.state, self.options, counters, Some(log), now)
    }
}

/// Adds items to the rings: see [`Registry::append`].
pub(super) fn append(registry: &Registry, items: Vec<LogItem>) {
    let options = &registry.inner.options;
    // Encode the events before taking the lock, to hold it for a short time.
    let items: Vec<EncodedItem> =
        items.into_iter().map(|item| EncodedItem::of(item, options)).collect();
    // A set, so that each channel is notified once for its public events, and once for each list of
    // topics of its private events.
    let targets: BTreeSet<(Arc<str>, Option<Arc<Private>>)> =
        items.iter().flat_map(EncodedItem::targets).collect();
    let lost = items.iter().any(|item| matches!(item, EncodedItem::Lost(_)));
    let names: Vec<&Arc<str>> = targets.iter().map(|(name, _)| name).collect();
    let now = registry.now();
    // If the publishers are on this node, they have matched the patterns against these channels
    // already. Then only channels that were evicted since then must be matched again.
    let (mut state, answers) = patterns::lock_to_enter(registry, &names);
    items.into_iter().for_each(|item| state.apply(item, options, &answers));
    names.iter().for_each(|name| state.trim_after_append(name, now));
    state.evict(options.history_total);
    let notifiers: Vec<Notifiers> = if lost {
        state.all_notifiers()
    } else {
        let notifiers =
            targets.iter().flat_map(|(name, private)| state.notifiers(name, private.as_ref()));
        notifiers.collect()
    };
    drop(state);
    notifiers.iter().for_each(Notifiers::notify);
}

/// An item of the log, with its event encoded.
enum EncodedItem {
    Event(StoredEvent),
    Forget(EventId, Arc<str>, Floor),
    Lost(EventId),
}

impl EncodedItem {
    fn of(item: LogItem, options: &RegistryOptions) -> Self {
        match item {
            LogItem::Event(id, record) => Self::Event(StoredEvent::new(id, &record, options)),
            LogItem::Forget(id, channel, newest) => Self::Forget(id, channel, newest),
            LogItem::Lost(upto) => Self::Lost(upto),
        }
    }

    /// Returns the channels that this item changes. If the item is a private event, each channel
    /// comes with the event's topics.
    fn targets(&self) -> Vec<(Arc<str>, Option<Arc<Private>>)> {
        match self {
            Self::Event(StoredEvent { channels, entry, .. }) => {
                let targets = channels.iter().map(|it| (Arc::clone(it), entry.private.clone()));
                targets.collect()
            }
            Self::Forget(_, channel, _) => vec![(Arc::clone(channel), None)],
            Self::Lost(_) => Vec::new(),
        }
    }
}

/// An event that the log has, encoded and ready to be added to the rings.
struct StoredEvent {
    /// The channels to whose rings the event is added.
    channels: Vec<Arc<str>>,
    entry: Entry,
    published: Published,
    /// Whether this is the last event of its channels.
    is_end: bool,
}

impl StoredEvent {
    fn new(id: EventId, record: &Record, options: &RegistryOptions) -> Self {
        let Record { at, event, key, subscribers, count, .. } = record;
        let dedup = DedupEntry { own: event.id().map(Arc::from), key: key.clone() };
        let dedup = (dedup.own.is_some() || dedup.key.is_some()).then(|| Box::new(dedup));
        let visible = options.ids.then_some(&id as &dyn std::fmt::Display);
        let frame = event.frame(visible);
        let topics = || record.topics().collect::<Vec<_>>();
        let private = record.is_private().then(|| Arc::new(Private::of(&topics())));
        Self {
            channels: record.channels().cloned().collect(),
            entry: Entry { id, at: *at, frame, dedup, private, presence: record.is_presence() },
            published: Published { id, subscribers: *subscribers, count: *count },
            is_end: event.is_end(),
        }
    }
}

impl HubState {
    /// Adds an event that the log has to the rings of its channels.
    fn enter(&mut self, entered: StoredEvent, options: &RegistryOptions, matches: &PatternMatches) {
        let StoredEvent { channels, entry, published, is_end } = entered;
        self.last = self.last.max(entry.id);
        if entry.private.is_none() {
            self.last_public = self.last_public.max(entry.id);
        }
        for channel in &channels {
            self.channel_without_limit(channel, options, matches);
            let target = self.stored_channel(channel);
            let is_queued = target.place.is_some();
            entry.dedup.iter().for_each(|names| target.dedup.add(names, published));
            target.ring.push(entry.clone());
            if !is_queued {
                self.queue(channel, entry.id);
            }
            self.note_event(channel, entry.id, entry.at, is_end);
        }
    }

    /// Returns the channel, and makes sure that the store has a record of it.
    ///
    /// With the channel's first event, the store also records up to which ids the channel may have
    /// lost events. Without this record, the loss could not be reported after a restart.
    fn stored_channel(&mut self, name: &str) -> &mut Channel {
        let Self { channels, losses, .. } = self;
        let channel = channels.get_mut(name).expect("it has been created");
        if !std::mem::replace(&mut channel.stored, true) {
            losses.before(name, channel.ring.floor());
        }
        channel
    }

    /// Makes sure that the store has a record of these channels. They must exist.
    pub(crate) fn ensure_stored(&mut self, names: &[Arc<str>]) {
        for name in names {
            self.stored_channel(name);
        }
    }

    /// Restores what a store keeps besides the events.
    fn restore(&mut self, kept: StoreMeta, options: &RegistryOptions) {
        let begin = EventId { n: 0, ..kept.last };
        self.last_public = self.last_public.max(begin).max(kept.floor.public);
        for lost in kept.lost {
            let target =
                self.channel_without_limit(&lost.channel, options, &PatternMatches::default());
            target.ring.lost_before(lost.floor, lost.at, lost.public_at);
            target.stored = true;
            self.last_public = self.last_public.max(lost.floor.public);
        }
        for (name, id, at) in kept.ended {
            let target = self.channel_without_limit(&name, options, &PatternMatches::default());
            target.stored = true;
            self.restore_end(&name, id, at);
        }
        self.last = self.last.max(kept.last);
        self.floor = kept.floor;
    }

    /// Records that the log begins at `floor`, so any channel may have lost events up to there.
    fn begin_at(&mut self, floor: EventId, last: EventId) {
        self.floor = self.floor.max(Floor::unknown(floor));
        self.last = self.last.max(last);
        self.last_public = self.last_public.max(floor);
        let floor = self.floor;
        self.channels.values_mut().for_each(|channel| channel.ring.begin_at(floor));
    }

    /// Records that any channel may have lost any event up to this id, and empties the rings.
    fn lose(&mut self, upto: EventId) {
        self.floor = self.floor.max(Floor::unknown(upto));
        self.last = self.last.max(upto);
        self.last_public = self.last_public.max(upto);
        for (name, channel) in &mut self.channels {
            channel.ring.lose(upto);
            channel.dedup = DedupIndex::default();
            self.idle.insert(Arc::clone(name));
        }
    }

    fn apply(&mut self, item: EncodedItem, options: &RegistryOptions, answers: &PatternMatches) {
        match item {
            EncodedItem::Event(entered) => self.enter(entered, options, answers),
            EncodedItem::Forget(id, channel, newest) => {
                self.last = self.last.max(id);
                self.last_public = self.last_public.max(id);
                let target = self.channel_without_limit(&channel, options, answers);
                target.clear();
                // Events that the log deleted before this node could read them are lost too.
                target.ring.begin_at(newest);
                self.note_idle(&channel);
            }
            EncodedItem::Lost(upto) => self.lose(upto),
        }
    }

    /// Evicts the events that exceed the limits of a channel's history, after an event was added.
    ///
    /// Until the next reading of a shared log's clock, this node's clock may be ahead, so a new
    /// event may seem old. If the newest event were evicted, subscribers would get a gap instead of
    /// the event. So it is never evicted by age here.
    fn trim_after_append(&mut self, name: &str, now: Duration) {
        let newest = self.channels.get(name).and_then(|channel| channel.ring.newest_at());
        let newest = newest.filter(|_| self.is_shared);
        self.trim(name, newest.map_or(now, |newest| newest.min(now)));
    }

    /// Returns a channel's events as evictions; `None` if the channel does not exist.
    pub(crate) fn evictions_of(&self, name: &str) -> Option<Vec<Eviction>> {
        let channel = self.channels.get(name)?;
        let end = channel.end().map(|id| Eviction::End { channel: name.into(), id });
        let events = channel.ring.entries().map(|entry| Eviction::of(name, entry));
        Some(events.chain(end).collect())
    }

    /// Returns what the ring has of a channel's history; `None` if the channel does not exist.
    pub(crate) fn kept_history(&self, name: &str) -> Option<KeptHistory> {
        let Channel { ring, dedup, .. } = self.channels.get(name)?;
        let events = ring.entries().map(|entry| (entry.id, entry.visibility())).collect();
        let (own_ids, keys) = dedup.ids_and_keys();
        Some(KeptHistory { events, own_ids, keys })
    }
}

/// What a ring has of a channel's history, for a log that deletes it.
#[derive(Debug, Default)]
pub(crate) struct KeptHistory {
    pub(crate) events: BTreeMap<EventId, Visibility>,
    /// The client-supplied ids of the events.
    pub(crate) own_ids: Vec<Arc<str>>,
    /// The idempotency keys, as the publishers sent them.
    pub(crate) keys: Vec<Arc<str>>,
}

#[cfg(test)]
mod tests {
    //! The registry of a shared log whose items the tests supply.

    use super::*;
    use crate::event::Framing;
    use crate::registry::{Channels, Histories, History, Start, Subscription};

    /// A shared log that publishes nothing.
    #[derive(Debug)]
    struct FakeLog;

    impl EventLog for FakeLog {
        fn publish(&self, _: &Update<'_>, _: Option<usize>) -> Result<Published, PublishError> {
            Err(PublishError::Store { reason: "the test supplies the events".into() })
        }

        fn forget(&self, _: &str) -> Result<bool, PublishError> {
            Err(PublishError::Store { reason: "the test supplies the events".into() })
        }

        fn report_presence(&self, _: &Arc<str>, _: &str, _: bool) -> bool {
            true
        }

        fn is_reachable(&self) -> Option<bool> {
            Some(true)
        }
    }

    impl Registry {
        /// Creates a registry with an empty shared log.
        pub(crate) fn with_shared_log(options: RegistryOptions) -> Self {
            let began = Duration::from_secs(1);
            Restoring::shared(options).start(began, &Arc::default(), Box::new(FakeLog))
        }

        /// Adds the next event of the log.
        pub(crate) fn receive(&self, epoch: u64, n: usize, channel: &str, event: Event) {
            let id = EventId { epoch, n: n as u64 };
            let (channel, at) = (channel.into(), Duration::from_millis(epoch));
            let record =
                Record { channel, at, event, key: None, subscribers: 0, count: 1, reach: None };
            self.append(vec![LogItem::Event(id, record)]);
        }
    }

    fn subscribe(registry: &Registry, start: &str) -> Subscription {
        let channels = Channels::new(["a"]).unwrap();
        registry.subscribe(&channels, &Start::After(start.into())).unwrap()
    }

    /// The data of all events that a subscriber reads, joined by spaces.
    fn read(subscription: &mut Subscription) -> String {
        let mut bytes = Vec::new();
        for frame in subscription.unknown.drain(..) {
            bytes.extend_from_slice(frame.bytes(Framing::Plain));
        }
        let Subscription { registry, channels, position, .. } = subscription;
        registry.read(channels, position, None, usize::MAX, Framing::Plain, &mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("data: ")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_cursor_ahead_of_this_node_waits_until_it_catches_up() {
        let registry = Registry::with_shared_log(RegistryOptions::default());
        registry.receive(1_000, 0, "a", Event::new("1"));
        let mut ahead = subscribe(&registry, "1005-2");
        for (epoch, n, data) in [(1_005, 1, "2"), (1_005, 2, "3")] {
            registry.receive(epoch, n, "a", Event::new(data));
            assert_eq!(read(&mut ahead), "", "the client has {data} from another node");
        }
        registry.receive(1_006, 0, "a", Event::new("4"));
        assert_eq!(read(&mut ahead), "4");
        let far = FAR_AHEAD.to_string();
        assert!(read(&mut subscribe(&registry, &far)).contains(r#""missed":null"#));
    }

    /// An id so far ahead of Redis's clock that no node can have sent it.
    const FAR_AHEAD: EventId = EventId { epoch: 600_000, n: 0 };

    #[test]
    fn a_hole_in_the_log_is_a_gap_only_for_cursors_before_it() {
        let registry = Registry::with_shared_log(RegistryOptions::default());
        registry.receive(1_000, 0, "a", Event::new("1"));
        let (mut before, mut late) =
            (subscribe(&registry, "1000-0"), subscribe(&registry, "999-0"));
        registry.append(vec![LogItem::Lost(EventId { epoch: 1_009, n: u64::MAX })]);
        registry.receive(1_010, 0, "a", Event::new("3"));
        for subscription in [&mut before, &mut late] {
            let text = read(subscription);
            assert!(text.starts_with('{') && text.contains(r#""missed":null"#), "{text}");
            assert!(text.ends_with(" 3"), "{text}");
        }
        assert_eq!(read(&mut subscribe(&registry, "1010-0")), "");
        registry.receive(1_011, 0, "a", Event::new("4"));
        assert_eq!(read(&mut before), "4");
    }

    #[test]
    fn evicted_events_with_different_timestamps_are_counted() {
        let history = crate::registry::History { events: 1, ..Default::default() };
        let history = crate::registry::Histories::all(history);
        let registry =
            Registry::with_shared_log(RegistryOptions { history, ..RegistryOptions::default() });
        let mut slow = subscribe(&registry, "999-9");
        for (epoch, n) in [(1_000, 0), (1_000, 1), (1_003, 0), (1_004, 0)] {
            registry.receive(epoch, n, "a", Event::new("x"));
        }
        assert!(read(&mut slow).contains(r#""missed":3"#));
    }

    #[test]
    fn a_new_event_is_read_even_if_its_timestamp_is_old() {
        let history =
            Histories::all(History { age: Duration::from_secs(60), ..History::default() });
        let registry =
            Registry::with_shared_log(RegistryOptions { history, ..RegistryOptions::default() });
        let mut subscription = subscribe(&registry, "0-0");
        registry.set_clock(Duration::from_secs(1_000));
        registry.receive(100_000, 0, "a", Event::new("1"));
        assert_eq!(read(&mut subscription), "1", "the subscriber gets the event and no gap");
        registry.receive(200_000, 0, "a", Event::new("2"));
        assert_eq!(registry.list()[0].events, 1, "the first event is too old by either clock");
        // Once Redis's clock is known, only that clock decides which events are too old.
        registry.set_clock(Duration::from_secs(200));
        registry.receive(201_000, 0, "a", Event::new("3"));
        registry.sweep();
        assert_eq!(read(&mut subscription), "2 3");
        registry.set_clock(Duration::from_secs(1_000));
        registry.sweep();
        assert_eq!(registry.list()[0].events, 0);
    }

    #[test]
    fn a_cursor_ahead_is_valid_after_the_clock_went_back() {
        let registry = Registry::with_shared_log(RegistryOptions::default());
        registry.receive(200_000, 0, "a", Event::new("1"));
        registry.set_clock(Duration::from_secs(1));
        let mut ahead = subscribe(&registry, "200000-1");
        registry.receive(200_000, 1, "a", Event::new("2"));
        registry.receive(200_000, 2, "a", Event::new("3"));
        assert_eq!(read(&mut ahead), "3");
    }
}
