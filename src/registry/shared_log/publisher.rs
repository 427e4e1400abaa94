//! The thread that publishes for this node, and says who listens to it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::error::PublishError;
use crate::id::EventId;
use crate::registry::publish_queue::{PublishQueue, Request, StoreRequest};
use crate::registry::{Published, Registry};
use crate::store::redis::{Answered, Asked, Change, Row, Trouble, Writer};
use crate::store::{Floor, Readers};

/// How often the other nodes are told who listens here, if that has changed; and if
/// not.
const TELL: Duration = Duration::from_millis(500);
const REFRESH: Duration = Duration::from_secs(5);

/// How many events one script forgets: Redis serves nobody else meanwhile.
const FORGOTTEN_AT_ONCE: usize = 1_000;

/// Publishes for this node, one batch after the other.
#[derive(Debug)]
#[must_use = "nothing is published until it runs"]
pub(crate) struct LogPublisher {
    registry: Registry,
    log: Writer,
    queue: PublishQueue,
    told: Told,
    /// Whether Redis has refused the last time.
    refuses: bool,
}

/// What the other nodes have been told of who listens here.
#[derive(Debug)]
struct Told {
    row: Row,
    changes: u64,
    at: Instant,
    /// Whether Redis is sure to know all the names that are here: not after any failure,
    /// for the Redis that is there next may be one that was behind.
    known: bool,
}

impl LogPublisher {
    pub(super) fn new(registry: Registry, log: Writer, queue: PublishQueue) -> Self {
        let told = Told { row: Row::default(), changes: 0, at: Instant::now(), known: true };
        Self { registry, log, queue, told, refuses: false }
    }

    /// Takes orders until `stop` is disconnected, and those that wait then; and says
    /// goodbye to the other nodes.
    pub(crate) fn run(mut self, stop: &Receiver<Infallible>) {
        let mut due = Instant::now() + TELL;
        loop {
            match self.queue.next(stop, Some(due)) {
                Ok(request) => self.handle(request),
                Err(RecvTimeoutError::Timeout) => {
                    self.tell();
                    due = Instant::now() + TELL;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        while let Some(request) = self.queue.waiting() {
            self.handle(request);
        }
        // A node that cannot say so is forgotten after a while.
        let _ = self.log.evict_node(self.registry.last_id());
    }

    /// One batch, and no more: with a Redis that is slow, the others must hear in time that
    /// this node lives.
    fn handle(&mut self, request: StoreRequest) {
        match request {
            StoreRequest::Publish(request) => {
                let requests = self.queue.gather(request, |_| true);
                self.publish(requests);
            }
            StoreRequest::Forget { channel, answer } => {
                // Who asked may have left.
                let _ = answer.send(self.forget(&channel));
            }
            StoreRequest::Presence(change) => self.change(change),
            StoreRequest::Sweep => {}
        }
    }

    fn publish(&mut self, requests: Vec<Request>) {
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
                    // Of the other nodes it is not known how many may read what is private.
                    listeners.push(request.subscribers.unwrap_or_else(everywhere));
                    taken.push(request);
                }
                Err(error) => request.answer(Err(error)),
            }
        }
        drop(state);
        if taken.is_empty() {
            return;
        }
        let asked = taken.iter().zip(&listeners).map(|(request, subscribers)| Asked {
            channel: &request.channel,
            reach: request.reach.as_deref(),
            key: request.key.as_ref(),
            events: &request.events,
            subscribers: *subscribers,
            known_for: options.history.of(&request.channel).age,
        });
        let asked: Vec<Asked<'_>> = asked.collect();
        let began = Instant::now();
        let published = self.log.publish(last, &asked);
        self.registry.lock().release(&held);
        self.registry.counters().commit(began.elapsed());
        self.note(published.as_ref().err());
        self.told.known &= published.is_ok();
        match published {
            Ok(answers) => {
                for (request, answer) in taken.into_iter().zip(answers) {
                    request.answer(match answer {
                        Answered::Published { id, subscribers, count } => {
                            Ok(Published { id, subscribers, count })
                        }
                        Answered::KeyReused => Err(PublishError::KeyReused),
                    });
                }
            }
            Err(trouble) => {
                let error = PublishError::from(trouble);
                taken.into_iter().for_each(|request| request.answer(Err(error.clone())));
            }
        }
    }

