//! What a client sees does not tell who wrote it: everything here holds whether
//! the broadcaster sends (`direct`) or each client's own thread writes (`wake`).

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufReader, ErrorKind, Read};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use common::{TIMEOUT, TestClient, TestServer, before_the_end};
use socket2::{Domain, SockRef, Socket, Type};
use threadcast::{Config, Delivery, Event, Histories, History, Limits};

const BOTH: [Delivery; 2] = [Delivery::Direct, Delivery::Wake];

/// A deadline short enough to be waited for.
const SOON: Duration = Duration::from_millis(400);

/// How late a busy machine may wake somebody up.
const SLACK: Duration = Duration::from_secs(2);

/// A server that keeps all that a test publishes: what is missing was lost.
fn server(delivery: Delivery, limits: Limits) -> TestServer {
    let history = History { events: 100_000, bytes: 256 << 20, ..History::default() };
    let history = Histories::all(history);
    let limits = Limits { drain: Duration::from_secs(4), ..limits };
    TestServer::with(Config { delivery, limits, history, ..Config::default() })
}

fn publish(server: &TestServer, channel: &str, data: impl Into<String>) {
    server.registry.publish(channel, &Event::new(data)).expect("a name");
}

/// A stream through a socket that holds little and is read in small pieces.
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

/// All up to the end of the connection; a reset is as good an end as any.
fn read_to_end(client: &mut TestClient) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(error) = client.reader.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "it ends");
    }
    bytes
}

/// The same in bites of all sizes.
fn read_in_bites(client: &mut TestClient) -> Vec<u8> {
    let (mut bytes, mut bite) = (Vec::new(), [0; 4 * 1024]);
    let mut dice = fastrand::Rng::with_seed(4);
    loop {
        let most = dice.usize(1..=bite.len());
        match client.reader.read(&mut bite[..most]).expect("a stream that ends well") {
            0 => return bytes,
            read => bytes.extend_from_slice(&bite[..read]),
        }
    }
}

/// The events of the chunks that are whole, and whether the last chunk was there.
fn dechunked(mut bytes: &[u8]) -> (String, bool) {
    let mut events = String::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = str::from_utf8(&bytes[..end]).expect("hex digits");
        let size = usize::from_str_radix(size, 16).expect("hex digits");
        let Some(chunk) = bytes.get(end + 2..end + 4 + size) else { break };
        let text = str::from_utf8(&chunk[..size]).expect("event streams are UTF-8");
        assert!(chunk.ends_with(b"\r\n"), "a chunk ends as it should");
        bytes = &bytes[end + 4 + size..];
        if text.is_empty() {
            assert!(bytes.is_empty(), "nothing comes after the last chunk");
            return (events, true);
        }
        assert!(text.ends_with('\n'), "events are whole: {text:?}");
        events.push_str(text);
    }
    (events, false)
}

/// What a stream begins with before anything was published, as [`without_epoch`] leaves it.
const FIRST_FRAME: &str = "retry: 3000\nid: 0\n\n";

/// Ids without the part that no two servers have in common.
fn without_epoch(server: &TestServer, events: &str) -> String {
    let last = server.registry.last_id().to_string();
    let (epoch, _) = last.split_once('-').expect("an id");
    events.replace(&format!("id: {epoch}-"), "id: ")
}

/// What a client sees of these, published first of all.
fn on_the_wire(published: &[String]) -> String {
    let mut text = FIRST_FRAME.to_owned();
    for (place, data) in published.iter().enumerate() {
        text.extend(["id: ", &(place + 1).to_string(), "\ndata: ", data, "\n\n"]);
    }
    text
}

/// Data of all sizes, every tenth close to the most that an event may be.
fn mixed(count: usize) -> Vec<String> {
    let mut dice = fastrand::Rng::with_seed(7);
    let size = |n| if n % 10 == 9 { 60 * 1024 } else { dice.usize(0..3_000) };
    (0..count).map(size).map(|size| "x".repeat(size)).collect()
}

#[track_caller]
fn assert_same(seen: &str, expected: &str, who: &str) {
    // Not assert_eq!, which would print megabytes.
    let differ = seen.bytes().zip(expected.bytes()).position(|(a, b)| a != b);
    assert!(differ.is_none(), "{who}: another byte at {differ:?}");
    assert_eq!(seen.len(), expected.len(), "{who}");
}

/// Reads on until an event's data is this, and gives the numbers that came.
fn numbers_until(client: &mut TestClient, last: usize) -> Vec<usize> {
    let mut numbers = Vec::new();
    while numbers.last() != Some(&last) {
        let chunk = client.chunk().expect("the stream goes on");
        numbers.extend(number(&chunk));
    }
    numbers
}

/// The number that an event's data begins with; none in a prelude.
fn number(event: &str) -> Option<usize> {
    let (_, data) = event.split_once("\ndata: ")?;
    let digits = data.split([' ', '\n']).next()?;
    Some(digits.parse().unwrap_or_else(|_| panic!("a number, not {event:?}")))
}

