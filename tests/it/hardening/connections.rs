//! Any number of connections without a stream leaves room for requests.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};
use std::{fs, io};

use threadcast::Config;

use crate::common::{
    Process, TIMEOUT, TestClient, TestServer, allow_descriptors, skip_here, wait_until,
};

/// How soon a request must be answered.
///
/// If idle connections could take all the capacity, a request would wait at least 10 s.
const SOON: Duration = Duration::from_secs(5);

const SILENT: &str = "";
const SLOW_HEAD: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nX: ";
const SLOW_BODY: &str =
    "POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\nx";

/// Sends one request on a new connection; returns the status line, or an error after [`SOON`].
fn ask(addr: SocketAddr, request: &str) -> io::Result<String> {
    let mut socket = TcpStream::connect(addr)?;
    socket.set_read_timeout(Some(SOON))?;
    socket.write_all(request.as_bytes())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

/// Sends 5 page requests and 5 publishes; returns how many of them succeed within [`SOON`].
fn answered_of_10(addr: SocketAddr) -> usize {
    let get = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let post = "POST /channels/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Length: 2\r\n\r\nhi";
    let requests = [get, post].into_iter().cycle().take(10);
    requests
        .filter(|request| ask(addr, request).is_ok_and(|line| line.ends_with(" 200 OK")))
        .count()
}

/// Opens connections that send these bytes and then stay idle. The server may close any of them.
fn attack(addr: SocketAddr, sent: &str, connections: usize) -> Vec<TcpStream> {
    let open = |_| {
        let socket = TcpStream::connect(addr).expect("the server listens");
        let _ = (&socket).write(sent.as_bytes()); // fails if the server has closed it
        socket
    };
    (0..connections).map(open).collect()
}

#[test]
fn idle_sockets_leave_room_for_requests() {
    assert!(allow_descriptors(4_096), "the hard limit on descriptors is below 4,096");
    let unread = "GET /style.css HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(400);
    for sent in [SILENT, SLOW_HEAD, SLOW_BODY, &unread] {
        let server = Process::start(600);
        let attackers = attack(server.addr, sent, 640);
        let answered = answered_of_10(server.addr);
        assert!(answered >= 9, "{answered} of 10 during the attack {sent:.20?}");
        drop(attackers);
        assert_eq!(answered_of_10(server.addr), 10, "after the attack");
    }
}

#[test]
fn repeated_idle_sockets_leave_room_for_requests() {
    assert!(allow_descriptors(4_096), "the hard limit on descriptors is below 4,096");
    for sent in [SILENT, SLOW_HEAD, SLOW_BODY] {
        let server = Process::start(200);
        let mut attackers = attack(server.addr, sent, 200);
        let (mut answered, rounds) = (0, 5);
        for _ in 0..rounds {
            attackers.extend(attack(server.addr, sent, 50));
            answered += answered_of_10(server.addr);
        }
        assert!(answered >= 9 * rounds, "{answered} of {} for {sent:?}", 10 * rounds);
    }
}

#[test]
fn streams_and_idle_sockets_fit_together() {
    assert!(allow_descriptors(4_096), "the hard limit on descriptors is below 4,096");
    let server = Process::start(200);
    let most = server.get("/status").json()["max_clients"].as_u64().expect("a number");
    let mut streams: Vec<_> = (0..most).map(|_| server.stream("/events")).collect();
    let attackers = attack(server.addr, SILENT, 300);
    assert!(answered_of_10(server.addr) >= 9);
    for stream in &mut streams {
        for _ in 0..3 {
            assert!(stream.chunk().is_some(), "no stream is shed");
        }
    }
    let shed = server.get("/status").json()["connections_shed"].as_u64();
    assert!(shed >= Some(200), "{shed:?}");
    drop(attackers);
}

/// To shed a connection, the server shuts down the connection's input.
///
/// It can still read a request that has already arrived, and respond.
#[test]
fn shed_connection_still_gets_its_response() {
    assert!(allow_descriptors(4_096), "the hard limit on descriptors is below 4,096");
    let server = Process::start(100);
    server.signal("STOP");
    let get = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let clients = attack(server.addr, get, 300);
    server.signal("CONT");
    for client in clients {
        let mut client = TestClient::of(client);
        assert_eq!(client.answer().status, 200);
        client.assert_ended();
    }
}

/// A shed connection cannot become a stream.
///
/// Its input is shut down, and on a stream the server would take that for a disconnect.
#[test]
fn shed_stream_request_gets_a_retry() {
    assert!(allow_descriptors(4_096), "the hard limit on descriptors is below 4,096");
    let server = Process::start(100);
    server.signal("STOP");
    let get = "GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
    let clients = attack(server.addr, get, 300);
    server.signal("CONT");
    let (mut streams, mut rejected) = (Vec::new(), 0);
    for client in clients {
        let mut client = TestClient::of(client);
        let head = client.head();
        assert_eq!(head.status, 200, "{head:?}");
        if head.header("transfer-encoding").is_some() {
            streams.push(client);
        } else {
            rejected += 1;
        }
    }
    for stream in &mut streams {
        assert!((0..3).all(|_| stream.chunk().is_some()), "an open stream continues");
    }
    let open = streams.len();
    assert!(open > 50 && rejected > 100, "{open} streams, {rejected} rejected");
}

/// A non-loopback address of this machine, if there is one.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?; // sends nothing
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[test]
fn connections_per_address_are_limited() {
    let Some(own) = own_address() else {
        return skip_here("this machine has only loopback addresses");
    };
    let config = Config {
        listen: vec![(own, 0).into(), "127.0.0.1:0".parse().expect("an address")],
        max_connections_per_address: 3,
        ..Config::default()
    };
    let server = TestServer::with(config.clone());
    let mut held: Vec<_> = (0..3).map(|_| server.connect()).collect();
    assert!(server.connect().is_closed(), "the fourth connection is closed");
    // Connections from loopback addresses are exempt from the limit.
    let loopback = server.addresses[1];
    let _many: Vec<_> = (0..10).map(|_| TestClient::connect(loopback)).collect();
    assert_eq!(answered_of_10(loopback), 10);
    // The held connections become streams, which do not count as connections.
    for client in &mut held {
        client.send("GET /channels/a HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.head().status, 200);
    }
    wait_until(TIMEOUT, "three more connections are accepted", || {
        let again: Vec<_> = (0..3).map(|_| ask(server.addr, "GET / HTTP/1.0\r\n\r\n")).collect();
        again.iter().all(|line| line.as_ref().is_ok_and(|line| line.ends_with(" 200 OK")))
    });
    let metrics = ask_for_metrics(loopback);
    let counter = "threadcast_rejections_total{reason=\"max_connections_per_address\"} ";
    assert!(!metrics.contains(&format!("{counter}0\n")) && metrics.contains(counter), "{metrics}");
    // A trusted proxy is exempt, because many clients connect through its one address.
    let trusted_proxies = vec![own.into()];
    let server = TestServer::with(Config { trusted_proxies, ..config });
    let mut many: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for client in &mut many {
        client.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.answer().status, 200);
    }
}

fn ask_for_metrics(addr: SocketAddr) -> String {
    let mut client = TestClient::connect(addr);
    client.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.answer().body
}

#[test]
fn connections_are_in_the_status_and_the_metrics() {
    let server = TestServer::start();
    let _silent: Vec<_> = (0..3).map(|_| server.connect()).collect();
    let _stream = server.stream("/events");
    wait_until(TIMEOUT, "three idle connections and this request's", || {
        server.get("/status").json()["connections"] == 4
    });
    let status = server.get("/status").json();
    assert!(status["max_connections"].as_u64() > Some(4), "{status}");
    assert_eq!(status["connections_shed"], 0);
    let metrics = ask_for_metrics(server.addr);
    for line in [
        "threadcast_connections ",
        "threadcast_max_connections ",
        "threadcast_shed_connections_total 0\n",
        "threadcast_rejections_total{reason=\"max_connections\"} 0\n",
    ] {
        assert!(metrics.contains(line), "no {line} in\n{metrics}");
    }
}

/// A control group with a limit on threads. Dropping it removes the group.
struct FewThreads(String);

impl FewThreads {
    /// Creates a control group with this limit on threads; returns `None` if the test lacks the permission.
    fn new(most: u32) -> Option<Self> {
        let group = format!("/sys/fs/cgroup/pids/threadcast-test-{}", std::process::id());
        fs::create_dir(&group).ok()?;
        let made = Self(group);
        fs::write(format!("{}/pids.max", made.0), most.to_string()).ok()?;
        Some(made)
    }
}

impl Drop for FewThreads {
    fn drop(&mut self) {
        // The group can be removed once its last process has exited.
        wait_until(TIMEOUT, "the control group is empty", || fs::remove_dir(&self.0).is_ok());
    }
}

/// Guards against a regression: when it could not start a thread for a connection, the accepting
/// thread once slept for 20 ms.
#[test]
fn burst_beyond_the_thread_limit_is_rejected_quickly() {
    let Some(group) = FewThreads::new(60) else {
        return skip_here("no permission to create a control group for threads");
    };
    let join = format!("echo $$ > {}/cgroup.procs; exec", group.0);
    let server = Process::shell(&join, "");
    // Open more connections than the thread limit allows, and keep them open: first streams, then
    // silent sockets.
    let stream = "GET /channels/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let streams = attack(server.addr, stream, 100);
    let silent = attack(server.addr, SILENT, 300);
    // A request needs the thread of a connection that the server closes for it. On a busy machine
    // that thread may still be ending.
    wait_until(SOON, "9 of 10 requests are answered", || answered_of_10(server.addr) >= 9);
    drop((streams, silent));
    wait_until(SOON, "all requests are answered", || answered_of_10(server.addr) == 10);
    // Lower the limit to the server's own threads, so that no connection can get a thread. The
    // server computed its capacity from the higher limit.
    let own_threads = 7;
    wait_until(TIMEOUT, "only the server's own threads remain", || {
        server.count("task") <= own_threads
    });
    let limit = format!("{}/pids.max", group.0);
    fs::write(&limit, own_threads.to_string()).expect("a writable control group");
    let began = Instant::now();
    for socket in attack(server.addr, SILENT, 600) {
        assert!(TestClient::of(socket).is_closed());
    }
    let took = began.elapsed();
    assert!(took < SOON, "closing 600 connections took {took:?}; with 20 ms for each, 12 s");
    fs::write(&limit, "60").expect("a writable control group");
    assert_eq!(answered_of_10(server.addr), 10);
    drop(server);
}
