//! How events enter the rings: from the thread that publishes them, or from an event log.
//!
//! If the registry has no store, the thread that publishes adds the events to the rings itself.
//! Otherwise it gives the update to the [`EventLog`], whose thread adds the events once the log has
//! them: at the start with [`Restoring`], and later with [`Registry::append`].

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::channels::{self, EventAccess, Private};
use super::event_log::{EventLog, Eviction, KeptHistory, LogItem, Record, StoreMeta};
use super::history::{Entry, Floor};
use super::lock::{self, Registry};
use super::patterns::PatternMatches;
use super::state::{Channel, Evictions, HubState, RegistryOptions};
use super::subscribers::Notifiers;
use super::update::{Checked, DedupEntry, DedupIndex, Key, Last, Published, TOPICS_MAX, Update};
use crate::counters::{Counters, MEMORY};
use crate::error::PublishError;
use crate::event::Event;
use crate::id::EventId;

/// Publishes an update: see [`Registry::publish_update`].
pub(super) fn publish(registry: &Registry, update: &Update<'_>) -> Result<Published, PublishError> {
    let Update { topics, events, private, key } = *update;
    topics.iter().try_for_each(|topic| channels::check_name(topic))?;
    if events.is_empty() || topics.is_empty() {
        return Err(PublishError::Nothing);
    }
    if let Some(end) = events.iter().position(Event::is_end) {
        if end + 1 < events.len() {
            return Err(PublishError::AfterEnd);
        }
        if private {
            return Err(PublishError::PrivateEnd);
        }
    }
    if topics.len() > TOPICS_MAX {
        return Err(PublishError::TooManyTopics { limit: TOPICS_MAX });
    }
    let distinct: Vec<&str>;
    let topics = if topics.len() > 1 {
        let mut seen = HashSet::new();
        distinct = topics.iter().copied().filter(|topic| seen.insert(*topic)).collect();
        &distinct[..]
    } else {
        topics
    };
    if let Some(log) = &registry.inner.log {
        let began = Instant::now();
        let key = key.map(|key| Key::new(key, events, private));
        let readers = prepare(registry, topics, private, key.as_ref())?;
        let published = log.publish(&Update { topics, ..*update }, readers)?;
        registry.inner.counters.publish(registry.store(), events.len(), began.elapsed());
        return Ok(published);
    }
    publish_here(registry, &Update { topics, ..*update }, false)
}

/// Publishes an update whose topics are valid, if the registry has no store.
///
/// `presence` says whether the events are presence events.
fn publish_here(
    registry: &Registry,
    update: &Update<'_>,
    presence: bool,
) -> Result<Published, PublishError> {
    let Update { topics, events, private, key } = *update;
    let private = private.then(|| Arc::new(Private::of(topics)));
    let mut readers = private.as_ref().map(EventAccess::of);
    let now = registry.now();
    let key = key.map(|key| Key::new(key, events, private.is_some()));
    let (mut guard, answers) = lock::lock_to_publish(registry, topics, &mut readers);
    let state = &mut *guard;
    let (new, last) = match state.new_events(topics, key.as_ref(), events)? {
        Checked::Repeat(first) => return Ok(first),
        Checked::New { events, last } => (events, last),
    };
    if !new.is_empty() {
        state.check_open(topics, now)?;
    }
    state.make_all_for_events(topics, now, &registry.inner.options, &answers)?;
    let subscribers = topics.iter().map(|topic| state.count(topic, readers.as_ref())).sum();
    let notifiers = topics.iter().flat_map(|topic| state.notifiers(topic, private.as_ref()));
    let notifiers: Vec<Notifiers> = notifiers.collect();
    let before = state.last;
    let id = last.id(|place| (0..=place).fold(before, |id, _| id.next()));
    let published = Published { id, subscribers, count: events.len() };
    let mut newest = before;
    for event in new {
        newest = newest.next();
        let visible = registry.inner.options.ids.then_some(&newest as &dyn fmt::Display);
        let frame = event.frame(visible);
        let dedup = event.id().map(|own| Box::new(DedupEntry { own: Some(own.into()), key: None }));
        let entry = Entry { id: newest, at: now, frame, dedup, private: private.clone(), presence };
        state.push(topics, entry, Published { id: newest, ..published });
        topics.iter().for_each(|topic| state.note_event(topic, newest, now, event.is_end()));
    }
    for topic in topics {
        let Some(target) = state.channels.get_mut(*topic) else { continue };
        if let Some(key) = key.as_ref().filter(|_| newest > before) {
            // The newest event of the batch carries the key, so the key is kept until that
            // event is evicted.
            target.ring.set_newest_key(key.clone());
            target.dedup.add(&DedupEntry { own: None, key: Some(key.clone()) }, published);
        }
        target.trim(now, |_| {});
    }
    state.last = newest;
    if private.is_none() && newest > before {
        state.last_public = newest;
    }
    state.evict(registry.inner.options.history_total);
    drop(guard);
    notifiers.iter().for_each(Notifiers::notify);
    let events = usize::try_from(newest.n.saturating_sub(before.n)).unwrap_or_default();
    registry.inner.counters.publish(MEMORY, events, registry.now().saturating_sub(now));
    Ok(published)
}

