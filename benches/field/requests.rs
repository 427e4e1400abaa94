//! Measures finite requests: publishes and pages of threadcast, with and without keep-alive, and
//! appends to durable streams.
//!
//! Each connection sends a request when it has read the response to the one before. All connections
//! are on one thread, on `epoll`.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;
use sse_load::figures::{digits, float, median};
use sse_load::load::Histogram;
use sse_load::meter::Spent;

use crate::engine::{Engine, Start};
use crate::options::Options;
use crate::peer::Peer;

/// One kind of request, on some connections.
#[derive(Debug, Clone)]
struct Requests {
    title: &'static str,
    connections: usize,
    /// Whether a connection carries more than one request.
    keeps_alive: bool,
    /// The method and the path.
    target: String,
    body: &'static str,
}

const BODY: &str = "sixty-four bytes of data, as in the frames of the other workloads";

impl Requests {
    fn publish(connections: usize) -> Self {
        let target = "POST /channels/requests".into();
        Self { title: "publish", connections, keeps_alive: true, target, body: BODY }
    }

    fn get(title: &'static str, connections: usize, path: &str) -> Self {
        Self { title, connections, keeps_alive: true, target: format!("GET {path}"), body: "" }
    }

    fn append(connections: usize, path: &str) -> Self {
        let target = format!("POST {path}");
        Self { title: "append", connections, keeps_alive: true, target, body: BODY }
    }

    /// Returns what is measured of an engine: nothing of most.
    fn of(engine: Engine, start: &Start) -> Vec<Self> {
        let single = "the demo page, a connection each";
        match (engine, start) {
            (Engine::Direct, _) => vec![
                Self::publish(1),
                Self::publish(8),
                Self::publish(64),
                Self::get("`/healthz`", 64, "/healthz"),
                Self::get("the demo page", 16, "/"),
                Self { keeps_alive: false, ..Self::get(single, 16, "/") },
            ],
            (_, Start::DurableStreams { path, .. }) => {
                [1, 16, 64].map(|connections| Self::append(connections, path)).into()
            }
            _ => Vec::new(),
        }
    }
}

/// The measurements of all kinds of requests to one engine.
#[derive(Debug, Serialize)]
pub struct Result {
    engine: &'static str,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    title: &'static str,
    connections: usize,
    samples: Vec<Sample>,
}

#[derive(Debug, Serialize)]
struct Sample {
    per_second: f64,
    cpu_us: f64,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
}

impl Result {
    /// Measures all kinds of requests to an engine, each as often as the options say. Returns `None`
    /// if none is measured of this engine.
    pub fn measure(engine: Engine, start: &Start, options: &Options) -> io::Result<Option<Self>> {
        let kinds = Requests::of(engine, start);
        let row = |it: &Requests| Row {
            title: it.title,
            connections: it.connections,
            samples: Vec::new(),
        };
        let mut rows: Vec<_> = kinds.iter().map(row).collect();
        for run in 1..=options.runs {
            for (requests, row) in kinds.iter().zip(&mut rows) {
                let (engine, title) = (engine.name(), requests.title);
                eprintln!("requests run {run} of {}: {engine}, {title}", options.runs);
                row.samples.push(requests.measure(start, options)?);
            }
        }
        Ok(if rows.is_empty() { None } else { Some(Self { engine: engine.title(), rows }) })
    }

    /// Returns the table of the medians.
    pub fn table(&self) -> String {
        let mut text = format!(
            "## requests: {}\n\n\
             | request | connections | a second | µs CPU each | p50 µs | p99 µs |\n|---|--:|--:|--:|--:|--:|\n",
            self.engine
        );
        for row in &self.rows {
            let cell = |value: fn(&Sample) -> Option<f64>, places| {
                let found = median(row.samples.iter().filter_map(value));
                found.map_or("–".to_owned(), |value| digits(value, places))
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                row.title,
                row.connections,
                cell(|s| Some(s.per_second), 0),
                cell(|s| Some(s.cpu_us), 1),
                cell(|s| s.p50_us, 0),
                cell(|s| s.p99_us, 0),
            );
        }
        text
    }
}

