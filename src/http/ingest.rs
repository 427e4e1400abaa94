//! Publishes an event stream while it arrives: `POST` with `Content-Type: text/event-stream`.
//!
//! The request's body and its answer are open at the same time, on one thread. Each event is published
//! before the next one is decoded, and acknowledged in the answer.
//!
//! # Invariants
//!
//! * **The thread never waits for a client that does not read its answer.** Many clients read nothing
//!   until they have sent everything. If the socket is full, later acknowledgments replace each
//!   other, and the newest is sent when there is room; each one has the number of events so far.
//!   Only the end of the answer is written with a deadline.
//! * **Only whole events are published**, wherever the body is cut off.
//! * **Each wait has a deadline**: the sender's silence, the expiry of its token, or the drain.

use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::access::{PublishAccess, publisher};
use super::admission::StreamPermit;
use super::answer::{CONTINUE, Headers, open_head};
use super::body::{BodyPieces, Coding, Piece, expects_continue};
use super::error::HttpError;
use super::exchange::Exchange;
use super::forwarded::Client;
use super::mercure::reserved::check_event_name;
use super::reply::{LastReply, Reply};
use super::server_state::ServerState;
use super::{cors, publish, streams};
use crate::decoder::{DecodedEvent, Decoder};
use crate::error::PublishError;
use crate::event::{Event, Framing};
use crate::registry::{Channels, Ending};
use crate::stream::{Sink, Socket};

/// How many bytes longer a line may be than the data of an event: the longest field name, a colon
/// and a space.
const FIELD: usize = 16;

/// How often a request that waits for its rate checks whether it must end.
const PAUSE: Duration = Duration::from_millis(500);

/// The maximum number of bytes that one `read` returns.
const READ_SIZE: usize = 4 * 1024;

/// Answers a request whose body is an event stream. `access` permits it to publish to the channel.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
pub(super) fn begin(
    exchange: &Exchange<'_>,
    name: &str,
    access: PublishAccess,
) -> Result<Reply, HttpError> {
    let request = &exchange.request;
    Channels::new([name])?;
    if name.ends_with('*') {
        return Err(PublishError::Wildcard.into());
    }
    let Some(body) = BodyPieces::of(request.body) else {
        let detail = "this request needs a body; send it with Content-Length or chunked";
        return Err(HttpError::new(411, detail).closing());
    };
    if Coding::of(request)? != Coding::Identity {
        let detail = "an event stream must not be compressed; send it without Content-Encoding";
        return Err(HttpError::new(415, detail));
    }
    if request.header("idempotency-key").is_some() {
        let detail = "an event stream has no Idempotency-Key, because its events are published one \
                      by one; give each event an id, so that it can be repeated";
        return Err(HttpError::new(400, detail));
    }
    let ends = publish::ends(request)?;
    let publisher = publisher(exchange)?;
    let permit = streams::admit(exchange)?;
    let headers: Headers = cors::headers(exchange);
    let head = open_head(request.framing(), &headers, "application/x-ndjson");
    Ok(Reply::Last(Box::new(Ingest {
        client: exchange.client(),
        channel: name.to_owned(),
        body,
        ends,
        access,
        publisher,
        expects: expects_continue(request),
        head,
        framing: request.framing(),
        socket: exchange.socket(),
        _permit: permit,
    })))
}

/// A request that is about to publish its body as it arrives.
struct Ingest {
    client: Client,
    channel: String,
    body: BodyPieces,
    /// Whether the channel ends when the body ends.
    ends: bool,
    /// What permits the client to publish.
    access: PublishAccess,
    /// The publisher whose rate is limited.
    publisher: Option<u64>,
    /// Whether the client waits for `100 Continue`.
    expects: bool,
    head: Vec<u8>,
    framing: Framing,
    socket: Socket,
    /// The permit of a stream, because the request takes as much for as long.
    _permit: Option<StreamPermit>,
}

