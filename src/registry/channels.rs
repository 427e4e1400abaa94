//! What selects channels: matchers, patterns, and the set of channels of one stream. Also, which
//! private events the stream may read.
//!
//! The registry does not know the syntax of any pattern: a protocol compiles its patterns and adds
//! them as a [`Pattern`].

use std::any::Any;
#[cfg(debug_assertions)]
use std::cell::Cell;
use std::cell::OnceCell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::error::PublishError;
use crate::limits::{NAMES_MAX, PATTERNS_PER_STREAM};

/// The maximum length of a channel's name, in bytes.
///
/// Names can be long: Mercure's topics are URLs, and the topics of its subscription events contain
/// other URLs.
pub(crate) const NAME_MAX: usize = 1_024;

/// The channels of one stream, by name, by prefix and by pattern.
///
/// A trailing `*` matches a prefix: `chat*` is every channel whose name starts with `chat`,
/// including channels that are created later.
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
    /// Sorted and without duplicates, so that equal sets compare equal.
    pub(super) names: Arc<[Arc<str>]>,
    /// Sorted, without the `*`, and none is a prefix of another.
    pub(super) prefixes: Arc<[Arc<str>]>,
    /// The patterns and rights that only few streams have. They are allocated separately, so that
    /// the other streams need only a pointer.
    rare: Option<Arc<Rare>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Rare {
    /// Sorted and without duplicates.
    patterns: Box<[SharedPattern]>,
    readable: Readable,
}

impl Channels {
    /// Creates a set from names and prefixes.
    ///
    /// Fails if there is no name or prefix, if there are more than 100, or if one has not 1 to
    /// 1,024 bytes or contains NUL. Also fails if they are too long together.
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
        Ok(Self::of_names(names, prefixes))
    }

    fn of_names(mut names: Vec<&str>, mut prefixes: Vec<&str>) -> Self {
        prefixes.sort_unstable();
        // In sorted order, a prefix comes right before the longer prefixes that start with it.
        prefixes.dedup_by(|longer, shorter| longer.starts_with(*shorter));
        names.retain(|name| !prefixes.iter().any(|prefix| name.starts_with(prefix)));
        names.sort_unstable();
        names.dedup();
        Self { names: shared(&names), prefixes: shared(&prefixes), rare: None }
    }

    /// Creates a set of the channels that matchers select, including channels that are created
    /// later.
    ///
    /// ```
    /// use threadcast::{Channels, Matcher, PublishError};
    ///
    /// let channels = Channels::of(&[Matcher::new("news")?, Matcher::new("chat*")?])?;
    /// assert_eq!(channels, Channels::new(["news", "chat*"])?);
    /// assert_eq!(Channels::of(&[]), Err(PublishError::Name));
    /// # Ok::<(), PublishError>(())
    /// ```
    ///
    /// Fails if there is no matcher, if there are more than 100, or if they take too much memory
    /// together.
    pub fn of(matchers: &[Matcher]) -> Result<Self, PublishError> {
        if matchers.is_empty() {
            return Err(PublishError::Name);
        }
        let (mut names, mut prefixes, mut patterns) = (Vec::new(), Vec::new(), Vec::new());
        let mut bounds = Bounds::default();
        for matcher in matchers {
            bounds.add(matcher.bytes())?;
            match &matcher.0 {
                Kind::Exact(name) => names.push(&**name),
                Kind::Prefix(text) => prefixes.push(prefix_of(text)),
                Kind::Pattern(pattern) => patterns.push(pattern.clone()),
            }
        }
        if prefixes.contains(&"") {
            patterns.clear(); // the empty prefix selects all channels
        }
        patterns.sort_unstable();
        patterns.dedup();
        Ok(Self::of_names(names, prefixes).with(|rare| rare.patterns = patterns.into()))
    }

    /// Allows streams of these channels to read private events.
    #[must_use = "the channels themselves stay as they are"]
    pub fn readable(self, readable: Readable) -> Self {
        self.with(|rare| rare.readable = readable)
    }

    fn with(mut self, change: impl FnOnce(&mut Rare)) -> Self {
        let mut rare = self.rare.take().map_or_else(Rare::default, |rare| (*rare).clone());
        change(&mut rare);
        // Sets that select the same must compare equal, so an empty part is not kept.
        self.rare = (rare != Rare::default()).then(|| Arc::new(rare));
        self
    }

    /// The channels that are listed by name.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    pub(super) fn patterns(&self) -> &[SharedPattern] {
        self.rare.as_ref().map_or(&[], |rare| &rare.patterns)
    }

    /// Whether a stream of these channels may read an event. `None` stands for a public event.
    pub(super) fn may_read(&self, private: Option<&Private>) -> bool {
        private.is_none() || self.rare.as_ref().is_some_and(|rare| rare.readable.allows(private))
    }

    /// Whether a stream of these channels may read every private event.
    pub(super) fn reads_all(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.readable.is_all())
    }

    /// Whether a stream of these channels may read any private event.
    pub(super) fn reads_some_private(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.readable != Readable::Public)
    }

    /// Whether a stream of these channels may read all private events (`true`) or none (`false`).
    /// `None` if this depends on the event.
    pub(super) fn may_read_all(&self) -> Option<bool> {
        self.rare.as_ref().map_or(Some(false), |rare| rare.readable.of_all())
    }

    /// Whether streams of these channels may learn that private events of a channel are lost.
    /// `None` if the check is pending.
    ///
    /// The other topics of the lost events are not known any more. So if there were any, every
    /// stream that may read some private events may learn of the loss.
    pub(super) fn may_miss(
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

    /// Returns the rights of a stream of these channels to private events.
    pub(super) fn read_rights(&self) -> ReadRights {
        ReadRights(self.rare.as_ref().filter(|rare| rare.readable != Readable::Public).cloned())
    }
}

