//! What the Mercure protocol adds to the hub: its matchers, and the tokens that list rights.
//!
//! The routes of the protocol are in `http::mercure`. The server's own routes accept the same
//! tokens.

pub mod jwt;
pub(crate) mod matcher;
