//! Invalid tokens that differ from a valid one in one claim, one header field or one byte.

#![allow(unreachable_pub)] // a separate test program

use serde_json::{Value, json};

use super::RSA_PUBLIC;
use crate::common::jwt::{
    self, AUDIENCE, DETAIL, ISSUER, SECRET, current, in_seconds, older, signed,
};

/// A Mercure 0.x token for all topics and one hour, with one claim replaced.
pub fn with(claim: &str, value: Value) -> String {
    let mut claims = json!({ "mercure": { "publish": ["*"], "subscribe": ["*"] } });
    claims["exp"] = in_seconds(3600).into();
    claims[claim] = value;
    older(&claims)
}

/// An access token for all topics and one hour, with one claim replaced or removed.
pub fn with_current(claim: &str, value: Option<Value>) -> String {
    let topics = json!([{ "match": "*" }]);
    let detail = json!({ "type": DETAIL, "actions": ["publish", "subscribe"], "topics": topics });
    let mut claims = json!({ "iss": ISSUER, "aud": AUDIENCE, "exp": in_seconds(3600), "authorization_details": [detail] });
    let fields = claims.as_object_mut().expect("an object");
    match value {
        Some(value) => drop(fields.insert(claim.to_owned(), value)),
        None => drop(fields.remove(claim)),
    }
    current(&claims)
}

/// The claims of a Mercure 0.x token for all topics and one hour.
pub fn all() -> Value {
    json!({ "mercure": { "publish": ["*"], "subscribe": ["*"] }, "exp": in_seconds(3600) })
}

/// Invalid tokens with their names. Most are correctly signed; the server must reject all of them.
pub fn bad_tokens() -> Vec<(&'static str, String)> {
    let claims = all().to_string();
    let good = older(&all());
    let (unsigned, _) = good.rsplit_once('.').expect("three parts");
    let nested = format!("{}7{}", "[".repeat(2_000), "]".repeat(2_000));
    let nested_claims = claims.replacen('{', &format!("{{\"x\":{nested},"), 1);
    let header = |header: &str| signed(header, &claims, SECRET);
    let keyed = r#"{"alg":"HS256","jwk":{"kty":"oct","k":"eA"}}"#;
    vec![
        ("expired", with("exp", in_seconds(-1).into())),
        ("expiring now", with("exp", in_seconds(0).into())),
        ("long ago", with("exp", 0.into())),
        ("before 1970", with("exp", (-1).into())),
        ("exp is a text", with("exp", in_seconds(3600).to_string().into())),
        ("exp is a list", with("exp", json!([in_seconds(3600)]))),
        ("exp is true", with("exp", true.into())),
        ("not yet", with("nbf", in_seconds(60).into())),
        ("nbf is a text", with("nbf", "soon".into())),
        (
            "another secret",
            signed(r#"{"alg":"HS256"}"#, &claims, b"another secret of the same tests"),
        ),
        ("an RSA key as the secret", signed(r#"{"alg":"HS256"}"#, &claims, RSA_PUBLIC)),
        ("none", header(r#"{"alg":"none"}"#)),
        ("None", header(r#"{"alg":"None"}"#)),
        (
            "NONE without a signature",
            format!("{}.{}.", jwt::base64(r#"{"alg":"NONE"}"#), jwt::base64(&claims)),
        ),
        (
            "none without a signature",
            format!("{}.{}.", jwt::base64(r#"{"alg":"none"}"#), jwt::base64(&claims)),
        ),
        ("HS512", header(r#"{"alg":"HS512"}"#)),
        ("RS256", header(r#"{"alg":"RS256"}"#)),
        ("ES256", header(r#"{"alg":"ES256"}"#)),
        ("EdDSA", header(r#"{"alg":"EdDSA"}"#)),
        ("no alg", header("{}")),
        ("alg is a list", header(r#"{"alg":["HS256"]}"#)),
        ("crit", header(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#)),
        ("crit is empty", header(r#"{"alg":"HS256","crit":[]}"#)),
        ("an ID token", header(r#"{"alg":"HS256","typ":"id_token+jwt"}"#)),
        ("its own key", signed(keyed, &claims, b"x")),
        ("truncated", good[..good.len() - 1].to_owned()),
        ("no signature", unsigned.to_owned()),
        ("an empty signature", format!("{unsigned}.")),
        ("four parts", format!("{good}.x")),
        ("dots", "..".to_owned()),
        ("a word", "wrong".to_owned()),
        ("padding", format!("{good}=")),
        ("oversized", with("x", "y".repeat(8 * 1024).into())),
        ("nested claims", signed(r#"{"alg":"HS256"}"#, &nested_claims, SECRET)),
        ("a nested header", header(&format!(r#"{{"alg":"HS256","x":{nested}}}"#))),
        ("claims are a list", signed(r#"{"alg":"HS256"}"#, "[]", SECRET)),
        ("no JSON", signed(r#"{"alg":"HS256"}"#, "{", SECRET)),
        ("no UTF-8", signed(r#"{"alg":"HS256"}"#, "\u{0}", SECRET)),
        ("mercure is a text", with("mercure", "*".into())),
        ("publish is a text", with("mercure", json!({ "publish": "*" }))),
        ("a selector is a number", with("mercure", json!({ "subscribe": [7] }))),
        ("too many selectors", with("mercure", json!({ "publish": vec!["a"; 101] }))),
        ("current without exp", with_current("exp", None)),
        ("current without iss", with_current("iss", None)),
        ("iss is empty", with_current("iss", Some("".into()))),
        ("iss is a number", with_current("iss", Some(7.into()))),
        ("iss is a list", with_current("iss", Some(json!([ISSUER])))),
        ("current without aud", with_current("aud", None)),
        ("another aud", with_current("aud", Some("https://other.example/".into()))),
        ("aud is a number", with_current("aud", Some(7.into()))),
        ("aud is empty", with_current("aud", Some(json!([])))),
        ("details are an object", with_current("authorization_details", Some(json!({})))),
        (
            "a detail without topics",
            with_current(
                "authorization_details",
                Some(json!([{ "type": DETAIL, "actions": ["publish"] }])),
            ),
        ),
        (
            "an unknown matcher",
            with_current(
                "authorization_details",
                Some(json!([{ "type": DETAIL,
            "actions": ["publish"], "topics": [{ "match": "a", "match_type": "regex" }] }])),
            ),
        ),
    ]
}