/// A selector of channels: one channel, those with a prefix, or those that a pattern selects.
///
/// The registry knows names and prefixes. The Mercure protocol adds patterns: URI templates and URL
/// patterns. A matcher is cheap to clone. Two matchers of the same kind and text are equal.
///
/// ```
/// use threadcast::{Channels, Matcher};
///
/// let chats = Matcher::new("chat*")?;
/// assert_eq!(Channels::of(&[chats])?, Channels::new(["chat*"])?);
/// # Ok::<(), threadcast::PublishError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Matcher(Kind);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Kind {
    Exact(Arc<str>),
    /// The prefix and the `*` after it.
    Prefix(Arc<str>),
    Pattern(SharedPattern),
}

impl Matcher {
    /// Returns a matcher for the channel with this name, or for all channels with a prefix: `chat*`.
    ///
    /// Fails if the text has not 1 to 1,024 bytes or contains NUL.
    pub fn new(text: &str) -> Result<Self, PublishError> {
        check_length(text)?;
        let is_prefix = text.ends_with('*');
        Ok(Self(if is_prefix { Kind::Prefix(text.into()) } else { Kind::Exact(text.into()) }))
    }

    /// Returns a matcher that selects every channel.
    pub(crate) fn any() -> Self {
        Self(Kind::Prefix("*".into()))
    }

    /// Returns a matcher for the channel with exactly this name, which may end with `*`. The caller
    /// has checked the name.
    pub(crate) fn of_name(name: &str) -> Self {
        Self(Kind::Exact(name.into()))
    }

    /// Returns a matcher for the channels that a pattern selects.
    pub(crate) fn of_pattern(pattern: Arc<impl Pattern + 'static>) -> Self {
        Self(Kind::Pattern(SharedPattern::new(pattern)))
    }

    /// Whether the matcher selects the channel with this name.
    pub(crate) fn matches(&self, name: &str) -> bool {
        self.matches_name(&Name::new(name))
    }

    /// Like [`matches`](Self::matches), for a name that is tested with several matchers.
    fn matches_name(&self, name: &Name<'_>) -> bool {
        match &self.0 {
            Kind::Exact(text) => **text == *name.text(),
            Kind::Prefix(text) => name.text().starts_with(prefix_of(text)),
            Kind::Pattern(pattern) => pattern.matches(name),
        }
    }

    /// The text that the matcher was made from.
    pub(crate) fn text(&self) -> &str {
        match &self.0 {
            Kind::Exact(text) | Kind::Prefix(text) => text,
            Kind::Pattern(pattern) => pattern.text(),
        }
    }

