//! Reads the resource use of processes and of the machine from `/proc`.
//!
//! Each function returns a snapshot. To measure an interval, take one snapshot before and one
//! after, and subtract them. All sizes are in bytes. If a process has ended, reading it fails; a
//! thread that ends while its process is read causes no error.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::time::Duration;

use ::procfs::net::{TcpNetEntry, TcpState};
use ::procfs::process::{Process, Stat, all_processes};
use ::procfs::{Current, Meminfo, ProcError};

/// The resources that processes have used since they started. The context switches of threads and
/// children that have ended are not included.
///
/// ```
/// use sse_load::procfs;
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
/// use sse_load::procfs;
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
/// use sse_load::procfs;
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

/// The memory of the whole machine, in bytes, from `/proc/meminfo` and `/proc/zoneinfo`.
///
/// ```
/// use sse_load::procfs;
///
/// let machine = procfs::machine()?;
/// assert!(machine.available > 0 && machine.kernel_stack > 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Machine {
    /// The memory that a new program could still get: `MemAvailable`, plus the free pages on the
    /// processors' own lists, which `MemAvailable` does not count. (Each processor keeps a list of
    /// free pages, up to hundreds of megabytes after a large program has ended.) Only this figure
    /// reflects every kind of memory, but every process on the machine changes it.
    pub available: u64,
    /// All memory of the kernel itself: memory that is not free and belongs neither to a process
    /// nor to a file. It includes memory that the fields below do not list, such as the pages of
    /// sockets. Other processes hardly change this figure.
    pub kernel: u64,
    /// The memory of the kernel's stacks, one per thread.
    pub kernel_stack: u64,
    /// The memory of kernel objects (slab): sockets, tasks, files.
    pub slab: u64,
    /// The memory of page tables.
    pub page_tables: u64,
}

/// Returns the process ids of `root` and all its descendants.
///
/// # Errors
///
/// Fails if `/proc` cannot be listed.
pub fn tree(root: u32) -> io::Result<Vec<u32>> {
    // If a process has ended since the listing, its `stat` cannot be read, and it is skipped.
    let stats = all_processes().map_err(other)?.filter_map(|process| process.ok()?.stat().ok());
    let id = |id: i32| u32::try_from(id).unwrap_or(0);
    let mut children = HashMap::<u32, Vec<u32>>::new();
    stats.for_each(|stat| children.entry(id(stat.ppid)).or_default().push(id(stat.pid)));
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(parent) = tree.get(next) {
        tree.extend(children.remove(parent).unwrap_or_default());
        next += 1;
    }
    Ok(tree)
}

