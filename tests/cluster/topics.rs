//! Private updates and updates of several topics, on several nodes.

use crate::common::jwt::{AUDIENCE, allowing, bearer, key};
use crate::common::{Stream, TIMEOUT, TestServer, wait_until};
use crate::server::Redis;
use threadcast::{Config, EventId, Histories, History, Mercure};

fn config(redis: &Redis, mercure: Mercure) -> Config {
    Config {
        mercure,
        publish_key: Some(key()),
        subscribe_key: Some(key()),
        jwt_audience: Some(AUDIENCE.into()),
        anonymous: true,
        ..redis.node()
    }
}

fn node(redis: &Redis) -> TestServer {
    TestServer::with(config(redis, Mercure::On))
}

#[track_caller]
fn publish(node: &TestServer, form: &str) -> String {
    let headers = "Content-Type: application/x-www-form-urlencoded\r\n".to_owned()
        + &bearer(&allowing(&["*"], &[]));
    let answer = node.post("/.well-known/mercure", &headers, form);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

#[test]
fn privacy_and_topics_hold_on_every_node() {
    let Some(redis) = Redis::start() else { return };
    let [here, there] = [(); 2].map(|()| node(&redis));
    let both = "/.well-known/mercure?match=a&match=b";
    let [reader, stranger] = [bearer(&allowing(&[], &["b"])), bearer(&allowing(&[], &["a/*"]))];
    let table: [(&str, &[&str]); 3] =
        [(&reader, &["secret", "open"]), (&stranger, &["open"]), ("", &["open"])];
    let mut streams = table.map(|(token, _)| Stream::of(&there, both, token));
    publish(&here, "topic=a&topic=b&private=on&id=urn:1&data=secret");
    // This is a duplicate: both nodes index the id in both topics.
    publish(&there, "topic=b&private=on&id=urn:1&data=again");
    publish(&there, "topic=b&topic=a&data=open");
    for (stream, (_, expected)) in streams.iter_mut().zip(table) {
        stream.expect_data(expected);
    }
    // A node that starts now reads the whole log.
    let new = node(&redis);
    for (token, expected) in table {
        Stream::of(&new, &format!("{both}&last_event_id=earliest"), token).expect_data(expected);
    }
    // An event deleted from one topic is still in the other, also on a node that starts now.
    let deleted = here.request(&format!(
        "DELETE /channels/a HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        bearer(&allowing(&["*"], &[]))
    ));
    assert_eq!(deleted.status, 204, "{deleted:?}");
    let newest = node(&redis);
    let of_b = "/.well-known/mercure?match=b&last_event_id=earliest";
    Stream::of(&newest, of_b, &reader).expect_data(&["secret", "open"]);
    let of_a = "/.well-known/mercure?match=a&last_event_id=earliest";
    publish(&here, "topic=a&data=new");
    Stream::of(&newest, of_a, &reader).expect_data(&["new"]);
}

#[test]
fn etags_of_subscription_lists_differ_between_nodes() {
    let Some(redis) = Redis::start() else { return };
    let node = || TestServer::with(config(&redis, Mercure::WithSubscriptions));
    let [here, there] = [(); 2].map(|()| node());
    let follow = bearer(&allowing(&[], &["*"]));
    let list = |node: &TestServer, known: &str| {
        let tag =
            if known.is_empty() { String::new() } else { format!("If-None-Match: {known}\r\n") };
        node.request(&format!(
            "GET /.well-known/mercure/subscriptions HTTP/1.1\r\nHost: localhost\r\n{follow}{tag}\r\n"
        ))
    };
    assert!(list(&here, "").json()["subscriptions"][0].is_null());
    let _stream = Stream::of(&here, "/.well-known/mercure?match=a", "");
    let one = list(&here, "");
    let document = one.json();
    let newest = document["lastEventID"].as_str().expect("an id").to_owned();
    assert_ne!(newest, "earliest", "an id of Redis that ends in 0 is an id");
    assert_eq!(document["subscriptions"].as_array().map(Vec::len), Some(1));
    wait_until(TIMEOUT, "the other node has read the newest event", || {
        list(&there, "").json()["lastEventID"] == *newest
    });
    // A list that a client has cached from one node must not be valid for the other node.
    for tag in [one.header("etag").unwrap_or("\"none\""), &format!("\"{newest}\"")] {
        assert_eq!(list(&there, tag).status, 200, "{tag}");
    }
}

#[test]
fn a_deleted_private_update_is_a_gap_only_for_its_readers() {
    let Some(redis) = Redis::start() else { return };
    let short = Histories::all(History { events: 2, ..History::default() });
    let of = || TestServer::with(Config { history: short.clone(), ..config(&redis, Mercure::On) });
    let [here, there] = [(); 2].map(|()| of());
    let read = |node: &TestServer, id: &str| {
        let id = id.parse().expect("an id of ours");
        wait_until(TIMEOUT, "the node has read this event", || node.registry.last_id() >= id);
    };
    let begin = publish(&here, "topic=c&data=begin");
    for form in ["topic=b&data=open", "topic=a&private=on&data=1", "topic=a&private=on&data=2"] {
        publish(&here, form);
    }
    read(&here, &publish(&here, "topic=b&private=on&data=3"));
    let [writer, reader] = [bearer(&allowing(&["*"], &[])), bearer(&allowing(&[], &["*"]))];
    for topic in ["a", "b"] {
        let request =
            format!("DELETE /channels/{topic} HTTP/1.1\r\nHost: localhost\r\n{writer}\r\n");
        assert_eq!(here.request(&request).status, 204);
    }
    publish(&here, "topic=a&data=last");
    let last = publish(&here, "topic=b&data=last");
    // The third node starts after the deletion, so the events were never in its rings.
    for (node, which) in [(&here, "here"), (&there, "there"), (&of(), "new")] {
        read(node, &last);
        let first = |topic: &str, token: &str| {
            let target = format!("/channels/{topic}?last_event_id={begin}");
            Stream::of(node, &target, token).event()
        };
        assert_eq!(first("a", "").data(), "last", "{which}");
        assert!(first("a", &reader).gap().is_some(), "{which}");
        // For a client that may not read private events, the gap ends at the last public event.
        let (public, all) = (first("b", "").gap(), first("b", &reader).gap());
        let to = |gap: Option<serde_json::Value>| {
            let gap = gap.unwrap_or_else(|| panic!("no gap: {which}"));
            gap["to"].as_str().expect("an id").parse::<EventId>().expect("an id")
        };
        assert!(to(public) < to(all), "{which}");
    }
}

#[test]
fn a_long_history_is_deleted_completely() {
    let Some(redis) = Redis::start() else { return };
    let [here, there] = [(); 2].map(|()| TestServer::with(redis.node()));
    let lines = "{\"data\":\"x\"}\n".repeat(2_500);
    let many = "Content-Type: application/x-ndjson\r\n";
    let last = here.post("/channels/a", many, &lines).json()["id"].to_string();
    let last: EventId = last.trim_matches('"').parse().expect("an id");
    wait_until(TIMEOUT, "the events are read", || here.registry.last_id() >= last);
    let delete = "DELETE /channels/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(here.request(delete).status, 204);
    // Redis now contains only the entry that tells the nodes to delete the history.
    let length: u64 = redis.command(&["XLEN", "threadcast:events"]);
    assert_eq!(length, 1);
    let begin = there.registry.last_id();
    assert_eq!(here.post("/channels/a", "", "next").status, 200);
    wait_until(TIMEOUT, "the event is read", || there.registry.last_id() > begin);
    for node in [&here, &there, &TestServer::with(redis.node())] {
        Stream::of(node, "/channels/a?since=all", "").expect_data(&["next"]);
    }
}
