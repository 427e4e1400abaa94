//! The lab: measures, from outside, what a stream client and an event cost.
//!
//! ```text
//!   one core                          another core
//!   a server, a process of its own ◀─ sockets ─▶ load: N clients, one thread
//!        ▲                                         counts, lost events, latencies
//!        └────────────── procfs: CPU, memory, context switches
//! ```
//!
//! The lab uses no figures that a server reports about itself: [`load`] counts the events that
//! arrived, and [`procfs`] asks the kernel which resources the server used. The lab is a library
//! and prints nothing.
//!
//! Read the modules in this order: [`engine`] defines the servers that are measured, [`process`]
//! starts and stops them, and [`tick`] computes the events that they publish. [`load`] and
//! [`procfs`] measure, and [`meter`] computes costs from the measurements.

pub mod engine;
pub mod experiment;
pub mod figures;
pub mod load;
pub mod load_clients;
pub mod machine;
pub mod meter;
pub mod plan;
pub mod process;
pub mod procfs;
pub mod report;
pub mod results;
mod run;
pub mod tick;

pub use plan::{LabError, Options, Pace};
pub use run::{Progress, run};
