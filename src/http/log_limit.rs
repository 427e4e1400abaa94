//! Limits log lines that clients can cause: one line per burst, or some lines per second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Errors at most this far apart form one burst, which gets one log line.
const BURST: Duration = Duration::from_secs(5);

/// Groups events that happen close together, so that a group gets one log line.
#[derive(Debug, Default)]
pub(super) struct Burst {
    last: Option<Instant>,
}

impl Burst {
    /// Records an event, and returns whether it is the first of a burst.
    pub(super) fn begins(&mut self) -> bool {
        let now = Instant::now();
        let begins = self.last.is_none_or(|last| now - last > BURST);
        self.last = Some(now);
        begins
    }
}

/// How many lines a [`LogRateLimit`] permits in a second.
const LINES_PER_SECOND: u32 = 10;

/// Limits the rate of a log line that any request can cause.
#[derive(Debug, Default)]
pub(super) struct LogRateLimit(Mutex<Second>);

#[derive(Debug, Default)]
struct Second {
    began: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl LogRateLimit {
    /// Permits a line, and returns how many lines were suppressed since the last permitted line.
    ///
    /// Returns `None` if this line must be suppressed too.
    pub(super) fn permit(&self) -> Option<u64> {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if second.began.is_none_or(|began| now - began >= Duration::from_secs(1)) {
            (second.began, second.lines) = (Some(now), 0);
        }
        if second.lines == LINES_PER_SECOND {
            second.suppressed += 1;
            return None;
        }
        second.lines += 1;
        Some(std::mem::take(&mut second.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_rate_limit_permits_ten_lines_a_second() {
        let limit = LogRateLimit::default();
        let lines = (0..1_000).filter_map(|_| limit.permit()).count();
        let max = LINES_PER_SECOND as usize;
        assert!((max..=10 * max).contains(&lines), "{lines}");
        let mut second = limit.0.lock().unwrap();
        assert!(second.suppressed > 0);
        (second.began, second.suppressed) = (None, 7);
        drop(second);
        assert_eq!((limit.permit(), limit.permit()), (Some(7), Some(0)));
    }
}
