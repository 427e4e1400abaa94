//! Matchers select topics: all topics, one topic, or those that match a URI template or a URL
//! pattern.
//!
//! # Invariants
//!
//! * **No pattern is slow.** A pattern's compiled program has a bounded size, and matching takes
//!   one step for each byte of the topic ([`engine`]).
//! * **No pattern is matched while its thread holds a registry's lock.** Debug builds check this,
//!   and panic ([`unlocked`]).
//! * **Equal patterns share one program**, and the memory of all programs is bounded
//!   ([`shared`]).
//! * **In doubt, a pattern does not match**, because a token's rights may depend on the match.

mod base;
mod engine;
mod shared;
mod template;
pub(crate) mod unlocked;
mod url_pattern;

use std::cell::OnceCell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use thiserror::Error;
use url::Url;

pub(crate) use self::base::Base;
pub(crate) use self::shared::Purpose;
use self::shared::Syntax;
use self::template::Template;
use self::url_pattern::UrlPattern;

/// The longest pattern, in bytes.
const PATTERN_MAX: usize = 1_024;

/// The overhead of one pattern, in bytes: its table entries and the headers of its allocations.
const OVERHEAD: usize = 160;

/// A selector of topics.
///
/// A matcher is cheap to clone. Two matchers of the same kind and text are equal.
///
/// ```
/// use threadcast::Matcher;
///
/// let books = Matcher::selector("https://example.com/books/{id}")?;
/// assert!(books.matches("https://example.com/books/7"));
/// assert!(!books.matches("https://example.com/books/7/pages"));
/// assert!(Matcher::url_pattern("/books/:id")?.matches("/books/7"));
/// assert!(Matcher::exact("*")?.matches("anything"));
/// # Ok::<(), threadcast::MatcherError>(())
/// ```
#[derive(Clone)]
pub struct Matcher(Arc<Inner>);

struct Inner {
    text: Box<str>,
    kind: Kind,
    /// The matcher's share of the memory for patterns, in bytes. 0 if the matcher is not a pattern.
    counted: usize,
}

impl Inner {
    /// Returns a pattern that counts its own memory, including an allowance for allocations.
    fn counted(text: &str, kind: Kind) -> Self {
        let program = match &kind {
            Kind::Any | Kind::Exact => 0,
            Kind::Template(template) => template.bytes(),
            Kind::UrlPattern(pattern) => pattern.bytes(),
        };
        // The table of patterns has a second copy of the text.
        let counted = size_of::<Self>() + 2 * text.len() + program + OVERHEAD;
        Self { text: text.into(), kind, counted }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        shared::remove(self);
    }
}

enum Kind {
    Any,
    Exact,
    Template(Template),
    UrlPattern(UrlPattern),
}

impl Matcher {
    /// Returns a matcher that selects every topic.
    pub fn any() -> Self {
        Self::of("*", Kind::Any)
    }

    /// Returns a matcher that selects the topic with exactly these bytes; `*` selects every topic.
    ///
    /// # Errors
    ///
    /// The errors of [`check_topic`].
    pub fn exact(text: &str) -> Result<Self, MatcherError> {
        check(text)?;
        Ok(if text == "*" { Self::any() } else { Self::of(text, Kind::Exact) })
    }

    /// Returns a matcher for a topic selector of Mercure 0.x.
    ///
    /// A selector is `*`, a URI template (RFC 6570, all levels), or any other text, which is
    /// compared byte for byte.
    ///
    /// # Errors
    ///
    /// The errors of [`check_topic`]; [`MatcherError::TooBig`] if the template is too big when it
    /// is compiled; [`MatcherError::Full`] if there is no memory for the template.
    pub fn selector(text: &str) -> Result<Self, MatcherError> {
        Self::selector_for(Purpose::Stream, text)
    }

    pub(crate) fn selector_for(purpose: Purpose, text: &str) -> Result<Self, MatcherError> {
        check(text)?;
        if !template::is_template(text) {
            return Self::exact(text);
        }
        let compile = || Template::new(text).map(Kind::Template);
        shared::pattern(Syntax::Template, text, purpose, compile).map(Self)
    }

