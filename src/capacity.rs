//! How many clients this process can hold, and what it is that ends it.
//!
//! A client is a thread and a descriptor, and both are bounded in more places than
//! anybody remembers: by the process, its user, its control group, the kernel. Each
//! bound is read, what is used of it already is taken off, and what is left is
//! divided by what a client costs. The least of them is the capacity.

mod cgroup;
mod costs;
mod system;

use std::fmt;
use std::fs;
use std::str::FromStr;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use self::costs::{Cost, Costs};
use self::costs::{IDLE_KERNEL, THREAD_GUARDS};
use self::system::SELF;

/// What a server uses before its first client: descriptors besides standard input,
/// output and error (epoll, the watcher's end, the drain event, two for signals; a
/// listener and a reserve for each address), and threads (six, and one for each address).
const OWN_DESCRIPTORS: u64 = 5;
const OWN_THREADS: u64 = 6;

/// What a thread of the server's own maps: the standard library's default stack, in bytes.
const OWN_STACK: u64 = 2 << 20;

/// What is kept from streams, so that pages and publishing are always answered: a
/// tenth of the capacity, and these many at least.
const RESERVE: usize = 4;

/// One bound on the number of clients.
///
/// ```
/// use threadcast::{Capacity, Costs};
///
/// let capacity = Capacity::of_a_server(&Costs::default(), 1);
/// let first = capacity.binding();
/// assert!(capacity.bounds().iter().all(|bound| bound.clients >= first.clients));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// What the system calls it: `RLIMIT_NOFILE`, `pids.max`, …
    pub name: &'static str,
    /// The bound itself: descriptors, threads, mappings or bytes.
    pub limit: u64,
    /// What is used of it by anything but clients.
    pub used: u64,
    /// How many clients that leaves room for.
    pub clients: usize,
    /// The line that raises it.
    pub raise: String,
}

/// How many clients a server can hold here.
///
/// ```
/// use threadcast::{Capacity, Costs};
///
/// let capacity = Capacity::of_a_server(&Costs::default(), 1);
/// let bound = capacity.binding();
/// println!("{} clients, by {}: {}", capacity.clients(), bound.name, bound.raise);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// Every bound that could be read, the least first.
    bounds: Vec<Bound>,
}

impl Capacity {
    /// The capacity of a server that has not started yet, on this many addresses.
    pub fn of_a_server(costs: &Costs, addresses: usize) -> Self {
        Self::to_come(Share::of(costs), Some(costs), addresses)
    }

    /// The same of any engine that has not started, of which a client takes this much.
    pub(crate) fn to_come(share: Share, costs: Option<&Costs>, addresses: usize) -> Self {
        let addresses = addresses as u64;
        let threads = OWN_THREADS + addresses;
        let own = Own {
            descriptors: OWN_DESCRIPTORS + 2 * addresses,
            threads: threads - 1, // one runs already: it reads this
            mappings: threads * MAPPINGS,
            ..Own::reserved(costs, addresses)
        };
        Self::measure(SELF, share, &own)
    }

    /// The capacity of the server that runs in this process on this many addresses, and holds
    /// this many clients now.
    pub(crate) fn of_this_server(costs: &Costs, addresses: usize, clients: usize) -> Self {
        let own = Own { clients: clients as u64, ..Own::reserved(Some(costs), addresses as u64) };
        Self::measure(SELF, Share::of(costs), &own)
    }

    /// The capacity of a server that runs in another process, in the same control
    /// group as we, and holds nobody yet.
    pub(crate) fn of_the_process(process: u32, share: Share) -> Self {
        Self::measure(&process.to_string(), share, &Own::default())
    }

    /// How many clients that is: what the least bound leaves room for.
    pub fn clients(&self) -> usize {
        self.binding().clients
    }

    /// The bound that is reached first.
    pub fn binding(&self) -> &Bound {
        &self.bounds[0]
    }

    /// All bounds that could be read, the least first.
    pub fn bounds(&self) -> &[Bound] {
        &self.bounds
    }

