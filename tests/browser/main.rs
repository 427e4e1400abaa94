//! The pages, `client.js` and `EventSource` in Chromium and Firefox.
//!
//! This is one test program, so that the pages are tabs of one Chromium. The tests run in
//! parallel, because they mostly wait. They start in the order of their names, so `day`, which takes
//! the longest, is not in `page`.

mod client_js;
#[path = "../common/mod.rs"]
mod common;
mod cuts;
mod day;
mod driver;
mod page;
mod picture;
mod screenshots;
mod vectors;

use std::sync::{Mutex, MutexGuard, PoisonError};

use self::common::{Answer, skip_here};

/// Waits for the turn of a test that keeps the machine busy, or that measures how long something takes.
/// Such tests run one after the other, because two at a time would measure each other.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the turn to open a thousand clients on the server with this status. If the machine does not
/// hold them, prints a message and returns `None`.
fn turn_for_1_000_clients(status: &Answer) -> Option<MutexGuard<'static, ()>> {
    if status.json()["max_clients"].as_u64() < Some(1_010) {
        skip_here("this machine does not hold a thousand clients");
        return None;
    }
    Some(turn())
}
