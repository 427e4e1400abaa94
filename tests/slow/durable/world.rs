//! What all threads of the test share: the server, and what the streams of each name have.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::content::Kind;
use super::wire::{Connection, Response};

/// How many requests a failure shows of the name on which it happened.
const HISTORY: usize = 60;

/// How many streams a name remembers, so that a reader can still compare a late response.
const STREAMS: usize = 8;

/// A connection is not used again after this time, because the server closes idle ones.
const IDLE: Duration = Duration::from_secs(2);

/// If a request has taken this long, the server may have closed the connection at a deadline: the
/// machine is slow, or the processes were stopped.
pub(super) const STARVED: Duration = Duration::from_secs(5);

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) names: Vec<Name>,
    pub(super) counters: Counters,
    server: Mutex<Option<Arc<Running>>>,
    /// Signals a new server, and the end.
    changed: Condvar,
    is_over: AtomicBool,
    has_failed: AtomicBool,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) operations: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Requests that a kill has cut.
    pub(super) cut: AtomicU64,
    /// Requests of writers that were carried out, although no response arrived.
    pub(super) unanswered: AtomicU64,
    pub(super) streams: AtomicU64,
}

/// One process of the server.
pub(super) struct Running {
    pub(super) addr: SocketAddr,
    is_killed: AtomicBool,
}

/// The server was killed before the response arrived, or the test has failed.
#[derive(Debug)]
pub(super) struct Cut;

/// The name of streams, which one writer changes.
pub(super) struct Name {
    pub(super) text: String,
    streams: Mutex<Vec<Arc<Shared>>>,
    history: Mutex<VecDeque<String>>,
}

/// What readers know of one stream, from its creation to its removal.
pub(super) struct Shared {
    pub(super) kind: Kind,
    pub(super) is_fork: bool,
    /// Whether it ends by itself in some seconds.
    pub(super) expires: bool,
    content: Mutex<Content>,
}

#[derive(Clone)]
pub(super) struct Content {
    /// All bytes, including those of a request that is not answered yet.
    pub(super) bytes: Vec<u8>,
    /// How many bytes the server has acknowledged.
    pub(super) acknowledged: usize,
    pub(super) closing: Closing,
    pub(super) life: Life,
    /// The greatest position that a reader has received.
    pub(super) seen: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    Open,
    /// The request is not answered yet.
    Asked,
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// The request that creates it is not answered yet.
    Beginning,
    Alive,
    /// It may be removed at any time.
    Ending,
    /// It was deleted, and has forks.
    SoftDeleted,
    Ended,
}

/// What a reader knows before its request.
#[derive(Clone)]
pub(super) struct View {
    pub(super) stream: Option<Arc<Shared>>,
    pub(super) life: Life,
    pub(super) acknowledged: usize,
    pub(super) is_closed: bool,
}

/// A request for a name.
pub(super) struct Request<'a> {
    pub(super) name: &'a Name,
    pub(super) bytes: Vec<u8>,
    is_head: bool,
    /// The request in one line, for the history.
    what: String,
    /// What was known of the name before the request, if it reads a stream that may be deleted.
    before: Option<View>,
}

