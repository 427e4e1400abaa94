//! This process's resource use, as the kernel reports it.

mod address_space;
mod machine;
mod threads;

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

pub(crate) use self::address_space::check_address_space;
pub(crate) use self::machine::{listen_overflows, machine};
pub(crate) use self::threads::{ThreadGroup, Threads};

/// The maximum number of threads whose `/proc` files are read. Reading the files of one thread
/// takes 10 to 20 µs, and the measurement must not cost more than the activity that it measures.
const THREADS_READ: u64 = 2_000;

/// This process's resource use at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) threads: u64,
    /// Resident memory, in bytes.
    pub(crate) resident: u64,
    /// Voluntary and involuntary context switches of all living threads; `None` if there are more
    /// than [`THREADS_READ`] threads.
    pub(crate) switches: Option<(u64, u64)>,
    /// The CPU time of all threads, including threads that have ended.
    pub(crate) cpu: Duration,
}

impl Process {
    pub(crate) fn now() -> Self {
        let all = Self::without_switches();
        let counted = (all.threads <= THREADS_READ).then(|| sum(threads::switches()));
        Self { switches: counted, ..all }
    }

    /// Returns the same as [`now`](Self::now), and the threads grouped by what they wait for.
    /// Reading the threads' files is the expensive part, so this function reads them once for both
    /// results, and reads less of the `threads` that have been read before.
    ///
    /// Above [`THREADS_READ`] threads, context switches are not counted, and only the first threads
    /// are grouped.
    pub(crate) fn with_threads(threads: &mut Threads) -> (Self, Vec<ThreadGroup>) {
        let all = Self::without_switches();
        let groups = threads.groups(THREADS_READ);
        let counted =
            (all.threads <= THREADS_READ).then(|| sum(groups.iter().map(|group| group.switches)));
        (Self { switches: counted, ..all }, groups)
    }

    fn without_switches() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = number(&status, "VmRSS:") * 1024;
        let cpu = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
        Self { threads: number(&status, "Threads:"), resident, switches: None, cpu }
    }
}

/// Returns the CPU time that the calling thread has used so far.
pub(crate) fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

fn sum(switches: impl IntoIterator<Item = (u64, u64)>) -> (u64, u64) {
    switches
        .into_iter()
        .fold((0, 0), |sum, (voluntary, involuntary)| (sum.0 + voluntary, sum.1 + involuntary))
}

fn number(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_has_threads_memory_and_context_switches() {
        let now = Process::now();
        assert!(now.threads >= 2 && now.resident > 1 << 20, "{now:?}");
        assert!(now.switches.is_some_and(|(voluntary, _)| voluntary > 0), "{now:?}");
        assert!(now.cpu >= thread_time());
    }
}
