//! The WebSocket echo at `/ws`, which the demo page compares with a stream; the client is
//! tungstenite.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use crate::common::{Answer, TIMEOUT, TestClient, TestServer};
use threadcast::{Config, Limits};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, WebSocket};

type Client = WebSocket<TcpStream>;

/// Opens a WebSocket and reads the welcome message.
fn open(server: &TestServer, path: &str) -> Client {
    let socket = TcpStream::connect(server.addr).expect("the server listens");
    socket.set_read_timeout(Some(TIMEOUT)).expect("a positive timeout");
    let url = format!("ws://{}{path}", server.addr);
    let (mut client, answer) = tungstenite::client(url, socket).expect("the server upgrades");
    assert_eq!(answer.status(), 101);
    assert_eq!(read(&mut client), Message::text("Welcome, Client!"));
    client
}

fn read(client: &mut Client) -> Message {
    client.read().expect("a message within TIMEOUT")
}

fn send(client: &mut Client, message: Message) {
    client.send(message).expect("the server reads");
}

/// Reads the close frame and the end of the connection; returns the server's code.
fn close_code(client: &mut Client) -> CloseCode {
    let message = read(client);
    let Message::Close(Some(frame)) = message else { panic!("a close frame, not {message:?}") };
    assert!(
        matches!(client.read(), Err(Error::ConnectionClosed)),
        "the connection closes after the close frame"
    );
    frame.code
}

/// Sends a handshake, which may be invalid; returns the response head.
fn handshake(server: &TestServer, path: &str, headers: &str) -> Answer {
    let mut client = server.connect();
    client.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", server.addr));
    client.head()
}

const UPGRADE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";

#[test]
fn every_message_is_echoed() {
    let server = TestServer::start();
    for path in ["/ws", "/"] {
        let mut client = open(&server, path);
        for text in ["hello", "", "Grüße 你好 \u{1f600}", &"long ".repeat(10_000)] {
            send(&mut client, Message::text(text));
            let answer = format!("Hello, Client! Received your message: {text}");
            assert_eq!(read(&mut client), Message::text(answer));
        }
        send(&mut client, Message::binary(&b"bytes"[..]));
        let answer = "Hello, Client! Received your message: bytes";
        assert_eq!(read(&mut client), Message::text(answer));
    }
}

#[test]
fn ping_gets_a_pong() {
    let server = TestServer::start();
    let mut client = open(&server, "/ws");
    send(&mut client, Message::Ping("are you there?".into()));
    assert_eq!(read(&mut client), Message::Pong("are you there?".into()));
}

#[test]
fn close_is_answered_with_the_same_code() {
    let server = TestServer::start();
    let mut client = open(&server, "/ws");
    let frame = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
    client.close(Some(frame)).expect("the server reads");
    assert_eq!(close_code(&mut client), CloseCode::Normal);
}

#[test]
fn shutdown_closes_with_going_away() {
    let server = TestServer::start();
    let mut client = open(&server, "/ws");
    server.shutdown();
    assert_eq!(close_code(&mut client), CloseCode::Away);
}

#[test]
fn oversized_message_closes_with_1009() {
    let server = TestServer::with(Config {
        limits: Limits { body: 1024, ..Limits::default() },
        ..Config::default()
    });
    for length in [1025, 100_000] {
        let mut client = open(&server, "/ws");
        send(&mut client, Message::text("x".repeat(length)));
        let message = read(&mut client);
        let Message::Close(Some(frame)) = message else { panic!("{length}: {message:?}") };
        assert_eq!(frame.code, CloseCode::Size, "{length}");
    }
}

/// Without this rule, a client that sends no pongs could occupy its thread forever.
#[test]
fn client_without_pongs_is_disconnected() {
    let server = TestServer::with(Config {
        limits: Limits { heartbeat: Duration::from_millis(100), ..Limits::default() },
        ..Config::default()
    });
    // tungstenite answers pings by itself, so this client reads raw bytes.
    let mut client = server.connect();
    let version = "Sec-WebSocket-Version: 13\r\n";
    client.send(&format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{KEY}{version}\r\n"));
    let head = client.head();
    assert_eq!(head.status, 101, "{head:?}");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut client.reader, &mut bytes).expect("an end within TIMEOUT");
    assert!(bytes.windows(2).any(|pair| pair == [0x89, 0]), "the server sent no ping: {bytes:?}");
}

