//! The error types of the server.
//!
//! A [`StartError`] is reported to the operator and ends the process. An [`EventError`] or a
//! [`PublishError`] is reported to the publisher; over HTTP it becomes an error response. This
//! module has no type for an error while writing a stream: the client has then disconnected, and
//! the server only stops writing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::{error, fmt, io};

use thiserror::Error;

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
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The server cannot listen on an address.
    #[error("cannot listen on {addr}: {}", bind_problem(.source))]
    Bind {
        /// The requested address.
        addr: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The server cannot listen on a UNIX socket.
    #[error("cannot listen on unix:{}: {}", .path.display(), unix_bind_problem(.source))]
    BindUnix {
        /// The path of the socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The folder given with `--public` cannot be read.
    #[error("cannot read the folder {folder:?}: {source}; check --public")]
    Public {
        /// The folder, as the operator wrote it.
        folder: String,
        /// The system's error.
        source: io::Error,
    },
    /// A file descriptor passed to the process is not a listening TCP or UNIX socket.
    #[error(
        "cannot use a socket passed to this process: {0}; pass a listening TCP or UNIX socket \
         (in a systemd .socket unit: ListenStream=)"
    )]
    Inherit(#[source] io::Error),
    /// The descriptors that detect disconnects cannot be created.
    #[error("cannot detect disconnects: {0}; check `ulimit -n`")]
    Watch(#[source] io::Error),
    /// One of the server's threads cannot be started.
    #[error("cannot start a thread: {0}; check `ulimit -u` and pids.max")]
    Spawn(#[source] io::Error),
    /// The broadcaster thread has panicked.
    #[error("the broadcaster thread has panicked; this is a bug, please report it")]
    Broadcaster,
    /// The store given with `--store` cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread that writes or reads the store has panicked.
    #[error("a store thread has panicked; this is a bug, please report it")]
    StoreWriter,
}

/// Returns why the server cannot listen on an address, and what to do.
fn bind_problem(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::AddrInUse {
        return "address in use; stop the other program, or choose another port with --listen"
            .into();
    }
    format!("{error}; choose an address with --listen")
}

/// Returns why the server cannot listen on a UNIX socket, and what to do.
fn unix_bind_problem(error: &io::Error) -> String {
    let (problem, remedy) = match error.kind() {
        io::ErrorKind::AddrInUse => ("another server listens on it", "stop that server"),
        io::ErrorKind::AlreadyExists => ("the file is not a socket", "move it away"),
        io::ErrorKind::NotFound => ("its folder does not exist", "create the folder"),
        io::ErrorKind::PermissionDenied => {
            ("permission denied", "let the server's user write to the folder and to the file")
        }
        io::ErrorKind::InvalidInput => {
            return "a socket's path has at most 107 bytes; choose a shorter one with --listen"
                .into();
        }
        _ => return format!("{error}; choose another path with --listen"),
    };
    format!("{problem}; {remedy}, or choose another path with --listen")
}

/// A store cannot be used. The store was not changed.
///
/// ```
/// use threadcast::{Config, Server, StartError, StoreAt};
///
/// let store = Some(StoreAt::File("no/such/folder/file.redb".into()));
/// let listen = vec!["127.0.0.1:0".parse()?];
/// let error = Server::bind(Config { listen, store, ..Config::default() }).unwrap_err();
/// let StartError::Store(error) = error else { panic!("{error}") };
/// assert!(error.to_string().contains("no/such/folder/file.redb"));
/// # Ok::<(), std::net::AddrParseError>(())
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
/// use threadcast::{Config, Server, StartError, StoreAt, StoreProblem};
///
/// let store = Some(StoreAt::File("/dev/null".into()));
/// let listen = vec!["127.0.0.1:0".parse()?];
/// let error = Server::bind(Config { listen, store, ..Config::default() }).unwrap_err();
/// let StartError::Store(error) = error else { panic!("{error}") };
/// assert!(matches!(error.problem, StoreProblem::NotAFile));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreProblem {
    /// The file does not exist.
    #[error("there is no such file; `serve --store` creates it")]
    Missing,
    /// The path is a folder, a device or a pipe.
    #[error("it is not a regular file; name a file, which is created if it does not exist")]
    NotAFile,
    /// The file is not a store of threadcast.
    #[error("the file is not a store of threadcast; name another file, or move this one away")]
    NotAStore,
    /// A later version of threadcast wrote the store.
    #[error(
        "it has format {format}, which only a later version of threadcast reads; use that version, \
         or name another file"
    )]
    Newer {
        /// The version of the store's format.
        format: u64,
    },
    /// Another process has the file open.
    #[error(
        "another process has it open; stop that process (find it with `fuser`), or name another \
         file"
    )]
    Locked,
    /// The file is a damaged store.
    #[error("it is damaged ({detail}); restore it from a backup, or move it away to start empty")]
    Corrupt {
        /// The first damage found.
        detail: String,
    },
    /// Redis cannot be reached, or does not respond.
    #[error(
        "Redis cannot be reached ({detail}); start it, or name another one, such as \
         redis://127.0.0.1:6379, rediss://:PASSWORD@HOST or redis+unix:///run/redis.sock"
    )]
    Unreachable {
        /// The failed step and its error.
        detail: String,
    },
    /// The certificate of the Redis server is not trusted.
    #[error(
        "its certificate is not trusted ({detail}); name the certificate file of its authority in \
         SSL_CERT_FILE, or add the authority to this system"
    )]
    Untrusted {
        /// The reason.
        detail: String,
    },
    /// Redis rejects the credentials.
    #[error(
        "Redis rejects the credentials ({detail}); put them into the URL, percent-encoded: \
         redis://:PASSWORD@HOST or redis://USER:PASSWORD@HOST"
    )]
    Denied {
        /// The error that Redis returned.
        detail: String,
    },
    /// Redis returned an error for a command.
    #[error(
        "Redis returned an error ({detail}); use Redis 6.2 or later, or Valkey, not a replica, and \
         leave the keys that begin with `threadcast:` to threadcast"
    )]
    Rejected {
        /// The error that Redis returned.
        detail: String,
    },
    /// The store has no such channel, or has several and none was named.
    #[error("name one of its channels: {}", quoted(.known))]
    Channel {
        /// The channels of the store.
        known: Vec<String>,
    },
    /// The file cannot be read or written.
    #[error("{}", file_problem(.0))]
    Io(#[source] io::Error),
    /// The exported events cannot be written to the output.
    #[error("cannot write its events to the output: {0}")]
    Output(#[source] io::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot use the store \"{}\": {}", self.path.display(), self.problem)
    }
}

