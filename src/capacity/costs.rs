//! Computes the maximum memory of a server: for each client, and for everything else.
//!
//! The cost of each client is that of a client that does not read, because any client may stop
//! reading. For such a client, the server keeps unsent bytes, and the kernel keeps a full send
//! buffer and a receive buffer of bytes that the server has not read.

use std::fmt;

use super::{cgroup, system};
use crate::limits::{
    DURABLE_BUFFERS, DURABLE_TOTAL, DurableStreams, EVENT_EXPANSION, EVENT_OVERHEAD, Limits,
    PATTERNS_TOTAL, RECEIVE_BUFFER_HELD, SEND_BUFFER_HELD, STACK,
};
use crate::registry::{HISTORY_TOTAL, NAME_MAX, RegistryOptions};
use crate::stream::READ_LIMIT;

/// The memory of a client's thread and socket, in bytes.
///
/// The kernel's stack and objects (31 KB) and its send cache for the thread (33 KB) are measured in
/// `docs/performance.md`. The largest used part of the thread's own stack (36 KiB) is measured in
/// ARCHITECTURE.md.
const THREAD: u64 = 100 * 1024;

/// The part of [`THREAD`] that the kernel uses for a client before the first event, in bytes.
pub(super) const IDLE_KERNEL: u64 = 28 * 1024;

/// The address space of the two guards of a thread, in bytes: one below its stack, and one below
/// its signal stack.
///
/// This size and [`SIGNAL_STACK`] are measured with `VmSize`, and rounded up to pages of 4 KiB.
pub(super) const THREAD_GUARDS: u64 = 8 * 1024;
/// The address space of the signal stack of a thread, in bytes.
const SIGNAL_STACK: u64 = 24 * 1024;

/// The memory of a server without clients and events, in bytes (`docs/performance.md`).
const OWN: u64 = 8 << 20;

/// The memory of a channel without events, in bytes. It consists of the name, the tables and the
/// list of subscribers.
const CHANNEL: u64 = NAME_MAX as u64 + 1024;

/// The memory of a durable stream without bytes. It consists of the names of the stream and of its
/// source, the type, the tables and the list of waiting readers.
const DURABLE_STREAM: u64 = 2 * NAME_MAX as u64 + 2 * 1024;

/// The name of the cost of all durable streams.
const DURABLE: &str = "durable_streams";

/// One connection in this many is assumed to be a page request or a publisher instead of a stream.
const REQUESTS: u64 = 10;

/// One part of the cost of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cost {
    /// The name in `/status`.
    pub(crate) name: &'static str,
    /// Memory of the process or the kernel, in bytes.
    pub(crate) memory: u64,
    /// Address space of the process, in bytes.
    pub(crate) address_space: u64,
    /// A description, with the flag that changes the cost if there is one.
    pub(crate) what: &'static str,
}

/// The maximum cost of a server: the cost of each client, and the reserved cost of everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Costs {
    client: [Cost; 5],
    reserved: [Cost; 5],
    history_total: usize,
    durable_total: usize,
}

