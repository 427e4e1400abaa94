//! Tests of `threadcast publish`.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};

use super::running::{Running, printed, run};
use super::script::{KEEP, Script, answer, published};
use crate::common::TestServer;
use threadcast::{Config, Limits};

#[test]
fn one_event_has_its_fields_and_its_id_is_printed() {
    let server = Script::play([published("7-1"), published("7-2")]);
    let fields = ["--event", "n e", "--id", "own", "--retry", "2s", "--token", "s3cret"];
    let outcome = run(&[&["publish", "a b", "-hi\nü"], &fields[..]].concat(), &server.url(), "");
    assert_eq!(outcome, printed("7-1\n"));
    let json = r#"{"data":{"a":1}}"#;
    assert_eq!(run(&["publish", "a", json, "--json"], &server.url(), ""), printed("7-2\n"));
    let requests: Vec<_> = server.requests().collect();
    assert_eq!(requests[0].line, "POST /channels/a%20b?event=n+e&id=own&retry=2000 HTTP/1.1");
    assert_eq!(requests[0].header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(requests[0].header("authorization"), Some("Bearer s3cret"));
    assert_eq!(requests[0].body, "-hi\nü");
    assert_eq!(requests[1].line, "POST /channels/a HTTP/1.1");
    assert_eq!(requests[1].header("content-type"), Some("application/json"));
    assert_eq!(requests[1].body, json);
    assert_ne!(requests[0].header("idempotency-key"), requests[1].header("idempotency-key"));
}

#[test]
fn retry_repeats_the_idempotency_key() {
    let busy = answer("503 Service Unavailable", "Retry-After: 0\r\n", "");
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{\"id\":".to_owned();
    let moved = answer("308 Permanent Redirect", "Location: /new\r\n", "");
    let server = Script::play([busy, String::new(), cut, moved, published("7-1")]);
    let outcome = run(&["publish", "a", "x"], &server.url(), "");
    assert_eq!((outcome.code, &*outcome.out), (Some(0), "7-1\n"), "{outcome:?}");
    assert!(outcome.err.contains("503 Service Unavailable; trying again"), "{outcome:?}");
    let requests: Vec<_> = server.requests().collect();
    let key = requests[0].header("idempotency-key").expect("every POST has one");
    assert_eq!(requests.len(), 5);
    assert!(requests.iter().all(|at| at.header("idempotency-key") == Some(key) && at.body == "x"));
    assert_eq!(requests[4].line, "POST /new HTTP/1.1");
}

#[test]
fn failed_publish_exits_with_1_and_a_reason() {
    let detail = r#"{"detail":"too long"}"#;
    let large =
        answer("413 Content Too Large", "Content-Type: application/problem+json\r\n", detail);
    let busy = answer("429 Too Many Requests", "Retry-After: 3600\r\n", "");
    for (played, words) in [
        (large, "413 Payload Too Large: too long"),
        (busy, "Retry-After: 3600 s"),
        (answer("200 OK", "", "hello"), "has no event id; check --url"),
        (answer("303 See Other", "Location: /x\r\n", ""), "redirects to /x"),
        (answer("404 Not Found", "", "<h1>"), "answered 404 Not Found; check --url"),
        (answer("501 Not Implemented", "", ""), "501 Not Implemented; check --url"),
        (answer("403 Forbidden", "", ""), "403 Forbidden\n"),
    ] {
        let server = Script::play([played]);
        let outcome = run(&["publish", "a", "x"], &server.url(), "");
        assert_eq!((outcome.code, &*outcome.out), (Some(1), ""), "{outcome:?}");
        assert!(outcome.err.contains(words), "{words}: {outcome:?}");
    }
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let arguments = ["publish", "a", "x", "--timeout", "1ms"];
    let outcome = run(&arguments, &format!("http://{closed}"), "");
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.err.contains("gave up after"), "{outcome:?}");
}

#[test]
fn https_error_suggests_http_for_a_server_without_tls() {
    let server = TestServer::start();
    for arguments in [&["publish", "a", "x"][..], &["listen", "a"]] {
        let outcome = run(arguments, &format!("https://{}/p", server.addr), "");
        let hint = format!("the server may not use TLS, try http://{}/p\n", server.addr);
        assert!(outcome.code == Some(1) && outcome.err.ends_with(&hint), "{outcome:?}");
    }
}

#[test]
fn each_line_is_sent_at_once_over_one_connection() {
    let server = Script::play([format!("{KEEP}{}", published("1")), published("2")]);
    let mut publish = Running::start(&["publish", "a", "--verbose"], &server.url());
    let mut input = publish.input.take().expect("stdin is piped");
    input.write_all(b"one\r\n").expect("the client reads");
    assert_eq!(publish.line(), "1\n"); // while the input is still open
    input.write_all(b"two").expect("the client reads");
    drop(input);
    assert_eq!(publish.wait(), printed("2\n"));
    let requests: Vec<_> = server.requests().collect();
    assert_eq!([&*requests[0].body, &*requests[1].body], ["one", "two"]);
    assert_eq!(requests[0].connection, requests[1].connection);
}

#[test]
fn buffered_lines_are_sent_as_ordered_batches() {
    let server = Script::play(vec![published("1"); 3]);
    let lines: Vec<String> = (0..600).map(|n| format!("{n} \"ü\"")).collect();
    let input = format!("{}\n", lines.join("\n"));
    let outcome = run(&["publish", "a", "--event", "e"], &server.url(), &input);
    assert_eq!(outcome, printed(""));
    let sent: Vec<_> = server.requests().collect();
    assert!(sent.iter().all(|batch| batch.header("content-type") == Some("application/x-ndjson")));
    let events = sent.iter().flat_map(|batch| batch.body.lines());
    let expected = lines.iter().map(|line| serde_json::json!({ "data": line, "event": "e" }));
    assert!(events.map(str::to_owned).eq(expected.map(|event| event.to_string())));
}

#[test]
fn on_error_stop_exits_at_the_first_bad_line() {
    let server = Script::play([published("1")]);
    let input = "{\"data\":1}\n\n{\"data\":2}\n[]\n{\"data\":3}\n";
    let arguments = ["publish", "a", "--json", "--on-error", "stop"];
    let outcome = run(&arguments, &server.url(), input);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.err.contains("line 4 must be a JSON object with `data`"), "{outcome:?}");
    assert_eq!(
        server.requests().next().map(|at| at.body).as_deref(),
        Some("{\"data\":1}\n{\"data\":2}\n")
    );

    let server = Script::play([answer("400 Bad Request", "", "")]);
    let outcome = run(&["publish", "a", "--on-error", "stop"], &server.url(), "a\nb\n");
    assert!(
        outcome.err.contains("lines 1 to 2 were not published: the server answered 400"),
        "{outcome:?}"
    );
}

