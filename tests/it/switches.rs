//! Command line flags: their environment variables, URL paths that need a flag, and invalid
//! combinations.

use std::process::Command;

use crate::common::{OPEN, Process, TestServer, check};
use threadcast::{Config, Mercure};

const HUB: &str = "/.well-known/mercure";

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

#[test]
fn path_that_needs_a_flag_names_it_in_its_404() {
    let plain = TestServer::start();
    let hub = TestServer::with(Config { mercure: Mercure::On, ..Config::default() });
    let subscriptions = format!("{HUB}/subscriptions");
    let below = format!("{subscriptions}/topic/subscriber");
    let post = "POST /lab/drop?for=1s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    for (server, request, flag) in [
        (&plain, get(HUB), "start the server with --mercure\""),
        (&plain, get(&subscriptions), "--mercure-subscriptions"),
        (&hub, get(&subscriptions), "--mercure-subscriptions"),
        (&hub, get(&below), "--mercure-subscriptions"),
        (&plain, post.into(), "--lab"),
        (&plain, get("/lab/slow/cpu"), "--lab"),
    ] {
        let answer = check(server, &request, 404, OPEN);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{request}");
        assert!(answer.body.contains(flag), "{request} {answer:?}");
    }
    for target in ["/lab", "/.well-known/nothing", "/nothing"] {
        let answer = plain.get(target);
        let kind = answer.header("content-type").map(str::to_owned);
        assert_eq!((answer.status, kind.as_deref()), (404, Some("text/html; charset=utf-8")));
    }
}

#[test]
fn environment_flags_accept_common_yes_and_no_words() {
    let yes = "THREADCAST_LAB=1 THREADCAST_MERCURE=Yes THREADCAST_MERCURE_SUBSCRIPTIONS=on";
    let no = "THREADCAST_LAB=0 THREADCAST_ANONYMOUS=false THREADCAST_MERCURE_SUBSCRIPTIONS=No";
    for (variables, lab, hub) in [(yes, 200, 401), (no, 404, 404)] {
        let server = Process::shell(&format!("{variables} exec"), "");
        let status = |target: &str| server.request(&get(target)).status;
        assert_eq!(status("/lab/slow/cpu"), lab, "{variables}");
        assert_eq!(status(&format!("{HUB}/subscriptions")), hub, "{variables}");
    }
}

#[test]
fn invalid_or_incomplete_environment_flag_is_rejected() {
    let binary = env!("CARGO_BIN_EXE_threadcast");
    for (lab, mercure, subscriptions, part) in
        [("maybe", "no", "no", "--lab"), ("no", "no", "ON", "requires --mercure")]
    {
        let output = Command::new(binary)
            .args(["--listen", "127.0.0.1:0", "--store", "/no/such/folder/a.redb"])
            .env("THREADCAST_LAB", lab)
            .env("THREADCAST_MERCURE", mercure)
            .env("THREADCAST_MERCURE_SUBSCRIPTIONS", subscriptions)
            .output()
            .expect("the binary runs");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(output.status.code() == Some(2) && stderr.contains(part), "{stderr}");
    }
}

/// Starts the server with these arguments and returns what it writes to stderr. The path of the
/// store is invalid, so that the server exits.
fn stderr(arguments: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_threadcast"));
    program.args(["--listen", "127.0.0.1:0", "--store", "/no/such/folder/a.redb"]);
    let output = program.args(arguments).env("RUST_LOG", "warn").output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

#[test]
fn event_limit_above_body_limit_is_warned_about() {
    let warning = "--event-limit (1048576 bytes) has no effect above --body-limit (65536 bytes)";
    assert!(stderr(&["--event-limit", "1MiB"]).contains(warning));
    for fitting in
        [&[][..], &["--event-limit", "1MiB", "--body-limit", "1MiB"], &["--body-limit", "1KiB"]]
    {
        let stderr = stderr(fitting);
        assert!(!stderr.contains("limit"), "{fitting:?} {stderr}");
    }
}

#[test]
fn url_that_is_not_redis_is_rejected_as_a_store() {
    for (url, is_rejected) in [("http://foo", true), ("REDIS://a", true), ("./http://foo", false)] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_threadcast"));
        program.args(["--listen", "127.0.0.1:0", "--store", url]);
        let output = program.output().expect("the binary runs");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        let message = "the path of a file, or a Redis: redis://";
        assert_eq!(stderr.contains(message), is_rejected, "{stderr}");
        assert_eq!(output.status.code(), Some(1 + i32::from(is_rejected)), "{stderr}");
    }
}