    /// How many streams there may be, so that pages and publishing are always
    /// answered: as many as are asked for, but a tenth of the capacity is kept.
    pub fn max_clients(&self, asked: Option<usize>) -> usize {
        let capacity = self.clients();
        let most = (capacity * 9 / 10).min(capacity.saturating_sub(RESERVE)).max(1);
        asked.map_or(most, |asked| asked.min(most))
    }

    fn measure(process: &str, share: Share, own: &Own) -> Self {
        let bounds = [
            system::descriptors(process),
            system::user_threads(process),
            system::mappings(process),
            system::memory(),
            system::address_space(process),
            system::data(process),
        ]
        .into_iter()
        .flatten()
        .chain(system::threads())
        .chain(cgroup::bounds());
        let mut bounds: Vec<Bound> = bounds.map(|reading| reading.bound(own, share)).collect();
        bounds.sort_by_key(|bound| bound.clients);
        Self { bounds }
    }
}

impl fmt::Display for Capacity {
    /// What `threadcast doctor` prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (clients, most) = (self.clients(), self.max_clients(None));
        writeln!(f, "This machine lets one server hold {clients} clients.")?;
        writeln!(
            f,
            "--max-clients is {most} unless you say less: the rest is for pages and publishing.\n"
        )?;
        writeln!(f, "{:<24} {:>16} {:>14} {:>12}", "limit", "is", "used", "clients")?;
        for bound in &self.bounds {
            let Bound { name, limit, used, clients, .. } = bound;
            writeln!(f, "{name:<24} {limit:>16} {used:>14} {clients:>12}")?;
        }
        let Bound { name, raise, .. } = self.binding();
        write!(f, "\n{name} binds. To raise it:\n\n    {raise}")
    }
}

/// Raises this process's own limits on descriptors and threads as far as it may
/// without asking anybody: the soft ones to the hard ones.
pub fn raise_own_limits() {
    for resource in [Resource::Nofile, Resource::Nproc] {
        let Rlimit { current, maximum } = getrlimit(resource);
        if current != maximum
            && let Err(error) = setrlimit(resource, Rlimit { current: maximum, maximum })
        {
            log::warn!("cannot raise a limit of this process: {error}");
        }
    }
}

/// What one client takes of a server's process and of the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub descriptors: u64,
    pub threads: u64,
    /// In bytes.
    pub memory: u64,
    /// In bytes.
    pub address_space: u64,
}

impl Share {
    /// What a client of ours takes.
    pub(crate) fn of(costs: &Costs) -> Self {
        let address_space = costs.client_address_space();
        Self { descriptors: 1, threads: 1, memory: costs.client_memory(), address_space }
    }

    fn units(self, unit: Unit) -> u64 {
        match unit {
            Unit::Descriptor => self.descriptors,
            Unit::Thread => self.threads,
            Unit::Mapping => self.threads * MAPPINGS,
            Unit::Byte => self.memory,
            Unit::Address | Unit::Data => self.address_space,
        }
    }
}

/// Mappings of a thread: its stack and its signal stack, each with a guard.
const MAPPINGS: u64 = 4;

/// What the server itself takes, now or soon, and the clients it holds already.
#[derive(Debug, Default)]
struct Own {
    clients: u64,
    descriptors: u64,
    threads: u64,
    mappings: u64,
    /// What is reserved, in bytes, whether it is in use already or not.
    memory: u64,
    /// What this process holds of the machine's memory now, in bytes: it is part of what is
    /// reserved, and of its clients' share.
    held: u64,
    /// What the own threads map, and what is reserved, in bytes.
    address_space: u64,
}

impl Own {
    fn reserved(costs: Option<&Costs>, addresses: u64) -> Self {
        let Some(costs) = costs else { return Self::default() };
        let memory = costs.reserved_memory();
        let stacks = (OWN_THREADS + addresses) * OWN_STACK;
        let held = system::resident();
        Self { memory, held, address_space: memory + stacks, ..Self::default() }
    }
}

/// What a client takes one of, or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Descriptor,
    Thread,
    Mapping,
    /// Of memory.
    Byte,
    /// A byte of address space.
    Address,
    /// A byte of address space that is private and writable.
    Data,
}

