//! The clients that a page with `--lab` opens: a process of their own, which the server starts,
//! orders about on its stdin and hears on its stdout (`http/crowd.rs`).
//!
//! | order | does |
//! |---|---|
//! | `clients N` | has N clients listen to the channel `lab` |
//! | `rate N` | has N events a second published to it |
//! | `stuck N` | opens N more, which listen to `lab-stuck` and read nothing |
//!
//! It says `publish CHANNEL DATA` when an event is due, for only the server may publish without
//! a token, and `report JSON` each second and once all clients are open. The end of its stdin
//! ends it.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use rustix::process::{Resource, getrlimit};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use super::load::{Load, Plan};
use super::process::raise_the_descriptor_limit;
use super::tick::{Order, Tick};

/// So many are opened before anything else has its turn.
const STEP: usize = 100;

/// Descriptors for what is no client.
const SPARE: usize = 32;

/// How large the events on `lab` are.
const FRAME: usize = 64;

/// What the clients that read nothing are sent, and for how long: enough that their sockets are
/// full in a second, and nothing once they are.
const FLOOD: Order = Order { rate: 20, frame: 16 * 1024 };
const FLOOD_TIME: Duration = Duration::from_secs(3);
const NO_FLOOD: Order = Order { rate: 0, ..FLOOD };

/// The least receive buffer that the kernel gives; what a client does not read is then soon
/// the server's matter.
const NARROW: usize = 2 * 1024;

const REPORT_EVERY: Duration = Duration::from_secs(1);

/// The longest that an order waits.
const TURN: Duration = Duration::from_millis(20);

/// The clients, as they were ordered.
struct LoadClients<W> {
    plan: Plan,
    load: Option<Load>,
    /// How many there are to be, and the most that this process could open.
    wanted: usize,
    own_most: usize,
    stuck: Vec<TcpStream>,
    events: Tick,
    flood: Tick,
    /// When the flood is to end.
    flooded: Option<Instant>,
    rate: u32,
    reported: Instant,
    /// Whether it has been said that all are open.
    settled: bool,
    out: W,
}

/// Is those clients, until stdin ends, or nobody hears what is said any more.
///
/// # Errors
///
/// When `epoll` fails, or an order is none.
pub fn run(server: SocketAddr, out: impl Write) -> io::Result<()> {
    match serve(server, out) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        ended => ended,
    }
}

fn serve(server: SocketAddr, out: impl Write) -> io::Result<()> {
    raise_the_descriptor_limit()?;
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let mut load_clients = LoadClients {
        plan: Plan { patience: Duration::from_secs(5), ..Plan::new(server, "/channels/lab") },
        load: None,
        wanted: 0,
        own_most: limit.saturating_sub(SPARE),
        stuck: Vec::new(),
        events: Tick::new(),
        flood: Tick::new(),
        flooded: None,
        rate: 0,
        reported: Instant::now(),
        settled: true,
        out,
    };
    let orders = orders()?;
    loop {
        match orders.try_recv() {
            Ok(order) => load_clients.obey(&order)?,
            Err(TryRecvError::Disconnected) => return Ok(()),
            Err(TryRecvError::Empty) => load_clients.turn(&orders)?,
        }
    }
}

/// The lines of stdin; disconnected with its end.
fn orders() -> io::Result<Receiver<String>> {
    let (tell, orders) = crossbeam_channel::bounded(16);
    thread::Builder::new().name("orders".into()).spawn(move || {
        let lines = io::stdin().lines().map_while(Result::ok);
        lines.map(|line| tell.send(line)).take_while(Result::is_ok).for_each(drop);
    })?;
    Ok(orders)
}

