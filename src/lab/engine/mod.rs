//! The engines: the servers that the lab compares. They differ in which thread waits for a client
//! and which thread writes to it.
//!
//! | name | waits for a client | writes to it |
//! |---|---|---|
//! | `direct` | a thread of its own | one thread for all, until a socket is full |
//! | `wake` | a thread of its own | that thread, woken for each event: the textbook's Apache |
//! | `tiny-http` | two threads of its own | one of them (threadcast's registry in `tiny_http`) |
//! | `event-loop` | one thread for all (mio) | that thread: the textbook's Node, in Rust |
//! | `node` | one thread for all (libuv) | that thread: the tutorials' server, in JavaScript |
//! | `apache-prefork` | two processes of its own | the process of Apache; the other runs a script |
//! | `apache-event` | a thread of Apache, and one of `direct` behind it | the thread of Apache |
//!
//! Apache only forwards a stream, so the two Apache engines consist of Apache and of `direct`
//! behind Apache. Their cost includes the cost of `direct`.
//!
//! Each engine is a process, which may have child processes. It prints its address and reads
//! traffic settings from its stdin (see [`sse_load::tick`]). It serves the stream at `GET
//! /channels/bench`, and a handler that takes 200 ms at `GET /lab/slow/disk` and `GET
//! /lab/slow/cpu`.

mod apache;
mod event_loop;
mod publisher;
mod same;
mod threads;
mod tiny;

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};
use sse_load::process::find_program;
use threadcast::Delivery;

use self::apache::Mpm;
pub(crate) use self::same::PATH;
use crate::capacity::{Capacity, Costs, Share};

/// The JavaScript source of the `node` engine; `make bench` includes it too.
const NODE: &str = include_str!("node.js");

/// An engine that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Engine {
    /// threadcast as it runs by default: one thread sends to all clients that have caught up.
    Direct,
    /// threadcast with `--delivery wake`: each client has a thread, which is woken for each event
    /// and sends it.
    Wake,
    /// threadcast's registry in a server built on the crate `tiny_http`.
    TinyHttp,
    /// A server in Rust with one thread and one `epoll` for all clients.
    EventLoop,
    /// A server in JavaScript on Node's `http` module.
    Node,
    /// Debian's Apache with two processes for each connection: one of Apache, and one that runs a
    /// script.
    ApachePrefork,
    /// Debian's Apache in front of `direct`, with a thread of Apache for each connection.
    ApacheEvent,
}

/// The kind of limit that determines the maximum number of an engine's clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// The system's limit on descriptors: each client needs at least one.
    Descriptors,
    /// The limit in Apache's configuration, `MaxRequestWorkers`.
    Workers,
}

impl Engine {
    /// All engines, in the order in which they are measured and shown.
    pub(crate) const ALL: [Self; 7] = [
        Self::Direct,
        Self::Wake,
        Self::TinyHttp,
        Self::EventLoop,
        Self::Node,
        Self::ApachePrefork,
        Self::ApacheEvent,
    ];

    /// Returns the name on the command line and in the report.
    pub(crate) fn name(self) -> &'static str {
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

    /// Returns the engine of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }

    /// Returns the resources that one client uses. The amounts of memory are measured: see
    /// `docs/threads.md` and the lab's report.
    pub(crate) fn share(self) -> Share {
        let (descriptors, threads, kilobytes) = match self {
            Self::Direct | Self::Wake => return Share::of(&Costs::default()),
            Self::TinyHttp => (2, 2, 127),
            Self::EventLoop => (1, 0, 5),
            Self::Node => (1, 0, 27),
            // The one descriptor belongs to `direct`, behind Apache. Apache's descriptors are not
            // counted, because each process of Apache has a descriptor limit of its own.
            Self::ApachePrefork => (1, 3, 4_000),
            Self::ApacheEvent => (1, 2, 240),
        };
        Share { descriptors, threads, memory: kilobytes * 1024, address_space: 0 }
    }

