//! The report: medians as a Markdown table, and all samples as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use sse_load::figures::{self, digits, float, signed};
use sse_load::machine;
use sse_load::process::Cores;

use crate::engine::Engine;
use crate::measure::{Sample, Taken};
use crate::workload::Workload;
use crate::{catch_up, requests};

/// The results of all workloads.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: BTreeMap<&'static str, String>,
    /// The kernel memory at the load generator's end of a connection. This memory has been
    /// subtracted from the figures.
    pub load_socket: Taken,
    /// The engines that were skipped, with the reasons.
    pub skipped: BTreeMap<&'static str, String>,
    pub results: Vec<Result>,
    /// The finite requests of each engine, if they were measured.
    pub requests: Vec<requests::Result>,
    pub catch_up: Vec<catch_up::Result>,
}

/// All runs of one workload.
#[derive(Debug, Serialize)]
pub struct Result {
    pub workload: Workload,
    pub engines: Vec<Runs>,
}

/// All runs of one engine under one workload.
#[derive(Debug, Serialize)]
pub struct Runs {
    pub engine: &'static str,
    #[serde(skip)]
    pub title: &'static str,
    pub samples: Vec<Sample>,
    /// The errors of the runs that failed.
    pub failures: Vec<String>,
}

impl Report {
    pub fn new(skipped: BTreeMap<&'static str, String>, cores: Cores) -> Self {
        let machine = machine::describe(cores).into_iter().collect();
        Self {
            machine,
            load_socket: Taken::default(),
            skipped,
            results: Vec::new(),
            requests: Vec::new(),
            catch_up: Vec::new(),
        }
    }

    /// Returns the heading above all tables.
    pub fn preamble(&self) -> String {
        let machine: Vec<_> = self.machine.iter().map(|(key, it)| format!("{key} {it}")).collect();
        let mut text = format!("# threadcast and its peers\n\nMachine: {}.\n", machine.join(", "));
        let _ = writeln!(
            text,
            "The load's share of a connection is {} KB of kernel memory; it is subtracted below.\n",
            digits(self.load_socket.kernel / 1024.0, 1)
        );
        for (engine, why) in &self.skipped {
            let _ = writeln!(text, "- skipped: **{engine}**: {why}");
        }
        text
    }

    /// Returns the notes below all tables.
    pub fn footnotes() -> &'static str {
        "Medians of all runs. CPU is the user and system time of the server's processes per event read \
         by a client; × floor compares it with the floor's. p50, p99 and max are the time from publish \
         to read. Lost counts the holes in the clients' numbers; published is the share of the due \
         events that the engine published. Memory is per client. MemAvailable reads lower than RSS + \
         kernel, because it counts the sockets' inodes (3 KB for both ends) as reclaimable; the memory \
         of other processes changes it. A run marked ~ was noisy twice: other processes used more \
         than 5 % of a core.\n\
         \n¹ nchan publishes nothing itself: one keep-alive connection posts due events in batches of \
         64, as fast as nginx responds. Receiving these requests is included in its CPU time.\n\
         ² The protocol of Durable Streams, in memory, published to in the same way: threadcast with \
         `--durable-streams`, and the crate durable-streams 0.1.5 with `--durability memory`. Each sends an \
         event with the data and another with the reader's position.\n\
         ³ The same on a disk: `--store FILE`, and `--durability wal`. Both sync the disk before they answer an \
         append or show it to a reader.\n"
    }
}

impl Result {
    pub fn new(workload: Workload, engines: impl Iterator<Item = Engine>) -> Self {
        let runs = |engine: Engine| Runs {
            engine: engine.name(),
            title: engine.title(),
            samples: Vec::new(),
            failures: Vec::new(),
        };
        Self { workload, engines: engines.map(runs).collect() }
    }

    /// Returns the table of this workload.
    pub fn table(&self) -> String {
        let columns = columns(&self.workload);
        let mut text =
            format!("## {}: {}\n\n| engine |", self.workload.name, self.workload.title());
        for column in &columns {
            let _ = write!(text, " {} |", column.title);
        }
        let _ = writeln!(text, "\n|---|{}", "--:|".repeat(columns.len()));
        let floor = self.engines.iter().find(|runs| runs.engine == Engine::Floor.name());
        for runs in &self.engines {
            let noisy = if runs.samples.iter().any(|sample| sample.noisy) { " ~" } else { "" };
            let _ = write!(text, "| {}{noisy} |", runs.title);
            for column in &columns {
                let mut value = runs.median(column.value);
                if column.to_floor {
                    let floor = floor.and_then(|floor| floor.median(column.value));
                    value = value.zip(floor).map(|(value, floor)| value / floor);
                }
                let cell = value.map_or("–".to_owned(), |value| digits(value, column.digits));
                let _ = write!(text, " {cell} |");
            }
            text.push('\n');
        }
        if self.workload.memory {
            text += &self.crossings();
        }
        for runs in &self.engines {
            for failure in &runs.failures {
                let _ = writeln!(text, "\n- {}: a run failed: {failure}", runs.engine);
            }
        }
        text
    }
}

