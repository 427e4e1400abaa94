//! Event streams as request bodies: published while they arrive, and acknowledged one by one.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::num::NonZero;
use std::time::{Duration, Instant};

use crate::client::running::{Running, printed, run};
use crate::common::jwt::{bearer, in_seconds, key, older};
use crate::common::{Stream, TIMEOUT, TestClient, TestServer, pace, wait_until};
use serde_json::{Value, json};
use threadcast::{AccessKeys, Config, Limits, Token};

const SSE: &str = "Content-Type: text/event-stream\r\n";

/// A request whose body is an event stream, with its answer.
struct Ingest {
    client: TestClient,
    /// The part of the answer that has been read but not returned.
    lines: String,
}

impl Ingest {
    /// Sends the head of a chunked request, and reads the head of the answer.
    fn open(server: &TestServer, target: &str, headers: &str) -> Self {
        let mut client = server.connect();
        client.send(&format!(
            "POST {target} HTTP/1.1\r\nHost: localhost\r\n{SSE}Transfer-Encoding: chunked\r\n{headers}\r\n"
        ));
        let head = client.head();
        assert_eq!(head.status, 200, "{head:?}");
        assert_eq!(head.header("content-type"), Some("application/x-ndjson"));
        Self { client, lines: String::new() }
    }

    fn send(&mut self, text: &str) {
        self.client.send(&format!("{:x}\r\n{text}\r\n", text.len()));
    }

    /// Ends the body.
    fn end(&mut self) {
        self.client.send("0\r\n\r\n");
    }

    /// The next line of the answer; `None` at its end.
    fn line(&mut self) -> Option<Value> {
        while !self.lines.contains('\n') {
            let Some(chunk) = self.client.chunk() else {
                self.client.assert_ended();
                return None;
            };
            self.lines += &chunk;
        }
        let (line, rest) = self.lines.split_once('\n').expect("it has a line");
        let line = serde_json::from_str(line).expect("JSON");
        self.lines = rest.to_owned();
        Some(line)
    }

    /// The last line of the answer.
    fn last(&mut self) -> Value {
        std::iter::from_fn(|| self.line()).last().expect("a line")
    }

    /// Reads the error that ends the answer, and returns its status and detail.
    #[track_caller]
    fn error(&mut self) -> (u64, String) {
        let line = self.last();
        let error = &line["error"];
        (error["status"].as_u64().unwrap_or_default(), error["detail"].to_string())
    }
}

/// The data of all kept events of a channel.
fn kept(server: &TestServer, channel: &str) -> Vec<String> {
    let page = server.get(&format!("/channels/{channel}?format=json&limit=1000")).json();
    let events = page["events"].as_array().expect("a list").iter();
    events.map(|event| event["data"].as_str().expect("text").to_owned()).collect()
}

#[test]
fn withdrawn_token_ends_an_event_stream_at_its_next_event() {
    let token = |secret| Some(Token::new(secret).expect("visible ASCII"));
    let server = TestServer::with(Config { publish_token: token("old"), ..Config::default() });
    let mut ingest = Ingest::open(&server, "/channels/a", &bearer("old"));
    ingest.send("data: 1\n\n");
    assert_eq!(ingest.line().expect("a line")["count"], 1);
    server.replace_keys(AccessKeys { publish_token: token("new"), ..AccessKeys::default() });
    ingest.send("data: 2\n\n");
    assert_eq!(ingest.error().0, 401);
    assert_eq!(kept(&server, "a"), ["1"]);
}

#[test]
fn each_event_is_delivered_and_acknowledged_before_the_next() {
    let server = TestServer::start();
    let mut stream = Stream::of(&server, "/channels/a", "");
    let mut ingest = Ingest::open(&server, "/channels/a?end", "");
    for n in 1..=5 {
        ingest.send(&format!("data: {n}\n"));
        ingest.send("\n");
        let event = stream.event();
        assert_eq!(event.data(), n.to_string());
        let line = ingest.line().expect("an acknowledgment");
        assert_eq!(line, json!({ "id": event.id, "subscribers": 1, "count": n }));
    }
    ingest.end();
    let end = stream.event();
    assert_eq!((end.name.as_deref(), end.data()), (Some("end"), ""));
    let line = ingest.line().expect("an acknowledgment");
    assert_eq!(line, json!({ "id": end.id, "subscribers": 1, "count": 6, "end": true }));
    assert_eq!(ingest.line(), None);
    stream.next().expect("a final retry");
    assert_eq!(stream.next(), None);
    assert_eq!(server.post("/channels/a", "", "x").status, 409);
}

