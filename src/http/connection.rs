//! The life of one connection, on its own thread: a request, its answer, the
//! next request, and at last perhaps a stream.
//!
//! This is the whole of "a thread per connection": it reads top to bottom, and
//! where it waits it blocks. Each wait has a deadline. Requests that were sent
//! ahead (pipelined) are answered in order; a stream is its connection's last
//! answer, so what was sent behind it is never looked at.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::access::Locality;
use super::coding::Coding;
use super::connections::{ConnectionPermit, Wait};
use super::error::HttpError;
use super::forwarded::Client;
use super::request::{BodyLength, Request};
use super::routes::{self, Reply};
use super::streams::Stream;
use super::{Alive, ServerState, body, cors, listener};
use crate::disconnect::Watch;
use crate::event::Framing;
use crate::limits::{LAST_WORDS, LINGER_BYTES, LINGER_SILENCE, LINGER_TIME};
use crate::stream::Socket;

/// How much is read from a socket at once.
const READ_SIZE: usize = 4 * 1024;

/// A request, and what a handler may ask of the connection that carries it.
pub(crate) struct Exchange<'a> {
    pub(crate) server: &'a Arc<ServerState>,
    pub(crate) peer: SocketAddr,
    /// Where the request comes from.
    pub(crate) locality: Locality,
    pub(crate) request: Box<Request>,
    inbound: &'a mut Inbound,
    body_is_read: bool,
}

impl Exchange<'_> {
    /// Reads the body, having said that it is wanted if the client waits to hear
    /// that. Fails if it is longer than `limit`, compressed or not, if it is too slow, or none.
    pub(crate) fn body(&mut self, limit: usize) -> Result<Vec<u8>, HttpError> {
        if self.request.body == BodyLength::None {
            let detail = "this request needs a body; send it with Content-Length or chunked";
            return Err(HttpError::new(411, detail).closing());
        }
        let coding = Coding::of(&self.request)?;
        let limits = &self.server.config.limits;
        // NDJSON's has a size of its own, unless the flag goes beyond it.
        let set_by = if limit > limits.body { "for NDJSON" } else { "--body-limit" };
        let limit = body::Limit { bytes: limit, set_by };
        let body = body::read(self.inbound, &self.request, limit, limits.request_deadline)?;
        if !self.inbound.resume() {
            let detail = "the connection was closed to make room for others; send it again";
            return Err(HttpError::new(503, detail).closing());
        }
        self.body_is_read = true;
        coding.decode(body, limit)
    }

    /// The client, as logs name it: behind a trusted proxy not that.
    pub(crate) fn client(&self) -> Client {
        Client::of(&self.request, self.peer, &self.server.config.trusted_proxies)
    }

    /// The path without its query, as logs name it.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.request.segments.join("/"))
    }

    /// Whether the connection gives its place to another, and so cannot become a stream:
    /// its input has ended, which in a stream means that the client has left.
    pub(crate) fn is_shed(&self) -> bool {
        self.inbound.is_shed()
    }

    /// Where the client has found us.
    pub(crate) fn our_address(&self) -> io::Result<SocketAddr> {
        self.inbound.socket.local_addr()
    }

    /// The connection, for a stream to write to.
    pub(crate) fn socket(&self) -> Socket {
        let watch = Arc::new(Watch::new(&self.server.watcher));
        Socket::new(&self.inbound.socket, self.server.config.limits.write_deadline, &watch)
    }
}

/// Serves one connection until it ends.
pub(crate) fn serve(
    server: &Arc<ServerState>,
    socket: Arc<TcpStream>,
    permit: Box<ConnectionPermit>,
    peer: SocketAddr,
    on_loopback: bool,
    alive: &Sender<Alive>,
) {
    let mut inbound = Inbound::new(socket, permit, server.config.limits.keep_alive);
    let mut has_sent = false;
    while let Some(request) = read_request(server, &mut inbound) {
        let next = match request {
            Ok(request) => answer(server, &mut inbound, peer, on_loopback, request),
            Err(error) => Next::refused(&error, &inbound),
        };
        match next.reply {
            Reply::Answer(answer) => {
                let close = next.close || server.is_draining() || inbound.is_shed();
                inbound.wait(Wait::Answer);
                let socket = &*inbound.socket;
                if answer.write(socket, close, next.head_only, next.framing).is_err() {
                    return;
                }
                if close {
                    return inbound.linger();
                }
                has_sent = true;
                inbound.is_fresh = false;
            }
            Reply::Head(head) => {
                if inbound.send(&head).is_err() {
                    return;
                }
                if next.close || server.is_draining() || inbound.is_shed() {
                    return inbound.linger();
                }
                has_sent = true;
                inbound.is_fresh = false;
            }
            Reply::Stream(stream) => {
                inbound.bytes = Vec::new(); // the buffer is given back
                inbound.permit = None; // from here on it counts as a stream
                // The kernel keeps 32 KB for a thread that has sent, for as long
                // as it lives: a stream that is not to send gets one that has not. And a
                // stack that was touched deep down stays so: it gets a fresh one.
                if has_sent && server.mailbox.is_some() || stream.is_deep() {
                    return begin_elsewhere(stream, inbound, server, peer, alive);
                }
                stream.run(&inbound.socket, server);
                return inbound.linger_as(server.connections.rejoin());
            }
            Reply::WebSocket(websocket, place) => {
                let ahead = std::mem::take(&mut inbound.bytes);
                inbound.permit = None;
                websocket.run(&inbound.socket, ahead, server);
                drop(place);
                return inbound.linger_as(server.connections.rejoin());
            }
        }
    }
}

