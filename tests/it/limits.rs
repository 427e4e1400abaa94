//! Tests of the limits on clients, and of `/status` and `/metrics`.

use std::io::Write;
use std::num::NonZero;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{Answer, CLOSED, OPEN, Stream, TestServer, check, jwt, skip, wait_until};
use threadcast::{Config, Event, Mercure};

const BROWSER: &str = "Accept: text/event-stream\r\n";

fn server(max_clients: usize) -> TestServer {
    TestServer::with(Config { max_clients: Some(max_clients), ..Config::default() })
}

fn get(server: &TestServer, target: &str, headers: &str) -> Answer {
    server.request(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"))
}

/// Checks a rejection after which an `EventSource` reconnects, and returns its retry time.
#[track_caller]
fn retry_of(error: &Answer) -> Duration {
    assert_eq!(error.status, 200, "{error:?}");
    assert_eq!(error.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(error.header("access-control-allow-origin"), None);
    // The body is a comment and a `retry:` line. It has no blank line, because some clients would
    // dispatch an empty message at one.
    let lines: Vec<&str> = error.body.split_terminator('\n').collect();
    let [comment, retry] = lines[..] else { panic!("{error:?}") };
    assert!(comment.starts_with(": "), "{error:?}");
    let retry = retry.strip_prefix("retry: ").unwrap_or_else(|| panic!("{error:?}"));
    Duration::from_millis(retry.parse().expect("milliseconds"))
}

#[test]
fn publisher_above_its_rate_gets_429_and_others_publish_on() {
    let server = TestServer::with(Config {
        publish_rate: NonZero::new(3),
        publish_token: Some("s3cret".parse().expect("a token")),
        publish_key: Some(jwt::key()),
        mercure: Mercure::On,
        ..Config::default()
    });
    let publish = |path: &str, kind: &str, body: &str| {
        let headers = format!("Authorization: Bearer s3cret\r\nContent-Type: {kind}\r\n");
        server.post(path, &headers, body)
    };
    assert_eq!(publish("/channels/a", "text/plain", "1").status, 200);
    assert_eq!(
        publish("/channels/a", "application/x-ndjson", "{\"data\":\"2\"}\n{\"data\":\"3\"}\n")
            .status,
        200
    );
    // The allowance is used up on every route that publishes.
    let form = "application/x-www-form-urlencoded";
    for (path, kind, body) in [
        ("/channels/b", "text/plain", "4"),
        ("/send-data", "application/json", "{\"message\":\"4\"}"),
        ("/.well-known/mercure", form, "topic=a&data=4"),
    ] {
        let error = publish(path, kind, body);
        assert_eq!(error.status, 429, "{path}: {error:?}");
        assert_eq!(error.header("retry-after"), Some("1"), "{path}");
        assert!(error.body.contains("--publish-rate"), "{path}: {error:?}");
    }
    assert_eq!(server.registry.last_id().n, 3, "a rejected event is not published");
    let other = jwt::bearer(&jwt::allowing(&["*"], &[]));
    assert_eq!(server.post("/channels/a", &other, "5").status, 200, "another token publishes on");
    // A request without the right to publish is not counted, and reading has no such limit.
    assert_eq!(server.post("/channels/a", "", "x").status, 401);
    assert_eq!(server.get("/channels").status, 200);
}

#[test]
fn publish_rate_is_a_whole_number() {
    for bad in ["0/s", "-1/s", "1.5/s", "fast", "10/m"] {
        let output = Command::new(env!("CARGO_BIN_EXE_threadcast"))
            .arg(format!("--publish-rate={bad}"))
            .output()
            .expect("the binary runs");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{bad}: {message}");
        assert!(message.contains("--publish-rate"), "{bad}: {message}");
    }
}

#[test]
fn stream_over_the_limit_gets_200_with_a_retry_time() {
    let server = server(2);
    let first = Stream::of(&server, "/channels/a?presence=x", "");
    let _second = Stream::open(&server, "1.1", "/events", "");
    let wait = retry_of(&get(&server, "/channels/a?presence=y", BROWSER));
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&wait), "{wait:?}");
    let other = get(&server, "/channels/a", "Accept: text/html, text/Event-Stream;q=0.5\r\n");
    assert_ne!(retry_of(&other), wait, "the retry time is jittered");
    // Clients that do not accept an event stream get 503 with Retry-After.
    for target in ["/channels/a", "/count", "/status/stream", "/channels?channel=a"] {
        let error =
            check(&server, format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 503, OPEN);
        let seconds: u64 = error.header("retry-after").expect("when").parse().expect("seconds");
        assert!((1..=4).contains(&seconds), "{error:?}");
        assert!(error.body.contains("--max-clients"), "the error names the flag: {error:?}");
    }
    let upgrade = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    check(&server, upgrade, 503, OPEN);
    // A rejected client never appears in presence, and HEAD needs no permit.
    let present = server.get("/channels/a/subscribers").json();
    assert_eq!(
        (present["subscribers"].clone(), present["present"][0]["username"].clone()),
        (1.into(), "x".into())
    );
    assert_eq!(server.head("HEAD /events HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);
    // The full server still serves pages and accepts events.
    assert_eq!(server.get("/").status, 200);
    assert_eq!(server.post("/channels/a", "", "x").status, 200);
    // A disconnect releases the client's permit.
    drop(first);
    wait_until(crate::common::TIMEOUT, "a permit is released", || {
        server.get("/status").json()["clients"] == 1
    });
    let mut third = Stream::of(&server, "/channels/a", "");
    server.registry.publish("a", &Event::new("x")).expect("a name");
    assert_eq!(third.event().data(), "x");
}

#[test]
fn limit_per_address_applies_behind_a_trusted_proxy() {
    let config = Config {
        max_per_address: 1,
        trusted_proxies: vec!["127.0.0.1/32".parse().expect("a network")],
        ..Config::default()
    };
    let server = TestServer::with(config.clone());
    let of = |client: &str| format!("X-Forwarded-For: 203.0.113.9, {client}\r\n");
    let _one = Stream::of(&server, "/channels/a", &of("192.0.2.1"));
    let _other = Stream::of(&server, "/channels/a", &of("192.0.2.2"));
    let _v6 = Stream::of(&server, "/channels/a", &of("2001:db8::1"));
    for full in ["192.0.2.1", "2001:db8::2"] {
        let wait = retry_of(&get(&server, "/channels/a", &format!("{BROWSER}{}", of(full))));
        assert!(wait >= Duration::from_secs(15), "{wait:?}");
        let error = get(&server, "/channels/a", &of(full));
        assert!(error.status == 503 && error.body.contains("--max-per-address"), "{error:?}");
    }
    // Clients on loopback are exempt. This includes the clients of an untrusted proxy on loopback.
    let _own: Vec<_> = (0..3).map(|_| Stream::of(&server, "/channels/a", "")).collect();
    let server = TestServer::with(Config { trusted_proxies: Vec::new(), ..config });
    let _all: Vec<_> =
        (0..3).map(|_| Stream::of(&server, "/channels/a", &of("192.0.2.1"))).collect();
}

#[test]
fn status_names_the_binding_limit_and_has_a_stream() {
    let server = server(7);
    let mut stream = Stream::open(&server, "1.1", "/status/stream", "");
    stream.expect("retry: 3000");
    let streamed: serde_json::Value = serde_json::from_str(&stream.data()).expect("JSON");
    let requested = server.get("/status").json();
    for status in [&streamed, &requested] {
        assert_eq!(
            (status["clients"].clone(), status["max_clients"].clone()),
            (1.into(), 7.into())
        );
        assert_eq!(status["draining"], false);
        let limits = status["limits"].as_array().expect("a list");
        assert_eq!(
            limits[0]["name"], status["binding_limit"],
            "the smallest limit is the first: {status}"
        );
        assert_eq!(limits[0]["clients"], status["capacity"]);
        assert!(limits.iter().any(|limit| limit["name"] == "RLIMIT_NOFILE"), "{status}");
        assert!(status["raise"].as_str().is_some_and(|line| !line.is_empty()));
        assert!(status["threads"].as_u64() > Some(6) && status["memory_bytes"].as_u64() > Some(0));
    }
    for target in ["/healthz", "/readyz"] {
        assert_eq!(server.get(target).status, 200);
    }
}

#[test]
fn status_and_metrics_require_the_subscribe_token() {
    let subscribe_token = Some("secret".parse().expect("a token"));
    let server = TestServer::with(Config { subscribe_token, ..Config::default() });
    for target in ["/status", "/status/stream", "/metrics"] {
        assert_eq!(server.get(target).status, 401, "{target}");
        let answer = server.head(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\nConnection: close\r\n\r\n"));
        assert_eq!(answer.status, 200, "{target}");
    }
    // `/readyz` requires no token, because a load balancer has none.
    check(
        &server,
        "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        200,
        CLOSED,
    );
}

#[test]
fn metrics_count_events_and_are_valid_for_promtool() {
    let server = server(1);
    let mut stream = Stream::of(&server, "/channels/a", "");
    server.registry.publish("a", &Event::new("x")).expect("a name");
    assert_eq!(stream.event().data(), "x");
    get(&server, "/channels/a", BROWSER);
    drop(stream);
    let metrics = || server.get("/metrics").body;
    wait_until(crate::common::TIMEOUT, "the stream has ended", || {
        metrics().contains("threadcast_stream_ends_total{reason=\"left\"} 1\n")
    });
    let text = metrics();
    for line in [
        "threadcast_clients 0\n",
        "threadcast_max_clients 1\n",
        "threadcast_rejections_total{reason=\"max_clients\"} 1\n",
        "threadcast_rejections_total{reason=\"draining\"} 0\n",
        "threadcast_events_out_total 1\n",
        "threadcast_disconnect_seconds_count 1\n",
        "threadcast_gaps_total 0\n",
        "# TYPE threadcast_accepts_total counter\n",
        "threadcast_limit_clients{limit=\"RLIMIT_NOFILE\"} ",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let binding: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("threadcast_limit_is_binding") && line.ends_with(" 1"))
        .collect();
    assert_eq!(binding.len(), 1, "{binding:?}");
    let promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn();
    let Ok(mut promtool) = promtool else {
        return skip("promtool is not installed (Debian: apt-get install prometheus)");
    };
    promtool.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("it reads");
    assert!(promtool.wait().expect("it is our child").success(), "promtool reports an error");
}