    /// Says once that Redis refuses what it is asked. That it is away, the reader says.
    fn note(&mut self, trouble: Option<&Trouble>) {
        match trouble {
            None if std::mem::take(&mut self.refuses) => log::info!("Redis takes events again"),
            Some(trouble @ (Trouble::Refused(_) | Trouble::Denied(_))) if !self.refuses => {
                self.refuses = true;
                log::error!("publishing is refused by Redis: {trouble}");
            }
            _ => {}
        }
    }

    fn forget(&mut self, name: &str) -> Result<bool, PublishError> {
        let forgotten = self.forget_all(name);
        self.told.known &= forgotten.is_ok();
        Ok(forgotten?)
    }

    /// Forgets what is in the ring, and what stands in the log: that keeps far more, even
    /// of a channel that this node has let go of. The first step has every node forget all
    /// of it; the others only take it out of Redis.
    fn forget_all(&mut self, name: &str) -> Result<bool, Trouble> {
        let state = self.registry.lock();
        let last = state.last;
        let channel = state.channels.get(name);
        let is_here = channel.is_some();
        let (own_ids, keys) = channel.map(|channel| channel.dedup.names()).unwrap_or_default();
        let entries = channel.into_iter().flat_map(|channel| channel.ring.entries());
        let mut found: BTreeMap<EventId, Readers> =
            entries.map(|entry| (entry.id, entry.readers())).collect();
        drop(state);
        let mut after = Some(EventId::ZERO);
        while let Some(begin) = after {
            after = self.log.find(last, name, begin, &mut found)?;
            self.tell_in_time();
        }
        if !is_here && found.is_empty() {
            return Ok(false);
        }
        let floors = found.iter().map(|(id, who)| Floor::of(*id, *who));
        let floor = floors.fold(Floor::default(), Floor::max);
        let ids: Vec<EventId> = found.into_keys().collect();
        let (mut rest, mut told) = (&ids[..], Some(floor));
        loop {
            let (piece, later) = rest.split_at(rest.len().min(FORGOTTEN_AT_ONCE));
            let is_first = told.is_some();
            let forgotten = self.log.forget(last, name, told.take(), piece, (&own_ids, &keys));
            forgotten.map_err(|trouble| if is_first { trouble } else { half_done(&trouble) })?;
            if later.is_empty() {
                return Ok(true);
            }
            rest = later;
            self.tell_in_time();
        }
    }

    /// Tells the others that this node lives, however long something takes.
    fn tell_in_time(&mut self) {
        if self.told.at.elapsed() >= REFRESH {
            self.tell();
        }
    }

    /// Tells Redis who has come and gone, with all others who wait to be told of.
    fn change(&mut self, first: Change) {
        let changes = self.queue.gather_changes(first);
        let told = self.log.change(self.registry.last_id(), &changes);
        self.told.known &= told.is_ok(); // else it is told all of it later
    }

    /// Tells the other nodes who listens here, if that is news to them.
    fn tell(&mut self) {
        let mut state = self.registry.lock();
        let changes = state.changes;
        self.told.known &= !std::mem::take(&mut state.presence_unsent);
        drop(state);
        let due = self.told.at.elapsed() >= REFRESH || !self.told.known;
        if !due && changes == self.told.changes {
            return;
        }
        let row = self.registry.lock().row();
        if !due && row == self.told.row {
            self.told.changes = changes;
            return;
        }
        let last = self.registry.last_id();
        let mut told = self.log.refresh(last, &row, !self.told.known);
        if told == Ok(false) && self.told.known {
            // It was given up while it was away, or Redis has lost it.
            told = self.log.refresh(last, &row, true);
        }
        let known = told.is_ok();
        self.told = Told { row, changes, at: Instant::now(), known };
    }
}

/// No reader is given the history any more, and some of it still is in Redis.
fn half_done(trouble: &Trouble) -> Trouble {
    let what = "the history is forgotten, but not all of it is deleted from Redis yet; \
                delete it again";
    Trouble::Unanswered(format!("{what} ({trouble})"))
}