/// The key and the accept value are the example of RFC 6455 §1.3.
#[test]
fn handshake_follows_rfc_6455() {
    let server = TestServer::start();
    let headers = format!("{UPGRADE}{KEY}Sec-WebSocket-Version: 13\r\n");
    for origin in [String::new(), format!("Origin: http://{}\r\n", server.addr)] {
        let answer = handshake(&server, "/ws", &format!("{headers}{origin}"));
        assert_eq!(answer.status, 101, "{answer:?}");
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        assert_eq!(answer.header("connection"), Some("Upgrade"));
        let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        assert_eq!(answer.header("sec-websocket-accept"), Some(accept));
    }
}

#[test]
fn page_of_another_origin_opens_no_websocket() {
    let server = TestServer::start();
    for path in ["/ws", "/"] {
        for origin in ["http://elsewhere.example", "null"] {
            let version = "Sec-WebSocket-Version: 13\r\n";
            let headers = format!("{UPGRADE}{KEY}{version}Origin: {origin}\r\n");
            assert_eq!(handshake(&server, path, &headers).status, 403, "{path} {origin}");
        }
    }
}

/// A 426 response must name the protocol to upgrade to (RFC 9110 §15.5.22).
#[test]
fn handshake_without_version_13_is_426() {
    let server = TestServer::start();
    let wrong_version = format!("{UPGRADE}{KEY}Sec-WebSocket-Version: 8\r\n");
    for headers in ["", KEY, &wrong_version] {
        let answer = handshake(&server, "/ws", headers);
        assert_eq!(answer.status, 426, "{headers}");
        assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{headers}");
        assert_eq!(answer.header("upgrade"), Some("websocket"), "{headers}");
    }
    let headers = format!("{UPGRADE}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n");
    assert_eq!(handshake(&server, "/ws", &headers).status, 400);
}

/// Malformed and doubled lines of the handshake (RFC 6455 §4.2.1, §11.3).
#[test]
fn ambiguous_handshake_is_rejected() {
    let server = TestServer::start();
    let key = |key: &str| format!("{UPGRADE}{VERSION}Sec-WebSocket-Key: {key}\r\n");
    for path in ["/ws", "/"] {
        for (headers, status) in [
            (format!("{UPGRADE}{VERSION}{KEY}{KEY}"), 400),
            (
                format!("{UPGRADE}{VERSION}{KEY}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"),
                400,
            ),
            (format!("{UPGRADE}{VERSION}{VERSION}{KEY}"), 400),
            (format!("{UPGRADE}{VERSION}Sec-WebSocket-Version: 8\r\n{KEY}"), 400),
            (format!("{UPGRADE}{VERSION}"), 400),
            (key(""), 400),
            (key("dGhlIHNhbXBsZSBub25jZQ"), 400), // without padding
            (key("dGhlIHNhbXBsZSBub25jZSE="), 400), // 17 bytes
            (key("dGhlIHNhbXBsZSBub25j!!=="), 400), // not base64
            (format!("{UPGRADE}{VERSION}{KEY}Content-Length: 5\r\n"), 400),
            (format!("{UPGRADE}{VERSION}{KEY}Transfer-Encoding: chunked\r\n"), 400),
        ] {
            assert_eq!(handshake(&server, path, &headers).status, status, "{path} {headers}");
        }
    }
    // Connection does not list `Upgrade`, so the server treats this as a plain request.
    let headers = format!("Connection: keep-alive\r\nUpgrade: websocket\r\n{VERSION}{KEY}");
    assert_eq!(handshake(&server, "/ws", &headers).status, 426);
    assert_eq!(handshake(&server, "/", &headers).status, 200);
}

/// RFC 9110 §7.8: a server ignores an Upgrade in HTTP/1.0.
#[test]
fn upgrade_in_http_1_0_is_ignored() {
    let server = TestServer::start();
    for (path, status) in [("/", 200), ("/ws", 426)] {
        let head = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n{UPGRADE}{KEY}{VERSION}\r\n");
        assert_eq!(server.head(&head).status, status, "{path}");
    }
}

/// Opens a WebSocket on a raw connection and reads the welcome message.
fn raw(server: &TestServer) -> TestClient {
    let mut client = server.connect();
    client.send(&format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{KEY}{VERSION}\r\n"));
    assert_eq!(client.head().status, 101);
    assert_eq!(frame(&mut client), (0x81, b"Welcome, Client!".to_vec()));
    client
}

/// Reads the next frame of the server; returns its first byte and its payload.
fn frame(client: &mut TestClient) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    client.reader.read_exact(&mut head).expect("a frame within TIMEOUT");
    assert!(head[1] < 126, "the frame is long or masked: {head:?}");
    let mut payload = vec![0; head[1].into()];
    client.reader.read_exact(&mut payload).expect("a whole frame");
    (head[0], payload)
}

