//! The bytes of each demo stream, over HTTP/1.1 and HTTP/1.0.

use crate::common::{Stream, TestServer};
use chrono::{DateTime, NaiveDateTime, NaiveTime, TimeDelta, Timelike, Utc};
use serde_json::{Value, json};

/// Reads all three streams at the same time, because each takes seconds.
#[test]
fn clock_streams_tick_at_their_own_intervals() {
    let server = TestServer::start();
    let times = Stream::both(&server, "/stream", "");
    let clocks = Stream::both(&server, "/sse", "");
    let messages = Stream::both(&server, "/events", "");
    times.into_iter().for_each(check_time);
    clocks.into_iter().for_each(check_clock);
    messages.into_iter().for_each(check_messages);
}

/// Checks `/stream`: events without ids, in the order and format of its tutorial.
fn check_time(mut stream: Stream) {
    let javascript = |date: &str| {
        let form = "%a %b %d %Y %H:%M:%S GMT+0000 (Coordinated Universal Time)";
        NaiveDateTime::parse_from_str(date, form).expect("a date as JavaScript writes it")
    };
    stream.expect("retry: 10000");
    let connected = stream.next().expect("the stream continues");
    let connected = connected.strip_prefix("event: connecttime\ndata: ").expect("connecttime");
    let (connected, first) = (javascript(connected), javascript(&stream.data()));
    let age = Utc::now().naive_utc() - connected;
    assert!((0..10).contains(&age.num_seconds()), "the time is {age} old");
    assert_eq!(first, connected);
    let mut last = javascript(&stream.data());
    assert!(last - connected <= TimeDelta::seconds(1), "{connected}, then {last}");
    for _ in 0..2 {
        let next = javascript(&stream.data());
        assert_eq!(next - last, TimeDelta::seconds(1));
        last = next;
    }
}

/// Checks `/sse`: an event on every even second, and a named event on every tenth second.
fn check_clock(mut stream: Stream) {
    let tick = |stream: &mut Stream| {
        let written = stream.data();
        let time = NaiveTime::parse_from_str(&written, "%I:%M:%S %p").expect("a time of day");
        assert!(!written.starts_with('0'), "{written}: the hour has a leading zero");
        if time.second().is_multiple_of(10) {
            stream.expect("event: custom-event\ndata: This is a custom event");
        }
        time
    };
    stream.expect("retry: 3000");
    stream.expect("data: Hello, this is a server-sent event!");
    let first = tick(&mut stream);
    assert!(first.second().is_multiple_of(2), "{first}");
    let apart = tick(&mut stream).signed_duration_since(first).num_seconds();
    assert_eq!(apart.rem_euclid(24 * 60 * 60), 2);
}

