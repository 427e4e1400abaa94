//! Properties of all streams: response heads, CORS, and the end of a stream.

use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use crate::common::{TestClient, TestServer};
use threadcast::Config;

const DEMO_STREAMS: [&str; 5] = ["/stream", "/sse", "/api/sse", "/events", "/count"];

fn streams() -> impl Iterator<Item = &'static str> {
    DEMO_STREAMS.into_iter().chain(["/channels/chat"])
}

/// Returns the sorted header lines except `Date` and `Server`.
fn steady_headers(client: &mut TestClient) -> Vec<(String, String)> {
    let head = client.head();
    assert_eq!(head.status, 200, "{head:?}");
    let mut headers = head.headers;
    headers.retain(|(name, _)| name != "date" && name != "server");
    headers.sort();
    headers
}

fn expected_headers(target: &str, version: &str) -> Vec<(String, String)> {
    let content_type = "text/event-stream; charset=utf-8";
    let mut headers = vec![
        ("cache-control", "no-cache, no-transform"),
        ("connection", if version == "1.1" { "keep-alive" } else { "close" }),
        ("content-type", content_type),
        ("x-accel-buffering", "no"),
    ];
    if DEMO_STREAMS.contains(&target) {
        headers.push(("access-control-allow-origin", "*"));
    }
    if version == "1.1" {
        headers.push(("transfer-encoding", "chunked"));
    }
    let mut headers: Vec<_> =
        headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    headers.sort();
    headers
}

#[test]
fn shutdown_ends_every_stream_at_once_and_cleanly() {
    for target in streams() {
        let server = TestServer::start();
        let mut client = server.stream(target);
        assert!(client.chunk().is_some_and(|chunk| chunk.starts_with("retry: ")), "{target}");
        server.shutdown();
        // A scripted demo stream is now in a pause between two events. It must end at once, without
        // the event that follows the pause.
        let rest: Vec<String> = std::iter::from_fn(|| client.chunk()).collect();
        let waited = |event: &String| event.contains("第 1 条") || event.contains("\ndata: 1\n");
        assert!(!rest.iter().any(waited), "{target} continued: {rest:?}");
        client.assert_ended();
    }
}

/// curl exits with 18 if a stream ends without its last chunk.
#[test]
fn curl_sees_a_clean_end_of_every_stream() {
    if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
        return crate::common::skip("curl is not installed; run `apt-get install curl`");
    }
    for version in ["--http1.1", "--http1.0"] {
        let server = TestServer::start();
        let readers: Vec<_> = streams()
            .map(|target| {
                let mut curl = Command::new("curl")
                    .args(["-sN", version, "--max-time", "20", "--noproxy", "*"])
                    .arg(format!("http://{}{target}", server.addr))
                    .stdout(Stdio::piped())
                    .spawn()
                    .expect("curl starts");
                let mut stdout = BufReader::new(curl.stdout.take().expect("stdout is piped"));
                let mut first = String::new();
                stdout.read_line(&mut first).expect("curl passes the stream on");
                assert!(first.starts_with("retry: "), "{target}: {first:?}");
                (target, curl, stdout)
            })
            .collect();
        server.shutdown();
        for (target, mut curl, mut stdout) in readers {
            stdout.read_to_string(&mut String::new()).expect("the stream is UTF-8");
            let status = curl.wait().expect("curl ends");
            assert_eq!(status.code(), Some(0), "{target} {version}");
        }
    }
}

#[test]
fn stream_response_has_the_expected_headers() {
    let server = TestServer::start();
    for version in ["1.1", "1.0"] {
        for target in streams() {
            let mut client = server.connect();
            client.send(&format!("GET {target} HTTP/{version}\r\nHost: localhost\r\n\r\n"));
            let expected = expected_headers(target, version);
            assert_eq!(steady_headers(&mut client), expected, "{target} {version}");
        }
    }
}

/// HEAD returns the head of GET (RFC 9110 §9.3.2); the connection then serves the next request.
#[test]
fn head_of_a_stream_returns_only_its_headers() {
    let server = TestServer::start();
    for target in streams() {
        let mut client = server.connect();
        client.send(&format!("HEAD {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        client.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut expected = expected_headers(target, "1.1");
        let mut headers = steady_headers(&mut client);
        // A response to HEAD has no content, so it needs no Transfer-Encoding.
        expected.retain(|(name, _)| name != "transfer-encoding");
        headers.retain(|(name, _)| name != "transfer-encoding");
        assert_eq!(headers, expected, "{target}");
        assert_eq!(client.answer().body, "ok\n", "{target}");
    }
}

#[test]
fn pages_of_any_origin_can_read_demo_streams() {
    let server = TestServer::start();
    let origin = "Origin: http://elsewhere.example\r\n";
    for target in DEMO_STREAMS.into_iter().chain(["/send-data"]) {
        let answer = server.request(&format!(
            "OPTIONS {target} HTTP/1.1\r\nHost: localhost\r\n{origin}\
             Access-Control-Request-Method: GET\r\n\r\n"
        ));
        assert_eq!(answer.status, 204, "{target}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{target}");
        let allowed = |name| answer.header(name).expect("the preflight response has this header");
        for method in ["GET", "POST", "PUT", "DELETE"] {
            assert!(allowed("access-control-allow-methods").contains(method), "{target}");
        }
        assert!(allowed("access-control-allow-headers").contains("Content-Type"), "{target}");
    }
    for target in DEMO_STREAMS {
        let mut client = server.connect();
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{origin}\r\n"));
        assert_eq!(client.head().header("access-control-allow-origin"), Some("*"), "{target}");
    }
}

/// A server can listen on several addresses, because the pages of the articles use three different
/// ports.
#[test]
fn every_listener_serves_requests() {
    let listen = vec![(Ipv4Addr::LOCALHOST, 0).into(); 3];
    let server = TestServer::with(Config { listen, ..Config::default() });
    assert_eq!(server.addresses.len(), 3);
    for addr in &server.addresses {
        let mut client = TestClient::connect(*addr);
        client.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.head().status, 200, "{addr}");
        assert_eq!(client.chunk().as_deref(), Some("retry: 3000\n"), "{addr}");
        // Every fifth second, the server sends a custom event too, which may be the first event.
        let mut ticks = std::iter::from_fn(|| client.chunk());
        assert!(ticks.any(|tick| tick.contains("Hello, World!")), "{addr}");
    }
}
