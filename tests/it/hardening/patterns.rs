//! The cost of patterns and of streams with many channels is bounded, and delays no other client.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use threadcast::{Config, Event, Mercure};

use crate::common::{Process, Stream, TIMEOUT, TestServer, wait_until};

const HUB: &str = "/.well-known/mercure";

fn hub() -> TestServer {
    TestServer::with(Config { mercure: Mercure::On, ..Config::default() })
}

/// Percent-encodes the characters of a pattern that a query cannot contain.
fn escaped(pattern: &str) -> String {
    let escape = |c: char| match c {
        '{' => "%7B".into(),
        '}' => "%7D".into(),
        '+' => "%2B".into(),
        '#' => "%23".into(),
        _ => c.to_string(),
    };
    pattern.chars().map(escape).collect()
}

fn query(patterns: impl IntoIterator<Item = String>) -> String {
    let patterns = patterns.into_iter();
    let parameters = patterns.map(|it| format!("match_urlpattern={}", escaped(&it)));
    format!("{HUB}?{}", parameters.collect::<Vec<_>>().join("&"))
}

/// A pattern whose compiled form takes 8 KB. Each number gives another pattern.
fn big(number: usize) -> String {
    format!("/{number}/(a{{600}})")
}

#[test]
fn patterns_over_the_compiled_size_are_rejected() {
    let server = hub();
    let table: [(Vec<String>, u16); 7] = [
        ((0..100).map(|n| format!("((?:a?){{300}}b)://x{n}")).collect(), 400),
        (vec!["/((?:a|b)*a(?:a|b){20})".into()], 400),
        ((0..7).map(big).collect(), 200),
        ((0..20).map(big).collect(), 400),
        ((0..100).map(|n| format!("/{n}/:id")).collect(), 200),
        ((0..20).map(|n| format!("https://example.com/{n}/:user/orders/:order")).collect(), 200),
        ((0..101).map(|n| format!("/{n}/:id")).collect(), 400),
    ];
    for (patterns, status) in table {
        let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", query(patterns));
        let answer = server.head(&request);
        assert_eq!(answer.status, status, "{request}");
    }
    let too_big = server.get(&query((0..20).map(big)));
    too_big.check_problem();
    assert!(too_big.body.contains("65536 bytes"), "{too_big:?}");
}

#[test]
fn streams_with_hostile_patterns_take_little_memory() {
    let server = Process::with("--mercure");
    let before = server.resident_kib();
    let streams: Vec<_> = (0..34)
        .map(|stream| {
            let attack = query((0..100).map(|n| format!("((?:a?){{300}}b)://x{stream}/{n}")));
            let mut client = server.connect();
            client.send(&format!("GET {attack} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            assert_eq!(client.head().status, 400);
            client
        })
        .collect();
    let fitting: Vec<_> =
        (0..34).map(|s| server.stream(&query((0..7).map(|n| big(s * 7 + n))))).collect();
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB for {} streams", streams.len() + fitting.len());
}

#[test]
fn compiled_patterns_have_a_total_limit() {
    let server = Process::with("--mercure --max-channels 100000");
    let mut streams = Vec::new();
    let rejected = (0..400).find_map(|stream| {
        let mut client = server.connect();
        let target = query((0..7).map(|n| big(stream * 7 + n)));
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let head = client.head();
        streams.push(client);
        (head.status != 200).then_some(head.status)
    });
    assert_eq!(rejected, Some(507), "after {} streams", streams.len());
    assert!(server.resident_kib() < 160 * 1024, "{} KiB", server.resident_kib());
    // The server still accepts a stream whose pattern is already in use, or that has no pattern.
    let _shared = server.stream(&query([big(0)]));
    let _named = server.stream("/channels/news");
    drop(streams);
    wait_until(TIMEOUT, "the patterns of closed streams are freed", || {
        let mut client = server.connect();
        let target = query([big(1_000_000)]);
        client.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        client.head().status == 200
    });
}

#[test]
fn stream_is_limited_to_100_channels() {
    let server = hub();
    let names = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("channel=c{n}")).collect();
        format!("/channels?{}", names.join("&"))
    };
    let _stream = server.stream(&names(100));
    let answer = server.get(&names(101));
    answer.check_problem();
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("at most 100 channels"), "{answer:?}");
    assert_eq!(server.registry.list().len(), 100, "a rejected request creates no channel");
}

#[test]
fn head_request_joins_no_channel() {
    let server = hub();
    for target in [
        "/channels/a?presence=eve&since=all".to_owned(),
        "/channels?channel=a&channel=b*".to_owned(),
        format!("{HUB}?match=a&match_urlpattern=/:b&topic=%7Bc%7D&last_event_id=7-7"),
    ] {
        let request = format!("HEAD {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let head = server.head(&request);
        assert_eq!(head.status, 200, "{target}: {head:?}");
        assert!(server.registry.list().is_empty(), "{target}");
    }
}

/// Runs every code path that matches patterns, and checks that no event is lost.
///
/// A debug build panics if a pattern is matched while the registry's lock is held.
#[test]
fn no_pattern_is_matched_under_the_lock() {
    let store = std::env::temp_dir().join(format!("threadcast-patterns-{}", std::process::id()));
    let _ = std::fs::remove_file(&store);
    for store in [None, Some(store.clone())] {
        let mercure = Mercure::On;
        let config = Config { mercure, store: store.map(Into::into), ..Config::default() };
        let server = TestServer::with(config);
        let mut live = Stream::of(&server, &query(["/:a".into(), "/x/*".into()]), "");
        let named = Stream::of(&server, &format!("{HUB}?match=/named&match=/x/named"), "");
        for topic in ["/new", "/named", "/x/named", "/x/new"] {
            server.registry.publish(topic, &Event::new(topic)).unwrap();
            live.expect_data(&[topic]);
        }
        let replay = format!("{}&last_event_id=earliest", query(["/:a".into(), "/x/:b".into()]));
        let mut late = Stream::of(&server, &replay, "");
        late.expect_data(&["/new", "/named", "/x/named", "/x/new"]);
        drop((live, named, late));
    }
    let _ = std::fs::remove_file(&store);
}

#[test]
fn publishers_do_not_wait_for_slow_patterns() {
    let server = hub();
    let held: Vec<_> = (0..50)
        .map(|stream| server.stream(&query((0..20).map(|n| format!("/:a*/:b*/{stream}-{n}")))))
        .collect();
    let (stop, registry) = (AtomicBool::new(false), server.registry.clone());
    registry.publish("known", &Event::new("")).unwrap();
    thread::scope(|scope| {
        for attacker in 0..4 {
            let (server, stop) = (&server, &stop);
            scope.spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let names: Vec<String> = (0..15)
                        .map(|name| format!("match={attacker}/{n}/{name}/{}", "x/".repeat(400)))
                        .collect();
                    let target = format!("{HUB}?{}", names.join("&"));
                    server.head(&format!("HEAD {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
                    server.head(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
                }
            });
        }
        let worst = (0..200).map(|_| {
            let started = Instant::now();
            registry.publish("known", &Event::new("x")).unwrap();
            started.elapsed()
        });
        let worst = worst.max().unwrap();
        stop.store(true, Ordering::Relaxed);
        assert!(worst < Duration::from_secs(2), "{worst:?}");
    });
    drop(held);
}
