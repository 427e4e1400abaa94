//! Tests of `threadcast listen` and `threadcast publish`, with scripted servers and a real one.

mod durable;
mod listen;
mod publish;
pub(crate) mod running;
mod script;

use crate::common::TestServer;
use running::{printed, run};
use script::{Script, answer};
use threadcast::Event;

#[test]
fn invalid_arguments_exit_with_2() {
    for arguments in [
        &["listen"][..],
        &["healthcheck", "localhost:1"],
        &["healthcheck", "http://localhost", "--timeout", "0s"],
        &["healthcheck", "unix:"],
        &["listen", ""],
        &["listen", "a", "--count", "0"],
        &["listen", "a", "--url", "localhost:1"],
        &["listen", "a", "--token", "two words"],
        &["listen", "a", "--token-file", "/nowhere"],
        &["publish"],
        &["publish", "a*", "x"],
        &["publish", "a", "--id", "1"],
        &["publish", "a", "x", "--id", "7-7"],
        &["publish", "a", "x", "--event", "a\nb"],
        &["publish", "a", "x", "--json"],
        &["publish", "a", "{}", "--json"],
        &["publish", "a", "{\"data\":1}", "--json", "--event", "e"],
    ] {
        let outcome = run(arguments, "http://127.0.0.1:1", "");
        assert_eq!((outcome.code, &*outcome.out), (Some(2), ""), "{arguments:?} {outcome:?}");
    }
}

#[test]
fn healthcheck_tells_a_running_server_from_none() {
    let server = TestServer::start();
    let url = format!("http://{}", server.addr);
    let running = run(&["healthcheck"], &url, "");
    assert_eq!((running.code, &*running.out, &*running.err), (Some(0), "", ""));
    drop(server);
    let gone = run(&["healthcheck", &url], "http://127.0.0.1:1", "");
    assert_eq!((gone.code, &*gone.out), (Some(1), ""));
    assert!(gone.err.contains(&url), "the message names the server: {}", gone.err);
    let ill = Script::play([answer("503 Service Unavailable", "", "")]);
    let outcome = run(&["healthcheck", &ill.url()], "http://127.0.0.1:1", "");
    assert!(outcome.code == Some(1) && outcome.err.contains("503"), "{outcome:?}");
}

#[test]
fn listen_prints_what_publish_sent() {
    let server = TestServer::start();
    let url = format!("http://{}", server.addr);
    let first = run(&["publish", "a/ü", "one", "--event", "e"], &url, "");
    assert_eq!((first.code, &*first.err), (Some(0), ""));
    assert_eq!(run(&["publish", "a/ü"], &url, "two\nthree\n"), printed(""));
    let json = r#"{"data":"four","id":"own"}"#;
    assert_eq!(run(&["publish", "a/ü", "--json"], &url, json), printed(""));
    let listen = ["listen", "a/ü", "--since", "all", "--count", "4"];
    assert_eq!(run(&listen, &url, ""), printed("one\ntwo\nthree\nfour\n"));
    let listen = ["listen", "a/ü", "--since", first.out.trim(), "--count", "1"];
    assert_eq!(run(&listen, &url, ""), printed("two\n"));
    let outcome = run(&["listen", "a/ü", "--since", "all", "--count", "4", "--json"], &url, "");
    let last: serde_json::Value =
        serde_json::from_str(outcome.out.lines().last().unwrap()).unwrap();
    assert_eq!(last, serde_json::json!({ "id": "own", "event": "message", "data": "four" }));
}

#[test]
fn events_of_several_channels_keep_the_publish_order() {
    let server = TestServer::start();
    for n in 0..6 {
        let channel = ["a", "chat/x", "chat/y"][n % 3];
        server.registry.publish(channel, &Event::new(n.to_string())).expect("a valid name");
    }
    let url = format!("http://{}", server.addr);
    let listen = ["listen", "a", "chat/*", "--since", "1h", "--count", "6"];
    assert_eq!(run(&listen, &url, ""), printed("0\n1\n2\n3\n4\n5\n"));
}

#[test]
fn error_response_names_the_line_and_the_status() {
    let server = TestServer::start();
    let long = "x".repeat(70 * 1024);
    let outcome = run(&["publish", "a"], &format!("http://{}", server.addr), &long);
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.err.contains("line 1 was not published: the server answered 413"),
        "{outcome:?}"
    );
}
