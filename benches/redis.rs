//! What sharing a Redis costs, next to one node in memory: `cargo bench --bench redis`,
//! where there is a `redis-server`; `REDIS_BENCH` is a folder on the disk that is meant.
//!
//! From publishing at one node to reading at another, an event at a time; and events a
//! second, with a thousand clients at each of three nodes. All of it runs on this machine:
//! the nodes, their clients, the publishers and Redis.

#![allow(clippy::print_stdout)] // a program that reports

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use threadcast::{Config, Event, Handle, Histories, History, Registry, Server, StoreAt};

/// How many events are timed one by one.
const TIMED: usize = 2_000;

/// How many events are published as fast as they can be, and by how many.
const MANY: usize = 8_000;
const PUBLISHERS: usize = 64;

/// How many clients a node has.
const CLIENTS: usize = 1_000;

fn main() {
    threadcast::raise_own_limits();
    if Command::new("redis-server").arg("--version").output().is_err() {
        return println!("there is no redis-server; `make redis` installs one");
    }
    let folder = std::env::var_os("REDIS_BENCH").map_or_else(std::env::temp_dir, Into::into);
    let folder = folder.join(format!("threadcast-bench-{}", std::process::id()));
    println!("publish to read, one event at a time, p50 and p99:");
    let memory = latency(&[Node::start(None)]);
    println!("  one node, in memory:                {}", told(&memory));
    for fsync in ["everysec", "always"] {
        let redis = Redis::start(&folder, fsync);
        let across = latency(&[(); 2].map(|()| Node::start(Some(redis.store()))));
        let ratio = across[TIMED / 2].as_secs_f64() / memory[TIMED / 2].as_secs_f64();
        println!("  two nodes, appendfsync {fsync:8}:    {}; {ratio:.1} times", told(&across));
    }
    println!("{MANY} events by {PUBLISHERS} publishers, until the last client has the last one:");
    let memory = rate(&[Node::start(None)]);
    report("one node, in memory", 1, memory, memory);
    for fsync in ["everysec", "always"] {
        let redis = Redis::start(&folder, fsync);
        let nodes = [(); 3].map(|()| Node::start(Some(redis.store())));
        report(&format!("three nodes, appendfsync {fsync}"), 3, rate(&nodes), memory);
    }
    fs::remove_dir_all(&folder).expect("it is ours");
}

fn told(times: &[Duration]) -> String {
    let at = |hundredth: usize| times[(times.len() - 1) * hundredth / 100];
    format!("{:.2?}, {:.2?}", at(50), at(99))
}

#[allow(clippy::cast_precision_loss)] // far below 2^52
fn report(what: &str, nodes: usize, (published, read): (Duration, Duration), memory: Took) {
    let rate = |took: Duration| MANY as f64 / took.as_secs_f64();
    println!(
        "  {what}: {:.0} acknowledged a second, {:.0} read by each of {} clients ({:.2} million \
         deliveries a second); {:.2} of memory's",
        rate(published),
        rate(read),
        nodes * CLIENTS,
        rate(read) * (nodes * CLIENTS) as f64 / 1e6,
        rate(read) / rate(memory.1),
    );
}

/// Until all was acknowledged, and until all was read.
type Took = (Duration, Duration);

/// Publishes at the first node and reads at the last.
fn latency(nodes: &[Node]) -> Vec<Duration> {
    let (first, last) = (&nodes[0], nodes.last().expect("there is one"));
    let mut stream = BufReader::new(listen(last.addr));
    let mut times = Vec::new();
    let mut line = String::new();
    for n in 0..TIMED {
        let event = Event::new(n.to_string());
        let asked = Instant::now();
        first.registry.publish("news", &event).expect("it is kept");
        while line.trim_end() != format!("data: {n}") {
            line.clear();
            stream.read_line(&mut line).expect("the stream goes on");
        }
        times.push(asked.elapsed());
    }
    times.sort_unstable();
    times
}

