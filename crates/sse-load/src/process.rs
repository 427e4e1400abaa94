//! Runs an engine as a separate process, on cores of its own.
//!
//! The engine prints its address when it listens, and reads [`Traffic`] from its stdin. It exits
//! when its stdin ends, so no engine keeps running after this process, even if this process is
//! killed.

use std::env;
use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::procfs;
use super::tick::Traffic;

/// How long [`wait_until`] waits at most.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The processors of the engine and of the load generator.
///
/// ```
/// use sse_load::process::Cores;
///
/// let Cores { server, load } = Cores::choose();
/// println!("the engine on processor {server}, the load on processor {load}");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// The engine's processors.
    pub server: Processors,
    /// The load generator's processor: this thread runs on it.
    pub load: usize,
}

/// A set of processors.
///
/// ```
/// use sse_load::process::Processors;
///
/// let both = Processors::from_iter([0, 1]);
/// assert_eq!(both.to_string(), "0 and 1");
/// assert!(both.contains(1) && !Processors::from(0).contains(1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processors(CpuSet);

impl Processors {
    /// Returns the numbers of the processors, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        (0..CpuSet::MAX_CPU).filter(|core| self.0.is_set(*core))
    }

    /// Returns whether the set has this processor.
    #[must_use]
    pub fn contains(&self, core: usize) -> bool {
        core < CpuSet::MAX_CPU && self.0.is_set(core)
    }
}

impl From<usize> for Processors {
    fn from(core: usize) -> Self {
        Self::from_iter([core])
    }
}

/// # Panics
///
/// Panics if a number is larger than the kernel's largest.
impl FromIterator<usize> for Processors {
    fn from_iter<T: IntoIterator<Item = usize>>(cores: T) -> Self {
        let mut set = CpuSet::new();
        cores.into_iter().for_each(|core| set.set(core));
        Self(set)
    }
}

impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<_> = self.iter().map(|core| core.to_string()).collect();
        f.write_str(&numbers.join(" and "))
    }
}

impl Cores {
    /// Chooses two processors that this process may use, if possible on different cores. If there
    /// is only one processor, the engine and the load generator share it.
    #[must_use]
    pub fn choose() -> Self {
        let allowed: Vec<_> = sched_getaffinity(None)
            .map_or_else(|_| Vec::new(), |set| Processors(set).iter().collect());
        let Some(&server) = allowed.first() else { return Self { server: 0.into(), load: 0 } };
        let siblings = siblings(server);
        let apart = allowed.iter().copied().find(|core| !siblings.contains(core));
        let load = apart.or(allowed.get(1).copied()).unwrap_or(server);
        Self { server: server.into(), load }
    }
}

/// Returns the processors on the same core as the processor `core`, including `core`. Programs on
/// these processors slow each other down.
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