    /// The matcher's kind: `exact`, `prefix`, or the name of a pattern's syntax.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.0 {
            Kind::Exact(_) => "exact",
            Kind::Prefix(_) => "prefix",
            Kind::Pattern(pattern) => pattern.syntax(),
        }
    }

    /// Whether the matcher selects every channel.
    pub(crate) fn is_any(&self) -> bool {
        matches!(&self.0, Kind::Prefix(text) if **text == *"*")
    }

    /// Returns the matcher's memory in bytes. Each stream or token counts this memory in full,
    /// although equal patterns share it.
    pub(crate) fn bytes(&self) -> usize {
        match &self.0 {
            Kind::Exact(text) | Kind::Prefix(text) => text.len(),
            Kind::Pattern(pattern) => pattern.bytes(),
        }
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:?}", self.kind(), self.text())
    }
}

/// The prefix of a text that ends with `*`.
fn prefix_of(text: &str) -> &str {
    &text[..text.len() - 1]
}

/// A pattern of channel names.
///
/// The registry tells patterns apart by their addresses. So an implementation should return the
/// same `Arc` for equal patterns; otherwise the registry matches each of them separately. The drop
/// of a pattern may run under the registry's lock, so it must be short.
pub(crate) trait Pattern: Send + Sync {
    /// Whether the pattern selects this name. Not called under the registry's lock.
    fn matches(&self, name: &Name<'_>) -> bool;

    /// The text that the pattern was compiled from.
    fn text(&self) -> &str;

    /// The name of the pattern's syntax, such as `template`.
    fn syntax(&self) -> &'static str;

    /// The pattern's memory, in bytes.
    fn bytes(&self) -> usize;
}

/// A channel's name that is matched against several patterns.
pub(crate) struct Name<'a> {
    text: &'a str,
    memo: OnceCell<Box<dyn Any>>,
}

impl<'a> Name<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, memo: OnceCell::new() }
    }

    pub(crate) fn text(&self) -> &'a str {
        self.text
    }

    /// Returns what the first call computed from the name, so that a protocol parses a name once
    /// for all of its patterns. Returns `None` if the first call computed another type.
    pub(crate) fn memo<T: 'static>(&self, compute: impl FnOnce() -> T) -> Option<&T> {
        self.memo.get_or_init(|| Box::new(compute())).downcast_ref()
    }
}

/// A pattern that is shared by all streams and tokens that use it. It is equal only to itself.
#[derive(Clone)]
pub(super) struct SharedPattern(Arc<dyn Pattern>);

impl SharedPattern {
    pub(super) fn new(pattern: Arc<dyn Pattern>) -> Self {
        Self(pattern)
    }

    /// Whether the pattern selects this name. Must not be called under the lock.
    pub(super) fn matches(&self, name: &Name<'_>) -> bool {
        check_unlocked();
        self.0.matches(name)
    }

    pub(super) fn text(&self) -> &str {
        self.0.text()
    }

    pub(super) fn syntax(&self) -> &'static str {
        self.0.syntax()
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

impl PartialEq for SharedPattern {
    fn eq(&self, other: &Self) -> bool {
        self.address() == other.address()
    }
}

impl Eq for SharedPattern {}

impl PartialOrd for SharedPattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Patterns are ordered by their texts, so that a set of channels lists them in the same order
/// every time.
impl Ord for SharedPattern {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text().cmp(other.text()).then_with(|| self.address().cmp(&other.address()))
    }
}

impl Hash for SharedPattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address().hash(state);
    }
}

impl fmt::Debug for SharedPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:?}", self.syntax(), self.text())
    }
}

#[cfg(debug_assertions)]
thread_local! {
    /// The number of registries that this thread has locked.
    static LOCKED: Cell<usize> = const { Cell::new(0) };
}

/// Marks this thread as holding a registry's lock, until this value is dropped.
///
/// Clients choose their patterns, and so how long a match takes. If a match ran under the lock, all
/// threads that need this lock would wait for it. Debug builds check that none does.
#[derive(Debug)]
pub(super) struct Locked(());

impl Locked {
    pub(super) fn new() -> Self {
        #[cfg(debug_assertions)]
        LOCKED.with(|locked| locked.set(locked.get() + 1));
        Self(())
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        LOCKED.with(|locked| locked.set(locked.get() - 1));
    }
}