    /// Returns a matcher for a URL pattern (WHATWG URL Pattern); `*` selects every topic.
    ///
    /// The pattern and the topics may be relative. Both are then resolved against
    /// `https://localhost/.well-known/mercure`.
    ///
    /// # Errors
    ///
    /// The errors of [`check_topic`]; [`MatcherError::Pattern`] if the text is not a URL pattern;
    /// [`MatcherError::TooBig`] if the pattern is too big when it is compiled;
    /// [`MatcherError::Full`] if there is no memory for the pattern.
    pub fn url_pattern(text: &str) -> Result<Self, MatcherError> {
        Self::url_pattern_for(Purpose::Stream, text, &Base::default())
    }

    /// Like [`url_pattern`](Self::url_pattern), but relative patterns and topics are resolved
    /// against `base`.
    pub(crate) fn url_pattern_for(
        purpose: Purpose,
        text: &str,
        base: &Base,
    ) -> Result<Self, MatcherError> {
        check(text)?;
        if text == "*" {
            return Ok(Self::any());
        }
        let compile = || UrlPattern::new(text, base).map(Kind::UrlPattern);
        let syntax = Syntax::UrlPattern(base.clone());
        shared::pattern(syntax, text, purpose, compile).map(Self)
    }

    fn of(text: &str, kind: Kind) -> Self {
        Self(Arc::new(Inner { text: text.into(), kind, counted: 0 }))
    }

    /// Returns the matcher's memory in bytes. Each stream or token counts this memory in full,
    /// although equal matchers share it.
    pub(crate) fn bytes(&self) -> usize {
        self.0.counted.max(self.0.text.len())
    }

    /// Whether the matcher selects this topic.
    pub fn matches(&self, topic: &str) -> bool {
        self.matches_topic(&Topic::new(topic))
    }

    /// Like [`matches`](Self::matches), for a topic that is tested with several matchers.
    pub(crate) fn matches_topic(&self, topic: &Topic<'_>) -> bool {
        if !self.is_any() && !self.is_exact() {
            unlocked::check();
        }
        match &self.0.kind {
            Kind::Any => true,
            Kind::Exact => *self.0.text == *topic.text,
            // A topic that equals the text of the template matches too.
            Kind::Template(template) => *self.0.text == *topic.text || template.matches(topic.text),
            Kind::UrlPattern(pattern) => topic.resolved(pattern.base(), |url| pattern.matches(url)),
        }
    }

    /// The text that the matcher was made from.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The matcher's kind, in Mercure's words: `exact`, `template` or `urlpattern`. The matcher
    /// that selects every topic is `exact`.
    pub fn match_type(&self) -> &'static str {
        match self.0.kind {
            Kind::Any | Kind::Exact => "exact",
            Kind::Template(_) => "template",
            Kind::UrlPattern(_) => "urlpattern",
        }
    }

    /// Whether the matcher selects every topic.
    pub fn is_any(&self) -> bool {
        matches!(self.0.kind, Kind::Any)
    }

    /// The values that equal matchers share: the text, the kind, and the base of a URL pattern.
    fn identity(&self) -> (&str, &'static str, &str) {
        let base = match &self.0.kind {
            Kind::UrlPattern(pattern) => pattern.base().url().as_str(),
            Kind::Any | Kind::Exact | Kind::Template(_) => "",
        };
        (self.text(), self.match_type(), base)
    }

    /// Whether the matcher selects exactly one topic.
    pub(crate) fn is_exact(&self) -> bool {
        matches!(self.0.kind, Kind::Exact)
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.identity() == other.identity()
    }
}

impl Eq for Matcher {}

impl PartialOrd for Matcher {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Matcher {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.identity().cmp(&other.identity())
    }
}

impl Hash for Matcher {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:?}", self.match_type(), self.text())
    }
}

/// A topic that is tested with several matchers.
///
/// The topic is parsed as a URL only if a matcher needs the URL, and usually only once.
pub(crate) struct Topic<'a> {
    text: &'a str,
    url: OnceCell<(Base, Option<Url>)>,
}

impl<'a> Topic<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, url: OnceCell::new() }
    }

    /// Whether the topic, resolved against `base`, is a URL that `matches` accepts.
    ///
    /// Only the URL for the first base is kept, because most topics are used with one base.
    fn resolved(&self, base: &Base, matches: impl FnOnce(&Url) -> bool) -> bool {
        let (known, url) = self.url.get_or_init(|| (base.clone(), base.resolve(self.text)));
        if known == base {
            return url.as_ref().is_some_and(matches);
        }
        base.resolve(self.text).as_ref().is_some_and(matches)
    }
}