/// Publishes a presence event without waiting for a store.
///
/// The threads of streams and the broadcaster call this function, and must not wait for a disk.
pub(super) fn publish_presence(
    registry: &Registry,
    channel: &str,
    event: &Event,
) -> Result<(), PublishError> {
    let Some(log) = &registry.inner.log else {
        let events = std::slice::from_ref(event);
        let update = Update { topics: &[channel], events, private: false, key: None };
        return publish_here(registry, &update, true).map(drop);
    };
    prepare(registry, &[channel], false, None)?;
    log.publish_presence(channel, event)
}

/// Creates the channels of an event before the event log publishes it.
///
/// The calling thread matches the patterns, so that the log's threads only have to look up the
/// results. For a private event, returns how many streams may read it.
///
/// Fails if there would be too many channels.
fn prepare(
    registry: &Registry,
    topics: &[&str],
    private: bool,
    key: Option<&Key>,
) -> Result<Option<usize>, PublishError> {
    let private = private.then(|| Arc::new(Private::of(topics)));
    let mut readers = private.as_ref().map(EventAccess::of);
    let now = registry.now();
    let (mut state, answers) = lock::lock_to_publish(registry, topics, &mut readers);
    // A repeated request succeeds even if its channels do not exist any more and cannot be created.
    let first = match key {
        Some(key) => state.published_with_key(topics, key)?,
        None => None,
    };
    if first.is_none() {
        state.make_all_for_events(topics, now, &registry.inner.options, &answers)?;
    }
    let count = |readers| topics.iter().map(|topic| state.count(topic, Some(readers))).sum();
    Ok(readers.as_ref().map(count))
}

impl HubState {
    /// Finds the new events of a request, which has at least one event.
    ///
    /// If the history of any topic has the request's key, the whole request is a repeat. If the
    /// history of any topic has an event's client-supplied id, or an earlier event of the request
    /// has it, the event is a repeat.
    ///
    /// Fails if the key was used for other events.
    pub(crate) fn new_events<E: Borrow<Event>>(
        &self,
        topics: &[impl AsRef<str>],
        key: Option<&Key>,
        events: impl IntoIterator<Item = E>,
    ) -> Result<Checked<E>, PublishError> {
        if let Some(key) = key
            && let Some(first) = self.published_with_key(topics, key)?
        {
            return Ok(Checked::Repeat(first));
        }
        let (mut new, mut last) = (Vec::new(), Last::New(0));
        let mut own_ids: HashMap<Box<str>, usize> = HashMap::new();
        for event in events {
            if let Some(own) = event.borrow().id() {
                if let Some(first) = self.published_with_id(topics, own) {
                    last = Last::Known(first.id);
                    continue;
                }
                if let Some(place) = own_ids.get(own) {
                    last = Last::New(*place);
                    continue;
                }
                own_ids.insert(own.into(), new.len());
            }
            last = Last::New(new.len());
            new.push(event);
        }
        Ok(Checked::New { events: new, last })
    }

    /// Returns the result of the first request that published an event with this client-supplied id
    /// to any of these channels.
    fn published_with_id(&self, topics: &[impl AsRef<str>], own: &str) -> Option<Published> {
        let mut channels = topics.iter().filter_map(|topic| self.channels.get(topic.as_ref()));
        channels.find_map(|channel| channel.dedup.by_id(own))
    }

    /// Returns the result of the first request with this key to any of these channels. Fails if
    /// that request published other events.
    pub(super) fn published_with_key(
        &self,
        topics: &[impl AsRef<str>],
        key: &Key,
    ) -> Result<Option<Published>, PublishError> {
        for topic in topics {
            if let Some(channel) = self.channels.get(topic.as_ref())
                && let Some(first) = channel.dedup.by_key(key)?
            {
                return Ok(Some(first));
            }
        }
        Ok(None)
    }
}

impl HubState {
    /// Adds an event to the rings of its topics. Their channels must exist.
    fn push(&mut self, topics: &[&str], entry: Entry, published: Published) {
        let Some((first, others)) = topics.split_first() else { return };
        let mut push = |topic, entry: Entry| {
            let Some(target) = self.channels.get_mut(topic) else { return };
            let (id, is_queued) = (entry.id, target.place.is_some());
            entry.dedup.iter().for_each(|dedup| target.dedup.add(dedup, published));
            target.ring.push(entry);
            if !is_queued {
                self.queue(topic, id);
            }
        };
        others.iter().for_each(|topic| push(*topic, entry.clone()));
        push(first, entry);
    }
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
    let (mut state, answers) = lock::lock_to_enter(registry, &names);
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
