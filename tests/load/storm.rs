//! A reconnect storm: thousands of clients lose the network, and all reconnect at the same time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Process, TIMEOUT, allow_descriptors, pace, say, skip_here};

/// The time in which an idle machine is expected to serve all clients: the minimum delay before a
/// reconnection, plus the number of clients divided by the number that reconnect each second.
const SETTLED: Duration = Duration::from_secs(20);

#[test]
fn reconnect_storm_of_5_000_clients_settles() {
    const CLIENTS: usize = 5_000;
    if !allow_descriptors(16_000) {
        return skip_here("this process may not open 16,000 descriptors");
    }
    let server = Process::shell("ulimit -n 12000; exec", &format!("--max-clients {CLIENTS}"));
    if server.get("/status").json()["max_clients"] != CLIENTS {
        return skip_here("this machine has no capacity for 5,000 clients");
    }
    // Connects all clients at the same time. The test does this twice, the second time while the
    // server has not yet released the permits of the first connections.
    let storm = || {
        let (since, addr) = (Instant::now(), server.addr);
        let threads: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let thread = thread::Builder::new().stack_size(128 * 1024);
                thread.spawn(move || connect(addr, since)).expect("this process may start threads")
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("the client connects"))
            .collect::<Vec<_>>()
    };
    let first = storm();
    let again = storm_while(first, storm);
    let mut took: Vec<Duration> = again.iter().map(|(_, took, _)| *took).collect();
    took.sort_unstable();
    let rejections: u32 = again.iter().map(|(_, _, rejected)| rejected).sum();
    say(&format!(
        "a storm of {CLIENTS}: half are served after {:.1?}, all after {:.1?}, {rejections} rejections",
        took[CLIENTS / 2],
        took[CLIENTS - 1]
    ));
    // A busy machine may take three times the expected time.
    assert!(took[CLIENTS - 1] < 3 * SETTLED, "{:?}", took[CLIENTS - 1]);
    assert_eq!(server.get("/status").json()["clients"], CLIENTS, "all clients are connected");
}

/// Closes the old connections while the storm of new ones runs.
fn storm_while<T>(old: Vec<(TcpStream, Duration, u32)>, storm: impl FnOnce() -> T) -> T {
    let leaving = thread::spawn(move || {
        // Disconnect half a second late, like clients whose disconnects the server notices late.
        pace(Duration::from_millis(500));
        drop(old);
    });
    let all = storm();
    leaving.join().expect("the thread ends");
    all
}

/// Connects like an `EventSource`: reconnects after the delay in `retry:`. Returns the socket, the
/// time until the stream was open, and the number of rejections.
fn connect(addr: SocketAddr, since: Instant) -> (TcpStream, Duration, u32) {
    let mut rejected = 0;
    loop {
        let opened = TcpStream::connect(addr).and_then(|mut socket| {
            socket.set_read_timeout(Some(TIMEOUT))?;
            socket.write_all(
                b"GET /channels/a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n",
            )?;
            let mut head = String::new();
            // Read up to the `retry:` line, which both a stream and a rejection contain.
            while !head.split("\nretry: ").nth(1).is_some_and(|retry| retry.contains('\n')) {
                let mut bytes = [0; 1_024];
                match socket.read(&mut bytes)? {
                    0 => break,
                    count => head += std::str::from_utf8(&bytes[..count]).expect("ASCII"),
                }
            }
            Ok((socket, head))
        });
        let wait = match opened {
            Ok((socket, head)) if head.contains("Transfer-Encoding: chunked") => {
                return (socket, since.elapsed(), rejected);
            }
            Ok((_, cut)) if cut.is_empty() => Duration::from_secs(3),
            Ok((_, error)) => {
                let retry = error
                    .split("retry: ")
                    .nth(1)
                    .and_then(|rest| rest.split('\n').next()?.parse().ok());
                Duration::from_millis(retry.unwrap_or_else(|| panic!("no retry: {error:?}")))
            }
            Err(_) => Duration::from_secs(3), // the delay of a browser that cannot connect
        };
        rejected += 1;
        pace(wait);
    }
}
