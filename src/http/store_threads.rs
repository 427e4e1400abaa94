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
use crate::registry::{LogFollower, LogPublisher, Registry, RegistryOptions, StoreWriter};
use crate::store::{self, StoreAt};

/// The parts of the store that run on threads of their own.
#[derive(Debug)]
pub(super) enum StoreOwner {
    /// The writer of a file that only this node uses.
    File(StoreWriter),
    /// The writer and the reader of a log in Redis, to which other nodes write too.
    Redis(Box<(LogPublisher, LogFollower)>),
}

/// Creates the registry of the publishers' channels, and opens the store if there is one.
pub(super) fn open_hub(
    config: &Config,
    options: RegistryOptions,
    counters: &Arc<Counters>,
) -> Result<(Registry, Option<StoreOwner>), StartError> {
    let opened = match &config.store {
        None => return Ok((Registry::counted(options, counters), None)),
        Some(StoreAt::File(path)) => {
            Registry::with_store(options, counters, |each| store::File::open(path, each))
                .map(|(hub, writer)| (hub, StoreOwner::File(writer)))
        }
        Some(StoreAt::Redis(url)) => {
            Registry::with_redis(options, counters, url).map(|(hub, publisher, follower)| {
                (hub, StoreOwner::Redis(Box::new((publisher, follower))))
            })
        }
    };
    let (hub, owner) = opened?;
    Ok((hub, Some(owner)))
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
    pub(super) fn start(owner: StoreOwner, state: &Arc<ServerState>) -> io::Result<Self> {
        let (running, stop) = crossbeam_channel::bounded(0);
        let (alive, ended) = crossbeam_channel::bounded(0);
        let (running, alive) = (Some(running), Some(alive));
        let mut threads = Self { running, threads: Vec::new(), alive, ended };
        match owner {
            StoreOwner::File(writer) => {
                threads.spawn("store-writer", state, &stop, move |stop| writer.run(stop))?;
            }
            StoreOwner::Redis(both) => {
                let (publisher, follower) = *both;
                threads.spawn("store-writer", state, &stop, move |stop| publisher.run(stop))?;
                threads.spawn("redis-reader", state, &stop, move |stop| follower.run(stop))?;
            }
        }
        Ok(threads)
    }

    fn spawn(
        &mut self,
        name: &str,
        state: &Arc<ServerState>,
        stop: &Receiver<Infallible>,
        run: impl FnOnce(&Receiver<Infallible>) + Send + 'static,
    ) -> io::Result<()> {
        let (ends_with, stop) = (ShutdownOnPanic(Arc::clone(state)), stop.clone());
        let alive = self.alive.clone();
        self.threads.push(thread::Builder::new().name(name.into()).spawn(move || {
            let _alive = alive;
            let _ends_with = ends_with;
            run(&stop);
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
