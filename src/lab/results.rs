//! The results of the lab: every sample, and summaries of several samples.

use sse_load::figures::median;
use sse_load::meter::Socket;

use super::engine::Engine;
use super::experiment::Experiment;

/// One measurement of one engine.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// The experiment.
    pub(crate) experiment: Experiment,
    /// The engine.
    pub(crate) engine: Engine,
    /// The number of the round, from 1.
    pub(crate) run: usize,
    /// The number of clients.
    pub(crate) clients: usize,
    /// The number of events published per second.
    pub(crate) rate: u32,
    /// The share of a core that other processes used during the measurement.
    pub(crate) noise: f64,
    /// The measured figures by name. The documentation of each experiment's module lists its
    /// figures and their units.
    pub(crate) figures: Vec<(&'static str, f64)>,
}

impl Sample {
    /// Returns the figure of this name.
    pub(crate) fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

/// A measurement that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The experiment.
    pub(crate) experiment: Experiment,
    /// The engine.
    pub(crate) engine: Engine,
    /// The number of the round, from 1.
    pub(crate) run: usize,
    /// The error message.
    pub(crate) why: String,
}

/// All results of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Results {
    /// The machine's properties as names and values.
    pub(crate) machine: Vec<(&'static str, String)>,
    /// The engines that were selected and are available.
    pub(crate) engines: Vec<Engine>,
    /// The engines that are not available, each with a message that says how to install it.
    pub(crate) missing: Vec<(Engine, String)>,
    /// The experiments that were selected.
    pub(crate) asked: Vec<Experiment>,
    /// The maximum number of clients of an engine.
    pub(crate) clients: usize,
    /// The reason why `clients` is less than requested; `None` if all requested clients are used.
    pub(crate) clamped: Option<String>,
    /// The kernel memory at the load generator's end of a connection. This memory has been
    /// subtracted from the figures.
    pub(crate) socket: Socket,
    /// The samples, in the order in which they were measured.
    pub(crate) samples: Vec<Sample>,
    /// The measurements that failed.
    pub(crate) failures: Vec<Failure>,
    /// Whether the run was stopped early.
    pub(crate) interrupted: bool,
    /// How long the run took, in seconds.
    pub(crate) seconds: f64,
}

/// A summary of several samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// The median.
    pub(crate) median: f64,
    /// The least.
    pub(crate) least: f64,
    /// The greatest.
    pub(crate) most: f64,
    /// The number of samples.
    pub(crate) count: usize,
}

/// The reason why a measurement counts as noisy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noise {
    /// Other processes used more than 5 % of a core during the measurement.
    Others,
    /// The greatest figure of the runs exceeds the least by more than 15 %.
    Apart,
}

/// The rate at which engines are compared, in events per second: as many as a busy page receives.
pub(super) const USUAL_RATE: u32 = 50;

/// The quantiles of the latency that are measured, and the names of their figures. The plots of the
/// distribution need all of them.
pub(in crate::lab) const QUANTILES: [(f64, &str); 12] = [
    (0.01, "p1_ms"),
    (0.1, "p10_ms"),
    (0.25, "p25_ms"),
    (0.5, "p50_ms"),
    (0.75, "p75_ms"),
    (0.9, "p90_ms"),
    (0.95, "p95_ms"),
    (0.98, "p98_ms"),
    (0.99, "p99_ms"),
    (0.995, "p99.5_ms"),
    (0.999, "p99.9_ms"),
    (1.0, "p100_ms"),
];

/// An engine counts as saturated if it uses more than this share of its core.
const SATURATED: f64 = 0.95;

/// Samples count as noisy if the ratio of the greatest to the least exceeds this value.
const SPREAD: f64 = 1.15;

impl Results {
    /// Returns all samples of an engine in an experiment.
    pub(crate) fn of(
        &self,
        experiment: Experiment,
        engine: Engine,
    ) -> impl Iterator<Item = &Sample> {
        let measured = match experiment {
            Experiment::Latency => Experiment::Event, // the event experiment measures latencies
            other => other,
        };
        let wanted = move |it: &&Sample| it.experiment == measured && it.engine == engine;
        self.samples.iter().filter(wanted)
    }

    /// Returns the points at which an engine was measured, in order: pairs of a number of clients
    /// and a number of events per second.
    pub(crate) fn points(&self, experiment: Experiment, engine: Engine) -> Vec<(usize, u32)> {
        let points = self.of(experiment, engine).map(|it| (it.clients, it.rate));
        let mut points: Vec<_> = points.collect();
        points.sort_unstable();
        points.dedup();
        points
    }

