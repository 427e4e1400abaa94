//! The textbook's Node, in Rust: one thread, one `epoll`, no call that waits for anybody.
//!
//! ```text
//!   poll ─▶ accept ─▶ read requests ─▶ send what blocked before
//!     ▲                                            │
//!     └──── send what is due, once for everybody ◀─┘
//! ```
//!
//! Written as well as we can: sockets are edge-triggered and registered once, an event is encoded
//! once, events that are due together leave in one `send`, and a client whose socket is full costs
//! nothing until it is writable. It goes on from the shared log, so that no buffer grows; who falls
//! off the log's end is let go, to resume. What it cannot do is run a slow handler: that runs
//! here, where everybody is served.

mod client;
mod log;

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::TcpListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

pub(super) use client::HEAD;
use client::{Client, Gone, State};
use log::Log;

use super::{HISTORY_BYTES, HISTORY_EVENTS, PATH};
use crate::event::{Frame, Framing};
use crate::id::EventId;
use crate::lab::tick::{Order, Tick};

const LISTENER: Token = Token(usize::MAX);
const ORDERS: Token = Token(usize::MAX - 1);

/// How often silence is looked for.
const BEAT: Duration = Duration::from_secs(1);

pub(super) fn run(mut out: impl Write) -> io::Result<()> {
    let mut server = EventLoop::new()?;
    writeln!(out, "{}", server.listener.local_addr()?)?;
    server.run()
}

struct EventLoop {
    poll: Poll,
    listener: TcpListener,
    clients: Vec<Option<Client>>,
    /// Places in `clients` that are free.
    free: Vec<usize>,
    log: Log,
    tick: Tick,
    orders: Vec<u8>,
    /// Somebody waits to be accepted.
    waiting: bool,
    /// When silence is looked for next.
    beat: Instant,
}

impl EventLoop {
    fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
        listener.register(poll.registry(), LISTENER, Interest::READABLE)?;
        let stdin = io::stdin().as_raw_fd();
        SourceFd(&stdin).register(poll.registry(), ORDERS, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            clients: Vec::new(),
            free: Vec::new(),
            log: Log::new(),
            tick: Tick::new(),
            orders: Vec::new(),
            waiting: false,
            beat: Instant::now() + BEAT,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut ready = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut ready, Some(self.tick.pause().min(BEAT))) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &ready {
                match event.token() {
                    LISTENER => self.accept(),
                    ORDERS if !self.obey() => return Ok(()),
                    ORDERS => {}
                    Token(place) => self.serve(place, event.is_readable(), event.is_writable()),
                }
            }
            if self.waiting {
                self.accept();
            }
            self.publish();
            self.break_silence();
        }
    }

    fn accept(&mut self) {
        loop {
            let mut socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    // No descriptor, say. The kernel tells of those who wait only once.
                    self.waiting = error.kind() != io::ErrorKind::WouldBlock;
                    return;
                }
            };
            let place = self.free.pop().unwrap_or(self.clients.len());
            let both = Interest::READABLE | Interest::WRITABLE;
            let registered = socket
                .set_nodelay(true)
                .and_then(|()| socket.register(self.poll.registry(), Token(place), both));
            if place == self.clients.len() {
                self.clients.push(None);
            }
            if registered.is_err() {
                self.free.push(place);
                continue;
            }
            let (request, rest, state) = (Vec::new(), Vec::new(), State::Asking);
            self.clients[place] =
                Some(Client { socket, request, rest, state, due: Instant::now() });
        }
    }

    /// `false` when who orders is gone.
    fn obey(&mut self) -> bool {
        let mut piece = [0; 1024];
        // A pipe that is readable answers one read without waiting.
        match rustix::io::read(rustix::stdio::stdin(), &mut piece) {
            Ok(0) | Err(_) => return false,
            Ok(read) => self.orders.extend_from_slice(&piece[..read]),
        }
        while let Some(end) = self.orders.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.orders.drain(..=end).collect();
            match Order::parse(&String::from_utf8_lossy(&line)) {
                Some(order) => self.tick.obey(order),
                None => return false,
            }
        }
        true
    }

    fn serve(&mut self, place: usize, readable: bool, writable: bool) {
        // An event of a client that has gone meanwhile finds nobody.
        let Some(client) = self.clients.get_mut(place).and_then(Option::as_mut) else { return };
        let mut served = || {
            if readable {
                client.read(&self.log)?;
            }
            if writable || readable {
                client.go_on(&self.log)?;
            }
            Ok::<(), Gone>(())
        };
        if served().is_err() {
            self.forget(place);
        }
    }

    fn forget(&mut self, place: usize) {
        self.clients[place] = None; // closing takes the socket out of epoll
        self.free.push(place);
    }

    /// Sends what is due to all who have caught up; the others find it in the log.
    fn publish(&mut self) {
        let mut at = self.log.next();
        // Not more than fills a batch or two: orders and clients must have their turn.
        for _ in 0..100 {
            let Some(number) = self.tick.due() else { break };
            let id = EventId { epoch: self.log.epoch, n: number };
            let around = format!("id: {id}\ndata: \n\n").len();
            self.log.push(self.tick.data(number, around));
        }
        let mut batch = Vec::new();
        while at < self.log.next() {
            batch.clear();
            let Ok(next) = self.log.read(at, &mut batch) else { return };
            for place in 0..self.clients.len() {
                let Some(client) = &mut self.clients[place] else { continue };
                if client.state == State::Streaming(at)
                    && client.rest.is_empty()
                    && client.send(&batch, next).is_err()
                {
                    self.forget(place);
                }
            }
            at = next;
        }
    }

    fn break_silence(&mut self) {
        let now = Instant::now();
        if now < self.beat {
            return;
        }
        self.beat = now + BEAT;
        let beat = Frame::heartbeat();
        for place in 0..self.clients.len() {
            let Some(client) = &mut self.clients[place] else { continue };
            if let State::Streaming(at) = client.state
                && client.due <= now
                && client.rest.is_empty()
                && client.send(beat.bytes(Framing::Chunked), at).is_err()
            {
                self.forget(place);
            }
        }
    }
}