impl error::Error for StoreError {
    // The message includes that of the problem, so the source is the problem's source.
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        error::Error::source(&self.problem)
    }
}

fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    names.join(", ")
}

fn file_problem(error: &io::Error) -> String {
    if is_full(error) {
        return "its disk is full; free some space, or name a file on another disk".into();
    }
    format!("{error}; name a readable and writable file in an existing folder")
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EventError {
    /// A one-line field contains CR, LF or NUL.
    ///
    /// CR or LF would end the field, and the text after it would be read as another field. NUL is
    /// rejected because a client ignores an id that contains it.
    #[error("the field `{field}` must not contain CR, LF or NUL; remove them")]
    LineBreak {
        /// The field's name in the standard: `event` or `id`.
        field: &'static str,
    },
    /// The id is empty, which would clear the client's cursor.
    #[error("the field `id` must not be empty; leave it out instead")]
    EmptyId,
    /// The id has the form of an id that the server assigns.
    #[error("ids of the form <digits>-<digits> are reserved for the server; choose another form")]
    ReservedId,
    /// A client could not send the id back unchanged in `Last-Event-ID`.
    ///
    /// The id is longer than 1,024 bytes, begins or ends with white space, or contains a control
    /// character.
    #[error(
        "the field `id` must be at most 1,024 bytes, without control characters and without spaces \
         at its ends; shorten or encode it"
    )]
    UnsendableId,
}

/// An event cannot be published, or a channel cannot be used.
///
/// ```
/// use threadcast::{Event, PublishError, Registry};
///
/// let outcome = Registry::new().publish("news*", &Event::new("hello"));
/// assert_eq!(outcome, Err(PublishError::Wildcard));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The channel's name is empty, longer than 1,024 bytes, or contains NUL.
    #[error("a channel name must be 1 to 1,024 bytes of UTF-8 without NUL; choose another name")]
    Name,
    /// The name ends with `*`, which subscribes to many channels and cannot be published to.
    #[error("a name that ends with `*` means many channels; publish to one channel")]
    Wildcard,
    /// There is no event to publish.
    #[error("the request contains no event; send at least one")]
    Nothing,
    /// The limit on channels is reached, and no channel is idle.
    #[error("all {limit} channels are in use; use one of them, or raise --max-channels")]
    TooManyChannels {
        /// The maximum number of channels.
        limit: usize,
    },
    /// The limit on patterns in use is reached.
    #[error("{limit} different patterns are in use; name a channel, or a pattern that is in use")]
    TooManyPatterns {
        /// The maximum number of patterns.
        limit: usize,
    },
    /// One stream names too many channels, prefixes and patterns.
    #[error(
        "one stream can name at most {limit} channels; open another stream, or use a prefix NAME*"
    )]
    TooManyNames {
        /// The maximum number of names of one stream.
        limit: usize,
    },
    /// The names and compiled patterns of one stream take too much memory.
    #[error(
        "the names and compiled patterns of this stream take more than {limit} bytes; name fewer, \
         write simpler patterns, or open another stream"
    )]
    NamesTooBig {
        /// The maximum memory, in bytes.
        limit: usize,
    },
    /// One event has too many topics.
    #[error("one event can have at most {limit} topics; send several events")]
    TooManyTopics {
        /// The maximum number of topics.
        limit: usize,
    },
    /// The idempotency key was used for other events before.
    #[error(
        "this Idempotency-Key was used for a different request; repeat a request unchanged, or \
         send a new key"
    )]
    KeyReused,
    /// An earlier event was the channel's last.
    #[error(
        "the channel has ended, and takes no more events until its history is gone; publish to \
         another channel, or DELETE this one first"
    )]
    Ended,
    /// An event follows the channel's last event in the same request.
    #[error("an event follows the one that ends the channel; let only the last event have `end`")]
    AfterEnd,
    /// A private event would end a channel, whose other streams must not learn of it.
    #[error("a private event cannot end a channel; publish the end as a public event")]
    PrivateEnd,
    /// The store's disk is full. The event was not published.
    #[error("the store's disk is full, and nothing was published; free some space, and try again")]
    StoreFull,
    /// The store cannot be written. The event was not published.
    #[error("the store cannot be written, and nothing was published: {reason}; try again later")]
    Store {
        /// The reason.
        reason: String,
    },
    /// Redis did not confirm the event. The event may or may not be published.
    #[error(
        "Redis did not confirm the event, so it may or may not be published: {reason}; try again \
         with the same Idempotency-Key, so that it is published once"
    )]
    Unconfirmed {
        /// The reason.
        reason: String,
    },
}

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
