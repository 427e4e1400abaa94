//! The Mercure protocol over a socket: the requests of each generation and their responses.

mod current;
mod private;
mod subscriptions;
mod tokens;

use crate::common::jwt::{AUDIENCE, allowing, bearer};
use crate::common::{Answer, Process, Stream, TIMEOUT, TestServer, jwt, wait_until};
use threadcast::{Config, CorsOrigins, Mercure};

const HUB: &str = "/.well-known/mercure";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

fn config() -> Config {
    Config {
        mercure: Mercure::On,
        publish_key: Some(jwt::key()),
        subscribe_key: Some(jwt::key()),
        jwt_audience: Some(AUDIENCE.into()),
        anonymous: true,
        ..Config::default()
    }
}

fn open() -> TestServer {
    TestServer::with(Config { mercure: Mercure::On, ..Config::default() })
}

/// Publishes a form with a token that may publish to every topic.
fn publish(server: &TestServer, form: &str) -> Answer {
    let headers = format!("{FORM}{}", bearer(&allowing(&["*"], &[])));
    server.post(HUB, &headers, form)
}

fn id_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body.clone()
}

fn get(server: &TestServer, target: &str, headers: &str) -> Answer {
    server.request(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"))
}

#[test]
fn update_is_a_form_and_the_response_is_its_id() {
    let server = open();
    let mut stream = Stream::of(&server, &format!("{HUB}?match=https://example.com/a"), "");
    let answer = publish(&server, "topic=https://example.com/a&data=one%0Atwo&type=t&retry=10&x=y");
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    let event = stream.event();
    assert_eq!((event.id.as_deref(), event.data()), (Some(&*id_of(&answer)), "one\ntwo"));
    assert_eq!((event.name.as_deref(), event.retry.as_deref()), (Some("t"), Some("10")));
    let answer = publish(&server, "topic=https://example.com/a&id=urn:x&data=");
    assert_eq!(id_of(&answer), "urn:x");
    let event = stream.event();
    assert_eq!((event.id.as_deref(), event.data.as_deref()), (Some("urn:x"), Some("")));
}

#[test]
fn invalid_update_is_rejected() {
    let server = open();
    for (headers, form, status) in [
        (FORM, "data=x", 400),
        (FORM, "topic=", 400),
        (FORM, "topic=a&id=earliest", 400),
        (FORM, "topic=a&id=%23", 400),
        (FORM, "topic=a&retry=x", 400),
        ("Content-Type: application/json\r\n", "{\"topic\":\"a\"}", 415),
        ("", "topic=a", 415),
        (FORM, "topic=/.well-known/mercure/subscriptions/exact/a/b", 400),
        (FORM, "topic=a&topic=https://x/.well-known/%256Dercure/../mercure", 400),
    ] {
        let answer = server.post(HUB, headers, form);
        assert_eq!(answer.status, status, "{form}: {answer:?}");
        answer.check_problem();
    }
    let long = format!("topic={}", "x".repeat(2_000));
    assert_eq!(publish(&server, &long).status, 413);
    assert_eq!(publish(&server, &format!("topic=a&data={}", "x".repeat(70_000))).status, 413);
    let reserved = "/channels/%2F.well-known%2Fmercure%2Fsubscriptions%2Fx";
    assert_eq!(
        server.post(reserved, "", "forged").status,
        400,
        "threadcast's own route rejects it too"
    );
    let present = get(&server, &format!("{reserved}?presence=forged"), "");
    assert_eq!(present.status, 400, "presence rejects it too");
    assert!(server.registry.list().is_empty(), "nothing was published");
}

#[test]
fn topics_and_channels_are_the_same() {
    let server = open();
    let mut ours = Stream::of(&server, "/channels/news", "");
    let mut theirs = Stream::of(&server, &format!("{HUB}?topic=news"), "");
    publish(&server, "topic=news&data=theirs");
    assert_eq!(server.post("/channels/news", "", "ours").status, 200);
    for stream in [&mut ours, &mut theirs] {
        stream.expect_data(&["theirs", "ours"]);
    }
}

#[test]
fn each_matcher_type_selects_and_updates_arrive_once() {
    let server = open();
    let book = "https://example.com/books/7";
    for (query, matches) in [
        ("match=https://example.com/books/7", true),
        ("match_exact=https://example.com/books/7", true),
        ("match=https://example.com/books/:id", false),
        ("match_urlpattern=https://example.com/books/:id", true),
        ("match_urlpattern=https://example.com/authors/:id", false),
        ("topic=https://example.com/books/7", true),
        ("topic=https%3A%2F%2Fexample.com%2Fbooks%2F%7Bid%7D", true),
        ("topic=https%3A%2F%2Fexample.com%2Fauthors%2F%7Bid%7D", false),
        ("topic=alternate", true),
        ("match=*", true),
        ("topic=*", true),
        ("match_urlpattern=*", true),
        ("match=alternate&topic=*&match=https://example.com/books/7", true),
    ] {
        let mut stream = Stream::of(&server, &format!("{HUB}?{query}&match=last"), "");
        id_of(&publish(&server, &format!("topic={book}&topic=alternate&data=it")));
        id_of(&publish(&server, "topic=last&data=last"));
        let expected: &[&str] = if matches { &["it", "last"] } else { &["last"] };
        stream.expect_data(expected);
    }
}

#[test]
fn query_without_a_valid_matcher_is_rejected() {
    let server = open();
    for query in [
        "",
        "?",
        "?Match=a",
        "?match_regex=a",
        "?matches=a&match=a",
        "?match=",
        "?match=a%0D",
        "?x=y",
    ] {
        let answer = get(&server, &format!("{HUB}{query}"), "");
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        answer.check_problem();
    }
    let bad = get(&server, &format!("{HUB}?match=a&last_event_id=a%0D%0AX-Forged:%201"), "");
    assert_eq!((bad.status, bad.header("x-forged")), (400, None));
}

#[test]
fn stream_resumes_in_both_generations_and_states_its_start() {
    let server = open();
    let first = id_of(&publish(&server, "topic=a&data=1"));
    let supplied = id_of(&publish(&server, "topic=a&data=2&id=urn:two"));
    id_of(&publish(&server, "topic=a&data=3"));
    let (all, rest, last) = (&["1", "2", "3"][..], &["2", "3"][..], &["3"][..]);
    for (query, headers, expected, preceding) in [
        (format!("match=a&last_event_id={first}"), String::new(), rest, &*first),
        (format!("match=a&last_event_id={supplied}"), String::new(), last, &*supplied),
        ("match=a&last_event_id=earliest".into(), String::new(), all, "earliest"),
        ("match=a".into(), format!("Last-Event-ID: {first}\r\n"), rest, &*first),
        (
            "match=a&last_event_id=earliest".into(),
            format!("Last-Event-ID: {supplied}\r\n"),
            last,
            &*supplied,
        ),
        (format!("topic=a&lastEventID={first}"), String::new(), rest, &*first),
        (format!("topic=a&Last-Event-ID={first}"), String::new(), rest, &*first),
    ] {
        let mut stream = Stream::of(&server, &format!("{HUB}?{query}"), &headers);
        stream.expect_data(expected);
        let (ours, other) = if query.starts_with("topic") {
            ("last-event-id", "mercure-last-event-id")
        } else {
            ("mercure-last-event-id", "last-event-id")
        };
        assert_eq!(stream.head.header(ours), Some(preceding), "{query} {headers}");
        assert_eq!(stream.head.header(other), None, "{query}");
    }
    let stream = Stream::of(&server, &format!("{HUB}?match=a"), "");
    assert_eq!(stream.head.header("mercure-last-event-id"), None, "the request has no cursor");
    let mut stream = Stream::of(&server, &format!("{HUB}?match=a&last_event_id=urn:lost"), "");
    assert_eq!(stream.head.header("mercure-last-event-id"), Some("earliest"));
    assert!(stream.event().gap().is_some(), "the stream begins with a gap event");
}

#[test]
fn cursor_before_the_history_resumes_from_earliest() {
    let history = threadcast::History { events: 2, ..Default::default() };
    let history = threadcast::Histories::default().with("*", history);
    let server = TestServer::with(Config { mercure: Mercure::On, history, ..Config::default() });
    let ids =
        ["1", "2", "3", "4"].map(|data| id_of(&publish(&server, &format!("topic=a&data={data}"))));
    for (id, preceding) in [(&ids[0], "earliest"), (&ids[1], &*ids[1]), (&ids[3], &*ids[3])] {
        let stream = Stream::of(&server, &format!("{HUB}?match=a&last_event_id={id}"), "");
        assert_eq!(stream.head.header("mercure-last-event-id"), Some(preceding));
    }
}

#[test]
fn hub_paths_check_methods_and_allowed_origins() {
    let cors_origins = CorsOrigins::These(vec!["https://app.example".into()]);
    let server = TestServer::with(Config { cors_origins, ..config() });
    let send = |request: &str, headers: &str| {
        server.head(&format!("{request} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"))
    };
    let head = send(&format!("HEAD {HUB}?match=a&last_event_id=earliest"), "");
    assert_eq!((head.status, head.header("mercure-last-event-id")), (200, Some("earliest")));
    let wrong = send(&format!("DELETE {HUB}"), "");
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("GET, HEAD, POST, OPTIONS")));
    let origin = "Origin: https://app.example\r\n";
    let preflight = send(
        &format!("OPTIONS {HUB}"),
        &format!("{origin}Access-Control-Request-Method: POST\r\n"),
    );
    assert_eq!(preflight.header("access-control-allow-origin"), Some("https://app.example"));
    assert!(
        preflight
            .header("access-control-allow-headers")
            .is_some_and(|it| it.contains("Authorization"))
    );
    let stream = send(&format!("GET {HUB}?match=a"), origin);
    assert_eq!(stream.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(
        stream.header("access-control-expose-headers"),
        Some("Link, Mercure-Last-Event-ID, Last-Event-ID")
    );
    let foreign = send(&format!("GET {HUB}?match=a"), "Origin: https://evil.example\r\n");
    assert_eq!(foreign.header("access-control-allow-origin"), None);
    let page = send("GET /", "");
    assert_eq!(page.header("link"), Some("</.well-known/mercure>; rel=\"mercure\""));
    let metadata = server.get("/.well-known/oauth-protected-resource/.well-known/mercure").json();
    assert_eq!(metadata["resource"], AUDIENCE);
    assert!(metadata.get("mercure_subscriptions").is_none(), "{metadata}");
}

