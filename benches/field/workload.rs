//! What the peers are asked to do.

use serde::Serialize;

/// One row of the specification: so many clients, so many events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Workload {
    pub name: &'static str,
    pub clients: usize,
    /// Clients on top of these that read nothing.
    pub stuck: usize,
    /// Events a second, each to every client.
    pub rate: u32,
    /// Bytes of an event's frame, chunk framing not counted.
    pub frame: usize,
    /// The events flow before the first client comes, so that the last one's first event dates its
    /// arrival.
    pub at_once: bool,
    /// Few enough events that the server's memory is the clients' alone.
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

/// All workloads, in the order they run.
pub const ALL: [Workload; 8] = [
    Workload { name: "1k-at-1", memory: true, ..PLAIN },
    Workload { name: "1k-at-50", rate: 50, ..PLAIN },
    Workload { name: "1k-at-500", rate: 500, ..PLAIN },
    Workload { name: "1k-at-10k", rate: 10_000, ..PLAIN },
    Workload { name: "10k-at-1", clients: 10_000, memory: true, ..PLAIN },
    // Five a second date the arrival to 0.2 s and leave every peer time to accept.
    Workload { name: "10k-at-once", clients: 10_000, rate: 5, at_once: true, ..PLAIN },
    // The pair shows what one client that reads nothing does to fifty that read.
    Workload { name: "50-reading", clients: 50, rate: 1_000, frame: 1024, ..PLAIN },
    Workload { name: "50-and-1-stuck", clients: 50, rate: 1_000, frame: 1024, stuck: 1, ..PLAIN },
];

impl Workload {
    /// What the workload is, in words.
    pub fn title(&self) -> String {
        let size = if self.frame == SMALL { "" } else { " of 1 KiB" };
        let once = if self.at_once { " connecting at once," } else { "," };
        let stuck = if self.stuck > 0 { ", one more reads nothing" } else { "" };
        let Self { clients, rate, .. } = self;
        format!("{clients} clients{once} {rate} events/s{size}{stuck}")
    }

    /// Events a second before the measuring begins: 50,000 deliveries a second at least.
    pub fn warm_up_rate(&self) -> u32 {
        let enough = 50_000 / u32::try_from(self.clients.max(1)).unwrap_or(u32::MAX);
        if self.at_once { self.rate } else { self.rate.max(enough) }
    }

    /// Between two ticks nothing moves: what was counted and what was spent belong together.
    pub fn has_pauses(&self) -> bool {
        self.rate <= 10
    }
}
