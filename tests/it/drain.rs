//! Drain and restart: how the server ends its streams and its process.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Process, Received, TIMEOUT, TestClient, TestServer, wait_until};
use socket2::{Domain, SockRef, Socket, Type};
use threadcast::{Config, Delivery, Event, Limits};

/// Reads a stream to its end; returns the time of the end, the events, and the last `retry:` time.
fn end_of(mut stream: TestClient) -> (Instant, Vec<Received>, Duration) {
    let mut rest = Vec::new();
    stream.reader.read_to_end(&mut rest).expect("FIN, not RST");
    let ended = Instant::now();
    drop(stream);
    let mut decoder = crate::common::Decoder::default();
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let events = decoder.push(&[&head[..], &rest].concat());
    assert!(decoder.ended, "the last chunk is missing: {:?}", String::from_utf8_lossy(&rest));
    let retry = events.iter().rev().find_map(|event| event.retry.clone()).expect("a retry");
    (ended, events, Duration::from_millis(retry.parse().expect("milliseconds")))
}

#[test]
fn drain_delay_serves_as_before_but_is_not_ready() {
    let mut server = Process::with("--drain-delay 1h --drain 1s");
    let mut stream = server.stream("/channels/a");
    stream.first_frame();
    assert_eq!(server.get("/readyz").status, 200);
    server.signal("TERM");
    wait_until(TIMEOUT, "the server has retired", || server.get("/readyz").body == "retired\n");
    let mut newcomer = server.stream("/channels/a");
    newcomer.first_frame();
    let body = "POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(server.request(body).status, 200);
    // A second signal starts the drain, which still ends the streams regularly.
    server.signal("TERM");
    for (_, events, _) in [end_of(stream), end_of(newcomer)] {
        assert_eq!(
            events.iter().filter_map(|event| event.data.as_deref()).collect::<Vec<_>>(),
            ["x"]
        );
    }
    assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
}

#[test]
fn drain_begins_by_itself_after_the_delay() {
    let mut server = Process::with("--drain-delay 300ms --drain 1s");
    let mut stream = server.stream("/channels/a");
    stream.first_frame();
    let signalled = Instant::now();
    server.signal("TERM");
    let (ended, ..) = end_of(stream);
    assert!(ended - signalled >= Duration::from_millis(300), "{:?}", ended - signalled);
    assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
}

#[test]
fn sigterm_staggers_stream_ends_and_exits_with_0() {
    for delivery in ["direct", "wake"] {
        let mut server = Process::with(&format!("--drain 3s --delivery {delivery}"));
        let paths = ["/events", "/stream", "/sse", "/count", "/api/sse", "/channels/a"];
        let streams: Vec<_> =
            paths.iter().cycle().take(60).map(|path| server.stream(path)).collect();
        let mut idle = server.connect();
        idle.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(idle.answer().status, 200);
        let mut silent = server.connect();

        let signalled = Instant::now();
        server.signal("TERM");
        idle.assert_ended();
        let ends: Vec<_> = thread::scope(|scope| {
            let readers: Vec<_> =
                streams.into_iter().map(|stream| scope.spawn(|| end_of(stream))).collect();
            // During the drain, the server still answers requests and reports its state.
            let ready = server.get("/readyz");
            assert_eq!((ready.status, &*ready.body), (503, "draining\n"));
            assert_eq!(server.get("/healthz").status, 200);
            let rejected = server.request(
                "GET /channels/a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n",
            );
            assert_eq!((rejected.status, rejected.header("connection")), (200, Some("close")));
            assert!(rejected.body.contains("\nretry: "), "{rejected:?}");
            let body = "POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx";
            assert_eq!(server.request(body).status, 200);
            readers.into_iter().map(|reader| reader.join().expect("a drained stream")).collect()
        });
        let mut after: Vec<_> = ends.iter().map(|(ended, ..)| *ended - signalled).collect();
        after.sort_unstable();
        assert!(after[5] < Duration::from_millis(600), "the first streams end at once: {after:?}");
        assert!(
            (Duration::from_millis(450)..Duration::from_millis(1_200)).contains(&after[30]),
            "{after:?}"
        );
        assert!(
            (Duration::from_millis(1_200)..Duration::from_secs(2)).contains(&after[59]),
            "{after:?}"
        );
        let mut waits: Vec<_> = ends.iter().map(|(_, _, retry)| *retry).collect();
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 20, "the retry times are jittered: {waits:?}");
        silent.assert_ended();
        assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
        assert!(signalled.elapsed() < Duration::from_secs(3), "within --drain");
    }
}

