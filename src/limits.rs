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
    /// Time from the first byte of a request to the end of its head, and again from there to the
    /// end of its body. Default: 10 s.
    pub request_deadline: Duration,
    /// How long a connection may be idle between requests. Default: 15 s.
    pub keep_alive: Duration,
    /// How long a write may make no progress. Default: 10 s.
    pub write_deadline: Duration,
    /// The longest silence on a stream, give or take a tenth. Default: 15 s.
    pub heartbeat: Duration,
    /// The age, give or take a tenth, at which the server ends a stream and its client reconnects.
    /// Default: none, which means any age.
    pub stream_age: Option<Duration>,
    /// How long the drain may take: the time for open connections to end. Default: 10 s.
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
            write_deadline: Duration::from_secs(10),
            heartbeat: Duration::from_secs(15),
            stream_age: None,
            drain: Duration::from_secs(10),
        }
    }
}

/// How long a client waits before it reconnects, unless a stream says otherwise.
pub(crate) const RETRY: Duration = Duration::from_secs(3);

/// Maximum length of a client-supplied id, in bytes. Clients send it back in a header.
pub(crate) const ID_MAX: usize = 1_024;

/// Maximum number of header lines in a request.
pub(crate) const HEADERS_MAX: usize = 100;

/// Maximum depth of JSON from outside: arrays and objects within each other. `serde_json` takes
/// about 500 bytes of a connection's stack for each level.
pub(crate) const JSON_DEPTH_MAX: usize = 32;

/// After a connection's last response, the server reads and discards what the client still sends,
/// so that a client that writes its whole body first receives the response. These limit the bytes,
/// the total time, and the silence between two reads.
pub(crate) const LINGER_BYTES: usize = 16 * 1024 * 1024;
pub(crate) const LINGER_TIME: Duration = Duration::from_secs(5);
pub(crate) const LINGER_SILENCE: Duration = Duration::from_secs(1);

/// How much of a file is read at once when it is sent, in bytes.
pub(crate) const FILE_CHUNK: usize = 64 * 1024;

/// Minimum size of a piece of a list, except the last piece, in bytes.
pub(crate) const LIST_PIECE: usize = 16 * 1024;

/// How long a connection that was accepted before the drain has to send a request.
pub(crate) const DRAIN_REQUEST_TIME: Duration = Duration::from_millis(500);

/// How long the store may take after the drain to write the events that were published before.
pub(crate) const DRAIN_STORE_TIME: Duration = Duration::from_secs(1);

/// Limit of the unsent bytes in a client's socket; above it, the socket is not writable. So a
/// client that has stopped reading is noticed early, although [`SEND_BUFFER`] has room for more.
pub(crate) const NOTSENT_LOWAT: u32 = 64 * 1024;

/// Size of a socket's send buffer, in bytes. Linux doubles it, for its own bookkeeping (socket(7),
/// `SO_SNDBUF`). Without a set size, Linux lets it grow to 4 MB (tcp(7), `tcp_wmem`).
///
/// This is the smallest size with which loopback does not stall. Loopback segments are 64 KiB long;
/// with half of this size, a stream of 64 KiB events gets 5 MB/s instead of 360 MB/s.
pub(crate) const SEND_BUFFER: usize = 64 * 1024;

/// What the kernel then holds for one client unsent or unacknowledged, in bytes: the doubled buffer
/// and one more segment, because the kernel checks the buffer before it begins a segment.
pub(crate) const SEND_BUFFER_HELD: u64 = 2 * SEND_BUFFER as u64 + 64 * 1024;

/// Size of a socket's receive buffer, in bytes. Linux doubles this too; without a set size, it lets
/// it grow to 32 MB (tcp(7), `tcp_rmem`). A client can fill it after requesting a stream, because
/// the server then reads nothing.
pub(crate) const RECEIVE_BUFFER: usize = 32 * 1024;

/// What the kernel then holds that one client sent and the server has not read, in bytes.
pub(crate) const RECEIVE_BUFFER_HELD: u64 = 2 * RECEIVE_BUFFER as u64;

/// Maximum size of an event in a stream: this many times `--event-limit`, because each line of its
/// data begins with `data: `, plus the overhead in bytes.
pub(crate) const EVENT_EXPANSION: usize = 2;
pub(crate) const EVENT_OVERHEAD: usize = 1024;

/// How long sent bytes may stay unacknowledged, and how long probes may stay unanswered, before the
/// peer counts as disconnected. Probes begin just after a heartbeat would be sent, so they cost
/// nothing where heartbeats are sent.
///
/// If a peer vanishes right after its last acknowledgment, a probe detects it within 22 s. If a
/// heartbeat is sent before that, the peer is detected 20 s after the heartbeat. So the stream is
/// freed after 45 s at most, for any heartbeat. (With a timeout of 30 s it would be 62 s.)
pub(crate) const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(17);
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// How many connections the kernel queues for the server to accept.
pub(crate) const BACKLOG: i32 = 4_096;

/// Stack of a connection's thread in an optimized build, in bytes. At most three quarters of it may
/// be touched (`make stack`); an overflow ends the process.
pub(crate) const STACK_OPTIMIZED: usize = 64 * 1024;

/// Stack of a connection's thread, in bytes. An unoptimized build needs several times as much.
pub(crate) const STACK: usize = if cfg!(debug_assertions) { 512 * 1024 } else { STACK_OPTIMIZED };

/// Maximum number of channels, prefixes and patterns that one stream may name.
pub(crate) const NAMES_MAX: usize = 100;

/// Maximum total size of the names, prefixes and patterns of one stream, and of the patterns of one
/// token, in bytes. A pattern counts in full for each stream, although equal patterns share one
/// program.
pub(crate) const PATTERNS_PER_STREAM: usize = 64 * 1024;

/// Maximum total size of all patterns in use, in bytes.
pub(crate) const PATTERNS_TOTAL: usize = 16 * 1024 * 1024;

/// The part of [`PATTERNS_TOTAL`] that is reserved for the patterns of tokens, in bytes. Without
/// it, streams of clients without a token could block a publisher whose token names patterns.
pub(crate) const PATTERNS_FOR_TOKENS: usize = 4 * 1024 * 1024;

/// Maximum number of different patterns that streams may use. The name of a new channel is matched
/// against all of them: 4,096 of the slowest patterns take 20 ms for the longest name.
pub(crate) const PATTERNS_MAX: usize = 4_096;
