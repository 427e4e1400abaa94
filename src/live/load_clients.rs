//! Controls the lab's local clients, which are a separate process (`src/lab/load_clients.rs`).
//!
//! A separate process keeps its CPU time and memory out of the server's figures. The process reads
//! commands from its stdin, and writes events to publish and reports to its stdout. It exits when
//! its stdin closes, so it cannot outlive the server, even if the server is killed.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::{Value, json};

/// The channel to which the clients that read nothing subscribe.
pub(super) const STUCK: &str = "lab-stuck";

/// The local clients of a server with `--lab`, or of the event loop beside it.
#[derive(Debug)]
pub(super) struct LoadClients {
    /// The `threadcast` program, which runs the clients.
    program: Option<PathBuf>,
    /// The path of the stream, if it is not that of the channel `lab`.
    path: Option<&'static str>,
    state: Arc<Mutex<State>>,
}

/// A message of the clients' process.
pub(super) enum Message<'a> {
    /// Publish this event.
    Publish { channel: &'a str, data: &'a str },
    /// All requested clients are open or have failed.
    Settled,
}

#[derive(Debug, Default)]
struct State {
    /// The stdin of the process, if it runs.
    commands: Option<ChildStdin>,
    /// The number of the current process. The reports of an earlier process, which may not have
    /// exited yet, are ignored.
    generation: u64,
    /// The requested number of clients.
    asked: usize,
    /// The number of clients that the server has room for.
    most: usize,
    /// The last report of the process.
    report: Value,
    /// The last frame of the process.
    frame: Value,
}

impl LoadClients {
    pub(super) fn new(program: Option<PathBuf>, path: Option<&'static str>) -> Self {
        Self { program, path, state: Arc::default() }
    }

    /// Opens or closes clients until there are `asked`, or `most` if that is less.
    ///
    /// Without a `rate`, the number of events a second stays as it is. `handle` is called for each
    /// message if this call starts the process.
    pub(super) fn open(
        &self,
        at: SocketAddr,
        (asked, most): (usize, usize),
        rate: Option<u32>,
        handle: impl Fn(Message<'_>) + Send + 'static,
    ) -> io::Result<()> {
        if asked == 0 {
            self.end();
            return Ok(());
        }
        let mut state = self.lock();
        (state.asked, state.most) = (asked, most);
        self.run(&mut state, at, handle)?;
        if let Some(rate) = rate {
            state.send(format_args!("rate {rate}"))?;
        }
        state.send(format_args!("clients {}", asked.min(most)))
    }

    /// Opens one more client, which then reads nothing.
    pub(super) fn open_stuck(
        &self,
        at: SocketAddr,
        handle: impl Fn(Message<'_>) + Send + 'static,
    ) -> io::Result<()> {
        let mut state = self.lock();
        self.run(&mut state, at, handle)?;
        state.send(format_args!("stuck 1"))
    }

    /// Starts the process if it does not run.
    fn run(
        &self,
        state: &mut State,
        at: SocketAddr,
        handle: impl Fn(Message<'_>) + Send + 'static,
    ) -> io::Result<()> {
        if state.commands.is_none() {
            state.generation += 1;
            let output = Output { state: Arc::clone(&self.state), generation: state.generation };
            state.commands = Some(start(self.program.clone(), at, self.path, output, handle)?);
        }
        Ok(())
    }

    /// Sends a command to the process. Does nothing if it does not run.
    pub(super) fn command(&self, command: &str) -> io::Result<()> {
        self.lock().send(format_args!("{command}"))
    }

    /// Returns the last frame of the process: how long each client has been silent.
    pub(super) fn frame(&self) -> Value {
        self.lock().frame.clone()
    }

    /// Closes all clients and ends their process.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        *state = State { generation: state.generation, ..State::default() };
    }

    /// Returns the number of open clients, as of the last report.
    pub(super) fn clients(&self) -> usize {
        let clients = self.lock().report["clients"].as_u64().unwrap_or(0);
        usize::try_from(clients).unwrap_or(usize::MAX)
    }

    /// Returns the state of the clients, for `/status`.
    pub(super) fn json(&self, stuck: usize, given_up: u64) -> Value {
        let state = self.lock();
        let mut json = json!({
            "asked": state.asked, "most": state.most, "stuck": stuck, "given_up": given_up,
        });
        if let (Some(all), Some(report)) = (json.as_object_mut(), state.report.as_object()) {
            all.extend(report.clone());
        }
        json
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Sends a command to the process.
    fn send(&mut self, command: std::fmt::Arguments<'_>) -> io::Result<()> {
        let Some(commands) = &mut self.commands else { return Ok(()) };
        writeln!(commands, "{command}").inspect_err(|_| self.commands = None)
    }
}

/// Starts the process and returns its stdin.
///
/// The thread that reads the process's output also starts the process, because the thread of a
/// connection has too little stack for this.
fn start(
    program: Option<PathBuf>,
    at: SocketAddr,
    path: Option<&'static str>,
    output: Output,
    handle: impl Fn(Message<'_>) + Send + 'static,
) -> io::Result<ChildStdin> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    thread::Builder::new().name("lab-clients".into()).spawn(move || {
        let program = program.as_deref();
        match program.ok_or(io::ErrorKind::Unsupported.into()).and_then(|it| spawn(it, at, path)) {
            Ok((child, commands)) => {
                // If the receiver is gone, the process's stdin is dropped here, and the process
                // exits.
                let _ = sender.send(Ok(commands));
                output.read(child, &handle);
            }
            Err(error) => drop(sender.send(Err(error))),
        }
    })?;
    receiver.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
}

fn spawn(program: &Path, at: SocketAddr, path: Option<&str>) -> io::Result<(Child, ChildStdin)> {
    let mut command = Command::new(program);
    command.args(["lab", "clients", &at.to_string()]);
    if let Some(path) = path {
        command.args(["--path", path]);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let commands = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    Ok((child, commands))
}

/// The output of one process, and the state that its reports change.
struct Output {
    state: Arc<Mutex<State>>,
    generation: u64,
}

impl Output {
    /// Handles the messages and stores the reports of the process, until it exits.
    fn read(self, mut child: Child, handle: &impl Fn(Message<'_>)) {
        let stdout = child.stdout.take().map(BufReader::new);
        let lines = stdout.into_iter().flat_map(BufRead::lines).map_while(Result::ok);
        for line in lines {
            match line.split_once(' ') {
                Some(("publish", event)) => {
                    let Some((channel, data)) = event.split_once(' ') else { continue };
                    handle(Message::Publish { channel, data });
                }
                Some(("report", report)) => {
                    let Ok(report) = serde_json::from_str::<Value>(report) else { continue };
                    let settled = report["settled"] == true;
                    self.store(|state| state.report = report);
                    if settled {
                        handle(Message::Settled);
                    }
                }
                Some(("frame", frame)) => {
                    let Ok(frame) = serde_json::from_str(frame) else { continue };
                    self.store(|state| state.frame = frame);
                }
                _ => log::warn!("ignored an unknown line from the lab's clients: {line:?}"),
            }
        }
        let _ = child.wait(); // returns soon: the process has closed its stdout
        let mut state = self.lock();
        if state.generation == self.generation {
            *state = State { generation: self.generation, ..State::default() };
        }
    }

    /// Changes the state, unless another process has taken the place of this one.
    fn store(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        if state.generation == self.generation && state.commands.is_some() {
            change(&mut state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
