//! The lab of one server, and the streams that it can cut.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::event_loop::EventLoop;
use super::load_clients::{LoadClients, STUCK};
use super::memory;
use super::watch::Watch;
use crate::http::hooks::{Connection, Cut, Follower, Hooks, Opening};

/// The query parameter that assigns a stream to the page that opened it.
pub(super) const TAB: &str = "tab";

/// The lab of one server: the streams that it can cut, the local clients, and the event loop beside
/// it.
#[derive(Debug)]
pub(crate) struct Live {
    pub(super) load_clients: Arc<LoadClients>,
    pub(super) event_loop: Arc<EventLoop>,
    /// The least resident memory of this process without local clients, in bytes; 0 before it is
    /// known.
    base_memory: AtomicU64,
    /// The most local clients that a status has shown.
    peak_clients: AtomicUsize,
    pub(super) watch: Arc<Watch>,
    pub(super) streams: Arc<Streams>,
}

impl Live {
    /// Creates the lab. `program` is the `threadcast` program, which runs the local clients and the
    /// event loop; without it there are none.
    pub(crate) fn new(program: Option<PathBuf>) -> Arc<Self> {
        let event_loop = Arc::new(EventLoop::new(program.clone()));
        let load_clients = Arc::new(LoadClients::new(program, None));
        let watch = Watch::new(&load_clients, &event_loop);
        let (base_memory, peak_clients) = (AtomicU64::new(0), AtomicUsize::new(0));
        let streams = Arc::default();
        Arc::new(Self { load_clients, event_loop, base_memory, peak_clients, watch, streams })
    }

    /// Notes the memory of this process if there are no local clients.
    pub(super) fn note_base_memory(&self) {
        let Some(memory) = memory::resident(std::process::id()) else { return };
        if self.load_clients.clients() == 0 {
            let least = |base| Some(if base == 0 { memory } else { memory.min(base) });
            let _ = self.base_memory.fetch_update(Ordering::Relaxed, Ordering::Relaxed, least);
        }
    }
}

impl Hooks for Live {
    fn opened(&self, opening: &Opening<'_>) -> Result<Option<Box<dyn Follower>>, Cut> {
        self.streams.track(opening).map(|tracked| Some(Box::new(tracked) as _))
    }

    fn status(&self) -> Option<(&'static str, Value)> {
        let streams = self.streams.lock();
        let stuck = streams.open.values().filter(|stream| stream.is_stuck_client).count();
        let given_up = streams.given_up;
        drop(streams);
        let mut json = self.load_clients.json(stuck, given_up);
        json["watch_cpu_ms"] = self.watch.cpu_ms().into();
        json["base_bytes"] = self.base_memory.load(Ordering::Relaxed).into();
        let clients = self.load_clients.clients();
        let peak = self.peak_clients.fetch_max(clients, Ordering::Relaxed).max(clients);
        json["peak_clients"] = peak.into();
        json["kernel_stack_bytes"] = memory::kernel_stack().into();
        json["loop"] = self.event_loop.json().unwrap_or_default();
        Some(("lab", json))
    }

    fn draining(&self) {
        self.watch.end_clients();
    }
}

/// The open streams and WebSockets.
#[derive(Debug, Default)]
pub(super) struct Streams(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    open: HashMap<u64, Stream>,
    last_key: u64,
    /// Until when new streams are cut.
    closed_until: Option<Instant>,
    /// How many streams the server has ended because their clients read nothing.
    given_up: u64,
}

#[derive(Debug)]
struct Stream {
    connection: Connection,
    /// The id of the page that opened the stream.
    tab: Option<Box<str>>,
    /// Whether the client is one that the lab has opened to read nothing.
    is_stuck_client: bool,
}

/// Keeps a stream tracked until this value is dropped.
struct Tracked {
    streams: Arc<Streams>,
    key: u64,
}

impl Follower for Tracked {
    fn ended(&self, reason: &'static str) {
        if reason == "stuck" {
            self.streams.lock().given_up += 1;
        }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.streams.lock().open.remove(&self.key);
    }
}

impl Streams {
    /// Tracks a stream, or cuts it if new streams are cut.
    fn track(self: &Arc<Self>, opening: &Opening<'_>) -> Result<Tracked, Cut> {
        let (connection, tab) = (opening.connection(), opening.query(TAB).map(Into::into));
        let is_stuck_client = opening.path().strip_prefix("/channels/") == Some(STUCK);
        let mut state = self.lock();
        if state.closed_until.is_some_and(|until| Instant::now() < until) {
            return Err(Cut);
        }
        state.last_key += 1;
        let key = state.last_key;
        state.open.insert(key, Stream { connection, tab, is_stuck_client });
        Ok(Tracked { streams: Arc::clone(self), key })
    }

    /// Cuts the streams of one page, or of all, and returns the number of streams that were cut.
    ///
    /// The server sends no last chunk, so that the client detects an error and not a normal end.
    pub(super) fn cut(&self, tab: Option<&str>, closed_for: Duration) -> usize {
        let mut state = self.lock();
        if !closed_for.is_zero() {
            state.closed_until = Some(Instant::now() + closed_for);
        }
        let open = state.open.values();
        let selected = open.filter(|stream| tab.is_none() || stream.tab.as_deref() == tab);
        selected.map(|stream| stream.connection.cut()).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
