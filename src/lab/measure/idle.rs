//! (a) What does an idle client cost?
//!
//! The figures, all in bytes except `threads`: the number of `threads` of the engine; per client
//! `rss`, `kernel_stack`, `page_tables`, `slab`, `kernel`, `whole` (the decrease of the machine's
//! available memory) and `client_bytes` (the sum of `rss` and `kernel`); `base_bytes`, the resident
//! pages of the engine without clients; `memory_bytes`, the resident pages of the engine plus the
//! clients' kernel memory.

use std::io;
use std::time::Duration;

use sse_load::figures::float;
use sse_load::load::Load;
use sse_load::meter::{Held, Socket, settle, threads};

use super::running::{Lab, Running, SMALL};
use crate::lab::engine::Engine;
use crate::lab::experiment::Experiment;
use crate::lab::plan::Options;
use crate::lab::results::Sample;

/// The number of events per second. Before each reading of the memory, events are sent for a short
/// time, so that every thread that sends events has used its stack.
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
    // The memory is compared with that of an engine without clients. So the clients' memory also
    // includes a few pages that the engine itself uses from the first client on, and the kernel's
    // caches.
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

/// Measures the kernel memory at the load generator's end of a connection.
///
/// The event loop and the load generator are on one machine, and both use little kernel memory
/// besides their sockets. So half of the kernel memory of each connection is the load generator's.
pub(in crate::lab) fn calibrate(lab: &Lab<'_>) -> io::Result<Socket> {
    let options = Options { clients: lab.options.clients, ..lab.options.clone() };
    let lab = Lab { options: &options, socket: Socket::default(), ..*lab };
    // The first run also fills the kernel's caches, so its result is not used.
    run(&lab, Engine::EventLoop)?;
    let samples = run(&lab, Engine::EventLoop)?;
    let last = samples.last().ok_or(io::ErrorKind::UnexpectedEof)?;
    let half = |name| last.figure(name).unwrap_or(0.0) / 2.0;
    Ok(Socket { slab: half("slab"), kernel: half("kernel") })
}
