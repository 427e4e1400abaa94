//! Half an hour of coming and going, after which everything must be as it was.
//!
//! `make soak`, or for a shorter one `make soak SOAK=180` (seconds). 2,000 clients, each of which
//! stays for some seconds and is followed by another; one in fifty never reads. What
//! they read is checked: no event of a channel may be missing between two that came.

mod common;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Process, TIMEOUT, TestClient, allow_descriptors, say, wait_until};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

const CLIENTS: usize = 2_000;
const CHANNELS: u64 = 100;
const PUBLISHED_A_SECOND: u64 = 500;
/// One client in this many never reads.
const STUCK: usize = 50;
/// How long a client stays: up to twice this.
const STAY: Duration = Duration::from_secs(10);

/// After how many parts of the time all leave, and what is left is looked at.
const ROUNDS: u32 = 6;

struct Client {
    socket: TcpStream,
    leaves: Instant,
    is_stuck: bool,
    /// What was read and is no whole line yet.
    text: Vec<u8>,
    /// The number of its channel's last event.
    last: Option<u64>,
    wrote: bool,
}

/// What all clients together have seen.
#[derive(Default)]
struct Seen {
    joined: u64,
    events: u64,
    cut: u64,
    refused: u64,
}

struct Crowd {
    poll: Poll,
    addr: SocketAddr,
    clients: HashMap<Token, Client>,
    last: usize,
    seen: Seen,
}

impl Crowd {
    fn new(addr: SocketAddr) -> Self {
        let poll = Poll::new().expect("there are descriptors");
        Self { poll, addr, clients: HashMap::new(), last: 0, seen: Seen::default() }
    }

    fn join(&mut self) {
        self.last += 1;
        let token = Token(self.last);
        let mut socket = TcpStream::connect(self.addr).expect("there are descriptors");
        let is_stuck = self.last.is_multiple_of(STUCK);
        if is_stuck {
            // Little room, so that it is soon full.
            socket2::SockRef::from(&socket).set_recv_buffer_size(4_096).expect("a socket");
        }
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, token, both).expect("it can be watched");
        let leaves = Instant::now() + STAY.mul_f64(2.0 * fastrand::f64());
        let client =
            Client { socket, leaves, is_stuck, text: Vec::new(), last: None, wrote: false };
        self.clients.insert(token, client);
        self.seen.joined += 1;
    }

    /// Keeps so many clients, who come and go, until this moment.
    fn live(&mut self, clients: usize, until: Instant) {
        let mut events = Events::with_capacity(1_024);
        let mut looked = Instant::now();
        while Instant::now() < until {
            // A few at a time: they come one by one, not as a storm.
            for _ in 0..20.min(clients.saturating_sub(self.clients.len())) {
                self.join();
            }
            self.poll.poll(&mut events, Some(Duration::from_millis(5))).expect("it polls");
            for event in &events {
                self.hear(event.token());
            }
            if looked.elapsed() > Duration::from_millis(100) {
                looked = Instant::now();
                self.clients.retain(|_, client| client.leaves > looked);
            }
        }
    }

    fn hear(&mut self, token: Token) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        let channel = if client.is_stuck {
            "big".to_owned()
        } else {
            format!("c{}", token.0 as u64 % CHANNELS)
        };
        if !client.wrote {
            let request = format!("GET /channels/{channel} HTTP/1.0\r\n\r\n");
            match client.socket.write(request.as_bytes()) {
                Ok(_) => client.wrote = true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::NotConnected => return,
                Err(error) => panic!("the server is there: {error}"),
            }
        }
        let mut bytes = [0; 16 * 1024];
        while !client.is_stuck {
            match client.socket.read(&mut bytes) {
                Ok(0) | Err(_) if client.text.is_empty() && client.last.is_none() => break,
                Ok(0) => {
                    self.seen.cut += 1;
                    self.clients.remove(&token);
                    return;
                }
                Ok(count) => {
                    client.text.extend_from_slice(&bytes[..count]);
                    while let Some(end) = client.text.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = client.text.drain(..=end).collect();
                        let line = String::from_utf8_lossy(&line);
                        assert!(!line.starts_with("event: gap"), "nobody is so slow");
                        self.seen.refused += u64::from(line.starts_with("HTTP/1.1 503"));
                        let Some(number) = line.strip_prefix("data: ") else { continue };
                        let number: u64 = number.trim().parse().expect("a number");
                        if let Some(last) = client.last.replace(number) {
                            assert_eq!(number, last + 1, "on {channel}");
                        }
                        self.seen.events += 1;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("the server is there: {error}"),
            }
        }
    }
}

