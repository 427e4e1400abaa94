//! The HTTP server: listeners, connections, requests and responses.
//!
//! Apart from the demo streams, only this module handles HTTP requests. Its files import each other
//! in one direction, in this order:
//!
//! 1. `server` (bind, run, stop), `listener` (accept, spawn), `connection` (read, respond, repeat)
//! 2. `routes`: the table of routes, and the handler of each
//! 3. the handlers: `channels`, `history`, `ingest`, `streams`, `websocket`, `session`, `status`,
//!    `mercure`, `durable`
//! 4. what a handler sees: `exchange`, `handle` and `access`; what it returns: `reply`
//! 5. `server_state`, `config`, `hooks`, and the parts of a request and a response
//!
//! `extension` lists what an embedding program uses to add routes. The `threadcast` program also uses
//! `hooks`, to follow the streams.

pub(crate) mod access;
mod admission;
mod answer;
mod assets;
mod bind;
pub(crate) mod body;
mod channels;
mod conditional;
mod config;
mod connection;
mod connections;
mod cors;
#[cfg(feature = "durable-streams")]
mod durable;
#[cfg(not(feature = "durable-streams"))]
#[path = "durable/absent.rs"]
mod durable;
pub(crate) mod error;
mod exchange;
pub mod extension;
pub(crate) mod forwarded;
mod handle;
mod history;
pub(crate) mod hooks;
mod idle;
mod inbound;
mod ingest;
mod keyring;
mod listener;
mod log_limit;
#[cfg(feature = "mercure")]
pub(crate) mod mercure;
#[cfg(not(feature = "mercure"))]
#[path = "mercure/absent.rs"]
mod mercure;
mod metrics;
mod peer;
pub(crate) mod publish;
mod publish_rate;
mod reply;
pub(crate) mod request;
pub(crate) mod route;
mod routes;
mod server;
mod server_state;
mod session;
mod status;
mod store_threads;
mod streams;
mod trace;
#[cfg(feature = "demo")]
pub(crate) mod websocket;

pub use self::config::{Config, CorsOrigins, Mercure, UnixSocket};
pub use self::handle::Handle;
pub use self::keyring::AccessKeys;
pub use self::server::Server;
