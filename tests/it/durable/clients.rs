//! The official client libraries, unchanged.
