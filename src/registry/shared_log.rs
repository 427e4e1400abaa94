//! A registry whose events are in a log that several nodes share.
//!
//! ```text
//!  publishers         LogPublisher, one thread           Redis          LogFollower, one thread
//!  request ──queue──▶ batch ──── one script call ──────▶ log ─ XREAD ─▶ enter, under the lock
//!  reply   ◀───────── one to each publisher ◀─── ids                     └─notify─▶ read
//! ```
//!
//! Redis decides which events of a request are new, and assigns the ids. All nodes deliver events
//! in the order of the log. So a node adds even its own events to its rings only after it has read
//! them back from Redis.
//!
//! # Invariants
//!
//! * **A publisher gets its reply only after Redis has its event.** The reply does not wait until
//!   the publisher's node has read the event back.
//! * **A loss in the log is reported.** A hole in the log empties the rings, and every
//!   subscriber whose position is before the hole gets a gap event.
//! * **No I/O happens under the registry's lock.**

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, select};

use super::channels::{Private, StreamAccess};
use super::dedup::DedupIndex;
use super::patterns::{self, PatternMatches};
use super::state::{Channel, HubState, StoredEvent};
use super::store_writer::{PublishQueue, PublishRequest, StoreRequest};
use super::subscription::{Notifier, Notifiers};
use super::{Channels, Published, Registry, RegistryOptions, nanoseconds};
use crate::counters::Counters;
use crate::error::{PublishError, StoreError};
use crate::id::EventId;
use crate::store::redis::{
    LogBounds, LogError, LogItem, LogReader, LogReply, LogRequest, LogWriter, NodeReport,
    PresenceChange,
};
use crate::store::{Floor, RedisUrl, Visibility};

/// The size of the log, as a multiple of the largest history of one channel.
///
/// With a smaller log, one busy channel would quickly evict the events of the others.
const CHANNELS: usize = 100;

/// How long a new subscription waits for the event with an unknown client-supplied id.
///
/// The client may have received this event from a node that has read further in the log.
const CATCH_UP: Duration = Duration::from_secs(1);

/// How often this node reports its subscribers if they have changed.
const REPORT: Duration = Duration::from_millis(500);

/// How often this node reports its subscribers if they have not changed.
const REFRESH: Duration = Duration::from_secs(5);

/// The number of events that one script call deletes. Redis serves no other client during the call.
const FORGOTTEN_AT_ONCE: usize = 1_000;

/// How often the follower reads the status of the log and the reports of the other nodes.
const STATUS: Duration = Duration::from_secs(1);

/// The first and the longest wait between two attempts to reach Redis.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Creates a registry that shares its events: see [`Registry::with_redis`].
pub(super) fn start(
    options: RegistryOptions,
    counters: &Arc<Counters>,
    url: &RedisUrl,
) -> Result<(Registry, LogPublisher, LogFollower), StoreError> {
    let rules = || options.history.all_rules();
    let bounds = LogBounds {
        events: rules().map(|rule| rule.events).max().unwrap_or_default().max(1) * CHANNELS,
        age: rules().map(|rule| rule.age).max().unwrap_or_default(),
    };
    let node = format!("{:016x}", fastrand::u64(..));
    let mut log = LogWriter::new(url, bounds, node.clone());
    let mut reader = LogReader::new(url, bounds, node);
    let mut state = HubState::with_shared_log();
    let began = reader.begin(&mut |item| state.receive(item, &options));
    let (floor, status) = began.map_err(|error| error.at_start(url))?;
    state.begin_at(floor, status.last);
    state.others = status.others.unwrap_or_default();
    let known = log.refresh(status.last, &NodeReport::default(), true);
    known.map_err(|error| error.at_start(url))?;
    let names: Vec<Arc<str>> = state.channels.keys().cloned().collect();
    let newest = state.channels.values().filter_map(|channel| channel.ring.newest_at()).max();
    let now = status.now.max(newest.unwrap_or_default());
    names.iter().for_each(|name| state.trim(name, now));
    let (sender, queue) = PublishQueue::new();
    let registry = Registry::of(state, options, counters, Some(sender), now);
    let publisher = LogPublisher::new(registry.clone(), log, queue);
    let follower = LogFollower::new(registry.clone(), reader);
    Ok((registry, publisher, follower))
}

