//! The lab's local clients: a process of their own, so that what they take is not taken for the
//! server's. It takes orders on its stdin and says on its stdout what is to be published and how
//! its clients fare (`lab/crowd.rs` is that process). The end of its stdin ends it, and so it
//! does not outlive us, however we end.

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

/// The channel of the clients that stop reading.
pub(super) const STUCK: &str = "lab-stuck";

/// The local clients, if there are any.
#[derive(Debug, Default)]
pub(super) struct LoadClients {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    orders: Option<ChildStdin>,
    /// Which process this is: an earlier one may still be about to end.
    turn: u64,
    /// What was asked for, and what of it there is room for.
    asked: usize,
    most: usize,
    /// What the process has said last.
    report: Value,
}

impl LoadClients {
    /// Has this many clients open, of which at most `most` have room, `rate` events a second come.
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
            state.order(server, at, format_args!("rate {rate}"))?;
        }
        state.order(server, at, format_args!("clients {}", asked.min(most)))
    }

    /// Opens one more client, which then reads nothing.
    pub(super) fn stick(&self, server: &Arc<ServerState>, at: SocketAddr) -> io::Result<()> {
        self.lock().order(server, at, format_args!("stuck 1"))
    }

    /// Has them all leave, and their process end.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        *state = State { turn: state.turn, ..State::default() };
    }

    /// How many there are now.
    pub(super) fn clients(&self) -> usize {
        let clients = self.lock().report["clients"].as_u64().unwrap_or(0);
        usize::try_from(clients).unwrap_or(usize::MAX)
    }

    /// How they fare, for `/status`.
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
    /// Gives an order, to a new process if there is none.
    fn order(
        &mut self,
        server: &Arc<ServerState>,
        at: SocketAddr,
        order: std::fmt::Arguments<'_>,
    ) -> io::Result<()> {
        if self.orders.is_none() {
            self.turn += 1;
            self.orders = Some(start(server, at, self.turn)?);
        }
        let Some(orders) = &mut self.orders else { return Ok(()) };
        writeln!(orders, "{order}").inspect_err(|_| self.orders = None)
    }
}

/// Starts the process, on the thread that then hears it: a connection's own has too little
/// stack to start one.
fn start(server: &Arc<ServerState>, at: SocketAddr, turn: u64) -> io::Result<ChildStdin> {
    let (tell, told) = crossbeam_channel::bounded(1);
    let server = Arc::clone(server);
    thread::Builder::new().name("lab-clients".into()).spawn(move || {
        let program = server.config.lab_program.as_deref();
        match program.ok_or(io::ErrorKind::Unsupported.into()).and_then(|it| spawn(it, at)) {
            Ok((child, orders)) => {
                let _ = tell.send(Ok(orders)); // or nobody waits, and its stdin ends
                hear(child, &server, turn);
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    })?;
    told.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
}

fn spawn(program: &Path, at: SocketAddr) -> io::Result<(Child, ChildStdin)> {
    let mut command = Command::new(program);
    command.args(["lab", "clients", &at.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let orders = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    Ok((child, orders))
}

/// Does what the process says, until it ends.
fn hear(mut child: Child, server: &Arc<ServerState>, turn: u64) {
    let Some(lab) = &server.lab else { return };
    let out = child.stdout.take().map(BufReader::new);
    let lines = out.into_iter().flat_map(BufRead::lines).map_while(Result::ok);
    for line in lines {
        match line.split_once(' ') {
            Some(("publish", event)) => {
                let Some((channel, data)) = event.split_once(' ') else { continue };
                // A registry that is closed ends the process with the rest.
                let _ = server.hub.publish(channel, &Event::new(data));
            }
            Some(("report", report)) => {
                let Ok(report) = json::parse(report.as_bytes()) else { continue };
                let settled = report["settled"] == true;
                let mut state = lab.load_clients.lock();
                if state.turn == turn && state.orders.is_some() {
                    state.report = report;
                }
                drop(state);
                if settled && server.clock.subscribers(ticker::STATUS) > 0 {
                    // Who watches sees it at once, and not at the next full second.
                    let _ = server.clock.publish(ticker::STATUS, &status::event(server));
                }
            }
            _ => log::warn!("the lab's clients say {line:?}"),
        }
    }
    let _ = child.wait(); // it closed its stdout, so it has ended, or is about to
    let mut state = lab.load_clients.lock();
    if state.turn == turn {
        *state = State { turn, ..State::default() };
    }
}
