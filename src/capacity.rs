//! Computes the capacity: how many clients this process can hold, and which limit determines it.
//!
//! A client takes one thread, one descriptor, and memory. Limits on these resources exist for the
//! process, its user, its control groups and the kernel. This module reads every limit, subtracts
//! the current use, and divides the remainder by the cost of a client. The smallest result is the
//! capacity.

mod cgroup;
mod costs;
mod reading;
mod system;

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub(crate) use self::costs::Cost;
pub(crate) use self::costs::Costs;
use self::costs::{IDLE_KERNEL, THREAD_GUARDS};
use self::reading::{Reading, Unit};
use self::system::SELF;
use crate::broadcast::default_broadcasters;

/// The descriptors and threads of a server without clients.
///
/// The descriptors, besides standard input, output and error, are: one for epoll, one each that ends
/// the disconnects thread, starts the drain and stops the accepting threads, and two for signals. In
/// addition, each listen address takes two descriptors (a listener and a reserve) and one thread, and
/// each broadcaster takes one thread.
const OWN_DESCRIPTORS: u64 = 6;
const OWN_THREADS: u64 = 5;

/// The stack of each of the server's own threads, in bytes: the standard library's default.
const OWN_STACK: u64 = 2 << 20;

/// The minimum number of connections reserved for page requests and publishers. The reserve is a
/// tenth of the capacity if a tenth is more.
const RESERVE: usize = 4;

/// One limit on the number of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    /// The limit's name in Linux: `RLIMIT_NOFILE`, `pids.max`, …
    pub(crate) name: &'static str,
    /// The limit itself, in descriptors, threads, mappings or bytes.
    pub(crate) limit: u64,
    /// The part of the limit that is used by anything but this server's clients, in the same unit.
    pub(crate) used: u64,
    /// How many clients the unused part of the limit permits.
    pub(crate) clients: usize,
    /// The setting or command that raises the limit.
    pub(crate) raise: String,
}

/// The number of clients that a server can hold on this machine, with the limits that determine it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// All limits that could be read, the smallest number of clients first.
    bounds: Vec<Bound>,
}

impl Capacity {
    /// Returns the capacity of a server that has not started yet and will listen on this many
    /// addresses, with the default number of broadcasters.
    pub(crate) fn of_new_server(costs: &Costs, addresses: usize) -> Self {
        Self::with_broadcasters(costs, addresses, default_broadcasters())
    }

    /// Returns the capacity of a server that has not started yet.
    pub(crate) fn with_broadcasters(costs: &Costs, addresses: usize, broadcasters: usize) -> Self {
        Self::of_new(Share::of(costs), Some(costs), addresses, broadcasters)
    }

    /// Returns the capacity of another server that has not started yet, will listen on one address,
    /// and takes `share` for each client.
    pub(crate) fn of_new_process(share: Share) -> Self {
        Self::of_new(share, None, 1, 1)
    }

    fn of_new(share: Share, costs: Option<&Costs>, addresses: usize, broadcasters: usize) -> Self {
        let threads = own_threads(addresses, broadcasters);
        let addresses = addresses as u64;
        let own = Own {
            descriptors: OWN_DESCRIPTORS + 2 * addresses,
            threads: threads - 1, // one thread, the current one, already counts as used
            stacks: threads,
            ..Own::reserved(costs, threads)
        };
        Self::measure(SELF, share, &own)
    }

    /// Returns the capacity of the server that runs in this process, listens on this many addresses
    /// and has this many broadcasters. `clients` is the server's current number of clients.
    pub(crate) fn of_running_server(
        costs: &Costs,
        addresses: usize,
        broadcasters: usize,
        clients: usize,
    ) -> Self {
        let threads = own_threads(addresses, broadcasters);
        let own = Own { clients: clients as u64, ..Own::reserved(Some(costs), threads) };
        Self::measure(SELF, Share::of(costs), &own)
    }

    /// Returns the capacity of a server in another process. The server must have no clients, and
    /// its process must be in the same control group as this process.
    pub(crate) fn of_process(process: u32, share: Share) -> Self {
        Self::measure(&process.to_string(), share, &Own::default())
    }

    /// Returns the capacity: the number of clients that the smallest limit permits.
    pub(crate) fn clients(&self) -> usize {
        self.binding().clients
    }

    /// Returns the limit that is reached first.
    pub(crate) fn binding(&self) -> &Bound {
        &self.bounds[0]
    }

    /// Returns all limits that could be read, the smallest number of clients first.
    pub(crate) fn bounds(&self) -> &[Bound] {
        &self.bounds
    }

