//! The lab: experiments with the running server, which exist only with `--lab`.

mod load_clients;
pub(super) mod routes;

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::load_clients::LoadClients;
pub(super) use self::load_clients::STUCK;

/// The state of the lab: the streams that it can cut, and the local clients.
#[derive(Debug)]
pub(in crate::http) struct Lab {
    pub(in crate::http) load_clients: LoadClients,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The socket of each tracked stream, and the page that opened it.
    streams: HashMap<u64, (Arc<TcpStream>, Option<Box<str>>)>,
    last_key: u64,
    closed_until: Option<Instant>,
}

/// Keeps a stream tracked by the lab until this value is dropped.
#[derive(Debug)]
#[must_use = "dropping this untracks the stream"]
pub(in crate::http) struct Tracked<'a> {
    lab: &'a Lab,
    key: u64,
}

impl Drop for Tracked<'_> {
    fn drop(&mut self) {
        self.lab.lock().streams.remove(&self.key);
    }
}

/// The error of a stream that was cut because `?for=` cuts all new streams.
#[derive(Debug)]
pub(in crate::http) struct CutOff;

/// Tracks a stream that the page with this id opened (`?tab=`), if the server has `--lab`.
///
/// While new streams are cut (`?for=`), closes the connection without a response, as if the server
/// were down, and returns an error.
pub(in crate::http) fn admit<'a>(
    lab: Option<&'a Lab>,
    socket: &Arc<TcpStream>,
    tab: Option<Box<str>>,
) -> Result<Option<Tracked<'a>>, CutOff> {
    let Some(lab) = lab else { return Ok(None) };
    let mut state = lab.lock();
    if state.closed_until.is_some_and(|until| Instant::now() < until) {
        cut(socket);
        return Err(CutOff);
    }
    state.last_key += 1;
    let key = state.last_key;
    state.streams.insert(key, (Arc::clone(socket), tab));
    Ok(Some(Tracked { lab, key }))
}

/// Closes a socket without the last chunk, so that the client detects an error and not a normal
/// end.
fn cut(socket: &TcpStream) {
    let _ = socket.shutdown(Shutdown::Both); // fails only if the socket is not connected
}

impl Lab {
    /// Creates the lab. `program` is the `threadcast` program, which runs the local clients.
    pub(in crate::http) fn new(program: Option<PathBuf>) -> Self {
        Self { load_clients: LoadClients::new(program), state: Mutex::default() }
    }

    /// Cuts the streams of one page, or of all, and returns the number of streams that were cut.
    pub(super) fn drop_streams(&self, tab: Option<&str>, closed_for: Duration) -> usize {
        let mut state = self.lock();
        if !closed_for.is_zero() {
            state.closed_until = Some(Instant::now() + closed_for);
        }
        let selected =
            state.streams.values().filter(|(_, its)| tab.is_none() || its.as_deref() == tab);
        selected.inspect(|(socket, _)| cut(socket)).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
