//! Debug builds check that no pattern is matched while a registry is locked.
//!
//! A client chooses its patterns, and so how long a match takes. If a match ran under the
//! registry's lock, all threads that need this lock would wait for it.

#[cfg(debug_assertions)]
use std::cell::Cell;

#[cfg(debug_assertions)]
thread_local! {
    /// The number of registries that this thread has locked.
    static LOCKED: Cell<usize> = const { Cell::new(0) };
}

/// Marks this thread as holding a registry's lock, until this value is dropped.
#[derive(Debug)]
pub(crate) struct Locked(());

impl Locked {
    pub(crate) fn new() -> Self {
        #[cfg(debug_assertions)]
        LOCKED.with(|locked| locked.set(locked.get() + 1));
        Self(())
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        LOCKED.with(|locked| locked.set(locked.get() - 1));
    }
}

/// Panics in debug builds if this thread holds a registry's lock.
pub(super) fn check() {
    #[cfg(debug_assertions)]
    assert_eq!(LOCKED.with(Cell::get), 0, "a pattern is matched under the registry's lock");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::Matcher;

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "under the registry's lock"))]
    fn matching_a_pattern_under_the_lock_panics() {
        let pattern = Matcher::selector("/a/{b}").unwrap();
        assert!(pattern.matches("/a/b"));
        let _locked = Locked::new();
        assert!(Matcher::exact("/a/b").unwrap().matches("/a/b"), "an exact topic is allowed");
        let _ = pattern.matches("/a/b");
    }
}
