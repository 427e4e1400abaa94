//! The matchers of the Mercure protocol: exact topics, URI templates and URL patterns.
//!
//! A topic is a channel's name. This module compiles templates and URL patterns, and adds them to
//! the registry as a [`Pattern`](crate::registry::Pattern).
//!
//! # Invariants
//!
//! * **No pattern is slow.** A pattern's compiled program has a bounded size, and matching takes
//!   one step for each byte of the topic ([`engine`]).
//! * **Equal patterns share one program**, and the memory of all programs is bounded
//!   ([`shared`]). The registry needs this too: to it, a pattern is equal only to itself.
//! * **In doubt, a pattern does not match**, because a token's rights may depend on the match.

mod base;
mod engine;
mod error;
mod shared;
mod template;
mod url_pattern;

pub(crate) use self::base::Base;
pub use self::error::MatcherError;
use self::error::PATTERN_MAX;
pub(crate) use self::shared::Purpose;
use self::shared::{Program, Syntax};
use self::template::Template;
use self::url_pattern::UrlPattern;
use crate::registry::Matcher;

/// The constructors for Mercure's matchers.
///
/// ```
/// use threadcast::{Channels, Matcher};
///
/// let books = Matcher::selector("https://example.com/books/{id}")?;
/// let pages = Matcher::url_pattern("/books/:id")?;
/// let channels = Channels::of(&[books, pages])?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl Matcher {
    /// Returns a matcher that selects the topic with exactly these bytes; `*` selects every topic.
    ///
    /// Fails if the text cannot be a topic.
    pub(crate) fn exact(text: &str) -> Result<Self, MatcherError> {
        check_topic(text)?;
        Ok(if text == "*" { Self::any() } else { Self::of_name(text) })
    }

    /// Returns a matcher for a topic selector of Mercure 0.x.
    ///
    /// A selector is `*`, a URI template (RFC 6570, all levels), or any other text, which is
    /// compared byte for byte.
    ///
    /// # Errors
    ///
    /// [`MatcherError::Empty`], [`MatcherError::TooLong`] or [`MatcherError::Character`] if the
    /// text cannot be a topic; [`MatcherError::TooBig`] if the template is too big when it is
    /// compiled; [`MatcherError::Full`] if there is no memory for the template.
    pub fn selector(text: &str) -> Result<Self, MatcherError> {
        Self::selector_for(Purpose::Stream, text)
    }

    pub(crate) fn selector_for(purpose: Purpose, text: &str) -> Result<Self, MatcherError> {
        check_topic(text)?;
        if !template::is_template(text) {
            return Self::exact(text);
        }
        let compile = || Template::new(text).map(Program::Template);
        shared::pattern(Syntax::Template, text, purpose, compile).map(Self::of_pattern)
    }

    /// Returns a matcher for a URL pattern (WHATWG URL Pattern); `*` selects every topic.
    ///
    /// The pattern and the topics may be relative. Both are then resolved against
    /// `https://localhost/.well-known/mercure`.
    ///
    /// # Errors
    ///
    /// [`MatcherError::Empty`], [`MatcherError::TooLong`] or [`MatcherError::Character`] if the
    /// text cannot be a topic; [`MatcherError::Pattern`] if it is not a URL pattern;
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
        check_topic(text)?;
        if text == "*" {
            return Ok(Self::any());
        }
        let compile = || UrlPattern::new(text, base).map(Program::UrlPattern);
        let syntax = Syntax::UrlPattern(base.clone());
        shared::pattern(syntax, text, purpose, compile).map(Self::of_pattern)
    }
}

/// Checks that a text can be a topic.
///
/// Fails with [`MatcherError::Empty`], with [`MatcherError::TooLong`] above 1,024 bytes, and with
/// [`MatcherError::Character`] for a control or format character.
pub(crate) fn check_topic(text: &str) -> Result<(), MatcherError> {
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
fn is_format(c: char) -> bool {
    c >= FORMAT[0].0 && FORMAT.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use regex_syntax::hir::{Class, HirKind};

    use super::*;
    use crate::event::Event;
    use crate::registry::{Channels, Name, Pattern, Readable, Registry, Start, Update};

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
        let kinds = [exact("a"), selector("a{b}"), pattern("a"), Matcher::any()];
        assert_eq!(kinds.map(|m| m.kind()), ["exact", "template", "urlpattern", "prefix"]);
        assert!(!exact("a*").matches("ab"), "only the registry's own API has prefixes");
    }

    #[test]
    fn equal_patterns_share_one_program() {
        let compiled = || {
            let text = "/shared/{a}/x/{b}";
            let compile = || Template::new(text).map(Program::Template);
            shared::pattern(Syntax::Template, text, Purpose::Stream, compile).unwrap()
        };
        let [one, other] = [compiled(), compiled()];
        assert!(Arc::ptr_eq(&one, &other));
        let weak = Arc::downgrade(&one);
        drop((one, other));
        assert!(weak.upgrade().is_none(), "the table must not keep a pattern alive");
        assert!(compiled().matches(&Name::new("/shared/1/x/2")));
    }

    #[test]
    fn registry_streams_use_templates_and_url_patterns() {
        let (registry, events) = (Registry::new(), [Event::new("secret")]);
        let template = || Matcher::selector("/books/{id}").unwrap();
        let pattern = || Matcher::url_pattern("/books/:id(\\d+)").unwrap();
        let own = |matcher| Readable::Matching([matcher].into());
        let open = |matcher, readable| {
            let channels = Channels::of(&[matcher]).unwrap().readable(readable);
            registry.subscribe(&channels, &Start::Now).unwrap()
        };
        let _streams = [
            open(template(), Readable::Public),
            open(template(), own(pattern())),
            open(pattern(), Readable::Public),
            open(pattern(), own(template())),
        ];
        for (topic, private, streams) in [
            ("/books/7", false, 4),
            ("/books/7", true, 2),
            ("/books/x", false, 2),
            ("/books/x", true, 0),
            ("/books/7/x", false, 0),
        ] {
            let update = Update { topics: &[topic], events: &events, private, key: None };
            let published = registry.publish_update(&update).unwrap();
            assert_eq!(published.subscribers, streams, "{topic} {private}");
        }
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
        let topic = Name::new("/books/7");
        let compiled = |url| {
            let text = "https://hub.example/books/:id";
            let compile = || UrlPattern::new(text, &base(url)).map(Program::UrlPattern);
            shared::pattern(Syntax::UrlPattern(base(url)), text, Purpose::Stream, compile).unwrap()
        };
        assert!(!compiled(other).matches(&topic));
        assert!(compiled(hub).matches(&topic));
        assert!(!compiled(other).matches(&topic), "each base has its own result");
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
