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
//!
//! [`publish_presence`]: Registry::publish_presence

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;

use super::dedup::DedupEntry;
use super::patterns::PatternMatches;
use super::publish_batch::{BatchNames, PublishBatch};
use super::publish_queue::{PublishQueue, PublishRequest, StoreRequest};
use super::readable::Private;
use super::ring::Entry;
use super::state::{Evictions, HubState};
use super::subscribers::Notifiers;
use super::{Published, Registry, RegistryOptions, time_of_day};
use crate::counters::Counters;
use crate::error::{PublishError, StoreError};
use crate::id::EventId;
use crate::store::{Eviction, Record, Store, StoreMeta};

impl Registry {
    /// Creates a registry with the events of a store, and the writer for that store.
    ///
    /// The caller must run the writer on a thread, because only the writer publishes events. `open`
    /// must open the store and call its argument with each stored event, in the order of ids.
    pub(crate) fn with_store<S: Store + 'static>(
        options: RegistryOptions,
        counters: &Arc<Counters>,
        open: impl FnOnce(&mut dyn FnMut(EventId, Record)) -> Result<(S, StoreMeta), StoreError>,
    ) -> Result<(Self, StoreWriter), StoreError> {
        let mut state = HubState::new(EventId::ZERO);
        state.losses = Evictions::noted(); // events that do not fit are deleted from the file
        let mut began = time_of_day();
        let (store, kept) = open(&mut |id, record| {
            began = began.max(record.at);
            state.enter(
                StoredEvent::new(id, &record, &options),
                &options,
                &PatternMatches::default(),
            );
            state.evict(options.history_total);
        })?;
        state.restore(kept, &options);
        let names: Vec<Arc<str>> = state.channels.keys().cloned().collect();
        names.iter().for_each(|name| state.trim(name, began));
        let (sender, queue) = PublishQueue::new();
        let registry = Self::of(state, options, counters, Some(sender), began);
        let (store, evictions) = (Box::new(store), Vec::new());
        let failing = false;
        let store_writer =
            StoreWriter { registry: registry.clone(), store, queue, evictions, failing };
        Ok((registry, store_writer))
    }
}

/// An event that is in the store, encoded and ready to be added to the rings.
pub(super) struct StoredEvent {
    /// The channels to whose rings the event is added.
    pub(super) channels: Vec<Arc<str>>,
    pub(super) entry: Entry,
    pub(super) published: Published,
}

impl StoredEvent {
    pub(super) fn new(id: EventId, record: &Record, options: &RegistryOptions) -> Self {
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
        }
    }

    /// Returns the channels whose subscribers must be notified, each with the topics of the event
    /// if it is private.
    pub(super) fn targets(&self) -> impl Iterator<Item = (Arc<str>, Option<Arc<Private>>)> {
        self.channels.iter().map(|channel| (Arc::clone(channel), self.entry.private.clone()))
    }
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
        let (mut state, answers) = self.registry.lock_to_enter(&all);
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

impl Eviction {
    pub(super) fn of(channel: &str, entry: &Entry) -> Self {
        Self::Event {
            channel: channel.into(),
            id: entry.id,
            at: entry.at,
            visibility: entry.visibility(),
        }
    }
}

#[cfg(test)]
mod tests;
