//! A client receives the same bytes in both delivery modes.
//!
//! In `direct` mode, the broadcaster writes to all caught-up clients; in `wake` mode, each
//! client's own thread writes.

use std::io::{BufReader, ErrorKind, Read};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Process, TIMEOUT, TestClient, TestServer, before_the_end};
use socket2::{Domain, SockRef, Socket, Type};
use threadcast::{Config, Delivery, Event, Histories, History, Limits};

const BOTH: [Delivery; 2] = [Delivery::Direct, Delivery::Wake];

/// A write deadline that is short enough for a test to wait for.
const SOON: Duration = Duration::from_millis(400);

/// How late a busy machine may wake a thread.
const SLACK: Duration = Duration::from_secs(2);

/// Starts a server whose history keeps every event that a test publishes.
fn server(delivery: Delivery, limits: Limits) -> TestServer {
    let history = History { events: 100_000, bytes: 256 << 20, ..History::default() };
    let history = Histories::all(history);
    let limits = Limits { drain: Duration::from_secs(4), ..limits };
    TestServer::with(Config { delivery, limits, history, ..Config::default() })
}

fn publish(server: &TestServer, channel: &str, data: impl Into<String>) {
    server.registry.publish(channel, &Event::new(data)).expect("a name");
}

/// Opens a stream on a socket with a small receive buffer, which soon blocks the server's writes.
///
/// The client also reads in small pieces.
fn narrow_stream(server: &TestServer, target: &str) -> TestClient {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(8 * 1024).expect("an open socket");
    socket.connect(&server.addr.into()).expect("the server listens");
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(TIMEOUT)).expect("a positive timeout");
    let client = TestClient { reader: BufReader::with_capacity(512, socket) };
    open(client, target, "1.1")
}

fn open(mut client: TestClient, target: &str, version: &str) -> TestClient {
    client.send(&format!("GET {target} HTTP/{version}\r\nHost: localhost\r\n\r\n"));
    let head = client.head();
    assert_eq!(head.status, 200, "{head:?}");
    client
}

/// Reads to the end of the connection; a reset counts as an end.
fn read_to_end(client: &mut TestClient) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(error) = client.reader.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "the connection ends");
    }
    bytes
}

