//! Three nodes that share a Redis, and clients that hop between them while Redis is
//! killed twice and one node for good: nobody misses or repeats an event.

mod common;
#[path = "redis/server.rs"]
#[allow(dead_code)] // it is made for more than this
mod server;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Decoder, PATIENCE, Process, allow_descriptors, say, wait_until};
use server::Redis;
use threadcast::EventId;

const CLIENTS: usize = 300;
const PUBLISHERS: usize = 8;

/// How many events are acknowledged before the next thing goes wrong.
const EVENTS: usize = 120;

/// After how many events, at the most, a client hops.
const STAY: usize = 60;

/// After this long without a byte a client hops too.
const SILENCE: Duration = Duration::from_secs(1);

/// What publishers and clients know of each other.
struct World {
    nodes: Vec<SocketAddr>,
    /// Each acknowledged event: who published it, and which of his it is.
    acknowledged: Mutex<BTreeMap<EventId, (usize, usize)>>,
    refused: AtomicUsize,
    enough: AtomicBool,
    /// The last id, once nothing more is published.
    last: Mutex<Option<EventId>>,
}

/// What one client has seen.
#[derive(Default)]
struct Seen {
    events: Vec<(EventId, (usize, usize))>,
    gaps: Vec<String>,
    hops: usize,
}

impl World {
    fn acknowledged(&self) -> usize {
        self.acknowledged.lock().expect("nobody panics with it").len()
    }

    fn node(&self) -> SocketAddr {
        self.nodes[fastrand::usize(..self.nodes.len())]
    }

    /// Publishes one event after the other, each until some node has said that it is.
    fn publish(&self, publisher: usize) {
        let (_never, bell) = crossbeam_channel::bounded::<()>(0);
        for n in 0.. {
            if self.enough.load(Ordering::Acquire) {
                return;
            }
            let id = loop {
                match post(self.node(), publisher, n) {
                    Ok(Some(id)) => break id,
                    Ok(None) => self.refused.fetch_add(1, Ordering::Relaxed),
                    Err(_) => 0, // a node that is dead, or dies
                };
                let _ = bell.recv_timeout(Duration::from_millis(20));
            };
            let known = self.acknowledged.lock().expect("nobody panics").insert(id, (publisher, n));
            assert_eq!(known, None, "an id is given once");
        }
    }

    /// Listens here and there until it has seen the last event.
    fn listen(&self) -> Seen {
        let mut seen = Seen::default();
        let started = Instant::now();
        loop {
            let last = *self.last.lock().expect("nobody panics");
            let position = seen.events.last().map(|(id, _)| *id);
            if last.is_some() && position >= last {
                return seen;
            }
            assert!(started.elapsed() < PATIENCE * 3, "stuck at {position:?} of {last:?}");
            seen.hops += 1;
            let _ = self.stay(position, last, &mut seen); // however it ends, there is a next
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
                    break; // what else has come, it has not read
                }
            }
        }
        Ok(())
    }
}

/// The id that an event was given, if it is said to be published.
fn post(node: SocketAddr, publisher: usize, n: usize) -> io::Result<Option<EventId>> {
    let mut socket = TcpStream::connect(node)?;
    socket.set_read_timeout(Some(PATIENCE))?;
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
    if head.starts_with("HTTP/1.1 503 ") {
        assert!(head.contains("\r\nRetry-After: "), "{head}");
        return Ok(None);
    }
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    let body: serde_json::Value = serde_json::from_str(body).map_err(io::Error::other)?;
    Ok(body["id"].as_str().and_then(|id| id.parse().ok()))
}

#[test]
fn who_hops_between_nodes_misses_nothing_whatever_is_killed() {
    let Some(mut redis) = Redis::start() else { return };
    allow_descriptors(4 * CLIENTS as u64);
    let began = Instant::now();
    let options = format!("--store {} --history 20000,64MiB", redis.url());
    let mut nodes = [(); 3].map(|()| Some(Process::with(&options)));
    let world = World {
        nodes: nodes.iter().flatten().map(|node| node.addr).collect(),
        acknowledged: Mutex::default(),
        refused: AtomicUsize::new(0),
        enough: AtomicBool::new(false),
        last: Mutex::new(None),
    };
    let world = &world;
    let seen: Vec<Seen> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let thread = thread::Builder::new().stack_size(256 * 1024);
                thread.spawn_scoped(scope, || world.listen()).expect("room for a thread")
            })
            .collect();
        let publishers: Vec<_> =
            (0..PUBLISHERS).map(|p| scope.spawn(move || world.publish(p))).collect();
        let mut expected = 0;
        let mut some_more = || {
            expected = world.acknowledged().max(expected) + EVENTS;
            wait_until(PATIENCE, "publishing goes on", || world.acknowledged() >= expected);
        };
        some_more();
        for killed in 0..2 {
            let refused = world.refused.load(Ordering::Relaxed);
            redis.kill();
            let told = || world.refused.load(Ordering::Relaxed) > refused + PUBLISHERS;
            wait_until(PATIENCE, "publishers are told", told);
            redis.again();
            some_more();
            if killed == 0 {
                nodes[1] = None; // with SIGKILL
                some_more();
            }
        }
        world.enough.store(true, Ordering::Release);
        publishers.into_iter().for_each(|publisher| publisher.join().expect("a publisher"));
        let last = world.acknowledged.lock().expect("nobody panics").keys().next_back().copied();
        *world.last.lock().expect("nobody panics") = last;
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });

    let acknowledged = world.acknowledged.lock().expect("nobody panics");
    for Seen { events, gaps, .. } in &seen {
        assert!(gaps.is_empty(), "Redis has lost nothing, and nothing was too much: {gaps:?}");
        assert!(events.is_sorted_by(|one, next| one.0 < next.0), "in order, and once");
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
        "{} events, {CLIENTS} clients, {} hops, {} refusals, {:.1?}",
        acknowledged.len(),
        seen.iter().map(|seen| seen.hops).sum::<usize>(),
        world.refused.load(Ordering::Relaxed),
        began.elapsed()
    ));
}
