//! Serves one connection on its own thread: requests, responses, and possibly a stream at the end.
//!
//! The code of a connection is sequential, and it blocks where it waits. Each wait has a deadline.
//! Pipelined requests get their responses in order. A stream is the last response of its
//! connection, so the server never reads requests that follow it.

use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::Sender;
use socket2::Socket;

use super::access::local::Locality;
use super::connections::{ConnectionPermit, Wait};
use super::cors;
use super::error::HttpError;
use super::exchange::Exchange;
use super::inbound::{Inbound, is_timeout};
use super::peer::Peer;
use super::reply::{LastReply, Reply};
use super::request::{BodyLength, Request};
use super::routes::{Routes, Table};
use super::server_state::{Alive, ServerState};
use crate::event::Framing;
use crate::limits::{DRAIN_REQUEST_TIME, STACK};
use crate::process::check_address_space;

/// A connection that has been accepted and admitted.
pub(super) struct Accepted {
    pub(super) socket: Arc<Socket>,
    pub(super) permit: Box<ConnectionPermit>,
    pub(super) peer: Peer,
    /// Whether only programs of this machine can connect to the listener.
    pub(super) on_loopback: bool,
}

/// Serves one connection until it ends, or until another thread runs its stream.
///
/// `is_reused` says whether this thread has served another connection before. Returns whether the thread
/// may serve one more: not if this connection became a stream.
pub(super) fn serve(
    server: &Arc<ServerState>,
    routes: &Table,
    accepted: Accepted,
    is_reused: bool,
    running: &Running,
) -> bool {
    let Accepted { socket, permit, peer, on_loopback } = accepted;
    let mut inbound = Inbound::new(socket, permit, server.config.limits.keep_alive);
    let mut has_sent = is_reused;
    while let Some(request) = read_request(server, &mut inbound) {
        let next = match request {
            Ok(request) => answer(server, routes, &mut inbound, peer, on_loopback, request),
            Err(error) => Next::for_invalid_request(&error, &inbound),
        };
        match next.reply {
            Reply::Answer(answer) => {
                let close = next.close || server.is_draining() || inbound.is_shed();
                if answer.write(&mut inbound, close, next.head_only, next.framing).is_err() {
                    return true;
                }
                if close {
                    inbound.linger();
                    return true;
                }
                has_sent = true;
                inbound.is_fresh = false;
            }
            Reply::Head(head) => {
                if inbound.send(&head).is_err() {
                    return true;
                }
                if next.close || server.is_draining() || inbound.is_shed() {
                    inbound.linger();
                    return true;
                }
                has_sent = true;
                inbound.is_fresh = false;
            }
            Reply::Last(last) => {
                inbound.permit = None; // from here on the connection counts as a stream
                if is_reused || last.needs_fresh_thread(has_sent, server) {
                    run_on_new_thread(last, inbound, server, peer, running);
                    return false;
                }
                let received = mem::take(&mut inbound.bytes);
                last.run(&inbound.socket, received, server);
                inbound.linger_as(server.connections.readmit());
                return false;
            }
        }
    }
    true
}

/// Spawns a connection's thread, named after the client's port or process id.
///
/// The name links a thread in `top -H` to its connection in `ss -tn` or `ss -xp`.
pub(super) fn spawn(
    peer: Peer,
    serve: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let now = RUNNING.load(Ordering::Relaxed);
    // The C library keeps the stacks of ended threads for new threads. So up to the number of
    // threads that have run at once, a thread takes no further address space.
    let has_stack = now <= MOST_RUNNING.load(Ordering::Relaxed);
    check_address_space(if has_stack { 0 } else { STACK })?;
    let spawned = thread::Builder::new().name(peer.thread_name()).stack_size(STACK).spawn(serve)?;
    MOST_RUNNING.fetch_max(now, Ordering::Relaxed);
    Ok(spawned)
}

/// The number of connections' threads of this process.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// The maximum of [`RUNNING`] so far.
static MOST_RUNNING: AtomicUsize = AtomicUsize::new(0);

/// What each connection's thread holds until it ends: it counts the thread, and keeps the server
/// from ending.
pub(super) struct Running(Sender<Alive>);

impl Running {
    pub(super) fn new(alive: &Sender<Alive>) -> Self {
        RUNNING.fetch_add(1, Ordering::Relaxed);
        Self(alive.clone())
    }
}

impl Clone for Running {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Moves a stream, with its connection, to a new thread.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn run_on_new_thread(
    last: Box<dyn LastReply>,
    mut inbound: Inbound,
    server: &Arc<ServerState>,
    peer: Peer,
    running: &Running,
) {
    let (server, running) = (Arc::clone(server), running.clone());
    let spawned = spawn(peer, move || {
        let received = mem::take(&mut inbound.bytes);
        last.run(&inbound.socket, received, &server);
        inbound.linger_as(server.connections.readmit());
        drop(running);
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
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
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
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn answer(
    server: &Arc<ServerState>,
    routes: &Table,
    inbound: &mut Inbound,
    peer: Peer,
    on_loopback: bool,
    request: Box<Request>,
) -> Next {
    let (keeps_alive, head_only) = (request.keeps_alive(), request.is_head());
    let framing = request.framing();
    let body_is_read = matches!(request.body, BodyLength::None | BodyLength::Fixed(0));
    let locality = Locality::of(&request, peer.ip(), on_loopback, &server.config);
    let routes = routes.find(&request.segments);
    let any_origin = routes.any_origin();
    let browser = routes.browser_headers();
    let mut exchange =
        Exchange { server, peer, any_origin, browser, locality, request, inbound, body_is_read };
    let (mut reply, mut closes) = match handle(&mut exchange, routes) {
        Ok(reply) => (reply, false),
        Err(error) => (failed(&exchange, &error), error.closes()),
    };
    if let Reply::Answer(answer) = &mut reply {
        answer.add(cors::headers(&exchange));
        closes |= answer.ends_by_closing(framing);
    }
    Next { reply, close: closes || !keeps_alive || !exchange.body_is_read, head_only, framing }
}

/// Returns the reply to a request that has failed.
#[cold]
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
fn failed(exchange: &Exchange<'_>, error: &HttpError) -> Reply {
    if let Some(problem) = error.token_problem() {
        log_token_problem(exchange, problem);
    }
    Reply::Answer(error.answer())
}

/// Logs why a token was rejected, but never the token itself.
#[cold]
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
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

fn handle(exchange: &mut Exchange<'_>, routes: Routes<'_>) -> Result<Reply, HttpError> {
    if exchange
        .request
        .headers("expect")
        .any(|expectation| !expectation.eq_ignore_ascii_case(b"100-continue"))
    {
        let detail = "the server supports no Expect but 100-continue; leave the header out";
        return Err(HttpError::new(417, detail));
    }
    exchange.locality.check_host()?;
    routes.answer(exchange)
}

/// Reads the next request of this connection; `None` if the connection must end.
#[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
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
