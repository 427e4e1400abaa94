//! (d) One connection does something slow: what do the others feel?
//!
//! Figures: the longest that any client heard nothing while nothing slow went on
//! (`calm_silence_ms`), while a handler read from the disk for 200 ms (`disk_…`) and while one
//! computed as long (`cpu_…`), and how late the median event was; `disk_computed`, the share of the
//! disk's handler that was not waiting. Events come every 10 ms, so as much silence is none.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use super::{Engine, Experiment, Lab, PATIENCE, Running, SMALL, Sample};
use crate::json;
use crate::lab::load::Load;

/// Enough that somebody is always about to be served.
const CLIENTS: usize = 100;
const RATE: u32 = 100;

pub(super) fn ask(lab: &Lab<'_>, engine: Engine) -> io::Result<Vec<Sample>> {
    lab.with(engine, None, |running| watch(lab, engine, running))
}

fn watch(lab: &Lab<'_>, engine: Engine, running: &mut Running) -> io::Result<Vec<Sample>> {
    let clients = lab.options.clients.min(CLIENTS);
    let mut load = Load::open(&running.plan(0))?;
    running.order(RATE, SMALL)?;
    running.open(&mut load, clients)?;
    call(running.server, "disk")?; // which writes its file the first time
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
        let answer = caller.join().map_err(|_| io::Error::other("the caller has panicked"))??;
        let told = json::parse(answer.as_bytes()).unwrap_or_default();
        if let (Some(all), Some(computed)) = (told["ms"].as_f64(), told["computed_ms"].as_f64())
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

/// Asks for the slow handler, and waits for its answer.
fn call(server: SocketAddr, how: &str) -> io::Result<String> {
    let mut socket = TcpStream::connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let host = format!("Host: {server}\r\nConnection: close");
    write!(socket, "GET /lab/slow/{how} HTTP/1.1\r\n{host}\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(io::Error::other(format!("the slow handler answered {answer:?}"))),
    }
}
