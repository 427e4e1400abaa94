//! `threadcast token`, and the keys that a server is started with.

use std::process::Command;

use super::common::Process;
use super::common::jwt::{AUDIENCE, bearer};

/// What `threadcast` says to these arguments: its exit code, its output, and its errors.
fn threadcast(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_threadcast"));
    let output = command.args(arguments).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_makes_what_a_server_takes() {
    for kind in ["rsa", "ec", "ed"] {
        let options = format!("--jwt-key-file tests/keys/{kind}.pub.pem --jwt-audience {AUDIENCE}");
        let server = Process::with(&options);
        let key_file = format!("tests/keys/{kind}.pem");
        let wish = ["token", "--key-file", &key_file, "--publish", "a"];
        let pattern = ["--audience", AUDIENCE, "--publish-urlpattern", "/:page"];
        for (more, channel) in [(&[][..], "a"), (&pattern, "%2Fb")] {
            let (code, token, errors) = threadcast(&[&wish, more].concat());
            assert_eq!((code, &*errors), (Some(0), ""), "{kind}");
            let publish = |channel: &str| {
                server.request(&format!(
                    "POST /channels/{channel} HTTP/1.1\r\nHost: localhost\r\n{}Content-Length: 1\r\n\r\nx",
                    bearer(token.trim_end())
                ))
            };
            assert_eq!(publish(channel).status, 200, "{kind} {more:?}");
            assert_eq!(publish("c").status, 403, "{kind} {more:?}");
        }
    }
}

#[test]
fn a_token_that_nobody_would_take_is_not_made() {
    let key = ["--key-file", "tests/keys/ec.pem"];
    for (arguments, expected) in [
        (&key[..], "--publish or --subscribe"),
        (&["--publish", "a"], "--key-file"),
        (&["--key-file", "tests/keys/ec.pub.pem", "--publish", "a"], "private one"),
        (&["--key-file", "tests/keys/none.pem", "--publish", "a"], "No such file"),
        (&[&key[..], &["--publish", ""]].concat(), "\"\""),
        (&[&key[..], &["--subscribe", "a\u{200b}"]].concat(), "\"a\\u{200b}\""),
        (&[&key[..], &["--subscribe-urlpattern", "/:a"]].concat(), "add --audience"),
        (&[&key[..], &["--publish", "a", "--audience", "nowhere"]].concat(), "it is a URL"),
        (&[&key[..], &["--publish", "a", "--payload", "{"]].concat(), "it is JSON"),
        (
            &[&key[..], &["--publish", "a", "--audience", AUDIENCE, "--payload", "7"]].concat(),
            "a JSON object",
        ),
    ] {
        let (code, token, errors) = threadcast(&[&["token"], arguments].concat());
        assert_eq!((code, &*token), (Some(2), ""), "{arguments:?}");
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_server_does_not_start_with_a_key_that_is_none() {
    for (file, expected) in [
        ("tests/keys/rsa.pem", "openssl pkey -pubout"),
        ("tests/keys/weak.pub.pem", "too short"),
        ("tests/keys/p384.pub.pem", "P-256"),
        ("tests/keys/none.pem", "No such file"),
    ] {
        for flag in ["--jwt-key-file", "--publish-jwt-key-file", "--subscribe-jwt-key-file"] {
            let (code, _, errors) = threadcast(&["serve", "--listen", "127.0.0.1:0", flag, file]);
            assert_eq!(code, Some(2), "{flag} {file}");
            assert!(errors.contains(expected), "{flag} {file}: {errors}");
        }
    }
}
