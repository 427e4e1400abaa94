//! The counts of what the load generator's clients have received.

use std::time::Duration;

use super::client::Client;
use super::{Histogram, Load, unix_nanos};

/// How many clients the server accepted, and how long this took. Times begin at the first
/// connection attempt.
///
/// ```
/// # use threadcast::{Config, Event, Server};
/// use threadcast::lab::load::{Load, Plan};
///
/// # let server = Server::bind(Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() })?;
/// # let (addr, handle, registry) = (server.addresses()[0], server.handle(), server.registry().clone());
/// # let running = std::thread::spawn(move || server.run());
/// let load = Load::open(&Plan { clients: 3, ..Plan::new(addr, "/channels/bench") })?;
/// assert_eq!((load.opening().accepted, load.opening().rejected), (3, 0));
/// # handle.shutdown();
/// # running.join().expect("the server did not panic")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Clients that received `200`.
    pub accepted: usize,
    /// Clients without a `200` response: the server rejected them, closed the connection before the
    /// end of the response head, or did not respond before the timeout.
    pub rejected: usize,
    /// When the last accepted client received its response head; `None` while clients are still
    /// waiting for it.
    pub heads: Option<Duration>,
    /// When the last accepted client received its first event; `None` while clients are still
    /// waiting for it.
    pub events: Option<Duration>,
}

/// The counts of what the clients received since [`Load::mark`].
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
    /// The number of events read, summed over all clients.
    pub delivered: u64,
    /// The number of events that did not arrive, summed over all clients.
    pub lost: u64,
    /// The number of `event: gap` frames, with which the server reports lost events.
    pub gaps: u64,
    /// The number of events that were published, as far as the numbers of the received events show.
    pub published: u64,
    /// The number of streams that ended.
    pub closed: usize,
    /// The number of clients that received an event.
    pub served: usize,
    /// The number of events received by the client that received the fewest.
    pub slowest: u64,
    /// The number of events received by the median client.
    pub median: u64,
    /// The longest time between two successive reads in which the same client received events.
    /// Unlike the latency, this figure also shows pauses in which the engine publishes nothing.
    pub silence: Duration,
    /// The times from publishing an event to reading it. [`Load::forget_latencies`] resets them.
    pub latency: &'load Histogram,
}

impl Load {
    /// Resets the counts that [`window`](Self::window) returns.
    pub fn mark(&mut self) {
        let now = unix_nanos();
        self.silence = Duration::ZERO;
        for client in &mut self.clients {
            client.last_read = now;
            client.marked = client.newest;
            client.events = 0;
            client.gaps = 0;
        }
        self.closed = 0;
        self.forget_latencies();
    }

    /// Resets only the latencies. Call this function when this process has not read for a while:
    /// events that arrived in the meantime would count as late.
    pub fn forget_latencies(&mut self) {
        self.latency = Histogram::default();
    }

    /// Returns the counts of what arrived since [`mark`](Self::mark).
    #[must_use]
    pub fn window(&self) -> Window<'_> {
        let mut counts: Vec<u64> = self.accepted().map(|client| client.events).collect();
        counts.sort_unstable();
        let newest = self.accepted().filter_map(|client| client.newest).max().unwrap_or(0);
        let marked = self.accepted().filter_map(|client| client.marked).max();
        let oldest = self.accepted().filter_map(|client| client.oldest).min().unwrap_or(newest + 1);
        Window {
            delivered: counts.iter().sum(),
            lost: self.accepted().map(Client::lost).sum(),
            gaps: self.accepted().map(|client| client.gaps).sum(),
            published: newest - marked.unwrap_or(oldest.saturating_sub(1)).min(newest),
            closed: self.closed,
            served: counts.iter().filter(|events| **events > 0).count(),
            slowest: counts.first().copied().unwrap_or(0),
            median: counts.get(counts.len() / 2).copied().unwrap_or(0),
            silence: self.silence,
            latency: &self.latency,
        }
    }

    /// Returns how many clients the server accepted, and how long the responses and the first
    /// events took.
    #[must_use]
    pub fn opening(&self) -> Opening {
        self.opening
    }

    /// Returns the number of clients that are connected and have received an event.
    #[must_use]
    pub fn streaming(&self) -> usize {
        self.clients.iter().filter(|it| it.socket.is_some() && it.newest.is_some()).count()
    }

    /// Returns the number of clients that were closed because the server did not respond in time.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Returns how many clients were opened, including those whose connection has ended.
    #[must_use]
    pub fn opened(&self) -> usize {
        self.clients.len()
    }

    /// Returns the number of clients that are connected and were accepted.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.clients.iter().filter(|it| it.socket.is_some() && it.stream.head_done()).count()
    }

    fn accepted(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().filter(|client| client.stream.head_done())
    }
}
