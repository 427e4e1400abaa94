//! Checks the remaining address space of this process, which `RLIMIT_AS` (`ulimit -v`) may limit.

use std::{fs, io};

use rustix::process::{Resource, getrlimit};

/// The address space that must remain free after a new thread is started, in bytes. A failed
/// allocation aborts the process, so the server must reject connections before the address space
/// for responses and events runs out.
const RESERVE: u64 = 8 << 20;

/// Fails if a thread with a stack of this many bytes would leave less than [`RESERVE`] of the
/// address space free.
///
/// Usually there is no limit, and the check costs one system call.
pub(crate) fn check_address_space(stack: usize) -> io::Result<()> {
    let Some(limit) = getrlimit(Resource::As).current else { return Ok(()) };
    match used() {
        Some(used) if limit.saturating_sub(used) < RESERVE + stack as u64 => {
            let detail =
                format!("RLIMIT_AS leaves less than {} MiB of address space", RESERVE >> 20);
            Err(io::Error::new(io::ErrorKind::OutOfMemory, detail))
        }
        _ => Ok(()), // if /proc cannot be read, the check passes
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
    fn used_address_space_includes_resident_memory() {
        assert!(used().unwrap() > super::super::Process::now().resident);
    }
}