/// A thread's client.
pub(super) struct Client<'a> {
    world: &'a World,
    who: String,
    server: Option<Arc<Running>>,
    connection: Option<Connection>,
    used: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(super) fn new(seed: u64, names: impl Iterator<Item = String>) -> Self {
        let name = |text| Name { text, streams: Mutex::default(), history: Mutex::default() };
        Self {
            seed,
            names: names.map(name).collect(),
            counters: Counters::default(),
            server: Mutex::default(),
            changed: Condvar::new(),
            is_over: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
        }
    }

    /// Shows the clients a new process of the server.
    pub(super) fn started(&self, addr: SocketAddr) {
        *lock(&self.server) = Some(Arc::new(Running { addr, is_killed: AtomicBool::new(false) }));
        self.changed.notify_all();
    }

    /// Tells the clients that the process is killed next.
    pub(super) fn is_killed_next(&self) {
        if let Some(server) = &*lock(&self.server) {
            server.is_killed.store(true, Ordering::Release);
        }
    }

    /// Ends the threads after their operations.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire) || self.has_failed()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Ends the other threads after this one has failed.
    pub(super) fn failed(&self) {
        self.has_failed.store(true, Ordering::Release);
        drop(lock(&self.server)); // no thread is between its check and its wait now
        self.changed.notify_all();
    }

    /// Fails with the seed and the history of the name.
    #[track_caller]
    pub(super) fn fail(&self, name: &Name, difference: &str) -> ! {
        self.failed();
        let history: Vec<String> = lock(&name.history).iter().cloned().collect();
        let (seed, text, history) = (self.seed, &name.text, history.join("\n"));
        panic!("a difference with the seed {seed} on {text}: {difference}\n{history}");
    }

    /// Waits for a server that is not killed.
    fn running(&self) -> Result<Arc<Running>, Cut> {
        let mut server = lock(&self.server);
        loop {
            if self.has_failed() {
                return Err(Cut);
            }
            if let Some(running) = server.as_ref().filter(|running| !running.is_killed()) {
                return Ok(Arc::clone(running));
            }
            server = self.changed.wait(server).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Running {
    fn is_killed(&self) -> bool {
        self.is_killed.load(Ordering::Acquire)
    }
}

impl Name {
    /// Adds a line to the history.
    pub(super) fn note(&self, line: String) {
        let mut history = lock(&self.history);
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(line);
    }

    /// Adds a stream that is about to be created.
    pub(super) fn add(&self, stream: &Arc<Shared>) {
        let mut streams = lock(&self.streams);
        if streams.len() == STREAMS {
            streams.remove(0);
        }
        streams.push(Arc::clone(stream));
    }

    /// Returns the last stream, and what is known of it now.
    pub(super) fn view(&self) -> View {
        let Some(stream) = lock(&self.streams).last().cloned() else {
            return View { stream: None, life: Life::Ended, acknowledged: 0, is_closed: false };
        };
        let content = stream.content();
        let Content { life, acknowledged, closing, .. } = *content;
        drop(content);
        View { stream: Some(stream), life, acknowledged, is_closed: closing == Closing::Closed }
    }

    /// Returns the streams of which a response may be, if the request was sent after `before`.
    pub(super) fn streams_since(&self, before: &View) -> Vec<Arc<Shared>> {
        let streams = lock(&self.streams);
        let first = before.stream.as_ref().map_or(0, |first| {
            streams.iter().position(|stream| Arc::ptr_eq(stream, first)).unwrap_or(0)
        });
        streams[first..].to_vec()
    }
}

impl Shared {
    pub(super) fn new(kind: Kind, is_fork: bool, expires: bool, bytes: Vec<u8>) -> Arc<Self> {
        let (closing, life) = (Closing::Open, Life::Beginning);
        let content = Content { bytes, acknowledged: 0, closing, life, seen: 0 };
        Arc::new(Self { kind, is_fork, expires, content: Mutex::new(content) })
    }

    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        lock(&self.content)
    }
}

impl View {
    pub(super) fn is_of(&self, stream: &Arc<Shared>) -> bool {
        self.stream.as_ref().is_some_and(|own| Arc::ptr_eq(own, stream))
    }

    /// Returns the state that the name has had since `before`; `None` if it may have changed.
    pub(super) fn steady_since(&self, before: &Self) -> Option<Life> {
        let is_same = match (&self.stream, &before.stream) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            (None, None) => true,
            _ => false,
        };
        let is_certain = !matches!(self.life, Life::Beginning | Life::Ending);
        (is_same && is_certain && self.life == before.life).then_some(self.life)
    }
}

impl<'a> Request<'a> {
    pub(super) fn new(
        method: &str,
        name: &'a Name,
        query: &str,
        headers: &str,
        body: &[u8],
    ) -> Self {
        let (path, length) = (&name.text, body.len());
        let head = format!(
            "{method} /v1/stream/{path}{query} HTTP/1.1\r\nHost: localhost\r\n{headers}\
             Content-Length: {length}\r\n\r\n"
        );
        let what = format!("{method} {query} {} {length} bytes", headers.replace("\r\n", ", "));
        let (bytes, is_head) = ([head.as_bytes(), body].concat(), method == "HEAD");
        Self { name, bytes, is_head, what, before: None }
    }

