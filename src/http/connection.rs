//! Serves one connection on its own thread: requests, responses, and possibly a stream at the end.
//!
//! The code of a connection is sequential, and it blocks where it waits. Each wait has a deadline.
//! Pipelined requests get their responses in order. A stream is the last response of its
//! connection, so the server never reads requests that follow it.

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
use crate::limits::{DRAIN_REQUEST_TIME, LINGER_BYTES, LINGER_SILENCE, LINGER_TIME};
use crate::stream::Socket;

/// The maximum number of bytes that one `read` returns.
const READ_SIZE: usize = 4 * 1024;

/// A request, with the server and the connection that its handler needs.
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
    /// Reads and decompresses the body, after a `100 Continue` if the client expects one.
    ///
    /// Fails if there is no body, if it is longer than `limit` bytes before or after
    /// decompression, or if it does not arrive within the request deadline.
    pub(crate) fn body(&mut self, limit: usize) -> Result<Vec<u8>, HttpError> {
        if self.request.body == BodyLength::None {
            let detail = "this request needs a body; send it with Content-Length or chunked";
            return Err(HttpError::new(411, detail).closing());
        }
        let coding = Coding::of(&self.request)?;
        let limits = &self.server.config.limits;
        // NDJSON bodies have their own limit, which applies unless --body-limit is larger.
        let set_by = if limit > limits.body { "for NDJSON" } else { "--body-limit" };
        let limit = body::Limit { bytes: limit, set_by };
        let body = body::read(self.inbound, &self.request, limit, limits.request_deadline)?;
        if !self.inbound.resume() {
            let detail = "the connection was closed to make room for others; retry the request";
            return Err(HttpError::new(503, detail).closing());
        }
        self.body_is_read = true;
        coding.decode(body, limit)
    }

    /// Returns the client for the log. Behind a trusted proxy, this is the address that the proxy
    /// forwards.
    pub(crate) fn client(&self) -> Client {
        Client::of(&self.request, self.peer, &self.server.config.trusted_proxies)
    }

    /// Returns the path without its query, for the log.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.request.segments.join("/"))
    }

    /// Returns whether the connection was shed (closed to make room), so that it cannot become a
    /// stream.
    ///
    /// The input of a shed connection has ended, and a stream would take this for a disconnect.
    pub(crate) fn is_shed(&self) -> bool {
        self.inbound.is_shed()
    }

    /// Returns the address of the server's end of this connection.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        self.inbound.socket.local_addr()
    }

    /// Returns the socket for a stream to write to.
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
            Err(error) => Next::for_invalid_request(&error, &inbound),
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
                inbound.bytes = Vec::new(); // frees the buffer
                inbound.permit = None; // from here on the connection counts as a stream
                // The kernel keeps 32 KB for each thread that has sent data, until the thread ends,
                // and the stack of a thread never shrinks. So the stream moves to a new thread if
                // this thread has sent data and the broadcaster will write the stream, or if the
                // stack of this thread has grown.
                if has_sent && server.mailbox.is_some() || stream.is_deep() {
                    return run_on_new_thread(stream, inbound, server, peer, alive);
                }
                stream.run(&inbound.socket, server);
                return inbound.linger_as(server.connections.readmit());
            }
            Reply::WebSocket(websocket, permit) => {
                let received = std::mem::take(&mut inbound.bytes);
                inbound.permit = None;
                websocket.run(&inbound.socket, received, server);
                drop(permit);
                return inbound.linger_as(server.connections.readmit());
            }
        }
    }
}

/// Moves a stream, with its connection, to a new thread.
#[inline(never)] // inlining would enlarge the stack of every stream
fn run_on_new_thread(
    stream: Box<Stream>,
    inbound: Inbound,
    server: &Arc<ServerState>,
    peer: SocketAddr,
    alive: &Sender<Alive>,
) {
    let (server, alive) = (Arc::clone(server), alive.clone());
    let spawned = listener::spawn(peer, move || {
        stream.run(&inbound.socket, &server);
        inbound.linger_as(server.connections.readmit());
        drop(alive);
    });
    if let Err(error) = spawned {
        log::warn!(
            "cannot start the thread of a stream: {error}; `threadcast doctor` reports which \
             limit to raise"
        );
    }
}

/// A reply, and how to write it.
struct Next {
    reply: Reply,
    close: bool,
    head_only: bool,
    framing: Framing,
}

impl Next {
    /// Returns the reply to input that is not a valid request.
    #[inline(never)] // inlining would enlarge the stack of every stream
    fn for_invalid_request(error: &HttpError, inbound: &Inbound) -> Self {
        let head_only = inbound.bytes.starts_with(b"HEAD ");
        Self {
            reply: Reply::Answer(error.answer()),
            close: true,
            head_only,
            framing: Framing::Plain,
        }
    }
}

/// Handles a request and returns the reply.
#[inline(never)] // inlining would enlarge the stack of every stream
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
                log_token_problem(&exchange, problem);
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

/// Logs why a token was rejected, but never the token itself.
#[cold]
#[inline(never)] // inlining would enlarge the stack of every stream
fn log_token_problem(exchange: &Exchange<'_>, problem: &'static str) {
    let Some(suppressed) = exchange.server.token_log_limit.permit() else { return };
    let (client, path) = (exchange.client(), exchange.path());
    let suppressed = match suppressed {
        0 => String::new(),
        more => format!(" ({more} more rejections were not logged)"),
    };
    log::info!(
        client:% = client, path:% = path, reason:% = problem;
        "token of {client} for {path:?} rejected: {problem}{suppressed}",
    );
}