#[test]
fn fields_of_each_event_are_published_as_its_own() {
    let server = TestServer::start();
    let body = "\u{feff}retry: 9\n\n: comment\nid: own\nevent: e\nretry: 5\ndata: a\ndata:  b\n\n\
                data: inherits nothing\n\nevent: empty\ndata\n\nevent: none\n\nid\ndata: c\r\n\r\ndata: cut";
    let pieces: Vec<String> = body.chars().map(String::from).collect();
    for (channel, pieces) in [("a", vec![body.to_owned()]), ("b", pieces)] {
        let mut ingest = Ingest::open(&server, &format!("/channels/{channel}"), "");
        pieces.iter().for_each(|piece| ingest.send(piece));
        ingest.end();
        assert_eq!(ingest.last()["count"], 4);
        let page = server.get(&format!("/channels/{channel}?format=json")).json();
        let fields = |event: &Value| {
            ["own_id", "event", "retry", "data"].map(|name| event.get(name).cloned()).to_vec()
        };
        let found: Vec<_> = page["events"].as_array().unwrap().iter().map(fields).collect();
        let of = |own: Option<&str>, name: &str, retry: Option<u64>, data: &str| {
            vec![own.map(Value::from), Some(name.into()), retry.map(Value::from), Some(data.into())]
        };
        assert_eq!(
            found,
            [
                of(Some("own"), "e", Some(5), "a\n b"),
                of(None, "message", None, "inherits nothing"),
                of(None, "empty", None, ""),
                of(None, "message", None, "c"),
            ]
        );
    }
}

#[test]
fn body_that_is_cut_off_publishes_whole_events_only() {
    let server = TestServer::start();
    let mut chunked = Ingest::open(&server, "/channels/a?end", "");
    chunked.send("data: 1\n\ndata: 2\n");
    assert_eq!(chunked.line().expect("an acknowledgment")["count"], 1);
    chunked.client.send("9\r\n\ndata");
    chunked.client.socket().shutdown(Shutdown::Write).unwrap();
    let mut fixed = server.connect();
    let body = "data: 3\n\ndata: 4\n\nda";
    fixed.send(&format!(
        "POST /channels/b?end HTTP/1.1\r\nHost: localhost\r\n{SSE}Content-Length: 100\r\n\r\n{body}"
    ));
    fixed.socket().shutdown(Shutdown::Write).unwrap();
    for (channel, count) in [("a", 2), ("b", 2)] {
        wait_until(TIMEOUT, "the events are published", || kept(&server, channel).len() == count);
    }
    wait_until(TIMEOUT, "the requests have ended", || server.get("/status").json()["clients"] == 0);
    for channel in ["a", "b"] {
        assert_eq!(server.post(&format!("/channels/{channel}"), "", "x").status, 200, "no end");
    }
}

#[test]
fn client_is_asked_for_the_body_that_it_holds_back() {
    let server = TestServer::start();
    let mut client = server.connect();
    client.send(&format!(
        "POST /channels/a HTTP/1.1\r\nHost: localhost\r\n{SSE}Transfer-Encoding: chunked\r\n\
         Expect: 100-continue\r\n\r\n"
    ));
    assert_eq!(client.head().status, 100);
    assert_eq!(client.head().status, 200);
    let mut ingest = Ingest { client, lines: String::new() };
    ingest.send("data: 1\n\n");
    ingest.end();
    assert_eq!(ingest.last()["count"], 1);
}

#[test]
fn client_that_reads_nothing_until_its_end_is_not_blocked() {
    let server = TestServer::start();
    let mut ingest = Ingest::open(&server, "/channels/a", "");
    let events = 40_000;
    let batch: String = (0..100).map(|_| "data: x\n\n").collect();
    ingest.client.socket().set_write_timeout(Some(TIMEOUT)).unwrap();
    (0..events / 100).for_each(|_| ingest.send(&batch));
    ingest.end();
    assert_eq!(ingest.last()["count"], events);
}

