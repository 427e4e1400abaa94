//! JSON Web Key Sets (RFC 7517): several keys of an issuer, each with a name (`kid`).
//!
//! A set may also contain keys for other purposes and of other kinds. They are ignored (RFC 7517 §5).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use serde_json::{Value, from_value};

use super::keys::{KeyError, MODULUS_MIN, TrustedKey, VerifyingKey};
use super::provider;
use crate::json;

/// The maximum number of keys in a set.
const KEYS_MAX: usize = 100;

/// The longest modulus of an RSA key, in bytes: what the crate `ring` supports.
const MODULUS_MAX: usize = 1024;

impl VerifyingKey {
    /// Reads a JSON Web Key Set.
    ///
    /// A token must name its key by `kid`; a token without `kid` is verified only if exactly one
    /// key has its algorithm. A key's algorithm is its `alg` or, without one, the common algorithm
    /// of its kind: RS256, ES256, ES384, `EdDSA` or HS256. Keys with another `use` than `sig`, with
    /// `key_ops` that lack `verify`, and keys that are weak or not supported are ignored.
    ///
    /// Fails if the text is not a key set, or if none of its keys can be used.
    ///
    /// ```
    /// use threadcast::jwt::{KeyError, VerifyingKey};
    ///
    /// let key = r#"{"kty":"oct","kid":"1","k":"YSBzZWNyZXQgdGhhdCBpcyBsb25nIGVub3VnaCBmb3IgaXQ"}"#;
    /// assert!(VerifyingKey::from_jwks(format!(r#"{{"keys":[{key}]}}"#).as_bytes()).is_ok());
    /// assert_eq!(VerifyingKey::from_jwks(b"{}").unwrap_err(), KeyError::NotAKeySet);
    /// ```
    pub fn from_jwks(text: &[u8]) -> Result<Self, KeyError> {
        let set = json::parse(text).map_err(|_| KeyError::NotAKeySet)?;
        let Value::Object(mut set) = set else { return Err(KeyError::NotAKeySet) };
        let Some(Value::Array(keys)) = set.remove("keys") else { return Err(KeyError::NotAKeySet) };
        if keys.len() > KEYS_MAX {
            return Err(KeyError::TooMany);
        }
        // `parse` has limited the depth.
        let read = |key: Value| from_value(key).ok().and_then(|jwk| trusted(&jwk));
        let keys: Vec<TrustedKey> = keys.into_iter().filter_map(read).collect();
        if keys.is_empty() {
            return Err(KeyError::NoneUsable);
        }
        provider::install();
        Ok(Self { keys: keys.into(), is_set: true })
    }

    /// Returns a key set that is not known yet. Until it is replaced, requests with a JWT are asked
    /// to retry later.
    pub(crate) fn not_fetched() -> Self {
        Self { keys: [].into(), is_set: true }
    }
}

/// Returns the key if it can verify signatures.
fn trusted(jwk: &Jwk) -> Option<TrustedKey> {
    let common = &jwk.common;
    let is_for_signatures =
        common.public_key_use.as_ref().is_none_or(|it| *it == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|it| it.contains(&KeyOperations::Verify));
    let algorithm = algorithm(jwk).filter(|_| is_for_signatures)?;
    let key = DecodingKey::from_jwk(jwk).ok()?;
    let key = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            let (n, e) = (without_zeros(n), without_zeros(e));
            let is_sound = (MODULUS_MIN..=MODULUS_MAX).contains(&n.len());
            is_sound.then(|| DecodingKey::from_rsa_raw_components(n, e))?
        }
        DecodingKeyKind::SecretOrDer(bytes) => {
            let is_sound = match algorithm {
                Algorithm::ES256 => bytes.len() == 65,
                Algorithm::ES384 => bytes.len() == 97,
                Algorithm::EdDSA => bytes.len() == 32,
                // A secret is at least as long as the hash (RFC 7518 §3.2).
                Algorithm::HS256 => bytes.len() >= 32,
                Algorithm::HS384 => bytes.len() >= 48,
                _ => bytes.len() >= 64,
            };
            is_sound.then_some(key)?
        }
    };
    let id = common.key_id.as_deref().map(Into::into);
    Some(TrustedKey { id, ..TrustedKey::new(algorithm, key) })
}