/// Panics in debug builds if this thread holds a registry's lock.
fn check_unlocked() {
    #[cfg(debug_assertions)]
    assert_eq!(LOCKED.with(Cell::get), 0, "a pattern is matched under the registry's lock");
}

/// Which private events a stream may read. Every stream may read public events.
///
/// ```
/// use threadcast::{Channels, Event, Matcher, Readable, Registry, Start, Update};
///
/// let registry = Registry::new();
/// let own = Readable::Matching([Matcher::new("/users/7/*")?].into());
/// let mine = Channels::new(["/users/7/mail"])?.readable(own);
/// let subscription = registry.subscribe(&mine, &Start::Now)?;
///
/// let secret = [Event::new("for 7 alone")];
/// let update = Update { topics: &["/users/7/mail"], events: &secret, private: true, key: None };
/// assert_eq!(registry.publish_update(&update)?.subscribers, 1);
/// # drop(subscription);
/// # Ok::<(), threadcast::PublishError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Readable {
    /// No private events.
    #[default]
    Public,
    /// Private events with at least one topic that at least one of these matchers selects.
    Matching(Arc<[Matcher]>),
    /// All private events.
    All,
}

impl Readable {
    /// Whether every private event may be read.
    pub(super) fn is_all(&self) -> bool {
        match self {
            Self::Public => false,
            Self::Matching(matchers) => matchers.iter().any(Matcher::is_any),
            Self::All => true,
        }
    }

    /// Whether an event with these topics may be read. `None` stands for a public event.
    pub(super) fn allows(&self, private: Option<&Private>) -> bool {
        match (private, self) {
            (None, _) | (_, Self::All) => true,
            (Some(_), Self::Public) => false,
            (Some(private), Self::Matching(matchers)) => private.is_selected_by(matchers),
        }
    }

    /// Whether all private events may be read (`true`) or none (`false`). `None` if this depends on
    /// the event.
    pub(super) fn of_all(&self) -> Option<bool> {
        match self {
            Self::Public => Some(false),
            Self::All => Some(true),
            Self::Matching(_) => None,
        }
    }
}

/// The rights of a stream to private events; `None` if it may read no private event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ReadRights(Option<Arc<Rare>>);

impl ReadRights {
    pub(super) fn may_read(&self, private: &Private) -> bool {
        self.0.as_ref().is_some_and(|rare| rare.readable.allows(Some(private)))
    }

    /// Whether all private events may be read (`true`) or none (`false`). `None` if this depends on
    /// the event.
    pub(super) fn may_read_all(&self) -> Option<bool> {
        self.0.as_ref().map_or(Some(false), |rare| rare.readable.of_all())
    }

    /// Returns an address that identifies these rights for as long as this value exists.
    pub(super) fn address(&self) -> usize {
        self.0.as_ref().map_or(0, |rare| Arc::as_ptr(rare).addr())
    }

    /// Whether any private event may be read.
    pub(super) fn reads_some_private(&self) -> bool {
        self.0.is_some()
    }
}

/// The topics of a private event.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Private {
    pub(super) topics: Box<[Arc<str>]>,
}

impl Private {
    pub(super) fn of(topics: &[impl AsRef<str>]) -> Self {
        Self { topics: topics.iter().map(|topic| topic.as_ref().into()).collect() }
    }

    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    fn is_selected_by(&self, matchers: &[Matcher]) -> bool {
        self.topics.iter().any(|topic| {
            let name = Name::new(topic);
            matchers.iter().any(|matcher| matcher.matches_name(&name))
        })
    }
}

/// How many checks are collected while the lock is held once, so that it is held for a short time.
const PAGE: usize = 64;

/// A cache of access checks: which private events one stream may read.
///
/// Matchers must never run under the registry's lock. So a check under the lock only looks in the
/// cache, and records a missing result as pending. The caller then releases the lock, calls
/// [`resolve`](Self::resolve), which runs the matchers, and tries again under the lock.
#[derive(Debug, Default)]
pub(super) struct StreamAccess {
    known: BTreeMap<Arc<Private>, bool>,
    pending: Vec<Arc<Private>>,
}

