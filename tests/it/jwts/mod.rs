//! JWT authentication over HTTP, on the server's own routes and those of the Mercure protocol.
//!
//! Covers valid and invalid tokens in every place where a request can carry one, and the error
//! responses.

mod bad;
mod command;

use crate::common::jwt::{
    AUDIENCE, DETAIL, ISSUER, SECRET, allowing, bearer, current, detailed, in_seconds, older,
    signed,
};
use crate::common::{Stream, TestServer, jwt};
use bad::{all, bad_tokens, with, with_current};
use command::threadcast;
use serde_json::{Value, json};
use std::path::Path;
use threadcast::jwt::{KeyError, VerifyingKey};
use threadcast::{Config, Mercure, Token};

const RSA: &[u8] = include_bytes!("../../keys/rsa.pem");
const RSA_PUBLIC: &[u8] = include_bytes!("../../keys/rsa.pub.pem");
const EC: &[u8] = include_bytes!("../../keys/ec.pem");
const EC_PUBLIC: &[u8] = include_bytes!("../../keys/ec.pub.pem");
const ED_PUBLIC: &[u8] = include_bytes!("../../keys/ed.pub.pem");

fn verifying(file: &[u8]) -> VerifyingKey {
    VerifyingKey::new(file).expect("a key")
}

fn server_with(key: &VerifyingKey) -> TestServer {
    TestServer::with(Config {
        publish_key: Some(key.clone()),
        subscribe_key: Some(key.clone()),
        jwt_audience: Some(AUDIENCE.into()),
        mercure: Mercure::WithSubscriptions,
        ..Config::default()
    })
}

const METADATA: &str = "resource_metadata=\"https://hub.example/.well-known/oauth-protected-resource/.well-known/mercure\"";

#[test]
fn invalid_token_is_401_everywhere_without_a_reason() {
    let server = server_with(&jwt::key());
    let expected = format!("Bearer error=\"invalid_token\", {METADATA}");
    let mut details = Vec::new();
    for (name, token) in bad_tokens() {
        for request in [
            "POST /channels/a",
            "DELETE /channels/a",
            "POST /session",
            "GET /channels/a",
            "GET /status",
            "GET /count",
            "GET /.well-known/mercure?match=a",
            "POST /.well-known/mercure",
            "GET /.well-known/mercure/subscriptions",
        ] {
            let answer = server.request(&format!(
                "{request} HTTP/1.1\r\nHost: localhost\r\n{}Content-Length: 1\r\n\r\nx",
                bearer(&token)
            ));
            assert_eq!(answer.status, 401, "{name}: {request}: {answer:?}");
            assert_eq!(answer.header("www-authenticate"), Some(&*expected), "{name}: {request}");
            details.push(answer.json()["detail"].as_str().expect("a sentence").to_owned());
        }
        let cookie = format!("Cookie: threadcast_token={token}\r\n");
        let answer =
            server.request(&format!("GET /channels HTTP/1.1\r\nHost: localhost\r\n{cookie}\r\n"));
        assert_eq!(answer.status, 401, "{name}: in a cookie: {answer:?}");
        let encoded: String = form_urlencoded::byte_serialize(token.as_bytes()).collect();
        let target = format!("/.well-known/mercure?match=a&authorization={encoded}");
        assert_eq!(server.get(&target).status, 401, "{name}: in the query");
    }
    details.dedup();
    assert_eq!(details.len(), 1, "the same detail for every token: {details:?}");
    assert!(server.registry.list().is_empty(), "no event was published");
}

#[test]
fn valid_token_is_accepted_for_every_key_type() {
    let secret = Path::new(env!("CARGO_TARGET_TMPDIR")).join("jwt-secret");
    std::fs::write(&secret, SECRET).expect("a writable folder");
    let secret = secret.to_str().expect("UTF-8");
    for (key, public) in [
        ("tests/keys/rsa.pem", RSA_PUBLIC),
        ("tests/keys/ec.pem", EC_PUBLIC),
        ("tests/keys/ed.pem", ED_PUBLIC),
        (secret, SECRET),
    ] {
        let server = server_with(&verifying(public));
        for generation in [&["--legacy"][..], &["--audience", AUDIENCE]] {
            let allowed = ["token", "--key-file", key, "--publish", "a", "--subscribe", "a"];
            let (code, token, errors) = threadcast(&[&allowed, generation].concat());
            assert_eq!((code, &*errors), (Some(0), ""), "{key}");
            let headers = bearer(token.trim_end());
            let published = server.post("/channels/a", &headers, "x");
            assert_eq!(published.status, 200, "{key} {generation:?}");
            assert_eq!(server.post("/channels/b", &headers, "x").status, 403, "{key}");
            drop(Stream::of(&server, "/channels/a", &headers));
            let cookie = server.post("/session", &headers, "");
            assert_eq!(cookie.status, 204, "{key}");
            let cookie = cookie.header("set-cookie").expect("a cookie").split(';').next();
            let cookie = format!("Cookie: {}\r\n", cookie.expect("split gives one"));
            drop(Stream::of(&server, "/channels/a", &cookie));
            let answer = server.post("/channels/a", &cookie, "x");
            assert_eq!(answer.status, 401, "a session allows only reading: {answer:?}");
            // A server with a key of another kind rejects the token.
            for other in [RSA_PUBLIC, EC_PUBLIC, ED_PUBLIC, SECRET]
                .into_iter()
                .filter(|other| *other != public)
            {
                let answer = server_with(&verifying(other)).post("/channels/a", &headers, "x");
                assert_eq!(answer.status, 401, "{key}");
            }
        }
    }
}

