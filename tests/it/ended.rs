//! Channels that end: their streams end after the last event, and later publishes are rejected.

use std::thread;
use std::time::Duration;

use crate::client::running::{Running, printed, run};
use crate::common::{Answer, Stream, TIMEOUT, TestServer, before_the_end, wait_until};
use crate::store::serving::{Folder, with_store};
use threadcast::{Config, Delivery, Event, Histories, History, PublishError, Update};

const JSON: &str = "Content-Type: application/json\r\n";
const NDJSON: &str = "Content-Type: application/x-ndjson\r\n";

fn id(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["id"].as_str().expect("an id").to_owned()
}

/// Reads the end of a stream: a `retry:` line, and the end of the body.
#[track_caller]
fn assert_over(stream: &mut Stream) {
    let retry = stream.next().expect("a final retry");
    assert_eq!(before_the_end(&format!("{retry}\n")), "");
    assert_eq!(stream.next(), None);
}

#[track_caller]
fn assert_204(server: &TestServer, target: &str, cursor: &str) {
    for method in ["GET", "HEAD"] {
        let answer = server.request(&format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {cursor}\r\n\r\n"
        ));
        assert_eq!(answer.status, 204, "{method} {target}");
    }
}

#[test]
fn subscribers_get_the_last_event_and_a_clean_end() {
    for delivery in [Delivery::Direct, Delivery::Wake] {
        let server = TestServer::with(Config { delivery, ..Config::default() });
        let before = id(&server.post("/channels/a", "", "1"));
        let mut live = Stream::both(&server, "/channels/a", "");
        live.iter_mut().for_each(|stream| drop(stream.first_frame()));
        let end = id(&server.post("/channels/a?end", "", "2"));
        let mut late = Stream::both(&server, "/channels/a?since=all", "");
        for stream in &mut late {
            stream.first_frame();
            stream.expect_data(&["1"]);
        }
        for stream in live.iter_mut().chain(&mut late) {
            stream.expect(&format!("id: {end}\ndata: 2"));
            assert_over(stream);
        }
        // A client without a cursor gets one, and stops when it comes back with it.
        let mut new = Stream::open(&server, "1.1", "/channels/a", "");
        let cursor = new.first_frame().expect("a cursor");
        assert_over(&mut new);
        assert_204(&server, "/channels/a", &end);
        assert_204(&server, "/channels/a", &cursor);
        let mut resumed =
            Stream::of(&server, "/channels/a", &format!("Last-Event-ID: {before}\r\n"));
        resumed.expect(&format!("id: {end}\ndata: 2"));
        assert_over(&mut resumed);
    }
}

