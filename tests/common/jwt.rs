//! Tokens of every kind, good and bad: made by hand, so that a bad one can be.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};
use threadcast::jwt::VerifyingKey;

pub const SECRET: &[u8] = b"a secret of the tests, and of nobody else";
pub const AUDIENCE: &str = "https://hub.example/.well-known/mercure";

/// What the server checks tokens of [`SECRET`] with.
pub fn key() -> VerifyingKey {
    VerifyingKey::new(SECRET).expect("long enough")
}

/// The second that is so many seconds from now.
pub fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("before the sun goes out") + seconds
}

pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token of these very bytes, signed with this secret.
pub fn signed(header: &str, claims: &str, secret: &[u8]) -> String {
    let message = format!("{}.{}", base64(header), base64(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    format!("{message}.{}", base64(hmac::sign(&key, message.as_bytes())))
}

/// A token of the 0.x generation.
pub fn older(claims: &Value) -> String {
    signed(r#"{"alg":"HS256","typ":"JWT"}"#, &claims.to_string(), SECRET)
}

/// One that may publish to these and read these, for an hour.
pub fn allowing(publish: &[&str], subscribe: &[&str]) -> String {
    let claim = json!({ "publish": publish, "subscribe": subscribe });
    older(&json!({ "mercure": claim, "exp": in_seconds(3600) }))
}

/// Who makes the tokens of the current generation here.
pub const ISSUER: &str = "https://issuer.example";

/// The type of the `authorization_details` that are Mercure's.
pub const DETAIL: &str = "https://mercure.rocks/authorization-detail";

/// A token of the current generation.
pub fn current(claims: &Value) -> String {
    signed(r#"{"alg":"HS256","typ":"at+jwt"}"#, &claims.to_string(), SECRET)
}

/// One that may do these with the topics of these matchers, for an hour.
pub fn detailed(actions: &[&str], topics: &Value) -> String {
    let details = json!([{ "type": DETAIL, "actions": actions, "topics": topics }]);
    current(&json!({ "iss": ISSUER, "aud": AUDIENCE, "exp": in_seconds(3600),
        "authorization_details": details }))
}

pub fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}
