//! The arguments of `lab`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, value_parser};

use super::positive;
use crate::lab::engine::Engine;
use crate::lab::experiment::Experiment;
use crate::lab::{Options, Pace};

/// Measure the cost of a thread per client on this machine, compared with an event loop
///
/// Runs each engine (a server that handles clients in one way) in its own process, with the same
/// bytes and the same load, and measures that process from outside. Six experiments measure: the
/// cost of an idle client; the cost of an event; the delay of the last client; the delay of other
/// clients while one connection does something slow; the effects of a client that stops reading;
/// and the capacity.
///
/// Takes about 14 minutes, or one minute with --quick. Ctrl-C stops the lab and reports the
/// finished measurements. For reliable figures, run nothing else meanwhile.
///
/// Exit codes: 0 measured, or stopped by a signal; 1 failed to write the report; 2 invalid
/// arguments, no engine to measure, or an output directory that cannot be written.
#[derive(Debug, Clone, Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub(crate) struct Lab {
    #[command(subcommand)]
    part: Option<Part>,

    /// Measure fewer values, in about a minute; without Apache, unless --engines names it
    #[arg(long)]
    quick: bool,

    /// Open at most this many clients (fewer if the capacity of this machine is lower)
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    clients: usize,

    /// Measure only these engines, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = engine)]
    engines: Vec<Engine>,

    /// Run only these experiments, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = experiment)]
    experiments: Vec<Experiment>,

    /// Repeat each measurement this many times, and report medians
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u16).range(1..=100))]
    runs: Option<u16>,

    /// Measure each point for this long, and do not wait for the kernel to free memory: for the
    /// tests, which check that the lab measures, not what it measures
    #[arg(long, value_name = "DURATION", value_parser = positive, hide = true)]
    measure: Option<Duration>,

    /// Run the engines of threadcast with this program [default: this program]
    #[arg(long, value_name = "FILE", hide = true)]
    program: Option<PathBuf>,

    /// Write report.html, all samples as samples.json, and the plots as SVG to this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The processes that the lab and the server start.
#[derive(Debug, Clone, Subcommand)]
enum Part {
    /// Run one of the engines
    #[command(hide = true)]
    Engine {
        /// The engine's name
        #[arg(value_parser = engine)]
        name: Engine,
        /// The limit on the resource that bounds the engine: descriptors, or Apache's workers
        #[arg(long, value_name = "COUNT")]
        room: Option<u64>,
    },
    /// Run the load clients that a page opens with `serve --lab`
    #[command(hide = true)]
    Clients {
        /// The server's address
        server: SocketAddr,
    },
}

impl Lab {
    /// Returns the engine that this process is to run, with the limit on the engine's resource.
    /// `None` if this process is the lab itself, or runs load clients.
    pub(crate) fn engine(&self) -> Option<(Engine, Option<u64>)> {
        match &self.part {
            Some(Part::Engine { name, room }) => Some((*name, *room)),
            _ => None,
        }
    }

    /// Returns the address of the server for which this process is to run load clients, if any.
    pub(crate) fn load_clients_of(&self) -> Option<SocketAddr> {
        match &self.part {
            Some(Part::Clients { server }) => Some(*server),
            _ => None,
        }
    }

    /// Returns what the lab measures. `program` is this executable, which runs most of the engines.
    pub(crate) fn options(self, program: PathBuf) -> Options {
        let mut pace = if self.quick { Pace::QUICK } else { Pace::FULL };
        if let Some(measured) = self.measure {
            pace = Pace { measured, warm_up: measured / 3, settle: Duration::ZERO, ..pace };
        }
        let all = Options::new(self.program.unwrap_or(program), pace);
        Options {
            engines: if self.engines.is_empty() { all.engines } else { self.engines },
            experiments: if self.experiments.is_empty() {
                all.experiments
            } else {
                self.experiments
            },
            clients: self.clients,
            pace: Pace { runs: self.runs.map_or(pace.runs, usize::from), ..pace },
            out: self.out,
            program: all.program,
        }
    }
}

fn engine(text: &str) -> Result<Engine, String> {
    let names = Engine::ALL.map(Engine::name).join(", ");
    Engine::named(text).ok_or_else(|| format!("expected one of {names}"))
}

fn experiment(text: &str) -> Result<Experiment, String> {
    let names = Experiment::ALL.map(Experiment::name).join(", ");
    Experiment::named(text).ok_or_else(|| format!("expected one of {names}"))
}
