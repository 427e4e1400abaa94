//! Updates that are private or of several topics, over nodes.

use super::common::jwt::{AUDIENCE, allowing, bearer, key};
use super::common::{PATIENCE, Stream, TestServer, wait_until};
use super::server::Redis;
use threadcast::{Config, Mercure};

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
fn publish(node: &TestServer, form: &str) {
    let headers = "Content-Type: application/x-www-form-urlencoded\r\n".to_owned()
        + &bearer(&allowing(&["*"], &[]));
    let answer = node.post("/.well-known/mercure", &headers, form);
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn what_is_private_or_of_several_topics_is_so_on_every_node() {
    let Some(redis) = Redis::start() else { return };
    let [here, there] = [(); 2].map(|()| node(&redis));
    let both = "/.well-known/mercure?match=a&match=b";
    let [reader, stranger] = [bearer(&allowing(&[], &["b"])), bearer(&allowing(&[], &["a/*"]))];
    let table: [(&str, &[&str]); 3] =
        [(&reader, &["secret", "open"]), (&stranger, &["open"]), ("", &["open"])];
    let mut streams = table.map(|(token, _)| Stream::of(&there, both, token));
    publish(&here, "topic=a&topic=b&private=on&id=urn:1&data=secret");
    // Either topic knows the id, on either node.
    publish(&there, "topic=b&private=on&id=urn:1&data=again");
    publish(&there, "topic=b&topic=a&data=open");
    for (stream, (_, expected)) in streams.iter_mut().zip(table) {
        stream.expect_data(expected);
    }
    // A node that starts now reads it all from the log.
    let new = node(&redis);
    for (token, expected) in table {
        Stream::of(&new, &format!("{both}&last_event_id=earliest"), token).expect_data(expected);
    }
    // What one topic forgets, the other still has; and a node that starts now knows which.
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
fn a_list_of_subscriptions_is_not_taken_for_another_nodes() {
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
    let newest = document["last_event_id"].as_str().expect("an id").to_owned();
    assert_ne!(newest, "earliest", "an id of Redis's ends in 0, and is one");
    assert_eq!(document["subscriptions"].as_array().map(Vec::len), Some(1));
    wait_until(PATIENCE, "the other node has come as far", || {
        list(&there, "").json()["last_event_id"] == *newest
    });
    // What a cache in between keeps of one node's list does not answer for the other's.
    for tag in [one.header("etag").unwrap_or("\"none\""), &format!("\"{newest}\"")] {
        assert_eq!(list(&there, tag).status, 200, "{tag}");
    }
}
