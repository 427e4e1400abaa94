//! (e) One client stops reading: how does this affect the other clients?
//!
//! The figures: `calm_p99_ms` and `calm_cpu_us`, the latency and the CPU time per event of the
//! other clients before the stuck client connects; `p99_ms` and `cpu_us`, the same two figures
//! while the stuck client is connected; `grown_bytes`, by how much the engine's memory grows while
//! the stuck client is connected; `offered_bytes`, how many bytes are published to the stuck
//! client; `queue_bytes`, the size of the kernel's send queue for the stuck client; `cut`, 1 if the
//! engine has disconnected the stuck client; and the number of `threads`.

use std::io;

use sse_load::figures::{float, signed};
use sse_load::load::{Load, Plan};
use sse_load::meter::{difference, memory, threads};
use sse_load::procfs;

use super::event::measure;
use super::running::{Lab, Running};
use crate::lab::engine::Engine;
use crate::lab::experiment::Experiment;
use crate::lab::results::Sample;

/// Clients are few and events are large, so that the bytes that the stuck client does not read soon
/// exceed the kernel's send queue (up to 10 MB on loopback).
const CLIENTS: usize = 10;
const RATE: u32 = 1_000;
const FRAME: usize = 16 * 1024;

pub(super) fn run(lab: &Lab<'_>, engine: Engine) -> io::Result<Vec<Sample>> {
    lab.with(engine, None, |running| observe(lab, engine, running))
}

fn observe(lab: &Lab<'_>, engine: Engine, running: &mut Running) -> io::Result<Vec<Sample>> {
    let clients = lab.options.clients.min(CLIENTS);
    let point = (clients, RATE);
    let mut load = Load::open(&running.plan(0))?;
    running.set_traffic(RATE, FRAME)?;
    running.open(&mut load, clients)?;
    lab.read_for(&mut load, lab.options.pace.warm_up)?;
    let calm = measure(lab, engine, running, &mut load, point, FRAME)?;
    let before = memory(running.process.id())?.rss;
    load.grow(&Plan { stuck: 1, ..running.plan(clients) }, clients)?;
    let stuck = measure(lab, engine, running, &mut load, point, FRAME)?;
    let grown = signed(difference(memory(running.process.id())?.rss, before));
    let mut queue = None;
    for port in load.stuck_ports() {
        queue = procfs::send_queue(running.server.port(), port)?.filter(|it| it.established);
    }
    let mut sample = lab.sample(Experiment::Stuck, engine, point);
    sample.noise = calm.noise.max(stuck.noise);
    let threads = threads(running.process.id())?;
    sample.figures = vec![
        ("grown_bytes", grown),
        ("queue_bytes", queue.map_or(0.0, |queue| float(queue.bytes))),
        ("cut", f64::from(u8::from(queue.is_none()))),
        ("threads", float(threads as u64)),
    ];
    // If an engine delivered no event, the figures per event are missing.
    for (name, of, figure) in [
        ("calm_p99_ms", &calm, "p99_ms"),
        ("p99_ms", &stuck, "p99_ms"),
        ("calm_cpu_us", &calm, "cpu_us"),
        ("cpu_us", &stuck, "cpu_us"),
    ] {
        sample.figures.extend(of.figure(figure).map(|value| (name, value)));
    }
    let each = stuck.figure("delivered").map(|all| all / float(clients as u64));
    let bytes = |rate| rate * lab.options.pace.measured.as_secs_f64() * float(FRAME as u64);
    sample.figures.extend(each.map(|rate| ("offered_bytes", bytes(rate))));
    Ok(vec![sample])
}
