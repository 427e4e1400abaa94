//! The error types of the server.
//!
//! A [`StartError`] is reported to the operator and ends the process. An [`EventError`] or a
//! [`PublishError`] is reported to the publisher; over HTTP it becomes an error response. This
//! module has no type for an error while writing a stream: the client has then disconnected, and
//! the server only stops writing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::{error, fmt, io};

/// The server failed to start or to continue.
///
/// ```
/// use threadcast::{Config, Server, StartError};
///
/// let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let outcome = Server::bind(Config { listen: vec![taken.local_addr()?], ..Config::default() });
/// assert!(matches!(outcome, Err(StartError::Bind { .. })));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The server cannot listen on an address.
    Bind {
        /// The requested address.
        addr: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The folder given with `--public` cannot be read.
    Public {
        /// The folder, as the operator wrote it.
        folder: String,
        /// The system's error.
        source: io::Error,
    },
    /// The lab is enabled on an address that is not loopback.
    Lab {
        /// The requested address.
        addr: SocketAddr,
    },
    /// A file descriptor passed to the process is not a listening TCP socket.
    Inherit(io::Error),
    /// The descriptors that detect disconnects cannot be created.
    Watch(io::Error),
    /// One of the server's threads cannot be started.
    Spawn(io::Error),
    /// The broadcaster thread has panicked.
    Broadcaster,
    /// The store given with `--store` cannot be used.
    Store(StoreError),
    /// A thread that writes or reads the store has panicked.
    StoreWriter,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { addr, source } if source.kind() == io::ErrorKind::AddrInUse => write!(
                f,
                "cannot listen on {addr}: address in use; stop the other program, or choose \
                 another port with --listen"
            ),
            Self::Bind { addr, source } => {
                write!(f, "cannot listen on {addr}: {source}; choose an address with --listen")
            }
            Self::Public { folder, source } => {
                write!(f, "cannot read the folder {folder:?}: {source}; check --public")
            }
            Self::Lab { addr } => write!(
                f,
                "cannot listen on {addr} with --lab: any client of the lab can cut all streams; \
                 remove --lab, or listen on 127.0.0.1"
            ),
            Self::Broadcaster => {
                f.write_str("the broadcaster thread has panicked; this is a bug, please report it")
            }
            Self::Store(error) => error.fmt(f),
            Self::StoreWriter => {
                f.write_str("a store thread has panicked; this is a bug, please report it")
            }
            Self::Inherit(source) => write!(
                f,
                "cannot use a socket passed to this process: {source}; pass a listening TCP socket \
                 (in a systemd .socket unit: ListenStream=)"
            ),
            Self::Watch(source) => {
                write!(f, "cannot detect disconnects: {source}; check `ulimit -n`")
            }
            Self::Spawn(source) => {
                write!(f, "cannot start a thread: {source}; check `ulimit -u` and pids.max")
            }
        }
    }
}

impl error::Error for StartError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Bind { source, .. }
            | Self::Public { source, .. }
            | Self::Inherit(source)
            | Self::Watch(source)
            | Self::Spawn(source) => Some(source),
            Self::Store(error) => error.source(),
            Self::Lab { .. } | Self::Broadcaster | Self::StoreWriter => None,
        }
    }
}

/// A store cannot be used. The store was not changed.
///
/// ```
/// let error = threadcast::store::stats("no/such/file.redb".as_ref()).unwrap_err();
/// assert!(error.to_string().contains("no/such/file.redb"));
/// ```
#[derive(Debug)]
pub struct StoreError {
    /// The file, as the operator wrote it, or the URL of a Redis without its password.
    pub path: PathBuf,
    /// The reason.
    pub problem: StoreProblem,
}

