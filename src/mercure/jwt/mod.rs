//! JSON Web Tokens (RFC 7519).
//!
//! The server verifies tokens with keys from its configuration; `threadcast token` signs tokens.
//! The two generations of the Mercure protocol use different claims. The token's `typ` header
//! decides the generation; the server's key decides the algorithm.
//!
//! # Invariants
//!
//! * **The key decides the algorithm.** The token's `alg` must name that algorithm, and the server
//!   never uses key material from a token. Of a key set, the token's `kid` only selects the key.
//! * **A token's size and nesting are checked before it is parsed.** A connection's thread has
//!   little stack, and any client can send a token.
//! * **The response to an invalid token does not give the reason**, because that would help an
//!   attacker to guess tokens. Only the server's log gives the reason.

mod claims;
mod draft;
mod error;
mod jwks;
mod keys;
mod provider;
mod refresh;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Header, Validation, decode, decode_header};
use serde_json::Value;

use self::claims::Generation;
pub(crate) use self::claims::{DETAIL_TYPE, Rights};
pub(crate) use self::draft::{Draft, DraftError};
pub(crate) use self::error::JwtError;
use self::error::JwtError::Invalid;
pub(crate) use self::keys::SigningKey;
use self::keys::TrustedKey;
pub use self::keys::{KeyError, VerifyingKey};
pub(crate) use self::refresh::KeyRefresh;
use crate::credential::Credential;
use crate::json::nests_deeper;
use crate::mercure::matcher::Base;

/// The maximum length of a token, in bytes: below the default limit of a request head, and above
/// the limit of a cookie's value.
const TOKEN_MAX: usize = 8 * 1024;

/// How deeply the objects and arrays of a token may nest.
const DEPTH_MAX: usize = 16;

/// The tolerated difference between the clocks of the issuer and the server. The tolerance applies
/// to `nbf` only: the server never accepts a token after its `exp`.
const SKEW: Duration = Duration::from_secs(10);

/// The content of a valid token.
#[derive(Debug, Clone)]
pub(crate) struct VerifiedToken {
    pub(crate) rights: Rights,
    /// When the token expires, if it does.
    pub(crate) expires: Option<SystemTime>,
    /// Stands for the key that has verified the token.
    pub(crate) credential: Credential,
}

impl VerifyingKey {
    /// Verifies a token's signature, times and audience, and returns its content.
    ///
    /// `audience` is this server's name in tokens of the current generation. If it is `None`, every
    /// token of that generation is invalid.
    #[inline(never)] // own stack frame: ARCHITECTURE.md, "Stack"
    pub(crate) fn check(
        &self,
        token: &[u8],
        audience: Option<&str>,
    ) -> Result<VerifiedToken, JwtError> {
        check_shape(token)?;
        let header = decode_header(token).map_err(|error| JwtError::of(&error))?;
        if header.crit.is_some() {
            return Err(Invalid("it needs an extension (crit), and none is supported"));
        }
        let generation = generation(header.typ.as_deref())?;
        let key = self.select(&header)?;
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = SKEW.as_secs();
        validation.validate_nbf = true;
        validation.required_spec_claims.clear();
        match (generation, audience) {
            (Generation::Current, Some(audience)) => {
                validation.set_required_spec_claims(&["exp", "aud", "iss"]);
                validation.set_audience(&[audience]);
            }
            (Generation::Current, None) => {
                return Err(Invalid("it is an at+jwt, which needs --jwt-audience"));
            }
            (Generation::Older, _) => validation.validate_aud = false,
        }
        let decoded = decode::<Value>(token, &key.key, &validation);
        let claims = decoded.map_err(|error| JwtError::of(&error))?.claims;
        let expires = match &claims["exp"] {
            Value::Null => None,
            exp => Some(moment(exp)?),
        };
        if expires.is_some_and(|expires| expires <= SystemTime::now()) {
            return Err(JwtError::EXPIRED); // `SKEW` does not apply to `exp`
        }
        // RFC 9068 §4 requires an issuer. The issuer's name is not compared, because each key
        // belongs to one issuer.
        if generation == Generation::Current && claims["iss"].as_str().is_none_or(str::is_empty) {
            return Err(Invalid("it has no iss"));
        }
        let base = audience.and_then(Base::new).unwrap_or_default();
        let rights = Rights::of(&claims, generation, &base)?;
        Ok(VerifiedToken { rights, expires, credential: key.credential.clone() })
    }
}

