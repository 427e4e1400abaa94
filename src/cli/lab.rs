//! The arguments of `lab`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, value_parser};

use super::values::positive;

/// The names of all engines.
pub(crate) const ENGINES: [&str; 7] =
    ["direct", "wake", "tiny-http", "event-loop", "node", "apache-prefork", "apache-event"];

/// The names of all experiments.
pub(crate) const EXPERIMENTS: [&str; 6] = ["idle", "event", "latency", "slow", "stuck", "capacity"];

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
    pub(crate) quick: bool,

    /// Open at most this many clients (fewer if the capacity of this machine is lower)
    #[arg(long, value_name = "COUNT", default_value_t = 1_000)]
    pub(crate) clients: usize,

    /// Measure only these engines, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = ENGINES)]
    pub(crate) engines: Vec<String>,

    /// Run only these experiments, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = EXPERIMENTS)]
    pub(crate) experiments: Vec<String>,

    /// Repeat each measurement this many times, and report medians
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u16).range(1..=100))]
    pub(crate) runs: Option<u16>,

    /// Measure each point for this long, and do not wait for the kernel to free memory: for the
    /// tests, which check that the lab measures, not what it measures
    #[arg(long, value_name = "DURATION", value_parser = positive, hide = true)]
    pub(crate) measure: Option<Duration>,

    /// Run the engines of threadcast with this program [default: this program]
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) program: Option<PathBuf>,

    /// Write report.html, all samples as samples.json, and the plots as SVG to this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// The processes that the lab and the server start.
#[derive(Debug, Clone, Subcommand)]
enum Part {
    /// Run one of the engines
    #[command(hide = true)]
    Engine {
        /// The engine's name
        #[arg(value_parser = ENGINES)]
        name: String,
        /// The limit on the resource that bounds the engine: descriptors, or Apache's workers
        #[arg(long, value_name = "COUNT")]
        room: Option<u64>,
    },
    /// Run the load clients that a page opens with `serve --lab`
    #[command(hide = true)]
    Clients {
        /// The server's address
        server: SocketAddr,
        /// The path of the stream, if the server publishes events itself
        #[arg(long)]
        path: Option<String>,
    },
}

impl Lab {
    /// Returns the name of the engine that this process is to run, with the limit on the engine's
    /// resource. `None` if this process is the lab itself, or runs load clients.
    pub(crate) fn engine(&self) -> Option<(&str, Option<u64>)> {
        match &self.part {
            Some(Part::Engine { name, room }) => Some((name, *room)),
            _ => None,
        }
    }

    /// Returns the address of the server for which this process is to run load clients, if any, and
    /// the path of its stream.
    pub(crate) fn load_clients_of(&self) -> Option<(SocketAddr, Option<&str>)> {
        match &self.part {
            Some(Part::Clients { server, path }) => Some((*server, path.as_deref())),
            _ => None,
        }
    }
}
