//! (b) What does an event cost, and (c) how late does the last client get it?
//!
//! The figures, where an event counts once for each client that reads it:
//!
//! - `cpu_us`: the engine's CPU time per event, in µs
//! - `voluntary` and `involuntary`: the engine's context switches per event
//! - `delivered`: the number of events that the clients read per second
//! - `lost`: the number of events that did not arrive
//! - `closed`: the number of streams that ended
//! - `busy` and `load_busy`: the share of its core that the engine used, and that the load
//!   generator used
//! - `p1_ms` to `p100_ms`: quantiles of the time from publishing an event to reading it, in ms

use std::io;
use std::time::Duration;

use sse_load::figures::float;
use sse_load::load::Load;
use sse_load::meter::Spent;

use super::running::{Lab, Running, SMALL};
use crate::lab::engine::Engine;
use crate::lab::experiment::Experiment;
use crate::lab::plan::Options;
use crate::lab::results::{QUANTILES, Sample};

/// Returns the points at which to measure: pairs of a number of clients and a number of events per
/// second.
pub(super) fn points(options: &Options) -> Vec<(usize, u32)> {
    let most = options.clients;
    let mut points = if options.pace.quick {
        vec![((most / 10).max(1), 50), (most, 10), (most, 50)]
    } else {
        let parts = [10, 4, 2, 1].map(|part| ((most / part).max(1), 50));
        [&parts[..], &[(most, 5), (most, 20), (most, 100)]].concat()
    };
    points.sort_unstable();
    points.dedup();
    points
}

pub(super) fn run(lab: &Lab<'_>, engine: Engine) -> io::Result<Vec<Sample>> {
    lab.with(engine, None, |running| observe(lab, engine, running))
}

fn observe(lab: &Lab<'_>, engine: Engine, running: &mut Running) -> io::Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut load = Load::open(&running.plan(0))?;
    for (clients, rate) in points(lab.options) {
        running.set_traffic(2, SMALL)?;
        running.open(&mut load, clients)?;
        // Warms up with at least 20 events per second, so that a just-in-time compiler has compiled
        // the engine's code before the measurement.
        running.set_traffic(rate.max(20), SMALL)?;
        lab.read_for(&mut load, lab.options.pace.warm_up)?;
        samples.push(measure(lab, engine, running, &mut load, (clients, rate), SMALL)?);
    }
    Ok(samples)
}

/// Publishes events at the rate of this point, in frames of `frame` bytes, and measures their cost.
pub(super) fn measure(
    lab: &Lab<'_>,
    engine: Engine,
    running: &mut Running,
    load: &mut Load,
    (clients, rate): (usize, u32),
    frame: usize,
) -> io::Result<Sample> {
    running.set_traffic(rate, frame)?;
    drain_in_flight(load, rate)?;
    let before = Spent::now(running.process.id(), lab.cores)?;
    load.mark();
    // Events that arrived while `/proc` was read waited in the load generator's sockets. They are
    // counted, but their latencies are discarded.
    load.read_for(before.at.elapsed() * 2)?;
    load.forget_latencies();
    lab.read_for(load, lab.options.pace.measured)?;
    drain_in_flight(load, rate)?;
    let after = Spent::now(running.process.id(), lab.cores)?;
    let spending = after.since(&before);
    let window = load.window();
    let mut sample = lab.sample(Experiment::Event, engine, (clients, rate));
    sample.noise = spending.noise();
    let events = float(window.delivered);
    sample.figures = vec![
        ("delivered", events / spending.seconds),
        ("lost", float(window.lost)),
        ("closed", float(window.closed as u64)),
        ("busy", spending.server_busy),
        ("load_busy", spending.load_busy),
    ];
    if window.delivered > 0 {
        sample.figures.extend([
            ("cpu_us", spending.cpu * 1e6 / events),
            ("voluntary", spending.voluntary / events),
            ("involuntary", spending.involuntary / events),
        ]);
        for (quantile, name) in QUANTILES {
            let late = window.latency.quantile(quantile).map(|late| late.as_secs_f64() * 1000.0);
            sample.figures.extend(late.map(|late| (name, late)));
        }
    }
    Ok(sample)
}

/// Waits until the events in flight have arrived, so that the counts and the resource use refer to
/// the same events. Above 10 events per second, there is no such pause between events, so the
/// function returns at once.
fn drain_in_flight(load: &mut Load, rate: u32) -> io::Result<()> {
    if rate <= 10 {
        load.read_until_quiet(Duration::from_millis(40), Duration::from_secs(1))?;
    }
    Ok(())
}