impl<W: Write> LoadClients<W> {
    fn obey(&mut self, order: &str) -> io::Result<()> {
        let (what, number) = order.split_once(' ').unwrap_or((order, ""));
        let number: usize = number.parse().map_err(io::Error::other)?;
        match what {
            "clients" => {
                self.wanted = number.min(self.own_most);
                self.settled = false;
                let load = self.load.as_mut();
                // Those that were cut off do not come back by themselves: begin anew.
                if load.is_some_and(|load| {
                    load.shrink(self.wanted);
                    load.connected() < load.opening().answered.min(self.wanted)
                }) {
                    self.load = None;
                }
            }
            "rate" => {
                self.rate = u32::try_from(number).unwrap_or(u32::MAX);
                self.events.obey(Order { rate: self.rate, frame: FRAME });
            }
            "stuck" => {
                for _ in 0..number {
                    self.stuck.push(stuck(self.plan.server)?);
                }
                self.flood.obey(FLOOD);
                self.flooded = Some(Instant::now() + FLOOD_TIME);
            }
            _ => return Err(io::Error::other(format!("no such order: {order}"))),
        }
        Ok(())
    }

    /// Opens some, reads for a moment, and says what is due.
    fn turn(&mut self, orders: &Receiver<String>) -> io::Result<()> {
        let pause = self.events.pause().min(self.flood.pause()).min(TURN);
        match &mut self.load {
            Some(load) => load.read_for(pause)?,
            None if self.wanted > 0 => {
                self.load = Some(Load::open(&Plan { clients: 0, ..self.plan.clone() })?);
            }
            None => match orders.recv_timeout(pause) {
                Ok(order) => self.obey(&order)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            },
        }
        self.grow();
        self.publish()?;
        let settles = !self.settled && self.opened() >= self.wanted;
        if settles {
            self.settled = true;
            self.load.iter_mut().for_each(Load::mark);
        }
        if settles || self.reported.elapsed() >= REPORT_EVERY {
            self.report(settles)?;
        }
        Ok(())
    }

    fn opened(&self) -> usize {
        self.load.as_ref().map_or(0, Load::opened)
    }

    fn grow(&mut self) {
        let opened = self.opened();
        let Some(load) = self.load.as_mut().filter(|_| opened < self.wanted) else { return };
        let plan = Plan { clients: self.wanted, ..self.plan.clone() };
        if load.grow(&plan, self.wanted.min(opened + STEP)).is_err() {
            // No descriptor or no port is left: these are all.
            self.own_most = load.opened();
            self.wanted = self.own_most;
        }
    }

    fn publish(&mut self) -> io::Result<()> {
        if self.flooded.take_if(|end| *end <= Instant::now()).is_some() {
            self.flood.obey(NO_FLOOD);
        }
        while let Some(number) = self.events.due() {
            writeln!(self.out, "publish lab {}", self.events.data(number, 0))?;
        }
        while let Some(number) = self.flood.due() {
            writeln!(self.out, "publish lab-stuck {}", self.flood.data(number, 0))?;
        }
        self.out.flush()
    }

    fn report(&mut self, settled: bool) -> io::Result<()> {
        self.reported = Instant::now();
        let mut report = json!({
            "clients": 0, "rate": self.rate, "own_most": self.own_most, "settled": settled,
        });
        if let Some(load) = &mut self.load {
            let window = load.window();
            let late = |part| window.latency.quantile(part).map(|late| late.as_secs_f64() * 1e3);
            report["lost"] = window.lost.into();
            report["late_ms"] = json!({ "half": late(0.5), "p99": late(0.99) });
            report["clients"] = load.connected().into();
            report["refused"] = load.opening().refused.into();
            load.forget_latencies();
        }
        writeln!(self.out, "report {report}")?;
        self.out.flush()
    }
}

/// A client that asks for a stream and reads nothing of it.
fn stuck(server: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_recv_buffer_size(NARROW)?; // before it connects, or it is offered more
    socket.connect(&server.into())?;
    let mut socket = TcpStream::from(socket);
    write!(socket, "GET /channels/lab-stuck HTTP/1.1\r\nHost: {server}\r\n\r\n")?;
    Ok(socket)
}