/// Publishes this node's events to the shared log, one batch after the other.
#[derive(Debug)]
#[must_use = "nothing is published until it runs"]
pub(crate) struct LogPublisher {
    registry: Registry,
    log: LogWriter,
    queue: PublishQueue,
    last_report: LastReport,
    /// Whether Redis rejected the last request. Only the first rejection in a row is logged.
    failing: bool,
}

/// The last report to the other nodes.
#[derive(Debug)]
struct LastReport {
    report: NodeReport,
    /// The registry's count of changes at the time of the report.
    changes: u64,
    at: Instant,
    /// Whether Redis certainly has all presence names of this node. This is `false` after any
    /// failure, because another Redis that lacks the newest changes may have taken over.
    complete: bool,
}

impl LogPublisher {
    fn new(registry: Registry, log: LogWriter, queue: PublishQueue) -> Self {
        let report = NodeReport::default();
        let last_report = LastReport { report, changes: 0, at: Instant::now(), complete: true };
        Self { registry, log, queue, last_report, failing: false }
    }

    /// Handles requests until `stop` is disconnected, and then the requests still in the queue.
    ///
    /// At the end, evicts this node, so that the other nodes stop counting its subscribers.
    pub(crate) fn run(mut self, stop: &Receiver<Infallible>) {
        let mut due = Instant::now() + REPORT;
        loop {
            match self.queue.next(stop, Some(due)) {
                Ok(request) => self.handle(request),
                Err(RecvTimeoutError::Timeout) => {
                    self.report();
                    due = Instant::now() + REPORT;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        while let Some(request) = self.queue.try_next() {
            self.handle(request);
        }
        // If this call fails, the other nodes evict this node when its last report expires.
        let _ = self.log.evict_node(self.registry.last_id());
    }

    /// Handles one request, with the requests that can share its batch.
    ///
    /// Never handles a second batch: if Redis is slow, the next report would be late, and the other
    /// nodes would evict this one.
    fn handle(&mut self, request: StoreRequest) {
        match request {
            StoreRequest::Publish(request) => {
                let requests = self.queue.gather(request, |_| true);
                self.publish(requests);
            }
            StoreRequest::Forget { channel, reply } => {
                let _ = reply.send(self.forget(&channel)); // fails if the caller has ended
            }
            StoreRequest::Presence(change) => self.change(change),
            StoreRequest::Sweep => {}
        }
    }

    fn publish(&mut self, requests: Vec<PublishRequest>) {
        let options = &self.registry.inner.options;
        let now = self.registry.now();
        let mut state = self.registry.lock();
        let (last, mut taken, mut listeners) = (state.last, Vec::new(), Vec::new());
        let mut held: Vec<Arc<str>> = Vec::new();
        for request in requests {
            let topics: Vec<Arc<str>> = request.topics().cloned().collect();
            match state.make_all(&topics, now, options) {
                Ok(()) => {
                    state.hold(&topics);
                    held.extend(topics.iter().cloned());
                    let everywhere = || topics.iter().map(|topic| state.subscribers(topic)).sum();
                    // For a private event, the request has the number of its readers on this node
                    // only.
                    listeners.push(request.subscribers.unwrap_or_else(everywhere));
                    taken.push(request);
                }
                Err(error) => request.reply(Err(error)),
            }
        }
        drop(state);
        if taken.is_empty() {
            return;
        }
        let requests = taken.iter().zip(&listeners).map(|(request, subscribers)| LogRequest {
            channel: &request.channel,
            reach: request.reach.as_deref(),
            key: request.key.as_ref(),
            events: &request.events,
            subscribers: *subscribers,
            known_for: options.history.of(&request.channel).age,
        });
        let requests: Vec<LogRequest<'_>> = requests.collect();
        let began = Instant::now();
        let published = self.log.publish(last, &requests);
        self.registry.lock().release(&held);
        self.registry.counters().commit(began.elapsed());
        self.note(published.as_ref().err());
        self.last_report.complete &= published.is_ok();
        match published {
            Ok(replies) => {
                for (request, reply) in taken.into_iter().zip(replies) {
                    request.reply(match reply {
                        LogReply::Published { id, subscribers, count } => {
                            Ok(Published { id, subscribers, count })
                        }
                        LogReply::KeyReused => Err(PublishError::KeyReused),
                    });
                }
            }
            Err(error) => {
                let error = PublishError::from(error);
                taken.into_iter().for_each(|request| request.reply(Err(error.clone())));
            }
        }
    }

    /// Logs the first rejection by Redis, and the end of the rejections.
    ///
    /// Does not log that Redis cannot be reached: the follower does.
    fn note(&mut self, error: Option<&LogError>) {
        match error {
            None if std::mem::take(&mut self.failing) => log::info!("Redis accepts events again"),
            Some(error @ (LogError::Rejected(_) | LogError::Denied(_))) if !self.failing => {
                self.failing = true;
                log::error!("Redis rejected a request, so publishing fails: {error}");
            }
            _ => {}
        }
    }

    fn forget(&mut self, name: &str) -> Result<bool, PublishError> {
        let forgotten = self.forget_all(name);
        self.last_report.complete &= forgotten.is_ok();
        Ok(forgotten?)
    }

    /// Makes all nodes forget a channel's history, and deletes its events from the log.
    ///
    /// The log has far more events than the ring, and may have events of a channel that this node
    /// has evicted. So the events are first found in the log, and then deleted in steps. The first
    /// step also makes every node forget the whole history. Later steps only delete events from
    /// Redis.
    fn forget_all(&mut self, name: &str) -> Result<bool, LogError> {
        let state = self.registry.lock();
        let last = state.last;
        let channel = state.channels.get(name);
        let is_here = channel.is_some();
        let (own_ids, keys) =
            channel.map(|channel| channel.dedup.ids_and_keys()).unwrap_or_default();
        let entries = channel.into_iter().flat_map(|channel| channel.ring.entries());
        let mut found: BTreeMap<EventId, Visibility> =
            entries.map(|entry| (entry.id, entry.visibility())).collect();
        drop(state);
        let mut after = Some(EventId::ZERO);
        while let Some(begin) = after {
            after = self.log.find(last, name, begin, &mut found)?;
            self.report_if_due();
        }
        if !is_here && found.is_empty() {
            return Ok(false);
        }
        let floors = found.iter().map(|(id, visibility)| Floor::of(*id, *visibility));
        let floor = floors.fold(Floor::default(), Floor::max);
        let ids: Vec<EventId> = found.into_keys().collect();
        let (mut rest, mut first_floor) = (&ids[..], Some(floor));
        loop {
            let (piece, later) = rest.split_at(rest.len().min(FORGOTTEN_AT_ONCE));
            let is_first = first_floor.is_some();
            let floor = first_floor.take();
            let forgotten = self.log.forget(last, name, floor, piece, (&own_ids, &keys));
            forgotten.map_err(|error| if is_first { error } else { half_done(&error) })?;
            if later.is_empty() {
                return Ok(true);
            }
            rest = later;
            self.report_if_due();
        }
    }

    /// Reports this node's subscribers during a long task, if the report is due.
    ///
    /// Without this report, the other nodes would evict this node.
    fn report_if_due(&mut self) {
        if self.last_report.at.elapsed() >= REFRESH {
            self.report();
        }
    }

    /// Sends a presence change to Redis, together with all changes that follow it directly in the
    /// queue.
    fn change(&mut self, first: PresenceChange) {
        let changes = self.queue.gather_changes(first);
        let sent = self.log.change(self.registry.last_id(), &changes);
        self.last_report.complete &= sent.is_ok(); // else the next report has all names
    }

    /// Reports this node's subscribers to the other nodes, if they have changed or
    /// [`REFRESH`] has passed.
    fn report(&mut self) {
        let mut state = self.registry.lock();
        let changes = state.changes;
        self.last_report.complete &= !std::mem::take(&mut state.presence_unsent);
        drop(state);
        let due = self.last_report.at.elapsed() >= REFRESH || !self.last_report.complete;
        if !due && changes == self.last_report.changes {
            return;
        }
        let report = self.registry.lock().report();
        if !due && report == self.last_report.report {
            self.last_report.changes = changes;
            return;
        }
        let last = self.registry.last_id();
        let mut sent = self.log.refresh(last, &report, !self.last_report.complete);
        if sent == Ok(false) && self.last_report.complete {
            // Redis does not know this node: another node evicted it while it could not reach
            // Redis, or Redis has lost it. So send the report again, with all presence names.
            sent = self.log.refresh(last, &report, true);
        }
        let complete = sent.is_ok();
        self.last_report = LastReport { report, changes, at: Instant::now(), complete };
    }
}

/// The error for a history that every node has forgotten but that is not fully deleted from Redis.
fn half_done(error: &LogError) -> LogError {
    let what = "the history is forgotten, but not all of it is deleted from Redis yet; \
                delete it again";
    LogError::Unanswered(format!("{what} ({error})"))
}

/// Reads the shared log into this node's rings.
#[derive(Debug)]
#[must_use = "nothing is read until it runs"]
pub(crate) struct LogFollower {
    registry: Registry,
    reader: LogReader,
    /// Whether this thread has already logged that Redis has lost events.
    warned: bool,
}

impl LogFollower {
    fn new(registry: Registry, reader: LogReader) -> Self {
        Self { registry, reader, warned: false }
    }

    /// Reads until `stop` is disconnected.
    pub(crate) fn run(mut self, stop: &Receiver<Infallible>) {
        let mut last_status: Option<Instant> = Some(Instant::now());
        let mut unreachable: Option<(Instant, Duration)> = None;
        loop {
            let wait = match self.round(&mut last_status) {
                Ok(()) => {
                    if let Some((since, _)) = unreachable.take() {
                        self.set_reachable(true);
                        log::info!("Redis is reachable again after {:.1?}", since.elapsed());
                    }
                    Duration::ZERO
                }
                Err(error) => {
                    last_status = None;
                    let (since, wait) = unreachable.unwrap_or_else(|| {
                        self.set_reachable(false);
                        log::error!(
                            "Redis is unreachable, so publishing fails until it is back; streams \
                             stay open: {error}"
                        );
                        (Instant::now(), RETRY_MIN)
                    });
                    unreachable = Some((since, (wait * 2).min(RETRY_MAX)));
                    self.reader.try_again();
                    wait
                }
            };
            select! {
                recv(stop) -> _ => return,
                default(wait) => {}
            }
        }
    }

    /// Reads the status of the log if a reading is due, then waits for the next items.
    fn round(&mut self, last_status: &mut Option<Instant>) -> Result<(), LogError> {
        if last_status.is_none_or(|at| at.elapsed() >= STATUS) {
            let status = self.reader.status()?;
            *last_status = Some(Instant::now());
            set_clock(&self.registry, status.now);
            let has_lost = self.reader.is_ahead_of(&status);
            if has_lost && !self.warned {
                log::error!(
                    "Redis has lost its newest events: its last is {}, and this node has read \
                     up to {}; subscribers get a gap with the next event",
                    status.last,
                    self.registry.last_id()
                );
            }
            self.warned = has_lost;
            if let Some(others) = status.others {
                self.registry.lock().others = others;
            }
        }
        let read = self.reader.wait()?;
        for item in &read {
            if let LogItem::Lost(upto) = item {
                log::warn!(
                    "events up to {upto} are missing in the log; subscribers that have not \
                     received them get a gap"
                );
            }
        }
        if !read.is_empty() {
            enter(&self.registry, read);
        }
        Ok(())
    }

    fn set_reachable(&self, reachable: bool) {
        if let Some(contact) = &self.registry.inner.contact {
            contact.0.store(reachable, Ordering::Relaxed);
        }
    }
}

/// Sets the registry's clock to that of Redis, forwards or backwards.
///
/// Redis assigns the times of events, so their age must be measured with Redis's clock. The
/// newest reading always applies: Redis's clock may have been set back, or another Redis may
/// have taken over.
fn set_clock(registry: &Registry, now: Duration) {
    let began = nanoseconds(now.saturating_sub(registry.inner.started.elapsed()));
    registry.inner.began.store(began, Ordering::Relaxed);
}

/// Adds the items read from the log to the rings, and notifies the subscribers.
///
/// The call that adds an event to a channel never evicts the channel's newest event by age.
/// Until the next reading of Redis's clock, this node's clock may be ahead, so a new event may
/// seem old. If it were evicted, subscribers would get a gap instead of the event.
fn enter(registry: &Registry, read: Vec<LogItem>) {
    let options = &registry.inner.options;
    // Encode the events before taking the lock, to hold it for a short time.
    let items: Vec<EncodedItem> =
        read.into_iter().map(|item| EncodedItem::of(item, options)).collect();
    let targets: BTreeSet<(Arc<str>, Option<Arc<Private>>)> =
        items.iter().flat_map(EncodedItem::targets).collect();
    let lost = items.iter().any(|item| matches!(item, EncodedItem::Lost(_)));
    let names: Vec<&Arc<str>> = targets.iter().map(|(name, _)| name).collect();
    let now = registry.now();
    let (mut state, answers) = patterns::lock_to_enter(registry, &names);
    items.into_iter().for_each(|item| state.apply(item, options, &answers));
    for (name, _) in &targets {
        let newest = state.channels.get(name).and_then(|channel| channel.ring.newest_at());
        state.trim(name, newest.map_or(now, |newest| newest.min(now)));
    }
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
            Self::Event(entered) => entered.targets().collect(),
            Self::Forget(_, channel, _) => vec![(Arc::clone(channel), None)],
            Self::Lost(_) => Vec::new(),
        }
    }
}

impl HubState {
    /// Creates the state of a registry whose events are in a shared log.
    pub(super) fn with_shared_log() -> Self {
        Self { is_shared: true, ..Self::new(EventId::ZERO) }
    }