/// Gives a stream a thread of its own, and with it the rest of the connection.
#[inline(never)] // or its frame would lie under every stream
fn begin_elsewhere(
    stream: Box<Stream>,
    inbound: Inbound,
    server: &Arc<ServerState>,
    peer: SocketAddr,
    alive: &Sender<Alive>,
) {
    let (server, alive) = (Arc::clone(server), alive.clone());
    let spawned = listener::spawn(peer, move || {
        stream.run(&inbound.socket, &server);
        inbound.linger_as(server.connections.rejoin());
        drop(alive);
    });
    if let Err(error) = spawned {
        log::warn!("a client was refused: {error}");
    }
}

/// A reply, and what becomes of the connection after it.
struct Next {
    reply: Reply,
    close: bool,
    head_only: bool,
    framing: Framing,
}

impl Next {
    /// To what is no request.
    #[inline(never)] // its frame is gone by the time a stream begins
    fn refused(error: &HttpError, inbound: &Inbound) -> Self {
        let head_only = inbound.bytes.starts_with(b"HEAD ");
        Self {
            reply: Reply::Answer(error.answer()),
            close: true,
            head_only,
            framing: Framing::Plain,
        }
    }
}

/// Finds the reply to a request.
#[inline(never)] // as above
fn answer(
    server: &Arc<ServerState>,
    inbound: &mut Inbound,
    peer: SocketAddr,
    on_loopback: bool,
    request: Box<Request>,
) -> Next {
    let (keeps_alive, head_only) = (request.keeps_alive(), request.is_head());
    let framing = request.framing();
    let body_is_read = matches!(request.body, BodyLength::None | BodyLength::Fixed(0));
    let locality = Locality::of(&request, peer.ip(), on_loopback, &server.config);
    let mut exchange = Exchange { server, peer, locality, request, inbound, body_is_read };
    let (mut reply, mut closes) = match handle(&mut exchange) {
        Ok(reply) => (reply, false),
        Err(error) => {
            if let Some(problem) = error.token_problem {
                log_token(&exchange, problem);
            }
            (Reply::Answer(error.answer()), error.closes)
        }
    };
    if let Reply::Answer(answer) = &mut reply {
        answer.add(cors::headers(&exchange));
        closes |= answer.ends_by_closing(framing);
    }
    Next { reply, close: closes || !keeps_alive || !exchange.body_is_read, head_only, framing }
}

/// Logs that a token was not enough, and why; never the token.
#[cold]
#[inline(never)] // its frame must not lie under a stream
fn log_token(exchange: &Exchange<'_>, problem: &'static str) {
    let Some(silent) = exchange.server.token_lines.line() else { return };
    let (client, path) = (exchange.client(), exchange.path());
    let silent = match silent {
        0 => String::new(),
        more => format!(" ({more} more were rejected without a line)"),
    };
    log::info!(
        client:% = client, path:% = path, reason:% = problem;
        "token of {client} for {path:?} rejected: {problem}{silent}",
    );
}

fn handle(exchange: &mut Exchange<'_>) -> Result<Reply, HttpError> {
    if exchange
        .request
        .headers("expect")
        .any(|expectation| !expectation.eq_ignore_ascii_case(b"100-continue"))
    {
        let detail = "100-continue is the only expectation that can be met here";
        return Err(HttpError::new(417, detail));
    }
    exchange.locality.check_host()?;
    routes::route(exchange)
}

