//! Tests over the socket and of the binary, as one program: linking takes longer than most tests.
//!
//! Tests run in parallel in one process. So a test here must not change what the process shares:
//! its environment, its working directory, its logger or its limits. A test with such a need
//! starts the binary with [`common::Process`], or stands in a program of its own.
//!
//! The other programs: `browser` (Chromium and Firefox), `cluster` (Redis), `lab`, `load` (many
//! clients, and measured times), `stack`, and `slow` (what `make` runs by itself).

mod access;
mod bodies;
mod chaos;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod connections;
mod delivery;
mod demo;
mod docs;
mod drain;
mod durable;
mod ended;
mod examples;
mod hardening;
mod history;
mod ingest;
mod jwks;
mod jwts;
mod limits;
mod load;
mod manual;
mod mercure;
mod mercure_client;
mod monitoring;
mod package;
mod pages;
mod publishing;
mod reload;
mod replay;
mod requests;
mod store;
mod streams;
mod switches;
mod tidy;
mod tokens;
mod unix;
mod webhooks;
mod websocket;
mod wire;
