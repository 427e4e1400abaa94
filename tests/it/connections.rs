//! Connections: pipelined and split requests, HTTP/1.0, requests after a stream, and addresses.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;

use crate::common::{
    Process, TIMEOUT, TestClient, TestServer, before_the_end, skip_here, wait_until,
};
use threadcast::{Config, Event};

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
const MESSAGE: &str = r#"{"message":"hi"}"#;

fn post() -> String {
    let length = MESSAGE.len();
    format!(
        "POST /send-data HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{MESSAGE}"
    )
}

/// The thread that serves this client, when it has one.
fn thread_of(server: &Process, client: &TestClient) -> String {
    let port = client.socket().local_addr().expect("a socket").port();
    let find = || server.threads(&format!("sse-{port}")).pop_first();
    wait_until(TIMEOUT, "the client has a thread", || find().is_some());
    find().expect("the connection is open")
}

/// Connects until a connection is served by a thread that served another one before, and returns the
/// connection, on which nothing has been sent, with its thread.
fn reuse(server: &Process) -> (TestClient, String) {
    let mut before = None;
    let mut found = None;
    wait_until(TIMEOUT, "a thread is reused", || {
        let mut client = server.connect();
        let thread = thread_of(server, &client);
        if before.as_ref() == Some(&thread) {
            found = Some((client, thread));
            return true;
        }
        client.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(client.answer().status, 200);
        before = Some(thread);
        false
    });
    found.expect("found")
}

