//! Who listens to what: the only state that threads share.
//!
//! ```text
//!  publishers             Registry                          subscribers
//!                  ┌────────────────────────┐
//!  publish(event) ─▶ channel "news"          ├─ doorbell ──▶ wakes,
//!   id, append,    │  ring: last events ─────┼─ read ◀─────  reads after its
//!   unlock, ring   │  subscribers: doorbells    │               own position
//!                  └────────────────────────┘
//! ```
//!
//! In this crate a *channel* is a named stream of events. What
//! `crossbeam-channel` calls a channel is a *doorbell* or a *mailbox* here.
//!
//! # Invariants
//!
//! * **One lock decides the order.** An event gets its id and enters its ring
//!   under one lock, so everybody reads the same order, and a stream of several
//!   channels has one cursor.
//! * **The ring is the only thing ever read.** A subscriber has no queue of its
//!   own, only a position. Replay, live events and a slow client are the same
//!   thing: somebody who reads after his position.
//! * **A publisher never waits for a subscriber.** It appends, lets go of the
//!   lock and rings doorbells, which never block.
//! * **No I/O and no caller's code under the lock**, and no pattern is matched there: debug
//!   builds panic.
//! * **Leaving is a `Drop`**, on every path out, panics included.

mod bits;
mod channels;
mod closing;
mod cursor;
mod dedup;
mod history;
mod kept;
mod list;
mod patterns;
mod presence;
mod publish_batch;
mod publish_queue;
mod read;
mod readable;
mod ring;
mod shared_log;
mod state;
mod store_writer;
mod subscribers;
mod subscription;
mod update;

use std::convert::Infallible;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
#[cfg(not(feature = "loom"))]
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender};
#[cfg(feature = "loom")]
use loom::sync::{Mutex, MutexGuard};

pub(crate) use self::channels::Bounds;
pub use self::channels::Channels;
pub(crate) use self::channels::NAME_MAX;
pub(crate) use self::closing::{Closing, Ending};
pub(crate) use self::cursor::Position;
pub use self::cursor::{ParseStartError, Start};
pub use self::history::{Histories, History};
pub(crate) use self::kept::HISTORY_TOTAL;
pub use self::list::ChannelInfo;
use self::publish_queue::StoreRequest;
pub(crate) use self::read::Batch;
pub use self::readable::Readable;
use self::shared_log::Contact;
pub(crate) use self::shared_log::{LogFollower, LogPublisher};
use self::state::{Channel, HubState};
pub(crate) use self::store_writer::StoreWriter;
pub(crate) use self::subscribers::Notifier;
use self::subscribers::Notifiers;
pub(crate) use self::subscription::Listening;
pub use self::subscription::Subscription;
pub(crate) use self::update::TOPICS_MAX;
pub use self::update::Update;
use crate::counters::Counters;
use crate::error::PublishError;
use crate::event::Event;
use crate::id::EventId;
use crate::matcher::unlocked::Locked;

/// Channels, their histories and who listens. Cloning it makes another handle
/// to the same registry.
///
/// ```
/// use threadcast::{Event, Registry};
///
/// let registry = Registry::new();
/// let published = registry.publish("news", &Event::new("hello"))?;
/// assert_eq!(published.subscribers, 0);
/// # Ok::<(), threadcast::PublishError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

/// What [`Registry::publish`] answers.
///
/// ```
/// use threadcast::{Event, Registry};
///
/// let batch = [Event::new("one"), Event::new("two")];
/// let published = Registry::new().publish_all("numbers", &batch, None)?;
/// assert_eq!((published.id.n, published.count, published.subscribers), (2, 2, 0));
/// # Ok::<(), threadcast::PublishError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The id the server gave; of several events, the last one's.
    pub id: EventId,
    /// How many streams were listening to the channel.
    pub subscribers: usize,
    /// How many events were published.
    pub count: usize,
}

/// The settings of a [`Registry`].
///
/// ```
/// use threadcast::{Registry, RegistryOptions};
///
/// let registry = Registry::with(RegistryOptions { max_channels: 10, ..Default::default() });
/// ```
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// How much each channel keeps.
    pub history: Histories,
    /// How many channels there may be at once.
    pub max_channels: usize,
    /// How much memory all histories may take together, in bytes. Over that, the oldest
    /// events of all channels leave first; only the newest event is exempt.
    pub history_total: usize,
    /// Whether events carry an `id:`. A clock's do not: nobody resumes a clock.
    pub ids: bool,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            history: Histories::default(),
            max_channels: 10_000,
            history_total: HISTORY_TOTAL,
            ids: true,
        }
    }
}

#[derive(Debug)]
struct Inner {
    state: Mutex<HubState>,
    /// Held while a page of a list is read, and taken before the lock.
    listing: std::sync::Mutex<()>,
    options: RegistryOptions,
    /// The way to the sequencer, if there is a store, or to the publisher of a log.
    store_writer: Option<Sender<StoreRequest>>,
    /// There only if the log is shared with other nodes.
    contact: Option<Contact>,
    started: Instant,
    /// What the clock said then, in nanoseconds: the time of day, or a little more if the
    /// events of a store are of later. From there on it never goes back; but if the log
    /// is shared, it is Redis's clock, and goes where that does.
    began: AtomicU64,
    counters: Arc<Counters>,
    /// Disconnected when the streams begin to end.
    closing: Receiver<Infallible>,
    /// Disconnected by [`Registry::close`].
    closed: Receiver<Infallible>,
}

impl Registry {
    /// A registry with the default settings.
    pub fn new() -> Self {
        Self::with(RegistryOptions::default())
    }

