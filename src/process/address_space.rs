//! The address space that is left, where `RLIMIT_AS` (`ulimit -v`) bounds it.

use std::{fs, io};

use rustix::process::{Resource, getrlimit};

/// What a new thread must leave of the address space, in bytes. An allocation that fails aborts the
/// process, so the limit must stop connections before it stops answers and events.
const RESERVE: u64 = 8 << 20;

/// Fails if a thread with a stack of this many bytes would use up the address space.
///
/// Where nothing bounds it, as usual, that is one system call.
pub(crate) fn check_address_space(stack: usize) -> io::Result<()> {
    let Some(limit) = getrlimit(Resource::As).current else { return Ok(()) };
    match used() {
        Some(used) if limit.saturating_sub(used) < RESERVE + stack as u64 => {
            let detail =
                format!("RLIMIT_AS leaves less than {} MiB of address space", RESERVE >> 20);
            Err(io::Error::new(io::ErrorKind::OutOfMemory, detail))
        }
        _ => Ok(()), // without /proc nothing is known
    }
}

fn used() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().next()?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_address_space_includes_what_is_resident() {
        assert!(used().unwrap() > super::super::Process::now().resident);
    }
}
