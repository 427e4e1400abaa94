//! Reads and writes streams of the Durable Streams protocol.
//!
//! ```text
//!  GET URL?offset=… ──▶ bytes so far ──▶ GET URL?offset=…&live=sse ──▶ bytes as they come ──▶ stdout
//!  stdin ──▶ PUT URL, POST URL …, each with the number of the request
//! ```
//!
//! This module uses only the protocol, so it works with any server that implements it.

mod reader;
mod url;
mod writer;

pub(crate) use self::reader::{ReadOptions, StreamReader};
pub(crate) use self::url::StreamUrl;
pub(crate) use self::writer::{StreamWriter, WriteOptions};
