//! `threadcast load`, with this server and with a server of another make.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};
use threadcast::{Config, Token};

use crate::client::running::{Outcome, Running, run};
use crate::common::TestServer;

/// Runs `threadcast load` with these arguments, separated by spaces.
fn load(arguments: &str) -> Outcome {
    let arguments: Vec<&str> = ["load"].into_iter().chain(arguments.split(' ')).collect();
    run(&arguments, "", "")
}

fn report(arguments: &str) -> Value {
    let outcome = load(arguments);
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{outcome:?}");
    serde_json::from_str(&outcome.out).expect("JSON")
}

#[track_caller]
fn fails(arguments: &str, code: i32, reason: &str) {
    let outcome = load(arguments);
    assert_eq!((outcome.code, outcome.out.as_str()), (Some(code), ""), "{outcome:?}");
    assert!(outcome.err.contains(reason), "{}", outcome.err);
}

/// A server of another make: it sends `response` to each of `clients` connections, and closes them.
fn other_server(clients: usize, response: String) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let addr = listener.local_addr().expect("it is bound");
    let serve = move || {
        let mut served = 0;
        while served < clients {
            let (mut socket, _) = listener.accept().expect("a client connects");
            // The first connection only tests the address, and sends nothing.
            if socket.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {
                socket.write_all(response.as_bytes()).expect("the client reads");
                served += 1;
            }
        }
    };
    (addr, thread::spawn(serve))
}

fn events(ids: &[&str]) -> String {
    ids.iter()
        .map(|id| ["id: ", id, "\r\nevent: tick\r\ndata: hello\r\ndata\r\n\r\n"].concat())
        .collect()
}

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";

#[test]
fn published_events_reach_every_client() {
    let server = TestServer::start();
    let url = format!("http://{}/channels/bench", server.addr);
    let report =
        report(&format!("{url}?heartbeat=event --clients 20 --seconds 1 --rate 50 --json"));
    let published = report["published"].as_u64().expect("a number");
    assert!(published > 0, "{report}");
    assert_eq!(report["events"], json!(20 * published), "{report}");
    for (name, value) in [
        ("url", json!(format!("{url}?heartbeat=event"))),
        ("clients", json!(20)),
        ("connected", json!(20)),
        ("rejected", json!({})),
        ("publish_failures", json!(0)),
        ("lost", json!(0)),
        ("lost_found_by", json!("data")),
        ("repeated", json!(0)),
        ("gap_events", json!(0)),
        ("ended", json!(0)),
        ("cut", json!(0)),
    ] {
        assert_eq!(report[name], value, "{name} of {report}");
    }
    for times in ["connect_ms", "first_byte_ms", "latency_ms"] {
        let time = |name: &str| report[times][name].as_f64().expect("a number");
        assert!(time("p50") > 0.0 && time("p50") <= time("p99"), "{times} of {report}");
        assert!(time("p99") <= time("max"), "{times} of {report}");
    }
}

#[test]
fn gap_in_ids_of_another_server_is_reported() {
    let body = events(&["a-1", "a-2", "a-3", "a-4", "a-9", "a-10"]);
    let response = format!("{HEAD}Content-Length: {}\r\n\r\n{body}", body.len());
    let (addr, thread) = other_server(3, response);
    let report = report(&format!("http://{addr}/stream --clients 3 --json"));
    assert_eq!((&report["events"], &report["lost"]), (&json!(18), &json!(12)), "{report}");
    assert_eq!(report["lost_found_by"], "ids");
    assert_eq!((&report["ended"], &report["cut"]), (&json!(3), &json!(0)), "{report}");
    assert_eq!((&report["latency_ms"], &report["published"]), (&Value::Null, &Value::Null));
    thread.join().expect("the server did not panic");
}

#[test]
fn broken_streams_and_unchecked_ids_are_reported() {
    let body = events(&["x", "4f6e", "y"]);
    let response = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\nfff\r\n{body}data: half");
    let (addr, thread) = other_server(2, response);
    let outcome = load(&format!("http://{addr}/stream --clients 2"));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for line in [
        "clients       2 of 2 have a stream",
        "received      6 events",
        "lost          not checked",
        "latency       not measured",
        "disconnects   0 ended by the server, 2 broken off",
    ] {
        assert!(outcome.out.contains(line), "{line} in {}", outcome.out);
    }
    thread.join().expect("the server did not panic");
}

#[test]
fn stream_of_http_1_0_ends_with_its_connection() {
    let head = "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream;charset=utf-8\r\n\r\n";
    let (addr, thread) = other_server(1, format!("{head}{}", events(&["1", "2"])));
    let report = report(&format!("http://{addr}/ --clients 1 --json"));
    assert_eq!((&report["events"], &report["ended"]), (&json!(2), &json!(1)), "{report}");
    thread.join().expect("the server did not panic");
}

#[test]
fn token_is_sent_with_streams_and_events() {
    let token = Some(Token::new("s3cret").expect("a token"));
    let config =
        Config { publish_token: token.clone(), subscribe_token: token, ..Config::default() };
    let server = TestServer::with(config);
    let url = format!("http://{}/channels/bench", server.addr);
    fails(&format!("{url} --clients 2"), 1, "no client has a stream of");
    fails(&format!("{url} --clients 2"), 1, "status 401");
    let report = report(&format!("{url} --clients 2 --seconds 1 --rate 20 --token s3cret --json"));
    assert!(report["events"].as_u64() > Some(0) && report["lost"] == 0, "{report}");
}

#[test]
fn what_cannot_be_loaded_is_told_with_a_reason() {
    fails("https://127.0.0.1/channels/a", 2, "TLS is not supported");
    fails("127.0.0.1:8844/channels/a", 2, "not a valid URL");
    fails("http://127.0.0.1:8844/a --clients 0", 2, "--clients");
    fails("http://no-such-host.invalid/a", 1, "cannot connect to http://no-such-host.invalid/a");
    let closed = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let addr = closed.local_addr().expect("it is bound");
    drop(closed);
    fails(&format!("http://{addr}/a"), 1, "Connection refused");
    let server = TestServer::start();
    fails(&format!("http://{}/nothing --clients 2", server.addr), 1, "status 404");
    fails(&format!("http://{}/ --clients 2", server.addr), 1, "text/html");
    let url = format!("http://{}/channels/bench", server.addr);
    let publish = format!("http://{}/status", server.addr);
    fails(&format!("{url} --clients 2 --rate 5 --publish {publish}"), 1, "--publish");
}

#[test]
fn more_clients_than_descriptors_are_rejected() {
    let command = format!(
        "ulimit -n 40; exec {} load http://127.0.0.1:9/a --clients 100",
        env!("CARGO_BIN_EXE_threadcast")
    );
    let output = Command::new("sh").args(["-c", &command]).output().expect("sh is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("the descriptor limit leaves room for 8"), "{error}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn ctrl_c_ends_the_load_with_a_report() {
    let server = TestServer::start();
    let url = format!("http://{}/channels/bench", server.addr);
    let arguments = ["load", &url, "--clients", "3", "--seconds", "600", "--json"];
    let running = Running::start(&arguments, "");
    crate::common::wait_until(crate::common::TIMEOUT, "three clients", || {
        server.get("/status").json()["clients"] == 3
    });
    let killed = Command::new("kill").args(["-INT", &running.child.id().to_string()]).status();
    assert!(killed.expect("kill is installed").success());
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let report: Value = serde_json::from_str(&outcome.out).expect("JSON");
    assert_eq!((&report["connected"], &report["events"]), (&json!(3), &json!(0)), "{report}");
}
