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

use self::common::{Answer, skip_here};

/// Returns whether the server with this status can hold a thousand clients. If not, prints a message.
fn holds_1_000_clients(status: &Answer) -> bool {
    let holds = status.json()["max_clients"].as_u64() >= Some(1_010);
    if !holds {
        skip_here("this machine does not hold a thousand clients");
    }
    holds
}
