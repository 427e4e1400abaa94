//! JSON Web Tokens (RFC 7519): checked with keys that are known from the start, and
//! made by `threadcast token`.
//!
//! Two generations of the Mercure protocol write different claims. Which one a token
//! is of, its header's `typ` says; how it is signed, only our key does.
//!
//! # Invariants
//!
//! * **The key decides the algorithm.** What the token says of it must be the same, and
//!   key material in a token is never looked at.
//! * **Nothing is parsed before it is known to be short and flat.** A connection's thread
//!   has little stack, and a token may come from anybody.
//! * **The bearer of an invalid token does not learn why**, because that would help an attacker
//!   who guesses. The server's log says why.

mod claims;
mod draft;
mod keys;
mod provider;
mod uuid;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use serde_json::Value;

use self::Rejected::Invalid;
pub(crate) use self::claims::{DETAIL_TYPE, Rights};
pub use self::draft::{Draft, DraftError};
pub use self::keys::{KeyError, SigningKey, VerifyingKey};
pub(crate) use self::uuid::random_urn;
use crate::json::nests_deeper;
use crate::matcher::Base;

/// The longest token, in bytes. A head is longer, and a cookie shorter.
const TOKEN_MAX: usize = 8 * 1024;

/// How deep the objects and arrays of a token may nest.
const DEPTH_MAX: usize = 16;

/// How far the clocks of who made the token and of who reads it may be apart: it is
/// valid so much earlier than it says. It is never valid later.
const SKEW: Duration = Duration::from_secs(10);

/// Why the server does not accept a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// It is not valid: why, for the server's log, never for the token's bearer.
    Invalid(&'static str),
    /// It may be valid: there is no memory for its patterns.
    Full,
}

impl Rejected {
    const MALFORMED: Self = Self::Invalid("it is not a JWT");
    const EXPIRED: Self = Self::Invalid("it is expired");
    const TYPE: Self = Self::Invalid("its typ is neither JWT nor at+jwt");

    /// What `jsonwebtoken` found.
    fn of(error: &jsonwebtoken::errors::Error) -> Self {
        Self::Invalid(match error.kind() {
            ErrorKind::ExpiredSignature => return Self::EXPIRED,
            ErrorKind::ImmatureSignature => "it is not valid yet (nbf)",
            ErrorKind::InvalidSignature => "its signature is bad, or of another key",
            ErrorKind::InvalidAlgorithm => "it is signed with another algorithm than the key's",
            ErrorKind::InvalidAudience => "its audience is another than --jwt-audience",
            ErrorKind::MissingRequiredClaim(name) => match &**name {
                "exp" => "it has no exp",
                "aud" => "it has no aud",
                _ => "it has no iss",
            },
            _ => return Self::MALFORMED,
        })
    }
}

/// Which of the protocol's drafts a token is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Generation {
    /// `typ` is `at+jwt` (RFC 9068).
    Current,
    /// 0.x: `typ` is `JWT`, or not there.
    Older,
}

/// A token that is believed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Believed {
    pub(crate) rights: Rights,
    /// When it ends, if it ever does.
    pub(crate) expires: Option<SystemTime>,
}

impl VerifyingKey {
    /// What a token says, if it is signed with this key, is of now, and meant for us:
    /// `audience` is how the current generation calls us, and without one its tokens are
    /// invalid.
    #[inline(never)] // its frame is gone by the time a stream begins
    pub(crate) fn check(&self, token: &[u8], audience: Option<&str>) -> Result<Believed, Rejected> {
        check_shape(token)?;
        let header = decode_header(token).map_err(|error| Rejected::of(&error))?;
        if header.crit.is_some() {
            return Err(Invalid("it needs an extension (crit), and none is known here"));
        }
        let generation = generation(header.typ.as_deref())?;
        let mut validation = Validation::new(self.algorithm);
        validation.leeway = SKEW.as_secs();
        validation.validate_nbf = true;
        validation.required_spec_claims.clear();
        match (generation, audience) {
            (Generation::Current, Some(audience)) => {
                validation.set_required_spec_claims(&["exp", "aud", "iss"]);
                validation.set_audience(&[audience]);
            }
            (Generation::Current, None) => {
                return Err(Invalid("it is an at+jwt, which takes --jwt-audience"));
            }
            (Generation::Older, _) => validation.validate_aud = false,
        }
        let decoded = decode::<Value>(token, &self.key, &validation);
        let claims = decoded.map_err(|error| Rejected::of(&error))?.claims;
        let expires = claims.get("exp").filter(|exp| !exp.is_null()).map(moment).transpose()?;
        if expires.is_some_and(|expires| expires <= SystemTime::now()) {
            return Err(Rejected::EXPIRED); // to the moment: the skew is not for the end
        }
        // RFC 9068 §4. Whose name it is does not matter here: one key has one issuer.
        if generation == Generation::Current && claims["iss"].as_str().is_none_or(str::is_empty) {
            return Err(Invalid("it has no iss"));
        }
        let base = audience.and_then(Base::new).unwrap_or_default();
        Ok(Believed { rights: Rights::of(&claims, generation, &base)?, expires })
    }
}

/// Whether it is three parts of base64, short and flat.
fn check_shape(token: &[u8]) -> Result<(), Rejected> {
    if token.len() > TOKEN_MAX {
        return Err(Invalid("it is longer than 8 KiB"));
    }
    let parts: Vec<&[u8]> = token.split(|byte| *byte == b'.').collect();
    let [header, claims, _signature] = parts[..] else { return Err(Rejected::MALFORMED) };
    for part in [header, claims] {
        let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| Rejected::MALFORMED)?;
        if nests_deeper(&json, DEPTH_MAX) {
            return Err(Invalid("its JSON nests too deep"));
        }
    }
    Ok(())
}

fn generation(typ: Option<&str>) -> Result<Generation, Rejected> {
    let typ = typ.unwrap_or("JWT").to_ascii_lowercase();
    match typ.strip_prefix("application/").unwrap_or(&typ) {
        "at+jwt" => Ok(Generation::Current),
        "jwt" => Ok(Generation::Older),
        _ => Err(Rejected::TYPE),
    }
}

/// The last second that we count with: in the year 9999.
const LATEST: f64 = 253_402_300_799.0;

/// A `NumericDate` (RFC 7519 §2).
fn moment(date: &Value) -> Result<SystemTime, Rejected> {
    let seconds =
        date.as_f64().filter(|seconds| *seconds >= 0.0).ok_or(Invalid("its exp is not a time"))?;
    Ok(UNIX_EPOCH + Duration::from_secs_f64(seconds.min(LATEST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_one_of_two() {
        for typ in [None, Some("JWT"), Some("jwt"), Some("application/JWT")] {
            assert_eq!(generation(typ), Ok(Generation::Older), "{typ:?}");
        }
        for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+jwt"] {
            assert_eq!(generation(Some(typ)), Ok(Generation::Current), "{typ:?}");
        }
        for typ in
            ["", "at", "application/", "dpop+jwt", "text/at+jwt", "application/application/jwt"]
        {
            assert_eq!(generation(Some(typ)), Err(Rejected::TYPE), "{typ:?}");
        }
    }
}