/// The next request on this connection; `None` once there will be none.
#[inline(never)] // so that finding a reply does not stand on its frame
fn read_request(
    server: &ServerState,
    inbound: &mut Inbound,
) -> Option<Result<Box<Request>, HttpError>> {
    let limits = &server.config.limits;
    if inbound.bytes.is_empty() && !wait_for_first_byte(server, inbound) {
        return None;
    }
    // A connection that was shed while it was silent is answered if it is silent no more.
    if !inbound.resume() {
        return None;
    }
    let deadline = Instant::now() + limits.request_deadline;
    let mut looked_at = 0;
    loop {
        // A head ends with a line break: without a new one, there is no need to look.
        if inbound.bytes[looked_at..].contains(&b'\n') {
            looked_at = inbound.bytes.len();
            match Request::parse(&inbound.bytes) {
                Ok(Some((request, length))) if length <= limits.head => {
                    inbound.bytes.drain(..length);
                    return inbound.resume().then_some(Ok(request));
                }
                Ok(Some(_)) => return Some(Err(head_too_long(&inbound.bytes, limits.head))),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        if inbound.bytes.len() >= limits.head {
            return Some(Err(head_too_long(&inbound.bytes, limits.head)));
        }
        match inbound.fill(deadline) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {
                let detail = "the request's head did not arrive in time; send it at once";
                return Some(Err(HttpError::new(408, detail).closing()));
            }
            Err(_) => return None,
        }
    }
}

/// Waits for a request to begin. A client that says nothing is not owed an
/// answer: browsers open connections ahead of need.
fn wait_for_first_byte(server: &ServerState, inbound: &mut Inbound) -> bool {
    // The first of these waits has begun with the connection.
    let has_begun = inbound.is_fresh && inbound.is_waiting();
    if !has_begun && !inbound.wait(Wait::Silent) {
        return false;
    }
    let wait = if server.is_draining() { LAST_WORDS } else { server.config.limits.keep_alive };
    matches!(inbound.fill(Instant::now() + wait), Ok(1..))
}

fn head_too_long(bytes: &[u8], limit: usize) -> HttpError {
    if bytes.contains(&b'\n') {
        HttpError::new(431, format!("the request's head is longer than {limit} bytes; send less"))
    } else {
        HttpError::new(
            414,
            format!("the request's target is longer than {limit} bytes; shorten it"),
        )
    }
    .closing()
}

pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The reading half of a connection: what has been read and not yet used.
pub(crate) struct Inbound {
    pub(crate) socket: Arc<TcpStream>,
    pub(crate) bytes: Vec<u8>,
    /// Whether its first request is yet to be answered.
    is_fresh: bool,
    /// The socket's read time-out as it stands, to set it only when it changes.
    timeout: Duration,
    /// Its place among the connections; a stream has none. Dropped after the socket, so
    /// that a free place is a free descriptor.
    permit: Option<Box<ConnectionPermit>>,
}

impl Inbound {
    /// `timeout` is what the listener has set and the socket inherited.
    fn new(socket: Arc<TcpStream>, permit: Box<ConnectionPermit>, timeout: Duration) -> Self {
        Self { socket, bytes: Vec::new(), is_fresh: true, timeout, permit: Some(permit) }
    }

    /// From now on it can be shed while it waits for this. Returns false if it may not
    /// wait any more, because the server is draining.
    fn wait(&mut self, wait: Wait) -> bool {
        let Some(permit) = &mut self.permit else { return true };
        permit.wait(wait, &self.socket, self.is_fresh)
    }

    /// Ends the wait. Returns false if it was shed, and has no client any more.
    fn resume(&mut self) -> bool {
        self.permit.as_mut().is_none_or(|permit| permit.resume())
    }

    fn is_waiting(&self) -> bool {
        self.permit.as_ref().is_some_and(|permit| permit.is_waiting())
    }

    fn is_shed(&self) -> bool {
        self.permit.as_ref().is_some_and(|permit| permit.is_shed())
    }

    /// Writes these bytes, as a wait for the client to take them.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wait(Wait::Answer);
        (&*self.socket).write_all(bytes)?;
        if self.resume() { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
    }

    /// Reads what there is, waiting for it until the deadline. 0 is the end.
    pub(crate) fn fill(&mut self, deadline: Instant) -> io::Result<usize> {
        if !self.is_waiting() {
            self.wait(Wait::Request);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A deadline that is only just beginning is the time-out the socket has.
        if left > self.timeout || self.timeout.saturating_sub(left) > Duration::from_millis(100) {
            self.socket.set_read_timeout(Some(left))?;
            self.timeout = left;
        }
        let filled = self.bytes.len();
        self.bytes.resize(filled + READ_SIZE, 0);
        let read = loop {
            match (&*self.socket).read(&mut self.bytes[filled..]) {
                // By a signal that the server ignores: with a time-out, no read is restarted.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.bytes.truncate(filled + read.as_ref().map_or(0, |n| *n));
        read
    }

    /// [`linger`](Self::linger), for a connection whose stream has ended.
    fn linger_as(mut self, permit: ConnectionPermit) {
        self.permit = Some(Box::new(permit));
        self.linger();
    }

    /// Ends the server's side, then reads and discards what the client still sends:
    /// closing a socket with unread bytes resets it, and the client might lose the answer
    /// before it has read it (RFC 9112 §9.6).
    ///
    /// Bounded in bytes, in time, and in silence.
    fn linger(mut self) {
        if self.socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        self.wait(Wait::Request);
        let deadline = Instant::now() + LINGER_TIME;
        let mut read = 0;
        while read < LINGER_BYTES {
            self.bytes.clear();
            match self.fill(deadline.min(Instant::now() + LINGER_SILENCE)) {
                Ok(n @ 1..) => read += n,
                Ok(0) | Err(_) => return,
            }
        }
    }
}
