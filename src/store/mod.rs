//! Stores keep events after the process has ended.
//!
//! A registry without a store keeps events only in its rings, in memory: one ring for the last
//! events of each channel. A store implements the registry's interface `EventLog`: the registry
//! gives it every published event before any subscriber receives the event, and the store then adds
//! the event to the rings. When the server starts, the store fills the rings. Streams read only from
//! the rings, with or without a store.
//!
//! A store assigns the ids of its events. There are two kinds of stores:
//!
//! * A store in a `file` belongs to one node. The store assigns consecutive ids, and the node adds
//!   each batch to its rings as soon as the store has committed the batch.
//! * A log in `redis` is shared between nodes. Redis decides which events of a publish request are
//!   new, and which repeat earlier events. Every node, including the publisher's, adds an event to
//!   its rings only when it reads the event from the log.
//!
//! The code in this module uses neither clients' sockets nor subscribers.

#[cfg(feature = "redb")]
pub(crate) mod file;
#[cfg(any(feature = "redb", feature = "redis"))]
mod queue;
#[cfg(feature = "redis")]
mod redis;

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::Receiver;

#[cfg(feature = "redb")]
pub(crate) use self::file::{ChannelStats, Stats, export, stats};
#[cfg(feature = "redis")]
pub use self::redis::RedisUrl;
use crate::counters::Counters;
use crate::error::StoreError;
use crate::registry::{Registry, RegistryOptions};

/// The place where events are stored: a file or Redis.
///
/// ```
/// use threadcast::StoreAt;
///
/// assert!(matches!("history.redb".into(), StoreAt::File(_)));
/// assert!(matches!("redis://127.0.0.1".into(), StoreAt::Redis(_)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAt {
    #[cfg(feature = "redb")]
    /// A file that belongs to this node. It is created if it does not exist.
    File(PathBuf),
    #[cfg(feature = "redis")]
    /// A Redis server, shared by all nodes that use the same address.
    Redis(RedisUrl),
}

impl StoreAt {
    /// Whether the events are in a file that belongs to this node.
    pub(crate) fn is_file(&self) -> bool {
        match *self {
            #[cfg(feature = "redb")]
            Self::File(_) => true,
            #[cfg(feature = "redis")]
            Self::Redis(_) => false,
        }
    }
}

#[cfg(all(feature = "redb", feature = "redis"))]
impl From<OsString> for StoreAt {
    /// Text that begins with a scheme of Redis, such as `redis://`, is the address of a Redis
    /// server; any other text is a file's path.
    fn from(text: OsString) -> Self {
        match text.to_str().and_then(RedisUrl::of) {
            Some(url) => Self::Redis(url),
            None => Self::File(text.into()),
        }
    }
}

#[cfg(all(feature = "redb", feature = "redis"))]
impl From<PathBuf> for StoreAt {
    fn from(path: PathBuf) -> Self {
        path.into_os_string().into()
    }
}

#[cfg(all(feature = "redb", feature = "redis"))]
impl From<&str> for StoreAt {
    fn from(text: &str) -> Self {
        OsString::from(text).into()
    }
}

/// Opens a store, and creates the registry with its events.
///
/// The caller must run each task on a thread of its own, because nothing is published until they
/// run.
pub(crate) fn open(
    at: &StoreAt,
    options: RegistryOptions,
    counters: &Arc<Counters>,
) -> Result<Opened, StoreError> {
    match *at {
        #[cfg(feature = "redb")]
        StoreAt::File(ref path) => {
            let (registry, writer, file) = file::open(path, options, counters)?;
            let tasks = vec![StoreTask::new("store-writer", move |stop| writer.run(stop))];
            Ok(Opened { registry, tasks, place: Place::File(file) })
        }
        #[cfg(feature = "redis")]
        StoreAt::Redis(ref url) => {
            let (registry, publisher, follower) = redis::open(url, options, counters)?;
            let publisher = StoreTask::new("store-writer", move |stop| publisher.run(stop));
            let follower = StoreTask::new("redis-reader", move |stop| follower.run(stop));
            Ok(Opened { registry, tasks: vec![publisher, follower], place: Place::Nowhere })
        }
    }
}

/// An open store.
pub(crate) struct Opened {
    pub(crate) registry: Registry,
    pub(crate) tasks: Vec<StoreTask>,
    pub(crate) place: Place,
}

/// Where a server can keep logs that are not channels.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// In memory, because there is no store.
    Memory,
    /// In the file of the store.
    #[cfg(feature = "redb")]
    File(file::SharedFile),
    /// Nowhere, because other nodes that share the store would not have them.
    Nowhere,
}

/// The work of one of a store's threads.
#[must_use = "nothing is published until it runs"]
pub(crate) struct StoreTask {
    /// The name of the thread.
    pub(crate) name: &'static str,
    run: Run,
}

/// A function that works until its argument is disconnected.
type Run = Box<dyn FnOnce(&Receiver<Infallible>) + Send>;

impl StoreTask {
    fn new(name: &'static str, run: impl FnOnce(&Receiver<Infallible>) + Send + 'static) -> Self {
        Self { name, run: Box::new(run) }
    }

    /// Works until `stop` is disconnected and the queue, if there is one, is empty.
    pub(crate) fn run(self, stop: &Receiver<Infallible>) {
        (self.run)(stop);
    }
}
