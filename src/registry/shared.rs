//! A registry whose events are in a log that several nodes share.
//!
//! ```text
//!  publishers        Publisher, one thread          Redis           Follower, one thread
//!  order ──mailbox─▶ gather ── one script a batch ─▶ log ── XREAD ─▶ enter, under the lock
//!  answer ◀───────── each publisher's own ◀─── ids                    └─bells─▶ read
//! ```
//!
//! The log says what of a request is new, and gives the ids. Its order is that of
//! every node: events of this one too enter the rings only as they are read back.
//!
//! # Invariants
//!
//! * **A publisher is answered when Redis has its event**, and not before; nobody
//!   waits for his own node to have read it.
//! * **What the log has lost is said.** A hole in it empties the rings, and every
//!   reader that was before it is told by a gap.
//! * **No I/O under the registry's lock.**

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};

use super::audience::{Bells, Doorbell};
use super::readable::Private;
use super::sequencer::{Entered, MAILBOX, Order, Request};
use super::state::State;
use super::{BATCH_BYTES, Channels, Published, Registry, RegistryOptions};
use crate::counters::Counters;
use crate::error::{PublishError, StoreError};
use crate::id::EventId;
use crate::store::RedisUrl;
use crate::store::redis::{Asked, Bounds, Change, News, Reader, Row, Trouble, Writer};

/// How many times the events that the most generous channel keeps the log holds, so
/// that a busy channel does not at once push out the others' history.
const CHANNELS: usize = 100;

/// How often the other nodes are told who listens here, if that has changed; and if
/// not.
const TELL: Duration = Duration::from_millis(500);
const REFRESH: Duration = Duration::from_secs(5);

/// How often it is looked who listens there.
const LOOK: Duration = Duration::from_secs(1);

/// The first and the longest wait between two attempts to reach Redis.
const SOON: Duration = Duration::from_millis(50);
const LATER: Duration = Duration::from_secs(1);

/// How long a publisher's own id may be unknown that a client brings from another node.
const CATCH_UP: Duration = Duration::from_secs(1);

/// What a registry knows of the log that it shares.
#[derive(Debug)]
pub(super) struct Contact(AtomicBool);

impl Contact {
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(true))
    }
}

impl Registry {
    /// A registry that shares its events with every other one of the same Redis;
    /// and who is to be run for events to be published, and to be read.
    pub(crate) fn with_redis(
        options: RegistryOptions,
        counters: &Arc<Counters>,
        url: &RedisUrl,
    ) -> Result<(Self, Publisher, Follower), StoreError> {
        let rules = || options.history.all_rules();
        let bounds = Bounds {
            events: rules().map(|rule| rule.events).max().unwrap_or_default().max(1) * CHANNELS,
            age: rules().map(|rule| rule.age).max().unwrap_or_default(),
        };
        let node = format!("{:016x}", fastrand::u64(..));
        let mut log = Writer::new(url, bounds, node.clone());
        let mut reader = Reader::new(url, bounds, node);
        let mut state = State::of_a_log();
        let began = reader.begin(&mut |news| state.hear(news, &options));
        let (floor, look) = began.map_err(|trouble| trouble.at_start(url))?;
        state.begin_at(floor, look.last);
        state.others = look.others.unwrap_or_default();
        let known = log.refresh(look.last, &Row::default(), true);
        known.map_err(|trouble| trouble.at_start(url))?;
        let names: Vec<Arc<str>> = state.channels.keys().cloned().collect();
        let newest = state.channels.values().filter_map(|channel| channel.ring.newest_at()).max();
        let now = look.now.max(newest.unwrap_or_default());
        names.iter().for_each(|name| state.trim(name, now));
        let (orders, mailbox) = crossbeam_channel::bounded(MAILBOX);
        let registry = Self::of(state, options, counters, Some(orders), now);
        let publisher = Publisher {
            registry: registry.clone(),
            log,
            mailbox,
            held: None,
            told: Told { row: Row::default(), changes: 0, at: Instant::now(), known: true },
            refuses: false,
        };
        Ok((registry.clone(), publisher, Follower { registry, reader, warned: false }))
    }

    /// Whether the log that it shares can be reached; `None` if it shares none.
    pub(crate) fn reaches_the_log(&self) -> Option<bool> {
        self.shared.contact.as_ref().map(|contact| contact.0.load(Ordering::Relaxed))
    }

    /// Whether a position is one that this node has not come to yet.
    pub(crate) fn is_ahead(&self, id: EventId) -> bool {
        self.shared.contact.is_some() && id > self.last_id()
    }

