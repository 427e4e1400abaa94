//! Runs every attack of `tests/it/hardening` at once, beside well-behaved clients.
//!
//! `make attack` runs this test for two minutes on a release build and prints the results; the test
//! suite runs a short version. Clients and attackers connect only to loopback, each attack has a
//! fixed rate, and all attacks stop with the test.
//!
//! The test fails if the server exits, if a well-behaved client misses an event or receives a gap,
//! or if the server accepts a forged request. It prints the times of publishes but does not assert
//! them, because they depend on the machine.

mod attacks;
mod clients;

use std::env;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Process, TestClient, allow_descriptors, say};
use attacks::ATTACKS;
use clients::Clients;

/// The channel of the well-behaved clients.
const CHANNEL: &str = "good";

/// The time between two publishes, and between two requests of `/healthz`.
const PERIOD: Duration = Duration::from_millis(100);

/// The publisher's measurements.
#[derive(Default)]
struct Measured {
    published: u64,
    /// The duration of each publish, on one persistent connection.
    publishes: Vec<Duration>,
    /// The duration of each `GET /healthz`, on a new connection.
    pages: Vec<Duration>,
}

#[test]
fn clients_lose_no_event_under_all_attacks_at_once() {
    let seconds = env::var("ATTACK").ok().and_then(|text| text.parse().ok());
    let (time, clients) = match seconds {
        Some(seconds) => (Duration::from_secs(seconds), 1_000),
        None => (Duration::from_secs(6), 100),
    };
    assert!(allow_descriptors(4_096), "the hard limit on descriptors is below 4,096");
    let public = attacks::public_folder();
    // The server writes its log to a pipe that nothing reads, so the pipe fills up.
    let log = public.with_extension("log").display().to_string();
    let server = Process::shell(
        &format!("mkfifo {log}; exec 2<>{log}; rm {log}; ulimit -n 3000; exec"),
        &format!(
            "--mercure --mercure-subscriptions --log-format json --public {}",
            public.display()
        ),
    );
    attacks::fill(server.addr);
    let mut readers = Clients::connect(server.addr, CHANNEL, clients);
    let stop = AtomicBool::new(false);
    let (measured, accepted, peak) = thread::scope(|scope| {
        let _stopped = StopOnDrop(&stop);
        let publisher = scope.spawn(|| publish(&server, time));
        let attackers: Vec<_> =
            ATTACKS.iter().map(|attack| scope.spawn(|| attack.run(server.addr, &stop))).collect();
        let mut peak = 0;
        let ends = Instant::now() + time;
        while Instant::now() < ends || !publisher.is_finished() {
            readers.read(Duration::from_millis(50));
            peak = peak.max(server.resident_kib() + socket_memory_kib());
        }
        let measured = publisher.join().expect("every publish succeeds");
        readers.read_until(measured.published);
        stop.store(true, Ordering::Release);
        let attacks = attackers
            .into_iter()
            .map(|attacker| attacker.join().expect("an attacker does not panic"));
        (measured, attacks.collect::<Vec<_>>(), peak)
    });
    let status = server.get("/status").json();
    say(&format!("{clients} clients, {} events each, none missing", measured.published));
    say(&format!("publish: {}", percentiles(measured.publishes)));
    say(&format!("page:    {}", percentiles(measured.pages)));
    say(&format!("memory:  at most {} MiB resident and in socket buffers", peak / 1024));
    for (attack, (sent, accepted)) in ATTACKS.iter().zip(&accepted) {
        say(&format!("{:<46} sent {sent:>6}, accepted {accepted:>6}", attack.name));
    }
    for (attack, (_, accepted)) in ATTACKS.iter().zip(&accepted) {
        assert!(!attack.is_forged || *accepted == 0, "{}: accepted {accepted}", attack.name);
    }
    assert!(status["clients"].as_u64().is_some_and(|count| count >= clients as u64), "{status}");
    let _ = fs::remove_dir_all(public);
}

/// Publishes numbered events at a fixed rate, and requests `/healthz` after each.
fn publish(server: &Process, time: Duration) -> Measured {
    let mut measured = Measured::default();
    let mut client = TestClient::connect(server.addr);
    let started = Instant::now();
    while started.elapsed() < time {
        measured.published += 1;
        let data = measured.published.to_string();
        let length = data.len();
        let sent = Instant::now();
        client.send(&format!(
            "POST /channels/{CHANNEL} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{data}"
        ));
        assert_eq!(client.answer().status, 200);
        measured.publishes.push(sent.elapsed());
        let sent = Instant::now();
        assert_eq!(server.get("/healthz").status, 200);
        measured.pages.push(sent.elapsed());
        crate::common::pace(PERIOD.saturating_sub(sent.elapsed()));
    }
    measured
}

/// The memory of all TCP buffers on this machine.
fn socket_memory_kib() -> u64 {
    let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = sockets.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = line.split(' ').skip_while(|word| *word != "mem").nth(1);
    pages.and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let slow = times.iter().filter(|time| **time > Duration::from_secs(1)).count();
    format!(
        "p50 {:.1?}, p99 {:.1?}, max {:.1?}; {slow} of {} above 1 s",
        at(50),
        at(99),
        at(100),
        times.len()
    )
}

/// Stops the attackers when it is dropped, so that they also stop when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