/// Why a request ended before its body did.
enum Stop {
    /// The client has disconnected, so no answer is sent.
    Disconnected,
    Failed(HttpError),
}

impl From<HttpError> for Stop {
    fn from(error: HttpError) -> Self {
        Self::Failed(error)
    }
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Disconnected
    }
}

impl LastReply for Ingest {
    fn needs_fresh_thread(&self, _has_sent: bool, _server: &ServerState) -> bool {
        false
    }

    fn run(
        mut self: Box<Self>,
        socket: &Arc<socket2::Socket>,
        received: Vec<u8>,
        server: &ServerState,
    ) {
        let started = Instant::now();
        let head = mem::take(&mut self.head);
        let head =
            if self.expects && received.is_empty() { [CONTINUE, &head].concat() } else { head };
        let answer = Acknowledgments::new(self.socket.clone(), self.framing, head);
        let drain = Some(&server.drain_event);
        let silence = server.config.limits.ingest_silence;
        let (until, drained) = (self.access.until, None);
        let mut wire = Wire { socket, received, answer, silence, until, drain, drained, server };
        let mut count = 0;
        let end = match self.publish(&mut wire, &mut count) {
            Ok(()) => {
                let closed = wire.answer.close(None);
                if closed.is_ok() { "finished".into() } else { "the client reads no answer".into() }
            }
            Err(Stop::Disconnected) => "client disconnected".into(),
            Err(Stop::Failed(error)) => {
                let line = json!({ "error": error.problem(), "count": count });
                let _ = wire.answer.close(Some(&line)); // fails if the client has disconnected
                error.to_string()
            }
        };
        self.log_end(server, started.elapsed(), count, &end);
    }
}

impl Ingest {
    /// Publishes all events of the body, and counts them.
    fn publish(&mut self, wire: &mut Wire<'_>, count: &mut u64) -> Result<(), Stop> {
        wire.answer.send()?;
        let limit = wire.server.config.limits.event;
        let mut decoder = Decoder::with_limit(limit.saturating_add(FIELD));
        loop {
            let piece = match self.body.take(&mut wire.received)? {
                Piece::Bytes(piece) => piece,
                Piece::Pending => {
                    wire.fill()?;
                    continue;
                }
                Piece::End => break,
            };
            let mut bytes = &piece[..];
            while !bytes.is_empty() {
                let place = |error: HttpError| error.at(&format!("event {}", *count + 1));
                let next = decoder.next_event(&mut bytes).map_err(|_| {
                    let detail =
                        format!("it is longer than {limit} bytes (--event-limit); send less");
                    place(HttpError::new(413, detail))
                })?;
                let Some(next) = next else { continue };
                let event = event(next, &decoder).map_err(place)?;
                let line = self.publish_one(wire, &event, *count + 1).map_err(place)?;
                *count += 1;
                wire.answer.add(&line)?;
            }
        }
        if self.ends {
            let line = match self.publish_one(wire, &Event::end(), *count + 1) {
                Ok(mut line) => {
                    *count += 1;
                    line["end"] = true.into();
                    line
                }
                // All events are repeats, and the channel has ended already.
                Err(error) if error.is_conflict() => json!({ "count": *count, "end": true }),
                Err(error) => return Err(error.into()),
            };
            wire.answer.add(&line)?;
        }
        Ok(())
    }

    /// Publishes an event, the `count`th of the request, and returns its acknowledgment.
    fn publish_one(
        &self,
        wire: &mut Wire<'_>,
        event: &Event,
        count: u64,
    ) -> Result<Value, HttpError> {
        wire.check()?;
        let server = wire.server;
        publish::check_size(event, server.config.limits.event)?;
        if self.access.is_withdrawn() {
            let detail = "the token is no longer valid; send the rest of the stream with a new one";
            return Err(HttpError::new(401, detail));
        }
        if server.config.mercure.is_on() {
            event.name().map_or(Ok(()), check_event_name)?;
        }
        // A stream is slowed down to the rate instead of being rejected.
        if let Some((rate, publisher)) = server.publish_rate.as_ref().zip(self.publisher) {
            while let Err(wait) = rate.count_one(publisher) {
                if !server.hub.wait(wait.min(PAUSE)) {
                    return Err(draining());
                }
                wire.check()?;
            }
        }
        let published = server.hub.publish(&self.channel, event)?;
        let mut line = json!({ "id": published.id.to_string() });
        if let Some(id) = event.id() {
            line["own_id"] = id.into();
        }
        line["subscribers"] = published.subscribers.into();
        line["count"] = count.into();
        Ok(line)
    }

