//! The keys that sign and verify tokens, read from files.
//!
//! A file with a PEM section holds an asymmetric key; any other file holds the bytes of a
//! secret. The kind of key decides the algorithm, never the token's `alg`.

use std::fmt;
use std::sync::Arc;

use jsonwebtoken::DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use thiserror::Error;

use super::provider;
use crate::credential::Credential;

/// The shortest secret, in bytes: as long as the hash of HS256 (RFC 7518 §3.2).
const SECRET_MIN: usize = 32;

/// The shortest modulus of an RSA key, in bytes.
pub(super) const MODULUS_MIN: usize = 256;

/// A key that verifies tokens: the public key of a pair, or a shared secret. Or a set of such keys
/// ([`from_jwks`](Self::from_jwks)).
///
/// ```
/// use threadcast::jwt::{KeyError, VerifyingKey};
///
/// let key = VerifyingKey::new(b"a secret that is long enough for it\n")?;
/// assert_eq!(format!("{key:?}"), "VerifyingKey(HS256)");
/// assert_eq!(VerifyingKey::new(b"short").unwrap_err(), KeyError::Short);
/// # Ok::<(), KeyError>(())
/// ```
#[derive(Clone)]
pub struct VerifyingKey {
    pub(super) keys: Arc<[TrustedKey]>,
    /// Whether the keys are those of a set. If not, the one key verifies tokens of any `kid`.
    pub(super) is_set: bool,
}

/// One key, and what it verifies.
#[derive(Clone)]
pub(super) struct TrustedKey {
    /// The name of the key (`kid`), if it is from a set and has one.
    pub(super) id: Option<Box<str>>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
    /// Stands for this key in the streams that were opened with it.
    pub(super) credential: Credential,
}

impl TrustedKey {
    pub(super) fn new(algorithm: Algorithm, key: DecodingKey) -> Self {
        Self { id: None, algorithm, key, credential: Credential::default() }
    }

    /// Whether both keys verify the same tokens.
    fn is(&self, other: &Self) -> bool {
        (&self.id, self.algorithm) == (&other.id, other.algorithm)
            && is_equal(&self.key, &other.key)
    }
}

fn is_equal(one: &DecodingKey, other: &DecodingKey) -> bool {
    match (one.kind(), other.kind()) {
        (SecretOrDer(one), SecretOrDer(other)) => one == other,
        (RsaModulusExponent { n, e }, RsaModulusExponent { n: other_n, e: other_e }) => {
            (n, e) == (other_n, other_e)
        }
        _ => false,
    }
}

impl VerifyingKey {
    /// Reads a key from the bytes of a file.
    ///
    /// A `PUBLIC KEY` in PEM is for RS256, ES256 or `EdDSA`. Any other bytes are a secret for
    /// HS256; a line break at the end of the file is not part of the secret.
    ///
    /// Fails if the file is not a key, or if the key is too weak.
    pub fn new(file: &[u8]) -> Result<Self, KeyError> {
        let (algorithm, key) = if is_pem(file) {
            let info = SubjectPublicKeyInfoDer::from_pem_slice(file).map_err(|_| {
                let is_private = PrivateKeyDer::from_pem_slice(file).is_ok();
                if is_private { KeyError::Private } else { KeyError::NotAKey }
            })?;
            match public_key(&info).ok_or(KeyError::Unsupported)? {
                (Algorithm::RS256, key) if modulus_size(key).is_none_or(|n| n < MODULUS_MIN) => {
                    return Err(KeyError::Short);
                }
                (Algorithm::RS256, key) => (Algorithm::RS256, DecodingKey::from_rsa_der(key)),
                (Algorithm::EdDSA, key) => (Algorithm::EdDSA, DecodingKey::from_ed_der(key)),
                (algorithm, key) => (algorithm, DecodingKey::from_ec_der(key)),
            }
        } else {
            let key = DecodingKey::from_secret(secret(file)?);
            (Algorithm::HS256, key.map_err(|_| KeyError::Short)?)
        };
        provider::install();
        Ok(Self { keys: Arc::new([TrustedKey::new(algorithm, key)]), is_set: false })
    }

    /// Returns these keys. Those that are also in `old` keep their credentials.
    pub(crate) fn keeping(&self, old: Option<&Self>) -> Self {
        let old = old.map_or(&[][..], |old| &old.keys);
        let kept = |key: &TrustedKey| old.iter().find(|old| old.is(key)).unwrap_or(key).clone();
        Self { keys: self.keys.iter().map(kept).collect(), is_set: self.is_set }
    }

    pub(crate) fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.keys.iter().map(|key| &key.credential)
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifyingKey(")?;
        for (index, key) in self.keys.iter().enumerate() {
            write!(f, "{}{:?}", if index == 0 { "" } else { ", " }, key.algorithm)?;
        }
        f.write_str(")")
    }
}

/// A key that signs tokens: the private key of a pair, or a shared secret.
#[derive(Clone)]
pub(crate) struct SigningKey {
    pub(super) algorithm: Algorithm,
    pub(super) key: EncodingKey,
}