/// A text cannot be a topic or a matcher.
///
/// ```
/// use threadcast::{Matcher, MatcherError};
///
/// assert_eq!(Matcher::exact("two\nlines").unwrap_err(), MatcherError::Character('\n'));
/// assert!(Matcher::url_pattern("/books/:").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MatcherError {
    /// The text is empty.
    #[error("a topic must not be empty; name one, or `*` for all")]
    Empty,
    /// The text has more than 1,024 bytes.
    #[error("the topic or pattern is longer than {PATTERN_MAX} bytes; shorten it")]
    TooLong,
    /// The text has an invisible character: a control or format character.
    #[error(
        "a topic must not contain the character U+{:04X}; remove or percent-encode it",
        u32::from(*.0)
    )]
    Character(char),
    /// The text is not a URL pattern.
    #[error("this is not a URL pattern: {detail}; see the URL Pattern standard of the WHATWG")]
    Pattern {
        /// Why the text is not a URL pattern.
        detail: String,
    },
    /// The compiled pattern is too big.
    #[error("the pattern is too big when it is compiled; use fewer repetitions or shorten it")]
    TooBig,
    /// The patterns in use take all the memory for patterns.
    #[error(
        "the patterns in use take all the memory for patterns; use exact topics, or try again later"
    )]
    Full,
}

/// Checks that a text can be a topic.
///
/// # Errors
///
/// [`MatcherError::Empty`], [`MatcherError::TooLong`] above 1,024 bytes, and
/// [`MatcherError::Character`] for a control or format character.
pub fn check_topic(text: &str) -> Result<(), MatcherError> {
    check(text)
}

fn check(text: &str) -> Result<(), MatcherError> {
    if text.is_empty() {
        return Err(MatcherError::Empty);
    }
    if text.len() > PATTERN_MAX {
        return Err(MatcherError::TooLong);
    }
    match text.chars().find(|c| c.is_control() || is_format(*c)) {
        Some(found) => Err(MatcherError::Character(found)),
        None => Ok(()),
    }
}

/// The characters of Unicode's general category Cf (format), as ranges. The standard library has no
/// function that tests for this category.
const FORMAT: [(char, char); 21] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{180e}', '\u{180e}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{202a}', '\u{202e}'),
    ('\u{2060}', '\u{2064}'),
    ('\u{2066}', '\u{206f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{fff9}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0001}', '\u{e0001}'),
    ('\u{e0020}', '\u{e007f}'),
];

