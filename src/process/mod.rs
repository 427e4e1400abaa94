//! What this process is using, as the kernel says.

mod address_space;
mod machine;
mod threads;

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

pub(crate) use self::address_space::check_address_space;
pub use self::machine::{Machine, machine};
pub(crate) use self::machine::{kilobytes_after, malformed, number_after};
pub(crate) use self::threads::{ThreadGroup, groups};

/// Reading what a thread says of itself takes 10 to 20 µs: above this many threads the others are
/// left out, for a look must not cost what it looks at.
const THREADS_READ: u64 = 2_000;

/// This process, now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) threads: u64,
    /// Memory that is resident, in bytes.
    pub(crate) resident: u64,
    /// Of the threads that live now: times that one waited, and that one was made to.
    pub(crate) switches: Option<(u64, u64)>,
    /// What all its threads have computed, those that have ended too.
    pub(crate) cpu: Duration,
}

impl Process {
    pub(crate) fn now() -> Self {
        let all = Self::without_switches();
        let counted = (all.threads <= THREADS_READ).then(|| sum(threads::switches()));
        Self { switches: counted, ..all }
    }

    /// The same, with what each thread waits for: it is what costs, so the threads are read once.
    /// Above the limit nobody's are counted, and the first of them are looked at.
    pub(crate) fn with_threads() -> (Self, Vec<ThreadGroup>) {
        let all = Self::without_switches();
        let groups = groups(THREADS_READ);
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

/// What the calling thread has computed so far.
pub(crate) fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

fn sum(switches: impl Iterator<Item = (u64, u64)>) -> (u64, u64) {
    switches.fold((0, 0), |(all, forced), (waited, made)| (all + waited, forced + made))
}

fn number(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_threads_and_memory_and_has_waited() {
        let now = Process::now();
        assert!(now.threads >= 2 && now.resident > 1 << 20, "{now:?}");
        assert!(now.switches.is_some_and(|(voluntary, _)| voluntary > 0), "{now:?}");
        assert!(now.cpu >= thread_time());
    }
}
