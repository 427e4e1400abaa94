//! A subscription has the channels and the position of a stream. A notifier wakes its thread.
//!
//! A stream may have a name under which it is present on its channels. A name joins with its first
//! stream and leaves with its last, so a user with two tabs joins once. The events are named
//! `userconnect` and `userdisconnect`, as in the chat of the tutorials.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
#[cfg(not(feature = "loom"))]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use chrono::Local;
use crossbeam_channel::Sender;
#[cfg(feature = "loom")]
use loom::sync::atomic::AtomicBool;
use serde_json::json;

use super::channels::{EventAccess, Private, ReadRights, StreamAccess};
use super::read::{self, Beginning};
use super::watch::Subject;
use super::{Channels, Position, Registry, Start, patterns, update};
use crate::counters::decrease;
use crate::error::PublishError;
use crate::event::{Event, Frame};
use crate::id::EventId;
use crate::limits::RETRY;
use crate::slot::Slot;

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
        read::await_client_id(registry, channels, id);
    }
    let now = registry.now();
    let rights = channels.read_rights();
    // No call may fail after the subscribers have changed. If `make_all` fails, dropping
    // `watching` undoes what `watch` did.
    let watching = match channels.patterns() {
        [] => None,
        patterns => Some(patterns::watch(registry, patterns)?),
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
        patterns::forget_patterns(registry);
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
        match update::publish_presence(registry, name, &event) {
            Ok(()) | Err(PublishError::Ended) => {} // nothing follows the end of a channel
            Err(error) => {
                log::warn!("dropped the presence event {what} on {name:?}: {error}");
            }
        }
    }
}

/// The names present on one channel, each with its number of streams.
#[derive(Debug, Default)]
pub(super) struct Presence(pub(super) BTreeMap<String, usize>);

impl Presence {
    /// Counts a stream of this name. Returns whether it is the first one.
    fn enter(&mut self, name: &str) -> bool {
        let streams = self.0.entry(name.to_owned()).or_default();
        *streams += 1;
        *streams == 1
    }

    /// Removes a stream of this name. Returns whether it was the last one.
    fn leave(&mut self, name: &str) -> bool {
        let Some(streams) = self.0.get_mut(name) else { return false };
        decrease(streams, 1);
        *streams == 0 && self.0.remove(name).is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
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

/// Wakes a sleeping thread, because there are new events or the client has disconnected. It does not
/// pass the events.
///
/// The thread reads the events from the registry. So several calls of [`notify`](Self::notify)
/// before the thread runs have the same effect as one.
#[derive(Debug)]
pub(crate) struct Notifier {
    target: Target,
    is_notified: AtomicBool,
}

/// Where the thread waits.
#[derive(Debug)]
enum Target {
    /// At a queue, which gets this id.
    Queue(Sender<u64>, u64),
    /// At a slot, which gets this value.
    Slot(Arc<Slot<Wakeup>>, Wakeup),
}

/// Why a client's thread wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wakeup {
    /// There are new events.
    Events,
    /// The client has disconnected.
    Disconnect,
}

impl Notifier {
    /// Creates a notifier that sends `id` to a queue. The queue must have room for one message from
    /// each notifier that sends to it.
    pub(crate) fn of_queue(sender: Sender<u64>, id: u64) -> Arc<Self> {
        Self::new(Target::Queue(sender, id))
    }

    /// Creates a notifier that puts `wakeup` into a slot.
    pub(crate) fn of_slot(slot: &Arc<Slot<Wakeup>>, wakeup: Wakeup) -> Arc<Self> {
        Self::new(Target::Slot(Arc::clone(slot), wakeup))
    }

    fn new(target: Target) -> Arc<Self> {
        Arc::new(Self { target, is_notified: AtomicBool::new(false) })
    }

    /// Wakes the thread, unless it has been notified since it last called [`rearm`](Self::rearm).
    pub(crate) fn notify(&self) {
        if self.is_notified.swap(true, Ordering::AcqRel) {
            return;
        }
        match &self.target {
            // The queue is never full: it has room for one message of each notifier, and no notifier
            // has more than one message in it. An error means that the thread has ended.
            Target::Queue(sender, id) => drop(sender.try_send(*id)),
            // A disconnect that is in the slot stays there, because it ends the stream.
            Target::Slot(slot, Wakeup::Events) => slot.offer(Wakeup::Events),
            Target::Slot(slot, Wakeup::Disconnect) => slot.put(Wakeup::Disconnect),
        }
    }

