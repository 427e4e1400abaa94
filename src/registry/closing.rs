//! Ends the streams of a registry one after the other.
//!
//! If all streams ended at the same time, all clients would reconnect at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How many clients can reconnect in a second (see `http::admission`).
const RECONNECTS_PER_SECOND: u32 = 500;

/// The minimum time before a client reconnects.
const MIN_RETRY: Duration = Duration::from_secs(1);

/// Assigns each stream the time at which it ends.
#[derive(Debug)]
pub(crate) struct Closing {
    since: Instant,
    over: Duration,
    streams: u32,
    given: AtomicU32,
}

impl Closing {
    /// Creates a schedule that begins now and ends this many streams over the time `over`.
    pub(crate) fn new(over: Duration, streams: usize) -> Arc<Self> {
        let streams = u32::try_from(streams).unwrap_or(u32::MAX);
        Arc::new(Self { since: Instant::now(), over, streams, given: AtomicU32::new(0) })
    }

    /// Returns the end time of the next stream. The first stream ends at once, and the others at
    /// equal intervals.
    pub(crate) fn moment(&self) -> Instant {
        let given = self.given.fetch_add(1, Ordering::Relaxed).min(self.streams);
        self.since + self.over.mul_f64(f64::from(given) / f64::from(self.streams.max(1)))
    }

    /// Returns the time after which one client should reconnect.
    ///
    /// It is random, and its range grows with the number of streams. So the clients that reconnect
    /// in the same second are not more than the server can accept.
    pub(crate) fn retry(&self) -> Duration {
        let spread = Duration::from_secs(1) * self.streams / RECONNECTS_PER_SECOND;
        MIN_RETRY + spread.max(MIN_RETRY * 2).mul_f64(fastrand::f64())
    }
}

/// Whether and how a registry is ending.
#[derive(Debug, Clone)]
pub(crate) enum Ending {
    /// The registry is open.
    No,
    /// The registry's streams end one after the other.
    Over(Arc<Closing>),
    /// The registry is closed.
    Now,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_times_are_spread_evenly_from_now() {
        let closing = Closing::new(Duration::from_secs(4), 4);
        let after: Vec<_> = (0..6).map(|_| (closing.moment() - closing.since).as_secs()).collect();
        assert_eq!(after, [0, 1, 2, 3, 4, 4]);
        assert_eq!(Closing::new(Duration::from_secs(4), 0).moment().elapsed().as_secs(), 0);
    }

    #[test]
    fn more_streams_reconnect_over_a_longer_time() {
        let longest = |streams| {
            let closing = Closing::new(Duration::ZERO, streams);
            (0..1_000).map(|_| closing.retry()).max().unwrap_or_default()
        };
        assert!(longest(1) <= MIN_RETRY * 3);
        assert!(longest(5_000) > Duration::from_secs(9), "{:?}", longest(5_000));
    }
}