#[test]
fn thread_serves_another_connection_but_no_stream() {
    for delivery in ["direct", "wake"] {
        let server = Process::with(&format!("--delivery {delivery}"));
        let (mut client, thread) = reuse(&server);
        client.send(HEALTH);
        assert_eq!(client.answer().body, "ok\n");
        client.send("GET /channels/a HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.head().status, 200);
        wait_until(TIMEOUT, "the stream has a thread of its own", || {
            thread_of(&server, &client) != thread
        });
    }
}

#[test]
fn idle_threads_end_soon() {
    let server = Process::with("");
    let clients: Vec<_> = (0..30).map(|_| server.connect()).collect();
    let threads: Vec<_> = clients.iter().map(|client| thread_of(&server, client)).collect();
    drop(clients);
    let tasks = format!("/proc/{}/task", server.child.id());
    wait_until(TIMEOUT, "all threads have ended", || {
        threads.iter().all(|thread| !Path::new(&tasks).join(thread).exists())
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = TestServer::start();
    let mut client = server.connect();
    let nothing = "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let chunked = post().replace("Content-Length: 16", "Transfer-Encoding: chunked");
    let chunked = chunked.replace(MESSAGE, &format!("10\r\n{MESSAGE}\r\n0\r\n\r\n"));
    let page = "HEAD /style.css HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client.send(&format!("{HEALTH}{nothing}{}{page}{HEALTH}{chunked}{nothing}{HEALTH}", post()));
    assert_eq!(client.answer().body, "ok\n");
    assert_eq!(client.answer().status, 404);
    assert_eq!(client.answer().json()["receivedMessage"], "hi");
    assert_eq!(client.head().header("content-type"), Some("text/css; charset=utf-8"));
    assert_eq!(client.answer().body, "ok\n");
    assert_eq!(client.answer().json()["receivedMessage"], "hi");
    assert_eq!(client.answer().status, 404);
    assert_eq!(client.answer().body, "ok\n");
}

#[test]
fn thousand_pipelined_requests_are_all_answered() {
    let server = TestServer::start();
    let mut client = server.connect();
    client.send(&HEALTH.repeat(1_000));
    for _ in 0..1_000 {
        assert_eq!(client.answer().body, "ok\n");
    }
}

#[test]
fn pipelined_requests_after_an_error_are_not_answered() {
    let server = TestServer::start();
    let mut client = server.connect();
    client.send(&format!("{HEALTH}GET / HTTP/1.1\r\n\r\n{HEALTH}"));
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.answer().status, 400);
    client.assert_ended();
}

#[test]
fn request_may_arrive_in_two_pieces() {
    let server = TestServer::start();
    let mut client = server.connect();
    client.socket().set_nodelay(true).expect("a TCP socket");
    let request = format!("{}{HEALTH}", post());
    for cut in 1..request.len() {
        let (first, second) = request.split_at(cut);
        client.send(first);
        client.send(second);
        assert_eq!(client.answer().json()["receivedMessage"], "hi", "cut at {cut}");
        assert_eq!(client.answer().body, "ok\n", "cut at {cut}");
    }
}

#[test]
fn request_may_arrive_byte_by_byte() {
    let server = TestServer::start();
    let mut client = server.connect();
    client.socket().set_nodelay(true).expect("a TCP socket");
    let chunked = post().replace("Content-Length: 16", "Transfer-Encoding: chunked");
    let chunked =
        chunked.replace(MESSAGE, "a;x=y\r\n{\"message\"\r\n6\r\n:\"hi\"}\r\n0\r\nX: y\r\n\r\n");
    for request in [post(), chunked, post()] {
        for byte in request.as_bytes() {
            client.send(&[*byte]);
        }
        assert_eq!(client.answer().json()["receivedMessage"], "hi");
    }
}

/// The crate `tiny_http` has a fault here: its `Server` stops accepting connections after such a
/// request.
#[test]
fn request_after_a_stream_request_is_ignored() {
    let server = TestServer::start();
    let mut pipelining = server.connect();
    let stream = "GET /channels/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    pipelining.send(&format!("{stream}{HEALTH}{stream}"));
    assert_eq!(pipelining.head().status, 200);

    let mut other = server.stream("/channels/a");
    assert_eq!(server.get("/healthz").status, 200);
    let id = server.registry.publish("a", &Event::new("x")).expect("a name").id;
    server.shutdown();
    for client in [&mut pipelining, &mut other] {
        client.first_frame();
        assert_eq!(client.chunk(), Some(format!("id: {id}\ndata: x\n\n")));
        client.assert_drained();
        client.assert_ended();
    }
}

/// If the server closes a socket with unread input, the kernel resets the connection.
///
/// A reset can discard the last chunk before the client has read it (RFC 9112 §9.6).
#[test]
fn bytes_sent_during_a_stream_do_not_reset_it() {
    let server = TestServer::start();
    let mut client = server.stream("/channels/a");
    client.send(HEALTH);
    server.shutdown();
    client.first_frame();
    client.assert_drained();
    client.assert_ended();
}

#[test]
fn http_1_1_connection_closes_after_connection_close() {
    let server = TestServer::start();
    for option in ["close", "Close", "keep-alive, close", "x\r\nConnection: close"] {
        let mut client = server.connect();
        client.send(&format!(
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: {option}\r\n\r\n{HEALTH}"
        ));
        assert_eq!(client.answer().header("connection"), Some("close"), "{option}");
        client.assert_ended();
    }
}

#[test]
fn http_1_0_connection_closes_without_keep_alive() {
    let server = TestServer::start();
    let mut client = server.connect();
    for _ in 0..2 {
        client.send("GET /healthz HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("keep-alive")));
    }
    client.send("GET /healthz HTTP/1.0\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    client.assert_ended();
}

#[test]
fn http_1_0_stream_is_unchunked_and_ends_by_closing() {
    let server = TestServer::start();
    let mut client = server.connect();
    client.send("GET /channels/a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let head = client.head();
    assert_eq!((head.status, head.header("connection")), (200, Some("close")));
    assert_eq!(head.header("transfer-encoding"), None);
    let id = server.registry.publish("a", &Event::new("x")).expect("a name").id;
    server.shutdown();
    let mut stream = String::new();
    client.reader.read_to_string(&mut stream).expect("FIN, not RST");
    let cursor = id.n - 1;
    let expected = format!("retry: 3000\nid: {}-{cursor}\n\nid: {id}\ndata: x\n\n", id.epoch);
    assert_eq!(before_the_end(&stream), expected);
}

/// Starts a server on these two addresses.
fn listening_on(addresses: [SocketAddr; 2]) -> TestServer {
    TestServer::with(Config { listen: addresses.to_vec(), ..Config::default() })
}

/// Whether a listener on `[::]` also accepts IPv4 connections on this system.
fn is_dual_stack() -> bool {
    let both = fs::read_to_string("/proc/sys/net/ipv6/bindv6only");
    let both = both.is_ok_and(|text| text.trim() == "0") && TcpListener::bind("[::1]:0").is_ok();
    if !both {
        skip_here("no IPv6, or net.ipv6.bindv6only is 1");
    }
    both
}

/// The IPv4 and the IPv6 loopback address with this port.
fn loopback(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}

#[test]
fn ipv6_wildcard_treats_ipv4_clients_as_ipv4() {
    if !is_dual_stack() {
        return;
    }
    let server = listening_on([(Ipv6Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::LOCALHOST, 0).into()]);
    for address in loopback(server.addr.port()) {
        let mut client = TestClient::connect(address);
        client.send(&post());
        assert_eq!(client.answer().status, 200, "{address} is local, so it may publish");
    }
}

#[test]
fn both_wildcards_bind_the_same_port() {
    if !is_dual_stack() {
        return;
    }
    let free = TcpListener::bind("[::]:0").expect("IPv6 is available");
    let port = free.local_addr().expect("a bound socket").port();
    drop(free);
    let both = [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
    for addresses in [both, [both[1], both[0]]] {
        let server = listening_on(addresses);
        for address in loopback(port) {
            let mut client = TestClient::connect(address);
            client.send(HEALTH);
            assert_eq!(client.answer().status, 200, "{address}");
        }
        drop(server);
    }
}

/// Opens and ends a stream; returns the client's address from the log line about its end.
fn logged(listen: &str, options: &str, headers: &str) -> String {
    let name = format!("threadcast-{}-{}", listen.len() + options.len(), std::process::id());
    let path = std::env::temp_dir().join(name);
    let before = format!(
        "exec 2>'{}'; exec sh -c 'exec \"$0\" --log-format json --listen {listen} {options}'",
        path.display()
    );
    let server = Process::shell(&before, "");
    let mut client = TestClient::connect((Ipv4Addr::LOCALHOST, server.addr.port()).into());
    client.send(&format!("GET /channels/a HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"));
    assert_eq!(client.head().status, 200);
    drop(client);
    let line = || {
        let log = fs::read_to_string(&path).expect("UTF-8");
        log.lines().find(|line| line.contains("ended after")).map(str::to_owned)
    };
    wait_until(TIMEOUT, "the stream's end is logged", || line().is_some());
    let line: serde_json::Value =
        serde_json::from_str(&line().expect("a logged line")).expect("JSON");
    fs::remove_file(&path).expect("a removable log file");
    let client = line["client"].as_str().expect("a client").to_owned();
    assert!(line["message"].as_str().expect("text").starts_with(&format!("{client} ")), "{line}");
    client
}

#[test]
fn log_names_the_client_behind_a_trusted_proxy() {
    let forwarded = "X-Forwarded-For: 203.0.113.7, 192.0.2.1\r\n";
    let trusted = "--trusted-proxy 127.0.0.1";
    assert_eq!(logged("127.0.0.1:0", trusted, forwarded), "192.0.2.1");
    let peer = logged("127.0.0.1:0", "", forwarded);
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");
    if is_dual_stack() {
        let peer = logged("[::]:0", "", "");
        assert!(peer.starts_with("127.0.0.1:"), "{peer}");
        let mapped = "--trusted-proxy ::ffff:127.0.0.1";
        assert_eq!(logged("[::]:0", mapped, forwarded), "192.0.2.1");
    }
}
