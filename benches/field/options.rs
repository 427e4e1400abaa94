//! The command line of this bench.

use std::path::PathBuf;
use std::time::Duration;

use sse_load::process::Cores;

use crate::engine::{self, Engine};
use crate::workload::{self, Workload};

pub const HELP: &str = "\
Compare threadcast with its peers. Each server is pinned to one core, the load to another.
With several server cores, each engine that can runs a worker on each.

cargo bench --bench field -- [options]

  --runs N             Runs per engine, interleaved; medians are printed  [5]
  --seconds S          Measure each run for S seconds  [5; 10 at one event per second]
  --warm-up S          Warm up each run for S seconds  [1]
  --quick              Measure each engine once, for 2 seconds
  --engines a,b        Measure only these engines: floor threads direct wake axum nchan node
                       go durable durable-streams durable-file durable-streams-file
  --workloads a,b      Measure only these workloads: 1-at-50 1k-at-1 1k-at-50 1k-at-500
                       1k-at-10k 10k-at-1 10k-at-once 5k-newcomers 50-reading
                       50-and-1-stuck; requests: publishes and pages of threadcast,
                       appends and catch-up of durable streams
  --server-cores N,M   Pin the server to these cores  [0]
  --load-core N        Pin the load to core N  [1]
  --json FILE          Write all samples to FILE
  --help               Print this help
";

/// The name under which finite requests are selected.
const REQUESTS: &str = "requests";

#[derive(Debug, Clone)]
pub struct Options {
    pub runs: usize,
    pub seconds: Option<f64>,
    pub warm_up: Duration,
    pub engines: Vec<Engine>,
    pub workloads: Vec<Workload>,
    /// Whether finite requests are measured.
    pub requests: bool,
    pub cores: Cores,
    pub json: Option<PathBuf>,
    pub help: bool,
}

impl Options {
    /// Parses the arguments after the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            runs: 5,
            seconds: None,
            warm_up: Duration::from_secs(1),
            engines: engine::ALL.to_vec(),
            workloads: workload::ALL.to_vec(),
            requests: true,
            cores: Cores { server: 0.into(), load: 1 },
            json: None,
            help: false,
        };
        let mut arguments = arguments.into_iter();
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{flag} needs a value"));
            match flag.as_str() {
                "--bench" => {} // cargo passes this flag to every bench
                "--help" => options.help = true,
                "--quick" => (options.runs, options.seconds) = (1, Some(2.0)),
                "--runs" => options.runs = number::<usize>(&flag, &value()?)?.max(1),
                "--seconds" => options.seconds = Some(seconds(&flag, &value()?)?.as_secs_f64()),
                "--warm-up" => options.warm_up = seconds(&flag, &value()?)?,
                "--engines" => {
                    let names = value()?;
                    let names: Vec<_> = names.split(',').collect();
                    options.engines = engine::ALL.pick(&names, Engine::name)?;
                }
                "--workloads" => {
                    let names = value()?;
                    let (requests, names): (Vec<_>, Vec<_>) =
                        names.split(',').partition(|name| *name == REQUESTS);
                    options.requests = !requests.is_empty();
                    options.workloads = workload::ALL.pick(&names, |workload| workload.name)?;
                }
                "--server-cores" => {
                    let cores = value()?;
                    let cores = cores.split(',').map(|core| number(&flag, core));
                    options.cores.server = cores.collect::<Result<_, _>>()?;
                }
                "--load-core" => options.cores.load = number(&flag, &value()?)?,
                "--json" => options.json = Some(value()?.into()),
                _ => return Err(format!("unknown option {flag}; see --help")),
            }
        }
        Ok(options)
    }

    /// Returns how long a run of `workload` is measured. With one event per second, a run is
    /// longer, so that there are enough events for the quantiles.
    pub fn measured(&self, workload: &Workload) -> Duration {
        let default = if workload.rate == 1 { 10.0 } else { 5.0 };
        Duration::from_secs_f64(self.seconds.unwrap_or(default))
    }
}

fn number<T: std::str::FromStr>(flag: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{flag} {text}: not a number"))
}

fn seconds(flag: &str, text: &str) -> Result<Duration, String> {
    let seconds = number(flag, text)?;
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{flag} {text}: not a duration"))
}

/// Selects items of a list by name.
trait Pick<T> {
    fn pick(&self, names: &[&str], name: fn(T) -> &'static str) -> Result<Vec<T>, String>;
}

impl<T: Copy> Pick<T> for [T] {
    fn pick(&self, names: &[&str], name: fn(T) -> &'static str) -> Result<Vec<T>, String> {
        let find = |wanted: &&str| {
            let found = self.iter().copied().find(|item| name(*item) == *wanted);
            let known: Vec<_> = self.iter().copied().map(name).collect();
            found.ok_or_else(|| format!("unknown name {wanted}; known are: {}", known.join(" ")))
        };
        names.iter().map(find).collect()
    }
}
