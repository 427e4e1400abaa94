//! Controls the lab's local clients, which are a separate process (`src/lab/load_clients.rs`).
//!
//! A separate process keeps its CPU time and memory out of the server's figures. The process reads
//! commands from its stdin, and writes events to publish and reports to its stdout. It exits when
//! its stdin closes, so it cannot outlive the server, even if the server is killed.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::{Value, json};

use super::{ServerState, status};
use crate::event::Event;
use crate::json;
use crate::ticker;

/// The channel to which the clients that read nothing subscribe.
pub(super) const STUCK: &str = "lab-stuck";

/// The local clients of a server with `--lab`.
#[derive(Debug, Default)]
pub(super) struct LoadClients {
    state: Mutex<State>,
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
}

impl LoadClients {
    /// Opens or closes clients until there are `asked`, or `most` if that is less.
    ///
    /// Without a `rate`, the number of events a second stays as it is.
    pub(super) fn open(
        &self,
        server: &Arc<ServerState>,
        at: SocketAddr,
        (asked, most): (usize, usize),
        rate: Option<u32>,
    ) -> io::Result<()> {
        if asked == 0 {
            self.end();
            return Ok(());
        }
        let mut state = self.lock();
        (state.asked, state.most) = (asked, most);
        if let Some(rate) = rate {
            state.send(server, at, format_args!("rate {rate}"))?;
        }
        state.send(server, at, format_args!("clients {}", asked.min(most)))
    }

    /// Opens one more client, which then reads nothing.
    pub(super) fn open_stuck(&self, server: &Arc<ServerState>, at: SocketAddr) -> io::Result<()> {
        self.lock().send(server, at, format_args!("stuck 1"))
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
    /// Sends a command to the process, and starts the process if it does not run.
    fn send(
        &mut self,
        server: &Arc<ServerState>,
        at: SocketAddr,
        command: std::fmt::Arguments<'_>,
    ) -> io::Result<()> {
        if self.commands.is_none() {
            self.generation += 1;
            self.commands = Some(start(server, at, self.generation)?);
        }
        let Some(commands) = &mut self.commands else { return Ok(()) };
        writeln!(commands, "{command}").inspect_err(|_| self.commands = None)
    }
}

/// Starts the process and returns its stdin.
///
/// The thread that reads the process's output also starts the process, because the thread of a
/// connection has too little stack for this.
fn start(server: &Arc<ServerState>, at: SocketAddr, generation: u64) -> io::Result<ChildStdin> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let server = Arc::clone(server);
    thread::Builder::new().name("lab-clients".into()).spawn(move || {
        let program = server.config.lab_program.as_deref();
        match program.ok_or(io::ErrorKind::Unsupported.into()).and_then(|it| spawn(it, at)) {
            Ok((child, commands)) => {
                // If the receiver is gone, the process's stdin is dropped here, and the process
                // exits.
                let _ = sender.send(Ok(commands));
                read_output(child, &server, generation);
            }
            Err(error) => drop(sender.send(Err(error))),
        }
    })?;
    receiver.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
}

fn spawn(program: &Path, at: SocketAddr) -> io::Result<(Child, ChildStdin)> {
    let mut command = Command::new(program);
    command.args(["lab", "clients", &at.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let commands = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    Ok((child, commands))
}

/// Publishes the events and stores the reports of the process, until it exits.
fn read_output(mut child: Child, server: &Arc<ServerState>, generation: u64) {
    let Some(lab) = &server.lab else { return };
    let stdout = child.stdout.take().map(BufReader::new);
    let lines = stdout.into_iter().flat_map(BufRead::lines).map_while(Result::ok);
    for line in lines {
        match line.split_once(' ') {
            Some(("publish", event)) => {
                let Some((channel, data)) = event.split_once(' ') else { continue };
                // Publishing fails after the registry is closed. The process then ends with the
                // server.
                let _ = server.hub.publish(channel, &Event::new(data));
            }
            Some(("report", report)) => {
                let Ok(report) = json::parse(report.as_bytes()) else { continue };
                let settled = report["settled"] == true;
                let mut state = lab.load_clients.lock();
                if state.generation == generation && state.commands.is_some() {
                    state.report = report;
                }
                drop(state);
                if settled && server.clock.subscribers(ticker::STATUS) > 0 {
                    // Subscribers of the status get the report at once, not at the next second.
                    let _ = server.clock.publish(ticker::STATUS, &status::event(server));
                }
            }
            _ => log::warn!("ignored an unknown line from the lab's clients: {line:?}"),
        }
    }
    let _ = child.wait(); // returns soon: the process has closed its stdout
    let mut state = lab.load_clients.lock();
    if state.generation == generation {
        *state = State { generation, ..State::default() };
    }
}