    /// Gives this node a moment to read an event that another one has told, where its id
    /// does not say how new it is.
    #[inline(never)] // most streams do without
    pub(super) fn await_own_id(&self, channels: &Channels, id: &str) {
        if self.shared.contact.is_none() || id.parse::<EventId>().is_ok() {
            return;
        }
        let (door, visitors) = crossbeam_channel::bounded(1);
        let bell = Doorbell::new(door, 0);
        let _listening = self.listen(channels, &bell);
        let deadline = Instant::now() + CATCH_UP;
        while self.lock().find(channels, id, self.now()).is_none()
            && visitors.recv_deadline(deadline).is_ok()
        {
            bell.answer();
        }
    }

    /// Lets what was read from the log into the rings.
    fn enter(&self, read: Vec<News>) {
        let options = &self.shared.options;
        // Encoded before the lock is taken.
        let heard: Vec<Heard> = read.into_iter().map(|news| Heard::of(news, options)).collect();
        let rings: BTreeSet<(Arc<str>, Option<Arc<Private>>)> =
            heard.iter().flat_map(Heard::rings).collect();
        let lost = heard.iter().any(|one| matches!(one, Heard::Lost(_)));
        let now = self.now();
        let mut state = self.lock();
        heard.into_iter().for_each(|one| state.take_in(one, options));
        rings.iter().for_each(|(name, _)| state.trim(name, now));
        let bells: Vec<Bells> = if lost {
            state.all_bells()
        } else {
            let audiences = rings.iter().map(|(name, who)| state.audience(name, who.as_ref()));
            audiences.flat_map(|(_, bells)| bells).collect()
        };
        drop(state);
        bells.iter().for_each(Bells::ring);
    }
}

/// News, with what is encoded of it.
enum Heard {
    Event(Entered),
    Forget(EventId, Arc<str>, EventId),
    Lost(EventId),
}

impl Heard {
    fn of(news: News, options: &RegistryOptions) -> Self {
        match news {
            News::Event(id, record) => Self::Event(Entered::new(id, &record, options)),
            News::Forget(id, channel, newest) => Self::Forget(id, channel, newest),
            News::Lost(upto) => Self::Lost(upto),
        }
    }

    /// Which channels it changes, and whose bells are to ring for that.
    fn rings(&self) -> Vec<(Arc<str>, Option<Arc<Private>>)> {
        match self {
            Self::Event(entered) => entered.rings().collect(),
            Self::Forget(_, channel, _) => vec![(Arc::clone(channel), None)],
            Self::Lost(_) => Vec::new(),
        }
    }
}

impl State {
    fn hear(&mut self, news: News, options: &RegistryOptions) {
        let heard = Heard::of(news, options);
        let rings = heard.rings();
        self.take_in(heard, options);
        // The log keeps far more than the rings do, and it is not yet known how old it is.
        rings.iter().for_each(|(name, _)| self.trim(name, Duration::ZERO));
    }

    fn take_in(&mut self, heard: Heard, options: &RegistryOptions) {
        match heard {
            Heard::Event(entered) => self.enter(entered, options),
            Heard::Forget(id, channel, newest) => {
                self.last = self.last.max(id);
                let target = self.channel_of_any_number(&channel, options);
                target.clear();
                // What was deleted before this node could read it is lost as well.
                target.ring.begin_at(newest);
            }
            Heard::Lost(upto) => self.lose(upto),
        }
    }
}

/// The thread that publishes for this node, and says who listens to it.
#[derive(Debug)]
#[must_use = "nothing is published until it runs"]
pub(crate) struct Publisher {
    registry: Registry,
    log: Writer,
    mailbox: Receiver<Order>,
    /// An order that was found behind others of another kind.
    held: Option<Order>,
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
    /// Whether Redis is sure to know all the names that are here.
    known: bool,
}

impl Publisher {
    /// Takes orders until `stop` is disconnected, and those that wait then; and says
    /// goodbye to the other nodes.
    pub(crate) fn run(mut self, stop: &Receiver<Infallible>) {
        let mut due = Instant::now() + TELL;
        loop {
            select! {
                recv(self.mailbox) -> order => match order {
                    Ok(order) => self.take(order),
                    Err(_) => break,
                },
                recv(stop) -> _ => break,
                default(due.saturating_duration_since(Instant::now())) => {}
            }
            if Instant::now() >= due {
                self.tell();
                due = Instant::now() + TELL;
            }
        }
        while let Ok(order) = self.mailbox.try_recv() {
            self.take(order);
        }
        // A node that cannot say so is forgotten after a while.
        let _ = self.log.bury(self.registry.last_id());
    }

