//! The lab: measures, from outside, what a stream client and an event cost.
//!
//! ```text
//!   one core                          another core
//!   a server, a process of its own ◀─ sockets ─▶ load: N clients, one thread
//!        ▲                                         counts, lost events, latencies
//!        └────────────── /proc: CPU, memory, context switches
//! ```
//!
//! The load generator and the meter are in the crate `sse-load`. Here, [`engine`] defines the
//! servers that are measured, and [`experiment`] how each question is measured.

pub mod engine;
pub mod experiment;
pub mod load_clients;
pub mod plan;
pub mod report;
pub mod results;
mod run;

pub use plan::{LabError, Options, Pace};
pub use run::{Progress, run};
