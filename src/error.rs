//! What can go wrong, sorted by who has to hear about it.
//!
//! [`StartError`] goes to the operator and ends the process. [`EventError`] and
//! [`PublishError`] go to the publisher, over HTTP as a status with a sentence,
//! and cost nobody else anything. An error while writing a stream has no type
//! here: the client has left, and the only thing to do is to stop writing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::{error, fmt, io};

/// The server could not start.
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
    /// The address is taken, not ours, or not allowed.
    Bind {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The folder given with `--public` cannot be read.
    Public {
        /// The folder as the operator wrote it.
        folder: String,
        /// What the system said.
        source: io::Error,
    },
    /// The lab was asked for on an address that is not loopback.
    Lab {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// A listener that was passed in is none.
    Inherit(io::Error),
    /// The system gave no descriptors to watch for hang-ups with.
    Watch(io::Error),
    /// The system gave no thread for one of the server's own.
    Spawn(io::Error),
    /// The thread that delivers to everybody has panicked.
    Broadcaster,
    /// What was given with `--store` cannot be used.
    Store(StoreError),
    /// A thread that writes or reads the store has panicked.
    StoreWriter,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { addr, source } if source.kind() == io::ErrorKind::AddrInUse => write!(
                f,
                "cannot listen on {addr}: another program does already; \
                 stop it, or choose another port with --listen"
            ),
            Self::Bind { addr, source } => {
                write!(f, "cannot listen on {addr}: {source}; choose an address with --listen")
            }
            Self::Public { folder, source } => {
                write!(f, "cannot serve the folder {folder:?}: {source}; see --public")
            }
            Self::Lab { addr } => write!(
                f,
                "cannot listen on {addr} with --lab: who reaches the lab can cut everybody off, \
                 so it is for loopback alone; leave --lab out, or listen on 127.0.0.1"
            ),
            Self::Broadcaster => {
                f.write_str("the delivering thread has panicked; this is a bug, please report it")
            }
            Self::Store(error) => error.fmt(f),
            Self::StoreWriter => f.write_str(
                "a thread that writes or reads the store has panicked; this is a bug, please report it",
            ),
            Self::Inherit(source) => write!(
                f,
                "cannot serve on a socket that was passed in: {source}; it must be a listening \
                 TCP socket (in a systemd .socket unit: ListenStream=)"
            ),
            Self::Watch(source) => {
                write!(f, "cannot watch for hang-ups: {source}; see `ulimit -n`")
            }
            Self::Spawn(source) => {
                write!(f, "cannot start a thread: {source}; see `ulimit -u` and pids.max")
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

/// A store cannot be used. It is as it was.
///
/// ```
/// let error = threadcast::store::stats("no/such/file.redb".as_ref()).unwrap_err();
/// assert!(error.to_string().contains("no/such/file.redb"));
/// ```
#[derive(Debug)]
pub struct StoreError {
    /// The file as the operator wrote it, or the address of a Redis, without its password.
    pub path: PathBuf,
    /// What is the matter with it.
    pub problem: StoreProblem,
}

/// What can be the matter with a store.
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
    /// There is no such file, where there should be one.
    Missing,
    /// It is a folder, a device or a pipe.
    NotAFile,
    /// It is a file, and has never been a store of ours.
    NotAStore,
    /// It was written by a later threadcast.
    Newer {
        /// The number of its format.
        format: u64,
    },
    /// Another process has it open.
    Held,
    /// It was a store, and has been damaged.
    Corrupt {
        /// What was found first.
        detail: String,
    },
    /// There is no Redis, or it does not answer.
    Away {
        /// What was tried.
        detail: String,
    },
    /// Redis, or who answers in its place, has a certificate that we do not trust.
    Untrusted {
        /// What is the matter with it.
        detail: String,
    },
    /// Redis does not let us in.
    Denied {
        /// What it said.
        detail: String,
    },
    /// Redis has refused what it was asked.
    Refused {
        /// What it said.
        detail: String,
    },
    /// It is sound, and has no such channel; or has several, and none was named.
    Channel {
        /// The channels it has.
        known: Vec<String>,
    },
    /// The system let us not read or write it.
    Io(io::Error),
    /// What was read from it could not be written where it was to go.
    Output(io::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot use the store \"{}\": ", self.path.display())?;
        match &self.problem {
            StoreProblem::Missing => f.write_str("there is no such file; `serve --store` makes it"),
            StoreProblem::NotAFile => {
                f.write_str("it is no regular file; name a file, which will be made if need be")
            }
            StoreProblem::NotAStore => f.write_str(
                "it is a file, but not a store of threadcast; name another, or move it away",
            ),
            StoreProblem::Newer { format } => write!(
                f,
                "it is of format {format}, which a later threadcast writes; \
                 use that, or name another file"
            ),
            StoreProblem::Held => f.write_str(
                "another process has it open (`fuser` tells which); stop that, or name another file",
            ),
            StoreProblem::Corrupt { detail } => write!(
                f,
                "it is damaged ({detail}); take it from a backup, or move it away to begin anew"
            ),
            StoreProblem::Away { detail } => write!(
                f,
                "no Redis answers there ({detail}); start it, or name another, as in \
                 redis://127.0.0.1:6379, rediss://:PASSWORD@HOST or redis+unix:///run/redis.sock"
            ),
            StoreProblem::Untrusted { detail } => write!(
                f,
                "its certificate is not trusted ({detail}); name the file of its authority in \
                 SSL_CERT_FILE, or have this system trust that"
            ),
            StoreProblem::Denied { detail } => write!(
                f,
                "Redis does not let us in ({detail}); the password stands in the address, as in \
                 redis://:PASSWORD@HOST or redis://USER:PASSWORD@HOST, percent-encoded"
            ),
            StoreProblem::Refused { detail } => write!(
                f,
                "Redis refuses ({detail}); it must be Redis 6.2 or later, or Valkey, no replica, and \
                 what begins with `threadcast:` in it ours"
            ),
            StoreProblem::Channel { known } => {
                let known: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
                write!(f, "name one of its channels: {}", known.join(", "))
            }
            StoreProblem::Io(error) if is_full(error) => {
                f.write_str("its disk is full; make room, or name a file on another disk")
            }
            StoreProblem::Io(source) => {
                write!(f, "{source}; it must be a file that can be read and written, in a folder that is there")
            }
            StoreProblem::Output(source) => write!(f, "its events go nowhere: {source}"),
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

/// Whether there is no room, as opposed to something being wrong.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// A field of an event that cannot be written to a stream.
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
    /// A one-line field contains CR, LF or NUL: the first two would end it
    /// early and forge another, with the third a client ignores the id.
    LineBreak {
        /// The field, as the standard names it: `event` or `id`.
        field: &'static str,
    },
    /// An empty id would clear the client's cursor.
    EmptyId,
    /// The id looks like one that the server gives.
    ReservedId,
    /// A client could not send the id back as it is: it is longer than 1,024 bytes, has white
    /// space at an end, or contains a control character.
    UnsendableId,
}

impl fmt::Display for EventError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LineBreak { field } => {
                write!(f, "the field `{field}` must not contain CR, LF or NUL; take them out")
            }
            Self::EmptyId => f.write_str("the field `id` must not be empty; leave it out instead"),
            Self::ReservedId => f.write_str(
                "ids of the shape <digits>-<digits> are the server's own; choose another shape",
            ),
            Self::UnsendableId => f.write_str(
                "the field `id` must be at most 1,024 bytes, without control characters and without \
                 spaces at its ends; shorten or encode it",
            ),
        }
    }
}

