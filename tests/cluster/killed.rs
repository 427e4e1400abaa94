//! Three nodes that share a Redis, and clients that move between the nodes.
//!
//! Redis is killed and restarted twice, and one node is killed for good. No client misses an
//! event or receives one twice.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{
    Decoder, Process, Received, TIMEOUT, allow_descriptors, pace, say, skip, wait_until,
};
use crate::server::{Redis, free_port};
use threadcast::EventId;

const CLIENTS: usize = 300;
const PUBLISHERS: usize = 8;

/// The number of events that nodes must acknowledge before the test kills the next process.
const EVENTS: usize = 120;

/// The maximum number of events that a client reads from one node before it moves to another.
const STAY: usize = 60;

/// How long a client waits for a byte before it moves to another node.
const SILENCE: Duration = Duration::from_secs(1);

/// The state that publishers and clients share.
struct World {
    nodes: Vec<SocketAddr>,
    /// The id of each acknowledged event, its publisher, and the publisher's number for the event.
    acknowledged: Mutex<BTreeMap<EventId, (usize, usize)>>,
    rejected: AtomicUsize,
    enough: AtomicBool,
    /// The id of the last acknowledged event; `None` until the publishers have ended.
    last: Mutex<Option<EventId>>,
}

/// What one client has received.
#[derive(Default)]
struct Seen {
    events: Vec<(EventId, (usize, usize))>,
    gaps: Vec<String>,
    connections: usize,
}

impl World {
    fn acknowledged(&self) -> usize {
        self.acknowledged.lock().expect("not poisoned").len()
    }

    fn node(&self) -> SocketAddr {
        self.nodes[fastrand::usize(..self.nodes.len())]
    }

    /// Publishes one event after the other, and repeats each until a node acknowledges it.
    fn publish(&self, publisher: usize) {
        for n in 0.. {
            if self.enough.load(Ordering::Acquire) {
                return;
            }
            let id = loop {
                match post(self.node(), publisher, n) {
                    Ok(Some(id)) => break id,
                    Ok(None) => self.rejected.fetch_add(1, Ordering::Relaxed),
                    Err(_) => 0, // the node is dead or dying
                };
                pace(Duration::from_millis(20));
            };
            let known = self.acknowledged.lock().expect("not poisoned").insert(id, (publisher, n));
            assert_eq!(known, None, "an id was assigned twice");
        }
    }

    /// Subscribes at one random node after the other, until the client has received the last event.
    fn listen(&self) -> Seen {
        let mut seen = Seen::default();
        let started = Instant::now();
        loop {
            let last = *self.last.lock().expect("not poisoned");
            let position = seen.events.last().map(|(id, _)| *id);
            if last.is_some() && position >= last {
                return seen;
            }
            assert!(started.elapsed() < TIMEOUT * 3, "stuck at {position:?} of {last:?}");
            seen.connections += 1;
            let _ = self.stay(position, last, &mut seen); // after an error, the loop continues
        }
    }

    fn stay(
        &self,
        after: Option<EventId>,
        last: Option<EventId>,
        seen: &mut Seen,
    ) -> io::Result<()> {
        let mut socket = TcpStream::connect(self.node())?;
        socket.set_read_timeout(Some(SILENCE))?;
        let cursor = match after {
            Some(id) => format!("Last-Event-ID: {id}\r\n"),
            None => String::new(),
        };
        let query = "channel=c*&since=all";
        write!(socket, "GET /channels?{query} HTTP/1.1\r\nHost: localhost\r\n{cursor}\r\n")?;
        let (mut decoder, mut bytes) = (Decoder::default(), [0; 8_192]);
        let mut left = fastrand::usize(1..=STAY);
        while left > 0 && !decoder.ended {
            let count = socket.read(&mut bytes)?;
            if count == 0 {
                return Ok(());
            }
            for event in decoder.push(&bytes[..count]) {
                seen.gaps.extend(event.gap().map(|gap| gap.to_string()));
                let Some((publisher, n)) = event.data().split_once(' ') else { continue };
                let id = event.id.as_deref().and_then(|id| id.parse().ok());
                let number = |text: &str| text.parse().expect("a number");
                let event = (id.expect("a cursor"), (number(publisher), number(n)));
                seen.events.push(event);
                left = left.saturating_sub(1);
                if last.is_some_and(|last| event.0 >= last) {
                    return Ok(());
                }
                if left == 0 {
                    break; // the client behaves as if later events had not arrived
                }
            }
        }
        Ok(())
    }
}

