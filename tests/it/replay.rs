//! Resuming: a client gets every event after its cursor, in order and once, or a gap event for
//! the events that are lost.

use std::time::Duration;

use crate::common::{Received, Stream, TestServer};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde_json::{Value, json};
use threadcast::{Config, Event, EventId, Histories, History, Limits, SlowClient};

fn publish(server: &TestServer, channel: &str, data: &str) -> String {
    server
        .registry
        .publish(channel, &Event::new(data))
        .expect("a valid channel name")
        .id
        .to_string()
}

/// Starts a server that keeps this many events for each channel.
fn keeping(events: usize, config: Config) -> TestServer {
    let history = Histories::all(History { events, bytes: 64 << 20, ..History::default() });
    TestServer::with(Config { history, ..config })
}

fn last_event_id(id: &str) -> String {
    format!("Last-Event-ID: {id}\r\n")
}

#[track_caller]
fn gap(stream: &mut Stream) -> (Option<String>, Value) {
    let event = stream.event();
    let gap = event.gap().unwrap_or_else(|| panic!("expected a gap, got {event:?}"));
    (event.id, gap)
}

#[test]
fn cursor_is_read_from_header_or_query() {
    let server = TestServer::start();
    let [one, two, _] = ["1", "2", "3"].map(|data| publish(&server, "a", data));
    for (query, header, expected) in [
        ("", String::new(), &[][..]),
        ("", last_event_id(&one), &["2", "3"]),
        (&format!("?last_event_id={one}"), String::new(), &["2", "3"]),
        (&format!("?since={one}"), String::new(), &["2", "3"]),
        ("?since=30s", String::new(), &["1", "2", "3"]),
        ("?since=2h", String::new(), &["1", "2", "3"]),
        ("?since=0s", String::new(), &[]),
        ("?since=all", String::new(), &["1", "2", "3"]),
        // The header takes precedence: a browser updates it, while the query stays as the page
        // has written it into the URL.
        (&format!("?last_event_id={one}&since=all"), last_event_id(&two), &["3"]),
        (&format!("?since=all&last_event_id={one}"), String::new(), &["2", "3"]),
        ("?since=all", last_event_id(&two), &["3"]),
        ("?since=all", last_event_id(""), &["1", "2", "3"]),
        (&format!("?last_event_id=&since={two}"), String::new(), &["3"]),
    ] {
        for target in [format!("/channels/a{query}"), format!("/channels/a*{query}")] {
            for mut stream in Stream::both(&server, &target, &header) {
                stream.first_frame();
                stream.expect_data(expected);
            }
        }
    }
}

/// No event is missing or repeated between the replay and the live stream.
#[test]
fn live_events_follow_the_replay_without_a_gap() {
    for (query, replayed) in [
        ("last_event_id=FIRST", &["2"][..]),
        ("since=all", &["1", "2"]),
        ("since=1h", &["1", "2"]),
        ("since=0s", &[]),
        ("", &[]),
    ] {
        let server = TestServer::start();
        let first = publish(&server, "a", "1");
        publish(&server, "a", "2");
        let query = query.replace("FIRST", &first);
        let mut stream = Stream::of(&server, &format!("/channels/a?{query}"), "");
        publish(&server, "b", "elsewhere");
        publish(&server, "a", "3");
        stream.expect_data(&[replayed, &["3"]].concat());
    }
}

#[test]
fn unknown_cursor_gets_a_gap_without_a_count() {
    let server = TestServer::start();
    let last = publish(&server, "a", "old");
    let id: EventId = last.parse().expect("a generated id");
    let future = EventId { n: id.n + 1_000, ..id }.to_string();
    for cursor in ["7-1", "0-0", "order-7", "ü", "all ", &future] {
        let encoded = percent_encode(cursor.as_bytes(), NON_ALPHANUMERIC);
        let mut ways = vec![(format!("/channels/a?last_event_id={encoded}"), String::new())];
        if cursor.parse::<EventId>().is_ok() {
            ways.push((format!("/channels/a?since={encoded}"), String::new()));
        }
        if !cursor.ends_with(' ') {
            ways.push(("/channels/a".into(), last_event_id(cursor)));
        }
        for (target, header) in ways {
            let mut stream = Stream::of(&server, &target, &header);
            let (id, data) = gap(&mut stream);
            let to = id.clone().expect("the gap's id is a cursor");
            let expected = json!({ "channel": "a", "missed": null, "from": cursor, "to": to });
            assert_eq!(data, expected, "{target} {header}");
            // A client that resumes with the gap's id gets each event once.
            let new = publish(&server, "a", "new");
            stream.expect(&format!("id: {new}\ndata: new"));
            let mut again = Stream::of(&server, "/channels/a", &last_event_id(&to));
            again.expect(&format!("id: {new}\ndata: new"));
        }
    }
}