/// Returns the algorithm of a key: its `alg`, which must fit its kind, or else the common one of
/// its kind.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    use Algorithm::{
        ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
    };
    let fitting: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[EdDSA],
        AlgorithmParameters::OctetKey(_) => &[HS256, HS384, HS512],
        _ => return None,
    };
    match jwk.common.key_algorithm {
        None => Some(fitting[0]),
        Some(named) => Algorithm::try_from(named).ok().filter(|named| fitting.contains(named)),
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(keys: &[Value]) -> Result<String, KeyError> {
        let set = json!({ "keys": keys }).to_string();
        VerifyingKey::from_jwks(set.as_bytes()).map(|set| format!("{set:?}"))
    }

    fn with(key: &Value, field: &str, value: Value) -> Value {
        let mut key = key.clone();
        key[field] = value;
        key
    }

    /// A number of this many bytes in base64url, of which the first is not zero.
    fn bytes(length: usize) -> String {
        use base64::Engine;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(vec![0xc3; length])
    }

    #[test]
    fn key_without_alg_gets_the_common_one_of_its_kind() {
        let rsa = json!({ "kty": "RSA", "n": bytes(256), "e": "AQAB" });
        let ec = |curve, length| json!({ "kty": "EC", "crv": curve, "x": bytes(length), "y": bytes(length) });
        let ed = json!({ "kty": "OKP", "crv": "Ed25519", "x": bytes(32) });
        let oct = json!({ "kty": "oct", "k": bytes(64) });
        for (key, algorithm) in [
            (rsa.clone(), "RS256"),
            (with(&rsa, "alg", "PS512".into()), "PS512"),
            (ec("P-256", 32), "ES256"),
            (ec("P-384", 48), "ES384"),
            (ed.clone(), "EdDSA"),
            (oct.clone(), "HS256"),
            (with(&oct, "alg", "HS512".into()), "HS512"),
            (with(&rsa, "use", "sig".into()), "RS256"),
            (with(&rsa, "key_ops", json!(["verify"])), "RS256"),
            (with(&oct, "key_ops", json!(["sign", "verify"])), "HS256"),
            (with(&rsa, "x5c", json!(["MII"])), "RS256"),
        ] {
            assert_eq!(
                read(std::slice::from_ref(&key)),
                Ok(format!("VerifyingKey({algorithm})")),
                "{key}"
            );
        }
        for unusable in [
            with(&rsa, "use", "enc".into()),
            with(&rsa, "key_ops", json!(["encrypt"])),
            with(&rsa, "key_ops", json!([])),
            with(&rsa, "alg", "ES256".into()),
            with(&rsa, "alg", "HS256".into()),
            with(&rsa, "alg", "RSA-OAEP".into()),
            with(&rsa, "alg", "none".into()),
            with(&rsa, "n", bytes(255).into()),
            with(&rsa, "n", bytes(1025).into()),
            with(&rsa, "n", "not base64".into()),
            with(&rsa, "n", Value::Null),
            with(&rsa, "kid", 7.into()),
            with(&ec("P-256", 32), "alg", "ES384".into()),
            with(&ec("P-256", 32), "alg", "RS256".into()),
            ec("P-256", 31),
            ec("P-521", 66),
            with(&ed, "x", bytes(31).into()),
            with(&ed, "crv", "X25519".into()),
            with(&oct, "k", bytes(31).into()),
            with(&with(&oct, "k", bytes(63).into()), "alg", "HS512".into()),
            with(&oct, "alg", "RS256".into()),
            json!({ "kty": "AKP", "alg": "ML-DSA-44" }),
            json!({}),
            json!("key"),
        ] {
            assert_eq!(
                read(std::slice::from_ref(&unusable)),
                Err(KeyError::NoneUsable),
                "{unusable}"
            );
            let with_a_good_one = read(&[unusable.clone(), ed.clone()]);
            assert_eq!(with_a_good_one.as_deref(), Ok("VerifyingKey(EdDSA)"), "{unusable}");
        }
        assert_eq!(read(&vec![ed.clone(); KEYS_MAX + 1]), Err(KeyError::TooMany));
        for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":7}"#] {
            let error = VerifyingKey::from_jwks(text.as_bytes()).unwrap_err();
            assert_eq!(error, KeyError::NotAKeySet, "{text}");
        }
    }
}
