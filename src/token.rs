//! Bearer tokens.

use std::fmt;

use subtle::ConstantTimeEq;
use thiserror::Error;

/// A bearer token: compared in constant time, and never printed.
///
/// ```
/// use threadcast::Token;
///
/// let token = Token::new("s3cret")?;
/// assert_eq!(format!("{token:?}"), "Token(…)");
/// # Ok::<(), threadcast::TokenError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Creates a token.
    ///
    /// Fails if the text is empty, or contains a character that is not visible ASCII, because a
    /// header could not carry such a token.
    pub fn new(secret: impl Into<String>) -> Result<Self, TokenError> {
        let secret = secret.into();
        if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError);
        }
        Ok(Self(secret))
    }

    /// Whether `candidate` is the token. The time that the comparison takes reveals only the
    /// token's length.
    pub(crate) fn is(&self, candidate: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(candidate).into()
    }

    /// Returns the text of the token, for sending it.
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl std::str::FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        Self::new(text)
    }
}

/// The text cannot be a token: it is empty, or contains a character that is not visible ASCII.
///
/// ```
/// use threadcast::{Token, TokenError};
///
/// assert_eq!(Token::new("two words"), Err(TokenError));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a token must be visible ASCII without spaces, and not empty")]
pub struct TokenError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_matches() {
        let token = Token::new("abc").unwrap();
        for (candidate, opens) in [("abc", true), ("ab", false), ("abcd", false), ("abd", false)] {
            assert_eq!(token.is(candidate.as_bytes()), opens, "{candidate}");
        }
        for bad in ["", "a b", "a\n", "ü"] {
            assert_eq!(Token::new(bad), Err(TokenError), "{bad:?}");
        }
    }
}
