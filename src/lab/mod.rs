//! The lab: measures, from outside, what a stream client and an event cost.
//!
//! ```text
//!   one core                          another core
//!   a server, a process of its own ◀─ sockets ─▶ load: N clients, one thread
//!        ▲                                         counts, lost events, latencies
//!        └────────────── procfs: CPU, memory, context switches
//! ```
//!
//! No server's own figures are used: [`load`] counts what arrived, and [`procfs`] reads from the
//! kernel what it cost. The lab is a library and prints nothing.
//!
//! Reading order: [`engine`] is what is measured, [`process`] how it runs, [`tick`] what it
//! publishes; [`load`], [`procfs`] and [`meter`] are the instruments.

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
