//! The measured trade-off: what a stream client and an event cost, seen from outside.
//!
//! ```text
//!   one core                          another core
//!   a server, a process of its own ◀─ sockets ─▶ load: N clients, one thread
//!        ▲                                         counts, losses, latencies
//!        └────────────── procfs: CPU, memory, context switches
//! ```
//!
//! Nothing here trusts a server's own figures: [`load`] counts what arrived, and [`procfs`] asks the
//! kernel what it cost. All of it is a library, which prints nothing.
//!
//! Reading order: [`engine`] is what is measured, [`process`] where it runs, [`tick`] what it sends;
//! [`load`], [`procfs`] and [`meter`] are the instruments.

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
