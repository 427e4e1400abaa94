//! Acknowledged events survive when the process is killed.

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use super::serving::{Folder, Serving, id_of, post};
use crate::common::{Received, TIMEOUT, TestClient};
use threadcast::EventId;

const PUBLISHERS: usize = 16;
const ROUNDS: u64 = 20;
/// The minimum number of events that the server must acknowledge in all rounds together.
const ENOUGH: usize = 10_000;

#[test]
fn acknowledged_events_survive_repeated_sigkill() {
    let folder = Folder::new();
    let mut random = fastrand::Rng::with_seed(5);
    let history = ["--history", "100000,100MiB,1h"];
    let mut acknowledged: BTreeMap<EventId, String> = BTreeMap::new();
    let mut seen = Vec::new();
    let mut cursor: Option<EventId> = None;
    for round in 0..ROUNDS {
        let mut serving = Serving::start(&folder.store(), &history);
        // This client resumes from the last event that it received in the earlier rounds.
        let mut client = serving.connect();
        let since = cursor.map_or("since=all".into(), |id| format!("last_event_id={id}"));
        client.send(&format!("GET /channels/a?{since} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let reader = thread::spawn(move || read_until_cut(client));
        let least = ENOUGH / usize::try_from(ROUNDS).expect("it fits") + random.usize(..200);
        let (addr, enough) = (serving.addr, AtomicBool::new(false));
        let counted = AtomicU32::new(0);
        let new: Vec<(EventId, String)> = thread::scope(|scope| {
            let (enough, counted) = (&enough, &counted);
            let publishers: Vec<_> = (0..PUBLISHERS)
                .map(|n| scope.spawn(move || publish_until_cut(addr, round, n, enough, counted)))
                .collect();
            let started = Instant::now();
            while usize::try_from(counted.load(Ordering::Acquire)).expect("it fits") < least {
                assert!(
                    started.elapsed() < TIMEOUT,
                    "{} published",
                    counted.load(Ordering::Acquire)
                );
                thread::yield_now();
            }
            serving.child.kill().expect("SIGKILL");
            enough.store(true, Ordering::Release);
            publishers.into_iter().flat_map(|one| one.join().expect("a publisher")).collect()
        });
        serving.child.wait().expect("a child of ours");
        let received = reader.join().expect("a reader");
        cursor = received.last().map(|(id, _)| *id).or(cursor);
        seen.extend(received);
        for (id, data) in new {
            let before = acknowledged.insert(id, data);
            assert_eq!(before, None, "{id} was assigned twice");
        }
    }
    let serving = Serving::start(&folder.store(), &history);
    let mut client = serving.connect();
    client.send("GET /channels/a?since=all HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let last = id_of(&serving.request(&post("a", "", "the end")));
    let kept = read_to_the_end(client);
    assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0), "ids ascend");
    let kept: BTreeMap<EventId, String> = kept.into_iter().collect();
    assert!(acknowledged.len() >= ENOUGH && acknowledged.keys().all(|id| *id < last));
    for (id, data) in &acknowledged {
        assert_eq!(kept.get(id), Some(data), "{id} was acknowledged");
    }
    // The client that was cut off in each round must have received every event once.
    let mut client = serving.connect();
    let cursor = cursor.expect("the client has received an event");
    client.send(&format!(
        "GET /channels/a?last_event_id={cursor} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    ));
    seen.extend(read_to_the_end(client));
    assert_eq!(seen, kept.into_iter().collect::<Vec<_>>());
}

fn publish_until_cut(
    addr: SocketAddr,
    round: u64,
    publisher: usize,
    enough: &AtomicBool,
    counted: &AtomicU32,
) -> Vec<(EventId, String)> {
    let mut client = TestClient::connect(addr);
    let mut acknowledged = Vec::new();
    for n in 0.. {
        let data = format!("{round}/{publisher}/{n}");
        let request = post("a", "", &data);
        if client.socket().write_all(request.as_bytes()).is_err() {
            break;
        }
        let Some(body) = whole_body(&mut client) else { break };
        let id = serde_json::from_str::<serde_json::Value>(&body).expect("JSON")["id"].clone();
        acknowledged.push((id.as_str().and_then(|id| id.parse().ok()).expect("an id"), data));
        counted.fetch_add(1, Ordering::Release);
        if enough.load(Ordering::Acquire) {
            break;
        }
    }
    acknowledged
}

/// Returns the body of a response, or `None` if the connection ends before the body is complete.
fn whole_body(client: &mut TestClient) -> Option<String> {
    let (mut length, mut line) = (0, String::new());
    loop {
        line.clear();
        if client.reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().ok()?;
            }
            None if line.trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    client.reader.read_exact(&mut body).ok()?;
    String::from_utf8(body).ok()
}

/// Returns the events of a stream that arrive until the connection is cut.
fn read_until_cut(mut client: TestClient) -> Vec<(EventId, String)> {
    let (mut decoder, mut events, mut bytes) =
        (crate::common::Decoder::default(), Vec::new(), vec![0; 65_536]);
    while let Ok(read @ 1..) = client.reader.read(&mut bytes) {
        events.extend(decoder.push(&bytes[..read]).into_iter().filter_map(event));
    }
    events
}

fn read_to_the_end(mut client: TestClient) -> Vec<(EventId, String)> {
    let (mut decoder, mut events, mut bytes) =
        (crate::common::Decoder::default(), Vec::new(), vec![0; 65_536]);
    while events.last().is_none_or(|(_, data)| data != "the end") {
        let read = client.reader.read(&mut bytes).expect("no read error");
        assert!(read > 0, "the stream ended early");
        events.extend(decoder.push(&bytes[..read]).into_iter().filter_map(event));
    }
    events
}

fn event(received: Received) -> Option<(EventId, String)> {
    assert!(received.gap().is_none(), "{received:?}");
    let data = received.data?;
    Some((received.id?.parse().expect("an id of the server's"), data))
}
