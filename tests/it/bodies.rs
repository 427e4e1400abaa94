//! Request bodies: limits, truncation, errors, compression, and `Expect: 100-continue`.
//!
//! `conformance.rs` covers the syntax of bodies.

use std::io::{Read, Write};
use std::net::Shutdown;

use crate::common::{CLOSED, OPEN, Stream, TestServer, check as check_request};
use threadcast::{Config, Limits, Mercure, Token};

const MESSAGE: &str = r#"{"message":"hi"}"#;

/// Sends a request to `/send-data` with these further headers and this body; checks the response
/// and whether the connection stays open.
#[track_caller]
fn check(server: &TestServer, rest: &str, status: u16, stays_open: bool) {
    check_request(server, post(rest), status, stays_open);
}

fn post(rest: &str) -> String {
    format!(
        "POST /send-data HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{rest}"
    )
}

fn chunked(body: &str) -> String {
    format!("Transfer-Encoding: chunked\r\n\r\n{body}")
}

#[test]
fn unsupported_media_type_is_415_and_closes_if_unread() {
    let server = TestServer::start();
    let head = "POST /send-data HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n";
    check_request(&server, format!("{head}Content-Length: 2\r\n\r\nhi"), 415, CLOSED);
    check_request(&server, format!("{head}Content-Length: 0\r\n\r\n"), 415, OPEN);
}

#[test]
fn connection_stays_open_after_a_fully_read_bad_body() {
    let server = TestServer::start();
    for body in ["", "{", "[]", "null", "{\"message\":1}", "\u{1}"] {
        let length = body.len();
        check(&server, &format!("Content-Length: {length}\r\n\r\n{body}"), 400, OPEN);
    }
    let bytes = b"{\"message\":\"\xff\"}";
    let mut client = server.connect();
    client.send(&post(&format!("Content-Length: {}\r\n\r\n", bytes.len())));
    client.send(bytes);
    client.check("invalid UTF-8", 400, OPEN);
}

#[test]
fn body_over_the_limit_is_413() {
    let limits = Limits { body: MESSAGE.len(), ..Limits::default() };
    let server = TestServer::with(Config { limits, ..Config::default() });
    let longer = format!("{MESSAGE} ");
    check(&server, &format!("Content-Length: 16\r\n\r\n{MESSAGE}"), 200, OPEN);
    check(&server, &format!("Content-Length: 17\r\n\r\n{longer}"), 413, CLOSED);
    check(&server, "Content-Length: 17\r\n\r\n", 413, CLOSED); // no body arrives
    for digits in [19, 20, 21, 400] {
        check(&server, &format!("Content-Length: {}\r\n\r\n", "9".repeat(digits)), 413, CLOSED);
    }
    check(&server, &chunked(&format!("10\r\n{MESSAGE}\r\n0\r\n\r\n")), 200, OPEN);
    check(&server, &chunked(&format!("10\r\n{MESSAGE}\r\n1\r\n \r\n0\r\n\r\n")), 413, CLOSED);
    check(&server, &chunked(&format!("11\r\n{longer}\r\n0\r\n\r\n")), 413, CLOSED);
    check(&server, &chunked("ffffffffffffffff\r\n"), 413, CLOSED);
}

#[test]
fn oversized_chunk_line_or_trailer_is_400() {
    let server = TestServer::start();
    let endless = format!("10;{}", "x".repeat(20 * 1024));
    check(&server, &chunked(&endless), 400, CLOSED);
    let endless = format!("0\r\nX: {}", "x".repeat(20 * 1024));
    check(&server, &chunked(&endless), 400, CLOSED);
}

#[test]
fn chunk_extensions_and_trailers_are_accepted() {
    let server = TestServer::start();
    for chunks in [
        "10\r\n{\"message\":\"hi\"}\r\n0\r\n\r\n",
        "0000000000000010\r\n{\"message\":\"hi\"}\r\n0000\r\n\r\n",
        "A\r\n{\"message\"\r\n6\r\n:\"hi\"}\r\n0\r\n\r\n",
        "a;name=value;other=\"quoted\"\r\n{\"message\"\r\n6;x\r\n:\"hi\"}\r\n0;last\r\n\r\n",
        "10\r\n{\"message\":\"hi\"}\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n",
    ] {
        check(&server, &chunked(chunks), 200, OPEN);
    }
    let upper = format!("Transfer-Encoding: CHUNKED\r\n\r\n10\r\n{MESSAGE}\r\n0\r\n\r\n");
    check(&server, &upper, 200, OPEN);
}

#[test]
fn truncated_body_is_400_and_publishes_nothing() {
    let server = TestServer::start();
    let mut chat = server.stream("/channels/chat");
    for rest in [
        format!("Content-Length: 17\r\n\r\n{MESSAGE}"),
        chunked(&format!("10\r\n{MESSAGE}")),
        chunked(&format!("10\r\n{MESSAGE}\r\n")),
        chunked(&format!("10\r\n{MESSAGE}\r\n0\r\n")),
    ] {
        let mut client = server.connect();
        client.send(&post(&rest));
        client.socket().shutdown(Shutdown::Write).expect("connected");
        client.check("a truncated body", 400, CLOSED);
    }
    server.shutdown();
    chat.first_frame();
    chat.assert_drained(); // no message was published
}