#[test]
fn acknowledged_events_reach_clients_during_sigterm() {
    let mut server = Process::with("--drain 2s");
    let streams: Vec<_> = (0..20).map(|_| server.stream("/channels/a")).collect();
    let (addr, stop) = (server.addr, AtomicBool::new(false));
    thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                let Ok(mut socket) = TcpStream::connect(addr) else { break };
                let body = number.to_string();
                let request = format!("POST /channels/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                let mut answer = String::new();
                let answered = socket.write_all(request.as_bytes()).and_then(|()| socket.read_to_string(&mut answer));
                if answered.is_err() || !answer.starts_with("HTTP/1.1 200 ") {
                    assert!(stop.load(Ordering::Acquire), "the server answers until the signal: {answer}");
                    break;
                }
                acknowledged.push(Instant::now());
            }
            acknowledged
        });
        let readers: Vec<_> =
            streams.into_iter().map(|stream| scope.spawn(|| end_of(stream))).collect();
        wait_until(crate::common::TIMEOUT, "500 events are sent", || {
            server.get("/status").json()["events_out"].as_u64() > Some(500)
        });
        stop.store(true, Ordering::Release);
        let signalled = Instant::now();
        server.signal("TERM");
        let acknowledged = publisher.join().expect("the publisher does not panic");
        let before = acknowledged.iter().filter(|when| **when < signalled).count();
        assert!(acknowledged.len() > before, "publishes succeed during the drain");
        for reader in readers {
            let (_, events, _) = reader.join().expect("a drained stream");
            let data: Vec<_> = events.iter().filter_map(|event| event.data.clone()).collect();
            let expected: Vec<_> = (0..data.len()).map(|n| n.to_string()).collect();
            assert_eq!(data, expected, "in order, without a gap");
            assert!(data.len() >= before, "{} of {before}", data.len());
        }
    });
    assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
}

#[test]
fn second_signal_exits_immediately() {
    let mut server = Process::with("--drain 1h");
    let streams: Vec<_> = (0..4).map(|_| server.stream("/channels/a")).collect();
    server.signal("TERM");
    wait_until(crate::common::TIMEOUT, "the drain begins", || server.get("/readyz").status == 503);
    let signalled = Instant::now();
    server.signal("INT");
    assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
    // 4 s is less than every deadline of the server except the log's (1 s), so the server has
    // waited for none of the others.
    assert!(signalled.elapsed() < Duration::from_secs(4), "{:?}", signalled.elapsed());
    drop(streams);
}

#[test]
fn stream_ends_at_its_maximum_age() {
    let age = Duration::from_millis(500);
    for delivery in [Delivery::Direct, Delivery::Wake] {
        let limits = Limits { stream_age: Some(age), ..Limits::default() };
        let server = TestServer::with(Config { delivery, limits, ..Config::default() });
        for busy in [false, true] {
            let (started, done) = (Instant::now(), AtomicBool::new(false));
            thread::scope(|scope| {
                let (server, done) = (&server, &done);
                if busy {
                    scope.spawn(move || {
                        while !done.load(Ordering::Acquire) {
                            server.registry.publish("a", &Event::new("x")).expect("a name");
                            // The test client can keep up with one event per millisecond.
                            crate::common::pace(Duration::from_millis(1));
                        }
                    });
                }
                let (ended, _, retry) = end_of(server.stream("/channels/a"));
                done.store(true, Ordering::Release);
                let took = ended - started;
                assert!((age * 8 / 10..age * 2).contains(&took), "{delivery:?}, {busy}: {took:?}");
                assert!((Duration::from_millis(400)..Duration::from_secs(2)).contains(&retry));
            });
        }
        assert_eq!(server.registry.subscribers("a"), 0);
    }
}

/// Binds a listener whose backlog holds this many connections.
fn listener(backlog: i32) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).expect("a free port");
    socket.listen(backlog).expect("a listening socket");
    socket.into()
}

/// Sends one request on a new connection, and returns the response.
fn ask(addr: std::net::SocketAddr) -> String {
    let mut socket = TcpStream::connect(addr).expect("the connection is accepted");
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    socket.write_all(request).expect("the connection is not reset");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("the connection is not reset");
    answer
}