#[test]
fn slow_reader_gets_the_same_bytes_in_both_modes() {
    let published = mixed(200);
    for delivery in BOTH {
        let server = server(delivery, Limits::default());
        let mut client = narrow_stream(&server, "/channels/a");
        let bytes = thread::scope(|scope| {
            let reading = scope.spawn(|| read_in_bites(&mut client));
            published.iter().for_each(|data| publish(&server, "a", data));
            server.shutdown();
            reading.join().expect("the client read to its end")
        });
        let (events, whole) = dechunked(&bytes);
        assert!(whole, "{delivery:?}: the end was said");
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
            readers.map(|reader| reader.join().expect("the client read to its end"))
        });
        for (bytes, version) in all.iter().zip(versions) {
            let (events, whole) = match version {
                "1.0" => (str::from_utf8(bytes).expect("UTF-8").to_owned(), true),
                _ => dechunked(bytes),
            };
            let who = format!("{delivery:?} {version}");
            assert!(whole, "{who}: the end was said");
            let events = without_epoch(&server, before_the_end(&events));
            assert_same(&events, &on_the_wire(&published), &who);
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
            assert!(started.elapsed() < TIMEOUT, "{delivery:?}: it is never given up");
            // Enough to fill its socket, then little: there is only time to pass.
            let padding = "x".repeat(if last < 50 { 20_000 } else { 0 });
            last += 1;
            publish(&server, "a", format!("{last} {padding}"));
            for other in &mut others {
                assert_eq!(numbers_until(other, last), [last], "{delivery:?}: in the same feed");
            }
        }
        let took = started.elapsed();
        assert!((SOON..SOON + SLACK).contains(&took), "{delivery:?}: cut after {took:?}");
        let (events, whole) = dechunked(&read_to_end(&mut stuck));
        assert!(!whole, "{delivery:?}: it was cut, not ended");
        let mut seen: Vec<_> = events.split_inclusive("\n\n").filter_map(number).collect();
        assert!(seen.len() < last, "{delivery:?}: its socket was full");
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
        let feeds: Vec<(String, Vec<usize>)> = one_each.chain(of_many).collect();
        let mut clients: Vec<_> = feeds.iter().map(|(target, _)| server.stream(target)).collect();
        for _ in 0..ROUNDS {
            (0..CHANNELS).for_each(|n| publish(&server, &name(n), n.to_string()));
        }
        server.shutdown();
        for (client, (target, expected)) in clients.iter_mut().zip(feeds) {
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

/// The ids of the threads that serve this client.
fn threads_of(client: &TestClient) -> BTreeSet<String> {
    let port = client.socket().local_addr().expect("a connected socket").port();
    let tasks = fs::read_dir("/proc/self/task").expect("Linux").filter_map(Result::ok);
    let comm = |path| fs::read_to_string(path).unwrap_or_default(); // it may have ended
    tasks
        .filter(|task| comm(task.path().join("comm")).trim_end() == format!("sse-{port}"))
        .map(|task| task.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The one thread that serves this client, once there is only one.
fn thread_of(client: &TestClient) -> String {
    let started = Instant::now();
    loop {
        let mut threads = threads_of(client);
        if threads.len() == 1 {
            return threads.pop_first().expect("there is one");
        }
        assert!(started.elapsed() < TIMEOUT, "one thread per client, not {threads:?}");
        thread::yield_now();
    }
}

#[test]
fn keep_alive_thread_is_replaced_for_a_direct_stream() {
    for delivery in BOTH {
        for answers_first in [false, true] {
            let server = server(delivery, Limits::default());
            let mut client = server.connect();
            if answers_first {
                client.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
                assert_eq!(client.answer().status, 200);
            }
            let before = thread_of(&client);
            let mut client = open(client, "/channels/a", "1.1");
            client.first_frame();
            let is_another = thread_of(&client) != before;
            let expected = answers_first && delivery == Delivery::Direct;
            assert_eq!(is_another, expected, "{delivery:?}, answers first: {answers_first}");
            publish(&server, "a", "1");
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
        let mut late = narrow_stream(&server, "/channels/loud?since=all"); // its time is running
        let started = Instant::now();
        server.shutdown();
        let (events, whole) = dechunked(&read_to_end(&mut late));
        assert!(whole, "{delivery:?}: who reads on gets the end");
        let events = without_epoch(&server, before_the_end(&events));
        assert_same(&events, &on_the_wire(&loud), "late");
        let [old, new] = members.each_mut().map(read_to_end);
        let (new, whole) = dechunked(&new);
        assert!(whole, "{delivery:?}: the end was said");
        for stream in [str::from_utf8(&old).expect("UTF-8"), &new] {
            let stream = without_epoch(&server, before_the_end(stream));
            assert_eq!(stream, FIRST_FRAME, "{delivery:?}");
        }
        drop(server); // waits for its connections to end
        let took = started.elapsed();
        assert!(took < limits.drain / 2, "{delivery:?}: all ended after {took:?}");
        for client in [&mut stuck, &mut joining] {
            assert!(!dechunked(&read_to_end(client)).1, "{delivery:?}: it was cut");
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
            // It is noticed when they are next written to: an event, or a heartbeat.
            let started = Instant::now();
            while server.registry.subscribers("a") > 1 {
                assert!(started.elapsed() < TIMEOUT, "{delivery:?}: they are still counted");
                if published {
                    publish(&server, "a", "1");
                }
                assert!(staying.chunk().is_some(), "{delivery:?}: others stream on");
            }
        }
    }
}