#[test]
fn expect_100_continue_gets_100() {
    let server = TestServer::start();
    let mut client = server.connect();
    for expectation in ["100-continue", "100-Continue"] {
        client.send(&post(&format!("Expect: {expectation}\r\nContent-Length: 16\r\n\r\n")));
        let interim = client.head();
        assert_eq!((interim.status, interim.headers.len()), (100, 0), "{interim:?}");
        client.send(MESSAGE);
        assert_eq!(client.answer().status, 200);
    }
    client.send(&post("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"));
    assert_eq!(client.head().status, 100);
    client.send(&format!("10\r\n{MESSAGE}\r\n0\r\n\r\n"));
    client.check("a chunked body after 100", 200, OPEN);
}

#[test]
fn no_100_continue_if_the_body_has_arrived() {
    let server = TestServer::start();
    // The head and the body are one write. Sent byte by byte, the head could arrive before the
    // body, and the server would send 100.
    let mut client = server.connect();
    client.send(&post(&format!("Expect: 100-continue\r\nContent-Length: 16\r\n\r\n{MESSAGE}")));
    client.check("a head and body in one write", 200, OPEN);
}

#[test]
fn no_100_continue_before_an_error_response() {
    let server = TestServer::start();
    check(&server, "Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n", 413, CLOSED);
    check(&server, "Expect: 100-continue\r\n\r\n", 411, CLOSED);
    let foreign =
        "Origin: http://evil.example\r\nExpect: 100-continue\r\nContent-Length: 16\r\n\r\n";
    check(&server, foreign, 403, CLOSED);
    for (head, status) in [
        ("POST /healthz HTTP/1.1\r\nHost: localhost\r\n", 405),
        ("POST /send-data HTTP/1.1\r\nHost: evil.example\r\n", 421),
        ("POST /send-data HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n", 415),
    ] {
        let request = format!("{head}Expect: 100-continue\r\nContent-Length: 16\r\n\r\n");
        check_request(&server, &request, status, CLOSED);
    }
}

/// RFC 9110 §10.1.1: a server ignores 100-continue in an HTTP/1.0 request.
#[test]
fn http_1_0_client_gets_no_interim_response() {
    // An HTTP/1.0 request is not local, so publishing needs a token.
    let publish_token = Some(Token::new("s3cret").expect("visible ASCII"));
    let server = TestServer::with(Config { publish_token, ..Config::default() });
    let mut client = server.connect();
    client.send("POST /send-data HTTP/1.0\r\nContent-Type: application/json\r\n");
    client.send("Authorization: Bearer s3cret\r\n");
    client.send("Expect: 100-continue\r\nContent-Length: 16\r\n\r\n");
    client.send(MESSAGE);
    client.check("an HTTP/1.0 body", 200, CLOSED);
}

/// A client that writes its whole body before it reads still receives the error response.
///
/// Guards against a regression: the server once closed the connection after 64 KiB of the body, and
/// the reset discarded the response.
#[test]
fn early_error_reaches_a_client_that_writes_first() {
    const BODY: usize = 5_000_000;
    let publish_token = Some("secret".parse().expect("a token"));
    let open = TestServer::start();
    let closed = TestServer::with(Config { publish_token, ..Config::default() });
    let mercure = TestServer::with(Config { mercure: Mercure::On, ..Config::default() });
    let json = "Content-Type: application/json\r\n";
    for (server, head, headers, status) in [
        (&open, "POST /channels/a HTTP/1.1", "", 413),
        (&open, "POST /channels/a HTTP/1.1", "Content-Type: application/x-ndjson\r\n", 413),
        (&open, "POST /channels/a HTTP/1.1", "Content-Type: multipart/form-data\r\n", 415),
        (&open, "POST /send-data HTTP/1.1", json, 413),
        (&open, "POST /send-data HTTP/1.1", "Content-Type: text/plain\r\n", 415),
        (&open, "POST /send-data HTTP/1.1", "Origin: http://evil.example\r\n", 403),
        (&open, "POST /channels/a HTTP/1.1", "Expect: the-unexpected\r\n", 417),
        (&open, "POST /session HTTP/1.1", "", 404),
        (&open, "POST /nothing HTTP/1.1", "", 404),
        (&open, "POST /healthz HTTP/1.1", "", 405),
        (&open, "BREW /channels/a HTTP/1.1", "", 501),
        (&open, "POST /channels/a HTTP/1.1", &format!("X: {}\r\n", "a".repeat(20_000)), 431),
        (&closed, "POST /channels/a HTTP/1.1", "", 401),
        (&closed, "POST /send-data HTTP/1.1", json, 401),
        (&mercure, "POST /.well-known/mercure HTTP/1.1", "Content-Type: text/plain\r\n", 415),
    ] {
        let start = format!("{head}\r\nHost: localhost\r\n{headers}");
        let fixed = format!("{start}Content-Length: {BODY}\r\n\r\n").into_bytes();
        let fixed = [fixed, vec![b'x'; BODY]].concat();
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000)).repeat(BODY >> 16);
        let chunked = format!("{start}Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n");
        for request in [fixed, chunked.into_bytes()] {
            let mut client = server.connect();
            let sent = client.socket().write_all(&request);
            sent.unwrap_or_else(|error| panic!("{head} {status}: {error} before the response"));
            let answer = client.answer();
            assert_eq!(answer.status, status, "{head} {answer:?}");
            answer.check_problem();
            client.assert_ended();
        }
    }
}

