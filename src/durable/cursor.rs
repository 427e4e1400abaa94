//! Cursors: numbers in the URLs of live reads, which keep caches from serving an old response.
//!
//! A cursor is the number of the current interval of 20 s. If a reader sends a cursor that is not
//! less, it gets a greater one. All readers of a stream share its cursor, so that a broadcast group
//! can get the same bytes. A reader can raise the shared cursor only by a bounded step, so that no
//! reader can bring it near the greatest number.

use chrono::{DateTime, Utc};

/// The length of an interval, in seconds.
const INTERVAL: i64 = 20;

/// 2024-10-09T00:00:00Z, the beginning of the first interval, as a UNIX time.
const EPOCH: i64 = 1_728_432_000;

/// A client's cursor that exceeds the stream's by more than this was not sent by this server, and is
/// ignored. The greatest number is 2^31 such steps away.
const STEP_MAX: u64 = 1 << 32;

/// A raised cursor exceeds the client's by 1 to this many intervals.
const JITTER_MAX: u64 = 9;

/// Returns the number of the interval at this time.
pub(super) fn interval(now: DateTime<Utc>) -> u64 {
    u64::try_from((now.timestamp() - EPOCH) / INTERVAL).unwrap_or(0)
}

/// Returns the stream's next cursor, where `last` is its current one.
pub(super) fn next(last: u64, client: Option<u64>) -> u64 {
    match client {
        Some(client) if client >= last && client - last <= STEP_MAX => {
            client.saturating_add(fastrand::u64(1..=JITTER_MAX))
        }
        _ => last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_counts_intervals_of_20_seconds() {
        let at = |text: &str| interval(text.parse().unwrap());
        assert_eq!(at("2024-10-09T00:00:39Z"), 1);
        assert_eq!(at("2024-10-10T00:00:00Z"), 4_320);
        assert_eq!(at("1999-01-01T00:00:00Z"), 0, "a clock that is wrong");
    }

    #[test]
    fn cursor_of_a_client_is_always_exceeded() {
        let mut last = 100;
        for _ in 0..1_000 {
            let raised = next(last, Some(last));
            assert!(raised > last && raised <= last + JITTER_MAX);
            last = raised;
        }
        assert_eq!(next(last, Some(last - 1)), last);
        assert_eq!(next(last, None), last);
    }

    #[test]
    fn absurd_cursor_does_not_raise_the_stream_s() {
        assert_eq!(next(7, Some(u64::MAX)), 7);
        assert!(next(7, Some(7 + STEP_MAX)) > 7 + STEP_MAX);
        assert_eq!(next(7, Some(8 + STEP_MAX)), 7);
    }
}
