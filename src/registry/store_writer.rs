//! Who gives the ids when there is a store: one thread that commits, and only
//! then lets events into the rings.
//!
//! ```text
//!  publishers         StoreWriter, one thread                        subscribers
//!  order ──mailbox──▶ plan     what of the batch is new, under the lock
//!                     append   the store gives ids, and syncs: no lock is held
//!                     enter    into the rings, under the lock ──bells──▶ read
//!  answer ◀────────── each publisher's own, for one
//! ```
//!
//! While one batch is on its way to the disk, the next one gathers in the
//! mailbox: the more publish at once, the more events share one sync.
//!
//! # Invariants
//!
//! * **Nobody sees an event that a crash could take back.** A ring gets it after
//!   the store has it, and so does the answer.
//! * **A publisher waits for the disk, never for a subscriber.** Threads that
//!   others depend on do not even wait for the disk: they [`announce`].
//! * **No I/O under the registry's lock.**
//!
//! [`announce`]: Registry::announce

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;

use super::dedup::DedupEntry;
use super::patterns::PatternMatches;
use super::publish_batch::{Names, PublishBatch};
use super::publish_queue::{PublishQueue, Request, StoreRequest};
use super::readable::Private;
use super::ring::Entry;
use super::state::{Evictions, HubState};
use super::subscribers::Notifiers;
use super::{Published, Registry, RegistryOptions, time_of_day};
use crate::counters::Counters;
use crate::error::{PublishError, StoreError};
use crate::id::EventId;
use crate::store::{Eviction, Kept, Record, Store};

impl Registry {
    /// A registry whose events are kept by a store, with what it kept; and who is
    /// to be run for events to be taken. `open` hands out each kept event, in the
    /// order of ids.
    pub(crate) fn with_store<S: Store + 'static>(
        options: RegistryOptions,
        counters: &Arc<Counters>,
        open: impl FnOnce(&mut dyn FnMut(EventId, Record)) -> Result<(S, Kept), StoreError>,
    ) -> Result<(Self, StoreWriter), StoreError> {
        let mut state = HubState::new(EventId::ZERO);
        state.losses = Evictions::noted(); // what does not fit leaves the file as well
        let mut began = time_of_day();
        let (store, kept) = open(&mut |id, record| {
            began = began.max(record.at);
            state.enter(Entered::new(id, &record, &options), &options, &PatternMatches::default());
            state.evict(options.history_total);
        })?;
        state.restore(kept, &options);
        let names: Vec<Arc<str>> = state.channels.keys().cloned().collect();
        names.iter().for_each(|name| state.trim(name, began));
        let (mailbox, queue) = PublishQueue::new();
        let registry = Self::of(state, options, counters, Some(mailbox), began);
        let (store, losses) = (Box::new(store), Vec::new());
        let refuses = false;
        let store_writer =
            StoreWriter { registry: registry.clone(), store, queue, losses, refuses };
        Ok((registry, store_writer))
    }
}

/// An event that the store has, on its way into its ring.
pub(super) struct Entered {
    /// In whose rings it is to be.
    pub(super) channels: Vec<Arc<str>>,
    pub(super) entry: Entry,
    pub(super) published: Published,
}

impl Entered {
    pub(super) fn new(id: EventId, record: &Record, options: &RegistryOptions) -> Self {
        let Record { at, event, key, subscribers, count, .. } = record;
        let mark = DedupEntry { own: event.id().map(Arc::from), key: key.clone() };
        let mark = (mark.own.is_some() || mark.key.is_some()).then(|| Box::new(mark));
        let visible = options.ids.then_some(&id as &dyn std::fmt::Display);
        let frame = event.frame(visible);
        let topics = || record.topics().collect::<Vec<_>>();
        let private = record.is_private().then(|| Arc::new(Private::of(&topics())));
        Self {
            channels: record.channels().cloned().collect(),
            entry: Entry {
                id,
                at: *at,
                frame,
                dedup: mark,
                private,
                presence: record.is_presence(),
            },
            published: Published { id, subscribers: *subscribers, count: *count },
        }
    }

    /// Whose bells are to ring for it.
    pub(super) fn rings(&self) -> impl Iterator<Item = (Arc<str>, Option<Arc<Private>>)> {
        self.channels.iter().map(|channel| (Arc::clone(channel), self.entry.private.clone()))
    }
}

/// The thread that gives ids, and all that it needs.
#[derive(Debug)]
#[must_use = "nothing is published until it runs"]
pub(crate) struct StoreWriter {
    registry: Registry,
    store: Box<dyn Store>,
    queue: PublishQueue,
    /// What was let go, as far as the store has not been told.
    losses: Vec<Eviction>,
    /// Whether the store took nothing the last time.
    refuses: bool,
}

