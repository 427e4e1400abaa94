//! The client side: a listener and a publisher.
//!
//! ```text
//!  GET /channels/NAME ──▶ bytes ──▶ Decoder ──▶ Listener ──▶ stdout
//!  stdin ──▶ Lines ──▶ batch ──▶ Publisher ──▶ POST /channels/NAME
//! ```
//!
//! This module uses only the HTTP interface, so [`Listener`] and [`Publisher`] work with any server
//! that implements this interface.

mod durable;
mod error;
mod health;
pub(crate) mod http;
mod lines;
mod listen;
mod publish;
mod retry;

pub(crate) use self::durable::{ReadOptions, StreamReader, StreamUrl, StreamWriter, WriteOptions};
pub use self::error::ClientError;
pub(crate) use self::health::{check_health, check_unix_health};
pub use self::http::ServerUrl;
pub use self::listen::{ListenOptions, Listener};
pub use self::publish::{OnError, Publication, PublishOptions, Publisher};
pub use self::retry::StopHandle;
pub use crate::decoder::{DecodeError, DecodedEvent, Decoder};