#[test]
fn optional_and_variant_claims_are_accepted() {
    let server = server_with(&jwt::key());
    let mut endless = all();
    endless.as_object_mut().expect("an object").remove("exp");
    for (name, token) in [
        ("no typ", signed(r#"{"alg":"HS256"}"#, &all().to_string(), SECRET)),
        ("no exp, in 0.x", older(&endless)),
        ("a fraction of a second", with("exp", json!(f64::from(i32::MAX) + 0.5))),
        ("exp in the far future", with("exp", json!(1e15))),
        ("nbf within the clock skew", with("nbf", in_seconds(5).into())),
        ("the claim's full name", older(&json!({ "https://mercure.rocks/": { "publish": ["*"] } }))),
        ("aud is ignored in 0.x", with("aud", "x".into())),
        ("several audiences", with_current("aud", Some(json!(["x", AUDIENCE])))),
        ("a type in capitals", signed(r#"{"alg":"HS256","typ":"application/AT+JWT"}"#,
            &json!({ "iss": ISSUER, "aud": AUDIENCE, "exp": in_seconds(60), "authorization_details": [{ "type":
            DETAIL, "actions": ["publish"], "topics":
            [{ "match": "a" }] }] }).to_string(), SECRET)),
        ("a detail of another type", with_current("authorization_details", Some(json!([{ "type": "x" },
            { "type": DETAIL, "actions": ["publish", "x"], "topics": [{ "match": "a" }] }])))),
        ("a detail as earlier drafts write it", with_current("authorization_details", Some(json!([
            { "type": "mercure", "actions": ["publish"], "topics": [{ "match": "a" }] }])))),
    ] {
        let answer = server.post("/channels/a", &bearer(&token), "x");
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
    }
}

#[test]
fn token_without_the_right_is_403_insufficient_scope() {
    let server = server_with(&jwt::key());
    let expected = format!("Bearer error=\"insufficient_scope\", {METADATA}");
    for token in [
        allowing(&["b"], &["*"]),
        allowing(&[], &["*"]),
        older(&json!({})),
        detailed(&["publish"], &json!([{ "match": "b" }])),
        detailed(&["subscribe", "tomorrow's"], &json!([{ "match": "a" }])),
        current(&json!({ "iss": ISSUER, "aud": AUDIENCE, "exp": in_seconds(60) })),
    ] {
        for request in ["POST /channels/a", "DELETE /channels/a"] {
            let answer = server.request(&format!(
                "{request} HTTP/1.1\r\nHost: localhost\r\n{}Content-Length: 1\r\n\r\nx",
                bearer(&token)
            ));
            assert_eq!(answer.status, 403, "{request}: {answer:?}");
            assert_eq!(answer.header("www-authenticate"), Some(&*expected), "{request}");
        }
        let chat = server.post(
            "/send-data",
            &format!("{}Content-Type: application/json\r\n", bearer(&token)),
            "{\"message\":\"x\"}",
        );
        assert_eq!(chat.status, 403, "{chat:?}");
    }
}

#[test]
fn challenge_without_a_token_has_no_error() {
    let server = server_with(&jwt::key());
    let answer = server.post("/channels/a", "", "x");
    assert_eq!(
        (answer.status, answer.header("www-authenticate")),
        (401, Some(&*format!("Bearer {METADATA}")))
    );
    let answer = server.post("/channels/a", &bearer("a").repeat(2), "x");
    let challenge = Some("Bearer error=\"invalid_request\"");
    assert_eq!((answer.status, answer.header("www-authenticate")), (400, challenge));
}

#[test]
fn jwt_key_and_token_work_side_by_side_for_each_role() {
    let token = |secret: &str| Some(Token::new(secret).expect("visible ASCII"));
    let other = b"the subscribe key, which differs from the other";
    let server = TestServer::with(Config {
        publish_key: Some(jwt::key()),
        publish_token: token("publishes"),
        subscribe_key: Some(verifying(other)),
        subscribe_token: token("reads"),
        ..Config::default()
    });
    let reads = signed(r#"{"alg":"HS256"}"#, &all().to_string(), other);
    let publishes = older(&all());
    for (token, may_publish, may_read) in [
        ("publishes", true, false),
        (&publishes, true, false),
        ("reads", false, true),
        (&reads, false, true),
    ] {
        let headers = bearer(token);
        let status = |may| if may { 200 } else { 401 };
        assert_eq!(
            server.post("/channels/a", &headers, "x").status,
            status(may_publish),
            "{token}"
        );
        let list = format!("GET /channels HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        assert_eq!(server.request(&list).status, status(may_read), "{token}");
    }
}

#[test]
fn anonymous_allows_no_token_but_not_an_invalid_one() {
    let config = Config { subscribe_key: Some(jwt::key()), anonymous: true, ..Config::default() };
    let server = TestServer::with(config);
    drop(Stream::of(&server, "/channels/a", ""));
    let list = |token: &str| {
        server
            .request(&format!("GET /channels HTTP/1.1\r\nHost: localhost\r\n{}\r\n", bearer(token)))
    };
    assert_eq!(list("wrong").status, 401);
    assert_eq!(list(&older(&json!({}))).status, 200);
}

#[test]
fn stream_ends_cleanly_when_its_token_expires() {
    for delivery in [threadcast::Delivery::Direct, threadcast::Delivery::Wake] {
        let server = TestServer::with(Config {
            subscribe_key: Some(jwt::key()),
            delivery,
            ..Config::default()
        });
        let token = older(&json!({ "exp": in_seconds(2) }));
        let mut streams = ["/channels/a", "/sse", "/status/stream"].map(|target| {
            let mut client = server.connect();
            client.send(&format!(
                "GET {target} HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
                bearer(&token)
            ));
            assert_eq!(client.head().status, 200, "{target}");
            client
        });
        for client in &mut streams {
            let mut last = None;
            while let Some(chunk) = client.chunk() {
                assert!(in_seconds(-10) < token_end(&token), "the stream did not end: {chunk}");
                last = Some(chunk);
            }
            let last = last.expect("a final retry");
            assert!(last.contains("retry: "), "{last}");
            client.assert_ended();
        }
        assert!(in_seconds(0) >= token_end(&token), "the stream ended too early");
        let again = server.request(&format!(
            "GET /channels HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
            bearer(&token)
        ));
        assert_eq!(again.status, 401, "the expired token is rejected");
    }
}

/// The `exp` claim of a token.
fn token_end(token: &str) -> i64 {
    use base64::Engine;
    let claims = token.split('.').nth(1).expect("three parts");
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).expect("base64");
    serde_json::from_slice::<Value>(&claims).expect("JSON")["exp"].as_i64().expect("a number")
}

#[test]
fn websocket_ends_when_its_token_expires() {
    let key = Some(jwt::key());
    let server = TestServer::with(Config {
        subscribe_key: key.clone(),
        publish_key: key,
        ..Config::default()
    });
    let handshake = |token: &str| {
        let mut client = server.connect();
        client.send(&format!(
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{}\r\n",
            bearer(token)
        ));
        client
    };
    assert_eq!(handshake(&allowing(&[], &["*"])).head().status, 403);
    let mut client =
        handshake(&older(&json!({ "mercure": { "publish": ["*"] }, "exp": in_seconds(2) })));
    assert_eq!(client.head().status, 101);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut client.reader, &mut bytes).expect("an end within TIMEOUT");
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("Welcome") && text.ends_with("the token has expired"), "{text:?}");
}

#[test]
fn bad_key_file_gets_a_specific_error() {
    for (file, expected) in [
        (&b"short\n"[..], KeyError::Short),
        (b"thirty-one bytes are too few...\r\n", KeyError::Short),
        (b"", KeyError::Short),
        (include_bytes!("../../keys/weak.pub.pem"), KeyError::Short),
        (include_bytes!("../../keys/p384.pub.pem"), KeyError::Unsupported),
        (RSA, KeyError::Private),
        (EC, KeyError::Private),
        (b"-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n", KeyError::NotAKey),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", KeyError::NotAKey),
        (b"-----BEGIN PUBLIC KEY-----\nMAAA\n-----END PUBLIC KEY-----\n", KeyError::Unsupported),
    ] {
        let name = String::from_utf8_lossy(file);
        assert_eq!(VerifyingKey::new(file).err(), Some(expected), "{name}");
    }
    assert!(VerifyingKey::new(b"thirty-two bytes are just enough\n").is_ok());
}