impl VerifyingKey {
    /// Returns the key that a token names. One key is checked at most, so that a token costs no more
    /// with a large set.
    fn select(&self, header: &Header) -> Result<&TrustedKey, JwtError> {
        let fits = |key: &&TrustedKey| key.algorithm == header.alg;
        let Some(kid) = header.kid.as_deref().filter(|_| self.is_set) else {
            return match &*self.keys {
                [] => Err(JwtError::NoKeys),
                [only] => Ok(only),
                keys => {
                    let mut fitting = keys.iter().filter(fits);
                    match (fitting.next(), fitting.next()) {
                        (Some(key), None) => Ok(key),
                        (None, _) => Err(JwtError::ALGORITHM),
                        _ => Err(Invalid("it names no key (kid), and several keys fit")),
                    }
                }
            };
        };
        if self.keys.is_empty() {
            return Err(JwtError::NoKeys);
        }
        let mut named = self.keys.iter().filter(|key| key.id.as_deref() == Some(kid)).peekable();
        named.peek().ok_or(JwtError::UnknownKey)?;
        named.find(fits).ok_or(JwtError::ALGORITHM)
    }
}

/// Checks that a token is short, has three parts of base64, and does not nest deeply.
fn check_shape(token: &[u8]) -> Result<(), JwtError> {
    if token.len() > TOKEN_MAX {
        return Err(Invalid("it is longer than 8 KiB"));
    }
    let parts: Vec<&[u8]> = token.split(|byte| *byte == b'.').collect();
    let [header, claims, _signature] = parts[..] else { return Err(JwtError::MALFORMED) };
    for part in [header, claims] {
        let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::MALFORMED)?;
        if nests_deeper(&json, DEPTH_MAX) {
            return Err(Invalid("its JSON nests too deeply"));
        }
    }
    Ok(())
}

fn generation(typ: Option<&str>) -> Result<Generation, JwtError> {
    let typ = typ.unwrap_or("JWT").to_ascii_lowercase();
    match typ.strip_prefix("application/").unwrap_or(&typ) {
        "at+jwt" => Ok(Generation::Current),
        "jwt" => Ok(Generation::Older),
        _ => Err(JwtError::TYPE),
    }
}

/// The latest time that a token may contain, in seconds since 1970: the end of the year 9999. A
/// later time counts as this one.
const LATEST: f64 = 253_402_300_799.0;

/// Reads a `NumericDate` (RFC 7519 §2).
fn moment(date: &Value) -> Result<SystemTime, JwtError> {
    let seconds =
        date.as_f64().filter(|seconds| *seconds >= 0.0).ok_or(Invalid("its exp is not a time"))?;
    Ok(UNIX_EPOCH + Duration::from_secs_f64(seconds.min(LATEST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_type_decides_the_generation() {
        for typ in [None, Some("JWT"), Some("jwt"), Some("application/JWT")] {
            assert_eq!(generation(typ), Ok(Generation::Older), "{typ:?}");
        }
        for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+jwt"] {
            assert_eq!(generation(Some(typ)), Ok(Generation::Current), "{typ:?}");
        }
        for typ in
            ["", "at", "application/", "dpop+jwt", "text/at+jwt", "application/application/jwt"]
        {
            assert_eq!(generation(Some(typ)), Err(JwtError::TYPE), "{typ:?}");
        }
    }
}
