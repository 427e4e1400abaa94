//! A histogram of durations.

use std::time::Duration;

/// The number of significant decimal digits of a quantile: it differs from the true value by less
/// than 1 %.
const DIGITS: u8 = 2;

/// The longest duration that the histogram distinguishes; longer ones count as this long.
const LONGEST: Duration = Duration::from_secs(3_600);

/// A histogram of durations with quantiles.
///
/// ```
/// use std::time::Duration;
/// use sse_load::load::Histogram;
///
/// let mut latency = Histogram::default();
/// latency.record(Duration::from_millis(1), 99);
/// latency.record(Duration::from_millis(50), 1);
/// assert_eq!(latency.count(), 100);
/// assert!(latency.quantile(0.5) < Some(Duration::from_millis(2)));
/// assert_eq!(latency.max(), Duration::from_millis(50));
/// ```
#[derive(Debug, Clone)]
pub struct Histogram {
    nanos: hdrhistogram::Histogram<u64>,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        let nanos = hdrhistogram::Histogram::new_with_max(nanos(LONGEST), DIGITS);
        Self { nanos: nanos.expect("the bounds are valid"), max: Duration::ZERO }
    }
}

impl Histogram {
    /// Counts `duration` as if it had been recorded `weight` times.
    pub fn record(&mut self, duration: Duration, weight: u64) {
        if weight > 0 {
            self.nanos.saturating_record_n(nanos(duration), weight);
            self.max = self.max.max(duration);
        }
    }

    /// Returns the duration that a share `q` of all durations did not exceed. For `q` = 0.5 it is
    /// the median. `None` means that nothing was recorded.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let found = Duration::from_nanos(self.nanos.value_at_quantile(q));
        (self.count() > 0).then(|| found.min(self.max))
    }

    /// Returns the exact longest duration; zero if nothing was recorded.
    #[must_use]
    pub fn max(&self) -> Duration {
        self.max
    }

    /// Returns the number of recorded durations: the sum of their weights.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.nanos.len()
    }

    /// Removes all recorded durations.
    pub(super) fn clear(&mut self) {
        self.nanos.reset();
        self.max = Duration::ZERO;
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_count_weights() {
        let mut latency = Histogram::default();
        latency.record(Duration::from_millis(1), 98);
        latency.record(Duration::from_millis(50), 1);
        latency.record(Duration::from_millis(70), 1);
        let close = |q: f64, millis: u64| {
            let found = latency.quantile(q).expect("it is not empty").as_micros();
            assert!((u128::from(millis * 1000)..=u128::from(millis * 1010)).contains(&found));
        };
        close(0.5, 1);
        close(0.98, 1);
        close(0.99, 50);
        assert_eq!(latency.quantile(1.0), Some(Duration::from_millis(70)), "never above the max");
        assert_eq!(latency.count(), 100);
    }

    #[test]
    fn longest_duration_is_exact() {
        let mut latency = Histogram::default();
        latency.record(2 * LONGEST, 1);
        assert_eq!(latency.max(), 2 * LONGEST);
        assert!(latency.quantile(0.5) >= Some(LONGEST));
        latency.clear();
        assert_eq!((latency.count(), latency.max()), (0, Duration::ZERO));
    }

    #[test]
    fn empty_histogram_has_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
    }
}
