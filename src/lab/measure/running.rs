//! What all experiments share: their settings, and the engine that is running.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sse_load::load::{Load, Plan};
use sse_load::meter::Socket;
use sse_load::process::{Cores, Process};
use sse_load::tick::Traffic;

use crate::lab::engine::{Engine, PATH};
use crate::lab::experiment::Experiment;
use crate::lab::plan::Options;
use crate::lab::results::Sample;

/// The lab stops waiting for clients if no further client has received its response, or its first
/// event, for this long.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// The size of a small event's frame, in bytes.
pub(super) const SMALL: usize = 64;

/// How often the experiments check whether you stopped the lab.
pub(super) const GLANCE: Duration = Duration::from_millis(100);

/// How long the lab waits for an engine's exit status after an error. If the engine has ended, its
/// connections may fail before the status is available.
const SOON: Duration = Duration::from_millis(500);

/// The settings that every experiment uses.
#[derive(Debug)]
pub(in crate::lab) struct Lab<'a> {
    pub(crate) options: &'a Options,
    pub(crate) cores: Cores,
    pub(crate) stop: &'a AtomicBool,
    pub(crate) socket: Socket,
    pub(crate) run: usize,
}

impl Lab<'_> {
    /// Starts an engine, calls `observe` with it, and stops it. `descriptors` limits the engine's
    /// descriptors, or the workers of an Apache engine.
    pub(super) fn with(
        &self,
        engine: Engine,
        descriptors: Option<u64>,
        observe: impl FnOnce(&mut Running) -> io::Result<Vec<Sample>>,
    ) -> io::Result<Vec<Sample>> {
        let mut running = self.start(engine, descriptors)?;
        let outcome = observe(&mut running);
        running.explain(outcome)
    }

    fn start(&self, engine: Engine, descriptors: Option<u64>) -> io::Result<Running> {
        let command = engine.command(&self.options.program, descriptors);
        let mut command = command.map_err(io::Error::other)?;
        let (process, server) = Process::start_engine(&mut command, self.cores)?;
        Ok(Running { engine, process, server })
    }

    /// Reads the streams for `span`. Fails if the lab was stopped in the meantime.
    pub(super) fn read_for(&self, load: &mut Load, span: Duration) -> io::Result<()> {
        let end = Instant::now() + span;
        while Instant::now() < end {
            self.check_stop()?;
            load.read_for(GLANCE.min(end.saturating_duration_since(Instant::now())))?;
        }
        Ok(())
    }

    /// Fails if the lab was stopped.
    pub(super) fn check_stop(&self) -> io::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    }

    pub(super) fn sample(
        &self,
        experiment: Experiment,
        engine: Engine,
        point: (usize, u32),
    ) -> Sample {
        let ((clients, rate), figures) = (point, Vec::new());
        Sample { experiment, engine, run: self.run, clients, rate, noise: 0.0, figures }
    }
}

/// A running engine.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) engine: Engine,
    pub(super) process: Process,
    pub(super) server: SocketAddr,
}

impl Running {
    pub(super) fn plan(&self, clients: usize) -> Plan {
        let in_flight = self.engine.in_flight();
        Plan { clients, timeout: TIMEOUT, in_flight, ..Plan::new(self.server, PATH) }
    }

    pub(super) fn set_traffic(&mut self, rate: u32, frame: usize) -> io::Result<()> {
        self.process.set_traffic(Traffic { rate, frame })
    }

    /// Opens clients until there are `clients`, and waits until each of them has received an event.
    /// The engine must be publishing events.
    pub(super) fn open(&self, load: &mut Load, clients: usize) -> io::Result<()> {
        load.grow(&self.plan(clients), clients)?;
        load.read_first_events(TIMEOUT)?;
        let streaming = load.streaming();
        if streaming < clients {
            return Err(io::Error::other(format!(
                "only {streaming} of {clients} clients were served"
            )));
        }
        Ok(())
    }

    /// Returns `outcome`. If the engine has ended, returns an error with the exit status instead,
    /// because the other error is only a consequence of the engine's end.
    fn explain(mut self, outcome: io::Result<Vec<Sample>>) -> io::Result<Vec<Sample>> {
        if outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
            return outcome;
        }
        let within = if outcome.is_err() { SOON } else { Duration::ZERO };
        match self.process.ended_within(within) {
            Some(status) => {
                Err(io::Error::other(format!("the engine ended during the measurement ({status})")))
            }
            None => outcome,
        }
    }
}
