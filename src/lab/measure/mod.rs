//! How each experiment is run on an engine.

mod capacity;
mod event;
mod idle;
mod running;
mod slow;
mod stuck;

use std::io;

pub(super) use self::idle::calibrate;
pub(super) use self::running::Lab;
use super::engine::Engine;
use super::experiment::Experiment;
use super::plan::{Options, Pace};
use super::results::Sample;

impl Experiment {
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