impl Costs {
    /// Computes the maximum cost of a server with these limits.
    ///
    /// `history_total` defaults to 256 MiB, or a quarter of this process's memory limit if that is
    /// less.
    pub(crate) fn new(limits: &Limits, max_channels: usize, history_total: Option<usize>) -> Self {
        let history_total = history_total.unwrap_or_else(|| HISTORY_TOTAL.min(memory_limit() / 4));
        let event = EVENT_EXPANSION * limits.event.min(1 << 40) + EVENT_OVERHEAD;
        // `READ_LIMIT` counts twice, because a growing buffer may take twice the size of its
        // contents.
        let unsent = (2 * READ_LIMIT).max(event) as u64;
        // The body counts twice: for itself, and for the event made from it.
        let request = limits.head.saturating_add(limits.body.saturating_mul(2)) as u64;
        let requests = request.saturating_sub(unsent) / REQUESTS;
        let cost = |name, memory, address_space, what| Cost { name, memory, address_space, what };
        let maps = STACK as u64 + SIGNAL_STACK + THREAD_GUARDS;
        let client = [
            cost("thread", THREAD, maps, "a thread, a socket and their kernel objects"),
            cost("send_buffer", SEND_BUFFER_HELD, 0, "sent but not received by the client"),
            cost("receive_buffer", RECEIVE_BUFFER_HELD, 0, "received but not read"),
            cost("unsent", unsent, unsent, "one unsent event: --event-limit"),
            cost("requests", requests, requests, "a tenth of a request, if longer: --body-limit"),
        ];
        let channels = CHANNEL.saturating_mul(max_channels as u64);
        let history = history_total as u64;
        let reserved = [
            cost("own", OWN, OWN, "the server without clients"),
            cost("histories", history, history, "all channels' events: --history-total"),
            cost("channels", channels, channels, "names and tables: --max-channels"),
            cost(
                "patterns",
                PATTERNS_TOTAL as u64,
                PATTERNS_TOTAL as u64,
                "compiled patterns of all streams",
            ),
            cost(DURABLE, 0, 0, "all durable streams: --durable-total, --durable-max"),
        ];
        Self { client, reserved, history_total, durable_total: 0 }
    }

    /// Adds the cost of durable streams, if the server has any. If they are in the store's file, their
    /// bytes take no memory, except the last ones for live readers.
    #[must_use]
    pub(crate) fn with_durable_streams(
        mut self,
        limits: Option<&DurableStreams>,
        are_in_file: bool,
    ) -> Self {
        let Some(limits) = limits else { return self };
        self.durable_total = limits.total.unwrap_or_else(|| DURABLE_TOTAL.min(memory_limit() / 4));
        let streams = DURABLE_STREAM.saturating_mul(limits.streams as u64);
        let bytes = if are_in_file {
            DURABLE_BUFFERS.saturating_add(limits.body)
        } else {
            self.durable_total
        };
        let all = streams.saturating_add(bytes as u64);
        // An event of a durable stream can have one message, which base64 or a growing buffer doubles.
        let message = (2 * limits.message.min(1 << 40)) as u64;
        for cost in &mut self.client {
            if cost.name == "unsent" && message > cost.memory {
                (cost.memory, cost.address_space) = (message, message);
                cost.what = "one unsent message: --durable-message-limit";
            }
        }
        for cost in &mut self.reserved {
            if cost.name == DURABLE {
                (cost.memory, cost.address_space) = (all, all);
            }
        }
        self
    }

    /// Returns the limit on the size of all durable streams together, in bytes.
    pub(crate) fn durable_total(&self) -> usize {
        self.durable_total
    }

    /// Returns the parts of the cost of a client that does not read.
    pub(crate) fn client(&self) -> &[Cost] {
        &self.client
    }

    /// Returns the parts of the reserved cost, which includes everything but the clients.
    pub(crate) fn reserved(&self) -> &[Cost] {
        let count = self.reserved.len() - usize::from(self.durable_total == 0);
        &self.reserved[..count]
    }

    /// Returns the limit on the total memory of all histories, in bytes.
    pub(crate) fn history_total(&self) -> usize {
        self.history_total
    }

    /// Returns the memory that a client takes, in bytes.
    pub(crate) fn client_memory(&self) -> u64 {
        self.client.iter().map(|cost| cost.memory).sum()
    }

    /// Returns the address space that a client takes, in bytes.
    pub(crate) fn client_address_space(&self) -> u64 {
        self.client.iter().map(|cost| cost.address_space).sum()
    }

    /// Returns the reserved memory, in bytes.
    pub(crate) fn reserved_memory(&self) -> u64 {
        self.reserved.iter().fold(0, |sum, cost| sum.saturating_add(cost.memory))
    }
}

impl Default for Costs {
    fn default() -> Self {
        let registry = RegistryOptions::default();
        Self::new(&Limits::default(), registry.max_channels, None)
    }
}

