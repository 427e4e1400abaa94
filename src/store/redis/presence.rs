//! Who listens to a node, as the others are told.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::iter;
use std::ops::Bound::{Included, Unbounded};

use chrono::Local;
use serde_json::{Value, json};

use crate::json;

/// How many listen to what, and who said a name: at one node, or at several.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Row {
    /// Streams of each channel, by its name or a pattern, and by a prefix.
    pub(crate) names: BTreeMap<String, usize>,
    pub(crate) prefixes: BTreeMap<String, usize>,
    /// Of each channel, the names and how many streams each has.
    pub(crate) present: BTreeMap<String, BTreeMap<String, usize>>,
}

impl Row {
    /// How many listen to a channel, by its name or by a prefix.
    pub(crate) fn listeners(&self, channel: &str) -> usize {
        let by_name = self.names.get(channel).copied().unwrap_or_default();
        by_name + prefixes_of(&self.prefixes, channel).sum::<usize>()
    }

    /// Adds another node's.
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

    /// What it does not understand, it leaves out.
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
/// Each lookup finds a prefix or rules out every longer one, so there are at most
/// `name.len() + 1` lookups, and usually one or two.
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
            // Every prefix of the name that is longer than this stands behind the key.
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

/// The time that a channel is told with who comes and goes.
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
    fn nodes_add_up_and_a_row_is_read_as_it_was_written() {
        let one = |name: &str, count| BTreeMap::from([(name.to_owned(), count)]);
        let present = BTreeMap::from([("chat".to_owned(), one("ada", 1))]);
        let row = Row { names: one("chat", 2), prefixes: one("ch", 3), present };
        let mut both = Row::from_json(&row.to_json());
        assert_eq!(both, row);
        both.add(row);
        assert_eq!((both.listeners("chat"), both.listeners("chx")), (10, 6));
        assert_eq!(both.present["chat"]["ada"], 2);
        assert_eq!(Row::from_json("of a later version"), Row::default());
        let deep = format!(r#"{{"names":{{"a":1}},"x":{}{}}}"#, "[".repeat(100), "]".repeat(100));
        assert_eq!(Row::from_json(&deep), Row::default(), "a damaged row is left out");
    }
}