/// A running engine. Dropping this value stops the engine.
///
/// ```
/// use std::process::Command;
/// use sse_load::process::{Cores, Process, wait_until};
/// use sse_load::tick::Traffic;
///
/// // Like every engine, this script prints an address and then reads its traffic.
/// let mut shell = Command::new("sh");
/// shell.args(["-c", "echo 127.0.0.1:8844; read rate frame"]);
/// let (mut engine, server) = Process::start_engine(&mut shell, Cores::choose())?;
/// assert_eq!(server.port(), 8844);
/// engine.set_traffic(Traffic { rate: 50, frame: 64 })?;
/// wait_until(|| engine.ended().is_some());
/// assert_eq!(engine.ended().as_deref(), Some("exit status: 0"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts `command` on the engine's cores. This thread then runs on the load generator's core.
    ///
    /// The child does not receive signals from the terminal, so that only this process decides when
    /// the child ends.
    ///
    /// # Errors
    ///
    /// Fails if the program cannot be started, or the core does not exist.
    pub fn start(command: &mut Command, cores: Cores) -> io::Result<Self> {
        // A child inherits its parent's cores. Setting them before the start ensures that the child
        // never runs on another core, and that the system reports only these cores to the child.
        pin(cores.server)?;
        let child = command.process_group(0).spawn();
        pin(cores.load)?;
        let mut child = child?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin })
    }

    /// Starts an engine, and waits for the address that it prints.
    ///
    /// # Errors
    ///
    /// Fails as [`start`](Self::start) does, or if the engine prints anything else.
    #[allow(clippy::missing_panics_doc)] // stdout is a pipe, so `take` succeeds
    pub fn start_engine(command: &mut Command, cores: Cores) -> io::Result<(Self, SocketAddr)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Self::start(command, cores)?;
        let mut out = BufReader::new(process.child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        out.read_line(&mut line)?;
        let server = line.trim().parse();
        let server = server.map_err(|_| {
            io::Error::other(format!("the engine printed {line:?} instead of its address"))
        })?;
        Ok((process, server))
    }

    /// Returns the process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sets the rate and the size of the events that the engine publishes.
    ///
    /// # Errors
    ///
    /// Fails if the engine has ended, or its stdin is not a pipe.
    pub fn set_traffic(&mut self, traffic: Traffic) -> io::Result<()> {
        let stdin = self.stdin.as_mut().ok_or(io::ErrorKind::Unsupported)?;
        writeln!(stdin, "{} {}", traffic.rate, traffic.frame)
    }

    /// Returns the exit status if the process has ended.
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// Waits until the process has ended, for `time` at most. Returns the exit status if the
    /// process has ended.
    pub fn ended_within(&mut self, time: Duration) -> Option<String> {
        wait_for(time, || self.ended().is_some());
        self.ended()
    }

    /// Sends SIGTERM and waits until the process has ended, for 10 s at most. With SIGKILL instead,
    /// the children of the process would keep running.
    pub fn terminate(&mut self) {
        let process = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let sent = process.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        wait_until(|| !sent || self.ended().is_some());
    }
}

impl Drop for Process {
    /// Closes the engine's stdin, so that the engine ends its children and exits. If the engine
    /// does not exit within 10 s, or its stdin is not a pipe, `drop` kills it and its descendants.
    fn drop(&mut self) {
        if self.stdin.take().is_some() {
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

/// Finds the program of this name on the `PATH` or in `/usr/sbin`.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian installs nginx and Apache in `/usr/sbin`, which is only on root's `PATH`.
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}

/// Pins this thread, and the processes that it starts, to some processors.
///
/// # Errors
///
/// Fails if none of the processors exists and may be used.
pub fn pin(processors: impl Into<Processors>) -> io::Result<()> {
    Ok(sched_setaffinity(None, &processors.into().0)?)
}

/// Calls `done` every 10 ms until it returns true, for 10 s at most.
pub fn wait_until(done: impl FnMut() -> bool) {
    wait_for(TIMEOUT, done);
}

fn wait_for(time: Duration, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !done() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
}

/// Raises this process's descriptor limit to the hard limit. With 10,000 clients, this process and
/// the engine each need more than 10,000 descriptors; the engines inherit the limit.
///
/// # Errors
///
/// Fails if the kernel does not permit the change.
pub fn raise_the_descriptor_limit() -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// How many descriptors are kept for anything but clients.
const SPARE: usize = 32;

/// Returns how many clients this process can open, because each client takes a descriptor. Raises
/// the descriptor limit to the hard limit.
///
/// # Errors
///
/// Fails as [`raise_the_descriptor_limit`] does.
pub fn most_clients() -> io::Result<usize> {
    raise_the_descriptor_limit()?;
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    Ok(limit.saturating_sub(SPARE))
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
    fn engine_prints_its_address_and_reads_traffic() {
        let script = "echo 127.0.0.1:9; read rate frame; test $rate.$frame = 5.64";
        let (mut engine, server) =
            Process::start_engine(&mut shell(script), Cores::choose()).expect("a shell");
        assert_eq!(server, "127.0.0.1:9".parse().expect("an address"));
        engine.set_traffic(Traffic { rate: 5, frame: 64 }).expect("the engine reads its stdin");
        wait_until(|| engine.ended().is_some());
        assert_eq!(engine.ended().as_deref(), Some("exit status: 0"));
    }

    #[test]
    fn program_that_prints_no_address_is_rejected() {
        let error = Process::start_engine(&mut shell("echo hello"), Cores::choose());
        assert!(error.expect_err("no address").to_string().contains("hello"));
    }

    #[test]
    fn processor_is_its_own_sibling() {
        let Cores { server, .. } = Cores::choose();
        for core in server.iter() {
            assert!(siblings(core).is_empty() || siblings(core).contains(&core));
        }
    }
}
