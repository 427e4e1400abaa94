//! The lab's HTTP actions, which pages call. They exist only with `--lab`.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::TestServer;
use threadcast::Config;

const ACTIONS: [&str; 10] = [
    "/lab/drop?tab=a",
    "/lab/drop?for=1s",
    "/lab/drop",
    "/lab/flood?channel=a",
    "/lab/delivery?to=wake",
    "/lab/clients?count=1",
    "/lab/reopen",
    "/lab/stuck",
    "/lab/loop/slow/disk",
    "/lab/loop/slow/cpu",
];

fn lab() -> TestServer {
    TestServer::with_lab(Config::default(), None)
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
    for action in ACTIONS {
        let answer = server.post(action, "", "");
        assert_eq!(answer.status, 404, "{action}");
        assert_eq!(server.get(action).status, 404, "{action}");
    }
    stream.first_frame();
    server.registry.publish("a", &threadcast::Event::new("still here")).expect("a name");
    assert!(stream.chunk().is_some_and(|chunk| chunk.contains("still here")));
}

#[test]
fn lab_requires_loopback_addresses() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_threadcast"));
    let addresses = ["--listen", "127.0.0.1:0", "--listen", "0.0.0.0:0"];
    let output = program.arg("--lab").args(addresses).output().expect("the binary runs");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot listen on 0.0.0.0:0 with --lab: any client"), "{stderr}");
    // An inherited listener is checked too.
    let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let inherit = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" --lab";
    let program = ["-c", inherit, env!("CARGO_BIN_EXE_threadcast")];
    let output = Command::new("sh").args(program).stdin(OwnedFd::from(listener)).output();
    let output = output.expect("sh is installed");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("with --lab: any client of the lab can cut"), "{stderr}");
}

#[test]
fn lab_actions_need_the_right_to_publish() {
    let server = lab();
    for header in ["Origin: http://a.example\r\n", "X-Forwarded-For: 10.0.0.1\r\n"] {
        for action in ACTIONS {
            assert_eq!(server.post(action, header, "").status, 403, "{header} {action}");
        }
    }
    for action in [
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
        "/lab/clients?count=1&beside=apache",
    ] {
        let answer = server.post(action, "", "");
        assert_eq!(answer.status, 400, "{action}");
        answer.check_problem();
    }
    // The server runs inside the test program, so it has no binary to start as load clients.
    for action in ["/lab/clients?count=1", "/lab/stuck"] {
        let answer = server.post(action, "", "");
        assert_eq!(answer.status, 503, "{action}");
        answer.check_problem();
    }
    assert_eq!(server.post("/lab/else", "", "").status, 404);
    assert_eq!(server.get("/lab/drop").status, 405);
}

/// The server cuts the ticker's stream, a demo stream, a channel stream and a WebSocket of one tab
/// without a last chunk, as a network failure does.
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
    let mut other = server.stream("/channels/x?tab=b");
    for stream in &mut cut {
        assert!(stream.chunk().is_some_and(|chunk| chunk.starts_with("retry: ")));
    }
    other.first_frame();
    assert_eq!(dropped(&server, "?tab=a"), 4);
    for stream in cut.iter_mut().chain([&mut socket]) {
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream.reader, &mut rest); // ends by FIN or RST
        assert!(!rest.ends_with(b"0\r\n\r\n"), "no last chunk");
    }
    server.registry.publish("x", &threadcast::Event::new("for b")).expect("a name");
    assert!(other.chunk().is_some_and(|chunk| chunk.contains("for b")));
    assert_eq!(dropped(&server, "?tab=unknown"), 0);
}

#[test]
fn drop_for_a_time_rejects_streams_but_not_pages() {
    let server = lab();
    let mut streams = [server.stream("/channels/x?tab=a"), server.stream("/channels/x")];
    let began = Instant::now();
    assert_eq!(dropped(&server, "?for=300ms"), 2);
    for stream in &mut streams {
        let _ = stream.chunk(); // the preamble, sent before the cut
        assert!(stream.is_closed());
    }
    let mut rejected = server.connect();
    rejected.send("GET /channels/x HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let is_closed = rejected.is_closed();
    assert!(is_closed || began.elapsed() > Duration::from_millis(300));
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

/// The client reads nothing during the flood, which exceeds the history of its channel.
#[test]
fn slow_reader_of_a_flood_gets_gap_events() {
    let server = lab();
    let mut slow = server.stream("/channels/x");
    slow.first_frame();
    let answer = server.post("/lab/flood?channel=x&events=2000&bytes=16KiB", "", "");
    assert_eq!((answer.status, answer.json()["published"].as_u64()), (200, Some(2_000)));
    let (mut seen, mut missed) = (0, 0);
    while seen + missed < 2_000 {
        let chunk = slow.chunk().expect("the stream is still open");
        for event in chunk.split("\n\n").filter(|event| !event.is_empty()) {
            match event.split_once("event: gap\ndata: ") {
                Some((_, data)) => {
                    let gap: serde_json::Value = serde_json::from_str(data).expect("JSON");
                    missed += gap["missed"].as_u64().expect("a count");
                }
                None => seen += 1,
            }
        }
    }
    assert!(missed > 0, "32 MB exceed its socket and history");
    assert_eq!(seen + missed, 2_000, "every event is received or reported lost");
}
