//! Limits of the channels' histories: of each one, and of all together.
//!
//! Each ring counts its memory cost and adds it to one total. When the total exceeds its limit,
//! the registry evicts the oldest event of all channels, then the next oldest, until the total
//! fits. An evicted event becomes part of a gap, like an event that leaves its ring because of
//! the channel's own limits.
//!
//! # Invariants
//!
//! * **A channel that is not in the queue has no memory cost.** Each channel that has events, or
//!   remembers more than one run of lost ids, has exactly one place in the queue.
//! * **A place in the queue is never later than its channel's oldest event.** It may be earlier,
//!   because only [`HubState::evict`] moves a channel to its correct place.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::state::HubState;
use crate::id::EventId;

/// The limits of a channel's history. The limit that is reached first applies.
///
/// ```
/// use threadcast::History;
///
/// let history = History { events: 100, ..History::default() };
/// assert_eq!(history.bytes, 1024 * 1024);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The maximum number of events. Default: 1,000.
    pub events: usize,
    /// The maximum size of the encoded events, in bytes. Default: 1 MiB.
    pub bytes: usize,
    /// The maximum age of an event. Default: 1 hour.
    pub age: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self { events: 1_000, bytes: 1024 * 1024, age: Duration::from_secs(3_600) }
    }
}

/// The history limits of all channels, by name pattern.
///
/// A name takes precedence over a prefix, and a longer prefix over a shorter one.
///
/// ```
/// use threadcast::{Histories, History};
///
/// let short = History { events: 10, ..History::default() };
/// let histories = Histories::default().with("chat*", short);
/// assert_ne!(histories, Histories::all(short));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histories {
    /// The limits of channels that no pattern matches.
    default: History,
    patterns: Vec<(String, History)>,
}

impl Histories {
    /// Applies the same limits to every channel.
    pub fn all(default: History) -> Self {
        Self { default, patterns: Vec::new() }
    }

    /// Sets the limits of the channels that match `pattern`: a name, or a prefix and `*`.
    ///
    /// If it is called twice with the same pattern, the later limits apply.
    #[must_use]
    pub fn with(mut self, pattern: impl Into<String>, history: History) -> Self {
        let pattern = pattern.into();
        self.patterns.retain(|(known, _)| *known != pattern);
        self.patterns.push((pattern, history));
        self
    }

    /// Returns the limits of this channel.
    pub(crate) fn of(&self, channel: &str) -> History {
        let matching =
            self.patterns.iter().filter(|(pattern, _)| match pattern.strip_suffix('*') {
                Some(prefix) => channel.starts_with(prefix),
                None => channel == pattern,
            });
        let closest = matching.max_by_key(|(pattern, _)| (!pattern.ends_with('*'), pattern.len()));
        closest.map_or(self.default, |(_, history)| *history)
    }

    /// The limits of all patterns, and the default limits.
    pub(crate) fn all_rules(&self) -> impl Iterator<Item = &History> {
        self.patterns.iter().map(|(_, history)| history).chain([&self.default])
    }
}

/// The default memory limit of all histories together, in bytes.
pub(crate) const HISTORY_TOTAL: usize = 256 << 20;

/// How many runs of lost ids a channel keeps when memory is short.
const RUNS_KEPT: usize = 64;

/// The cost of all rings together, and a queue of the channels by their oldest event.
#[derive(Debug, Default)]
pub(super) struct HistoryTotal {
    total: Arc<AtomicUsize>,
    /// Each channel that has a cost, with an id that is not later than the channel's oldest event.
    queue: BTreeSet<(EventId, Arc<str>)>,
}

impl HistoryTotal {
    /// Creates the share of a new ring, which is 0 at first.
    pub(super) fn part(&self) -> Cost {
        Cost { bytes: 0, total: Arc::clone(&self.total) }
    }

    /// The cost of all rings together, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Removes a channel's place from the queue, because the channel has been removed.
    pub(super) fn remove(&mut self, place: Option<EventId>, name: &Arc<str>) {
        if let Some(place) = place {
            self.queue.remove(&(place, Arc::clone(name)));
        }
    }
}

impl HubState {
    /// Queues a channel that has just received the event `id`, unless it is queued already.
    pub(super) fn queue(&mut self, name: &str, id: EventId) {
        let Some((name, _)) = self.channels.get_key_value(name) else { return };
        let name = Arc::clone(name);
        let Some(channel) = self.channels.get_mut(&name) else { return };
        if channel.place.is_none() {
            channel.place = Some(id);
            self.kept.queue.insert((id, name));
        }
    }