/// Publishes at a steady pace: small events to everybody's channels, and large ones for
/// those who do not read.
fn publish(addr: SocketAddr, stop: &AtomicBool, published: &AtomicU64) {
    let mut client = TestClient::connect(addr);
    let (_never, bell) = crossbeam_channel::bounded::<()>(0);
    let big = "x".repeat(30_000);
    let started = Instant::now();
    for number in 0_u64.. {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let _ = bell.recv_deadline(
            started
                + Duration::from_secs(1) * u32::try_from(number).expect("hours")
                    / u32::try_from(PUBLISHED_A_SECOND).expect("small"),
        );
        let (channel, data) = match number % 50 {
            0 => ("big".to_owned(), big.clone()),
            _ => (format!("c{}", number % CHANNELS), String::new()),
        };
        let data = if data.is_empty() { (number / CHANNELS).to_string() } else { data };
        let length = data.len();
        client.send(&format!("POST /channels/{channel} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{data}"));
        assert_eq!(client.answer().status, 200);
        published.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
#[ignore = "half an hour: `make soak`"]
fn after_half_an_hour_of_coming_and_going_everything_is_as_it_was() {
    let seconds = std::env::var("SOAK").ok().filter(|text| !text.is_empty());
    let time = Duration::from_secs(
        seconds.map_or(1_800, |text| text.parse().expect("SOAK is in seconds")),
    );
    assert!(allow_descriptors(4_096), "the hard limit is below 4,096");
    let server =
        Process::shell("ulimit -n 8192; exec", "--history 100,1MiB,10s --write-deadline 5s");
    let mut crowd = Crowd::new(server.addr);
    let (stop, published) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| publish(server.addr, &stop, &published));
        let _stopped = StopOnDrop(&stop);
        let all_leave = |crowd: &mut Crowd| {
            crowd.clients.clear();
            // The publisher stays, and is counted.
            wait_until(TIMEOUT, "all their threads are gone", || server.count("task") <= 8);
            let (threads, descriptors) = server.threads_and_descriptors();
            (threads, descriptors, server.resident_kib())
        };
        // Parts, after each of which all leave. The first make what is made once: channels,
        // and what the allocator keeps to hand out again.
        let mut most = (0, 0, 0);
        let rounds: Vec<_> = (1..=ROUNDS)
            .map(|round| {
                let started = Instant::now();
                while started.elapsed() < time / ROUNDS {
                    let look = started.elapsed() + Duration::from_secs(5);
                    crowd.live(CLIENTS, started + look.min(time / ROUNDS));
                    let (threads, descriptors) = server.threads_and_descriptors();
                    let resident = server.resident_kib();
                    most = (most.0.max(threads), most.1.max(descriptors), most.2.max(resident));
                }
                let after = all_leave(&mut crowd);
                say(&format!("all have left, {round} of {ROUNDS}: {}", told(after)));
                after
            })
            .collect();
        let Seen { joined, events, cut, refused } = crowd.seen;
        say(&format!("at most: {}", told(most)));
        say(&format!(
            "{joined} clients came and went; {} events published, {events} read, none missing; {refused} refused, {cut} cut",
            published.load(Ordering::Relaxed)
        ));
        for line in server.get("/metrics").body.lines().filter(|line| {
            line.contains("stream_ends_total{")
                || line.contains("disconnect_seconds_sum")
                || line.contains("disconnect_seconds_count")
        }) {
            say(line);
        }
        let (half, last) = (rounds[rounds.len() / 2 - 1], rounds[rounds.len() - 1]);
        assert_eq!((half.0, half.1), (last.0, last.1), "threads and descriptors");
        assert!(last.2 < half.2 + half.2 / 10 + 1_024, "memory grows: {rounds:?}");
        assert!(most.0 > CLIENTS * 9 / 10 && cut == 0 && refused == 0);
    });
}

fn told((threads, descriptors, resident): (usize, usize, u64)) -> String {
    format!("{threads} threads, {descriptors} descriptors, {resident} KiB resident")
}

/// Lets the publisher end too if the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
