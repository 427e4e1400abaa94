//! The command `threadcast token`, and the key files that a server accepts.

use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::common::Process;
use crate::common::jwt::{AUDIENCE, bearer};

/// Runs `threadcast` with these arguments; returns its exit code, output, and error output.
pub(super) fn threadcast(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_threadcast"));
    let output = command.args(arguments).output().expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn token_command_makes_tokens_that_the_server_accepts() {
    for kind in ["rsa", "ec", "ed"] {
        let options = format!("--jwt-key-file tests/keys/{kind}.pub.pem --jwt-audience {AUDIENCE}");
        let server = Process::with(&options);
        let key_file = format!("tests/keys/{kind}.pem");
        let base = ["token", "--key-file", &key_file, "--publish", "a"];
        let current = ["--audience", AUDIENCE];
        let pattern = ["--audience", AUDIENCE, "--publish-urlpattern", "/:page"];
        let template = ["--legacy", "--publish", "/{page}"];
        for (more, channel) in [
            (&["--legacy"][..], "a"),
            (&template, "%2Fb"),
            (&current, "a"),
            (&pattern, "%2Fb"),
            (&pattern, "https:%2F%2Fhub.example%2Fb"),
        ] {
            let (code, token, errors) = threadcast(&[&base, more].concat());
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

/// Decodes the header and the claims of a token.
fn parts(token: &str) -> (Value, Value) {
    let mut parts = token.split('.').map(|part| {
        let json = URL_SAFE_NO_PAD.decode(part).expect("base64");
        serde_json::from_slice::<Value>(&json)
    });
    let mut next = || parts.next().expect("three parts").expect("JSON");
    (next(), next())
}

#[test]
fn token_command_writes_every_claim() {
    let base =
        ["token", "--key-file", "tests/keys/ec.pem", "--audience", AUDIENCE, "--publish", "a"];
    let make = |more: &[&str]| {
        let (code, token, errors) = threadcast(&[&base[..], more].concat());
        assert_eq!((code, &*errors), (Some(0), ""));
        parts(token.trim_end())
    };
    let (header, claims) = make(&[]);
    assert_eq!(header["typ"], "at+jwt");
    assert_eq!((&claims["iss"], &claims["client_id"]), (&AUDIENCE.into(), &AUDIENCE.into()));
    assert_eq!(claims["aud"], AUDIENCE);
    let (iat, exp) = (claims["iat"].as_i64(), claims["exp"].as_i64());
    assert_eq!(exp.zip(iat).map(|(exp, iat)| exp - iat), Some(3600));
    for claim in ["sub", "jti"] {
        assert!(claims[claim].as_str().is_some_and(|it| it.starts_with("urn:uuid:")), "{claims}");
    }
    assert_ne!(claims["jti"], make(&[]).1["jti"], "each token has its own jti");
    let detail = &claims["authorization_details"][0];
    assert_eq!(detail["type"], "https://mercure.rocks/authorization-detail");
    let issuer = "https://issuer.example";
    let (_, claims) = make(&["--issuer", issuer, "--subject", "ada", "--client-id", "shop"]);
    assert_eq!(
        (&claims["iss"], &claims["sub"], &claims["client_id"]),
        (&issuer.into(), &"ada".into(), &"shop".into())
    );
    let legacy = ["token", "--key-file", "tests/keys/ec.pem", "--legacy", "--publish", "a"];
    let (code, token, _) = threadcast(&[&legacy[..], &["--subject", "ada"]].concat());
    let (header, claims) = parts(token.trim_end());
    assert_eq!((code, &header["typ"], &claims["sub"]), (Some(0), &"JWT".into(), &"ada".into()));
    assert_eq!((claims.get("iss"), &claims["mercure"]["publish"]), (None, &Value::from(vec!["a"])));
}

#[test]
fn token_command_rejects_useless_tokens() {
    let key = ["--key-file", "tests/keys/ec.pem"];
    let legacy = [&key[..], &["--legacy"]].concat();
    for (arguments, expected) in [
        (&legacy[..], "--publish or --subscribe"),
        (&[&key[..], &["--audience", AUDIENCE]].concat(), "--publish or --subscribe"),
        (&[&key[..], &["--publish", "a"]].concat(), "<--audience <URL>|--legacy>"),
        (&[&legacy[..], &["--audience", AUDIENCE, "--publish", "a"]].concat(), "cannot be used"),
        (
            &[&legacy[..], &["--issuer", "https://a.example", "--publish", "a"]].concat(),
            "cannot be used",
        ),
        (&["--publish", "a", "--legacy"], "--key-file"),
        (&["--key-file", "tests/keys/ec.pub.pem", "--publish", "a"], "private one"),
        (&["--key-file", "tests/keys/none.pem", "--publish", "a"], "No such file"),
        (&[&legacy[..], &["--publish", ""]].concat(), "\"\""),
        (&[&legacy[..], &["--subscribe", "a\u{200b}"]].concat(), "\"a\\u{200b}\""),
        (&[&legacy[..], &["--subscribe-urlpattern", "/:a"]].concat(), "add --audience"),
        (&[&key[..], &["--publish", "a", "--audience", "nowhere"]].concat(), "expected a URL"),
        (&[&key[..], &["--publish", "a", "--payload", "{"]].concat(), "expected JSON"),
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
fn server_does_not_start_with_an_invalid_key() {
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