/// Reads to the regular end of the stream, in pieces of random size.
fn read_in_pieces(client: &mut TestClient) -> Vec<u8> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4 * 1024]);
    let mut dice = fastrand::Rng::with_seed(4);
    loop {
        let most = dice.usize(1..=piece.len());
        match client.reader.read(&mut piece[..most]).expect("FIN, not RST") {
            0 => return bytes,
            read => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

/// Returns the events of all complete chunks, and whether the last chunk has arrived.
fn dechunked(mut bytes: &[u8]) -> (String, bool) {
    let mut events = String::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = str::from_utf8(&bytes[..end]).expect("hex digits");
        let size = usize::from_str_radix(size, 16).expect("hex digits");
        let Some(chunk) = bytes.get(end + 2..end + 4 + size) else { break };
        let text = str::from_utf8(&chunk[..size]).expect("event streams are UTF-8");
        assert!(chunk.ends_with(b"\r\n"), "a chunk ends with CRLF");
        bytes = &bytes[end + 4 + size..];
        if text.is_empty() {
            assert!(bytes.is_empty(), "nothing follows the last chunk");
            return (events, true);
        }
        assert!(text.ends_with('\n'), "a chunk holds complete events: {text:?}");
        events.push_str(text);
    }
    (events, false)
}

/// The first frame of a stream on a server without events, after [`without_epoch`] has changed it.
const FIRST_FRAME: &str = "retry: 3000\nid: 0\n\n";

/// Removes the epoch from ids, because it differs between servers.
fn without_epoch(server: &TestServer, events: &str) -> String {
    let last = server.registry.last_id().to_string();
    let (epoch, _) = last.split_once('-').expect("an id");
    events.replace(&format!("id: {epoch}-"), "id: ")
}

/// The expected text of a stream, after [`without_epoch`], if the server published only this data.
fn on_the_wire(published: &[String]) -> String {
    let mut text = FIRST_FRAME.to_owned();
    for (index, data) in published.iter().enumerate() {
        text.extend(["id: ", &(index + 1).to_string(), "\ndata: ", data, "\n\n"]);
    }
    text
}

/// Data of many random sizes; every tenth is close to the size limit for an event.
fn mixed(count: usize) -> Vec<String> {
    let mut dice = fastrand::Rng::with_seed(7);
    let size = |n| if n % 10 == 9 { 60 * 1024 } else { dice.usize(0..3_000) };
    (0..count).map(size).map(|size| "x".repeat(size)).collect()
}

#[track_caller]
fn assert_same(seen: &str, expected: &str, context: &str) {
    // `assert_eq!` on the whole texts would print megabytes.
    let differ = seen.bytes().zip(expected.bytes()).position(|(a, b)| a != b);
    assert!(differ.is_none(), "{context}: first difference at byte {differ:?}");
    assert_eq!(seen.len(), expected.len(), "{context}");
}

/// Reads numbered events up to this number, and returns all numbers read.
fn numbers_until(client: &mut TestClient, last: usize) -> Vec<usize> {
    let mut numbers = Vec::new();
    while numbers.last() != Some(&last) {
        let chunk = client.chunk().expect("the stream is still open");
        numbers.extend(number(&chunk));
    }
    numbers
}

/// The number at the start of an event's data; `None` for a frame without data.
fn number(event: &str) -> Option<usize> {
    let (_, data) = event.split_once("\ndata: ")?;
    let digits = data.split([' ', '\n']).next()?;
    Some(digits.parse().unwrap_or_else(|_| panic!("expected a number, found {event:?}")))
}

#[test]
fn slow_reader_gets_the_same_bytes_in_both_modes() {
    let published = mixed(200);
    for delivery in BOTH {
        let server = server(delivery, Limits::default());
        let mut client = narrow_stream(&server, "/channels/a");
        let bytes = thread::scope(|scope| {
            let reading = scope.spawn(|| read_in_pieces(&mut client));
            published.iter().for_each(|data| publish(&server, "a", data));
            server.shutdown();
            reading.join().expect("the client reads to the end")
        });
        let (events, ended) = dechunked(&bytes);
        assert!(ended, "{delivery:?}: the last chunk arrived");
        let events = without_epoch(&server, before_the_end(&events));
        assert_same(&events, &on_the_wire(&published), &format!("{delivery:?}"));
    }
}

#[test]
fn http_1_0_and_1_1_clients_get_the_same_events() {
    let published = mixed(100);
    for delivery in BOTH {
        let server = server(delivery, Limits::default());
        let versions = ["1.0", "1.1", "1.0", "1.1"];
        let clients = versions.map(|version| open(server.connect(), "/channels/a", version));
        assert_eq!(server.registry.subscribers("a"), clients.len());
        let all = thread::scope(|scope| {
            let readers = clients.map(|mut client| scope.spawn(move || read_to_end(&mut client)));
            published.iter().for_each(|data| publish(&server, "a", data));
            server.shutdown();
            readers.map(|reader| reader.join().expect("the client reads to the end"))
        });
        for (bytes, version) in all.iter().zip(versions) {
            let (events, ended) = match version {
                "1.0" => (str::from_utf8(bytes).expect("UTF-8").to_owned(), true),
                _ => dechunked(bytes),
            };
            let context = format!("{delivery:?} {version}");
            assert!(ended, "{context}: the last chunk arrived");
            let events = without_epoch(&server, before_the_end(&events));
            assert_same(&events, &on_the_wire(&published), &context);
        }
    }
}

#[test]
fn stalled_client_is_cut_at_the_deadline_and_resumes() {
    for delivery in BOTH {
        let server = server(delivery, Limits { write_deadline: SOON, ..Limits::default() });
        let mut stuck = narrow_stream(&server, "/channels/a");
        let mut others: Vec<_> = (0..3).map(|_| server.stream("/channels/a")).collect();
        let started = Instant::now();
        let mut last = 0;
        while server.registry.subscribers("a") > others.len() {
            assert!(started.elapsed() < TIMEOUT, "{delivery:?}: the stalled client is never cut");
            // Large events fill the stalled client's socket. After that, small events suffice until
            // the deadline cuts the client.
            let padding = "x".repeat(if last < 50 { 20_000 } else { 0 });
            last += 1;
            publish(&server, "a", format!("{last} {padding}"));
            for other in &mut others {
                assert_eq!(
                    numbers_until(other, last),
                    [last],
                    "{delivery:?}: same broadcast group"
                );
            }
        }
        let took = started.elapsed();
        assert!((SOON..SOON + SLACK).contains(&took), "{delivery:?}: cut after {took:?}");
        let (events, ended) = dechunked(&read_to_end(&mut stuck));
        assert!(!ended, "{delivery:?}: cut without a last chunk");
        let mut seen: Vec<_> = events.split_inclusive("\n\n").filter_map(number).collect();
        assert!(seen.len() < last, "{delivery:?}: the client's socket became full");
        let (_, id) = events.rsplit_once("id: ").expect("some events arrived");
        let id = id.lines().next().expect("a line");
        let mut back = server.stream(&format!("/channels/a?last_event_id={id}"));
        seen.extend(numbers_until(&mut back, last));
        assert!(seen.into_iter().eq(1..=last), "{delivery:?}: each exactly once");
    }
}

#[test]
fn long_replay_joins_live_events_without_gap_or_repeat() {
    const KEPT: usize = 5_000;
    const ALL: usize = 7_000;
    for delivery in BOTH {
        let server = server(delivery, Limits::default());
        (1..=KEPT).for_each(|n| publish(&server, "a", n.to_string()));
        let mut clients: Vec<_> = (0..3).map(|_| server.stream("/channels/a?since=all")).collect();
        clients.push(narrow_stream(&server, "/channels/a?since=all"));
        thread::scope(|scope| {
            scope.spawn(|| (KEPT + 1..=ALL).for_each(|n| publish(&server, "a", n.to_string())));
            for client in &mut clients {
                scope.spawn(move || {
                    let numbers = numbers_until(client, ALL);
                    assert!(numbers.into_iter().eq(1..=ALL), "{delivery:?}: each once, in order");
                });
            }
        });
    }
}

#[test]
fn every_broadcast_group_gets_only_its_channels() {
    const CHANNELS: usize = 200;
    const ROUNDS: usize = 3;
    let name = |n: usize| format!("room-{n:03}");
    for delivery in BOTH {
        let server = server(delivery, Limits::default());
        let one_each = (0..CHANNELS).map(|n| (format!("/channels/{}", name(n)), vec![n]));
        let of_many = [
            ("/channels/*".to_owned(), (0..CHANNELS).collect()),
            ("/channels/room-1*".to_owned(), (100..CHANNELS).collect()),
            ("/channels/room-01*".to_owned(), (10..20).collect()),
            ("/channels?channel=room-007&channel=room-19*".to_owned(), {
                [7].into_iter().chain(190..200).collect()
            }),
        ];
        let groups: Vec<(String, Vec<usize>)> = one_each.chain(of_many).collect();
        let mut clients: Vec<_> = groups.iter().map(|(target, _)| server.stream(target)).collect();
        for _ in 0..ROUNDS {
            (0..CHANNELS).for_each(|n| publish(&server, &name(n), n.to_string()));
        }
        server.shutdown();
        for (client, (target, expected)) in clients.iter_mut().zip(groups) {
            let chunks = std::iter::from_fn(|| client.chunk());
            let seen: Vec<_> = chunks.filter_map(|chunk| number(&chunk)).collect();
            assert_eq!(seen, expected.repeat(ROUNDS), "{delivery:?}: {target}");
        }
    }
}

#[test]
fn idle_stream_gets_heartbeats() {
    const EVERY: Duration = Duration::from_millis(200);
    for delivery in BOTH {
        let server = server(delivery, Limits { heartbeat: EVERY, ..Limits::default() });
        let started = Instant::now();
        let mut clients = [
            (server.stream("/channels/a"), ":\n"),
            (server.stream("/channels/a?heartbeat=event"), "event: heartbeat\ndata: 200\n\n"),
        ];
        for (client, beat) in &mut clients {
            client.first_frame();
            let beats = [client.chunk(), client.chunk(), client.chunk()];
            assert!(beats.iter().all(|seen| seen.as_deref() == Some(beat)), "{beats:?}");
        }
        let took = started.elapsed();
        let expected = EVERY.mul_f64(3.0 * 0.9)..EVERY.mul_f64(3.0 * 1.1) + SLACK;
        assert!(expected.contains(&took), "{delivery:?}: three beats in {took:?}");
    }
}

/// Waits until exactly one thread serves this client, and returns its thread id.
fn thread_of(server: &Process, client: &TestClient) -> String {
    let port = client.socket().local_addr().expect("a connected socket").port();
    let started = Instant::now();
    loop {
        let mut threads = server.threads(&format!("sse-{port}"));
        if threads.len() == 1 {
            return threads.pop_first().expect("one thread");
        }
        assert!(started.elapsed() < TIMEOUT, "expected one thread, found {threads:?}");
        thread::yield_now();
    }
}

#[test]
fn keep_alive_thread_is_replaced_for_a_direct_stream() {
    for delivery in ["direct", "wake"] {
        for answers_first in [false, true] {
            // A process of its own: threads are named after the client's port, and a client of
            // another test's server may have the same port.
            let server = Process::with(&format!("--delivery {delivery}"));
            let mut client = server.connect();
            if answers_first {
                client.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
                assert_eq!(client.answer().status, 200);
            }
            let before = thread_of(&server, &client);
            let mut client = open(client, "/channels/a", "1.1");
            client.first_frame();
            let is_another = thread_of(&server, &client) != before;
            let expected = answers_first && delivery == "direct";
            assert_eq!(is_another, expected, "{delivery}, answers first: {answers_first}");
            let published =
                "POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n1";
            assert_eq!(server.request(published).status, 200);
            assert_eq!(numbers_until(&mut client, 1), [1]);
        }
    }
}

#[test]
fn shutdown_ends_clients_in_every_state_within_the_drain_time() {
    for delivery in BOTH {
        let limits = Limits { write_deadline: 2 * SOON, ..Limits::default() };
        let server = server(delivery, limits);
        let mut members = ["1.0", "1.1"].map(|v| open(server.connect(), "/channels/quiet", v));
        let mut stuck = narrow_stream(&server, "/channels/loud");
        let loud = vec!["x".repeat(60_000); 20];
        loud.iter().for_each(|data| publish(&server, "loud", data));
        let mut joining = narrow_stream(&server, "/channels/loud?since=all");
        // This client begins to read only after the shutdown has begun.
        let mut late = narrow_stream(&server, "/channels/loud?since=all");
        let started = Instant::now();
        server.shutdown();
        let (events, ended) = dechunked(&read_to_end(&mut late));
        assert!(ended, "{delivery:?}: a client that reads gets the last chunk");
        let events = without_epoch(&server, before_the_end(&events));
        assert_same(&events, &on_the_wire(&loud), "late");
        let [old, new] = members.each_mut().map(read_to_end);
        let (new, ended) = dechunked(&new);
        assert!(ended, "{delivery:?}: the last chunk arrived");
        for stream in [str::from_utf8(&old).expect("UTF-8"), &new] {
            let stream = without_epoch(&server, before_the_end(stream));
            assert_eq!(stream, FIRST_FRAME, "{delivery:?}");
        }
        drop(server); // waits until all connections have ended
        let took = started.elapsed();
        assert!(took < limits.drain / 2, "{delivery:?}: all ended after {took:?}");
        for client in [&mut stuck, &mut joining] {
            assert!(!dechunked(&read_to_end(client)).1, "{delivery:?}: cut without a last chunk");
        }
    }
}

#[test]
fn disconnected_clients_leave_the_subscriber_count() {
    for delivery in BOTH {
        let limits = Limits { heartbeat: Duration::from_millis(50), ..Limits::default() };
        let server = server(delivery, limits);
        let mut staying = server.stream("/channels/a");
        for published in [true, false] {
            let leaving: Vec<_> = (0..6).map(|_| server.stream("/channels/a")).collect();
            assert_eq!(server.registry.subscribers("a"), 7, "{delivery:?}");
            for (n, client) in leaving.into_iter().enumerate() {
                let reset = (n % 2 == 0).then_some(Duration::ZERO);
                SockRef::from(client.socket()).set_linger(reset).expect("a TCP socket");
            }
            // The server must detect the disconnects when it next writes an event or a heartbeat.
            let started = Instant::now();
            while server.registry.subscribers("a") > 1 {
                assert!(
                    started.elapsed() < TIMEOUT,
                    "{delivery:?}: disconnected clients are still counted"
                );
                if published {
                    publish(&server, "a", "1");
                }
                assert!(staying.chunk().is_some(), "{delivery:?}: other streams continue");
            }
        }
    }
}
