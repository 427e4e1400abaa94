//! The pages in a real browser. One program, so that its tests are tabs of one browser and wait side by
//! side: most of what a page's test does is to wait.

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
