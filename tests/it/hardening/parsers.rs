//! Inputs that make a parser recurse deeply, or that two parsers would read differently.
//!
//! `tests/stack.rs` measures the stack that accepted inputs use.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use threadcast::client::{ClientError, OnError, PublishOptions, Publisher};
use threadcast::{Config, Mercure};

use crate::common::jwt::{self, AUDIENCE, bearer, current, in_seconds, older, signed};
use crate::common::{CLOSED, OPEN, Stream, TestServer, check};

/// The maximum nesting depth of JSON.
const DEPTH_MAX: usize = 32;

const TOO_DEEP: &str = "nests deeper than 32 levels; flatten it";

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// Arrays nested to this depth.
fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

fn post(target: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// Texts that nest too deep, in several forms. `nested(103)` once overflowed the stack.
fn deep_texts() -> [String; 6] {
    [
        nested(DEPTH_MAX + 1),
        nested(103),
        "[".repeat(103),
        "[".repeat(60 * 1024),
        "{\"a\":".repeat(12 * 1024),
        format!("{}7{}", "[{\"a\":".repeat(100), "}]".repeat(100)),
    ]
}

#[test]
fn deep_json_is_rejected_and_streams_continue() {
    let server = TestServer::start();
    let mut stream = Stream::of(&server, "/channels/x", "");
    for deep in deep_texts() {
        let data = format!("{{\"data\":{deep}}}");
        let line = format!("{{\"data\":1}}\n{data}\n");
        let message = format!("{{\"message\":\"hi\",\"more\":{deep}}}");
        for (target, content_type, body) in [
            ("/channels/x", JSON, &deep),
            ("/channels/x", JSON, &data),
            ("/channels/x", NDJSON, &deep),
            ("/channels/x", NDJSON, &line),
            ("/send-data", JSON, &deep),
            ("/send-data", JSON, &message),
        ] {
            let answer = check(&server, post(target, content_type, body), 400, OPEN);
            assert!(answer.body.contains(TOO_DEEP), "{target} {content_type}: {answer:?}");
        }
    }
    // The server has published none of these bodies, and it still accepts others.
    assert_eq!(server.post("/channels/x", "", "still here").status, 200);
    stream.expect_data(&["still here"]);
}

#[test]
fn error_names_the_deep_line_of_a_batch() {
    let server = TestServer::start();
    let lines = "{\"data\":1}\n".repeat(1_000);
    let body = format!("{lines}{{\"data\":{}}}", "[".repeat(1_000 * 1_000));
    let answer = server.request(&post("/channels/x", NDJSON, &body));
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.body.contains("line 1001: nests deeper"), "{answer:?}");
}

#[test]
fn json_of_the_maximum_depth_is_published() {
    let server = TestServer::start();
    let mut stream = Stream::of(&server, "/channels/x", "");
    let data = nested(DEPTH_MAX - 1);
    let event = format!("{{\"data\":{data}}}");
    assert_eq!(server.request(&post("/channels/x", JSON, &event)).status, 200);
    assert_eq!(server.request(&post("/channels/x", NDJSON, &event)).status, 200);
    let brackets = format!("{{\"data\":\"{}\"}}", "[".repeat(1_000));
    assert_eq!(server.request(&post("/channels/x", JSON, &brackets)).status, 200);
    stream.expect_data(&[&data, &data, &"[".repeat(1_000)]);
    let more = format!("{{\"message\":\"hi\",\"more\":{data}}}");
    assert_eq!(server.request(&post("/send-data", JSON, &more)).status, 200);
}

fn with_keys() -> TestServer {
    TestServer::with(Config {
        mercure: Mercure::On,
        publish_key: Some(jwt::key()),
        subscribe_key: Some(jwt::key()),
        jwt_audience: Some(AUDIENCE.into()),
        ..Config::default()
    })
}

/// An access token with this payload in its only authorization detail.
fn with_payload(payload: &Value) -> String {
    let detail = json!({ "type": jwt::DETAIL, "actions": ["publish", "subscribe"],
        "topics": [{ "match": "*" }], "payload": payload });
    current(&json!({ "iss": jwt::ISSUER, "aud": AUDIENCE, "exp": in_seconds(3600),
        "authorization_details": [detail] }))
}

/// Objects nested to this depth.
fn levels(count: usize) -> Value {
    (1..count).fold(json!({}), |inner, _| json!({ "a": inner }))
}

