//! `threadcast listen` and `threadcast publish`: the real binary, against servers
//! that play a script, and against the real one.

#[path = "../common/mod.rs"]
mod common;
mod listen;
mod publish;
mod running;
mod script;

use common::TestServer;
use running::{run, said};
use threadcast::Event;

#[test]
fn arguments_that_cannot_be_are_told_with_2() {
    for arguments in [
        &["listen"][..],
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
fn what_is_published_is_listened_to() {
    let server = TestServer::start();
    let url = format!("http://{}", server.addr);
    let first = run(&["publish", "a/ü", "one", "--event", "e"], &url, "");
    assert_eq!((first.code, &*first.err), (Some(0), ""));
    assert_eq!(run(&["publish", "a/ü"], &url, "two\nthree\n"), said(""));
    let json = r#"{"data":"four","id":"own"}"#;
    assert_eq!(run(&["publish", "a/ü", "--json"], &url, json), said(""));
    let listen = ["listen", "a/ü", "--since", "all", "--count", "4"];
    assert_eq!(run(&listen, &url, ""), said("one\ntwo\nthree\nfour\n"));
    let listen = ["listen", "a/ü", "--since", first.out.trim(), "--count", "1"];
    assert_eq!(run(&listen, &url, ""), said("two\n"));
    let outcome = run(&["listen", "a/ü", "--since", "all", "--count", "4", "--json"], &url, "");
    let last: serde_json::Value =
        serde_json::from_str(outcome.out.lines().last().unwrap()).unwrap();
    assert_eq!(last, serde_json::json!({ "id": "own", "event": "message", "data": "four" }));
}

#[test]
fn several_channels_come_in_the_order_of_publishing() {
    let server = TestServer::start();
    for n in 0..6 {
        let channel = ["a", "chat/x", "chat/y"][n % 3];
        server.registry.publish(channel, &Event::new(n.to_string())).expect("a fine name");
    }
    let url = format!("http://{}", server.addr);
    let listen = ["listen", "a", "chat/*", "--since", "1h", "--count", "6"];
    assert_eq!(run(&listen, &url, ""), said("0\n1\n2\n3\n4\n5\n"));
}

#[test]
fn the_servers_no_is_told_in_its_own_words() {
    let server = TestServer::start();
    let long = "x".repeat(70 * 1024);
    let outcome = run(&["publish", "a"], &format!("http://{}", server.addr), &long);
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.err.contains("line 1 was not published: the server answered 413"),
        "{outcome:?}"
    );
}
