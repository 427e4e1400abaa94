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