#[test]
fn every_kind_of_body_can_end_a_channel() {
    let server = TestServer::start();
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    for (place, (query, headers, body)) in [
        ("?end", "", "x"),
        ("?end=true", "", ""),
        ("?id=own&end", "", "x"),
        ("", JSON, r#"{"data":"x","end":true}"#),
        ("?end=", JSON, r#"{"data":"x"}"#),
        ("", form, "data=x&end=true"),
        ("", NDJSON, "{\"data\":\"w\"}\n{\"data\":\"x\",\"end\":true}"),
        ("?end", NDJSON, "{\"data\":\"w\"}\n{\"data\":\"x\"}"),
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("/channels/{place}");
        id(&server.post(&format!("{target}{query}"), headers, body));
        let again = server.post(&target, "", "more");
        assert_eq!(again.status, 409, "{query} {body}");
        again.check_problem();
    }
    for (query, headers, body) in [
        ("?end=false", "", "x"),
        ("", JSON, r#"{"data":"x","end":false}"#),
        ("", form, "data=x&end=false"),
    ] {
        id(&server.post(&format!("/channels/open{query}"), headers, body));
    }
    for (query, headers, body) in [
        ("?end=1", "", "x"),
        ("", JSON, r#"{"data":"x","end":"true"}"#),
        ("", NDJSON, "{\"data\":\"x\",\"end\":true}\n{\"data\":\"after\"}"),
    ] {
        let answer = server.post(&format!("/channels/open{query}"), headers, body);
        assert_eq!(answer.status, 400, "{body}");
    }
    let open = server.get("/channels/open?format=json").json();
    assert_eq!(open["events"].as_array().map(Vec::len), Some(3), "a rejected batch adds nothing");
    let private = Update {
        topics: &["open"],
        events: &[Event::new("x").with_end()],
        private: true,
        key: None,
    };
    assert_eq!(server.registry.publish_update(&private), Err(PublishError::PrivateEnd));
}

#[test]
fn repeated_end_gets_the_first_answer() {
    let folder = Folder::new();
    for config in [Config::default(), with_store(folder.store())] {
        let server = TestServer::with(config);
        let key = "Idempotency-Key: k\r\n";
        let first = server.post("/channels/a?end", key, "x");
        assert_eq!(server.post("/channels/a?end", key, "x").body, first.body);
        assert_eq!(
            server.post("/channels/a", key, "x").status,
            422,
            "the end is part of the event"
        );
        let own = server.post("/channels/b?id=own&end", "", "x");
        assert_eq!(server.post("/channels/b?id=own&end", "", "x").body, own.body);
        assert_eq!(server.post("/channels/b?id=other", "", "x").status, 409);
    }
}

#[test]
fn stream_of_several_channels_ends_with_the_last_of_them() {
    let server = TestServer::start();
    let both = "/channels?channel=a&channel=b";
    let mut stream = Stream::of(&server, both, "");
    let mut prefix = Stream::of(&server, "/channels/a*", "");
    let mut mixed = Stream::of(&server, "/channels?channel=a&channel=c*", "");
    let first = id(&server.post("/channels/a?end", "", "end of a"));
    let second = id(&server.post("/channels/b", "", "b"));
    stream.expect_data(&["end of a", "b"]);
    let mut resumed = Stream::of(&server, both, &format!("Last-Event-ID: {first}\r\n"));
    let last = id(&server.post("/channels/b?end", "", "end of b"));
    for stream in [&mut stream, &mut resumed] {
        while !stream.event().data().starts_with("end") {}
        assert_over(stream);
    }
    assert_204(&server, both, &last);
    let mut again = Stream::of(&server, both, &format!("Last-Event-ID: {second}\r\n"));
    again.expect_data(&["end of b"]);
    assert_over(&mut again);
    // A prefix goes on, because it selects channels that are created later.
    id(&server.post("/channels/ab", "", "x"));
    prefix.expect_data(&["end of a", "x"]);
    id(&server.post("/channels/c", "", "y"));
    mixed.expect_data(&["end of a", "y"]);
    Stream::of(&server, "/channels/a*", &format!("Last-Event-ID: {last}\r\n")).expect_data(&["x"]);
}

#[test]
fn slow_client_gets_all_events_before_the_end() {
    let history = Histories::all(History { bytes: 64 << 20, ..History::default() });
    for delivery in [Delivery::Direct, Delivery::Wake] {
        let server =
            TestServer::with(Config { delivery, history: history.clone(), ..Config::default() });
        let mut slow = Stream::of(&server, "/channels/a", "");
        for n in 0..400 {
            server
                .registry
                .publish("a", &Event::new(format!("{n} {}", "x".repeat(32 * 1024))))
                .unwrap();
        }
        server.registry.publish("a", &Event::new("end ").with_end()).unwrap();
        for n in 0..400 {
            assert!(slow.event().data().starts_with(&format!("{n} ")), "event {n}");
        }
        slow.event();
        assert_over(&mut slow);
    }
}

#[test]
fn delete_lets_a_channel_go_on() {
    let folder = Folder::new();
    for config in [Config::default(), with_store(folder.store())] {
        let server = TestServer::with(config);
        let end = id(&server.post("/channels/a?end", "", "x"));
        let delete = "DELETE /channels/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert_eq!(server.request(delete).status, 204);
        let mut stream = Stream::of(&server, "/channels/a", &format!("Last-Event-ID: {end}\r\n"));
        let next = id(&server.post("/channels/a", "", "y"));
        stream.expect(&format!("id: {next}\ndata: y"));
    }
}

#[test]
fn channel_goes_on_after_the_age_of_its_history() {
    let age = Duration::from_millis(1);
    let history = Histories::all(History { age, ..History::default() });
    let folder = Folder::new();
    for store in [None, Some(folder.store().into())] {
        let config = Config { history: history.clone(), store, ..Config::default() };
        let server = TestServer::with(config.clone());
        id(&server.post("/channels/a?end", "", "x"));
        wait_until(TIMEOUT, "the history is over", || {
            server.post("/channels/a", "", "y").status == 200
        });
        drop(server);
        let server = TestServer::with(config);
        id(&server.post("/channels/a", "", "z"));
    }
}

#[test]
fn end_outlives_its_event_when_memory_is_short() {
    let folder = Folder::new();
    let config = Config { history_total: Some(20_000), ..with_store(folder.store()) };
    let server = TestServer::with(config.clone());
    let end = id(&server.post("/channels/a?end", "", "x"));
    for _ in 0..10 {
        server.registry.publish("b", &Event::new("y".repeat(10_000))).unwrap();
    }
    assert!(server.get("/channels/a?format=json").json()["events"] == serde_json::json!([]));
    assert_204(&server, "/channels/a", &end);
    // The commit of this event deletes the evicted ones from the file.
    server.registry.publish("b", &Event::new("z")).unwrap();
    drop(server);
    let server = TestServer::with(config);
    assert_eq!(server.post("/channels/a", "", "y").status, 409);
    let page = server.get("/channels/a?format=json").json();
    assert_eq!((&page["ended"], &page["events"]), (&true.into(), &serde_json::json!([])));
    assert_204(&server, "/channels/a", &end);
    let mut old = Stream::open(&server, "1.1", "/channels/a?last_event_id=unknown", "");
    old.expect("retry: 3000");
    assert!(old.event().gap().is_some());
    assert_over(&mut old);
}

#[test]
fn end_survives_a_restart_and_an_export() {
    let folder = Folder::new();
    let first = TestServer::with(with_store(folder.store()));
    id(&first.post("/channels/a", "", "1"));
    let end = id(&first.post("/channels/a?end&id=own", "", "2"));
    id(&first.post("/channels/b", "", "3"));
    drop(first);
    let exported = crate::store::serving::threadcast(&["store", "export"])
        .arg(folder.store())
        .arg("a")
        .output()
        .expect("the binary runs");
    let exported = String::from_utf8(exported.stdout).expect("UTF-8");
    assert_eq!(exported, "{\"data\":\"1\"}\n{\"data\":\"2\",\"id\":\"own\",\"end\":true}\n");
    let second = TestServer::with(with_store(folder.store()));
    let mut all = Stream::of(&second, "/channels/a?since=all", "");
    all.expect_data(&["1", "2"]);
    assert_over(&mut all);
    assert_204(&second, "/channels/a", "own");
    assert_204(&second, "/channels/a", &end);
    assert_eq!(second.post("/channels/a", "", "x").status, 409);
    assert_eq!(id(&second.post("/channels/a?id=own&end", "", "2")), end);
    id(&second.post("/channels/b", "", "x"));
}

#[test]
fn requests_behind_the_end_in_one_batch_are_rejected() {
    let folder = Folder::new();
    let server = TestServer::with(with_store(folder.store()));
    for round in 0..20 {
        let name = format!("round {round}");
        let publish = |event: Event| server.registry.publish(&name, &event);
        let accepted = thread::scope(|scope| {
            let end = scope.spawn(|| publish(Event::new("end").with_end()));
            let others: Vec<_> = (0..8).map(|_| scope.spawn(|| publish(Event::new("x")))).collect();
            end.join().unwrap().expect("no other request ends it");
            others.into_iter().flat_map(|it| it.join().unwrap()).count()
        });
        let page =
            server.get(&format!("/channels/{}?format=json", name.replace(' ', "%20"))).json();
        let events = page["events"].as_array().unwrap();
        assert_eq!(events.len(), accepted + 1);
        assert_eq!(events.last().unwrap()["data"], "end", "{page}");
    }
}

#[test]
fn presence_events_do_not_follow_the_end() {
    let folder = Folder::new();
    for config in [Config::default(), with_store(folder.store())] {
        let server = TestServer::with(config);
        let mut stream = Stream::of(&server, "/channels/a?presence=ada", "");
        let end = id(&server.post("/channels/a?end", "", "x"));
        while stream.event().data() != "x" {}
        assert_over(&mut stream);
        wait_until(TIMEOUT, "the stream has ended", || server.registry.subscribers("a") == 0);
        let mut other = Stream::of(&server, "/channels/a?presence=bob&since=all", "");
        while other.event().data() != "x" {}
        assert_over(&mut other);
        let page = server.get("/channels/a?format=json").json();
        assert_eq!(page["events"].as_array().unwrap().last().unwrap()["id"], *end, "{page}");
    }
}

#[test]
fn page_of_an_ended_channel_shows_the_end() {
    let server = TestServer::start();
    id(&server.post("/channels/a", "", "1"));
    let page = |query: &str| server.get(&format!("/channels/a?format=json{query}")).json();
    assert!(page("").get("ended").is_none());
    id(&server.post("/channels/a?end", "", "2"));
    let whole = page("");
    assert_eq!(whole["ended"], true);
    let ends: Vec<bool> =
        whole["events"].as_array().unwrap().iter().map(|event| event["end"] == true).collect();
    assert_eq!(ends, [false, true]);
    assert!(page("&limit=1").get("ended").is_none(), "a page with more events after it");
}

#[test]
fn publish_end_ends_a_channel_and_listen_exits() {
    let server = TestServer::start();
    let url = format!("http://{}", server.addr);
    let listening = Running::start(&["listen", "a", "--since", "all"], &url);
    assert_eq!(run(&["publish", "a", "one"], &url, "").code, Some(0));
    let ended = run(&["publish", "a", "{\"data\":\"two\"}", "--json", "--end"], &url, "");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(listening.wait(), printed("one\ntwo\n"));
    let after = run(&["publish", "a", "three"], &url, "");
    assert!(after.code == Some(1) && after.err.contains("409 Conflict"), "{after:?}");

    let listening = Running::start(&["listen", "b", "--since", "all"], &url);
    let lines = run(&["publish", "b", "--end-at-eof"], &url, "one\ntwo\n");
    assert_eq!(lines, printed(""));
    assert_eq!(listening.wait(), printed("one\ntwo\n"), "the end itself is not printed");
    let page = server.get("/channels/b?format=json").json();
    let last = page["events"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["event"], &last["data"], &last["end"]),
        (&"end".into(), &"".into(), &true.into())
    );
    assert_eq!(run(&["publish", "c", "--end"], &url, "").code, Some(2));
    assert_eq!(run(&["publish", "c", "x", "--end-at-eof"], &url, "").code, Some(2));
}
