//! What the program attaches to its server: functions through which it follows the streams and
//! reports its own state, and the thread that fetches keys.

use std::fmt;
use std::net::Shutdown;
use std::sync::Arc;

use serde_json::Value;
use socket2::Socket;

use super::request::first_value;
use crate::mercure::jwt::KeyRefresh;

/// What the program attaches to its server, besides the public configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attachments {
    /// Functions that the server calls when a stream starts, and when it drains.
    pub(crate) hooks: Vec<Arc<dyn Hooks>>,
    /// Whether a server that starts with [`Delivery::Wake`](crate::Delivery::Wake) can switch to
    /// [`Delivery::Direct`](crate::Delivery::Direct). Such a server has a broadcaster thread even
    /// while it does not need one.
    pub(crate) switchable_delivery: bool,
    /// Connects requests with a JWT of an unknown key to the thread that fetches key sets. Without
    /// it, such a request gets 401.
    pub(crate) key_refresh: Option<Arc<KeyRefresh>>,
}

/// Functions that the server calls when a stream starts, when its status or its metrics are read, and
/// when it drains.
///
/// A server has the hooks in [`Attachments`]. Each function has a default that does nothing. The
/// server calls them on its own threads: they must return quickly, and must not wait for a client.
pub(crate) trait Hooks: fmt::Debug + Send + Sync {
    /// Called when a stream or WebSocket starts, before its first byte is sent.
    ///
    /// The server drops the returned follower when the stream or WebSocket has ended, even if it
    /// ends by a panic. The thread of the stream has 64 KiB of stack and keeps every page of it
    /// that it has touched, so this function should need little.
    ///
    /// # Errors
    ///
    /// With [`Cut`], the server closes the connection without a response.
    fn opened(&self, opening: &Opening<'_>) -> Result<Option<Box<dyn Follower>>, Cut> {
        let _ = opening;
        Ok(None)
    }

    /// Returns a member of the JSON object of `GET /status`: its name and its value.
    fn status(&self) -> Option<(&'static str, Value)> {
        None
    }

    /// Returns metrics for `GET /metrics`.
    fn metrics(&self) -> Vec<Metric> {
        Vec::new()
    }

    /// Called once, when the drain starts.
    fn draining(&self) {}
}

/// A metric of a program, for `GET /metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Metric {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) is_counter: bool,
    pub(super) value: u64,
}

impl Metric {
    /// Creates a number that only increases. `/metrics` has it as `threadcast_NAME_total`.
    pub(crate) fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, is_counter: true, value }
    }

    /// Creates a number that may decrease. `/metrics` has it as `threadcast_NAME`.
    pub(crate) fn gauge(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, is_counter: false, value }
    }
}

/// Follows one stream or WebSocket, and is dropped when it has ended.
pub(crate) trait Follower: Send {
    /// Called when a stream ends, but not for a WebSocket.
    ///
    /// The reason is the label `reason` of the metric `threadcast_stream_ends_total`, such as
    /// `stuck` for a client that reads nothing.
    fn ended(&self, reason: &'static str) {
        let _ = reason;
    }
}

/// The connection of a stream or WebSocket that is about to start.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    socket: &'a Arc<Socket>,
    path: &'a str,
    query: &'a str,
}

impl Opening<'_> {
    /// Returns the connection, through which the stream can be cut.
    pub(crate) fn connection(&self) -> Connection {
        Connection(Arc::clone(self.socket))
    }

    /// Returns the path of the request, decoded and without its query.
    pub(crate) fn path(&self) -> &str {
        self.path
    }

    /// Returns the first value of a query parameter, decoded.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        first_value(self.query, name)
    }
}

/// The connection of a stream or WebSocket.
///
/// It stays open for as long as this value exists, so drop this value when the stream has ended.
#[derive(Debug, Clone)]
pub(crate) struct Connection(Arc<Socket>);

impl Connection {
    /// Cuts the stream, without the last chunk.
    pub(crate) fn cut(&self) {
        let _ = self.0.shutdown(Shutdown::Both); // fails only if the socket is not connected
    }
}

/// The error with which [`Hooks::opened`] cuts a stream before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut;

/// Calls all hooks for a stream that starts, and returns their followers.
///
/// Shuts the socket down if one of the hooks cuts the stream.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(super) fn open(
    hooks: &[Arc<dyn Hooks>],
    socket: &Arc<Socket>,
    path: &str,
    query: Option<&str>,
) -> Result<Vec<Box<dyn Follower>>, Cut> {
    let opening = Opening { socket, path, query: query.unwrap_or_default() };
    let followers = hooks.iter().filter_map(|hooks| hooks.opened(&opening).transpose());
    followers.collect::<Result<_, _>>().inspect_err(|Cut| {
        let _ = socket.shutdown(Shutdown::Both); // fails only if the socket is not connected
    })
}