impl Requests {
    fn message(&self, server: SocketAddr) -> Vec<u8> {
        let Self { target, body, keeps_alive, .. } = self;
        let connection = if *keeps_alive { "" } else { "Connection: close\r\n" };
        let about = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Type: text/plain\r\nContent-Length: {}\r\n", body.len())
        };
        format!("{target} HTTP/1.1\r\nHost: {server}\r\n{connection}{about}\r\n{body}").into_bytes()
    }

    fn measure(&self, start: &Start, options: &Options) -> io::Result<Sample> {
        let peer = Peer::start(start, options.cores)?;
        let mut load = Load::open(peer.server(), self)?;
        load.run_for(options.warm_up)?;
        load.times = Histogram::default();
        let before = Spent::now(peer.process(), options.cores)?;
        load.run_for(Duration::from_secs_f64(options.seconds.unwrap_or(5.0)))?;
        let spending = Spent::now(peer.process(), options.cores)?.since(&before);
        let requests = float(load.times.count().max(1));
        let micros = |quantile| load.times.quantile(quantile).map(|time| time.as_secs_f64() * 1e6);
        Ok(Sample {
            per_second: requests / spending.seconds,
            cpu_us: spending.cpu * 1e6 / requests,
            p50_us: micros(0.5),
            p99_us: micros(0.99),
        })
    }
}

/// The connections, and the times of their requests.
struct Load {
    server: SocketAddr,
    message: Vec<u8>,
    keeps_alive: bool,
    poll: Poll,
    connections: Vec<Connection>,
    times: Histogram,
}

/// A connection with one request in flight.
struct Connection {
    socket: TcpStream,
    /// When the request was sent, or the connection begun.
    began: Instant,
    is_sent: bool,
    received: Vec<u8>,
}

impl Load {
    fn open(server: SocketAddr, requests: &Requests) -> io::Result<Self> {
        let mut load = Self {
            server,
            message: requests.message(server),
            keeps_alive: requests.keeps_alive,
            poll: Poll::new()?,
            connections: Vec::new(),
            times: Histogram::default(),
        };
        for index in 0..requests.connections {
            let connection = load.connect(index)?;
            load.connections.push(connection);
        }
        Ok(load)
    }

    fn connect(&self, index: usize) -> io::Result<Connection> {
        let mut socket = TcpStream::connect(self.server)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(index), interest)?;
        Ok(Connection { socket, began: Instant::now(), is_sent: false, received: Vec::new() })
    }

    fn run_for(&mut self, span: Duration) -> io::Result<()> {
        let deadline = Instant::now() + span;
        let mut ready = Events::with_capacity(self.connections.len());
        while let left = deadline.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            self.poll.poll(&mut ready, Some(left))?;
            for event in &ready {
                self.serve(event.token().0)?;
            }
        }
        Ok(())
    }

    /// Sends the request if it is not sent, and reads what has arrived.
    fn serve(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        if !connection.is_sent {
            match connection.socket.write(&self.message) {
                // The kernel takes such a small request whole.
                Ok(_) => connection.is_sent = true,
                Err(error) if is_not_ready(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        while connection.read(!self.keeps_alive)? {
            self.times.record(connection.began.elapsed(), 1);
            if !self.keeps_alive {
                self.connections[index] = self.connect(index)?;
                return Ok(());
            }
            connection.began = Instant::now();
            connection.received.clear();
            connection.socket.write_all(&self.message)?;
        }
        Ok(())
    }
}

impl Connection {
    /// Reads what has arrived. Returns whether the response is complete, and, with `to_the_end`,
    /// whether the server has closed the connection too. If the client closed first, its ports
    /// would stay in use for a minute.
    fn read(&mut self, to_the_end: bool) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) if to_the_end && self.is_complete()? => return Ok(true),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                Err(error) if is_not_ready(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
            if !to_the_end && self.is_complete()? {
                return Ok(true);
            }
        }
    }

    fn is_complete(&self) -> io::Result<bool> {
        Ok(length(&self.received)?.is_some_and(|length| self.received.len() >= length))
    }
}

/// Returns the length of the response that begins with these bytes, if its head is complete.
fn length(received: &[u8]) -> io::Result<Option<usize>> {
    let Some(end) = memchr::memmem::find(received, b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
    if head.starts_with("http/1.1 204") {
        return Ok(Some(end + 4));
    }
    if !head.starts_with("http/1.1 200") {
        let line = head.lines().next().unwrap_or_default().to_owned();
        return Err(io::Error::other(format!("the server responded {line:?}")));
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let length: usize = length.ok_or_else(|| io::Error::other("a response without a length"))?;
    Ok(Some(end + 4 + length))
}

fn is_not_ready(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected | io::ErrorKind::Interrupted
    )
}