    /// Records that the log begins at `floor`, so any channel may have lost events up to there.
    pub(super) fn begin_at(&mut self, floor: EventId, last: EventId) {
        self.floor = self.floor.max(Floor::unknown(floor));
        self.last = self.last.max(last);
        self.last_public = self.last_public.max(floor);
        let floor = self.floor;
        self.channels.values_mut().for_each(|channel| channel.ring.begin_at(floor));
    }

    /// Records that any channel may have lost any event up to this id, and empties the rings.
    pub(super) fn lose(&mut self, upto: EventId) {
        self.floor = self.floor.max(Floor::unknown(upto));
        self.last = self.last.max(upto);
        self.last_public = self.last_public.max(upto);
        for (name, channel) in &mut self.channels {
            channel.ring.lose(upto);
            channel.dedup = DedupIndex::default();
            self.idle.insert(Arc::clone(name));
        }
    }

    /// Returns the report of this node's subscribers and presence names for the other nodes.
    pub(super) fn report(&self) -> NodeReport {
        let counted = |(name, subscribers): (&Arc<str>, usize)| {
            (subscribers > 0).then(|| (name.to_string(), subscribers))
        };
        let by_name = |channel: &Channel| {
            let watchers =
                channel.watchers.iter().filter_map(|slot| self.patterns.subscribers(slot));
            let watching: usize = watchers.map(|subscribers| subscribers.count(None)).sum();
            channel.subscribers.count(None) + watching
        };
        let present = self.channels.iter().filter(|(_, channel)| !channel.presence.is_empty());
        NodeReport {
            names: self
                .channels
                .iter()
                .map(|(name, it)| (name, by_name(it)))
                .filter_map(counted)
                .collect(),
            prefixes: self
                .prefixes
                .iter()
                .map(|(name, it)| (name, it.count(None)))
                .filter_map(counted)
                .collect(),
            present: present
                .map(|(name, channel)| (name.to_string(), channel.presence.0.clone()))
                .collect(),
        }
    }

