//! The load generator: thousands of stream clients in one thread, on `epoll`.
//!
//! It reads the streams of a server of any make ([`Form::Any`]): HTTP/1.1 with or without chunked
//! encoding, or HTTP/1.0. It decodes the events by the rules of the HTML standard (§9.2.6), does not
//! reconnect, and finds lost events in two ways:
//!
//! - **By stamps.** An event's data may begin with a number and the time of publishing, as below.
//!   Each event has the number of the publisher's previous event plus 1, so a missing number is a
//!   lost event. The latency is an event's age when the load generator reads it. The publisher and
//!   the load generator need the same clock, and a stream needs one publisher.
//! - **By ids**, if the ids end with decimal numbers that count the events of the stream: see
//!   [`Ids`].
//!
//! ```text
//! data: <number> <nanoseconds since the Unix epoch>
//! data: <number> <nanoseconds since the Unix epoch> <anything>
//! ```
//!
//! If a server must be measured at its highest rate, the load generator must not be the bottleneck.
//! With [`Form::Counted`], it parses only the oldest and the newest event of each read, of up to 256
//! KiB, and counts the others (`load/counted.rs` explains why the counts are exact). For this, each
//! event must have the following form. The server may send comments, `retry:` and gap frames between
//! events.
//!
//! ```text
//! id: <anything>\n
//! data: <number> <nanoseconds since the Unix epoch> <padding without tilde>~\n
//! \n
//! ```
//!
//! ```no_run
//! use std::time::Duration;
//! use sse_load::load::{Load, Plan};
//!
//! let url = "http://127.0.0.1:8844/channels/bench".parse()?;
//! let mut load = Load::open(&Plan { clients: 1_000, ..Plan::of_url(&url)? })?;
//! load.mark();
//! load.read_for(Duration::from_secs(5))?;
//! println!("{} events, {} lost", load.window().delivered, load.window().lost);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod body;
mod client;
mod counted;
mod counts;
mod decoded;
mod events;
mod histogram;
mod ids;
mod plan;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::{Events, Interest, Poll, Token};

use body::Rejected;
use client::{Client, Stream};
use counted::{Needles, ROOM, Seen, Stamp};
pub use counts::{Opening, Window};
pub use histogram::Histogram;
pub use ids::Ids;
pub use plan::{Form, Plan, Url, UrlError};

/// The maximum size of one read, in bytes. It is large enough that ten million events per second
/// take a few thousand reads, and small enough that the buffer fits into the core's cache.
const READ: usize = 256 * 1024;

/// How many times in a row one client is read before the other clients are read.
const READS_IN_A_ROW: usize = 8;

/// The clients of the load generator, and the counts of what they have received.
#[derive(Debug)]
pub struct Load {
    poll: Poll,
    ready: Events,
    clients: Vec<Client>,
    stuck: Vec<std::net::TcpStream>,
    /// Indices of the clients that may have more to read after [`READS_IN_A_ROW`] reads.
    unfinished: Vec<usize>,
    buffer: Vec<u8>,
    needles: Needles,
    latency: Histogram,
    connect_times: Histogram,
    first_byte_times: Histogram,
    silence: Duration,
    recent_silence: Duration,
    closed: usize,
    cut: usize,
    unanswered: usize,
    started: Instant,
    planned: usize,
    opening: Opening,
    waiting_for_head: usize,
    waiting_for_event: usize,
}

impl Load {
    /// Opens all clients of `plan`. Returns when each client has been accepted or rejected, or has
    /// timed out. Until then, it also reads the streams of the accepted clients.
    ///
    /// # Errors
    ///
    /// Fails if this process cannot open a socket, usually because it has no descriptor or port
    /// left. A client that the server rejects is not an error: [`Opening::rejected`] counts it.
    pub fn open(plan: &Plan) -> io::Result<Self> {
        let mut load = Self {
            poll: Poll::new()?,
            ready: Events::with_capacity(1024),
            clients: Vec::with_capacity(plan.clients),
            stuck: Vec::new(),
            unfinished: Vec::new(),
            buffer: vec![0; ROOM + READ],
            needles: Needles::new(),
            latency: Histogram::default(),
            connect_times: Histogram::default(),
            first_byte_times: Histogram::default(),
            silence: Duration::ZERO,
            recent_silence: Duration::ZERO,
            closed: 0,
            cut: 0,
            unanswered: 0,
            started: Instant::now(),
            planned: plan.clients,
            opening: Opening { accepted: 0, rejected: 0, heads: None, events: None },
            waiting_for_head: 0,
            waiting_for_event: 0,
        };
        load.grow(plan, plan.clients)?;
        Ok(load)
    }

