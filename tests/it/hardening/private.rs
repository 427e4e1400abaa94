//! A private update is invisible to subscribers that may not read it.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::common::jwt::{AUDIENCE, allowing, bearer, key};
use crate::common::{Received, Stream, TIMEOUT, TestServer, wait_until};
use threadcast::{Config, Delivery, EventId, Histories, History, Mercure};

const HUB: &str = "/.well-known/mercure";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

/// A temporary folder for stores. Dropping it removes the folder.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("threadcast-private-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn config() -> Config {
    Config {
        mercure: Mercure::On,
        publish_key: Some(key()),
        subscribe_key: Some(key()),
        jwt_audience: Some(AUDIENCE.into()),
        anonymous: true,
        ..Config::default()
    }
}

fn keeping(events: usize) -> Histories {
    Histories::all(History { events, ..History::default() })
}

/// Histories in which events expire after 1 ms, except in the channel `other`.
fn short_lived() -> Histories {
    let history = History { age: Duration::from_millis(1), ..History::default() };
    Histories::all(history).with("other", History::default())
}

/// Configurations with and without a store, in both delivery modes.
fn variants(folder: &Folder) -> Vec<Config> {
    let stores = [None, Some(folder.0.join("history.redb"))];
    let deliveries = [Delivery::Direct, Delivery::Wake];
    let with = |store: &Option<PathBuf>, delivery: Delivery| {
        let store = store.as_ref().map(|path| path.with_extension(format!("{delivery:?}")));
        Config { store: store.map(Into::into), delivery, ..config() }
    };
    stores.iter().flat_map(|store| deliveries.map(|delivery| with(store, delivery))).collect()
}

/// Publishes an update by posting a form, and returns the update's id.
#[track_caller]
fn publish(server: &TestServer, form: &str) -> EventId {
    let headers = format!("{FORM}{}", bearer(&allowing(&["*"], &[])));
    let answer = server.post(HUB, &headers, form);
    assert_eq!(answer.status, 200, "{form}: {answer:?}");
    answer.body.parse().expect("an id assigned by the server")
}

/// The `Authorization` header of a subscriber that may read the private updates of a topic.
fn reader(topic: &str) -> String {
    bearer(&allowing(&[], &[topic]))
}

/// Opens a stream of a topic after an id, and returns its first event with data.
#[track_caller]
fn first_after(server: &TestServer, topic: &str, after: &str, headers: &str) -> Received {
    let route = format!("/channels/{topic}?last_event_id={after}");
    let mut stream = Stream::of(server, &route, headers);
    let mut event = stream.event();
    while event.data.is_none() {
        event = stream.event();
    }
    event
}

#[track_caller]
fn gap_to(event: &Received) -> String {
    let gap = event.gap().unwrap_or_else(|| panic!("no gap: {event:?}"));
    gap["to"].as_str().expect("an id").to_owned()
}

