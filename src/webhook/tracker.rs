//! Decides what the receiver must be told: the difference between what it was told and what is true.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::registry::{Seen, Subject};

/// A change of a subject, or its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) subject: Subject,
    /// Whether the channel is occupied or the name has joined; otherwise it is vacant or has left.
    pub(super) is_present: bool,
}

/// What this node has reported.
///
/// Only subjects that are on this node are tracked, so each name of a cluster is reported by the
/// nodes that have its streams. A name that moves to another node is not reported: that node has
/// it, and reports its end.
#[derive(Debug)]
pub(super) struct Tracker {
    grace: Duration,
    /// The subjects that were on this node at the last report.
    present: BTreeSet<Subject>,
    /// Those of them that are gone, and when that is to be reported.
    leaving: BTreeMap<Subject, Instant>,
}

impl Tracker {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, present: BTreeSet::new(), leaving: BTreeMap::new() }
    }

    /// Notes that the receiver gets the whole state, in which these subjects are on this node.
    pub(super) fn reset(&mut self, here: BTreeSet<Subject>) {
        self.present = here;
        self.leaving.clear();
    }

    /// Returns the events that are due, if these subjects may have changed. `look` returns where a
    /// subject is at this moment. Without a time, no grace is given any more.
    pub(super) fn update(
        &mut self,
        changed: BTreeSet<Subject>,
        now: Option<Instant>,
        look: impl Fn(&Subject) -> Seen,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        for subject in changed {
            let seen = look(&subject);
            if !seen.here {
                if self.present.contains(&subject) {
                    let due = now.map(|now| now + self.grace);
                    // A subject that returned and left again between two calls has a new grace.
                    self.leaving.insert(subject, due.unwrap_or_else(Instant::now));
                }
                continue;
            }
            self.leaving.remove(&subject);
            if self.present.insert(subject.clone()) && !seen.elsewhere {
                events.push(Event { subject, is_present: true });
            }
        }
        let is_due = |due: &Instant| now.is_none_or(|now| *due <= now);
        let due = self.leaving.iter().filter(|(_, due)| is_due(due));
        let due: Vec<Subject> = due.map(|(subject, _)| subject.clone()).collect();
        for subject in due {
            let seen = look(&subject);
            self.leaving.remove(&subject);
            if seen.here {
                continue; // it has just returned
            }
            self.present.remove(&subject);
            if !seen.elsewhere {
                events.push(Event { subject, is_present: false });
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(3);
    const HERE: Seen = Seen { here: true, elsewhere: false };
    const ELSEWHERE: Seen = Seen { here: false, elsewhere: true };
    const BOTH: Seen = Seen { here: true, elsewhere: true };
    const GONE: Seen = Seen { here: false, elsewhere: false };

    /// A tracker of one name, and the seconds since its start.
    struct One(Tracker, Instant);

    impl One {
        fn new() -> Self {
            Self(Tracker::new(GRACE), Instant::now())
        }

        /// Returns whether the name is reported to have joined or left at this second.
        fn at(&mut self, second: u64, noted: bool, seen: Seen) -> Option<bool> {
            let name = Subject::Name { channel: "a".into(), name: "Ada".into() };
            let changed = BTreeSet::from_iter(noted.then(|| name.clone()));
            let now = self.1 + Duration::from_secs(second);
            let events = self.0.update(changed, Some(now), |_| seen);
            assert!(events.iter().all(|event| event.subject == name) && events.len() < 2);
            events.first().map(|event| event.is_present)
        }
    }

    #[test]
    fn a_reconnect_within_the_grace_is_no_event() {
        let mut one = One::new();
        assert_eq!(one.at(0, true, HERE), Some(true));
        assert_eq!(one.at(1, true, GONE), None);
        assert_eq!(one.at(3, true, HERE), None, "it is back");
        assert_eq!(one.at(9, false, HERE), None);
        assert_eq!(one.at(10, true, GONE), None);
        assert_eq!(one.at(12, true, GONE), None, "it has been back between two looks");
        assert_eq!(one.at(14, false, GONE), None, "that grace is not over");
        assert_eq!(one.at(15, false, GONE), Some(false));
        assert_eq!(one.at(16, true, GONE), None, "it has been reported");
        assert_eq!(one.at(17, true, HERE), Some(true));
        assert_eq!(one.0.leaving.len(), 0);
    }

    #[test]
    fn a_name_that_moves_between_nodes_is_no_event() {
        let mut old = One::new();
        assert_eq!(old.at(0, true, HERE), Some(true));
        assert_eq!(old.at(1, true, GONE), None);
        assert_eq!(old.at(4, false, ELSEWHERE), None, "the new node has it");
        let mut new = One::new();
        assert_eq!(new.at(1, true, BOTH), None, "the old node has reported it");
        assert_eq!(new.at(2, true, GONE), None);
        assert_eq!(new.at(5, false, GONE), Some(false), "the last node reports the end");
    }

    #[test]
    fn after_a_reset_only_differences_from_it_are_events() {
        let mut one = One::new();
        let name = Subject::Name { channel: "a".into(), name: "Ada".into() };
        one.0.reset(BTreeSet::from([name.clone()]));
        assert_eq!(one.at(0, true, HERE), None);
        assert_eq!(one.at(1, true, GONE), None);
        one.0.reset(BTreeSet::new());
        assert_eq!(one.at(4, false, GONE), None, "the receiver knows that it is gone");
        assert_eq!(one.at(5, true, HERE), Some(true));
        let events = one.0.update(BTreeSet::from([name]), None, |_| GONE);
        assert_eq!(events.len(), 1, "at the end, there is no grace");
    }
}
