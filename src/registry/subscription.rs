//! A subscription has the channels and the position of a stream. A notifier wakes its thread.

use std::sync::Arc;

use super::cursor::Beginning;
use super::readable::StreamAccess;
use super::subscribers::{Notifier, Subscribers};
use super::{Channels, Position, Registry, Start};
use crate::error::PublishError;
use crate::event::Frame;
use crate::id::EventId;
use crate::limits::RETRY;

/// A subscription to channels that begins at a position. Dropping it ends the subscription.
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
#[must_use = "dropping a subscription ends it at once"]
pub struct Subscription {
    pub(crate) registry: Registry,
    pub(crate) channels: Channels,
    pub(crate) position: Position,
    /// The cursor from which a client resumes if it is cut off before its first event. `None` if
    /// the client must keep the cursor that it sent, or if the events have no ids.
    pub(crate) cursor: Option<EventId>,
    /// The gap frames for a start that could not be found.
    pub(crate) unknown: Vec<Frame>,
    /// The name under which the subscriber is present on its channels.
    pub(super) presence: Option<String>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let rights = self.channels.read_rights();
        self.registry.change(&self.channels, |subscribers| subscribers.leave(&rights));
        self.registry.announce_leaving(self);
    }
}

impl Registry {
    /// Subscribes to these channels, beginning at `start`.
    ///
    /// Fails if the subscription would exceed the maximum number of channels or of patterns.
    pub fn subscribe(
        &self,
        channels: &Channels,
        start: &Start,
    ) -> Result<Subscription, PublishError> {
        self.subscribe_boxed(channels, start).map(|subscription| *subscription)
    }

    /// Subscribes like [`subscribe`](Self::subscribe). The result is boxed, so that callers do not
    /// copy it on the stack.
    #[inline(never)] // so its stack frame is freed before the stream begins
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

    /// Subscribes to existing channels from the next event on.
    ///
    /// Returns `None` if one of the channels does not exist, or if the set has patterns. In this
    /// case, nothing has changed.
    ///
    /// This method serves only the common case, so that it needs little stack: a stream's thread
    /// keeps the stack memory that it has touched.
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

    /// Subscribes from any start, and creates the channels that do not exist.
    #[inline(never)] // most streams do not call it, and need less stack
    fn join(&self, channels: &Channels, start: &Start) -> Result<Beginning, PublishError> {
        if let Start::After(id) = start {
            self.await_client_id(channels, id);
        }
        let now = self.now();
        let rights = channels.read_rights();
        let patterns = channels.patterns();
        // No call may fail after the subscribers have changed. If `make_all` fails, dropping
        // `watching` undoes what `watch` did.
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

    /// Changes the subscribers of these channels, and frees the patterns that are unused
    /// afterwards.
    fn change(&self, channels: &Channels, change: impl FnMut(&mut Subscribers)) {
        self.lock().change_subscribers(channels, change);
        if !channels.patterns().is_empty() {
            self.forget_patterns();
        }
    }

    /// Registers a notifier for the events of these channels.
    ///
    /// The notifier is also notified when the registry begins to end.
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

/// Keeps channels in existence, even if they are empty, until this value is dropped.
#[derive(Debug)]
#[must_use = "dropping this releases the channels at once"]
pub(crate) struct Reserved<'a> {
    registry: &'a Registry,
    names: &'a [String],
}

impl Registry {
    /// Creates all of these channels, or none of them, for events that are published next.
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
    /// The first frame of the stream. `as_event` is for clients that need the cursor in an event
    /// (see [`Frame::cursor`]).
    pub(crate) fn first_frame(&self, as_event: bool) -> Frame {
        self.cursor.map_or_else(|| Frame::retry(RETRY), |id| Frame::cursor(RETRY, id, as_event))
    }

    /// Whether the start was found, and no event after it is lost.
    pub(crate) fn is_whole(&self) -> bool {
        self.unknown.is_empty() && self.registry.is_whole_after(&self.channels, &self.position)
    }
}

/// Keeps a notifier registered at its channels until this value is dropped.
#[derive(Debug)]
#[must_use = "dropping this unregisters the notifier at once"]
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
