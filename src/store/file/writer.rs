//! The store writer is the only thread that commits events to the store of a node.
//!
//! It adds events to the rings only after the store has assigned their ids and synced them.
//!
//! ```text
//!  publishers          StoreWriter, one thread                          subscribers
//!  request ──queue──▶  batch    find the new events, under the lock
//!                      append   the store assigns ids and syncs; no lock is held
//!                      enter    add to the rings, under the lock ──notify──▶ read
//!  reply   ◀─────────  one to each publisher
//! ```
//!
//! # Invariants
//!
//! * **No subscriber sees an event that a crash could undo.** An event is added to the rings only
//!   after the store has it, and the publisher gets its reply after that.
//! * **No I/O happens under the registry's lock.**

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::participant::{Flush, Flusher, Participant, ParticipantSlot};
use crate::counters::Counters;
use crate::error::{PublishError, StoreError};
use crate::event::Event;
use crate::id::EventId;
use crate::registry::{
    Checked, EventLog, Eviction, HubState, Key, Last, LogItem, Published, Record, Registry,
    RegistryOptions, Restoring, StoreMeta, Update, time_of_day,
};
use crate::store::queue::{self, PublishQueue, PublishRequest, StoreRequest};

/// Creates a registry with the events of a store, and the writer for that store.
///
/// The caller must run the writer on a thread, because only the writer publishes events. `open` must
/// open the store and call its argument with each stored event, in the order of ids.
pub(crate) fn start<S: Store + 'static>(
    options: RegistryOptions,
    counters: &Arc<Counters>,
    open: impl FnOnce(&mut dyn FnMut(EventId, Record)) -> Result<(S, StoreMeta), StoreError>,
) -> Result<(Registry, StoreWriter), StoreError> {
    let mut restoring = Restoring::new(options); // events that do not fit are deleted from the file
    let mut began = time_of_day();
    let (store, kept) = open(&mut |id, record| {
        began = began.max(record.at);
        restoring.receive(LogItem::Event(id, record));
    })?;
    restoring.restore(kept);
    let (sender, queue) = PublishQueue::new();
    let registry = restoring.start(began, counters, Box::new(FileLog(sender.clone())));
    let store_writer = StoreWriter {
        registry: registry.clone(),
        store: Box::new(store),
        queue,
        flusher: Flusher::new(sender),
        participant: ParticipantSlot::new(),
        evictions: Vec::new(),
        failing: false,
    };
    Ok((registry, store_writer))
}

/// The sending end of the store writer's queue.
#[derive(Debug)]
struct FileLog(Sender<StoreRequest<Flush>>);

impl EventLog for FileLog {
    fn publish(
        &self,
        update: &Update<'_>,
        readers: Option<usize>,
    ) -> Result<Published, PublishError> {
        queue::publish(&self.0, update, readers)
    }

    fn forget(&self, channel: &str) -> Result<bool, PublishError> {
        queue::forget(&self.0, channel)
    }

    fn publish_presence(&self, channel: &str, event: &Event) -> Result<(), PublishError> {
        let (channel, events) = (channel.into(), vec![event.clone()]);
        let (key, reach, subscribers, reply) = (None, None, None, None);
        let request =
            PublishRequest { channel, events, key, reach, subscribers, reply, presence: true };
        queue::enqueue(&self.0, StoreRequest::Publish(request))
    }

    fn delete_evicted(&self) {
        // If the queue is full, this request may be dropped: the commits of the queued requests also
        // delete the evicted events.
        let _ = queue::enqueue(&self.0, StoreRequest::Other(Flush));
    }
}

/// Commits events to the store and adds them to the rings. See the [module](self).
#[derive(Debug)]
#[must_use = "nothing is published until it runs"]
pub(crate) struct StoreWriter {
    registry: Registry,
    store: Box<dyn Store>,
    queue: PublishQueue<Flush>,
    flusher: Flusher,
    /// The other log in the file, if there is one.
    participant: ParticipantSlot,
    /// Evictions from the rings that the store has not recorded yet.
    evictions: Vec<Eviction>,
    /// Whether the last append failed. Only the first failure in a row is logged.
    failing: bool,
}