#[test]
fn hub_paths_are_404_without_their_flags() {
    let (server, hub) = (TestServer::start(), open());
    for path in [
        HUB,
        "/.well-known/mercure/subscriptions",
        "/.well-known/oauth-protected-resource/.well-known/mercure",
    ] {
        for method in ["GET", "POST"] {
            let send = |server: &TestServer, path: &str| {
                server.request(&format!(
                    "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
                ))
            };
            assert_eq!(send(&server, path).status, 404, "{path}");
            if path != HUB {
                assert_eq!(send(&hub, path).status, 404, "{path}: this path needs another flag");
            }
        }
    }
    assert_eq!(server.get("/").header("link"), None);
    assert_eq!(server.post("/channels/mercure", "", "a name like any other").status, 200);
}

#[test]
fn mercure_needs_no_extra_threads_or_descriptors() {
    let without = Process::with("");
    let with = Process::with(
        "--mercure --mercure-subscriptions --jwt-key-file tests/keys/ec.pub.pem --anonymous",
    );
    // Wait, because some threads start after the server has printed its address.
    wait_until(TIMEOUT, "Mercure adds no threads and no descriptors", || {
        without.threads_and_descriptors() == with.threads_and_descriptors()
    });
    assert_eq!(with.get(HUB).status, 400, "the hub exists");
    assert_eq!(without.get(HUB).status, 404, "the hub does not exist");
}
