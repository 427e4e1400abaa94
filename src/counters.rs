//! The server's counters. The code that does a counted thing also updates its counter.
//!
//! The counters are atomics, so counting never waits. The broadcaster updates them once per batch,
//! not once per client. `http::metrics` writes them for Prometheus.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The number of lines that the log has dropped. The counter is global, because a process has one
/// log, even if several servers run in the process.
static LOG_LINES_DROPPED: AtomicU64 = AtomicU64::new(0);

/// Counts a line that the log had to drop.
///
/// `/status` and `/metrics` report the count. A logger should drop lines rather than make a thread
/// wait for the log's reader.
pub(crate) fn count_dropped_log_line() {
    LOG_LINES_DROPPED.fetch_add(1, Ordering::Relaxed);
}

/// How many lines the log of this process has dropped.
pub(crate) fn dropped_log_lines() -> u64 {
    LOG_LINES_DROPPED.load(Ordering::Relaxed)
}

/// A number that only increases.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn inc(&self) {
        self.inc_by(1);
    }

    pub(crate) fn inc_by(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter for each reason. What it counts is rare, so it has a lock.
#[derive(Debug, Default)]
pub(crate) struct ByReason(Mutex<BTreeMap<&'static str, u64>>);

impl ByReason {
    /// Creates a counter that is zero for each of these reasons. Without it, `/metrics` would not
    /// show a reason before it is counted for the first time.
    fn of(reasons: &[&'static str]) -> Self {
        Self(Mutex::new(reasons.iter().map(|reason| (*reason, 0)).collect()))
    }

    fn count(&self, reason: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// Returns each reason and its count.
    pub(crate) fn get(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The number of buckets of a histogram.
const BUCKETS: usize = 10;

/// Counts times in buckets. The first bucket ends at `first` seconds; each further bucket ends at
/// four times the end of the one before.
#[derive(Debug)]
pub(crate) struct Histogram {
    first: f64,
    buckets: [Counter; BUCKETS],
    /// The times after the end of the last bucket.
    longer: Counter,
    nanos: Counter,
}

impl Histogram {
    fn new(first: f64) -> Self {
        let (buckets, longer, nanos) = Default::default();
        Self { first, buckets, longer, nanos }
    }

    fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = self.buckets().find(|(end, _)| seconds <= *end);
        bucket.map_or(&self.longer, |(_, count)| count).inc();
        self.nanos.inc_by(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Returns the end of each bucket in seconds, and how many times it has counted.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (f64, &Counter)> {
        let ends = std::iter::successors(Some(self.first), |end| Some(end * 4.0));
        ends.zip(&self.buckets)
    }

    /// Returns how many times were longer than the end of the last bucket.
    pub(crate) fn longer(&self) -> u64 {
        self.longer.get()
    }

    /// Returns the sum of all times.
    pub(crate) fn sum(&self) -> Duration {
        Duration::from_nanos(self.nanos.get())
    }
}

/// The counters of one server.
#[derive(Debug)]
pub(crate) struct Counters {
    /// Accepted connections.
    pub(crate) accepted: Counter,
    /// Rejected streams, and connections that could not be served, by reason.
    pub(crate) rejections: ByReason,
    /// Connections without a stream that were closed to make room for others.
    pub(crate) shed: Counter,
    /// Ended streams, by reason.
    pub(crate) ends: ByReason,
    /// Reloads of files, by result.
    pub(crate) reloads: ByReason,
    /// Fetches of a key set, by result.
    pub(crate) key_fetches: ByReason,
    /// Published events.
    pub(crate) published: Counter,
    /// Sent events, counted once per client.
    pub(crate) delivered: Counter,
    /// Bytes sent in streams.
    pub(crate) sent_bytes: Counter,
    /// Gaps reported to clients.
    pub(crate) gaps: Counter,
    /// The time from a publish request until its response was known, for each of [`STORES`].
    publishing: [Histogram; STORES.len()],
    /// The time from admitting a stream of channels, or of the clock, until its first byte was sent.
    pub(crate) first_byte: Histogram,
    /// The time in which the store committed a batch of events, or failed.
    pub(crate) committing: Histogram,
    /// The age of a batch's oldest event when the batch had been sent to the last client.
    pub(crate) lag: Histogram,
    /// The time from the detection of a peer's disconnect to the release of the stream's thread
    /// and descriptor.
    pub(crate) disconnects: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            accepted: Counter::default(),
            rejections: ByReason::of(&REASONS),
            shed: Counter::default(),
            ends: ByReason::default(),
            reloads: ByReason::of(&RESULTS),
            key_fetches: ByReason::of(&RESULTS),
            published: Counter::default(),
            delivered: Counter::default(),
            sent_bytes: Counter::default(),
            gaps: Counter::default(),
            publishing: STORES.map(|_| Histogram::new(1e-6)),
            first_byte: Histogram::new(1e-5),
            committing: Histogram::new(1e-5),
            lag: Histogram::new(1e-5),
            disconnects: Histogram::new(1e-4),
        }
    }
}

impl Counters {
    /// Counts a rejected stream or connection.
    pub(crate) fn reject(&self, reason: &'static str) {
        self.rejections.count(reason);
    }

    /// Counts an ended stream.
    pub(crate) fn end(&self, reason: &'static str) {
        self.ends.count(reason);
    }

    /// Counts a reload of files.
    pub(crate) fn reload(&self, succeeded: bool) {
        self.reloads.count(RESULTS[usize::from(!succeeded)]);
    }

    /// Counts a fetch of a key set.
    pub(crate) fn key_fetch(&self, succeeded: bool) {
        self.key_fetches.count(RESULTS[usize::from(!succeeded)]);
    }

    /// Counts published events, and records the time from the publish request until its response
    /// was known. `store` is one of [`STORES`].
    pub(crate) fn publish(&self, store: &'static str, events: usize, took: Duration) {
        self.published.inc_by(events as u64);
        if let Some(publishing) = self.publishing(store) {
            publishing.observe(took);
        }
    }

    /// Returns the times from a publish request until its response was known, for one of [`STORES`].
    pub(crate) fn publishing(&self, store: &str) -> Option<&Histogram> {
        let at = STORES.iter().position(|known| *known == store)?;
        self.publishing.get(at)
    }

    /// Records the time from admitting a stream until its first byte was sent.
    pub(crate) fn first_byte(&self, took: Duration) {
        self.first_byte.observe(took);
    }

    /// Records how long the store took to commit a batch of events, or to fail.
    pub(crate) fn commit(&self, took: Duration) {
        self.committing.observe(took);
    }

    /// Records the lag of a batch of events: the age of the batch's oldest event when the
    /// broadcaster has sent the batch to the last client.
    pub(crate) fn lag(&self, age: Duration) {
        self.lag.observe(age);
    }

    /// Records the time from the detection of a peer's disconnect to the release of the stream's
    /// thread and descriptor.
    pub(crate) fn disconnect(&self, took: Duration) {
        self.disconnects.observe(took);
    }
}

/// Subtracts `by` from a count, which must be at least as large.
///
/// If the count is smaller than `by`, a debug build panics. A release build sets the count to zero,
/// because a count that wraps around would be worse.
pub(crate) fn decrease(count: &mut usize, by: usize) {
    debug_assert!(*count >= by, "a count of {count} cannot be decreased by {by}");
    *count = count.saturating_sub(by);
}

/// Where a registry keeps its events.
pub(crate) const STORES: [&str; 3] = [MEMORY, FILE, REDIS];
/// In memory only.
pub(crate) const MEMORY: &str = "memory";
/// In a file of this node.
pub(crate) const FILE: &str = "file";
/// In a Redis that nodes share.
pub(crate) const REDIS: &str = "redis";
/// The results of an attempt: success and failure.
const RESULTS: [&str; 2] = ["ok", "failed"];

/// The reasons for a rejection.
pub(crate) const REASONS: [&str; 6] =
    [FULL, ADDRESS, CONNECTIONS, CONNECTIONS_OF_ADDRESS, DRAINING, SYSTEM];
/// `--max-clients` is reached.
pub(crate) const FULL: &str = "max_clients";
/// The limit of streams per address is reached.
pub(crate) const ADDRESS: &str = "max_per_address";
/// The limit of connections is reached, and no connection is idle.
pub(crate) const CONNECTIONS: &str = "max_connections";
/// The limit of connections without a stream per address is reached.
pub(crate) const CONNECTIONS_OF_ADDRESS: &str = "max_connections_per_address";
/// The server is draining.
pub(crate) const DRAINING: &str = "draining";
/// The system has no descriptor, thread or memory left.
pub(crate) const SYSTEM: &str = "system";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_counts_a_time_in_the_first_bucket_that_ends_after_it() {
        let histogram = Histogram::new(0.001);
        for millis in [0, 1, 2, 4, 5, 1_000_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let counts: Vec<_> = histogram.buckets().map(|(end, count)| (end, count.get())).collect();
        assert_eq!(counts[..3], [(0.001, 2), (0.004, 2), (0.016, 1)]);
        assert!(counts[3..].iter().all(|(_, count)| *count == 0), "{counts:?}");
        assert_eq!(histogram.longer(), 1);
        assert_eq!(histogram.sum(), Duration::from_millis(1_000_012));
    }
}
