//! An engine that runs: a process of its own, on a core of its own.
//!
//! It prints its address when it listens, and takes orders on stdin (see [`Order`]). The end of its
//! stdin ends it, so none is left behind, whatever becomes of us.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::procfs;
use super::tick::Order;

/// An engine does not take longer to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the engine runs, and where we do.
///
/// ```
/// use threadcast::lab::process::Cores;
///
/// let Cores { server, load } = Cores::choose();
/// println!("the engine on processor {server}, the load on processor {load}");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// The engine's processor.
    pub server: usize,
    /// Ours: the load's.
    pub load: usize,
}

impl Cores {
    /// Two processors that this process may use and that share no core, if there are such; the same
    /// one twice where there is but one.
    #[must_use]
    pub fn choose() -> Self {
        let allowed = sched_getaffinity(None).map_or_else(|_| Vec::new(), |set| members(&set));
        let Some(&server) = allowed.first() else { return Self { server: 0, load: 0 } };
        let siblings = siblings(server);
        let apart = allowed.iter().copied().find(|core| !siblings.contains(core));
        let load = apart.or(allowed.get(1).copied()).unwrap_or(server);
        Self { server, load }
    }
}

fn members(set: &CpuSet) -> Vec<usize> {
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

/// The processors of `core`'s own core, itself included: they slow each other down.
#[must_use]
pub fn siblings(core: usize) -> Vec<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let number = |text: &str| text.parse::<usize>().ok();
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => Some((number(first)?..=number(last)?).collect::<Vec<_>>()),
        None => Some(vec![number(part)?]),
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// Stopped when dropped.
///
/// ```
/// use std::process::Command;
/// use threadcast::lab::process::{Cores, Process, wait_until};
/// use threadcast::lab::tick::Order;
///
/// // What an engine must do: say where it listens, and take orders.
/// let mut shell = Command::new("sh");
/// shell.args(["-c", "echo 127.0.0.1:8844; read rate frame"]);
/// let (mut engine, server) = Process::start_obedient(&mut shell, Cores::choose())?;
/// assert_eq!(server.port(), 8844);
/// engine.order(Order { rate: 50, frame: 64 })?;
/// wait_until(|| engine.ended().is_some());
/// assert_eq!(engine.ended().as_deref(), Some("exit status: 0"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Process {
    child: Child,
    orders: Option<ChildStdin>,
}

impl Process {
    /// Starts `command` on the engine's core and leaves this thread on the load's. Signals of the
    /// terminal do not reach it: who is measuring decides when it ends.
    ///
    /// # Errors
    ///
    /// When the program cannot be started, or there is no such core.
    pub fn start(command: &mut Command, cores: Cores) -> io::Result<Self> {
        // A child begins where its parent is, so it never runs elsewhere, and what it asks the system
        // for the number of its processors answers one.
        pin(cores.server)?;
        let child = command.process_group(0).spawn();
        pin(cores.load)?;
        let mut child = child?;
        let orders = child.stdin.take();
        Ok(Self { child, orders })
    }

    /// Starts an engine that obeys, and waits for the address it prints.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), or when it prints something else.
    #[allow(clippy::missing_panics_doc)] // what was piped just above is there
    pub fn start_obedient(command: &mut Command, cores: Cores) -> io::Result<(Self, SocketAddr)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Self::start(command, cores)?;
        let mut out = BufReader::new(process.child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        out.read_line(&mut line)?;
        let server = line.trim().parse();
        let server = server
            .map_err(|_| io::Error::other(format!("it said {line:?} and not where it listens")))?;
        Ok((process, server))
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Gives an order.
    ///
    /// # Errors
    ///
    /// When it has ended, or takes no orders.
    pub fn order(&mut self, order: Order) -> io::Result<()> {
        let orders = self.orders.as_mut().ok_or(io::ErrorKind::Unsupported)?;
        writeln!(orders, "{} {}", order.rate, order.frame)
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// The same, if it does so within this time.
    pub(super) fn ended_within(&mut self, time: Duration) -> Option<String> {
        wait_for(time, || self.ended().is_some());
        self.ended()
    }

    /// Asks it to end by itself, and waits until it has: what is killed leaves its own children
    /// behind.
    pub fn ask_to_end(&mut self) {
        let process = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let asked = process.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        wait_until(|| !asked || self.ended().is_some());
    }
}

impl Drop for Process {
    /// An engine ends with its orders, and ends its own children first. Who does not, or takes none,
    /// is killed with all of them.
    fn drop(&mut self) {
        if self.orders.take().is_some() {
            wait_until(|| self.ended().is_some());
        }
        if self.ended().is_none() {
            for process in procfs::tree(self.id()).unwrap_or_default() {
                if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            let _ = self.child.wait();
        }
    }
}

/// Moves this thread, and what it starts, to one core.
///
/// # Errors
///
/// When there is no such core, or we may not use it.
pub fn pin(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// Waits until something is done elsewhere, ten seconds at most.
pub fn wait_until(done: impl FnMut() -> bool) {
    wait_for(PATIENCE, done);
}

fn wait_for(time: Duration, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !done() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
}

/// Ten thousand clients need as many descriptors, here and in the engines, which inherit the limit.
///
/// # Errors
///
/// When the kernel refuses.
pub fn raise_the_descriptor_limit() -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn an_engine_says_where_it_listens_and_obeys() {
        let script = "echo 127.0.0.1:9; read rate frame; test $rate.$frame = 5.64";
        let (mut engine, server) =
            Process::start_obedient(&mut shell(script), Cores::choose()).expect("a shell");
        assert_eq!(server, "127.0.0.1:9".parse().expect("an address"));
        engine.order(Order { rate: 5, frame: 64 }).expect("it reads");
        wait_until(|| engine.ended().is_some());
        assert_eq!(engine.ended().as_deref(), Some("exit status: 0"));
    }

    #[test]
    fn what_says_anything_else_is_no_engine() {
        let error = Process::start_obedient(&mut shell("echo hello"), Cores::choose());
        assert!(error.expect_err("no address").to_string().contains("hello"));
    }

    #[test]
    fn a_processor_is_its_own_sibling() {
        let Cores { server, .. } = Cores::choose();
        assert!(siblings(server).is_empty() || siblings(server).contains(&server));
    }
}
