use super::*;
use std::net::TcpListener;
use std::thread::{self, JoinHandle};

/// Answers every connection with `stream` and closes it; returns when `clients` have been.
fn server(clients: usize, stream: &str) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let addr = listener.local_addr().expect("it is bound");
    let stream = stream.to_owned();
    let thread = thread::spawn(move || {
        for _ in 0..clients {
            let (mut socket, _) = listener.accept().expect("a client comes");
            let read = socket.read(&mut [0; 1024]).expect("it asks");
            assert!(read > 0);
            socket.write_all(stream.as_bytes()).expect("it listens");
        }
    });
    (addr, thread)
}

fn stream(numbers: impl IntoIterator<Item = u64>) -> String {
    let frames = numbers.into_iter().map(|n| format!("data: {n} {} ~\n\n", unix_nanos()));
    "HTTP/1.1 200 OK\r\n\r\n".to_owned() + &frames.collect::<String>()
}

fn plan(server: SocketAddr, clients: usize) -> Plan {
    Plan { clients, patience: Duration::from_secs(10), in_flight: 2, ..Plan::new(server, "/") }
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
    assert!(!window.silence.is_zero());
    assert_eq!((window.latency.count(), window.gaps), (5_000, 0));
    let opening = load.opening();
    assert_eq!((opening.answered, opening.refused), (5, 0));
    assert!(opening.heads <= opening.events && opening.heads.is_some());
    thread.join().expect("the server did not panic");
}

#[test]
fn holes_are_losses() {
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
fn those_who_are_let_go_hang_up_and_others_can_take_their_place() {
    let (addr, thread) = server(6, &stream(1..=10));
    let mut load = Load::open(&plan(addr, 4)).expect("four sockets");
    load.shrink(1);
    assert_eq!((load.opened(), load.opening().answered), (1, 1));
    load.grow(&plan(addr, 3), 3).expect("two more");
    assert_eq!((load.opened(), load.opening().answered), (3, 3));
    assert!(load.read_first_events(Duration::from_secs(10)).expect("it reads"));
    load.read_until_quiet(Duration::from_millis(100), Duration::from_secs(10)).expect("reads");
    assert_eq!((load.window().delivered, load.window().lost), (30, 0));
    thread.join().expect("the server did not panic");
}

#[test]
fn a_refusal_is_counted_and_waited_for_no_longer() {
    let (addr, thread) = server(3, "HTTP/1.1 503 Service Unavailable\r\n\r\n");
    let load = Load::open(&plan(addr, 3)).expect("three sockets");
    assert_eq!((load.opening().answered, load.opening().refused), (0, 3));
    thread.join().expect("the server did not panic");
}

#[test]
fn a_stuck_client_is_connected_and_reads_nothing() {
    let (addr, thread) = server(1, &stream(1..=3));
    let load = Load::open(&Plan { stuck: 1, ..plan(addr, 0) }).expect("a socket");
    assert_eq!((load.stuck_ports().len(), load.window().delivered), (1, 0));
    thread.join().expect("the server did not panic");
}

#[test]
fn each_answer_renews_the_patience_for_the_others() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let addr = listener.local_addr().expect("it is bound");
    let patience = Duration::from_secs(2);
    let thread = thread::spawn(move || {
        let sockets: Vec<_> =
            (0..10).map(|_| listener.accept().expect("a client comes").0).collect();
        for mut socket in sockets {
            thread::sleep(patience / 8); // all answers together take longer than the patience
            socket.write_all(stream(1..=1).as_bytes()).expect("it listens");
        }
    });
    let plan = Plan { clients: 10, patience, ..Plan::new(addr, "/") };
    let load = Load::open(&plan).expect("ten sockets");
    assert_eq!((load.opening().answered, load.unanswered()), (10, 0));
    thread.join().expect("the server did not panic");
}

#[test]
fn a_client_without_an_answer_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let addr = listener.local_addr().expect("it is bound");
    let plan = Plan { patience: Duration::from_millis(50), ..Plan::new(addr, "/") };
    let load = Load::open(&plan).expect("a socket");
    assert_eq!((load.opening().answered, load.unanswered()), (0, 1));
}
