//! The event loop beside the server: the engine `event-loop` of the lab, with load clients of its
//! own. It gets the same clients and events as the server, so that a page can show both.
//!
//! The engine is a process that ends when its stdin closes, so it cannot outlive the server.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::load_clients::LoadClients;
use super::memory;

/// The path of an engine's stream.
const PATH: &str = "/channels/bench";

/// The size of an event's frame, as on the channel `lab`, in bytes.
const FRAME: usize = 64;

/// The process of the event loop and its clients, while they run.
#[derive(Debug)]
pub(super) struct EventLoop {
    /// The `threadcast` program, which contains the engine.
    program: Option<PathBuf>,
    engine: Mutex<Option<Engine>>,
    clients: LoadClients,
}

#[derive(Debug)]
struct Engine {
    process: u32,
    address: SocketAddr,
    /// Takes the rate of the events. The engine ends when this closes.
    traffic: ChildStdin,
    rate: u32,
    /// The resident memory of the engine before it had clients, in bytes.
    base_memory: u64,
}

impl EventLoop {
    pub(super) fn new(program: Option<PathBuf>) -> Self {
        let clients = LoadClients::new(program.clone(), Some(PATH));
        Self { program, engine: Mutex::default(), clients }
    }

    /// Returns the id of the engine's process, if it runs.
    pub(super) fn process(&self) -> Option<u32> {
        self.lock().as_ref().map(|engine| engine.process)
    }

    /// Opens or closes clients until there are `count`. Starts the engine if it does not run.
    ///
    /// Without a `rate`, the number of events a second stays as it is.
    pub(super) fn open(&self, count: usize, rate: Option<u32>) -> io::Result<()> {
        if count == 0 {
            self.end();
            return Ok(());
        }
        let mut engine = self.lock();
        if engine.as_ref().is_none_or(|engine| memory::resident(engine.process).is_none()) {
            self.clients.end();
            *engine = Some(start(self.program.clone())?);
        }
        let Some(engine) = engine.as_mut() else { return Ok(()) };
        if let Some(rate) = rate.filter(|rate| *rate != engine.rate) {
            writeln!(engine.traffic, "{rate} {FRAME}")?;
            engine.rate = rate;
        }
        self.clients.open(engine.address, (count, count), Some(engine.rate), |_| {})
    }

    /// Opens one more client, which reads nothing. Does nothing if the engine does not run.
    pub(super) fn open_stuck(&self) -> io::Result<()> {
        let engine = self.lock();
        let Some(engine) = engine.as_ref() else { return Ok(()) };
        self.clients.open_stuck(engine.address, |_| {})
    }

    /// Sends a command to the clients. Does nothing if they do not run.
    pub(super) fn command(&self, command: &str) -> io::Result<()> {
        self.clients.command(command)
    }

    /// Ends the clients and the engine.
    pub(super) fn end(&self) {
        self.clients.end();
        *self.lock() = None;
    }

    /// Returns the last frame of the clients.
    pub(super) fn frame(&self) -> Value {
        self.clients.frame()
    }

    /// Returns the state of the engine and of its clients, for `/status`; `None` if the engine does
    /// not run.
    pub(super) fn json(&self) -> Option<Value> {
        let engine = self.lock();
        let engine = engine.as_ref()?;
        let memory = memory::resident(engine.process)?;
        let mut json = self.clients.json(0, 0);
        // The frame's count is newer than the report's, and as old as the CPU time below.
        let frame = self.clients.frame();
        json["events"] = frame["events"].clone();
        json["process"] = engine.process.into();
        json["memory_bytes"] = memory.into();
        json["base_bytes"] = engine.base_memory.into();
        json["cpu_ms"] = cpu_ms(engine.process).into();
        Some(json)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Engine>> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the engine.
///
/// A new thread starts the process and then waits for its end, because the thread of a connection
/// has too little stack for this.
fn start(program: Option<PathBuf>) -> io::Result<Engine> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    thread::Builder::new().name("lab-event-loop".into()).spawn(move || {
        let program = program.as_deref();
        match program.ok_or(io::ErrorKind::Unsupported.into()).and_then(spawn) {
            Ok((mut child, engine)) => {
                // If the receiver is gone, the process's stdin is dropped here, and the process
                // exits.
                let _ = sender.send(Ok(engine));
                let _ = child.wait();
            }
            Err(error) => drop(sender.send(Err(error))),
        }
    })?;
    receiver.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
}

fn spawn(program: &Path) -> io::Result<(Child, Engine)> {
    let mut command = Command::new(program);
    command.args(["lab", "engine", "event-loop"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let traffic = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut line = String::new();
    let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    BufReader::new(stdout).read_line(&mut line)?;
    let address = line.trim_end().parse().map_err(io::Error::other)?;
    let process = child.id();
    let base_memory = memory::resident(process).unwrap_or(0);
    Ok((child, Engine { process, address, traffic, rate: 0, base_memory }))
}

/// Returns the CPU time of a process with one thread, in milliseconds; `None` if it has ended.
fn cpu_ms(process: u32) -> Option<f64> {
    let schedule = fs::read_to_string(format!("/proc/{process}/schedstat")).ok()?;
    let nanos: u64 = schedule.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos).as_secs_f64() * 1e3)
}
