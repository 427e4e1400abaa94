//! Catches an expected panic, and writes the panic's message to the debug log instead of standard
//! error.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside [`catch_panic`].
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Returns the result of `function`, or `None` if it panics.
///
/// After a panic, the caller must not use the values that `function` has borrowed.
///
/// The process has a single panic hook. The first call of this function replaces that hook. The new
/// hook logs panics inside this function, and passes all other panics on to the old hook.
pub(super) fn catch_panic<T>(function: impl FnOnce() -> T) -> Option<T> {
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
    fn a_panic_is_expected_only_inside() {
        assert_eq!(catch_panic(|| EXPECTED.get()), Some(true));
        assert_eq!(catch_panic(|| panic!("an expected panic")), None::<()>);
        assert!(!EXPECTED.get(), "later panics of this thread are reported");
        let elsewhere = catch_panic(|| std::thread::spawn(|| EXPECTED.get()).join());
        assert!(matches!(elsewhere, Some(Ok(false))), "a panic of another thread is not expected");
    }
}
