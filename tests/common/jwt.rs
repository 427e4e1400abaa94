//! JWTs for tests, assembled by hand so that a test can also make an invalid one.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
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
