//! Clients connect and disconnect for half an hour; the server's resource usage must not grow.
//!
//! Run the test with `make soak`, or with `make soak SOAK=180` for 180 seconds. There are 2,000
//! clients. Each client stays for some seconds, and another replaces it. One client in fifty never
//! reads; the others check that no event is missing.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Process, TIMEOUT, TestClient, allow_descriptors, pace, say, wait_until};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

const CLIENTS: usize = 2_000;
const CHANNELS: u64 = 100;
const PUBLISHED_A_SECOND: u64 = 500;
/// One client in this many never reads.
const STUCK: usize = 50;
/// The average time that a client stays. The maximum is twice as long.
const STAY: Duration = Duration::from_secs(10);

/// The number of parts of the test. After each part, all clients disconnect, and the test measures
/// the server's resources.
const ROUNDS: u32 = 6;

struct Client {
    socket: TcpStream,
    leaves: Instant,
    is_stuck: bool,
    /// The received bytes after the last complete line.
    text: Vec<u8>,
    /// The number in the last event that the client has received.
    last: Option<u64>,
    has_requested: bool,
}

/// Counters of all clients together.
#[derive(Default)]
struct Counters {
    joined: u64,
    events: u64,
    cut: u64,
    rejected: u64,
}

struct LoadClients {
    poll: Poll,
    addr: SocketAddr,
    clients: HashMap<Token, Client>,
    last: usize,
    counters: Counters,
}

impl LoadClients {
    fn new(addr: SocketAddr) -> Self {
        let poll = Poll::new().expect("descriptors are available");
        Self { poll, addr, clients: HashMap::new(), last: 0, counters: Counters::default() }
    }

    fn join(&mut self) {
        self.last += 1;
        let token = Token(self.last);
        let mut socket = TcpStream::connect(self.addr).expect("descriptors are available");
        let is_stuck = self.last.is_multiple_of(STUCK);
        if is_stuck {
            // A small receive buffer is soon full.
            socket2::SockRef::from(&socket).set_recv_buffer_size(4_096).expect("a socket");
        }
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, token, both).expect("the socket can be polled");
        let leaves = Instant::now() + STAY.mul_f64(2.0 * fastrand::f64());
        let client =
            Client { socket, leaves, is_stuck, text: Vec::new(), last: None, has_requested: false };
        self.clients.insert(token, client);
        self.counters.joined += 1;
    }

    /// Keeps this many clients connected until `until`. A new client replaces each client whose
    /// time is over.
    fn run(&mut self, clients: usize, until: Instant) {
        let mut events = Events::with_capacity(1_024);
        let mut checked = Instant::now();
        while Instant::now() < until {
            // Few clients connect in each step, because this test is not about reconnect storms.
            for _ in 0..20.min(clients.saturating_sub(self.clients.len())) {
                self.join();
            }
            self.poll.poll(&mut events, Some(Duration::from_millis(5))).expect("poll succeeds");
            for event in &events {
                self.receive(event.token());
            }
            if checked.elapsed() > Duration::from_millis(100) {
                checked = Instant::now();
                self.clients.retain(|_, client| client.leaves > checked);
            }
        }
    }

    fn receive(&mut self, token: Token) {
        let Some(client) = self.clients.get_mut(&token) else { return };
        let channel = if client.is_stuck {
            "big".to_owned()
        } else {
            format!("c{}", token.0 as u64 % CHANNELS)
        };
        if !client.has_requested {
            let request = format!("GET /channels/{channel} HTTP/1.0\r\n\r\n");
            match client.socket.write(request.as_bytes()) {
                Ok(_) => client.has_requested = true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::NotConnected => return,
                Err(error) => panic!("the connection failed: {error}"),
            }
        }
        let mut bytes = [0; 16 * 1024];
        while !client.is_stuck {
            match client.socket.read(&mut bytes) {
                Ok(0) | Err(_) if client.text.is_empty() && client.last.is_none() => break,
                Ok(0) => {
                    self.counters.cut += 1;
                    self.clients.remove(&token);
                    return;
                }
                Ok(count) => {
                    client.text.extend_from_slice(&bytes[..count]);
                    while let Some(end) = client.text.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = client.text.drain(..=end).collect();
                        let line = String::from_utf8_lossy(&line);
                        assert!(!line.starts_with("event: gap"), "no reading client is slow");
                        self.counters.rejected += u64::from(line.starts_with("HTTP/1.1 503"));
                        let Some(number) = line.strip_prefix("data: ") else { continue };
                        let number: u64 = number.trim().parse().expect("a number");
                        if let Some(last) = client.last.replace(number) {
                            assert_eq!(number, last + 1, "on {channel}");
                        }
                        self.counters.events += 1;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("the connection failed: {error}"),
            }
        }
    }
}

