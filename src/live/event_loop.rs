//! The event loop beside the server: the engine `event-loop` or `node` of the lab, with load clients
//! of its own. It gets the same clients and events as the server, so that a page can show both.
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
use sse_load::process::find_program;

use super::load_clients::LoadClients;
use super::memory;

/// The path of an engine's stream.
const PATH: &str = "/channels/bench";

/// The size of an event's frame, as on the channel `lab`, in bytes.
const FRAME: usize = 64;

/// The engines of the lab that can run beside the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    /// An event loop in Rust.
    EventLoop,
    Node,
}

impl Engine {
    /// Returns the engine of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::EventLoop, Self::Node].into_iter().find(|engine| engine.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::EventLoop => "event-loop",
            Self::Node => "node",
        }
    }
}

/// The process of the event loop and its clients, while they run.
#[derive(Debug)]
pub(super) struct EventLoop {
    /// The `threadcast` program, which starts the engine.
    program: Option<PathBuf>,
    running: Mutex<Option<Running>>,
    clients: LoadClients,
}

/// An engine that runs.
#[derive(Debug)]
struct Running {
    engine: Engine,
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
        Self { program, running: Mutex::default(), clients }
    }

    /// Returns the id of the engine's process, if it runs.
    pub(super) fn process(&self) -> Option<u32> {
        self.lock().as_ref().map(|running| running.process)
    }

    /// Opens or closes clients until there are `count`. Starts the engine if it does not run.
    ///
    /// Without an `engine` or a `rate`, the engine or the number of events a second stays as it is.
    pub(super) fn open(
        &self,
        count: usize,
        rate: Option<u32>,
        engine: Option<Engine>,
    ) -> io::Result<()> {
        if count == 0 {
            self.end();
            return Ok(());
        }
        let mut running = self.lock();
        let engine = engine.or(running.as_ref().map(|running| running.engine));
        let engine = engine.unwrap_or(Engine::EventLoop);
        let goes_on = |running: &Running| {
            running.engine == engine && memory::resident(running.process).is_some()
        };
        if !running.as_ref().is_some_and(goes_on) {
            self.clients.end();
            *running = None;
            *running = Some(start(engine, self.program.clone())?);
        }
        let Some(running) = running.as_mut() else { return Ok(()) };
        if let Some(rate) = rate.filter(|rate| *rate != running.rate) {
            writeln!(running.traffic, "{rate} {FRAME}")?;
            running.rate = rate;
        }
        self.clients.open(running.address, (count, count), Some(running.rate), |_| {})
    }

    /// Opens one more client, which reads nothing. Does nothing if the engine does not run.
    pub(super) fn open_stuck(&self) -> io::Result<()> {
        let running = self.lock();
        let Some(running) = running.as_ref() else { return Ok(()) };
        self.clients.open_stuck(running.address, |_| {})
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
        let running = self.lock();
        let running = running.as_ref()?;
        let memory = memory::resident(running.process)?;
        let mut json = self.clients.json(0, 0);
        // The frame's count is newer than the report's, and as old as the CPU time below.
        let frame = self.clients.frame();
        json["events"] = frame["events"].clone();
        json["engine"] = running.engine.name().into();
        json["process"] = running.process.into();
        json["memory_bytes"] = memory.into();
        json["base_bytes"] = running.base_memory.into();
        json["cpu_ms"] = cpu_ms(running.process).into();
        Some(json)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the engine.
///
/// A new thread starts the process and then waits for its end, because the thread of a connection
/// has too little stack for this.
fn start(engine: Engine, program: Option<PathBuf>) -> io::Result<Running> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    thread::Builder::new().name("lab-event-loop".into()).spawn(move || {
        let program = program.as_deref();
        let program = program.ok_or(io::ErrorKind::Unsupported.into());
        match program.and_then(|program| spawn(engine, program)) {
            Ok((mut child, running)) => {
                // If the receiver is gone, the process's stdin is dropped here, and the process
                // exits.
                let _ = sender.send(Ok(running));
                let _ = child.wait();
            }
            Err(error) => drop(sender.send(Err(error))),
        }
    })?;
    receiver.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
}

fn spawn(engine: Engine, program: &Path) -> io::Result<(Child, Running)> {
    if engine == Engine::Node && find_program("node").is_none() {
        return Err(io::Error::other("no `node` on the PATH; install it with apt install nodejs"));
    }
    let mut command = Command::new(program);
    command.args(["lab", "engine", engine.name()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let traffic = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut line = String::new();
    let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    BufReader::new(stdout).read_line(&mut line)?;
    let address = line.trim_end().parse().map_err(io::Error::other)?;
    let process = child.id();
    let base_memory = memory::resident(process).unwrap_or(0);
    Ok((child, Running { engine, process, address, traffic, rate: 0, base_memory }))
}

/// Returns the CPU time of a process's threads, in milliseconds; `None` if it has ended.
fn cpu_ms(process: u32) -> Option<f64> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{process}/task")).ok()? {
        // A thread that has ended since the listing is skipped.
        let schedule = fs::read_to_string(task.ok()?.path().join("schedstat"));
        let schedule = schedule.unwrap_or_default();
        nanos += schedule.split_whitespace().next().and_then(|it| it.parse().ok()).unwrap_or(0);
    }
    Some(Duration::from_nanos(nanos).as_secs_f64() * 1e3)
}
