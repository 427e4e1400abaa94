//! Readings before and after, and what lies between them: what a client holds, what an event costs.
//!
//! Take [`Held::now`] before the clients come and when they are there, and [`Spent::now`] before and
//! after the events.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::figures::{float, signed};
use super::process::Cores;
use super::procfs::{self, Machine, Memory, Usage};

/// Others may use this share of a core before a measurement counts as noisy.
pub(super) const NOISE: f64 = 0.05;

/// So often are an engine's processes read when one of them ends meanwhile.
const TURNS: usize = 5;

/// What an engine, the load and the machine hold at one moment.
///
/// ```
/// use threadcast::lab::meter::{Held, Socket};
///
/// let base = Held::now(std::process::id())?;
/// let kept = vec![1_u8; 32 << 20];
/// let client = Held::now(std::process::id())?.since(&base, 1, Socket::default());
/// assert!(client.rss > 30e6 && kept[0] == 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// The engine, all its processes together.
    pub server: Memory,
    /// This process.
    pub load: Memory,
    /// The machine.
    pub machine: Machine,
}

/// What one client of the load costs the kernel, in bytes, its own RSS not counted.
///
/// ```
/// use threadcast::lab::meter::Socket;
///
/// let measured = Socket { slab: 2_600.0, kernel: 4_500.0 };
/// assert!(measured.kernel >= measured.slab);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Socket {
    /// Of that, the kernel's objects.
    pub slab: f64,
    /// All of it.
    pub kernel: f64,
}

/// What one client costs the engine, in bytes.
///
/// ```
/// use threadcast::lab::meter::{Held, PerClient, Socket};
///
/// let now = Held::now(std::process::id())?;
/// assert_eq!(now.since(&now, 1_000, Socket::default()), PerClient::default());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PerClient {
    /// Resident pages of the process.
    pub rss: f64,
    /// The stack that the kernel runs its thread's system calls on.
    pub kernel_stack: f64,
    /// The tables that map its pages.
    pub page_tables: f64,
    /// Sockets, tasks, files.
    pub slab: f64,
    /// All that the kernel holds, the parts above and more.
    pub kernel: f64,
    /// What it takes from `MemAvailable`: the only figure that misses nothing.
    pub whole: f64,
}

impl Held {
    /// Reads what `process` and its children, we and the machine hold.
    ///
    /// # Errors
    ///
    /// When the process has ended.
    pub fn now(process: u32) -> io::Result<Self> {
        let server = memory(process)?;
        let load = procfs::memory(&[std::process::id()])?;
        Ok(Self { server, load, machine: procfs::machine()? })
    }

    /// What each of `clients` has added since `base`.
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

/// What `process` and its children hold, what several of them share counted once.
///
/// # Errors
///
/// When the process has ended.
pub(super) fn memory(process: u32) -> io::Result<Memory> {
    of_all(process, |processes| {
        let memory = procfs::memory(processes)?;
        let shared = processes.len() > 1;
        Ok(Memory { rss: if shared { memory.pss } else { memory.rss }, ..memory })
    })
}

/// The threads of `process` and its children.
///
/// # Errors
///
/// When the process has ended.
pub(super) fn threads(process: u32) -> io::Result<usize> {
    of_all(process, |processes| Ok(procfs::usage(processes)?.threads))
}

/// Reads a process and its children. One of them may end while they are read, as Apache's spare ones
/// do: then all are read anew.
fn of_all<T>(process: u32, read: impl Fn(&[u32]) -> io::Result<T>) -> io::Result<T> {
    for _ in 0..TURNS {
        if let Ok(found) = read(&procfs::tree(process)?) {
            return Ok(found);
        }
        thread::sleep(Duration::from_millis(10)); // what has ended is soon buried
    }
    read(&procfs::tree(process)?)
}

/// Waits until the kernel has given back what was held before, or patience ends.
pub fn settle(patience: Duration) {
    let available = || procfs::machine().map_or(0, |machine| machine.available);
    let deadline = Instant::now() + patience;
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

/// What has been spent up to one moment.
///
/// ```
/// use threadcast::lab::meter::Spent;
/// use threadcast::lab::process::Cores;
///
/// let spent = Spent::now(std::process::id(), Cores::choose())?;
/// assert!(spent.server.threads >= 1 && spent.processes == [std::process::id()]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Spent {
    /// When this was read.
    pub at: Instant,
    /// The engine's processes.
    pub processes: Vec<u32>,
    /// The engine.
    pub server: Usage,
    load: Usage,
    server_core: Duration,
    load_core: Duration,
}

/// What was spent between two moments.
///
/// ```
/// use std::time::Instant;
/// use threadcast::lab::meter::Spent;
/// use threadcast::lab::process::Cores;
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
    /// How long that was.
    pub seconds: f64,
    /// The engine's processor time in seconds.
    pub cpu: f64,
    /// Times that a thread of the engine went to sleep.
    pub voluntary: f64,
    /// Times that one was put aside for another.
    pub involuntary: f64,
    /// Shares of the engine's core and of the load's, by these and by others.
    pub server_busy: f64,
    /// As above.
    pub server_core_others: f64,
    /// As above.
    pub load_busy: f64,
    /// As above.
    pub load_core_others: f64,
}

