//! Membership in the cluster: what this node reports to the others, and whether Redis is reachable.
//!
//! A report has the node's subscribers and presence names. A node that does not renew its report is
//! evicted by the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::Local;
use serde_json::{Value, json};

use super::writer::LogWriter;
use crate::json;
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

/// Encodes a report.
pub(super) fn to_json(report: &NodeReport) -> String {
    let NodeReport { names, prefixes, present } = report;
    json!({ "names": names, "prefixes": prefixes, "present": present }).to_string()
}

/// Decodes a report. Leaves out fields that are missing or malformed.
pub(super) fn from_json(text: &str) -> NodeReport {
    let row = json::parse(text.as_bytes()).unwrap_or_default();
    let present = row["present"].as_object().into_iter().flatten();
    NodeReport {
        names: counts(&row["names"]),
        prefixes: counts(&row["prefixes"]),
        present: present.map(|(channel, names)| (channel.clone(), counts(names))).collect(),
    }
}

fn counts(object: &Value) -> BTreeMap<String, usize> {
    let fields = object.as_object().into_iter().flatten();
    let count = |value: &Value| usize::try_from(value.as_u64()?).ok();
    fields.filter_map(|(name, value)| Some((name.clone(), count(value)?))).collect()
}

/// The local time of day for a presence event.
pub(super) fn time_of_day() -> String {
    Local::now().format("%H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_written_and_reports_add_up() {
        let one = |name: &str, count| BTreeMap::from([(name.to_owned(), count)]);
        let present = BTreeMap::from([("chat".to_owned(), one("ada", 1))]);
        let report = NodeReport { names: one("chat", 2), prefixes: one("ch", 3), present };
        let mut both = from_json(&to_json(&report));
        assert_eq!(both, report);
        both.add(report);
        assert_eq!((both.subscribers("chat"), both.subscribers("chx")), (10, 6));
        assert_eq!(both.present["chat"]["ada"], 2);
        assert_eq!(from_json("from a later version"), NodeReport::default());
        let deep = format!(r#"{{"names":{{"a":1}},"x":{}{}}}"#, "[".repeat(100), "]".repeat(100));
        assert_eq!(from_json(&deep), NodeReport::default(), "a damaged report is ignored");
    }
}