/// Publishes an event. Returns its id, or `None` if the node responds with 503.
fn post(node: SocketAddr, publisher: usize, n: usize) -> io::Result<Option<EventId>> {
    let mut socket = TcpStream::connect(node)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let data = format!("{publisher} {n}");
    let (channel, length) = (publisher % 4, data.len());
    write!(
        socket,
        "POST /channels/c{channel} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Idempotency-Key: {publisher}-{n}\r\nContent-Length: {length}\r\n\r\n{data}"
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let head = head.to_ascii_lowercase();
    let ours = head.contains("\r\nserver: threadcast/");
    if head.starts_with("http/1.1 503 ") && ours {
        assert!(head.contains("\r\nretry-after: "), "{head}");
        return Ok(None);
    }
    if !ours {
        return Err(io::Error::other("the response of a proxy without a node"));
    }
    assert!(head.starts_with("http/1.1 200 "), "{answer}");
    let body: serde_json::Value = serde_json::from_str(body).map_err(io::Error::other)?;
    Ok(body["id"].as_str().and_then(|id| id.parse().ok()))
}

#[test]
fn clients_move_between_nodes_without_loss_despite_kills() {
    let Some(mut redis) = Redis::start() else { return };
    allow_descriptors(4 * CLIENTS as u64);
    let began = Instant::now();
    let options = format!("--store {} --history 20000,64MiB", redis.url());
    let mut nodes = [(); 3].map(|()| Some(Process::with(&options)));
    let world = World {
        nodes: nodes.iter().flatten().map(|node| node.addr).collect(),
        acknowledged: Mutex::default(),
        rejected: AtomicUsize::new(0),
        enough: AtomicBool::new(false),
        last: Mutex::new(None),
    };
    let world = &world;
    let seen: Vec<Seen> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let thread = thread::Builder::new().stack_size(256 * 1024);
                thread.spawn_scoped(scope, || world.listen()).expect("a thread")
            })
            .collect();
        let publishers: Vec<_> =
            (0..PUBLISHERS).map(|p| scope.spawn(move || world.publish(p))).collect();
        let mut expected = 0;
        let mut some_more = || {
            expected = world.acknowledged().max(expected) + EVENTS;
            wait_until(TIMEOUT, "publishing goes on", || world.acknowledged() >= expected);
        };
        some_more();
        for killed in 0..2 {
            let before = world.rejected.load(Ordering::Relaxed);
            redis.kill();
            let rejects = || world.rejected.load(Ordering::Relaxed) > before + PUBLISHERS;
            wait_until(TIMEOUT, "publishers get 503", rejects);
            redis.restart();
            some_more();
            if killed == 0 {
                nodes[1] = None; // the drop kills the node with SIGKILL
                some_more();
            }
        }
        world.enough.store(true, Ordering::Release);
        publishers.into_iter().for_each(|publisher| publisher.join().expect("a publisher"));
        let last = world.acknowledged.lock().expect("not poisoned").keys().next_back().copied();
        *world.last.lock().expect("not poisoned") = last;
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });

    let acknowledged = world.acknowledged.lock().expect("not poisoned");
    for Seen { events, gaps, .. } in &seen {
        assert!(gaps.is_empty(), "a gap without a loss: {gaps:?}");
        assert!(events.is_sorted_by(|one, next| one.0 < next.0), "out of order or repeated");
        let mut next = [0; PUBLISHERS];
        for (id, (publisher, n)) in events {
            assert_eq!(*n, next[*publisher], "{publisher}'s, at {id}");
            next[*publisher] += 1;
        }
        let ids: HashSet<&EventId> = events.iter().map(|(id, _)| id).collect();
        let missed: Vec<_> = acknowledged.keys().filter(|id| !ids.contains(id)).collect();
        assert!(missed.is_empty(), "{missed:?}");
    }
    say(&format!(
        "{} events, {CLIENTS} clients, {} connections, {} rejections, {:.1?}",
        acknowledged.len(),
        seen.iter().map(|seen| seen.connections).sum::<usize>(),
        world.rejected.load(Ordering::Relaxed),
        began.elapsed()
    ));
}