    /// Applies one item of the log while the registry starts.
    fn receive(&mut self, item: LogItem, options: &RegistryOptions) {
        let item = EncodedItem::of(item, options);
        let targets = item.targets();
        self.apply(item, options, &PatternMatches::default());
        // Evict by size after each item, because the log keeps far more events than the rings.
        // `with_redis` evicts by age later, because Redis's clock is not known yet.
        targets.iter().for_each(|(name, _)| self.trim(name, Duration::ZERO));
        self.evict(options.history_total);
    }

    fn apply(&mut self, item: EncodedItem, options: &RegistryOptions, answers: &PatternMatches) {
        match item {
            EncodedItem::Event(entered) => self.enter(entered, options, answers),
            EncodedItem::Forget(id, channel, newest) => {
                self.last = self.last.max(id);
                self.last_public = self.last_public.max(id);
                let target = self.channel_without_limit(&channel, options, answers);
                target.clear();
                // Events that Redis deleted before this node could read them are lost too.
                target.ring.begin_at(newest);
                self.note_idle(&channel);
            }
            EncodedItem::Lost(upto) => self.lose(upto),
        }
    }
}

/// Whether Redis could be reached at the last attempt.
#[derive(Debug)]
pub(super) struct Contact(AtomicBool);

impl Contact {
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(true))
    }

    /// Whether Redis could be reached at the last attempt.
    pub(super) fn is_reachable(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Waits up to [`CATCH_UP`] for this node to read the event with a client-supplied id.
///
/// The client may have received the event from a node that has read further in the log. Unlike
/// the server's ids, a client-supplied id does not show how new its event is.
#[inline(never)] // rarely called
pub(super) fn await_client_id(registry: &Registry, channels: &Channels, id: &str) {
    if registry.inner.contact.is_none() || id.parse::<EventId>().is_ok() {
        return;
    }
    let (sender, notifications) = crossbeam_channel::bounded(1);
    let notifier = Notifier::new(sender, 0);
    let _listening = registry.listen(channels, &notifier);
    let deadline = Instant::now() + CATCH_UP;
    while find(registry, channels, id).is_none() && notifications.recv_deadline(deadline).is_ok() {
        notifier.rearm();
    }
}

/// Finds the position of the event with this id, if the event is still in a history.
fn find(registry: &Registry, channels: &Channels, id: &str) -> Option<EventId> {
    let mut access = StreamAccess::default();
    loop {
        let found = registry.lock().find(channels, id, registry.now(), &mut access);
        if !access.has_pending() {
            return found;
        }
        access.resolve(channels);
    }
}

#[cfg(test)]
mod tests {
    //! The registry of a shared log whose items the tests supply, without Redis.

    use super::*;
    use crate::event::{Event, Framing};
    use crate::registry::{Histories, History, Start, Subscription};
    use crate::store::Record;

    impl Registry {
        /// Creates a registry with an empty shared log.
        pub(crate) fn with_shared_log(options: RegistryOptions) -> Self {
            let began = Duration::from_secs(1);
            Self::of(HubState::with_shared_log(), options, &Arc::default(), None, began)
        }

        /// Adds the next event of the log.
        pub(crate) fn receive(&self, epoch: u64, n: usize, channel: &str, event: Event) {
            let id = EventId { epoch, n: n as u64 };
            let (channel, at) = (channel.into(), Duration::from_millis(epoch));
            let record =
                Record { channel, at, event, key: None, subscribers: 0, count: 1, reach: None };
            enter(self, vec![LogItem::Event(id, record)]);
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
        enter(&registry, vec![LogItem::Lost(EventId { epoch: 1_009, n: u64::MAX })]);
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
    fn presence_changes_are_queued_in_order() {
        let (sender, mut queue) = PublishQueue::new();
        let (state, options) = (HubState::with_shared_log(), RegistryOptions::default());
        let registry = Registry::of(state, options, &Arc::default(), Some(sender), Duration::ZERO);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let channels = Channels::new(["a"]).unwrap();
                        let one = registry.subscribe(&channels, &Start::Now).unwrap();
                        drop(one.present_as("ada"));
                    }
                });
            }
        });
        let mut queued = Vec::new();
        while let Some(StoreRequest::Presence(change)) = queue.try_next() {
            queued.push(change.joins);
        }
        let (even, odd) = (queued.iter().step_by(2), queued.iter().skip(1).step_by(2));
        assert!(queued.len() >= 2 && queued.len().is_multiple_of(2), "{} changes", queued.len());
        assert!(even.into_iter().all(|joins| *joins) && odd.into_iter().all(|joins| !*joins));
        assert!(!registry.lock().presence_unsent, "the queue had room for each change");
    }

    #[test]
    fn a_presence_change_that_does_not_fit_is_sent_later() {
        let (sender, _receiver) = crossbeam_channel::bounded(1);
        let (state, options) = (HubState::with_shared_log(), RegistryOptions::default());
        let registry = Registry::of(state, options, &Arc::default(), Some(sender), Duration::ZERO);
        let channels = Channels::new(["a"]).unwrap();
        let one = registry.subscribe(&channels, &Start::Now).unwrap().present_as("ada");
        assert!(!registry.lock().presence_unsent);
        drop(one);
        assert!(registry.lock().presence_unsent);
    }

    #[test]
    fn a_new_event_is_read_even_if_its_timestamp_is_old() {
        let history =
            Histories::all(History { age: Duration::from_secs(60), ..History::default() });
        let registry =
            Registry::with_shared_log(RegistryOptions { history, ..RegistryOptions::default() });
        let mut subscription = subscribe(&registry, "0-0");
        set_clock(&registry, Duration::from_secs(1_000));
        registry.receive(100_000, 0, "a", Event::new("1"));
        assert_eq!(read(&mut subscription), "1", "the subscriber gets the event and no gap");
        registry.receive(200_000, 0, "a", Event::new("2"));
        assert_eq!(registry.list()[0].events, 1, "the first event is too old by either clock");
        // Once Redis's clock is known, only that clock decides which events are too old.
        set_clock(&registry, Duration::from_secs(200));
        registry.receive(201_000, 0, "a", Event::new("3"));
        registry.sweep();
        assert_eq!(read(&mut subscription), "2 3");
        set_clock(&registry, Duration::from_secs(1_000));
        registry.sweep();
        assert_eq!(registry.list()[0].events, 0);
    }

    #[test]
    fn a_cursor_ahead_is_valid_after_the_clock_went_back() {
        let registry = Registry::with_shared_log(RegistryOptions::default());
        registry.receive(200_000, 0, "a", Event::new("1"));
        set_clock(&registry, Duration::from_secs(1));
        let mut ahead = subscribe(&registry, "200000-1");
        registry.receive(200_000, 1, "a", Event::new("2"));
        registry.receive(200_000, 2, "a", Event::new("3"));
        assert_eq!(read(&mut ahead), "3");
    }
}
