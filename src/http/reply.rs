//! What a handler returns.

use std::sync::Arc;

use socket2::Socket;

use super::answer::Answer;
use super::server_state::ServerState;

/// The reply to a request.
pub(super) enum Reply {
    /// A finite response, after which the connection can be reused.
    Answer(Answer),
    /// The head of a stream, as the response to HEAD.
    Head(Vec<u8>),
    /// A stream or a WebSocket, which is the connection's last response.
    Last(Box<dyn LastReply>),
}

/// A reply that uses the connection until its end.
pub(super) trait LastReply: Send {
    /// Returns whether a fresh thread must run this reply. `has_sent` says whether this thread has
    /// sent data.
    ///
    /// A thread keeps the memory that earlier requests have taken.
    fn needs_fresh_thread(&self, has_sent: bool, server: &ServerState) -> bool;

    /// Runs until the stream or the WebSocket ends. The caller closes the connection.
    ///
    /// `received` has the bytes that the client has sent after its request.
    fn run(self: Box<Self>, socket: &Arc<Socket>, received: Vec<u8>, server: &ServerState);
}
