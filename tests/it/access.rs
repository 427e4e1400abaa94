//! Access control: which requests may read or publish, and which CORS headers responses have.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::common::{Answer, Process, TIMEOUT, TestClient, TestServer, jwt, wait_until};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use threadcast::{Config, CorsOrigins, Event, Token};

const PUBLISH: &str = "publish-s3cret";
const SUBSCRIBE: &str = "subscribe-s3cret";
const OTHER: &str = "http://other.example";

fn token(secret: &str) -> Token {
    Token::new(secret).expect("visible ASCII")
}

/// The servers that the tests send requests to, one for each access configuration.
struct Servers {
    open: TestServer,
    publish: TestServer,
    subscribe: TestServer,
    both: TestServer,
    listed: TestServer,
    any: TestServer,
    everywhere: TestServer,
}

impl Servers {
    fn start() -> Self {
        let with = |config: Config| {
            let server = TestServer::with(config);
            server.registry.publish("x", &Event::new("")).expect("a name");
            server
        };
        let these = CorsOrigins::These(vec![OTHER.to_owned()]);
        let config = Config::default;
        let publish = || Config { publish_token: Some(token(PUBLISH)), ..config() };
        let everywhere = vec![(Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::LOCALHOST, 0).into()];
        Self {
            open: with(config()),
            publish: with(publish()),
            subscribe: with(Config { subscribe_token: Some(token(SUBSCRIBE)), ..config() }),
            both: with(Config { subscribe_token: Some(token(SUBSCRIBE)), ..publish() }),
            listed: with(Config { cors_origins: these, ..config() }),
            any: with(Config { cors_origins: CorsOrigins::Any, ..config() }),
            everywhere: with(Config { listen: everywhere, ..config() }),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Needs {
    Read,
    Publish,
    /// Both the right to read and the right to publish.
    Both,
    Nothing,
}

/// The tested routes: the right that a request needs, the request, and its status on success.
const ROUTES: [(Needs, &str, u16); 18] = [
    (Needs::Read, "GET /channels/x", 200),
    (Needs::Read, "HEAD /channels/x", 200),
    (Needs::Read, "GET /channels?channel=x&channel=y*", 200),
    (Needs::Read, "GET /channels", 200),
    (Needs::Read, "GET /channels/x/subscribers", 200),
    (Needs::Read, "GET /stream", 200),
    (Needs::Read, "GET /count", 200),
    (Needs::Read, "GET /api/sse", 200),
    (Needs::Publish, "POST /channels/x", 200),
    (Needs::Publish, "DELETE /channels/x", 204),
    (Needs::Publish, "POST /send-data", 200),
    (Needs::Both, "GET /ws", 101),
    (Needs::Nothing, "GET /", 200),
    (Needs::Nothing, "GET /app.js", 200),
    (Needs::Nothing, "GET /nothing", 404),
    (Needs::Nothing, "GET /healthz", 200),
    (Needs::Nothing, "OPTIONS /channels/x", 204),
    (Needs::Nothing, "DELETE /session", 204),
];

/// An expected result that stands for the route's own status on success, as in [`ROUTES`].
const OK: u16 = 0;

/// Values of the `Authorization` header, and the result of a publish that needs [`PUBLISH`].
///
/// RFC 9110 §11.1 and RFC 6750 §2.1 define the syntax.
const AUTHORIZATIONS: [(&str, u16); 17] = [
    ("Bearer publish-s3cret", OK),
    ("bearer publish-s3cret", OK),
    ("BEARER publish-s3cret", OK),
    ("Bearer    publish-s3cret  ", OK),
    ("", 401),
    ("Bearer", 401),
    ("Bearer ", 401),
    ("publish-s3cret", 401),
    ("Bearerpublish-s3cret", 401),
    ("Basic cHVibGlzaC1zM2NyZXQ=", 401),
    ("Bearer publish-s3cre", 401),
    ("Bearer publish-s3crets", 401),
    ("Bearer PUBLISH-S3CRET", 401),
    ("Bearer \"publish-s3cret\"", 401),
    ("Bearer publish-s3cret, Bearer x", 401),
    ("Bearer token=publish-s3cret", 401),
    ("Bearer subscribe-s3cret", 401),
];

/// Sends one of the [`ROUTES`] with these headers from the local address `from`.
fn ask(to: SocketAddr, from: Ipv4Addr, route: &str, headers: &str) -> Answer {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("a local address");
    socket.connect(&to.into()).expect("the server listens");
    let mut client = TestClient::of(socket.into());
    let (more, body) = match route {
        "POST /channels/x" => ("", "hi"),
        "POST /send-data" => ("Content-Type: application/json\r\n", r#"{"message":"hi"}"#),
        "GET /ws" => (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            "",
        ),
        _ => ("", ""),
    };
    let host = if headers.contains("Host: ") { "" } else { "Host: localhost:8844\r\n" };
    let length =
        if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    client.send(&format!("{route} HTTP/1.1\r\n{host}{more}{headers}{length}\r\n{body}"));
    if route.starts_with("HEAD") {
        return client.head();
    }
    client.answer()
}

/// For every row, requests every route from the row's server, with the row's headers.
#[test]
fn access_matrix_holds_on_every_route() {
    let servers = &Servers::start();
    let Servers { open, publish, subscribe, both, listed, any, everywhere } = servers;
    let here = Ipv4Addr::LOCALHOST;
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let cookie = |token: &str| format!("Cookie: a=b; threadcast_token={token}; c=d\r\n");
    let line = |text: &str| format!("{text}\r\n");
    // Each row: server, client address, headers, result of reading, result of publishing.
    let mut rows = vec![
        // A client at any loopback address is local, so it may publish without a token.
        (open, here, String::new(), OK, OK),
        (open, Ipv4Addr::new(127, 0, 0, 2), String::new(), OK, OK),
        (open, Ipv4Addr::new(127, 255, 255, 254), String::new(), OK, OK),
        (everywhere, here, String::new(), OK, OK),
        // On a loopback listener, the Host must be a loopback name; the port in Host is ignored.
        (open, here, line("Host: 127.0.0.1"), OK, OK),
        (open, here, line("Host: [::1]:1"), OK, OK),
        (open, here, line("Host: evil.example"), 421, 421),
        (open, here, line("Host: localhost.evil.example:8844"), 421, 421),
        (both, here, line("Host: evil.example") + &bearer(SUBSCRIBE), 421, 421),
        (any, here, line("Host: evil.example"), 421, 421),
        // On a wildcard listener, a loopback connection also needs a loopback name in Host.
        (everywhere, here, line("Host: box.example"), 421, 421),
        (everywhere, here, line("Host: box.example\r\nOrigin: http://box.example"), 421, 421),
        // A page of another origin cannot publish, even with a token.
        (open, here, line("Origin: http://localhost:8844"), OK, OK),
        (open, here, line("Origin: http://LOCALHOST:8844"), OK, OK),
        (open, here, line("Host: localhost\r\nOrigin: http://localhost:80"), OK, OK),
        (open, here, line("Origin: http://localhost"), OK, 403),
        (open, here, line("Origin: http://127.0.0.1:8844"), OK, 403),
        (open, here, line("Origin: null"), OK, 403),
        (open, here, line("Origin:"), OK, 403),
        (open, here, line("Origin: http://other.example"), OK, 403),
        (open, here, line("Origin: file://"), OK, 403),
        (publish, here, line("Origin: null") + &bearer(PUBLISH), OK, 403),
        (publish, here, line("Origin: http://other.example") + &bearer(PUBLISH), OK, 403),
        (publish, here, line("Origin: http://localhost:8844") + &bearer(PUBLISH), OK, OK),
        // A page of an origin that `--cors-origin` lists may publish; `*` allows only reading.
        (listed, here, line("Origin: http://other.example"), OK, OK),
        (listed, here, line("Origin: http://other.example:80"), OK, 403),
        (listed, here, line("Origin: http://OTHER.example"), OK, 403),
        (listed, here, line("Origin: https://other.example"), OK, 403),
        (listed, here, line("Origin: null"), OK, 403),
        (any, here, line("Origin: http://other.example"), OK, 403),
        (any, here, line("Origin: null"), OK, 403),
        (any, here, String::new(), OK, OK),
        // With a subscribe token on the server, reading needs this token; publishing needs none.
        (subscribe, here, String::new(), 401, OK),
        (subscribe, here, bearer(SUBSCRIBE), OK, OK),
        (subscribe, here, bearer(PUBLISH), 401, OK),
        (subscribe, here, cookie(SUBSCRIBE), OK, OK),
        (subscribe, here, cookie("subscribe%2Ds3cret"), OK, OK),
        (subscribe, here, cookie("wrong"), 401, OK),
        (subscribe, here, cookie(""), 401, OK),
        (subscribe, here, cookie("wrong") + &bearer(SUBSCRIBE), OK, OK),
        (subscribe, here, line("Cookie: threadcast_tokens=subscribe-s3cret"), 401, OK),
        // With both tokens on the server, reading and publishing each need their own token.
        (both, here, String::new(), 401, 401),
        (both, here, bearer(SUBSCRIBE), OK, 401),
        (both, here, bearer(PUBLISH), 401, OK),
        (both, here, cookie(SUBSCRIBE), OK, 401),
        (both, here, cookie(PUBLISH), 401, 401),
        (both, here, cookie(SUBSCRIBE) + &bearer(PUBLISH), OK, OK),
    ];
    // A request that a proxy has forwarded is not local, so it needs a token to publish.
    for header in [
        "Forwarded: for=127.0.0.1",
        "X-Forwarded-For: 127.0.0.1",
        "x-forwarded-proto: https",
        "X-Forwarded-Anything: ",
        "X-Real-IP: 127.0.0.1",
        "VIA: 1.1 proxy",
    ] {
        rows.push((open, here, line(header), OK, 403));
        rows.push((everywhere, here, line(header), OK, 403));
        rows.push((publish, here, line(header) + &bearer(PUBLISH), OK, OK));
    }
    for (authorization, status) in AUTHORIZATIONS {
        rows.push((publish, here, format!("Authorization: {authorization}\r\n"), OK, status));
    }
    rows.push((publish, here, String::new(), OK, 401));
    // A client at a non-loopback address of this machine is not local, so it may not publish.
    match outer_address() {
        Some(outer) => rows.push((everywhere, outer, String::new(), OK, 403)),
        None => crate::common::skip_here("this machine has only loopback addresses"),
    }
    for (server, from, headers, read, publish) in rows {
        let to = if from.is_loopback() { server.addr.port() } else { everywhere.addr.port() };
        let to = SocketAddr::from((if from.is_loopback() { here } else { from }, to));
        for (needs, route, success) in ROUTES {
            server.registry.publish("x", &Event::new("")).expect("a name");
            let result = match needs {
                Needs::Read => read,
                Needs::Publish => publish,
                Needs::Both => [read, publish].into_iter().find(|s| *s != OK).unwrap_or(OK),
                // Even a route that needs no right rejects a foreign Host.
                Needs::Nothing => [OK, 421][usize::from(read == 421)],
            };
            let answer = ask(to, from, route, &headers);
            let expected = if result == OK { success } else { result };
            assert_eq!(answer.status, expected, "{route} from {from} with {headers:?} {answer:?}");
            check_error(&answer, route);
        }
    }
}

/// Returns a non-loopback address of this machine, if it has one.
///
/// Connecting a UDP socket selects a local address and sends no packet.
fn outer_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(addr) if !addr.ip().is_loopback() => Some(*addr.ip()),
        _ => None,
    }
}

#[track_caller]
fn check_error(answer: &Answer, route: &str) {
    if answer.status == 401 {
        let challenge = answer.header("www-authenticate").expect("RFC 9110 §15.5.2");
        assert!(challenge.starts_with("Bearer"), "{route} {challenge}");
    }
    if !route.starts_with("HEAD") {
        answer.check_problem();
    }
    for secret in [PUBLISH, SUBSCRIBE] {
        assert!(!answer.body.contains(secret), "{route} {answer:?}");
        assert!(!format!("{:?}", answer.headers).contains(secret), "{route} {answer:?}");
    }
}

/// The CORS headers of a response: the allowed origin, whether credentials are allowed, and
/// whether the response varies by origin.
fn cors(answer: &Answer) -> (Option<&str>, bool, bool) {
    let credentials = answer.header("access-control-allow-credentials");
    assert!(credentials.is_none_or(|value| value == "true"), "{answer:?}");
    let vary = answer.header("vary").unwrap_or_default();
    let varies = vary.split(',').any(|name| name.trim().eq_ignore_ascii_case("origin"));
    (answer.header("access-control-allow-origin"), credentials.is_some(), varies)
}

#[test]
fn cors_headers_match_the_configured_origins() {
    let servers = &Servers::start();
    let (open, listed, any) = (&servers.open, &servers.listed, &servers.any);
    let (none, star) = ((None, false, false), (Some("*"), false, false));
    let listed_origin = (Some(OTHER), true, true);
    for (server, origin, demo, others) in [
        (open, OTHER, star, none),
        (open, "null", star, none),
        (open, "http://localhost:8844", star, none),
        (any, OTHER, star, star),
        (any, "null", star, star),
        (listed, OTHER, listed_origin, listed_origin),
        (listed, "null", (Some("*"), false, true), (None, false, true)),
        (listed, "http://other.example:80", (Some("*"), false, true), (None, false, true)),
        (listed, "http://other.example.evil", (Some("*"), false, true), (None, false, true)),
    ] {
        let headers = format!("Origin: {origin}\r\n");
        for (route, expected) in ROUTES.iter().map(|(_, route, _)| (*route, others)).chain([
            ("GET /stream", demo),
            ("GET /sse", demo),
            ("GET /events", demo),
            ("GET /api/sse", demo),
            ("GET /count", demo),
            ("POST /send-data", demo),
            ("PUT /channels/x", others),
        ]) {
            let is_demo = ["/stream", "/count", "/api/sse", "/send-data"];
            let is_demo = is_demo.iter().any(|path| route.ends_with(path));
            let expected = if is_demo { demo } else { expected };
            let answer = ask(server.addr, Ipv4Addr::LOCALHOST, route, &headers);
            if answer.status == 101 {
                continue; // CORS does not apply to WebSockets
            }
            assert_eq!(cors(&answer), expected, "{route} for {origin}: {answer:?}");
        }
    }
}

#[test]
fn preflight_lists_methods_and_headers_without_a_token() {
    let servers = &Servers::start();
    for server in [&servers.open, &servers.both, &servers.listed, &servers.any] {
        for (path, methods) in [
            ("/channels/x", ["GET", "POST", "DELETE"]),
            ("/stream", ["GET", "POST", "DELETE"]),
            ("/send-data", ["GET", "POST", "DELETE"]),
        ] {
            let headers = format!(
                "Origin: {OTHER}\r\nAccess-Control-Request-Method: POST\r\n\
                 Access-Control-Request-Headers: authorization\r\n"
            );
            let route = format!("OPTIONS {path}");
            let answer = ask(server.addr, Ipv4Addr::LOCALHOST, &route, &headers);
            assert_eq!(answer.status, 204, "{path} {answer:?}");
            let allowed = answer.header("access-control-allow-methods").expect("methods");
            for method in methods {
                assert!(allowed.split(", ").any(|a| a == method), "{path} {allowed}");
            }
            let allowed = answer.header("access-control-allow-headers").expect("headers");
            for name in ["Authorization", "Content-Type", "Last-Event-ID", "Idempotency-Key"] {
                assert!(allowed.split(", ").any(|a| a == name), "{path} {allowed}");
            }
        }
    }
    let plain = ask(servers.open.addr, Ipv4Addr::LOCALHOST, "OPTIONS /channels/x", "");
    assert_eq!(plain.header("access-control-allow-methods"), None, "not a preflight request");
    assert_eq!(plain.header("allow"), Some("GET, HEAD, POST, DELETE, OPTIONS"));
}

/// A GET request from a page of this origin.
fn get_from(origin: &str) -> String {
    format!("GET /channels HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\r\n")
}

#[test]
fn cors_origins_accept_any_scheme_and_subdomains() {
    let server = Process::with(
        "--cors-origin capacitor://localhost --cors-origin 'HTTPS://*.Example.com,http://a.b:80'",
    );
    for origin in [
        "capacitor://localhost",
        "https://a.example.com",
        "https://b-1.a.example.com",
        "http://a.b", // browsers omit the default port of the scheme
    ] {
        let answer = server.request(&get_from(origin));
        assert_eq!(cors(&answer), (Some(origin), true, true), "{origin}");
        let post = format!(
            "POST /channels/a HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\
             Content-Length: 1\r\n\r\nx"
        );
        assert_eq!(server.request(&post).status, 200, "{origin} may publish too");
    }
    for origin in [
        "https://example.com",
        "http://a.example.com",
        "https://a.example.com:8443",
        "https://.example.com",
        "https://aexample.com",
        "https://a.example.com.evil.example",
        "https://evil.example/.example.com",
        "capacitor://localhost:1",
        "null",
    ] {
        let answer = server.request(&get_from(origin));
        assert_eq!(cors(&answer), (None, false, true), "{origin}");
    }
}

#[test]
fn invalid_cors_option_stops_the_start() {
    for (option, value, part) in [
        ("--cors-origin", "null", "every sandboxed frame and local file"),
        ("--cors-origin", "https://a.example/", "without a path"),
        ("--cors-origin", "a.example", "https://HOST"),
        ("--cors-origin", "https://a.*.example", "https://*.HOST"),
        ("--cors-header", "x y", "letters, digits and hyphens"),
        ("--cors-header", "*", "such as traceparent"),
        ("--cors-header", "x:y", "such as traceparent"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_threadcast")).args([option, value]).output();
        let output = output.expect("the binary starts");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        let stderr = stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(output.status.code(), Some(2), "{option} {value}: {stderr}");
        assert!(stderr.contains(part), "{option} {value}: {stderr}");
    }
}

#[test]
fn preflight_allows_the_headers_of_cors_header() {
    let server = Process::with(
        "--cors-origin https://a.example --cors-header traceparent,x-requested-with \
         --cors-header X-Trace",
    );
    let answer = server.request(
        "OPTIONS /channels/a HTTP/1.1\r\nHost: localhost\r\nOrigin: https://a.example\r\n\
         Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: traceparent\r\n\r\n",
    );
    let allowed = answer.header("access-control-allow-headers").expect("headers");
    let expected = "Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID, \
                    traceparent, x-requested-with, X-Trace";
    assert_eq!(allowed, expected);
}

/// The path of a temporary file for a server. Dropping this removes the file.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("threadcast-{name}-{}", std::process::id())))
    }

    /// Shell commands that redirect a program's standard error to the file.
    fn as_stderr(&self) -> String {
        format!("exec 2>'{}'; exec", self.0.display())
    }

    fn lines(&self, part: &str) -> Vec<String> {
        let log = fs::read_to_string(&self.0).expect("UTF-8");
        log.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn log_names_the_reason_for_a_rejected_token_not_the_token() {
    let (log, key) = (Scratch::new("rejected"), Scratch::new("key"));
    fs::write(&key.0, jwt::SECRET).expect("a file");
    let options = format!(
        "--mercure --jwt-audience {} --jwt-key-file '{}' --trusted-proxy 127.0.0.0/8",
        jwt::AUDIENCE,
        key.0.display()
    );
    let server = Process::shell(&log.as_stderr(), &options);
    let now = jwt::in_seconds(0);
    let mercure = json!({ "publish": ["a"] });
    let legacy = |claims: Value| jwt::older(&claims);
    let (header, claims) = ("{\"alg\":\"HS256\"}", "{}");
    let without_exp = json!({ "iss": jwt::ISSUER, "aud": jwt::AUDIENCE }).to_string();
    let elsewhere = json!({ "iss": jwt::ISSUER, "exp": now + 60, "aud": "https://other.example" });
    let cases = [
        (legacy(json!({ "exp": now - 60, "mercure": mercure })), "it is expired"),
        (legacy(json!({ "nbf": now + 600, "mercure": mercure })), "not valid yet"),
        (legacy(json!({ "mercure": { "publish": 7 } })), "rights"),
        (legacy(json!({ "mercure": { "publish": ["b"] } })), "no right to this topic"),
        (jwt::current(&elsewhere), "audience"),
        (
            jwt::signed("{\"typ\":\"at+jwt\",\"alg\":\"HS256\"}", &without_exp, jwt::SECRET),
            "no exp",
        ),
        (jwt::signed(header, claims, b"the secret of another server, just as long"), "signature"),
        (jwt::signed("{\"alg\":\"HS512\"}", claims, jwt::SECRET), "another algorithm"),
        ("s3cret-but-no-jwt".to_owned(), "not a JWT"),
    ];
    for (number, (token, reason)) in cases.iter().enumerate() {
        let client = format!("192.0.2.{number}");
        let answer = server.request(&format!(
            "POST /channels/a?in-the-query HTTP/1.1\r\nHost: localhost\r\n\
             Authorization: Bearer {token}\r\nX-Forwarded-For: {client}\r\n\
             Content-Length: 1\r\n\r\nx"
        ));
        assert!([401, 403].contains(&answer.status), "{reason}: {answer:?}");
        assert!(!answer.body.contains(reason), "the response omits the reason: {answer:?}");
        let name = format!("{client} ");
        // These requests stay below the limit on log lines per second, so the server logs a line
        // for each.
        wait_until(TIMEOUT, "a line is written", || !log.lines(&name).is_empty());
        let lines = log.lines(&name);
        assert!(lines[0].contains(reason) && lines[0].contains("\"/channels/a\""), "{lines:?}");
        assert!(lines.len() == 1 && lines[0].contains("INFO"), "{lines:?}");
    }
    for secret in cases.iter().map(|(token, _)| token.as_str()).chain(["in-the-query"]) {
        assert!(log.lines(secret).is_empty(), "{secret} is in the log");
    }
}

#[test]
fn log_lines_about_wrong_tokens_are_rate_limited() {
    let log = Scratch::new("flood");
    let server = Process::shell(&log.as_stderr(), &format!("--publish-token {PUBLISH}"));
    let began = Instant::now();
    let mut client = server.connect();
    let wrong = "POST /channels/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong\r\n\
                 Content-Length: 0\r\n\r\n";
    for _ in 0..1_000 {
        client.send(wrong);
        assert_eq!(client.answer().status, 401);
    }
    let seconds = usize::try_from(began.elapsed().as_secs()).expect("a short time") + 2;
    wait_until(TIMEOUT, "a line is written", || {
        !log.lines("it differs from the server's token").is_empty()
    });
    let lines = log.lines("it differs from the server's token").len();
    assert!(lines <= 10 * seconds, "{lines} lines in {seconds} s");
}