    /// Returns how many clients this engine can hold under this capacity. The engines that contain
    /// a threadcast server reserve a tenth of the capacity for pages and publishing; the other
    /// engines reserve nothing.
    pub(crate) fn clients_under(self, capacity: &Capacity) -> usize {
        match self {
            Self::TinyHttp | Self::EventLoop | Self::Node => capacity.clients(),
            Self::Direct | Self::Wake | Self::ApachePrefork | Self::ApacheEvent => {
                capacity.max_clients(None)
            }
        }
    }

    /// Returns how many connections of the load generator may wait for a response at a time. For
    /// `tiny-http`, it is one: if two connections arrive before a waiting thread has woken,
    /// tiny_http assigns both to that thread. If the first connection is a stream, it occupies the
    /// thread, and the second connection never gets a response.
    pub(crate) fn in_flight(self) -> usize {
        if self == Self::TinyHttp { 1 } else { 100 }
    }

    /// Whether this is one of the two Apache engines.
    pub(crate) fn is_apache(self) -> bool {
        matches!(self, Self::ApachePrefork | Self::ApacheEvent)
    }

    /// Returns the maximum number of clients that the lab opens on this engine, even if the machine
    /// can hold more. Each client of `apache-prefork` takes so much memory that 1,000 clients would
    /// overload the machine.
    pub(crate) fn most_clients(self) -> usize {
        match self {
            Self::ApachePrefork => 100,
            Self::ApacheEvent => 4_000,
            _ => usize::MAX,
        }
    }

    /// Returns the kind of limit that determines this engine's capacity.
    pub(crate) fn bound(self) -> Bound {
        if self.is_apache() { Bound::Workers } else { Bound::Descriptors }
    }

    /// Returns the command that starts this engine. `program` is the path of `threadcast`, because
    /// most engines are commands of that program. `room`, if given, limits the descriptors or
    /// workers of the engine, depending on [`bound`](Self::bound).
    ///
    /// The error says which program is missing and how to install it.
    pub(crate) fn command(self, program: &Path, room: Option<u64>) -> Result<Command, String> {
        match self {
            Self::Node => drop(node()?),
            Self::ApachePrefork => Mpm::Prefork.find()?,
            Self::ApacheEvent => Mpm::Event.find()?,
            Self::Direct | Self::Wake | Self::TinyHttp | Self::EventLoop => {}
        }
        let mut command = Command::new(program);
        // An engine logs errors when it reaches its limits. The lab expects these errors, so its
        // command discards them.
        command.stderr(Stdio::null());
        command.args(["lab", "engine", self.name()]);
        if let Some(room) = room {
            command.arg("--room").arg(room.to_string());
        }
        Ok(command)
    }

    /// Runs this engine until stdin ends. Writes the engine's address to `out`.
    ///
    /// # Errors
    ///
    /// Fails if the engine cannot listen, or if a program that it needs is missing.
    pub(crate) fn run(self, room: Option<u64>, out: impl Write) -> io::Result<()> {
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
            // Node takes the place of this process, with its id, stdin and stdout.
            Self::Node => {
                let node = node().map_err(io::Error::other)?;
                Err(Command::new(node).args(["-e", NODE]).exec())
            }
        }
    }
}

/// Returns the path of the program that runs `node.js`, the tutorials' server.
fn node() -> Result<PathBuf, String> {
    find_program("node").ok_or("no `node` on the PATH; install it with apt install nodejs".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engine_is_found_by_its_name() {
        for engine in Engine::ALL {
            assert_eq!(Engine::named(engine.name()), Some(engine));
        }
        let apaches = Engine::ALL.into_iter().filter(|engine| engine.is_apache());
        let names: Vec<_> = apaches.map(Engine::name).collect();
        assert_eq!(names, ["apache-prefork", "apache-event"]);
        assert_eq!(Engine::Direct.bound(), Bound::Descriptors);
        assert_eq!(Engine::ApacheEvent.bound(), Bound::Workers);
    }
}
