//! Each test simulates one attack by a hostile client over the network.
//!
//! `docs/security.md` lists the guarantees that these tests check.

mod capacity;
mod connections;
mod files;
mod lists;
mod local;
mod logs;
mod parsers;
mod patterns;
mod presence;
mod private;
mod signals;
mod subscriptions;