#[test]
fn deeply_nested_token_is_invalid() {
    let server = with_keys();
    let mut stream = Stream::of(&server, "/channels/x", &bearer(&jwt::allowing(&["*"], &["*"])));
    let status = |token: &str| server.post("/channels/x", &bearer(token), "published").status;
    // A token may have 16 levels. The claims, the list of details and the detail use three.
    assert_eq!(status(&with_payload(&levels(13))), 200);
    assert_eq!(status(&with_payload(&levels(14))), 401);
    let deep = nested(103);
    let claims = json!({ "mercure": { "publish": ["*"] }, "exp": in_seconds(3600) }).to_string();
    let with = |field: &str| claims.replacen('{', &format!("{{\"{field}\":{deep},"), 1);
    let header = r#"{"alg":"HS256"}"#;
    for (header, claims) in [
        (header, &with("x")),
        (header, &with("authorization_details")),
        (header, &with("aud")),
        (header, &deep),
        (&format!(r#"{{"alg":"HS256","jwk":{deep}}}"#), &claims),
        (&format!(r#"{{"alg":"HS256","crit":{deep}}}"#), &claims),
        (&deep, &claims),
    ] {
        assert_eq!(status(&signed(header, claims, jwt::SECRET)), 401, "{header} {claims}");
    }
    let mercure = json!({ "subscribe": ["*"], "publish": ["*"], "payload": levels(20) });
    assert_eq!(status(&older(&json!({ "mercure": mercure, "exp": in_seconds(3600) }))), 401);
    stream.expect_data(&["published"]);
    assert_eq!(status(&jwt::allowing(&["*"], &[])), 200);
    stream.expect_data(&["published"]);
}

#[test]
fn deeply_nested_pattern_is_rejected() {
    let server = with_keys();
    let token = bearer(&jwt::allowing(&["*"], &["*"]));
    for pattern in [
        format!("/{}a{}", "(".repeat(500), ")".repeat(500)),
        format!("/({}a{})", "(?:".repeat(200), ")".repeat(200)),
        format!("/({}a{})", "(?:".repeat(100), ")*".repeat(100)),
        format!("/({}a{})", "(?:".repeat(50), "){300}".repeat(50)),
        "/((?:(?:a{300}){300}){300})".to_owned(),
        format!("/({}a{})", "(?:a|".repeat(150), ")".repeat(150)),
        format!("/([{}a{}])", "[a".repeat(300), "]".repeat(300)),
        format!("/(a{})", "*".repeat(900)),
        format!("/(a{})", "{2}".repeat(300)),
    ] {
        let query = utf8_percent_encode(&pattern, NON_ALPHANUMERIC);
        let target = format!("/.well-known/mercure?match_urlpattern={query}");
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{token}\r\n");
        assert_eq!(server.request(&request).status, 400, "{pattern}");
        let topics = json!([{ "match": pattern, "match_type": "urlpattern" }]);
        let deep = bearer(&jwt::detailed(&["publish"], &topics));
        assert_eq!(server.post("/channels/x", &deep, "x").status, 401, "{pattern}");
    }
}

/// Lines of a chunked body end with CRLF (RFC 9112 §7.1).
///
/// If the server accepted a bare LF, a strict proxy before it would look for the next request at
/// another place in the bytes, and a client could smuggle a request past the proxy.
#[test]
fn bare_lf_in_a_chunked_body_is_rejected() {
    let server = TestServer::start();
    let mut stream = Stream::of(&server, "/channels/x", "");
    let smuggled = post("/channels/x", "text/plain", "smuggled");
    for target in ["/channels/x", "/send-data"] {
        for body in [
            "0\r\n\n",
            "0\n\r\n",
            "0\n\n",
            "0\r\nX: a\n\r\n",
            "0\r\nX: a\r\n\n",
            "0\r\n\r\r\n\r\n",
            "1\nx\r\n0\r\n\r\n",
            "1\r\nx\n0\r\n\r\n",
            "1\r\nx\r0\r\n\r\n",
            "1;a\nb\r\nx\r\n0\r\n\r\n",
            "1;a\rb\r\nx\r\n0\r\n\r\n",
        ] {
            let request = format!(
                "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                 Transfer-Encoding: chunked\r\n\r\n{body}{smuggled}"
            );
            check(&server, request, 400, CLOSED);
        }
    }
    assert_eq!(server.post("/channels/x", "", "next").status, 200);
    stream.expect_data(&["next"]);
}

/// Starts a server that responds to one request with this JSON; returns the server's address.
fn answer_once(body: String) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let addr = listener.local_addr().expect("a bound socket");
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a client connects");
        let mut reader = BufReader::new(socket.try_clone().expect("a free descriptor"));
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("a head");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            if line == "\r\n" {
                break;
            }
        }
        reader.read_exact(&mut vec![0; length]).expect("a body");
        let head = format!("Content-Type: application/json\r\nContent-Length: {}", body.len());
        write!(socket, "HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").expect("the client reads");
    });
    addr
}

#[test]
fn publisher_rejects_a_deeply_nested_response() {
    let publish = |answer: String| {
        let publisher = Publisher::new(PublishOptions {
            server: format!("http://{}", answer_once(answer)).parse().expect("a URL"),
            token: None,
            channel: "x".into(),
            event: None,
            retry: None,
            json: false,
            sse: false,
            end: false,
            timeout: Duration::from_secs(30),
            on_error: OnError::Stop,
        });
        publisher.publish("hello", None)
    };
    let answer = |deep: String| format!("{{\"id\":\"7-1\",\"x\":{deep}}}");
    assert_eq!(publish(answer(nested(DEPTH_MAX - 1))).expect("an id").id, "7-1");
    for deep in [nested(DEPTH_MAX), nested(103), "[".repeat(60_000)] {
        let error = publish(answer(deep)).expect_err("no id can be read from it");
        assert!(matches!(error, ClientError::UnexpectedResponse { .. }), "{error}");
    }
}
