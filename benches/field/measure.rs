//! Measures one engine under one workload.

use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;
use sse_load::figures::float;
use sse_load::load::{Load, Plan};
use sse_load::meter::{Held, PerClient, Socket, Spending, Spent, difference, settle};
use sse_load::procfs;

use crate::engine::{Engine, Start};
use crate::options::Options;
use crate::peer::Peer;
use crate::workload::Workload;

/// The bench stops waiting for clients if no further client has been accepted, or has received its
/// first event, for this long.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A stuck client that is still connected this long after all clients were opened counts as never
/// disconnected.
const LONGEST_WRITE_DEADLINE: Duration = Duration::from_secs(13);

/// The results of one run. Memory is in bytes, and per client if the field's name says so.
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
    /// The number of events that the slowest client received, divided by that of the median client.
    pub fairness: Option<f64>,
    pub threads: usize,
    pub base_rss: u64,
    pub rss: u64,
    pub rss_per_client: f64,
    pub kernel_stack_per_client: f64,
    pub page_tables_per_client: f64,
    pub slab_per_client: f64,
    /// All kernel memory per client. It includes the kernel stacks, page tables and slab above.
    pub kernel_per_client: f64,
    /// Decrease of `MemAvailable` per client. On a quiet machine, this is RSS plus kernel memory.
    pub whole_per_client: f64,
    /// The longest and the median time until a newcomer's first byte, and the 99 % quantile of the
    /// others' latencies meanwhile.
    pub newcomer_max_ms: Option<f64>,
    pub newcomer_median_ms: Option<f64>,
    pub others_p99_ms: Option<f64>,
    pub stuck_send_queue: Option<u64>,
    pub stuck_cut_seconds: Option<f64>,
    /// By how much the engine's resident memory grew during the measurement, while a client was
    /// stuck.
    pub rss_growth: i64,
    /// The share of its core that the engine used during the measurement; `server_core_others` is
    /// the share of this core that other programs used.
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

    /// Returns the share that other programs used of the server's core or of the load generator's
    /// core, whichever is greater.
    pub fn noise(&self) -> f64 {
        self.server_core_others.max(self.load_core_others)
    }
}

/// The kernel memory at the load generator's end of a connection, in bytes. This memory is
/// subtracted from the figures.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Taken {
    pub slab: f64,
    pub kernel: f64,
}

/// Measures the kernel memory at the load generator's end of a connection. The engine `floor` uses
/// little kernel memory besides its sockets, and so does the load generator. So half of the kernel
/// memory of each connection belongs to the load generator.
pub fn calibrate(floor: &Start, clients: usize, options: &Options) -> io::Result<Socket> {
    let workload = Workload { clients, memory: true, ..crate::workload::ALL[0] };
    let options = Options { seconds: Some(2.0), ..options.clone() };
    let measure = || run(Engine::Floor, floor, &workload, Socket::default(), &options);
    // The first run also fills the kernel's caches, so its result is not used.
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
        // Warms up with many events, so that a just-in-time compiler has compiled the engine's code
        // before the measurement.
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
    // Events that arrived while `/proc` was read waited in the load generator's sockets. They are
    // counted, but their latencies are discarded.
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
    // Without `at_once`, the time of the first event depends on when the traffic was set, so this
    // time is omitted.
    sample.events_seconds =
        opening.events.filter(|_| workload.at_once).map(|time| time.as_secs_f64());
    sample.rss_growth = difference(held.server.rss, warm.rss);
    if workload.newcomers > 0 {
        let newcomers = Newcomers::measure(&mut load, &plan, workload)?;
        sample.newcomer_max_ms = Some(newcomers.max);
        sample.newcomer_median_ms = newcomers.median;
        sample.others_p99_ms = newcomers.others_p99;
    }
    (sample.stuck_send_queue, sample.stuck_cut_seconds) = watch_stuck_clients(load, &peer, opened)?;
    Ok(sample)
}

/// How clients that connect to a busy server fare, in milliseconds.
struct Newcomers {
    /// From the request to the first byte of the response.
    max: f64,
    median: Option<f64>,
    /// The latency of the clients that were there before.
    others_p99: Option<f64>,
}

impl Newcomers {
    fn measure(load: &mut Load, plan: &Plan, workload: &Workload) -> io::Result<Self> {
        load.forget_opening_times();
        load.forget_latencies();
        let burst = Plan { in_flight: workload.newcomers, ..plan.clone() };
        load.grow(&burst, workload.clients + workload.newcomers)?;
        let waits = load.first_byte_times();
        Ok(Self {
            max: millis(waits.max()),
            median: waits.quantile(0.5).map(millis),
            others_p99: load.window().latency.quantile(0.99).map(millis),
        })
    }
}

/// Returns the size of the largest send queue to a stuck client, and the time until the first stuck
/// client was disconnected. Call it after the measurement, because for each call of `send_queue`
/// the kernel needs about 50 ms to find the socket in its table.
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

/// Waits until the events in flight have arrived, if the workload has pauses.
fn pause(load: &mut Load, workload: &Workload) -> io::Result<()> {
    if workload.has_pauses() {
        load.read_until_quiet(Duration::from_millis(50), Duration::from_secs(2))?;
    }
    Ok(())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Returns how many events all clients together should receive in `seconds`. The measurement may
/// begin at any moment between two events, so this number is approximate.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // positive, far below 2^52
fn offered(workload: &Workload, seconds: f64) -> u64 {
    (f64::from(workload.rate) * seconds) as u64 * workload.clients as u64
}
