//! Reads the resource use of processes and of the machine from `/proc`.
//!
//! Each function returns a snapshot. To measure an interval, take one snapshot before and one
//! after, and subtract them. All sizes are in bytes. If a process has ended, reading it fails; a
//! thread that ends while its process is read causes no error.

use std::fs;
use std::io;
use std::time::Duration;

pub use crate::process::{Machine, machine};
use crate::process::{kilobytes_after, malformed, number_after};

/// The resources that processes have used since they started. The context switches of threads and
/// children that have ended are not included.
///
/// ```
/// use threadcast::lab::procfs;
///
/// let usage = procfs::usage(&[std::process::id()])?;
/// assert!(usage.threads >= 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system CPU time.
    pub cpu: Duration,
    /// Voluntary context switches: a thread blocked.
    pub voluntary: u64,
    /// Involuntary context switches: a thread was preempted.
    pub involuntary: u64,
    /// Living threads.
    pub threads: usize,
}

/// The memory of processes.
///
/// ```
/// use threadcast::lab::procfs;
///
/// let memory = procfs::memory(&[std::process::id()])?;
/// assert!(memory.rss >= memory.pss && memory.pss > 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident pages. A page that several processes share counts fully for each of them.
    pub rss: u64,
    /// Resident pages. The size of a shared page is divided by the number of processes that share
    /// it.
    pub pss: u64,
}

/// The kernel's send queue of the server's connection to one client.
///
/// ```
/// use std::net::{TcpListener, TcpStream};
/// use threadcast::lab::procfs;
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let client = TcpStream::connect(listener.local_addr()?)?;
/// let (server, _) = listener.accept()?;
/// let ports = (server.local_addr()?.port(), client.local_addr()?.port());
/// let queue = procfs::send_queue(ports.0, ports.1)?.expect("they are connected");
/// assert_eq!((queue.bytes, queue.established), (0, true));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendQueue {
    /// How many bytes the server has written that the client's kernel has not acknowledged yet.
    pub bytes: u64,
    /// Whether the server's end of the connection is in the state `ESTABLISHED`: open in both
    /// directions.
    pub established: bool,
}

/// Returns the process ids of `root` and all its descendants.
///
/// # Errors
///
/// Fails if `/proc` cannot be listed.
pub fn tree(root: u32) -> io::Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // If a process has ended since the listing, its parent cannot be read, and the process is
        // skipped.
        if let Some(parent) = stat_field(pid, PARENT) {
            parents.push((pid, u32::try_from(parent).unwrap_or(0)));
        }
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| pid));
        next += 1;
    }
    Ok(tree)
}

/// Returns the resources that `processes` and their ended children have used. Takes about 100 ms
/// for 10,000 threads.
///
/// # Errors
///
/// Fails if one of `processes` has ended.
pub fn usage(processes: &[u32]) -> io::Result<Usage> {
    let mut usage = Usage::default();
    for process in processes {
        let mut scheduled = Duration::ZERO;
        for entry in fs::read_dir(format!("/proc/{process}/task"))? {
            let task = entry?.path();
            let read = |file| fs::read_to_string(task.join(file));
            // A thread that has ended since the listing has no files any more, and is skipped.
            let Ok(status) = read("status") else { continue };
            usage.voluntary += number_after(&status, "\nvoluntary_ctxt_switches:").unwrap_or(0);
            usage.involuntary +=
                number_after(&status, "\nnonvoluntary_ctxt_switches:").unwrap_or(0);
            usage.threads += 1;
            scheduled += nanoseconds(&read("schedstat").unwrap_or_default());
        }
        // `schedstat` is exact but omits threads that have ended. `stat` includes these threads but
        // counts in hundredths of a second. The greater of the two values is closer to the true CPU
        // time. The CPU time of children that have ended is a separate field of `stat`, so it is
        // added.
        usage.cpu += scheduled.max(ticks(*process)) + ticks_of_ended_children(*process);
    }
    Ok(usage)
}

/// Returns the total memory of `processes`.
///
/// # Errors
///
/// Fails if one of `processes` has ended, or belongs to another user.
pub fn memory(processes: &[u32]) -> io::Result<Memory> {
    let mut memory = Memory::default();
    for process in processes {
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        memory.rss += kilobytes_after(&rollup, "\nRss:")?;
        memory.pss += kilobytes_after(&rollup, "\nPss:")?;
    }
    Ok(memory)
}

/// Returns how long the processor `core` has been busy since the machine started, in steps of 10
/// ms.
///
/// # Errors
///
/// Fails if the processor does not exist.
pub fn busy(core: usize) -> io::Result<Duration> {
    parse_busy(&fs::read_to_string("/proc/stat")?, core).ok_or_else(|| malformed("/proc/stat"))
}

/// Returns the send queue of the IPv4 connection from the port `server` to the port `client`;
/// `None` if the connection does not exist any more.
///
/// # Errors
///
/// Fails if `/proc/net/tcp` cannot be read.
pub fn send_queue(server: u16, client: u16) -> io::Result<Option<SendQueue>> {
    Ok(parse_send_queue(&fs::read_to_string("/proc/net/tcp")?, server, client))
}

