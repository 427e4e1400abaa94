//! One run: measures one engine under one workload.

use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;
use threadcast::lab::figures::float;
use threadcast::lab::load::{Load, Plan};
use threadcast::lab::meter::{Held, PerClient, Socket, Spending, Spent, difference, settle};
use threadcast::lab::procfs;

use crate::engine::{Engine, Start};
use crate::options::Options;
use crate::peer::Peer;
use crate::workload::Workload;

/// How long all clients may take to be accepted, and to receive their first event.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A stuck client that is still connected after this time counts as never disconnected.
const LONGEST_WRITE_DEADLINE: Duration = Duration::from_secs(13);

/// The results of one run. Memory is in bytes; per client where the name says so.
#[derive(Debug, Clone, Default, Serialize)]
#[allow(missing_docs)] // the columns of the report describe the fields
pub struct Sample {
    pub answered: usize,
    pub refused: usize,
    pub closed: usize,
    pub heads_seconds: Option<f64>,
    pub events_seconds: Option<f64>,
    pub measured_seconds: f64,
    pub offered: u64,
    pub published: u64,
    pub delivered: u64,
    pub lost: u64,
    pub gap_frames: u64,
    pub delivered_per_second: f64,
    pub cpu_us_per_event: Option<f64>,
    pub voluntary_per_event: Option<f64>,
    pub involuntary_per_event: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub max_ms: Option<f64>,
    /// Events of the slowest client, as a share of the median client's.
    pub fairness: Option<f64>,
    pub threads: usize,
    pub base_rss: u64,
    pub rss: u64,
    pub rss_per_client: f64,
    pub kernel_stack_per_client: f64,
    pub page_tables_per_client: f64,
    pub slab_per_client: f64,
    /// All kernel memory per client, including the parts above.
    pub kernel_per_client: f64,
    /// Decrease of `MemAvailable` per client. On a quiet machine, this is RSS plus kernel memory.
    pub whole_per_client: f64,
    pub stuck_send_queue: Option<u64>,
    pub stuck_cut_seconds: Option<f64>,
    /// Growth while a client was stuck.
    pub rss_growth: i64,
    /// Shares of the server's core during the measurement, by the server and by others.
    pub server_busy: f64,
    pub server_core_others: f64,
    pub load_busy: f64,
    pub load_core_others: f64,
    pub noisy: bool,
}

impl Sample {
    fn of(spending: &Spending, client: &PerClient) -> Self {
        Self {
            measured_seconds: spending.seconds,
            rss_per_client: client.rss,
            kernel_stack_per_client: client.kernel_stack,
            page_tables_per_client: client.page_tables,
            slab_per_client: client.slab,
            kernel_per_client: client.kernel,
            whole_per_client: client.whole,
            server_busy: spending.server_busy,
            server_core_others: spending.server_core_others,
            load_busy: spending.load_busy,
            load_core_others: spending.load_core_others,
            noisy: spending.is_noisy(),
            ..Self::default()
        }
    }

    /// The share of a core that others used: the greater of both cores.
    pub fn noise(&self) -> f64 {
        self.server_core_others.max(self.load_core_others)
    }
}

/// The load's share of each connection's memory, which is subtracted, in bytes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Taken {
    pub slab: f64,
    pub kernel: f64,
}

/// Measures the kernel memory of the load's sockets. The floor holds only sockets, like the load,
/// so half of the memory of each connection is the load's.
pub fn calibrate(floor: &Start, clients: usize, options: &Options) -> io::Result<Socket> {
    let workload = Workload { clients, memory: true, ..crate::workload::ALL[0] };
    let options = Options { seconds: Some(2.0), ..options.clone() };
    let measure = || run(Engine::Floor, floor, &workload, Socket::default(), &options);
    // The first connections also fill the kernel's caches; later ones find them filled.
    measure()?;
    let sample = measure()?;
    Ok(Socket { slab: sample.slab_per_client / 2.0, kernel: sample.kernel_per_client / 2.0 })
}

