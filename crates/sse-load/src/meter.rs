//! Computes the cost of clients and events from two readings, one before and one after.
//!
//! For the memory of clients, call [`Held::now`] before and after they connect. For the CPU time of
//! events, call [`Spent::now`] before and after they are published.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::figures::{float, signed};
use super::process::Cores;
use super::procfs::{self, Machine, Memory, Usage};

/// A measurement counts as noisy if other programs use more than this share of a core.
pub const NOISE: f64 = 0.05;

/// How many times [`of_all`] tries again if a process ends while its files are read.
const TURNS: usize = 5;

/// The memory of an engine, the load generator and the machine at one moment.
///
/// ```
/// use sse_load::meter::{Held, Socket};
///
/// let base = Held::now(std::process::id())?;
/// let kept = vec![1_u8; 32 << 20];
/// let client = Held::now(std::process::id())?.since(&base, 1, Socket::default());
/// assert!(client.rss > 30e6 && kept[0] == 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// The memory of all processes of the engine.
    pub server: Memory,
    /// The memory of this process, which is the load generator.
    pub load: Memory,
    /// The memory of the whole machine.
    pub machine: Machine,
}

/// The kernel memory at the load generator's end of one connection, in bytes.
///
/// ```
/// use sse_load::meter::Socket;
///
/// let measured = Socket { slab: 2_600.0, kernel: 4_500.0 };
/// assert!(measured.kernel >= measured.slab);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Socket {
    /// The memory of kernel objects (slab). It is a part of `kernel`.
    pub slab: f64,
    /// All kernel memory.
    pub kernel: f64,
}

/// The memory that one client costs the engine, in bytes.
///
/// ```
/// use sse_load::meter::{Held, PerClient, Socket};
///
/// let now = Held::now(std::process::id())?;
/// assert_eq!(now.since(&now, 1_000, Socket::default()), PerClient::default());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PerClient {
    /// Resident pages of the engine's processes.
    pub rss: f64,
    /// Kernel stacks of the client's threads.
    pub kernel_stack: f64,
    /// Page tables.
    pub page_tables: f64,
    /// Kernel objects: sockets, tasks, files.
    pub slab: f64,
    /// All kernel memory: the parts above and more.
    pub kernel: f64,
    /// The decrease of the machine's available memory. Only this figure includes every kind of
    /// memory.
    pub whole: f64,
}

impl Held {
    /// Reads the memory of the engine (`process` and its descendants), of this process, and of the
    /// machine.
    ///
    /// # Errors
    ///
    /// Fails if the process has ended.
    pub fn now(process: u32) -> io::Result<Self> {
        let server = memory(process)?;
        let load = procfs::memory(&[std::process::id()])?;
        Ok(Self { server, load, machine: procfs::machine()? })
    }

    /// Returns the memory that each of `clients` has added since `base`. `socket` is the kernel
    /// memory at the load generator's end of a connection, which is subtracted.
    #[must_use]
    pub fn since(&self, base: &Self, clients: usize, socket: Socket) -> PerClient {
        let clients = float(clients.max(1) as u64);
        let per_client = |now, then| signed(difference(now, then)) / clients;
        let (now, then) = (&self.machine, &base.machine);
        let load = per_client(self.load.rss, base.load.rss) + socket.kernel;
        PerClient {
            rss: per_client(self.server.rss, base.server.rss),
            kernel_stack: per_client(now.kernel_stack, then.kernel_stack),
            page_tables: per_client(now.page_tables, then.page_tables),
            slab: per_client(now.slab, then.slab) - socket.slab,
            kernel: per_client(now.kernel, then.kernel) - socket.kernel,
            whole: per_client(then.available, now.available) - load,
        }
    }
}

/// Returns the total memory of `process` and its descendants. A page that several of these
/// processes share counts once.
///
/// # Errors
///
/// Fails if the process has ended.
pub fn memory(process: u32) -> io::Result<Memory> {
    of_all(process, |processes| {
        let memory = procfs::memory(processes)?;
        let shared = processes.len() > 1;
        Ok(Memory { rss: if shared { memory.pss } else { memory.rss }, ..memory })
    })
}

/// Returns the number of threads of `process` and its descendants.
///
/// # Errors
///
/// Fails if the process has ended.
pub fn threads(process: u32) -> io::Result<usize> {
    of_all(process, |processes| Ok(procfs::usage(processes)?.threads))
}

/// Calls `read` with the ids of `process` and its descendants. If one of these processes ends in
/// the meantime, as Apache's spare processes do, `of_all` tries again.
fn of_all<T>(process: u32, read: impl Fn(&[u32]) -> io::Result<T>) -> io::Result<T> {
    for _ in 0..TURNS {
        if let Ok(found) = read(&procfs::tree(process)?) {
            return Ok(found);
        }
        thread::sleep(Duration::from_millis(10)); // until the ended process has left /proc
    }
    read(&procfs::tree(process)?)
}

/// Waits, for `timeout` at most, until the machine's available memory no longer changes. Then the
/// kernel has freed the memory of earlier measurements.
pub fn settle(timeout: Duration) {
    let available = || procfs::machine().map_or(0, |machine| machine.available);
    let deadline = Instant::now() + timeout;
    let mut last = available();
    while Instant::now() < deadline {
        thread::sleep(Duration::from_millis(200));
        let now = available();
        if now.abs_diff(last) < 256 * 1024 {
            return;
        }
        last = now;
    }
}