/// Whether a character is a format character, such as one that changes the writing direction.
pub(crate) fn is_format(c: char) -> bool {
    c >= FORMAT[0].0 && FORMAT.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

#[cfg(test)]
mod tests {
    use regex_syntax::hir::{Class, HirKind};

    use super::*;

    #[test]
    fn matchers_of_one_kind_and_text_are_equal() {
        let exact = |text| Matcher::exact(text).unwrap();
        let selector = |text| Matcher::selector(text).unwrap();
        let pattern = |text| Matcher::url_pattern(text).unwrap();
        assert_eq!(selector("a"), exact("a"));
        assert_eq!(selector("a{b}"), selector("a{b}"));
        assert_ne!(selector("a{b}"), exact("a{b}"));
        assert_ne!(pattern("a"), exact("a"));
        assert_eq!([exact("*"), selector("*")], [pattern("*"), Matcher::any()]);
        let there = Base::new("https://hub.example/x?y").unwrap();
        assert_eq!(there, Base::new("https://hub.example").unwrap());
        assert_ne!(pattern("a"), Matcher::url_pattern_for(Purpose::Stream, "a", &there).unwrap());
        let types = [exact("a"), selector("a{b}"), pattern("a"), Matcher::any()];
        assert_eq!(types.map(|m| m.match_type()), ["exact", "template", "urlpattern", "exact"]);
    }

    #[test]
    fn equal_patterns_share_one_program() {
        let [one, other] = [(); 2].map(|()| Matcher::url_pattern("/shared/:a/x/:b").unwrap());
        assert!(Arc::ptr_eq(&one.0, &other.0));
        let [template, again] = [(); 2].map(|()| Matcher::selector("/shared/{a}").unwrap());
        assert!(Arc::ptr_eq(&template.0, &again.0));
        let weak = Arc::downgrade(&one.0);
        drop((one, other));
        assert!(weak.upgrade().is_none(), "the table must not keep a pattern alive");
        assert!(Matcher::url_pattern("/shared/:a/x/:b").unwrap().matches("/shared/1/x/2"));
    }

    /// Checks the memory of usual patterns, because all patterns of a stream share 64 KiB.
    #[test]
    fn usual_patterns_are_small() {
        for (text, at_most) in [
            ("/books/:id", 700),
            ("https://example.com/books/*", 700),
            ("https://example.com/users/:id/orders/:order", 1_600),
            ("https://*.example.com/:year(\\d+)/:month(\\d+)/*", 2_000),
        ] {
            let bytes = Matcher::url_pattern(text).unwrap().bytes();
            assert!(bytes <= at_most, "{text} takes {bytes} bytes");
        }
        for (text, at_most) in [
            ("https://example.com/{a}/{b}", 1_600),
            ("https://example.com/users/{id}{?page,size}", 4_000),
            ("https://example.com/search{?q,page,size,sort,order}", 16_000),
            ("/{+path}", 1_600),
        ] {
            let bytes = Matcher::selector(text).unwrap().bytes();
            assert!(bytes <= at_most, "{text} takes {bytes} bytes");
        }
    }

    #[test]
    fn relative_pattern_is_resolved_against_the_hub() {
        let base = |url| Base::new(url).unwrap();
        let at = |text, url| Matcher::url_pattern_for(Purpose::Stream, text, &base(url)).unwrap();
        let (hub, other) = ("https://hub.example/", "http://other.example:8080");
        for (pattern, topic, hub, matches) in [
            ("/books/:id", "/books/7", hub, true),
            ("/books/:id", "https://hub.example/books/7", hub, true),
            ("/books/:id", "https://other.example/books/7", hub, false),
            ("/books/:id", "https://localhost/books/7", hub, false),
            ("https://hub.example/books/:id", "/books/7", hub, true),
            ("https://hub.example/books/:id", "/books/7", other, false),
            ("http://other.example:8080/.well-known/:name", "chat", other, true),
        ] {
            assert_eq!(at(pattern, hub).matches(topic), matches, "{pattern} {topic} {hub}");
        }
        let topic = Topic::new("/books/7");
        let absolute = "https://hub.example/books/:id";
        assert!(!at(absolute, other).matches_topic(&topic));
        assert!(at(absolute, hub).matches_topic(&topic));
        assert!(!at(absolute, other).matches_topic(&topic), "each base has its own result");
        assert_eq!(Base::new("mailto:a@b"), None);
        assert_eq!(Base::new("https://a b"), None);
    }

    #[test]
    fn too_long_topic_or_invisible_character_is_rejected() {
        assert_eq!(check_topic(""), Err(MatcherError::Empty));
        assert_eq!(check_topic(&"x".repeat(PATTERN_MAX)), Ok(()));
        assert_eq!(check_topic(&"x".repeat(PATTERN_MAX + 1)), Err(MatcherError::TooLong));
        for bad in
            ['\0', '\n', '\x1f', '\x7f', '\u{80}', '\u{9f}', '\u{ad}', '\u{202e}', '\u{feff}']
        {
            let text = format!("a{bad}b");
            assert_eq!(check_topic(&text), Err(MatcherError::Character(bad)));
            assert!(Matcher::selector(&text).is_err() && Matcher::url_pattern(&text).is_err());
        }
        for fine in ["a b", "ü", "https://example.com/{id}", "\u{a0}", "日本", "🎈"] {
            assert_eq!(check_topic(fine), Ok(()), "{fine:?}");
        }
    }

    #[test]
    fn format_characters_are_those_of_unicode() {
        let class = regex_syntax::parse(r"\p{Cf}").unwrap();
        let HirKind::Class(Class::Unicode(class)) = class.kind() else { panic!("{class:?}") };
        let known: Vec<_> = class.iter().map(|range| (range.start(), range.end())).collect();
        assert_eq!(known, FORMAT);
    }
}