    /// Returns the maximum number of streams: the requested number, or by default the capacity
    /// without the reserve.
    ///
    /// A tenth of the capacity (at least four connections) is reserved, so that the server can
    /// always respond to page requests and publishers. If more streams are requested than remain,
    /// the requested number is reduced to the remainder.
    pub(crate) fn max_clients(&self, requested: Option<usize>) -> usize {
        let capacity = self.clients();
        let most = (capacity * 9 / 10).min(capacity.saturating_sub(RESERVE)).max(1);
        requested.map_or(most, |requested| requested.min(most))
    }

    fn measure(process: &str, share: Share, own: &Own) -> Self {
        let readings = [
            system::descriptors(process),
            system::user_threads(process),
            system::mappings(process),
            system::memory(),
            system::address_space(process),
            system::data(process),
        ];
        let readings =
            readings.into_iter().flatten().chain(system::threads()).chain(cgroup::bounds());
        let mut bounds: Vec<Bound> = readings.map(|reading| reading.bound(own, share)).collect();
        bounds.sort_by_key(|bound| bound.clients);
        Self { bounds }
    }
}

impl fmt::Display for Capacity {
    /// Formats the table that `threadcast doctor` prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (clients, most) = (self.clients(), self.max_clients(None));
        writeln!(f, "Capacity: {clients} clients.")?;
        writeln!(
            f,
            "--max-clients defaults to {most}; the remainder is reserved for pages and publishing.\n"
        )?;
        writeln!(f, "{:<24} {:>16} {:>14} {:>12}", "limit", "value", "used", "clients")?;
        for bound in &self.bounds {
            let Bound { name, limit, used, clients, .. } = bound;
            writeln!(f, "{name:<24} {limit:>16} {used:>14} {clients:>12}")?;
        }
        let Bound { name, raise, .. } = self.binding();
        write!(f, "\n{name} is reached first. To raise it:\n\n    {raise}")
    }
}

/// Raises this process's soft limits on descriptors and threads to its hard limits, which needs no
/// privilege. Logs a warning if this fails.
pub fn raise_own_limits() {
    for resource in [Resource::Nofile, Resource::Nproc] {
        let Rlimit { current, maximum } = getrlimit(resource);
        if current != maximum
            && let Err(error) = setrlimit(resource, Rlimit { current: maximum, maximum })
        {
            log::warn!("cannot raise the soft limit {resource:?}: {error}");
        }
    }
}

/// The resources that one client takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// The number of descriptors.
    pub(crate) descriptors: u64,
    /// The number of threads.
    pub(crate) threads: u64,
    /// The memory, in bytes.
    pub(crate) memory: u64,
    /// The address space, in bytes.
    pub(crate) address_space: u64,
}

impl Share {
    /// Returns the resources that a client of threadcast takes.
    pub(crate) fn of(costs: &Costs) -> Self {
        let address_space = costs.client_address_space();
        Self { descriptors: 1, threads: 1, memory: costs.client_memory(), address_space }
    }

    fn units(self, unit: Unit) -> u64 {
        match unit {
            Unit::Descriptor => self.descriptors,
            Unit::Thread => self.threads,
            Unit::Mapping { of_thread } => self.threads * of_thread,
            Unit::Byte => self.memory,
            Unit::Address | Unit::Data => self.address_space,
        }
    }
}

/// Returns the number of threads of a server without clients.
fn own_threads(addresses: usize, broadcasters: usize) -> u64 {
    OWN_THREADS + (addresses + broadcasters) as u64
}

/// The resources that the server itself takes or will take soon, and the current number of its
/// clients.
#[derive(Debug, Default)]
struct Own {
    clients: u64,
    descriptors: u64,
    threads: u64,
    /// The number of threads whose stacks do not exist yet.
    stacks: u64,
    /// The reserved memory, in bytes. A part of this memory may not be in use yet.
    memory: u64,
    /// The resident memory of this process, in bytes. It belongs to the reserved memory or to the
    /// clients' memory, so it must not count again as used.
    held: u64,
    /// The address space of the server's own threads and of the reserved memory, in bytes.
    address_space: u64,
}

impl Own {
    fn reserved(costs: Option<&Costs>, threads: u64) -> Self {
        let Some(costs) = costs else { return Self::default() };
        let memory = costs.reserved_memory();
        let stacks = threads * OWN_STACK;
        let held = system::resident();
        Self { memory, held, address_space: memory + stacks, ..Self::default() }
    }
}