    /// Evicts the oldest events of all channels until all histories cost at most `limit` bytes.
    ///
    /// The newest event of all channels is never evicted.
    ///
    /// This takes O(log channels) per event, amortized over the events that have left their rings.
    pub(super) fn evict(&mut self, limit: usize) {
        if self.kept.bytes() > limit {
            self.evict_oldest(limit);
        }
    }

    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    fn evict_oldest(&mut self, limit: usize) {
        let Self { kept: HistoryTotal { total, queue }, channels, losses, last, .. } = self;
        while total.load(Ordering::Relaxed) > limit {
            let Some((id, name)) = queue.pop_first() else { return };
            let Some(channel) = channels.get_mut(&name) else { continue };
            channel.place = match channel.ring.oldest() {
                Some(oldest) if oldest != id => Some(oldest),
                // Free the runs of lost ids, and with them the counts in gaps, before evicting
                // events.
                Some(_) if channel.ring.forget_runs(RUNS_KEPT) => Some(id),
                Some(oldest) if oldest == *last => {
                    queue.insert((id, name));
                    return;
                }
                Some(_) => {
                    channel.evict(|entry| losses.event(&name, entry));
                    Some(id)
                }
                None => {
                    channel.ring.forget_runs(1);
                    None
                }
            };
            queue.extend(channel.place.map(|place| (place, name)));
        }
    }
}

/// A ring's share of the total. Dropping this value subtracts the share from the total.
#[derive(Debug, Default)]
pub(super) struct Cost {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl Cost {
    /// Sets the ring's share. The caller holds the registry's lock, so relaxed operations suffice.
    pub(super) fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        let total = self.total.load(Ordering::Relaxed);
        self.total.store(total + bytes - before, Ordering::Relaxed);
    }
}

impl Drop for Cost {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::registry::ring::Entry;
    use crate::registry::{Registry, RegistryOptions, Update};

    #[test]
    fn the_most_specific_pattern_applies() {
        let keeping = |events| History { events, ..History::default() };
        let histories = Histories::all(keeping(1))
            .with("chat*", keeping(2))
            .with("chat/*", keeping(3))
            .with("chat/1", keeping(4));
        for (channel, events) in [("news", 1), ("chat", 2), ("chat/2", 3), ("chat/1", 4)] {
            assert_eq!(histories.of(channel).events, events, "{channel}");
        }
    }

    /// Computes the cost of the rings from scratch, and checks the queue's invariants.
    fn recount(registry: &Registry) -> usize {
        let state = registry.lock();
        for (name, channel) in &state.channels {
            let places = state.kept.queue.iter().filter(|(_, queued)| queued == name);
            let places: Vec<EventId> = places.map(|(id, _)| *id).collect();
            assert_eq!(places, Vec::from_iter(channel.place), "{name}");
            let oldest = channel.ring.oldest();
            assert!(oldest.is_none_or(|oldest| places.iter().all(|id| *id <= oldest)), "{name}");
            assert!(channel.place.is_some() || channel.ring.is_empty(), "{name}");
        }
        let rings = state.channels.values().map(|channel| &channel.ring);
        rings.map(|ring| ring.entries().map(Entry::cost).sum::<usize>() + ring.runs_cost()).sum()
    }

    #[test]
    fn history_total_equals_the_cost_of_the_rings() {
        let rule = History { events: 5, age: Duration::from_millis(20), ..History::default() };
        for history_total in [2_000, 20_000, usize::MAX] {
            let history = Histories::default().with("short*", rule);
            let options = RegistryOptions { history, history_total, ..Default::default() };
            let registry = Registry::with(options);
            let mut random = fastrand::Rng::with_seed(7);
            for step in 0..3_000 {
                let topics = ["a", "short/a", "short/b", "c", "d"];
                let begin = random.usize(..topics.len());
                let topics = &topics[begin..(begin + random.usize(1..3)).min(topics.len())];
                let key = random.bool().then(|| format!("key-{step}"));
                let event = Event::new("x".repeat(random.usize(..300)));
                let event = event.with_id(format!("id-{step}")).expect("an id");
                let update = Update {
                    topics,
                    events: &[event],
                    private: random.bool(),
                    key: key.as_deref(),
                };
                registry.publish_update(&update).expect("all are names");
                match random.usize(..50) {
                    0 => registry.sweep(),
                    1 => drop(registry.forget(topics[0]).expect("there is no store")),
                    _ => {}
                }
                let counted = registry.history_bytes();
                assert_eq!(counted, recount(&registry), "after step {step}");
                let newest = 2 * 1_500; // the newest event is exempt, in at most two channels
                assert!(counted <= history_total.saturating_add(newest), "{counted}");
            }
        }
    }

    #[test]
    fn history_total_bounds_runs_of_lost_ids() {
        let rule = History { events: 1, ..History::default() };
        let history_total = 100_000;
        let history = Histories::all(rule);
        let options = RegistryOptions { history, history_total, ..Default::default() };
        let registry = Registry::with(options);
        // Each channel loses every tenth id, so each lost id is a run of its own.
        for n in 0..50_000 {
            let name = format!("channel-{}", n % 10);
            registry.publish(&name, &Event::new("")).expect("a name");
            assert!(registry.history_bytes() <= history_total + 1_000);
        }
        assert_eq!(registry.history_bytes(), recount(&registry));
    }
}
