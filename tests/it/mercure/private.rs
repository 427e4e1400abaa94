//! Private updates: which subscribers receive them, on every route.

use serde_json::json;
use threadcast::{Config, Delivery};

use super::{HUB, config, id_of, publish};
use crate::common::jwt::{allowing, bearer, detailed, in_seconds, older};
use crate::common::{Stream, TestServer};

/// A subscriber, its token, and the private updates that it may read.
struct Listener {
    name: &'static str,
    headers: String,
    /// Whether the subscriber may read the updates of `/books/1`, `/books/2`, `other`, and `mine`
    /// (with the alternate topic `/books/9`).
    reads: [bool; 4],
}

fn listeners() -> Vec<Listener> {
    let of = |name, token: &str, reads| Listener { name, headers: bearer(token), reads };
    let subscribe = &["subscribe"];
    vec![
        Listener { name: "anonymous", headers: String::new(), reads: [false; 4] },
        of("a claim for another topic", &allowing(&["*"], &["elsewhere"]), [false; 4]),
        of("no claim", &older(&json!({ "exp": in_seconds(60) })), [false; 4]),
        of("publish only", &detailed(&["publish"], &json!([{ "match": "*" }])), [false; 4]),
        of("exact, of 0.x", &allowing(&[], &["/books/1"]), [true, false, false, false]),
        of("a template", &allowing(&[], &["/books/{id}"]), [true, true, false, true]),
        of("all, of 0.x", &allowing(&[], &["*"]), [true; 4]),
        of(
            "exact",
            &detailed(subscribe, &json!([{ "match": "/books/2" }])),
            [false, true, false, false],
        ),
        of(
            "an alternate topic",
            &detailed(subscribe, &json!([{ "match": "mine" }])),
            [false, false, false, true],
        ),
        of(
            "a URL pattern",
            &detailed(subscribe, &json!([{ "match": "/books/:id", "match_type": "urlpattern" }])),
            [true, true, false, true],
        ),
        of(
            "a pattern without its match type",
            &detailed(subscribe, &json!([{ "match": "/books/:id" }])),
            [false; 4],
        ),
        of("all", &detailed(subscribe, &json!([{ "match": "*" }])), [true; 4]),
        of("the static token", "reads-all", [true; 4]),
    ]
}

#[test]
fn private_update_reaches_authorized_subscribers_only() {
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
        // Every stream receives the update `last` after all others, so it ends the reading below.
        let all: Vec<_> = live.into_iter().chain(listen(true)).collect();
        id_of(&publish(&server, "topic=last&data=last"));
        for (listener, streams) in all {
            let names = ["one", "two", "three", "four"];
            let private = names.iter().zip(listener.reads).filter(|(_, reads)| *reads);
            let expected: Vec<&str> =
                private.map(|(name, _)| *name).chain(["open", "last"]).collect();
            for (target, mut stream) in streams {
                let mut received = Vec::new();
                while received.last().map(String::as_str) != Some("last") {
                    received.push(stream.event().data().to_owned());
                }
                assert_eq!(received, expected, "{}: {target}, {delivery:?}", listener.name);
            }
        }
    }
}

/// The test uses client-supplied ids, because they can be guessed, unlike generated ids.
#[test]
fn guessed_id_of_a_private_update_looks_unknown() {
    let server = TestServer::with(config());
    id_of(&publish(&server, "topic=a&private=on&id=order-1234&data=secret"));
    id_of(&publish(&server, "topic=a&id=order-9999&data=open"));
    let after = |route: &str, id: &str, headers: &str| {
        let joint = if route.contains('?') { '&' } else { '?' };
        let target = format!("{route}{joint}last_event_id={id}");
        let mut stream = Stream::of(&server, &target, headers);
        let preceding = stream.head.header("mercure-last-event-id").map(str::to_owned);
        publish(&server, "topic=a&data=next");
        (preceding, stream.event().data().replace(id, "ID"))
    };
    for route in [&format!("{HUB}?match=a"), &format!("{HUB}?topic=a"), "/channels/a"] {
        let unknown = after(route, "order-0000", "");
        assert!(unknown.1.contains("ID"), "a gap: {unknown:?}");
        // The end of the gap is not compared, because the events published in between move it.
        let without_end = |(preceding, gap): (Option<String>, String)| {
            (preceding, gap.split("\"to\"").next().map(str::to_owned))
        };
        assert_eq!(without_end(after(route, "order-1234", "")), without_end(unknown), "{route}");
        let reader = bearer(&allowing(&[], &["a"]));
        assert_eq!(after(route, "order-1234", &reader).1, "open", "{route}");
        assert_eq!(after(route, "order-9999", "").1, "next", "{route}");
    }
}
