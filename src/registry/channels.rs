//! Which channels a stream is of.

use std::sync::Arc;

use super::Readable;
use super::readable::{Private, StreamAccess};
use super::ring::{LostIds, Ring};
use crate::error::PublishError;
use crate::limits::{NAMES_MAX, PATTERNS_PER_STREAM};
use crate::matcher::Matcher;

/// The longest name of a channel, in bytes: topics of Mercure are URLs, and those of its
/// subscriptions have one within another.
pub(crate) const NAME_MAX: usize = 1_024;

/// The channels of one stream: some by name, some by prefix, some by pattern.
///
/// A trailing `*` matches a prefix: `chat*` is every channel whose name starts
/// with `chat`, those of tomorrow included.
///
/// ```
/// use threadcast::Channels;
///
/// let channels = Channels::new(["news", "chat*"])?;
/// assert!(Channels::new([""]).is_err());
/// # Ok::<(), threadcast::PublishError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Channels {
    /// Sorted and without repeats, so that equal sets are equal.
    pub(super) names: Arc<[Arc<str>]>,
    /// The same, without the `*`, and none a prefix of another.
    pub(super) prefixes: Arc<[Arc<str>]>,
    /// What only few streams have: in a place of its own, so that the others carry a
    /// pointer.
    rare: Option<Arc<Rare>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Rare {
    /// Sorted and without repeats; none of them means one channel, or all.
    patterns: Box<[Matcher]>,
    readable: Readable,
}

impl Channels {
    /// The channels of these names and prefixes.
    ///
    /// Fails if there is none, or more than 100, or if a name is not 1 to 1,024 bytes
    /// without NUL.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, PublishError> {
        let (mut names, mut prefixes) = (Vec::new(), Vec::new());
        let mut bounds = Bounds::default();
        for pattern in patterns {
            check_length(pattern)?;
            bounds.add(pattern.len())?;
            match pattern.strip_suffix('*') {
                Some(prefix) => prefixes.push(prefix),
                None => names.push(pattern),
            }
        }
        if names.is_empty() && prefixes.is_empty() {
            return Err(PublishError::Name);
        }
        prefixes.sort_unstable();
        // Sorted, a prefix of another stands right before it.
        prefixes.dedup_by(|longer, shorter| longer.starts_with(*shorter));
        names.retain(|name| !prefixes.iter().any(|prefix| name.starts_with(prefix)));
        names.sort_unstable();
        names.dedup();
        Ok(Self { names: shared(&names), prefixes: shared(&prefixes), rare: None })
    }

    /// The channels that these select, those of tomorrow included.
    ///
    /// ```
    /// use threadcast::{Channels, Matcher, PublishError};
    ///
    /// let books = Channels::of(&[Matcher::url_pattern("/books/:id")?])?;
    /// assert_eq!(Channels::of(&[]), Err(PublishError::Name));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Fails if there is none, or more than 100, if the name of one is too long, or if
    /// they take too much memory together.
    pub fn of(matchers: &[Matcher]) -> Result<Self, PublishError> {
        let mut bounds = Bounds::default();
        matchers.iter().try_for_each(|matcher| bounds.add(matcher.bytes()))?;
        if matchers.iter().any(Matcher::is_any) {
            return Self::new(["*"]);
        }
        let (exact, patterns): (Vec<&Matcher>, Vec<&Matcher>) =
            matchers.iter().partition(|matcher| matcher.is_exact());
        if matchers.is_empty() {
            return Err(PublishError::Name);
        }
        let mut names: Vec<&str> = exact.into_iter().map(Matcher::text).collect();
        names.iter().try_for_each(|name| check_length(name))?;
        names.sort_unstable();
        names.dedup();
        let channels = Self { names: shared(&names), prefixes: shared(&[]), rare: None };
        let mut patterns: Vec<Matcher> = patterns.into_iter().cloned().collect();
        patterns.sort_unstable();
        patterns.dedup();
        Ok(channels.with(|rare| rare.patterns = patterns.into()))
    }

    /// Has a stream of these be given private events too.
    #[must_use = "the channels themselves stay as they are"]
    pub fn readable(self, readable: Readable) -> Self {
        self.with(|rare| rare.readable = readable)
    }

    fn with(mut self, change: impl FnOnce(&mut Rare)) -> Self {
        let mut rare = self.rare.take().map_or_else(Rare::default, |rare| (*rare).clone());
        change(&mut rare);
        // Equal sets are equal: what says nothing is not there.
        self.rare = (rare != Rare::default()).then(|| Arc::new(rare));
        self
    }

    /// The channels that are given by their names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    pub(super) fn patterns(&self) -> &[Matcher] {
        self.rare.as_ref().map_or(&[], |rare| &rare.patterns)
    }

    /// Whether a stream of these may be given an event, `None` being a public one.
    pub(super) fn may_read(&self, private: Option<&Private>) -> bool {
        private.is_none() || self.rare.as_ref().is_some_and(|rare| rare.readable.allows(private))
    }

    /// Whether a stream of these may be given every private event.
    pub(super) fn reads_all(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.readable.is_all())
    }

    /// Whether a stream of these may be given any private event.
    pub(super) fn reads_some_private(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.readable != Readable::Public)
    }

    /// What is gone of a channel, as far as its streams may know. It is the answer only if
    /// nothing is left to be asked.
    pub(super) fn lost_of<'a>(
        &self,
        channel: &str,
        ring: &'a Ring,
        access: &mut StreamAccess,
    ) -> &'a LostIds {
        ring.lost_of(|others| self.may_miss(channel, others, access) == Some(true))
    }

    /// Whether a stream of these may be given private events, if that is the same for
    /// all of them.
    pub(super) fn may_read_all(&self) -> Option<bool> {
        self.rare.as_ref().map_or(Some(false), |rare| rare.readable.of_all())
    }

    /// Whether its streams are to be told of the private events that are gone from a
    /// channel, though it is not known any more what their other topics were; `None` if
    /// that is still to be asked.
    fn may_miss(
        &self,
        channel: &str,
        had_other_topics: bool,
        access: &mut StreamAccess,
    ) -> Option<bool> {
        match self.may_read_all() {
            None if had_other_topics => Some(true),
            None => access.check(self, &Arc::new(Private::of(&[channel]))),
            known => known,
        }
    }

    /// What may be given to its streams, for who has to ask without them.
    pub(super) fn read_rights(&self) -> ReadRights {
        ReadRights(self.rare.as_ref().filter(|rare| rare.readable != Readable::Public).cloned())
    }
}

