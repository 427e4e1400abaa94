//! A panic that is caught, and of which the log is told and not the terminal.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread is expected.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// What the function gives, or nothing if it panics. What it had borrowed must not be
/// used after that.
///
/// The process has one panic hook: ours goes before whatever is there, once, and
/// lets pass what any other thread says, and this one before and after.
pub(super) fn unless_it_panics<T>(function: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |panic| match EXPECTED.try_with(Cell::get) {
            Ok(true) => log::debug!("{panic}"),
            _ => hook(panic),
        }));
    });
    let before = EXPECTED.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(function));
    EXPECTED.set(before);
    outcome.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_expected_inside_alone() {
        assert_eq!(unless_it_panics(|| EXPECTED.get()), Some(true));
        assert_eq!(unless_it_panics(|| panic!("of one that is expected")), None::<()>);
        assert!(!EXPECTED.get(), "what this thread says from here on is heard");
        let elsewhere = unless_it_panics(|| std::thread::spawn(|| EXPECTED.get()).join());
        assert!(matches!(elsewhere, Some(Ok(false))), "it was expected of another thread");
    }
}
