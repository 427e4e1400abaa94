//! Which tests run at the same time: most beside each other, and a test that measures a time alone.
//!
//! A page that is open takes part of the machine. So a test that measures waits until no other test has
//! a page open, and no other test opens one meanwhile. No test waits for a measurement to begin, so
//! measurements mostly run at the end.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

/// The tests that have a page open.
struct Turns {
    beside: usize,
    is_alone: bool,
}

static TURNS: Mutex<Turns> = Mutex::new(Turns { beside: 0, is_alone: false });
static CHANGED: Condvar = Condvar::new();

thread_local! {
    /// The turn of this thread's test. Its pages share it.
    static OWN: RefCell<Weak<Beside>> = const { RefCell::new(Weak::new()) };
    static IS_ALONE: Cell<bool> = const { Cell::new(false) };
}

/// A turn beside other tests.
pub struct Beside(());

/// A turn without other tests.
pub struct Alone(());

fn turns() -> MutexGuard<'static, Turns> {
    TURNS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait_while(condition: impl FnMut(&mut Turns) -> bool) -> MutexGuard<'static, Turns> {
    CHANGED.wait_while(turns(), condition).unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no test runs alone. Returns `None` if this test does.
pub fn beside() -> Option<Arc<Beside>> {
    if IS_ALONE.get() {
        return None;
    }
    let turn = OWN.with_borrow(Weak::upgrade).unwrap_or_else(|| {
        wait_while(|turns| turns.is_alone).beside += 1;
        Arc::new(Beside(()))
    });
    OWN.set(Arc::downgrade(&turn));
    Some(turn)
}

/// Waits until no other test has a page open. Until the turn is dropped, none opens one.
pub fn alone() -> Alone {
    wait_while(|turns| turns.is_alone || turns.beside > 0).is_alone = true;
    IS_ALONE.set(true);
    Alone(())
}

impl Drop for Beside {
    fn drop(&mut self) {
        turns().beside -= 1;
        CHANGED.notify_all();
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        IS_ALONE.set(false);
        turns().is_alone = false;
        CHANGED.notify_all();
    }
}
