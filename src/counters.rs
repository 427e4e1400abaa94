//! The server's counters. The code that does a counted thing also updates its counter.
//!
//! The counters are atomics; each histogram has a lock of its own. The broadcaster updates the
//! counters once per batch, not once per client.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The number of lines that the log has dropped. The counter is global, because a process has one
/// log, even if several servers run in the process.
static LOG_LINES_DROPPED: AtomicU64 = AtomicU64::new(0);

/// Counts a line that the log had to drop.
///
/// `/status` and `/metrics` report the count. A logger should drop lines rather than make a thread
/// wait for the log's reader.
pub fn count_dropped_log_line() {
    LOG_LINES_DROPPED.fetch_add(1, Ordering::Relaxed);
}

/// How many lines the log of this process has dropped.
pub fn dropped_log_lines() -> u64 {
    LOG_LINES_DROPPED.load(Ordering::Relaxed)
}

/// The one label of a metric: its name and its value.
pub(crate) type Label = [(&'static str, &'static str); 1];

/// The counters of one server.
#[derive(Debug)]
pub(crate) struct Counters {
    /// Accepted connections.
    pub(crate) accepted: Counter,
    /// Rejected streams, and connections that could not be served, by reason.
    rejected: Family<Label, Counter>,
    /// Connections without a stream that were closed to make room for others.
    pub(crate) shed: Counter,
    /// Ended streams, by reason.
    ended: Family<Label, Counter>,
    /// Published events.
    pub(crate) published: Counter,
    /// Sent events, counted once per client.
    pub(crate) delivered: Counter,
    /// Bytes sent in streams.
    pub(crate) sent_bytes: Counter,
    /// Gaps reported to clients.
    pub(crate) gaps: Counter,
    publishing: Histogram,
    committing: Histogram,
    lag: Histogram,
    disconnects: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        // Creates a histogram of ten buckets. The first bucket ends at `first` seconds; each
        // further bucket ends at four times the end of the one before.
        let seconds = |first| Histogram::new(exponential_buckets(first, 4.0, 10));
        let rejected = Family::<Label, Counter>::default();
        for reason in REASONS {
            // Without this call, `/metrics` would not show a reason before the first rejection for
            // it.
            drop(rejected.get_or_create(&[("reason", reason)]));
        }
        Self {
            accepted: Counter::default(),
            rejected,
            shed: Counter::default(),
            ended: Family::default(),
            published: Counter::default(),
            delivered: Counter::default(),
            sent_bytes: Counter::default(),
            gaps: Counter::default(),
            publishing: seconds(1e-6),
            committing: seconds(1e-5),
            lag: seconds(1e-5),
            disconnects: seconds(1e-4),
        }
    }
}

impl Counters {
    /// Counts a rejected stream or connection.
    pub(crate) fn reject(&self, reason: &'static str) {
        self.rejected.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts an ended stream.
    pub(crate) fn end(&self, reason: &'static str) {
        self.ended.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts published events, and records the time from the publish request until its response
    /// was known.
    pub(crate) fn publish(&self, events: usize, took: Duration) {
        self.published.inc_by(events as u64);
        self.publishing.observe(took.as_secs_f64());
    }

    /// Records how long the store took to commit a batch of events, or to fail.
    pub(crate) fn commit(&self, took: Duration) {
        self.committing.observe(took.as_secs_f64());
    }

    /// Records the lag of a batch of events: the age of the batch's oldest event when the
    /// broadcaster has sent the batch to the last client.
    pub(crate) fn lag(&self, age: Duration) {
        self.lag.observe(age.as_secs_f64());
    }

    /// Records the time from the detection of a peer's disconnect to the release of the stream's
    /// thread and descriptor.
    pub(crate) fn disconnect(&self, took: Duration) {
        self.disconnects.observe(took.as_secs_f64());
    }

    /// How many streams and connections have been rejected so far, for any reason.
    pub(crate) fn rejected(&self) -> u64 {
        REASONS
            .iter()
            .filter_map(|reason| Some(self.rejected.get(&[("reason", reason)])?.get()))
            .sum()
    }

    /// Registers all counters for `/metrics`.
    pub(crate) fn register(&self, page: &mut Registry) {
        page.register("accepts", "Accepted connections", self.accepted.clone());
        let help = "Rejected streams, and connections that could not be served, by reason";
        page.register("rejections", help, self.rejected.clone());
        let help = "Connections without a stream, closed to make room for others";
        page.register("shed_connections", help, self.shed.clone());
        page.register("stream_ends", "Ended streams, by reason", self.ended.clone());
        page.register(
            "events_in",
            "Published events, including the ticker's",
            self.published.clone(),
        );
        let help = "Sent events, counted once per client";
        page.register("events_out", help, self.delivered.clone());
        page.register("sent_bytes", "Bytes sent in streams", self.sent_bytes.clone());
        page.register("gaps", "Gaps reported to clients", self.gaps.clone());
        let help = "Time from a publish request to its response being known";
        page.register("publish_seconds", help, self.publishing.clone());
        let help = "Time of a commit of the store, including the sync to the disk";
        page.register("store_commit_seconds", help, self.committing.clone());
        let help = "Time from publishing an event to sending its batch to all caught-up clients";
        page.register("delivery_lag_seconds", help, self.lag.clone());
        let help = "Time from a peer's disconnect to the release of its thread and descriptor";
        page.register("disconnect_seconds", help, self.disconnects.clone());
        let dropped: Counter = Counter::default();
        dropped.inc_by(dropped_log_lines());
        let help = "Log lines dropped because the reader of the log was too slow";
        page.register("log_lines_dropped", help, dropped);
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
