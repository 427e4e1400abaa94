//! Every limit of the server, with its unit and its default.

use std::time::Duration;

/// Limits on what one client may use.
///
/// ```
/// use threadcast::Limits;
///
/// let limits = Limits { body: 1024, ..Limits::default() };
/// assert_eq!(limits.head, 16 * 1024);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum size of a request's head (request line and headers), in bytes. Default: 16 KiB.
    pub head: usize,
    /// Maximum size of a request's body, in bytes. Default: 64 KiB.
    pub body: usize,
    /// Maximum size of an event's data, in bytes. Default: 64 KiB.
    pub event: usize,
    /// Time limit from the first byte of a request to the end of its head. The same limit applies
    /// again from there to the end of the body. Default: 10 s.
    pub request_deadline: Duration,
    /// How long a connection may be idle between requests. Default: 15 s.
    pub keep_alive: Duration,
    /// How long the sender of an event stream (`Content-Type: text/event-stream`) may be silent; a
    /// comment is enough. Default: 60 s.
    pub ingest_silence: Duration,
    /// How long a write may make no progress before the client is disconnected. Default: 10 s.
    pub write_deadline: Duration,
    /// The silence on a stream, give or take a tenth, after which the server sends a heartbeat.
    /// Default: 15 s.
    pub heartbeat: Duration,
    /// The age, give or take a tenth, at which the server ends a stream, so that its client
    /// reconnects. Default: `None`, which means no limit.
    pub stream_age: Option<Duration>,
    /// How long the drain may take. Connections that are then still open are closed. Default: 10 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: 16 * 1024,
            body: 64 * 1024,
            event: 64 * 1024,
            request_deadline: Duration::from_secs(10),
            keep_alive: Duration::from_secs(15),
            ingest_silence: Duration::from_secs(60),
            write_deadline: Duration::from_secs(10),
            heartbeat: Duration::from_secs(15),
            stream_age: None,
            drain: Duration::from_secs(10),
        }
    }
}

/// Limits of the Durable Streams protocol.
///
/// ```
/// use std::time::Duration;
/// use threadcast::{Config, DurableStreams};
///
/// let durable = DurableStreams { long_poll: Duration::from_secs(20), ..DurableStreams::default() };
/// let config = Config { durable_streams: Some(durable), ..Config::default() };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurableStreams {
    /// Maximum number of durable streams. Default: 10,000.
    pub streams: usize,
    /// Maximum size of one durable stream in memory or in the store's file, in bytes. Default: 64 MiB.
    pub stream: usize,
    /// Maximum size of all durable streams together, in bytes. Default: 256 MiB, or a quarter of
    /// the memory available to the process if that is less.
    pub total: Option<usize>,
    /// Maximum size of the body of a request that creates a durable stream or appends to one, in
    /// bytes. Default: 16 MiB.
    pub body: usize,
    /// Maximum size of one JSON message, in bytes. Default: 128 KiB.
    pub message: usize,
    /// How long a long-poll request waits for data. Default: 30 s.
    pub long_poll: Duration,
}

impl Default for DurableStreams {
    fn default() -> Self {
        Self {
            streams: 10_000,
            stream: 64 * 1024 * 1024,
            total: None,
            body: 16 * 1024 * 1024,
            message: 128 * 1024,
            long_poll: Duration::from_secs(30),
        }
    }
}

/// Maximum size of all durable streams together, in bytes, unless the configuration sets it.
pub(crate) const DURABLE_TOTAL: usize = 256 * 1024 * 1024;

/// If durable streams are in the store's file: the memory of their last bytes, for live readers, and of
/// the bodies that are received. The longest body comes on top of it.
pub(crate) const DURABLE_BUFFERS: usize = 64 * 1024 * 1024;

/// How long a client waits before it reconnects, unless its stream sets another time.
pub(crate) const RETRY: Duration = Duration::from_secs(3);

/// Maximum length of a client-supplied id, in bytes. The length is limited because clients send
/// the id back in a request header.
pub(crate) const ID_MAX: usize = 1_024;

/// Maximum number of header lines in a request.
pub(crate) const HEADERS_MAX: usize = 100;

/// Maximum number of arrays and objects within each other in JSON that the server receives.
/// `serde_json` takes about 500 bytes of a connection's stack for each level.
pub(crate) const JSON_DEPTH_MAX: usize = 32;

/// After a connection's last response, the server reads and discards what the client still sends,
/// so that a client that writes its whole request body before it reads receives the response. These
/// three constants limit the discarded bytes, the total time, and the silence between two reads.
pub(crate) const LINGER_BYTES: usize = 16 * 1024 * 1024;
pub(crate) const LINGER_TIME: Duration = Duration::from_secs(5);
pub(crate) const LINGER_SILENCE: Duration = Duration::from_secs(1);

/// How many bytes of a file the server reads in one piece, to send them.
pub(crate) const FILE_CHUNK: usize = 64 * 1024;

