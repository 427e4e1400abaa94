//! Why a text cannot be a topic or a matcher.

use thiserror::Error;

/// The longest pattern, in bytes.
pub(super) const PATTERN_MAX: usize = 1_024;

/// A text cannot be a topic or a matcher.
///
/// ```
/// use threadcast::{Matcher, MatcherError};
///
/// assert_eq!(Matcher::selector("two\nlines").unwrap_err(), MatcherError::Character('\n'));
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
