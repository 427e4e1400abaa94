//! Many clients, and what they cost: the real binary in a process of its own,
//! so that its threads, descriptors, memory and CPU are nobody else's.

mod common;

use std::io::{BufRead, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use common::{Answer, Process, TIMEOUT, TestClient, allow_descriptors, wait_until};

#[test]
fn a_header_line_that_never_ends_is_cut_off_and_memory_stays_flat() {
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
        // It goes on all the same, until it is told by a reset.
        let megabyte = vec![b'a'; 1 << 20];
        let mut sent = 0;
        while sent < 256 && client.socket().write_all(&megabyte).is_ok() {
            sent += 1;
        }
        assert!(sent < 64, "{sent} MB were taken after the answer");
    }
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 1024, "the process has grown by {grown} KiB");
}

fn answer(client: &mut TestClient, target: &str) -> Answer {
    client.send(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    client.answer()
}

#[test]
fn a_hundred_clients_that_leave_are_gone_with_their_threads_and_descriptors() {
    let server = Process::start(1_024);
    // Once one is answered, all of the server's own threads run; it stays, and is counted.
    let mut idle = server.connect();
    assert_eq!(answer(&mut idle, "/healthz").status, 200);
    let base = server.threads_and_descriptors();
    // A clock, a scripted stream, and a channel without events.
    let paths = ["/stream", "/count", "/channels/a"];
    let round = |_| {
        let clients: Vec<_> =
            paths.iter().cycle().take(100).map(|path| server.stream(path)).collect();
        let (threads, descriptors) = server.threads_and_descriptors();
        assert_eq!((threads, descriptors), (base.0 + 100, base.1 + 100));
        let left = Instant::now();
        drop(clients);
        wait_until(TIMEOUT, "all threads and descriptors are free", || {
            server.threads_and_descriptors() == base
        });
        left.elapsed()
    };
    // No stream waits for a tick or a heartbeat to end. A busy machine may delay some rounds; a
    // server that waits delays all of them.
    let took: Vec<_> = (0..10).map(round).collect();
    let fastest = took.iter().min().expect("ten rounds");
    assert!(*fastest < Duration::from_millis(200), "{took:?}");
}

#[test]
fn a_thousand_streams_cost_a_thread_and_a_descriptor_each() {
    assert!(allow_descriptors(4_096), "the hard limit is below 4,096");
    let server = Process::start(2_048);
    let mut clients: Vec<_> = (0..1_000).map(|_| server.stream("/events")).collect();
    let (threads, descriptors) = server.threads_and_descriptors();
    assert!(threads <= 1_010, "{threads} threads");
    assert!(descriptors <= 1_020, "{descriptors} descriptors");
    for client in &mut clients {
        assert_eq!(client.chunk().as_deref(), Some("retry: 3000\n"));
        // A message; or a custom event, for who came between the two of a fifth second.
        let event = client.chunk();
        assert!(event.as_ref().is_some_and(|event| event.contains("data: ")), "{event:?}");
    }
}

#[test]
fn with_200_descriptors_and_300_clients_most_are_served_and_stay_served() {
    assert!(allow_descriptors(4_096), "the hard limit is below 4,096");
    let server = Process::start(200);
    let clients: Vec<_> = (0..300).map(|_| server.connect()).collect();
    // Who is turned away has been reset or closed, or is yet to be.
    for client in &clients {
        let request = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let _ = client.socket().write_all(request);
    }
    let mut lucky: Vec<TestClient> = clients.into_iter().filter_map(begun).collect();
    assert!(lucky.len() >= 120, "{} of 300 were served", lucky.len());
    for client in &mut lucky {
        for _ in 0..3 {
            assert!(client.chunk().is_some(), "it stays served");
        }
    }
    let cpu = server.cpu();
    assert!(cpu < Duration::from_secs(1), "{cpu:?} of CPU");

    drop(lucky);
    wait_until(TIMEOUT, "new clients are served after the others have left", || {
        let mut client = server.connect();
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut answer = Vec::new();
        // A reset is how one is turned away.
        let _ = client.socket().write_all(request);
        let _ = client.reader.read_to_end(&mut answer);
        answer.starts_with(b"HTTP/1.1 200 ")
    });
    wait_until(TIMEOUT, "all their descriptors are free", || server.count("fd") < 20);
    let again: Vec<_> = (0..150).map(|_| server.stream("/events")).collect();
    assert_eq!(again.len(), 150);
}

#[test]
fn newcomers_are_served_while_every_place_is_taken() {
    let server = Process::start(60);
    // More than there are descriptors. Each has begun another request; the oldest of them
    // gives way to the next.
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
    wait_until(TIMEOUT, "descriptors are free", || server.count("fd") < full - 10);
    assert_eq!(answer(&mut server.connect(), "/healthz").status, 200);
}

/// The client, if its stream has begun; `None` if it was turned away.
fn begun(mut client: TestClient) -> Option<TestClient> {
    match client.reader.fill_buf() {
        Ok([]) => None,
        Ok(_) => (client.head().status == 200).then_some(client),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
        Err(error) => panic!("neither served nor turned away: {error}"),
    }
}
