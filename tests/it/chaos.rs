//! Clients cut their connections at random and reconnect, while publishers publish.
//!
//! A gap reports every event that a client does not receive, no event arrives twice, and all events
//! arrive in the order of their ids. A failing test prints its seed; `THREADCAST_SEED=…` repeats
//! the same cuts, but not the same interleaving of threads.

use std::collections::{BTreeSet, HashMap};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Bound;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use crate::common::{Decoder, Received, TIMEOUT, TestClient, TestServer, say};
use fastrand::Rng;
use socket2::SockRef;
use threadcast::{Config, Event, EventId, Histories, History, SlowClient};

const CHANNELS: [&str; 5] = ["a1", "a2", "a3", "b1", "b2"];
const PUBLISHERS: usize = 8;
const EVENTS: usize = 20_000;
const CLIENTS: usize = 20;

/// Streams of several channels, and the indexes of these channels in [`CHANNELS`].
///
/// The first client for each index of [`CHANNELS`] reads that channel only; all others read these.
const SEVERAL: [(&str, &[usize]); 5] = [
    ("/channels?channel=a1&channel=b2", &[0, 4]),
    ("/channels/a*?", &[0, 1, 2]),
    ("/channels?channel=b*&channel=a2", &[1, 3, 4]),
    ("/channels/*?", &[0, 1, 2, 3, 4]),
    ("/channels?channel=b1&channel=a*&channel=b2", &[0, 1, 2, 3, 4]),
];

/// The start of the data of the last event of each channel.
///
/// A client that has read this event has read the whole channel.
const END: &str = "end";

struct Chaos {
    broadcasters: usize,
    /// The maximum number of events in the history of a channel.
    history: usize,
    slow_client: SlowClient,
    /// The padding in the data of an event is shorter than this, in bytes.
    longest: usize,
    /// Whether some events have client-supplied ids.
    ///
    /// True only in a test that evicts no event: the client-supplied id of an evicted event is not
    /// a valid cursor.
    client_ids: bool,
}

#[test]
fn reconnecting_clients_get_every_event_once_in_order() {
    for broadcasters in [1, 2, 4] {
        let slow_client = SlowClient::Gap;
        let chaos =
            Chaos { broadcasters, history: EVENTS, slow_client, longest: 60, client_ids: true };
        let received = chaos.run();
        assert!(received.iter().all(|client| client.gaps.is_empty()), "no event was evicted");
    }
}

#[test]
fn gaps_count_exactly_what_a_small_history_evicted() {
    let slow = [SlowClient::Gap, SlowClient::Disconnect];
    for (broadcasters, slow_client) in [1, 2, 4].into_iter().flat_map(|n| slow.map(|it| (n, it))) {
        let chaos =
            Chaos { broadcasters, history: 40, slow_client, longest: 600, client_ids: false };
        let received = chaos.run();
        assert!(received.iter().any(|client| !client.gaps.is_empty()), "events were evicted");
    }
}

/// The random seed. Dropping it prints the seed if the test has failed.
struct Seed(u64);

impl Seed {
    fn any() -> Self {
        let given = std::env::var("THREADCAST_SEED").ok();
        Self(given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("a number")))
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            say(&format!("failed with THREADCAST_SEED={}", self.0));
        }
    }
}

/// Maps the name of each event to the index of its channel and to its id.
///
/// The name is the unique first part of the event's data, such as `3.17`.
type Published = HashMap<String, (usize, EventId)>;

