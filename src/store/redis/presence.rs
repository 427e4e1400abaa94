//! The report of a node to the other nodes: its subscribers and presence names.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::iter;
use std::ops::Bound::{Included, Unbounded};

use chrono::Local;
use serde_json::{Value, json};

use crate::json;

/// The number of subscribers and the presence names, of one node or summed over several nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NodeReport {
    /// For each channel, the number of streams that select it by its name or by a pattern.
    pub(crate) names: BTreeMap<String, usize>,
    /// For each prefix, the number of streams that select channels by it.
    pub(crate) prefixes: BTreeMap<String, usize>,
    /// For each channel, the presence names, each with its number of streams.
    pub(crate) present: BTreeMap<String, BTreeMap<String, usize>>,
}

impl NodeReport {
    /// The number of streams that select a channel by its name, a pattern or a prefix.
    pub(crate) fn subscribers(&self, channel: &str) -> usize {
        let by_name = self.names.get(channel).copied().unwrap_or_default();
        by_name + prefixes_of(&self.prefixes, channel).sum::<usize>()
    }

    /// Adds the report of another node.
    pub(crate) fn add(&mut self, other: Self) {
        add(&mut self.names, other.names);
        add(&mut self.prefixes, other.prefixes);
        for (channel, present) in other.present {
            add(self.present.entry(channel).or_default(), present);
        }
    }

    pub(super) fn to_json(&self) -> String {
        let Self { names, prefixes, present } = self;
        json!({ "names": names, "prefixes": prefixes, "present": present }).to_string()
    }

    /// Decodes a report. Leaves out fields that are missing or malformed.
    pub(super) fn from_json(text: &str) -> Self {
        let row = json::parse(text.as_bytes()).unwrap_or_default();
        let present = row["present"].as_object().into_iter().flatten();
        Self {
            names: counts(&row["names"]),
            prefixes: counts(&row["prefixes"]),
            present: present.map(|(channel, names)| (channel.clone(), counts(names))).collect(),
        }
    }
}

/// The values of all keys that are a prefix of `name`, the longest key first.
///
/// Each lookup finds a prefix of `name`, or rules out all prefixes above some length. So there are
/// at most `name.len() + 1` lookups, and usually one or two.
pub(crate) fn prefixes_of<'a, K: Borrow<str> + Ord, V>(
    map: &'a BTreeMap<K, V>,
    name: &'a str,
) -> impl Iterator<Item = &'a V> {
    let mut longest = Some(name);
    iter::from_fn(move || {
        loop {
            let below = (Unbounded, Included(longest?));
            let (key, value) = map.range::<str, _>(below).next_back()?;
            let key: &str = key.borrow();
            if name.starts_with(key) {
                longest = key.char_indices().next_back().map(|(end, _)| &name[..end]);
                return Some(value);
            }
            let common = iter::zip(key.bytes(), name.bytes()).take_while(|(a, b)| a == b).count();
            // A prefix of the name that is longer than the common part would sort after this key,
            // so the map has no such prefix.
            let end = (0..=common).rev().find(|end| name.is_char_boundary(*end));
            longest = end.map(|end| &name[..end]);
        }
    })
}

fn add(to: &mut BTreeMap<String, usize>, from: BTreeMap<String, usize>) {
    for (name, count) in from {
        *to.entry(name).or_default() += count;
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
    fn prefixes_of_a_name_are_found_among_neighbours() {
        let keys = ["", "a", "a!", "aaa", "aab", "aaaa", "b", "aüx", "aü", "ü"];
        let map: BTreeMap<&str, &str> = keys.into_iter().map(|key| (key, key)).collect();
        for name in ["", "a", "aa", "aaa", "aaaaa", "aab", "aac", "aü", "aûa", "aüxy", "z", "a\"x"]
        {
            let found: Vec<&str> = prefixes_of(&map, name).copied().collect();
            let mut expected: Vec<&str> = map.keys().copied().collect();
            expected.retain(|key| name.starts_with(key));
            expected.sort_by_key(|key| std::cmp::Reverse(key.len()));
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn a_report_is_read_as_written_and_reports_add_up() {
        let one = |name: &str, count| BTreeMap::from([(name.to_owned(), count)]);
        let present = BTreeMap::from([("chat".to_owned(), one("ada", 1))]);
        let report = NodeReport { names: one("chat", 2), prefixes: one("ch", 3), present };
        let mut both = NodeReport::from_json(&report.to_json());
        assert_eq!(both, report);
        both.add(report);
        assert_eq!((both.subscribers("chat"), both.subscribers("chx")), (10, 6));
        assert_eq!(both.present["chat"]["ada"], 2);
        assert_eq!(NodeReport::from_json("from a later version"), NodeReport::default());
        let deep = format!(r#"{{"names":{{"a":1}},"x":{}{}}}"#, "[".repeat(100), "]".repeat(100));
        assert_eq!(
            NodeReport::from_json(&deep),
            NodeReport::default(),
            "a damaged report is ignored"
        );
    }
}