#[test]
fn unknown_cursor_gets_a_gap_for_each_channel() {
    let server = TestServer::start();
    publish(&server, "a", "old");
    let mut stream = Stream::of(&server, "/channels?channel=b&channel=a&channel=c*", "");
    publish(&server, "a", "new");
    stream.expect_data(&["new"]);
    let target = "/channels?channel=b&channel=a&channel=c*&since=7-7";
    let mut stream = Stream::of(&server, target, "");
    let mut channels = [(); 3].map(|()| gap(&mut stream).1["channel"].to_string());
    channels.sort();
    assert_eq!(channels, ["\"a\"", "\"b\"", "\"c*\""]);
}

#[test]
fn client_supplied_id_is_sent_and_is_a_cursor() {
    for supplied in ["order-7", "Größe 1", "7", "a-1", "7-7-7"] {
        let server = TestServer::start();
        publish(&server, "a", "before");
        let event = Event::new("mine").with_id(supplied).expect("a valid client-supplied id");
        server.registry.publish("a", &event).expect("a valid channel name");
        publish(&server, "a", "after");
        let mut all = Stream::of(&server, "/channels/a?since=all", "");
        let seen: Vec<_> = [(); 3].iter().map(|()| all.event().id).collect();
        assert_eq!(seen[1].as_deref(), Some(supplied));
        let encoded = percent_encode(supplied.as_bytes(), NON_ALPHANUMERIC);
        for query in [format!("last_event_id={encoded}"), format!("lastEventId={encoded}")] {
            Stream::of(&server, &format!("/channels/a?{query}"), "").expect_data(&["after"]);
        }
        Stream::of(&server, "/channels/a", &last_event_id(supplied)).expect_data(&["after"]);
        Stream::of(&server, "/channels/*", &last_event_id(supplied)).expect_data(&["after"]);
    }
}

#[test]
fn several_channels_are_merged_in_id_order() {
    let server = TestServer::start();
    let channels = ["news", "chat/1", "chat/2", "other", "chat/ü"];
    let start = publish(&server, "news", "start");
    let expected: Vec<String> = (0..100)
        .filter_map(|n| {
            let channel = channels[n * 7 % channels.len()];
            publish(&server, channel, &n.to_string());
            (channel != "other").then(|| n.to_string())
        })
        .collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let target = format!("/channels?channel=chat/*&channel=news&last_event_id={start}");
    for mut stream in Stream::both(&server, &target, "") {
        stream.first_frame();
        let events: Vec<Received> = expected.iter().map(|_| stream.event()).collect();
        let data: Vec<&str> = events.iter().map(Received::data).collect();
        assert_eq!(data, expected);
        let ids: Vec<EventId> = events
            .iter()
            .map(|e| e.id.as_ref().expect("an id").parse().expect("a generated id"))
            .collect();
        assert!(ids.is_sorted(), "{ids:?}");
        // Any id is a cursor for all channels, so a client can resume from the middle.
        let mut rest = Stream::of(&server, &target, &last_event_id(&ids[49].to_string()));
        rest.expect_data(&expected[50..]);
    }
}

#[test]
fn since_all_never_begins_with_a_gap() {
    let server = keeping(2, Config::default());
    for n in 0..5 {
        publish(&server, "a", &format!("a{n}"));
        publish(&server, "b", &format!("b{n}"));
    }
    Stream::of(&server, "/channels/a?since=all", "").expect_data(&["a3", "a4"]);
    let kept = ["a3", "b3", "a4", "b4"];
    let mut both = Stream::of(&server, "/channels?channel=a&channel=b&since=all", "");
    let mut prefix = Stream::of(&server, "/channels/*?since=all", "");
    both.expect_data(&kept);
    prefix.expect_data(&kept);
    server.registry.forget("b").expect("there is no store");
    let mut rest = Stream::of(&server, "/channels/*?since=all", "");
    rest.expect_data(&["a3", "a4"]);
    let mut nothing = Stream::of(&server, "/channels/b?since=all", "");
    publish(&server, "b", "b5");
    for stream in [&mut both, &mut prefix, &mut rest, &mut nothing] {
        stream.expect_data(&["b5"]);
    }
}