/// The reason why a store cannot be used.
///
/// ```
/// use threadcast::{StoreProblem, store};
///
/// let error = store::stats("no/such/file.redb".as_ref()).unwrap_err();
/// assert!(matches!(error.problem, StoreProblem::Missing));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreProblem {
    /// The file does not exist.
    Missing,
    /// The path is a folder, a device or a pipe.
    NotAFile,
    /// The file is not a store of threadcast.
    NotAStore,
    /// A later version of threadcast wrote the store.
    Newer {
        /// The version of the store's format.
        format: u64,
    },
    /// Another process has the file open.
    Locked,
    /// The file is a damaged store.
    Corrupt {
        /// The first damage found.
        detail: String,
    },
    /// Redis cannot be reached, or does not respond.
    Unreachable {
        /// The failed step and its error.
        detail: String,
    },
    /// The certificate of the Redis server is not trusted.
    Untrusted {
        /// The reason.
        detail: String,
    },
    /// Redis rejects the credentials.
    Denied {
        /// The error that Redis returned.
        detail: String,
    },
    /// Redis returned an error for a command.
    Rejected {
        /// The error that Redis returned.
        detail: String,
    },
    /// The store has no such channel, or has several and none was named.
    Channel {
        /// The channels of the store.
        known: Vec<String>,
    },
    /// The file cannot be read or written.
    Io(io::Error),
    /// The exported events cannot be written to the output.
    Output(io::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot use the store \"{}\": ", self.path.display())?;
        match &self.problem {
            StoreProblem::Missing => f.write_str("there is no such file; `serve --store` creates it"),
            StoreProblem::NotAFile => {
                f.write_str("it is not a regular file; name a file, which is created if it does not exist")
            }
            StoreProblem::NotAStore => f.write_str(
                "the file is not a store of threadcast; name another file, or move this one away",
            ),
            StoreProblem::Newer { format } => write!(
                f,
                "it has format {format}, which only a later version of threadcast reads; use that \
                 version, or name another file"
            ),
            StoreProblem::Locked => f.write_str(
                "another process has it open; stop that process (find it with `fuser`), or name another file",
            ),
            StoreProblem::Corrupt { detail } => write!(
                f,
                "it is damaged ({detail}); restore it from a backup, or move it away to start empty"
            ),
            StoreProblem::Unreachable { detail } => write!(
                f,
                "Redis cannot be reached ({detail}); start it, or name another one, such as \
                 redis://127.0.0.1:6379, rediss://:PASSWORD@HOST or redis+unix:///run/redis.sock"
            ),
            StoreProblem::Untrusted { detail } => write!(
                f,
                "its certificate is not trusted ({detail}); name the certificate file of its \
                 authority in SSL_CERT_FILE, or add the authority to this system"
            ),
            StoreProblem::Denied { detail } => write!(
                f,
                "Redis rejects the credentials ({detail}); put them into the URL, percent-encoded: \
                 redis://:PASSWORD@HOST or redis://USER:PASSWORD@HOST"
            ),
            StoreProblem::Rejected { detail } => write!(
                f,
                "Redis returned an error ({detail}); use Redis 6.2 or later, or Valkey, not a replica, \
                 and leave the keys that begin with `threadcast:` to threadcast"
            ),
            StoreProblem::Channel { known } => {
                let known: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
                write!(f, "name one of its channels: {}", known.join(", "))
            }
            StoreProblem::Io(error) if is_full(error) => {
                f.write_str("its disk is full; free some space, or name a file on another disk")
            }
            StoreProblem::Io(source) => {
                write!(f, "{source}; name a readable and writable file in an existing folder")
            }
            StoreProblem::Output(source) => write!(f, "cannot write its events to the output: {source}"),
        }
    }
}

impl error::Error for StoreError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.problem {
            StoreProblem::Io(source) | StoreProblem::Output(source) => Some(source),
            _ => None,
        }
    }
}

/// Whether an error means that there is no space left for the file.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// An invalid field of an event.
///
/// ```
/// use threadcast::{Event, EventError};
///
/// let forged = Event::new("").with_name("a\ndata: forged");
/// assert_eq!(forged, Err(EventError::LineBreak { field: "event" }));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventError {
    /// A one-line field contains CR, LF or NUL.
    ///
    /// CR or LF would end the field, and the text after it would be read as another field. NUL is
    /// rejected because a client ignores an id that contains it.
    LineBreak {
        /// The field's name in the standard: `event` or `id`.
        field: &'static str,
    },
    /// The id is empty, which would clear the client's cursor.
    EmptyId,
    /// The id has the form of an id that the server assigns.
    ReservedId,
    /// A client could not send the id back unchanged in `Last-Event-ID`.
    ///
    /// The id is longer than 1,024 bytes, begins or ends with white space, or contains a control
    /// character.
    UnsendableId,
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LineBreak { field } => {
                write!(f, "the field `{field}` must not contain CR, LF or NUL; remove them")
            }
            Self::EmptyId => f.write_str("the field `id` must not be empty; leave it out instead"),
            Self::ReservedId => f.write_str(
                "ids of the form <digits>-<digits> are reserved for the server; choose another form",
            ),
            Self::UnsendableId => f.write_str(
                "the field `id` must be at most 1,024 bytes, without control characters and without \
                 spaces at its ends; shorten or encode it",
            ),
        }
    }
}

