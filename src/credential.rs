//! Whether a token or key is still accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A token or key that the server accepts until it is withdrawn.
///
/// A stream keeps the credential that it was opened with, and ends when it is withdrawn. Clones
/// stand for the same token or key. Checking takes no lock.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credential(Arc<AtomicBool>);

impl Credential {
    pub(crate) fn withdraw(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Whether both stand for the same token or key.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