#[test]
fn restart_under_socket_activation_drops_no_connection() {
    let listener = listener(1_024);
    let addr = listener.local_addr().expect("a bound socket");
    let (stop, mut first) = (AtomicBool::new(false), Process::on(&listener, "--drain 5s"));
    assert_eq!(first.addr, addr);
    thread::scope(|scope| {
        let asking: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut asked = 0;
                    while !stop.load(Ordering::Acquire) {
                        let answer = ask(addr);
                        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
                        asked += 1;
                    }
                    asked
                })
            })
            .collect();
        let _stopped = StopOnDrop(&stop);
        for _ in 0..3 {
            let mut stream = first.stream("/channels/a");
            first.signal("TERM");
            assert_eq!(first.child.wait().expect("a child process").code(), Some(0));
            stream.reader.read_to_end(&mut Vec::new()).expect("FIN, not RST");
            // No process accepts now: new connections wait in the listener's backlog.
            first = Process::on(&listener, "--drain 5s");
        }
        assert_eq!(first.get("/healthz").status, 200);
        stop.store(true, Ordering::Release);
        for asking in asking {
            assert!(asking.join().expect("every request is answered") > 3);
        }
    });
    assert!(
        SockRef::from(&listener).is_listener().expect("a socket"),
        "the shared listener was never shut down"
    );
}

/// Stops the other threads when it is dropped, so that they also stop when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn systemd_gets_ready_watchdog_reload_and_stopping_messages() {
    let path = std::env::temp_dir().join(format!("threadcast-notify-{}", std::process::id()));
    let socket = UnixDatagram::bind(&path).expect("a free socket path");
    socket.set_read_timeout(Some(crate::common::TIMEOUT)).expect("a positive timeout");
    let next = || {
        let mut message = [0; 256];
        let length = socket.recv(&mut message).expect("a message within TIMEOUT");
        String::from_utf8_lossy(&message[..length]).trim().to_owned()
    };
    let before = format!("NOTIFY_SOCKET='{}' WATCHDOG_USEC=300000 exec", path.display());
    let mut server = Process::shell(&before, "");
    // The watchdog thread may send its first message before READY=1.
    let messages: Vec<_> = (0..4).map(|_| next()).collect();
    let count = |text: &str| messages.iter().filter(|message| *message == text).count();
    assert_eq!(count("READY=1"), 1, "{messages:?}");
    assert_eq!(count("WATCHDOG=1"), 3, "{messages:?}");
    server.signal("HUP");
    while !next().starts_with("RELOADING=1\nMONOTONIC_USEC=") {}
    while next() != "READY=1" {}
    server.signal("TERM");
    while next() != "STOPPING=1" {}
    assert_eq!(server.child.wait().expect("a child process").code(), Some(0));
    std::fs::remove_file(path).expect("a removable socket");
}

#[test]
fn inherited_socket_that_is_not_listening_is_an_error() {
    let connected = TcpStream::connect(listener(1).local_addr().expect("a bound socket"));
    let not_one = std::os::fd::OwnedFd::from(connected.expect("the listener accepts"));
    let error = threadcast::Server::with_listeners(vec![not_one], Config::default()).unwrap_err();
    assert!(error.to_string().contains("ListenStream="), "{error}");
}

#[test]
fn clients_beyond_a_full_backlog_are_served_later() {
    let listener = listener(4);
    let server = Process::on(&listener, "");
    server.signal("STOP");
    // Until it has stopped, the server may still accept clients.
    let stat = format!("/proc/{}/stat", server.child.id());
    wait_until(crate::common::TIMEOUT, "the server has stopped", || {
        std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "))
    });
    let addr = server.addr;
    thread::scope(|scope| {
        let asking: Vec<_> = (0..12).map(|_| scope.spawn(move || ask(addr))).collect();
        wait_until(crate::common::TIMEOUT, "the backlog is full", || {
            let sockets = std::fs::read_to_string("/proc/net/tcp").expect("this is Linux");
            let port = format!(":{:04X} ", addr.port());
            // State 02 is SYN_SENT: the kernel drops a client's SYN while the backlog is full.
            sockets.lines().filter(|line| line.contains(&port) && line.contains(" 02 ")).count()
                >= 5
        });
        server.signal("CONT");
        for asking in asking {
            assert!(asking.join().expect("a response").starts_with("HTTP/1.1 200 "));
        }
    });
}
