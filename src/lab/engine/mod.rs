//! The engines: servers that differ only in which thread waits for a client and which writes to it.
//!
//! | name | waits for a client | writes to it |
//! |---|---|---|
//! | `direct` | a thread of its own | one thread for all, until a socket is full |
//! | `wake` | a thread of its own | that thread, woken for each event: the textbook's Apache |
//! | `tiny-http` | two threads of its own | one of them: the same registry in `tiny_http::Server` |
//! | `event-loop` | one thread for all (mio) | the same one: the textbook's Node, in Rust |
//! | `node` | one thread for all (libuv) | the same one: the article's server in JavaScript |
//! | `apache-prefork` | two processes of its own | one of them, Apache's; the other is a streaming script |
//! | `apache-event` | a thread of its own, and one of `direct` behind it | the first: `mod_proxy` |
//!
//! Apache has `direct` behind it, because it only forwards a stream; the cost of both is counted.
//!
//! Each engine is a process with its children. It prints its address, reads traffic settings from
//! its stdin (see [`tick`](super::tick)), and serves the stream at `GET /channels/bench`, and a
//! handler that takes 200 ms at `GET /lab/slow/disk` and `/lab/slow/cpu`.

mod apache;
mod event_loop;
mod publisher;
mod threads;
mod tiny;

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::broadcast::Delivery;
use crate::capacity::{Capacity, Costs, Share};
use apache::Mpm;

/// The server of the `node` engine.
pub const NODE: &str = include_str!("node.js");

/// The path of every engine's stream.
pub const PATH: &str = "/channels/bench";

/// How many events are kept for a client that is behind.
const HISTORY_EVENTS: usize = 4_096;
/// How many bytes of events are kept.
const HISTORY_BYTES: usize = 8 * 1024 * 1024;

/// An engine that can be measured.
///
/// ```
/// use threadcast::lab::engine::Engine;
///
/// let apaches = Engine::ALL.into_iter().filter(|engine| engine.is_apache());
/// let names: Vec<_> = apaches.map(Engine::name).collect();
/// assert_eq!(names, ["apache-prefork", "apache-event"]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// The default: one thread sends to all clients that have caught up.
    Direct,
    /// A thread for each client, woken for each event.
    Wake,
    /// The same registry inside `tiny_http::Server`.
    TinyHttp,
    /// One thread for all clients, on epoll.
    EventLoop,
    /// Node's `http`.
    Node,
    /// Debian's Apache with a process for each connection, plus a script's process.
    ApachePrefork,
    /// Debian's Apache with a thread for each connection, in front of `direct`.
    ApacheEvent,
}

/// What limits the number of an engine's clients.
///
/// ```
/// use threadcast::lab::engine::{Bound, Engine};
///
/// assert_eq!(Engine::Direct.bound(), Bound::Descriptors);
/// assert_eq!(Engine::ApacheEvent.bound(), Bound::Workers);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The system: each client needs at least one descriptor.
    Descriptors,
    /// The configuration: Apache's `MaxRequestWorkers`.
    Workers,
}

impl Engine {
    /// All engines, in the order in which they are measured and shown.
    pub const ALL: [Self; 7] = [
        Self::Direct,
        Self::Wake,
        Self::TinyHttp,
        Self::EventLoop,
        Self::Node,
        Self::ApachePrefork,
        Self::ApacheEvent,
    ];

