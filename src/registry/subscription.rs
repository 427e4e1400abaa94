//! A subscriber: what it listens to, how far it has read, and a bell that rings.

use std::sync::Arc;

use super::cursor::Beginning;
use super::readable::StreamAccess;
use super::subscribers::{Notifier, Subscribers};
use super::{Channels, Position, Registry, Start};
use crate::error::PublishError;
use crate::event::Frame;
use crate::id::EventId;
use crate::limits::RETRY;

/// A subscriber: its channels, counted, and its position. Dropping it is
/// leaving.
///
/// ```
/// use threadcast::{Channels, Registry, Start};
///
/// let registry = Registry::new();
/// let subscription = registry.subscribe(&Channels::new(["chat"])?, &Start::Now)?.present_as("Ada");
/// assert_eq!(registry.present("chat"), [("Ada".to_owned(), 1)]);
/// drop(subscription);
/// assert_eq!(registry.subscribers("chat"), 0);
/// # Ok::<(), threadcast::PublishError>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping a subscription leaves the channels at once"]
pub struct Subscription {
    pub(crate) registry: Registry,
    pub(crate) channels: Channels,
    pub(crate) position: Position,
    /// What a client resumes from that is cut off before its first event; `None` if it keeps the
    /// cursor that it brought, or if these events have no ids.
    pub(crate) cursor: Option<EventId>,
    /// What is to be said of a start that could not be found.
    pub(crate) unknown: Vec<Frame>,
    /// The name that its channels were told.
    pub(super) presence: Option<String>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let rights = self.channels.read_rights();
        self.registry.change(&self.channels, |subscribers| subscribers.leave(&rights));
        self.registry.tell_of_leaving(self);
    }
}

impl Registry {
    /// Joins these channels, from `start` on.
    ///
    /// Fails if there would be more channels than the registry keeps, or as many
    /// patterns.
    pub fn subscribe(
        &self,
        channels: &Channels,
        start: &Start,
    ) -> Result<Subscription, PublishError> {
        self.subscribe_boxed(channels, start).map(|subscription| *subscription)
    }

    /// The same in a box, which is not copied from frame to frame.
    #[inline(never)] // its frame is gone when the stream begins
    pub(crate) fn subscribe_boxed(
        &self,
        channels: &Channels,
        start: &Start,
    ) -> Result<Box<Subscription>, PublishError> {
        let beginning = match start {
            Start::Now => self.join_now(channels),
            _ => None,
        };
        let beginning = match beginning {
            Some(beginning) => beginning,
            None => self.join(channels, start)?,
        };
        let Beginning { position, cursor, unknown } = beginning;
        let cursor = cursor.filter(|_| self.inner.options.ids);
        let (registry, channels) = (self.clone(), channels.clone());
        let presence = None;
        Ok(Box::new(Subscription { registry, channels, position, cursor, unknown, presence }))
    }

    /// Joins channels that exist, from now on. `None` if one of them does not, or if patterns
    /// select some: then nothing has changed.
    ///
    /// What most streams need, and no more: a stream's thread keeps what its stack has touched.
    #[inline(never)]
    fn join_now(&self, channels: &Channels) -> Option<Beginning> {
        if !channels.patterns().is_empty() {
            return None;
        }
        let rights = channels.read_rights();
        let mut state = self.lock();
        if channels.names.iter().any(|name| !state.channels.contains_key(name)) {
            return None;
        }
        let beginning = state.begin_now(channels);
        state.change_subscribers(channels, |subscribers| subscribers.enter(&rights));
        Some(beginning)
    }

    /// Joins channels from any start, and makes those that do not exist.
    #[inline(never)] // most streams need none of this
    fn join(&self, channels: &Channels, start: &Start) -> Result<Beginning, PublishError> {
        if let Start::After(id) = start {
            self.await_own_id(channels, id);
        }
        let now = self.now();
        let rights = channels.read_rights();
        let patterns = channels.patterns();
        // All that can fail comes before the first change that lasts: dropping `watching` ends
        // what `watch` began.
        let watching = (!patterns.is_empty()).then(|| self.watch(patterns)).transpose()?;
        let mut access = StreamAccess::default();
        let beginning = loop {
            let mut state = self.lock();
            state.make_all(&channels.names, now, &self.inner.options)?;
            let beginning = state.begin(channels, start, now, &mut access);
            if !access.has_pending() {
                state.change_subscribers(channels, |subscribers| subscribers.enter(&rights));
                break beginning;
            }
            drop(state);
            access.resolve(channels);
        };
        drop(watching);
        Ok(beginning)
    }

    /// Changes the subscribers of these channels, and forgets the patterns that are then
    /// not used any more.
    fn change(&self, channels: &Channels, change: impl FnMut(&mut Subscribers)) {
        self.lock().change_subscribers(channels, change);
        if !channels.patterns().is_empty() {
            self.forget_patterns();
        }
    }

    /// Has a doorbell rung for each event of these channels, and once when the
    /// registry is closed.
    pub(crate) fn listen(&self, channels: &Channels, notifier: &Arc<Notifier>) -> Listening {
        let mut state = self.lock();
        state.last_key += 1;
        let key = state.last_key;
        let rights = channels.read_rights();
        state.change_subscribers(channels, |subscribers| {
            subscribers.add(key, Arc::clone(notifier), rights.clone());
        });
        let is_ending = state.open.is_none() || state.closing.is_some();
        drop(state);
        if is_ending {
            notifier.notify();
        }
        Listening { registry: self.clone(), channels: channels.clone(), key }
    }
}

/// Channels that exist until this is dropped, though nothing is in them yet.
#[derive(Debug)]
#[must_use = "dropping this releases the channels at once"]
pub(crate) struct Reserved<'a> {
    registry: &'a Registry,
    names: &'a [String],
}

impl Registry {
    /// Makes all of these channels, or none of them, for what is published to them next.
    pub(crate) fn reserve<'a>(&'a self, names: &'a [String]) -> Result<Reserved<'a>, PublishError> {
        let now = self.now();
        let mut state = self.lock();
        state.make_all(names, now, &self.inner.options)?;
        state.hold(names);
        Ok(Reserved { registry: self, names })
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.registry.lock().release(self.names);
    }
}

impl Subscription {
    /// The frame that its stream begins with; `as_event` is what some clients need (see
    /// [`Frame::cursor`]).
    pub(crate) fn first_frame(&self, as_event: bool) -> Frame {
        self.cursor.map_or_else(|| Frame::retry(RETRY), |id| Frame::cursor(RETRY, id, as_event))
    }

    /// Whether its start was found, and nothing is missing behind it.
    pub(crate) fn is_whole(&self) -> bool {
        self.unknown.is_empty() && self.registry.is_whole_after(&self.channels, &self.position)
    }
}

/// A doorbell that hangs at its channels until this is dropped.
#[derive(Debug)]
#[must_use = "dropping this takes the doorbell off at once"]
pub(crate) struct Listening {
    registry: Registry,
    channels: Channels,
    key: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.registry.change(&self.channels, |subscribers| subscribers.remove(self.key));
    }
}
