//! What the clients of a load have seen, counted.

use std::time::Duration;

use super::client::Client;
use super::{Histogram, Load, unix_nanos};

/// How the opening went. Times count from the first connection attempt.
///
/// ```
/// # use threadcast::{Config, Event, Server};
/// use threadcast::lab::load::{Load, Plan};
///
/// # let server = Server::bind(Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() })?;
/// # let (addr, handle, registry) = (server.addresses()[0], server.handle(), server.registry().clone());
/// # let running = std::thread::spawn(move || server.run());
/// let load = Load::open(&Plan { clients: 3, ..Plan::new(addr, "/channels/bench") })?;
/// assert_eq!((load.opening().answered, load.opening().refused), (3, 0));
/// # handle.shutdown();
/// # running.join().expect("the server did not panic")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Clients that were answered with `200`.
    pub answered: usize,
    /// Clients that were not: refused, closed before the head, or no answer in time.
    pub refused: usize,
    /// When the last of the answered had its head; `None` while some wait.
    pub heads: Option<Duration>,
    /// When the last of the answered had its first event; `None` while some wait.
    pub events: Option<Duration>,
}

/// What arrived since [`Load::mark`].
///
/// ```
/// # use threadcast::{Config, Event, Server};
/// use std::time::{Duration, SystemTime, UNIX_EPOCH};
/// use threadcast::lab::load::{Load, Plan};
///
/// # let server = Server::bind(Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() })?;
/// # let (addr, handle, registry) = (server.addresses()[0], server.handle(), server.registry().clone());
/// # let running = std::thread::spawn(move || server.run());
/// let mut load = Load::open(&Plan { clients: 3, ..Plan::new(addr, "/channels/bench") })?;
/// let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
/// registry.publish("bench", &Event::new(format!("1 {now} ~")))?;
/// assert!(load.read_first_events(Duration::from_secs(10))?);
/// let window = load.window();
/// assert_eq!((window.delivered, window.lost, window.latency.count()), (3, 0, 3));
/// # handle.shutdown();
/// # running.join().expect("the server did not panic")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Window<'load> {
    /// Events read by all clients together.
    pub delivered: u64,
    /// Events that the publisher numbered and some client never got, over all clients.
    pub lost: u64,
    /// Frames `event: gap`, by which the server admits a loss.
    pub gaps: u64,
    /// Events that the publisher numbered, as the best informed client saw it.
    pub published: u64,
    /// Streams that ended.
    pub closed: usize,
    /// Clients that got any event at all.
    pub served: usize,
    /// Events of the client that got the fewest.
    pub slowest: u64,
    /// Events of the median client.
    pub median: u64,
    /// The longest that a client heard nothing, between two reads. An engine that stands still issues
    /// no events, so that none of them is late: this shows it all the same.
    pub silence: Duration,
    /// From publish to read; see [`Load::forget_latencies`].
    pub latency: &'load Histogram,
}

impl Load {
    /// Counts from here on: [`window`](Self::window) starts empty.
    pub fn mark(&mut self) {
        let now = unix_nanos();
        self.silence = Duration::ZERO;
        for client in &mut self.clients {
            client.heard = now;
            client.marked = client.newest;
            client.events = 0;
            client.gaps = 0;
        }
        self.closed = 0;
        self.forget_latencies();
    }

    /// Forgets the latencies alone: after a pause in reading the events that waited for the reader
    /// would count as late.
    pub fn forget_latencies(&mut self) {
        self.latency = Histogram::default();
    }

    /// What arrived since [`mark`](Self::mark).
    #[must_use]
    pub fn window(&self) -> Window<'_> {
        let mut counts: Vec<u64> = self.answered().map(|client| client.events).collect();
        counts.sort_unstable();
        let newest = self.answered().filter_map(|client| client.newest).max().unwrap_or(0);
        let marked = self.answered().filter_map(|client| client.marked).max();
        let oldest = self.answered().filter_map(|client| client.oldest).min().unwrap_or(newest + 1);
        Window {
            delivered: counts.iter().sum(),
            lost: self.answered().map(Client::lost).sum(),
            gaps: self.answered().map(|client| client.gaps).sum(),
            published: newest - marked.unwrap_or(oldest.saturating_sub(1)).min(newest),
            closed: self.closed,
            served: counts.iter().filter(|events| **events > 0).count(),
            slowest: counts.first().copied().unwrap_or(0),
            median: counts.get(counts.len() / 2).copied().unwrap_or(0),
            silence: self.silence,
            latency: &self.latency,
        }
    }

    /// How the opening went, first events included.
    #[must_use]
    pub fn opening(&self) -> Opening {
        self.opening
    }

    /// Clients that are connected and have had an event.
    #[must_use]
    pub fn streaming(&self) -> usize {
        self.clients.iter().filter(|it| it.socket.is_some() && it.newest.is_some()).count()
    }

    /// Clients that were given up because nobody answered them in time.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// How many clients were opened, whatever has become of them.
    #[must_use]
    pub fn opened(&self) -> usize {
        self.clients.len()
    }

    /// Clients that are connected and were answered.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.clients.iter().filter(|it| it.socket.is_some() && it.stream.head_done()).count()
    }

    fn answered(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().filter(|client| client.stream.head_done())
    }
}
