//! Error responses to requests with valid syntax. `conformance.rs` tests the syntax itself.

use crate::common::{CLOSED, OPEN, TestServer, check};
use threadcast::{Config, Limits};

/// Returns a GET request with these header lines and a Host.
fn with_headers(lines: &str) -> String {
    format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n")
}

#[test]
fn wrong_method_is_405_and_lists_the_allowed_ones() {
    let server = TestServer::start();
    for (method, path, allow) in [
        ("POST", "/", "GET, HEAD, OPTIONS"),
        ("DELETE", "/index.html", "GET, HEAD, OPTIONS"),
        ("PUT", "/healthz", "GET, HEAD, OPTIONS"),
        ("PATCH", "/channels/a", "GET, HEAD, POST, DELETE, OPTIONS"),
        ("TRACE", "/events", "GET, HEAD, OPTIONS"),
        ("POST", "/stream", "GET, HEAD, OPTIONS"),
        ("DELETE", "/api/sse", "GET, HEAD, OPTIONS"),
        ("GET", "/send-data", "POST, OPTIONS"),
        ("POST", "/ws", "GET, OPTIONS"),
    ] {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = check(&server, head, 405, OPEN);
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
    // The server does not read this body, so it cannot find the next request and must close the
    // connection.
    let post = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    check(&server, post, 405, CLOSED);
}

#[test]
fn unknown_path_is_404_for_every_method() {
    let server = TestServer::start();
    for method in ["GET", "POST", "DELETE"] {
        let head = format!("{method} /nothing/here HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = check(&server, head, 404, OPEN);
        assert!(answer.body.contains("404 - 页面未找到"), "{answer:?}");
        // Clients of paths below /channels are programs, so the body is JSON instead of a page.
        let head = format!("{method} /channels/a/b HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = check(&server, head, 404, OPEN);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    }
}

#[test]
fn request_head_that_is_too_long_is_414_or_431() {
    let server = TestServer::start();
    let long = "a".repeat(20 * 1024);
    check(&server, format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 414, CLOSED);
    check(&server, long.as_bytes(), 414, CLOSED);
    check(&server, with_headers(&format!("X: {long}")), 431, CLOSED);
    check(&server, with_headers(&format!("{long}: x")), 431, CLOSED);
    check(&server, with_headers(&"X: y\r\n".repeat(101)), 431, CLOSED);
    check(&server, with_headers(&"X: y\r\n".repeat(20_000)), 431, CLOSED);
    check(&server, with_headers(&["X: y"; 99].join("\r\n")), 200, OPEN);
    check(&server, with_headers(&format!("X: {}", &long[..15 * 1024])), 200, OPEN);
}

#[test]
fn request_head_limit_is_exact() {
    let limits = Limits { head: 1_000, ..Limits::default() };
    let server = TestServer::with(Config { limits, ..Config::default() });
    let fixed = with_headers("X: ").len();
    let of_length = |length: usize| with_headers(&format!("X: {}", "a".repeat(length - fixed)));
    check(&server, of_length(1_000), 200, OPEN);
    check(&server, of_length(1_001), 431, CLOSED);
}

#[test]
fn websocket_path_without_an_upgrade_is_426() {
    let server = TestServer::start();
    let mut client = server.connect();
    for headers in [
        "",
        "Connection: Upgrade\r\n",
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n",
    ] {
        client.send(&format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
        let answer = client.answer();
        assert_eq!(answer.status, 426, "{headers:?}");
        assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{headers:?}");
        answer.check_problem();
    }
}

/// RFC 9110 §15.5.22 requires a 426 response to have an `Upgrade` field. §7.8 requires `Connection`
/// to list `Upgrade`, because that field is only for one hop.
#[test]
fn response_426_names_the_protocol_to_upgrade_to() {
    let server = TestServer::start();
    for version in ["", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n"]
    {
        let answer =
            server.request(&format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{version}\r\n"));
        assert_eq!(answer.header("upgrade"), Some("websocket"), "{answer:?}");
        let connection = answer.header("connection").unwrap_or_default().to_ascii_lowercase();
        assert!(connection.split(',').any(|option| option.trim() == "upgrade"), "{answer:?}");
    }
}

const ROUTES: [&str; 13] = [
    "GET /",
    "GET /style.css",
    "GET /nothing",
    "GET /healthz",
    "GET /channels/a",
    "GET /stream",
    "GET /sse",
    "GET /api/sse",
    "GET /events",
    "GET /count",
    "POST /send-data",
    "GET /ws",
    "OPTIONS *",
];

#[test]
fn foreign_host_on_loopback_is_421_on_every_route() {
    let server = TestServer::start();
    for route in ROUTES {
        for host in ["evil.example", "evil.example:8844", "localhost.evil.example", "10.0.0.1", ""]
        {
            check(&server, format!("{route} HTTP/1.1\r\nHost: {host}\r\n\r\n"), 421, OPEN);
        }
    }
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8844", "127.1.2.3", "[::1]:80"] {
        check(&server, format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n"), 200, OPEN);
    }
}

#[test]
fn only_allowed_hosts_are_served() {
    let hosts = vec!["box.example".to_owned()];
    let server = TestServer::with(Config { hosts, ..Config::default() });
    for (host, status) in
        [("box.example", 200), ("BOX.example:80", 200), ("localhost", 200), ("x.box.example", 421)]
    {
        check(&server, format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n"), status, OPEN);
    }
}
