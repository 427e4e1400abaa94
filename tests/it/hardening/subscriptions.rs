//! A request takes effect completely or not at all.

use std::time::Duration;

use serde_json::Value;

use crate::common::jwt::{self, allowing, bearer};
use crate::common::{Stream, TIMEOUT, TestServer, wait_until};
use threadcast::{Config, Histories, History, Mercure};

const HUB: &str = "/.well-known/mercure";

fn with_room_for(max_channels: usize) -> TestServer {
    TestServer::with(Config { max_channels, ..Config::default() })
}

/// The path of a stream of several channels.
fn of(names: &[String]) -> String {
    let query: Vec<String> = names.iter().map(|name| format!("channel={name}")).collect();
    format!("/channels?{}", query.join("&"))
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n}")).collect()
}

fn subscribers(server: &TestServer, name: &str) -> u64 {
    let answer = server.get(&format!("/channels/{name}/subscribers")).json();
    answer["subscribers"].as_u64().expect("a number")
}

/// The names of the channels that the server lists.
fn listed(server: &TestServer) -> Vec<String> {
    let answer = server.get("/channels").json();
    let channels = answer["channels"].as_array().expect("a list").iter();
    channels.map(|channel| channel["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn stream_gets_all_of_its_channels_or_none() {
    let server = with_room_for(10);
    let (first, second) = (names("a", 6), names("b", 6));
    let mut stream = Stream::of(&server, &of(&first), "");
    let rejected = server.head(&format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", of(&second)));
    assert_eq!(rejected.status, 507, "{rejected:?}");
    assert_eq!(listed(&server), first);
    for name in &second {
        assert_eq!(subscribers(&server, name), 0, "{name}");
    }
    for name in &first {
        assert_eq!(subscribers(&server, name), 1, "{name}");
        assert_eq!(server.post(&format!("/channels/{name}"), "", name).status, 200);
        stream.expect_data(&[name]);
    }
    drop(stream);
    for name in first.iter().chain(&second) {
        wait_until(TIMEOUT, "the streams have ended", || subscribers(&server, name) == 0);
    }
}

#[test]
fn channels_of_closed_streams_free_room_at_once() {
    let server = with_room_for(10);
    for round in 0..3 {
        let unused = names(&format!("x{round}-"), 10);
        let streams: Vec<Stream> = unused
            .iter()
            .map(|name| Stream::of(&server, &format!("/channels/{name}"), ""))
            .collect();
        let one_more = "GET /channels/one-more HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert_eq!(server.head(one_more).status, 507);
        drop(streams);
        for name in &unused {
            wait_until(TIMEOUT, "the streams have ended", || subscribers(&server, name) == 0);
        }
    }
    let all = names("b", 10);
    let _stream = Stream::of(&server, &of(&all), "");
    assert_eq!(listed(&server), all);
}

#[test]
fn head_request_creates_no_channel_or_subscriber() {
    let server = with_room_for(1);
    let mut watch = Stream::of(&server, "/channels/a", "");
    for target in ["/channels/b", "/channels/b?presence=ada", "/channels?channel=b&channel=c"] {
        let answer = server.head(&format!("HEAD {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        assert_eq!(
            answer.header("content-type"),
            Some("text/event-stream; charset=utf-8"),
            "{target}"
        );
    }
    let bad = "HEAD /channels/b?presence=%00 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(server.head(bad).status, 400);
    assert_eq!(listed(&server), ["a"]);
    server.post("/channels/a", "", "x");
    watch.expect_data(&["x"]);
}

#[test]
fn rejected_presence_name_creates_no_channel() {
    let server = TestServer::start();
    let rejected = server.get("/channels/a?presence=%07");
    assert_eq!(rejected.status, 400, "{rejected:?}");
    assert!(listed(&server).is_empty());
}

#[test]
fn rejected_batch_publishes_nothing() {
    let server = TestServer::start();
    let many = "Content-Type: application/x-ndjson\r\n";
    let large = "x".repeat(70_000);
    for (bad, status) in [
        (format!("{{\"data\":\"{large}\"}}"), 413),
        ("{\"data\":\"x\",\"id\":\"a\\nb\"}".to_owned(), 400),
        ("{\"data\":".to_owned(), 400),
    ] {
        let body = format!("{{\"data\":\"first\"}}\n{bad}\n{{\"data\":\"last\"}}\n");
        let rejected = server.post("/channels/a", many, &body);
        assert_eq!(rejected.status, status, "{rejected:?}");
    }
    assert!(listed(&server).is_empty());
}

#[test]
fn update_reaches_all_of_its_topics_or_none() {
    let server =
        TestServer::with(Config { max_channels: 5, mercure: Mercure::On, ..Config::default() });
    let _stream = Stream::of(&server, "/channels/a0", "");
    let topics: Vec<String> = names("a", 6).iter().map(|name| format!("topic={name}")).collect();
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let rejected = server.post(HUB, form, &format!("{}&data=x", topics.join("&")));
    assert_eq!(rejected.status, 507, "{rejected:?}");
    assert_eq!(listed(&server), ["a0"]);
}

#[test]
fn rejected_mercure_stream_announces_no_subscription() {
    let server = TestServer::with(Config {
        max_channels: 6,
        mercure: Mercure::WithSubscriptions,
        subscribe_key: Some(jwt::key()),
        anonymous: true,
        ..Config::default()
    });
    let reader = bearer(&allowing(&[], &["*"]));
    let before = server.registry.last_id();
    // The stream needs six channels: three to read, and three for its subscription events. Five are
    // free.
    let _stream = Stream::of(&server, "/channels/taken", "");
    let target = format!("{HUB}?match=a&match=b&match=c");
    let rejected = server.head(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assert_eq!(rejected.status, 507, "{rejected:?}");
    let long = format!("{HUB}?match=a&match={}", "x".repeat(1_000));
    let rejected = server.head(&format!("GET {long} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    assert_eq!(rejected.status, 400, "{rejected:?}");
    assert_eq!(server.registry.last_id(), before, "a subscription event was published");
    let list = server
        .request(&format!("GET {HUB}/subscriptions HTTP/1.1\r\nHost: localhost\r\n{reader}\r\n"));
    assert_eq!(list.json()["subscriptions"], Value::Array(Vec::new()));
}

#[test]
fn expired_channels_make_room_for_new_ones() {
    let history = Histories::all(History { age: Duration::from_millis(1), ..History::default() });
    let server = TestServer::with(Config { max_channels: 3, history, ..Config::default() });
    for name in names("a", 3) {
        assert_eq!(server.post(&format!("/channels/{name}"), "", "x").status, 200);
    }
    wait_until(TIMEOUT, "the events have expired", || {
        server.post("/channels/b", "", "x").status == 200
    });
}