/// Publishes as fast as it goes, at all nodes in turn.
fn rate(nodes: &[Node]) -> Took {
    let crowds: Vec<Crowd> = nodes.iter().map(|node| Crowd::of(node.addr)).collect();
    let event = Event::new("x".repeat(100));
    let begin = Instant::now();
    thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let (registry, event) = (&nodes[publisher % nodes.len()].registry, &event);
            scope.spawn(move || {
                for _ in 0..MANY / PUBLISHERS {
                    registry.publish("news", event).expect("it is kept");
                }
            });
        }
    });
    let published = begin.elapsed();
    let read = crowds.into_iter().map(|crowd| crowd.reading.join().expect("it reads"));
    (published, read.max().expect("there is a crowd") - begin)
}

/// A node of its own.
struct Node {
    addr: SocketAddr,
    registry: Registry,
    handle: Handle,
    running: Option<JoinHandle<()>>,
}

impl Node {
    fn start(store: Option<StoreAt>) -> Self {
        let history =
            History { events: MANY, bytes: 64 * 1024 * 1024, age: Duration::from_secs(600) };
        let listen = vec!["127.0.0.1:0".parse().expect("an address")];
        let history = Histories::all(history);
        let config = Config { listen, history, store, ..Config::default() };
        let server = Server::bind(config).expect("a free port");
        let (registry, handle) = (server.registry().clone(), server.handle());
        let addr = server.addresses()[0];
        let running = thread::spawn(move || server.run().expect("it runs"));
        Self { addr, registry, handle, running: Some(running) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.handle.shutdown();
        self.running.take().expect("joined only here").join().expect("it ends");
    }
}

fn listen(addr: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(addr).expect("it listens");
    socket.write_all(b"GET /channels/news HTTP/1.0\r\n\r\n").expect("it reads");
    // It listens once what a stream begins with is there.
    let mut begun = Vec::new();
    while !begun.ends_with(b"\n\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("a stream");
        begun.extend_from_slice(&byte);
    }
    socket
}

/// A thousand clients on one thread, until each has read all.
struct Crowd {
    reading: JoinHandle<Instant>,
}

impl Crowd {
    fn of(addr: SocketAddr) -> Self {
        let mut poll = Poll::new().expect("descriptors");
        let mut clients: Vec<(mio::net::TcpStream, usize)> = (0..CLIENTS)
            .map(|n| {
                let socket = listen(addr);
                socket.set_nonblocking(true).expect("a socket");
                let mut socket = mio::net::TcpStream::from_std(socket);
                let registry = poll.registry();
                registry.register(&mut socket, Token(n), Interest::READABLE).expect("room");
                (socket, 0)
            })
            .collect();
        let reading = thread::spawn(move || {
            let (mut events, mut bytes) = (Events::with_capacity(CLIENTS), vec![0; 64 * 1024]);
            let mut done = 0;
            while done < CLIENTS {
                poll.poll(&mut events, Some(Duration::from_secs(30))).expect("it waits");
                assert!(!events.is_empty(), "nothing for 30 s, and {done} have all");
                for event in &events {
                    let (socket, seen) = &mut clients[event.token().0];
                    loop {
                        match socket.read(&mut bytes) {
                            Ok(0) => panic!("cut off"),
                            // Nothing but the data has an `x` in it.
                            Ok(count) => {
                                let before = *seen;
                                *seen += memchr::memchr_iter(b'x', &bytes[..count]).count();
                                done += usize::from(before < 100 * MANY && *seen == 100 * MANY);
                            }
                            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            }
            Instant::now()
        });
        Self { reading }
    }
}

/// A Redis of its own, which keeps nothing for the next.
struct Redis {
    child: Child,
    socket: String,
}

impl Redis {
    fn start(folder: &Path, fsync: &str) -> Self {
        let folder = folder.join(fsync);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a new folder");
        let socket = folder.join("r.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", fsync])
            .arg("--dir")
            .arg(&folder)
            .arg("--unixsocket")
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .expect("it is there");
        let begin = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(10), "Redis does not start");
            thread::yield_now();
        }
        Self { child, socket: socket.display().to_string() }
    }

    fn store(&self) -> StoreAt {
        format!("redis+unix://{}", self.socket).as_str().into()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