    /// Returns the summary of a figure at one point.
    pub(crate) fn at(
        &self,
        experiment: Experiment,
        engine: Engine,
        point: (usize, u32),
        figure: &str,
    ) -> Option<Summary> {
        let here = self.of(experiment, engine).filter(|it| (it.clients, it.rate) == point);
        let values: Vec<f64> = here.filter_map(|it| it.figure(figure)).collect();
        Some(Summary {
            median: median(values.iter().copied())?,
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            count: values.len(),
        })
    }

    /// Returns the summary at the point that tables show: the greatest number of clients, and 50
    /// events per second if that rate was measured with so many clients.
    pub(crate) fn shown(
        &self,
        experiment: Experiment,
        engine: Engine,
        figure: &str,
    ) -> Option<Summary> {
        let points = self.points(experiment, engine);
        let (most, _) = *points.last()?;
        let usual = points.iter().find(|point| **point == (most, USUAL_RATE));
        self.at(experiment, engine, *usual.or(points.last())?, figure)
    }

    /// Returns whether an engine's core was busy all the time at a point, so that events had to wait.
    pub(super) fn is_saturated(&self, engine: Engine, point: (usize, u32)) -> bool {
        let busy = self.at(Experiment::Event, engine, point, "busy");
        busy.is_some_and(|busy| busy.median > SATURATED)
    }

    /// Returns whether an engine was saturated at the point that tables show.
    pub(super) fn is_shown_saturated(&self, engine: Engine) -> bool {
        let busy = self.shown(Experiment::Event, engine, "busy");
        busy.is_some_and(|busy| busy.median > SATURATED)
    }

    /// Returns the experiments that have results, in order.
    pub(crate) fn experiments(&self) -> impl Iterator<Item = Experiment> {
        let asked = |it: &Experiment| {
            self.asked.contains(it)
                && self.engines.iter().any(|engine| self.of(*it, *engine).next().is_some())
        };
        Experiment::ALL.into_iter().filter(asked)
    }

    /// Returns the noisy measurements: the experiment, the engine, and the reason for the noise.
    pub(super) fn noise(&self) -> Vec<(Experiment, Engine, Noise)> {
        let mut noise = Vec::new();
        for experiment in Experiment::ALL {
            for engine in &self.engines {
                if self.of(experiment, *engine).any(|it| it.noise > sse_load::meter::NOISE) {
                    noise.push((experiment, *engine, Noise::Others));
                }
                let apart = |point| {
                    let headline = self.at(experiment, *engine, point, experiment.headline());
                    headline.is_some_and(|it| it.most > it.least * SPREAD && it.most > 0.0)
                };
                if self.points(experiment, *engine).into_iter().any(apart) {
                    noise.push((experiment, *engine, Noise::Apart));
                }
            }
        }
        noise
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(values: &[f64], noise: f64) -> Results {
        let sample = |(run, value): (usize, &f64)| Sample {
            experiment: Experiment::Event,
            engine: Engine::Wake,
            run,
            clients: 10,
            rate: 5,
            noise,
            figures: vec![(Experiment::Event.headline(), *value)],
        };
        let samples = values.iter().enumerate().map(sample).collect();
        Results { engines: vec![Engine::Wake], samples, ..Results::default() }
    }

    #[test]
    fn several_samples_are_summarized() {
        let results = results(&[3.0, 1.0, 2.0], 0.0);
        let found = results.shown(Experiment::Event, Engine::Wake, Experiment::Event.headline());
        let expected = Summary { median: 2.0, least: 1.0, most: 3.0, count: 3 };
        assert_eq!(found, Some(expected));
        assert_eq!(results.points(Experiment::Event, Engine::Wake), [(10, 5)]);
        assert_eq!(results.shown(Experiment::Idle, Engine::Wake, "rss"), None);
    }

    #[test]
    fn sample_has_its_figures_only() {
        let sample = &results(&[14.7], 0.0).samples[0];
        assert_eq!(sample.figure(Experiment::Event.headline()), Some(14.7));
        assert_eq!(sample.figure("held"), None);
    }

    #[test]
    fn engine_with_a_busy_core_is_saturated() {
        let saturated = |busy| {
            let mut results = results(&[14.7], 0.0);
            results.samples[0].figures.push(("busy", busy));
            [results.is_saturated(Engine::Wake, (10, 5)), results.is_shown_saturated(Engine::Wake)]
        };
        assert_eq!((saturated(0.9), saturated(0.99)), ([false; 2], [true; 2]));
    }

    #[test]
    fn noisy_measurements_are_reported() {
        assert_eq!(results(&[10.0, 11.0], 0.0).noise(), []);
        assert_eq!(results(&[10.0, 12.0], 0.0).noise().len(), 1);
        // The latency experiment is noisy too, because the event experiment measures its latencies.
        assert_eq!(results(&[10.0, 12.0], 0.5).noise().len(), 3);
    }
}
