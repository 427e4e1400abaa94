//! What the load opens.

use std::net::SocketAddr;
use std::time::Duration;

/// The clients that a load opens.
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
    /// How many more clients request the stream and then read nothing.
    pub stuck: usize,
    /// How many connections may be without a response at a time. Above the server's listen backlog
    /// (128 in Rust's `TcpListener`, 511 in Node and nginx) the kernel drops connection attempts,
    /// and a retry takes a second.
    pub in_flight: usize,
    /// How long to wait for the next response. Each acceptance and each rejection restarts the
    /// wait, so that a slow machine delays the opening but does not end it early.
    pub timeout: Duration,
}

impl Plan {
    /// One reading client, 100 connections in flight, a timeout of 30 s.
    #[must_use]
    pub fn new(server: SocketAddr, path: &str) -> Self {
        let timeout = Duration::from_secs(30);
        Self { server, path: path.to_owned(), clients: 1, stuck: 0, in_flight: 100, timeout }
    }
}
