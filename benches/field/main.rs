//! Compares threadcast with other servers (its peers), under the same workloads, with the same load
//! generator, in the same run.
//!
//! ```text
//!  for each workload, for each run, for each engine:
//!    start it on one core → open the clients from another → warm up → measure → stop it
//! ```
//!
//! Run this bench with `make bench`; `cargo bench --bench field -- --help` lists its options. The
//! peers' source code is in `benches/peers`. The load generator and the code that reads `/proc` are
//! in the crate `sse-load`.

#![allow(clippy::print_stdout, clippy::print_stderr, unreachable_pub)] // the bench prints a report

mod catch_up;
mod engine;
mod measure;
mod options;
mod peer;
mod publisher;
mod report;
mod requests;
mod workload;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use sse_load::meter::Socket;
use sse_load::process;

use engine::{Engine, Start};
use measure::Taken;
use options::Options;
use report::Report;
use workload::Workload;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if options.help {
        print!("{}", options::HELP);
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    process::raise_the_descriptor_limit()?;
    let (engines, skipped) = prepare(&options.engines);
    let mut report = Report::new(skipped, options.cores);
    // From here on, this thread and the builds that it starts do not use the server's core.
    process::pin(options.cores.load)?;
    let socket = socket_cost(&engines, options)?;
    report.load_socket = Taken { slab: socket.slab, kernel: socket.kernel };
    println!("{}", report.preamble());
    for workload in &options.workloads {
        let names = engines.iter().map(|(engine, _)| *engine);
        let mut result = report::Result::new(*workload, names);
        for run in 1..=options.runs {
            for (runs, (engine, start)) in result.engines.iter_mut().zip(&engines) {
                eprintln!("{} run {run} of {}: {}", workload.name, options.runs, runs.engine);
                match quiet_run(*engine, start, workload, socket, options) {
                    Ok(sample) => runs.samples.push(sample),
                    Err(error) => runs.failures.push(error.to_string()),
                }
            }
        }
        println!("{}", result.table());
        report.results.push(result);
        // The results are written after each workload, so that they are not lost if you interrupt
        // the bench.
        if let Some(path) = &options.json {
            write(path, &report)?;
        }
    }
    for (engine, start) in engines.iter().filter(|_| options.requests) {
        if let Some(result) = requests::Result::measure(*engine, start, options)? {
            println!("{}", result.table());
            report.requests.push(result);
        }
        if let Some(result) = catch_up::Result::measure(*engine, start, options)? {
            println!("{}\n", result.line());
            report.catch_up.push(result);
        }
        if let Some(path) = &options.json {
            write(path, &report)?;
        }
    }
    println!("{}", Report::footnotes());
    Ok(())
}

/// Measures the kernel memory at the load generator's end of a connection, if any workload measures
/// memory.
fn socket_cost(engines: &[(Engine, Start)], options: &Options) -> io::Result<Socket> {
    let memory = options.workloads.iter().filter(|workload| workload.memory);
    let Some(clients) = memory.map(|workload| workload.clients).max() else {
        return Ok(Socket::default());
    };
    eprintln!("measuring the cost of a socket: the floor with {clients} clients");
    if let Some((_, floor)) = engines.iter().find(|(engine, _)| *engine == Engine::Floor) {
        return measure::calibrate(floor, clients, options);
    }
    let floor = Engine::Floor.prepare().map_err(io::Error::other)?;
    measure::calibrate(&floor, clients, options)
}

/// Runs a measurement, and repeats it once if other programs used the cores. Returns the less noisy
/// sample.
fn quiet_run(
    engine: Engine,
    start: &Start,
    workload: &Workload,
    socket: Socket,
    options: &Options,
) -> io::Result<measure::Sample> {
    let sample = measure::run(engine, start, workload, socket, options)?;
    if !sample.noisy {
        return Ok(sample);
    }
    eprintln!(
        "  noisy: others used {:.0} % of the server's core and {:.0} % of the load's; repeating the run",
        sample.server_core_others * 100.0,
        sample.load_core_others * 100.0
    );
    let again = measure::run(engine, start, workload, socket, options)?;
    Ok(if again.noise() < sample.noise() { again } else { sample })
}

/// Builds the engines. Returns the engines that can be started, and the reasons why the others
/// cannot.
fn prepare(engines: &[Engine]) -> (Vec<(Engine, Start)>, BTreeMap<&'static str, String>) {
    let (mut ready, mut skipped) = (Vec::new(), BTreeMap::new());
    for engine in engines {
        match engine.prepare() {
            Ok(start) => ready.push((*engine, start)),
            Err(why) => {
                eprintln!("skipped: {}: {why}", engine.name());
                skipped.insert(engine.name(), why);
            }
        }
    }
    (ready, skipped)
}

fn write(path: &Path, report: &Report) -> io::Result<()> {
    let json = serde_json::to_string_pretty(report).expect("a report is plain data");
    fs::write(path, json + "\n")
}
