//! The current generation of the protocol (draft-dunglas-mercure-08, as of August 2026), and how
//! 0.x differs from it.

use serde_json::{Value, json};
use threadcast::{Config, Event, Mercure};

use super::{FORM, HUB, config, get, id_of, open, publish};
use crate::common::jwt::{
    AUDIENCE, DETAIL, ISSUER, allowing, bearer, current, detailed, in_seconds,
};
use crate::common::{Stream, TestServer, jwt};

/// A token of the current generation that permits everything.
fn all() -> String {
    detailed(&["publish", "subscribe"], &json!([{ "match": "*" }]))
}

#[test]
fn reserved_topics_and_types_are_rejected() {
    let server = TestServer::with(config());
    for token in [all(), allowing(&["*"], &["*"])] {
        for (form, detail) in [
            ("topic=/.well-known/mercure", "reserved for the hub"),
            ("topic=a&topic=http:mercure/subscriptions/exact/a/b", "reserved for the hub"),
            ("topic=https://hub.example/.well-known/mercure/x", "reserved for the hub"),
            ("topic=a&type=mercure", "publish with another type"),
            ("topic=*", "reserved"),
        ] {
            let answer = server.post(HUB, &format!("{FORM}{}", bearer(&token)), form);
            assert_eq!(answer.status, 400, "{form}: {answer:?}");
            assert_eq!(answer.header("www-authenticate"), None, "{form}");
            let found = answer.json()["detail"].to_string();
            assert!(found.contains(detail), "{form}: {found}");
        }
        let headers = bearer(&token);
        let ndjson = format!("{headers}Content-Type: application/x-ndjson\r\n");
        for (target, headers, body) in [
            ("/channels/a?event=mercure", &headers, "forged"),
            ("/channels/a", &ndjson, "{\"data\":1}\n{\"data\":2,\"event\":\"mercure\"}"),
            ("/channels/%2F.well-known%2Fmercure%2Fx", &headers, "forged"),
        ] {
            let answer = server.post(target, headers, body);
            assert_eq!(answer.status, 400, "{target}: {answer:?}");
        }
    }
    assert!(server.registry.list().is_empty(), "nothing was published");
    assert_eq!(TestServer::start().post("/channels/a?event=mercure", "", "x").status, 200);
}

#[test]
fn more_than_100_topics_are_rejected() {
    let server = open();
    assert_eq!(publish(&server, &"topic=a&".repeat(100)).status, 200);
    assert_eq!(publish(&server, &"topic=a&".repeat(101)).status, 413);
}

#[test]
fn only_0x_tokens_are_accepted_in_the_url() {
    let server = TestServer::with(Config { anonymous: false, ..config() });
    let status = |query: &str| get(&server, &format!("{HUB}?{query}"), "");
    for token in [all(), allowing(&["*"], &["*"])] {
        let ignored = status(&format!("match=a&access_token={token}"));
        assert_eq!(ignored.status, 401);
        let challenge = ignored.header("www-authenticate").expect("a challenge");
        assert!(!challenge.contains("error="), "treated like no token: {challenge}");
    }
    let rejected = status(&format!("match=a&authorization={}", all()));
    assert_eq!(rejected.status, 401);
    assert!(rejected.header("www-authenticate").is_some_and(|it| it.contains("invalid_token")));
    let older = allowing(&["*"], &["*"]);
    drop(Stream::of(&server, &format!("{HUB}?match=a&authorization={older}"), ""));
    drop(Stream::of(&server, &format!("{HUB}?match=a&access_token=x"), &bearer(&all())));
    let by_query =
        |token: &str| server.post(&format!("{HUB}?authorization={token}"), FORM, "topic=a").status;
    assert_eq!((by_query(&all()), by_query(&older)), (401, 200));
}

#[test]
fn metadata_lists_the_supported_features() {
    let metadata = |mercure| {
        let server = TestServer::with(Config { mercure, ..config() });
        server.get("/.well-known/oauth-protected-resource/.well-known/mercure").json()
    };
    let mut expected = json!({
        "resource": AUDIENCE,
        "authorization_details_types_supported": ["https://mercure.rocks/authorization-detail"],
        "bearer_methods_supported": ["header"],
        "mercure_cookie": "__Secure-mercure_access_token",
        "mercure_matcher_types_supported": ["exact", "urlpattern"],
    });
    assert_eq!(metadata(Mercure::On), expected);
    expected["mercure_subscriptions"] = true.into();
    assert_eq!(metadata(Mercure::WithSubscriptions), expected);
}

