//! The process that runs the load clients of a server with `--lab`. The server starts this process,
//! sends it commands on its stdin, and reads its stdout (`live/load_clients.rs`).
//!
//! | command | effect |
//! |---|---|
//! | `clients N` | N clients open the stream |
//! | `rate N` | N events per second are published |
//! | `stuck N` | N more clients open a stream and read nothing |
//! | `reopen` | all clients disconnect, and connect again after a second |
//! | `slow disk`, `slow cpu` | one client requests the slow handler five times |
//!
//! The clients subscribe to the channel `lab`, and those that read nothing to `lab-stuck`. The
//! process does not publish events itself, because it has no token. It prints `publish CHANNEL
//! DATA` when an event is due, and the server publishes the event. With `--path`, all clients open
//! the stream at that path of another server, which publishes its events itself.
//!
//! It prints `report JSON` each second, and when all clients are open; it prints `frame JSON` ten
//! times a second, for the picture of the live view. It exits when its stdin ends.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use sse_load::load::{Load, Plan};
use sse_load::process::most_clients;
use sse_load::tick::{Tick, Traffic};

use crate::live::threads::run_lengths;

/// How many clients are opened at a time. Between two such steps, events are published and commands
/// are executed.
const STEP: usize = 100;

/// The size of an event's frame on the channel `lab`, in bytes.
const FRAME: usize = 64;

/// The traffic for stuck clients, published for [`FLOOD_TIME`] after each `stuck` command. It fills
/// the stuck clients' sockets within a second.
const FLOOD: Traffic = Traffic { rate: 20, frame: 16 * 1024 };
const FLOOD_TIME: Duration = Duration::from_secs(3);
const NO_FLOOD: Traffic = Traffic { rate: 0, ..FLOOD };

/// The receive buffer of a stuck client, in bytes: the smallest that the kernel permits, so that
/// unread bytes soon accumulate at the server.
const NARROW: usize = 2 * 1024;

const REPORT_EVERY: Duration = Duration::from_secs(1);
const FRAME_EVERY: Duration = Duration::from_millis(100);

/// How long the clients are away after the command `reopen`, so that a person sees it.
const AWAY: Duration = Duration::from_secs(1);

/// How many requests the command `slow` sends, one after the other.
const SLOW_REQUESTS: usize = 5;
/// The maximum wait for the response to one of these requests.
const SLOW_TIMEOUT: Duration = Duration::from_secs(10);

/// The step of the silences in a frame.
const SILENCE_STEP: Duration = Duration::from_millis(20);

/// The maximum pause between two checks for commands.
const TURN: Duration = Duration::from_millis(20);

/// The clients, and the state that the commands have set.
struct LoadClients<W> {
    plan: Plan,
    load: Option<Load>,
    /// The number of clients that the last `clients` command requested.
    wanted: usize,
    /// The maximum number of clients that this process can open.
    own_most: usize,
    stuck: Vec<TcpStream>,
    events: Tick,
    flood: Tick,
    /// When the traffic for stuck clients ends.
    flooded: Option<Instant>,
    rate: u32,
    /// Whether the server publishes the events itself.
    publishes_itself: bool,
    /// When the clients connect again after the command `reopen`.
    returns: Instant,
    reported: Instant,
    framed: Instant,
    /// Whether the report that all clients are open has been sent.
    settled: bool,
    out: W,
}

/// Runs the clients until stdin ends or stdout is closed. With a `path`, the clients open the stream
/// at that path, and the server publishes its events itself.
///
/// # Errors
///
/// Fails if `epoll` fails, or a command is invalid.
pub(crate) fn run(server: SocketAddr, path: Option<&str>, out: impl Write) -> io::Result<()> {
    match serve(server, path, out) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        ended => ended,
    }
}

fn serve(server: SocketAddr, path: Option<&str>, out: impl Write) -> io::Result<()> {
    let plan = Plan::new(server, path.unwrap_or("/channels/lab"));
    let mut load_clients = LoadClients {
        plan: Plan { timeout: Duration::from_secs(5), ..plan },
        load: None,
        wanted: 0,
        own_most: most_clients()?,
        stuck: Vec::new(),
        events: Tick::new(),
        flood: Tick::new(),
        flooded: None,
        rate: 0,
        publishes_itself: path.is_some(),
        reported: Instant::now(),
        framed: Instant::now(),
        returns: Instant::now(),
        settled: true,
        out,
    };
    let commands = commands()?;
    loop {
        match commands.try_recv() {
            Ok(command) => load_clients.execute(&command)?,
            Err(TryRecvError::Disconnected) => return Ok(()),
            Err(TryRecvError::Empty) => load_clients.turn(&commands)?,
        }
    }
}

/// Reads the lines of stdin in a thread; the channel is disconnected when stdin ends.
fn commands() -> io::Result<Receiver<String>> {
    let (sender, commands) = crossbeam_channel::bounded(16);
    thread::Builder::new().name("commands".into()).spawn(move || {
        let lines = io::stdin().lines().map_while(Result::ok);
        lines.map(|line| sender.send(line)).take_while(Result::is_ok).for_each(drop);
    })?;
    Ok(commands)
}