/// Returns a short frame of a client, masked with zeros.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = 0x80 | u8::try_from(payload.len()).expect("short");
    [&[first, length, 0, 0, 0, 0], payload].concat()
}

/// Checks the server's close frame, replies to it, and checks that the connection ends.
#[track_caller]
fn check_close(client: &mut TestClient, code: u16, what: &str) {
    let (first, payload) = frame(client);
    assert_eq!(first, 0x88, "{what}: a close frame");
    assert_eq!(payload[..2], code.to_be_bytes(), "{what}");
    client.send(&masked(0x88, &payload[..2]));
    client.assert_ended();
}

/// RFC 6455 §7.1.7 describes how an error closes the connection, §7.4.1 the codes.
#[test]
fn protocol_error_closes_with_its_code() {
    let limits = Limits { body: 100, ..Limits::default() };
    let server = TestServer::with(Config { limits, ..Config::default() });
    let ping = [vec![0x89, 0xfe, 0, 126, 0, 0, 0, 0], vec![b'x'; 126]].concat();
    let long = [vec![0x81, 0xfe, 0, 126, 0, 0, 0, 0], vec![b'x'; 126]].concat();
    let part = masked(0x01, &[b'x'; 60]);
    for (what, sent, code) in [
        ("an unmasked frame", vec![0x81, 2, b'h', b'i'], 1002),
        ("a reserved bit", masked(0xc1, b"hi"), 1002),
        ("a reserved opcode", masked(0x83, b"hi"), 1002),
        ("a reserved control opcode", masked(0x8b, b""), 1002),
        ("a continuation of nothing", masked(0x80, b"hi"), 1002),
        ("a new message inside another", [part.clone(), masked(0x81, b"hi")].concat(), 1002),
        ("a fragmented ping", masked(0x09, b""), 1002),
        ("a long ping", [ping[..4].to_vec(), ping[4..].to_vec()].concat(), 1009),
        ("text that is not UTF-8", masked(0x81, b"\xff\xfe"), 1007),
        ("text cut inside a character", masked(0x81, b"\xc3"), 1007),
        ("a long message", long, 1009),
        ("a message of long parts", [part.clone(), masked(0x80, &[b'x'; 60])].concat(), 1009),
        ("a close with half a code", masked(0x88, &[3]), 1002),
        ("a close whose reason is not UTF-8", masked(0x88, b"\x03\xe8\xff"), 1007),
        ("a close without a code that exists", masked(0x88, &999_u16.to_be_bytes()), 1002),
        ("a close with 1005", masked(0x88, &1005_u16.to_be_bytes()), 1002),
        ("a close with 1006", masked(0x88, &1006_u16.to_be_bytes()), 1002),
        ("a close with 1015", masked(0x88, &1015_u16.to_be_bytes()), 1002),
        ("a close with 2999", masked(0x88, &2999_u16.to_be_bytes()), 1002),
    ] {
        let mut client = raw(&server);
        client.send(&sent);
        check_close(&mut client, code, what);
    }
    let server = TestServer::start();
    let mut client = raw(&server);
    client.send(&ping);
    check_close(&mut client, 1002, "a long ping, below the limit of a message");
}

#[test]
fn server_waits_for_the_close_reply() {
    let server = TestServer::start();
    let mut client = raw(&server);
    server.shutdown();
    let (first, payload) = frame(&mut client);
    assert_eq!((first, &payload[..2]), (0x88, &1001_u16.to_be_bytes()[..]));
    // The server discards this message, which comes after its close frame. It neither replies to
    // the message nor resets the connection.
    client.send(&masked(0x81, b"too late"));
    client.send(&masked(0x88, &payload[..2]));
    client.assert_ended();
}

#[test]
fn close_frame_is_sent_despite_frames_after_an_error() {
    let server = TestServer::start();
    let mut client = raw(&server);
    client.send(&[masked(0x83, b"hi"), masked(0x81, &[b'x'; 100]).repeat(20_000)].concat());
    let (first, payload) = frame(&mut client);
    assert_eq!((first, &payload[..2]), (0x88, &1002_u16.to_be_bytes()[..]));
    client.socket().shutdown(std::net::Shutdown::Write).expect("connected");
    client.assert_ended();
}