impl Spent {
    /// Reads what `process` and its children, we and the two cores have spent.
    ///
    /// # Errors
    ///
    /// When the process has ended.
    pub fn now(process: u32, cores: Cores) -> io::Result<Self> {
        let at = Instant::now();
        let (processes, server) =
            of_all(process, |processes| Ok((processes.to_vec(), procfs::usage(processes)?)))?;
        Ok(Self {
            at,
            server,
            load: procfs::usage(&[std::process::id()])?,
            server_core: procfs::busy(cores.server)?,
            load_core: procfs::busy(cores.load)?,
            processes,
        })
    }

    /// What was spent since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Spending {
        let seconds = (self.at - before.at).as_secs_f64();
        let share =
            |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() / seconds;
        let server_busy = share(self.server.cpu, before.server.cpu);
        let load_busy = share(self.load.cpu, before.load.cpu);
        let count = |now: u64, then: u64| float(now.saturating_sub(then));
        Spending {
            seconds,
            cpu: server_busy * seconds,
            voluntary: count(self.server.voluntary, before.server.voluntary),
            involuntary: count(self.server.involuntary, before.server.involuntary),
            server_busy,
            load_busy,
            server_core_others: share(self.server_core, before.server_core) - server_busy,
            load_core_others: share(self.load_core, before.load_core) - load_busy,
        }
    }
}

impl Spending {
    /// The share of a core that others used, the worse of the two cores. On one core each is the
    /// other's other, and this says nothing.
    #[must_use]
    pub fn noise(&self) -> f64 {
        self.server_core_others.max(self.load_core_others)
    }

    /// Somebody else used the cores.
    #[must_use]
    pub fn is_noisy(&self) -> bool {
        self.noise() > NOISE
    }
}

/// How much more it is now.
#[must_use]
pub fn difference(now: u64, then: u64) -> i64 {
    let signed = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
    signed(now) - signed(then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_holds_is_the_difference_without_the_loads_share() {
        let held = |server, load, available, kernel| Held {
            server: Memory { rss: server, pss: server },
            load: Memory { rss: load, pss: load },
            machine: Machine { available, kernel, ..Machine::default() },
        };
        let (base, full) = (held(100, 10, 9_000, 50), held(300, 30, 8_000, 450));
        let client = full.since(&base, 10, Socket { slab: 0.0, kernel: 15.0 });
        let near = |found: f64, expected: f64| (found - expected).abs() < 1e-9;
        assert!(near(client.rss, 20.0) && near(client.kernel, 25.0), "{client:?}");
        assert!(near(client.whole, 83.0), "100 less 2 and 15 of the load: {client:?}");
    }

    #[test]
    fn our_own_work_is_nobody_elses() {
        let cores = Cores::choose();
        let me = std::process::id();
        let before = Spent::now(me, cores).expect("we are alive");
        // As long as it takes: how much of a core we are given is the machine's affair.
        let spending = loop {
            let spending = Spent::now(me, cores).expect("we are alive").since(&before);
            if spending.cpu > 0.03 || spending.seconds > 20.0 {
                break spending;
            }
        };
        assert!(spending.cpu > 0.03 && spending.seconds > 0.0, "{spending:?}");
    }
}
