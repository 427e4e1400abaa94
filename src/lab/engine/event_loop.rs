//! A textbook Node server in Rust: one thread, one `epoll`, no blocking call.
//!
//! ```text
//!   poll ─▶ accept ─▶ read requests ─▶ send what blocked before
//!     ▲                                            │
//!     └──── send what is due, once for all ◀───────┘
//! ```
//!
//! This server is written to be fast. Sockets are edge-triggered and registered once. An event is
//! encoded once, and events that are due at the same moment are sent with one `send` per client. A
//! client whose socket is full costs nothing until the socket is writable; the client then
//! continues from the shared log, so no buffer grows. If its next event is no longer in the log,
//! the server disconnects the client, which can reconnect and resume. The weak point is a slow
//! handler: it runs on the server's only thread, so all clients wait until it returns.

mod client;
mod log;

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::TcpListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use sse_load::tick::{Tick, Traffic};
use threadcast::EventId;

pub(super) use self::client::HEAD;
use self::client::{Client, Closed, State};
use self::log::Log;

const LISTENER: Token = Token(usize::MAX);
const SETTINGS: Token = Token(usize::MAX - 1);

/// A heartbeat of threadcast: a comment, as a chunk.
const HEARTBEAT: &[u8] = b"2\r\n:\n\r\n";

/// How often the server checks which clients need a heartbeat.
const CHECK_EVERY: Duration = Duration::from_secs(1);

pub(super) fn run(mut out: impl Write) -> io::Result<()> {
    let mut server = EventLoop::new()?;
    writeln!(out, "{}", server.listener.local_addr()?)?;
    server.run()
}

struct EventLoop {
    poll: Poll,
    listener: TcpListener,
    clients: Vec<Option<Client>>,
    /// Indices of `clients` that no client uses.
    free: Vec<usize>,
    log: Log,
    tick: Tick,
    settings: Vec<u8>,
    /// Whether the last `accept` failed, so that `accept` must be called again without a report of
    /// `epoll`.
    must_accept: bool,
    /// When the server next checks which clients need a heartbeat.
    next_check: Instant,
}

impl EventLoop {
    fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
        listener.register(poll.registry(), LISTENER, Interest::READABLE)?;
        let stdin = io::stdin().as_raw_fd();
        SourceFd(&stdin).register(poll.registry(), SETTINGS, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            clients: Vec::new(),
            free: Vec::new(),
            log: Log::new(),
            tick: Tick::new(),
            settings: Vec::new(),
            must_accept: false,
            next_check: Instant::now() + CHECK_EVERY,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut ready = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut ready, Some(self.tick.pause().min(CHECK_EVERY))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &ready {
                match event.token() {
                    LISTENER => self.accept(),
                    SETTINGS if !self.read_settings() => return Ok(()),
                    SETTINGS => {}
                    Token(index) => self.serve(index, event.is_readable(), event.is_writable()),
                }
            }
            if self.must_accept {
                self.accept();
            }
            self.publish();
            self.send_heartbeats();
        }
    }

    fn accept(&mut self) {
        loop {
            let mut socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    // If `accept` fails, for example because no descriptor is left, connections
                    // still wait. `epoll` is edge-triggered and does not report them again, so the
                    // main loop must call `accept` again without a report.
                    self.must_accept = error.kind() != io::ErrorKind::WouldBlock;
                    return;
                }
            };
            let index = self.free.pop().unwrap_or(self.clients.len());
            let both = Interest::READABLE | Interest::WRITABLE;
            let registered = socket
                .set_nodelay(true)
                .and_then(|()| socket.register(self.poll.registry(), Token(index), both));
            if index == self.clients.len() {
                self.clients.push(None);
            }
            if registered.is_err() {
                self.free.push(index);
                continue;
            }
            let (request, unsent, state) = (Vec::new(), Vec::new(), State::Request);
            self.clients[index] =
                Some(Client { socket, request, unsent, state, due: Instant::now() });
        }
    }

    /// Reads new traffic settings. `false` means that stdin has ended or is invalid.
    fn read_settings(&mut self) -> bool {
        let mut piece = [0; 1024];
        // `epoll` has reported that stdin is readable, so one read does not block.
        match rustix::io::read(rustix::stdio::stdin(), &mut piece) {
            Ok(0) | Err(_) => return false,
            Ok(read) => self.settings.extend_from_slice(&piece[..read]),
        }
        while let Some(end) = self.settings.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.settings.drain(..=end).collect();
            match Traffic::parse(&String::from_utf8_lossy(&line)) {
                Some(traffic) => self.tick.set(traffic),
                None => return false,
            }
        }
        true
    }

    fn serve(&mut self, index: usize, readable: bool, writable: bool) {
        // The client may have been removed since `epoll` reported its socket.
        let Some(client) = self.clients.get_mut(index).and_then(Option::as_mut) else { return };
        let mut served = || {
            if readable {
                client.read(&self.log)?;
            }
            if writable || readable {
                client.send_log(&self.log)?;
            }
            Ok::<(), Closed>(())
        };
        if served().is_err() {
            self.remove(index);
        }
    }

    fn remove(&mut self, index: usize) {
        self.clients[index] = None; // closing the socket removes it from epoll
        self.free.push(index);
    }

    /// Publishes the events that are due: appends them to the log, and sends them to the clients
    /// that have caught up. The other clients get these events from the log later.
    fn publish(&mut self) {
        let mut at = self.log.next();
        // At most 100 events (about one or two batches) are published at a time, so that the main
        // loop soon reads settings and serves sockets again.
        for _ in 0..100 {
            let Some(number) = self.tick.due() else { break };
            let id = EventId { epoch: self.log.epoch, n: number };
            let around = format!("id: {id}\ndata: \n\n").len();
            self.log.push(self.tick.data(number, around));
        }
        let mut batch = Vec::new();
        while at < self.log.next() {
            batch.clear();
            let Some(next) = self.log.read(at, &mut batch) else { return };
            for index in 0..self.clients.len() {
                let Some(client) = &mut self.clients[index] else { continue };
                if client.state == State::Streaming(at)
                    && client.unsent.is_empty()
                    && client.send(&batch, next).is_err()
                {
                    self.remove(index);
                }
            }
            at = next;
        }
    }

    fn send_heartbeats(&mut self) {
        let now = Instant::now();
        if now < self.next_check {
            return;
        }
        self.next_check = now + CHECK_EVERY;
        for index in 0..self.clients.len() {
            let Some(client) = &mut self.clients[index] else { continue };
            if let State::Streaming(at) = client.state
                && client.due <= now
                && client.unsent.is_empty()
                && client.send(HEARTBEAT, at).is_err()
            {
                self.remove(index);
            }
        }
    }
}