    /// Reads a stream that another thread may delete.
    pub(super) fn read(method: &str, name: &'a Name, query: &str, before: &View) -> Self {
        Self { before: Some(before.clone()), ..Self::new(method, name, query, "", b"") }
    }

    /// Whether the response may be cut because the stream was deleted.
    fn may_be_cut(&self) -> bool {
        let steady = |before| self.name.view().steady_since(before);
        self.before.as_ref().is_some_and(|before| steady(before).is_none())
    }
}

impl<'a> Client<'a> {
    pub(super) fn new(world: &'a World, who: String) -> Self {
        Self { world, who, server: None, connection: None, used: Instant::now() }
    }

    /// Returns the server that runs now, or waits for it.
    pub(super) fn server(&mut self) -> Result<Arc<Running>, Cut> {
        match &self.server {
            Some(server) if !server.is_killed() => Ok(Arc::clone(server)),
            _ => {
                let server = self.world.running()?;
                self.connection = None;
                self.server = Some(Arc::clone(&server));
                Ok(server)
            }
        }
    }

    /// Sends a request, and reads the response.
    pub(super) fn ask(&mut self, request: &Request<'_>) -> Result<Response, Cut> {
        let server = self.server()?;
        let started = self.used;
        let reused = self.connection.take().filter(|_| started.elapsed() < IDLE);
        let started = if reused.is_some() { started } else { Instant::now() };
        let exchange = || {
            let mut connection = match reused {
                Some(connection) => connection,
                None => Connection::open(server.addr)?,
            };
            connection.send(&request.bytes)?;
            let response = connection.response(request.is_head)?;
            Ok((connection, response))
        };
        match exchange() {
            Ok((connection, response)) => {
                self.used = Instant::now();
                if response.header("connection") != Some("close") {
                    self.connection = Some(connection);
                }
                self.note(request, &response);
                Ok(response)
            }
            Err(error) => Err(self.cut(&server, started, request, &error)),
        }
    }

    /// Sends a request on a connection of its own, which the caller reads.
    pub(super) fn open(&mut self, request: &Request<'_>) -> Result<Connection, Cut> {
        let server = self.server()?;
        let started = Instant::now();
        let opened = Connection::open(server.addr).and_then(|mut connection| {
            connection.send(&request.bytes)?;
            Ok(connection)
        });
        opened.map_err(|error| self.cut(&server, started, request, &error))
    }

    /// Reads the response on such a connection.
    pub(super) fn response(
        &mut self,
        connection: &mut Connection,
        server: &Running,
        started: Instant,
        request: &Request<'_>,
    ) -> Result<Response, Cut> {
        match connection.response(request.is_head) {
            Ok(response) => {
                self.note(request, &response);
                Ok(response)
            }
            Err(error) => Err(self.cut(server, started, request, &error)),
        }
    }

    fn note(&self, request: &Request<'_>, response: &Response) {
        let next = response.header("stream-next-offset").unwrap_or("-");
        let Response { status, .. } = response;
        request.name.note(format!("{} {} -> {status} {next}", self.who, request.what));
    }

    /// Fails unless the server was killed, the stream was deleted, or the request has taken so long that
    /// a deadline has passed.
    #[track_caller]
    pub(super) fn cut(
        &mut self,
        server: &Running,
        started: Instant,
        request: &Request<'_>,
        error: &std::io::Error,
    ) -> Cut {
        request.name.note(format!("{} {} -> {error}", self.who, request.what));
        let is_invalid = error.kind() == std::io::ErrorKind::InvalidData;
        let is_starved = started.elapsed() > STARVED;
        let is_explained = server.is_killed() || is_starved || request.may_be_cut();
        if is_invalid || !is_explained || super::wire::is_timeout(error) {
            let difference = format!("{} failed, and no kill explains it: {error}", request.what);
            self.world.fail(request.name, &difference);
        }
        self.connection = None;
        self.world.counters.cut.fetch_add(1, Ordering::Relaxed);
        Cut
    }
}