    /// Opens more clients until there are `clients`, and more stuck clients until there are
    /// `plan.stuck`.
    ///
    /// # Errors
    ///
    /// Fails as [`open`](Self::open) does.
    pub fn grow(&mut self, plan: &Plan, clients: usize) -> io::Result<()> {
        let request = client::request(plan);
        let mut deadline = Instant::now() + plan.timeout;
        self.planned = clients;
        while (self.clients.len() < clients || self.waiting_for_head > 0)
            && Instant::now() < deadline
        {
            while self.clients.len() < clients && self.waiting_for_head < plan.in_flight.max(1) {
                self.connect(plan, &request)?;
            }
            let waiting = self.waiting_for_head;
            self.turn(deadline)?;
            if self.waiting_for_head < waiting {
                deadline = Instant::now() + plan.timeout;
            }
        }
        self.close_unanswered(plan.timeout);
        for _ in self.stuck.len()..plan.stuck {
            let mut socket = std::net::TcpStream::connect(plan.server)?;
            socket.write_all(&request)?;
            self.stuck.push(socket);
        }
        Ok(())
    }

    /// Reads all clients' streams for `span`.
    ///
    /// # Errors
    ///
    /// Fails if `epoll` fails. A client whose connection fails is counted as closed.
    pub fn read_for(&mut self, span: Duration) -> io::Result<()> {
        let deadline = Instant::now() + span;
        while Instant::now() < deadline {
            self.turn(deadline)?;
        }
        Ok(())
    }

    /// Reads until every accepted client has received an event. Returns `false` if no further
    /// client received its first event for as long as `timeout`.
    ///
    /// # Errors
    ///
    /// Fails as [`read_for`](Self::read_for) does.
    pub fn read_first_events(&mut self, timeout: Duration) -> io::Result<bool> {
        let mut deadline = Instant::now() + timeout;
        while self.waiting_for_event > 0 && Instant::now() < deadline {
            let waiting = self.waiting_for_event;
            self.turn(deadline)?;
            if self.waiting_for_event < waiting {
                deadline = Instant::now() + timeout;
            }
        }
        Ok(self.waiting_for_event == 0)
    }

