//! The registry holds the channels, their subscribers and their histories.
//!
//! It is the only state that all threads share.
//!
//! ```text
//!  publishers             Registry                           subscribers
//!                  ┌─────────────────────────┐
//!  publish(event) ─▶ channel "news"          ├─ notify ──▶ wake,
//!   assign id,     │  ring: last events ─────┼─ read ◀───  read after their
//!   append, unlock,│  subscribers: notifiers │             own position
//!   notify         └─────────────────────────┘
//! ```
//!
//! The rings are in memory. An [`EventLog`] keeps the events in another place too: see `event_log`.
//!
//! In this crate a *channel* is a named stream of events. What `crossbeam-channel` calls a
//! channel is a *queue* or a *mailbox* here.
//!
//! # Invariants
//!
//! * **One lock decides the order.** An event gets its id and enters its ring under one lock. So
//!   all subscribers read events in the same order, and a stream of several channels needs only one
//!   cursor.
//! * **Subscribers read from the ring and from nothing else.** A subscriber has a position and
//!   no queue. Replay, live events and slow clients are one mechanism: reading after a position.
//! * **A publisher never waits for a subscriber.** It appends the event, releases the lock and
//!   notifies the subscribers. Notifying never blocks.
//! * **No I/O, no caller's code and no pattern matching runs under the lock.** Debug builds panic
//!   if a pattern is matched while the lock is held.
//! * **Dropping a [`Subscription`] removes the subscriber**, on every path, including a panic.

mod channels;
mod event_log;
mod history;
mod list;
mod lock;
mod page;
mod patterns;
mod publish;
mod read;
mod state;
mod subscribers;
mod subscription;
mod update;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

pub(crate) use self::channels::{Bounds, NAME_MAX, Name, Pattern};
pub use self::channels::{Channels, Matcher, Readable};
pub(crate) use self::event_log::{
    ChannelLosses, EventLog, Eviction, KeptHistory, LogItem, Reach, Record, StoreMeta,
};
pub(crate) use self::history::{Floor, HISTORY_TOTAL, Visibility};
pub use self::history::{Histories, History};
pub use self::list::ChannelInfo;
pub(crate) use self::list::{Seen, Watch};
pub use self::lock::Registry;
pub(crate) use self::lock::time_of_day;
pub(crate) use self::page::{Before, Page, PageEvent, PageRequest};
pub(crate) use self::publish::Restoring;
pub(crate) use self::read::{Batch, Position};
pub use self::read::{ParseStartError, Start};
pub use self::state::RegistryOptions;
pub(crate) use self::state::{Closing, Ending, HubState};
use self::subscribers::Notifiers;
pub(crate) use self::subscribers::{NodeReport, Notifier, Subject, Wakeup};
pub use self::subscription::Subscription;
pub(crate) use self::subscription::{Listening, Reserved};
pub(crate) use self::update::{Checked, Key, Last, TOPICS_MAX};
pub use self::update::{Published, Update};
use crate::counters::Counters;
use crate::error::PublishError;
use crate::event::{Event, Framing};
use crate::id::EventId;

impl Registry {
    /// Creates a registry with the default settings.
    pub fn new() -> Self {
        Self::with(RegistryOptions::default())
    }

    /// Creates a registry with these settings.
    pub fn with(options: RegistryOptions) -> Self {
        Self::counted(options, &Arc::default())
    }

    /// Creates a registry with these settings that counts into `counters`.
    pub(crate) fn counted(options: RegistryOptions, counters: &Arc<Counters>) -> Self {
        let epoch = u64::try_from(time_of_day().as_millis()).unwrap_or(u64::MAX);
        Self::of(HubState::new(EventId { epoch, n: 0 }), options, counters, None, time_of_day())
    }

    /// Publishes one event to the subscribers of `channel`.
    ///
    /// A client-supplied id is unique within the channel's history. Publishing an event with the
    /// same id again returns the result of the first call and publishes nothing.
    ///
    /// If the registry has a store, the call returns once the event is durable. No subscriber sees
    /// the event earlier.
    ///
    /// Fails if the channel cannot be created, or if the store cannot keep the event. In both cases
    /// no subscriber sees the event.
    pub fn publish(&self, channel: &str, event: &Event) -> Result<Published, PublishError> {
        self.publish_all(channel, std::slice::from_ref(event), None)
    }