impl StoreWriter {
    pub(super) fn flusher(&self) -> Flusher {
        self.flusher.clone()
    }

    pub(super) fn participant(&self) -> ParticipantSlot {
        self.participant.clone()
    }

    /// Handles requests until `stop` is disconnected, and then the requests still in the queue.
    pub(crate) fn run(mut self, stop: &Receiver<Infallible>) {
        while let Ok(request) = self.queue.next(stop, None) {
            self.handle(request);
        }
        while let Some(request) = self.queue.try_next() {
            self.handle(request);
        }
        self.publish(Vec::new()); // what another log in the file still has
        self.participant.clear();
    }

    fn handle(&mut self, request: StoreRequest<Flush>) {
        match request {
            StoreRequest::Forget { channel, reply } => {
                reply.send(self.forget(&channel));
            }
            StoreRequest::Publish(request) => {
                let mut names = BatchNames::default();
                names.add(&request);
                // The batch ends at a request that may repeat an event of this batch. That request
                // can be checked only after this batch is in the dedup index.
                let requests = self.queue.gather(request, |next| names.add(next), |Flush| true);
                self.publish(requests);
            }
            StoreRequest::Other(Flush) => self.publish(Vec::new()),
        }
    }

    fn publish(&mut self, requests: Vec<PublishRequest>) {
        let mut batch = PublishBatch::default();
        let now = self.registry.now();
        let options = self.registry.options();
        let mut state = self.registry.lock();
        let replies: Vec<_> = (requests.into_iter())
            .map(|mut request| (request.reply.take(), batch.add(request, &mut state, now, options)))
            .collect();
        self.evictions.append(&mut state.take_evictions());
        drop(state);
        let ids = self.append(&batch.records);
        if let Ok(ids) = &ids {
            let items = ids.iter().zip(batch.records);
            let items = items.map(|(id, record)| LogItem::Event(*id, record));
            self.registry.append(items.collect());
        }
        self.registry.lock().release(&batch.held);
        for (sender, pending) in replies {
            let published = pending.and_then(|pending| pending.complete(&ids));
            match (sender, published) {
                (Some(sender), published) => sender.send(published),
                (None, Ok(_) | Err(PublishError::Ended)) => {} // nothing follows the end of a channel
                (None, Err(error)) => log::warn!("dropped a presence event: {error}"),
            }
        }
        self.store.tidy();
    }

    /// Appends the records to the store, deletes the events from it that the rings have evicted, and
    /// writes what another log in the file has.
    fn append(&mut self, records: &[Record]) -> Result<Vec<EventId>, PublishError> {
        self.flusher.begin();
        let mut other = self.participant.lock();
        if records.is_empty() && self.evictions.is_empty() && !other.has_work() {
            return Ok(Vec::new());
        }
        let began = Instant::now();
        let ids = self.store.append(records, &self.evictions, &mut **other);
        drop(other);
        self.registry.counters().commit(began.elapsed());
        match &ids {
            Ok(_) => {
                self.evictions.clear();
                if std::mem::take(&mut self.failing) {
                    log::info!("the store accepts events again");
                }
            }
            Err(error) if !self.failing => {
                self.failing = true;
                log::error!("cannot write to the store, so publishing fails: {error}");
            }
            Err(_) => {}
        }
        ids
    }

    /// Forgets a channel's history, first in the store and then in the ring.
    ///
    /// In this order, a crash between the two steps cannot bring the history back after its
    /// deletion was visible.
    fn forget(&mut self, name: &str) -> Result<bool, PublishError> {
        let mut state = self.registry.lock();
        self.evictions.append(&mut state.take_evictions());
        let Some(evictions) = state.evictions_of(name) else { return Ok(false) };
        drop(state);
        let before = self.evictions.len();
        self.evictions.extend(evictions);
        if let Err(error) = self.append(&[]) {
            self.evictions.truncate(before); // the events are still in the ring
            return Err(error);
        }
        Ok(self.registry.lock().clear(name))
    }
}

