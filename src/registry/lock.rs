//! The registry's handle, its lock and its clock. Also, how patterns are matched without the lock.
//!
//! # Invariants
//!
//! * **No pattern is matched under the registry's lock.** A publisher matches the name of a new
//!   channel on its own thread without the lock, and then takes the lock again. If patterns were
//!   added in between, the publisher repeats this for the added patterns. A new stream matches its
//!   patterns in the same way, one page of channels at a time.

use std::convert::Infallible;
use std::ops::{Bound, Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
#[cfg(not(feature = "loom"))]
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::Receiver;
#[cfg(feature = "loom")]
use loom::sync::{Mutex, MutexGuard};

use super::channels::{EventAccess, Locked, Name, SharedPattern};
use super::event_log::EventLog;
use super::patterns::{Bits, PatternMatches, PendingPattern};
use super::state::{HubState, RegistryOptions};
use super::subscribers::Subscribers;
use crate::counters::{Counters, FILE, MEMORY, REDIS};
use crate::error::PublishError;
use crate::limits::PATTERNS_MAX;

/// A set of channels, with their histories and subscribers.
///
/// Cloning it creates another handle to the same registry.
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
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    state: Mutex<HubState>,
    /// Held while one page of a list of channels is read. Lock order: take this lock before
    /// `state`.
    pub(super) listing: std::sync::Mutex<()>,
    pub(super) options: RegistryOptions,
    /// Where the events are kept besides the rings; `None` if they are only in memory.
    pub(super) log: Option<Box<dyn EventLog>>,
    started: Instant,
    /// The time at `started`, in nanoseconds since 1970.
    ///
    /// The value is the time of day, or slightly more if the store has events with later times. The
    /// registry's clock continues from this value and never goes back. With a shared log, the
    /// registry's clock is the log's clock instead: this value is set again whenever that clock is
    /// read, so the registry's clock may go back too.
    began: AtomicU64,
    pub(super) counters: Arc<Counters>,
    /// Disconnected by [`Registry::close_over`], when the streams begin to end.
    pub(super) closing: Receiver<Infallible>,
    /// Disconnected by [`Registry::close`].
    pub(super) closed: Receiver<Infallible>,
}

impl Registry {
    pub(super) fn of(
        mut state: HubState,
        options: RegistryOptions,
        counters: &Arc<Counters>,
        log: Option<Box<dyn EventLog>>,
        began: Duration,
    ) -> Self {
        let (open, closed) = crossbeam_channel::bounded(0);
        let (closing_sender, closing) = crossbeam_channel::bounded(0);
        (state.open, state.closing_sender) = (Some(open), Some(closing_sender));
        let (state, started) = (Mutex::new(state), Instant::now());
        let counters = Arc::clone(counters);
        let inner = Inner {
            state,
            listing: std::sync::Mutex::default(),
            options,
            log,
            started,
            began: AtomicU64::new(nanoseconds(began)),
            counters,
            closing,
            closed,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Locks the state. Neither I/O nor caller's code may run while the lock is held.
    pub(crate) fn lock(&self) -> Guard<'_> {
        // No caller's code runs under the lock, so a panic while it is held is a bug of this
        // module. The rings and the subscriber counts are consistent even then, because each
        // operation changes them last. So a poisoned lock can still be used.
        let state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        Guard { state, _locked: Locked::new() }
    }

    pub(crate) fn options(&self) -> &RegistryOptions {
        &self.inner.options
    }

    /// The time on the registry's own clock.
    pub(crate) fn now(&self) -> Duration {
        let began = self.inner.began.load(Ordering::Relaxed);
        Duration::from_nanos(began) + self.inner.started.elapsed()
    }

    /// Sets the registry's clock to that of the shared log, forwards or backwards.
    ///
    /// A shared log assigns the times of events, so their age must be measured with its clock. The
    /// newest reading always applies: the log's clock may have been set back, or another server may
    /// have taken over.
    pub(crate) fn set_clock(&self, now: Duration) {
        let began = nanoseconds(now.saturating_sub(self.inner.started.elapsed()));
        self.inner.began.store(began, Ordering::Relaxed);
    }

    /// Waits for `time`, and returns whether the registry is still open.
    ///
    /// [`close`](Self::close) ends the wait early. Every pause in this server uses this function,
    /// so that shutdown never waits for a pause to end.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        self.inner.closed.recv_timeout(time).is_err_and(|error| error.is_timeout())
    }

