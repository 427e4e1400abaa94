//! The server detects a disconnect at once, even if it writes nothing to the client.
//!
//! This holds in both delivery modes, although a different thread owns the client's writer in each.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::common::{Stream, TestServer};
use socket2::SockRef;
use threadcast::{Config, Delivery, Event, Limits};

/// How soon the server must detect a disconnect.
const SOON: Duration = Duration::from_millis(100);

type Leave = (&'static str, fn(&TcpStream));

const LEAVE: [Leave; 3] = [
    ("by FIN", |client| client.shutdown(Shutdown::Both).expect("connected")),
    ("by a half-close", |client| client.shutdown(Shutdown::Write).expect("connected")),
    ("by RST", |client| {
        SockRef::from(client).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
    }),
];

fn server(delivery: Delivery) -> TestServer {
    // No heartbeat is due during the test, so no heartbeat write reveals a disconnect.
    let limits = Limits { heartbeat: Duration::from_secs(3_600), ..Limits::default() };
    TestServer::with(Config { delivery, limits, ..Config::default() })
}

#[test]
fn idle_client_disconnect_is_detected_within_100_ms() {
    for delivery in [Delivery::Direct, Delivery::Wake] {
        let server = server(delivery);
        let mut staying = Stream::of(&server, "/channels/a", "");
        for (how, leave) in LEAVE {
            let mut took: Vec<Duration> = (0..9)
                .map(|_| {
                    let mut leaving = Stream::of(&server, "/channels/a?presence=x", "");
                    for stream in [&mut staying, &mut leaving] {
                        assert_eq!(stream.event().name.as_deref(), Some("userconnect"));
                    }
                    let left = Instant::now();
                    leave(leaving.client.socket());
                    drop(leaving);
                    assert_eq!(staying.event().name.as_deref(), Some("userdisconnect"));
                    left.elapsed()
                })
                .collect();
            took.sort_unstable();
            // The median, because another program may delay single measurements.
            assert!(took[4] < SOON, "{delivery:?}, {how}: {took:?}");
        }
        assert_eq!(server.registry.subscribers("a"), 1);
    }
}

#[test]
fn client_that_sends_bytes_is_not_disconnected() {
    for delivery in [Delivery::Direct, Delivery::Wake] {
        let server = server(delivery);
        let mut talking = Stream::of(&server, "/channels/a", "");
        let mut silent = Stream::of(&server, "/channels/a", "");
        talking.client.socket().write_all(&[b'x'; 10_000]).expect("connected");
        drop(Stream::of(&server, "/channels/a", "")); // another client disconnects
        server.registry.publish("a", &Event::new("still here")).expect("a name");
        for stream in [&mut talking, &mut silent] {
            assert_eq!(stream.event().data(), "still here");
        }
    }
}

#[test]
fn disconnect_with_a_full_socket_is_detected_at_once() {
    // The client `stuck` does not read, so its own thread waits until the full socket has room. The
    // write deadline of one hour does not end this wait during the test.
    let limits = Limits { write_deadline: Duration::from_secs(3_600), ..Limits::default() };
    for delivery in [Delivery::Direct, Delivery::Wake] {
        let server = TestServer::with(Config { delivery, limits, ..Config::default() });
        let mut staying = Stream::of(&server, "/channels/a", "");
        let stuck = Stream::of(&server, "/channels/b?presence=x", "");
        while server.registry.publish("b", &Event::new("x".repeat(60_000))).expect("a name").id.n
            < 300
        {}
        let mut watching = Stream::of(&server, "/channels/b", "");
        stuck.client.socket().shutdown(Shutdown::Write).expect("connected");
        assert_eq!(watching.event().name.as_deref(), Some("userdisconnect"));
        server.registry.publish("a", &Event::new("still here")).expect("a name");
        assert_eq!(staying.event().data(), "still here");
        drop(stuck);
    }
}
