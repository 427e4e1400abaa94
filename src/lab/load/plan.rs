//! What the load is to open.

use std::net::SocketAddr;
use std::time::Duration;

/// What to open.
///
/// ```
/// use threadcast::lab::load::Plan;
///
/// let server = "127.0.0.1:8844".parse()?;
/// let plan = Plan { clients: 1_000, stuck: 10, ..Plan::new(server, "/channels/bench") };
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server, on a loopback address.
    pub server: SocketAddr,
    /// The stream's path.
    pub path: String,
    /// How many clients read.
    pub clients: usize,
    /// How many more ask for the stream and then read nothing.
    pub stuck: usize,
    /// How many connections may be without an answer at a time. Above a server's listen backlog
    /// (128 in Rust's `TcpListener`, 511 in Node and nginx) the kernel drops connection attempts,
    /// and a retry takes a second.
    pub in_flight: usize,
    /// How long to wait for the next answer. Each answer and each refusal starts the wait again, so
    /// that a slow machine delays the opening and does not cut it short.
    pub patience: Duration,
}

impl Plan {
    /// One reading client, 100 connections in flight, half a minute of patience.
    #[must_use]
    pub fn new(server: SocketAddr, path: &str) -> Self {
        let patience = Duration::from_secs(30);
        Self { server, path: path.to_owned(), clients: 1, stuck: 0, in_flight: 100, patience }
    }
}