    /// Publishes several events with consecutive ids: all of them or none.
    ///
    /// `key` makes the call idempotent. While the history holds the key, a second call with the
    /// same key and the same events returns the result of the first call and publishes nothing.
    ///
    /// Fails if the channel cannot be created, if `events` is empty, if the key was used for other
    /// events, or if the store cannot keep the events.
    pub fn publish_all(
        &self,
        channel: &str,
        events: &[Event],
        key: Option<&str>,
    ) -> Result<Published, PublishError> {
        self.publish_update(&Update { topics: &[channel], events, private: false, key })
    }

    /// Publishes an update to all subscribers of its topics that may read it.
    ///
    /// Either all events are published or none. An event has one id in all of its topics,
    /// and a stream receives it once.
    ///
    /// A client-supplied id or an idempotency key is unique within the history of each topic. If
    /// the history of any of the topics has the id or key already, the event or request is a
    /// repeat. [`Published::subscribers`] counts a stream that subscribes to several of the topics
    /// once for each of them.
    ///
    /// Fails as [`publish_all`](Self::publish_all) does, and if there are too many topics.
    pub fn publish_update(&self, update: &Update<'_>) -> Result<Published, PublishError> {
        publish::publish(self, update)
    }

    /// Deletes a channel's history, and returns whether the channel existed.
    ///
    /// A subscriber that had not read the whole history receives a gap event.
    ///
    /// Fails if the store cannot delete the history, which then stays as it was.
    pub fn forget(&self, channel: &str) -> Result<bool, PublishError> {
        match &self.inner.log {
            Some(log) => log.forget(channel),
            None => Ok(self.lock().clear(channel)),
        }
    }

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
    pub(crate) fn subscribe_boxed(
        &self,
        channels: &Channels,
        start: &Start,
    ) -> Result<Box<Subscription>, PublishError> {
        subscription::subscribe(self, channels, start)
    }

    /// Registers a notifier for the events of these channels.
    ///
    /// The notifier is also notified when the registry begins to end.
    pub(crate) fn listen(&self, channels: &Channels, notifier: &Arc<Notifier>) -> Listening {
        subscription::listen(self, channels, notifier)
    }

    /// Creates all of these channels, or none of them, for events that are published next.
    pub(crate) fn reserve<'a>(&'a self, names: &'a [String]) -> Result<Reserved<'a>, PublishError> {
        subscription::reserve(self, names)
    }

    /// Appends the events after `position` to `out`, and advances the position.
    ///
    /// Events are written in the order of ids until `limit` bytes are reached; the first frame is
    /// always written, regardless of its size. No event after `upto` is read.
    ///
    /// A lost event is never skipped silently: a gap frame is written before the next event. So
    /// wherever a client is cut off, it can resume after the last id that it received, and loses
    /// nothing. Besides this function, only the start of a stream writes gap frames.
    pub(crate) fn read(
        &self,
        channels: &Channels,
        position: &mut Position,
        upto: Option<EventId>,
        limit: usize,
        framing: Framing,
        out: &mut Vec<u8>,
    ) -> Batch {
        read::read(self, channels, position, upto, limit, framing, out)
    }

    /// Whether a stream that starts here would get nothing, because all its channels have ended and
    /// its client has received their ends.
    pub(crate) fn is_over(&self, channels: &Channels, start: &Start) -> bool {
        read::is_over(self, channels, start)
    }

    /// Reads a page of one channel's history. `channels` must have exactly one name.
    ///
    /// Returns `None` if the event before which the page ends is unknown.
    pub(crate) fn page(&self, channels: &Channels, request: &PageRequest) -> Option<Page> {
        page::page(self, channels, request)
    }

    /// Returns the earliest event with this client-supplied id in any channel of the registry.
    ///
    /// Clients that use ids unique across all channels can resume after it. Returns `None` if a
    /// stream of these channels may read no such event.
    pub(crate) fn earliest(&self, channels: &Channels, id: &str) -> Option<EventId> {
        read::earliest(self, channels, id)
    }

    /// Returns all channels in the order of their names.
    ///
    /// The list is read in pages, so that publishers do not wait until the whole list is read. A
    /// channel that is created or removed during this call may or may not be in the list.
    pub fn list(&self) -> Vec<ChannelInfo> {
        self.channels(&Readable::All).collect()
    }

