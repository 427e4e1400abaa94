//! The Mercure protocol by the socket: what each generation asks for, and what it is
//! answered.

mod common;

use common::jwt::{AUDIENCE, allowing, bearer, detailed, in_seconds, older};
use common::{Answer, Stream, TestServer, jwt};
use serde_json::json;
use threadcast::{Config, CorsOrigins, Delivery, Event, Mercure};

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

/// Publishes a form, with whatever right it takes.
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
fn an_update_is_a_form_and_its_answer_is_its_id() {
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
fn what_is_no_update_is_refused() {
    let server = open();
    for (headers, form, status) in [
        (FORM, "data=x", 400),
        (FORM, "topic=", 400),
        (FORM, "topic=a&id=earliest", 400),
        (FORM, "topic=a&id=%23", 400),
        (FORM, "topic=a&retry=x", 400),
        ("Content-Type: application/json\r\n", "{\"topic\":\"a\"}", 415),
        ("", "topic=a", 415),
        (FORM, "topic=/.well-known/mercure/subscriptions/exact/a/b", 403),
        (FORM, "topic=a&topic=https://x/.well-known/%256Dercure/../mercure", 403),
    ] {
        let answer = server.post(HUB, headers, form);
        assert_eq!(answer.status, status, "{form}: {answer:?}");
        answer.check_problem();
    }
    let long = format!("topic={}", "x".repeat(2_000));
    assert_eq!(publish(&server, &long).status, 413);
    assert_eq!(publish(&server, &format!("topic=a&data={}", "x".repeat(70_000))).status, 413);
    let reserved = "/channels/%2F.well-known%2Fmercure%2Fsubscriptions%2Fx";
    assert_eq!(server.post(reserved, "", "forged").status, 403, "by our own route neither");
    assert!(server.registry.list().is_empty(), "nothing was published");
}

#[test]
fn topics_are_channels_and_channels_topics() {
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
fn every_kind_of_matcher_selects_and_an_update_of_several_topics_comes_once() {
    let server = open();
    let book = "https://example.com/books/7";
    for (query, hears) in [
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
        let expected: &[&str] = if hears { &["it", "last"] } else { &["last"] };
        stream.expect_data(expected);
    }
}

#[test]
fn a_query_that_selects_nothing_is_refused() {
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
fn a_stream_resumes_by_either_generations_words_and_says_from_where() {
    let server = open();
    let first = id_of(&publish(&server, "topic=a&data=1"));
    let own = id_of(&publish(&server, "topic=a&data=2&id=urn:two"));
    id_of(&publish(&server, "topic=a&data=3"));
    let (all, rest, last) = (&["1", "2", "3"][..], &["2", "3"][..], &["3"][..]);
    for (query, headers, expected, preceding) in [
        (format!("match=a&last_event_id={first}"), String::new(), rest, &*first),
        (format!("match=a&last_event_id={own}"), String::new(), last, &*own),
        ("match=a&last_event_id=earliest".into(), String::new(), all, "earliest"),
        ("match=a".into(), format!("Last-Event-ID: {first}\r\n"), rest, &*first),
        ("match=a&last_event_id=earliest".into(), format!("Last-Event-ID: {own}\r\n"), last, &*own),
        (format!("topic=a&lastEventID={first}"), String::new(), rest, &*first),
        (format!("topic=a&Last-Event-ID={first}"), String::new(), rest, &*first),
    ] {
        let mut stream = Stream::of(&server, &format!("{HUB}?{query}"), &headers);
        stream.expect_data(expected);
        let (ours, other) = match query.starts_with("topic") {
            true => ("last-event-id", "mercure-last-event-id"),
            false => ("mercure-last-event-id", "last-event-id"),
        };
        assert_eq!(stream.head.header(ours), Some(preceding), "{query} {headers}");
        assert_eq!(stream.head.header(other), None, "{query}");
    }
    let stream = Stream::of(&server, &format!("{HUB}?match=a"), "");
    assert_eq!(stream.head.header("mercure-last-event-id"), None, "nobody asked");
    let mut stream = Stream::of(&server, &format!("{HUB}?match=a&last_event_id=urn:lost"), "");
    assert_eq!(stream.head.header("mercure-last-event-id"), Some("earliest"));
    assert!(stream.event().gap().is_some(), "and what is missing is said as ever");
}

#[test]
fn what_has_fallen_out_of_the_history_is_not_passed_over() {
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

/// Somebody who listens: what his token is, and which of the private updates he may read.
struct Listener {
    name: &'static str,
    headers: String,
    /// `/books/1`, `/books/2`, `other`, and `mine` which is also called `/books/9`.
    reads: [bool; 4],
}

fn listeners() -> Vec<Listener> {
    let of = |name, token: &str, reads| Listener { name, headers: bearer(token), reads };
    let subscribe = &["subscribe"];
    vec![
        Listener { name: "anonymous", headers: String::new(), reads: [false; 4] },
        of("a claim for another topic", &allowing(&["*"], &["elsewhere"]), [false; 4]),
        of("no claim", &older(&json!({ "exp": in_seconds(60) })), [false; 4]),
        of("publishes alone", &detailed(&["publish"], &json!([{ "match": "*" }])), [false; 4]),
        of("exact, of 0.x", &allowing(&[], &["/books/1"]), [true, false, false, false]),
        of("a template", &allowing(&[], &["/books/{id}"]), [true, true, false, true]),
        of("all, of 0.x", &allowing(&[], &["*"]), [true; 4]),
        of(
            "exact",
            &detailed(subscribe, &json!([{ "match": "/books/2" }])),
            [false, true, false, false],
        ),
        of(
            "an alternate name",
            &detailed(subscribe, &json!([{ "match": "mine" }])),
            [false, false, false, true],
        ),
        of(
            "a URL pattern",
            &detailed(subscribe, &json!([{ "match": "/books/:id", "match_type": "urlpattern" }])),
            [true, true, false, true],
        ),
        of(
            "a pattern that is not one",
            &detailed(subscribe, &json!([{ "match": "/books/:id" }])),
            [false; 4],
        ),
        of("all", &detailed(subscribe, &json!([{ "match": "*" }])), [true; 4]),
        of("the static token", "reads-all", [true; 4]),
    ]
}

#[test]
fn a_private_update_never_reaches_who_may_not_read_it() {
    for delivery in [Delivery::Direct, Delivery::Wake] {
        let subscribe_token = Some("reads-all".parse().expect("visible ASCII"));
        let server = TestServer::with(Config { subscribe_token, delivery, ..config() });
        let routes = [
            format!("{HUB}?match=*"),
            format!("{HUB}?topic=*"),
            format!("{HUB}?match_urlpattern=/:a&match_urlpattern=/:a/:b&match=other&match=mine&match=last"),
            format!("{HUB}?topic=%7Ba%7D&topic=/%7Ba%7D/%7Bb%7D"),
            format!("{HUB}?match=/books/1&match=/books/2&match=other&match=mine&match=last&match=open"),
            "/channels?channel=*".to_owned(),
            "/channels?channel=%2Fbooks%2F1&channel=%2Fbooks*&channel=other&channel=mine&channel=last&channel=open".to_owned(),
        ];
        let listen = |replays: bool| -> Vec<(Listener, Vec<(String, Stream)>)> {
            let streams = |listener: &Listener| {
                let stream = |route: &String| {
                    let replay = match (replays, route.starts_with(HUB)) {
                        (false, _) => "",
                        (true, true) => "&last_event_id=earliest",
                        (true, false) => "&since=all",
                    };
                    let target = format!("{route}{replay}");
                    (target.clone(), Stream::of(&server, &target, &listener.headers))
                };
                routes.iter().map(stream).collect()
            };
            listeners()
                .into_iter()
                .map(|listener| {
                    let streams = streams(&listener);
                    (listener, streams)
                })
                .collect()
        };
        let live = listen(false);
        for form in [
            "topic=/books/1&data=one&private=on",
            "topic=/books/2&data=two&private",
            "topic=other&data=three&private=0",
            "topic=mine&topic=/books/9&data=four&private=",
            "topic=open&data=open",
        ] {
            id_of(&publish(&server, form));
        }
        // The last word to all: whoever hears it has heard everything before it.
        let everybody: Vec<_> = live.into_iter().chain(listen(true)).collect();
        id_of(&publish(&server, "topic=last&data=last"));
        for (listener, streams) in everybody {
            let names = ["one", "two", "three", "four"];
            let private = names.iter().zip(listener.reads).filter(|(_, reads)| *reads);
            let expected: Vec<&str> =
                private.map(|(name, _)| *name).chain(["open", "last"]).collect();
            for (target, mut stream) in streams {
                let mut heard = Vec::new();
                while heard.last().map(String::as_str) != Some("last") {
                    heard.push(stream.event().data().to_owned());
                }
                assert_eq!(heard, expected, "{}: {target}, {delivery:?}", listener.name);
            }
        }
    }
}

#[test]
fn publishing_takes_a_token_that_grants_each_topic() {
    let server = TestServer::with(config());
    for (token, form, status) in [
        (allowing(&["a"], &[]), "topic=a", 200),
        (allowing(&["a"], &[]), "topic=b", 403),
        (allowing(&["a"], &[]), "topic=a&topic=b", 403),
        (allowing(&["a", "b"], &[]), "topic=a&topic=b", 200),
        (allowing(&["/x/{y}"], &[]), "topic=/x/1&private", 200),
        (allowing(&[], &["*"]), "topic=a", 403),
        (older(&json!({})), "topic=a", 403),
        (
            detailed(&["publish"], &json!([{ "match": "/x/:y", "match_type": "urlpattern" }])),
            "topic=/x/1",
            200,
        ),
        (
            detailed(&["publish"], &json!([{ "match": "/x/:y", "match_type": "urlpattern" }])),
            "topic=/x/1/2",
            403,
        ),
        (detailed(&["subscribe"], &json!([{ "match": "*" }])), "topic=a", 403),
        (allowing(&["*"], &[]), "topic=/.well-known/mercure/subscriptions/x", 403),
        ("wrong".into(), "topic=a", 401),
    ] {
        let answer = server.post(HUB, &format!("{FORM}{}", bearer(&token)), form);
        assert_eq!(answer.status, status, "{form}: {answer:?}");
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        match status {
            401 => {
                assert!(challenge.starts_with("Bearer error=\"invalid_token\", resource_metadata="))
            }
            403 if !form.contains("mercure") => {
                assert!(
                    challenge
                        .starts_with("Bearer error=\"insufficient_scope\", resource_metadata=")
                );
            }
            _ => assert_eq!(challenge, ""),
        }
    }
    let answer = server.post(HUB, FORM, "topic=a");
    assert_eq!(answer.status, 401);
    assert!(
        answer
            .header("www-authenticate")
            .is_some_and(|it| it.starts_with("Bearer resource_metadata="))
    );
}

#[test]
fn a_token_stands_in_the_header_the_query_or_a_cookie_and_one_of_them_counts() {
    let server = TestServer::with(Config { anonymous: false, ..config() });
    let good = allowing(&["*"], &["*"]);
    let cookie = |name: &str, token: &str| format!("Cookie: x=y; {name}={token}\r\n");
    for (query, headers, status) in [
        (String::new(), String::new(), 401),
        (String::new(), bearer(&good), 200),
        (format!("&access_token={good}"), String::new(), 200),
        (format!("&authorization={good}"), String::new(), 200),
        (String::new(), cookie("mercureAuthorization", &good), 200),
        (String::new(), cookie("__Secure-mercure_access_token", &good), 200),
        (String::new(), cookie("threadcast_token", &good), 401),
        (format!("&access_token={good}"), bearer("wrong"), 401),
        ("&access_token=wrong".into(), bearer(&good), 200),
        ("&access_token=wrong".into(), cookie("mercureAuthorization", &good), 401),
        (format!("&access_token={good}&access_token={good}"), String::new(), 400),
        (format!("&access_token={good}&authorization={good}"), String::new(), 400),
        (String::new(), bearer(&good).repeat(2), 400),
        (format!("&access_token={}", "x".repeat(9_000)), String::new(), 401),
    ] {
        let head = server.head(&format!(
            "GET {HUB}?match=a{query} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"
        ));
        let name = format!("{query} {headers}");
        assert_eq!(head.status, status, "{name}: {head:?}");
        let challenge = head.header("www-authenticate").unwrap_or_default();
        let expected = match status {
            200 => "",
            400 => "Bearer error=\"invalid_request\"",
            _ if query.is_empty() && !headers.contains("Bearer") => "Bearer resource_metadata=",
            _ => "Bearer error=\"invalid_token\", resource_metadata=",
        };
        assert!(
            challenge.starts_with(expected) && challenge.is_empty() == expected.is_empty(),
            "{name}: {challenge}"
        );
        let is_private =
            head.headers.iter().any(|(name, value)| name == "cache-control" && value == "private");
        assert_eq!(
            is_private,
            status == 200 && !query.is_empty() && !headers.contains("Bearer"),
            "{name}"
        );
    }
}

#[test]
fn with_a_cookie_a_page_must_be_known_to_publish() {
    let cors_origins = CorsOrigins::These(vec!["https://app.example".into()]);
    let server = TestServer::with(Config { cors_origins, ..config() });
    let cookie = format!("{FORM}Cookie: mercureAuthorization={}\r\n", allowing(&["*"], &[]));
    for (headers, status) in [
        ("", 403),
        ("Origin: http://localhost\r\n", 200),
        ("Origin: https://app.example\r\n", 200),
        ("Origin: https://evil.example\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Referer: http://localhost/page?x\r\n", 200),
        ("Referer: https://app.example/page\r\n", 200),
        ("Referer: https://app.example.evil.example/\r\n", 403),
        ("Referer: about:blank\r\n", 403),
    ] {
        let answer = server.post(HUB, &format!("{cookie}{headers}"), "topic=a");
        assert_eq!(answer.status, status, "{headers}: {answer:?}");
    }
}

#[test]
fn a_stream_of_the_hub_ends_with_its_token() {
    let server = TestServer::with(config());
    let token = older(&json!({ "exp": in_seconds(2) }));
    let mut stream = Stream::of(&server, &format!("{HUB}?match=a"), &bearer(&token));
    assert!(stream.next().expect("when to come back").contains("retry: "));
    assert_eq!(stream.next(), None);
}

#[test]
fn the_paths_answer_to_their_methods_and_to_pages_of_named_origins() {
    let cors_origins = CorsOrigins::These(vec!["https://app.example".into()]);
    let server = TestServer::with(Config { cors_origins, ..config() });
    let ask = |request: &str, headers: &str| {
        server.head(&format!("{request} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"))
    };
    let head = ask(&format!("HEAD {HUB}?match=a&last_event_id=earliest"), "");
    assert_eq!((head.status, head.header("mercure-last-event-id")), (200, Some("earliest")));
    let wrong = ask(&format!("DELETE {HUB}"), "");
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("GET, HEAD, POST, OPTIONS")));
    let origin = "Origin: https://app.example\r\n";
    let preflight =
        ask(&format!("OPTIONS {HUB}"), &format!("{origin}Access-Control-Request-Method: POST\r\n"));
    assert_eq!(preflight.header("access-control-allow-origin"), Some("https://app.example"));
    assert!(
        preflight
            .header("access-control-allow-headers")
            .is_some_and(|it| it.contains("Authorization"))
    );
    let stream = ask(&format!("GET {HUB}?match=a"), origin);
    assert_eq!(stream.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(
        stream.header("access-control-expose-headers"),
        Some("Link, Mercure-Last-Event-ID, Last-Event-ID")
    );
    let foreign = ask(&format!("GET {HUB}?match=a"), "Origin: https://evil.example\r\n");
    assert_eq!(foreign.header("access-control-allow-origin"), None);
    let page = ask("GET /", "");
    assert_eq!(page.header("link"), Some("</.well-known/mercure>; rel=\"mercure\""));
    let metadata = server.get("/.well-known/oauth-protected-resource/.well-known/mercure").json();
    assert_eq!(metadata["resource"], AUDIENCE);
    assert_eq!(metadata["authorization_details_types_supported"][0], "mercure");
    assert!(metadata.get("mercure_subscriptions").is_none(), "{metadata}");
}

#[test]
fn without_its_flag_nothing_of_it_is_there() {
    let (server, hub) = (TestServer::start(), open());
    for path in [
        HUB,
        "/.well-known/mercure/subscriptions",
        "/.well-known/oauth-protected-resource/.well-known/mercure",
    ] {
        for method in ["GET", "POST"] {
            let ask = |server: &TestServer, path: &str| {
                server.request(&format!(
                    "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
                ))
            };
            let (answer, unknown) = (ask(&server, path), ask(&server, "/unknown"));
            assert_eq!((answer.status, &answer.body), (unknown.status, &unknown.body), "{path}");
            if path != HUB {
                assert_eq!(ask(&hub, path).status, 404, "{path}: this takes a flag of its own");
            }
        }
    }
    assert_eq!(server.get("/").header("link"), None);
    assert_eq!(server.post("/channels/mercure", "", "a name as any other").status, 200);
}

#[test]
fn subscriptions_are_told_to_who_may_follow_them() {
    let server = TestServer::with(Config { mercure: Mercure::WithSubscriptions, ..config() });
    let follow = detailed(
        &["subscribe"],
        &json!([
            { "match": "/.well-known/mercure/subscriptions/*?/*?/*?", "match_type": "urlpattern" },
            { "match": "/.well-known/mercure/subscriptions" },
            { "match": "*" },
        ]),
    );
    let all = format!(
        "{HUB}?match_urlpattern=/.well-known/mercure/subscriptions/:t/:m/:s&match_urlpattern=/.well-known/mercure/subscriptions/:m/:s"
    );
    let mut events = Stream::of(&server, &all, &bearer(&follow));
    let mut anonymous = Stream::of(&server, &all, "");
    let mut told = |what: &str| loop {
        let event: serde_json::Value = serde_json::from_str(events.event().data()).expect("JSON");
        if event["match"] == what || event["topic"] == what {
            return event;
        }
    };
    let payload = json!([{ "type": "mercure", "actions": ["subscribe"], "topics": [{ "match": "a b" }], "payload": { "x": 1 } }]);
    let token = jwt::current(
        &json!({ "aud": AUDIENCE, "exp": in_seconds(60), "authorization_details": payload }),
    );
    let subscriber = Stream::of(&server, &format!("{HUB}?match=a+b"), &bearer(&token));
    let event = told("a b");
    let topic = event["id"].as_str().expect("its topic").to_owned();
    assert!(
        topic.starts_with("/.well-known/mercure/subscriptions/exact/a%20b/urn%3Auuid%3A"),
        "{topic}"
    );
    assert_eq!((&event["active"], &event["payload"]), (&json!(true), &json!({ "x": 1 })));
    assert_eq!((&event["type"], &event["match_type"]), (&json!("Subscription"), &json!("exact")));

    let api = |path: &str, headers: &str| get(&server, path, headers);
    for path in [&topic, "/.well-known/mercure/subscriptions"] {
        assert_eq!(api(path, "").status, 401, "{path}");
        assert_eq!(api(path, &bearer(&token)).status, 403, "{path}");
    }
    let answer = api(&topic, &bearer(&follow));
    assert_eq!(answer.header("content-type"), Some("application/ld+json"));
    assert_eq!(answer.header("link"), Some("</.well-known/mercure>; rel=\"mercure\""));
    let tag = answer.header("etag").expect("a tag").to_owned();
    let document = answer.json();
    assert_eq!(document["subscriber"], event["subscriber"]);
    assert_eq!(format!("\"{}\"", document["last_event_id"].as_str().expect("an id")), tag);
    let unchanged = api(&topic, &format!("{}If-None-Match: {tag}\r\n", bearer(&follow)));
    assert_eq!(unchanged.status, 304);
    let of_matcher = api("/.well-known/mercure/subscriptions/exact/a%20b", &bearer(&follow)).json();
    assert_eq!(of_matcher["subscriptions"].as_array().map(Vec::len), Some(1), "{of_matcher}");
    assert_eq!(of_matcher["id"], "/.well-known/mercure/subscriptions/exact/a%20b");
    let collection = api("/.well-known/mercure/subscriptions", &bearer(&follow)).json();
    assert_eq!(collection["type"], "Subscriptions");
    assert_eq!(collection["subscriptions"].as_array().map(Vec::len), Some(5), "{collection}");

    let older = Stream::of(&server, &format!("{HUB}?topic=/c/%7Bd%7D"), "");
    let event = told("/c/{d}");
    let path = "/.well-known/mercure/subscriptions/%2Fc%2F%7Bd%7D";
    assert!(event["id"].as_str().is_some_and(|id| id.starts_with(&format!("{path}/"))), "{event}");
    assert_eq!(event.get("match"), None);
    assert_eq!(
        api(path, &bearer(&follow)).json()["subscriptions"].as_array().map(Vec::len),
        Some(1)
    );
    drop(older);
    assert_eq!(told("/c/{d}")["active"], false);

    drop(subscriber);
    assert_eq!(told("a b")["active"], false);
    assert_eq!(api(&topic, &bearer(&follow)).status, 404);
    for what in ["exact/a%20b/x", "x/y"] {
        let path = format!("/.well-known/mercure/subscriptions/{what}");
        assert_eq!(api(&path, &bearer(&follow)).status, 404, "{path}");
    }
    server
        .registry
        .publish("/.well-known/mercure/subscriptions/exact/x/y", &Event::new("public"))
        .expect("from within");
    anonymous.expect_data(&["public"]);
}
