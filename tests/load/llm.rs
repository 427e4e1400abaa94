//! A model's answer that many readers follow: each token once, and the figures of `docs/llm.md`.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Process, Received, TIMEOUT, TestClient, pace, say, wait_until};
use sse_load::figures::float;

const READERS: usize = 200;
const TOKENS: u64 = 250;

/// How long the model needs for a token.
const EACH: Duration = Duration::from_millis(20);

/// Reads the events of a stream up to its end, and calls `each` with each that has data.
fn read(client: &mut TestClient, mut each: impl FnMut(Received)) {
    while let Some(chunk) = client.chunk() {
        for block in chunk.split("\n\n").filter(|block| block.contains("data: ")) {
            each(Received::parse(block));
        }
    }
}

#[test]
fn readers_of_an_answer_get_every_token_once() {
    let server = Process::start(1_024);
    assert_eq!(server.get("/healthz").status, 200);
    let (before, begin) = (server.resident_kib(), Instant::now());
    let (ready, token) = (Barrier::new(READERS + 1), |data: &str| data.parse::<u128>().ok());
    let mut latencies: Vec<Duration> = thread::scope(|scope| {
        let reader = |place: usize| {
            let mut client = server.stream("/channels/answer?since=all");
            ready.wait();
            let (mut latencies, mut tokens, mut last) = (Vec::new(), Vec::new(), String::new());
            // One reader reloads in the middle, and comes back with its last id.
            let cut = if place == 0 { TOKENS / 2 } else { u64::MAX };
            while let Some(chunk) = client.chunk() {
                for block in chunk.split("\n\n").filter(|block| block.contains("data: ")) {
                    let event = Received::parse(block);
                    last = event.id.clone().expect("every event has an id");
                    if let Some(sent) = token(event.data()) {
                        latencies.push(begin.elapsed().saturating_sub(nanoseconds(sent)));
                        tokens.push(sent);
                    }
                }
                if tokens.len() as u64 >= cut {
                    break;
                }
            }
            if place == 0 {
                client = server.connect();
                client.send(&format!(
                    "GET /channels/answer HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {last}\r\n\r\n"
                ));
                assert_eq!(client.head().status, 200);
                read(&mut client, |event| tokens.extend(token(event.data())));
            }
            (tokens, latencies)
        };
        let readers: Vec<_> = (0..READERS).map(|n| scope.spawn(move || reader(n))).collect();
        ready.wait();
        let all_here = || {
            let page = server.get("/channels/answer/subscribers").json();
            page["subscribers"] == READERS
        };
        wait_until(TIMEOUT, "all readers are subscribed", all_here);
        let (memory, cpu) = (server.resident_kib().saturating_sub(before), server.cpu());
        let mut model = server.connect();
        model.send(
            "POST /channels/answer?end HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        assert_eq!(model.head().status, 200);
        let mut sent = Vec::new();
        for _ in 0..TOKENS {
            pace(EACH);
            let now = begin.elapsed().as_nanos();
            let event = format!("data: {now}\n\n");
            model.send(&format!("{:x}\r\n{event}\r\n", event.len()));
            sent.push(now);
        }
        model.send("0\r\n\r\n");
        let acknowledged: String = std::iter::from_fn(|| model.chunk()).collect();
        assert_eq!(acknowledged.lines().count() as u64, TOKENS + 1, "each token and the end");
        let each = |reader: thread::ScopedJoinHandle<'_, _>| {
            let (tokens, latencies): (Vec<u128>, Vec<Duration>) = reader.join().expect("a reader");
            assert_eq!(tokens, sent);
            latencies
        };
        let latencies = readers.into_iter().flat_map(each).collect();
        let used = server.cpu().saturating_sub(cpu).as_secs_f64() * 1e6;
        let delivered = float(TOKENS * READERS as u64);
        say(&format!(
            "{READERS} readers: {} KiB and {:.1} µs of CPU time for each token and reader",
            memory / READERS as u64,
            used / delivered,
        ));
        latencies
    });
    latencies.sort_unstable();
    let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
    say(&format!("latency of a token: p50 {:.1?}, p99 {:.1?}", at(50), at(99)));
}

fn nanoseconds(nanoseconds: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds).expect("a short test"))
}
