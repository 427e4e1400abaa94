//! A load generator for Server-Sent Events servers, and a meter for what a server costs.
//!
//! ```text
//!   one core                          another core
//!   a server, a process of its own ◀─ sockets ─▶ load: N clients, one thread
//!        ▲                                         counts, lost events, latencies
//!        └────────────── procfs: CPU, memory, context switches
//! ```
//!
//! Both measure from outside, and use no figures that a server reports about itself: [`load`]
//! counts the events that arrived, and [`procfs`] asks the kernel which resources the server used.
//!
//! Read the modules in this order: [`load`] opens clients and counts what they receive. [`process`]
//! starts and stops a server on a core of its own, and [`tick`] computes the events that a server
//! publishes. [`procfs`] measures, and [`meter`] computes costs from the measurements.

pub mod figures;
pub mod load;
pub mod machine;
pub mod meter;
pub mod process;
pub mod procfs;
pub mod tick;