impl Chaos {
    fn run(&self) -> Vec<Delivered> {
        let seed = Seed::any();
        let mut rng = Rng::with_seed(seed.0);
        let history =
            History { events: self.history, bytes: 256 << 20, age: Duration::from_secs(3_600) };
        let server = TestServer::with(Config {
            history: Histories::all(history),
            slow_client: self.slow_client,
            broadcasters: self.broadcasters,
            ..Config::default()
        });
        let start = server.registry.publish("start", &Event::new("")).expect("a name").id;
        let ready = Barrier::new(CLIENTS + PUBLISHERS);
        let (published, delivered) = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|n| {
                    let mut client = Client::new(n, server.addr, start, rng.fork());
                    let ready = &ready;
                    scope.spawn(move || client.read_all(ready))
                })
                .collect();
            let publishers: Vec<_> = (0..PUBLISHERS)
                .map(|n| {
                    let (server, ready, rng) = (&server, &ready, rng.fork());
                    scope.spawn(move || {
                        ready.wait();
                        self.publish(n, server, rng)
                    })
                })
                .collect();
            let publishers =
                publishers.into_iter().map(|p| p.join().expect("all publishes succeed"));
            let mut published: Published = publishers.flatten().collect();
            for (index, channel) in CHANNELS.iter().enumerate() {
                let data = format!("{END} {channel}");
                let id = server.registry.publish(channel, &Event::new(&*data)).expect("a name").id;
                published.insert(data, (index, id));
            }
            let delivered: Vec<Delivered> =
                clients.into_iter().map(|c| c.join().expect("a client reads all")).collect();
            (published, delivered)
        });
        assert_eq!(published.len(), EVENTS + CHANNELS.len(), "each event has its own name");
        delivered.iter().for_each(|client| client.check(&published));
        let cuts: usize = delivered.iter().map(|client| client.cuts).sum();
        assert!(cuts > 10 * CLIENTS, "only {cuts} cuts");
        delivered
    }

    /// Publishes one publisher's share of the events, as single events and in batches.
    ///
    /// Publishers with an even number use HTTP; the others call the registry directly.
    fn publish(&self, number: usize, server: &TestServer, mut rng: Rng) -> Published {
        let mut published = Published::new();
        let mut http = number.is_multiple_of(2).then(|| server.connect());
        let share = EVENTS / PUBLISHERS;
        while published.len() < share {
            let index = rng.usize(..CHANNELS.len());
            let many = rng.usize(1..=8).min(share - published.len());
            let names: Vec<String> =
                (0..many).map(|n| format!("{number}.{}", published.len() + n)).collect();
            let mut padding = || "x".repeat(rng.usize(..self.longest));
            let data: Vec<String> =
                names.iter().map(|name| format!("{name} {}", padding())).collect();
            let client_id =
                (self.client_ids && rng.u8(..) < 64).then(|| format!("own {}", names[many - 1]));
            let last = if let Some(http) = &mut http {
                post(http, CHANNELS[index], &data, client_id.as_deref())
            } else {
                let mut events: Vec<Event> = data.iter().map(Event::new).collect();
                if let Some(client_id) = client_id {
                    let last = events.pop().expect("at least one");
                    events.push(last.with_id(client_id).expect("an id"));
                }
                server.registry.publish_all(CHANNELS[index], &events, None).expect("a name").id
            };
            // The ids of a batch are consecutive.
            for (before_last, name) in names.into_iter().rev().enumerate() {
                let id = EventId { n: last.n - before_last as u64, ..last };
                assert_eq!(published.insert(name, (index, id)), None);
            }
        }
        published
    }
}

fn post(http: &mut TestClient, channel: &str, data: &[String], client_id: Option<&str>) -> EventId {
    let mut lines: Vec<_> = data.iter().map(|data| serde_json::json!({ "data": data })).collect();
    if let (Some(client_id), Some(last)) = (client_id, lines.last_mut()) {
        last["id"] = client_id.into();
    }
    let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
    let kind = if lines.len() == 1 { "json" } else { "x-ndjson" };
    let body = lines.join("\n");
    let length = body.len();
    http.send(&format!(
        "POST /channels/{channel} HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/{kind}\r\nContent-Length: {length}\r\n\r\n{body}"
    ));
    let answer = http.answer();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["id"]
        .as_str()
        .and_then(|id| id.parse().ok())
        .expect("an id assigned by the server")
}

/// What one client received over all of its connections.
struct Delivered {
    /// The indexes of the client's channels in [`CHANNELS`].
    channels: &'static [usize],
    /// The names of the events, in order of arrival.
    events: Vec<String>,
    gaps: Vec<Gap>,
    cuts: usize,
}

#[derive(Debug)]
struct Gap {
    channel: String,
    missed: usize,
    from: EventId,
    to: EventId,
}

impl Delivered {
    fn check(&self, published: &Published) {
        let ids: Vec<EventId> = self.events.iter().map(|name| published[name].1).collect();
        for (n, pair) in ids.windows(2).enumerate() {
            assert!(pair[0] < pair[1], "{} after {}", self.events[n + 1], self.events[n]);
        }
        for index in self.channels {
            let all = published.values().filter(|(found, _)| found == index);
            let all: BTreeSet<EventId> = all.map(|(_, id)| *id).collect();
            let received: BTreeSet<EventId> =
                ids.iter().copied().filter(|id| all.contains(id)).collect();
            let mut missed = BTreeSet::new();
            let mut reported_to = EventId::ZERO;
            for gap in self.gaps.iter().filter(|gap| gap.channel == CHANNELS[*index]) {
                let follows = gap.from < gap.to && reported_to <= gap.from;
                assert!(follows, "a gap overlaps an earlier one: {gap:?}");
                reported_to = gap.to;
                let range = (Bound::Excluded(gap.from), Bound::Included(gap.to));
                let within: Vec<EventId> = all.range(range).copied().collect();
                assert_eq!(gap.missed, within.len(), "a gap has a wrong count: {gap:?}");
                missed.extend(within);
            }
            assert!(received.is_disjoint(&missed), "a gap counts a received event");
            let unreported: Vec<EventId> = all
                .iter()
                .filter(|id| !received.contains(id) && !missed.contains(id))
                .copied()
                .collect();
            assert!(
                unreported.is_empty(),
                "of {} events in {}: {} received, {} reported lost, {} lost without a gap, \
                 the first {:?}; channels {:?}, {} cuts",
                all.len(),
                CHANNELS[*index],
                received.len(),
                missed.len(),
                unreported.len(),
                unreported[0],
                self.channels,
                self.cuts,
            );
            assert_eq!(received.len() + missed.len(), all.len());
        }
        let mine = published.values().filter(|(index, _)| self.channels.contains(index)).count();
        let missed: usize = self.gaps.iter().map(|gap| gap.missed).sum();
        assert_eq!(self.events.len() + missed, mine, "received + missed = published");
    }
}

