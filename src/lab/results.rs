//! What was found out: every sample, and what is said of several.

use super::engine::Engine;
use super::experiment::Experiment;
use super::figures::median;
use super::meter::Socket;

/// One measurement of one engine.
///
/// ```
/// use threadcast::lab::engine::Engine;
/// use threadcast::lab::experiment::Experiment;
/// use threadcast::lab::results::Sample;
///
/// let sample = Sample {
///     experiment: Experiment::Event,
///     engine: Engine::Wake,
///     run: 1,
///     clients: 1_000,
///     rate: 50,
///     noise: 0.01,
///     figures: vec![("cpu_us", 14.7)],
/// };
/// assert_eq!((sample.figure("cpu_us"), sample.figure("held")), (Some(14.7), None));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// What was asked.
    pub experiment: Experiment,
    /// Of whom.
    pub engine: Engine,
    /// In which round, from 1.
    pub run: usize,
    /// With how many clients.
    pub clients: usize,
    /// At how many events a second.
    pub rate: u32,
    /// The share of a core that somebody else used meanwhile.
    pub noise: f64,
    /// The figures, by name; the experiment's documentation says which and in what unit.
    pub figures: Vec<(&'static str, f64)>,
}

impl Sample {
    /// The figure of this name.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

/// A measurement that came to nothing.
///
/// ```
/// use std::sync::atomic::AtomicBool;
/// use threadcast::lab::engine::Engine;
/// use threadcast::lab::experiment::Experiment;
/// use threadcast::lab::{Options, Pace, run};
///
/// let options = Options {
///     engines: vec![Engine::Direct],
///     experiments: vec![Experiment::Capacity],
///     ..Options::new("/nowhere/threadcast".into(), Pace::QUICK)
/// };
///
/// let results = run(&options, &AtomicBool::new(false), &mut |_| ())?;
/// assert!(results.samples.is_empty());
/// assert!(results.failures[0].why.contains("No such file"));
/// # Ok::<(), threadcast::lab::LabError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was asked.
    pub experiment: Experiment,
    /// Of whom.
    pub engine: Engine,
    /// In which round.
    pub run: usize,
    /// What happened.
    pub why: String,
}

/// Everything that was found out.
///
/// ```
/// use threadcast::lab::engine::Engine;
/// use threadcast::lab::experiment::Experiment;
/// use threadcast::lab::results::{Results, Sample};
///
/// let (experiment, engine) = (Experiment::Event, Engine::Wake);
/// let sample = |(run, figure)| Sample {
///     experiment,
///     engine,
///     run,
///     clients: 1_000,
///     rate: 50,
///     noise: 0.0,
///     figures: vec![("cpu_us", figure)],
/// };
/// let samples = [(1, 14.7), (2, 15.1), (3, 14.2)].map(sample).to_vec();
/// let results = Results { engines: vec![engine], samples, ..Results::default() };
/// let found = results.shown(experiment, engine, "cpu_us").expect("three samples");
/// assert_eq!((found.least, found.median, found.most), (14.2, 14.7, 15.1));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Results {
    /// The machine: a name, and the thing.
    pub machine: Vec<(&'static str, String)>,
    /// The engines that were asked for and are here.
    pub engines: Vec<Engine>,
    /// Those that are not, and how to get them.
    pub missing: Vec<(Engine, String)>,
    /// The questions that were asked.
    pub asked: Vec<Experiment>,
    /// The largest number of clients.
    pub clients: usize,
    /// Why that is less than was asked for.
    pub clamped: Option<String>,
    /// What the load's side of each connection costs, and was taken off.
    pub socket: Socket,
    /// The measurements, in the order in which they were made.
    pub samples: Vec<Sample>,
    /// Those that came to nothing.
    pub failures: Vec<Failure>,
    /// The measuring was ended before it was done.
    pub interrupted: bool,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Several samples of the same.
///
/// ```
/// use threadcast::lab::results::Summary;
///
/// let three = Summary { median: 14.7, least: 14.2, most: 15.1, count: 3 };
/// println!("{} µs, {} to {} in {} runs", three.median, three.least, three.most, three.count);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
    /// How many there are.
    pub count: usize,
}

/// Why figures are not to be trusted to 15 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noise {
    /// Somebody else used the cores meanwhile.
    Others,
    /// The runs lie further apart than that.
    Apart,
}

/// Events a second at which engines are compared: a busy page's.
pub(super) const USUAL_RATE: u32 = 50;

/// Samples of the same thing this far apart (the most against the least) are noisy.
const SPREAD: f64 = 1.15;

impl Results {
    /// All samples of an engine in an experiment.
    pub fn of(&self, experiment: Experiment, engine: Engine) -> impl Iterator<Item = &Sample> {
        let measured = match experiment {
            Experiment::Latency => Experiment::Event, // in one measurement
            other => other,
        };
        let wanted = move |it: &&Sample| it.experiment == measured && it.engine == engine;
        self.samples.iter().filter(wanted)
    }

    /// The points at which an engine was measured: clients and events a second, in order.
    #[must_use]
    pub fn points(&self, experiment: Experiment, engine: Engine) -> Vec<(usize, u32)> {
        let points = self.of(experiment, engine).map(|it| (it.clients, it.rate));
        let mut points: Vec<_> = points.collect();
        points.sort_unstable();
        points.dedup();
        points
    }

    /// What was found at a point.
    #[must_use]
    pub fn at(
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

    /// What was found at the point that tables show: with the most clients, and where that was
    /// measured at several rates, at 50 events a second.
    #[must_use]
    pub fn shown(&self, experiment: Experiment, engine: Engine, figure: &str) -> Option<Summary> {
        let points = self.points(experiment, engine);
        let (most, _) = *points.last()?;
        let usual = points.iter().find(|point| **point == (most, USUAL_RATE));
        self.at(experiment, engine, *usual.or(points.last())?, figure)
    }

    /// The questions to which there is an answer, in their order.
    pub fn experiments(&self) -> impl Iterator<Item = Experiment> {
        let asked = |it: &Experiment| {
            self.asked.contains(it)
                && self.engines.iter().any(|engine| self.of(*it, *engine).next().is_some())
        };
        Experiment::ALL.into_iter().filter(asked)
    }

    /// Why the figures are not to be trusted to 15 %, if they are not: who used the cores besides
    /// us, and what came out differently each time.
    pub(super) fn noise(&self) -> Vec<(Experiment, Engine, Noise)> {
        let mut noise = Vec::new();
        for experiment in Experiment::ALL {
            for engine in &self.engines {
                if self.of(experiment, *engine).any(|it| it.noise > super::meter::NOISE) {
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
    fn several_samples_are_summed_up() {
        let results = results(&[3.0, 1.0, 2.0], 0.0);
        let found = results.shown(Experiment::Event, Engine::Wake, Experiment::Event.headline());
        let expected = Summary { median: 2.0, least: 1.0, most: 3.0, count: 3 };
        assert_eq!(found, Some(expected));
        assert_eq!(results.points(Experiment::Event, Engine::Wake), [(10, 5)]);
        assert_eq!(results.shown(Experiment::Idle, Engine::Wake, "rss"), None);
    }

    #[test]
    fn noise_is_told() {
        assert_eq!(results(&[10.0, 11.0], 0.0).noise(), []);
        assert_eq!(results(&[10.0, 12.0], 0.0).noise().len(), 1);
        // Others disturb the latencies too: they are of the same measurement.
        assert_eq!(results(&[10.0, 12.0], 0.5).noise().len(), 3);
    }
}
