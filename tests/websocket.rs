//! Recipe H: the WebSocket, with tungstenite at the other end.

mod common;

use std::net::TcpStream;
use std::time::Duration;

use common::{Answer, PATIENCE, TestServer};
use threadcast::{Config, Limits};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, WebSocket};

type Client = WebSocket<TcpStream>;

/// An open WebSocket that has been welcomed.
fn open(server: &TestServer, path: &str) -> Client {
    let socket = TcpStream::connect(server.addr).expect("the server listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a positive timeout");
    let url = format!("ws://{}{path}", server.addr);
    let (mut client, answer) = tungstenite::client(url, socket).expect("it is upgraded");
    assert_eq!(answer.status(), 101);
    assert_eq!(read(&mut client), Message::text("Welcome, Client!"));
    client
}

fn read(client: &mut Client) -> Message {
    client.read().expect("a message within PATIENCE")
}

fn send(client: &mut Client, message: Message) {
    client.send(message).expect("the server reads");
}

/// Reads on to the end; the code is the server's.
fn close_code(client: &mut Client) -> CloseCode {
    let message = read(client);
    let Message::Close(Some(frame)) = message else { panic!("a close frame, not {message:?}") };
    assert!(matches!(client.read(), Err(Error::ConnectionClosed)), "and then the end");
    frame.code
}

/// A handshake by hand, which may be wrong.
fn shake(server: &TestServer, path: &str, headers: &str) -> Answer {
    let mut client = server.connect();
    client.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", server.addr));
    client.head()
}

const UPGRADE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn every_message_is_answered() {
    let server = TestServer::start();
    for path in ["/ws", "/"] {
        let mut client = open(&server, path);
        for said in ["hello", "", "Grüße 你好 \u{1f600}", &"long ".repeat(10_000)] {
            send(&mut client, Message::text(said));
            let answer = format!("Hello, Client! Received your message: {said}");
            assert_eq!(read(&mut client), Message::text(answer));
        }
        send(&mut client, Message::binary(&b"bytes"[..]));
        let answer = "Hello, Client! Received your message: bytes";
        assert_eq!(read(&mut client), Message::text(answer));
    }
}

#[test]
fn a_ping_is_answered() {
    let server = TestServer::start();
    let mut client = open(&server, "/ws");
    send(&mut client, Message::Ping("are you there?".into()));
    assert_eq!(read(&mut client), Message::Pong("are you there?".into()));
}

#[test]
fn a_close_is_answered_with_its_own_code() {
    let server = TestServer::start();
    let mut client = open(&server, "/ws");
    let frame = CloseFrame { code: CloseCode::Normal, reason: "done".into() };
    client.close(Some(frame)).expect("the server reads");
    assert_eq!(close_code(&mut client), CloseCode::Normal);
}

#[test]
fn shutdown_says_going_away() {
    let server = TestServer::start();
    let mut client = open(&server, "/ws");
    server.shutdown();
    assert_eq!(close_code(&mut client), CloseCode::Away);
}

#[test]
fn a_message_that_is_too_long_is_refused_by_code() {
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

/// It would otherwise hold its thread for ever.
#[test]
fn a_client_that_answers_no_ping_is_let_go() {
    let server = TestServer::with(Config {
        limits: Limits { heartbeat: Duration::from_millis(100), ..Limits::default() },
        ..Config::default()
    });
    // tungstenite would answer by itself, so this client only looks at bytes.
    let mut client = server.connect();
    let version = "Sec-WebSocket-Version: 13\r\n";
    client.send(&format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{KEY}{version}\r\n"));
    let head = client.head();
    assert_eq!(head.status, 101, "{head:?}");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut client.reader, &mut bytes).expect("an end within PATIENCE");
    assert!(bytes.windows(2).any(|pair| pair == [0x89, 0]), "a ping came first: {bytes:?}");
}

/// The key and its answer are those of RFC 6455 §1.3.
#[test]
fn the_handshake_is_the_standards() {
    let server = TestServer::start();
    let headers = format!("{UPGRADE}{KEY}Sec-WebSocket-Version: 13\r\n");
    for origin in [String::new(), format!("Origin: http://{}\r\n", server.addr)] {
        let answer = shake(&server, "/ws", &format!("{headers}{origin}"));
        assert_eq!(answer.status, 101, "{answer:?}");
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        assert_eq!(answer.header("connection"), Some("Upgrade"));
        let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        assert_eq!(answer.header("sec-websocket-accept"), Some(accept));
    }
}

#[test]
fn a_page_of_another_origin_opens_no_websocket() {
    let server = TestServer::start();
    for path in ["/ws", "/"] {
        for origin in ["http://elsewhere.example", "null"] {
            let version = "Sec-WebSocket-Version: 13\r\n";
            let headers = format!("{UPGRADE}{KEY}{version}Origin: {origin}\r\n");
            assert_eq!(shake(&server, path, &headers).status, 403, "{path} {origin}");
        }
    }
}

/// A 426 always names what to upgrade to (RFC 9110 §15.5.22).
#[test]
fn who_does_not_ask_for_version_13_is_told_to() {
    let server = TestServer::start();
    let wrong_version = format!("{UPGRADE}{KEY}Sec-WebSocket-Version: 8\r\n");
    for headers in ["", KEY, &wrong_version] {
        let answer = shake(&server, "/ws", headers);
        assert_eq!(answer.status, 426, "{headers}");
        assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{headers}");
        assert_eq!(answer.header("upgrade"), Some("websocket"), "{headers}");
    }
    let headers = format!("{UPGRADE}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n");
    assert_eq!(shake(&server, "/ws", &headers).status, 400);
}
