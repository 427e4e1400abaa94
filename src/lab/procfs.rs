//! What a process and the machine cost, read from `/proc`.
//!
//! Snapshots only: take one before and one after, and subtract. All sizes are bytes. A process that
//! has ended is an error, except for a thread that ends while its process is being read.

use std::fs;
use std::io;
use std::time::Duration;

pub use crate::process::{Machine, machine};
use crate::process::{kilobytes_after, malformed, number_after};

/// What some processes have used since they started. Threads and children that have ended are missing
/// from the context switches.
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
    /// User and system time.
    pub cpu: Duration,
    /// Times a thread went to sleep.
    pub voluntary: u64,
    /// Times a thread was put aside for another.
    pub involuntary: u64,
    /// Threads that are alive.
    pub threads: usize,
}

/// What some processes hold.
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
    /// Resident pages, those shared with other processes included.
    pub rss: u64,
    /// Resident pages, each shared one divided by the number of its users.
    pub pss: u64,
}

/// What is waiting in the kernel between one client and the server.
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
    /// Bytes that the server has written and the client's kernel has not taken.
    pub bytes: u64,
    /// The connection is open in both directions, as far as the server's side knows.
    pub established: bool,
}

/// `root` and all its descendants.
///
/// # Errors
///
/// When `/proc` cannot be listed.
pub fn tree(root: u32) -> io::Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // A process that has ended meanwhile is nobody's child.
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

/// What the threads of `processes` have used, and their children that have ended. Ten thousand threads take some 100 ms.
///
/// # Errors
///
/// When one of `processes` has ended.
pub fn usage(processes: &[u32]) -> io::Result<Usage> {
    let mut usage = Usage::default();
    for process in processes {
        let mut scheduled = Duration::ZERO;
        for entry in fs::read_dir(format!("/proc/{process}/task"))? {
            let task = entry?.path();
            let read = |file| fs::read_to_string(task.join(file));
            // A thread that ends between the listing and the reading has no files any more.
            let Ok(status) = read("status") else { continue };
            usage.voluntary += number_after(&status, "\nvoluntary_ctxt_switches:").unwrap_or(0);
            usage.involuntary +=
                number_after(&status, "\nnonvoluntary_ctxt_switches:").unwrap_or(0);
            usage.threads += 1;
            scheduled += nanoseconds(&read("schedstat").unwrap_or_default());
        }
        // `schedstat` is exact but forgets threads that have ended; `stat` forgets none but counts in
        // hundredths. Whichever knows of more is nearer to the truth. What a child has used that has
        // ended stands with its parent.
        usage.cpu += scheduled.max(ticks(*process)) + ticks_of_the_dead(*process);
    }
    Ok(usage)
}

/// What `processes` hold.
///
/// # Errors
///
/// When one of `processes` has ended, or belongs to somebody else.
pub fn memory(processes: &[u32]) -> io::Result<Memory> {
    let mut memory = Memory::default();
    for process in processes {
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        memory.rss += kilobytes_after(&rollup, "\nRss:")?;
        memory.pss += kilobytes_after(&rollup, "\nPss:")?;
    }
    Ok(memory)
}

/// How long the processor `core` has been busy since the machine started, in steps of a hundredth of
/// a second.
///
/// # Errors
///
/// When there is no such processor.
pub fn busy(core: usize) -> io::Result<Duration> {
    parse_busy(&fs::read_to_string("/proc/stat")?, core).ok_or_else(|| malformed("/proc/stat"))
}

/// The send queue of the server on `server`'s port towards the client on `client`'s port, both on
/// IPv4; `None` when the connection is gone.
///
/// # Errors
///
/// When `/proc/net/tcp` cannot be read.
pub fn send_queue(server: u16, client: u16) -> io::Result<Option<SendQueue>> {
    Ok(parse_send_queue(&fs::read_to_string("/proc/net/tcp")?, server, client))
}

/// Fields of `/proc/PID/stat` after the command's closing parenthesis.
const PARENT: usize = 1;
const USER_TIME: usize = 11;
const SYSTEM_TIME: usize = 12;
const CHILDREN_USER_TIME: usize = 13;
const CHILDREN_SYSTEM_TIME: usize = 14;

fn stat_field(process: u32, field: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The command may contain spaces and parentheses itself.
    stat[stat.rfind(')')? + 1..].split_whitespace().nth(field)?.parse().ok()
}

fn ticks(process: u32) -> Duration {
    let field = |field| stat_field(process, field).unwrap_or(0);
    from_ticks(field(USER_TIME) + field(SYSTEM_TIME))
}

fn ticks_of_the_dead(process: u32) -> Duration {
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
    // user nice system idle iowait irq softirq steal; guest time is in user already.
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
    fn our_own_work_shows() {
        let me = [std::process::id()];
        let before = usage(&me).expect("we are alive");
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {}
        let after = usage(&me).expect("we are alive");
        assert!(after.cpu > before.cpu, "{before:?} {after:?}");
        assert!(after.threads >= 2, "the test's thread and the main one");
        assert!(after.voluntary + after.involuntary > 0);
    }

    #[test]
    fn our_own_memory_shows() {
        let me = [std::process::id()];
        let before = memory(&me).expect("we are alive");
        let pages = vec![1_u8; 32 << 20];
        let after = memory(&me).expect("we are alive");
        assert_eq!(pages.iter().map(|page| usize::from(*page)).sum::<usize>(), pages.len());
        let grown = after.rss.saturating_sub(before.rss);
        assert!((30 << 20..40 << 20).contains(&grown), "{grown} bytes for 32 MiB");
        assert!(after.pss <= after.rss);
    }

    #[test]
    fn a_child_is_in_our_tree_until_it_has_ended() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat starts");
        let tree_now = tree(std::process::id()).expect("/proc is there");
        assert!(tree_now.contains(&child.id()) && tree_now[0] == std::process::id());
        drop(child.stdin.take());
        child.wait().expect("it ends with its input");
        assert!(usage(&[child.id()]).is_err());
    }

    #[test]
    fn waiting_is_not_busy() {
        let stat =
            "cpu  0 0\ncpu0 9 9 9 9 9 9 9 9 0 0\ncpu1 1 2 4 1000 2000 8 16 32 64 128\nintr 5\n";
        assert_eq!(parse_busy(stat, 1), Some(from_ticks(63)));
        assert_eq!(parse_busy(stat, 2), None);
    }

    #[test]
    fn a_send_queue_is_found_by_its_two_ports() {
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
