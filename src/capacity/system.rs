//! Reads the limits of a process, its user, the kernel and the machine.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::reading::{Reading, Unit, field, number};

/// This process's name in `/proc`.
pub(super) const SELF: &str = "self";

/// Returns the limit on open descriptors. For this process, the limit is known even without `/proc`
/// (for example in an empty root directory), so that there is always at least one limit.
pub(super) fn descriptors(process: &str) -> Option<Reading> {
    let open = fs::read_dir(format!("/proc/{process}/fd")).map(|open| open.count() as u64);
    let (limit, used) = if process == SELF {
        // The kernel does not permit an infinite limit, so the default is never used. One
        // descriptor is subtracted, because it was open only while the folder `fd` was read.
        let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::from(u32::MAX));
        (limit, open.map_or(3, |open| open.saturating_sub(1)))
    } else {
        (hard_limit(process, "Max open files")?, open.ok()?)
    };
    Some(Reading {
        name: "RLIMIT_NOFILE",
        limit,
        used,
        unit: Unit::Descriptor,
        raise: "LimitNOFILE={}   (in its unit's [Service]; in a shell, as root: ulimit -n {})"
            .into(),
    })
}

/// The bits of `CAP_SYS_ADMIN` and `CAP_SYS_RESOURCE`. A process with one of these capabilities is
/// exempt from the limit on a user's threads.
const EXEMPT: u64 = 1 << 21 | 1 << 24;

/// Returns the limit on the threads of the process's user; `None` if the process is exempt.
pub(super) fn user_threads(process: &str) -> Option<Reading> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let capabilities = u64::from_str_radix(field(&status, "CapEff:")?, 16).ok()?;
    if capabilities & EXEMPT != 0 || field(&status, "Uid:")? == "0" {
        return None;
    }
    let uid = field(&status, "Uid:");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let threads = |process: fs::DirEntry| -> Option<u64> {
        let status = fs::read_to_string(process.path().join("status")).ok()?;
        if field(&status, "Uid:") != uid {
            return None;
        }
        field(&status, "Threads:")?.parse().ok()
    };
    let used = processes.filter_map(threads).sum();
    Some(Reading {
        name: "RLIMIT_NPROC",
        limit: hard_limit(process, "Max processes")?,
        used,
        unit: Unit::Thread,
        raise: "LimitNPROC={}   (in its unit's [Service]; in a shell, as root: ulimit -u {})"
            .into(),
    })
}

/// Returns the kernel's two limits on the total number of threads of all processes.
pub(super) fn threads() -> Vec<Reading> {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let threads =
        load.split_whitespace().nth(3).and_then(|field| field.split_once('/')?.1.parse().ok());
    let Some(used) = threads else { return Vec::new() };
    let bound = |name, file| {
        let (limit, unit) = (number(file)?, Unit::Thread);
        let raise = format!("sysctl -w {name}={{}}   (as root; to keep it: /etc/sysctl.d)");
        Some(Reading { name, limit, used, unit, raise })
    };
    let bounds = [
        bound("kernel.threads-max", "/proc/sys/kernel/threads-max"),
        bound("kernel.pid_max", "/proc/sys/kernel/pid_max"),
    ];
    bounds.into_iter().flatten().collect()
}

/// Returns the limit on memory mappings. A thread has a stack, and a signal stack on which Rust's
/// standard library reports a stack overflow; each has a guard, which is a mapping too.
///
/// The library creates no signal stacks if the process was started with SIGSEGV and SIGBUS ignored. A
/// stack overflow then still ends the process, but without the message that names the thread.
pub(super) fn mappings(process: &str) -> Option<Reading> {
    let maps = fs::read(format!("/proc/{process}/maps")).ok()?;
    let has_signal_stacks = !ignores_overflows(process);
    let raise = "sysctl -w vm.max_map_count={}   (as root; to keep it: /etc/sysctl.d)";
    Some(Reading {
        name: "vm.max_map_count",
        limit: number("/proc/sys/vm/max_map_count")?,
        used: maps.split(|byte| *byte == b'\n').count() as u64,
        unit: Unit::Mapping { of_thread: if has_signal_stacks { 4 } else { 2 } },
        raise: if has_signal_stacks {
            format!("{raise}, or start the server with: {WITHOUT_SIGNAL_STACKS} threadcast")
        } else {
            raise.into()
        },
    })
}

/// The start of a command line that halves the number of mappings of each thread.
const WITHOUT_SIGNAL_STACKS: &str = "env --ignore-signal=SEGV --ignore-signal=BUS";

/// Returns whether a process ignores SIGSEGV and SIGBUS.
fn ignores_overflows(process: &str) -> bool {
    const BOTH: u64 = 1 << (11 - 1) | 1 << (7 - 1);
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let ignored = field(&status, "SigIgn:").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    ignored.is_some_and(|ignored| ignored & BOTH == BOTH)
}

pub(super) fn memory() -> Option<Reading> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let bytes = |key| field(&meminfo, key)?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024);
    let limit = bytes("MemTotal:")?;
    Some(Reading {
        name: "memory",
        limit,
        used: limit.saturating_sub(bytes("MemAvailable:")?),
        unit: Unit::Byte,
        raise: "use a machine with {} bytes of memory, or stop other programs".into(),
    })
}

/// Returns the limit on the address space of a process, if there is one.
///
/// The current use excludes private writable mappings (the heap and the stacks), because the
/// reserved memory and the clients' memory include them.
pub(super) fn address_space(process: &str) -> Option<Reading> {
    let used = kilobytes(process, "VmSize:")?.saturating_sub(kilobytes(process, "VmData:")?) * 1024;
    Some(Reading {
        name: "RLIMIT_AS",
        limit: soft_limit(process, "Max address space")?,
        used: used + arenas() * ARENA,
        unit: Unit::Address,
        raise:
            "LimitAS={}   (in its unit's [Service]; in a shell: ulimit -v, in units of 1024 bytes)"
                .into(),
    })
}

/// Returns the limit on the private writable mappings of a process, if there is one.
pub(super) fn data(process: &str) -> Option<Reading> {
    Some(Reading {
        name: "RLIMIT_DATA",
        limit: soft_limit(process, "Max data size")?,
        used: 0,
        unit: Unit::Data,
        raise: "LimitDATA={}   (in its unit's [Service]; in a shell: ulimit -d, in units of 1024 bytes)"
            .into(),
    })
}

/// The address space of each allocator arena except the first, in bytes (glibc's `HEAP_MAX_SIZE`).
const ARENA: u64 = 64 << 20;

/// Returns the maximum number of allocator arenas besides the first. glibc creates up to eight
/// arenas per processor in total, unless `MALLOC_ARENA_MAX` sets another maximum (mallopt(3)).
fn arenas() -> u64 {
    let most = std::env::var("MALLOC_ARENA_MAX").ok().and_then(|most| most.parse().ok());
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    most.unwrap_or(8 * processors).saturating_sub(1)
}

/// Returns the resident memory of this process, in bytes.
pub(super) fn resident() -> u64 {
    kilobytes(SELF, "VmRSS:").unwrap_or(0) * 1024
}

/// Reads a value in KiB from `/proc/PID/status`.
pub(super) fn kilobytes(process: &str, key: &str) -> Option<u64> {
    field(&fs::read_to_string(format!("/proc/{process}/status")).ok()?, key)?.parse().ok()
}

/// Reads a soft limit of a process; `None` if it is unlimited.
fn soft_limit(process: &str, name: &str) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Reads a hard limit of a process; `None` if it is unlimited.
fn hard_limit(process: &str, name: &str) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