/// Returns the resources that `processes` and their ended children have used.
///
/// # Errors
///
/// Fails if one of `processes` has ended.
pub fn usage(processes: &[u32]) -> io::Result<Usage> {
    let mut usage = Usage::default();
    for process in processes {
        let process = open(*process)?;
        let mut scheduled = Duration::ZERO;
        // A thread that has ended since the listing has no files any more, and is skipped.
        for task in process.tasks().map_err(other)?.flatten() {
            let status = format!("/proc/{}/task/{}/status", task.pid, task.tid);
            let Ok(status) = fs::read_to_string(status) else { continue };
            usage.voluntary += number_after(&status, "\nvoluntary_ctxt_switches:");
            usage.involuntary += number_after(&status, "\nnonvoluntary_ctxt_switches:");
            usage.threads += 1;
            let schedule = task.schedstat().map_or(0, |schedule| schedule.sum_exec_runtime);
            scheduled += Duration::from_nanos(schedule);
        }
        let stat = process.stat().map_err(other)?;
        // `schedstat` is exact but omits threads that have ended. `stat` includes these threads but
        // counts in hundredths of a second. The greater of the two values is closer to the true CPU
        // time. The CPU time of children that have ended is a separate field of `stat`, so it is
        // added.
        usage.cpu += scheduled.max(ticks(stat.utime + stat.stime)) + of_ended_children(&stat);
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
        let rollup = open(*process)?.smaps_rollup().map_err(other)?.memory_map_rollup;
        let sum = |key| rollup.iter().filter_map(|map| map.extension.map.get(key)).sum::<u64>();
        memory.rss += sum("Rss");
        memory.pss += sum("Pss");
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
    parse_busy(&fs::read_to_string("/proc/stat")?, core)
        .ok_or_else(|| io::Error::other(format!("/proc/stat has no processor {core}")))
}

/// Returns the send queue of the IPv4 connection from the port `server` to the port `client`;
/// `None` if the connection does not exist any more.
///
/// # Errors
///
/// Fails if `/proc/net/tcp` cannot be read.
pub fn send_queue(server: u16, client: u16) -> io::Result<Option<SendQueue>> {
    Ok(find_send_queue(&::procfs::net::tcp().map_err(other)?, server, client))
}

/// Reads the current memory of the machine.
///
/// # Errors
///
/// Fails if a file cannot be read or lacks a field.
pub fn machine() -> io::Result<Machine> {
    let pages = parse_processor_lists(&fs::read_to_string("/proc/zoneinfo")?);
    let meminfo = Meminfo::current().map_err(other)?;
    machine_of(&meminfo, pages * rustix::param::page_size() as u64)
        .ok_or_else(|| io::Error::other("/proc/meminfo lacks a field"))
}

fn open(process: u32) -> io::Result<Process> {
    let process = i32::try_from(process).map_err(io::Error::other)?;
    Process::new(process).map_err(other)
}

fn other(error: ProcError) -> io::Error {
    io::Error::other(error)
}

fn of_ended_children(stat: &Stat) -> Duration {
    ticks(u64::try_from(stat.cutime + stat.cstime).unwrap_or(0))
}

fn ticks(ticks: u64) -> Duration {
    Duration::from_nanos(ticks * 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
}

/// Returns the number after a key in a file of `/proc`; 0 if the file lacks the key.
///
/// [`usage`] reads two of the sixty lines of a thread's `status`. The procfs crate parses all of
/// them, which takes twice as long, and a server may have thousands of threads.
fn number_after(text: &str, key: &str) -> u64 {
    let number = text.split_once(key).and_then(|(_, rest)| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Finds a processor by its name. The procfs crate returns the processors as a list, in which the
/// position of a processor differs from its number if another processor is offline.
fn parse_busy(stat: &str, core: usize) -> Option<Duration> {
    let prefix = format!("cpu{core} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(prefix.as_str()))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // The fields are: user nice system idle iowait irq softirq steal. `user` already includes the
    // time of guests (virtual machines).
    let busy = [0, 1, 2, 5, 6, 7].into_iter().filter_map(|field| fields.get(field)).sum();
    Some(ticks(busy))
}

fn find_send_queue(table: &[TcpNetEntry], server: u16, client: u16) -> Option<SendQueue> {
    let ports = |it: &TcpNetEntry| (it.local_address.port(), it.remote_address.port());
    let entry = table.iter().find(|it| ports(it) == (server, client))?;
    let established = entry.state == TcpState::Established;
    Some(SendQueue { bytes: entry.tx_queue.into(), established })
}

/// Returns the number of free pages on the processors' own lists, which neither `/proc/meminfo` nor
/// the procfs crate reports.
fn parse_processor_lists(zoneinfo: &str) -> u64 {
    let counts = zoneinfo.lines().filter_map(|line| line.trim_start().strip_prefix("count:"));
    counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum()
}

fn machine_of(meminfo: &Meminfo, processor_lists: u64) -> Option<Machine> {
    let not_the_kernels =
        [processor_lists, meminfo.mem_free, meminfo.buffers, meminfo.cached, meminfo.anon_pages?];
    Some(Machine {
        available: meminfo.mem_available? + processor_lists,
        kernel: not_the_kernels.into_iter().fold(meminfo.mem_total, u64::saturating_sub),
        kernel_stack: meminfo.kernel_stack?,
        slab: meminfo.slab,
        page_tables: meminfo.page_tables?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::wait_until;
    use ::procfs::net::TcpNetEntries;
    use ::procfs::{FromBufReadSI, current_system_info};
    use std::process::{Command, Stdio};

    /// A child has one thread. The threads of this process, which run other tests, come and go.
    #[test]
    fn usage_of_a_busy_process_grows() {
        let busy = "while :; do :; done";
        let mut child = Command::new("sh").args(["-c", busy]).spawn().expect("a shell");
        let used = || usage(&[child.id()]).expect("it runs");
        let before = used();
        wait_until(|| used().cpu > before.cpu + Duration::from_millis(20));
        let after = used();
        child.kill().expect("a child process");
        child.wait().expect("a child process");
        assert!(after.cpu > before.cpu + Duration::from_millis(20), "{before:?} {after:?}");
        assert!(after.threads == 1 && after.voluntary + after.involuntary > 0, "{after:?}");
    }

    #[test]
    fn memory_includes_own_allocations() {
        let me = [std::process::id()];
        let before = memory(&me).expect("this process exists");
        // Much more than the tests that run beside this one.
        let pages = vec![1_u8; 256 << 20];
        let after = memory(&me).expect("this process exists");
        assert_eq!(pages.iter().map(|page| usize::from(*page)).sum::<usize>(), pages.len());
        let grown = after.rss.saturating_sub(before.rss);
        assert!((240 << 20..320 << 20).contains(&grown), "{grown} bytes for 256 MiB");
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
        assert_eq!(parse_busy(stat, 1), Some(ticks(63)));
        assert_eq!(parse_busy(stat, 2), None);
    }

    #[test]
    fn send_queue_is_found_by_its_two_ports() {
        let row = |local: &str, remote: &str, state: &str, queues: &str| {
            format!(
                "   0: 0100007F:{local} 0100007F:{remote} {state} {queues} 00:00000000 0 0 0 9\n"
            )
        };
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n"
            .to_owned()
            + &row("1F90", "0000", "0A", "00000000:00000000")
            + &row("C001", "1F90", "01", "00000000:00010000")
            + &row("1F90", "C001", "01", "00012345:00000000")
            + &row("1F90", "C002", "04", "00000001:00000000");
        let table = TcpNetEntries::from_buf_read(table.as_bytes(), current_system_info());
        let table = table.expect("a valid table").0;
        let queue = |bytes, established| Some(SendQueue { bytes, established });
        assert_eq!(find_send_queue(&table, 8080, 0xc001), queue(0x12345, true));
        assert_eq!(find_send_queue(&table, 8080, 0xc002), queue(1, false));
        assert_eq!(find_send_queue(&table, 8080, 0xc003), None);
    }

    #[test]
    fn kernel_memory_is_what_no_process_and_no_file_has() {
        let meminfo = Meminfo::current().expect("this is Linux");
        let (none, some) = (machine_of(&meminfo, 0), machine_of(&meminfo, 4096));
        let (none, some) = none.zip(some).expect("this kernel reports all fields");
        assert_eq!((none.available + 4096, none.kernel - 4096), (some.available, some.kernel));
        let counted = meminfo.mem_free + meminfo.buffers + meminfo.cached;
        assert!(none.kernel < meminfo.mem_total - counted, "without the memory of processes");
        assert!(none.kernel >= none.slab + none.page_tables, "{none:?}");
    }

    #[test]
    fn free_pages_are_summed_over_processors_and_zones() {
        let text = "Node 0, zone DMA\n  pagesets\n    cpu: 0\n              count:    7\n\
                    high: 9\n    cpu: 1\n              count:    11\nNode 0, zone Normal\n\
                    nr_free_pages_count: 5\n              count: 100\n";
        assert_eq!(parse_processor_lists(text), 118);
    }
}
