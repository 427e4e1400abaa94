//! What is to be measured, and what can be: checked before anything is.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::engine::Engine;
use super::experiment::Experiment;
use crate::capacity::Capacity;

/// What to measure.
///
/// ```
/// use threadcast::lab::engine::Engine;
/// use threadcast::lab::{Options, Pace};
///
/// let all = Options::new("threadcast".into(), Pace::QUICK);
/// let one = Options { engines: vec![Engine::Direct], clients: 100, ..all };
/// one.check()?;
/// # Ok::<(), threadcast::lab::LabError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    /// This program, in which most engines live.
    pub program: PathBuf,
    /// Which engines.
    pub engines: Vec<Engine>,
    /// Which questions.
    pub experiments: Vec<Experiment>,
    /// With how many clients at most.
    pub clients: usize,
    /// How thoroughly.
    pub pace: Pace,
    /// Where the report goes; nowhere without it.
    pub out: Option<PathBuf>,
}

/// How thoroughly to measure.
///
/// ```
/// use threadcast::lab::Pace;
///
/// let thorough = Pace { runs: 9, ..Pace::FULL };
/// assert!(!thorough.quick && thorough.measured > Pace::QUICK.measured);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Few points, short ones.
    pub quick: bool,
    /// How often everything is measured.
    pub runs: usize,
    /// How long each point is.
    pub measured: Duration,
    /// How long it runs before that.
    pub warm_up: Duration,
    /// How long the kernel may take to give back what was held.
    pub settle: Duration,
}

impl Pace {
    /// A minute.
    pub const QUICK: Self = Self {
        quick: true,
        runs: 1,
        measured: Duration::from_millis(500),
        warm_up: Duration::from_millis(150),
        settle: Duration::from_millis(400),
    };

    /// A quarter of an hour at most.
    pub const FULL: Self = Self {
        quick: false,
        runs: 3,
        measured: Duration::from_millis(1_500),
        warm_up: Duration::from_millis(500),
        settle: Duration::from_secs(2),
    };
}

/// Why nothing was measured.
///
/// ```
/// use threadcast::lab::{LabError, Options, Pace};
///
/// let nobody = Options { clients: 0, ..Options::new("threadcast".into(), Pace::QUICK) };
/// assert!(matches!(nobody.check(), Err(LabError::NoClients)));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum LabError {
    /// There must be somebody to measure with.
    NoClients,
    /// None of the engines is here, or none was asked for.
    NoEngines(Vec<(Engine, String)>),
    /// The folder for the report cannot be written.
    Out {
        /// The folder as it was given.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system does not let us measure.
    System(io::Error),
}

impl fmt::Display for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClients => {
                f.write_str("with no clients there is nothing to measure; say --clients 100")
            }
            Self::NoEngines(missing) => {
                f.write_str("there is no engine to measure")?;
                missing.iter().try_for_each(|(engine, how)| write!(f, "; {}: {how}", engine.name()))
            }
            Self::Out { folder, source } => write!(
                f,
                "cannot write the report to {}: {source}; choose another folder with --out",
                folder.display()
            ),
            Self::System(source) => write!(f, "cannot measure here: {source}"),
        }
    }
}

impl std::error::Error for LabError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Out { source, .. } | Self::System(source) => Some(source),
            Self::NoClients | Self::NoEngines(_) => None,
        }
    }
}

/// Descriptors of the load's own besides its clients': `epoll`, the pipes to an engine, what is read of
/// `/proc`.
const OWN: usize = 16;

impl Options {
    /// Everything, at this pace, with a thousand clients. Apache takes seconds to start its processes,
    /// and so a quick pace is without it.
    #[must_use]
    pub fn new(program: PathBuf, pace: Pace) -> Self {
        let engines = Engine::ALL.into_iter().filter(|engine| !(pace.quick && engine.is_apache()));
        let (engines, experiments) = (engines.collect(), Experiment::ALL.to_vec());
        Self { program, engines, experiments, clients: 1_000, pace, out: None }
    }

    /// Finds out before the measuring what would fail after it.
    ///
    /// # Errors
    ///
    /// When there are no clients, or the report could not be written.
    pub fn check(&self) -> Result<(), LabError> {
        if self.clients == 0 {
            return Err(LabError::NoClients);
        }
        if let Some(folder) = &self.out {
            let refused = |source| LabError::Out { folder: folder.clone(), source };
            fs::create_dir_all(folder).map_err(refused)?;
            for name in super::report::FILES {
                let mut file = fs::OpenOptions::new();
                file.append(true).create(true).open(folder.join(name)).map_err(refused)?;
            }
        }
        Ok(())
    }

    /// How many clients every engine can hold at most, and what bounds them: what `threadcast doctor`
    /// would say of the one that holds the fewest.
    #[must_use]
    pub fn capacity(&self, engines: &[Engine]) -> (usize, &'static str) {
        let of = |engine: &Engine| {
            let capacity = Capacity::of_new_engine(engine.share(), None, 1);
            let clients = engine.clients_under(&capacity).saturating_sub(OWN).max(1);
            // Who is never asked for so many lowers nobody's capacity.
            (clients < engine.most_clients()).then(|| (clients, capacity.binding().name))
        };
        engines.iter().filter_map(of).min().unwrap_or((usize::MAX, ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_fail_later_is_told_first() {
        let options = Options::new("threadcast".into(), Pace::QUICK);
        assert!(options.check().is_ok());
        let none = Options { clients: 0, ..options.clone() };
        assert!(none.check().expect_err("nobody").to_string().contains("--clients"));
        let out = Options { out: Some("/dev/null/report".into()), ..options };
        assert!(out.check().expect_err("no folder").to_string().contains("--out"));
    }

    #[test]
    fn an_engine_with_two_descriptors_a_client_holds_half() {
        let options = Options::new("threadcast".into(), Pace::QUICK);
        let (one, _) = options.capacity(&[Engine::Direct]);
        let (half, name) = options.capacity(&[Engine::Direct, Engine::TinyHttp]);
        assert!(half < one && half > one / 4 && !name.is_empty(), "{half} of {one} by {name}");
    }
}
