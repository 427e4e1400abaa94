//! The thread that writes the store, for as long as the server runs.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::Sender;

use super::{Config, Handle};
use crate::counters::Counters;
use crate::error::StartError;
use crate::registry::{Registry, RegistryOptions, Sequencer};
use crate::store;

/// The channels that anybody may publish to, and who is to write the store if there
/// is one.
pub(super) fn hub(
    config: &Config,
    options: RegistryOptions,
    counters: &Arc<Counters>,
) -> Result<(Registry, Option<Sequencer>), StartError> {
    let Some(path) = &config.store else {
        return Ok((Registry::counted(options, counters), None));
    };
    let opened = Registry::with_store(options, counters, |each| store::File::open(path, each));
    let (hub, sequencer) = opened.map_err(StartError::Store)?;
    Ok((hub, Some(sequencer)))
}

/// The thread that writes the store. Dropping it ends it, and closes the store.
#[derive(Debug)]
pub(super) struct StoreWriter {
    running: Option<Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl StoreWriter {
    pub(super) fn start(sequencer: Sequencer, handle: Handle) -> io::Result<Self> {
        let (running, stop) = crossbeam_channel::bounded(0);
        let ends_with = ShutdownOnPanic(handle);
        let thread = thread::Builder::new().name("store".into()).spawn(move || {
            let _ends_with = ends_with;
            sequencer.run(&stop);
        })?;
        Ok(Self { running: Some(running), thread: Some(thread) })
    }

    pub(super) fn stop(mut self) -> thread::Result<()> {
        self.running = None;
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        self.running = None;
        // A panic of it has stopped the server already, and is told there.
        let _ = self.thread.take().map(JoinHandle::join);
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
