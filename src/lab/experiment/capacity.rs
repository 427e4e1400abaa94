//! (f) Where is the capacity, and what happens past it?
//!
//! The engine is started with few descriptors, so that its capacity is near, and clients come until
//! one is not served; Apache with few workers, for its configuration ends it before the system does.
//! Figures: `descriptors`, or `workers`; `predicted`, how many clients that should be; `held`,
//! how many had the stream; `told`, the share of the others that were told so at once (0: they wait
//! for an answer that never comes); `served_on`, the share of those who had it that still have it;
//! `come_back`, the share of new clients that are served after twice as many have left.

use std::io;
use std::time::Duration;

use super::{Bound, Engine, Experiment, Lab, Running, SMALL, Sample};
use crate::capacity::Capacity;
use crate::lab::figures::float;
use crate::lab::load::{Load, Plan};

/// What the engine may open.
const DESCRIPTORS: u64 = 200;

/// What Apache may have: as many as it starts at once.
const WORKERS: u64 = 32;

/// So many clients too many come, and so many leave.
const BEYOND: usize = 10;

/// After which there is room for these.
const NEWCOMERS: usize = 5;

/// A client that has heard nothing by then counts as left waiting.
const ENOUGH: Duration = Duration::from_millis(500);

/// A newcomer may wait longer: a script's process must end, and another begin.
const LONG_ENOUGH: Duration = Duration::from_secs(2);

pub(super) fn ask(lab: &Lab<'_>, engine: Engine) -> io::Result<Vec<Sample>> {
    let room = match engine.bound() {
        Bound::Descriptors => DESCRIPTORS,
        Bound::Workers => WORKERS,
    };
    lab.with(engine, Some(room), |running| watch(lab, engine, running))
}

fn watch(lab: &Lab<'_>, engine: Engine, running: &mut Running) -> io::Result<Vec<Sample>> {
    let (predicted, by) = match engine.bound() {
        Bound::Descriptors => {
            // What `threadcast doctor` would say, were it the engine.
            let capacity = Capacity::of_the_process(running.process.id(), engine.share());
            (engine.clients_under(&capacity), ("descriptors", float(DESCRIPTORS)))
        }
        Bound::Workers => {
            (usize::try_from(WORKERS).unwrap_or(usize::MAX), ("workers", float(WORKERS)))
        }
    };
    running.order(20, SMALL)?;
    let plan = |clients| Plan { patience: ENOUGH, ..running.plan(clients) };
    // All who have room, in their own time; who comes then is in nobody's way.
    let mut load = Load::open(&running.plan(predicted.saturating_sub(BEYOND)))?;
    lab.go_on()?;
    load.grow(&plan(predicted + BEYOND), predicted + BEYOND)?;
    load.read_first_events(Duration::from_millis(300))?;
    let held = load.streaming();
    let turned_away = (predicted + BEYOND).saturating_sub(held);
    // Those who were answered and sent away, and those whose connection was closed.
    let told = turned_away.saturating_sub(load.unanswered());
    load.mark();
    load.read_for(Duration::from_millis(200))?;
    let served = load.window().served;
    load.leave(BEYOND);
    lab.go_on()?;
    load.read_for(Duration::from_millis(100))?;
    let mut newcomers = Load::open(&Plan { patience: LONG_ENOUGH, ..running.plan(NEWCOMERS) })?;
    newcomers.read_first_events(Duration::from_millis(500))?;
    let share = |part: usize, whole: usize| float(part as u64) / float(whole.max(1) as u64);
    let mut sample = lab.sample(Experiment::Capacity, engine, (predicted, 20));
    sample.figures = vec![
        by,
        ("predicted", float(predicted as u64)),
        ("held", float(held as u64)),
        ("told", share(told, turned_away)),
        ("served_on", share(served, held)),
        ("come_back", share(newcomers.streaming(), NEWCOMERS)),
    ];
    Ok(vec![sample])
}