impl StreamAccess {
    /// Whether an event may be read; `None` if the check is pending.
    pub(super) fn check(&mut self, channels: &Channels, private: &Arc<Private>) -> Option<bool> {
        let known = channels.may_read_all().or_else(|| self.known.get(private).copied());
        if known.is_none() && !self.is_full() && !self.pending.contains(private) {
            self.pending.push(Arc::clone(private));
        }
        known
    }

    /// Whether a stream of these channels may read an event. `None` stands for a public event. If the
    /// list of pending checks is full, returns `true` to end the caller's search early. The result of
    /// such a search is not final anyway.
    pub(super) fn may_read(&mut self, channels: &Channels, private: Option<&Arc<Private>>) -> bool {
        let Some(private) = private else { return true };
        self.check(channels, private) == Some(true) || self.is_full()
    }

    /// Whether a check is pending. If so, earlier results are not final.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= PAGE
    }

    /// Runs the pending checks. Must not be called under the lock.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(super) fn resolve(&mut self, channels: &Channels) {
        for private in std::mem::take(&mut self.pending) {
            let may = channels.may_read(Some(&private));
            self.known.insert(private, may);
        }
    }
}

/// A cache of access checks, like [`StreamAccess`]: which streams may read one private event.
#[derive(Debug)]
pub(super) struct EventAccess {
    private: Arc<Private>,
    /// The rights and the result of each check, by the address of the rights. The entry keeps the
    /// rights in memory, so that no other rights can get their address.
    known: BTreeMap<usize, (ReadRights, bool)>,
    pending: Vec<ReadRights>,
}

impl EventAccess {
    pub(super) fn of(private: &Arc<Private>) -> Self {
        Self { private: Arc::clone(private), known: BTreeMap::new(), pending: Vec::new() }
    }

    /// Records which of the subscribers' rights have pending checks, and returns whether any has.
    pub(super) fn note_pending<'a>(
        &mut self,
        all_rights: impl Iterator<Item = &'a ReadRights>,
    ) -> bool {
        let is_unknown = |rights: &&ReadRights| {
            rights.may_read_all().is_none() && !self.known.contains_key(&rights.address())
        };
        self.pending.extend(all_rights.filter(is_unknown).take(PAGE).cloned());
        !self.pending.is_empty()
    }

    /// Runs the pending checks. Must not be called under the lock.
    pub(super) fn resolve(&mut self) {
        for rights in std::mem::take(&mut self.pending) {
            let may = rights.may_read(&self.private);
            self.known.insert(rights.address(), (rights, may));
        }
    }

    /// Whether a stream with these rights may read the event. Returns `false` if no check has been
    /// run.
    pub(super) fn allows(&self, rights: &ReadRights) -> bool {
        let known = || self.known.get(&rights.address()).is_some_and(|(_, may)| *may);
        rights.may_read_all().unwrap_or_else(known)
    }
}

/// Counts the names of one stream, to enforce the limits.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    names: usize,
    bytes: usize,
}

impl Bounds {
    /// Counts one more name of `bytes` bytes. Fails if a limit is exceeded.
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

/// Checks the name of one channel to publish to.
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
    fn equal_channel_sets_compare_equal() {
        let one = Channels::new(["b", "a", "chat*", "chat/7", "chat/*", "a"]).unwrap();
        assert_eq!(one, Channels::new(["a", "b", "chat*"]).unwrap());
        assert_eq!(Channels::new(["*", "a"]).unwrap(), Channels::new(["*"]).unwrap());
    }

    #[test]
    fn invalid_channel_names_are_rejected() {
        let long = "x".repeat(NAME_MAX);
        assert!(check_name(&long).is_ok());
        for bad in ["", "a\0b", &format!("{long}x")] {
            assert_eq!(check_name(bad), Err(PublishError::Name), "{bad:?}");
        }
        assert_eq!(check_name("chat*"), Err(PublishError::Wildcard));
        assert_eq!(Channels::new([]), Err(PublishError::Name));
    }

    #[test]
    fn matcher_of_a_prefix_selects_names_that_begin_with_it() {
        let chats = Matcher::new("chat*").unwrap();
        assert!(chats.matches("chat/7") && !chats.matches("news"));
    }
}
