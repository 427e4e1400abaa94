//! The workloads under which all engines are measured.

use serde::Serialize;

/// One workload: a number of clients, and the traffic they receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Workload {
    pub name: &'static str,
    pub clients: usize,
    /// The number of additional clients, which read nothing.
    pub stuck: usize,
    /// The number of events per second. Each event is sent to every client.
    pub rate: u32,
    /// The size of an event's frame in bytes, without the chunked encoding around it.
    pub frame: usize,
    /// Whether events are published before the first client connects, so that the time of a
    /// client's first event shows when the server accepted the client.
    pub at_once: bool,
    /// The number of clients that connect at once after the measurement, while the others read on.
    pub newcomers: usize,
    /// Whether memory is measured. This makes sense only if the events are so few that almost all
    /// of the server's memory is used for its clients.
    pub memory: bool,
}

const SMALL: usize = 64;

const PLAIN: Workload = Workload {
    name: "",
    clients: 1_000,
    stuck: 0,
    rate: 1,
    frame: SMALL,
    at_once: false,
    newcomers: 0,
    memory: false,
};

/// All workloads, in the order in which they run.
pub const ALL: [Workload; 10] = [
    Workload { name: "1-at-50", clients: 1, rate: 50, ..PLAIN },
    Workload { name: "1k-at-1", memory: true, ..PLAIN },
    Workload { name: "1k-at-50", rate: 50, ..PLAIN },
    Workload { name: "1k-at-500", rate: 500, ..PLAIN },
    Workload { name: "1k-at-10k", rate: 10_000, ..PLAIN },
    Workload { name: "10k-at-1", clients: 10_000, memory: true, ..PLAIN },
    // With five events per second, the time of acceptance is measured with a precision of 0.2 s,
    // and every engine has time to accept clients between two events.
    Workload { name: "10k-at-once", clients: 10_000, rate: 5, at_once: true, ..PLAIN },
    // More events than one core can send, so that the newcomers compete with them.
    Workload { name: "5k-newcomers", clients: 5_000, rate: 100, newcomers: 500, ..PLAIN },
    // These two workloads show how one client that reads nothing affects fifty that read.
    Workload { name: "50-reading", clients: 50, rate: 1_000, frame: 1024, ..PLAIN },
    Workload { name: "50-and-1-stuck", clients: 50, rate: 1_000, frame: 1024, stuck: 1, ..PLAIN },
];

impl Workload {
    /// Returns a description of the workload for the report.
    pub fn title(&self) -> String {
        let size = if self.frame == SMALL { "" } else { " of 1 KiB" };
        let once = if self.at_once { " connecting at once," } else { "," };
        let stuck = if self.stuck > 0 { ", one more reads nothing" } else { "" };
        let newcomers = match self.newcomers {
            0 => String::new(),
            newcomers => format!(", then {newcomers} newcomers at once"),
        };
        let Self { clients, rate, .. } = self;
        format!("{clients} clients{once} {rate} events/s{size}{stuck}{newcomers}")
    }

    /// Returns the number of events per second during the warm-up. Unless `at_once` is set, it is
    /// high enough that 50 clients or more together read 50,000 events per second.
    pub fn warm_up_rate(&self) -> u32 {
        let enough = 50_000 / u32::try_from(self.clients.max(50)).unwrap_or(u32::MAX);
        if self.at_once { self.rate } else { self.rate.max(enough) }
    }

    /// Whether the traffic is so slow that every client has received an event before the next event
    /// is published. Then the counts and the resource use can be read while no event is in flight.
    pub fn has_pauses(&self) -> bool {
        self.rate <= 10
    }
}
