//! Fuzzes tokens (JWTs). An input without a valid signature must be rejected. A signed input may be
//! accepted only with the claims that a naive parser finds in it.

use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::Value;

use crate::json;
use crate::mercure::jwt::VerifyingKey;

const SECRET: &[u8] = b"a secret that no fuzzer finds out";
const AUDIENCE: &str = "https://hub.example/";

static KEY: LazyLock<VerifyingKey> =
    LazyLock::new(|| VerifyingKey::new(SECRET).expect("long enough"));

/// Checks the input twice: as a whole token, and as a token's header (the first line) and claims
/// (the other lines), which are then signed.
pub(super) fn check(bytes: &[u8]) {
    assert!(KEY.check(bytes, Some(AUDIENCE)).is_err(), "accepted without the secret");
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let (header, claims) = (&bytes[..end], &bytes[end + 1..]);
    let message = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag));
    let Ok(accepted) = KEY.check(token.as_bytes(), Some(AUDIENCE)) else { return };
    assert!(KEY.check(&token.as_bytes()[..token.len() - 1], Some(AUDIENCE)).is_err(), "cut off");
    let parsed = |part| json::parse(part).expect("an accepted token is JSON");
    let (header, claims) = (parsed(header), parsed(claims));
    assert!(header["alg"].to_string().contains("HS256") && header["crit"].is_null(), "{header}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let ends = claims["exp"].as_f64();
    assert!(ends.is_none_or(|ends| ends > now - 1.0), "an expired token was accepted: {claims}");
    assert_eq!(ends.is_some(), accepted.expires.is_some(), "{claims}");
    let typ = header["typ"].as_str().unwrap_or_default().to_ascii_lowercase();
    if typ.ends_with("at+jwt") {
        assert!(ends.is_some() && claims["aud"].to_string().contains(AUDIENCE), "{claims}");
        assert!(claims["iss"].as_str().is_some_and(|iss| !iss.is_empty()), "{claims}");
    } else if KEY.check(token.as_bytes(), None).is_err() {
        panic!("a token of 0.x needs no audience: {claims}");
    }
    let text = claims.to_string();
    for matcher in accepted.rights.publish.iter().chain(&*accepted.rights.subscribe) {
        let named = Value::from(matcher.text()).to_string();
        assert!(text.contains(&named), "{named} is granted, but not in the claims: {text}");
    }
}