/// An HAProxy process. Dropping it kills the process.
struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads the next event with data from a stream; `None` if the stream has ended.
fn next(socket: &mut TcpStream, decoder: &mut Decoder) -> Option<Received> {
    let mut bytes = [0; 4_096];
    while !decoder.ended {
        let count = socket.read(&mut bytes).ok().filter(|count| *count > 0)?;
        let events = decoder.push(&bytes[..count]);
        if let Some(event) = events.into_iter().find(|event| event.data.is_some()) {
            return Some(event);
        }
    }
    None
}

#[test]
fn a_client_resumes_on_another_node_behind_haproxy() {
    let Some(redis) = Redis::start() else { return };
    if Command::new("haproxy").arg("-v").output().is_err() {
        return skip("there is no haproxy; sudo apt-get install haproxy");
    }
    let options = format!("--store {}", redis.url());
    let mut nodes = [(); 3].map(|()| Some(Process::with(&options)));
    let page = fs::read_to_string("docs/cluster.md").expect("the page");
    let lines = page.split("```haproxy\n").nth(1).and_then(|rest| rest.split("```").next());
    let mut lines = lines.expect("an HAProxy configuration").to_owned();
    let front = free_port();
    for (port, own) in [8841, 8842, 8843].iter().zip(nodes.iter().flatten()) {
        lines = lines.replace(&format!(":{port}"), &format!(":{}", own.addr.port()));
    }
    let lines = lines.replace(":8840", &format!(":{front}"));
    let config = redis.folder.join("haproxy.cfg");
    fs::write(&config, lines).expect("a folder of ours");
    let mut haproxy = Command::new("haproxy");
    haproxy.arg("-db").arg("-f").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
    let _proxy = Proxy(haproxy.spawn().expect("haproxy starts"));
    let front = SocketAddr::from(([127, 0, 0, 1], front));
    let publish = |n| {
        let mut id = None;
        wait_until(TIMEOUT, "the event is published", || {
            id = post(front, 0, n).ok().flatten();
            id.is_some()
        });
        id.expect("an id")
    };
    let listen = |after: EventId| {
        let mut socket = TcpStream::connect(front).expect("HAProxy listens");
        socket.set_read_timeout(Some(TIMEOUT)).expect("a socket");
        let head = format!("Host: localhost\r\nLast-Event-ID: {after}\r\n");
        write!(socket, "GET /channels/c0 HTTP/1.1\r\n{head}\r\n").expect("HAProxy reads");
        (socket, Decoder::default())
    };
    let first = publish(0);
    let mut last = publish(1);
    for (round, node) in nodes.iter_mut().enumerate().take(2) {
        let (mut socket, mut decoder) = listen(first);
        let event = next(&mut socket, &mut decoder).expect("an event");
        assert_eq!((event.data(), event.gap()), ("0 1", None));
        // HAProxy has connected the stream to one of the nodes. Killing `node` ends the stream only
        // if it is that node.
        *node = None;
        let resumed = publish(2 + round);
        let (mut socket, mut decoder) = listen(last);
        let event = next(&mut socket, &mut decoder).expect("the stream resumes on another node");
        assert_eq!(event.id.as_deref(), Some(&*resumed.to_string()));
        last = resumed;
    }
}