impl Unit {
    fn is_bytes(self) -> bool {
        matches!(self, Self::Byte | Self::Address | Self::Data)
    }
}

/// A bound as the system tells it, our clients' share not yet taken off.
#[derive(Debug)]
struct Reading {
    name: &'static str,
    limit: u64,
    used: u64,
    unit: Unit,
    /// The line that raises it to the number in place of `{}`.
    raise: String,
}

impl Reading {
    fn bound(self, own: &Own, share: Share) -> Bound {
        let Self { name, limit, used, unit, raise } = self;
        let each = share.units(unit);
        let (own_use, clients_use) = match unit {
            Unit::Descriptor => (own.descriptors, own.clients * each),
            Unit::Thread => (own.threads, own.clients * each),
            Unit::Mapping => (own.mappings, own.clients * each),
            // A client may not have cost its whole share yet, so what it holds now is taken off.
            Unit::Byte => (own.memory, 0),
            Unit::Address => (own.address_space, own.clients * THREAD_GUARDS),
            Unit::Data => (own.address_space, 0),
        };
        let now = match unit {
            Unit::Byte => used.saturating_sub(own.held + own.clients * IDLE_KERNEL),
            _ => used.saturating_sub(clients_use),
        };
        let used = now + own_use;
        // Who takes none of it is not bounded by it.
        let clients = limit.saturating_sub(used).checked_div(each).unwrap_or(u64::MAX);
        let clients = usize::try_from(clients).unwrap_or(usize::MAX);
        Bound { name, limit, used, clients, raise: raise.replace("{}", &(limit * 2).to_string()) }
    }
}

/// The first word after a key at the beginning of a line.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()
}

/// A file that holds one number, or the word `max`, which is none.
fn number<T: FromStr>(path: impl AsRef<std::path::Path>) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_by_others_is_taken_off_and_what_our_clients_use_is_not() {
        let reading =
            |unit| Reading { name: "x", limit: 1_000, used: 500, unit, raise: "x={}".into() };
        let own = Own { clients: 100, descriptors: 20, ..Own::default() };
        let share = Share { descriptors: 1, threads: 1, memory: 50, address_space: 0 };
        let bound = reading(Unit::Descriptor).bound(&own, share);
        assert_eq!((bound.used, bound.clients), (420, 580));
        assert_eq!(bound.raise, "x=2000");
        assert_eq!(reading(Unit::Mapping).bound(&own, share).clients, 900 / 4);
        assert_eq!(reading(Unit::Byte).bound(&Own::default(), share).clients, 10);
    }

    #[test]
    fn who_takes_two_of_it_is_half_as_many_and_who_takes_none_is_not_bounded() {
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
    fn another_process_is_bounded_by_its_own_limits() {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "ulimit -n 100; echo; read line"]);
        shell.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut shell = shell.spawn().expect("there is a shell");
        let out = shell.stdout.as_mut().expect("it is piped");
        std::io::Read::read_exact(out, &mut [0]).expect("it has set its limit");
        let share = Share { descriptors: 1, memory: 1, ..Share::default() };
        let capacity = Capacity::of_the_process(shell.id(), share);
        let Bound { name, limit, used, clients, .. } = capacity.binding();
        assert_eq!((*name, *limit, *clients as u64), ("RLIMIT_NOFILE", 100, 100 - used));
        assert!((3..50).contains(used), "{used}");
        drop(shell.stdin.take());
        shell.wait().expect("it ends");
    }

    #[test]
    fn streams_never_get_all() {
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
    fn a_running_server_and_one_to_come_have_nearly_the_same_ceiling() {
        let (to_come, running) = (
            Capacity::of_a_server(&Costs::default(), 1),
            Capacity::of_this_server(&Costs::default(), 1, 0),
        );
        for bound in to_come.bounds() {
            let same = running.bounds().iter().find(|other| other.name == bound.name).unwrap();
            let off = bound.clients.abs_diff(same.clients);
            assert!(off * 20 <= bound.clients, "{bound:?} {same:?}");
        }
    }
}
