//! Why the server does not accept a token.

use jsonwebtoken::errors::ErrorKind;

/// Why the server does not accept a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JwtError {
    /// The token is not valid. The reason is for the server's log, never for the response.
    Invalid(&'static str),
    /// The token may be valid, but there is no memory for its patterns.
    Full,
    /// The token names a key that the key set does not have.
    UnknownKey,
    /// The token may be valid, but the key set is not known yet.
    NoKeys,
}

impl JwtError {
    pub(super) const MALFORMED: Self = Self::Invalid("it is not a JWT");
    pub(super) const ALGORITHM: Self =
        Self::Invalid("it is signed with another algorithm than the key's");
    pub(super) const EXPIRED: Self = Self::Invalid("it is expired");
    pub(super) const TYPE: Self = Self::Invalid("its typ is neither JWT nor at+jwt");

    /// Converts an error of `jsonwebtoken`.
    pub(super) fn of(error: &jsonwebtoken::errors::Error) -> Self {
        Self::Invalid(match error.kind() {
            ErrorKind::ExpiredSignature => return Self::EXPIRED,
            ErrorKind::ImmatureSignature => "it is not valid yet (nbf)",
            ErrorKind::InvalidSignature => "its signature does not match the key",
            ErrorKind::InvalidAlgorithm => return Self::ALGORITHM,
            ErrorKind::InvalidAudience => "its audience differs from --jwt-audience",
            ErrorKind::MissingRequiredClaim(name) => match &**name {
                "exp" => "it has no exp",
                "aud" => "it has no aud",
                _ => "it has no iss",
            },
            _ => return Self::MALFORMED,
        })
    }
}