#[test]
fn bad_line_is_skipped_and_the_others_are_published() {
    let server = TestServer::start();
    let long = "x".repeat(70_000); // above the server's --event-limit
    let input = format!("first\n{long}\nthird\n");
    let url = format!("http://{}", server.addr);
    let outcome = run(&["publish", "a"], &url, &input);
    assert_eq!((outcome.code, &*outcome.out), (Some(1), ""), "{outcome:?}");
    assert!(outcome.err.contains("line 2 was not published"), "{outcome:?}");
    assert!(outcome.err.ends_with("skipped lines: 1; published: 2\n"), "{outcome:?}");
    let outcome = run(&["publish", "a", "--json"], &url, "{\"data\":4}\n[]\n{\"data\":6}\n");
    assert!(outcome.err.contains("line 2 must be a JSON object with `data`"), "{outcome:?}");
    let arguments = ["listen", "a", "--since", "all", "--count", "4"];
    assert_eq!(run(&arguments, &url, ""), printed("first\nthird\n4\n6\n"));
}

#[test]
fn error_of_the_whole_request_stops_the_input() {
    let server = Script::play([answer("401 Unauthorized", "", "")]);
    let outcome = run(&["publish", "a"], &server.url(), "a\nb\n");
    assert!(outcome.err.contains("lines 1 to 2 were not published"), "{outcome:?}");
    assert_eq!(server.requests().count(), 1);
}

#[test]
fn line_of_3_mib_is_published_if_the_server_permits_it() {
    let limits = Limits { body: 4 << 20, event: 4 << 20, ..Limits::default() };
    let server = TestServer::with(Config { limits, ..Config::default() });
    let url = format!("http://{}", server.addr);
    let long = "x".repeat(3 << 20);
    assert_eq!(run(&["publish", "a"], &url, &format!("{long}\n")), printed(""));
    let arguments = ["listen", "a", "--since", "all", "--count", "1"];
    assert_eq!(run(&arguments, &url, ""), printed(&format!("{long}\n")));
}
