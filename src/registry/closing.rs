//! The end of a registry, spread over some time: streams that all ended at once would
//! all come back at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::Registry;
use super::subscribers::Notifiers;

/// How many may come back in a second (see `http::admission`).
const RETURNS: u32 = 500;

/// The least wait before a client comes back.
const SOONEST: Duration = Duration::from_secs(1);

/// Gives each stream a moment at which it is to end.
#[derive(Debug)]
pub(crate) struct Closing {
    since: Instant,
    over: Duration,
    streams: u32,
    given: AtomicU32,
}

impl Closing {
    /// From now on, for this many streams.
    pub(crate) fn new(over: Duration, streams: usize) -> Arc<Self> {
        let streams = u32::try_from(streams).unwrap_or(u32::MAX);
        Arc::new(Self { since: Instant::now(), over, streams, given: AtomicU32::new(0) })
    }

    /// The next moment: the first is now, and each later one is as long after the
    /// one before.
    pub(crate) fn moment(&self) -> Instant {
        let given = self.given.fetch_add(1, Ordering::Relaxed).min(self.streams);
        self.since + self.over.mul_f64(f64::from(given) / f64::from(self.streams.max(1)))
    }

    /// How long a client is to wait before it comes back, so that as many come in a
    /// second as can be taken in.
    pub(crate) fn retry(&self) -> Duration {
        let load_clients = Duration::from_secs(1) * self.streams / RETURNS;
        SOONEST + load_clients.max(SOONEST * 2).mul_f64(fastrand::f64())
    }
}

/// Whether a registry goes on.
#[derive(Debug, Clone)]
pub(crate) enum Ending {
    /// It does.
    No,
    /// Its streams end one after the other.
    Over(Arc<Closing>),
    /// It is closed.
    Now,
}

impl Registry {
    /// Has the streams end one after the other, at the moments that are given to
    /// them. Until then they go on: events are published, read and delivered.
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

    pub(crate) fn ending(&self) -> Ending {
        let state = self.lock();
        match &state.closing {
            _ if state.open.is_none() => Ending::Now,
            Some(closing) => Ending::Over(Arc::clone(closing)),
            None => Ending::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moments_are_spread_evenly_and_the_first_is_now() {
        let closing = Closing::new(Duration::from_secs(4), 4);
        let after: Vec<_> = (0..6).map(|_| (closing.moment() - closing.since).as_secs()).collect();
        assert_eq!(after, [0, 1, 2, 3, 4, 4]);
        assert_eq!(Closing::new(Duration::from_secs(4), 0).moment().elapsed().as_secs(), 0);
    }

    #[test]
    fn a_larger_crowd_takes_longer_to_come_back() {
        let longest = |streams| {
            let closing = Closing::new(Duration::ZERO, streams);
            (0..1_000).map(|_| closing.retry()).max().unwrap_or_default()
        };
        assert!(longest(1) <= SOONEST * 3);
        assert!(longest(5_000) > Duration::from_secs(9), "{:?}", longest(5_000));
    }
}