    /// Iterates over the channels that this reader may know of, in the order of their names.
    ///
    /// The pages are read while the iterator advances. If the reader may not read every private
    /// event, private events are not counted, and a channel that has had only private events is not
    /// listed.
    pub(crate) fn channels(
        &self,
        readable: &Readable,
    ) -> impl Iterator<Item = ChannelInfo> + Send + use<> {
        list::channels(self, readable)
    }

    /// How many streams are subscribed to a channel, by name, by prefix and by pattern. If the log
    /// is shared, the streams of all nodes are counted.
    pub fn subscribers(&self, channel: &str) -> usize {
        self.lock().subscribers(channel)
    }

    /// The names present on a channel, each with its number of streams.
    ///
    /// If nodes share a log, the streams of all nodes are counted.
    pub fn present(&self, channel: &str) -> Vec<(String, usize)> {
        self.presence(channel).collect()
    }

    /// Iterates over the names present on a channel, in the order of names.
    ///
    /// Names are read in pages as the iterator advances.
    pub(crate) fn presence(
        &self,
        channel: &str,
    ) -> impl Iterator<Item = (String, usize)> + Send + use<> {
        list::present(self, channel)
    }

    /// The newest event's id, or the position before the first event.
    pub fn last_id(&self) -> EventId {
        self.lock().last
    }

    /// The memory that all histories take together, in bytes.
    pub(crate) fn history_bytes(&self) -> usize {
        self.lock().kept.bytes()
    }

    /// The counters that this registry updates.
    pub(crate) fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// The age of an event that was published at `at`, on the registry's clock.
    pub(crate) fn age(&self, at: Duration) -> Duration {
        self.now().saturating_sub(at)
    }

    /// Whether `id` comes after everything that this node has read. Another node may have sent it
    /// to a client already.
    pub(crate) fn is_ahead(&self, id: EventId) -> bool {
        self.is_shared() && id > self.last_id()
    }

    /// Returns an address that identifies the registry.
    ///
    /// Clones of a registry have the same address; different registries have different addresses.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.inner) as usize
    }

    /// Evicts expired events, and removes idle channels.
    pub(crate) fn sweep(&self) {
        let mut state = self.lock();
        state.sweep(self.now());
        let has_losses = !state.losses.is_empty();
        drop(state);
        if let Some(log) = self.inner.log.as_ref().filter(|_| has_losses) {
            log.delete_evicted();
        }
    }

    /// Ends the streams one after the other, at the times that `closing` assigns. Until its end
    /// time, a stream continues to receive events.
    pub(crate) fn close_over(&self, closing: &Arc<Closing>) {
        let mut state = self.lock();
        if state.closing.is_some() {
            return;
        }
        state.closing = Some(Arc::clone(closing));
        let closing_sender = state.closing_sender.take();
        let notifiers = state.all_notifiers();
        drop(state);
        drop(closing_sender);
        notifiers.iter().for_each(Notifiers::notify);
    }

    /// Wakes all streams that wait for events, so that they check whether they must end.
    pub(crate) fn wake_streams(&self) {
        let notifiers = self.lock().all_notifiers();
        notifiers.iter().for_each(Notifiers::notify);
    }

    /// Ends all streams, current and future.
    pub fn close(&self) {
        let mut state = self.lock();
        state.open = None;
        let notifiers = state.all_notifiers();
        drop(state);
        notifiers.iter().for_each(Notifiers::notify);
    }

    pub(crate) fn ending(&self) -> Ending {
        let state = self.lock();
        match &state.closing {
            _ if state.open.is_none() => Ending::Now,
            Some(closing) => Ending::Over(Arc::clone(closing)),
            None => Ending::No,
        }
    }

    /// Returns a receiver that is disconnected once the streams begin to end.
    pub(crate) fn closing(&self) -> &Receiver<Infallible> {
        &self.inner.closing
    }

    /// Returns a receiver that is disconnected once the registry is closed, for use in a `select!`.
    pub(crate) fn closed(&self) -> &Receiver<Infallible> {
        &self.inner.closed
    }

    /// Adds items that the event log has to the rings, and notifies the subscribers.
    ///
    /// Only the event log calls this function, from one thread and in the order of the ids.
    pub(crate) fn append(&self, items: Vec<LogItem>) {
        publish::append(self, items);
    }

    /// Starts to note changes for a watcher. Returns `None` if this registry has a [`Watch`]
    /// already.
    pub(crate) fn watch(&self) -> Option<Watch> {
        list::watch(self)
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
