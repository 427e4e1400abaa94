//! The workloads that the peers serve.

use serde::Serialize;

/// One workload: a number of clients, and the traffic they receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Workload {
    pub name: &'static str,
    pub clients: usize,
    /// Additional clients that read nothing.
    pub stuck: usize,
    /// Events per second, each sent to every client.
    pub rate: u32,
    /// Bytes of an event's frame, without chunk framing.
    pub frame: usize,
    /// Whether events flow before the first client connects, so that the last client's first event
    /// shows when it was accepted.
    pub at_once: bool,
    /// Whether memory is measured: the events are few enough that the server's memory is its
    /// clients'.
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
    memory: false,
};

/// All workloads, in the order in which they run.
pub const ALL: [Workload; 8] = [
    Workload { name: "1k-at-1", memory: true, ..PLAIN },
    Workload { name: "1k-at-50", rate: 50, ..PLAIN },
    Workload { name: "1k-at-500", rate: 500, ..PLAIN },
    Workload { name: "1k-at-10k", rate: 10_000, ..PLAIN },
    Workload { name: "10k-at-1", clients: 10_000, memory: true, ..PLAIN },
    // Five events per second measure the acceptance to 0.2 s and leave every peer time to accept.
    Workload { name: "10k-at-once", clients: 10_000, rate: 5, at_once: true, ..PLAIN },
    // This pair shows how one client that reads nothing affects fifty that read.
    Workload { name: "50-reading", clients: 50, rate: 1_000, frame: 1024, ..PLAIN },
    Workload { name: "50-and-1-stuck", clients: 50, rate: 1_000, frame: 1024, stuck: 1, ..PLAIN },
];

impl Workload {
    /// A description of the workload.
    pub fn title(&self) -> String {
        let size = if self.frame == SMALL { "" } else { " of 1 KiB" };
        let once = if self.at_once { " connecting at once," } else { "," };
        let stuck = if self.stuck > 0 { ", one more reads nothing" } else { "" };
        let Self { clients, rate, .. } = self;
        format!("{clients} clients{once} {rate} events/s{size}{stuck}")
    }

    /// Events per second during the warm-up: at least 50,000 deliveries per second.
    pub fn warm_up_rate(&self) -> u32 {
        let enough = 50_000 / u32::try_from(self.clients.max(1)).unwrap_or(u32::MAX);
        if self.at_once { self.rate } else { self.rate.max(enough) }
    }

    /// Whether the traffic has pauses, in which all events have arrived, so that the counts and the
    /// resource use refer to the same events.
    pub fn has_pauses(&self) -> bool {
        self.rate <= 10
    }
}
