//! Tokens, keys and pages that are replaced while the server runs.

use std::io::Read;
use std::time::Duration;

use threadcast::jwt::VerifyingKey;
use threadcast::{AccessKeys, Config, Delivery, Event, Limits, Token};

use crate::common::jwt::{self, allowing, bearer};
use crate::common::{TestClient, TestServer};

fn token(secret: &str) -> Token {
    Token::new(secret).expect("visible ASCII")
}

/// The keys of a server that reads need this token for.
fn reading_with(secret: &str) -> AccessKeys {
    AccessKeys { subscribe_token: Some(token(secret)), ..AccessKeys::default() }
}

/// Opens a stream with these headers, or returns the status of the error response.
fn open(server: &TestServer, headers: &str) -> Result<TestClient, u16> {
    let mut client = server.connect();
    client.send(&format!("GET /channels/a HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
    match client.head().status {
        200 => {
            client.first_frame();
            Ok(client)
        }
        status => Err(status),
    }
}

#[test]
fn streams_of_a_withdrawn_token_end_and_others_go_on() {
    for delivery in [Delivery::Direct, Delivery::Wake] {
        let AccessKeys { subscribe_token, .. } = reading_with("old");
        let config = Config { delivery, subscribe_token, anonymous: true, ..Config::default() };
        let server = TestServer::with(config);
        let (old, new) = (bearer("old"), bearer("new"));
        let cookie = "Cookie: threadcast_token=old\r\n";
        let withdrawn =
            [&old, &old, cookie].map(|headers| open(&server, headers).expect("a stream"));
        let mut anonymous = open(&server, "").expect("a stream");
        server.replace_keys(reading_with("new"));
        for mut client in withdrawn {
            client.assert_drained();
            client.assert_ended();
        }
        assert_eq!(open(&server, &old).err(), Some(401), "{delivery:?}");
        let mut fresh = open(&server, &new).expect("a stream");
        server.replace_keys(reading_with("new")); // nothing has changed
        server.registry.publish("a", &Event::new("still here")).expect("a name");
        for client in [&mut anonymous, &mut fresh] {
            let event = client.chunk().expect("the stream goes on");
            assert!(event.contains("data: still here\n"), "{delivery:?}: {event}");
        }
    }
}

#[test]
fn streams_of_a_withdrawn_jwt_key_end() {
    let other = VerifyingKey::new(b"another secret that only this test knows").expect("a key");
    for delivery in [Delivery::Direct, Delivery::Wake] {
        let subscribe_key = Some(jwt::key());
        let server = TestServer::with(Config { delivery, subscribe_key, ..Config::default() });
        let headers = bearer(&allowing(&[], &["*"]));
        let mut client = open(&server, &headers).expect("a stream");
        let keys = |key: &VerifyingKey| AccessKeys {
            subscribe_key: Some(key.clone()),
            ..AccessKeys::default()
        };
        server.replace_keys(keys(&jwt::key()));
        server.registry.publish("a", &Event::new("x")).expect("a name");
        assert!(client.chunk().expect("the same key").contains("data: x\n"), "{delivery:?}");
        server.replace_keys(keys(&other));
        client.assert_drained();
        assert_eq!(open(&server, &headers).err(), Some(401), "{delivery:?}");
    }
}

#[test]
fn websocket_ends_when_its_token_is_withdrawn() {
    let limits = Limits { heartbeat: Duration::from_millis(100), ..Limits::default() };
    let AccessKeys { subscribe_token, .. } = reading_with("t");
    let publish_token = subscribe_token.clone();
    let config = Config { limits, subscribe_token, publish_token, ..Config::default() };
    let server = TestServer::with(config);
    let mut client = server.connect();
    client.send(&format!(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{}\r\n",
        bearer("t")
    ));
    assert_eq!(client.head().status, 101);
    server.replace_keys(AccessKeys { publish_token: Some(token("t")), ..reading_with("other") });
    let mut bytes = Vec::new();
    client.reader.read_to_end(&mut bytes).expect("an end within TIMEOUT");
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.ends_with("the token is no longer valid"), "{text:?}");
}
