//! Limits how many events each publisher publishes in a second.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::admission::limited_address;
use super::error::HttpError;

/// The allowance of a second, which a publisher that was silent for so long may use at once.
const SECOND: Duration = Duration::from_secs(1);

/// Above this number of publishers, those that have been silent for a second are forgotten. Each
/// takes 24 bytes.
const PUBLISHERS: usize = 10_000;

/// The limit, and what each publisher has used of it.
#[derive(Debug)]
pub(super) struct PublishRate {
    rate: NonZero<u32>,
    /// For each publisher, the time until which its allowance is used up.
    used_until: Mutex<HashMap<u64, Instant>>,
    hasher: RandomState,
}

impl PublishRate {
    /// Creates a limit of this many events a second.
    pub(super) fn new(rate: NonZero<u32>) -> Self {
        Self { rate, used_until: Mutex::default(), hasher: RandomState::new() }
    }

    /// Counts the events of a request, or fails with 429 if its publisher has used its allowance.
    ///
    /// A publisher is a token or, without one, an address. A batch is never split: a publisher that
    /// has any allowance left may send it, and then waits for longer.
    pub(super) fn count(
        &self,
        token: Option<&[u8]>,
        address: IpAddr,
        events: usize,
    ) -> Result<(), HttpError> {
        let publisher = self.publisher(token, address);
        self.charge(publisher, events, Instant::now()).map_err(|wait| {
            let rate = self.rate;
            let detail = format!(
                "this publisher has published {rate} events in a second (--publish-rate); retry \
                 after the time in Retry-After"
            );
            let seconds = wait.as_secs_f64().ceil().to_string();
            HttpError::new(429, detail).with("Retry-After", seconds)
        })
    }

    /// Returns the number by which a publisher is known.
    pub(super) fn publisher(&self, token: Option<&[u8]>, address: IpAddr) -> u64 {
        match token {
            Some(token) => self.hasher.hash_one(token),
            None => self.hasher.hash_one(limited_address(address)),
        }
    }

    /// Counts one event, or returns how long its publisher must wait.
    pub(super) fn count_one(&self, publisher: u64) -> Result<(), Duration> {
        self.charge(publisher, 1, Instant::now())
    }

    /// Charges a publisher, or returns how long it must wait until it may publish an event.
    fn charge(&self, publisher: u64, events: usize, now: Instant) -> Result<(), Duration> {
        let each = SECOND / self.rate.get();
        let mut used_until = self.used_until.lock().unwrap_or_else(PoisonError::into_inner);
        if used_until.len() >= PUBLISHERS {
            used_until.retain(|_, until| *until > now);
        }
        let until = used_until.entry(publisher).or_insert(now);
        let start = (*until).max(now);
        let left = SECOND.saturating_sub(start - now);
        if left < each {
            return Err(each.saturating_sub(left) + (start - now).saturating_sub(SECOND));
        }
        *until = start + each.saturating_mul(u32::try_from(events).unwrap_or(u32::MAX));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(rate: u32) -> PublishRate {
        PublishRate::new(NonZero::new(rate).unwrap())
    }

    #[test]
    fn silent_second_allows_a_second_of_events_and_then_one_at_a_time() {
        let (limit, now) = (limit(10), Instant::now());
        assert_eq!((0..20).filter(|_| limit.charge(1, 1, now).is_ok()).count(), 10);
        assert_eq!(limit.charge(1, 1, now), Err(Duration::from_millis(100)));
        assert_eq!(limit.charge(2, 1, now), Ok(()), "another publisher has its own allowance");
        let later = now + Duration::from_millis(100);
        assert_eq!(limit.charge(1, 1, later), Ok(()));
        assert_eq!(limit.charge(1, 1, later), Err(Duration::from_millis(100)));
    }

    #[test]
    fn batch_is_not_split_but_paid_for() {
        let (limit, now) = (limit(10), Instant::now());
        assert_eq!(limit.charge(1, 30, now), Ok(()));
        assert_eq!(limit.charge(1, 1, now), Err(Duration::from_millis(2_100)));
        assert_eq!(limit.charge(1, 1, now + Duration::from_millis(2_100)), Ok(()));
    }

    #[test]
    fn silent_publishers_are_forgotten() {
        let (limit, now) = (limit(10), Instant::now());
        (0..PUBLISHERS as u64).for_each(|publisher| limit.charge(publisher, 1, now).unwrap());
        limit.charge(u64::MAX, 1, now + SECOND).unwrap();
        assert_eq!(limit.used_until.lock().unwrap().len(), 1);
    }
}
