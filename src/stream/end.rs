//! How a stream ends, and what it has carried until then.

use std::fmt;
use std::io;

use crate::counters::Counters;

/// Why a stream ended.
#[derive(Debug)]
pub(crate) enum End {
    /// A finite stream has sent all its events, or all channels of the stream have ended.
    Finished,
    /// The server is draining.
    Closed,
    /// The stream has reached the age limit.
    Aged,
    /// The token that the stream was opened with has expired.
    Expired,
    /// The token or key that the stream was opened with has been withdrawn.
    Withdrawn,
    /// The client's socket accepted no byte for the write deadline.
    Stuck,
    /// The client was so slow that its next event had left the history.
    FellBehind,
    /// The client has disconnected.
    Disconnected(io::Error),
}

impl End {
    /// The reason as a label for the counters.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Closed => "drained",
            Self::Aged => "aged",
            Self::Expired => "expired",
            Self::Withdrawn => "withdrawn",
            Self::Stuck => "stuck",
            Self::FellBehind => "fell_behind",
            Self::Disconnected(_) => "left",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Closed => f.write_str("server draining"),
            Self::Aged => f.write_str("reached the age limit"),
            Self::Expired => f.write_str("token expired"),
            Self::Withdrawn => f.write_str("token or key withdrawn"),
            Self::Stuck => f.write_str("write deadline exceeded: the client accepted no data"),
            Self::FellBehind => f.write_str("client too slow: its next event has left the history"),
            Self::Disconnected(error) => write!(f, "client disconnected: {error}"),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // A blocking write returns one of these kinds when the write deadline passes.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Stuck,
            _ => Self::Disconnected(error),
        }
    }
}

/// How many events and bytes a stream has carried.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct StreamCounts {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

impl StreamCounts {
    /// Adds what was counted since `before` to the server's counters.
    pub(crate) fn count_since(self, before: Self, counters: &Counters) {
        counters.delivered.inc_by(self.events - before.events);
        counters.sent_bytes.inc_by(self.bytes - before.bytes);
    }
}

/// The error for a disconnect that the watcher or `poll` has detected.
pub(crate) fn disconnect_error() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "connection closed by the peer")
}