/// Minimum size, in bytes, of each piece in which the server sends a long list as JSON. The last
/// piece may be smaller.
pub(crate) const LIST_PIECE: usize = 16 * 1024;

/// Once the drain begins, the time that is left for an accepted connection to send a request.
pub(crate) const DRAIN_REQUEST_TIME: Duration = Duration::from_millis(500);

/// How long the store may take after the drain to write the events that are not yet written.
pub(crate) const DRAIN_STORE_TIME: Duration = Duration::from_secs(1);

/// Limit of the unsent bytes in a client's socket. Above this limit, the kernel reports the socket
/// as not writable. So the server notices early that a client has stopped reading, although
/// [`SEND_BUFFER`] has room for more bytes.
pub(crate) const NOTSENT_LOWAT: u32 = 64 * 1024;

/// Size of a socket's send buffer, in bytes. Linux doubles this size, for its own bookkeeping
/// (socket(7), `SO_SNDBUF`). If the server set no size, Linux would let the buffer grow to 4 MB
/// (tcp(7), `tcp_wmem`).
///
/// This is the smallest size with which loopback does not stall. Loopback segments are 64 KiB long;
/// with half of this size, a stream of 64 KiB events gets 5 MB/s instead of 360 MB/s.
pub(crate) const SEND_BUFFER: usize = 64 * 1024;

/// With [`SEND_BUFFER`], the most unsent or unacknowledged bytes that the kernel holds for one
/// client: the doubled buffer and one more segment, because the kernel checks the buffer's size
/// only before it begins a segment.
pub(crate) const SEND_BUFFER_HELD: u64 = 2 * SEND_BUFFER as u64 + 64 * 1024;

/// Size of a socket's receive buffer, in bytes. Linux doubles this size, like [`SEND_BUFFER`]. If
/// the server set no size, Linux would let the buffer grow to 32 MB (tcp(7), `tcp_rmem`). A client
/// can fill the buffer after it has requested a stream, because the server then reads nothing.
pub(crate) const RECEIVE_BUFFER: usize = 32 * 1024;

/// With [`RECEIVE_BUFFER`], the most bytes from one client that the kernel holds until the server
/// reads them.
pub(crate) const RECEIVE_BUFFER_HELD: u64 = 2 * RECEIVE_BUFFER as u64;

/// Maximum size of an event in a stream: this many times `--event-limit`, plus [`EVENT_OVERHEAD`].
/// An event takes more bytes in a stream than its data has, because each line of the data begins
/// with `data: `.
pub(crate) const EVENT_EXPANSION: usize = 2;
/// The part of an event's maximum size in a stream that does not depend on its data, in bytes.
pub(crate) const EVENT_OVERHEAD: usize = 1024;

/// How long sent bytes may stay unacknowledged, or the kernel's keepalive probes unanswered, before
/// the peer counts as disconnected.
///
/// Probes begin after a silence of [`KEEPALIVE_IDLE`], just longer than the default time between
/// heartbeats, so that no probes are sent while heartbeats are. If a peer vanishes right after its
/// last acknowledgment, the probes detect this within 22 s. If the server sends a heartbeat before
/// the probes have detected this, the disconnect is detected 20 s after the heartbeat. So the
/// server frees the stream after 45 s at most, whatever the time between heartbeats. (If this
/// timeout were 30 s, it would take up to 62 s.)
pub(crate) const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(17);
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// How many connections the kernel queues until the server accepts them: as many as
/// `net.core.somaxconn` allows.
pub(crate) const BACKLOG: i32 = i32::MAX;

/// Stack of a connection's thread in an optimized build, in bytes. At most three quarters of the
/// stack may be touched (`make stack` checks this), because an overflow ends the process.
pub(crate) const STACK_OPTIMIZED: usize = 64 * 1024;

/// Stack of a connection's thread, in bytes. An unoptimized build needs several times as much.
pub(crate) const STACK: usize = if cfg!(debug_assertions) { 512 * 1024 } else { STACK_OPTIMIZED };

/// Maximum number of channels, prefixes and patterns that one stream may name.
pub(crate) const NAMES_MAX: usize = 100;

/// Maximum total size, in bytes, of the names, prefixes and patterns of one stream, and also of the
/// patterns of one token. A pattern counts in full for each stream, although equal patterns share
/// one compiled program.
pub(crate) const PATTERNS_PER_STREAM: usize = 64 * 1024;

/// Maximum total size of all patterns in use, in bytes.
pub(crate) const PATTERNS_TOTAL: usize = 16 * 1024 * 1024;

/// The part of [`PATTERNS_TOTAL`] that is reserved for the patterns of tokens, in bytes. Without
/// it, streams of clients without a token could block a publisher whose token names patterns.
pub(crate) const PATTERNS_FOR_TOKENS: usize = 4 * 1024 * 1024;

/// Maximum number of different patterns that streams may use. The name of a new channel is matched
/// against all of them: 4,096 of the slowest patterns take 20 ms for the longest name.
pub(crate) const PATTERNS_MAX: usize = 4_096;
