//! A subscription has the channels and the position of a stream. It ends when it is dropped.
//!
//! When a presence name joins or leaves a channel, an event is published: `userconnect` or
//! `userdisconnect`, as in the chat of the tutorials.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Local;
use serde_json::json;

use super::channels::{Channels, StreamAccess};
use super::lock::{self, Registry};
use super::publish;
use super::read::{self, Beginning, Position, Start};
use super::subscribers::{Notifier, Presence, Subject, Subscribers, Wakeup};
use crate::error::PublishError;
use crate::event::{Event, Frame};
use crate::id::EventId;
use crate::limits::RETRY;
use crate::slot::Slot;

/// How long a new subscription waits for the event with an unknown client-supplied id.
///
/// The client may have received this event from a node that has read further in the log.
const CATCH_UP: Duration = Duration::from_secs(1);

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
    presence: Option<String>,
}

/// Subscribes: see [`Registry::subscribe`].
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(super) fn subscribe(
    registry: &Registry,
    channels: &Channels,
    start: &Start,
) -> Result<Box<Subscription>, PublishError> {
    if matches!(start, Start::Now)
        && let Some(subscription) = join_now(registry, channels)
    {
        return Ok(subscription);
    }
    join(registry, channels, start)
}

/// Creates the subscription of a subscriber that has been counted.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn boxed(registry: &Registry, channels: &Channels, beginning: Beginning) -> Box<Subscription> {
    let Beginning { position, cursor, unknown } = beginning;
    let cursor = cursor.filter(|_| registry.inner.options.ids);
    let (registry, channels) = (registry.clone(), channels.clone());
    let presence = None;
    Box::new(Subscription { registry, channels, position, cursor, unknown, presence })
}

/// Subscribes to existing channels from the next event on.
///
/// Returns `None` if one of the channels does not exist, or if the set has patterns. In this
/// case, nothing has changed.
///
/// This function serves only the common case, so that it needs little stack: a stream's thread
/// keeps the stack memory that it has touched.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn join_now(registry: &Registry, channels: &Channels) -> Option<Box<Subscription>> {
    if !channels.patterns().is_empty() {
        return None;
    }
    let rights = channels.read_rights();
    let mut state = registry.lock();
    if channels.names.iter().any(|name| !state.channels.contains_key(name)) {
        return None;
    }
    let beginning = state.begin_now(channels);
    state.change_subscribers(channels, |subscribers| subscribers.enter(&rights));
    drop(state);
    Some(boxed(registry, channels, beginning))
}

/// Subscribes from any start, and creates the channels that do not exist.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn join(
    registry: &Registry,
    channels: &Channels,
    start: &Start,
) -> Result<Box<Subscription>, PublishError> {
    if let Start::After(id) = start {
        await_client_id(registry, channels, id);
    }
    let now = registry.now();
    let rights = channels.read_rights();
    // No call may fail after the subscribers have changed. If `make_all` fails, dropping
    // `watching` undoes what `watch_patterns` did.
    let watching = match channels.patterns() {
        [] => None,
        patterns => Some(lock::watch_patterns(registry, patterns)?),
    };
    let mut access = StreamAccess::default();
    let beginning = loop {
        let mut state = registry.lock();
        state.make_all(&channels.names, now, &registry.inner.options)?;
        let beginning = state.begin(channels, start, now, &mut access);
        if !access.has_pending() {
            state.change_subscribers(channels, |subscribers| subscribers.enter(&rights));
            break beginning;
        }
        drop(state);
        access.resolve(channels);
    };
    drop(watching);
    Ok(boxed(registry, channels, beginning))
}

impl Subscription {
    /// The first frame of the stream. `as_event` is for clients that need the cursor in an event
    /// (see [`Frame::cursor`]).
    pub(crate) fn first_frame(&self, as_event: bool) -> Frame {
        self.cursor.map_or_else(|| Frame::retry(RETRY), |id| Frame::cursor(RETRY, id, as_event))
    }

    /// Whether the start was found, and no event after it is lost.
    pub(crate) fn is_whole(&self) -> bool {
        self.unknown.is_empty()
            && read::is_whole_after(&self.registry, &self.channels, &self.position)
    }

    /// Makes this name present on the subscription's channels until the subscription is dropped.
    ///
    /// This applies only to channels that the subscription names, not to those that a prefix or
    /// pattern selects.
    pub fn present_as(mut self, name: &str) -> Self {
        self.announce(name);
        self
    }

