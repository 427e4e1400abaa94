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
pub(super) struct Patterns {
    by_text: BTreeMap<Matcher, Watched>,
    /// Of channels that were about to come the last time.
    foreseen: Option<Answers>,
}

/// One pattern.
#[derive(Debug, Default)]
struct Watched {
    audience: Audience,
    /// The channels there are that it selects.
    channels: BTreeSet<Arc<str>>,
}

/// What some patterns answered of some channels, in the order of their names.
pub(super) type Foreseen = Vec<(Arc<str>, Box<[bool]>)>;

/// What all patterns answered of some channels.
#[derive(Debug)]
pub(super) struct Answers {
    /// In their order.
    patterns: Vec<Matcher>,
    channels: Vec<(Box<str>, Box<[bool]>)>,
}

impl Answers {
    /// Asks the patterns of each name.
    pub(super) fn new<'a>(patterns: Vec<Matcher>, names: impl Iterator<Item = &'a str>) -> Self {
        let ask = |name: &'a str| {
            let topic = Topic::new(name);
            (name.into(), patterns.iter().map(|pattern| pattern.is_of(&topic)).collect())
        };
        let channels = names.map(ask).collect();
        Self { patterns, channels }
    }

    fn of(&self, name: &str) -> Option<impl Iterator<Item = (&Matcher, bool)>> {
        let (_, answers) = self.channels.iter().find(|(known, _)| **known == *name)?;
        Some(self.patterns.iter().zip(answers.iter().copied()))
    }
}

impl Patterns {
    pub(super) fn is_empty(&self) -> bool {
        self.by_text.is_empty()
    }

    /// How many there would be with these.
    pub(super) fn len_with(&self, patterns: &[Matcher]) -> usize {
        self.by_text.len()
            + patterns.iter().filter(|pattern| !self.by_text.contains_key(*pattern)).count()
    }

    /// All of them, to be asked without the lock.
    pub(super) fn all(&self) -> Vec<Matcher> {
        self.by_text.keys().cloned().collect()
    }

    /// Notes what these answered of channels that may come.
    pub(super) fn foretell(&mut self, foreseen: Answers) {
        self.foreseen = Some(foreseen);
    }

    /// Which of them select a channel that has come.
    pub(super) fn greet(&mut self, name: &Arc<str>) -> Vec<Matcher> {
        let topic = Topic::new(name);
        let foreseen = self.foreseen.as_ref().and_then(|answers| answers.of(name));
        let mut foreseen = foreseen.into_iter().flatten().peekable();
        let mut selecting = Vec::new();
        for (pattern, watched) in &mut self.by_text {
            while foreseen.next_if(|(before, _)| *before < pattern).is_some() {}
            let selects = match foreseen.next_if(|(known, _)| *known == pattern) {
                Some((_, selects)) => selects,
                None => pattern.is_of(&topic),
            };
            if selects {
                watched.channels.insert(Arc::clone(name));
                selecting.push(pattern.clone());
            }
        }
        selecting
    }

    /// Takes a channel out that has gone.
    pub(super) fn dismiss(&mut self, name: &str, watchers: &[Matcher]) {
        for pattern in watchers {
            if let Some(watched) = self.by_text.get_mut(pattern) {
                watched.channels.remove(name);
            }
        }
    }

    /// Whether somebody listens to this one.
    pub(super) fn has(&self, pattern: &Matcher) -> bool {
        self.by_text.contains_key(pattern)
    }

    /// Adds a pattern that selects these channels.
    pub(super) fn add(&mut self, pattern: &Matcher, channels: BTreeSet<Arc<str>>) {
        let watched = Watched { audience: Audience::default(), channels };
        self.by_text.insert(pattern.clone(), watched);
    }

    /// Changes the audience of one; if nobody listens to it any more, it is forgotten,
    /// and the channels are given back that it selected.
    pub(super) fn change(
        &mut self,
        pattern: &Matcher,
        change: impl FnOnce(&mut Audience),
    ) -> BTreeSet<Arc<str>> {
        let Some(watched) = self.by_text.get_mut(pattern) else { return BTreeSet::new() };
        change(&mut watched.audience);
        if !watched.audience.is_empty() {
            return BTreeSet::new();
        }
        self.by_text.remove(pattern).map(|watched| watched.channels).unwrap_or_default()
    }

    pub(super) fn audience(&self, pattern: &Matcher) -> Option<&Audience> {
        self.by_text.get(pattern).map(|watched| &watched.audience)
    }

    pub(super) fn audiences(&self) -> impl Iterator<Item = &Audience> {
        self.by_text.values().map(|watched| &watched.audience)
    }

    /// The channels there are that a pattern selects.
    pub(super) fn selected(&self, pattern: &Matcher) -> impl Iterator<Item = &Arc<str>> {
        self.by_text.get(pattern).into_iter().flat_map(|watched| &watched.channels)
    }
}
