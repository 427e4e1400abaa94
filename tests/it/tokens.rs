//! Tokens: the `WWW-Authenticate` challenge, the session cookie, and the outputs that must never
//! contain a token.

use std::fs;
use std::io::BufRead;

use crate::common::{Process, TestServer};
use threadcast::{Config, Token};

fn token(secret: &str) -> Token {
    Token::new(secret).expect("visible ASCII")
}

#[test]
fn response_401_distinguishes_missing_and_wrong_tokens() {
    let server =
        TestServer::with(Config { publish_token: Some(token("s3cret")), ..Config::default() });
    for (headers, challenge) in [
        ("", "Bearer"),
        ("Authorization: Basic eA==\r\n", "Bearer"),
        ("Authorization: Bearer wrong\r\n", "Bearer error=\"invalid_token\""),
    ] {
        let answer = server.post("/channels/x", headers, "no");
        assert_eq!(answer.status, 401, "{headers}");
        assert_eq!(answer.header("www-authenticate"), Some(challenge), "{headers}");
        assert!(!answer.body.contains("wrong"), "the response repeats the token: {answer:?}");
    }
}

#[test]
fn session_cookie_is_http_only_and_same_site() {
    let secret = "s3;c r%e\"t=,ü".replace([' ', 'ü'], "_");
    let config = Config { subscribe_token: Some(token(&secret)), ..Config::default() };
    let server = TestServer::with(config);
    let session = |method: &str, headers: &str| {
        server.head(&format!("{method} /session HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"))
    };
    for headers in ["", "Authorization: Bearer wrong\r\n", "Cookie: threadcast_token=wrong\r\n"] {
        let answer = session("POST", headers);
        assert_eq!((answer.status, answer.header("set-cookie")), (401, None), "{headers}");
    }
    let bearer = format!("Authorization: Bearer {secret}\r\n");
    let answer = session("POST", &bearer);
    assert_eq!(answer.status, 204, "{answer:?}");
    let cookie = answer.header("set-cookie").expect("a cookie");
    let (pair, attributes) = cookie.split_once("; ").expect("attributes");
    assert!(
        pair.starts_with("threadcast_token=") && !pair.contains([' ', '"', ',', ';']),
        "{pair}"
    );
    let mut attributes: Vec<&str> = attributes.split("; ").collect();
    attributes.sort_unstable();
    assert_eq!(attributes, ["HttpOnly", "Path=/", "SameSite=Strict"]);

    let list = |headers: &str| {
        server
            .request(&format!("GET /channels HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"))
            .status
    };
    assert_eq!(list(&format!("Cookie: {pair}\r\n")), 200);
    assert_eq!(list(&format!("Cookie: {pair}x\r\n")), 401);

    let answer = session("DELETE", "");
    assert_eq!(answer.status, 204);
    let cookie = answer.header("set-cookie").expect("a cookie").to_owned();
    assert!(cookie.starts_with("threadcast_token=; "), "{cookie}");
    for attribute in ["Path=/", "Max-Age=0", "HttpOnly", "SameSite=Strict"] {
        assert!(cookie.split("; ").any(|found| found == attribute), "{cookie}");
    }
    let open = TestServer::start();
    assert_eq!(
        open.post("/session", &bearer, "").status,
        404,
        "without a token there are no sessions"
    );
}

#[test]
fn tokens_are_never_logged_or_printed() {
    let (secret, wrong) = ("never-l0gged", "wr0ng-too");
    let config = Config {
        publish_token: Some(token(secret)),
        subscribe_token: Some(token(secret)),
        ..Config::default()
    };
    assert!(!format!("{config:?}").contains(secret));
    let name = format!("threadcast-tokens-{}", std::process::id());
    let log = std::env::temp_dir().join(name);
    let mut server = Process::shell(
        &format!("exec 2>'{}'; RUST_LOG=trace exec", log.display()),
        &format!("--publish-token {secret} --subscribe-token {secret}"),
    );
    for token in [secret, wrong] {
        for headers in [
            format!("Authorization: Bearer {token}\r\n"),
            format!("Authorization: {token}\r\n"),
            format!("Cookie: threadcast_token={token}\r\n"),
            format!("Content-Length: {token}\r\n"),
        ] {
            for route in ROUTES {
                let target = format!("{route}?access_token={token} HTTP/1.1");
                let request = format!("{target}\r\nHost: localhost\r\n{headers}\r\n");
                let answer = response_start(&server, &request);
                assert!(!answer.contains(token), "{request} {answer}");
            }
        }
    }
    server.signal("TERM"); // so that each stream logs its end
    assert!(server.child.wait().expect("a child process").success());
    let lines = fs::read_to_string(&log).expect("UTF-8");
    fs::remove_file(&log).expect("a file of this test");
    assert!(lines.contains("ended after"), "the log has no end of a stream: {lines}");
    let found = lines.lines().find(|line| line.contains(secret) || line.contains(wrong));
    assert_eq!(found, None);
}

const ROUTES: [&str; 8] = [
    "GET /channels/x",
    "GET /channels",
    "GET /stream",
    "POST /channels/x",
    "DELETE /channels/x",
    "POST /send-data",
    "GET /",
    "GET /nothing",
];

/// Sends a request; returns the response head and the part of the body that came with it.
fn response_start(server: &Process, request: &str) -> String {
    let mut client = server.connect();
    client.send(request);
    let head = client.head();
    let rest = if head.status == 204 { &[] } else { client.reader.fill_buf().expect("connected") };
    format!("{head:?} {}", String::from_utf8_lossy(rest))
}
