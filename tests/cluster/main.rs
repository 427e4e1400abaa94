//! Nodes that share a Redis.

mod away;
#[path = "../common/mod.rs"]
mod common;
mod dedup;
mod ended;
mod killed;
mod presence;
mod reaching;
mod server;
mod sharing;
mod topics;
