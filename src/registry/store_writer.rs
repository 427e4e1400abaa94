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
//! While one batch is written to the disk, requests for the next batch collect in the queue. So the
//! more threads publish at once, the more events share one sync.
//!
//! # Invariants
//!
//! * **No subscriber sees an event that a crash could undo.** An event is added to the rings only
//!   after the store has it, and the publisher gets its reply after that.
//! * **A publisher waits for the disk, but never for a subscriber.** Threads that serve clients
//!   must not wait for the disk either, so they publish presence events with [`publish_presence`].
//! * **No I/O happens under the registry's lock.**

use std::collections::{BTreeSet, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{
    Receiver, RecvTimeoutError, Sender, TryRecvError, at, bounded, never, select,
};

use super::dedup::{Checked, Last};
use super::patterns::{self, PatternMatches};
use super::state::{Evictions, HubState, StoredEvent};
use super::subscription::Notifiers;
use super::{Published, Registry, RegistryOptions, Update, time_of_day, update};
use crate::counters::Counters;
use crate::error::{PublishError, StoreError};
use crate::event::Event;
use crate::id::EventId;
use crate::store::redis::PresenceChange;
use crate::store::{Eviction, Key, Reach, Record, Store, StoreMeta};

/// Creates a registry with the events of a store, and the writer for that store: see
/// [`Registry::with_store`].
pub(super) fn start<S: Store + 'static>(
    options: RegistryOptions,
    counters: &Arc<Counters>,
    open: impl FnOnce(&mut dyn FnMut(EventId, Record)) -> Result<(S, StoreMeta), StoreError>,
) -> Result<(Registry, StoreWriter), StoreError> {
    let mut state = HubState::new(EventId::ZERO);
    state.losses = Evictions::noted(); // events that do not fit are deleted from the file
    let mut began = time_of_day();
    let (store, kept) = open(&mut |id, record| {
        began = began.max(record.at);
        state.enter(StoredEvent::new(id, &record, &options), &options, &PatternMatches::default());
        state.evict(options.history_total);
    })?;
    state.restore(kept, &options);
    let names: Vec<Arc<str>> = state.channels.keys().cloned().collect();
    names.iter().for_each(|name| state.trim(name, began));
    let (sender, queue) = PublishQueue::new();
    let registry = Registry::of(state, options, counters, Some(sender), began);
    let (store, evictions) = (Box::new(store), Vec::new());
    let failing = false;
    let store_writer = StoreWriter { registry: registry.clone(), store, queue, evictions, failing };
    Ok((registry, store_writer))
}

/// Commits events to the store and adds them to the rings. See the [module](self).
#[derive(Debug)]
#[must_use = "nothing is published until it runs"]
pub(crate) struct StoreWriter {
    registry: Registry,
    store: Box<dyn Store>,
    queue: PublishQueue,
    /// Evictions from the rings that the store has not recorded yet.
    evictions: Vec<Eviction>,
    /// Whether the last append failed. Only the first failure in a row is logged.
    failing: bool,
}

impl StoreWriter {
    /// Handles requests until `stop` is disconnected, and then the requests still in the queue.
    pub(crate) fn run(mut self, stop: &Receiver<Infallible>) {
        while let Ok(request) = self.queue.next(stop, None) {
            self.handle(request);
        }
        while let Some(request) = self.queue.try_next() {
            self.handle(request);
        }
    }

    fn handle(&mut self, request: StoreRequest) {
        match request {
            StoreRequest::Forget { channel, reply } => {
                let _ = reply.send(self.forget(&channel)); // fails if the caller has ended
            }
            StoreRequest::Publish(request) => {
                let mut names = BatchNames::default();
                names.add(&request);
                // The batch ends at a request that may repeat an event of this batch. That request
                // can be checked only after this batch is in the dedup index.
                let requests = self.queue.gather(request, |next| names.add(next));
                self.publish(requests);
            }
            // A file belongs to one node, so there is no other node to report presence to.
            StoreRequest::Sweep | StoreRequest::Presence(_) => self.publish(Vec::new()),
        }
    }

