//! Clients that are slow, silent, stuck or disconnected: deadlines end their connections, and they
//! do not affect other clients.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{TIMEOUT, TestClient, TestServer};
use socket2::SockRef;
use threadcast::{Config, Event, Limits};

/// A deadline short enough for a test.
const SOON: Duration = Duration::from_millis(400);

/// How much later than its deadline a busy machine may respond. The default deadlines are at least
/// 10 s, so a test still fails if the server waits for one of those.
const SLACK: Duration = Duration::from_secs(5);

/// A write deadline so long that, even on a busy machine, a publish takes that time only if it
/// waits for a client.
const WRITE_DEADLINE: Duration = Duration::from_secs(2);

fn server(limits: Limits) -> TestServer {
    TestServer::with(Config { limits, ..Config::default() })
}

/// Sends a byte every 20 ms until the server responds or disconnects; returns how long that took.
/// Before each byte, this function waits up to 20 ms for a response.
fn drip(client: &mut TestClient, bytes: &str) -> Duration {
    let started = Instant::now();
    let socket = client.socket();
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a positive timeout");
    for byte in bytes.bytes().cycle() {
        assert!(started.elapsed() < TIMEOUT, "the server never enforced its deadline");
        match socket.peek(&mut [0]) {
            Ok(_) => break,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("expected a response, got {error}"),
        }
        if (&mut &*socket).write_all(&[byte]).is_err() {
            break; // the server closed the connection after the check
        }
    }
    socket.set_read_timeout(Some(TIMEOUT)).expect("a positive timeout");
    started.elapsed()
}

#[track_caller]
fn assert_408_at_the_deadline(mut client: TestClient, bytes: &str) {
    let took = drip(&mut client, bytes);
    assert!((SOON..SOON + SLACK).contains(&took), "responded after {took:?}");
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert!(client.is_closed());
}

#[test]
fn slow_head_gets_408_at_its_deadline() {
    let server = server(Limits { request_deadline: SOON, ..Limits::default() });
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: localhost\r\nX: ");
    assert_408_at_the_deadline(client, "a");
    // Complete lines do not extend the deadline.
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: localhost\r\n");
    assert_408_at_the_deadline(client, "X: y\r\n");
    // The deadline begins with the first byte of the request.
    assert_408_at_the_deadline(server.connect(), "GET /healthz");
}

#[test]
fn slow_body_gets_408_at_its_deadline() {
    let server = server(Limits { request_deadline: SOON, ..Limits::default() });
    let post = "POST /send-data HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let mut client = server.connect();
    client.send(&format!("{post}Content-Length: 60000\r\n\r\n"));
    assert_408_at_the_deadline(client, " ");
    let mut client = server.connect();
    client.send(&format!("{post}Transfer-Encoding: chunked\r\n\r\n"));
    assert_408_at_the_deadline(client, "1\r\n \r\n");
    let mut client = server.connect();
    client.send(&format!("{post}Transfer-Encoding: chunked\r\n\r\n0\r\n"));
    assert_408_at_the_deadline(client, "X: y\r\n");
}

#[test]
fn silent_client_is_closed_without_a_response() {
    let server = server(Limits { keep_alive: SOON, ..Limits::default() });
    let started = Instant::now();
    let mut silent = server.connect();
    let mut answered = server.connect();
    answered.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(answered.answer().status, 200);
    for client in [&mut silent, &mut answered] {
        assert_eq!(client.reader.read(&mut [0]).expect("an end, not a reset"), 0);
    }
    let took = started.elapsed();
    assert!((SOON..SOON + SLACK).contains(&took), "closed after {took:?}");
}

#[test]
fn stream_with_a_silent_client_is_not_idle() {
    let server = server(Limits { keep_alive: SOON, request_deadline: SOON, ..Limits::default() });
    let mut stream = server.stream("/events");
    let started = Instant::now();
    while started.elapsed() < SOON * 3 {
        assert!(stream.chunk().is_some(), "the stream continues");
    }
}

