//! A histogram of latencies. It counts durations in buckets, so the cost of a quantile does not
//! grow with the number of durations.

use std::time::Duration;

/// The number of buckets between a value and its double. With this number, a quantile exceeds the
/// true value by at most 1/64 (1.6 %).
const FINENESS: u64 = 64;
const FINENESS_BITS: u32 = FINENESS.ilog2();

/// A histogram of durations with quantiles.
///
/// ```
/// use std::time::Duration;
/// use threadcast::lab::load::Histogram;
///
/// let mut latency = Histogram::default();
/// latency.record(Duration::from_millis(1), 99);
/// latency.record(Duration::from_millis(50), 1);
/// assert_eq!(latency.count(), 100);
/// assert!(latency.quantile(0.5) < Some(Duration::from_millis(2)));
/// assert_eq!(latency.max(), Duration::from_millis(50));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    /// The number of durations in each bucket. The vector ends with the bucket of the largest
    /// duration recorded; two hours need 2,400 buckets.
    buckets: Vec<u64>,
    total: u64,
    max: Duration,
}

impl Histogram {
    /// Counts `duration` as if it had been recorded `weight` times.
    pub fn record(&mut self, duration: Duration, weight: u64) {
        if weight == 0 {
            return;
        }
        let bucket = bucket(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += weight;
        self.total += weight;
        self.max = self.max.max(duration);
    }

    /// Returns the duration that a share `q` of all durations did not exceed. For `q` = 0.5 it is
    /// the median. `None` means that nothing was recorded.
    #[must_use]
    // The counts are far below 2^52.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let rank = ((self.total as f64 * q).ceil() as u64).max(1);
        let mut below = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= rank {
                return Some(Duration::from_nanos(upper_bound(bucket)).min(self.max));
            }
        }
        None
    }

    /// Returns the exact longest duration; zero if nothing was recorded.
    #[must_use]
    pub fn max(&self) -> Duration {
        self.max
    }

    /// Returns the number of recorded durations: the sum of their weights.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.total
    }
}

/// Returns the bucket of a value. Each value below 128 has a bucket of its own; above, there are 64
/// buckets between a value and its double.
fn bucket(nanos: u64) -> usize {
    let shift = (nanos | FINENESS).ilog2() - FINENESS_BITS;
    usize::try_from(u64::from(shift) * FINENESS + (nanos >> shift)).expect("at most 64 × 64")
}

/// Returns the largest value that belongs to `bucket`.
fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / FINENESS).saturating_sub(1);
    let value = bucket - shift * FINENESS;
    (((u128::from(value) + 1) << shift) - 1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_bound_is_at_most_a_64th_above_the_value() {
        for nanos in (0..200).chain((6..63).map(|bits| 1 << bits)).chain([12_345_678, u64::MAX]) {
            let bound = upper_bound(bucket(nanos));
            assert!(bound >= nanos, "{nanos} is above its bound {bound}");
            assert!(bound - nanos <= nanos / FINENESS, "{nanos} is far below its bound {bound}");
        }
    }

    #[test]
    fn buckets_are_contiguous() {
        for bucket_index in 0..3_000 {
            assert_eq!(bucket(upper_bound(bucket_index)), bucket_index);
            assert_eq!(bucket(upper_bound(bucket_index) + 1), bucket_index + 1);
        }
    }

    #[test]
    fn quantiles_count_weights() {
        let mut latency = Histogram::default();
        latency.record(Duration::from_millis(1), 98);
        latency.record(Duration::from_millis(50), 1);
        latency.record(Duration::from_millis(70), 1);
        let close = |q: f64, millis: u64| {
            let found = latency.quantile(q).expect("it is not empty").as_micros();
            assert!((u128::from(millis * 1000)..=u128::from(millis * 1016)).contains(&found));
        };
        close(0.5, 1);
        close(0.98, 1);
        close(0.99, 50);
        assert_eq!(latency.quantile(1.0), Some(Duration::from_millis(70)), "never above the max");
        assert_eq!(latency.count(), 100);
    }

    #[test]
    fn empty_histogram_has_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
    }
}
