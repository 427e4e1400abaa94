//! The options of the load generator.

use std::net::SocketAddr;
use std::time::Duration;

/// The clients that the load generator opens.
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
    /// The server's address, which must be a loopback address.
    pub server: SocketAddr,
    /// The stream's path.
    pub path: String,
    /// The number of clients that read the stream.
    pub clients: usize,
    /// The number of additional clients, which request the stream and then read nothing.
    pub stuck: usize,
    /// The maximum number of connections that wait for a response at a time. If it exceeds the
    /// server's listen backlog (128 in Rust's `TcpListener`, 511 in Node and nginx), the kernel
    /// drops connection attempts and retries them a second later.
    pub in_flight: usize,
    /// The maximum time to wait for the next response. Each accepted or rejected client restarts
    /// this time, so that a slow machine delays the opening of the clients but does not end it
    /// early.
    pub timeout: Duration,
}

impl Plan {
    /// Returns a plan with one client that reads, at most 100 connections waiting for a response,
    /// and a timeout of 30 s.
    #[must_use]
    pub fn new(server: SocketAddr, path: &str) -> Self {
        let timeout = Duration::from_secs(30);
        Self { server, path: path.to_owned(), clients: 1, stuck: 0, in_flight: 100, timeout }
    }
}