#[test]
fn update_on_two_topics_needs_both_and_reaches_either() {
    let server = TestServer::with(config());
    let (book, alternate) = ("https://example.com/books/1", "https://example.com/users/42/books/1");
    let reader = detailed(
        &["subscribe"],
        &json!([{ "match": "https://example.com/users/42/*", "match_type": "urlpattern" }]),
    );
    let books = format!("{HUB}?match_urlpattern=https://example.com/books/:id");
    let mut stream = Stream::of(&server, &books, &bearer(&reader));
    let form = |data| format!("topic={book}&topic={alternate}&private=on&data={data}");
    let post = |topics: &Value, data| {
        let headers = format!("{FORM}{}", bearer(&detailed(&["publish"], topics)));
        server.post(HUB, &headers, &form(data)).status
    };
    assert_eq!(post(&json!([{ "match": book }]), "one-permission"), 403);
    assert_eq!(post(&json!([{ "match": book }, { "match": alternate }]), "both"), 200);
    stream.expect_data(&["both"]);
}

#[test]
fn repeated_id_resolves_to_its_earliest_update() {
    let server = open();
    id_of(&publish(&server, "topic=a&data=1"));
    id_of(&publish(&server, "topic=b&data=first&id=urn:x"));
    id_of(&publish(&server, "topic=a&data=2"));
    id_of(&publish(&server, "topic=a&data=again&id=urn:x"));
    id_of(&publish(&server, "topic=a&data=3"));
    // Create more channels than the server scans for the id in one step.
    for n in 0..300 {
        server.registry.publish(&format!("a{n}"), &Event::new("x")).expect("the registry has room");
    }
    // The stream resumes after the earliest update with this id in the whole hub, even if that
    // update is in a topic that the stream does not select.
    for (query, expected) in [
        ("match=a", &["2", "again", "3"][..]),
        ("match=b&match=a", &["2", "again", "3"]),
        ("match=c&match=a", &["2", "again", "3"]),
    ] {
        let mut stream = Stream::of(&server, &format!("{HUB}?{query}&last_event_id=urn:x"), "");
        assert_eq!(stream.head.header("mercure-last-event-id"), Some("urn:x"), "{query}");
        stream.expect_data(expected);
    }
}

#[test]
fn private_update_elsewhere_is_not_a_cursor_for_others() {
    let server = TestServer::with(config());
    id_of(&publish(&server, "topic=b&data=secret&id=urn:x&private=on"));
    id_of(&publish(&server, "topic=a&data=1"));
    let target = format!("{HUB}?match=a&last_event_id=urn:x");
    let anonymous = Stream::of(&server, &target, "");
    assert_eq!(anonymous.head.header("mercure-last-event-id"), Some("earliest"));
    let mut reader = Stream::of(&server, &target, &bearer(&all()));
    assert_eq!(reader.head.header("mercure-last-event-id"), Some("urn:x"));
    reader.expect_data(&["1"]);
}

#[test]
fn relative_patterns_resolve_against_the_audience() {
    let server = TestServer::with(config());
    for (pattern, topic, matches) in [
        ("/books/:id", "/books/1", true),
        ("/books/:id", "https://hub.example/books/1", true),
        ("/books/:id", "https://localhost/books/1", false),
        ("https://hub.example/books/:id", "/books/1", true),
        ("https://other.example/books/:id", "/books/1", false),
    ] {
        let mut stream =
            Stream::of(&server, &format!("{HUB}?match_urlpattern={pattern}&match=end"), "");
        id_of(&publish(&server, &format!("topic={topic}&data=it")));
        id_of(&publish(&server, "topic=end&data=end"));
        stream.expect_data(if matches { &["it", "end"] } else { &["end"] });
        let token =
            detailed(&["publish"], &json!([{ "match": pattern, "match_type": "urlpattern" }]));
        let headers = format!("{FORM}{}", bearer(&token));
        let answer = server.post(HUB, &headers, &format!("topic={topic}&data=x"));
        assert_eq!(answer.status, if matches { 200 } else { 403 }, "{pattern} {topic}");
    }
}

#[test]
fn without_audience_patterns_resolve_against_the_host() {
    let trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    let server = TestServer::with(Config {
        mercure: Mercure::On,
        hosts: vec!["a.example".into(), "b.example".into()],
        publish_key: Some(jwt::key()),
        trusted_proxies,
        ..Config::default()
    });
    let stream = |host: &str, headers: &str, pattern: &str| {
        let mut client = server.connect();
        client.send(&format!(
            "GET {HUB}?match_urlpattern={pattern}&match=end HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"
        ));
        assert_eq!(client.head().status, 200, "{host}");
        client
    };
    let https = "X-Forwarded-Proto: https\r\n";
    let mut streams = [
        (stream("a.example", "", "/books/:id"), &["http-a", "relative"][..]),
        (stream("b.example:81", "", "/books/:id"), &["http-b", "relative"]),
        (stream("a.example", https, "/books/:id"), &["https-a", "relative"]),
        (stream("a.example", "", "http://a.example/books/:id"), &["http-a", "relative"]),
        (stream("b.example", "", "http://a.example/books/:id"), &["http-a"]),
    ];
    for (topic, data) in [
        ("http://a.example/books/1", "http-a"),
        ("http://b.example:81/books/1", "http-b"),
        ("https://a.example/books/1", "https-a"),
        ("/books/1", "relative"),
        ("end", "end"),
    ] {
        id_of(&publish(&server, &format!("topic={topic}&data={data}")));
    }
    for (client, expected) in &mut streams {
        let mut found = Vec::new();
        while found.last().map(String::as_str) != Some("end") {
            let chunk = client.chunk().expect("the stream continues");
            found.extend(
                chunk.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned),
            );
        }
        found.pop();
        assert_eq!(found, *expected);
    }
}

