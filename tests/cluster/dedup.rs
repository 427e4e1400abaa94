//! Deduplication decides alike in memory, with a file store and with a shared Redis.
//!
//! In Rust it is `src/registry/publish.rs`, in Redis it is `src/store/redis/publish.lua`. The tests
//! run generated sequences of requests on each of them, and compare all answers and all rings.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::common::{TIMEOUT, TestServer, wait_until};
use crate::server::Redis;
use threadcast::{
    Channels, Config, Event, EventId, Framing, Histories, History, PublishError, Published,
    Readable, Registry, Start, Subscription, Update,
};

const TOPICS: [&str; 3] = ["a", "b", "c"];

/// One step of a generated sequence.
#[derive(Debug, Clone)]
enum Step {
    Publish(Request),
    /// Forget the history of a topic.
    Forget(&'static str),
    /// Open another stream of a topic, so that the next answers count it.
    Subscribe(&'static str),
    /// Restart the server, which ends all streams. A server without a store only loses the streams.
    Restart,
}

#[derive(Debug, Clone)]
struct Request {
    topics: Vec<&'static str>,
    events: Vec<Event>,
    private: bool,
    key: Option<String>,
}

/// Generates a sequence. Its ids and keys repeat those of the last `back` requests only.
fn generate(random: &mut fastrand::Rng, steps: usize, back: usize) -> Vec<Step> {
    let mut requests: Vec<Request> = Vec::new();
    let mut publish = |random: &mut fastrand::Rng| {
        let now = requests.len();
        let recent = now.saturating_sub(back)..=now;
        if now > 0 && random.u8(..10) < 3 {
            return requests[random.usize(recent).min(now - 1)].clone(); // a retry
        }
        let event = |random: &mut fastrand::Rng| {
            let event = Event::new(format!("{now}.{}", random.u8(..3)));
            if random.bool() {
                return event;
            }
            let from = if random.bool() { now } else { random.usize(recent.clone()) };
            let own = format!("id-{from}-{}", random.u8(..2));
            event.with_id(own).expect("a short id")
        };
        let mut topics = TOPICS.to_vec();
        random.shuffle(&mut topics);
        topics.truncate(random.usize(1..=3));
        let mut events: Vec<Event> = (0..random.usize(1..=3)).map(|_| event(random)).collect();
        let key = random.bool().then(|| format!("key-{}", random.usize(recent.clone())));
        let private = random.u8(..5) == 0;
        if !private && random.u8(..40) == 0 {
            let last = events.pop().expect("at least one");
            events.push(last.with_end());
        }
        let request = Request { topics, events, private, key };
        requests.push(request.clone());
        request
    };
    let mut step = || match random.u8(..100) {
        0..4 => Step::Forget(TOPICS[random.usize(..3)]),
        4..10 => Step::Subscribe(TOPICS[random.usize(..3)]),
        10 => Step::Restart,
        _ => Step::Publish(publish(random)),
    };
    (0..steps).map(|_| step()).collect()
}

/// An answer or an event: a text without the server's id, and that id if there is one.
type Seen = (String, Option<EventId>);

/// A server on which a sequence runs.
struct Node {
    config: Config,
    /// `None` while the server restarts.
    server: Option<TestServer>,
    streams: Vec<Subscription>,
}

impl Node {
    fn start(history: History, config: Config) -> Self {
        let config = Config { history: Histories::all(history), ..config };
        Self { server: Some(TestServer::with(config.clone())), config, streams: Vec::new() }
    }

    fn registry(&self) -> &Registry {
        &self.server.as_ref().expect("the server runs").registry
    }

    /// Runs the steps, and returns all answers and then the events of each topic's ring.
    fn run(&mut self, steps: &[Step]) -> Vec<Seen> {
        let mut seen: Vec<Seen> = steps.iter().filter_map(|step| self.step(step)).collect();
        for topic in TOPICS {
            self.publish_and_wait("other");
            let published = self.registry().publish(topic, &Event::new("end"));
            match &published {
                Ok(Published { id, .. }) => {
                    wait_until(TIMEOUT, "the event is read", || self.registry().last_id() >= *id);
                }
                Err(error) => assert_eq!(*error, PublishError::Ended),
            }
            let is_open = published.is_ok();
            seen.push((format!("the ring of {topic}, open: {is_open}:"), None));
            seen.extend(self.ring(topic));
        }
        seen
    }

    fn step(&mut self, step: &Step) -> Option<Seen> {
        match step {
            Step::Publish(Request { topics, events, private, key }) => {
                let (private, key) = (*private, key.as_deref());
                let update = Update { topics, events, private, key };
                return Some(match self.registry().publish_update(&update) {
                    Ok(Published { id, subscribers, count }) => {
                        (format!("{subscribers} subscribers, {count} events"), Some(id))
                    }
                    Err(error @ (PublishError::KeyReused | PublishError::Ended)) => {
                        (error.to_string(), None)
                    }
                    Err(error) => panic!("{error}"),
                });
            }
            Step::Forget(topic) => {
                // With Redis, a node forgets the ids and keys that it has read.
                self.publish_and_wait("other");
                self.registry().forget(topic).expect("the store works");
            }
            Step::Subscribe(topic) => {
                let stream = self.subscribe(topic, &Start::Now);
                self.streams.push(stream);
            }
            Step::Restart => {
                self.streams.clear();
                if self.config.store.is_some() {
                    self.server = None;
                    self.server = Some(TestServer::with(self.config.clone()));
                }
            }
        }
        None
    }

    fn subscribe(&self, topic: &str, start: &Start) -> Subscription {
        let channels = Channels::new([topic]).expect("a name").readable(Readable::All);
        self.registry().subscribe(&channels, start).expect("there is room")
    }

    /// Publishes an event, and waits until the server has all events up to it in its rings.
    fn publish_and_wait(&self, topic: &str) {
        let id = self.registry().publish(topic, &Event::new("end")).expect("the store works").id;
        wait_until(TIMEOUT, "the event is read", || self.registry().last_id() >= id);
    }

    /// The events of a ring whose newest event is `end`, or whose channel has ended.
    fn ring(&self, topic: &str) -> Vec<Seen> {
        let mut text = UntilEnd(String::new());
        let stream = self.subscribe(topic, &Start::All);
        // This fails at the event `end`, and succeeds at the end of the channel.
        let _ = stream.stream_to(&mut text, Framing::Plain, Duration::from_secs(60));
        let frames = text.0.split("\n\n").filter(|frame| frame.contains("data: "));
        let seen = frames.map(|frame| {
            let id = frame.lines().find_map(|line| line.strip_prefix("id: "));
            match id.and_then(|id| id.parse().ok()) {
                Some(id) => (frame.lines().skip(1).collect(), Some(id)),
                None => (frame.replace('\n', " "), None),
            }
        });
        seen.collect()
    }
}

/// Collects what a stream writes, and fails when the event `end` is written.
struct UntilEnd(String);

impl Write for UntilEnd {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push_str(std::str::from_utf8(bytes).expect("whole frames"));
        if self.0.contains("data: end\n\n") {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Numbers the ids in the order in which they are first seen, because servers assign different ids.
fn numbered(seen: Vec<Seen>) -> Vec<String> {
    let mut numbers: HashMap<EventId, usize> = HashMap::new();
    let line = |(text, id): Seen| {
        let Some(id) = id else { return text };
        let next = numbers.len();
        format!("{text} (event {})", numbers.entry(id).or_insert(next))
    };
    seen.into_iter().map(line).collect()
}

/// Runs the same steps on all nodes, and compares what they answer and keep with the first node.
#[track_caller]
fn compare(seed: u64, steps: &[Step], nodes: Vec<(&str, Node)>) {
    let mut expected: Option<Vec<String>> = None;
    let requests: Vec<&Step> =
        steps.iter().filter(|step| matches!(step, Step::Publish(_))).collect();
    for (name, mut node) in nodes {
        let lines = numbered(node.run(steps));
        let expected = expected.get_or_insert_with(|| lines.clone());
        for (place, (one, other)) in expected.iter().zip(&lines).enumerate() {
            let request = requests.get(place); // after the answers come the rings
            assert_eq!(one, other, "{name}, seed {seed}, line {place}: {request:#?}");
        }
        assert_eq!(expected.len(), lines.len(), "{name}, seed {seed}");
    }
}

/// A temporary folder, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("threadcast-dedup-{}-{n}", std::process::id()));
        fs::create_dir(&path).expect("a new folder");
        Self(path)
    }

    /// The configuration of a server whose store is in this folder.
    fn node(&self) -> Config {
        Config { store: Some(self.0.join("history.redb").into()), ..Config::default() }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn memory_and_file_store_forget_evicted_ids_alike() {
    for seed in 0..8 {
        let steps = generate(&mut fastrand::Rng::with_seed(seed), 200, 20);
        let history = History { events: 6, ..History::default() };
        let folder = Folder::new();
        let memory = Node::start(history, Config::default());
        let file = Node::start(history, folder.node());
        compare(seed, &steps, vec![("memory", memory), ("file store", file)]);
    }
}

/// Redis keeps ids and keys for the history's age, so evicted ones must not be repeated here.
#[test]
fn memory_file_store_and_redis_decide_alike() {
    for seed in 0..4 {
        let steps = generate(&mut fastrand::Rng::with_seed(seed), 200, 3);
        let history = History { events: 60, ..History::default() };
        let Some(redis) = Redis::start() else { return };
        let folder = Folder::new();
        let memory = Node::start(history, Config::default());
        let file = Node::start(history, folder.node());
        let shared = Node::start(history, redis.node());
        compare(seed, &steps, vec![("memory", memory), ("file store", file), ("Redis", shared)]);
    }
}
