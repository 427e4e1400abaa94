//! What memory a server is built to take: in all, and for each client.
//!
//! A client is counted as one that does not read, because that is what a stranger can make of
//! it: its send buffer is full, what it was sent last waits behind that, and its receive buffer
//! holds unread bytes.

use std::fmt;

use super::{cgroup, system};
use crate::limits::{
    EVENT_EXPANSION, EVENT_OVERHEAD, Limits, PATTERNS_TOTAL, RECEIVE_BUFFER_HELD, SEND_BUFFER_HELD,
    STACK,
};
use crate::registry::{HISTORY_TOTAL, NAME_MAX, RegistryOptions};
use crate::stream::READ_LIMIT;

/// What a client's thread and socket cost, in bytes: the kernel's stack and objects (31 KB) and its
/// send cache for the thread (33 KB) as measured in `docs/performance.md`, and of the thread's own
/// stack the 36 KiB that were touched at most (ARCHITECTURE.md).
const THREAD: u64 = 100 * 1024;

/// Of that, what the kernel holds for a client that was sent nothing, in bytes.
pub(super) const IDLE_KERNEL: u64 = 28 * 1024;

/// What a thread maps besides its stack: the guard of the stack, and the signal stack with its
/// own guard. As measured by `VmSize`, rounded up to whole pages of 4 KiB.
pub(super) const THREAD_GUARDS: u64 = 8 * 1024;
const SIGNAL_STACK: u64 = 24 * 1024;

/// What a server without clients and events holds, in bytes (`docs/performance.md`).
const OWN: u64 = 8 << 20;

/// What a channel without events costs, in bytes: its name, its tables, its subscribers' list.
const CHANNEL: u64 = NAME_MAX as u64 + 1024;

/// One connection in so many is not a stream: the rest of the capacity that is kept for pages and
/// publishing.
const REQUESTS: u64 = 10;

/// A part of what a server costs.
///
/// ```
/// use threadcast::Costs;
///
/// let costs = Costs::default();
/// assert!(costs.client().iter().any(|cost| cost.name == "send_buffer" && cost.memory > 0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Its name in `/status`.
    pub name: &'static str,
    /// Memory, in bytes: the process's or the kernel's.
    pub memory: u64,
    /// Address space of the process, in bytes.
    pub address_space: u64,
    /// What it is, and how to change it.
    pub what: &'static str,
}

/// What a server is built to cost at most.
///
/// ```
/// use threadcast::{Costs, Limits};
///
/// let large = Limits { event: 1 << 20, ..Limits::default() };
/// let costs = Costs::new(&large, 10_000, None);
/// assert!(costs.client_memory() > Costs::default().client_memory());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Costs {
    client: [Cost; 5],
    reserved: [Cost; 4],
    history_total: usize,
}

impl Costs {
    /// What a server with these bounds costs at most. Without a bound on the sum of its histories,
    /// that is 256 MiB or a quarter of the memory that this process may have.
    pub fn new(limits: &Limits, max_channels: usize, history_total: Option<usize>) -> Self {
        let history_total = history_total.unwrap_or_else(|| HISTORY_TOTAL.min(memory_limit() / 4));
        // A buffer that grows may take twice what is in it.
        let event = EVENT_EXPANSION * limits.event.min(1 << 40) + EVENT_OVERHEAD;
        let unsent = (2 * READ_LIMIT).max(event) as u64;
        // The body as it came, and the event made of it.
        let request = limits.head.saturating_add(limits.body.saturating_mul(2)) as u64;
        let requests = request.saturating_sub(unsent) / REQUESTS;
        let cost = |name, memory, address_space, what| Cost { name, memory, address_space, what };
        let maps = STACK as u64 + SIGNAL_STACK + THREAD_GUARDS;
        let client = [
            cost("thread", THREAD, maps, "a thread, a socket, their kernel objects"),
            cost("send_buffer", SEND_BUFFER_HELD, 0, "sent, and not taken by the client"),
            cost("receive_buffer", RECEIVE_BUFFER_HELD, 0, "received but not read"),
            cost("unsent", unsent, unsent, "one unsent event: --event-limit"),
            cost("requests", requests, requests, "a tenth of a longer request: --body-limit"),
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
        ];
        Self { client, reserved, history_total }
    }

    /// What a client costs that does not read.
    pub fn client(&self) -> &[Cost] {
        &self.client
    }

    /// What is reserved for everything else.
    pub fn reserved(&self) -> &[Cost] {
        &self.reserved
    }

    /// The bound on the sum of all histories, in bytes.
    pub fn history_total(&self) -> usize {
        self.history_total
    }

    /// What a client costs of the machine's memory, in bytes.
    pub fn client_memory(&self) -> u64 {
        self.client.iter().map(|cost| cost.memory).sum()
    }

    /// What a client costs of the process's address space, in bytes.
    pub fn client_address_space(&self) -> u64 {
        self.client.iter().map(|cost| cost.address_space).sum()
    }

    /// What is reserved of the machine's memory, in bytes.
    pub fn reserved_memory(&self) -> u64 {
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
    /// What `threadcast doctor` prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sections = [
            ("a client that does not read", &self.client[..], self.client_memory()),
            ("reserved for the rest", &self.reserved[..], self.reserved_memory()),
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

/// How much memory this process may have, in bytes, by the least of all bounds on it.
fn memory_limit() -> usize {
    let bounds =
        [system::memory(), system::address_space(system::SELF), system::data(system::SELF)];
    let bytes = cgroup::bounds().into_iter().chain(bounds.into_iter().flatten());
    let bytes = bytes.filter(|reading| reading.unit.is_bytes()).map(|reading| reading.limit).min();
    usize::try_from(bytes.unwrap_or(u64::MAX)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_maps_no_more_than_is_counted() {
        let mapped = || system::kilobytes(system::SELF, "VmSize:").expect("this is Linux") * 1024;
        let (end, ended) = crossbeam_channel::bounded::<()>(0);
        let (tell, told) = crossbeam_channel::bounded(64);
        let before = mapped();
        let threads: Vec<_> = (0..64)
            .map(|_| {
                let (tell, ended) = (tell.clone(), ended.clone());
                let thread = std::thread::Builder::new().stack_size(STACK);
                thread.spawn(move || {
                    let _ = tell.send(());
                    let _ = ended.recv();
                })
            })
            .collect();
        told.iter().take(64).for_each(drop);
        let each = mapped().saturating_sub(before) / 64;
        drop(end);
        for thread in threads {
            thread.expect("there is room for it").join().expect("it does not panic");
        }
        let counted = Costs::default().client[0].address_space;
        // Other tests' threads come and go meanwhile, and an arena may be made.
        let arenas = 16 * (64 << 20) / 64;
        assert!(each <= counted + arenas, "{each} bytes are mapped, {counted} are counted");
    }

    #[test]
    fn the_histories_take_a_quarter_of_the_memory_at_most() {
        assert!(Costs::default().history_total() <= memory_limit() / 4);
        assert_eq!(Costs::new(&Limits::default(), 10, Some(7)).history_total(), 7);
    }
}
