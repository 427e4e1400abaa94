//! (d) One request runs a slow handler: how does this affect the other clients?
//!
//! There are three phases: no handler runs (`calm_…`), a handler reads from the disk for 200 ms
//! (`disk_…`), and a handler computes for 200 ms (`cpu_…`). The figures of each phase are
//! `…_silence_ms`, the longest time for which any client received nothing, and `…_p50_ms`, the
//! median latency. The figure `disk_computed` is the share of the disk handler's time that was CPU
//! time. An event is published every 10 ms, so a silence of 10 ms is normal.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use sse_load::load::Load;

use super::running::{Lab, Running, SMALL, TIMEOUT};
use crate::lab::engine::Engine;
use crate::lab::experiment::Experiment;
use crate::lab::results::Sample;

/// The number of clients. It is large enough that at any time an event is being sent to one of
/// them.
const CLIENTS: usize = 100;
const RATE: u32 = 100;

pub(super) fn run(lab: &Lab<'_>, engine: Engine) -> io::Result<Vec<Sample>> {
    lab.with(engine, None, |running| observe(lab, engine, running))
}

fn observe(lab: &Lab<'_>, engine: Engine, running: &mut Running) -> io::Result<Vec<Sample>> {
    let clients = lab.options.clients.min(CLIENTS);
    let mut load = Load::open(&running.plan(0))?;
    running.set_traffic(RATE, SMALL)?;
    running.open(&mut load, clients)?;
    call(running.server, "disk")?; // the first call creates the file to read
    lab.read_for(&mut load, lab.options.pace.warm_up)?;
    let mut sample = lab.sample(Experiment::Slow, engine, (clients, RATE));
    load.mark();
    lab.read_for(&mut load, lab.options.pace.measured.max(Duration::from_millis(300)))?;
    note(&mut sample, &load, ["calm_p50_ms", "calm_silence_ms"]);
    for (how, names) in
        [("disk", ["disk_p50_ms", "disk_silence_ms"]), ("cpu", ["cpu_p50_ms", "cpu_silence_ms"])]
    {
        load.mark();
        let server = running.server;
        let caller = thread::spawn(move || call(server, how));
        while !caller.is_finished() {
            lab.read_for(&mut load, Duration::from_millis(20))?;
        }
        lab.read_for(&mut load, Duration::from_millis(50))?;
        note(&mut sample, &load, names);
        let body = caller.join().map_err(|_| io::Error::other("the calling thread panicked"))??;
        let report: Value = serde_json::from_str(&body).unwrap_or_default();
        if let (Some(all), Some(computed)) = (report["ms"].as_f64(), report["computed_ms"].as_f64())
            && how == "disk"
        {
            sample.figures.push(("disk_computed", computed / all));
        }
    }
    Ok(vec![sample])
}

fn note(sample: &mut Sample, load: &Load, [middle, most]: [&'static str; 2]) {
    let window = load.window();
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    if let Some(median) = window.latency.quantile(0.5) {
        sample.figures.extend([(middle, millis(median)), (most, millis(window.silence))]);
    }
}

/// Requests the slow handler `disk` or `cpu`, and returns the body of the response.
fn call(server: SocketAddr, how: &str) -> io::Result<String> {
    let mut socket = TcpStream::connect(server)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let host = format!("Host: {server}\r\nConnection: close");
    write!(socket, "GET /lab/slow/{how} HTTP/1.1\r\n{host}\r\n\r\n")?;
    let mut response = String::new();
    socket.read_to_string(&mut response)?;
    match response.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => {
            Err(io::Error::other(format!("unexpected response of the slow handler: {response:?}")))
        }
    }
}
