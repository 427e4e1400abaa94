//! The cost of many clients. The server runs in its own process, so its threads, descriptors,
//! memory and CPU time can be measured.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use crate::common::{Answer, Process, TIMEOUT, TestClient, allow_descriptors, wait_until};

#[test]
fn endless_header_line_is_cut_off_in_constant_memory() {
    let server = Process::start(200);
    assert_eq!(answer(&mut server.connect(), "/healthz").status, 200);
    let before = server.resident_kib();
    for (start, status) in
        [("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", 431), ("GET /", 414), ("X", 414)]
    {
        let mut client = server.connect();
        client.send(start);
        client.send(&"a".repeat(16 * 1024));
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")));
        // The client continues to send until the server resets the connection.
        let megabyte = vec![b'a'; 1 << 20];
        let mut sent = 0;
        while sent < 256 && client.socket().write_all(&megabyte).is_ok() {
            sent += 1;
        }
        assert!(sent < 64, "the server accepted {sent} MB after its response");
    }
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 1024, "the process grew by {grown} KiB");
}

fn answer(client: &mut TestClient, target: &str) -> Answer {
    client.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    client.answer()
}

#[test]
fn disconnected_clients_free_threads_and_descriptors() {
    let server = Process::start(1_024);
    // After the first response, all of the server's own threads run. This client stays connected
    // and is part of the base count.
    let mut idle = server.connect();
    assert_eq!(answer(&mut idle, "/healthz").status, 200);
    let base = server.threads_and_descriptors();
    // One stream of each kind: a ticker, a scripted demo stream, and a channel without events.
    let paths = ["/stream", "/count", "/channels/a"];
    let round = |_| {
        let clients: Vec<_> =
            paths.iter().cycle().take(100).map(|path| server.stream(path)).collect();
        let (threads, descriptors) = server.threads_and_descriptors();
        assert_eq!((threads, descriptors), (base.0 + 100, base.1 + 100));
        let left = Instant::now();
        drop(clients);
        wait_until(TIMEOUT, "all threads and descriptors are released", || {
            server.threads_and_descriptors() == base
        });
        left.elapsed()
    };
    // A stream must end without waiting for its next tick or heartbeat. A busy machine may delay
    // some rounds; a server that waits would delay all of them.
    let took: Vec<_> = (0..10).map(round).collect();
    let fastest = took.iter().min().expect("ten rounds");
    assert!(*fastest < Duration::from_millis(200), "{took:?}");
}

#[test]
fn each_stream_costs_one_thread_and_one_descriptor() {
    assert!(allow_descriptors(4_096), "the hard limit is below 4,096");
    let server = Process::start(2_048);
    let mut clients: Vec<_> = (0..1_000).map(|_| server.stream("/events")).collect();
    let (threads, descriptors) = server.threads_and_descriptors();
    assert!(threads <= 1_010, "{threads} threads");
    assert!(descriptors <= 1_020, "{descriptors} descriptors");
    for client in &mut clients {
        assert_eq!(client.chunk().as_deref(), Some("retry: 3000\n"));
        // Every fifth second, the server sends a message and a custom event. The client may have
        // connected between the two, so its first event can be either.
        let event = client.chunk();
        assert!(event.as_ref().is_some_and(|event| event.contains("data: ")), "{event:?}");
    }
}

#[test]
fn full_server_keeps_its_streams_and_recovers() {
    assert!(allow_descriptors(4_096), "the hard limit is below 4,096");
    let server = Process::start(200);
    let clients: Vec<_> = (0..300).map(|_| server.connect()).collect();
    // A write may fail, because the server closes or resets the connections that it rejects.
    for client in &clients {
        let request = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let _ = client.socket().write_all(request);
    }
    let mut admitted: Vec<TestClient> = clients.into_iter().filter_map(begun).collect();
    assert!(admitted.len() >= 120, "{} of 300 were served", admitted.len());
    for client in &mut admitted {
        for _ in 0..3 {
            assert!(client.chunk().is_some(), "the stream continues");
        }
    }
    let cpu = server.cpu();
    assert!(cpu < Duration::from_secs(1), "{cpu:?} of CPU time");

    drop(admitted);
    wait_until(TIMEOUT, "new clients are served after the others disconnected", || {
        let mut client = server.connect();
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut answer = Vec::new();
        // Errors are ignored, because a full server may reset the connection.
        let _ = client.socket().write_all(request);
        let _ = client.reader.read_to_end(&mut answer);
        answer.starts_with(b"HTTP/1.1 200 ")
    });
    wait_until(TIMEOUT, "all their descriptors are released", || server.count("fd") < 20);
    let again: Vec<_> = (0..150).map(|_| server.stream("/events")).collect();
    assert_eq!(again.len(), 150);
}

#[test]
fn new_client_replaces_the_oldest_connection() {
    let server = Process::start(60);
    // There are more clients than descriptors. Each client has begun a second request, and the
    // server closes the oldest connection for each new one.
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = server.connect();
        assert_eq!(answer(&mut client, "/healthz").status, 200);
        client.send("G");
        clients.push(client);
    }
    assert!(server.count("fd") <= 60);
    assert!(clients[0].is_closed(), "the oldest was closed");
    let full = server.count("fd");
    clients.drain(..75);
    wait_until(TIMEOUT, "descriptors are released", || server.count("fd") < full - 10);
    assert_eq!(answer(&mut server.connect(), "/healthz").status, 200);
}

/// Returns the client if its stream has begun, and `None` if the server rejected it.
fn begun(mut client: TestClient) -> Option<TestClient> {
    match client.reader.fill_buf() {
        Ok([]) => None,
        Ok(_) => (client.head().status == 200).then_some(client),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
        Err(error) => panic!("neither served nor rejected: {error}"),
    }
}