    /// Whether the shared log can be reached; `None` if there is no shared log.
    pub(crate) fn reaches_the_log(&self) -> Option<bool> {
        self.inner.log.as_ref().and_then(|log| log.is_reachable())
    }

    /// Whether other nodes publish to the same log.
    pub(crate) fn is_shared(&self) -> bool {
        self.reaches_the_log().is_some()
    }

    /// Where the events are kept, as a label for the counters.
    pub(crate) fn store(&self) -> &'static str {
        match &self.inner.log {
            None => MEMORY,
            Some(log) if log.is_reachable().is_some() => REDIS,
            Some(_) => FILE,
        }
    }
}

/// A guard of the registry's lock. In debug builds, pattern matching panics while it is held.
pub(crate) struct Guard<'a> {
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

/// Converts a time to nanoseconds. More than 500 years do not fit a `u64` and give `u64::MAX`.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The time since 1970 on the system clock.
pub(crate) fn time_of_day() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl HubState {
    /// Returns those of these channels that are not indexed. They do not exist or have had no
    /// event.
    fn unindexed<'a, N: AsRef<str>>(&self, names: &'a [N]) -> impl Iterator<Item = &'a str> {
        let is_unindexed =
            |name: &&str| self.channels.get(*name).is_none_or(|channel| !channel.indexed);
        names.iter().map(AsRef::as_ref).filter(is_unindexed)
    }

    /// Returns the next patterns that must be matched against channels that are about to get
    /// events.
    fn pending(
        &self,
        names: &[impl AsRef<str>],
        matches: &mut PatternMatches,
    ) -> Vec<PendingPattern> {
        if !self.patterns.has_any_after(0) {
            return Vec::new();
        }
        let missing = |name: &str| !matches.names.contains_key(name);
        if self.unindexed(names).any(missing) {
            let names = self.unindexed(names).map(|name| (name.into(), Bits::default()));
            *matches = PatternMatches { upto: 0, names: names.collect() };
        }
        if matches.names.is_empty() { Vec::new() } else { self.patterns.after(matches.upto) }
    }
}

/// Locks the registry to publish to these channels, with all pattern matches and access checks
/// done.
///
/// When this function returns, all patterns have been matched against those of these channels that
/// are not indexed. For a private event, `access` then knows which subscribers may read it.
///
/// The loop ends, because patterns are matched faster than streams can add new ones.
pub(super) fn lock_to_publish<'a>(
    registry: &'a Registry,
    names: &[impl AsRef<str>],
    access: &mut Option<EventAccess>,
) -> (Guard<'a>, PatternMatches) {
    let mut matches = PatternMatches::default();
    loop {
        let guard = registry.lock();
        let pending = guard.pending(names, &mut matches);
        if !pending.is_empty() {
            drop(guard);
            matches.resolve(&pending);
            continue;
        }
        let Some(access) = access.as_mut() else { return (guard, matches) };
        let all_subscribers =
            names.iter().flat_map(|name| guard.subscribers_of(name.as_ref(), &matches));
        if !access.note_pending(all_subscribers.flat_map(Subscribers::private_rights)) {
            return (guard, matches);
        }
        drop(guard);
        access.resolve();
    }
}

/// Locks the registry to add events that the store or the log has accepted already.
pub(super) fn lock_to_enter<'a>(
    registry: &'a Registry,
    names: &[impl AsRef<str>],
) -> (Guard<'a>, PatternMatches) {
    lock_to_publish(registry, names, &mut None)
}

/// How many channels are matched against a new pattern, or updated after a pattern was dropped, per
/// hold of the lock. So each hold is short.
const PAGE: usize = 256;

