//! Runs the lab: every experiment, on every engine, in several rounds.
//!
//! ```text
//!  for each round, for each experiment, for each engine:
//!    start it on one core → open the clients from another → measure → stop it
//! ```
//!
//! The outermost loop goes over the rounds, for two reasons. If you stop the lab early, the rounds
//! that are done are complete and can be reported. If the machine becomes slower over time, all
//! engines are affected alike.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sse_load::machine;
use sse_load::meter::Socket;
use sse_load::process::{self, Cores};

use super::engine::Engine;
use super::experiment::Experiment;
use super::measure::{Lab, calibrate};
use super::plan::{LabError, Options, Pace};
use super::results::{Failure, Results};

/// The progress of a run of the lab.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Progress {
    /// A description of the current measurement.
    pub(crate) what: String,
    /// The planned time of the measurements that are done.
    pub(crate) done: Duration,
    /// The planned time of all measurements.
    pub(crate) planned: Duration,
    /// The estimated remaining time.
    pub(crate) left: Duration,
}

/// Runs the lab until everything is measured or `stop` is set. The result contains all measurements
/// up to then.
///
/// If an engine fails, the result lists the failure, and the run continues.
///
/// Pins the calling thread to the load generator's core.
///
/// # Errors
///
/// Fails if [`Options::check`] fails, no engine is available, or the system does not permit the
/// measurement.
pub(crate) fn run(
    options: &Options,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Results, LabError> {
    let started = Instant::now();
    let here = |engine: &Engine| engine.command(&options.program, None).is_ok();
    let engines: Vec<_> = options.engines.iter().copied().filter(here).collect();
    let why_not = |engine: &Engine| Some((*engine, engine.command(&options.program, None).err()?));
    let missing: Vec<_> = options.engines.iter().filter_map(why_not).collect();
    if engines.is_empty() {
        return Err(LabError::NoEngines(missing));
    }
    options.check()?;
    process::raise_the_descriptor_limit().map_err(LabError::System)?;
    let cores = Cores::choose();
    process::pin(cores.load).map_err(LabError::System)?;
    let (capacity, bound) = Options::capacity(&engines);
    let clients = options.clients.min(capacity);
    let clamped = (clients < options.clients).then(|| {
        format!(
            "{} clients were requested; {bound} limits these engines to {clients} each",
            options.clients
        )
    });
    let (machine, asked) = (machine::describe(cores), options.experiments.clone());
    let mut results =
        Results { machine, engines, missing, asked, clients, clamped, ..Results::default() };
    let options = Options { clients, ..options.clone() };
    let mut lab = Lab { options: &options, cores, stop, socket: Socket::default(), run: 0 };
    let mut steps = Steps::new(&options, &results.engines, progress);
    if options.experiments.contains(&Experiment::Idle) {
        steps.begin(
            "cost of the load generator's own sockets",
            Experiment::Idle.seconds(&options) * 2.0,
        );
        // The kernel memory at the load generator's end of each connection is measured here, so
        // that it can be subtracted later: the machine's kernel memory includes both ends. An error
        // is ignored; if `stop` caused the error, the loop below ends.
        results.socket = calibrate(&lab).unwrap_or_default();
    }
    let rounds = (1..=options.pace.runs).flat_map(|run| {
        let asked = |it: &Experiment| options.experiments.contains(it);
        let measured = Experiment::ALL.into_iter().filter(move |it| match it {
            Experiment::Event => asked(it) || asked(&Experiment::Latency),
            Experiment::Latency => false, // `Event` measures it
            _ => asked(it),
        });
        measured.map(move |experiment| (run, experiment))
    });
    for (run, experiment) in rounds {
        lab = Lab { socket: results.socket, run, ..lab };
        for engine in results.engines.clone() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let what = format!(
                "{}: {}, run {run} of {}",
                experiment.name(),
                engine.name(),
                options.pace.runs
            );
            steps.begin(&what, experiment.seconds(&options));
            let clients = clients.min(engine.most_clients());
            // Apache takes seconds to start its processes, so it is measured at fewer points.
            let quick = options.pace.quick || engine.is_apache();
            let pace = Pace { quick, ..options.pace };
            let options = Options { clients, pace, ..options.clone() };
            match experiment.run(&Lab { options: &options, ..lab }, engine) {
                Ok(samples) => results.samples.extend(samples),
                Err(_) if stop.load(Ordering::Relaxed) => {}
                Err(error) => {
                    let why = error.to_string();
                    results.failures.push(Failure { experiment, engine, run, why });
                }
            }
        }
    }
    results.interrupted = stop.load(Ordering::Relaxed);
    results.seconds = started.elapsed().as_secs_f64();
    Ok(results)
}

/// Computes and reports the progress of the run. The estimate of the remaining time takes into
/// account how long the earlier steps really took.
struct Steps<'a> {
    progress: &'a mut dyn FnMut(&Progress),
    planned: f64,
    done: f64,
    begun: f64,
    started: Instant,
}

impl<'a> Steps<'a> {
    fn new(options: &Options, engines: &[Engine], progress: &'a mut dyn FnMut(&Progress)) -> Self {
        let each: f64 = options.experiments.iter().map(|it| it.seconds(options)).sum();
        let rounds = sse_load::figures::float((engines.len() * options.pace.runs) as u64);
        let idle = options.experiments.contains(&Experiment::Idle);
        let first = if idle { Experiment::Idle.seconds(options) * 2.0 } else { 0.0 };
        let planned = (each * rounds + first).max(f64::MIN_POSITIVE);
        Self { progress, planned, done: 0.0, begun: 0.0, started: Instant::now() }
    }

    fn begin(&mut self, what: &str, seconds: f64) {
        self.done += self.begun;
        self.begun = seconds;
        let pace =
            if self.done > 0.0 { self.started.elapsed().as_secs_f64() / self.done } else { 1.0 };
        let left = ((self.planned - self.done) * pace).max(0.0);
        (self.progress)(&Progress {
            what: what.to_owned(),
            done: Duration::from_secs_f64(self.done),
            planned: Duration::from_secs_f64(self.planned),
            left: Duration::from_secs_f64(left),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_program_is_reported_as_a_failure() {
        let options = Options {
            engines: vec![Engine::Direct],
            experiments: vec![Experiment::Capacity],
            ..Options::new("/nowhere/threadcast".into(), Pace::QUICK)
        };
        let mut seen = Vec::new();
        let mut note = |progress: &Progress| seen.push(progress.what.clone());
        let results = run(&options, &AtomicBool::new(false), &mut note).expect("a report");
        assert_eq!(seen, ["capacity: direct, run 1 of 1"]);
        assert!(results.samples.is_empty() && results.failures.len() == 1);
        assert!(results.failures[0].why.contains("No such file"), "{:?}", results.failures);
    }

    #[test]
    fn client_count_is_capped_at_the_capacity() {
        let options = Options {
            engines: vec![Engine::EventLoop],
            experiments: vec![Experiment::Event],
            ..Options::new("/nowhere/threadcast".into(), Pace::QUICK)
        };
        let (most, bound) = Options::capacity(&options.engines);
        // Other tests run at the same time, so the capacity may change a little until the run
        // begins.
        let too_many = Options { clients: 2 * most, ..options };
        let stop = AtomicBool::new(true); // stop at once: the limit applies before any client connects
        let results = run(&too_many, &stop, &mut |_| ()).expect("a report");
        let note = format!("{bound} limits these engines to {} each", results.clients);
        assert!(results.clamped.expect("a note").ends_with(&note), "{note}");
        assert!(results.clients <= most + most / 4, "{} clients, capacity {most}", results.clients);
    }
}
