//! The pages in a real browser.
//!
//! This is one test program, so that all tests are tabs of one browser. They run in parallel,
//! because they mostly wait.

#[path = "../browser/mod.rs"]
mod browser;
#[path = "../common/mod.rs"]
mod common;

mod break_it;
mod day;
mod everybody;
mod live;
mod origins;
mod panels;
