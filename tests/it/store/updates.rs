//! Private events and events of several topics, in the store and after a restart.

use std::time::Duration;

use super::serving::{Folder, threadcast, with_store};
use crate::common::TestServer;
use threadcast::{
    Channels, Config, Event, Framing, Histories, History, Matcher, Readable, Registry, Start,
    Update,
};

fn publish(registry: &Registry, topics: &[&str], data: &str, private: bool) {
    let events = [Event::new(data)];
    let update = Update { topics, events: &events, private, key: None };
    registry.publish_update(&update).expect("the event is stored");
}

/// Returns the data of all events that a stream of this topic gets from a closed registry.
fn replay(registry: &Registry, topic: &str, readable: Readable, start: &Start) -> String {
    let topic = Matcher::selector(topic).expect("a selector");
    let channels = Channels::of(&[topic]).expect("a name").readable(readable);
    let subscription = registry.subscribe(&channels, start).expect("a subscription");
    let mut bytes = Vec::new();
    let sent = subscription.stream_to(&mut bytes, Framing::Plain, Duration::from_secs(60));
    sent.expect("writing to a Vec cannot fail");
    let text = String::from_utf8(bytes).expect("streams are UTF-8");
    text.lines().filter_map(|line| line.strip_prefix("data: ")).collect::<Vec<_>>().join(" ")
}

fn matching(topic: &str) -> Readable {
    Readable::Matching([Matcher::selector(topic).expect("a selector")].into())
}

#[test]
fn privacy_and_topics_survive_a_restart() {
    let folder = Folder::new();
    let first = TestServer::with(with_store(folder.store()));
    publish(&first.registry, &["/users/7"], "one", false);
    publish(&first.registry, &["/users/7"], "secret", true);
    publish(&first.registry, &["/news", "/users/7"], "both", true);
    publish(&first.registry, &["/news", "/users/7"], "open", false);
    let registry = first.registry.clone();
    drop(first);
    let check = |registry: &Registry, when: &str| {
        let table = [
            (Readable::Public, "one open"),
            (Readable::All, "one secret both open"),
            (matching("/users/{id}"), "one secret both open"),
            (matching("/news"), "one both open"),
            (matching("/users/8"), "one open"),
        ];
        for (readable, expected) in table {
            for topic in ["/users/7", "*", "/{x}{/y}"] {
                let found = replay(registry, topic, readable.clone(), &Start::All);
                assert_eq!(found, expected, "{when}: {readable:?} {topic}");
            }
        }
    };
    check(&registry, "before the restart");
    let second = TestServer::with(with_store(folder.store()));
    let registry = second.registry.clone();
    // A client without a token gets only the public events.
    super::Stream::of(&second, "/channels/%2Fusers%2F7?since=all", "")
        .expect_data(&["one", "open"]);
    drop(second);
    check(&registry, "after the restart");
}

#[test]
fn an_evicted_event_does_not_return_after_a_restart() {
    let folder = Folder::new();
    let config = || {
        let short = History { events: 1, ..History::default() };
        let history = Histories::default().with("short", short);
        Config { history, ..with_store(folder.store()) }
    };
    let first = TestServer::with(config());
    publish(&first.registry, &["short"], "begin", false);
    let begin = first.registry.last_id();
    publish(&first.registry, &["short", "long"], "shared", false);
    publish(&first.registry, &["short"], "end", false);
    publish(&first.registry, &["long"], "x", false); // also stores the eviction
    let last = first.registry.last_id();
    drop(first);
    let second = TestServer::with(config());
    assert_eq!(second.registry.last_id(), last);
    let registry = second.registry.clone();
    drop(second);
    assert_eq!(replay(&registry, "short", Readable::Public, &Start::All), "end");
    assert_eq!(replay(&registry, "long", Readable::Public, &Start::All), "shared x");
    let after = Start::After(begin.to_string());
    let resumed = replay(&registry, "short", Readable::Public, &after);
    assert!(resumed.contains(r#""channel":"short","missed":null"#), "{resumed}");
    assert_eq!(replay(&registry, "long", Readable::Public, &after), "shared x");
}

#[test]
fn repeats_are_recognised_in_each_topic_after_a_restart() {
    let folder = Folder::new();
    let events = [Event::new("x").with_id("order-7").expect("an id")];
    let update = |topics| Update { topics, events: &events, private: true, key: Some("key") };
    let first = TestServer::with(with_store(folder.store()));
    let published =
        first.registry.publish_update(&update(&["a", "b"])).expect("the event is stored");
    assert_eq!(first.registry.publish_update(&update(&["b"])), Ok(published));
    drop(first);
    let second = TestServer::with(with_store(folder.store()));
    for topics in [&["a"][..], &["b"], &["b", "a"]] {
        assert_eq!(second.registry.publish_update(&update(topics)), Ok(published));
        let unkeyed = Update { key: None, ..update(topics) };
        assert_eq!(second.registry.publish_update(&unkeyed), Ok(published));
    }
    drop(second);
    let store = |command: &str, channel: Option<&str>| {
        let mut run = threadcast(&["store", command]);
        let output = run.arg(folder.store()).args(channel).output().expect("the binary runs");
        assert!(output.status.success(), "a sound store: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let stats = store("stats", None);
    let counts = stats.lines().skip(1).map(|line| line.split_once(", data").expect("a size").0);
    let one = |channel| format!("{channel:?}: events: 1 (private: 1)");
    assert_eq!(counts.collect::<Vec<_>>(), [one("a"), one("b")]);
    let line = store("export", Some("b"));
    assert_eq!(line, "{\"data\":\"x\",\"id\":\"order-7\",\"private\":true}\n");
}