/// The new events of a batch, to be written to the store.
#[derive(Default)]
struct PublishBatch {
    records: Vec<Record>,
    /// The channels of the records. They are held until the store has answered, so that no other
    /// request evicts them before the events are in their rings.
    held: Vec<Arc<str>>,
}

impl PublishBatch {
    /// Adds the new events of a request, by the same rules as
    /// [`Registry::publish_update`] without a store.
    ///
    /// [`Registry::publish_update`]: crate::registry::Registry::publish_update
    fn add(
        &mut self,
        request: PublishRequest,
        state: &mut HubState,
        at: Duration,
        options: &RegistryOptions,
    ) -> Result<PendingReply, PublishError> {
        let topics: Vec<Arc<str>> = request.topics().cloned().collect();
        let PublishRequest { channel, events, key, reach, presence, subscribers, .. } = request;
        let count = if presence { 0 } else { events.len() };
        let (events, last) = match state.new_events(&topics, key.as_ref(), events)? {
            Checked::Repeat(first) => return Ok(PendingReply::Known(first)),
            Checked::New { events, last } => (events, last),
        };
        if !events.is_empty() {
            state.check_open(&topics, at)?;
        }
        state.make_all(&topics, at, options)?;
        state.hold(&topics);
        let streams = || topics.iter().map(|topic| state.subscribers(topic)).sum();
        let subscribers = subscribers.unwrap_or_else(streams);
        state.ensure_stored(&topics);
        self.held.extend(topics.iter().cloned());
        let begin = self.records.len();
        self.records.extend(events.into_iter().map(|event| {
            let (channel, reach) = (Arc::clone(&channel), reach.clone());
            Record { channel, at, event, key: None, subscribers, count, reach }
        }));
        if let Some(newest) = self.records.len().checked_sub(begin + 1) {
            // The newest event of the request carries the key, so the key is kept until that event
            // is evicted. A repeat of the request must get the same id as the first one.
            self.records[begin + newest].key = key.map(|key| match last {
                Last::Known(id) => key.with_reply_id(id),
                Last::New(place) if place < newest => key.with_reply_before(newest - place),
                Last::New(_) => key,
            });
        }
        Ok(PendingReply::New { begin, last, subscribers, count })
    }
}

/// The reply to a publisher, which can be completed once the store has the batch.
enum PendingReply {
    /// The request is a repeat. This is the result of the first request with its key.
    Known(Published),
    /// The request is new. Its new events begin at the index `begin` in the batch.
    New { begin: usize, last: Last, subscribers: usize, count: usize },
}

impl PendingReply {
    /// Completes the reply with the ids that the store gave, or with its error.
    fn complete(self, ids: &Result<Vec<EventId>, PublishError>) -> Result<Published, PublishError> {
        match self {
            Self::Known(published) => Ok(published),
            Self::New { begin, last, subscribers, count } => {
                let ids = ids.as_ref().map_err(Clone::clone)?;
                let id = last.id(|place| ids[begin + place]);
                Ok(Published { id, subscribers, count })
            }
        }
    }
}

/// The client-supplied ids and idempotency keys of one batch, each with its channel.
///
/// Repeats are looked up in the channels' dedup indexes, which a batch enters only at its end. So
/// two requests with the same id or key must not be in one batch. For the same reason, no request
/// may follow the end of its channel in one batch.
#[derive(Default)]
struct BatchNames {
    names: HashSet<(Arc<str>, Name)>,
    ended: HashSet<Arc<str>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Name {
    Own(Box<str>),
    Key(Key),
}

impl BatchNames {
    /// Adds the ids and the key of a request, and returns `true`. If the batch has one of them
    /// already, or ends one of the request's channels, adds none and returns `false`.
    fn add(&mut self, request: &PublishRequest) -> bool {
        let own = request.events.iter().filter_map(Event::id).map(|own| Name::Own(own.into()));
        let key = request.key.iter().map(|key| Name::Key(key.clone()));
        let names = own
            .chain(key)
            .flat_map(|name| request.topics().map(move |topic| (Arc::clone(topic), name.clone())));
        let names: HashSet<_> = names.collect();
        let follows_end = request.topics().any(|topic| self.ended.contains(topic));
        let is_new = !follows_end && self.names.is_disjoint(&names);
        if is_new {
            self.names.extend(names);
            if request.events.last().is_some_and(Event::is_end) {
                self.ended.extend(request.topics().cloned());
            }
        }
        is_new
    }
}

/// A store that belongs to one node.
pub(crate) trait Store: fmt::Debug + Send {
    /// Stores the records, deletes the evicted events, and lets `other` write its rows, in one
    /// transaction.
    ///
    /// Returns the ids of the records, in the order of `records`. Once this method returns `Ok`, no
    /// crash and no power cut can undo the transaction. After an error, the method can be called
    /// again.
    fn append(
        &mut self,
        records: &[Record],
        evictions: &[Eviction],
        other: &mut dyn Participant,
    ) -> Result<Vec<EventId>, PublishError>;

