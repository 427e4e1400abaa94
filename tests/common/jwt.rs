//! JWTs for tests, assembled by hand so that a test can also make an invalid one.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RsaEncoding,
    RsaKeyPair, RsaPublicKeyComponents,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use threadcast::jwt::VerifyingKey;

pub const SECRET: &[u8] = b"a secret that only these tests know of";
pub const AUDIENCE: &str = "https://hub.example/.well-known/mercure";

/// The key that verifies tokens signed with [`SECRET`].
pub fn key() -> VerifyingKey {
    VerifyingKey::new(SECRET).expect("long enough")
}

/// The UNIX time, in seconds, of the moment this many seconds from now.
pub fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("the time fits in 63 bits") + seconds
}

pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with exactly this header and these claims, signed with this secret (HS256).
pub fn signed(header: &str, claims: &str, secret: &[u8]) -> String {
    let message = format!("{}.{}", base64(header), base64(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    format!("{message}.{}", base64(hmac::sign(&key, message.as_bytes())))
}

/// A token in the format of Mercure 0.x.
pub fn older(claims: &Value) -> String {
    signed(r#"{"alg":"HS256","typ":"JWT"}"#, &claims.to_string(), SECRET)
}

/// A Mercure 0.x token that permits publishing to and reading these topics for one hour.
pub fn allowing(publish: &[&str], subscribe: &[&str]) -> String {
    let claim = json!({ "publish": publish, "subscribe": subscribe });
    older(&json!({ "mercure": claim, "exp": in_seconds(3600) }))
}

/// The issuer of the tokens in the current format.
pub const ISSUER: &str = "https://issuer.example";

/// The `type` of Mercure's entries in `authorization_details`.
pub const DETAIL: &str = "https://mercure.rocks/authorization-detail";

/// A token in the current format: an OAuth access token (`at+jwt`).
pub fn current(claims: &Value) -> String {
    signed(r#"{"alg":"HS256","typ":"at+jwt"}"#, &claims.to_string(), SECRET)
}

/// An access token that allows these actions on these topic matchers for one hour.
pub fn detailed(actions: &[&str], topics: &Value) -> String {
    let details = json!([{ "type": DETAIL, "actions": actions, "topics": topics }]);
    current(&json!({ "iss": ISSUER, "aud": AUDIENCE, "exp": in_seconds(3600),
        "authorization_details": details }))
}

pub fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// A key of an issuer: it signs tokens, and its public part is in the issuer's key set.
pub struct IssuerKey {
    kid: String,
    alg: &'static str,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Secret(Vec<u8>),
}

/// The algorithms of [`IssuerKey`].
pub const ALGORITHMS: [&str; 10] =
    ["RS256", "RS512", "PS256", "PS384", "ES256", "ES384", "EdDSA", "HS256", "HS384", "HS512"];

impl IssuerKey {
    /// Creates a new key; all RSA keys are the same one.
    pub fn new(alg: &'static str, kid: &str) -> Self {
        let random = SystemRandom::new();
        let key = match alg {
            "ES256" | "ES384" => {
                let scheme = if alg == "ES256" {
                    &ECDSA_P256_SHA256_FIXED_SIGNING
                } else {
                    &ECDSA_P384_SHA384_FIXED_SIGNING
                };
                let pair = EcdsaKeyPair::generate_pkcs8(scheme, &random).expect("a new key");
                Key::Ec(EcdsaKeyPair::from_pkcs8(scheme, pair.as_ref(), &random).expect("a key"))
            }
            "EdDSA" => {
                let pair = Ed25519KeyPair::generate_pkcs8(&random).expect("a new key");
                Key::Ed(Ed25519KeyPair::from_pkcs8(pair.as_ref()).expect("a key"))
            }
            "HS256" | "HS384" | "HS512" => Key::Secret(kid.repeat(64).into_bytes()),
            _ => {
                let pem = include_bytes!("../keys/rsa.pem");
                let pair = PrivateKeyDer::from_pem_slice(pem).expect("a key");
                Key::Rsa(RsaKeyPair::from_pkcs8(pair.secret_der()).expect("a key"))
            }
        };
        Self { kid: kid.to_owned(), alg, key }
    }

    /// The public part, as a JWK.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.key {
            Key::Rsa(pair) => {
                let RsaPublicKeyComponents::<Vec<u8>> { n, e } = pair.public().into();
                json!({ "kty": "RSA", "n": base64(n), "e": base64(e) })
            }
            Key::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(match self.alg {
                    "ES256" => 32,
                    _ => 48,
                });
                let curve = if self.alg == "ES256" { "P-256" } else { "P-384" };
                json!({ "kty": "EC", "crv": curve, "x": base64(x), "y": base64(y) })
            }
            Key::Ed(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key()) })
            }
            Key::Secret(secret) => json!({ "kty": "oct", "k": base64(secret) }),
        };
        (jwk["kid"], jwk["alg"], jwk["use"]) = (json!(self.kid), json!(self.alg), json!("sig"));
        jwk
    }

    /// A token with these claims that names this key.
    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.alg, "kid": self.kid }), claims)
    }

    /// A token with this header and these claims that this key has signed.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
        let random = SystemRandom::new();
        let signature = match &self.key {
            Key::Rsa(pair) => {
                let scheme: &dyn RsaEncoding = match self.alg {
                    "RS256" => &RSA_PKCS1_SHA256,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    _ => &RSA_PSS_SHA384,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(scheme, &random, message.as_bytes(), &mut signature).expect("signed");
                signature
            }
            Key::Ec(pair) => {
                pair.sign(&random, message.as_bytes()).expect("signed").as_ref().to_vec()
            }
            Key::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Key::Secret(secret) => {
                let hash = match self.alg {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    _ => hmac::HMAC_SHA512,
                };
                hmac::sign(&hmac::Key::new(hash, secret), message.as_bytes()).as_ref().to_vec()
            }
        };
        format!("{message}.{}", base64(signature))
    }
}

/// A key set with the public parts of these keys.
pub fn key_set(keys: &[&IssuerKey]) -> String {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

/// Claims that permit publishing to and reading every topic for one hour.
pub fn everything() -> Value {
    let claim = json!({ "publish": ["*"], "subscribe": ["*"] });
    json!({ "mercure": claim, "exp": in_seconds(3600) })
}