impl SigningKey {
    /// Reads a key from the bytes of a file.
    ///
    /// A `PRIVATE KEY` in PEM is for RS256, ES256 or `EdDSA`. Any other bytes are a secret for
    /// HS256; a line break at the end of the file is not part of the secret.
    ///
    /// Fails if the file is not a key, or if the key is too weak.
    pub(crate) fn new(file: &[u8]) -> Result<Self, KeyError> {
        let (algorithm, key) = if is_pem(file) {
            let key = PrivateKeyDer::from_pem_slice(file).map_err(|_| {
                let is_public = SubjectPublicKeyInfoDer::from_pem_slice(file).is_ok();
                if is_public { KeyError::Public } else { KeyError::NotAKey }
            })?;
            let der = key.secret_der();
            if provider::ec(der).is_some() {
                (Algorithm::ES256, EncodingKey::from_ec_der(der))
            } else if provider::rsa(der).is_some() {
                (Algorithm::RS256, EncodingKey::from_rsa_der(der))
            } else if provider::ed(der).is_some() {
                (Algorithm::EdDSA, EncodingKey::from_ed_der(der))
            } else {
                return Err(KeyError::Unsupported);
            }
        } else {
            let key = EncodingKey::from_secret(secret(file)?);
            (Algorithm::HS256, key.map_err(|_| KeyError::Short)?)
        };
        provider::install();
        Ok(Self { algorithm, key })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?})", self.algorithm)
    }
}

/// A file does not contain a usable key.
///
/// ```
/// use threadcast::jwt::{KeyError, VerifyingKey};
///
/// let error = VerifyingKey::new(b"secret").unwrap_err();
/// assert_eq!(error, KeyError::Short);
/// assert!(error.to_string().contains("openssl rand"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The secret or the modulus is too short to be safe.
    #[error(
        "the key is too short: a secret needs at least 32 bytes (`openssl rand -hex 32` makes \
         one), an RSA key 2048 bits"
    )]
    Short,
    /// The file has a PEM section that is not a key.
    #[error("the PEM has no key; it must be a PUBLIC KEY or a PRIVATE KEY")]
    NotAKey,
    /// The kind of key is not supported.
    #[error(
        "the key is not supported; use an RSA key of 2048 to 8192 bits, an EC key on P-256 or an \
         Ed25519 key, and PKCS#8 for a private one (`openssl pkcs8 -topk8 -nocrypt`)"
    )]
    Unsupported,
    /// The text is not a JSON Web Key Set.
    #[error("it is not a JSON Web Key Set, which looks like {{\"keys\":[…]}}")]
    NotAKeySet,
    /// The key set has more than 100 keys.
    #[error("the key set has more than 100 keys; remove those that sign no tokens")]
    TooMany,
    /// None of the keys of the key set can be used.
    #[error(
        "no key of the key set can be used; it needs an RSA key of 2048 to 8192 bits, an EC key on \
         P-256 or P-384, an Ed25519 key or a secret, with \"use\":\"sig\" or without use"
    )]
    NoneUsable,
    /// The file has a private key, and verification needs the public one.
    #[error(
        "this is a private key, and the server needs only the public one; `openssl pkey -pubout` \
         makes it"
    )]
    Private,
    /// The file has a public key, and signing needs the private one.
    #[error("this is a public key; sign tokens with the private one")]
    Public,
}

fn is_pem(file: &[u8]) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN ";
    file.windows(BEGIN.len()).any(|part| part == BEGIN)
}

fn secret(file: &[u8]) -> Result<&[u8], KeyError> {
    let line = file.strip_suffix(b"\n").unwrap_or(file);
    let secret = line.strip_suffix(b"\r").unwrap_or(line);
    if secret.len() < SECRET_MIN { Err(KeyError::Short) } else { Ok(secret) }
}

/// Extracts the key, in the format of the crate `ring`, from a `SubjectPublicKeyInfo` (RFC 5280
/// §4.1.2.7): an RSA key in PKCS#1, a point on P-256, or an Ed25519 key.
fn public_key(info: &[u8]) -> Option<(Algorithm, &[u8])> {
    const RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    const P256: &[u8] =
        b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    const ED25519: &[u8] = b"\x06\x03\x2b\x65\x70";
    let (info, _) = element(info, 0x30)?;
    let (algorithm, rest) = element(info, 0x30)?;
    let (bits, _) = element(rest, 0x03)?;
    let key = bits.strip_prefix(&[0])?;
    match algorithm {
        RSA => Some((Algorithm::RS256, key)),
        ED25519 if key.len() == 32 => Some((Algorithm::EdDSA, key)),
        P256 if key.len() == 65 && key[0] == 4 => Some((Algorithm::ES256, key)),
        _ => None,
    }
}

fn modulus_size(key: &[u8]) -> Option<usize> {
    let (modulus, _) = element(element(key, 0x30)?.0, 0x02)?;
    Some(modulus.iter().skip_while(|byte| **byte == 0).count())
}

/// Splits off a DER element with this tag: returns its content and the remaining bytes.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match bytes.strip_prefix(&[tag])? {
        [length @ 0..=0x7f, rest @ ..] | [0x81, length, rest @ ..] => (usize::from(*length), rest),
        [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_signing_key_gets_a_specific_error() {
        for (file, expected) in [
            (&include_bytes!("../../../tests/keys/rsa.pub.pem")[..], KeyError::Public),
            (include_bytes!("../../../tests/keys/ec.sec1.pem"), KeyError::Unsupported),
            (b"short\n", KeyError::Short),
        ] {
            let name = String::from_utf8_lossy(file);
            assert_eq!(SigningKey::new(file).err(), Some(expected), "{name}");
        }
        assert!(SigningKey::new(include_bytes!("../../../tests/keys/rsa.pkcs1.pem")).is_ok());
    }
}
