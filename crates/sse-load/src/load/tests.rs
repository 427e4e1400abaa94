use super::*;
use std::net::{SocketAddr, TcpListener};
use std::thread::{self, JoinHandle};

/// Starts a server that sends `stream` to every connection, closes the connection, and ends after
/// `clients` connections.
fn server(clients: usize, stream: &str) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let addr = listener.local_addr().expect("it is bound");
    let stream = stream.to_owned();
    let thread = thread::spawn(move || {
        for _ in 0..clients {
            let (mut socket, _) = listener.accept().expect("a client connects");
            let read = socket.read(&mut [0; 1024]).expect("the client sends a request");
            assert!(read > 0);
            socket.write_all(stream.as_bytes()).expect("the client reads");
        }
    });
    (addr, thread)
}

fn stream(numbers: impl IntoIterator<Item = u64>) -> String {
    let frames = numbers.into_iter().map(|n| format!("data: {n} {} ~\n\n", unix_nanos()));
    "HTTP/1.1 200 OK\r\n\r\n".to_owned() + &frames.collect::<String>()
}

fn plan(server: SocketAddr, clients: usize) -> Plan {
    Plan { clients, timeout: Duration::from_secs(10), in_flight: 2, ..Plan::new(server, "/") }
}

#[test]
fn every_event_of_every_client_is_counted() {
    let (addr, thread) = server(5, &stream(1..=1_000));
    let mut load = Load::open(&plan(addr, 5)).expect("five sockets");
    assert!(load.read_first_events(Duration::from_secs(10)).expect("it reads"));
    load.read_until_quiet(Duration::from_millis(100), Duration::from_secs(10)).expect("reads");
    let window = load.window();
    assert_eq!((window.delivered, window.lost, window.published), (5_000, 0, 1_000));
    assert_eq!((window.slowest, window.median), (1_000, 1_000));
    // The time before a client's first event is no silence, so there may be none.
    assert!(window.silence < Duration::from_secs(20), "{:?}", window.silence);
    assert_eq!((window.latency.count(), window.gaps), (5_000, 0));
    let opening = load.opening();
    assert_eq!((opening.accepted, opening.rejected), (5, 0));
    assert!(opening.heads <= opening.events && opening.heads.is_some());
    thread.join().expect("the server did not panic");
}

#[test]
fn missing_numbers_are_counted_as_lost() {
    let (addr, thread) = server(2, &stream((1..=10).chain(15..=20)));
    let mut load = Load::open(&plan(addr, 2)).expect("two sockets");
    load.read_until_quiet(Duration::from_millis(100), Duration::from_secs(10)).expect("reads");
    assert_eq!((load.window().delivered, load.window().lost), (32, 8));
    load.mark();
    assert_eq!((load.window().delivered, load.window().lost), (0, 0));
    assert_eq!(load.window().published, 0);
    thread.join().expect("the server did not panic");
}

#[test]
fn clients_can_be_removed_and_added() {
    let (addr, thread) = server(6, &stream(1..=10));
    let mut load = Load::open(&plan(addr, 4)).expect("four sockets");
    load.shrink(1);
    assert_eq!((load.opened(), load.opening().accepted), (1, 1));
    load.grow(&plan(addr, 3), 3).expect("two more");
    assert_eq!((load.opened(), load.opening().accepted), (3, 3));
    assert!(load.read_first_events(Duration::from_secs(10)).expect("it reads"));
    load.read_until_quiet(Duration::from_millis(100), Duration::from_secs(10)).expect("reads");
    assert_eq!((load.window().delivered, load.window().lost), (30, 0));
    thread.join().expect("the server did not panic");
}

#[test]
fn rejection_is_counted_and_not_waited_for() {
    let (addr, thread) = server(3, "HTTP/1.1 503 Service Unavailable\r\n\r\n");
    let load = Load::open(&plan(addr, 3)).expect("three sockets");
    assert_eq!((load.opening().accepted, load.opening().rejected), (0, 3));
    thread.join().expect("the server did not panic");
}

#[test]
fn stuck_client_connects_and_reads_nothing() {
    let (addr, thread) = server(1, &stream(1..=3));
    let load = Load::open(&Plan { stuck: 1, ..plan(addr, 0) }).expect("a socket");
    assert_eq!((load.stuck_ports().len(), load.window().delivered), (1, 0));
    thread.join().expect("the server did not panic");
}