#[test]
fn resets_during_accept_do_not_affect_other_clients() {
    let server = TestServer::start();
    let mut staying = server.stream("/channels/a");
    for n in 0..200 {
        let socket = TcpStream::connect(server.addr).expect("the server listens");
        match n % 4 {
            0 => {}
            1 => (&mut &socket).write_all(b"GET /ev").expect("connected"),
            2 => (&mut &socket)
                .write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .expect("connected"),
            _ => (&mut &socket).write_all(b"BAD\r\n\r\n").expect("connected"),
        }
        // With a linger time of 0, dropping the socket resets the connection.
        SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a TCP socket");
    }
    assert_eq!(server.get("/healthz").status, 200);
    let published = server.registry.publish("a", &Event::new("x")).expect("a valid channel name");
    assert_eq!(published.subscribers, 1);
    staying.first_frame();
    assert_eq!(staying.chunk(), Some(format!("id: {}\ndata: x\n\n", published.id)));
}

#[test]
fn stuck_client_is_cut_and_does_not_delay_others() {
    let server = server(Limits { write_deadline: WRITE_DEADLINE, ..Limits::default() });
    let mut stuck = server.stream("/channels/a");
    let mut reading = server.stream("/channels/a");
    reading.first_frame();
    let event = Event::new("x".repeat(60_000));
    let started = Instant::now();
    loop {
        let since = Instant::now();
        let published = server.registry.publish("a", &event).expect("a valid channel name");
        let chunk = reading.chunk().expect("the stream continues");
        assert!(
            chunk.starts_with(&format!("id: {}\ndata: xxx", published.id)),
            "no event is missing"
        );
        assert!(since.elapsed() < WRITE_DEADLINE, "a publisher waited for the stuck client");
        if published.subscribers == 1 {
            break;
        }
        assert!(started.elapsed() < TIMEOUT, "the stuck client was never disconnected");
    }
    // The stuck client can still read the bytes sent before the cut. They have no final chunk.
    let mut sent = Vec::new();
    let _ = stuck.reader.read_to_end(&mut sent); // the server may also reset the connection
    assert!(sent.len() > 60_000 && !sent.ends_with(b"\r\n0\r\n\r\n"), "{} bytes", sent.len());
}

#[test]
fn stuck_client_does_not_delay_shutdown() {
    let limits = Limits { write_deadline: SOON, ..Limits::default() };
    let server = server(limits);
    let stuck = server.stream("/channels/a");
    for _ in 0..200 {
        server
            .registry
            .publish("a", &Event::new("x".repeat(60_000)))
            .expect("a valid channel name");
    }
    let started = Instant::now();
    drop(server); // drop waits until the server's connections have ended
    let took = started.elapsed();
    assert!(took < limits.drain / 2, "{took:?}");
    drop(stuck);
}

#[test]
fn client_misses_nothing_while_others_come_and_go() {
    let server = TestServer::start();
    let mut staying = server.stream("/channels/a");
    staying.first_frame();
    let gone = AtomicBool::new(false);
    let mut published = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..300 {
                let client = server.stream("/channels/a");
                if n % 2 == 0 {
                    let reset = Some(Duration::ZERO);
                    SockRef::from(client.socket()).set_linger(reset).expect("a TCP socket");
                }
            }
            gone.store(true, Ordering::Release);
        });
        let started = Instant::now();
        while !gone.load(Ordering::Acquire) || published < 1_000 {
            assert!(started.elapsed() < TIMEOUT, "300 clients took too long");
            // Each round publishes fewer events than the history keeps, so no event may be missing.
            for _ in 0..50 {
                server
                    .registry
                    .publish("a", &Event::new(published.to_string()))
                    .expect("a valid channel name");
                published += 1;
            }
            let mut read = published - 50;
            while read < published {
                let chunk = staying.chunk().expect("the stream continues");
                for event in chunk.split_terminator("\n\n") {
                    let data = event.split_once("\ndata: ").map(|(_, data)| data);
                    assert_eq!(data, Some(&*read.to_string()), "{event:?}");
                    read += 1;
                }
            }
        }
    });
    // The server may count a disconnected client until it has tried to write to that client.
    let started = Instant::now();
    while server.registry.publish("a", &Event::new("?")).expect("a valid channel name").subscribers
        > 1
    {
        assert!(started.elapsed() < TIMEOUT, "disconnected clients still count");
        thread::yield_now();
    }
}