    fn publish(&mut self, requests: Vec<PublishRequest>) {
        let mut batch = PublishBatch::default();
        let now = self.registry.now();
        let options = &self.registry.inner.options;
        let mut state = self.registry.lock();
        let replies: Vec<_> = (requests.into_iter())
            .map(|mut request| (request.reply.take(), batch.add(request, &mut state, now, options)))
            .collect();
        self.evictions.append(&mut state.losses.take());
        drop(state);
        let ids = self.append(&batch.records);
        if let Ok(ids) = &ids {
            self.enter(&batch.records, ids);
        }
        self.registry.lock().release(&batch.held);
        for (sender, pending) in replies {
            let published = pending.and_then(|pending| pending.complete(&ids));
            match (sender, published) {
                // Sending fails if the publisher has ended. That is not an error.
                (Some(sender), published) => drop(sender.send(published)),
                (None, Err(error)) => log::warn!("dropped a presence event: {error}"),
                (None, Ok(_)) => {}
            }
        }
        self.store.tidy();
    }

    /// Appends the records to the store, and deletes the events from it that the rings have
    /// evicted.
    fn append(&mut self, records: &[Record]) -> Result<Vec<EventId>, PublishError> {
        if records.is_empty() && self.evictions.is_empty() {
            return Ok(Vec::new());
        }
        let began = Instant::now();
        let ids = self.store.append(records, &self.evictions);
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

    fn enter(&self, records: &[Record], ids: &[EventId]) {
        let options = &self.registry.inner.options;
        // Encode the events before taking the lock, to hold it for a short time.
        let entered =
            records.iter().zip(ids).map(|(record, id)| StoredEvent::new(*id, record, options));
        let entered: Vec<StoredEvent> = entered.collect();
        let names: BTreeSet<_> = records.iter().flat_map(Record::channels).collect();
        // A set, so that each channel is notified once for its public events, and once for each
        // list of topics of its private events.
        let targets: BTreeSet<_> = entered.iter().flat_map(StoredEvent::targets).collect();
        let now = self.registry.now();
        // The publishers have matched the patterns against these channels already. Only channels
        // that were evicted since then must be matched again.
        let all: Vec<&Arc<str>> = targets.iter().map(|(name, _)| name).collect();
        let (mut state, answers) = patterns::lock_to_enter(&self.registry, &all);
        entered.into_iter().for_each(|entered| state.enter(entered, options, &answers));
        names.iter().for_each(|name| state.trim(name, now));
        state.evict(options.history_total);
        let notifiers =
            targets.iter().flat_map(|(name, private)| state.notifiers(name, private.as_ref()));
        let notifiers: Vec<Notifiers> = notifiers.collect();
        drop(state);
        notifiers.iter().for_each(Notifiers::notify);
    }

    /// Forgets a channel's history, first in the store and then in the ring.
    ///
    /// In this order, a crash between the two steps cannot bring the history back after its
    /// deletion was visible.
    fn forget(&mut self, name: &str) -> Result<bool, PublishError> {
        let mut state = self.registry.lock();
        self.evictions.append(&mut state.losses.take());
        let Some(channel) = state.channels.get(name) else { return Ok(false) };
        let before = self.evictions.len();
        self.evictions.extend(channel.ring.entries().map(|entry| Eviction::of(name, entry)));
        drop(state);
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
    /// [`Registry::publish_update`]: super::Registry::publish_update
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
        state.make_all(&topics, at, options)?;
        state.hold(&topics);
        let streams = || topics.iter().map(|topic| state.count(topic, None)).sum();
        let subscribers = subscribers.unwrap_or_else(streams);
        for topic in &topics {
            state.ensure_stored(topic);
        }
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
/// two requests with the same id or key must not be in one batch.
#[derive(Default)]
struct BatchNames(HashSet<(Arc<str>, Name)>);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Name {
    Own(Box<str>),
    Key(Key),
}

impl BatchNames {
    /// Adds the ids and the key of a request, and returns `true`. If the batch has one of them
    /// already, adds none and returns `false`.
    fn add(&mut self, request: &PublishRequest) -> bool {
        let own = request.events.iter().filter_map(Event::id).map(|own| Name::Own(own.into()));
        let key = request.key.iter().map(|key| Name::Key(key.clone()));
        let names = own
            .chain(key)
            .flat_map(|name| request.topics().map(move |topic| (Arc::clone(topic), name.clone())));
        let names: HashSet<_> = names.collect();
        let is_new = self.0.is_disjoint(&names);
        if is_new {
            self.0.extend(names);
        }
        is_new
    }
}

/// The capacity of the queue, in requests. Each publisher has at most one request in the queue. So
/// a publisher waits for a free slot only if more than this many publish at once.
const CAPACITY: usize = 4_096;

/// The approximate size of one commit, in bytes.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The cost of an event besides its texts, in bytes. An empty event also takes time to write: about
/// as long as this many bytes of text.
const EVENT_BYTES: usize = 128;

/// A request to the thread that publishes.
#[derive(Debug)]
pub(super) enum StoreRequest {
    Publish(PublishRequest),
    Forget {
        channel: Arc<str>,
        reply: ReplySender<bool>,
    },
    /// Delete from the store the events that the rings have evicted.
    Sweep,
    /// Report to the other nodes that a presence name joins or leaves on this node.
    Presence(PresenceChange),
}

#[derive(Debug)]
pub(super) struct PublishRequest {
    pub(super) channel: Arc<str>,
    pub(super) events: Vec<Event>,
    pub(super) key: Option<Key>,
    /// The other topics and the privacy; see [`Record`].
    pub(super) reach: Option<Arc<Reach>>,
    /// The number of streams that may read the events, if they are private.
    pub(super) subscribers: Option<usize>,
    /// Sends the reply to the publisher; `None` if no thread waits for it.
    pub(super) reply: Option<ReplySender<Published>>,
    /// Whether the events are presence events.
    pub(super) presence: bool,
}

type ReplySender<T> = Sender<Result<T, PublishError>>;

impl PublishRequest {
    /// Sends the reply, if a thread waits for it. It is not an error if that thread has ended.
    pub(super) fn reply(self, published: Result<Published, PublishError>) {
        let _ = self.reply.map(|reply| reply.send(published));
    }

    /// All channels of the request. The first one is the canonical topic of the events.
    pub(super) fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        let others = self.reach.iter().flat_map(|reach| &reach.others);
        std::iter::once(&self.channel).chain(others)
    }

    /// The cost of the request in a commit, in bytes. A client-supplied id is counted once per
    /// topic, because it is looked up in each.
    fn size(&self) -> usize {
        let topics = self.topics().count();
        let size = |event: &Event| {
            let own = event.id().map_or(0, |own| (EVENT_BYTES + own.len()) * topics);
            EVENT_BYTES + event.name().map_or(0, str::len) + own + event.data().len()
        };
        self.events.iter().map(size).sum()
    }
}

/// The receiving end of the queue of requests to the thread that publishes: [`StoreWriter`] or
/// [`LogPublisher`](super::shared_log::LogPublisher).
///
/// A publisher waits for the reply to its request. While the thread writes one batch, requests for
/// the next batch collect in the queue.
#[derive(Debug)]
pub(super) struct PublishQueue {
    receiver: Receiver<StoreRequest>,
    /// A request that was received but could not be part of the batch before it.
    held: Option<StoreRequest>,
}

impl PublishQueue {
    /// Creates the queue, with its sending end.
    pub(super) fn new() -> (Sender<StoreRequest>, Self) {
        let (sender, receiver) = bounded(CAPACITY);
        (sender, Self { receiver, held: None })
    }

    /// Waits for the next request, until `due` (`Timeout`) or until `stop` is disconnected.
    ///
    /// The deadline and `stop` take precedence over requests, however many are in the queue.
    pub(super) fn next(
        &mut self,
        stop: &Receiver<Infallible>,
        due: Option<Instant>,
    ) -> Result<StoreRequest, RecvTimeoutError> {
        if stop.try_recv() == Err(TryRecvError::Disconnected) {
            return Err(RecvTimeoutError::Disconnected);
        }
        if due.is_some_and(|due| due <= Instant::now()) {
            return Err(RecvTimeoutError::Timeout);
        }
        if let Some(held) = self.held.take() {
            return Ok(held);
        }
        select! {
            recv(self.receiver) -> request => request.map_err(RecvTimeoutError::from),
            recv(stop) -> _ => Err(RecvTimeoutError::Disconnected),
            recv(due.map_or_else(never, at)) -> _ => Err(RecvTimeoutError::Timeout),
        }
    }

    /// Takes the next request if there is one. Does not wait.
    pub(super) fn try_next(&mut self) -> Option<StoreRequest> {
        self.held.take().or_else(|| self.receiver.try_recv().ok())
    }

    /// Collects the publish requests that can be in one batch with `first`.
    ///
    /// The batch ends when it has [`BATCH_BYTES`], at a request for which `fits` returns `false`,
    /// or at a request of another kind.
    pub(super) fn gather(
        &mut self,
        first: PublishRequest,
        mut fits: impl FnMut(&PublishRequest) -> bool,
    ) -> Vec<PublishRequest> {
        let mut bytes = first.size();
        let mut requests = vec![first];
        while bytes < BATCH_BYTES {
            match self.receiver.try_recv() {
                Ok(StoreRequest::Publish(request)) if fits(&request) => {
                    bytes += request.size();
                    requests.push(request);
                }
                // Drop this request: every batch deletes the evicted events from the store anyway.
                Ok(StoreRequest::Sweep) => {}
                Ok(other) => {
                    self.held = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        requests
    }

    /// Collects the presence changes that follow `first` in the queue, up to a request of another
    /// kind.
    pub(super) fn gather_changes(&mut self, first: PresenceChange) -> Vec<PresenceChange> {
        let mut changes = vec![first];
        while self.held.is_none() && changes.len() < CAPACITY {
            match self.receiver.try_recv() {
                Ok(StoreRequest::Presence(change)) => changes.push(change),
                Ok(other) => self.held = Some(other),
                Err(_) => break,
            }
        }
        changes
    }
}

/// Sends an update to the thread that publishes, and waits for the reply.
pub(super) fn publish(
    queue: &Sender<StoreRequest>,
    update: &Update<'_>,
    subscribers: Option<usize>,
) -> Result<Published, PublishError> {
    let Update { topics, events, private, key } = *update;
    let (first, others) = topics.split_first().ok_or(PublishError::Nothing)?;
    let others: Vec<Arc<str>> = others.iter().map(|topic| Arc::from(*topic)).collect();
    let reach = Reach { private, others, gone: Vec::new() };
    let reach = (reach != Reach::default()).then(|| Arc::new(reach));
    let key = key.map(|key| Key::new(key, events, private));
    call(queue, |reply| {
        let (channel, events, key) = (Arc::from(*first), events.to_vec(), key);
        let reply = Some(reply);
        StoreRequest::Publish(PublishRequest {
            channel,
            events,
            key,
            reach,
            subscribers,
            reply,
            presence: false,
        })
    })
}

/// Asks the thread that publishes to forget a channel's history, and waits for the reply.
pub(super) fn forget(queue: &Sender<StoreRequest>, channel: &str) -> Result<bool, PublishError> {
    call(queue, |reply| StoreRequest::Forget { channel: channel.into(), reply })
}

fn call<T>(
    queue: &Sender<StoreRequest>,
    request: impl FnOnce(ReplySender<T>) -> StoreRequest,
) -> Result<T, PublishError> {
    let (sender, receiver) = bounded(1);
    queue.send(request(sender)).map_err(|_| stopped())?;
    receiver.recv().unwrap_or_else(|_| Err(stopped()))
}

fn stopped() -> PublishError {
    PublishError::Store { reason: "the server is stopping".into() }
}

/// Publishes a presence event without waiting for the store.
///
/// The threads of streams and the broadcaster call this function, and must not wait for a disk.
pub(super) fn publish_presence(
    registry: &Registry,
    channel: &str,
    event: &Event,
) -> Result<(), PublishError> {
    if registry.inner.store_writer.is_none() {
        let events = std::slice::from_ref(event);
        let update = Update { topics: &[channel], events, private: false, key: None };
        return update::publish_here(registry, &update, true).map(drop);
    }
    update::prepare(registry, &[channel], false, None)?;
    let (channel, events) = (channel.into(), vec![event.clone()]);
    let (key, reach, subscribers, reply) = (None, None, None, None);
    let request =
        PublishRequest { channel, events, key, reach, subscribers, reply, presence: true };
    enqueue(registry, StoreRequest::Publish(request))
}

/// Puts a request without a reply into the queue. Fails at once if the queue is full.
pub(super) fn enqueue(registry: &Registry, request: StoreRequest) -> Result<(), PublishError> {
    let full = || PublishError::Store { reason: "its queue is full".into() };
    let sent =
        registry.inner.store_writer.as_ref().map(|store_writer| store_writer.try_send(request));
    sent.unwrap_or(Ok(())).map_err(|_| full())
}

#[cfg(test)]
mod tests {
    //! The store is fake: each test decides when every append ends, and its result.

    use std::thread::{self, JoinHandle};

    use super::*;
    use crate::event::Framing;
    use crate::registry::{Channels, Histories, History, Start, Subscription};
    use crate::store::{ChannelLosses, Floor, Visibility};

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
                Registry::with_store(options, &Arc::default(), |_| Ok((fake, kept))).unwrap();
            let (running, stop) = bounded(0);
            let store_writer = thread::spawn(move || store_writer.run(&stop));
            let (results, running, store_writer) =
                (Some(decide), Some(running), Some(store_writer));
            Self { registry, appends, results, running, store_writer }
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
            while self.registry.inner.store_writer.as_ref().unwrap().len() < count {
                thread::yield_now();
            }
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
        let kept = StoreMeta { last: gone.next(), floor, lost };
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
        assert!(world.registry.lock().channels.contains_key("a"), "the channel was swept");
        world.decide(Err(PublishError::Store { reason: "full".into() }));
        assert!(one.join().unwrap().is_err());
        // After the append has failed, the channel can be swept.
        world.decide(Ok(()));
        while world.registry.lock().channels.contains_key("a") {
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

    fn request(events: usize, event: &Event) -> PublishRequest {
        let events = vec![event.clone(); events];
        let (key, reach, subscribers, reply) = (None, None, None, None);
        let (channel, presence) = ("a".into(), false);
        PublishRequest { channel, events, key, reach, subscribers, reply, presence }
    }

    fn joins() -> StoreRequest {
        StoreRequest::Presence(PresenceChange {
            channel: "a".into(),
            name: "ada".into(),
            joins: true,
        })
    }

    #[test]
    fn a_batch_of_empty_events_is_bounded() {
        let (sender, mut queue) = PublishQueue::new();
        for _ in 0..100 {
            sender.send(StoreRequest::Publish(request(1_000, &Event::new("")))).unwrap();
        }
        let first = request(1_000, &Event::new(""));
        let batch = queue.gather(first, |_| true);
        let most = BATCH_BYTES / EVENT_BYTES / 1_000 + 1;
        assert!((2..=most).contains(&batch.len()), "{} of {most}", batch.len());
        assert_eq!(queue.receiver.len(), 101 - batch.len(), "the others are still in the queue");
    }

    #[test]
    fn a_request_costs_its_lookups_in_each_topic() {
        let named = Event::new("x").with_id("request-7").unwrap();
        let one = request(1, &named);
        let others = ["b", "c"].map(Arc::from).to_vec();
        let reach = Some(Arc::new(Reach { others, ..Reach::default() }));
        let wide = PublishRequest { reach, ..request(1, &named) };
        assert!(request(1, &Event::new("x")).size() < one.size());
        assert_eq!(wide.size() - one.size(), 2 * (EVENT_BYTES + "request-7".len()));
    }

    #[test]
    fn deadline_comes_first_then_the_held_request() {
        let ((sender, mut queue), (running, stop)) = (PublishQueue::new(), bounded(0));
        let publish = || StoreRequest::Publish(request(1, &Event::new("")));
        for _ in 0..3 {
            sender.send(joins()).unwrap();
            sender.send(publish()).unwrap();
        }
        let Ok(StoreRequest::Presence(first)) = queue.next(&stop, None) else {
            panic!("the request is in the queue")
        };
        assert_eq!(
            queue.gather_changes(first).len(),
            1,
            "the request behind it is of another kind"
        );
        let now = Some(Instant::now());
        assert_eq!(queue.next(&stop, now).unwrap_err(), RecvTimeoutError::Timeout);
        let Ok(StoreRequest::Publish(held)) = queue.next(&stop, None) else {
            panic!("the request was held")
        };
        assert_eq!(queue.gather(held, |_| true).len(), 1);
        drop(running);
        assert_eq!(queue.next(&stop, None).unwrap_err(), RecvTimeoutError::Disconnected);
        let rest: Vec<StoreRequest> = std::iter::from_fn(|| queue.try_next()).collect();
        let [
            StoreRequest::Presence(_),
            StoreRequest::Publish(_),
            StoreRequest::Presence(_),
            StoreRequest::Publish(_),
        ] = &rest[..]
        else {
            panic!("{rest:?}");
        };
    }

    #[test]
    fn waiting_for_a_request_ends_at_the_deadline() {
        let ((_sender, mut queue), (_running, stop)) = (PublishQueue::new(), bounded(0));
        let due = Instant::now() + std::time::Duration::from_millis(20);
        assert_eq!(queue.next(&stop, Some(due)).unwrap_err(), RecvTimeoutError::Timeout);
        assert!(Instant::now() >= due);
    }
}