    fn take(&mut self, first: Order) {
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Publish(request) => {
                    let requests = self.gather(request);
                    self.publish(requests);
                }
                Order::Forget { channel, answer } => {
                    // Who asked may have left.
                    let _ = answer.send(self.forget(&channel));
                }
                Order::Presence(change) => self.change(change),
                Order::Sweep => {}
            }
            next = self.held.take();
        }
    }

    /// All that waits to be published, for one round trip.
    fn gather(&mut self, first: Request) -> Vec<Request> {
        let mut bytes = first.size();
        let mut requests = vec![first];
        while bytes < BATCH_BYTES {
            match self.mailbox.try_recv() {
                Ok(Order::Publish(request)) => {
                    bytes += request.size();
                    requests.push(request);
                }
                Ok(other) => {
                    self.held = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        requests
    }

    fn publish(&mut self, requests: Vec<Request>) {
        let options = &self.registry.shared.options;
        let now = self.registry.now();
        let mut state = self.registry.lock();
        let (last, mut taken, mut listeners) = (state.last, Vec::new(), Vec::new());
        for request in requests {
            let topics: Vec<Arc<str>> = request.topics().cloned().collect();
            match state.make_all(&topics, now, options) {
                Ok(()) => {
                    let private = request.is_private().then(|| Arc::new(Private::of(&topics)));
                    listeners.push(state.listeners_everywhere(&topics, private.as_ref()));
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
            key: request.key.as_deref(),
            events: &request.events,
            subscribers: *subscribers,
            known_for: options.history.of(&request.channel).age,
        });
        let asked: Vec<Asked<'_>> = asked.collect();
        let began = Instant::now();
        let published = self.log.publish(last, &asked);
        self.registry.counters().commit(began.elapsed());
        self.note(published.as_ref().err());
        match published {
            Ok(answers) => {
                for (request, (id, subscribers, count)) in taken.into_iter().zip(answers) {
                    request.answer(Ok(Published { id, subscribers, count }));
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
        let state = self.registry.lock();
        let last = state.last;
        let Some(channel) = state.channels.get(name) else { return Ok(false) };
        let (own_ids, keys) = channel.marks.names();
        let ids: Vec<EventId> = channel.ring.entries().map(|entry| entry.id).collect();
        drop(state);
        self.log.forget(last, name, &ids, (&own_ids, &keys))?;
        Ok(true)
    }

    /// Tells Redis who has come and gone, with all others who wait to be told of.
    fn change(&mut self, first: Change) {
        let mut changes = vec![first];
        while self.held.is_none() {
            match self.mailbox.try_recv() {
                Ok(Order::Presence(change)) => changes.push(change),
                Ok(other) => self.held = Some(other),
                Err(_) => break,
            }
        }
        if self.log.change(self.registry.last_id(), &changes).is_err() {
            self.told.known = false; // and is told all of it later
        }
    }

    /// Tells the other nodes who listens here, if that is news to them.
    fn tell(&mut self) {
        let changes = self.registry.lock().changes;
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

/// The thread that reads the log into the rings.
#[derive(Debug)]
#[must_use = "nothing is read until it runs"]
pub(crate) struct Follower {
    registry: Registry,
    reader: Reader,
    /// Whether it has said that Redis has lost what was in it.
    warned: bool,
}

impl Follower {
    /// Reads until `stop` is disconnected.
    pub(crate) fn run(mut self, stop: &Receiver<Infallible>) {
        let mut looked: Option<Instant> = Some(Instant::now());
        let mut gone: Option<(Instant, Duration)> = None;
        loop {
            let wait = match self.round(&mut looked) {
                Ok(()) => {
                    if let Some((since, _)) = gone.take() {
                        self.reach(true);
                        log::info!("Redis is back, after {:.1?}", since.elapsed());
                    }
                    Duration::ZERO
                }
                Err(trouble) => {
                    looked = None;
                    let (since, wait) = gone.unwrap_or_else(|| {
                        self.reach(false);
                        log::error!(
                            "Redis is gone, so publishing is refused until it is back; streams \
                             stay open: {trouble}"
                        );
                        (Instant::now(), SOON)
                    });
                    gone = Some((since, (wait * 2).min(LATER)));
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

    /// Looks at the others now and then, and waits for what comes next.
    fn round(&mut self, looked: &mut Option<Instant>) -> Result<(), Trouble> {
        if looked.is_none_or(|at| at.elapsed() >= LOOK) {
            let look = self.reader.look()?;
            *looked = Some(Instant::now());
            let has_lost = self.reader.is_ahead_of(&look);
            if has_lost && !self.warned {
                log::error!(
                    "Redis has come back without its newest events: its last is {}, and {} was \
                     read from it; readers are told by a gap, with the next event",
                    look.last,
                    self.registry.last_id()
                );
            }
            self.warned = has_lost;
            if let Some(others) = look.others {
                self.registry.lock().others = others;
            }
        }
        let read = self.reader.wait()?;
        for news in &read {
            if let News::Lost(upto) = news {
                log::warn!(
                    "events are missing in the log, up to {upto}; whoever had not come so far is \
                     told by a gap"
                );
            }
        }
        if !read.is_empty() {
            self.registry.enter(read);
        }
        Ok(())
    }

    fn reach(&self, reaches: bool) {
        if let Some(contact) = &self.registry.shared.contact {
            contact.0.store(reaches, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