/// Finds the channels that these patterns select, before a stream subscribes to them.
///
/// Fails if these patterns would exceed the maximum number of patterns.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(super) fn watch_patterns<'a>(
    registry: &'a Registry,
    patterns: &[SharedPattern],
) -> Result<Watching<'a>, PublishError> {
    let limit = registry.inner.options.max_channels.min(PATTERNS_MAX);
    let mut state = registry.lock();
    if state.patterns.len_with(patterns) > limit {
        return Err(PublishError::TooManyPatterns { limit });
    }
    let acquired: Vec<_> = patterns.iter().map(|it| state.patterns.acquire(it)).collect();
    drop(state);
    let slots = acquired.iter().map(|(slot, _)| *slot).collect();
    let watching = Watching { registry, slots };
    let mut new = Vec::new();
    for ((slot, is_new), pattern) in acquired.into_iter().zip(patterns) {
        if is_new {
            new.push((slot, pattern));
        }
    }
    if !new.is_empty() {
        index_patterns(registry, &new);
    }
    Ok(watching)
}

/// Matches new patterns against all indexed channels.
///
/// If a publisher indexes a channel at the same time, that publisher matches these patterns
/// too, because they are in use already.
fn index_patterns(registry: &Registry, patterns: &[(usize, &SharedPattern)]) {
    let mut last: Option<Arc<str>> = None;
    let mut found: Vec<(Arc<str>, Bits)> = Vec::new();
    loop {
        let mut state = registry.lock();
        for (name, selecting) in found.drain(..) {
            let HubState { channels, patterns, .. } = &mut *state;
            if let Some(channel) = channels.get_mut(&name).filter(|channel| channel.indexed) {
                let more = patterns.index(&selecting, channel.slot);
                channel.watchers.extend(&more);
            }
        }
        let begin = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let page = state.channels.range::<Arc<str>, _>((begin, Bound::Unbounded)).take(PAGE);
        let page: Vec<(Arc<str>, bool)> =
            page.map(|(name, channel)| (Arc::clone(name), channel.indexed)).collect();
        let Some((name, _)) = page.last() else {
            patterns.iter().for_each(|(slot, _)| state.patterns.set_complete(*slot));
            return;
        };
        last = Some(Arc::clone(name));
        drop(state);
        for (name, _) in page.into_iter().filter(|(_, indexed)| *indexed) {
            let matched = Name::new(&name);
            let mut selecting = Bits::default();
            let all = patterns.iter().filter(|(_, pattern)| pattern.matches(&matched));
            all.for_each(|(slot, _)| selecting.insert(*slot));
            if !selecting.is_empty() {
                found.push((name, selecting));
            }
        }
    }
}

/// Frees unused patterns, after removing them from the channels that they selected.
///
/// A pattern may have selected many channels, so the lock is taken for one page of channels at
/// a time.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(super) fn forget_patterns(registry: &Registry) {
    let mut state = registry.lock();
    let (slots, channels) = state.patterns.take_retired();
    drop(state);
    let mut retired = Bits::default();
    slots.iter().for_each(|slot| retired.insert(*slot));
    let channels: Vec<usize> = channels.iter().collect();
    for page in channels.chunks(PAGE) {
        let HubState { slots, channels, .. } = &mut *registry.lock();
        for name in page.iter().filter_map(|slot| slots.get(*slot)) {
            if let Some(channel) = channels.get_mut(name) {
                channel.watchers.subtract(&retired);
            }
        }
    }
    let mut state = registry.lock();
    slots.into_iter().for_each(|slot| state.patterns.free(slot));
}

/// The patterns of a stream that is being set up.
#[must_use = "dropping this may remove the patterns"]
pub(super) struct Watching<'a> {
    registry: &'a Registry,
    slots: Vec<usize>,
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        self.slots.iter().for_each(|slot| state.patterns.release(*slot));
        let any_retired = state.patterns.has_retired();
        drop(state);
        if any_retired {
            forget_patterns(self.registry);
        }
    }
}