/// Checks `/events`: a message each second, and a named event every five seconds.
fn check_messages(mut stream: Stream) {
    stream.expect("retry: 3000");
    let custom = "event: customEvent\ndata: This is a custom event";
    let mut messages = 0;
    loop {
        match stream.next().as_deref() {
            Some(r#"data: {"message":"Hello, World!"}"#) => messages += 1,
            Some(event) if event == custom && messages > 0 => break,
            other => panic!("unexpected {other:?} after {messages} messages"),
        }
        assert!(messages <= 5, "a custom event follows within 5 s");
    }
}

#[test]
fn conversation_is_sent_completely_and_then_ends() {
    let server = TestServer::start();
    for mut stream in Stream::both(&server, "/api/sse", "") {
        assert_eq!(stream.head.header("content-type"), Some("text/event-stream; charset=utf-8"));
        stream.expect("retry: 3000");
        let first = stream.next().expect("the stream continues");
        let mut last = check_message(&first, "1", &json!(1), "Hello, world!");
        let update = stream.next().expect("the stream continues");
        let id = update.strip_suffix("\nevent: update\ndata: bye-bye").expect("the update");
        assert_nanoid(id.strip_prefix("id: ").expect("an id"));
        stream.expect("id: 100\nevent: hi\ndata: hi");
        for n in 1..=5 {
            let event = stream.next().expect("the stream continues");
            let id = event.strip_prefix("id: ").and_then(|rest| rest.get(..6)).expect("an id");
            assert_nanoid(id);
            let text = format!("hi,这是第 {n} 条消息。");
            let time = check_message(&event, id, &json!(id), &text);
            // Timestamps are truncated to milliseconds, so the difference may be 1 ms too small.
            assert!(time - last >= TimeDelta::milliseconds(999), "{last}, then {time}");
            last = time;
        }
        stream.expect("id: 9999\nevent: end\ndata: 结束通信。");
        assert_eq!(stream.next(), None);
    }
}

fn check_message(event: &str, id: &str, json_id: &Value, text: &str) -> DateTime<Utc> {
    let data = event.strip_prefix(&format!("id: {id}\ndata: ")).expect("an id, then data");
    let value: Value = serde_json::from_str(data).expect("data is JSON");
    let timestamp = value["timestamp"].as_str().expect("a timestamp").to_owned();
    let whole = json!({ "id": json_id, "message": text, "timestamp": timestamp });
    assert_eq!(data, whole.to_string(), "the fields have the order of the tutorial");
    assert!(
        timestamp.len() == 24 && timestamp.ends_with('Z'),
        "{timestamp}: the format is not that of toISOString()"
    );
    timestamp.parse().expect("ISO 8601")
}

fn assert_nanoid(id: &str) {
    let in_alphabet = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    assert!(id.len() == 6 && id.chars().all(in_alphabet), "{id:?} is not a nanoid of 6 characters");
}

#[test]
fn count_runs_from_0_to_9_and_then_ends() {
    let server = TestServer::start();
    for mut stream in Stream::both(&server, "/count", "") {
        stream.expect("retry: 3000");
        (0..10).for_each(|n| stream.expect(&format!("id: {n}\ndata: {n}")));
        assert_eq!(stream.next(), None);
    }
}

#[test]
fn count_resumes_after_the_last_event_id() {
    let server = TestServer::start();
    for mut stream in Stream::both(&server, "/count", "Last-Event-ID: 4\r\n") {
        stream.expect("retry: 3000");
        stream.expect("id: 5\ndata: 5");
        stream.expect("id: 6\ndata: 6");
    }
}

/// 204 is the only status that stops a browser from reconnecting.
#[test]
fn reconnect_after_the_final_event_gets_204() {
    let server = TestServer::start();
    for (target, id) in [("/api/sse", "9999"), ("/count", "9")] {
        for version in ["1.1", "1.0"] {
            let answer = server.request(&format!(
                "GET {target} HTTP/{version}\r\nHost: localhost\r\nLast-Event-ID: {id}\r\n\r\n"
            ));
            assert_eq!(answer.status, 204, "{target} {version}");
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        }
    }
}

const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn posted_message_reaches_the_whole_chat() {
    let server = TestServer::start();
    let listeners = Stream::both(&server, "/channels/chat", "");
    let body = r#"{"message":"Grüße, \"all\"\n你好","username":"Ada"}"#;
    let answer = server.post("/send-data", JSON, body);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let expected = r#"{"status":"success","receivedMessage":"Grüße, \"all\"\n你好"}"#;
    assert_eq!(answer.body, expected);
    let utf8 = "Content-Type: application/json; charset=utf-8\r\n";
    let answer = server.post("/send-data", utf8, r#"{"message":"hi"}"#);
    assert_eq!(answer.body, r#"{"status":"success","receivedMessage":"hi"}"#);
    for mut stream in listeners {
        stream.first_frame();
        for (username, text) in [("Ada", "Grüße, \"all\"\n你好"), ("guest", "hi")] {
            let event = stream.next().expect("the stream continues");
            let lines: Vec<&str> = event.lines().collect();
            let [id, "event: usermessage", data] = lines[..] else { panic!("{event:?}") };
            assert!(id.starts_with("id: "), "{event:?}");
            let data: Value = serde_json::from_str(&data["data: ".len()..]).expect("JSON");
            let time = data["time"].as_str().expect("a time");
            assert!(NaiveTime::parse_from_str(time, "%H:%M:%S").is_ok() && time.len() == 8);
            assert_eq!(data, json!({ "username": username, "time": time, "text": text }));
        }
    }
}

#[test]
fn rejected_message_reaches_no_subscriber() {
    let server = TestServer::start();
    let mut listener = Stream::open(&server, "1.1", "/channels/chat", "");
    listener.first_frame();
    let good = r#"{"message":"no"}"#;
    let json = |header: &str| format!("{JSON}{header}\r\n");
    for (status, headers, body) in [
        (400, JSON.to_owned(), r#"{"message":"no""#),
        (400, JSON.to_owned(), r#"{"text":"no"}"#),
        (400, JSON.to_owned(), r#"{"message":7}"#),
        (400, JSON.to_owned(), "[]"),
        (415, "Content-Type: text/plain\r\n".to_owned(), good),
        (415, "Content-Type: application/jsonp\r\n".to_owned(), good),
        (415, String::new(), good),
        (403, json("Origin: http://elsewhere.example"), good),
        (403, json("Origin: null"), good),
        (403, json("Forwarded: for=192.0.2.1"), good),
        (403, json("X-Forwarded-For: 192.0.2.1"), good),
        (403, json("X-Real-IP: 192.0.2.1"), good),
        (403, json("Via: 1.1 proxy"), good),
    ] {
        let answer = server.post("/send-data", &headers, body);
        assert_eq!(answer.status, status, "{headers}{body}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
    // The next event is the accepted message, so no rejected one was published.
    assert_eq!(server.post("/send-data", JSON, r#"{"message":"yes"}"#).status, 200);
    let event = listener.next().expect("the stream continues");
    assert!(event.contains(r#""text":"yes""#), "{event:?}");
}

/// The server of the tutorials responds with this page to unknown paths.
#[test]
fn unknown_path_gets_the_404_page_of_the_article() {
    let answer = TestServer::start().get("/unknown");
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(answer.body.contains("<h1>404 - 页面未找到</h1>"), "{}", answer.body);
}