    /// Maintains the store. The store writer calls this method only after it has replied to the
    /// publishers.
    fn tidy(&mut self) {}
}

#[cfg(test)]
mod tests {
    //! The store is fake: each test decides when every append ends, and its result.

    use std::collections::BTreeSet;
    use std::thread::{self, JoinHandle};

    use crossbeam_channel::bounded;

    use super::*;
    use crate::event::Framing;
    use crate::registry::{
        ChannelLosses, Channels, Floor, Histories, History, Start, Subscription, Visibility,
    };

    /// The arguments of one append.
    type Append = (Vec<Record>, Vec<Eviction>);

    /// Passes each append to the test, and waits for the result that the test decides.
    #[derive(Debug)]
    struct FakeStore {
        last: EventId,
        appends: Sender<Append>,
        results: Receiver<Result<(), PublishError>>,
    }

    impl Store for FakeStore {
        fn append(
            &mut self,
            records: &[Record],
            evictions: &[Eviction],
            _: &mut dyn Participant,
        ) -> Result<Vec<EventId>, PublishError> {
            self.appends.send((records.to_vec(), evictions.to_vec())).expect("the test receives");
            self.results.recv().unwrap_or(Ok(()))?;
            let ids = records.iter().map(|_| {
                self.last = self.last.next();
                self.last
            });
            Ok(ids.collect())
        }
    }

    struct World {
        registry: Registry,
        /// The receiving end of the queue, to see how many requests are in it.
        queue: Receiver<StoreRequest<Flush>>,
        appends: Receiver<Append>,
        /// `None` while the test ends. Without it, every append succeeds.
        results: Option<Sender<Result<(), PublishError>>>,
        running: Option<Sender<Infallible>>,
        store_writer: Option<JoinHandle<()>>,
    }

    const BEGIN: EventId = EventId { epoch: 7, n: 0 };

    impl World {
        fn keeping(history: History) -> Self {
            Self::with(history, StoreMeta { last: BEGIN, ..StoreMeta::default() })
        }

        fn with(history: History, kept: StoreMeta) -> Self {
            let options =
                RegistryOptions { history: Histories::all(history), ..RegistryOptions::default() };
            let (appended, appends) = crossbeam_channel::unbounded();
            let (decide, results) = bounded(100);
            let fake = FakeStore { last: kept.last, appends: appended, results };
            let (registry, store_writer) =
                start(options, &Arc::default(), |_| Ok((fake, kept))).unwrap();
            let queue = store_writer.queue.receiver();
            let (running, stop) = bounded(0);
            let store_writer = thread::spawn(move || store_writer.run(&stop));
            let (results, running, store_writer) =
                (Some(decide), Some(running), Some(store_writer));
            Self { registry, queue, appends, results, running, store_writer }
        }

        /// Publishes on a new thread.
        fn publish(&self, event: Event, key: Option<&'static str>) -> JoinHandle<Outcome> {
            let registry = self.registry.clone();
            thread::spawn(move || registry.publish_all("a", &[event], key))
        }

        /// Decides the result of the next append.
        fn decide(&self, result: Result<(), PublishError>) {
            self.results.as_ref().expect("the test has not ended").send(result).unwrap();
        }

        /// Waits until this many requests are in the queue.
        fn wait_for_requests(&self, count: usize) {
            while self.queue.len() < count {
                thread::yield_now();
            }
        }

