//! A limit of the system as it is read, with its use.

use std::fs;
use std::path::Path;
use std::str::FromStr;

/// A limit and its current use, as the system reports them. The current use includes what the
/// clients use.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) name: &'static str,
    pub(super) limit: u64,
    pub(super) used: u64,
    pub(super) unit: Unit,
    /// The setting or command that raises the limit, with `{}` in place of the new value.
    pub(super) raise: String,
}

/// The unit of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Descriptor,
    Thread,
    /// A memory mapping, of which a thread has this many.
    Mapping {
        of_thread: u64,
    },
    /// A byte of memory.
    Byte,
    /// A byte of address space.
    Address,
    /// A byte of address space that is private and writable.
    Data,
}

impl Unit {
    pub(super) fn is_bytes(self) -> bool {
        matches!(self, Self::Byte | Self::Address | Self::Data)
    }
}

/// Returns the first word after `key` in the line that begins with `key`.
pub(super) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()
}

/// Reads a file that contains one number. Returns `None` for the word `max`, which means no limit.
pub(super) fn number<T: FromStr>(path: impl AsRef<Path>) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
