//! (f) What is the capacity, and what happens above it?
//!
//! The engine is started with few descriptors, so that its capacity is low, and clients connect
//! until some are not served. Apache is started with few workers instead, because its configuration
//! limits it before the system does.
//!
//! Figures: `descriptors`, or `workers`; `predicted`, the expected capacity; `held`, how many
//! clients had the stream; `told`, the share of the others that were rejected at once (the rest
//! wait for a response that never comes); `served_on`, the share of the held clients that still get
//! events; `come_back`, the share of new clients that are served after twice as many have left.

use std::io;
use std::time::{Duration, Instant};

use super::{Bound, Engine, Experiment, GLANCE, Lab, Running, SMALL, Sample};
use crate::capacity::Capacity;
use crate::lab::figures::float;
use crate::lab::load::{Load, Plan};

/// The engine's descriptor limit.
const DESCRIPTORS: u64 = 200;

/// Apache's number of workers: as many as it starts at once.
const WORKERS: u64 = 32;

/// How many clients above the capacity connect, and how many leave.
const BEYOND: usize = 10;

/// How many new clients connect after that.
const NEWCOMERS: usize = 5;

/// A client counts as left waiting if the engine answers no client for this long.
const SILENCE: Duration = Duration::from_secs(2);

/// How long the engine may take to send an event to every client, and to serve new clients after
/// others have left. Apache first ends a script's process and starts another.
const RECOVERY: Duration = Duration::from_secs(5);

pub(super) fn run(lab: &Lab<'_>, engine: Engine) -> io::Result<Vec<Sample>> {
    let room = match engine.bound() {
        Bound::Descriptors => DESCRIPTORS,
        Bound::Workers => WORKERS,
    };
    lab.with(engine, Some(room), |running| observe(lab, engine, running))
}

fn observe(lab: &Lab<'_>, engine: Engine, running: &mut Running) -> io::Result<Vec<Sample>> {
    let (predicted, by) = match engine.bound() {
        Bound::Descriptors => {
            // What `threadcast doctor` would report if it were the engine.
            let capacity = Capacity::of_process(running.process.id(), engine.share());
            (engine.clients_under(&capacity), ("descriptors", float(DESCRIPTORS)))
        }
        Bound::Workers => {
            (usize::try_from(WORKERS).unwrap_or(usize::MAX), ("workers", float(WORKERS)))
        }
    };
    running.set_traffic(20, SMALL)?;
    let plan = |clients| Plan { timeout: SILENCE, ..running.plan(clients) };
    // First the clients below the capacity, without a time limit; then those above it.
    let mut load = Load::open(&running.plan(predicted.saturating_sub(BEYOND)))?;
    lab.check_stop()?;
    load.grow(&plan(predicted + BEYOND), predicted + BEYOND)?;
    load.read_first_events(RECOVERY)?;
    let held = load.streaming();
    // Some may not have been opened: after a client that is left waiting, no other is tried.
    let turned_away = load.opened().saturating_sub(held);
    // Clients that got an error response, and those whose connection was closed.
    let rejected = turned_away.saturating_sub(load.unanswered());
    load.mark();
    let deadline = Instant::now() + RECOVERY;
    while load.window().served < held && Instant::now() < deadline {
        lab.read_for(&mut load, GLANCE)?;
    }
    let served = load.window().served;
    load.disconnect(BEYOND);
    let come_back = serve_newcomers(lab, running, &mut load)?;
    let share = |part: usize, whole: usize| float(part as u64) / float(whole.max(1) as u64);
    let mut sample = lab.sample(Experiment::Capacity, engine, (predicted, 20));
    sample.figures = vec![
        by,
        ("predicted", float(predicted as u64)),
        ("held", float(held as u64)),
        ("told", share(rejected, turned_away)),
        ("served_on", share(served, held)),
        ("come_back", share(come_back, NEWCOMERS)),
    ];
    Ok(vec![sample])
}

/// Opens new clients and returns how many of them are served.
///
/// A rejected client tries again, because the engine may not have noticed yet that others have
/// left.
fn serve_newcomers(lab: &Lab<'_>, running: &Running, load: &mut Load) -> io::Result<usize> {
    let plan = |clients| Plan { timeout: SILENCE, ..running.plan(clients) };
    let deadline = Instant::now() + RECOVERY;
    let mut newcomers = Load::open(&plan(0))?;
    loop {
        lab.read_for(load, GLANCE)?;
        let missing = NEWCOMERS.saturating_sub(newcomers.streaming());
        if missing == 0 || Instant::now() >= deadline {
            return Ok(NEWCOMERS - missing);
        }
        let clients = newcomers.opened() + missing;
        newcomers.grow(&plan(clients), clients)?;
        newcomers.read_first_events(SILENCE)?;
    }
}