/// Starts the engine, opens the clients, and measures the engine from outside.
pub fn run(
    engine: Engine,
    start: &Start,
    workload: &Workload,
    socket: Socket,
    options: &Options,
) -> io::Result<Sample> {
    let measured = options.measured(workload);
    let mut peer = Peer::start(start, options.cores)?;
    settle(Duration::from_secs(5));
    let base = Held::now(peer.process())?;
    if workload.at_once {
        peer.set_traffic(workload.rate, workload.frame)?;
    }
    let plan = Plan {
        clients: workload.clients,
        stuck: workload.stuck,
        timeout: TIMEOUT,
        ..Plan::new(peer.server(), engine.path())
    };
    let mut load = Load::open(&plan)?;
    let opened = Instant::now();
    if !workload.at_once {
        // Warms up: after a few events only, a just-in-time compiler would be cold.
        peer.set_traffic(workload.warm_up_rate(), workload.frame)?;
    }
    load.read_first_events(TIMEOUT)?;
    load.read_for(options.warm_up)?;
    if workload.warm_up_rate() != workload.rate {
        peer.set_traffic(workload.rate, workload.frame)?;
    }

    pause(&mut load, workload)?;
    let before = Spent::now(peer.process(), options.cores)?;
    let warm = procfs::memory(&before.processes)?;
    load.mark();
    // Events that arrived while `/proc` was read are counted, but their latencies are not.
    load.read_for(before.at.elapsed() * 2)?;
    load.forget_latencies();
    load.read_for(measured)?;
    pause(&mut load, workload)?;
    let after = Spent::now(peer.process(), options.cores)?;
    let held = Held::now(peer.process())?;

    let spending = after.since(&before);
    let mut sample = Sample::of(&spending, &held.since(&base, load.opening().accepted, socket));
    (sample.base_rss, sample.rss) = (base.server.rss, held.server.rss);
    let window = load.window();
    sample.threads = after.server.threads;
    sample.offered = offered(workload, sample.measured_seconds);
    (sample.published, sample.delivered) = (window.published, window.delivered);
    (sample.lost, sample.gap_frames, sample.closed) = (window.lost, window.gaps, window.closed);
    if window.delivered > 0 {
        let events = float(window.delivered);
        sample.delivered_per_second = events / sample.measured_seconds;
        sample.cpu_us_per_event = Some(spending.cpu * 1e6 / events);
        sample.voluntary_per_event = Some(spending.voluntary / events);
        sample.involuntary_per_event = Some(spending.involuntary / events);
        sample.fairness = Some(float(window.slowest) / float(window.median.max(1)));
        let quantile = |q| window.latency.quantile(q).map(millis);
        (sample.p50_ms, sample.p99_ms) = (quantile(0.5), quantile(0.99));
        sample.max_ms = Some(millis(window.latency.max()));
    }
    let opening = load.opening();
    (sample.answered, sample.refused) = (opening.accepted, opening.rejected);
    sample.heads_seconds = opening.heads.map(|time| time.as_secs_f64());
    // Otherwise the time would depend on when the traffic was set.
    sample.events_seconds =
        opening.events.filter(|_| workload.at_once).map(|time| time.as_secs_f64());
    sample.rss_growth = difference(held.server.rss, warm.rss);
    (sample.stuck_send_queue, sample.stuck_cut_seconds) = watch_stuck_clients(load, &peer, opened)?;
    Ok(sample)
}

/// The largest send queue towards a stuck client, and when the first of them was disconnected. It
/// runs after the measurement, because the kernel walks a table for about 50 ms to find a socket.
fn watch_stuck_clients(
    mut load: Load,
    peer: &Peer,
    opened: Instant,
) -> io::Result<(Option<u64>, Option<f64>)> {
    let mut largest = None;
    let ports = load.stuck_ports();
    while !ports.is_empty() && opened.elapsed() < LONGEST_WRITE_DEADLINE {
        for port in &ports {
            match procfs::send_queue(peer.server().port(), *port)? {
                Some(queue) if queue.established => largest = largest.max(Some(queue.bytes)),
                _ => return Ok((largest, Some(opened.elapsed().as_secs_f64()))),
            }
        }
        load.read_for(Duration::from_millis(250))?;
    }
    Ok((largest, None))
}

/// Waits until events in flight have arrived, if the workload has pauses.
fn pause(load: &mut Load, workload: &Workload) -> io::Result<()> {
    if workload.has_pauses() {
        load.read_until_quiet(Duration::from_millis(50), Duration::from_secs(2))?;
    }
    Ok(())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Events due to all clients in this time, which begins anywhere between two ticks.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // far below 2^52
fn offered(workload: &Workload, seconds: f64) -> u64 {
    (f64::from(workload.rate) * seconds) as u64 * workload.clients as u64
}