    fn log_end(&self, server: &ServerState, took: Duration, count: u64, end: &str) {
        let level = if server.config.log_streams { Level::Info } else { Level::Debug };
        let (client, channel) = (self.client, &self.channel);
        log::log!(
            level,
            client:% = client, channel:% = channel, seconds = took.as_secs_f64(), events = count,
            end:% = end;
            "event stream of {client} to {channel:?} ended after {took:.3?}: {count} events, {end}",
        );
    }
}

/// Converts an event that the decoder has just decoded.
fn event(fields: DecodedEvent, decoder: &Decoder) -> Result<Event, HttpError> {
    let mut event = Event::new(fields.data);
    if fields.event != "message" {
        event = event.with_name(fields.event)?;
    }
    if let Some(id) = decoder.own_id() {
        event = event.with_id(id)?;
    }
    Ok(match decoder.own_retry() {
        Some(retry) => event.with_retry(retry),
        None => event,
    })
}

fn draining() -> HttpError {
    let detail = "the server is shutting down; send the rest of the stream again in a moment";
    HttpError::new(503, detail)
}

/// A connection whose client sends while it is answered.
struct Wire<'a> {
    socket: &'a socket2::Socket,
    received: Vec<u8>,
    answer: Acknowledgments<Socket>,
    /// How long the client may be silent.
    silence: Duration,
    /// When the client's token expires.
    until: Option<Instant>,
    /// An eventfd that is readable while the server drains; `None` once it was seen.
    drain: Option<&'a OwnedFd>,
    /// When the drain ends this request.
    drained: Option<Instant>,
    server: &'a ServerState,
}

