//! Lets requests wait until the keys have been fetched again.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::JwtError;

/// How long a request with an unknown key waits for a fetch.
const WAIT: Duration = Duration::from_secs(2);

/// How many requests wait for a fetch at the same time.
const WAITING_MAX: usize = 1_000;

/// How much time lies at least between two fetches that requests cause. Any client can send a token
/// with an unknown key.
const COOL_DOWN: Duration = Duration::from_secs(10);

/// The longest wait, because no moment is as far away as some durations are long.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Connects the requests of a server with the thread of the program that fetches the keys.
///
/// A request whose JWT names an unknown key causes a fetch, at most one every 10 s, and waits for it
/// for at most 2 s. A request whose JWT names a known key never waits.
#[derive(Debug)]
pub(crate) struct KeyRefresh {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Whether the program's thread is fetching.
    is_fetching: bool,
    has_failed: bool,
    /// The number of fetches that have ended.
    fetches: u64,
    /// Who needs a fetch.
    wanted: Option<By>,
    /// When the last fetch began that a request had caused.
    last_requested: Option<Instant>,
    /// The number of requests that wait.
    waiting: usize,
}

/// Who needs a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// A request.
    Request,
    /// The program, whatever the cool-down.
    Program,
}

impl Default for KeyRefresh {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyRefresh {
    /// Creates the connection for a thread that begins with a fetch.
    pub(crate) fn new() -> Self {
        let state = State {
            is_fetching: true,
            has_failed: false,
            fetches: 0,
            wanted: None,
            last_requested: None,
            waiting: 0,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits until the keys must be fetched: because a request needs it, because
    /// [`force`](Self::force) was called, or because this time is over.
    pub(crate) fn wait(&self, at_most: Duration) {
        let deadline = Instant::now() + at_most.min(YEAR);
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let until = match (state.wanted, state.last_requested) {
                (None, _) => deadline,
                (Some(By::Request), Some(last)) => deadline.min(last + COOL_DOWN),
                (Some(By::Request), None) | (Some(By::Program), _) => now,
            };
            if until <= now {
                break;
            }
            let waited = self.changed.wait_timeout(state, until - now);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        if state.wanted.take() == Some(By::Request) {
            state.last_requested = Some(Instant::now());
        }
        state.is_fetching = true;
    }

    /// Ends a fetch: the requests that wait look for their keys again.
    ///
    /// Fetched keys must be in use before this call
    /// ([`Handle::replace_keys`](crate::Handle::replace_keys)).
    pub(crate) fn fetched(&self, succeeded: bool) {
        let mut state = self.lock();
        state.is_fetching = false;
        state.has_failed = !succeeded;
        state.fetches += 1;
        self.changed.notify_all();
    }

    /// Makes [`wait`](Self::wait) return now.
    pub(crate) fn force(&self) {
        self.lock().wanted = Some(By::Program);
        self.changed.notify_all();
    }

    /// Looks for a key with `look`, again after each fetch until it is found, and returns the last
    /// result.
    ///
    /// Causes a fetch if none is under way, at most one every 10 s, and waits for at most 2 s in all.
    /// If the key was not found but may exist, returns [`JwtError::NoKeys`].
    pub(crate) fn find<T>(&self, look: impl Fn() -> Result<T, JwtError>) -> Result<T, JwtError> {
        let until = Instant::now() + WAIT;
        loop {
            let fetches = self.lock().fetches;
            let found = look();
            if !matches!(found, Err(JwtError::UnknownKey | JwtError::NoKeys)) {
                return found;
            }
            // A fetch that was under way may have read the set before the key was published. So
            // look again, and if that finds nothing, wait for another fetch.
            self.wait_for_fetch(fetches, until)?;
        }
    }

    /// Waits until more than this number of fetches have ended. Causes a fetch if none is under way,
    /// unless a request caused one less than [`COOL_DOWN`] ago.
    fn wait_for_fetch(&self, fetches: u64, until: Instant) -> Result<(), JwtError> {
        let mut state = self.lock();
        if state.fetches == fetches && !state.is_fetching {
            let is_recent = |last: Instant| last.elapsed() < COOL_DOWN;
            if state.last_requested.is_some_and(is_recent) {
                return Err(if state.has_failed { JwtError::NoKeys } else { JwtError::UnknownKey });
            }
            state.wanted.get_or_insert(By::Request);
            self.changed.notify_all();
        }
        if state.waiting >= WAITING_MAX {
            return Err(JwtError::NoKeys);
        }
        state.waiting += 1;
        let is_pending = |state: &mut State| state.fetches == fetches;
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(state, left, is_pending);
        let (mut state, result) = waited.unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        if result.timed_out() || state.has_failed { Err(JwtError::NoKeys) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    /// Looks for a key that does not exist, and returns the number of looks too.
    fn find(refresh: &KeyRefresh) -> (JwtError, usize) {
        let looks = Cell::new(0);
        let found: Result<(), _> = refresh.find(|| {
            looks.set(looks.get() + 1);
            Err(JwtError::UnknownKey)
        });
        (found.unwrap_err(), looks.get())
    }

    #[test]
    fn requests_share_a_fetch_and_then_cool_down() {
        let refresh = KeyRefresh::new();
        refresh.fetched(true);
        thread::scope(|scope| {
            let requests: Vec<_> = (0..10).map(|_| scope.spawn(|| find(&refresh))).collect();
            refresh.wait(LONG); // returns because of the requests
            while refresh.lock().waiting < 10 {
                thread::yield_now();
            }
            refresh.fetched(true);
            for request in requests {
                assert_eq!(request.join().unwrap(), (JwtError::UnknownKey, 2));
            }
        });
        assert_eq!(find(&refresh), (JwtError::UnknownKey, 1), "the last fetch is recent");
        refresh.lock().last_requested = Instant::now().checked_sub(COOL_DOWN);
        thread::scope(|scope| {
            let request = scope.spawn(|| find(&refresh));
            refresh.wait(LONG);
            refresh.fetched(false);
            assert_eq!(request.join().unwrap(), (JwtError::NoKeys, 1));
        });
        assert_eq!(find(&refresh), (JwtError::NoKeys, 1), "the key may exist");
    }

    #[test]
    fn fetch_that_ends_during_a_look_causes_another_look_but_no_fetch() {
        let refresh = KeyRefresh::new();
        let looks = Cell::new(0);
        let found = refresh.find(|| {
            looks.set(looks.get() + 1);
            match looks.get() {
                1 => {
                    refresh.fetched(true);
                    Err(JwtError::NoKeys)
                }
                looks => Ok(looks),
            }
        });
        assert_eq!(found, Ok(2));
        assert_eq!(refresh.lock().wanted, None);
    }

    #[test]
    fn key_that_a_fetch_under_way_has_missed_is_fetched_again() {
        let refresh = KeyRefresh::new();
        thread::scope(|scope| {
            let request = scope.spawn(|| find(&refresh));
            while refresh.lock().waiting == 0 {
                thread::yield_now();
            }
            refresh.fetched(true);
            refresh.wait(LONG); // returns because of the request
            refresh.fetched(true);
            assert_eq!(request.join().unwrap(), (JwtError::UnknownKey, 3));
        });
    }

    #[test]
    fn forced_and_periodic_fetches_do_not_cool_down() {
        let refresh = KeyRefresh::new();
        refresh.fetched(true);
        refresh.force();
        refresh.wait(Duration::MAX);
        refresh.fetched(true);
        refresh.wait(Duration::ZERO);
        refresh.fetched(true);
        thread::scope(|scope| {
            let request = scope.spawn(|| find(&refresh));
            refresh.wait(LONG);
            refresh.fetched(true);
            assert_eq!(request.join().unwrap(), (JwtError::UnknownKey, 2));
        });
    }
}
