//! The threads that write the store, and read it where it is shared, for as long as
//! the server runs.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender};

use super::{Config, Handle};
use crate::counters::Counters;
use crate::error::StartError;
use crate::registry::{Follower, Publisher, Registry, RegistryOptions, Sequencer};
use crate::store::{self, StoreAt};

/// Who writes the store.
#[derive(Debug)]
pub(super) enum Keeper {
    /// A file, which is this node's own.
    Alone(Sequencer),
    /// A log that other nodes write too, so that it has to be read.
    Shared(Box<(Publisher, Follower)>),
}

/// The channels that anybody may publish to, and who is to write the store if there
/// is one.
pub(super) fn hub(
    config: &Config,
    options: RegistryOptions,
    counters: &Arc<Counters>,
) -> Result<(Registry, Option<Keeper>), StartError> {
    let opened = match &config.store {
        None => return Ok((Registry::counted(options, counters), None)),
        Some(StoreAt::File(path)) => {
            Registry::with_store(options, counters, |each| store::File::open(path, each))
                .map(|(hub, sequencer)| (hub, Keeper::Alone(sequencer)))
        }
        Some(StoreAt::Redis(url)) => {
            Registry::with_redis(options, counters, url).map(|(hub, publisher, follower)| {
                (hub, Keeper::Shared(Box::new((publisher, follower))))
            })
        }
    };
    let (hub, keeper) = opened.map_err(StartError::Store)?;
    Ok((hub, Some(keeper)))
}

/// The store's threads. Dropping it ends them, and closes the store.
#[derive(Debug)]
pub(super) struct StoreWriter {
    running: Option<Sender<Infallible>>,
    threads: Vec<JoinHandle<()>>,
}

impl StoreWriter {
    pub(super) fn start(keeper: Keeper, handle: &Handle) -> io::Result<Self> {
        let (running, stop) = crossbeam_channel::bounded(0);
        let mut threads = Self { running: Some(running), threads: Vec::new() };
        match keeper {
            Keeper::Alone(sequencer) => {
                threads.spawn("store", handle, &stop, move |stop| sequencer.run(stop))?;
            }
            Keeper::Shared(both) => {
                let (publisher, follower) = *both;
                threads.spawn("store", handle, &stop, move |stop| publisher.run(stop))?;
                threads.spawn("redis-reader", handle, &stop, move |stop| follower.run(stop))?;
            }
        }
        Ok(threads)
    }

    fn spawn(
        &mut self,
        name: &str,
        handle: &Handle,
        stop: &Receiver<Infallible>,
        run: impl FnOnce(&Receiver<Infallible>) + Send + 'static,
    ) -> io::Result<()> {
        let (ends_with, stop) = (ShutdownOnPanic(handle.clone()), stop.clone());
        self.threads.push(thread::Builder::new().name(name.into()).spawn(move || {
            let _ends_with = ends_with;
            run(&stop);
        })?);
        Ok(())
    }

    pub(super) fn stop(mut self) -> thread::Result<()> {
        self.end()
    }

    fn end(&mut self) -> thread::Result<()> {
        self.running = None;
        let ended: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        ended.into_iter().collect()
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        // A panic has stopped the server already, and is told there.
        let _ = self.end();
    }
}

/// Has the server stop if the thread that holds this panics.
pub(super) struct ShutdownOnPanic(pub(super) Handle);

impl Drop for ShutdownOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.shutdown();
        }
    }
}
