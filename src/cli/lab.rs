//! `lab`: its arguments.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, value_parser};
use threadcast::lab::engine::Engine;
use threadcast::lab::experiment::Experiment;
use threadcast::lab::{Options, Pace};

/// Measure on this machine what a thread for each client costs, beside an event loop
///
/// Runs each engine as a process of its own, with the same bytes and the same load, and
/// measures it from outside. Six questions: what an idle client costs, what an event
/// costs, how late the last client is, what others feel when one connection does
/// something slow, who pays when a client stops reading, and where the capacity is.
///
/// It takes about 14 minutes, a minute with --quick. Ctrl-C ends it with a report of
/// what is done. For figures that can be trusted, nothing else should run meanwhile.
///
/// Exit codes: 0 measured, or asked to stop; 1 the report could not be written; 2 wrong
/// arguments, no engine to measure, or a folder that cannot be written.
#[derive(Debug, Clone, Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub(crate) struct Lab {
    #[command(subcommand)]
    part: Option<Part>,

    /// Measure less, in a minute; without Apache, unless --engines names it
    #[arg(long)]
    quick: bool,

    /// With so many clients at most (fewer, if this machine holds fewer)
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    clients: usize,

    /// Only these engines
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = engine)]
    engines: Vec<Engine>,

    /// Only these questions
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = experiment)]
    experiments: Vec<Experiment>,

    /// Measure everything so often; medians are shown
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=100))]
    runs: Option<u16>,

    /// Write report.html, every sample as samples.json, and the plots as SVG there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What is not for people.
#[derive(Debug, Clone, Subcommand)]
enum Part {
    /// Be one of the engines
    #[command(hide = true)]
    Engine {
        /// Which
        #[arg(value_parser = engine)]
        name: Engine,
        /// How much it may have of what bounds it: descriptors, or Apache's workers
        #[arg(long, value_name = "N")]
        room: Option<u64>,
    },
    /// Be the clients that a page with `serve --lab` opens
    #[command(hide = true)]
    Clients {
        /// Where the server listens
        server: SocketAddr,
    },
}

impl Lab {
    /// The engine that this process is to be instead, and how much room it has.
    pub(crate) fn engine(&self) -> Option<(Engine, Option<u64>)> {
        match &self.part {
            Some(Part::Engine { name, room }) => Some((*name, *room)),
            _ => None,
        }
    }

    /// The server whose local clients this process is to be instead.
    pub(crate) fn clients_of(&self) -> Option<SocketAddr> {
        match &self.part {
            Some(Part::Clients { server }) => Some(*server),
            _ => None,
        }
    }

    /// What to measure, with this program as most of the engines.
    pub(crate) fn options(self, program: PathBuf) -> Options {
        let pace = if self.quick { Pace::QUICK } else { Pace::FULL };
        let all = Options::new(program, pace);
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
    Engine::named(text).ok_or_else(|| format!("there are {names}"))
}

fn experiment(text: &str) -> Result<Experiment, String> {
    let names = Experiment::ALL.map(Experiment::name).join(", ");
    Experiment::named(text).ok_or_else(|| format!("there are {names}"))
}