    /// A registry with these settings.
    pub fn with(options: RegistryOptions) -> Self {
        Self::counted(options, &Arc::default())
    }

    /// A registry with these settings, which counts what it does.
    pub(crate) fn counted(options: RegistryOptions, counters: &Arc<Counters>) -> Self {
        let epoch = u64::try_from(time_of_day().as_millis()).unwrap_or(u64::MAX);
        Self::of(HubState::new(EventId { epoch, n: 0 }), options, counters, None, time_of_day())
    }

    fn of(
        mut state: HubState,
        options: RegistryOptions,
        counters: &Arc<Counters>,
        store_writer: Option<Sender<StoreRequest>>,
        began: Duration,
    ) -> Self {
        let (open, closed) = crossbeam_channel::bounded(0);
        let (calls, closing) = crossbeam_channel::bounded(0);
        (state.open, state.calls) = (Some(open), Some(calls));
        let contact = state.is_shared.then(Contact::new);
        let (state, started) = (Mutex::new(state), Instant::now());
        let counters = Arc::clone(counters);
        let inner = Inner {
            state,
            listing: std::sync::Mutex::default(),
            options,
            store_writer,
            contact,
            started,
            began: AtomicU64::new(nanoseconds(began)),
            counters,
            closing,
            closed,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Publishes to everybody who listens to `channel`.
    ///
    /// An id of the publisher's own is unique within the channel's history: a
    /// repeat is answered as the first was, and published once.
    ///
    /// With a store it returns once the event is on the disk, and nobody sees it
    /// before.
    ///
    /// Fails if the channel cannot be, or the store not keep the event; nobody
    /// then sees anything of it.
    pub fn publish(&self, channel: &str, event: &Event) -> Result<Published, PublishError> {
        self.publish_all(channel, std::slice::from_ref(event), None)
    }

    /// Publishes several events, all or none, next to each other in the order
    /// of ids.
    ///
    /// `key` makes the call idempotent: repeated with the same key while the
    /// history holds it, it is answered as the first was, and published once.
    /// The events of the repeat must be the same.
    ///
    /// Fails if the channel cannot be, if there is no event, if the key was used
    /// for other events, or if the store cannot keep them.
    pub fn publish_all(
        &self,
        channel: &str,
        events: &[Event],
        key: Option<&str>,
    ) -> Result<Published, PublishError> {
        self.publish_update(&Update { topics: &[channel], events, private: false, key })
    }

    /// Forgets a channel's history, and says whether there was such a channel.
    /// A subscriber that had not read it yet is told so by a gap.
    ///
    /// Fails if the store cannot forget it; the history is then as it was.
    pub fn forget(&self, channel: &str) -> Result<bool, PublishError> {
        match &self.inner.store_writer {
            Some(store_writer) => publish_queue::forget(store_writer, channel),
            None => Ok(self.lock().clear(channel)),
        }
    }

    /// Lets go of what is too old, and of channels in which nothing is left.
    pub(crate) fn sweep(&self) {
        let mut state = self.lock();
        state.sweep(self.now());
        let has_losses = !state.losses.is_empty();
        drop(state);
        if let Some(store_writer) = self.inner.store_writer.as_ref().filter(|_| has_losses) {
            // Where there is no room, a commit is to come anyway.
            let _ = store_writer.try_send(StoreRequest::Sweep);
        }
    }

    /// Ends every stream and every wait, now and from now on.
    pub fn close(&self) {
        let mut state = self.lock();
        state.open = None;
        let notifiers = state.all_notifiers();
        drop(state);
        notifiers.iter().for_each(Notifiers::notify);
    }

    /// Whether [`close`](Self::close) has been called.
    pub fn is_closed(&self) -> bool {
        self.lock().open.is_none()
    }

    /// Waits, and says whether the registry is still open: everything that
    /// waits in this server waits here, so that it can be told to leave.
    pub fn wait(&self, time: Duration) -> bool {
        self.inner.closed.recv_timeout(time).is_err_and(|error| error.is_timeout())
    }

    /// Disconnected once the streams begin to end.
    pub(crate) fn closing(&self) -> &Receiver<Infallible> {
        &self.inner.closing
    }

    /// What is counted of it.
    pub(crate) fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// How old an event is that was published then.
    pub(crate) fn age(&self, at: Duration) -> Duration {
        self.now().saturating_sub(at)
    }

    /// Disconnected once the registry is closed, for who waits for more than that.
    pub(crate) fn closed(&self) -> &Receiver<Infallible> {
        &self.inner.closed
    }

    /// How much memory all histories take together, in bytes.
    pub(crate) fn history_bytes(&self) -> usize {
        self.lock().kept.bytes()
    }

    /// The newest event's id, or the place before the first.
    pub fn last_id(&self) -> EventId {
        self.lock().last
    }

    /// The time on the registry's own clock.
    fn now(&self) -> Duration {
        let began = self.inner.began.load(Ordering::Relaxed);
        Duration::from_nanos(began) + self.inner.started.elapsed()
    }

    /// What tells two registries apart.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.inner) as usize
    }

    fn lock(&self) -> Guard<'_> {
        // No caller's code runs under the lock, so a panic there is ours, and
        // one that left the rings and subscriber counts whole: each is changed last.
        let state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        Guard { state, _locked: Locked::new() }
    }
}

/// The registry's lock, held.
struct Guard<'a> {
    state: MutexGuard<'a, HubState>,
    _locked: Locked,
}

impl Deref for Guard<'_> {
    type Target = HubState;

    fn deref(&self) -> &HubState {
        &self.state
    }
}

impl DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut HubState {
        &mut self.state
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

/// As many as there are in five hundred years, at most.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The time since 1970.
fn time_of_day() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
