//! The lab: its HTTP actions, its live view, and complete runs of `threadcast lab`.

mod actions;
#[path = "../common/mod.rs"]
mod common;
mod engines;
mod live;
mod runs;
