//! Runs the thread that writes the store and, if several nodes share the store, the thread that
//! reads it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::config::Config;
use super::server_state::ServerState;
use crate::counters::Counters;
use crate::error::StartError;
use crate::limits::DRAIN_STORE_TIME;
use crate::registry::{Registry, RegistryOptions};
use crate::store::{self, Opened, Place, StoreTask};

/// Creates the registry of the publishers' channels, and opens the store if there is one.
///
/// Returns the tasks of the store's threads too, or `None` if there is no store; and where logs that are
/// not channels can be kept.
pub(super) fn open_hub(
    config: &Config,
    options: RegistryOptions,
    counters: &Arc<Counters>,
) -> Result<(Registry, Option<Vec<StoreTask>>, Place), StartError> {
    let Some(at) = &config.store else {
        return Ok((Registry::counted(options, counters), None, Place::Memory));
    };
    let Opened { registry, tasks, place } = store::open(at, options, counters)?;
    Ok((registry, Some(tasks), place))
}

/// The store's threads. Dropping this value ends the threads and closes the store.
#[derive(Debug)]
pub(super) struct StoreThreads {
    running: Option<Sender<Infallible>>,
    threads: Vec<JoinHandle<()>>,
    /// Each thread holds a clone of this sender until the thread ends.
    alive: Option<Sender<Infallible>>,
    ended: Receiver<Infallible>,
}

impl StoreThreads {
    pub(super) fn start(tasks: Vec<StoreTask>, state: &Arc<ServerState>) -> io::Result<Self> {
        let (running, stop) = crossbeam_channel::bounded(0);
        let (alive, ended) = crossbeam_channel::bounded(0);
        let (running, alive) = (Some(running), Some(alive));
        let mut threads = Self { running, threads: Vec::new(), alive, ended };
        for task in tasks {
            threads.spawn(task, state, &stop)?;
        }
        Ok(threads)
    }

    fn spawn(
        &mut self,
        task: StoreTask,
        state: &Arc<ServerState>,
        stop: &Receiver<Infallible>,
    ) -> io::Result<()> {
        let (ends_with, stop) = (ShutdownOnPanic(Arc::clone(state)), stop.clone());
        let alive = self.alive.clone();
        self.threads.push(thread::Builder::new().name(task.name.into()).spawn(move || {
            let _alive = alive;
            let _ends_with = ends_with;
            task.run(&stop);
        })?);
        Ok(())
    }

    /// Ends the threads after they have processed their queues.
    ///
    /// Waits for the threads until `deadline`, but at least for [`DRAIN_STORE_TIME`] from now on.
    pub(super) fn stop(mut self, deadline: Instant) -> thread::Result<()> {
        self.end(deadline)
    }

    fn end(&mut self, deadline: Instant) -> thread::Result<()> {
        self.running = None;
        self.alive = None;
        let deadline = deadline.max(Instant::now() + DRAIN_STORE_TIME);
        if let Err(RecvTimeoutError::Timeout) = self.ended.recv_deadline(deadline) {
            log::warn!(
                "store did not answer before shutdown; its last requests may or may not be stored"
            );
            self.threads.clear(); // not joined: the threads end with the process
        }
        let ended: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        ended.into_iter().collect()
    }
}

impl Drop for StoreThreads {
    fn drop(&mut self) {
        // A thread's panic can be ignored here: the panic has already stopped the server, and
        // `Server::run` reports it.
        let _ = self.end(Instant::now());
    }
}

/// Shuts the server down if the thread that holds this value panics.
pub(super) struct ShutdownOnPanic(pub(super) Arc<ServerState>);

impl Drop for ShutdownOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.drain();
        }
    }
}