impl<W: Write> LoadClients<W> {
    fn execute(&mut self, command: &str) -> io::Result<()> {
        match command.split_once(' ') {
            None if command == "reopen" => {
                self.load = None;
                self.settled = false;
                self.returns = Instant::now() + AWAY;
                return Ok(());
            }
            Some(("slow", how)) => return request_slow_handler(self.plan.server, how),
            _ => {}
        }
        let (name, number) = command.split_once(' ').unwrap_or((command, ""));
        let number: usize = number.parse().map_err(io::Error::other)?;
        match name {
            "clients" => {
                self.wanted = number.min(self.own_most);
                self.settled = false;
                let load = self.load.as_mut();
                // Clients that the server has disconnected do not reconnect. If there are any, all
                // clients are opened again.
                if load.is_some_and(|load| {
                    load.shrink(self.wanted);
                    load.connected() < load.opening().accepted.min(self.wanted)
                }) {
                    self.load = None;
                }
            }
            "rate" => {
                self.rate = u32::try_from(number).unwrap_or(u32::MAX);
                if !self.publishes_itself {
                    self.events.set(Traffic { rate: self.rate, frame: FRAME });
                }
                self.load.iter_mut().for_each(Load::restart_silences);
            }
            "stuck" => {
                for _ in 0..number {
                    self.stuck.push(self.open_stuck()?);
                }
                if !self.publishes_itself {
                    self.flood.set(FLOOD);
                    self.flooded = Some(Instant::now() + FLOOD_TIME);
                }
            }
            _ => return Err(io::Error::other(format!("unknown command: {command}"))),
        }
        Ok(())
    }

    /// Reads the streams for at most [`TURN`], opens some of the missing clients, and prints the
    /// events and the report that are due.
    fn turn(&mut self, commands: &Receiver<String>) -> io::Result<()> {
        let pause = self.events.pause().min(self.flood.pause()).min(TURN);
        match &mut self.load {
            Some(load) => load.read_for(pause)?,
            None if self.wanted > 0 && self.returns <= Instant::now() => {
                self.load = Some(Load::open(&Plan { clients: 0, ..self.plan.clone() })?);
            }
            None => match commands.recv_timeout(pause) {
                Ok(command) => self.execute(&command)?,
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
        if self.framed.elapsed() >= FRAME_EVERY {
            self.frame()?;
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
            // No descriptor or port is left, so this process cannot open more clients than it has
            // now.
            self.own_most = load.opened();
            self.wanted = self.own_most;
        }
    }

    fn publish(&mut self) -> io::Result<()> {
        if self.flooded.take_if(|end| *end <= Instant::now()).is_some() {
            self.flood.set(NO_FLOOD);
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
            report["refused"] = load.opening().rejected.into();
            load.forget_latencies();
        }
        writeln!(self.out, "report {report}")?;
        self.out.flush()
    }

    /// Prints the longest silence of a client since the last frame, and for how long each client
    /// has been silent: a run length and a letter for each run of equal silences. The letter `a` is
    /// less than 20 ms, `b` less than 40 ms, and so on; `.` is a client without a connection or
    /// event, and `-` one that reads nothing.
    fn frame(&mut self) -> io::Result<()> {
        self.framed = Instant::now();
        let mut frame = json!({ "clients": 0, "silent_ms": null, "dots": "" });
        let mut dots = Vec::new();
        if let Some(load) = &mut self.load {
            frame["clients"] = load.connected().into();
            frame["events"] = load.window().delivered.into();
            let silence = load.take_longest_silence();
            // While clients are being opened, no event is due for the new ones.
            if self.settled && self.rate > 0 {
                frame["silent_ms"] = (silence.as_secs_f64() * 1e3).into();
            }
            dots.extend(load.silences().map(|silence| silence.map_or('.', silence_letter)));
        }
        dots.extend(self.stuck.iter().map(|_| '-'));
        frame["dots"] = run_lengths(&dots).into();
        writeln!(self.out, "frame {frame}")?;
        self.out.flush()
    }

    /// Opens a client that requests a stream and never reads.
    fn open_stuck(&self) -> io::Result<TcpStream> {
        let path = if self.publishes_itself { &self.plan.path } else { "/channels/lab-stuck" };
        stuck(self.plan.server, path)
    }
}

/// Returns the letter of a silence in a frame.
fn silence_letter(silence: Duration) -> char {
    let steps = silence.as_millis() / SILENCE_STEP.as_millis();
    char::from(b'a' + u8::try_from(steps).unwrap_or(u8::MAX).min(25))
}

/// Requests the slow handler [`SLOW_REQUESTS`] times, one after the other, in a thread. A failed
/// request ends the thread.
fn request_slow_handler(server: SocketAddr, how: &str) -> io::Result<()> {
    let request =
        format!("GET /lab/slow/{how} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    let send = move || -> io::Result<()> {
        let mut socket = TcpStream::connect(server)?;
        socket.set_read_timeout(Some(SLOW_TIMEOUT))?;
        socket.write_all(request.as_bytes())?;
        socket.read_to_end(&mut Vec::new()).map(drop)
    };
    let requests = move || drop((0..SLOW_REQUESTS).try_for_each(|_| send()));
    thread::Builder::new().name("slow".into()).spawn(requests).map(drop)
}

/// Opens a client that requests the stream at `path` and never reads.
fn stuck(server: SocketAddr, path: &str) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP))?;
    // The size must be set before the connection is opened, because otherwise the kernel offers the
    // server a larger receive window.
    socket.set_recv_buffer_size(NARROW)?;
    socket.connect(&server.into())?;
    let mut socket = TcpStream::from(socket);
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {server}\r\n\r\n")?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_writes_runs_of_equal_silences() {
        let silences = [0, 19, 20, 45, 45, 499, 60_000].map(Duration::from_millis);
        let letters = silences.map(silence_letter);
        assert_eq!(run_lengths(&letters), "2ab2cyz");
    }
}
