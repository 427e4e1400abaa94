//! What `--lab` lets a page do, and that without it there is nothing to do.

mod common;

use std::time::{Duration, Instant};

use common::TestServer;
use threadcast::{Config, Server, StartError};

const ACTS: [&str; 7] = [
    "/lab/drop?tab=a",
    "/lab/drop?for=1s",
    "/lab/drop",
    "/lab/flood?channel=a",
    "/lab/delivery?to=wake",
    "/lab/clients?count=1",
    "/lab/stuck",
];

fn lab() -> TestServer {
    TestServer::with(Config { lab: true, ..Config::default() })
}

fn dropped(server: &TestServer, query: &str) -> serde_json::Value {
    let answer = server.post(&format!("/lab/drop{query}"), "", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["dropped"].clone()
}

#[test]
fn lab_routes_are_404_without_the_lab() {
    let server = TestServer::start();
    let mut stream = server.stream("/channels/a?tab=a");
    for act in ACTS {
        let answer = server.post(act, "", "");
        assert_eq!(answer.status, 404, "{act}");
        assert_eq!(server.get(act).status, 404, "{act}");
    }
    stream.first_frame();
    server.registry.publish("a", &threadcast::Event::new("still here")).expect("a name");
    assert!(stream.chunk().is_some_and(|chunk| chunk.contains("still here")));
}

#[test]
fn lab_requires_loopback_addresses() {
    let listen = vec!["127.0.0.1:0".parse().expect("one"), "0.0.0.0:0".parse().expect("one")];
    let refused = Server::bind(Config { listen, lab: true, ..Config::default() });
    let error = refused.expect_err("anybody could cut everybody off");
    assert!(matches!(error, StartError::Lab { addr } if addr.ip().is_unspecified()), "{error}");
}

#[test]
fn lab_actions_need_the_right_to_publish() {
    let server = lab();
    for mark in ["Origin: http://a.example\r\n", "X-Forwarded-For: 10.0.0.1\r\n"] {
        for act in ACTS {
            assert_eq!(server.post(act, mark, "").status, 403, "{mark} {act}");
        }
    }
    for act in [
        "/lab/drop?for=1h",
        "/lab/drop?for=x",
        "/lab/drop?for=1s&tab=a",
        "/lab/flood",
        "/lab/flood?channel=a&bytes=1GiB",
        "/lab/flood?channel=a&events=10000000",
        "/lab/flood?channel=a&events=x",
        "/lab/delivery",
        "/lab/delivery?to=both",
        "/lab/clients",
        "/lab/clients?count=x",
        "/lab/clients?count=1&rate=x",
        "/lab/clients?count=1&rate=101",
    ] {
        let answer = server.post(act, "", "");
        assert_eq!(answer.status, 400, "{act}");
        answer.check_problem();
    }
    // This server is no program of its own, so that there is none to be the clients.
    for act in ["/lab/clients?count=1", "/lab/stuck"] {
        let answer = server.post(act, "", "");
        assert_eq!(answer.status, 503, "{act}");
        answer.check_problem();
    }
    assert_eq!(server.post("/lab/else", "", "").status, 404);
    assert_eq!(server.get("/lab/drop").status, 405);
}

/// A stream of one event a second, a story, and a WebSocket are all cut: in the
/// middle, as by a bad network, and nobody else's are.
#[test]
fn drop_cuts_only_the_streams_of_one_tab() {
    let server = lab();
    let mut cut = [
        server.stream("/stream?tab=a"),
        server.stream("/count?tab=a"),
        server.stream("/channels/x?tab=a"),
    ];
    let mut socket = server.connect();
    socket.send("GET /ws?tab=a HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: \
        Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    assert_eq!(socket.head().status, 101);
    let mut spared = server.stream("/channels/x?tab=b");
    for stream in &mut cut {
        assert!(stream.chunk().is_some_and(|chunk| chunk.starts_with("retry: ")));
    }
    spared.first_frame();
    assert_eq!(dropped(&server, "?tab=a"), 4);
    for stream in cut.iter_mut().chain([&mut socket]) {
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream.reader, &mut rest); // a reset is an end too
        assert!(!rest.ends_with(b"0\r\n\r\n"), "the last chunk would say that it was over");
    }
    server.registry.publish("x", &threadcast::Event::new("for b")).expect("a name");
    assert!(spared.chunk().is_some_and(|chunk| chunk.contains("for b")));
    assert_eq!(dropped(&server, "?tab=nobody"), 0);
}

#[test]
fn drop_for_a_time_rejects_streams_but_not_pages() {
    let server = lab();
    let mut streams = [server.stream("/channels/x?tab=a"), server.stream("/channels/x")];
    let began = Instant::now();
    assert_eq!(dropped(&server, "?for=300ms"), 2);
    for stream in &mut streams {
        let _ = stream.chunk(); // its prelude, which was on its way
        assert!(stream.is_closed());
    }
    let mut refused = server.connect();
    refused.send("GET /channels/x HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let kept_out = refused.is_closed();
    assert!(kept_out || began.elapsed() > Duration::from_millis(300));
    assert_eq!(server.get("/healthz").status, 200);
    loop {
        let mut again = server.connect();
        again.send("GET /channels/x HTTP/1.1\r\nHost: localhost\r\n\r\n");
        if !again.is_closed() {
            assert_eq!(again.head().status, 200);
            break;
        }
    }
    assert!(began.elapsed() >= Duration::from_millis(300));
}

/// The reader takes nothing while more is published than its channel keeps.
#[test]
fn slow_reader_of_a_flood_gets_gap_events() {
    let server = lab();
    let mut slow = server.stream("/channels/x");
    slow.first_frame();
    let answer = server.post("/lab/flood?channel=x&events=2000&bytes=16KiB", "", "");
    assert_eq!((answer.status, answer.json()["published"].as_u64()), (200, Some(2_000)));
    let (mut seen, mut missed) = (0, 0);
    while seen + missed < 2_000 {
        let chunk = slow.chunk().expect("the stream goes on");
        for event in chunk.split("\n\n").filter(|event| !event.is_empty()) {
            match event.split_once("event: gap\ndata: ") {
                Some((_, data)) => {
                    let gap: serde_json::Value = serde_json::from_str(data).expect("JSON");
                    missed += gap["missed"].as_u64().expect("it is known how many");
                }
                None => seen += 1,
            }
        }
    }
    assert!(missed > 0, "it kept up with 32 MB");
    assert_eq!(seen + missed, 2_000, "every event was seen, or counted as missed");
}