/// Who listens, as far as private events are concerned: `None` may read none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ReadRights(Option<Arc<Rare>>);

impl ReadRights {
    pub(super) fn may_read(&self, private: &Private) -> bool {
        self.0.as_ref().is_some_and(|rare| rare.readable.allows(Some(private)))
    }

    /// Whether it may read private events, if that is the same for all of them.
    pub(super) fn may_read_all(&self) -> Option<bool> {
        self.0.as_ref().map_or(Some(false), |rare| rare.readable.of_all())
    }

    /// What tells it from others, for as long as it is held.
    pub(super) fn address(&self) -> usize {
        self.0.as_ref().map_or(0, |rare| Arc::as_ptr(rare).addr())
    }

    /// Whether there are private events at all that it may read.
    pub(super) fn reads_some_private(&self) -> bool {
        self.0.is_some()
    }
}

/// What one stream names, as it is counted.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    names: usize,
    bytes: usize,
}

impl Bounds {
    /// Counts one more, which takes so many bytes. Fails if it is too much.
    pub(crate) fn add(&mut self, bytes: usize) -> Result<(), PublishError> {
        self.names += 1;
        self.bytes += bytes;
        if self.names > NAMES_MAX {
            return Err(PublishError::TooManyNames { limit: NAMES_MAX });
        }
        if self.bytes > PATTERNS_PER_STREAM {
            return Err(PublishError::NamesTooBig { limit: PATTERNS_PER_STREAM });
        }
        Ok(())
    }
}

fn shared(names: &[&str]) -> Arc<[Arc<str>]> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

/// The name of one channel, as a publisher must give it.
pub(super) fn check_name(name: &str) -> Result<(), PublishError> {
    check_length(name)?;
    if name.ends_with('*') {
        return Err(PublishError::Wildcard);
    }
    Ok(())
}

fn check_length(name: &str) -> Result<(), PublishError> {
    if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
        return Err(PublishError::Name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_equal_however_they_are_written() {
        let one = Channels::new(["b", "a", "chat*", "chat/7", "chat/*", "a"]).unwrap();
        assert_eq!(one, Channels::new(["a", "b", "chat*"]).unwrap());
        assert_eq!(Channels::new(["*", "a"]).unwrap(), Channels::new(["*"]).unwrap());
    }

    #[test]
    fn a_name_has_bounds() {
        let long = "x".repeat(NAME_MAX);
        assert!(check_name(&long).is_ok());
        for bad in ["", "a\0b", &format!("{long}x")] {
            assert_eq!(check_name(bad), Err(PublishError::Name), "{bad:?}");
        }
        assert_eq!(check_name("chat*"), Err(PublishError::Wildcard));
        assert_eq!(Channels::new([]), Err(PublishError::Name));
    }
}
