//! What the server has done, counted where it is done, and in one place.
//!
//! All of it is atomics (a histogram has a lock of its own), and the delivering
//! thread counts once for each batch, never for each client.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Lines that the process's log has dropped. A process has one log, whatever servers run in it.
static LOG_LINES_DROPPED: AtomicU64 = AtomicU64::new(0);

/// Counts a line that this program's log had to drop.
///
/// `/status` and `/metrics` report the count. It is for a logger that drops lines rather than
/// let a thread wait for the log's reader.
pub fn count_dropped_log_line() {
    LOG_LINES_DROPPED.fetch_add(1, Ordering::Relaxed);
}

/// How many lines of its log this program has dropped.
pub fn dropped_log_lines() -> u64 {
    LOG_LINES_DROPPED.load(Ordering::Relaxed)
}

/// One label and its value.
pub(crate) type Label = [(&'static str, &'static str); 1];

/// The counters of one server, for all that it publishes and sends.
#[derive(Debug)]
pub(crate) struct Counters {
    /// Connections that were accepted.
    pub(crate) accepted: Counter,
    /// Streams that were rejected, and connections that could not be served.
    rejected: Family<Label, Counter>,
    /// Connections without a stream that were closed to make room for others.
    pub(crate) shed: Counter,
    /// Streams that have ended.
    ended: Family<Label, Counter>,
    /// Events that were published, and events that were sent, once for each client.
    pub(crate) published: Counter,
    pub(crate) delivered: Counter,
    /// Bytes of streams.
    pub(crate) sent_bytes: Counter,
    /// Losses that clients were told of.
    pub(crate) gaps: Counter,
    publishing: Histogram,
    committing: Histogram,
    lag: Histogram,
    disconnects: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        // From 1 µs, 10 µs and 100 µs up, each bucket four times the last.
        let seconds = |first| Histogram::new(exponential_buckets(first, 4.0, 10));
        let rejected = Family::<Label, Counter>::default();
        for reason in REASONS {
            drop(rejected.get_or_create(&[("reason", reason)])); // none yet is 0, not nothing
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
    /// Somebody was rejected, for this reason.
    pub(crate) fn reject(&self, reason: &'static str) {
        self.rejected.get_or_create(&[("reason", reason)]).inc();
    }

    /// A stream has ended, for this reason.
    pub(crate) fn end(&self, reason: &'static str) {
        self.ended.get_or_create(&[("reason", reason)]).inc();
    }

    /// How many streams have ended for this reason.
    pub(crate) fn ended(&self, reason: &'static str) -> u64 {
        self.ended.get(&[("reason", reason)]).map_or(0, |ended| ended.get())
    }

    /// A publisher was answered after this long.
    pub(crate) fn publish(&self, events: usize, took: Duration) {
        self.published.inc_by(events as u64);
        self.publishing.observe(took.as_secs_f64());
    }

    /// The store has kept a batch, or failed to, after this long.
    pub(crate) fn commit(&self, took: Duration) {
        self.committing.observe(took.as_secs_f64());
    }

    /// The oldest event of a batch is this old now that the last client has it.
    pub(crate) fn lag(&self, age: Duration) {
        self.lag.observe(age.as_secs_f64());
    }

    /// This long after its peer hung up, a stream's thread and descriptor are free.
    pub(crate) fn disconnect(&self, took: Duration) {
        self.disconnects.observe(took.as_secs_f64());
    }

    /// How many were rejected so far, for whatever reason.
    pub(crate) fn rejected(&self) -> u64 {
        REASONS
            .iter()
            .filter_map(|reason| Some(self.rejected.get(&[("reason", reason)])?.get()))
            .sum()
    }

    /// Puts all of them on a page.
    pub(crate) fn register(&self, page: &mut Registry) {
        page.register("accepts", "Connections that were accepted", self.accepted.clone());
        let help = "Streams that were rejected, and connections that could not be served";
        page.register("rejections", help, self.rejected.clone());
        let help = "Connections without a stream that were closed to make room for others";
        page.register("shed_connections", help, self.shed.clone());
        page.register("stream_ends", "Streams that have ended", self.ended.clone());
        page.register(
            "events_in",
            "Events that were published, the clock's own too",
            self.published.clone(),
        );
        let help = "Events that were sent, once for each client";
        page.register("events_out", help, self.delivered.clone());
        page.register("sent_bytes", "Bytes of streams that were sent", self.sent_bytes.clone());
        page.register("gaps", "Losses that clients were told of", self.gaps.clone());
        let help = "From a publish to its answer being known";
        page.register("publish_seconds", help, self.publishing.clone());
        let help = "What a commit of the store takes, the sync to the disk included";
        page.register("store_commit_seconds", help, self.committing.clone());
        let help = "From an event's publish to its batch having been sent to all who had caught up";
        page.register("delivery_lag_seconds", help, self.lag.clone());
        let help = "From a peer's hang-up being seen to its thread and descriptor being free";
        page.register("disconnect_seconds", help, self.disconnects.clone());
        let dropped: Counter = Counter::default();
        dropped.inc_by(dropped_log_lines());
        let help = "Lines of the log that were dropped because nothing took them";
        page.register("log_lines_dropped", help, dropped);
    }
}

/// Takes `by` from a count, which must be at least as large. Where it is not, a debug
/// build panics; a release build stops at zero, because a count that wraps is worse.
pub(crate) fn decrease(count: &mut usize, by: usize) {
    debug_assert!(*count >= by, "a count of {count} cannot be decreased by {by}");
    *count = count.saturating_sub(by);
}

/// Why somebody may be rejected.
pub(crate) const REASONS: [&str; 6] =
    [FULL, ADDRESS, CONNECTIONS, CONNECTIONS_OF_ADDRESS, DRAINING, SYSTEM];
/// There are as many clients as there may be.
pub(crate) const FULL: &str = "max_clients";
/// There are as many from this address as there may be.
pub(crate) const ADDRESS: &str = "max_per_address";
/// Every connection that there may be is in a handler.
pub(crate) const CONNECTIONS: &str = "max_connections";
/// There are as many connections without a stream from this address as there may be.
pub(crate) const CONNECTIONS_OF_ADDRESS: &str = "max_connections_per_address";
/// The server is about to stop.
pub(crate) const DRAINING: &str = "draining";
/// The system has no descriptor, thread or memory for it.
pub(crate) const SYSTEM: &str = "system";