impl Result {
    /// Returns sentences that compare threadcast with each peer that takes more memory without
    /// clients but less per client: up to how many clients does threadcast take less memory?
    fn crossings(&self) -> String {
        let line = |runs: &Runs| {
            let base = runs.median(|sample| Some(float(sample.base_rss)))?;
            let client = runs.median(|s| Some(s.rss_per_client + s.kernel_per_client))?;
            Some((base, client))
        };
        let direct = self.engines.iter().find(|runs| runs.engine == Engine::Direct.name());
        let Some((base, client)) = direct.and_then(line) else { return String::new() };
        let mut text = String::new();
        for peer in &self.engines {
            let Some((peer_base, peer_client)) = line(peer) else { continue };
            if peer_base > base && peer_client < client {
                let clients = (peer_base - base) / (client - peer_client);
                let clients = digits(clients, 0);
                let _ = writeln!(
                    text,
                    "\n- direct holds less memory than {} up to {clients} clients",
                    peer.engine
                );
            }
        }
        text
    }
}

impl Runs {
    fn median(&self, value: Value) -> Option<f64> {
        figures::median(self.samples.iter().filter_map(value))
    }
}

type Value = fn(&Sample) -> Option<f64>;

struct Column {
    title: &'static str,
    digits: usize,
    to_floor: bool,
    value: Value,
}

const fn column(title: &'static str, digits: usize, value: Value) -> Column {
    Column { title, digits, to_floor: false, value }
}

const KB: f64 = 1024.0;

/// Returns the columns of the table for `workload`.
fn columns(workload: &Workload) -> Vec<Column> {
    let mut columns = vec![
        column("µs CPU/event", 2, |s| s.cpu_us_per_event),
        Column { to_floor: true, ..column("× floor", 2, |s| s.cpu_us_per_event) },
        column("delivered/s", 0, |s| Some(s.delivered_per_second)),
        column("published %", 0, |s| Some(percent(s.published * s.answered as u64, s.offered))),
        column("lost %", 2, |s| Some(percent(s.lost, s.lost + s.delivered))),
        column("p50 ms", 1, |s| s.p50_ms),
        column("p99 ms", 1, |s| s.p99_ms),
        column("max ms", 1, |s| s.max_ms),
        column("voluntary/event", 3, |s| s.voluntary_per_event),
        column("involuntary/event", 3, |s| s.involuntary_per_event),
        column("server busy %", 0, |s| Some(s.server_busy * 100.0)),
        column("load busy %", 0, |s| Some(s.load_busy * 100.0)),
    ];
    if workload.rate >= 500 {
        columns.push(column("slowest/median", 2, |s| s.fairness));
    }
    if workload.at_once {
        columns.push(column("all heads s", 2, |s| s.heads_seconds));
        columns.push(column("all first events s", 2, |s| s.events_seconds));
    }
    if workload.newcomers > 0 {
        columns.extend([
            column("newcomers: first byte, median ms", 0, |s| s.newcomer_median_ms),
            column("max ms", 0, |s| s.newcomer_max_ms),
            column("others' p99 meanwhile ms", 1, |s| s.others_p99_ms),
        ]);
    }
    if workload.memory {
        columns.extend([
            column("threads", 0, |s| Some(float(s.threads as u64))),
            column("base RSS MB", 1, |s| Some(float(s.base_rss) / KB / KB)),
            column("RSS KB", 1, |s| Some(s.rss_per_client / KB)),
            column("kernel stack KB", 1, |s| Some(s.kernel_stack_per_client / KB)),
            column("page tables KB", 1, |s| Some(s.page_tables_per_client / KB)),
            column("slab KB", 1, |s| Some(s.slab_per_client / KB)),
            column("kernel in all KB", 1, |s| Some(s.kernel_per_client / KB)),
            column("RSS + kernel KB", 1, |s| Some((s.rss_per_client + s.kernel_per_client) / KB)),
            column("by MemAvailable KB", 1, |s| Some(s.whole_per_client / KB)),
            column("heads s", 2, |s| s.heads_seconds),
        ]);
    }
    if workload.frame > 64 {
        columns.extend([
            column("RSS growth KB", 0, |s| Some(signed(s.rss_growth) / KB)),
            column("send queue KB", 0, |s| s.stuck_send_queue.map(|bytes| float(bytes) / KB)),
            column("disconnected after s", 1, |s| s.stuck_cut_seconds),
        ]);
    }
    columns.push(column("rejected, closed", 0, |s| Some(float((s.refused + s.closed) as u64))));
    columns
}

fn percent(part: u64, whole: u64) -> f64 {
    float(part) * 100.0 / float(whole.max(1))
}