impl StoreWriter {
    /// Takes orders until `stop` is disconnected, and those that wait then.
    pub(crate) fn run(mut self, stop: &Receiver<Infallible>) {
        while let Ok(request) = self.queue.next(stop, None) {
            self.handle(request);
        }
        while let Some(request) = self.queue.waiting() {
            self.handle(request);
        }
    }

    fn handle(&mut self, request: StoreRequest) {
        match request {
            StoreRequest::Forget { channel, answer } => {
                // Who asked may have left.
                let _ = answer.send(self.forget(&channel));
            }
            StoreRequest::Publish(request) => {
                let mut names = Names::default();
                names.add(&request);
                // Up to an order that must see this batch in the rings before it is looked at.
                let requests = self.queue.gather(request, |next| names.add(next));
                self.publish(requests);
            }
            // A file is one node's: there are no others to tell.
            StoreRequest::Sweep | StoreRequest::Presence(_) => self.publish(Vec::new()),
        }
    }

    fn publish(&mut self, requests: Vec<Request>) {
        let mut batch = PublishBatch::default();
        let now = self.registry.now();
        let options = &self.registry.inner.options;
        let mut state = self.registry.lock();
        let promises: Vec<_> = (requests.into_iter())
            .map(|mut request| {
                (request.answer.take(), batch.add(request, &mut state, now, options))
            })
            .collect();
        self.losses.append(&mut state.losses.take());
        drop(state);
        let ids = self.append(&batch.records);
        if let Ok(ids) = &ids {
            self.enter(&batch.records, ids);
        }
        self.registry.lock().release(&batch.held);
        for (answer, promise) in promises {
            let published = promise.and_then(|promise| promise.answer(&ids));
            match (answer, published) {
                // Who asked may have left.
                (Some(answer), published) => drop(answer.send(published)),
                (None, Err(error)) => log::warn!("nobody is told of who comes and goes: {error}"),
                (None, Ok(_)) => {}
            }
        }
        self.store.tidy();
    }

    /// Has the store keep these, and let go of what the rings let go of.
    fn append(&mut self, records: &[Record]) -> Result<Vec<EventId>, PublishError> {
        if records.is_empty() && self.losses.is_empty() {
            return Ok(Vec::new());
        }
        let asked = Instant::now();
        let kept = self.store.append(records, &self.losses);
        self.registry.counters().commit(asked.elapsed());
        match &kept {
            Ok(_) => {
                self.losses.clear();
                if std::mem::take(&mut self.refuses) {
                    log::info!("the store takes events again");
                }
            }
            Err(error) if !self.refuses => {
                self.refuses = true;
                log::error!("publishing is refused: {error}");
            }
            Err(_) => {}
        }
        kept
    }

    fn enter(&self, records: &[Record], ids: &[EventId]) {
        let options = &self.registry.inner.options;
        // Encoded before the lock is taken.
        let entered =
            records.iter().zip(ids).map(|(record, id)| Entered::new(*id, record, options));
        let entered: Vec<Entered> = entered.collect();
        let names: BTreeSet<_> = records.iter().flat_map(Record::channels).collect();
        // Once for each channel; but who is to hear of a private event is its own question.
        let rings: BTreeSet<_> = entered.iter().flat_map(Entered::rings).collect();
        let now = self.registry.now();
        // The publishers have matched the patterns, unless a channel has gone meanwhile.
        let all: Vec<&Arc<str>> = rings.iter().map(|(name, _)| name).collect();
        let (mut state, answers) = self.registry.lock_to_enter(&all);
        entered.into_iter().for_each(|entered| state.enter(entered, options, &answers));
        names.iter().for_each(|name| state.trim(name, now));
        state.evict(options.history_total);
        let notifiers =
            rings.iter().flat_map(|(name, private)| state.notifiers(name, private.as_ref()));
        let notifiers: Vec<Notifiers> = notifiers.collect();
        drop(state);
        notifiers.iter().for_each(Notifiers::notify);
    }

    /// The store forgets first: what is forgotten must not come back.
    fn forget(&mut self, name: &str) -> Result<bool, PublishError> {
        let mut state = self.registry.lock();
        self.losses.append(&mut state.losses.take());
        let Some(channel) = state.channels.get(name) else { return Ok(false) };
        let told = self.losses.len();
        self.losses.extend(channel.ring.entries().map(|entry| Eviction::of(name, entry)));
        drop(state);
        if let Err(error) = self.append(&[]) {
            self.losses.truncate(told); // they are still in the ring
            return Err(error);
        }
        Ok(self.registry.lock().clear(name))
    }
}

impl Eviction {
    pub(super) fn of(channel: &str, entry: &Entry) -> Self {
        Self::Event { channel: channel.into(), id: entry.id, at: entry.at, who: entry.readers() }
    }
}

#[cfg(test)]
mod tests;