    /// Does what [`present_as`](Self::present_as) does, without moving the subscription.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(crate) fn announce(&mut self, name: &str) {
        self.presence = Some(name.to_owned());
        change_presence(self, "userconnect", Presence::enter);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let rights = self.channels.read_rights();
        change(&self.registry, &self.channels, |subscribers| subscribers.leave(&rights));
        change_presence(self, "userdisconnect", Presence::leave);
    }
}

/// Changes the subscribers of these channels, and frees the patterns that are unused afterwards.
fn change(registry: &Registry, channels: &Channels, change: impl FnMut(&mut Subscribers)) {
    registry.lock().change_subscribers(channels, change);
    if !channels.patterns().is_empty() {
        lock::forget_patterns(registry);
    }
}

/// Applies `change` to the presence of each channel that a subscription names. Does nothing if
/// the subscriber has no presence name.
///
/// If the name thereby joins or leaves a channel, the event `what` is published on that
/// channel. If nodes share a log, the log publishes the event; otherwise this node does.
fn change_presence(
    subscription: &Subscription,
    what: &str,
    change: fn(&mut Presence, &str) -> bool,
) {
    let registry = &subscription.registry;
    let Some(username) = &subscription.presence else { return };
    let time = Local::now().format("%H:%M:%S").to_string();
    let data = json!({ "username": username, "time": time }).to_string();
    let event = Event::new(data).with_name(what).expect("a literal without line breaks");
    for name in subscription.channels.names.iter() {
        let mut state = registry.lock();
        state.changes += 1;
        let changed = (state.channels.get_mut(name))
            .is_some_and(|channel| change(&mut channel.presence, username));
        state.note_idle(name);
        if !changed {
            continue;
        }
        state.note(|| Subject::Name { channel: Arc::clone(name), name: username.as_str().into() });
        // Report the change while the lock is held: see `EventLog::report_presence`.
        let joins = what == "userconnect";
        let log = registry.inner.log.as_ref();
        let is_reported = log.is_some_and(|log| log.report_presence(name, username, joins));
        drop(state);
        if is_reported {
            continue;
        }
        match publish::publish_presence(registry, name, &event) {
            Ok(()) | Err(PublishError::Ended) => {} // nothing follows the end of a channel
            Err(error) => {
                log::warn!("dropped the presence event {what} on {name:?}: {error}");
            }
        }
    }
}

/// Registers a notifier: see [`Registry::listen`].
pub(super) fn listen(
    registry: &Registry,
    channels: &Channels,
    notifier: &Arc<Notifier>,
) -> Listening {
    let mut state = registry.lock();
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
    Listening { registry: registry.clone(), channels: channels.clone(), key }
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
        change(&self.registry, &self.channels, |subscribers| subscribers.remove(self.key));
    }
}

/// Waits up to [`CATCH_UP`] for this node to read the event with a client-supplied id.
///
/// The client may have received the event from a node that has read further in the log. Unlike
/// the server's ids, a client-supplied id does not show how new its event is.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(super) fn await_client_id(registry: &Registry, channels: &Channels, id: &str) {
    if !registry.is_shared() || id.parse::<EventId>().is_ok() {
        return;
    }
    let slot = Arc::new(Slot::new());
    let notifier = Notifier::of_slot(&slot, Wakeup::Events);
    let _listening = listen(registry, channels, &notifier);
    let deadline = Instant::now() + CATCH_UP;
    while read::find(registry, channels, id).is_none() && slot.take_until(deadline).is_some() {
        notifier.rearm();
    }
}

/// Keeps channels in existence, even if they are empty, until this value is dropped.
#[derive(Debug)]
#[must_use = "dropping this releases the channels at once"]
pub(crate) struct Reserved<'a> {
    registry: &'a Registry,
    names: &'a [String],
}

/// Creates and keeps channels: see [`Registry::reserve`].
pub(super) fn reserve<'a>(
    registry: &'a Registry,
    names: &'a [String],
) -> Result<Reserved<'a>, PublishError> {
    let now = registry.now();
    let mut state = registry.lock();
    state.make_all(names, now, &registry.inner.options)?;
    state.hold(names);
    Ok(Reserved { registry, names })
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.registry.lock().release(self.names);
    }
}
