//! Limits of the channels' histories.

use std::time::Duration;

/// The limits of a channel's history. The limit that is reached first applies.
///
/// ```
/// use threadcast::History;
///
/// let history = History { events: 100, ..History::default() };
/// assert_eq!(history.bytes, 1024 * 1024);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The maximum number of events. Default: 1,000.
    pub events: usize,
    /// The maximum size of the encoded events, in bytes. Default: 1 MiB.
    pub bytes: usize,
    /// The maximum age of an event. Default: 1 hour.
    pub age: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self { events: 1_000, bytes: 1024 * 1024, age: Duration::from_secs(3_600) }
    }
}

/// The history limits of all channels, by name pattern.
///
/// A name takes precedence over a prefix, and a longer prefix over a shorter one.
///
/// ```
/// use threadcast::{Histories, History};
///
/// let short = History { events: 10, ..History::default() };
/// let histories = Histories::default().with("chat*", short);
/// assert_eq!(histories.of("chat/1").events, 10);
/// assert_eq!(histories.of("news").events, 1_000);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histories {
    /// The limits of channels that no pattern matches.
    default: History,
    patterns: Vec<(String, History)>,
}

impl Histories {
    /// Applies the same limits to every channel.
    pub fn all(default: History) -> Self {
        Self { default, patterns: Vec::new() }
    }

    /// Sets the limits of the channels that match `pattern`: a name, or a prefix and `*`.
    ///
    /// If it is called twice with the same pattern, the later limits apply.
    #[must_use]
    pub fn with(mut self, pattern: impl Into<String>, history: History) -> Self {
        let pattern = pattern.into();
        self.patterns.retain(|(known, _)| *known != pattern);
        self.patterns.push((pattern, history));
        self
    }

    /// Returns the limits of this channel.
    pub fn of(&self, channel: &str) -> History {
        let matching =
            self.patterns.iter().filter(|(pattern, _)| match pattern.strip_suffix('*') {
                Some(prefix) => channel.starts_with(prefix),
                None => channel == pattern,
            });
        let closest = matching.max_by_key(|(pattern, _)| (!pattern.ends_with('*'), pattern.len()));
        closest.map_or(self.default, |(_, history)| *history)
    }

    /// The limits of all patterns, and the default limits.
    pub(super) fn all_rules(&self) -> impl Iterator<Item = &History> {
        self.patterns.iter().map(|(_, history)| history).chain([&self.default])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_pattern_applies() {
        let keeping = |events| History { events, ..History::default() };
        let histories = Histories::all(keeping(1))
            .with("chat*", keeping(2))
            .with("chat/*", keeping(3))
            .with("chat/1", keeping(4));
        for (channel, events) in [("news", 1), ("chat", 2), ("chat/2", 3), ("chat/1", 4)] {
            assert_eq!(histories.of(channel).events, events, "{channel}");
        }
    }
}
