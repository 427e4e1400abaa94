//! Presence needs the right to publish, and never evicts published events.

use std::path::PathBuf;

use crate::common::jwt::{bearer, in_seconds, key, older};
use crate::common::{Answer, Received, Stream, TIMEOUT, TestServer, wait_until};
use serde_json::json;
use threadcast::{Config, CorsOrigins, Histories, History, Token};

const PUBLISH: &str = "publish-s3cret";
const SUBSCRIBE: &str = "subscribe-s3cret";

fn token(secret: &str) -> Token {
    Token::new(secret).expect("visible ASCII")
}

fn get(server: &TestServer, target: &str, headers: &str) -> Answer {
    server.head(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"))
}

#[test]
fn presence_needs_the_right_to_publish() {
    let server =
        TestServer::with(Config { publish_token: Some(token(PUBLISH)), ..Config::default() });
    let before = server.registry.last_id();
    for headers in ["", "Origin: http://localhost\r\n", "Authorization: Bearer wrong\r\n"] {
        for target in ["/channels/news?presence=evil", "/channels?channel=news&presence=evil"] {
            let answer = server
                .request(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
            assert_eq!(answer.status, 403, "{answer:?}");
            answer.check_problem();
            assert!(answer.body.contains("?presence="), "{answer:?}");
        }
    }
    assert_eq!(server.registry.last_id(), before, "no presence event was published");
    assert_eq!(get(&server, "/channels/news", "").status, 200, "reading needs no token");
    let mut ada = Stream::of(&server, "/channels/news?presence=ada", &bearer(PUBLISH));
    assert_eq!(ada.event().name.as_deref(), Some("userconnect"));
}

#[test]
fn subscribe_token_cannot_announce_presence() {
    let (publish_token, subscribe_token) = (Some(token(PUBLISH)), Some(token(SUBSCRIBE)));
    let server = TestServer::with(Config { publish_token, subscribe_token, ..Config::default() });
    let cookie = format!("Cookie: threadcast_token={SUBSCRIBE}\r\n");
    for headers in [&bearer(SUBSCRIBE), &cookie] {
        assert_eq!(get(&server, "/channels/news", headers).status, 200);
        assert_eq!(get(&server, "/channels/news?presence=eve", headers).status, 403);
    }
    assert_eq!(server.registry.present("news"), []);
    // The session cookie allows reading, and the header allows publishing. A request with both may
    // announce presence.
    let both = cookie + &bearer(PUBLISH);
    assert_eq!(get(&server, "/channels/news?presence=eve", &both).status, 200);
}

#[test]
fn jwt_announces_only_its_subject_on_readable_channels() {
    let cors_origins = CorsOrigins::These(vec!["https://app.example".into()]);
    let (publish_key, subscribe_key) = (Some(key()), Some(key()));
    let config = Config { publish_key, subscribe_key, cors_origins, ..Config::default() };
    let server = TestServer::with(config);
    let claim = json!({ "publish": [], "subscribe": ["chat"] });
    let token = older(&json!({ "sub": "ada", "mercure": claim, "exp": in_seconds(3600) }));
    let cookie = format!("Cookie: threadcast_token={token}\r\n");
    for (target, more, status) in [
        ("/channels/chat?presence=ada", "", 200),
        ("/channels/chat?presence=ada", "Sec-Fetch-Site: same-origin\r\n", 200),
        ("/channels/chat?presence=ada", "Origin: https://app.example\r\n", 200),
        ("/channels/chat?presence=Ada", "", 403),
        ("/channels/news?presence=ada", "", 403),
        ("/channels?channel=chat&channel=news&presence=ada", "", 403),
        ("/channels/chat?presence=ada", "Origin: https://evil.example\r\n", 403),
        ("/channels/chat?presence=ada", "Sec-Fetch-Site: same-site\r\n", 403),
    ] {
        for credentials in [&bearer(&token), &cookie] {
            let answer = get(&server, target, &format!("{credentials}{more}"));
            assert_eq!(answer.status, status, "{target} {more:?}");
        }
    }
    let without_sub = older(&json!({ "mercure": claim, "exp": in_seconds(3600) }));
    let answer = get(&server, "/channels/chat?presence=ada", &bearer(&without_sub));
    assert_eq!(answer.status, 403, "the token has no subject");
}

/// A page of an origin in `--cors-origin` has the same rights as a page of the server.
#[test]
fn page_of_an_allowed_origin_may_announce_presence() {
    let cors_origins = CorsOrigins::These(vec!["http://localhost:3000".into()]);
    let server = TestServer::with(Config { cors_origins, ..Config::default() });
    let page = "Origin: http://localhost:3000\r\nSec-Fetch-Site: same-site\r\n";
    assert_eq!(get(&server, "/channels/chat?presence=ada", page).status, 200);
    let other = "Origin: http://localhost:4000\r\nSec-Fetch-Site: same-site\r\n";
    assert_eq!(get(&server, "/channels/chat?presence=ada", other).status, 403);
}

/// Histories that keep five published events and five presence events in `news`.
fn small() -> Histories {
    Histories::default().with("news", History { events: 5, ..History::default() })
}

/// Opens and closes this many streams one after the other, each with a new presence name. Returns
/// when the two events of each name have been published.
fn churn(server: &TestServer, names: usize) {
    for n in 0..names {
        let published = server.registry.last_id().n;
        drop(server.stream(&format!("/channels/news?presence=p{n}")));
        wait_until(TIMEOUT, "the client has disconnected", || {
            server.registry.last_id().n == published + 2
        });
    }
}

/// Reads a stream up to the newest event, and returns its events with data.
fn all(server: &TestServer, target: &str, headers: &str) -> Vec<Received> {
    let newest = Some(server.registry.last_id().to_string());
    let mut stream = Stream::of(server, target, headers);
    let mut events = Vec::new();
    while events.last().is_none_or(|event: &Received| event.id != newest) {
        events.push(stream.event());
    }
    events.retain(|event| event.data.is_some()); // removes heartbeats
    events
}

fn published(events: &[Received]) -> Vec<&str> {
    events.iter().filter(|event| event.name.is_none()).map(Received::data).collect()
}

fn missed(events: &[Received]) -> u64 {
    let gaps = events.iter().filter_map(Received::gap);
    gaps.map(|gap| gap["missed"].as_u64().expect("a count")).sum()
}

#[test]
fn presence_never_evicts_published_events() {
    let server = TestServer::with(Config { history: small(), ..Config::default() });
    (0..5).for_each(|n| assert_eq!(server.post("/channels/news", "", &n.to_string()).status, 200));
    churn(&server, 20);
    let events = all(&server, "/channels/news?since=all", "");
    assert_eq!(published(&events), ["0", "1", "2", "3", "4"]);
    let list = server.get("/channels").json();
    let kept = list["channels"][0]["events"].as_u64().expect("a number");
    assert!((6..=10).contains(&kept), "each kind has a limit of five: {list}");
    // A published event evicts the oldest published event.
    server.post("/channels/news", "", "5");
    let events = all(&server, "/channels/news?since=all", "");
    assert_eq!(published(&events), ["1", "2", "3", "4", "5"]);
}

#[test]
fn evicted_presence_events_are_reported_exactly() {
    let server = TestServer::with(Config { history: small(), ..Config::default() });
    let first = server.post("/channels/news", "", "first").json();
    churn(&server, 3);
    server.post("/channels/news", "", "middle");
    churn(&server, 10);
    server.post("/channels/news", "", "last");
    let cursor = format!("Last-Event-ID: {}\r\n", first["id"].as_str().expect("an id"));
    let events = all(&server, "/channels/news", &cursor);
    assert_eq!(published(&events), ["middle", "last"]);
    let received = events.iter().filter(|event| event.gap().is_none()).count() as u64;
    assert!(missed(&events) >= 15, "{events:?}");
    // All ids after the cursor belong to this channel, and for each of them, the client has either
    // received the event or got a gap.
    assert_eq!(received + missed(&events), server.registry.last_id().n - 1);
    // A client that resumes from an id after the last gap gets no gap.
    let after = events.iter().rev().filter_map(|event| event.id.as_deref()).nth(1).expect("ids");
    let again = all(&server, "/channels/news", &format!("Last-Event-ID: {after}\r\n"));
    assert_eq!(missed(&again), 0, "{again:?}");
}

/// The file of a store. Dropping it removes the file.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn restart_keeps_events_that_presence_did_not_evict() {
    let name = format!("threadcast-presence-{}.redb", std::process::id());
    let file = File(std::env::temp_dir().join(name));
    let store = || Some(file.0.clone().into());
    let config = || Config { history: small(), store: store(), ..Config::default() };
    let server = TestServer::with(config());
    let first = server.post("/channels/news", "", "0").json();
    (1..4).for_each(|n| assert_eq!(server.post("/channels/news", "", &n.to_string()).status, 200));
    churn(&server, 20);
    server.post("/channels/news", "", "4");
    let before = all(&server, "/channels/news?since=all", "");
    assert_eq!(published(&before), ["0", "1", "2", "3", "4"]);
    drop(server);

    let server = TestServer::with(config());
    let kept = all(&server, "/channels/news?since=all", "");
    assert_eq!(kept, before, "the same events as before the restart");
    let cursor = format!("Last-Event-ID: {}\r\n", first["id"].as_str().expect("an id"));
    let events = all(&server, "/channels/news", &cursor);
    assert_eq!(published(&events), ["1", "2", "3", "4"], "each once, none missing");
    let gaps: Vec<_> = events.iter().filter_map(Received::gap).collect();
    assert_eq!(gaps.len(), 1, "the evicted presence events are reported once: {events:?}");
    // After the restart, the server still recognizes stored presence events, so further presence
    // events evict only these.
    churn(&server, 20);
    let events = all(&server, "/channels/news?since=all", "");
    assert_eq!(published(&events), ["0", "1", "2", "3", "4"]);
}
