//! (a) What does an idle client cost?
//!
//! Figures, in bytes unless their name says otherwise: `threads`; `rss`, `kernel_stack`, `slab`,
//! `kernel` and `whole` are what one client has added, `whole` by `MemAvailable`, `client_bytes` is
//! `rss` and `kernel` together; `base_bytes` is
//! the process without clients, `memory_bytes` its resident pages and the clients' share of the
//! kernel.

use std::io;
use std::time::Duration;

use super::{Engine, Experiment, Lab, Running, SMALL, Sample};
use crate::lab::figures::float;
use crate::lab::load::Load;
use crate::lab::meter::{Held, Socket, settle, threads};
use crate::lab::plan::Options;

/// Ten events each second: so that a thread which ever sends has sent.
const RATE: u32 = 10;

pub(super) fn points(options: &Options) -> Vec<usize> {
    let most = options.clients;
    let parts: &[usize] = if options.pace.quick { &[4, 1] } else { &[8, 4, 2, 1] };
    let mut points: Vec<_> = parts.iter().map(|part| (most / part).max(1)).collect();
    points.dedup();
    points
}

pub(super) fn ask(lab: &Lab<'_>, engine: Engine) -> io::Result<Vec<Sample>> {
    lab.with(engine, None, |running| watch(lab, engine, running))
}

fn watch(lab: &Lab<'_>, engine: Engine, running: &mut Running) -> io::Result<Vec<Sample>> {
    // A page or two of the engine's own, and the kernel's caches, come with its first clients.
    let mut first = running.plan(0);
    let mut load = Load::open(&first)?;
    settle(lab.options.pace.settle);
    let base = Held::now(running.process.id())?;
    let mut samples = Vec::new();
    for clients in points(lab.options) {
        lab.go_on()?;
        running.order(RATE, SMALL)?;
        running.open(&mut load, clients)?;
        lab.read_for(&mut load, Duration::from_secs(1) / RATE + Duration::from_millis(50))?;
        running.order(0, 0)?;
        load.read_until_quiet(Duration::from_millis(100), Duration::from_secs(1))?;
        settle(lab.options.pace.settle);
        let held = Held::now(running.process.id())?;
        let client = held.since(&base, clients, lab.socket);
        let threads = threads(running.process.id())?;
        let mut sample = lab.sample(Experiment::Idle, engine, (clients, RATE));
        sample.figures = vec![
            ("threads", float(threads as u64)),
            ("rss", client.rss),
            ("kernel_stack", client.kernel_stack),
            ("page_tables", client.page_tables),
            ("slab", client.slab),
            ("kernel", client.kernel),
            ("client_bytes", client.rss + client.kernel),
            ("whole", client.whole),
            ("base_bytes", float(base.server.rss)),
            ("memory_bytes", float(held.server.rss) + client.kernel * float(clients as u64)),
        ];
        samples.push(sample);
        first.clients = clients;
    }
    Ok(samples)
}

/// Finds out what the load's sockets cost. An event loop holds little but sockets, as we do, so half
/// of what a connection costs the kernel there is ours.
pub(in crate::lab) fn calibrate(lab: &Lab<'_>) -> io::Result<Socket> {
    let options = Options { clients: lab.options.clients, ..lab.options.clone() };
    let lab = Lab { options: &options, socket: Socket::default(), ..*lab };
    // The first connections of all also fill the kernel's caches, which later ones find filled.
    ask(&lab, Engine::EventLoop)?;
    let samples = ask(&lab, Engine::EventLoop)?;
    let last = samples.last().ok_or(io::ErrorKind::UnexpectedEof)?;
    let half = |name| last.figure(name).unwrap_or(0.0) / 2.0;
    Ok(Socket { slab: half("slab"), kernel: half("kernel") })
}
