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
//! servers that are measured, [`experiment`] the questions, and [`measure`] how each
//! question is measured.

pub(crate) mod engine;
pub(crate) mod experiment;
pub(crate) mod load_clients;
mod measure;
mod plan;
pub(crate) mod report;
pub(crate) mod results;
mod run;

pub(crate) use self::plan::{LabError, Options};
pub(crate) use self::run::{Progress, run};
