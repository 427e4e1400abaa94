//! Tokens on the hub's paths: where a request carries them, and what they permit.

use serde_json::json;
use threadcast::{Config, CorsOrigins};

use super::{FORM, HUB, config};
use crate::common::jwt::{allowing, bearer, detailed, in_seconds, older};
use crate::common::{Stream, TestServer};

#[test]
fn publishing_requires_permission_for_each_topic() {
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
        (allowing(&["*"], &[]), "topic=/.well-known/mercure/subscriptions/x", 400),
        ("wrong".into(), "topic=a", 401),
    ] {
        let answer = server.post(HUB, &format!("{FORM}{}", bearer(&token)), form);
        assert_eq!(answer.status, status, "{form}: {answer:?}");
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        match status {
            401 => {
                assert!(
                    challenge.starts_with("Bearer error=\"invalid_token\", resource_metadata=")
                );
            }
            403 => {
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
fn token_is_read_from_header_then_query_then_cookie() {
    let server = TestServer::with(Config { anonymous: false, ..config() });
    let good = allowing(&["*"], &["*"]);
    let cookie = |name: &str, token: &str| format!("Cookie: x=y; {name}={token}\r\n");
    for (query, headers, status) in [
        (String::new(), String::new(), 401),
        (String::new(), bearer(&good), 200),
        (format!("&access_token={good}"), String::new(), 401),
        (format!("&authorization={good}"), String::new(), 200),
        (String::new(), cookie("mercureAuthorization", &good), 200),
        (String::new(), cookie("__Secure-mercure_access_token", &good), 200),
        (String::new(), cookie("threadcast_token", &good), 401),
        (format!("&authorization={good}"), bearer("wrong"), 401),
        ("&authorization=wrong".into(), bearer(&good), 200),
        ("&authorization=wrong".into(), cookie("mercureAuthorization", &good), 401),
        (format!("&authorization={good}&authorization={good}"), String::new(), 400),
        (format!("&access_token=wrong&authorization={good}"), String::new(), 200),
        (String::new(), bearer(&good).repeat(2), 400),
        (format!("&authorization={}", "x".repeat(9_000)), String::new(), 401),
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
            _ if !query.contains("authorization") && !headers.contains("Bearer") => {
                "Bearer resource_metadata="
            }
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
fn publishing_with_a_cookie_requires_a_known_origin() {
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
fn hub_stream_ends_when_its_token_expires() {
    let server = TestServer::with(config());
    let token = older(&json!({ "exp": in_seconds(2) }));
    let mut stream = Stream::of(&server, &format!("{HUB}?match=a"), &bearer(&token));
    assert!(stream.next().expect("the reconnection delay").contains("retry: "));
    assert_eq!(stream.next(), None);
}
