//! Checks the ids of one client's events for missing numbers.

/// The comparisons of ids with the id before, summed over all clients.
///
/// An id can be compared if it ends with a decimal number, and if the text before this number is
/// the same as in the id before: `7`, `news-7`, `1795228590121-7`. Other ids, such as UUIDs, are
/// not compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ids {
    /// How many ids were compared with the id before.
    pub compared: u64,
    /// How many ids were greater by more than 1 than the id before.
    pub gaps: u64,
    /// How many numbers these gaps contain.
    pub missing: u64,
    /// How many ids were not greater than the id before: a repeated event, or the wrong order.
    pub repeated: u64,
}

impl Ids {
    /// Whether the ids count the events of the stream, so that a missing number is a lost event. It
    /// is assumed if at least three of four ids follow directly on the id before. A server whose ids
    /// are times, or count the events of other streams too, has more gaps.
    #[must_use]
    pub fn count_events(&self) -> bool {
        self.compared > 0 && (self.gaps + self.repeated) * 4 <= self.compared
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.compared += other.compared;
        self.gaps += other.gaps;
        self.missing += other.missing;
        self.repeated += other.repeated;
    }
}

/// The last id of one client, and the comparisons so far.
#[derive(Debug, Default)]
pub(super) struct IdCheck {
    pub(super) seen: Ids,
    /// The text before the number.
    prefix: Vec<u8>,
    last: Option<u64>,
}

impl IdCheck {
    /// Compares the id of an event with the id before.
    pub(super) fn compare(&mut self, id: &[u8]) {
        let digits = id.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let (prefix, number) = id.split_at(id.len() - digits);
        let number = std::str::from_utf8(number).ok().and_then(|it| it.parse::<u64>().ok());
        let last = std::mem::replace(&mut self.last, number);
        if prefix != self.prefix {
            self.prefix = prefix.to_vec();
            return;
        }
        let Some((last, number)) = last.zip(number) else { return };
        self.seen.compared += 1;
        match number.saturating_sub(last) {
            0 => self.seen.repeated += 1,
            1 => {}
            step => {
                self.seen.gaps += 1;
                self.seen.missing += step - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(ids: &[&str]) -> Ids {
        let mut check = IdCheck::default();
        ids.iter().for_each(|id| check.compare(id.as_bytes()));
        check.seen
    }

    #[test]
    fn missing_numbers_are_counted() {
        let ids = compare(&["1", "2", "3", "7", "8", "9", "10", "10"]);
        assert_eq!(ids, Ids { compared: 7, gaps: 1, missing: 3, repeated: 1 });
        assert!(compare(&["a-8", "a-9", "a-10", "a-11", "a-13"]).count_events());
    }

    #[test]
    fn another_prefix_starts_anew() {
        let ids = compare(&["7-98", "7-99", "8-1", "8-2", "", "x", "8-9"]);
        assert_eq!(ids, Ids { compared: 2, ..Ids::default() });
    }

    #[test]
    fn ids_that_are_no_count_are_recognized() {
        let times = compare(&["1795228590121", "1795228591140", "1795228592139"]);
        assert!(times.gaps == 2 && !times.count_events());
        let uuids = compare(&["6f9619ff-8b86-d011-b42d-00c04fc964f1", "b42d-00c04fc964ff"]);
        assert!(uuids == Ids::default() && !uuids.count_events());
    }
}