fn handle(exchange: &mut Exchange<'_>) -> Result<Reply, HttpError> {
    if exchange
        .request
        .headers("expect")
        .any(|expectation| !expectation.eq_ignore_ascii_case(b"100-continue"))
    {
        let detail = "the server supports no Expect but 100-continue; leave the header out";
        return Err(HttpError::new(417, detail));
    }
    exchange.locality.check_host()?;
    routes::route(exchange)
}

/// Reads the next request of this connection; `None` if the connection must end.
#[inline(never)] // inlining would enlarge the stack of every handler
fn read_request(
    server: &ServerState,
    inbound: &mut Inbound,
) -> Option<Result<Box<Request>, HttpError>> {
    let limits = &server.config.limits;
    if inbound.bytes.is_empty() && !wait_for_first_byte(server, inbound) {
        return None;
    }
    // If the connection was shed while idle, a request that has arrived since then still gets a
    // response.
    if !inbound.resume() {
        return None;
    }
    let deadline = Instant::now() + limits.request_deadline;
    let mut searched = 0;
    loop {
        // A head ends with a line break, so it is still incomplete if no new line break has
        // arrived.
        if inbound.bytes[searched..].contains(&b'\n') {
            searched = inbound.bytes.len();
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
                let detail = "the request's head did not arrive before the deadline \
                              (--request-deadline); send it in one piece";
                return Some(Err(HttpError::new(408, detail).closing()));
            }
            Err(_) => return None,
        }
    }
}

/// Waits for the first byte of a request, and returns whether it arrived.
///
/// A client that sends nothing gets no response, because browsers open spare connections that they
/// may not use.
fn wait_for_first_byte(server: &ServerState, inbound: &mut Inbound) -> bool {
    // The first wait of a connection began when the connection was admitted.
    let has_begun = inbound.is_fresh && inbound.is_waiting();
    if !has_begun && !inbound.wait(Wait::Idle) {
        return false;
    }
    let wait =
        if server.is_draining() { DRAIN_REQUEST_TIME } else { server.config.limits.keep_alive };
    matches!(inbound.fill(Instant::now() + wait), Ok(1..))
}

fn head_too_long(bytes: &[u8], limit: usize) -> HttpError {
    if bytes.contains(&b'\n') {
        HttpError::new(
            431,
            format!("the request's head is longer than {limit} bytes (--head-limit); shorten it"),
        )
    } else {
        HttpError::new(
            414,
            format!("the request's target is longer than {limit} bytes (--head-limit); shorten it"),
        )
    }
    .closing()
}

pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The reading half of a connection.
pub(crate) struct Inbound {
    pub(crate) socket: Arc<TcpStream>,
    /// Bytes that were received and not yet used.
    pub(crate) bytes: Vec<u8>,
    /// Whether the connection has had no response yet.
    is_fresh: bool,
    /// The current read time-out of the socket, which is set again only when it must change.
    timeout: Duration,
    /// The connection's permit; `None` for a stream. This field comes after the socket and so is
    /// dropped after it: a free permit implies a free descriptor.
    permit: Option<Box<ConnectionPermit>>,
}

impl Inbound {
    /// `timeout` is the read time-out that the socket has inherited from its listener.
    fn new(socket: Arc<TcpStream>, permit: Box<ConnectionPermit>, timeout: Duration) -> Self {
        Self { socket, bytes: Vec::new(), is_fresh: true, timeout, permit: Some(permit) }
    }

    /// Begins a wait for the client, during which the connection can be shed.
    ///
    /// Returns false if the connection must end because the server is draining.
    fn wait(&mut self, wait: Wait) -> bool {
        let Some(permit) = &mut self.permit else { return true };
        permit.wait(wait, &self.socket, self.is_fresh)
    }

    /// Ends the wait. Returns false if the connection was shed and its socket is shut down.
    fn resume(&mut self) -> bool {
        self.permit.as_mut().is_none_or(|permit| permit.resume())
    }

    fn is_waiting(&self) -> bool {
        self.permit.as_ref().is_some_and(|permit| permit.is_waiting())
    }

    fn is_shed(&self) -> bool {
        self.permit.as_ref().is_some_and(|permit| permit.is_shed())
    }

    /// Writes these bytes; the connection can be shed while the client does not read.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wait(Wait::Answer);
        (&*self.socket).write_all(bytes)?;
        if self.resume() { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
    }

    /// Reads available bytes, or waits for some until the deadline. Returns 0 at the end of the
    /// input.
    pub(crate) fn fill(&mut self, deadline: Instant) -> io::Result<usize> {
        if !self.is_waiting() {
            self.wait(Wait::Request);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // The time-out is set only if it differs enough from the time left, which saves system
        // calls.
        if left > self.timeout || self.timeout.saturating_sub(left) > Duration::from_millis(100) {
            self.socket.set_read_timeout(Some(left))?;
            self.timeout = left;
        }
        let filled = self.bytes.len();
        self.bytes.resize(filled + READ_SIZE, 0);
        let read = loop {
            match (&*self.socket).read(&mut self.bytes[filled..]) {
                // An ignored signal interrupts a `read` that has a time-out, and the kernel does
                // not restart it.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.bytes.truncate(filled + read.as_ref().map_or(0, |n| *n));
        read
    }

    /// Calls [`linger`](Self::linger) after the end of a stream, with a new permit.
    fn linger_as(mut self, permit: ConnectionPermit) {
        self.permit = Some(Box::new(permit));
        self.linger();
    }

    /// Closes the sending side, then reads and discards what the client still sends.
    ///
    /// Closing a socket with unread bytes resets the connection, and the client could lose the
    /// response before it has read it (RFC 9112 §9.6). [`LINGER_BYTES`], [`LINGER_TIME`] and
    /// [`LINGER_SILENCE`] limit how much the server reads, and how long it waits.
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
