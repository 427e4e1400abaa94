//! Clients that are cut and come back, at random, while publishers publish:
//! nothing is lost in silence, nothing comes twice, and all of it in one order.
//!
//! The seed is printed when it fails; `THREADCAST_SEED=…` plays the same cuts
//! again, though not the same interleaving of threads.

mod common;

use std::collections::{BTreeSet, HashMap};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Bound;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use common::{Decoder, Received, TIMEOUT, TestClient, TestServer, say};
use fastrand::Rng;
use socket2::SockRef;
use threadcast::{Config, Event, EventId, Histories, History, SlowClient};

const CHANNELS: [&str; 5] = ["a1", "a2", "a3", "b1", "b2"];
const PUBLISHERS: usize = 8;
const EVENTS: usize = 20_000;
const CLIENTS: usize = 20;

/// What each client listens to; the rest of them, to one channel alone.
const SEVERAL: [(&str, &[usize]); 5] = [
    ("/channels?channel=a1&channel=b2", &[0, 4]),
    ("/channels/a*?", &[0, 1, 2]),
    ("/channels?channel=b*&channel=a2", &[1, 3, 4]),
    ("/channels/*?", &[0, 1, 2, 3, 4]),
    ("/channels?channel=b1&channel=a*&channel=b2", &[0, 1, 2, 3, 4]),
];

/// The last event of each channel: who has read it has read all.
const END: &str = "end";

struct Chaos {
    /// How many events a channel keeps.
    history: usize,
    slow_client: SlowClient,
    /// The longest data.
    longest: usize,
    /// Whether publishers give ids of their own. A lost one is no cursor any
    /// more, so only where nothing is lost.
    own_ids: bool,
}

#[test]
fn reconnecting_clients_get_every_event_once_in_order() {
    let told =
        Chaos { history: EVENTS, slow_client: SlowClient::Gap, longest: 60, own_ids: true }.run();
    assert!(told.iter().all(|told| told.gaps.is_empty()), "nothing was lost");
}

#[test]
fn gaps_count_exactly_what_a_small_history_evicted() {
    for slow_client in [SlowClient::Gap, SlowClient::Disconnect] {
        let told = Chaos { history: 40, slow_client, longest: 600, own_ids: false }.run();
        assert!(told.iter().any(|told| !told.gaps.is_empty()), "the history was too small");
    }
}

/// Says which seed it was if the test fails.
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
            say(&format!("THREADCAST_SEED={} made this fail", self.0));
        }
    }
}

/// The channel and the id that an event of this data was given.
type Published = HashMap<String, (usize, EventId)>;

impl Chaos {
    fn run(&self) -> Vec<Told> {
        let seed = Seed::any();
        let mut rng = Rng::with_seed(seed.0);
        let history =
            History { events: self.history, bytes: 256 << 20, age: Duration::from_secs(3_600) };
        let server = TestServer::with(Config {
            history: Histories::all(history),
            slow_client: self.slow_client,
            ..Config::default()
        });
        let start = server.registry.publish("start", &Event::new("")).expect("a name").id;
        let ready = Barrier::new(CLIENTS + PUBLISHERS);
        let (published, told) = thread::scope(|scope| {
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
            let publishers = publishers.into_iter().map(|p| p.join().expect("all is published"));
            let mut published: Published = publishers.flatten().collect();
            for (place, channel) in CHANNELS.iter().enumerate() {
                let data = format!("{END} {channel}");
                let id = server.registry.publish(channel, &Event::new(&*data)).expect("a name").id;
                published.insert(data, (place, id));
            }
            let told: Vec<Told> =
                clients.into_iter().map(|c| c.join().expect("a client reads all")).collect();
            (published, told)
        });
        assert_eq!(published.len(), EVENTS + CHANNELS.len(), "each has its own name");
        told.iter().for_each(|told| told.check(&published));
        let cuts: usize = told.iter().map(|told| told.cuts).sum();
        assert!(cuts > 10 * CLIENTS, "{cuts} cuts are no chaos");
        told
    }

    /// Publishes its share: every other one by HTTP, alone and in batches.
    fn publish(&self, number: usize, server: &TestServer, mut rng: Rng) -> Published {
        let mut published = Published::new();
        let mut http = number.is_multiple_of(2).then(|| server.connect());
        let share = EVENTS / PUBLISHERS;
        while published.len() < share {
            let place = rng.usize(..CHANNELS.len());
            let many = rng.usize(1..=8).min(share - published.len());
            let names: Vec<String> =
                (0..many).map(|n| format!("{number}.{}", published.len() + n)).collect();
            let mut padding = || "x".repeat(rng.usize(..self.longest));
            let data: Vec<String> =
                names.iter().map(|name| format!("{name} {}", padding())).collect();
            let own = (self.own_ids && rng.u8(..) < 64).then(|| format!("own {}", names[many - 1]));
            let last = if let Some(http) = &mut http {
                post(http, CHANNELS[place], &data, own.as_deref())
            } else {
                let mut events: Vec<Event> = data.iter().map(Event::new).collect();
                if let Some(own) = own {
                    let last = events.pop().expect("at least one");
                    events.push(last.with_id(own).expect("an id"));
                }
                server.registry.publish_all(CHANNELS[place], &events, None).expect("a name").id
            };
            // Those of a batch stand next to each other.
            for (before_last, name) in names.into_iter().rev().enumerate() {
                let id = EventId { n: last.n - before_last as u64, ..last };
                assert_eq!(published.insert(name, (place, id)), None);
            }
        }
        published
    }
}