/// The resources that an engine and the load generator have used up to one moment.
///
/// ```
/// use sse_load::meter::Spent;
/// use sse_load::process::Cores;
///
/// let spent = Spent::now(std::process::id(), Cores::choose())?;
/// assert!(spent.server.threads >= 1 && spent.processes == [std::process::id()]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Spent {
    /// When these values were read.
    pub at: Instant,
    /// The engine's process ids.
    pub processes: Vec<u32>,
    /// The engine's resource use.
    pub server: Usage,
    load: Usage,
    /// How long the engine's cores, and the load generator's, have been busy.
    server_cores: Duration,
    load_core: Duration,
    /// Whether the load generator runs on one of the engine's cores.
    share: bool,
}

/// The resources that an engine and the load generator have used between two moments.
///
/// ```
/// use std::time::Instant;
/// use sse_load::meter::Spent;
/// use sse_load::process::Cores;
///
/// let (cores, me) = (Cores::choose(), std::process::id());
/// let before = Spent::now(me, cores)?;
/// while before.at.elapsed().as_millis() < 50 {}
/// let spending = Spent::now(me, cores)?.since(&before);
/// assert!(spending.seconds >= 0.05 && spending.cpu > 0.0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spending {
    /// The time between the two moments, in seconds.
    pub seconds: f64,
    /// The engine's CPU time, in seconds.
    pub cpu: f64,
    /// Voluntary context switches of the engine's threads.
    pub voluntary: f64,
    /// Involuntary context switches of the engine's threads.
    pub involuntary: f64,
    /// The share of a core that the engine used; above 1 if it used several cores.
    pub server_busy: f64,
    /// The share of a core that other programs than the engine and the load generator used of the
    /// engine's cores.
    pub server_core_others: f64,
    /// The share of its core that the load generator used.
    pub load_busy: f64,
    /// The share of the load generator's core that other programs used; 0 if the core is one of the
    /// engine's too.
    pub load_core_others: f64,
}

impl Spent {
    /// Reads the resource use of `process` and its descendants, of this process, and of the cores.
    ///
    /// # Errors
    ///
    /// Fails if the process has ended.
    pub fn now(process: u32, cores: Cores) -> io::Result<Self> {
        let at = Instant::now();
        let (processes, server) =
            of_all(process, |processes| Ok((processes.to_vec(), procfs::usage(processes)?)))?;
        Ok(Self {
            at,
            server,
            load: procfs::usage(&[std::process::id()])?,
            server_cores: cores.server.iter().map(procfs::busy).sum::<io::Result<_>>()?,
            load_core: procfs::busy(cores.load)?,
            share: cores.server.contains(cores.load),
            processes,
        })
    }

    /// Returns the resource use since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Spending {
        let seconds = (self.at - before.at).as_secs_f64();
        let share =
            |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() / seconds;
        let server_busy = share(self.server.cpu, before.server.cpu);
        let load_busy = share(self.load.cpu, before.load.cpu);
        let count = |now: u64, then: u64| float(now.saturating_sub(then));
        let of_server = share(self.server_cores, before.server_cores) - server_busy;
        let of_load = share(self.load_core, before.load_core) - load_busy;
        let (server_core_others, load_core_others) =
            if self.share { (of_server - load_busy, 0.0) } else { (of_server, of_load) };
        Spending {
            seconds,
            cpu: server_busy * seconds,
            voluntary: count(self.server.voluntary, before.server.voluntary),
            involuntary: count(self.server.involuntary, before.server.involuntary),
            server_busy,
            load_busy,
            server_core_others,
            load_core_others,
        }
    }
}

impl Spending {
    /// Returns the share that other programs used of the engine's cores or of the load generator's
    /// core, whichever is greater.
    #[must_use]
    pub fn noise(&self) -> f64 {
        self.server_core_others.max(self.load_core_others)
    }

    /// Whether other programs used more than 5 % of a core.
    #[must_use]
    pub fn is_noisy(&self) -> bool {
        self.noise() > NOISE
    }
}

/// Returns the signed difference `now - then` of two readings.
#[must_use]
pub fn difference(now: u64, then: u64) -> i64 {
    let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
    signed(now) - signed(then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_memory_is_the_difference_without_the_loads_share() {
        let held = |server, load, available, kernel| Held {
            server: Memory { rss: server, pss: server },
            load: Memory { rss: load, pss: load },
            machine: Machine { available, kernel, ..Machine::default() },
        };
        let (base, full) = (held(100, 10, 9_000, 50), held(300, 30, 8_000, 450));
        let client = full.since(&base, 10, Socket { slab: 0.0, kernel: 15.0 });
        let near = |found: f64, expected: f64| (found - expected).abs() < 1e-9;
        assert!(near(client.rss, 20.0) && near(client.kernel, 25.0), "{client:?}");
        assert!(near(client.whole, 83.0), "100 less the load's 2 and 15: {client:?}");
    }

    #[test]
    fn own_work_does_not_count_as_others() {
        let cores = Cores::choose();
        let me = std::process::id();
        let before = Spent::now(me, cores).expect("this process exists");
        // Loops until this process has used 30 ms of CPU time. A fixed time would not do, because
        // other processes may use the core too.
        let spending = loop {
            let spending = Spent::now(me, cores).expect("this process exists").since(&before);
            if spending.cpu > 0.03 || spending.seconds > 20.0 {
                break spending;
            }
        };
        assert!(spending.cpu > 0.03 && spending.seconds > 0.0, "{spending:?}");
    }
}
