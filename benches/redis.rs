//! Compares nodes that share a Redis with one node that keeps its events in memory: `cargo bench
//! --bench redis`. The bench needs `redis-server`. Set `REDIS_BENCH` to a folder on the disk to
//! measure.
//!
//! The bench measures two figures. The latency is the time from publishing an event at one node to
//! reading it at another node, one event at a time. The rate is the number of events per second,
//! with 1,000 clients at each of three nodes. The nodes, their clients, the publishers and Redis
//! all run on this machine.

#![allow(clippy::print_stdout)] // the bench prints a report

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use threadcast::{Config, Event, Handle, Histories, History, Registry, Server, StoreAt};

/// How many events are published one by one to measure the latency.
const TIMED: usize = 2_000;

/// How many events are published as fast as possible to measure the rate.
const MANY: usize = 8_000;
const PUBLISHERS: usize = 64;

/// How many clients each node has.
const CLIENTS: usize = 1_000;

fn main() {
    threadcast::raise_own_limits();
    if Command::new("redis-server").arg("--version").output().is_err() {
        return println!("redis-server not found; install it with `make redis`");
    }
    let folder = std::env::var_os("REDIS_BENCH").map_or_else(std::env::temp_dir, Into::into);
    let folder = folder.join(format!("threadcast-bench-{}", std::process::id()));
    println!("publish to read, one event at a time, p50 and p99:");
    let memory = latency(&[Node::start(None)]);
    println!("  one node, in memory:                {}", quantiles(&memory));
    for fsync in ["everysec", "always"] {
        let redis = Redis::start(&folder, fsync);
        let across = latency(&[(); 2].map(|()| Node::start(Some(redis.store()))));
        let ratio = across[TIMED / 2].as_secs_f64() / memory[TIMED / 2].as_secs_f64();
        println!("  two nodes, appendfsync {fsync:8}:    {}; {ratio:.1} times", quantiles(&across));
    }
    println!("{MANY} events by {PUBLISHERS} publishers, until the last client has the last one:");
    let memory = rate(&[Node::start(None)]);
    report("one node, in memory", 1, memory, memory);
    for fsync in ["everysec", "always"] {
        let redis = Redis::start(&folder, fsync);
        let nodes = [(); 3].map(|()| Node::start(Some(redis.store())));
        report(&format!("three nodes, appendfsync {fsync}"), 3, rate(&nodes), memory);
    }
    fs::remove_dir_all(&folder).expect("the folder can be removed");
}

fn quantiles(times: &[Duration]) -> String {
    let at = |hundredth: usize| times[(times.len() - 1) * hundredth / 100];
    format!("{:.2?}, {:.2?}", at(50), at(99))
}

#[allow(clippy::cast_precision_loss)] // counts are far below 2^52
fn report(what: &str, nodes: usize, (published, read): (Duration, Duration), memory: Took) {
    let rate = |took: Duration| MANY as f64 / took.as_secs_f64();
    println!(
        "  {what}: {:.0} acknowledged per second, {:.0} read by each of {} clients ({:.2} million \
         deliveries per second); {:.2} times the rate in memory",
        rate(published),
        rate(read),
        nodes * CLIENTS,
        rate(read) * (nodes * CLIENTS) as f64 / 1e6,
        rate(read) / rate(memory.1),
    );
}

/// The time until all events were acknowledged, and the time until all were read.
type Took = (Duration, Duration);

/// Publishes events at the first node and reads them at the last. Returns the latency of each
/// event.
fn latency(nodes: &[Node]) -> Vec<Duration> {
    let (first, last) = (&nodes[0], nodes.last().expect("at least one node"));
    let mut stream = BufReader::new(listen(last.addr));
    let mut times = Vec::new();
    let mut line = String::new();
    for n in 0..TIMED {
        let event = Event::new(n.to_string());
        let start = Instant::now();
        first.registry.publish("news", &event).expect("the event is published");
        while line.trim_end() != format!("data: {n}") {
            line.clear();
            stream.read_line(&mut line).expect("the stream is open");
        }
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times
}

/// Publishes events as fast as possible, with the publishers spread over all nodes.
fn rate(nodes: &[Node]) -> Took {
    let loads: Vec<LoadClients> = nodes.iter().map(|node| LoadClients::of(node.addr)).collect();
    let event = Event::new("x".repeat(100));
    let begin = Instant::now();
    thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let (registry, event) = (&nodes[publisher % nodes.len()].registry, &event);
            scope.spawn(move || {
                for _ in 0..MANY / PUBLISHERS {
                    registry.publish("news", event).expect("the event is published");
                }
            });
        }
    });
    let published = begin.elapsed();
    let read = loads.into_iter().map(|load| load.reading.join().expect("the node is running"));
    (published, read.max().expect("at least one node") - begin)
}

/// A node: a server in this process.
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
        let running = thread::spawn(move || server.run().expect("the server runs"));
        Self { addr, registry, handle, running: Some(running) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.handle.shutdown();
        self.running.take().expect("joined only here").join().expect("the server ends");
    }
}

fn listen(addr: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(addr).expect("the node listens");
    socket.write_all(b"GET /channels/news HTTP/1.0\r\n\r\n").expect("the node is running");
    // The stream has begun once its first frame is read.
    let mut begun = Vec::new();
    while !begun.ends_with(b"\n\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte).expect("a stream");
        begun.extend_from_slice(&byte);
    }
    socket
}

/// 1,000 clients of one node, on one thread. They read until each of them has received all events.
struct LoadClients {
    reading: JoinHandle<Instant>,
}

impl LoadClients {
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
                poll.poll(&mut events, Some(Duration::from_secs(30))).expect("epoll works");
                assert!(!events.is_empty(), "no event for 30 s; {done} clients have all");
                for event in &events {
                    let (socket, seen) = &mut clients[event.token().0];
                    loop {
                        match socket.read(&mut bytes) {
                            Ok(0) => panic!("disconnected"),
                            // Each event has 100 bytes `x`, and no other byte of the stream is an
                            // `x`.
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

/// A Redis server that starts empty.
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
            .expect("redis-server starts");
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