struct Client {
    addr: SocketAddr,
    target: String,
    version: u8,
    last_event_id: Option<String>,
    /// Gaps received since the last id.
    ///
    /// After a cut, the server sends these gaps again, so they count only once an id has followed.
    pending: Vec<Gap>,
    rng: Rng,
    delivered: Delivered,
}

impl Client {
    fn new(n: usize, addr: SocketAddr, start: EventId, rng: Rng) -> Self {
        let (index, round) = (n % CHANNELS.len(), n / CHANNELS.len());
        let (path, channels) = match round {
            0 => (format!("/channels/{}?", CHANNELS[index]), &[0, 1, 2, 3, 4][index..=index]),
            _ => (SEVERAL[index].0.to_owned(), SEVERAL[index].1),
        };
        let target = format!("{path}&last_event_id={start}");
        let delivered = Delivered { channels, events: Vec::new(), gaps: Vec::new(), cuts: 0 };
        // One client in four uses HTTP/1.0.
        let version = u8::from(round != 2);
        Self { addr, target, version, last_event_id: None, pending: Vec::new(), rng, delivered }
    }

    /// Reads until every channel has ended; cuts the connection at random and reconnects.
    fn read_all(&mut self, ready: &Barrier) -> Delivered {
        let mut waits = Some(ready);
        let mut open: BTreeSet<usize> = self.delivered.channels.iter().copied().collect();
        while !open.is_empty() {
            self.read_some(&mut waits, &mut open);
            self.pending.clear();
            self.delivered.cuts += 1;
        }
        let empty = Delivered { channels: &[], events: Vec::new(), gaps: Vec::new(), cuts: 0 };
        std::mem::replace(&mut self.delivered, empty)
    }

    /// Opens one connection, reads a random number of bytes from it, and cuts it.
    fn read_some(&mut self, ready: &mut Option<&Barrier>, open: &mut BTreeSet<usize>) {
        let mut socket = TcpStream::connect(self.addr).expect("the server listens");
        socket.set_read_timeout(Some(TIMEOUT)).expect("a positive timeout");
        let cursor = self.last_event_id.as_ref();
        let cursor = cursor.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let request = format!(
            "GET {} HTTP/1.{}\r\nHost: localhost\r\n{cursor}\r\n",
            self.target, self.version
        );
        socket.write_all(request.as_bytes()).expect("the server reads");
        if let Some(ready) = ready.take() {
            ready.wait();
        }
        let mut decoder = Decoder::default();
        let most = [600, 10_000, 200_000][self.rng.usize(..3)];
        let mut left = self.rng.usize(..most);
        let mut buffer = vec![0; 16 * 1024];
        while left > 0 && !open.is_empty() {
            let room = left.min(buffer.len());
            match socket.read(&mut buffer[..room]) {
                // The server may end the stream of a slow client.
                Ok(0) => return assert!(decoder.ended || self.version == 0, "no last chunk"),
                Ok(n) => {
                    left -= n;
                    for event in decoder.push(&buffer[..n]) {
                        self.receive(event, open);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("the stream failed: {error}"),
            }
        }
        match self.rng.u8(..3) {
            0 => socket.shutdown(Shutdown::Both).expect("connected"),
            1 => SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a TCP socket"),
            _ => {} // dropping the socket resets it if unread bytes remain
        }
    }

    fn receive(&mut self, event: Received, open: &mut BTreeSet<usize>) {
        if let Some(gap) = event.gap() {
            let id = |name: &str| gap[name].as_str().and_then(|id| id.parse().ok()).expect("an id");
            let missed =
                gap["missed"].as_u64().unwrap_or_else(|| panic!("a gap without a count: {gap}"));
            self.pending.push(Gap {
                channel: gap["channel"].as_str().expect("a name").to_owned(),
                missed: usize::try_from(missed).expect("a small number"),
                from: id("from"),
                to: id("to"),
            });
        } else if let Some(data) = &event.data {
            let name = data.split(" x").next().unwrap_or_default().trim_end();
            if let Some(channel) = name.strip_prefix("end ") {
                open.retain(|index| CHANNELS[*index] != channel);
            }
            self.delivered.events.push(name.to_owned());
        }
        if event.id.is_some() {
            self.delivered.gaps.append(&mut self.pending);
            self.last_event_id = event.id;
        }
    }
}
