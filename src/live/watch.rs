//! Publishes the picture of the live view: ten frames a second, while a page watches.
//!
//! | event | data |
//! |---|---|
//! | `table` | each second: the id and name of each thread |
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

use super::Live;
use super::threads::{Kinds, Only, TURN, Threads, thread_time};

/// How many turns a frame covers.
const TURNS_A_FRAME: u32 = 5;
/// How many frames there are between two tables.
const FRAMES_A_TABLE: u32 = 10;

/// How long the clients stay open after the last page has left: the time of a reload, or of a look at
/// another tab.
const GRACE: Duration = Duration::from_secs(8);

/// The thread that publishes the picture.
#[derive(Debug, Default)]
pub(super) struct Watch {
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
    /// Returns the CPU time that the picture has taken so far, in milliseconds.
    pub(super) fn cpu_ms(&self) -> f64 {
        Duration::from_nanos(self.cpu.load(Ordering::Relaxed)).as_secs_f64() * 1e3
    }

    fn lock(&self) -> MutexGuard<'_, Thread> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a page has connected since the last call.
    fn take_newcomer(&self) -> bool {
        std::mem::take(&mut self.lock().has_newcomer)
    }
}

/// Starts the thread that publishes the picture, unless it runs.
pub(super) fn start(lab: &Arc<Live>, server: Handle) -> io::Result<()> {
    let mut watch = lab.watch.lock();
    watch.has_newcomer = true;
    if watch.runs {
        return Ok(());
    }
    let lab = Arc::clone(lab);
    let thread = thread::Builder::new().name("lab-watch".into());
    thread.spawn(move || {
        if let Err(error) = run(&lab, &server) {
            log::error!("cannot read /proc for the live view: {error}");
            lab.watch.lock().runs = false;
        }
    })?;
    watch.runs = true;
    Ok(())
}

/// Publishes until no page watches, or the server drains.
fn run(lab: &Live, server: &Handle) -> io::Result<()> {
    let (mut threads, mut kinds) = (Threads::new()?, Kinds::default());
    let mut event_loop: Option<Only> = None;
    let started = Instant::now();
    let (mut next, mut watched) = (started, started);
    let (mut turns, mut cpu) = (0, Duration::ZERO);
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
            let mut watch = lab.watch.lock();
            if !watch.has_newcomer {
                watch.runs = false;
                lab.end_clients();
                break;
            }
            watched = Instant::now();
        }
        let process = lab.event_loop.process();
        if event_loop.as_ref().map(Only::process) != process {
            event_loop = process.and_then(|process| Only::new(process).ok());
        }
        threads.turn(&mut kinds);
        if let Some(only) = &mut event_loop {
            only.turn(&mut kinds);
        }
        turns += 1;
        if turns % TURNS_A_FRAME == 0 {
            let has_newcomer = lab.watch.take_newcomer();
            if has_newcomer || turns % (TURNS_A_FRAME * FRAMES_A_TABLE) == 0 {
                publish(server, "table", &threads.names());
            }
            if has_newcomer {
                watched = Instant::now();
            }
            let frame = json!({
                "at": started.elapsed().as_millis(),
                "threads": threads.frame(),
                "kinds": kinds.json(),
                "clients": lab.load_clients.frame(),
                "lane": event_loop.as_mut().map(Only::frame),
                "loop": lab.event_loop.frame(),
            });
            publish(server, "frame", &frame);
        }
        let now = thread_time();
        let nanos = now.saturating_sub(std::mem::replace(&mut cpu, now)).as_nanos();
        lab.watch.cpu.fetch_add(u64::try_from(nanos).unwrap_or(0), Ordering::Relaxed);
    }
    Ok(())
}

fn publish(server: &Handle, name: &str, data: &Value) {
    if let Ok(event) = Event::new(data.to_string()).with_name(name) {
        server.publish_to_watchers(&event);
    }
}