/// Compresses with gzip at the highest level.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::read::GzEncoder::new(bytes, flate2::Compression::best());
    let mut packed = Vec::new();
    gzip.read_to_end(&mut packed).expect("reading from memory succeeds");
    packed
}

/// A POST request with these headers and this body.
fn coded(target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

const JSON: &str = "Content-Type: application/json\r\n";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";
const NDJSON: &str = "Content-Type: application/x-ndjson\r\n";
const TEXT: &str = "Content-Type: text/plain\r\n";

/// Every route that reads a body, with each `Content-Type` that it accepts and a valid body.
const BODIES: [(&str, &str, &str); 6] = [
    ("/channels/a", TEXT, "text"),
    ("/channels/a", JSON, "{\"data\":1}"),
    ("/channels/a", FORM, "data=x"),
    ("/channels/a", NDJSON, "{\"data\":1}\n{\"data\":2}"),
    ("/send-data", JSON, MESSAGE),
    ("/.well-known/mercure", FORM, "topic=a&data=x"),
];

#[test]
fn gzip_body_is_decompressed_on_every_route() {
    let server = TestServer::with(Config { mercure: Mercure::On, ..Config::default() });
    let mut stream = Stream::of(&server, "/channels/a", "");
    for (target, kind, body) in BODIES {
        for coding in ["gzip", "GZIP", "x-gzip", "identity, gzip"] {
            let headers = format!("{kind}Content-Encoding: {coding}\r\n");
            check_request(&server, coded(target, &headers, &gzip(body.as_bytes())), 200, OPEN);
        }
        let headers = format!("{kind}Content-Encoding: identity\r\n");
        check_request(&server, coded(target, &headers, body.as_bytes()), 200, OPEN);
    }
    stream.expect_data(&["text"; 5]);
    // A gzip body may also be chunked.
    let packed = gzip(b"chunked");
    let mut client = server.connect();
    client.send(
        "POST /channels/b HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
    );
    client.send(&format!("{:x}\r\n", packed.len()));
    client.send(&packed);
    client.send("\r\n0\r\n\r\n");
    client.check("a chunked gzip body", 200, OPEN);
    let mut stream = Stream::of(&server, "/channels/b?since=all", "");
    stream.expect_data(&["chunked"]);
}

#[test]
fn invalid_gzip_body_is_400() {
    let server = TestServer::with(Config { mercure: Mercure::On, ..Config::default() });
    for (target, kind, body) in BODIES {
        let whole = gzip(body.as_bytes());
        let mut damaged = whole.clone();
        let checksum = damaged.len() - 8;
        damaged[checksum] ^= 1;
        let headers = format!("{kind}Content-Encoding: gzip\r\n");
        for bad in [body.as_bytes(), &whole[..whole.len() - 1], &damaged, b""] {
            let answer = check_request(&server, coded(target, &headers, bad), 400, OPEN);
            assert!(answer.body.contains("gzip"), "{answer:?}");
        }
    }
    assert_eq!(server.registry.last_id().n, 0, "nothing is published");
}

#[test]
fn unsupported_content_encoding_is_415_and_lists_gzip() {
    let server = TestServer::with(Config { mercure: Mercure::On, ..Config::default() });
    for (target, kind, body) in BODIES {
        for coding in ["br", "deflate", "zstd", "gzip, gzip", "x"] {
            let headers = format!("{kind}Content-Encoding: {coding}\r\n");
            let request = coded(target, &headers, body.as_bytes());
            let answer = check_request(&server, request, 415, CLOSED);
            assert_eq!(answer.header("accept-encoding"), Some("gzip"), "{answer:?}");
        }
    }
    assert_eq!(server.registry.last_id().n, 0, "nothing is published");
}

#[test]
fn body_limit_applies_after_decompression() {
    let limits = Limits { body: 1_000, event: 1_000, ..Limits::default() };
    let server = TestServer::with(Config { limits, ..Config::default() });
    let headers = format!("{TEXT}Content-Encoding: gzip\r\n");
    let of_length = |length: usize| coded("/channels/a", &headers, &gzip(&vec![b'x'; length]));
    check_request(&server, of_length(1_000), 200, OPEN);
    for length in [1_001, 500_000] {
        let answer = check_request(&server, of_length(length), 413, OPEN);
        assert!(answer.body.contains("the decompressed body is longer than 1000"), "{answer:?}");
    }
    check_request(&server, of_length(2_000_000), 413, CLOSED); // too long while compressed
}
