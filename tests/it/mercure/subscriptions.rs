//! Mercure's subscription events and subscription API.

use serde_json::json;
use threadcast::{Config, Event, Mercure};

use super::{HUB, config, get};
use crate::common::jwt::{AUDIENCE, DETAIL, ISSUER, bearer, detailed, in_seconds};
use crate::common::{Stream, TestServer, jwt};

#[test]
fn subscriptions_are_visible_with_permission_only() {
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
    let mut subscription_event = |what: &str| loop {
        let event: serde_json::Value = serde_json::from_str(events.event().data()).expect("JSON");
        if event["match"] == what || event["topic"] == what {
            return event;
        }
    };
    let payload = json!([{ "type": DETAIL, "actions": ["subscribe"], "topics": [{ "match": "a b" }], "payload": { "x": 1 } }]);
    let token = jwt::current(
        &json!({ "iss": ISSUER, "aud": AUDIENCE, "exp": in_seconds(60), "authorization_details": payload }),
    );
    let subscriber = Stream::of(&server, &format!("{HUB}?match=a+b"), &bearer(&token));
    let event = subscription_event("a b");
    let topic = event["id"].as_str().expect("a topic").to_owned();
    assert!(
        topic.starts_with("/.well-known/mercure/subscriptions/exact/a%20b/urn%3Auuid%3A"),
        "{topic}"
    );
    assert_eq!((&event["active"], &event["payload"]), (&json!(true), &json!({ "x": 1 })));
    assert_eq!((&event["type"], &event["match_type"]), (&json!("subscription"), &json!("exact")));

    let api = |path: &str, headers: &str| get(&server, path, headers);
    for path in [&topic, "/.well-known/mercure/subscriptions"] {
        assert_eq!(api(path, "").status, 401, "{path}");
        assert_eq!(api(path, &bearer(&token)).status, 403, "{path}");
    }
    let answer = api(&topic, &bearer(&follow));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let tag = answer.header("etag").expect("a tag").to_owned();
    let link = format!(
        "</.well-known/mercure>; rel=\"mercure\"; last-event-id={tag}; type=\"mercure\"; content-type=\"application/json\""
    );
    assert_eq!(answer.header("link"), Some(&*link));
    assert_eq!(answer.json(), event, "the API returns the document of the event");
    let unchanged = api(&topic, &format!("{}If-None-Match: {tag}\r\n", bearer(&follow)));
    assert_eq!(unchanged.status, 304);
    let of_matcher = api("/.well-known/mercure/subscriptions/exact/a%20b", &bearer(&follow)).json();
    assert_eq!(of_matcher["subscriptions"].as_array().map(Vec::len), Some(1), "{of_matcher}");
    assert_eq!(of_matcher["id"], "/.well-known/mercure/subscriptions/exact/a%20b");
    let collection = api("/.well-known/mercure/subscriptions", &bearer(&follow)).json();
    assert_eq!(collection["type"], "subscriptions");
    assert_eq!(collection["subscriptions"].as_array().map(Vec::len), Some(5), "{collection}");

    let older = Stream::of(&server, &format!("{HUB}?topic=/c/%7Bd%7D"), "");
    let event = subscription_event("/c/{d}");
    let path = "/.well-known/mercure/subscriptions/%2Fc%2F%7Bd%7D";
    assert!(event["id"].as_str().is_some_and(|id| id.starts_with(&format!("{path}/"))), "{event}");
    assert_eq!(event.get("match"), None);
    assert_eq!(
        api(path, &bearer(&follow)).json()["subscriptions"].as_array().map(Vec::len),
        Some(1)
    );
    drop(older);
    assert_eq!(subscription_event("/c/{d}")["active"], false);

    drop(subscriber);
    assert_eq!(subscription_event("a b")["active"], false);
    assert_eq!(api(&topic, &bearer(&follow)).status, 404);
    for what in ["exact/a%20b/x", "x/y"] {
        let path = format!("/.well-known/mercure/subscriptions/{what}");
        assert_eq!(api(&path, &bearer(&follow)).status, 404, "{path}");
    }
    server
        .registry
        .publish("/.well-known/mercure/subscriptions/exact/x/y", &Event::new("public"))
        .expect("the registry accepts reserved topics");
    anonymous.expect_data(&["public"]);
}