/// Publishes at a steady rate: small events to the channels of the reading clients, and large
/// ones to the channel of the stuck clients.
fn publish(addr: SocketAddr, stop: &AtomicBool, published: &AtomicU64) {
    let mut client = TestClient::connect(addr);
    let big = "x".repeat(30_000);
    let started = Instant::now();
    for number in 0_u64.. {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let due = Duration::from_millis(number * 1_000 / PUBLISHED_A_SECOND);
        pace(due.saturating_sub(started.elapsed()));
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
#[ignore = "takes half an hour: `make soak`"]
fn resources_do_not_grow_over_half_an_hour_of_churn() {
    let seconds = std::env::var("SOAK").ok().filter(|text| !text.is_empty());
    let time = Duration::from_secs(
        seconds.map_or(1_800, |text| text.parse().expect("SOAK must be a number of seconds")),
    );
    assert!(allow_descriptors(4_096), "the hard limit is below 4,096");
    let server =
        Process::shell("ulimit -n 8192; exec", "--history 100,1MiB,10s --write-deadline 5s");
    let mut clients = LoadClients::new(server.addr);
    let (stop, published) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| publish(server.addr, &stop, &published));
        let _stopped = StopOnDrop(&stop);
        let disconnect_all = |clients: &mut LoadClients| {
            clients.clients.clear();
            // The publisher stays connected, so the count includes its thread.
            wait_until(TIMEOUT, "all their threads have ended", || server.count("task") <= 8);
            let (threads, descriptors) = server.threads_and_descriptors();
            (threads, descriptors, server.resident_kib())
        };
        // All clients disconnect after each part. In the first parts, memory still grows, for
        // channels and for free memory that the allocator keeps. So the test compares the last part
        // with the middle one.
        let mut most = (0, 0, 0);
        let rounds: Vec<_> = (1..=ROUNDS)
            .map(|round| {
                let started = Instant::now();
                while started.elapsed() < time / ROUNDS {
                    let next = started.elapsed() + Duration::from_secs(5);
                    clients.run(CLIENTS, started + next.min(time / ROUNDS));
                    let (threads, descriptors) = server.threads_and_descriptors();
                    let resident = server.resident_kib();
                    most = (most.0.max(threads), most.1.max(descriptors), most.2.max(resident));
                }
                let after = disconnect_all(&mut clients);
                say(&format!("after part {round} of {ROUNDS}: {}", figures(after)));
                after
            })
            .collect();
        let Counters { joined, events, cut, rejected } = clients.counters;
        say(&format!("at most: {}", figures(most)));
        say(&format!(
            "{joined} clients connected; {} events published, {events} read, none missing; {rejected} rejected, {cut} cut",
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
        assert!(most.0 > CLIENTS * 9 / 10 && cut == 0 && rejected == 0);
    });
}

fn figures((threads, descriptors, resident): (usize, usize, u64)) -> String {
    format!("{threads} threads, {descriptors} descriptors, {resident} KiB resident")
}

/// Stops the publisher even if the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
