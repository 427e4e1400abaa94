//! When a client tries again, and how another thread stops it.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use ureq::Agent;

use super::error::ClientError;
use super::http::SendError;

/// The reconnection time that applies until the server sets one.
pub(super) const RETRY: Duration = Duration::from_secs(3);

/// The wait after the first failed attempt to connect, until the server sets a reconnection time.
const RECONNECT_MIN: Duration = Duration::from_millis(500);

/// The longest backoff between failed attempts, unless the server's reconnection time is longer.
const RECONNECT_MAX: Duration = Duration::from_secs(30);

/// The shortest wait before a reconnect, so that `retry: 0` does not cause a busy loop.
const WAIT_MIN: Duration = Duration::from_millis(50);

/// The longest wait before a reconnect, so that an excessive `retry:` does not keep a client
/// disconnected for long.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// The wait before the first repetition of a request. Each further wait is twice as long, up to
/// [`REPEAT_MAX`].
const REPEAT_MIN: Duration = Duration::from_millis(250);
const REPEAT_MAX: Duration = Duration::from_secs(5);

/// The time limit for one attempt to send a request and receive its response.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Stops a [`Listener`](super::Listener) from another thread.
///
/// ```
/// use std::io;
/// use std::time::Duration;
/// use threadcast::client::{Decoder, ListenOptions, Listener};
///
/// let listener = Listener::new(ListenOptions {
///     server: "http://127.0.0.1:9".parse()?, // no server: the listener would retry for ever
///     token: None,
///     channels: vec!["news".into()],
///     since: None,
///     json: false,
///     count: None,
///     silence: Duration::from_secs(60),
///     event_limit: Decoder::LIMIT,
/// });
/// let stop = listener.stop_handle();
/// let running = std::thread::spawn(move || listener.run(&mut io::sink(), &mut io::sink()));
/// stop.stop();
/// running.join().expect("the listener did not panic")?;
/// # Ok::<(), threadcast::client::ClientError>(())
/// ```
#[derive(Debug, Clone)]
pub struct StopHandle {
    notifier: Sender<()>,
    agent: Agent,
}

impl StopHandle {
    /// Stops the client, even if it has not started to run.
    pub fn stop(self) {
        let _ = self.notifier.try_send(()); // fails if the client is already notified
        self.agent.shutdown();
    }
}

/// When a client that reads a stream reconnects.
#[derive(Debug)]
pub(super) struct Reconnection {
    stop: StopHandle,
    stopped: Receiver<()>,
    /// The failed attempts since the last success.
    failures: u32,
}

impl Reconnection {
    pub(super) fn new(agent: Agent) -> Self {
        let (notifier, stopped) = bounded(1);
        Self { stop: StopHandle { notifier, agent }, stopped, failures: 0 }
    }

    pub(super) fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    pub(super) fn is_stopped(&self) -> bool {
        !self.stopped.is_empty()
    }

    /// Resets the backoff, because an attempt has succeeded.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Returns the wait before a retry: the wait that the server `requested`, or else a backoff that
    /// doubles with each failure, from the server's reconnection time on. Logs the cause.
    pub(super) fn wait_after(
        &mut self,
        cause: &str,
        requested: Option<Duration>,
        retry: Option<Duration>,
    ) -> Duration {
        let wait = clamp_wait(requested.unwrap_or_else(|| backoff_after(retry, self.failures)));
        self.failures += 1;
        log::warn!("{cause}; trying again in {wait:.1?}");
        wait
    }

    /// Waits, with jitter. Returns whether the client was stopped meanwhile.
    pub(super) fn pause(&self, wait: Duration) -> bool {
        self.stopped.recv_timeout(jittered(clamp_wait(wait))).is_ok()
    }
}

/// Lengthens a wait by a random part, up to a quarter, so that clients do not reconnect all at
/// once.
fn jittered(wait: Duration) -> Duration {
    wait.saturating_add(wait.mul_f64(fastrand::f64() / 4.0))
}

/// Limits a wait to [`WAIT_MIN`] and [`WAIT_MAX`].
fn clamp_wait(wait: Duration) -> Duration {
    wait.clamp(WAIT_MIN, WAIT_MAX)
}

/// Returns the wait after a failed attempt, given the number of failures before that attempt.
fn backoff_after(retry: Option<Duration>, failures: u32) -> Duration {
    let first = retry.unwrap_or(RECONNECT_MIN).max(WAIT_MIN);
    let longer = first.saturating_mul(2_u32.saturating_pow(failures));
    longer.min(RECONNECT_MAX.max(first))
}

/// Repeats an attempt that fails temporarily, until it succeeds or the timeout has passed. The attempt
/// receives its own time limit.
pub(super) fn repeat<T>(
    timeout: Duration,
    mut attempt: impl FnMut(Duration) -> Result<T, SendError>,
) -> Result<T, ClientError> {
    let started = Instant::now();
    let mut backoff = REPEAT_MIN;
    loop {
        let left = timeout.saturating_sub(started.elapsed()).clamp(REPEAT_MIN, ATTEMPT);
        let (cause, requested) = match attempt(left) {
            Ok(done) => return Ok(done),
            Err(SendError::Temporary { cause, wait }) => (cause, wait),
            Err(SendError::Permanent(error)) => return Err(error),
        };
        let wait = requested.unwrap_or_else(|| jittered(backoff));
        if started.elapsed().saturating_add(wait) >= timeout {
            let after = Duration::from_millis(milliseconds(started.elapsed()));
            let cause = match requested {
                Some(wait) => format!("{cause} (Retry-After: {} s)", wait.as_secs()),
                None => cause,
            };
            return Err(ClientError::TimedOut { after, cause });
        }
        log::warn!("{cause}; trying again in {wait:.1?}");
        thread::sleep(wait);
        backoff = REPEAT_MAX.min(backoff * 2);
    }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_doubles_to_30_s_and_respects_retry_from_the_server() {
        let waits = |retry: Option<u64>| {
            let retry = retry.map(Duration::from_secs);
            [0, 1, 5, 6, 1000].map(|failures| backoff_after(retry, failures).as_millis())
        };
        assert_eq!(waits(None), [500, 1_000, 16_000, 30_000, 30_000]);
        assert_eq!(waits(Some(20)), [20_000, 30_000, 30_000, 30_000, 30_000]);
        assert_eq!(waits(Some(120)), [120_000; 5]);
    }

    #[test]
    fn excessive_wait_is_limited() {
        assert_eq!(clamp_wait(Duration::from_millis(99_999_999_999)), Duration::from_secs(300));
        assert_eq!(clamp_wait(Duration::ZERO), WAIT_MIN);
    }
}
