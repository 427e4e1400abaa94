//! (f) How many clients can an engine hold, and what happens to further clients?
//!
//! The lab starts the engine with few descriptors, so that its capacity is low. Then clients
//! connect until some are not served. Apache is started with few workers instead, because usually
//! Apache's configuration, and not the system, limits the number of its clients.
//!
//! The figures:
//!
//! - `descriptors` or `workers`: the engine's limit
//! - `predicted`: the expected capacity
//! - `held`: how many clients received the stream
//! - `told`: the share of the other clients that were rejected at once; clients that were not
//!   rejected wait for a response that never comes
//! - `served_on`: the share of the held clients that still receive events after more clients than
//!   the capacity have tried to connect
//! - `come_back`: the share of five new clients that are served after ten held clients have
//!   disconnected

use std::io;
use std::time::{Duration, Instant};

use sse_load::figures::float;
use sse_load::load::{Load, Plan};

use super::running::{GLANCE, Lab, Running, SMALL};
use crate::capacity::Capacity;
use crate::lab::engine::{Bound, Engine};
use crate::lab::experiment::Experiment;
use crate::lab::results::Sample;

/// The engine's descriptor limit.
const DESCRIPTORS: u64 = 200;

/// The number of Apache's workers. It equals `StartServers` in `prefork.conf`, so Apache starts all
/// workers at once.
const WORKERS: u64 = 32;

/// How many more clients than the capacity try to connect. Later, this number of held clients
/// disconnects.
const BEYOND: usize = 10;

/// How many new clients connect after [`BEYOND`] held clients have disconnected.
const NEWCOMERS: usize = 5;

/// If the engine answers no client for this long, the clients without a response count as left
/// waiting.
const SILENCE: Duration = Duration::from_secs(2);

/// How long the lab waits until every held client has received an event, and later until the new
/// clients are served. Apache needs seconds to serve new clients, because it ends the process of a
/// script and starts another.
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
            // The capacity that `threadcast doctor` would report for the engine's process.
            let capacity = Capacity::of_process(running.process.id(), engine.share());
            (engine.clients_under(&capacity), ("descriptors", float(DESCRIPTORS)))
        }
        Bound::Workers => {
            (usize::try_from(WORKERS).unwrap_or(usize::MAX), ("workers", float(WORKERS)))
        }
    };
    running.set_traffic(20, SMALL)?;
    let plan = |clients| Plan { timeout: SILENCE, ..running.plan(clients) };
    // First, `BEYOND` fewer clients than the capacity connect, with the usual timeout. Then clients
    // connect until there are `BEYOND` more than the capacity, with the timeout `SILENCE`.
    let mut load = Load::open(&running.plan(predicted.saturating_sub(BEYOND)))?;
    lab.check_stop()?;
    load.grow(&plan(predicted + BEYOND), predicted + BEYOND)?;
    load.read_first_events(RECOVERY)?;
    let held = load.streaming();
    // `opened` may be less than requested, because no more clients connect after a timeout.
    let turned_away = load.opened().saturating_sub(held);
    // These clients received an error response, or the engine closed their connection.
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

/// Opens new clients and returns how many of them receive an event.
///
/// If a new client is rejected, another is opened, because the engine may not have noticed yet that
/// the old clients have disconnected.
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