    /// The name on the command line and in the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Wake => "wake",
            Self::TinyHttp => "tiny-http",
            Self::EventLoop => "event-loop",
            Self::Node => "node",
            Self::ApachePrefork => "apache-prefork",
            Self::ApacheEvent => "apache-event",
        }
    }

    /// The engine of this name.
    ///
    /// ```
    /// use threadcast::lab::engine::Engine;
    ///
    /// assert_eq!(Engine::named("wake"), Some(Engine::Wake));
    /// ```
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }

    /// The resources that a client uses. The memory is what `docs/threads.md` and a run of the lab
    /// found.
    pub(crate) fn share(self) -> Share {
        let (descriptors, threads, kilobytes) = match self {
            Self::Direct | Self::Wake => return Share::of(&Costs::default()),
            Self::TinyHttp => (2, 2, 127),
            Self::EventLoop => (1, 0, 5),
            Self::Node => (1, 0, 27),
            // The hub's descriptor: each of Apache's processes has a limit of its own.
            Self::ApachePrefork => (1, 3, 4_000),
            Self::ApacheEvent => (1, 2, 240),
        };
        Share { descriptors, threads, memory: kilobytes * 1024, address_space: 0 }
    }

    /// How many clients it holds under this capacity. threadcast reserves a tenth for pages and
    /// publishing; the others reserve nothing.
    pub(crate) fn clients_under(self, capacity: &Capacity) -> usize {
        match self {
            Self::TinyHttp | Self::EventLoop | Self::Node => capacity.clients(),
            Self::Direct | Self::Wake | Self::ApachePrefork | Self::ApacheEvent => {
                capacity.max_clients(None)
            }
        }
    }

    /// How many connections may be opened at a time. With `tiny-http`, one of several can wait for
    /// a response for ever: if two arrive before a waiting thread has woken, both count on the same
    /// thread, and the first of two streams then keeps it.
    #[must_use]
    pub fn in_flight(self) -> usize {
        if self == Self::TinyHttp { 1 } else { 100 }
    }

    /// Whether it is one of the two Apache engines.
    #[must_use]
    pub fn is_apache(self) -> bool {
        matches!(self, Self::ApachePrefork | Self::ApacheEvent)
    }

    /// How many clients it is asked to serve at most, whatever the machine can hold. Apache's
    /// processes use so much that 1,000 clients would measure nothing else.
    #[must_use]
    pub fn most_clients(self) -> usize {
        match self {
            Self::ApachePrefork => 100,
            Self::ApacheEvent => 4_000,
            _ => usize::MAX,
        }
    }

    /// What limits its capacity.
    #[must_use]
    pub fn bound(self) -> Bound {
        if self.is_apache() { Bound::Workers } else { Bound::Descriptors }
    }

    /// The command that starts it. `program` is this program, which most engines are part of.
    /// `room`, if given, limits the resource that [bounds](Self::bound) it.
    ///
    /// The error says what is missing and how to install it.
    pub fn command(self, program: &Path, room: Option<u64>) -> Result<Command, String> {
        match self {
            Self::Node => return node(room),
            Self::ApachePrefork => Mpm::Prefork.find()?,
            Self::ApacheEvent => Mpm::Event.find()?,
            Self::Direct | Self::Wake | Self::TinyHttp | Self::EventLoop => {}
        }
        let mut command = Command::new(program);
        // Ignores what it logs when it reaches its limits.
        command.stderr(Stdio::null());
        command.args(["lab", "engine", self.name()]);
        if let Some(room) = room {
            command.arg("--room").arg(room.to_string());
        }
        Ok(command)
    }

    /// Runs this engine until stdin ends. Writes its address to `out`.
    ///
    /// # Errors
    ///
    /// Fails if it cannot listen, or is not part of this program.
    pub fn run(self, room: Option<u64>, out: impl Write) -> io::Result<()> {
        if room.is_some() && self.bound() == Bound::Descriptors {
            setrlimit(Resource::Nofile, Rlimit { current: room, maximum: room })?;
        }
        match self {
            Self::Direct => threads::run(Delivery::Direct, out),
            Self::Wake => threads::run(Delivery::Wake, out),
            Self::TinyHttp => tiny::run(out),
            Self::EventLoop => event_loop::run(out),
            Self::ApachePrefork => apache::run(Mpm::Prefork, room, out),
            Self::ApacheEvent => apache::run(Mpm::Event, room, out),
            Self::Node => {
                Err(io::Error::other("node is not part of this program; run it with `node`"))
            }
        }
    }
}

/// The article's server, run by Node.
fn node(descriptors: Option<u64>) -> Result<Command, String> {
    let node = find("node").ok_or("no `node` on the PATH; install it with apt install nodejs")?;
    let Some(descriptors) = descriptors else {
        let mut command = Command::new(node);
        command.args(["-e", NODE]);
        return Ok(command);
    };
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {descriptors} && exec \"$0\" -e \"$1\""));
    command.arg(node).arg(NODE);
    Ok(command)
}

/// Finds the program of this name on the `PATH`.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian installs nginx and Apache in a folder that only root's `PATH` has.
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}
