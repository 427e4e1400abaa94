//! Tests of `threadcast listen`.

use std::io::{self, Write};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use super::running::{Outcome, Running, printed, run};
use super::script::{HOLD, Script, answer, stream};
use crate::common::TIMEOUT;
use threadcast::client::{Decoder, ListenOptions, Listener};

#[test]
fn client_resumes_after_a_cut_inside_an_event() {
    let server = Script::play([
        stream("retry: 1\n\nid: 7-1\ndata: one\n\nid: 7-2\ndata: half\n"),
        stream("retry: 1\n\n"),
        stream("id: ü\ndata: two\ndata: lines\n\nid: 7-4\ndata: three\n\n"),
    ]);
    let outcome = run(&["listen", "a/b", "--since", "all", "--count", "3"], &server.url(), "");
    assert_eq!(outcome, printed("one\ntwo\nlines\nthree\n"));
    let requests: Vec<_> = server.requests().collect();
    assert_eq!(requests[0].line, "GET /channels/a%2Fb?since=all HTTP/1.1");
    assert_eq!(requests[0].header("accept"), Some("text/event-stream"));
    assert_eq!(requests[0].header("last-event-id"), None);
    for again in &requests[1..] {
        assert_eq!(again.line, "GET /channels/a%2Fb HTTP/1.1");
        assert_eq!(again.header("last-event-id"), Some("7-1"));
    }
}

#[test]
fn several_channels_and_prefixes_use_one_stream() {
    let server = Script::play([
        stream("retry: 1\n\nid: ü\ndata: 1\n\n"),
        stream("id: a \ndata: 2\n\n"),
        stream("data: 3\n\n"),
    ]);
    let outcome = run(&["listen", "a b", "chat*", "--count", "3"], &server.url(), "");
    assert_eq!(outcome, printed("1\n2\n3\n"));
    let requests: Vec<_> = server.requests().collect();
    let line = "GET /channels?channel=a+b&channel=chat*";
    assert_eq!(requests[0].line, format!("{line} HTTP/1.1"));
    assert_eq!(requests[1].header("last-event-id"), Some("ü"));
    // An id that is not valid in a header is sent in the query.
    assert_eq!(requests[2].line, format!("{line}&last_event_id=a+ HTTP/1.1"));
}

#[test]
fn status_204_ends_the_client_with_0() {
    let server =
        Script::play([stream("retry: 1\n\ndata: last\n\n"), answer("204 No Content", "", "")]);
    assert_eq!(run(&["listen", "a"], &server.url(), ""), printed("last\n"));
}

#[test]
fn other_response_exits_with_1_and_its_detail() {
    let problem = r#"{"title":"Forbidden","detail":"not \u001b[1mallowed"}"#;
    let problem = answer("403 Forbidden", "Content-Type: application/problem+json\r\n", problem);
    for (played, words) in [
        (problem, "the server answered 403 Forbidden: not  [1mallowed"),
        (answer("500 Internal Server Error", "", ""), "answered 500 Internal Server Error\n"),
        (answer("200 OK", "Content-Type: text/html\r\n", "<p>"), "text/html, not with an event"),
        (answer("405 Method Not Allowed", "", ""), "405 Method Not Allowed; check --url\n"),
        (answer("304 Not Modified", "", ""), "the server answered 304"),
        ("SSH-2.0-OpenSSH_9\r\n\r\n".into(), "cannot communicate with http://"),
    ] {
        let server = Script::play([played]);
        let outcome = run(&["listen", "a"], &server.url(), "");
        assert_eq!((outcome.code, &*outcome.out), (Some(1), ""), "{outcome:?}");
        assert!(outcome.err.contains(words), "{outcome:?}");
    }
}

#[test]
fn redirect_to_another_origin_gets_no_token() {
    let other = Script::play([stream("data: there\n\n")]);
    let elsewhere = format!("Location: {}/x?y\r\n", other.url());
    let server = Script::play([
        answer("301 Moved Permanently", "Location: /2\r\n", "body"),
        answer("302 Found", "Location: ../3\r\n", ""),
        answer("303 See Other", "Location: ?4\r\n", ""),
        answer("307 Temporary Redirect", "Location: 5#x\r\n", ""),
        answer("308 Permanent Redirect", &elsewhere, ""),
    ]);
    let arguments = ["listen", "a", "--count", "1", "--token", "s3cret"];
    assert_eq!(run(&arguments, &server.url(), ""), printed("there\n"));
    let lines = ["/channels/a", "/2", "/3", "/3?4", "/5"].map(|at| format!("GET {at} HTTP/1.1"));
    let requests: Vec<_> = server.requests().collect();
    assert_eq!(requests.iter().map(|request| &request.line).collect::<Vec<_>>(), lines.each_ref());
    assert!(requests.iter().all(|at| at.header("authorization") == Some("Bearer s3cret")));
    let there: Vec<_> = other.requests().collect();
    assert_eq!(there[0].line, "GET /x?y HTTP/1.1");
    assert_eq!(there[0].header("authorization"), None);
}