fn post(http: &mut TestClient, channel: &str, data: &[String], own: Option<&str>) -> EventId {
    let mut lines: Vec<_> = data.iter().map(|data| serde_json::json!({ "data": data })).collect();
    if let (Some(own), Some(last)) = (own, lines.last_mut()) {
        last["id"] = own.into();
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
    answer.json()["id"].as_str().and_then(|id| id.parse().ok()).expect("an id of the server's")
}

/// What one client was told, over all of its connections.
struct Told {
    places: &'static [usize],
    /// The names of the events, as they came, and the gaps between them.
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

impl Told {
    fn check(&self, published: &Published) {
        let ids: Vec<EventId> = self.events.iter().map(|name| published[name].1).collect();
        for (n, pair) in ids.windows(2).enumerate() {
            assert!(pair[0] < pair[1], "{} after {}", self.events[n + 1], self.events[n]);
        }
        for place in self.places {
            let all = published.values().filter(|(found, _)| found == place);
            let all: BTreeSet<EventId> = all.map(|(_, id)| *id).collect();
            let received: BTreeSet<EventId> =
                ids.iter().copied().filter(|id| all.contains(id)).collect();
            let mut missed = BTreeSet::new();
            let mut told_to = EventId::ZERO;
            for gap in self.gaps.iter().filter(|gap| gap.channel == CHANNELS[*place]) {
                assert!(gap.from < gap.to && told_to <= gap.from, "overlaps one before: {gap:?}");
                told_to = gap.to;
                let range = (Bound::Excluded(gap.from), Bound::Included(gap.to));
                let within: Vec<EventId> = all.range(range).copied().collect();
                assert_eq!(gap.missed, within.len(), "miscounts: {gap:?}");
                missed.extend(within);
            }
            assert!(received.is_disjoint(&missed), "what came is called missing");
            let silent: Vec<EventId> = all
                .iter()
                .filter(|id| !received.contains(id) && !missed.contains(id))
                .copied()
                .collect();
            assert!(
                silent.is_empty(),
                "of {} events in {}, {} came and {} were said to be missing, and {} were lost \
                 in silence, the first {:?}; listening to {:?}, {} cuts",
                all.len(),
                CHANNELS[*place],
                received.len(),
                missed.len(),
                silent.len(),
                silent[0],
                self.places,
                self.cuts,
            );
            assert_eq!(received.len() + missed.len(), all.len());
        }
        let mine = published.values().filter(|(place, _)| self.places.contains(place)).count();
        let missed: usize = self.gaps.iter().map(|gap| gap.missed).sum();
        assert_eq!(self.events.len() + missed, mine, "received + missed = published");
    }
}

struct Client {
    addr: SocketAddr,
    target: String,
    version: u8,
    last_event_id: Option<String>,
    /// Gaps without an id: until one follows, a client that is cut hears them again.
    pending: Vec<Gap>,
    rng: Rng,
    told: Told,
}

impl Client {
    fn new(n: usize, addr: SocketAddr, start: EventId, rng: Rng) -> Self {
        let one = (n % CHANNELS.len(), n / CHANNELS.len());
        let (path, places) = match one {
            (place, 0) => {
                (format!("/channels/{}?", CHANNELS[place]), &[0, 1, 2, 3, 4][place..=place])
            }
            (place, _) => (SEVERAL[place].0.to_owned(), SEVERAL[place].1),
        };
        let target = format!("{path}&last_event_id={start}");
        let told = Told { places, events: Vec::new(), gaps: Vec::new(), cuts: 0 };
        // One in four speaks HTTP/1.0.
        let version = u8::from(one.1 != 2);
        Self { addr, target, version, last_event_id: None, pending: Vec::new(), rng, told }
    }

    fn read_all(&mut self, ready: &Barrier) -> Told {
        let mut waits = Some(ready);
        let mut open: BTreeSet<usize> = self.told.places.iter().copied().collect();
        while !open.is_empty() {
            self.read_some(&mut waits, &mut open);
            self.pending.clear();
            self.told.cuts += 1;
        }
        let nothing = Told { places: &[], events: Vec::new(), gaps: Vec::new(), cuts: 0 };
        std::mem::replace(&mut self.told, nothing)
    }

    /// One connection, cut after a random number of bytes.
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
                // The server's own cut, which it does to a slow client.
                Ok(0) => return assert!(decoder.ended || self.version == 0, "cut by the server"),
                Ok(n) => {
                    left -= n;
                    decoder.push(&buffer[..n]).into_iter().for_each(|event| self.hear(event, open));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("the stream goes on, without {error}"),
            }
        }
        match self.rng.u8(..3) {
            0 => socket.shutdown(Shutdown::Both).expect("connected"),
            1 => SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a TCP socket"),
            _ => {} // dropped, and so reset or not by what is unread
        }
    }

    fn hear(&mut self, event: Received, open: &mut BTreeSet<usize>) {
        if let Some(gap) = event.gap() {
            let id = |name: &str| gap[name].as_str().and_then(|id| id.parse().ok()).expect("an id");
            let missed = gap["missed"].as_u64().unwrap_or_else(|| panic!("uncounted: {gap}"));
            self.pending.push(Gap {
                channel: gap["channel"].as_str().expect("a name").to_owned(),
                missed: usize::try_from(missed).expect("not that many"),
                from: id("from"),
                to: id("to"),
            });
        } else if let Some(data) = &event.data {
            let name = data.split(" x").next().unwrap_or_default().trim_end();
            if let Some(channel) = name.strip_prefix("end ") {
                open.retain(|place| CHANNELS[*place] != channel);
            }
            self.told.events.push(name.to_owned());
        }
        if event.id.is_some() {
            self.told.gaps.append(&mut self.pending);
            self.last_event_id = event.id;
        }
    }
}