#[test]
fn cursor_older_than_the_history_gets_a_gap_with_a_count() {
    let server = keeping(3, Config::default());
    let ids: Vec<String> = (0..10).map(|n| publish(&server, "a", &n.to_string())).collect();
    for n in 0..10 {
        let mut stream = Stream::of(&server, "/channels/a", &last_event_id(&ids[n]));
        let mut first = n + 1;
        if first < 7 {
            let expected = json!({
                "channel": "a", "missed": 7 - first, "from": ids[n], "to": ids[6],
            });
            assert_eq!(gap(&mut stream), (Some(ids[6].clone()), expected));
            first = 7;
        }
        let kept: Vec<String> = (first..10).map(|n| n.to_string()).collect();
        stream.expect_data(&kept.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn deleted_history_is_a_gap_for_unread_events() {
    let server = TestServer::start();
    let ids = ["1", "2", "3"].map(|data| publish(&server, "a", data));
    // Without this subscriber, the registry would drop the empty channel and its loss count.
    let _listener = Stream::of(&server, "/channels/a", "");
    let delete = "DELETE /channels/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(server.request(delete).status, 204);
    let mut late = Stream::of(&server, "/channels/a", &last_event_id(&ids[0]));
    let mut ready = Stream::of(&server, "/channels/a", &last_event_id(&ids[2]));
    let mut all = Stream::of(&server, "/channels/a?since=all", "");
    let data = json!({ "channel": "a", "missed": 2, "from": ids[0], "to": ids[2] });
    assert_eq!(gap(&mut late), (Some(ids[2].clone()), data));
    publish(&server, "a", "4");
    for stream in [&mut late, &mut ready, &mut all] {
        stream.expect_data(&["4"]);
    }
}

/// A client of two channels that is cut after each id still accounts for every event once: as
/// received or as reported lost.
#[test]
fn gap_is_sent_before_any_later_event() {
    let limits = Limits { heartbeat: Duration::from_millis(50), ..Limits::default() };
    let server = keeping(1, Config { limits, ..Config::default() });
    let mut cursor = publish(&server, "start", "");
    // The history has lost `b1` and `b2`, but still has `a1`, which is between them.
    let all = [("b", "b1"), ("a", "a1"), ("b", "b2"), ("b", "b3")];
    all.iter().for_each(|(channel, data)| drop(publish(&server, channel, data)));
    // The client reads up to one id, is cut, and resumes with that id.
    let (mut accounted, mut received) = (0, Vec::new());
    while accounted < all.len() as u64 {
        let target = "/channels?channel=a&channel=b";
        let mut stream = Stream::of(&server, target, &last_event_id(&cursor));
        cursor = loop {
            let event = stream.event();
            assert!(
                event.data.is_some(),
                "only {accounted} of 4 events are accounted for: {received:#?}"
            );
            accounted += event.gap().map_or(1, |gap| gap["missed"].as_u64().expect("a number"));
            received.push(event.clone());
            if let Some(id) = event.id {
                break id;
            }
        };
    }
    assert_eq!(accounted, all.len() as u64, "{received:#?}");
}

const BIG: usize = 60_000;

/// Publishes more than the socket buffers can hold, so that a client that does not read loses
/// events. Returns the number of published events.
fn flood(server: &TestServer) -> u64 {
    let event = Event::new("x".repeat(BIG));
    for _ in 0..200 {
        server.registry.publish("a", &event).expect("a valid channel name");
    }
    200
}

#[test]
fn slow_client_gets_a_gap_and_continues() {
    let server = keeping(3, Config::default());
    let mut slow = Stream::of(&server, "/channels/a", "");
    let published = flood(&server);
    let last = publish(&server, "a", "end");
    let (mut received, mut missed) = (0, 0);
    loop {
        let event = slow.event();
        match event.gap() {
            Some(gap) => missed += gap["missed"].as_u64().expect("a number"),
            None if event.data() == "end" => break assert_eq!(event.id, Some(last)),
            None => received += 1,
        }
    }
    assert!(received > 0 && missed > 0, "{received} received, {missed} missed");
    assert_eq!(received + missed, published);
}

#[test]
fn disconnected_slow_client_resumes_with_a_gap() {
    let limits = Limits { heartbeat: Duration::from_millis(50), ..Limits::default() };
    let slow_client = SlowClient::Disconnect;
    let server = keeping(3, Config { limits, slow_client, ..Config::default() });
    let mut slow = Stream::of(&server, "/channels/a", "");
    let mut cursor = publish(&server, "a", "first");
    assert_eq!(slow.event().data(), "first");
    slow.expect(":"); // a heartbeat shows that the client has read everything
    let published = flood(&server);
    let mut received = 0;
    while let Some(block) = slow.next() {
        let event = Received::parse(&block);
        assert!(event.gap().is_none(), "{event:?}");
        if event.data.is_some() {
            cursor = event.id.expect("an id");
            received += 1;
        }
    }
    let last = publish(&server, "a", "end");
    let mut back = Stream::of(&server, "/channels/a", &last_event_id(&cursor));
    let missed = gap(&mut back).1["missed"].as_u64().expect("a number");
    let kept = 2; // the history has these besides the last event
    assert_eq!(received + missed + kept, published);
    (0..kept).for_each(|_| assert_eq!(back.event().data().len(), BIG));
    back.expect(&format!("id: {last}\ndata: end"));
}

/// A client that is cut off before its first event can resume from the id in the first frame.
#[test]
fn client_cut_before_its_first_event_loses_nothing() {
    for query in ["", "?since=0s", "?since=1h", "?since=all", "?heartbeat=event"] {
        for version in ["1.0", "1.1"] {
            let server = TestServer::start();
            publish(&server, "other", "elsewhere");
            let target = format!("/channels/a{query}");
            let mut stream = Stream::open(&server, version, &target, "");
            let cursor = stream.first_frame().expect("a cursor");
            drop(stream);
            publish(&server, "a", "while away");
            let mut again = Stream::open(&server, version, &target, &last_event_id(&cursor));
            assert_eq!(again.first_frame().as_ref(), Some(&cursor));
            again.expect_data(&["while away"]);
        }
    }
}

#[test]
fn clients_that_need_it_get_their_cursor_as_an_event() {
    let server = TestServer::start();
    let id = publish(&server, "a", "x");
    let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    for agent in [firefox, "node", "python-requests/2.32.3", "Python/3.11 aiohttp/3.9"] {
        let header = format!("User-Agent: {agent}\r\n");
        for mut stream in Stream::both(&server, "/channels/a", &header) {
            stream.expect("retry: 3000");
            stream.expect(&format!("id: {id}\nevent: cursor\ndata: {{}}"));
        }
    }
}

/// Without a new cursor before the gap, a client that is cut there gets the gap again when it
/// reconnects.
#[test]
fn stream_that_begins_with_a_gap_has_no_cursor_before_it() {
    let server = TestServer::start();
    publish(&server, "a", "x");
    let mut stream = Stream::open(&server, "1.1", "/channels/a", &last_event_id("7-1"));
    assert_eq!(stream.first_frame(), None);
    assert!(stream.event().gap().is_some());
}

#[test]
fn cursor_is_read_under_every_name_in_use() {
    let server = TestServer::start();
    let first = publish(&server, "a", "1");
    publish(&server, "a", "2");
    for name in ["last_event_id", "lastEventId", "lastEventID", "last-event-id", "Last-Event-ID"] {
        for target in ["/channels/a?", "/channels?channel=a&"] {
            let target = format!("{target}{name}={first}&_cachebuster=1");
            Stream::of(&server, &target, "").expect_data(&["2"]);
        }
    }
    // The demo streams accept such names too, so that polyfills stop reconnecting after the end.
    for ended in ["/api/sse?lastEventId=9999", "/count?lastEventId=9"] {
        assert_eq!(server.get(ended).status, 204, "{ended}");
    }
}

#[test]
fn invalid_since_is_rejected() {
    let server = TestServer::start();
    for wrong in ["yesterday", "30", "order-7", "-1s", "all%20"] {
        let answer = server.get(&format!("/channels/a?since={wrong}"));
        assert_eq!(answer.status, 400, "{wrong}");
        assert!(answer.json()["detail"].as_str().is_some_and(|it| it.contains("30s")), "{wrong}");
    }
}

#[test]
fn id_that_no_client_can_send_back_is_rejected() {
    let server = TestServer::start();
    let long = "x".repeat(1_025);
    for id in [&long, "%20x", "x%20", "%09x", "a%7Fb", "a%C2%85b"] {
        let answer = server.post(&format!("/channels/a?id={id}"), "", "x");
        assert_eq!(answer.status, 400, "{id}: {answer:?}");
    }
    let longest = "x".repeat(1_024);
    assert_eq!(server.post(&format!("/channels/a?id={longest}"), "", "x").status, 200);
    let next = publish(&server, "a", "next");
    let mut stream = Stream::of(&server, "/channels/a", &last_event_id(&longest));
    stream.expect(&format!("id: {next}\ndata: next"));
}
