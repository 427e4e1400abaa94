//! The six experiments, and how each is run on an engine.

mod capacity;
mod event;
mod idle;
mod slow;
mod stuck;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sse_load::load::{Load, Plan};
use sse_load::meter::Socket;
use sse_load::process::{Cores, Process};
use sse_load::tick::Traffic;

use super::engine::{Bound, Engine, PATH};
use super::plan::{Options, Pace};
use super::results::Sample;

/// The lab stops waiting for clients if no further client has received its response, or its first
/// event, for this long.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The size of a small event's frame, in bytes.
const SMALL: usize = 64;

/// How often the experiments check whether you stopped the lab.
const GLANCE: Duration = Duration::from_millis(100);

/// How long the lab waits for an engine's exit status after an error. If the engine has ended, its
/// connections may fail before the status is available.
const SOON: Duration = Duration::from_millis(500);

/// An experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Experiment {
    /// What does an idle client cost?
    Idle,
    /// What does an event cost?
    Event,
    /// How late does the last client get an event?
    Latency,
    /// One request runs a slow handler: how does this affect the other clients?
    Slow,
    /// One client stops reading: how does this affect the other clients?
    Stuck,
    /// How many clients can an engine hold, and what happens to further clients?
    Capacity,
}

impl Experiment {
    /// All experiments, in the order in which they are run and reported.
    pub(crate) const ALL: [Self; 6] =
        [Self::Idle, Self::Event, Self::Latency, Self::Slow, Self::Stuck, Self::Capacity];

    /// Returns the name on the command line and in the JSON report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Event => "event",
            Self::Latency => "latency",
            Self::Slow => "slow",
            Self::Stuck => "stuck",
            Self::Capacity => "capacity",
        }
    }

    /// Returns the experiment of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|experiment| experiment.name() == name)
    }

    /// Returns the name of the figure that is compared between runs to detect noise.
    pub(crate) fn headline(self) -> &'static str {
        match self {
            Self::Idle => "memory_bytes",
            Self::Event | Self::Stuck => "cpu_us",
            Self::Latency => "p50_ms",
            Self::Slow => "disk_silence_ms",
            Self::Capacity => "held",
        }
    }

    /// Estimates how many seconds the experiment takes on one engine.
    pub(super) fn seconds(self, options: &Options) -> f64 {
        let Pace { measured, .. } = options.pace;
        let (points, each, fixed) = match self {
            Self::Idle => (idle::points(options).len(), 0.7, 1.0),
            Self::Event => (event::points(options).len(), 0.3 + measured.as_secs_f64(), 0.6),
            // `Event` measures the latencies, which takes no extra time.
            Self::Latency => (0, 0.0, 0.0),
            Self::Slow => (3, measured.as_secs_f64().max(0.6), 1.0),
            Self::Stuck => (2, measured.as_secs_f64(), 1.0),
            Self::Capacity => (1, 4.0, 0.5),
        };
        sse_load::figures::float(points as u64) * each + fixed
    }

    /// Runs the experiment once on one engine.
    pub(super) fn run(self, lab: &Lab<'_>, engine: Engine) -> io::Result<Vec<Sample>> {
        match self {
            Self::Idle => idle::run(lab, engine),
            Self::Event => event::run(lab, engine),
            Self::Latency => Ok(Vec::new()),
            Self::Slow => slow::run(lab, engine),
            Self::Stuck => stuck::run(lab, engine),
            Self::Capacity => capacity::run(lab, engine),
        }
    }
}

pub(super) use event::QUANTILES;
pub(super) use idle::calibrate;

/// The settings that every experiment uses.
#[derive(Debug)]
pub(super) struct Lab<'a> {
    pub(crate) options: &'a Options,
    pub(crate) cores: Cores,
    pub(crate) stop: &'a AtomicBool,
    pub(crate) socket: Socket,
    pub(crate) run: usize,
}

impl Lab<'_> {
    /// Starts an engine, calls `observe` with it, and stops it. `descriptors` limits the engine's
    /// descriptors, or the workers of an Apache engine.
    fn with(
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
    fn read_for(&self, load: &mut Load, span: Duration) -> io::Result<()> {
        let end = Instant::now() + span;
        while Instant::now() < end {
            self.check_stop()?;
            load.read_for(GLANCE.min(end.saturating_duration_since(Instant::now())))?;
        }
        Ok(())
    }

    /// Fails if the lab was stopped.
    fn check_stop(&self) -> io::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    }

    fn sample(&self, experiment: Experiment, engine: Engine, point: (usize, u32)) -> Sample {
        let ((clients, rate), figures) = (point, Vec::new());
        Sample { experiment, engine, run: self.run, clients, rate, noise: 0.0, figures }
    }
}

/// A running engine.
#[derive(Debug)]
struct Running {
    engine: Engine,
    process: Process,
    server: SocketAddr,
}

impl Running {
    fn plan(&self, clients: usize) -> Plan {
        let in_flight = self.engine.in_flight();
        Plan { clients, timeout: TIMEOUT, in_flight, ..Plan::new(self.server, PATH) }
    }

    fn set_traffic(&mut self, rate: u32, frame: usize) -> io::Result<()> {
        self.process.set_traffic(Traffic { rate, frame })
    }

    /// Opens clients until there are `clients`, and waits until each of them has received an event.
    /// The engine must be publishing events.
    fn open(&self, load: &mut Load, clients: usize) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_experiment_is_found_by_its_name() {
        let names = Experiment::ALL.map(Experiment::name);
        assert_eq!(names, ["idle", "event", "latency", "slow", "stuck", "capacity"]);
        assert_eq!(names.map(Experiment::named), Experiment::ALL.map(Some));
    }
}