    /// Makes the next [`notify`](Self::notify) wake the thread again.
    ///
    /// The thread must call this *before* it reads the registry. Then an event that is published
    /// after the call notifies the thread again, and the thread reads any event that was published
    /// before.
    ///
    /// This is a swap and not a store, because a publisher that finds the flag set does not send a
    /// message. This thread must then see that publisher's event when it reads the registry. It
    /// does, because this swap reads the value that the publisher's swap wrote, and so synchronizes
    /// with the publisher.
    pub(crate) fn rearm(&self) {
        self.is_notified.swap(false, Ordering::AcqRel);
    }
}

/// The subscribers of one name, prefix or pattern.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    /// The number of streams. Several streams may share a notifier.
    streams: usize,
    /// The number of streams for each set of rights. Counts only streams that may read private
    /// events.
    by_rights: HashMap<ReadRights, usize>,
    /// The notifiers in the order of their keys, which is the order of registration. They are in an
    /// `Arc`, so that a publisher can notify them after it has released the lock.
    notifiers: Arc<Vec<Registered>>,
}

/// A registered notifier.
#[derive(Debug, Clone)]
struct Registered {
    key: u64,
    notifier: Arc<Notifier>,
    rights: ReadRights,
}

impl Subscribers {
    /// Counts a new stream.
    fn enter(&mut self, rights: &ReadRights) {
        self.streams += 1;
        if rights.reads_some_private() {
            *self.by_rights.entry(rights.clone()).or_default() += 1;
        }
    }

    /// Subtracts a stream that has ended from the counts.
    fn leave(&mut self, rights: &ReadRights) {
        decrease(&mut self.streams, 1);
        if let Some(streams) = self.by_rights.get_mut(rights) {
            decrease(streams, 1);
            if *streams == 0 {
                self.by_rights.remove(rights);
            }
        }
    }

    /// Counts the streams. If `access` is given, counts only the streams that, according to
    /// `access`, may read its private event.
    pub(super) fn count(&self, access: Option<&EventAccess>) -> usize {
        let Some(access) = access else { return self.streams };
        let streams = self.by_rights.iter().filter(|(rights, _)| access.allows(rights));
        streams.map(|(_, count)| count).sum()
    }

    /// The rights of the streams that may read private events.
    pub(super) fn private_rights(&self) -> impl Iterator<Item = &ReadRights> {
        self.by_rights.keys()
    }

    fn add(&mut self, key: u64, notifier: Arc<Notifier>, rights: ReadRights) {
        Arc::make_mut(&mut self.notifiers).push(Registered { key, notifier, rights });
    }

    fn remove(&mut self, key: u64) {
        if let Ok(place) = self.notifiers.binary_search_by_key(&key, |registered| registered.key) {
            Arc::make_mut(&mut self.notifiers).remove(place);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.streams == 0 && self.notifiers.is_empty()
    }

    pub(super) fn has_streams(&self) -> bool {
        self.streams > 0
    }

    /// Returns the notifiers of all streams. For a private event, they notify only the streams that
    /// may read it.
    pub(super) fn notifiers(&self, private: Option<&Arc<Private>>) -> Notifiers {
        Notifiers { registered: Arc::clone(&self.notifiers), private: private.cloned() }
    }
}

/// Notifiers to call after the registry's lock is released, because waking a thread is a system
/// call.
#[must_use = "subscribers are not woken until `notify` is called"]
pub(super) struct Notifiers {
    registered: Arc<Vec<Registered>>,
    private: Option<Arc<Private>>,
}

impl Notifiers {
    pub(super) fn notify(&self) {
        for Registered { notifier, rights, .. } in self.registered.iter() {
            if self.private.as_ref().is_none_or(|private| rights.may_read(private)) {
                notifier.notify();
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_notify_sends_one_message_until_rearmed() {
        let (sender, notifications) = crossbeam_channel::bounded(1);
        let notifier = Notifier::of_queue(sender, 7);
        notifier.notify();
        notifier.notify();
        assert_eq!(notifications.try_recv(), Ok(7));
        assert!(notifications.is_empty());
        notifier.rearm();
        notifier.notify();
        assert_eq!(notifications.try_recv(), Ok(7));
    }
}