/// Waits until the server has removed older channels and has room for this topic.
fn room_for(server: &TestServer, topic: &str) {
    wait_until(TIMEOUT, "the older channel is removed", || {
        let request = format!("GET /channels/{topic} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        server.head(&request).status == 200
    });
}

#[test]
fn expired_private_update_causes_no_gap_on_other_topics() {
    let folder = Folder::new();
    for variant in variants(&folder) {
        let what = format!("{:?} {:?}", variant.delivery, variant.store);
        // The server has room for one channel, so the next stream removes the channel before it.
        let variant = Config { max_channels: 1, history: short_lived(), ..variant };
        let stored = variant.store.is_some();
        let server = TestServer::with(variant.clone());
        let begin = server.registry.last_id();
        let secret = publish(&server, "topic=secret&private=on&data=secret");
        room_for(&server, "other");
        let check = |server: &TestServer, when: &str| {
            room_for(server, "other");
            let mut stream =
                Stream::of(server, &format!("/channels/other?last_event_id={begin}"), "");
            publish(server, "topic=other&data=open");
            let first = stream.event();
            assert_eq!(first.data(), "open", "{what}, {when}: {first:?}");
        };
        check(&server, "before the restart");
        drop(server);
        if stored {
            check(&TestServer::with(variant), "after the restart");
        }
        assert!(secret > begin);
    }
}

#[test]
fn evicted_private_update_is_a_gap_only_for_its_readers() {
    let folder = Folder::new();
    for variant in variants(&folder) {
        let what = format!("{:?} {:?}", variant.delivery, variant.store);
        let variant = Config { history: keeping(1), ..variant };
        let stored = variant.store.is_some();
        let server = TestServer::with(variant.clone());
        let begin = server.registry.last_id().to_string();
        publish(&server, "topic=a&private=on&data=1");
        let private = publish(&server, "topic=a&private=on&data=2");
        publish(&server, "topic=a&data=open");
        let public = publish(&server, "topic=b&data=lost");
        let hidden = publish(&server, "topic=b&private=on&data=lost");
        publish(&server, "topic=b&data=open");
        // The store writes the eviction above together with this event.
        publish(&server, "topic=c&data=x");
        let check = |server: &TestServer, when: &str| {
            let first = |topic, token: &str| first_after(server, topic, &begin, token);
            let anonymous = first("a", "");
            assert_eq!(anonymous.data(), "open", "{what}, {when}: {anonymous:?}");
            let elsewhere = first("a", &reader("elsewhere"));
            assert_eq!(elsewhere.data(), "open", "{what}, {when}: {elsewhere:?}");
            let with_rights = first("a", &reader("a"));
            assert_eq!(gap_to(&with_rights), private.to_string(), "{what}, {when}");
            // Every subscriber gets a gap for the lost public event. Without the right to read the
            // private update, the gap ends at the public event.
            assert_eq!(gap_to(&first("b", "")), public.to_string(), "{what}, {when}");
            assert_eq!(gap_to(&first("b", &reader("b"))), hidden.to_string(), "{what}, {when}");
        };
        check(&server, "before the restart");
        drop(server);
        if stored {
            check(&TestServer::with(variant.clone()), "after the restart");
            check(&TestServer::with(variant), "after a second restart");
        }
    }
}

#[test]
fn private_update_id_is_not_a_cursor() {
    let folder = Folder::new();
    for variant in variants(&folder) {
        let stored = variant.store.is_some();
        let server = TestServer::with(variant.clone());
        let public = publish(&server, "topic=a&data=open");
        let private = publish(&server, "topic=a&private=on&data=secret");
        let unknown = EventId { n: private.n + 1, ..private };
        let check = |server: &TestServer| {
            for after in [private.to_string(), unknown.to_string(), "7-7".to_owned()] {
                let event = first_after(server, "a", &after, "");
                assert_eq!(gap_to(&event), public.to_string(), "after {after}");
                assert_eq!(event.id, Some(public.to_string()), "after {after}");
            }
            let mut mine =
                Stream::of(server, &format!("{HUB}?match=a&last_event_id={private}"), &reader("a"));
            let last_event_id = mine.head.header("mercure-last-event-id");
            assert_eq!(last_event_id, Some(&*private.to_string()));
            publish(server, "topic=b&data=x");
            let mut other =
                Stream::of(server, &format!("{HUB}?match=a&last_event_id={private}"), "");
            // A public event has a later id now, so every subscriber may resume from the private
            // update's id.
            assert_eq!(other.head.header("mercure-last-event-id"), Some(&*private.to_string()));
            publish(server, "topic=a&data=next");
            mine.expect_data(&["next"]);
            other.expect_data(&["next"]);
        };
        if stored {
            drop(server);
            check(&TestServer::with(variant));
        } else {
            check(&server);
        }
    }
}

#[test]
fn channel_list_excludes_private_updates() {
    let folder = Folder::new();
    for variant in variants(&folder) {
        // Without a subscribe key, private updates reach no subscriber, and anyone may list.
        let open = Config { subscribe_key: None, anonymous: false, ..variant };
        let server = TestServer::with(open);
        let public = publish(&server, "topic=a&data=open");
        publish(&server, "topic=a&private=on&data=secret");
        publish(&server, "topic=secret&private=on&data=secret");
        let list = server.get("/channels").json();
        let channels = list["channels"].as_array().expect("a list");
        let [only] = &channels[..] else { panic!("expected one channel, found {list}") };
        let field = |name: &str| -> &Value { &only[name] };
        assert_eq!((field("name"), field("events")), (&"a".into(), &1.into()), "{list}");
        assert_eq!(field("last_id"), &Value::from(public.to_string()), "{list}");
        let length = format!("id: {public}\ndata: open\n\n").len();
        assert!(field("bytes").as_u64().expect("a number") < 2 * length as u64, "{list}");
    }
}
