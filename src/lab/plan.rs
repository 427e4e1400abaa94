//! The lab's options, and the checks made before measuring.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::engine::Engine;
use super::experiment::Experiment;
use crate::capacity::Capacity;
use crate::cli;

/// Selects what the lab measures.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The path of the `threadcast` program. Most engines are commands of this program.
    pub(crate) program: PathBuf,
    /// The engines to measure.
    pub(crate) engines: Vec<Engine>,
    /// The experiments to run.
    pub(crate) experiments: Vec<Experiment>,
    /// The maximum number of clients of an engine.
    pub(crate) clients: usize,
    /// How thoroughly to measure.
    pub(crate) pace: Pace,
    /// The folder for the report. With `None`, no report is written.
    pub(crate) out: Option<PathBuf>,
}

/// How thoroughly to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Whether experiments measure fewer points (numbers of clients and event rates), to save time.
    pub(crate) quick: bool,
    /// How often each point is measured.
    pub(crate) runs: usize,
    /// How long each point is measured.
    pub(crate) measured: Duration,
    /// How long events are sent at each point before its measurement starts.
    pub(crate) warm_up: Duration,
    /// The maximum time to wait until the kernel has freed the memory of earlier measurements.
    pub(crate) settle: Duration,
}

impl Pace {
    /// A pace at which the lab takes about a minute.
    pub(crate) const QUICK: Self = Self {
        quick: true,
        runs: 1,
        measured: Duration::from_millis(500),
        warm_up: Duration::from_millis(150),
        settle: Duration::from_millis(400),
    };

    /// A pace at which the lab takes a quarter of an hour at most.
    pub(crate) const FULL: Self = Self {
        quick: false,
        runs: 3,
        measured: Duration::from_millis(1_500),
        warm_up: Duration::from_millis(500),
        settle: Duration::from_secs(2),
    };
}

/// The reason why the lab measured nothing.
#[derive(Debug, Error)]
pub(crate) enum LabError {
    /// The number of clients is 0.
    #[error("no clients to measure with; pass at least one, for example --clients 100")]
    NoClients,
    /// None of the engines is available, or none was selected.
    #[error("no engine to measure{}", listed(.0))]
    NoEngines(Vec<(Engine, String)>),
    /// The folder for the report is not writable.
    #[error(
        "cannot write the report to {}: {source}; choose another folder with --out",
        .folder.display()
    )]
    Out {
        /// The folder from [`Options::out`].
        folder: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The system does not permit the measurement.
    #[error("cannot measure on this system: {0}")]
    System(#[source] io::Error),
}

/// Lists the engines that are missing, each with how to install it.
fn listed(missing: &[(Engine, String)]) -> String {
    let lines: Vec<_> =
        missing.iter().map(|(engine, how)| format!("; {}: {how}", engine.name())).collect();
    lines.concat()
}

/// The number of descriptors that the load generator needs besides one per client: for `epoll`, the
/// pipes to an engine, and files of `/proc`.
const OWN: usize = 16;

impl Options {
    /// Selects all engines and experiments at this pace, with 1,000 clients. A quick pace omits
    /// Apache, because Apache takes seconds to start its processes.
    pub(crate) fn new(program: PathBuf, pace: Pace) -> Self {
        let engines = Engine::ALL.into_iter().filter(|engine| !(pace.quick && engine.is_apache()));
        let (engines, experiments) = (engines.collect(), Experiment::ALL.to_vec());
        Self { program, engines, experiments, clients: 1_000, pace, out: None }
    }

    /// Returns what the command line selects. `program` is this executable, which runs most of the
    /// engines.
    pub(crate) fn of(command: cli::Lab, program: PathBuf) -> Self {
        let mut pace = if command.quick { Pace::QUICK } else { Pace::FULL };
        if let Some(measured) = command.measure {
            pace = Pace { measured, warm_up: measured / 3, settle: Duration::ZERO, ..pace };
        }
        pace.runs = command.runs.map_or(pace.runs, usize::from);
        let mut options = Self::new(command.program.unwrap_or(program), pace);
        // The parser of the command line has rejected other names.
        if !command.engines.is_empty() {
            options.engines = command.engines.iter().filter_map(|it| Engine::named(it)).collect();
        }
        if !command.experiments.is_empty() {
            let named = command.experiments.iter().filter_map(|it| Experiment::named(it));
            options.experiments = named.collect();
        }
        Self { clients: command.clients, out: command.out, ..options }
    }

    /// Checks, before the measurement, that there are clients and that the report can be written.
    ///
    /// # Errors
    ///
    /// Fails if there are no clients, or the report's files cannot be written.
    pub(crate) fn check(&self) -> Result<(), LabError> {
        if self.clients == 0 {
            return Err(LabError::NoClients);
        }
        if let Some(folder) = &self.out {
            let not_writable = |source| LabError::Out { folder: folder.clone(), source };
            fs::create_dir_all(folder).map_err(not_writable)?;
            for name in super::report::FILES {
                let mut file = fs::OpenOptions::new();
                file.append(true).create(true).open(folder.join(name)).map_err(not_writable)?;
            }
        }
        Ok(())
    }

    /// Returns how many clients each of `engines` can hold, and the name of the limit that
    /// determines this number. The number is the capacity that `threadcast doctor` would report for
    /// the engine that can hold the fewest clients.
    pub(crate) fn capacity(engines: &[Engine]) -> (usize, &'static str) {
        let of = |engine: &Engine| {
            let capacity = Capacity::of_new_process(engine.share());
            let clients = engine.clients_under(&capacity).saturating_sub(OWN).max(1);
            // An engine that can hold `most_clients`, the most clients that the lab opens on it,
            // does not lower the number for the other engines.
            (clients < engine.most_clients()).then(|| (clients, capacity.binding().name))
        };
        engines.iter().filter_map(of).min().unwrap_or((usize::MAX, ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::lab::{ENGINES, EXPERIMENTS};

    #[test]
    fn command_line_has_all_names() {
        assert_eq!(Engine::ALL.map(Engine::name), ENGINES);
        assert_eq!(Experiment::ALL.map(Experiment::name), EXPERIMENTS);
    }

    #[test]
    fn invalid_options_are_rejected_before_measuring() {
        let options = Options::new("threadcast".into(), Pace::QUICK);
        assert!(options.check().is_ok());
        let none = Options { clients: 0, ..options.clone() };
        assert!(none.check().expect_err("no clients").to_string().contains("--clients"));
        let out = Options { out: Some("/dev/null/report".into()), ..options };
        assert!(out.check().expect_err("no folder").to_string().contains("--out"));
    }

    #[test]
    fn two_descriptors_per_client_halve_the_capacity() {
        let (one, _) = Options::capacity(&[Engine::Direct]);
        let (half, name) = Options::capacity(&[Engine::Direct, Engine::TinyHttp]);
        assert!(half < one && half > one / 4 && !name.is_empty(), "{half} of {one} by {name}");
    }
}
