//! What a hostile client tries, through the socket: each test is one attack and the
//! promise that stands against it. `docs/security.md` lists the promises.

#[path = "../common/mod.rs"]
mod common;

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