/// The indices of fields in `/proc/PID/stat`. Field 0 follows the closing parenthesis of the
/// program's name.
const PARENT: usize = 1;
const USER_TIME: usize = 11;
const SYSTEM_TIME: usize = 12;
const CHILDREN_USER_TIME: usize = 13;
const CHILDREN_SYSTEM_TIME: usize = 14;

fn stat_field(process: u32, field: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The program's name may contain spaces and parentheses, so the last `)` ends it.
    stat[stat.rfind(')')? + 1..].split_whitespace().nth(field)?.parse().ok()
}

fn ticks(process: u32) -> Duration {
    let field = |field| stat_field(process, field).unwrap_or(0);
    from_ticks(field(USER_TIME) + field(SYSTEM_TIME))
}

fn ticks_of_ended_children(process: u32) -> Duration {
    let field = |field| stat_field(process, field).unwrap_or(0);
    from_ticks(field(CHILDREN_USER_TIME) + field(CHILDREN_SYSTEM_TIME))
}

fn from_ticks(ticks: u64) -> Duration {
    Duration::from_nanos(ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
}

fn nanoseconds(schedstat: &str) -> Duration {
    let first = schedstat.split_whitespace().next().and_then(|field| field.parse().ok());
    Duration::from_nanos(first.unwrap_or(0))
}

fn parse_busy(stat: &str, core: usize) -> Option<Duration> {
    let prefix = format!("cpu{core} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(prefix.as_str()))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // The fields are: user nice system idle iowait irq softirq steal. `user` already includes the
    // time of guests (virtual machines).
    let busy = [0, 1, 2, 5, 6, 7].into_iter().filter_map(|field| fields.get(field)).sum();
    Some(from_ticks(busy))
}

fn parse_send_queue(table: &str, server: u16, client: u16) -> Option<SendQueue> {
    let port = |address: &str| u16::from_str_radix(address.split_once(':')?.1, 16).ok();
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, state, queues, ..] = fields[..] else { return None };
        if (port(local)?, port(remote)?) != (server, client) {
            return None;
        }
        let bytes = u64::from_str_radix(queues.split_once(':')?.0, 16).ok()?;
        Some(SendQueue { bytes, established: state == "01" })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    #[test]
    fn usage_includes_own_work() {
        let me = [std::process::id()];
        let before = usage(&me).expect("this process exists");
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {}
        let after = usage(&me).expect("this process exists");
        assert!(after.cpu > before.cpu, "{before:?} {after:?}");
        assert!(after.threads >= 2, "the test's thread and the main one");
        assert!(after.voluntary + after.involuntary > 0);
    }

    #[test]
    fn memory_includes_own_allocations() {
        let me = [std::process::id()];
        let before = memory(&me).expect("this process exists");
        let pages = vec![1_u8; 32 << 20];
        let after = memory(&me).expect("this process exists");
        assert_eq!(pages.iter().map(|page| usize::from(*page)).sum::<usize>(), pages.len());
        let grown = after.rss.saturating_sub(before.rss);
        assert!((30 << 20..40 << 20).contains(&grown), "{grown} bytes for 32 MiB");
        assert!(after.pss <= after.rss);
    }

    #[test]
    fn child_is_in_the_tree_until_it_ends() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat starts");
        let tree_now = tree(std::process::id()).expect("/proc is there");
        assert!(tree_now.contains(&child.id()) && tree_now[0] == std::process::id());
        drop(child.stdin.take());
        child.wait().expect("cat ends with its input");
        assert!(usage(&[child.id()]).is_err());
    }

    #[test]
    fn idle_and_iowait_are_not_busy() {
        let stat =
            "cpu  0 0\ncpu0 9 9 9 9 9 9 9 9 0 0\ncpu1 1 2 4 1000 2000 8 16 32 64 128\nintr 5\n";
        assert_eq!(parse_busy(stat, 1), Some(from_ticks(63)));
        assert_eq!(parse_busy(stat, 2), None);
    }

    #[test]
    fn send_queue_is_found_by_its_two_ports() {
        let row = |local: &str, remote: &str, state: &str, queues: &str| {
            format!("   0: 0100007F:{local} 0100007F:{remote} {state} {queues} 00:00000000\n")
        };
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n"
            .to_owned()
            + &row("1F90", "0000", "0A", "00000000:00000000")
            + &row("C001", "1F90", "01", "00000000:00010000")
            + &row("1F90", "C001", "01", "00012345:00000000")
            + &row("1F90", "C002", "04", "00000001:00000000");
        let queue = |bytes, established| Some(SendQueue { bytes, established });
        assert_eq!(parse_send_queue(&table, 8080, 0xc001), queue(0x12345, true));
        assert_eq!(parse_send_queue(&table, 8080, 0xc002), queue(1, false));
        assert_eq!(parse_send_queue(&table, 8080, 0xc003), None);
    }
}
