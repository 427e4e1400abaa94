//! Which channels the patterns select that somebody listens to.
//!
//! A pattern is asked of a channel's name once: when the channel comes, or when the
//! pattern does. A read and a publish look up what was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::audience::Audience;
use crate::matcher::{Matcher, Topic};

/// The patterns that somebody listens to.
#[derive(Debug, Default)]
pub(super) struct Patterns(BTreeMap<Matcher, Watched>);

/// One pattern.
#[derive(Debug, Default)]
struct Watched {
    audience: Audience,
    /// The channels there are that it selects.
    channels: BTreeSet<Arc<str>>,
}

impl Patterns {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there would be with these.
    pub(super) fn len_with(&self, patterns: &[Matcher]) -> usize {
        self.0.len() + patterns.iter().filter(|pattern| !self.0.contains_key(*pattern)).count()
    }

    /// Which of them select a channel that has come.
    pub(super) fn greet(&mut self, name: &Arc<str>) -> Vec<Matcher> {
        let topic = Topic::new(name);
        let selecting = self.0.iter_mut().filter(|(pattern, _)| pattern.is_of(&topic));
        selecting
            .map(|(pattern, watched)| {
                watched.channels.insert(Arc::clone(name));
                pattern.clone()
            })
            .collect()
    }

    /// Takes a channel out that has gone.
    pub(super) fn dismiss(&mut self, name: &str, watchers: &[Matcher]) {
        for pattern in watchers {
            if let Some(watched) = self.0.get_mut(pattern) {
                watched.channels.remove(name);
            }
        }
    }

    /// Whether somebody listens to this one.
    pub(super) fn has(&self, pattern: &Matcher) -> bool {
        self.0.contains_key(pattern)
    }

    /// Adds a pattern that selects these channels.
    pub(super) fn add(&mut self, pattern: &Matcher, channels: BTreeSet<Arc<str>>) {
        let watched = Watched { audience: Audience::default(), channels };
        self.0.insert(pattern.clone(), watched);
    }

    /// Changes the audience of one; if nobody listens to it any more, it is forgotten,
    /// and the channels are given back that it selected.
    pub(super) fn change(
        &mut self,
        pattern: &Matcher,
        change: impl FnOnce(&mut Audience),
    ) -> BTreeSet<Arc<str>> {
        let Some(watched) = self.0.get_mut(pattern) else { return BTreeSet::new() };
        change(&mut watched.audience);
        if !watched.audience.is_empty() {
            return BTreeSet::new();
        }
        self.0.remove(pattern).map(|watched| watched.channels).unwrap_or_default()
    }

    pub(super) fn audience(&self, pattern: &Matcher) -> Option<&Audience> {
        self.0.get(pattern).map(|watched| &watched.audience)
    }

    pub(super) fn audiences(&self) -> impl Iterator<Item = &Audience> {
        self.0.values().map(|watched| &watched.audience)
    }

    /// The channels there are that a pattern selects.
    pub(super) fn selected(&self, pattern: &Matcher) -> impl Iterator<Item = &Arc<str>> {
        self.0.get(pattern).into_iter().flat_map(|watched| &watched.channels)
    }
}
