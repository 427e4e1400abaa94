//! Publishing over HTTP: the four body types, idempotency, presence, and rejected requests.

use crate::common::{CLOSED, OPEN, Stream, TestServer, check};
use serde_json::{Value, json};
use threadcast::{Config, Event, Mercure, StoreAt};

const TEXT: &str = "Content-Type: text/plain\r\n";
const JSON: &str = "Content-Type: application/json\r\n";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";
const MULTIPART: &str = "Content-Type: Multipart/Form-Data; boundary=b\r\n";
const NDJSON: &str = "Content-Type: application/x-ndjson\r\n";

/// JSON numbers that no machine type can hold or that have an unusual spelling.
const BIG: &str = r#"{"data":{"wei": 123456789012345678901234567890, "e": [-0, 1E+400, 0.10]}}"#;

/// Publishes an event, and returns the body of the response.
#[track_caller]
fn publish(server: &TestServer, target: &str, headers: &str, body: &str) -> Value {
    let answer = server.post(target, headers, body);
    assert_eq!(answer.status, 200, "{target} {headers}{body}: {answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.json()
}

fn request(method: &str, target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

#[test]
fn all_body_types_publish_the_same_event() {
    let server = TestServer::start();
    let mut stream = Stream::of(&server, "/channels/a", "");
    let object = r#"{"retry":1500,"event":"hello","data":"a\nb ü"}"#;
    let utf8 = "Content-Type: Application/JSON; charset=utf-8\r\n";
    let batch = "Content-Type: application/x-ndjson; charset=utf-8\r\n";
    for (query, headers, body) in [
        ("?event=hello&retry=1500", TEXT, "a\nb ü"),
        ("?event=hello&retry=1500", "", "a\r\nb ü"),
        ("?event=hello&retry=1500", "Content-Type: image/png\r\n", "a\rb ü"),
        ("", JSON, object),
        ("", utf8, object),
        ("", FORM, "event=hello&data=a%0Ab+%C3%BC&retry=1500"),
        ("", NDJSON, object),
        ("", batch, &format!("\n{object}\r\n\n")),
    ] {
        let answer = publish(&server, &format!("/channels/a{query}"), headers, body);
        let id = answer["id"].as_str().expect("an id");
        let mut expected = json!({ "id": id, "subscribers": 1 });
        if headers.contains("ndjson") {
            expected["count"] = 1.into();
        }
        assert_eq!(answer, expected, "{headers}");
        stream.expect(&format!("id: {id}\nevent: hello\nretry: 1500\ndata: a\ndata: b ü"));
    }
}

#[test]
fn data_is_sent_exactly_as_published() {
    let server = TestServer::start();
    let mut stream = Stream::of(&server, "/channels/a", "");
    for (headers, body, data) in [
        // `curl -d hello` sends this: the content type of a form, but a body without a field.
        (FORM, "hello", "hello"),
        (FORM, "50%25+more", "50%25+more"),
        (FORM, "", ""),
        (FORM, "data=", ""),
        (FORM, "data=a%3Db&", "a=b"),
        (TEXT, "", ""),
        (TEXT, " {\"data\":1} ", " {\"data\":1} "),
        (JSON, r#"{"data":" text "}"#, " text "),
        (JSON, r#"{"data":{"b":1, "a":[1.50, null]}}"#, r#"{"b":1,"a":[1.50,null]}"#),
        (JSON, r#"{"data":null,"id":null,"event":null,"retry":null}"#, "null"),
        (JSON, r#"{"data":"\u00fc\ud83d\ude00"}"#, "ü😀"),
        (NDJSON, r#"{"data":[1, 2]}"#, "[1,2]"),
        (JSON, BIG, r#"{"wei":123456789012345678901234567890,"e":[-0,1E+400,0.10]}"#),
        (NDJSON, BIG, r#"{"wei":123456789012345678901234567890,"e":[-0,1E+400,0.10]}"#),
        (JSON, "{\"data\":\n{\t\"a \\\" b\" : 1}}", r#"{"a \" b":1}"#),
        (JSON, "\u{feff}{\"data\":1}", "1"),
        (NDJSON, "\u{feff}{\"data\":2}\n", "2"),
    ] {
        let id = publish(&server, "/channels/a", headers, body)["id"].to_string();
        stream.expect(&format!("id: {}\ndata: {data}", id.trim_matches('"')));
    }
    let whole = "x".repeat(64 * 1024);
    publish(&server, "/channels/a", TEXT, &whole);
    assert_eq!(stream.event().data(), whole, "64 KiB is allowed");
}

#[test]
fn chunked_body_is_published_whole() {
    let server = TestServer::start();
    let mut stream = Stream::of(&server, "/channels/a%2Fb%20%C3%BC", "");
    let head = "POST /channels/a%2fb%20ü HTTP/1.1\r\nHost: localhost\r\n";
    let body = "Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n4\r\n two\r\n0\r\n\r\n";
    check(&server, format!("{head}{body}").replace('ü', "%C3%BC"), 200, OPEN);
    assert_eq!(stream.event().data(), "one two");
}

#[test]
fn batch_has_consecutive_ids_and_returns_the_last() {
    let server = TestServer::start();
    let mut stream = Stream::of(&server, "/channels/a", "");
    let lines: Vec<String> = (0..1_000).map(|n| json!({ "data": n }).to_string()).collect();
    let answer = publish(&server, "/channels/a", NDJSON, &lines.join("\n"));
    let ids: Vec<u64> = (0..1_000)
        .map(|n| {
            let event = stream.event();
            assert_eq!(event.data(), n.to_string());
            let id = event.id.expect("an id");
            if n == 999 {
                assert_eq!(answer, json!({ "id": id, "subscribers": 1, "count": 1_000 }));
            }
            id.split_once('-').expect("two numbers").1.parse().expect("a number")
        })
        .collect();
    assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]));
}

/// Checks the status of each rejected request, and a part of its detail.
#[test]
fn invalid_publish_is_rejected_with_a_reason() {
    let server = TestServer::start();
    let mut stream = Stream::of(&server, "/channels/*", "");
    let post = |target: &str, headers: &str, body: &[u8]| request("POST", target, headers, body);
    let large = "x".repeat(65 * 1024);
    let large_line = format!("{{\"data\":1}}\n{{\"data\":\"{large}\"}}");
    let (a, long) = ("/channels/a", "n".repeat(1_025));
    // The server must reject this request by its Content-Length, before the body arrives.
    let too_many =
        format!("POST {a} HTTP/1.1\r\nHost: localhost\r\n{NDJSON}Content-Length: 1048577\r\n\r\n");
    let (header, key) = (format!("{TEXT}Idempotency-Key: {long}\r\n"), "Idempotency-Key:\r\n");
    for (request, status, part) in [
        (post("/channels/a?event=x%0Ay", TEXT, b"no"), 400, "`event` must not contain CR"),
        (post("/channels/a?event=x%0Dy", TEXT, b"no"), 400, "`event`"),
        (post(a, JSON, br#"{"data":1,"event":"x\ny"}"#), 400, "`event`"),
        (post(a, FORM, b"data=1&event=x%0Ay"), 400, "`event`"),
        (
            post(a, NDJSON, b"{\"data\":1}\n{\"data\":2,\"event\":\"x\\r\"}"),
            400,
            "line 2: the field `event`",
        ),
        (post("/channels/a?id=x%00y", TEXT, b"no"), 400, "`id` must not contain CR, LF or NUL"),
        (post("/channels/a?id=x%0Ay", TEXT, b"no"), 400, "`id`"),
        (post(a, JSON, br#"{"data":1,"id":"\u0000"}"#), 400, "`id`"),
        (post("/channels/a?id=7-7", TEXT, b"no"), 400, "<digits>-<digits>"),
        (post(a, JSON, br#"{"data":1,"id":"7-7"}"#), 400, "<digits>-<digits>"),
        (post("/channels/a?id=", TEXT, b"no"), 400, "`id` must not be empty"),
        (post(a, JSON, br#"{"data":1,"id":7}"#), 400, "`id` must be a string"),
        (post("/channels/a?retry=1e3", TEXT, b"no"), 400, "`retry`"),
        (post("/channels/a?retry=-1", TEXT, b"no"), 400, "`retry`"),
        (post("/channels/a?retry=99999999999999999999", TEXT, b"no"), 400, "`retry`"),
        (post(a, JSON, br#"{"data":1,"retry":1.5}"#), 400, "`retry`"),
        (post(a, JSON, br#"{"data":1,"retry":"1"}"#), 400, "`retry`"),
        (post(a, JSON, b"{\"data\":1,\n \"id\": }"), 400, "line 2 column 8"),
        (post(a, JSON, br#"{"data":"no""#), 400, "line 1 column 12"),
        (post(a, JSON, b""), 400, "not JSON"),
        (post(a, JSON, b"{\"data\":\"\xff\"}"), 400, "not JSON"),
        (post(a, JSON, b"[]"), 400, "an object"),
        (post(a, JSON, b"{}"), 400, "no field `data`"),
        (post(a, JSON, br#"{"data":1,"name":"x"}"#), 400, "\"name\""),
        (post(a, FORM, b"text=no"), 400, "no field `data`"),
        (post(a, FORM, b"data=no&evnt=b"), 400, "\"evnt\""),
        (post(a, FORM, b"temp=21&data=no"), 400, "\"temp\""),
        (post(a, FORM, b"data=no&data=no"), 400, "`data` is there twice"),
        (post(a, MULTIPART, b"--b\r\n\r\nno\r\n--b--\r\n"), 415, "as curl -d does"),
        (post(a, TEXT, b"\xff"), 400, "UTF-8"),
        (post(a, "", b"\xc3"), 400, "UTF-8"),
        (post(a, FORM, b"hell\xf6"), 400, "UTF-8"),
        (post(a, NDJSON, b"{\"data\":1}\n\n{\"data\":2\n{\"data\":3}"), 400, "line 3: not JSON"),
        (post(a, NDJSON, b"{\"data\":1}\n{\"data\":\"\xff\"}"), 400, "line 2: not JSON"),
        (post(a, NDJSON, b""), 400, "no event"),
        (post(a, NDJSON, b"\n\r\n \n"), 400, "no event"),
        (
            post(a, NDJSON, large_line.as_bytes()),
            413,
            "line 2: the data is longer than 65536 bytes (--event-limit)",
        ),
        (too_many.into(), 413, "1048576 bytes (for NDJSON)"),
        (post(a, TEXT, large.as_bytes()), 413, "65536 bytes (--body-limit)"),
        (post(a, JSON, format!("{{\"data\":\"{large}\"}}").as_bytes()), 413, "(--body-limit)"),
        (post("/channels/chat*", TEXT, b"no"), 400, "`*`"),
        (post("/channels/*", TEXT, b"no"), 400, "`*`"),
        (post("/channels/chat%2A", TEXT, b"no"), 400, "`*`"),
        (post("/channels/", TEXT, b"no"), 400, "1 to 1,024 bytes"),
        (post(&format!("/channels/{long}"), TEXT, b"no"), 400, "1 to 1,024 bytes"),
        (post("/channels/%ff", TEXT, b"no"), 400, "UTF-8"),
        (post("/channels/a%00", TEXT, b"no"), 400, "NUL"),
        (post("/channels/a%2", TEXT, b"no"), 400, "%"),
        (post(a, &header, b"no"), 400, "Idempotency-Key"),
        (post(a, key, b"no"), 400, "Idempotency-Key"),
        (format!("POST {a} HTTP/1.1\r\nHost: localhost\r\n\r\n").into(), 411, "Content-Length"),
        (format!("POST {a} HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\n").into(), 411, "body"),
    ] {
        let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
        let mut client = server.connect();
        client.send(&request);
        let answer = client.answer();
        assert_eq!(answer.status, status, "{shown} {answer:?}");
        answer.check_problem();
        let detail = answer.json()["detail"].to_string();
        assert!(detail.replace("\\\"", "\"").contains(part), "{shown} {detail}");
    }
    let id = publish(&server, a, TEXT, "yes")["id"].to_string();
    stream.expect(&format!("id: {}\ndata: yes", id.trim_matches('"')));
    let channels = server.get("/channels").json();
    assert_eq!(channels["channels"].as_array().map(Vec::len), Some(1), "{channels}");
}

/// Streams are UTF-8. The server rejects other bytes and never replaces them.
#[test]
fn invalid_utf_8_in_escapes_is_rejected_everywhere() {
    let server = TestServer::start();
    for (target, headers, body) in [
        ("/channels/a", FORM, "data=%ff"),
        ("/channels/a", FORM, "data=x&event=%ff"),
        ("/channels/a?event=%ff", TEXT, "x"),
        ("/channels/a?id=%ff", TEXT, "x"),
    ] {
        let answer = server.post(target, headers, body);
        assert_eq!(answer.status, 400, "{target} {headers}{body}: {answer:?}");
    }
    for query in ["presence=%ff", "last_event_id=%ff", "since=%ff"] {
        let get = format!("GET /channels/a?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(server.head(&get).status, 400, "{query}");
    }
}

#[test]
fn connection_closes_only_if_the_body_was_not_read() {
    let server = TestServer::start();
    let large = "x".repeat(65 * 1024);
    check(&server, request("POST", "/channels/a", TEXT, large.as_bytes()), 413, CLOSED);
    check(&server, "POST /channels/a HTTP/1.1\r\nHost: localhost\r\n\r\n", 411, CLOSED);
    check(&server, request("POST", "/channels/a", JSON, b"{"), 400, OPEN);
    check(&server, request("POST", "/channels/a*", TEXT, b"no"), 400, OPEN);
}

#[test]
fn request_repeated_with_its_key_is_published_once() {
    let server = TestServer::start();
    let mut stream = Stream::of(&server, "/channels/a", "");
    let key = |key: &str| format!("{TEXT}Idempotency-Key: {key}\r\n");
    let first = publish(&server, "/channels/a", &key("k"), "1");
    let _second = Stream::of(&server, "/channels/a", "");
    assert_eq!(publish(&server, "/channels/a", &key("k"), "1"), first);
    assert_ne!(publish(&server, "/channels/b", &key("k"), "1")["id"], first["id"]);
    publish(&server, "/channels/a", &key("K"), "2");
    publish(&server, "/channels/a", TEXT, "3");
    let batch = "{\"data\":4}\n{\"data\":5}";
    let with_key = format!("{NDJSON}Idempotency-Key: batch ü\r\n");
    let first = publish(&server, "/channels/a", &with_key, batch);
    assert_eq!(first["count"], 2);
    assert_eq!(publish(&server, "/channels/a", &with_key, batch), first);
    publish(&server, "/channels/a", TEXT, "end");
    stream.expect_data(&["1", "2", "3", "4", "5", "end"]);
}

/// Publishes with the key `k`. Repeating `first` returns the same response; `other` is rejected.
#[track_caller]
fn check_key(server: &TestServer, target: &str, headers: &str, first: &str, other: &str) {
    let headers = format!("{headers}Idempotency-Key: k\r\n");
    let answer = server.post(target, &headers, first);
    assert_eq!(answer.status, 200, "{answer:?}");
    let rejected = server.post(target, &headers, other);
    assert_eq!(rejected.status, 422, "{rejected:?}");
    rejected.check_problem();
    assert!(rejected.body.contains("send a new key"), "{rejected:?}");
    let again = server.post(target, &headers, first);
    assert_eq!((again.status, again.body), (200, answer.body));
}

#[test]
fn key_repeated_with_another_body_is_422() {
    let server = TestServer::with(Config { mercure: Mercure::On, ..Config::default() });
    let mut stream = Stream::of(&server, "/channels/*", "");
    check_key(&server, "/channels/a", TEXT, "1", "2");
    check_key(&server, "/channels/b", JSON, r#"{"data":"2"}"#, r#"{"data":"2","event":"x"}"#);
    check_key(&server, "/channels/c", FORM, "data=3", "data=3&id=x");
    check_key(&server, "/channels/d", NDJSON, "{\"data\":4}\n{\"data\":5}", "{\"data\":4}");
    let hub = "/.well-known/mercure";
    check_key(&server, hub, FORM, "topic=e&data=6", "topic=e&data=7");
    let private = format!("{FORM}Idempotency-Key: k\r\n");
    assert_eq!(server.post(hub, &private, "topic=e&data=6&private=on").status, 422);
    // With the same key, the same event in another body type counts as the same body.
    let text = format!("{TEXT}Idempotency-Key: k\r\n");
    assert_eq!(server.post("/channels/b", &text, "2").status, 200);
    publish(&server, "/channels/a", TEXT, "end");
    stream.expect_data(&["1", "2", "3", "4", "5", "6", "end"]);
}

#[test]
fn idempotency_key_survives_a_restart() {
    let name = format!("threadcast-key-{}.redb", std::process::id());
    let path = std::env::temp_dir().join(name);
    let config = || Config { store: Some(StoreAt::File(path.clone())), ..Config::default() };
    let first = TestServer::with(config());
    check_key(&first, "/channels/a", TEXT, "1", "2");
    drop(first);
    let second = TestServer::with(config());
    check_key(&second, "/channels/a", TEXT, "1", "2");
    let mut stream = Stream::of(&second, "/channels/a?since=all", "");
    publish(&second, "/channels/a", TEXT, "end");
    stream.expect_data(&["1", "end"]);
    drop((stream, second));
    std::fs::remove_file(&path).expect("the store exists");
}

/// The batch ends with an event that has already been published with the same id.
#[test]
fn batch_with_a_key_and_a_known_id_is_published_once() {
    let server = TestServer::start();
    let mut stream = Stream::of(&server, "/channels/a", "");
    publish(&server, "/channels/a?id=order-7", TEXT, "order");
    let batch = "{\"data\":\"new\"}\n{\"data\":\"order\",\"id\":\"order-7\"}";
    let with_key = format!("{NDJSON}Idempotency-Key: k\r\n");
    let first = publish(&server, "/channels/a", &with_key, batch);
    assert_eq!(publish(&server, "/channels/a", &with_key, batch), first);
    publish(&server, "/channels/a", TEXT, "end");
    stream.expect_data(&["order", "new", "end"]);
}

#[test]
fn client_supplied_id_is_returned_and_published_once() {
    let server = TestServer::start();
    let mut stream = Stream::of(&server, "/channels/a", "");
    let first = publish(&server, "/channels/a?id=%C3%BC%201", TEXT, "one");
    let id = first["id"].as_str().expect("an id").to_owned();
    assert_eq!(first, json!({ "id": id, "own_id": "ü 1", "subscribers": 1 }));
    for (target, headers, body) in [
        ("/channels/a?id=%C3%BC%201", TEXT, "another"),
        ("/channels/a", JSON, r#"{"data":"one","id":"ü 1"}"#),
        ("/channels/a", FORM, "data=one&id=%C3%BC+1"),
    ] {
        assert_eq!(publish(&server, target, headers, body), first, "{headers}");
    }
    let elsewhere = publish(&server, "/channels/b?id=%C3%BC%201", TEXT, "one");
    assert_ne!(elsewhere["id"], first["id"], "an id is unique within its channel only");
    publish(&server, "/channels/a", TEXT, "end");
    stream.expect("id: ü 1\ndata: one");
    assert_eq!(stream.event().data(), "end");
}

/// In the article's chat, subscribers get an event when a user connects or disconnects.
#[test]
fn user_is_present_until_their_last_stream_ends() {
    let server = TestServer::start();
    let mut watcher = Stream::of(&server, "/channels/chat", "");
    let check_present = |expected: Value| {
        let answer = server.get("/channels/chat/subscribers");
        assert_eq!((answer.status, answer.json()), (200, expected));
    };
    check_present(json!({ "channel": "chat", "subscribers": 1, "present": [] }));
    let one = Stream::of(&server, "/channels/chat?presence=Ada%20%C3%BC", "");
    let two = Stream::of(&server, "/channels?channel=chat&channel=x*&presence=Ada+%C3%BC", "");
    let _bob = Stream::of(&server, "/channels/chat?presence=bob", "");
    check_present(json!({
        "channel": "chat", "subscribers": 4,
        "present": [{ "username": "Ada ü", "streams": 2 }, { "username": "bob", "streams": 1 }],
    }));
    let mut expect = |name: &str, username: &str| {
        let event = std::iter::repeat_with(|| watcher.event())
            .find(|event| event.name.is_some())
            .expect("the iterator is infinite");
        assert_eq!(event.name.as_deref(), Some(name));
        let data: Value = serde_json::from_str(event.data()).expect("JSON");
        let time = data["time"].as_str().expect("a time").to_owned();
        assert!(time.len() == 8 && time.split(':').count() == 3, "{time}");
        assert_eq!(event.data(), json!({ "username": username, "time": time }).to_string());
    };
    expect("userconnect", "Ada ü");
    expect("userconnect", "bob");
    drop((one, two));
    // The server notices a disconnect at the latest when it next writes, so publish.
    let gone = || server.registry.present("chat").iter().all(|(name, _)| name != "Ada ü");
    let started = std::time::Instant::now();
    while !gone() {
        assert!(started.elapsed() < crate::common::TIMEOUT, "a disconnected user is still present");
        server.registry.publish("chat", &Event::new("?")).expect("a valid channel name");
        std::thread::yield_now();
    }
    expect("userdisconnect", "Ada ü");
    check_present(json!({
        "channel": "chat", "subscribers": 2,
        "present": [{ "username": "bob", "streams": 1 }],
    }));
    for bad in ["", "a%0Ab", "%00", "%7F", &"x".repeat(257)] {
        let answer = server.get(&format!("/channels/chat?presence={bad}"));
        assert_eq!(answer.status, 400, "{bad}");
        assert!(answer.body.contains("presence"), "{answer:?}");
    }
    let head = "HEAD /channels/chat?presence=eve HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(server.head(head).status, 200);
    assert_eq!(server.registry.present("chat").len(), 1, "HEAD makes no user present");
}

#[test]
fn channels_are_listed_and_histories_deleted() {
    let server = TestServer::start();
    assert_eq!(server.get("/channels").json(), json!({ "channels": [] }));
    publish(&server, "/channels/b", TEXT, "1");
    let last = publish(&server, "/channels/b", TEXT, "2")["id"].clone();
    let _listener = Stream::of(&server, "/channels?channel=a&channel=b*", "");
    let channels = server.get("/channels").json();
    let bytes = channels["channels"][1]["bytes"].as_u64().expect("a number");
    assert!(bytes > 20, "{channels}");
    let a = json!({ "name": "a", "subscribers": 1, "events": 0, "bytes": 0, "last_id": null });
    let b = json!({
        "name": "b", "subscribers": 1, "events": 2, "bytes": bytes, "last_id": last,
    });
    assert_eq!(channels, json!({ "channels": [a, b] }));

    let delete = |name: &str| server.request(&request("DELETE", name, "", b""));
    let answer = delete("/channels/b");
    assert_eq!((answer.status, &*answer.body), (204, ""));
    assert_eq!(delete("/channels/c").status, 404);
    assert_eq!(server.get("/channels").json()["channels"][1]["events"], 0);
}

#[test]
fn channel_beyond_the_maximum_is_507_and_not_created() {
    for (max_channels, config) in
        [(10_000, Config::default()), (2, Config { max_channels: 2, ..Config::default() })]
    {
        let server = TestServer::with(config);
        for n in 0..max_channels {
            server
                .registry
                .publish(&format!("c{n}"), &Event::new("x"))
                .expect("a valid channel name");
        }
        let new = request("POST", "/channels/new", TEXT, b"no");
        let answer = check(&server, &new, 507, OPEN);
        assert!(answer.body.contains("--max-channels"), "{answer:?}");
        assert_eq!(server.get("/channels/new").status, 507);
        publish(&server, "/channels/c0", TEXT, "existing channels still work");
        let list = server.get("/channels").json();
        assert_eq!(list["channels"].as_array().map(Vec::len), Some(max_channels));
        // A deleted history leaves an empty channel, which makes room for a new channel.
        let delete = request("DELETE", "/channels/c1", "", b"");
        assert_eq!(server.request(&delete).status, 204);
        publish(&server, "/channels/new", TEXT, "yes");
        assert_eq!(server.request(&new).status, 200);
    }
}
