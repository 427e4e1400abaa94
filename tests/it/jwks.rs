//! Key sets: which key verifies a token, and how a server follows the issuer's changes.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use serde_json::json;
use threadcast::Config;
use threadcast::jwt::VerifyingKey;

use crate::client::running::run;
use crate::common::jwt::{ALGORITHMS, IssuerKey, bearer, everything, key_set};
use crate::common::{Answer, Process, TIMEOUT, TestClient, TestServer, wait_until};
use crate::reload::{Folder, metric};

const FETCHED: &str = "threadcast_jwks_fetches_total{result=\"ok\"}";
const FAILED: &str = "threadcast_jwks_fetches_total{result=\"failed\"}";

/// An issuer: it serves the folder, and so the key set in it, over HTTP.
fn issuer(folder: &Folder) -> (TestServer, String) {
    let server = TestServer::with(Config { public: Some(folder.0.clone()), ..Config::default() });
    let options = format!("--jwks http://{}/jwks.json", server.addr);
    (server, options)
}

/// An issuer whose responses the test writes itself.
fn issuer_by_hand() -> (TcpListener, String) {
    let issuer = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/", issuer.local_addr().expect("a bound socket"));
    (issuer, url)
}

/// Waits until the server asks this issuer for its keys.
fn next_fetch(issuer: &TcpListener) -> TcpStream {
    let mut client = None;
    issuer.set_nonblocking(true).expect("an open socket");
    wait_until(TIMEOUT, "the server fetches its keys", || {
        client = issuer.accept().ok();
        client.is_some()
    });
    let (client, _) = client.expect("a client");
    let mut head = BufReader::new(client.try_clone().expect("a free descriptor"));
    while head.read_line(&mut String::new()).is_ok_and(|length| length > 2) {}
    client
}

fn answer_fetch(mut client: TcpStream, set: &str) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n", set.len());
    client.write_all(format!("{head}\r\n{set}").as_bytes()).expect("the client reads");
}

/// Replaces the key set in one step.
fn publish(folder: &Folder, set: &str) {
    folder.write("new", set);
    std::fs::rename(folder.path("new"), folder.path("jwks.json")).expect("the same folder");
}

fn get(server: &Process, headers: &str) -> Answer {
    server.request(&format!(
        "GET /channels HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n"
    ))
}