impl error::Error for EventError {}

/// An event cannot be published, or a channel cannot be used.
///
/// ```
/// use threadcast::{Event, PublishError, Registry};
///
/// let outcome = Registry::new().publish("news*", &Event::new("hello"));
/// assert_eq!(outcome, Err(PublishError::Wildcard));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The channel's name is empty, longer than 1,024 bytes, or contains NUL.
    Name,
    /// The name ends with `*`, which subscribes to many channels and cannot be published to.
    Wildcard,
    /// There is no event to publish.
    Nothing,
    /// The limit on channels is reached, and no channel is idle.
    TooManyChannels {
        /// The maximum number of channels.
        limit: usize,
    },
    /// The limit on patterns in use is reached.
    TooManyPatterns {
        /// The maximum number of patterns.
        limit: usize,
    },
    /// One stream names too many channels, prefixes and patterns.
    TooManyNames {
        /// The maximum number of names of one stream.
        limit: usize,
    },
    /// The names and compiled patterns of one stream take too much memory.
    NamesTooBig {
        /// The maximum memory, in bytes.
        limit: usize,
    },
    /// One event has too many topics.
    TooManyTopics {
        /// The maximum number of topics.
        limit: usize,
    },
    /// The idempotency key was used for other events before.
    KeyReused,
    /// The store's disk is full. The event was not published.
    StoreFull,
    /// The store cannot be written. The event was not published.
    Store {
        /// The reason.
        reason: String,
    },
    /// Redis did not confirm the event. The event may or may not be published.
    Unconfirmed {
        /// The reason.
        reason: String,
    },
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("a channel name must be 1 to 1,024 bytes of UTF-8 without NUL; choose another name"),
            Self::Wildcard => {
                f.write_str("a name that ends with `*` means many channels; publish to one channel")
            }
            Self::Nothing => f.write_str("the request contains no event; send at least one"),
            Self::TooManyChannels { limit } => write!(
                f,
                "all {limit} channels are in use; use one of them, or raise --max-channels"
            ),
            Self::TooManyPatterns { limit } => write!(
                f,
                "{limit} different patterns are in use; name a channel, or a pattern that is in use"
            ),
            Self::TooManyNames { limit } => write!(
                f,
                "one stream can name at most {limit} channels; open another stream, or use a prefix \
                 NAME*"
            ),
            Self::NamesTooBig { limit } => write!(
                f,
                "the names and compiled patterns of this stream take more than {limit} bytes; name \
                 fewer, write simpler patterns, or open another stream"
            ),
            Self::TooManyTopics { limit } => {
                write!(f, "one event can have at most {limit} topics; send several events")
            }
            Self::KeyReused => f.write_str(
                "this Idempotency-Key was used for a different request; repeat a request unchanged, \
                 or send a new key",
            ),
            Self::StoreFull => f.write_str(
                "the store's disk is full, and nothing was published; free some space, and try again",
            ),
            Self::Store { reason } => write!(
                f,
                "the store cannot be written, and nothing was published: {reason}; try again later"
            ),
            Self::Unconfirmed { reason } => write!(
                f,
                "Redis did not confirm the event, so it may or may not be published: {reason}; try \
                 again with the same Idempotency-Key, so that it is published once"
            ),
        }
    }
}

impl error::Error for PublishError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_error_names_the_flag_to_change() {
        let addr = "127.0.0.1:80".parse().unwrap();
        let taken = StartError::Bind { addr, source: io::ErrorKind::AddrInUse.into() };
        assert!(taken.to_string().contains("--listen"), "{taken}");
    }
}
