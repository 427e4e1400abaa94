//! Makes `jsonwebtoken` use the cryptography of the crate `ring`, on which the TLS library depends
//! anyway.
//!
//! Each algorithm is for exactly one kind of key. Four of them also sign.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use ring::{hmac, signature as schemes};
use signature::{Error, Signer, Verifier};

/// Makes the crate `ring` the cryptography provider of `jsonwebtoken`.
///
/// Does nothing if the process has already installed another provider; the keys of this crate work
/// with any provider.
pub(super) fn install() {
    let _ = PROVIDER.install_default();
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| Ok(Box::new(Signing::new(*algorithm, key)?)),
    verifier_factory: |algorithm, key| Ok(Box::new(Verifying::new(*algorithm, key)?)),
    key_utils: KeyUtils::new_unimplemented(), // only to create JWKs
};

/// Checks that the algorithm fits the kind of key, because a public RSA key must never be used as
/// the secret of an HMAC.
fn check(algorithm: Algorithm, family: AlgorithmFamily) -> Result<()> {
    let expected = match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => AlgorithmFamily::Hmac,
        Algorithm::ES256 | Algorithm::ES384 => AlgorithmFamily::Ec,
        Algorithm::EdDSA => AlgorithmFamily::Ed,
        Algorithm::RS256
        | Algorithm::RS384
        | Algorithm::RS512
        | Algorithm::PS256
        | Algorithm::PS384
        | Algorithm::PS512 => AlgorithmFamily::Rsa,
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    if family == expected { Ok(()) } else { Err(ErrorKind::InvalidKeyFormat.into()) }
}

/// How an algorithm verifies.
enum Scheme {
    Hmac(hmac::Algorithm),
    Rsa(&'static schemes::RsaParameters),
    Other(&'static dyn schemes::VerificationAlgorithm),
}

impl Scheme {
    fn of(algorithm: Algorithm) -> Option<Self> {
        Some(match algorithm {
            Algorithm::HS256 => Self::Hmac(hmac::HMAC_SHA256),
            Algorithm::HS384 => Self::Hmac(hmac::HMAC_SHA384),
            Algorithm::HS512 => Self::Hmac(hmac::HMAC_SHA512),
            Algorithm::RS256 => Self::Rsa(&schemes::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => Self::Rsa(&schemes::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => Self::Rsa(&schemes::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => Self::Rsa(&schemes::RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => Self::Rsa(&schemes::RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => Self::Rsa(&schemes::RSA_PSS_2048_8192_SHA512),
            Algorithm::ES256 => Self::Other(&schemes::ECDSA_P256_SHA256_FIXED),
            Algorithm::ES384 => Self::Other(&schemes::ECDSA_P384_SHA384_FIXED),
            Algorithm::EdDSA => Self::Other(&schemes::ED25519),
            _ => return None,
        })
    }
}

struct Verifying {
    algorithm: Algorithm,
    key: DecodingKeyKind,
}

impl Verifying {
    fn new(algorithm: Algorithm, key: &DecodingKey) -> Result<Self> {
        check(algorithm, key.family())?;
        Ok(Self { algorithm, key: key.kind().clone() })
    }
}

impl Verifier<Vec<u8>> for Verifying {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let scheme = Scheme::of(self.algorithm).ok_or_else(Error::new)?;
        let verified = match (scheme, &self.key) {
            (Scheme::Hmac(hash), DecodingKeyKind::SecretOrDer(secret)) => {
                hmac::verify(&hmac::Key::new(hash, secret), message, signature)
            }
            (Scheme::Rsa(scheme), DecodingKeyKind::SecretOrDer(key)) => {
                UnparsedPublicKey::new(scheme, key).verify(message, signature)
            }
            (Scheme::Rsa(scheme), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(scheme, message, signature)
            }
            (Scheme::Other(scheme), DecodingKeyKind::SecretOrDer(key)) => {
                UnparsedPublicKey::new(scheme, key).verify(message, signature)
            }
            _ => return Err(Error::new()),
        };
        verified.map_err(|_| Error::new())
    }
}

impl JwtVerifier for Verifying {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// A signing key, by its kind.
enum Signing {
    Secret(hmac::Key),
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signing {
    fn new(algorithm: Algorithm, key: &EncodingKey) -> Result<Self> {
        check(algorithm, key.family())?;
        let bytes = key.as_bytes();
        match algorithm {
            Algorithm::RS256 => rsa(bytes).map(Self::Rsa).ok_or(ErrorKind::InvalidKeyFormat),
            Algorithm::ES256 => ec(bytes).map(Self::Ec).ok_or(ErrorKind::InvalidEcdsaKey),
            Algorithm::EdDSA => ed(bytes).map(Self::Ed).ok_or(ErrorKind::InvalidEddsaKey),
            Algorithm::HS256 => Ok(Self::Secret(hmac::Key::new(hmac::HMAC_SHA256, bytes))),
            _ => Err(ErrorKind::UnsupportedAlgorithm),
        }
        .map_err(Into::into)
    }
}

/// Reads a private RSA key, in PKCS#8 or in PKCS#1.
pub(super) fn rsa(der: &[u8]) -> Option<RsaKeyPair> {
    RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der)).ok()
}

/// Reads a private key on the curve P-256, in PKCS#8.
pub(super) fn ec(der: &[u8]) -> Option<EcdsaKeyPair> {
    let random = SystemRandom::new();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random).ok()
}

/// Reads a private Ed25519 key, in PKCS#8. The public half may be missing: OpenSSL omits it.
pub(super) fn ed(der: &[u8]) -> Option<Ed25519KeyPair> {
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()
}

impl Signer<Vec<u8>> for Signing {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        let random = SystemRandom::new();
        match self {
            Self::Secret(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                let signed = key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature);
                signed.map(|()| signature).map_err(|_| Error::new())
            }
            Self::Ed(key) => Ok(key.sign(message).as_ref().to_vec()),
            Self::Ec(key) => {
                let signed = key.sign(&random, message);
                signed.map(|signature| signature.as_ref().to_vec()).map_err(|_| Error::new())
            }
        }
    }
}

impl JwtSigner for Signing {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Secret(_) => Algorithm::HS256,
            Self::Rsa(_) => Algorithm::RS256,
            Self::Ec(_) => Algorithm::ES256,
            Self::Ed(_) => Algorithm::EdDSA,
        }
    }
}