impl error::Error for EventError {}

/// An event could not be published, or a channel not be used.
///
/// ```
/// use threadcast::{Event, PublishError, Registry};
///
/// let outcome = Registry::new().publish("news*", &Event::new("to whom?"));
/// assert_eq!(outcome, Err(PublishError::Wildcard));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The channel's name is empty, or longer than 1,024 bytes, or contains NUL.
    Name,
    /// A trailing `*` is for listening to many channels, not for publishing.
    Wildcard,
    /// There is no event to publish.
    Nothing,
    /// There are as many channels as the server keeps, and none is idle.
    TooManyChannels {
        /// How many that is.
        limit: usize,
    },
    /// There are as many patterns in use as the server keeps.
    TooManyPatterns {
        /// How many that is.
        limit: usize,
    },
    /// One stream names more channels, prefixes and patterns than that.
    TooManyNames {
        /// How many it may name.
        limit: usize,
    },
    /// What one stream names takes more memory than that.
    NamesTooBig {
        /// How many bytes it may take.
        limit: usize,
    },
    /// One event has more topics than that.
    TooManyTopics {
        /// How many it may have.
        limit: usize,
    },
    /// The idempotency key was used before, for other events.
    KeyReused,
    /// The store has no room on its disk. Nothing of the event is published.
    StoreFull,
    /// The store cannot be written. Nothing of the event is published.
    Store {
        /// What is the matter.
        reason: String,
    },
    /// Redis was asked and has not answered: the event may be published or not.
    Unanswered {
        /// What is the matter.
        reason: String,
    },
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("a channel's name is 1 to 1,024 bytes of UTF-8 without NUL"),
            Self::Wildcard => {
                f.write_str("a name that ends with `*` means many channels; publish to one of them")
            }
            Self::Nothing => f.write_str("there is no event in the request; send at least one"),
            Self::TooManyChannels { limit } => write!(
                f,
                "there are {limit} channels already and none is idle; use one of them, \
                 or raise --max-channels"
            ),
            Self::TooManyPatterns { limit } => write!(
                f,
                "{limit} different patterns are in use already; name a channel, or a pattern that \
                 is in use"
            ),
            Self::TooManyNames { limit } => write!(
                f,
                "name at most {limit} channels; open another stream, or use a prefix NAME*"
            ),
            Self::NamesTooBig { limit } => write!(
                f,
                "the channels and patterns of one stream take more than {limit} bytes when they \
                 are compiled; name fewer, write simpler patterns, or open another stream"
            ),
            Self::TooManyTopics { limit } => {
                write!(f, "one event has at most {limit} topics; send several events")
            }
            Self::KeyReused => f.write_str(
                "this Idempotency-Key was used for another request; repeat a request unchanged, or \
                 send a new key with a new one",
            ),
            Self::StoreFull => f.write_str(
                "the store's disk is full, and nothing was published; make room on it, and try again",
            ),
            Self::Store { reason } => write!(
                f,
                "the store cannot be written, and nothing was published: {reason}; try again later"
            ),
            Self::Unanswered { reason } => write!(
                f,
                "Redis has not answered, so it may be published or not: {reason}; try again with the \
                 same Idempotency-Key, and it is published once"
            ),
        }
    }
}

impl error::Error for PublishError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_error_says_what_to_do() {
        let addr = "127.0.0.1:80".parse().unwrap();
        let taken = StartError::Bind { addr, source: io::ErrorKind::AddrInUse.into() };
        assert!(taken.to_string().contains("--listen"), "{taken}");
    }
}