impl fmt::Display for Costs {
    /// Formats the table that `threadcast doctor` prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sections = [
            ("a client that does not read", &self.client[..], self.client_memory()),
            ("reserved for the rest", self.reserved(), self.reserved_memory()),
        ];
        for (title, costs, sum) in sections {
            writeln!(f, "{title:<28} {:>12}", "bytes")?;
            for Cost { name, memory, what, .. } in costs {
                writeln!(f, "  {name:<26} {memory:>12}  {what}")?;
            }
            writeln!(f, "  {:<26} {sum:>12}", "sum")?;
        }
        Ok(())
    }
}

/// Returns the smallest limit on the memory of this process, in bytes.
fn memory_limit() -> usize {
    let mut readings = cgroup::bounds();
    readings.extend(system::memory());
    readings.extend(system::address_space(system::SELF));
    readings.extend(system::data(system::SELF));
    readings.retain(|reading| reading.unit.is_bytes());
    let smallest = readings.iter().map(|reading| reading.limit).min().unwrap_or(u64::MAX);
    usize::try_from(smallest).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_maps_at_most_the_counted_address_space() {
        let mapped = || system::kilobytes(system::SELF, "VmSize:").expect("this is Linux") * 1024;
        let (end, ended) = crossbeam_channel::bounded::<()>(0);
        let (start, started) = crossbeam_channel::bounded(64);
        let before = mapped();
        let threads: Vec<_> = (0..64)
            .map(|_| {
                let (start, ended) = (start.clone(), ended.clone());
                let thread = std::thread::Builder::new().stack_size(STACK);
                thread.spawn(move || {
                    let _ = start.send(());
                    let _ = ended.recv();
                })
            })
            .collect();
        started.iter().take(64).for_each(drop);
        let each = mapped().saturating_sub(before) / 64;
        drop(end);
        for thread in threads {
            thread.expect("the thread starts").join().expect("the thread does not panic");
        }
        let counted = Costs::default().client[0].address_space;
        // The tolerance is needed because threads of other tests start and end during the
        // measurement, and the allocator may create arenas.
        let arenas = 16 * (64 << 20) / 64;
        assert!(each <= counted + arenas, "{each} bytes are mapped, {counted} are counted");
    }

    #[test]
    fn longer_events_make_a_client_cost_more() {
        let long = Limits { event: 1 << 20, ..Limits::default() };
        let costs = Costs::new(&long, 10_000, None);
        assert!(costs.client_memory() > Costs::default().client_memory());
    }

    #[test]
    fn durable_streams_are_counted_only_if_there_are_any() {
        let without = Costs::default();
        assert!(without.reserved().iter().all(|cost| cost.name != DURABLE));
        let limits =
            DurableStreams { streams: 10, total: Some(1 << 20), ..DurableStreams::default() };
        let with = without.with_durable_streams(Some(&limits), false);
        let more = with.reserved_memory() - without.reserved_memory();
        assert_eq!(more, (1 << 20) + 10 * DURABLE_STREAM);
        assert!(with.client_memory() > without.client_memory(), "a message is not counted");
    }

    #[test]
    fn durable_streams_in_a_file_take_only_their_buffers() {
        let total = Some(1 << 40);
        let limits =
            DurableStreams { streams: 10, total, body: 1 << 20, ..DurableStreams::default() };
        let costs = Costs::default().with_durable_streams(Some(&limits), true);
        let more = costs.reserved_memory() - Costs::default().reserved_memory();
        assert_eq!(more, DURABLE_BUFFERS as u64 + (1 << 20) + 10 * DURABLE_STREAM);
        assert_eq!(costs.durable_total(), 1 << 40);
    }

    #[test]
    fn histories_take_at_most_a_quarter_of_the_memory() {
        assert!(Costs::default().history_total() <= memory_limit() / 4);
        assert_eq!(Costs::new(&Limits::default(), 10, Some(7)).history_total(), 7);
    }
}
