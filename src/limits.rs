//! Every bound of the server, with its unit and its default.

use std::time::Duration;

/// What one client may cost before the server stops waiting for it.
///
/// ```
/// use threadcast::Limits;
///
/// let limits = Limits { body: 1024, ..Limits::default() };
/// assert_eq!(limits.head, 16 * 1024);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A request's head: its request line and headers, in bytes.
    pub head: usize,
    /// A request's body, in bytes.
    pub body: usize,
    /// An event's data, in bytes.
    pub event: usize,
    /// From the first byte of a request to the end of its head, and again to
    /// the end of its body.
    pub request_deadline: Duration,
    /// How long a connection may be idle between requests.
    pub keep_alive: Duration,
    /// How long a write may make no progress at all.
    pub write_deadline: Duration,
    /// How long a silence on a stream may last, give or take a tenth.
    pub heartbeat: Duration,
    /// How old a stream may become, give or take a tenth, before its client is told to
    /// open another; without it, any age.
    pub stream_age: Option<Duration>,
    /// How long open connections have to end once the server was told to stop.
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

/// How long a client is told to wait before it reconnects, unless a stream says otherwise.
pub(crate) const RETRY: Duration = Duration::from_secs(3);

/// How long an event id of a publisher's own may be, in bytes: a client sends it back in a header.
pub(crate) const ID_MAX: usize = 1_024;

/// How many header lines a request may have.
pub(crate) const HEADERS_MAX: usize = 100;

/// How deep JSON from outside may nest, in arrays and objects within each other. `serde_json`
/// takes about 500 bytes of a connection's stack for each level.
pub(crate) const JSON_DEPTH_MAX: usize = 32;

/// After a connection's last answer: how many bytes of what the client still sends are
/// read and discarded, so that a client that writes its whole body first gets the
/// answer; how long that takes at most; and how long the client may send nothing.
pub(crate) const LINGER_BYTES: usize = 16 * 1024 * 1024;
pub(crate) const LINGER_TIME: Duration = Duration::from_secs(5);
pub(crate) const LINGER_SILENCE: Duration = Duration::from_secs(1);

/// How much of a file is read at once to be sent, in bytes.
pub(crate) const FILE_CHUNK: usize = 64 * 1024;

/// How long a piece of a list is at least, but for the last, in bytes.
pub(crate) const LIST_PIECE: usize = 16 * 1024;

/// How long a connection that was accepted before the server stops has to say what
/// it came for.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long the store may take after the drain to write what it was asked before.
pub(crate) const LAST_WRITES: Duration = Duration::from_secs(1);

/// Unsent bytes in a client's socket, in bytes: with more, the socket is not writable. So a client
/// that stopped reading is noticed early, although [`SEND_BUFFER`] has room for more.
pub(crate) const NOTSENT_LOWAT: u32 = 64 * 1024;

/// A socket's send buffer, in bytes. Linux doubles it, for its own bookkeeping (socket(7),
/// `SO_SNDBUF`), and otherwise lets it grow to 4 MB (tcp(7), `tcp_wmem`).
///
/// This is the least with which loopback does not stall: its segments are 64 KiB long, and with
/// half of this a stream of 64 KiB events gets 5 MB/s instead of 360 MB/s.
pub(crate) const SEND_BUFFER: usize = 64 * 1024;

/// What the kernel then holds unsent or unacknowledged for one client, in bytes: the doubled
/// buffer, and one segment more, because the buffer is looked at before a segment begins.
pub(crate) const SEND_BUFFER_HELD: u64 = 2 * SEND_BUFFER as u64 + 64 * 1024;

/// A socket's receive buffer, in bytes. Linux doubles it too, and otherwise lets it grow to 32 MB
/// (tcp(7), `tcp_rmem`). A client may fill it behind the request of a stream; the server does not read it.
pub(crate) const RECEIVE_BUFFER: usize = 32 * 1024;

/// What the kernel then holds that was received from one client and not read, in bytes.
pub(crate) const RECEIVE_BUFFER_HELD: u64 = 2 * RECEIVE_BUFFER as u64;

/// How many times `--event-limit` an event may take in a stream, where each line of its data begins
/// with `data: `; and what it may take besides, in bytes.
pub(crate) const EVENT_EXPANSION: usize = 2;
pub(crate) const EVENT_OVERHEAD: usize = 1024;

/// How long sent bytes may stay unacknowledged before the peer counts as gone, and
/// how long a silent one may leave probes unanswered. They begin just after the
/// heartbeat would have come, so they cost nothing where it does.
///
/// A peer that vanishes right after its last word is found out by a probe, within 22 s; or the
/// heartbeat goes out before that, and 20 s later it is. So after 45 s at most its
/// stream is freed, whatever the heartbeat. (With 30 s it would be 62.)
pub(crate) const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(17);
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// How many connections the kernel holds for us until they are accepted.
pub(crate) const BACKLOG: i32 = 4_096;

/// The stack of a connection's thread in an optimized build, in bytes. At most three quarters of
/// it may be touched (`make stack`); an overflow ends the process.
pub(crate) const STACK_OPTIMIZED: usize = 64 * 1024;

/// The stack of a connection's thread, in bytes. A build without optimization needs several times
/// as much.
pub(crate) const STACK: usize = if cfg!(debug_assertions) { 512 * 1024 } else { STACK_OPTIMIZED };

/// How many channels, prefixes and patterns one stream may name.
pub(crate) const NAMES_MAX: usize = 100;

/// What the names, prefixes and patterns of one stream may take together, in bytes, and
/// what the patterns of one token may. A pattern counts in full for each stream, although
/// equal patterns share one program.
pub(crate) const PATTERNS_PER_STREAM: usize = 64 * 1024;

/// What all patterns in use may take together, in bytes.
pub(crate) const PATTERNS_TOTAL: usize = 16 * 1024 * 1024;

/// How much of that is for the patterns of tokens alone, in bytes: without it, streams of
/// clients without a token could keep out a publisher whose token names patterns.
pub(crate) const PATTERNS_FOR_TOKENS: usize = 4 * 1024 * 1024;

/// How many different patterns may be in use by streams. A new channel's name is matched
/// against all of them: 4,096 of the slowest and the longest name take 20 ms.
pub(crate) const PATTERNS_MAX: usize = 4_096;