#[test]
fn empty_last_event_id_returns_the_last_id() {
    let server = open();
    let preceding_id = |query: &str, headers: &str, name: &str| {
        let stream = Stream::of(&server, &format!("{HUB}?{query}"), headers);
        stream.head.header(name).map(str::to_owned)
    };
    let ours = "mercure-last-event-id";
    assert_eq!(preceding_id("match=a&last_event_id=", "", ours).as_deref(), Some("earliest"));
    let last = id_of(&publish(&server, "topic=a&data=1"));
    for (query, headers, name) in [
        ("match=a&last_event_id=", "", ours),
        ("match=a&last_event_id", "", ours),
        ("match=a", "Last-Event-ID: \r\n", ours),
        ("topic=a&lastEventID=", "", "last-event-id"),
    ] {
        assert_eq!(
            preceding_id(query, headers, name).as_deref(),
            Some(&*last),
            "{query} {headers}"
        );
    }
    assert_eq!(preceding_id("match=a", "", ours), None);
    let mut stream = Stream::of(&server, &format!("{HUB}?match=a&last_event_id="), "");
    id_of(&publish(&server, "topic=a&data=2"));
    stream.expect_data(&["2"]);
}

#[test]
fn subscription_documents_match_their_protocol_generation() {
    let server = TestServer::with(Config { mercure: Mercure::WithSubscriptions, ..config() });
    let events = format!("{HUB}?match=*");
    let mut events = Stream::of(&server, &events, &bearer(&all()));
    let mut subscription_event = |field: &str, text: &str| loop {
        let event = events.event();
        let document: Value = serde_json::from_str(event.data()).expect("JSON");
        if document[field] == text {
            return (event.name, document);
        }
    };
    let _current = Stream::of(&server, &format!("{HUB}?match=a"), "");
    let (name, current) = subscription_event("match", "a");
    assert_eq!((name.as_deref(), &current["type"]), (Some("mercure"), &json!("subscription")));
    assert_eq!(current.get("@context"), None);
    let _older = Stream::of(&server, &format!("{HUB}?topic=b"), "");
    let (name, older) = subscription_event("topic", "b");
    assert_eq!((name, &older["type"]), (None, &json!("Subscription")));
    assert_eq!(older["@context"], "https://mercure.rocks/");

    let api = |path: &str, token: &str| get(&server, path, &bearer(token));
    let list = format!("{HUB}/subscriptions");
    let of_0x = allowing(&[], &["*"]);
    let (of_current, of_older) = (current["id"].as_str().unwrap(), older["id"].as_str().unwrap());
    for (path, token, is_older) in [
        (&*list, &all(), false),
        (&*list, &of_0x, true),
        (of_current, &of_0x, false),
        (of_older, &all(), true),
        (&*format!("{list}/exact/a"), &of_0x, false),
        (&*format!("{list}/b"), &all(), true),
    ] {
        let answer = api(path, token);
        assert_eq!(answer.status, 200, "{path}");
        let document = answer.json();
        let tag = answer.header("etag").expect("a tag").to_owned();
        let link = answer.header("link").expect("a link");
        let kind = document["type"].as_str().unwrap_or_default();
        if is_older {
            assert_eq!(answer.header("content-type"), Some("application/ld+json"), "{path}");
            assert_eq!(format!("{}", document["lastEventID"]), tag, "{path}");
            assert_eq!(document["@context"], "https://mercure.rocks/", "{path}");
            assert!(kind.starts_with("Subscription"), "{path}: {kind}");
            assert_eq!(link, "</.well-known/mercure>; rel=\"mercure\"");
        } else {
            assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
            assert!(document.get("lastEventID").is_none(), "{path}: {document}");
            assert!(document.get("@context").is_none(), "{path}: {document}");
            assert!(kind.starts_with("subscription"), "{path}: {kind}");
            assert!(link.contains(&format!("; last-event-id={tag}; type=\"mercure\";")), "{link}");
        }
    }
}

#[test]
fn current_token_must_name_its_issuer() {
    let server = TestServer::with(config());
    let details = json!([{ "type": DETAIL, "actions": ["publish"], "topics": [{ "match": "*" }] }]);
    let claims =
        json!({ "aud": AUDIENCE, "exp": in_seconds(60), "authorization_details": details });
    let mut named = claims.clone();
    named["iss"] = ISSUER.into();
    for (claims, status) in [(claims, 401), (named, 200)] {
        let answer = server.post(HUB, &format!("{FORM}{}", bearer(&current(&claims))), "topic=a");
        assert_eq!(answer.status, status, "{answer:?}");
    }
}
