//! The counts of what the load generator's clients have received.

use std::collections::BTreeMap;
use std::time::Duration;

use super::client::{Client, Stream};
use super::{Histogram, Ids, Load, unix_nanos};

/// How many clients the server accepted, and how long this took. Times begin at the first
/// connection attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Clients that received `200`, and with [`Form::Any`](super::Form::Any) an event stream.
    pub accepted: usize,
    /// Clients without a stream: the server rejected them, closed the connection before the end of
    /// the response head, or did not respond before the timeout.
    pub rejected: usize,
    /// When the last accepted client received its response head; `None` while clients are still
    /// waiting for it.
    pub heads: Option<Duration>,
    /// When the last accepted client received its first event; `None` while clients are still
    /// waiting for it.
    pub events: Option<Duration>,
}

/// The counts of what the clients received since [`Load::mark`].
#[derive(Debug, Clone)]
pub struct Window<'load> {
    /// The number of events read, summed over all clients.
    pub delivered: u64,
    /// How many of these events have a stamp that is newer than that of the event before.
    pub stamped: u64,
    /// How many of these events have a stamp that is not newer: a repeated event, or the wrong
    /// order.
    pub repeated: u64,
    /// The number of events that did not arrive, summed over all clients: numbers that are missing
    /// between the stamps of the events that a client received.
    pub lost: u64,
    /// The number of events that another client received, and that are newer than the newest stamped
    /// event of a client that is still connected, summed over these clients. If all events have had
    /// time to arrive, these events are lost too.
    pub behind: u64,
    /// The comparisons of the events' ids. Counted with [`Form::Any`](super::Form::Any) only.
    pub ids: Ids,
    /// The number of `event: gap` frames, with which the server reports lost events.
    pub gaps: u64,
    /// The number of events that were published, as far as the numbers of the received events show.
    pub published: u64,
    /// The number of streams that ended.
    pub closed: usize,
    /// How many of these streams broke off: the connection failed, or ended before the end of the
    /// response's body.
    pub cut: usize,
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
        self.recent_silence = Duration::ZERO;
        for client in &mut self.clients {
            client.last_read = now;
            client.marked = client.newest;
            client.events = 0;
            client.stamped = 0;
            client.repeated = 0;
            client.gaps = 0;
            if let Stream::Decoded(stream) = &mut client.stream {
                stream.forget_ids();
            }
        }
        self.closed = 0;
        self.cut = 0;
        self.forget_latencies();
    }

    /// Resets only the latencies. Call this function when this process has not read for a while:
    /// events that arrived in the meantime would count as late.
    pub fn forget_latencies(&mut self) {
        self.latency.clear();
    }

    /// Resets the times of connections and first bytes, so that they include only clients that are
    /// opened from now on.
    pub fn forget_opening_times(&mut self) {
        self.connect_times.clear();
        self.first_byte_times.clear();
    }

    /// Returns how long ago each connected client last received an event; `None` for the others,
    /// and for clients without an event.
    pub fn silences(&self) -> impl Iterator<Item = Option<Duration>> {
        let now = unix_nanos();
        self.clients.iter().map(move |client| {
            let received = client.socket.is_some() && client.last_read > 0;
            received.then(|| Duration::from_nanos(now.saturating_sub(client.last_read)))
        })
    }

    /// Returns the longest silence of a client that has ended since the last call of this function
    /// or is going on. A silence is the time between two reads in which the client received events.
    pub fn take_longest_silence(&mut self) -> Duration {
        let ended = std::mem::take(&mut self.recent_silence);
        self.silences().flatten().fold(ended, Duration::max)
    }

    /// Restarts the silences of all clients, for example after a time without traffic.
    pub fn restart_silences(&mut self) {
        let now = unix_nanos();
        self.recent_silence = Duration::ZERO;
        let received = self.clients.iter_mut().filter(|client| client.last_read > 0);
        received.for_each(|client| client.last_read = now);
    }

    /// Returns the counts of what arrived since [`mark`](Self::mark).
    #[must_use]
    pub fn window(&self) -> Window<'_> {
        let mut counts: Vec<u64> = self.accepted().map(|client| client.events).collect();
        counts.sort_unstable();
        let newest = self.accepted().filter_map(|client| client.newest).max().unwrap_or(0);
        let marked = self.accepted().filter_map(|client| client.marked).max();
        let oldest = self.accepted().filter_map(|client| client.oldest).min().unwrap_or(newest + 1);
        let mut ids = Ids::default();
        for client in self.accepted() {
            if let Stream::Decoded(stream) = &client.stream {
                ids.add(stream.ids());
            }
        }
        let behind = |client: &Client| {
            let before = client.newest.or(marked).unwrap_or(oldest.saturating_sub(1));
            newest.saturating_sub(before)
        };
        Window {
            delivered: counts.iter().sum(),
            stamped: self.accepted().map(|client| client.stamped).sum(),
            repeated: self.accepted().map(|client| client.repeated).sum(),
            behind: self.accepted().filter(|it| it.socket.is_some()).map(behind).sum(),
            ids,
            lost: self.accepted().map(Client::lost).sum(),
            gaps: self.accepted().map(|client| client.gaps).sum(),
            published: newest - marked.unwrap_or(oldest.saturating_sub(1)).min(newest),
            closed: self.closed,
            cut: self.cut,
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
        self.clients.iter().filter(|it| it.socket.is_some() && it.served).count()
    }

    /// Returns the number of clients that were closed because the server did not respond in time.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Returns how many clients have no stream, for each reason.
    #[must_use]
    pub fn rejections(&self) -> BTreeMap<&str, usize> {
        let mut reasons = BTreeMap::new();
        for reason in self.clients.iter().filter_map(|client| client.rejected.as_deref()) {
            *reasons.entry(reason).or_default() += 1;
        }
        reasons
    }

    /// Returns how long the connections took, from the connection attempt until the connection was
    /// established.
    #[must_use]
    pub fn connect_times(&self) -> &Histogram {
        &self.connect_times
    }

    /// Returns how long the responses took, from sending the request until the first bytes of the
    /// response.
    #[must_use]
    pub fn first_byte_times(&self) -> &Histogram {
        &self.first_byte_times
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