fn stream(server: &Process, headers: &str) -> TestClient {
    let mut client = server.connect();
    client.send(&format!("GET /channels/a HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
    assert_eq!(client.head().status, 200);
    client.first_frame();
    client
}

fn of(key: &IssuerKey) -> String {
    bearer(&key.token(&everything()))
}

#[test]
fn each_algorithm_is_verified_by_the_key_that_kid_names() {
    let keys: Vec<_> =
        ALGORITHMS.iter().map(|alg| IssuerKey::new(alg, &format!("k-{alg}"))).collect();
    let set = key_set(&keys.iter().collect::<Vec<_>>());
    let set = VerifyingKey::from_jwks(set.as_bytes()).expect("a key set");
    let config =
        Config { publish_key: Some(set.clone()), subscribe_key: Some(set), ..Config::default() };
    let server = TestServer::with(config);
    let status = |token: &str| server.post("/channels/a", &bearer(token), "x").status;
    for (key, alg) in keys.iter().zip(ALGORITHMS) {
        assert_eq!(status(&key.token(&everything())), 200, "{alg}");
        for (kid, other, expected) in [
            (json!(null), alg, 200), // no other key has this algorithm
            (json!("unknown"), alg, 401),
            (json!("k-RS256"), alg, if alg == "RS256" { 200 } else { 401 }),
            (json!(format!("k-{alg}")), "none", 401),
            (json!(format!("k-{alg}")), "RS384", 401),
        ] {
            let token = key.token_with(&json!({ "alg": other, "kid": kid }), &everything());
            assert_eq!(status(&token), expected, "{alg}: {kid} {other}");
        }
        let forged = IssuerKey::new(alg, &format!("k-{alg}"));
        let is_new = matches!(alg, "ES256" | "ES384" | "EdDSA");
        let expected = if is_new { 401 } else { 200 };
        assert_eq!(status(&forged.token(&everything())), expected, "{alg}: the signature counts");
    }
    // The secret of an HMAC must not be a public key.
    let public = VerifyingKey::from_jwks(key_set(&[&keys[4]]).as_bytes()).expect("a key set");
    let server = TestServer::with(Config { publish_key: Some(public), ..Config::default() });
    let token = IssuerKey::new("HS256", "k-ES256").token(&everything());
    assert_eq!(server.post("/channels/a", &bearer(&token), "x").status, 401);
}

#[test]
fn token_without_kid_needs_a_single_fitting_key() {
    let keys = ["a", "b"].map(|kid| IssuerKey::new("ES256", kid));
    for (set, expected) in [(vec![&keys[0]], 200), (vec![&keys[0], &keys[1]], 401)] {
        let set = VerifyingKey::from_jwks(key_set(&set).as_bytes()).expect("a key set");
        let server = TestServer::with(Config { publish_key: Some(set), ..Config::default() });
        let token = keys[0].token_with(&json!({ "alg": "ES256" }), &everything());
        assert_eq!(server.post("/channels/a", &bearer(&token), "x").status, expected);
    }
}

#[test]
fn rotation_ends_only_the_streams_of_the_withdrawn_key() {
    const EACH: usize = 40;
    for delivery in ["direct", "wake"] {
        let folder = Folder::new(&format!("jwks-rotation-{delivery}"));
        let [old, kept, new] = ["old", "kept", "new"].map(|kid| IssuerKey::new("EdDSA", kid));
        publish(&folder, &key_set(&[&old, &kept]));
        let (_issuer, options) = issuer(&folder);
        let server = folder.serve(&format!("{options} --delivery {delivery}"));
        let open = |key| (0..EACH).map(|_| stream(&server, &of(key))).collect::<Vec<_>>();
        let (of_old, mut of_kept) = (open(&old), open(&kept));
        publish(&folder, &key_set(&[&kept, &new]));
        assert_eq!(get(&server, &of(&new)).status, 200, "an unknown kid waits for the new set");
        for mut client in of_old {
            client.assert_drained();
            client.assert_ended();
        }
        assert_eq!(get(&server, &of(&old)).status, 401);
        let post = format!(
            "POST /channels/a HTTP/1.1\r\nHost: localhost\r\n{}Content-Length: 1\r\n\r\nx",
            of(&kept)
        );
        let published = server.request(&post).json();
        assert_eq!(published["subscribers"], EACH, "{delivery}: all streams of the kept key");
        for client in &mut of_kept {
            assert!(client.chunk().expect("an event").contains("data: x\n"), "{delivery}");
        }
        let ended =
            metric(&server, &of(&kept), "threadcast_stream_ends_total{reason=\"withdrawn\"}");
        assert_eq!(usize::try_from(ended), Ok(EACH));
    }
}

#[test]
fn unknown_kid_causes_one_fetch_and_then_401_at_once() {
    let folder = Folder::new("jwks-unknown");
    let key = IssuerKey::new("ES256", "known");
    publish(&folder, &key_set(&[&key]));
    let (_issuer, options) = issuer(&folder);
    let server = folder.serve(&options);
    assert_eq!(get(&server, &of(&key)).status, 200);
    for number in 0..20 {
        let unknown = IssuerKey::new("ES256", &format!("unknown-{number}"));
        assert_eq!(get(&server, &of(&unknown)).status, 401);
    }
    assert_eq!(metric(&server, &of(&key), FETCHED), 2, "at the start, and for the first one");
    wait_until(TIMEOUT, "the reason is logged", || {
        folder.log().contains("no key of the key set has its kid")
    });
}

#[test]
fn requests_are_asked_to_retry_until_the_keys_are_fetched() {
    let folder = Folder::new("jwks-late");
    let key = IssuerKey::new("RS256", "a");
    let (_issuer, options) = issuer(&folder);
    let server = folder.serve(&options);
    let answer = get(&server, &of(&key));
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    // An EventSource would give up for ever after a 503.
    let answer = get(&server, &format!("{}Accept: text/event-stream\r\n", of(&key)));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(get(&server, "").status, 401, "a request without a token is rejected");
    publish(&folder, &key_set(&[&key]));
    wait_until(TIMEOUT, "the keys are fetched", || get(&server, &of(&key)).status == 200);
    assert!(metric(&server, &of(&key), FAILED) > 0);
    wait_until(TIMEOUT, "the reason is logged", || {
        folder.log().contains("cannot fetch the keys of http://")
    });
}

#[test]
fn keys_are_fetched_periodically_and_a_bad_set_is_ignored() {
    let folder = Folder::new("jwks-periodic");
    let [old, new] = ["old", "new"].map(|kid| IssuerKey::new("HS256", kid));
    publish(&folder, &key_set(&[&old, &new]));
    let (_issuer, options) = issuer(&folder);
    let server = folder.serve(&format!("{options} --jwks-refresh 50ms"));
    let mut client = stream(&server, &of(&old));
    let mut failed = 0;
    let too_large = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(300_000));
    for bad in ["", "{\"keys\":[]}", &too_large, &"[".repeat(1_000)] {
        publish(&folder, bad);
        wait_until(TIMEOUT, "a fetch fails", || metric(&server, &of(&old), FAILED) > failed);
        failed = metric(&server, &of(&old), FAILED);
        assert_eq!(get(&server, &of(&old)).status, 200, "the old keys are kept");
        publish(&folder, &key_set(&[&old, &new]));
        let fetched = metric(&server, &of(&old), FETCHED);
        wait_until(TIMEOUT, "a fetch succeeds", || metric(&server, &of(&old), FETCHED) > fetched);
    }
    publish(&folder, &key_set(&[&new]));
    client.assert_drained();
    assert_eq!(get(&server, &of(&new)).status, 200);
}

#[test]
fn request_with_a_known_kid_never_waits_for_a_fetch() {
    let (issuer, url) = issuer_by_hand();
    let key = IssuerKey::new("EdDSA", "known");
    let set = key_set(&[&key]);
    // Answers the first fetch, and never the second.
    let answering = thread::spawn(move || {
        answer_fetch(next_fetch(&issuer), &set);
        next_fetch(&issuer)
    });
    let server = Process::with(&format!("--jwks {url} --drain 1s"));
    wait_until(TIMEOUT, "the keys are fetched", || get(&server, &of(&key)).status == 200);
    let mut unknown = server.connect();
    let token = of(&IssuerKey::new("EdDSA", "unknown"));
    unknown.send(&format!("GET /channels HTTP/1.1\r\nHost: localhost\r\n{token}\r\n"));
    let pending: TcpStream = answering.join().expect("a second fetch");
    for _ in 0..10 {
        assert_eq!(get(&server, &of(&key)).status, 200);
    }
    let answer = unknown.answer();
    assert_eq!(answer.status, 503, "the fetch takes longer than a request waits: {answer:?}");
    drop(pending);
}

#[test]
fn key_that_is_published_during_a_fetch_is_found_by_the_next_one() {
    let (issuer, url) = issuer_by_hand();
    let [old, new] = ["old", "new"].map(|kid| IssuerKey::new("ES256", kid));
    let server = Process::with(&format!("--jwks {url}"));
    let first = next_fetch(&issuer);
    let mut client = server.connect();
    let token = of(&new);
    client.send(&format!("GET /channels HTTP/1.1\r\nHost: localhost\r\n{token}\r\n"));
    answer_fetch(first, &key_set(&[&old]));
    answer_fetch(next_fetch(&issuer), &key_set(&[&old, &new]));
    assert_eq!(client.answer().status, 200);
}

#[test]
fn sighup_reads_a_key_set_file_again_and_fetches_a_url() {
    let folder = Folder::new("jwks-hup");
    let [old, new] = ["old", "new"].map(|kid| IssuerKey::new("ES384", kid));
    publish(&folder, &key_set(&[&old]));
    let (_issuer, url) = issuer(&folder);
    let file = format!("--jwks '{}'", folder.path("jwks.json"));
    for options in [file, url] {
        publish(&folder, &key_set(&[&old]));
        let server = folder.serve(&options);
        let mut client = stream(&server, &of(&old));
        publish(&folder, &key_set(&[&new]));
        server.signal("HUP");
        client.assert_drained();
        assert_eq!(get(&server, &of(&new)).status, 200, "{options}");
        assert_eq!(get(&server, &of(&old)).status, 401, "{options}");
    }
}

#[test]
fn role_with_its_own_key_file_does_not_use_the_key_set() {
    let folder = Folder::new("jwks-roles");
    let key = IssuerKey::new("ES256", "a");
    publish(&folder, &key_set(&[&key]));
    folder.write("secret", "a secret that only publishers of this test know");
    let [set, secret] = ["jwks.json", "secret"].map(|name| folder.path(name));
    let server = Process::with(&format!("--jwks '{set}' --publish-jwt-key-file '{secret}'"));
    assert_eq!(get(&server, &of(&key)).status, 200);
    let body = format!("{}Content-Length: 1\r\n\r\nx", of(&key));
    let post = format!("POST /channels/a HTTP/1.1\r\nHost: localhost\r\n{body}");
    assert_eq!(server.request(&post).status, 401);
}

#[test]
fn bad_jwks_option_exits_with_2() {
    let folder = Folder::new("jwks-bad");
    folder.write("text", "no JSON");
    folder.write("none", "{\"keys\":[{\"kty\":\"oct\",\"k\":\"c2hvcnQ\"}]}");
    folder.write("key", "a secret that is long enough for it");
    let good = key_set(&[&IssuerKey::new("ES256", "a")]);
    publish(&folder, &good);
    let [text, none, key, set] = ["text", "none", "key", "jwks.json"].map(|name| folder.path(name));
    for (arguments, problem) in [
        (vec!["--jwks", &text], "not a JSON Web Key Set"),
        (vec!["--jwks", &none], "no key of the key set can be used"),
        (vec!["--jwks", "/nowhere/jwks.json"], "No such file"),
        (vec!["--jwks", "https://"], "expected a URL"),
        (vec!["--jwks", &set, "--jwt-key-file", &key], "cannot be used with"),
        (vec!["--jwks", &set, "--jwks-refresh", "0s"], "at least 1ms"),
    ] {
        let arguments = [&["serve", "--listen", "127.0.0.1:0"][..], &arguments].concat();
        let outcome = run(&arguments, "http://127.0.0.1:1", "");
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {outcome:?}");
        assert!(outcome.err.contains(problem), "{arguments:?}: {}", outcome.err);
    }
}