#[test]
fn old_client_gets_the_answer_until_the_connection_closes() {
    let server = TestServer::start();
    let body = "data: 1\n\ndata: 2\n\n";
    let mut client = server.connect();
    client.send(&format!(
        "POST /channels/a HTTP/1.0\r\nHost: localhost\r\n{SSE}Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let mut answer = String::new();
    let head = client.head();
    client.reader.read_to_string(&mut answer).unwrap();
    // Without a token, HTTP/1.0 is not local, so only the status tells whether it was published.
    assert_eq!(head.status, 403, "{answer}");
    let token = Config { publish_token: Some("write-me".parse().unwrap()), ..Config::default() };
    let server = TestServer::with(token);
    let mut client = server.connect();
    client.send(&format!(
        "POST /channels/a HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer write-me\r\n{SSE}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert_eq!(client.head().header("connection"), Some("close"));
    let mut answer = String::new();
    client.reader.read_to_string(&mut answer).unwrap();
    assert!(answer.lines().count() == 2 && answer.ends_with("\"count\":2}\n"), "{answer}");
}

#[test]
fn comments_keep_a_silent_stream_open() {
    let limits = Limits { ingest_silence: Duration::from_secs(3), ..Limits::default() };
    let server = TestServer::with(Config { limits, ..Config::default() });
    let mut ingest = Ingest::open(&server, "/channels/a", "");
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(4) {
        ingest.send(":\n");
        pace(Duration::from_millis(200));
    }
    ingest.send("data: 1\n\n");
    assert_eq!(ingest.line().expect("an acknowledgment")["count"], 1);
    let (status, detail) = ingest.error();
    assert!(status == 408 && detail.contains("--ingest-silence"), "{status} {detail}");
    assert_eq!(kept(&server, "a"), ["1"]);
}

#[test]
fn event_stream_takes_the_place_of_a_client() {
    let server = TestServer::with(Config { max_clients: Some(1), ..Config::default() });
    let mut ingest = Ingest::open(&server, "/channels/a", "");
    ingest.send("data: 1\n\n");
    ingest.line().expect("an acknowledgment");
    assert_eq!(server.get("/status").json()["clients"], 1);
    assert_eq!(server.head("GET /channels/a HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 503);
    let second = server.post("/channels/a", SSE, "data: 2\n\n");
    assert!(second.status == 503 && second.header("retry-after").is_some(), "{second:?}");
    ingest.end();
    assert_eq!(ingest.line(), None);
    wait_until(TIMEOUT, "the place is free", || {
        server.head("GET /channels/a HTTP/1.1\r\nHost: localhost\r\n\r\n").status == 200
    });
}

#[test]
fn drain_ends_event_streams_with_an_error() {
    let server = TestServer::start();
    let mut ingest = Ingest::open(&server, "/channels/a?end", "");
    ingest.send("data: 1\n\ndata: half");
    assert_eq!(ingest.line().expect("an acknowledgment")["count"], 1);
    server.shutdown();
    let (status, detail) = ingest.error();
    assert!(status == 503 && detail.contains("shutting down"), "{status} {detail}");
}

#[test]
fn wrong_event_ends_the_stream_after_the_events_before_it() {
    let limits = Limits { event: 100, ..Limits::default() };
    let server = TestServer::with(Config { limits, ..Config::default() });
    let long = "x".repeat(101);
    let longer = "x".repeat(10_000);
    let lines = "data: y\n".repeat(1_000);
    for (place, (wrong, expected, words)) in [
        (format!("data: {long}\n\n"), 413, "event 2: the data is longer than 100 bytes"),
        (format!("data: {longer}\n\n"), 413, "event 2: it is longer"),
        (format!("{lines}\n"), 413, "event 2: "),
        ("id: 7-7\ndata: x\n\n".into(), 400, "event 2: ids of the form"),
        ("id: a\u{7f}b\ndata: x\n\n".into(), 400, "event 2: the field `id`"),
    ]
    .into_iter()
    .enumerate()
    {
        let channel = format!("c{place}");
        let mut ingest = Ingest::open(&server, &format!("/channels/{channel}?end"), "");
        ingest.send(&format!("data: 1\n\n{wrong}data: 3\n\n"));
        assert_eq!(ingest.line().expect("an acknowledgment")["count"], 1);
        let (status, detail) = ingest.error();
        assert!(status == expected && detail.contains(words), "{status} {detail}");
        assert_eq!(kept(&server, &channel), ["1"]);
        assert_eq!(server.post(&format!("/channels/{channel}"), "", "x").status, 200, "no end");
    }
    let mut malformed = Ingest::open(&server, "/channels/m", "");
    malformed.send("data: 1\n\n");
    malformed.client.send("xyz\r\n");
    assert_eq!(malformed.error().0, 400);
    let fits = "x".repeat(100);
    let mut ingest = Ingest::open(&server, "/channels/fits", "");
    ingest.send(&format!("data: {fits}\n\n"));
    ingest.end();
    assert_eq!(ingest.last()["count"], 1);
}

#[test]
fn repeated_event_stream_gets_the_first_ids() {
    let server = TestServer::start();
    let send = |target: &str| {
        let mut ingest = Ingest::open(&server, target, "");
        ingest.send("id: a\ndata: 1\n\nid: b\ndata: 2\n\n");
        ingest.end();
        std::iter::from_fn(move || ingest.line()).collect::<Vec<_>>()
    };
    let first = send("/channels/a");
    let second = send("/channels/a?end");
    assert_eq!(first, second[..2]);
    assert_eq!(second[2]["end"], true);
    let third = send("/channels/a?end");
    assert_eq!(third[..2], second[..2]);
    assert_eq!(third[2], json!({ "count": 2, "end": true }), "the channel has ended already");
    let mut other = Ingest::open(&server, "/channels/a", "");
    other.send("data: new\n\n");
    assert_eq!(other.error().0, 409);
}

#[test]
fn publish_rate_slows_an_event_stream_down() {
    let rate = NonZero::new(20);
    let server = TestServer::with(Config { publish_rate: rate, ..Config::default() });
    let mut ingest = Ingest::open(&server, "/channels/a", "");
    let begin = Instant::now();
    ingest.send(&"data: x\n\n".repeat(50));
    ingest.end();
    assert_eq!(ingest.last()["count"], 50);
    assert!(begin.elapsed() > Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[test]
fn event_stream_above_the_rate_ends_with_its_client_and_the_drain() {
    let rate = NonZero::new(1);
    let server = TestServer::with(Config { publish_rate: rate, ..Config::default() });
    let open = || {
        let mut ingest = Ingest::open(&server, "/channels/a", "");
        ingest.send(&"data: x\n\n".repeat(400));
        ingest.line().expect("an acknowledgment");
        ingest
    };
    drop(open());
    wait_until(TIMEOUT, "the request has ended", || server.get("/status").json()["clients"] == 0);
    let mut ingest = open();
    server.shutdown();
    let (status, detail) = ingest.error();
    assert!(status == 503 && detail.contains("shutting down"), "{status} {detail}");
}

#[test]
fn event_stream_needs_the_right_to_publish() {
    let tokens = Config { publish_token: Some("write-me".parse().unwrap()), ..Config::default() };
    let server = TestServer::with(tokens);
    assert_eq!(server.post("/channels/a", SSE, "data: 1\n\n").status, 401);
    let mut ingest = Ingest::open(&server, "/channels/a", "Authorization: Bearer write-me\r\n");
    ingest.send("data: 1\n\n");
    ingest.end();
    assert_eq!(ingest.last()["count"], 1);
    let server = TestServer::start();
    let foreign = format!("{SSE}Origin: https://example.com\r\n");
    assert_eq!(server.post("/channels/a", &foreign, "data: 1\n\n").status, 403);
    for (target, headers, status) in [
        ("/channels/a*", String::new(), 400),
        ("/channels/a?end=1", String::new(), 400),
        ("/channels/a", "Idempotency-Key: k\r\n".into(), 400),
        ("/channels/a", "Content-Encoding: gzip\r\n".into(), 415),
    ] {
        let answer = server.post(target, &format!("{SSE}{headers}"), "data: 1\n\n");
        assert_eq!(answer.status, status, "{target} {headers}");
        answer.check_problem();
    }
    let none =
        server.request(&format!("POST /channels/a HTTP/1.1\r\nHost: localhost\r\n{SSE}\r\n"));
    assert_eq!(none.status, 411);
}

#[test]
fn event_stream_ends_when_its_token_expires() {
    let server = TestServer::with(Config { publish_key: Some(key()), ..Config::default() });
    let claims = json!({ "mercure": { "publish": ["a"] }, "exp": in_seconds(3) });
    let mut ingest = Ingest::open(&server, "/channels/a", &bearer(&older(&claims)));
    ingest.send("data: 1\n\n");
    assert_eq!(ingest.line().expect("an acknowledgment")["count"], 1);
    let (status, detail) = ingest.error();
    assert!(status == 401 && detail.contains("expired"), "{status} {detail}");
}

#[test]
fn publish_sse_sends_the_events_of_standard_input() {
    let server = TestServer::start();
    let url = format!("http://{}", server.addr);
    let mut publish = Running::start(&["publish", "a", "--sse", "--end-at-eof"], &url);
    let mut stream = Stream::of(&server, "/channels/a?since=all", "");
    let mut input = publish.input.take().expect("stdin is piped");
    for data in ["1", "2"] {
        input.write_all(format!("event: token\ndata: {data}\n\n").as_bytes()).unwrap();
        let event = stream.event();
        assert_eq!((event.name.as_deref(), event.data()), (Some("token"), data), "at once");
    }
    input.write_all(b"data: cut off").unwrap();
    drop(input);
    assert_eq!(publish.wait(), printed(""));
    assert_eq!(stream.event().name.as_deref(), Some("end"));
    let relayed = run(&["publish", "b", "--sse"], &url, "id: 7-1\ndata: x\n\ndata: y\n\n");
    assert!(relayed.code == Some(1) && relayed.err.contains("reserved"), "{relayed:?}");
    assert_eq!(kept(&server, "b"), ["y"]);
    assert_eq!(run(&["publish", "b", "x", "--sse"], &url, "").code, Some(2));
}