        fn has_channel(&self, name: &str) -> bool {
            self.registry.list().iter().any(|channel| channel.name == name)
        }

        fn subscribe(&self) -> Subscription {
            let channels = Channels::new(["a"]).unwrap();
            self.registry.subscribe(&channels, &Start::All).unwrap()
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            (self.results, self.running) = (None, None);
            let ended = self.store_writer.take().unwrap().join();
            assert!(thread::panicking() || ended.is_ok());
        }
    }

    type Outcome = Result<Published, PublishError>;

    /// Returns the data of all events that a subscriber reads, joined by spaces.
    fn read(subscription: &mut Subscription) -> String {
        let mut bytes = Vec::new();
        let Subscription { registry, channels, position, .. } = subscription;
        registry.read(channels, position, None, usize::MAX, Framing::Plain, &mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("data: ")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_event_is_visible_only_after_the_store_has_it() {
        let world = World::keeping(History::default());
        let mut subscription = world.subscribe();
        let waiting = world.publish(Event::new("x"), None);
        let (records, _) = world.appends.recv().unwrap();
        assert_eq!((records.len(), records[0].event.data()), (1, "x"));
        assert_eq!(read(&mut subscription), "");
        assert!(!waiting.is_finished());
        world.decide(Ok(()));
        let published = waiting.join().unwrap().unwrap();
        assert_eq!(published, Published { id: BEGIN.next(), subscribers: 1, count: 1 });
        assert_eq!(read(&mut subscription), "x");
    }

    #[test]
    fn requests_during_an_append_form_one_batch() {
        let world = World::keeping(History::default());
        let first = world.publish(Event::new("first"), None);
        world.appends.recv().unwrap();
        let rest: Vec<_> =
            (0..10).map(|n| world.publish(Event::new(n.to_string()), None)).collect();
        world.wait_for_requests(10);
        world.decide(Ok(()));
        assert_eq!(world.appends.recv().unwrap().0.len(), 10);
        world.decide(Ok(()));
        let ids: BTreeSet<EventId> = (rest.into_iter().chain([first]))
            .map(|publisher| publisher.join().unwrap().unwrap().id)
            .collect();
        assert_eq!(ids.len(), 11);
    }

    #[test]
    fn a_failed_append_publishes_nothing_and_repeats_evictions() {
        let world = World::keeping(History { events: 1, ..History::default() });
        (0..3).for_each(|_| world.decide(Ok(())));
        (0..3)
            .for_each(|n| assert!(world.registry.publish("a", &Event::new(n.to_string())).is_ok()));
        world.decide(Err(PublishError::StoreFull));
        let failed = world.registry.publish("a", &Event::new("failed"));
        assert_eq!(failed, Err(PublishError::StoreFull));
        assert_eq!(read(&mut world.subscribe()), "2");
        world.decide(Ok(()));
        assert_eq!(world.registry.publish("a", &Event::new("3")).unwrap().id.n, 4);
        let evictions: Vec<Vec<Eviction>> =
            world.appends.try_iter().map(|(_, evictions)| evictions).collect();
        let counts: Vec<usize> = evictions.iter().map(Vec::len).collect();
        assert_eq!(counts, [0, 0, 1, 1, 1], "an eviction is part of the batch after it");
        assert!(evictions[2] != evictions[3] && evictions[3] == evictions[4]);
    }

    #[test]
    fn repeats_in_one_batch_are_published_once() {
        let world = World::keeping(History::default());
        let first = world.publish(Event::new("first"), None);
        world.appends.recv().unwrap();
        let own = || Event::new("own").with_id("request-7").unwrap();
        let twice = [own(), own()].map(|event| world.publish(event, None));
        let keyed = [(); 2].map(|()| world.publish(Event::new("keyed"), Some("key")));
        world.wait_for_requests(4);
        (0..6).for_each(|_| world.decide(Ok(())));
        let id = |publisher: JoinHandle<Outcome>| publisher.join().unwrap().unwrap().id;
        let [one, again] = twice.map(id);
        let [key, key_again] = keyed.map(id);
        assert!(one == again && key == key_again && one != key);
        let batch = [own(), Event::new("x"), own()];
        let published = world.registry.publish_all("b", &batch, None).unwrap();
        assert_eq!((published.count, published.id.n), (3, 4));
        assert_eq!(read(&mut world.subscribe()).matches("own").count(), 1);
        first.join().unwrap().unwrap();
    }

    #[test]
    fn forget_deletes_from_the_store_before_the_ring() {
        let world = World::keeping(History::default());
        (0..2).for_each(|_| world.decide(Ok(())));
        (0..2)
            .for_each(|n| assert!(world.registry.publish("a", &Event::new(n.to_string())).is_ok()));
        assert_eq!(world.registry.forget("none"), Ok(false));
        world.decide(Err(PublishError::StoreFull));
        assert_eq!(world.registry.forget("a"), Err(PublishError::StoreFull));
        assert_eq!(read(&mut world.subscribe()), "0 1");
        world.decide(Ok(()));
        assert_eq!(world.registry.forget("a"), Ok(true));
        assert_eq!(read(&mut world.subscribe()), "");
        let (records, evictions) = world.appends.try_iter().last().unwrap();
        assert_eq!((records.len(), evictions.len()), (0, 2));
    }

    #[test]
    fn a_floor_survives_a_restart() {
        let old = History { age: Duration::ZERO, ..History::default() };
        let world = World::keeping(old);
        (0..9).for_each(|_| world.decide(Ok(())));
        let gone = world.registry.publish("a", &Event::new("gone")).unwrap().id;
        world.registry.sweep();
        let (_, evictions) = world.appends.iter().nth(1).unwrap();
        let forgotten = Eviction::Channel { channel: "a".into(), floor: Floor::unknown(gone) };
        assert_eq!(evictions.last(), Some(&forgotten));
        // Publishing creates the channel again. With its first event, the store records the channel's
        // floor.
        world.registry.publish("a", &Event::new("next")).unwrap();
        let (_, evictions) = world.appends.recv().unwrap();
        let (channel, at) = ("a".into(), Duration::ZERO);
        let floor = Eviction::Event { channel, id: gone, at, visibility: Visibility::Public };
        assert_eq!(evictions.first(), Some(&floor));
        drop(world);

        let (floor, at) = (Floor::unknown(gone), Duration::ZERO);
        let lost = vec![ChannelLosses { channel: "a".into(), floor, at, public_at: at }];
        let kept = StoreMeta { last: gone.next(), floor, lost, ended: Vec::new() };
        let world = World::with(History::default(), kept);
        let channels = Channels::new(["a"]).unwrap();
        let start = Start::After(BEGIN.to_string());
        let mut resumed = world.registry.subscribe(&channels, &start).unwrap();
        let text = read(&mut resumed);
        assert!(text.contains(r#""missed":null"#), "{text}");
        let start = Start::After(gone.to_string());
        assert_eq!(read(&mut world.registry.subscribe(&channels, &start).unwrap()), "");
    }

    #[test]
    fn a_channel_is_not_swept_during_an_append() {
        let world = World::keeping(History::default());
        let one = world.publish(Event::new("x"), None);
        world.appends.recv().unwrap(); // the append has begun and not ended
        world.registry.sweep();
        assert!(world.has_channel("a"), "the channel was swept");
        world.decide(Err(PublishError::Store { reason: "full".into() }));
        assert!(one.join().unwrap().is_err());
        // After the append has failed, the channel can be swept.
        world.decide(Ok(()));
        while world.has_channel("a") {
            world.registry.sweep();
            thread::yield_now();
        }
    }

    #[test]
    fn a_presence_event_does_not_wait_for_the_store() {
        let world = World::keeping(History::default());
        let mut watcher = world.subscribe();
        let ada = world.subscribe().present_as("ada"); // returns although no append has ended
        drop(ada);
        (0..2).for_each(|_| world.decide(Ok(())));
        let mut text = String::new();
        while text.matches("ada").count() < 2 {
            text += &read(&mut watcher);
            thread::yield_now();
        }
    }
}
