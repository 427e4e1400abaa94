//! The memory of processes and of the kernel for them, as the live view shows it for each client.

use std::fs;

/// Returns the resident memory of a process in bytes; `None` if it has ended.
pub(super) fn resident(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    kilobytes_after(&status, "VmRSS:")
}

/// Returns the size of a thread's stack in the kernel: that of all stacks, divided by the number of
/// threads on the machine. `None` if the kernel does not report both.
pub(super) fn kernel_stack() -> Option<u64> {
    let stacks = kilobytes_after(&fs::read_to_string("/proc/meminfo").ok()?, "KernelStack:")?;
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let threads: u64 = load.split(' ').nth(3)?.split_once('/')?.1.parse().ok()?;
    stacks.checked_div(threads)
}

fn kilobytes_after(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_and_kernel_stack_are_known() {
        assert!(resident(std::process::id()).is_some_and(|bytes| bytes > 1 << 20));
        let stack = kernel_stack().expect("this is Linux");
        assert!((4 << 10..128 << 10).contains(&stack), "{stack}");
    }
}
