//! Debug builds check that no pattern is matched while a registry is locked: a pattern's
//! cost is set by the client that sent it, and all other threads wait for that lock.

#[cfg(debug_assertions)]
use std::cell::Cell;

#[cfg(debug_assertions)]
thread_local! {
    /// How many registries this thread has locked.
    static LOCKED: Cell<usize> = const { Cell::new(0) };
}

/// Says that this thread holds a registry's lock, until it is dropped.
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
    fn a_pattern_matched_under_the_lock_is_found_out() {
        let pattern = Matcher::selector("/a/{b}").unwrap();
        assert!(pattern.matches("/a/b"));
        let _locked = Locked::new();
        assert!(Matcher::exact("/a/b").unwrap().matches("/a/b"), "a name costs nothing");
        let _ = pattern.matches("/a/b");
    }
}
