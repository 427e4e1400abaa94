//! Pages of a channel's history: a finite answer in place of a stream.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::{Answer, TestServer};
use crate::store::serving::{Folder, with_store};
use serde_json::Value;
use threadcast::{Config, Event, Histories, History, Update};

fn publish(server: &TestServer, channel: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    let event = |n: usize| Event::new(n.to_string());
    let publish = |n| server.registry.publish(channel, &event(n)).expect("a name");
    numbers.map(|n| publish(n).id.to_string()).collect()
}

/// Starts a server that keeps this many events for each channel.
fn keeping(events: usize) -> TestServer {
    let history = Histories::all(History { events, ..History::default() });
    TestServer::with(Config { history, ..Config::default() })
}

#[track_caller]
fn page(server: &TestServer, query: &str) -> Value {
    let answer = server.get(&format!("/channels/a?format=json{query}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// The data of a page's events, joined by spaces.
fn data(page: &Value) -> String {
    let events = page["events"].as_array().expect("a list").iter();
    events.map(|event| event["data"].as_str().expect("text")).collect::<Vec<_>>().join(" ")
}

#[test]
fn pages_forwards_have_each_event_once() {
    let server = keeping(100);
    publish(&server, "a", 0..7);
    publish(&server, "b", 0..3);
    let (mut cursor, mut pages) = (String::new(), Vec::new());
    loop {
        let page = page(&server, &format!("&limit=3{cursor}"));
        cursor = format!("&since={}", page["next"].as_str().expect("an id"));
        pages.push(data(&page));
        assert!(page.get("gap").is_none() && page.get("previous").is_none(), "{page}");
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(pages, ["0 1 2", "3 4 5", "6"]);
    assert_eq!(data(&page(&server, &cursor)), "");
    publish(&server, "a", 7..8);
    assert_eq!(data(&page(&server, &cursor)), "7", "the last cursor finds what is published later");
}

#[test]
fn pages_backwards_have_each_event_once() {
    let server = keeping(100);
    let ids = publish(&server, "a", 0..7);
    let (mut cursor, mut pages) = ("now".to_owned(), Vec::new());
    loop {
        let page = page(&server, &format!("&limit=3&before={cursor}"));
        pages.push(data(&page));
        assert_eq!(page["more"], page["previous"].is_string());
        let Some(previous) = page["previous"].as_str() else { break };
        cursor = previous.to_owned();
    }
    assert_eq!(pages, ["4 5 6", "1 2 3", "0"]);
    let between = page(&server, &format!("&since={}&before={}", ids[1], ids[5]));
    assert_eq!(data(&between), "2 3 4");
}

#[test]
fn page_has_all_fields_of_an_event_and_its_time() {
    let server = TestServer::start();
    let begin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let id = server.post("/channels/a?event=n&id=mine&retry=7", "", "x\ny").json()["id"].clone();
    let page = page(&server, "");
    let event = &page["events"][0];
    let time = event["time"].as_str().expect("a time");
    let at = chrono::DateTime::parse_from_rfc3339(time).expect("RFC 3339").timestamp_millis();
    let at = Duration::from_millis(u64::try_from(at).unwrap());
    assert!(time.ends_with('Z') && at.abs_diff(begin) < Duration::from_secs(60), "{time}");
    let expected = serde_json::json!({
        "id": id, "own_id": "mine", "event": "n", "data": "x\ny", "retry": 7, "time": time,
    });
    assert_eq!(*event, expected);
    let ndjson = server.get("/channels/a?format=ndjson");
    assert_eq!(ndjson.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Value> =
        ndjson.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines, [serde_json::json!({ "channel": "a", "next": id, "more": false }), expected]);
    let accepts = "GET /channels/a HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n";
    assert_eq!(server.request(accepts).json(), page);
}

#[test]
fn time_of_publishing_is_the_same_after_a_restart() {
    let folder = Folder::new();
    let first = TestServer::with(with_store(folder.store()));
    publish(&first, "a", 0..3);
    let before = page(&first, "");
    drop(first);
    let second = TestServer::with(with_store(folder.store()));
    assert_eq!(page(&second, ""), before);
}

#[test]
fn page_reports_evicted_events_once() {
    let server = keeping(3);
    let ids = publish(&server, "a", 0..8);
    let first = page(&server, &format!("&since={}&limit=2", ids[1]));
    assert_eq!(data(&first), "5 6");
    assert_eq!(
        first["gap"],
        serde_json::json!({ "missed": 3, "from": ids[1], "to": ids[4] }),
        "{first}"
    );
    let next = page(&server, &format!("&since={}", first["next"].as_str().unwrap()));
    assert!(data(&next) == "7" && next.get("gap").is_none(), "{next}");
    // A page of the whole history says how many events are gone.
    assert_eq!(page(&server, "&limit=1")["gap"]["missed"], 5);
    let newest = page(&server, "&before=now&limit=2");
    assert!(newest["more"] == true && newest.get("gap").is_none(), "{newest}");
    let oldest = page(&server, &format!("&before={}", newest["previous"].as_str().unwrap()));
    assert_eq!((data(&oldest), &oldest["gap"]["missed"]), ("5".into(), &5.into()));
    let unknown = page(&server, "&last_event_id=gone");
    assert_eq!(data(&unknown), "5 6 7");
    assert_eq!(
        (&unknown["gap"]["missed"], &unknown["gap"]["from"]),
        (&Value::Null, &"gone".into())
    );
    server.registry.forget("a").unwrap();
    let gap = page(&server, &format!("&since={}", ids[6]));
    assert_eq!((data(&gap), &gap["gap"]["missed"]), (String::new(), &1.into()));
    let again = page(&server, &format!("&since={}", gap["next"].as_str().unwrap()));
    assert!(again.get("gap").is_none(), "{again}");
}

#[test]
fn channel_that_lost_nothing_has_no_gap() {
    let server = keeping(1);
    publish(&server, "removed", 0..3);
    server.registry.forget("removed").unwrap();
    let full = server.get("/channels/a?format=json");
    assert!(full.json().get("gap").is_none(), "{full:?}");
    assert!(!server.registry.list().iter().any(|channel| channel.name == "a"), "GET creates none");
}

#[test]
fn page_is_bounded_in_bytes() {
    let server = keeping(100);
    for letter in ["a", "b", "c"] {
        server.registry.publish("a", &Event::new(letter.repeat(40 * 1024))).unwrap();
    }
    let page = page(&server, "");
    assert_eq!((page["events"].as_array().unwrap().len(), &page["more"]), (1, &true.into()));
}

fn get(server: &TestServer, query: &str, headers: &str) -> Answer {
    server.request(&format!(
        "GET /channels/a?format=json{query} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"
    ))
}

#[test]
fn only_full_pages_between_fixed_ids_may_be_cached() {
    let server = keeping(100);
    let ids = publish(&server, "a", 0..5);
    server.post("/channels/a?id=mine", "", "x");
    let cached = |query: &str, headers: &str| {
        let answer = get(&server, query, headers);
        assert_eq!(answer.header("vary"), Some("Accept, Last-Event-ID"));
        let control = answer.header("cache-control").expect("always there").to_owned();
        if let Some(seconds) = control.strip_prefix("public, max-age=") {
            return (3_500..=3_600).contains(&seconds.parse::<u32>().unwrap());
        }
        assert_eq!(control, "private, no-cache", "{query}");
        false
    };
    let [one, last] = [&ids[0], &ids[4]];
    for query in [
        format!("&since={one}&limit=2"),
        format!("&last_event_id={one}&limit=2"),
        format!("&before={last}&limit=2"),
        format!("&since={one}&before={last}&limit=2"),
    ] {
        assert!(cached(&query, ""), "{query}");
        assert!(!cached(&query, &format!("Last-Event-ID: {one}\r\n")) || query.contains("before"));
    }
    for query in [
        String::new(),
        "&limit=2".into(),
        "&since=all&limit=2".into(),
        "&since=1h&limit=2".into(),
        "&before=now&limit=2".into(),
        "&before=mine&limit=2".into(),
        format!("&since={one}&limit=5"), // full, but an event may follow
        format!("&since={one}&limit=6"),
        "&since=7-1&limit=2".into(),
    ] {
        assert!(!cached(&query, ""), "{query}");
    }
    let tokens = Config {
        subscribe_token: Some("read-me".parse().unwrap()),
        anonymous: true,
        ..Config::default()
    };
    let server = TestServer::with(tokens);
    let ids = publish(&server, "a", 0..5);
    for headers in ["", "Authorization: Bearer read-me\r\n"] {
        let answer = get(&server, &format!("&since={}&limit=2", ids[0]), headers);
        let control = answer.header("cache-control").unwrap();
        assert!(control.starts_with("private, max-age="), "{control}");
        let vary = answer.header("vary").unwrap();
        assert_eq!(vary, "Accept, Last-Event-ID, Authorization, Cookie");
    }
}

#[test]
fn unchanged_page_gets_304_and_a_new_event_does_not() {
    let server = keeping(100);
    publish(&server, "a", 0..2);
    let answer = get(&server, "", "");
    let tag = answer.header("etag").expect("a tag").to_owned();
    let condition = format!("If-None-Match: {tag}\r\n");
    let unchanged = get(&server, "", &condition);
    assert_eq!((unchanged.status, &*unchanged.body), (304, ""));
    assert_eq!(unchanged.header("etag"), Some(&*tag));
    assert_eq!(get(&server, "", &format!("If-Match: {tag}\r\n")).status, 200);
    let lines = server.request(&format!(
        "GET /channels/a?format=ndjson HTTP/1.1\r\nHost: localhost\r\n{condition}\r\n"
    ));
    assert_eq!(lines.status, 200, "another format is another representation");
    publish(&server, "a", 2..3);
    assert_eq!(get(&server, "", &condition).status, 200);
    assert_eq!(get(&server, "", &format!("If-Match: {tag}\r\n")).status, 412);
    let head = server.head("HEAD /channels/a?format=json HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let whole = get(&server, "", "");
    for name in ["content-length", "content-type", "etag", "cache-control", "vary"] {
        assert_eq!(head.header(name), whole.header(name), "{name}");
    }
}

#[test]
fn page_needs_the_right_to_read_and_hides_private_events() {
    let locked = Config { subscribe_token: Some("read-me".parse().unwrap()), ..Config::default() };
    let server = TestServer::with(Config { anonymous: true, ..locked.clone() });
    publish(&server, "a", 0..1);
    let secret = [Event::new("secret").with_id("hidden").unwrap()];
    let update = Update { topics: &["a"], events: &secret, private: true, key: None };
    server.registry.publish_update(&update).unwrap();
    let all = get(&server, "", "Authorization: Bearer read-me\r\n").json();
    assert_eq!(data(&all), "0 secret");
    let public = page(&server, "&limit=1");
    assert_eq!((data(&public), &public["more"]), ("0".into(), &false.into()));
    assert_eq!(public["next"], public["events"][0]["id"], "the private event's id is not shown");
    assert_eq!(get(&server, "&before=hidden", "").status, 400);
    drop(server);
    let server = TestServer::with(locked);
    assert_eq!(get(&server, "", "").status, 401);
}

#[test]
fn bad_parameters_of_a_page_are_rejected() {
    let server = TestServer::start();
    for target in [
        "/channels/a?format=xml",
        "/channels/a*?format=json",
        "/channels?channel=a&format=json",
        "/channels/a?format=json&limit=0",
        "/channels/a?format=json&limit=1001",
        "/channels/a?format=json&before=unknown",
        "/channels/a?format=json&since=yesterday",
        "/channels/a?format=json&presence=ada",
    ] {
        let answer = server.get(target);
        assert_eq!(answer.status, 400, "{target}");
        answer.check_problem();
    }
}
