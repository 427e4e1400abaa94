//! What all engines have in common, so that the measurements compare nothing else.

/// The path of every engine's stream.
pub(crate) const PATH: &str = "/channels/bench";

/// The maximum number of events that an engine keeps for clients that have fallen behind.
pub(super) const HISTORY_EVENTS: usize = 4_096;
/// The maximum total size of the events that an engine keeps, in bytes.
pub(super) const HISTORY_BYTES: usize = 8 * 1024 * 1024;