    /// Reads until nothing arrives for `silence`, so that the counts and the server's resource use
    /// refer to the same events. Returns `false` if `timeout` ended first.
    ///
    /// # Errors
    ///
    /// Fails as [`read_for`](Self::read_for) does.
    pub fn read_until_quiet(&mut self, silence: Duration, timeout: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + timeout;
        let mut last_read = Instant::now();
        while Instant::now() < deadline {
            if self.turn(deadline.min(last_read + silence))? {
                last_read = Instant::now();
            } else if last_read.elapsed() >= silence {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Disconnects all but the first `clients` clients, and removes them from the counts.
    pub fn shrink(&mut self, clients: usize) {
        for client in self.clients.drain(clients.min(self.clients.len())..) {
            let open = client.socket.is_some();
            self.waiting_for_head -= usize::from(open && !client.stream.head_done());
            self.waiting_for_event -= usize::from(open && !client.served);
            self.opening.accepted -= usize::from(client.stream.head_done());
            self.opening.rejected -= usize::from(!open && !client.stream.head_done());
        }
        self.unfinished.retain(|index| *index < clients);
        self.planned = self.clients.len();
    }

    /// Disconnects `count` of the clients that have received an event.
    pub fn disconnect(&mut self, count: usize) {
        let streaming = |index: &usize| {
            let client = &self.clients[*index];
            client.socket.is_some() && client.served
        };
        let leaving: Vec<_> = (0..self.clients.len()).filter(streaming).take(count).collect();
        leaving.into_iter().for_each(|index| self.close(index, "", true));
    }

    /// Returns the local ports of the stuck clients.
    #[must_use]
    pub fn stuck_ports(&self) -> Vec<u16> {
        let port = |socket: &std::net::TcpStream| socket.local_addr().ok().map(|addr| addr.port());
        self.stuck.iter().filter_map(port).collect()
    }

    fn connect(&mut self, plan: &Plan, request: &[u8]) -> io::Result<()> {
        let index = self.clients.len();
        let mut socket = client::connect(plan.server, index)?;
        // `epoll` is edge-triggered, so it reports writability once: when the connection is
        // established.
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(index), interest)?;
        self.clients.push(Client::new(socket, request, plan.form));
        self.waiting_for_head += 1;
        self.waiting_for_event += 1;
        Ok(())
    }

    /// Waits until `deadline` for a socket that is ready, and serves all sockets that are ready.
    /// Returns whether any socket was ready.
    fn turn(&mut self, deadline: Instant) -> io::Result<bool> {
        let mut timeout = deadline.saturating_duration_since(Instant::now());
        if !self.unfinished.is_empty() {
            timeout = Duration::ZERO;
        }
        match self.poll.poll(&mut self.ready, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let unfinished = std::mem::take(&mut self.unfinished);
        let ready = std::mem::replace(&mut self.ready, Events::with_capacity(0));
        for event in &ready {
            let index = event.token().0;
            if event.is_writable()
                && let Some(connected) = self.clients[index].send_request()
            {
                self.connect_times.record(connected, 1);
            }
            if event.is_readable() || event.is_error() {
                self.read(index, event.is_read_closed() || event.is_error());
            }
        }
        let any = !unfinished.is_empty() || !ready.is_empty();
        self.ready = ready;
        for index in unfinished {
            self.read(index, true);
        }
        Ok(any)
    }

    /// Reads what a client's socket contains. A read that does not fill the buffer has emptied the
    /// socket, so no other read follows. With `to_the_end`, reading continues anyway, because the
    /// end of the stream may follow.
    fn read(&mut self, index: usize, to_the_end: bool) {
        for _ in 0..READS_IN_A_ROW {
            let Some(socket) = &mut self.clients[index].socket else { return };
            match socket.read(&mut self.buffer[ROOM..]) {
                Ok(0) => {
                    let complete = self.clients[index].stream.may_end();
                    return self.close(index, "connection closed before a response", complete);
                }
                Ok(read) => {
                    self.take(index, read);
                    if read < READ && !to_the_end {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.close(index, &error.kind().to_string(), false),
            }
        }
        self.unfinished.push(index);
    }

    fn take(&mut self, index: usize, read: usize) {
        let now = unix_nanos();
        let (client, latency) = (&mut self.clients[index], &mut self.latency);
        let before = (client.stream.head_done(), client.served);
        if client.is_unanswered() {
            self.first_byte_times.record(client.waited(), 1);
        }
        let age = |stamp: Stamp| Duration::from_nanos(now.saturating_sub(stamp.published));
        let seen = match &mut client.stream {
            Stream::Counted(stream) => stream.feed(&self.needles, &mut self.buffer, read),
            Stream::Decoded(stream) => {
                stream.feed(&self.buffer[ROOM..ROOM + read], |stamp| latency.record(age(stamp), 1))
            }
        };
        let (seen, rejected) = match seen {
            Ok(seen) => (seen, None),
            Err(Rejected(reason)) => (Seen::default(), Some(reason)),
        };
        client.count(&seen);
        if seen.events > 0 {
            let last = std::mem::replace(&mut client.last_read, now);
            if last > 0 {
                let silence = Duration::from_nanos(now.saturating_sub(last));
                self.silence = self.silence.max(silence);
                self.recent_silence = self.recent_silence.max(silence);
            }
        }
        if let (Stream::Counted(_), Some(oldest), Some(newest)) =
            (&client.stream, seen.oldest, seen.newest)
        {
            // Only the oldest and the newest event of a read are parsed. The older half of the
            // events is recorded with the age of the oldest, the other half with that of the newest.
            latency.record(age(oldest), seen.events / 2);
            latency.record(age(newest), seen.events - seen.events / 2);
        }
        let (after, ended) =
            ((client.stream.head_done(), client.served), client.stream.has_ended());
        if after != before {
            self.opening.accepted += usize::from(after.0 && !before.0);
            self.waiting_for_head -= usize::from(after.0 && !before.0);
            self.waiting_for_event -= usize::from(after.1 && !before.1);
            self.note_times();
        }
        if let Some(reason) = rejected {
            self.close(index, &reason, false);
        } else if ended {
            self.close(index, "", true);
        }
    }

    /// Closes a client's connection. If the client has no stream yet, `reason` tells why; otherwise
    /// `complete` tells whether the stream has ended in its regular way.
    fn close(&mut self, index: usize, reason: &str, complete: bool) {
        let client = &mut self.clients[index];
        client.socket = None;
        self.closed += 1;
        if !client.stream.head_done() {
            client.rejected = Some(reason.to_owned());
            self.opening.rejected += 1;
            self.waiting_for_head -= 1;
        } else if !complete {
            self.cut += 1;
        }
        if !client.served {
            self.waiting_for_event -= 1;
        }
        self.note_times();
    }

    fn note_times(&mut self) {
        let elapsed = self.started.elapsed();
        if self.waiting_for_head == 0 && self.clients.len() == self.planned {
            self.opening.heads.get_or_insert(elapsed);
        }
        if self.waiting_for_event == 0 && self.clients.len() == self.planned {
            self.opening.events.get_or_insert(elapsed);
        }
    }

    fn close_unanswered(&mut self, timeout: Duration) {
        let reason = format!("no response within {} s", timeout.as_secs_f64());
        for index in 0..self.clients.len() {
            if self.clients[index].socket.is_some() && !self.clients[index].stream.head_done() {
                self.close(index, &reason, false);
                self.unanswered += 1;
            }
        }
        self.closed = 0;
    }
}

fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
