//! The engines: servers that differ in who waits and who writes, and in nothing else.
//!
//! | name | who waits for a client | who writes to it |
//! |---|---|---|
//! | `direct` | a thread of its own | one thread for all, until a socket is full |
//! | `wake` | a thread of its own | that thread, woken for each event: the textbook's Apache |
//! | `tiny-http` | two threads of its own | one of them: the same registry in `tiny_http::Server` |
//! | `event-loop` | one thread for all (mio) | the same one: the textbook's Node, in Rust |
//! | `node` | one thread for all (libuv) | the same one: the article's server in JavaScript |
//! | `apache-prefork` | two processes of its own | one of them, Apache's; the other is a streaming script |
//! | `apache-event` | a thread of its own, and one of `direct` behind it | the first: `mod_proxy` |
//!
//! Apache has `direct` behind it, for it sends nothing that it is not given, and what that costs is
//! counted with the rest.
//!
//! Each is a process, with its children: it prints its address, obeys the orders on its stdin (see
//! [`tick`](super::tick)), and answers `GET /channels/bench` with the stream and
//! `GET /lab/slow/disk` and `/lab/slow/cpu` with a handler that takes 200 ms.

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

/// Where every engine has its stream.
pub const PATH: &str = "/channels/bench";

/// Events that are kept for a client that is behind.
const HISTORY_EVENTS: usize = 4_096;
/// And bytes.
const HISTORY_BYTES: usize = 8 * 1024 * 1024;

/// What can be measured.
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
    /// Our default: one thread sends to whoever has caught up.
    Direct,
    /// A thread for each client, woken for each event.
    Wake,
    /// The same registry inside `tiny_http::Server`.
    TinyHttp,
    /// One thread for all clients, on epoll.
    EventLoop,
    /// Node's `http`.
    Node,
    /// Debian's Apache with a process for each connection, and a script's process.
    ApachePrefork,
    /// Debian's Apache with a thread for each connection, before `direct`.
    ApacheEvent,
}

/// What ends the number of an engine's clients.
///
/// ```
/// use threadcast::lab::engine::{Bound, Engine};
///
/// assert_eq!(Engine::Direct.bound(), Bound::Descriptors);
/// assert_eq!(Engine::ApacheEvent.bound(), Bound::Workers);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// What the system gives: each client has a descriptor at least.
    Descriptors,
    /// What its configuration says: Apache's `MaxRequestWorkers`.
    Workers,
}

impl Engine {
    /// All of them, in the order in which they are measured and shown.
    pub const ALL: [Self; 7] = [
        Self::Direct,
        Self::Wake,
        Self::TinyHttp,
        Self::EventLoop,
        Self::Node,
        Self::ApachePrefork,
        Self::ApacheEvent,
    ];

    /// What it is called everywhere.
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

    /// What a client takes. The memory is what `docs/threads.md` and a run of the lab found.
    pub(crate) fn share(self) -> Share {
        let (descriptors, threads, kilobytes) = match self {
            Self::Direct | Self::Wake => return Share::of(&Costs::default()),
            Self::TinyHttp => (2, 2, 127),
            Self::EventLoop => (1, 0, 5),
            Self::Node => (1, 0, 27),
            // The hub's descriptor: each process of Apache's own has a limit of its own.
            Self::ApachePrefork => (1, 3, 4_000),
            Self::ApacheEvent => (1, 2, 240),
        };
        Share { descriptors, threads, memory: kilobytes * 1024, address_space: 0 }
    }

    /// How many clients it holds under this capacity: threadcast keeps a tenth for pages and publishing,
    /// the others keep nothing.
    pub(crate) fn clients_under(self, capacity: &Capacity) -> usize {
        match self {
            Self::TinyHttp | Self::EventLoop | Self::Node => capacity.clients(),
            Self::Direct | Self::Wake | Self::ApachePrefork | Self::ApacheEvent => {
                capacity.max_clients(None)
            }
        }
    }

    /// How many connections it can be asked for at a time. `tiny-http` may leave one of several
    /// without an answer for ever: two that come before a waiting thread has woken count on the same
    /// thread, which the first of two streams then keeps.
    #[must_use]
    pub fn in_flight(self) -> usize {
        if self == Self::TinyHttp { 1 } else { 100 }
    }

    /// Whether it is one of Apache's two.
    #[must_use]
    pub fn is_apache(self) -> bool {
        matches!(self, Self::ApachePrefork | Self::ApacheEvent)
    }

    /// How many clients it is asked to serve at most, whatever the machine could hold: Apache's
    /// processes take so much of it that a thousand clients would tell of nothing else.
    #[must_use]
    pub fn most_clients(self) -> usize {
        match self {
            Self::ApachePrefork => 100,
            Self::ApacheEvent => 4_000,
            _ => usize::MAX,
        }
    }

    /// What its capacity is set by.
    #[must_use]
    pub fn bound(self) -> Bound {
        if self.is_apache() { Bound::Workers } else { Bound::Descriptors }
    }

    /// The command that starts it. `program` is this program, in which most of them live; `room`, if
    /// given, is all that it may have of what [bounds](Self::bound) it.
    ///
    /// The error says what is missing and how to get it.
    pub fn command(self, program: &Path, room: Option<u64>) -> Result<Command, String> {
        match self {
            Self::Node => return node(room),
            Self::ApachePrefork => Mpm::Prefork.find()?,
            Self::ApacheEvent => Mpm::Event.find()?,
            Self::Direct | Self::Wake | Self::TinyHttp | Self::EventLoop => {}
        }
        let mut command = Command::new(program);
        // What it logs when it is brought to its limits is nobody's concern.
        command.stderr(Stdio::null());
        command.args(["lab", "engine", self.name()]);
        if let Some(room) = room {
            command.arg("--room").arg(room.to_string());
        }
        Ok(command)
    }

    /// Is this engine, until stdin ends. Its address is written to `out`.
    ///
    /// # Errors
    ///
    /// When it cannot listen, or is no part of this program.
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
            Self::Node => Err(io::Error::other("node is a program of its own")),
        }
    }
}

/// The article's server, in a program of its own.
fn node(descriptors: Option<u64>) -> Result<Command, String> {
    let node = find("node").ok_or("no `node` on the PATH: apt install nodejs")?;
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

/// The program of this name on the `PATH`.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian has nginx and Apache where only root's PATH goes.
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}
