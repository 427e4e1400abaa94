//! Membership in the cluster: what this node reports to the others, and whether Redis is reachable.
//!
//! A report has the node's subscribers and presence names. A node that does not renew its report is
//! evicted by the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::writer::LogWriter;
use crate::registry::{NodeReport, Registry};

/// How often this node reports its subscribers if they have changed.
pub(super) const REPORT: Duration = Duration::from_millis(500);

/// How often this node reports its subscribers if they have not changed.
const REFRESH: Duration = Duration::from_secs(5);

/// State that the streams, the publisher and the follower of one node share.
#[derive(Debug, Default)]
pub(super) struct Flags {
    /// Whether Redis could not be reached at the last attempt.
    unreachable: AtomicBool,
    /// Whether all names present at this node must be sent to the other nodes again, because the
    /// queue had no room for a change.
    presence_unsent: AtomicBool,
}

impl Flags {
    pub(super) fn is_reachable(&self) -> bool {
        !self.unreachable.load(Ordering::Relaxed)
    }

    pub(super) fn set_reachable(&self, reachable: bool) {
        self.unreachable.store(!reachable, Ordering::Relaxed);
    }

    /// Records that the queue had no room for a presence change.
    pub(super) fn set_unsent(&self) {
        self.presence_unsent.store(true, Ordering::Relaxed);
    }

    /// Whether a presence change did not fit the queue since the last call.
    pub(super) fn take_unsent(&self) -> bool {
        self.presence_unsent.swap(false, Ordering::Relaxed)
    }
}

/// Reports this node to the others.
#[derive(Debug)]
pub(super) struct Membership {
    registry: Registry,
    flags: Arc<Flags>,
    last_report: LastReport,
}

/// The last report to the other nodes.
#[derive(Debug)]
struct LastReport {
    report: NodeReport,
    /// The registry's count of changes at the time of the report.
    changes: u64,
    at: Instant,
    /// Whether Redis certainly has all presence names of this node. This is `false` after any
    /// failure, because another Redis that lacks the newest changes may have taken over.
    complete: bool,
}

impl Membership {
    pub(super) fn new(registry: Registry, flags: Arc<Flags>) -> Self {
        let report = NodeReport::default();
        let last_report = LastReport { report, changes: 0, at: Instant::now(), complete: true };
        Self { registry, flags, last_report }
    }

    /// Notes whether a request to Redis succeeded. After a failure, the next report has all presence
    /// names.
    pub(super) fn note(&mut self, succeeded: bool) {
        self.last_report.complete &= succeeded;
    }

    /// Reports this node's subscribers to the other nodes, if they have changed or
    /// [`REFRESH`] has passed.
    pub(super) fn report(&mut self, log: &mut LogWriter) {
        let changes = self.registry.lock().changes();
        self.last_report.complete &= !self.flags.take_unsent();
        let due = self.last_report.at.elapsed() >= REFRESH || !self.last_report.complete;
        if !due && changes == self.last_report.changes {
            return;
        }
        let report = self.registry.lock().report();
        if !due && report == self.last_report.report {
            self.last_report.changes = changes;
            return;
        }
        let last = self.registry.last_id();
        let mut sent = log.refresh(last, &report, !self.last_report.complete);
        if sent == Ok(false) && self.last_report.complete {
            // Redis does not know this node: another node evicted it while it could not reach
            // Redis, or Redis has lost it. So send the report again, with all presence names.
            sent = log.refresh(last, &report, true);
        }
        let complete = sent.is_ok();
        self.last_report = LastReport { report, changes, at: Instant::now(), complete };
    }

    /// Reports this node's subscribers during a long task, if the report is due.
    ///
    /// Without this report, the other nodes would evict this node.
    pub(super) fn report_if_due(&mut self, log: &mut LogWriter) {
        if self.last_report.at.elapsed() >= REFRESH {
            self.report(log);
        }
    }
}