impl Reading {
    fn bound(self, own: &Own, share: Share) -> Bound {
        let Self { name, limit, used, unit, raise } = self;
        let each = share.units(unit);
        let (own_use, clients_use) = match unit {
            Unit::Descriptor => (own.descriptors, own.clients * each),
            Unit::Thread => (own.threads, own.clients * each),
            Unit::Mapping { of_thread } => (own.stacks * of_thread, own.clients * each),
            // A client may currently use less memory than its computed maximum. So the clients'
            // current use is subtracted below, and their maximum is counted instead.
            Unit::Byte => (own.memory, 0),
            Unit::Address => (own.address_space, own.clients * THREAD_GUARDS),
            Unit::Data => (own.address_space, 0),
        };
        let now = match unit {
            Unit::Byte => used.saturating_sub(own.held + own.clients * IDLE_KERNEL),
            _ => used.saturating_sub(clients_use),
        };
        let used = now + own_use;
        // If a client takes none of this resource, the limit does not restrict the number of
        // clients.
        let clients = limit.saturating_sub(used).checked_div(each).unwrap_or(u64::MAX);
        let clients = usize::try_from(clients).unwrap_or(usize::MAX);
        Bound { name, limit, used, clients, raise: raise.replace("{}", &(limit * 2).to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_by_others_reduces_capacity_use_by_clients_does_not() {
        let reading =
            |unit| Reading { name: "x", limit: 1_000, used: 500, unit, raise: "x={}".into() };
        let own = Own { clients: 100, descriptors: 20, ..Own::default() };
        let share = Share { descriptors: 1, threads: 1, memory: 50, address_space: 0 };
        let bound = reading(Unit::Descriptor).bound(&own, share);
        assert_eq!((bound.used, bound.clients), (420, 580));
        assert_eq!(bound.raise, "x=2000");
        assert_eq!(reading(Unit::Mapping { of_thread: 4 }).bound(&own, share).clients, 900 / 4);
        assert_eq!(reading(Unit::Byte).bound(&Own::default(), share).clients, 10);
    }

    #[test]
    fn capacity_depends_on_the_units_that_a_client_takes() {
        let clients = |threads| {
            let share = Share { descriptors: 1, threads, ..Share::default() };
            let reading = Reading {
                name: "x",
                limit: 1_000,
                used: 0,
                unit: Unit::Thread,
                raise: String::new(),
            };
            reading.bound(&Own::default(), share).clients
        };
        assert_eq!([clients(1), clients(2), clients(0)], [1_000, 500, usize::MAX]);
    }

    #[test]
    fn capacity_of_another_process_uses_its_limits() {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "ulimit -n 100; echo; read line"]);
        shell.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut shell = shell.spawn().expect("there is a shell");
        let out = shell.stdout.as_mut().expect("it is piped");
        std::io::Read::read_exact(out, &mut [0]).expect("it has set its limit");
        let share = Share { descriptors: 1, memory: 1, ..Share::default() };
        let capacity = Capacity::of_process(shell.id(), share);
        let Bound { name, limit, used, clients, .. } = capacity.binding();
        assert_eq!((*name, *limit, *clients as u64), ("RLIMIT_NOFILE", 100, 100 - used));
        assert!((3..50).contains(used), "{used}");
        drop(shell.stdin.take());
        shell.wait().expect("it ends");
    }

    #[test]
    fn max_clients_leaves_a_reserve() {
        let capacity = |clients| Capacity {
            bounds: vec![Bound { name: "x", limit: 0, used: 0, clients, raise: String::new() }],
        };
        assert_eq!(capacity(1_000).max_clients(None), 900);
        assert_eq!(capacity(1_000).max_clients(Some(10)), 10);
        assert_eq!(capacity(1_000).max_clients(Some(5_000)), 900);
        assert_eq!(capacity(10).max_clients(None), 6);
        assert_eq!(capacity(0).max_clients(None), 1);
    }

    #[test]
    fn new_and_running_server_have_nearly_equal_capacity() {
        let (new, running) = (
            Capacity::of_new_server(&Costs::default(), 1),
            Capacity::of_running_server(&Costs::default(), 1, 1, 0),
        );
        for bound in new.bounds() {
            assert!(bound.clients >= new.clients(), "{bound:?}");
            let same = running.bounds().iter().find(|other| other.name == bound.name).unwrap();
            let off = bound.clients.abs_diff(same.clients);
            assert!(off * 20 <= bound.clients, "{bound:?} {same:?}");
        }
    }
}
