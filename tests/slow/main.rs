//! Tests that a `make` target runs: they take minutes, or need programs that `make` installs.
//!
//! A plain `cargo test` runs only those of the proxies, and that of durable streams for ten seconds.

mod clients;
#[path = "../common/mod.rs"]
mod common;
mod durable;
mod proxies;
mod soak;
mod vanishing;
