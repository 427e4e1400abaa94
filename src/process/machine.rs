//! Reads the memory use of the whole machine, including the kernel's memory, which the figures of a
//! process do not show.

use std::fs;
use std::io;

/// The memory of the whole machine, in bytes, from `/proc/meminfo` and `/proc/zoneinfo`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// The memory that a new program could still get: `MemAvailable`, plus the free pages on the
    /// processors' own lists, which `MemAvailable` does not count. (Each processor keeps a list of
    /// free pages, up to hundreds of megabytes after a large program has ended.) Only this figure
    /// reflects every kind of memory, but every process on the machine changes it.
    pub(crate) available: u64,
    /// All memory of the kernel itself: memory that is not free and belongs neither to a process
    /// nor to a file. It includes memory that the fields below do not list, such as the pages of
    /// sockets. Other processes hardly change this figure.
    pub(crate) kernel: u64,
    /// The memory of the kernel's stacks, one per thread.
    pub(crate) kernel_stack: u64,
    /// The memory of kernel objects (slab): sockets, tasks, files.
    pub(crate) slab: u64,
    /// The memory of page tables.
    pub(crate) page_tables: u64,
}

/// Returns how many connections the kernel has dropped since boot because the queue of a listening
/// socket was full, in this network namespace. `None` if `/proc/net/netstat` does not say it.
///
/// It counts the listening sockets of all programs; the kernel has no figure for one socket.
pub(crate) fn listen_overflows() -> Option<u64> {
    parse_listen_overflows(&fs::read_to_string("/proc/net/netstat").ok()?)
}

/// A line with the names is followed by a line with the values.
fn parse_listen_overflows(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(name, _)| *name == "ListenOverflows")?.1.parse().ok()
}

/// Reads the current memory of the machine.
///
/// # Errors
///
/// Fails if a file cannot be read or lacks a field.
pub(crate) fn machine() -> io::Result<Machine> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let pages = parse_processor_lists(&fs::read_to_string("/proc/zoneinfo")?);
    parse_meminfo(&meminfo, pages * rustix::param::page_size() as u64)
}

/// Returns the number of free pages on the processors' own lists, which no line of `/proc/meminfo`
/// includes.
fn parse_processor_lists(zoneinfo: &str) -> u64 {
    let counts = zoneinfo.lines().filter_map(|line| line.trim_start().strip_prefix("count:"));
    counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum()
}

fn parse_meminfo(meminfo: &str, processor_lists: u64) -> io::Result<Machine> {
    let not_the_kernels = ["\nMemFree:", "\nBuffers:", "\nCached:", "\nAnonPages:"];
    let mut kernel = kilobytes_after(meminfo, "MemTotal:")?.saturating_sub(processor_lists);
    for key in not_the_kernels {
        kernel = kernel.saturating_sub(kilobytes_after(meminfo, key)?);
    }
    Ok(Machine {
        available: kilobytes_after(meminfo, "\nMemAvailable:")? + processor_lists,
        kernel,
        kernel_stack: kilobytes_after(meminfo, "\nKernelStack:")?,
        slab: kilobytes_after(meminfo, "\nSlab:")?,
        page_tables: kilobytes_after(meminfo, "\nPageTables:")?,
    })
}

/// Returns the number after a key in the text of a file in `/proc`.
fn number_after(text: &str, key: &str) -> Option<u64> {
    let rest = &text[text.find(key)? + key.len()..];
    rest.split_whitespace().next()?.parse().ok()
}

/// Returns the number of kilobytes after a key, converted to bytes.
fn kilobytes_after(text: &str, key: &str) -> io::Result<u64> {
    number_after(text, key).map(|kilobytes| kilobytes * 1024).ok_or_else(|| malformed(key.trim()))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/proc has no value for {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_kilobytes_become_bytes() {
        let text = "MemTotal: 101 kB\nMemFree: 8 kB\nMemAvailable:    7 kB\nBuffers: 20 kB\n\
                    Cached: 30 kB\nAnonPages: 40 kB\nSlab: 6 kB\nSReclaimable: 5 kB\n\
                    KernelStack:  4 kB\nPageTables:  3 kB\n";
        let found = parse_meminfo(text, 2048).expect("all there");
        assert_eq!((found.available, found.kernel), (9216, 1024));
        assert_eq!((found.slab, found.kernel_stack, found.page_tables), (6144, 4096, 3072));
        assert!(parse_meminfo("MemTotal: 9 kB\n", 0).is_err());
        assert!(machine().expect("this is Linux").available > 0);
    }

    #[test]
    fn listen_overflows_are_found_by_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 2 3\n\
                    IpExt: InNoRoutes\nIpExt: 4\n";
        assert_eq!(parse_listen_overflows(text), Some(2));
        assert_eq!(parse_listen_overflows("IpExt: InNoRoutes\nIpExt: 4\n"), None);
        assert!(listen_overflows().is_some(), "this is Linux");
    }

    #[test]
    fn free_pages_are_summed_over_processors_and_zones() {
        let text = "Node 0, zone DMA\n  pagesets\n    cpu: 0\n              count:    7\n\
                    high: 9\n    cpu: 1\n              count:    11\nNode 0, zone Normal\n\
                    nr_free_pages_count: 5\n              count: 100\n";
        assert_eq!(parse_processor_lists(text), 118);
    }
}
