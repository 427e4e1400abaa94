//! Thousands of clients whose network blinks are back in the same moment, and all are let in.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::{Process, TIMEOUT, allow_descriptors, say};

/// In how long all clients of a storm are served: their number over what comes back in a
/// second, the least wait, and a machine that does nothing else.
const SETTLED: Duration = Duration::from_secs(20);

#[test]
fn reconnect_storm_of_5_000_clients_settles() {
    const CLIENTS: usize = 5_000;
    if !allow_descriptors(12_000) {
        return say("SKIPPED: not 12,000 descriptors for this process");
    }
    let server = Process::shell("ulimit -n 12000; exec", &format!("--max-clients {CLIENTS}"));
    if server.get("/status").json()["max_clients"] != CLIENTS {
        return say("SKIPPED: this machine does not hold 5,000 clients");
    }
    // They are here; then their network blinks, and all are back in the same moment, while
    // the server still holds the places that they had.
    let storm = || {
        let (since, addr) = (Instant::now(), server.addr);
        let threads: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let thread = thread::Builder::new().stack_size(128 * 1024);
                thread.spawn(move || come_in(addr, since)).expect("this process may have threads")
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("it comes in")).collect::<Vec<_>>()
    };
    let first = storm();
    let again = storm_while(first, storm);
    let mut took: Vec<Duration> = again.iter().map(|(_, took, _)| *took).collect();
    took.sort_unstable();
    let refusals: u32 = again.iter().map(|(_, _, refused)| refused).sum();
    say(&format!(
        "a storm of {CLIENTS}: half are served after {:.1?}, all after {:.1?}, {refusals} refusals",
        took[CLIENTS / 2],
        took[CLIENTS - 1]
    ));
    // Thrice on a machine that does something else: this is no benchmark.
    assert!(took[CLIENTS - 1] < 3 * SETTLED, "{:?}", took[CLIENTS - 1]);
    assert_eq!(server.get("/status").json()["clients"], CLIENTS, "all are in");
}

/// Lets go of the old connections while the new ones come.
fn storm_while<T>(old: Vec<(TcpStream, Duration, u32)>, storm: impl FnOnce() -> T) -> T {
    let leaving = thread::spawn(move || {
        let (_never, bell) = crossbeam_channel::bounded::<()>(0);
        let _ = bell.recv_timeout(Duration::from_millis(500)); // they are noticed to be gone half a second late
        drop(old);
    });
    let all = storm();
    leaving.join().expect("they leave");
    all
}

/// What an `EventSource` does, without the browser: opens, and comes back when it is
/// told to. Says how long it took to be let in, and how often it was refused.
fn come_in(addr: SocketAddr, since: Instant) -> (TcpStream, Duration, u32) {
    let (_never, bell) = crossbeam_channel::bounded::<()>(0);
    let mut refused = 0;
    loop {
        let opened = TcpStream::connect(addr).and_then(|mut socket| {
            socket.set_read_timeout(Some(TIMEOUT))?;
            socket.write_all(
                b"GET /channels/a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n",
            )?;
            let mut head = String::new();
            // Streams and refusals alike say when to come back.
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
                return (socket, since.elapsed(), refused);
            }
            Ok((_, cut)) if cut.is_empty() => Duration::from_secs(3),
            Ok((_, error)) => {
                let retry = error
                    .split("retry: ")
                    .nth(1)
                    .and_then(|rest| rest.split('\n').next()?.parse().ok());
                Duration::from_millis(retry.unwrap_or_else(|| panic!("a retry: {error:?}")))
            }
            Err(_) => Duration::from_secs(3), // as a browser does when it cannot connect
        };
        refused += 1;
        let _ = bell.recv_timeout(wait);
    }
}
