//! One run: an engine, a workload, and what it cost.

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

/// Nobody is waited for longer: all must be answered, and have their first event, by then.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stuck client that is still connected so long after it came will not be cut off.
const LONGEST_WRITE_DEADLINE: Duration = Duration::from_secs(13);

/// What one run showed. Memory is in bytes, of a client where the name says so.
#[derive(Debug, Clone, Default, Serialize)]
#[allow(missing_docs)] // the report's columns say what each is
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
    /// The slowest client's events against the median client's.
    pub fairness: Option<f64>,
    pub threads: usize,
    pub base_rss: u64,
    pub rss: u64,
    pub rss_per_client: f64,
    pub kernel_stack_per_client: f64,
    pub page_tables_per_client: f64,
    pub slab_per_client: f64,
    /// All that the kernel holds for a client, the parts above included.
    pub kernel_per_client: f64,
    /// What a client takes from `MemAvailable`. On a quiet machine, RSS and kernel together.
    pub whole_per_client: f64,
    pub stuck_send_queue: Option<u64>,
    pub stuck_cut_seconds: Option<f64>,
    /// While the stuck client was stuck.
    pub rss_growth: i64,
    /// Share of the server's core while measured, by the server and by others.
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

    /// The share of a core that others used, the worse of the two cores.
    pub fn noise(&self) -> f64 {
        self.server_core_others.max(self.load_core_others)
    }
}

/// What was taken off for the load's side of each connection, in bytes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Taken {
    pub slab: f64,
    pub kernel: f64,
}

/// Finds out what the load's sockets cost: the floor holds nothing but sockets, as we do, so half
/// of what a connection costs there is ours.
pub fn calibrate(floor: &Start, clients: usize, options: &Options) -> io::Result<Socket> {
    let workload = Workload { clients, memory: true, ..crate::workload::ALL[0] };
    let options = Options { seconds: Some(2.0), ..options.clone() };
    let measure = || run(Engine::Floor, floor, &workload, Socket::default(), &options);
    // The first connections of all also fill the kernel's caches, which later ones find filled.
    measure()?;
    let sample = measure()?;
    Ok(Socket { slab: sample.slab_per_client / 2.0, kernel: sample.kernel_per_client / 2.0 })
}

/// Starts the engine, loads it, and measures it from outside.
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
        peer.order(workload.rate, workload.frame)?;
    }
    let plan = Plan {
        clients: workload.clients,
        stuck: workload.stuck,
        patience: PATIENCE,
        ..Plan::new(peer.server(), engine.path())
    };
    let mut load = Load::open(&plan)?;
    let opened = Instant::now();
    if !workload.at_once {
        // A few events would leave a just-in-time compiler cold.
        peer.order(workload.warm_up_rate(), workload.frame)?;
    }
    load.read_first_events(PATIENCE)?;
    load.read_for(options.warm_up)?;
    if workload.warm_up_rate() != workload.rate {
        peer.order(workload.rate, workload.frame)?;
    }

    pause(&mut load, workload)?;
    let before = Spent::now(peer.process(), options.cores)?;
    let warm = procfs::memory(&before.processes)?;
    load.mark();
    // What came while we were looking at /proc is counted, but it is not late.
    load.read_for(before.at.elapsed() * 2)?;
    load.forget_latencies();
    load.read_for(measured)?;
    pause(&mut load, workload)?;
    let after = Spent::now(peer.process(), options.cores)?;
    let held = Held::now(peer.process())?;

    let spending = after.since(&before);
    let mut sample = Sample::of(&spending, &held.since(&base, load.opening().answered, socket));
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
    (sample.answered, sample.refused) = (opening.answered, opening.refused);
    sample.heads_seconds = opening.heads.map(|time| time.as_secs_f64());
    // Otherwise it would say when we gave the order.
    sample.events_seconds =
        opening.events.filter(|_| workload.at_once).map(|time| time.as_secs_f64());
    sample.rss_growth = difference(held.server.rss, warm.rss);
    (sample.stuck_send_queue, sample.stuck_cut_seconds) = watch_the_stuck(load, &peer, opened)?;
    Ok(sample)
}

/// The largest send queue towards a client that reads nothing, and when the first of them was cut
/// off. Only after the measuring: to find a socket the kernel walks a table for some 50 ms.
fn watch_the_stuck(
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

/// Lets what is under way arrive, where the workload ever rests.
fn pause(load: &mut Load, workload: &Workload) -> io::Result<()> {
    if workload.has_pauses() {
        load.read_until_quiet(Duration::from_millis(50), Duration::from_secs(2))?;
    }
    Ok(())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Events of all clients that were due in so many seconds, which begin anywhere between two ticks.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // far below 2^52
fn offered(workload: &Workload, seconds: f64) -> u64 {
    (f64::from(workload.rate) * seconds) as u64 * workload.clients as u64
}
