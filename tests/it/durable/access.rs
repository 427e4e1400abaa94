//! Who may create, change and read streams.

use super::{TEXT, ask, config, create, get, request};
use crate::common::TestServer;
use serde_json::json;

use crate::common::jwt::{allowing, in_seconds, key, older};
use threadcast::{Config, CorsOrigins, Token};

#[test]
fn streams_are_off_without_their_flag() {
    let server = TestServer::start();
    let answer = get(&server, "a", "");
    assert_eq!(answer.status, 404);
    assert!(answer.body.contains("--durable-streams"), "{answer:?}");
    assert_eq!(answer.header("cross-origin-resource-policy"), None);
}

#[test]
fn tokens_protect_streams_as_they_protect_channels() {
    let token = |text: &str| Some(Token::new(text).expect("a valid token"));
    let server = TestServer::with(Config {
        publish_token: token("writer"),
        subscribe_token: token("reader"),
        ..config()
    });
    let with = |token: &str| format!("{TEXT}Authorization: Bearer {token}\r\n");
    for method in ["PUT", "POST", "DELETE"] {
        assert_eq!(ask(&server, method, "a", TEXT, "x").status, 401, "{method}");
        assert_eq!(ask(&server, method, "a", &with("reader"), "x").status, 401, "{method}");
    }
    assert_eq!(ask(&server, "PUT", "a", &with("writer"), "x").status, 201);
    for method in ["GET", "HEAD"] {
        let status = |headers: &str| server.head(&request(method, "a", headers, "")).status;
        assert_eq!(status(TEXT), 401, "{method}");
        assert_eq!(status(&with("writer")), 401, "{method}");
        assert_eq!(status(&with("reader")), 200, "{method}");
    }
}

#[test]
fn jwt_grants_the_streams_that_its_topics_name() {
    let server = TestServer::with(Config {
        publish_key: Some(key()),
        subscribe_key: Some(key()),
        ..config()
    });
    let with = |publish: &[&str], subscribe: &[&str]| {
        format!("{TEXT}Authorization: Bearer {}\r\n", allowing(publish, subscribe))
    };
    let own = with(&["chat/{id}"], &["chat/1"]);
    assert_eq!(ask(&server, "PUT", "chat/1", &own, "x").status, 201);
    assert_eq!(ask(&server, "PUT", "chat/2", &own, "x").status, 201);
    assert_eq!(ask(&server, "PUT", "other", &own, "x").status, 403);
    let read = |name: &str, headers: &str| server.head(&request("GET", name, headers, "")).status;
    assert_eq!(read("chat/1", &own), 200);
    assert_eq!(read("chat/2", &own), 403);
    assert_eq!(read("chat/1", ""), 401);
}

#[test]
fn long_poll_ends_with_its_token() {
    let server = TestServer::with(Config { subscribe_key: Some(key()), ..config() });
    create(&server, "a", "x");
    let claim = json!({ "publish": [], "subscribe": ["a"] });
    let token = older(&json!({ "mercure": claim, "exp": in_seconds(2) }));
    let answer = server.request(&format!(
        "GET /v1/stream/a?offset=now&live=long-poll HTTP/1.1\r\nHost: localhost\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    ));
    assert_eq!((answer.status, answer.body.contains("401")), (401, true), "{answer:?}");
}

#[test]
fn page_of_another_origin_needs_the_operators_permission() {
    let server = TestServer::with(config());
    let origin = "Origin: https://app.example\r\n";
    let put = ask(&server, "PUT", "a", &format!("{TEXT}{origin}"), "x");
    assert_eq!((put.status, put.header("access-control-allow-origin")), (403, None));
    let cors_origins = CorsOrigins::These(vec!["https://app.example".into()]);
    let server = TestServer::with(Config { cors_origins, ..config() });
    create(&server, "a", "x");
    let read = server.request(&request("GET", "a", origin, ""));
    assert_eq!(read.header("access-control-allow-origin"), Some("https://app.example"));
    let exposed = read.header("access-control-expose-headers").expect("a list");
    for name in ["Stream-Next-Offset", "Stream-Cursor", "ETag", "Producer-Expected-Seq"] {
        assert!(exposed.contains(name), "{name}");
    }
    let preflight = server.request(&format!(
        "OPTIONS /v1/stream/a HTTP/1.1\r\nHost: localhost\r\n{origin}\
         Access-Control-Request-Method: PUT\r\n\r\n"
    ));
    let allowed = preflight.header("access-control-allow-headers").expect("a list");
    for name in ["If-None-Match", "Producer-Id", "Stream-TTL", "Authorization"] {
        assert!(allowed.contains(name), "{name}");
    }
    let methods = preflight.header("access-control-allow-methods").expect("a list");
    assert_eq!(methods, "GET, HEAD, PUT, POST, DELETE, OPTIONS");
}