#[test]
fn each_response_restarts_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let addr = listener.local_addr().expect("it is bound");
    let timeout = Duration::from_secs(2);
    let thread = thread::spawn(move || {
        let sockets: Vec<_> =
            (0..10).map(|_| listener.accept().expect("a client connects").0).collect();
        for mut socket in sockets {
            thread::sleep(timeout / 8); // ten responses take longer than the timeout
            socket.write_all(stream(1..=1).as_bytes()).expect("the client reads");
        }
    });
    let plan = Plan { clients: 10, timeout, ..Plan::new(addr, "/") };
    let load = Load::open(&plan).expect("ten sockets");
    assert_eq!((load.opening().accepted, load.unanswered()), (10, 0));
    thread.join().expect("the server did not panic");
}

#[test]
fn client_without_a_response_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let addr = listener.local_addr().expect("it is bound");
    let plan = Plan { timeout: Duration::from_millis(50), ..Plan::new(addr, "/") };
    let load = Load::open(&plan).expect("a socket");
    assert_eq!((load.opening().accepted, load.unanswered()), (0, 1));
}

/// Reads what the server sends to each of two clients, in any form.
fn read_any(stream: &str) -> (Load, JoinHandle<()>) {
    let (addr, thread) = server(2, stream);
    let plan = Plan { form: Form::Any, ..plan(addr, 2) };
    let mut load = Load::open(&plan).expect("two sockets");
    load.read_until_quiet(Duration::from_millis(100), Duration::from_secs(10)).expect("reads");
    (load, thread)
}

const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

#[test]
fn missing_ids_of_another_server_are_counted() {
    let frames = "id: a-1\r\ndata: x\r\n\r\nid: a-2\rdata\r\rid: a-3\ndata: y\n\n: z\n\n\
                  id: a-4\ndata: x\n\nid: a-8\ndata: x\n\n";
    let stream = format!("{CHUNKED}{:x}\r\n{frames}\r\n0\r\n\r\n", frames.len());
    let (load, thread) = read_any(&stream);
    let window = load.window();
    assert_eq!((window.delivered, window.stamped, window.cut), (10, 0, 0));
    assert_eq!(window.ids, Ids { compared: 8, gaps: 2, missing: 6, repeated: 0 });
    assert!(window.ids.count_events() && window.latency.count() == 0);
    assert_eq!((load.opening().accepted, load.connected()), (2, 0));
    assert_eq!((load.connect_times().count(), load.first_byte_times().count()), (2, 2));
    thread.join().expect("the server did not panic");
}

#[test]
fn missing_stamps_of_another_server_are_counted() {
    let head = "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n";
    let stream = stream([1, 2, 5]).replace("HTTP/1.1 200 OK\r\n", head);
    let (load, thread) = read_any(&stream);
    let window = load.window();
    assert_eq!((window.delivered, window.stamped, window.lost), (6, 6, 4));
    assert_eq!((window.latency.count(), window.behind, window.cut), (6, 0, 0));
    thread.join().expect("the server did not panic");
}

#[test]
fn stream_that_breaks_off_is_counted() {
    let (load, thread) = read_any(&format!("{CHUNKED}ff\r\ndata: x\n\ndata: y"));
    assert_eq!((load.window().delivered, load.window().cut, load.connected()), (2, 2, 0));
    thread.join().expect("the server did not panic");
}

#[test]
fn stream_with_invalid_framing_is_counted_as_broken() {
    let (load, thread) = read_any(&format!("{CHUNKED}9\r\ndata: x\n\n\r\nnine\r\n"));
    assert_eq!((load.opening().accepted, load.opening().rejected), (2, 0));
    assert_eq!((load.window().cut, load.connected()), (2, 0));
    thread.join().expect("the server did not panic");
}

#[test]
fn reasons_of_rejections_are_counted() {
    let (load, thread) = read_any("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>");
    let reasons = load.rejections();
    assert_eq!(reasons.values().copied().collect::<Vec<_>>(), [2], "{reasons:?}");
    assert!(reasons.keys().all(|reason| reason.contains("text/html")), "{reasons:?}");
    thread.join().expect("the server did not panic");
}
