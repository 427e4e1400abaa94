//! Publishes the picture of the live view: ten frames a second, while a page watches.
//!
//! | event | data |
//! |---|---|
//! | `table` | at most once a second, if it has changed: the id and name of each thread |
//! | `frame` | a letter per thread, what the letters mean, what the event loop's thread did, and the clients' silences |
//!
//! When the last page has left, the thread ends the load clients and the event loop, and then
//! itself.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use serde_json::{Value, json};
use threadcast::{Event, Handle};

use super::event_loop::EventLoop;
use super::load_clients::LoadClients;
use super::threads::{Kinds, Only, TURN, Threads, thread_time};

/// How many turns a frame covers.
const TURNS_A_FRAME: u32 = 5;
/// How many frames there are between two checks whether the names have changed.
const FRAMES_A_TABLE: u32 = 10;

/// How long the clients stay open after the last page has left: the time of a reload, or of a look at
/// another tab.
const GRACE: Duration = Duration::from_secs(8);

/// The thread that publishes the picture.
#[derive(Debug)]
pub(super) struct Watch {
    load_clients: Arc<LoadClients>,
    event_loop: Arc<EventLoop>,
    thread: Mutex<Thread>,
    /// The CPU time of all such threads so far, in nanoseconds.
    cpu: AtomicU64,
}

#[derive(Debug, Default)]
struct Thread {
    runs: bool,
    /// Whether a page has connected since the last table.
    has_newcomer: bool,
}

impl Watch {
    /// Creates the watch of these clients and this event loop. Its thread does not run yet.
    pub(super) fn new(clients: &Arc<LoadClients>, event_loop: &Arc<EventLoop>) -> Arc<Self> {
        let (load_clients, event_loop) = (Arc::clone(clients), Arc::clone(event_loop));
        let (thread, cpu) = (Mutex::default(), AtomicU64::new(0));
        Arc::new(Self { load_clients, event_loop, thread, cpu })
    }

    /// Returns the CPU time that the picture has taken so far, in milliseconds.
    pub(super) fn cpu_ms(&self) -> f64 {
        Duration::from_nanos(self.cpu.load(Ordering::Relaxed)).as_secs_f64() * 1e3
    }

    /// Closes all local clients, and ends the event loop.
    pub(super) fn end_clients(&self) {
        self.load_clients.end();
        self.event_loop.end();
    }

    /// Starts the thread that publishes the picture, unless it runs.
    pub(super) fn start(self: &Arc<Self>, server: Handle) -> io::Result<()> {
        let mut state = self.lock();
        state.has_newcomer = true;
        if state.runs {
            return Ok(());
        }
        let watch = Arc::clone(self);
        let thread = thread::Builder::new().name("lab-watch".into());
        thread.spawn(move || {
            if let Err(error) = watch.run(&server) {
                log::error!("cannot read /proc for the live view: {error}");
                watch.lock().runs = false;
            }
        })?;
        state.runs = true;
        Ok(())
    }

    /// Publishes until no page watches, or the server drains.
    fn run(&self, server: &Handle) -> io::Result<()> {
        let (mut threads, mut kinds) = (Threads::new()?, Kinds::default());
        let mut event_loop: Option<Only> = None;
        let started = Instant::now();
        let (mut next, mut watched) = (started, started);
        let (mut turns, mut cpu, mut table) = (0, Duration::ZERO, Value::Null);
        // Nothing is ever sent: the thread waits for the next turn.
        let (_never, turn) = crossbeam_channel::bounded::<()>(0);
        while !server.is_draining() {
            next = (next + TURN).max(Instant::now());
            if turn.recv_deadline(next) != Err(RecvTimeoutError::Timeout) {
                break;
            }
            if server.watchers() > 0 {
                watched = Instant::now();
            } else if watched.elapsed() > GRACE {
                let mut state = self.lock();
                if !state.has_newcomer {
                    state.runs = false;
                    self.end_clients();
                    break;
                }
                watched = Instant::now();
            }
            let process = self.event_loop.process();
            if event_loop.as_ref().map(Only::process) != process {
                event_loop = process.and_then(|process| Only::new(process).ok());
            }
            threads.turn(&mut kinds);
            if let Some(only) = &mut event_loop {
                only.turn(&mut kinds);
            }
            turns += 1;
            if turns % TURNS_A_FRAME == 0 {
                let has_newcomer = self.take_newcomer();
                if has_newcomer || turns % (TURNS_A_FRAME * FRAMES_A_TABLE) == 0 {
                    let names = threads.names();
                    if has_newcomer || names != table {
                        publish(server, "table", &names);
                    }
                    // A newcomer's stream may begin after this table, so the next one is sent too.
                    table = if has_newcomer { Value::Null } else { names };
                }
                if has_newcomer {
                    watched = Instant::now();
                }
                let frame = json!({
                    "at": started.elapsed().as_millis(),
                    "threads": threads.frame(),
                    "kinds": kinds.json(),
                    "clients": self.load_clients.frame(),
                    "lane": event_loop.as_mut().map(Only::frame),
                    "loop": self.event_loop.frame(),
                });
                publish(server, "frame", &frame);
            }
            let now = thread_time();
            let nanos = now.saturating_sub(std::mem::replace(&mut cpu, now)).as_nanos();
            self.cpu.fetch_add(u64::try_from(nanos).unwrap_or(0), Ordering::Relaxed);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Thread> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a page has connected since the last call.
    fn take_newcomer(&self) -> bool {
        std::mem::take(&mut self.lock().has_newcomer)
    }
}

fn publish(server: &Handle, name: &str, data: &Value) {
    if let Ok(event) = Event::new(data.to_string()).with_name(name) {
        server.publish_to_watchers(&event);
    }
}