#[test]
fn endless_redirects_exit_with_1() {
    let circle = answer("302 Found", "Location: /again\r\n", "");
    let server = Script::play(vec![circle; 11]);
    let outcome = run(&["listen", "a"], &server.url(), "");
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.err.contains("redirects too often"), "{outcome:?}");
    assert_eq!(server.requests().count(), 11);
}

#[test]
fn client_reconnects_after_silence() {
    let server = Script::play([
        format!("{HOLD}{}", stream("retry: 1\n\nid: 1\ndata: a\n\n")),
        stream("data: b\n\n"),
    ]);
    let arguments = ["listen", "a", "--silence", "200ms", "--count", "2"];
    assert_eq!(run(&arguments, &server.url(), ""), printed("a\nb\n"));
}

#[test]
fn gap_is_a_warning_in_text_and_an_event_in_json() {
    let gap = r#"{"channel":"a","missed":2,"from":"7-1","to":"7-2"}"#;
    let play = || {
        Script::play([stream(&format!("id: 7-2\nevent: gap\ndata: {gap}\n\nid: 7-3\ndata: x\n\n"))])
    };
    let outcome = run(&["listen", "a", "--count", "1"], &play().url(), "");
    let warning = "threadcast: warning: 2 events are missing on \"a\", from \"7-1\" to \"7-2\"\n";
    assert_eq!(outcome, Outcome { err: warning.into(), ..printed("x\n") });
    let outcome = run(&["listen", "a", "--count", "2", "--json"], &play().url(), "");
    let gap = serde_json::json!({ "id": "7-2", "event": "gap", "data": gap });
    let line = r#"{"id":"7-3","event":"message","data":"x"}"#;
    assert_eq!(outcome, printed(&format!("{gap}\n{line}\n")));
}

#[test]
fn signal_ends_the_client_with_0() {
    let server = Script::play([format!("{HOLD}{}", stream("data: x\n\n"))]);
    let mut listen = Running::start(&["listen", "a"], &server.url());
    assert_eq!(listen.line(), "x\n");
    listen.terminate();
    assert_eq!(listen.wait(), printed(""));
}

/// Tests the library: after a stop, the binary soon exits even if a wait does not end.
#[test]
fn stop_handle_ends_every_wait_at_once() {
    struct Notify(Sender<()>);
    impl Write for Notify {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(()).map(|()| bytes.len()).map_err(io::Error::other)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    // The client waits in a read, then (in the next rounds) in the pause before a reconnection, and
    // in the pause after an attempt to connect has failed.
    let hold = format!("{HOLD}{}", stream("data: x\n\n"));
    for played in [hold, stream("retry: 3600000\ndata: x\n\n"), stream("retry: 1\ndata: x\n\n")] {
        let server = Script::play([played]);
        let listener = Listener::new(ListenOptions {
            server: server.url().parse().expect("a URL"),
            token: None,
            channels: vec!["a".into()],
            since: None,
            json: false,
            count: None,
            silence: Duration::from_secs(3_600),
            event_limit: Decoder::LIMIT,
        });
        let stop = listener.stop_handle();
        let ((sender, receiver), (done, ended)) = (channel(), channel());
        thread::spawn(move || {
            done.send(listener.run(&mut Notify(sender), &mut io::sink()).is_ok())
        });
        receiver.recv_timeout(TIMEOUT).expect("an event");
        stop.stop();
        assert_eq!(ended.recv_timeout(TIMEOUT), Ok(true));
    }
}

#[test]
fn closed_output_ends_the_client_with_0() {
    let server = Script::play([stream(&"data: x\n\n".repeat(100_000))]);
    let mut listen = Running::start(&["listen", "a"], &server.url());
    assert_eq!(listen.line(), "x\n");
    drop(listen.out.take());
    assert_eq!(listen.wait(), printed(""));
}

#[test]
fn client_retries_after_temporary_errors() {
    let busy = |status: &str| answer(status, "Retry-After: 0\r\n", "");
    let server = Script::play([
        busy("502 Bad Gateway"),
        busy("503 Service Unavailable"),
        busy("504 Gateway Timeout"),
        busy("429 Too Many Requests"),
        busy("408 Request Timeout"),
        stream("retry: 1\nid: 7-0\n\n"),
        busy("503 Service Unavailable"),
        stream("id: 7-1\ndata: x\n\n"),
    ]);
    let outcome = run(&["listen", "a", "--count", "1"], &server.url(), "");
    assert_eq!((outcome.code, &*outcome.out), (Some(0), "x\n"), "{outcome:?}");
    let requests: Vec<_> = server.requests().collect();
    assert_eq!(requests.last().and_then(|last| last.header("last-event-id")), Some("7-0"));
}

#[test]
fn event_above_the_limit_is_skipped_with_a_warning() {
    let long = "x".repeat(2_000);
    let server = Script::play([stream(&format!("data: 1\n\ndata: {long}\n\ndata: 3\n\n"))]);
    let arguments = ["listen", "a", "--count", "2", "--event-limit", "1KiB"];
    let outcome = run(&arguments, &server.url(), "");
    let warning = "threadcast: warning: skipped an event of more than 1024 bytes\n";
    assert_eq!(outcome, Outcome { err: warning.into(), ..printed("1\n3\n") });
}