impl Wire<'_> {
    /// Waits until bytes have been received. Meanwhile, sends acknowledgments for which the socket
    /// had no room.
    fn fill(&mut self) -> Result<(), Stop> {
        let silent = Instant::now() + self.silence;
        loop {
            let ends = [Some(silent), self.until, self.drained];
            let end = ends.into_iter().flatten().min().unwrap_or(silent);
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.expired(silent).into());
            }
            let events =
                if self.answer.is_sent() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            let mut either = vec![PollFd::new(self.socket, events)];
            either.extend(self.drain.map(|drain| PollFd::new(drain, PollFlags::IN)));
            // A time that is too long for a `Timespec` becomes `None`: no deadline.
            match poll(&mut either, Timespec::try_from(left).ok().as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
            let ready = either[0].revents();
            if either.get(1).is_some_and(|drain| !drain.revents().is_empty()) {
                self.begin_drain();
            }
            if ready.contains(PollFlags::OUT) {
                self.answer.send()?;
            }
            if !(ready - PollFlags::OUT).is_empty() {
                return self.read();
            }
        }
    }

    /// Fails if the request must end, although bytes that have been received are left.
    fn check(&mut self) -> Result<(), HttpError> {
        if self.drain.is_some() && self.server.is_draining() {
            self.begin_drain();
        }
        let now = Instant::now();
        let has_passed = |end: Option<Instant>| end.is_some_and(|end| end <= now);
        if has_passed(self.until) || has_passed(self.drained) {
            return Err(self.expired(now + self.silence));
        }
        Ok(())
    }

    /// Finds out when the drain ends this request.
    fn begin_drain(&mut self) {
        self.drained = match self.server.hub.ending() {
            Ending::Over(closing) => Some(closing.moment()),
            Ending::Now => Some(Instant::now()),
            Ending::No => return, // the drain is just beginning
        };
        self.drain = None;
    }

    fn read(&mut self) -> Result<(), Stop> {
        let filled = self.received.len();
        self.received.resize(filled + READ_SIZE, 0);
        let read = (&*self.socket).read(&mut self.received[filled..]);
        self.received.truncate(filled + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(Stop::Disconnected),
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Returns the error for the deadline that has passed.
    fn expired(&self, silent: Instant) -> HttpError {
        let now = Instant::now();
        if self.drained.is_some_and(|drained| drained <= now) {
            return draining();
        }
        if self.until.is_some_and(|until| until <= now) && now < silent {
            let detail = "the token has expired; send the rest of the stream with a new one";
            return HttpError::new(401, detail);
        }
        let detail = "no byte arrived for too long (--ingest-silence); send a comment now and then";
        HttpError::new(408, detail)
    }
}

/// The answer: a line for each event, as far as the client reads them.
struct Acknowledgments<S> {
    socket: S,
    framing: Framing,
    /// Bytes that the socket has not taken yet.
    unsent: Vec<u8>,
    /// The newest line behind them.
    newest: Option<String>,
}

impl<S: Sink + Write> Acknowledgments<S> {
    fn new(socket: S, framing: Framing, head: Vec<u8>) -> Self {
        Self { socket, framing, unsent: head, newest: None }
    }

    /// Whether the socket has taken all lines.
    fn is_sent(&self) -> bool {
        self.unsent.is_empty() && self.newest.is_none()
    }

    /// Sends a line, or remembers it instead of the one that was remembered before.
    fn add(&mut self, line: &Value) -> io::Result<()> {
        self.newest = Some(format!("{line}\n"));
        self.send()
    }

    /// Sends what the socket takes now.
    fn send(&mut self) -> io::Result<()> {
        loop {
            if self.unsent.is_empty() {
                match self.newest.take() {
                    Some(line) => self.push(&line),
                    None => return Ok(()),
                }
            }
            match self.socket.send(&self.unsent)? {
                0 => return Ok(()),
                sent => drop(self.unsent.drain(..sent)),
            }
        }
    }

    /// Writes the rest of the answer, and waits for a client that reads.
    fn close(&mut self, last: Option<&Value>) -> io::Result<()> {
        let lines = [self.newest.take(), last.map(|line| format!("{line}\n"))];
        lines.into_iter().flatten().for_each(|line| self.push(&line));
        self.unsent.extend_from_slice(self.framing.last());
        self.socket.write_all(&self.unsent)
    }

    fn push(&mut self, line: &str) {
        if self.framing == Framing::Chunked {
            self.unsent.extend_from_slice(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes());
        } else {
            self.unsent.extend_from_slice(line.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket with room for some bytes.
    struct Narrow {
        room: usize,
        taken: Vec<u8>,
    }

    impl Sink for Narrow {
        fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let sent = bytes.len().min(self.room);
            self.room -= sent;
            self.taken.extend_from_slice(&bytes[..sent]);
            Ok(sent)
        }

        fn report_to_broadcaster(&self) -> u64 {
            0
        }
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.taken.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn client_that_does_not_read_gets_the_newest_acknowledgment() {
        let socket = Narrow { room: 10, taken: Vec::new() };
        let mut answer = Acknowledgments::new(socket, Framing::Plain, b"head\n".to_vec());
        for n in 1..=1_000 {
            answer.add(&json!(n)).unwrap();
            assert!(answer.unsent.len() < 10, "the memory does not grow");
        }
        answer.socket.room = 3;
        answer.send().unwrap();
        answer.close(Some(&json!("end"))).unwrap();
        let taken = String::from_utf8(answer.socket.taken).unwrap();
        assert_eq!(taken, "head\n1\n2\n3\n1000\n\"end\"\n");
    }
}
