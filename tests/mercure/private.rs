//! An update that is private: who is given it, by every way there is to listen.

use serde_json::json;
use threadcast::{Config, Delivery};

use super::common::jwt::{allowing, bearer, detailed, in_seconds, older};
use super::common::{Stream, TestServer};
use super::{HUB, config, id_of, publish};

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

/// An id that a publisher has chosen may be guessed, unlike ours.
#[test]
fn whether_a_private_update_has_an_id_of_its_own_is_not_told_to_who_may_not_read_it() {
    let server = TestServer::with(config());
    id_of(&publish(&server, "topic=a&private=on&id=order-1234&data=secret"));
    id_of(&publish(&server, "topic=a&id=order-9999&data=open"));
    let after = |route: &str, id: &str, headers: &str| {
        let joint = if route.contains('?') { '&' } else { '?' };
        let target = format!("{route}{joint}last_event_id={id}");
        let mut stream = Stream::of(&server, &target, headers);
        let told = stream.head.header("mercure-last-event-id").map(str::to_owned);
        publish(&server, "topic=a&data=next");
        (told, stream.event().data().replace(id, "ID"))
    };
    for route in [&format!("{HUB}?match=a"), &format!("{HUB}?topic=a"), "/channels/a"] {
        let unknown = after(route, "order-0000", "");
        assert!(unknown.1.contains("ID"), "a gap: {unknown:?}");
        // What was published meanwhile has moved the end of the gap.
        let until = |(told, gap): (Option<String>, String)| {
            (told, gap.split("\"to\"").next().map(str::to_owned))
        };
        assert_eq!(until(after(route, "order-1234", "")), until(unknown), "{route}");
        let reader = bearer(&allowing(&[], &["a"]));
        assert_eq!(after(route, "order-1234", &reader).1, "open", "{route}");
        assert_eq!(after(route, "order-9999", "").1, "next", "{route}");
    }
}
