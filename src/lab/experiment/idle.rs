//! (a) What does an idle client cost?
//!
//! Figures, in bytes unless their name says otherwise: `threads`; per client `rss`, `kernel_stack`,
//! `slab`, `kernel`, `whole` (by `MemAvailable`) and `client_bytes` (`rss` and `kernel` together);
//! `base_bytes`, the process without clients; `memory_bytes`, the resident pages of the process
//! plus the clients' kernel memory.

use std::io;
use std::time::Duration;

use super::{Engine, Experiment, Lab, Running, SMALL, Sample};
use crate::lab::figures::float;
use crate::lab::load::Load;
use crate::lab::meter::{Held, Socket, settle, threads};
use crate::lab::plan::Options;

/// Ten events, one per second, so that every thread that ever sends has done so.
const RATE: u32 = 10;

pub(super) fn points(options: &Options) -> Vec<usize> {
    let most = options.clients;
    let parts: &[usize] = if options.pace.quick { &[4, 1] } else { &[8, 4, 2, 1] };
    let mut points: Vec<_> = parts.iter().map(|part| (most / part).max(1)).collect();
    points.dedup();
    points
}

pub(super) fn run(lab: &Lab<'_>, engine: Engine) -> io::Result<Vec<Sample>> {
    lab.with(engine, None, |running| observe(lab, engine, running))
}

fn observe(lab: &Lab<'_>, engine: Engine, running: &mut Running) -> io::Result<Vec<Sample>> {
    // The first clients also add a few pages of the engine's own, and the kernel's caches.
    let mut first = running.plan(0);
    let mut load = Load::open(&first)?;
    settle(lab.options.pace.settle);
    let base = Held::now(running.process.id())?;
    let mut samples = Vec::new();
    for clients in points(lab.options) {
        lab.check_stop()?;
        running.set_traffic(RATE, SMALL)?;
        running.open(&mut load, clients)?;
        lab.read_for(&mut load, Duration::from_secs(1) / RATE + Duration::from_millis(50))?;
        running.set_traffic(0, 0)?;
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

/// Measures the kernel memory of the load's sockets. An event loop holds little but sockets, like
/// the load, so half of the kernel memory of each connection is the load's.
pub(in crate::lab) fn calibrate(lab: &Lab<'_>) -> io::Result<Socket> {
    let options = Options { clients: lab.options.clients, ..lab.options.clone() };
    let lab = Lab { options: &options, socket: Socket::default(), ..*lab };
    // The first connections also fill the kernel's caches; later ones find them filled.
    run(&lab, Engine::EventLoop)?;
    let samples = run(&lab, Engine::EventLoop)?;
    let last = samples.last().ok_or(io::ErrorKind::UnexpectedEof)?;
    let half = |name| last.figure(name).unwrap_or(0.0) / 2.0;
    Ok(Socket { slab: half("slab"), kernel: half("kernel") })
}
