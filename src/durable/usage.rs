//! The room that all streams together take, in memory or in a file, and its limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts something up to a limit.
#[derive(Debug)]
pub(super) struct Usage {
    used: AtomicUsize,
    limit: usize,
}

/// The error for a reservation above the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FullError;

impl Usage {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    /// Reserves `amount` until the reservation is dropped.
    pub(super) fn reserve(self: &Arc<Self>, amount: usize) -> Result<Reserved, FullError> {
        let mut reserved = self.none();
        reserved.grow(amount)?;
        Ok(reserved)
    }

    /// Returns an empty reservation.
    pub(super) fn none(self: &Arc<Self>) -> Reserved {
        Reserved { usage: Arc::clone(self), amount: 0 }
    }

    /// Returns how much is reserved, and the limit.
    pub(super) fn used_of(&self) -> (usize, usize) {
        (self.used.load(Ordering::Relaxed), self.limit)
    }
}

/// A reserved amount. Dropping it releases the amount.
#[derive(Debug)]
pub(crate) struct Reserved {
    usage: Arc<Usage>,
    amount: usize,
}

impl Reserved {
    pub(super) fn amount(&self) -> usize {
        self.amount
    }

    /// Reserves `more`.
    pub(crate) fn grow(&mut self, more: usize) -> Result<(), FullError> {
        let Usage { used, limit } = &*self.usage;
        let grown = |used: usize| used.checked_add(more).filter(|sum| sum <= limit);
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).map_err(|_| FullError)?;
        self.amount += more;
        Ok(())
    }

    /// Reserves `more`, even above the limit.
    pub(super) fn grow_anyway(&mut self, more: usize) {
        self.usage.used.fetch_add(more, Ordering::Relaxed);
        self.amount += more;
    }

    /// Adds what another reservation of the same kind has reserved.
    pub(super) fn absorb(&mut self, mut other: Self) {
        self.amount += std::mem::take(&mut other.amount);
    }

    /// Releases everything.
    pub(super) fn release(&mut self) {
        self.usage.used.fetch_sub(std::mem::take(&mut self.amount), Ordering::Relaxed);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_stop_at_the_limit_and_are_released() {
        let usage = Usage::new(10);
        let mut one = usage.reserve(4).unwrap();
        assert!(usage.reserve(7).is_err());
        one.grow(6).unwrap();
        assert!(one.grow(1).is_err() && one.grow(usize::MAX).is_err());
        assert_eq!(usage.used_of(), (10, 10));
        drop(one);
        assert_eq!(usage.used_of(), (0, 10));
    }

    #[test]
    fn absorbed_and_forced_reservations_are_released_once() {
        let usage = Usage::new(10);
        let mut one = usage.reserve(4).unwrap();
        one.absorb(usage.reserve(3).unwrap());
        assert_eq!((one.amount(), usage.used_of()), (7, (7, 10)));
        one.grow_anyway(8);
        assert!(one.grow(1).is_err());
        one.release();
        assert_eq!((one.amount(), usage.used_of()), (0, (0, 10)));
        drop(one);
        assert_eq!(usage.used_of(), (0, 10));
    }
}
